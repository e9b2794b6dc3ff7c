//! Durations in milliseconds, and what is told of them.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

/// When this program began: what is written carries how long after that it was sent.
#[derive(Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// What a message that is sent now says.
    pub(crate) fn stamp(self) -> String {
        self.0.elapsed().as_nanos().to_string()
    }

    /// How long ago a message was sent, by what it says.
    pub(crate) fn since(self, stamp: &str) -> Option<Duration> {
        let sent = Duration::from_nanos(stamp.parse().ok()?);
        self.0.elapsed().checked_sub(sent)
    }
}

/// The quantiles of some durations, in milliseconds.
pub(crate) fn summary(durations: &mut [Duration]) -> Value {
    durations.sort_unstable();
    let at = |share: f64| {
        let index = (durations.len() as f64 * share).ceil() as usize;
        let duration = durations.get(index.saturating_sub(1)).copied();
        duration.map(|duration| (duration.as_secs_f64() * 1e5).round() / 100.0)
    };
    json!({"p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "max_ms": at(1.0)})
}

/// How many connections of an application there are.
pub(crate) async fn connections(database: &str, application: &str) -> Result<i64> {
    let mut connection = PgConnection::connect(database).await?;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
    let count = sqlx::query_scalar(sql)
        .bind(application)
        .fetch_one(&mut connection)
        .await?;
    Ok(count)
}
