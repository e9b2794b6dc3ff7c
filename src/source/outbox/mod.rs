//! Publishes the rows of the outbox: one instance at a time, in the order of commits, each row until the
//! log has it, and only then is it deleted.
//!
//! Who publishes may be gone between the two. Whoever goes on then reads in the log what was published
//! since the place up to which nothing is left, which is noted with every deletion; and the messages have
//! ids that the log itself recognises for a while.

mod metrics;
mod order;
mod postgres;
mod publish;
mod recall;
mod row;
mod sqlite;
mod store;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info, warn};

pub use metrics::Metrics;

use super::SourceConfig;
use super::notify::{Notifications, OUTBOX};
use crate::bus::{Bus, LogError, PublishError};
use crate::causes::Causes;
use crate::database::{Database, DatabaseError, Pool};
use crate::event::decode::Rules;
use crate::event::{EventId, Timestamp};
use publish::{Outcome, Publisher};
use recall::Recalled;
use row::Row;
use store::{Noted, Opened, Settled, Store};

/// How often an instance without the outbox tries to get it.
const TAKEOVER: Duration = Duration::from_secs(1);

/// How often it is looked whether there is an outbox now.
const SEARCH: Duration = Duration::from_secs(5);

/// The fewest connections of the pool, of which one is kept.
const CONNECTIONS: u32 = 2;

/// The pause after something failed, which grows from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How long something is wrong before it is worth a line in the log: an in-process bus that is full for a moment is
/// not.
const LASTING: Duration = Duration::from_secs(1);

/// How often transactions are looked for that left no rows.
const TIDY: Duration = Duration::from_secs(300);

/// Says that there are rows. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

/// Publishes the outbox, for as long as the server runs.
#[derive(Debug)]
pub struct OutboxTask {
    database: Database,
    bus: Bus,
    rules: Rules,
    poll: Duration,
    batch: usize,
    wake: Wake,
    notifications: Notifications,
    metrics: Metrics,
    /// What went wrong last, so that it is logged once.
    trouble: Option<String>,
    pause: Duration,
    /// When nothing was wrong last.
    well: Instant,
}

/// What to do where the server's role may not use the outbox, as where another role has made it.
const FORBIDDEN: &str = "grant the role of database.url SELECT, INSERT, UPDATE and DELETE on the tables notify_outbox, \
    notify_outbox_commits, notify_outbox_dead and notify_outbox_state";

/// Why publishing stops for the moment.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(
        "database.max_connections must be at least 3 for an outbox: one connection publishes, one listens"
    )]
    Connections,
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Trouble {
    fn in_words(&self) -> String {
        match self {
            Self::Database(error) => error.reason(),
            other => Causes(other).to_string(),
        }
    }

    fn is_forbidden(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_forbidden())
    }
}

/// How long the oldest of some rows has waited, by the clocks of the database and of this machine.
fn age_of(rows: &[Row]) -> Duration {
    let oldest = rows.iter().map(|row| row.created_at).min();
    oldest.map_or(Duration::ZERO, |at| Timestamp::now().since(at))
}

impl Wake {
    /// There are rows.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

impl OutboxTask {
    /// The task, which must run on the runtime that the database was opened on.
    #[must_use]
    pub fn new(
        database: Database,
        bus: Bus,
        rules: Rules,
        config: &SourceConfig,
        (wake, notifications): (Wake, Notifications),
        metrics: Metrics,
    ) -> Self {
        Self {
            database,
            bus,
            rules,
            poll: config.poll_interval.0,
            batch: config.batch,
            wake,
            notifications,
            metrics,
            trouble: None,
            pause: PAUSES.0,
            well: Instant::now(),
        }
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        loop {
            let pause = match Store::open(&self.database).await {
                Ok(Opened::Ours(_)) if self.lacks_connections() => {
                    self.failed(&Trouble::Connections);
                    SEARCH
                }
                Ok(Opened::Ours(store)) => {
                    let trouble = self.lead(store).await;
                    self.metrics.leading.set(0);
                    // Whoever has it now says how far it is behind.
                    self.metrics.lag.set(0.0);
                    self.failed(&trouble)
                }
                Ok(Opened::Taken) => self.nothing_to_do(TAKEOVER),
                Ok(Opened::Missing) => self.nothing_to_do(SEARCH),
                Err(error) => self.failed(&error.into()),
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn lacks_connections(&self) -> bool {
        let postgres = matches!(self.database.pool(), Pool::Postgres(_));
        postgres && self.database.max_connections() < CONNECTIONS
    }

    /// Publishes until the outbox is lost.
    async fn lead(&mut self, mut store: Store) -> Trouble {
        match self.lead_on(&mut store).await {
            Ok(never) => match never {},
            Err(error) => error.into(),
        }
    }

    async fn lead_on(
        &mut self,
        store: &mut Store,
    ) -> Result<std::convert::Infallible, DatabaseError> {
        // Says when there are rows, where the database is one that can.
        let _listening = self.notifications.hold(OUTBOX);
        store.tidy().await?;
        let mut tidied = Instant::now();
        let source = store.state().await?.source;
        // Not before: who may not read it would say so again and again.
        info!("publishing the outbox");
        self.metrics.leading.set(1);
        // Who had the outbox before may have published what is still there.
        let mut recalled = None;
        loop {
            let read_at = Instant::now();
            let rows = store.next(self.batch, self.rules.max_payload).await?;
            self.metrics.lag.set(age_of(&rows).as_secs_f64());
            if rows.is_empty() {
                self.recovered();
                if tidied.elapsed() > TIDY {
                    store.tidy().await?;
                    tidied = Instant::now();
                }
                self.wait().await;
                continue;
            }
            let known = match recalled.take() {
                Some(known) => known,
                None => match self.recall(store).await {
                    // That may have taken longer than rows may be kept.
                    Ok(known) => {
                        recalled = Some(known);
                        continue;
                    }
                    Err(Trouble::Database(error)) => return Err(error),
                    Err(trouble) => {
                        let pause = self.failed(&trouble);
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                },
            };
            let publisher = Publisher {
                bus: &self.bus,
                rules: &self.rules,
                source: &source,
                known: &known,
            };
            let outcome = publisher.publish(&rows, read_at).await;
            // Of what was published before, all is settled that was still there, or nothing was.
            let settles_all = outcome.is_done(&rows) && (known.is_empty() || self.is_all(&rows));
            let noted = outcome.last.filter(|_| settles_all);
            self.settle(store, &rows, &outcome, noted).await?;
            match outcome.failed {
                None => {
                    recalled = Some(if settles_all {
                        Recalled::default()
                    } else {
                        known
                    });
                    self.recovered();
                }
                Some(error) => {
                    let pause = self.failed(&error.into());
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Whether there were no more rows than these.
    fn is_all(&self, rows: &[Row]) -> bool {
        let bytes: usize = rows
            .iter()
            .filter_map(|row| Some(row.payload.as_ref()?.len()))
            .sum();
        rows.len() < self.batch && ((bytes + self.rules.max_payload) as i64) < store::BATCH_BYTES
    }

    async fn wait(&self) {
        let _ = tokio::time::timeout(self.poll, self.wake.0.notified()).await;
    }

    /// What of the outbox is in the log already.
    async fn recall(&self, store: &mut Store) -> Result<Recalled, Trouble> {
        let Some(log) = self.bus.log() else {
            return Ok(Recalled::default());
        };
        let state = store.state().await?;
        let extent = log.extent().await?;
        if state.noted.is_none() {
            // Nothing was ever published.
            let noted = Noted {
                epoch: extent.epoch,
                position: extent.last,
            };
            let settled = Settled {
                noted: Some(noted),
                ..Settled::default()
            };
            store.settle(&settled).await?;
            return Ok(Recalled::default());
        }
        let recalled = recall::read(log, extent, &state).await?;
        debug!(
            messages = recalled.len(),
            "the log was searched for rows of the outbox"
        );
        Ok(recalled)
    }

    async fn settle(
        &self,
        store: &mut Store,
        rows: &[Row],
        outcome: &Outcome,
        noted: Option<EventId>,
    ) -> Result<(), DatabaseError> {
        let noted = noted.filter(|_| self.bus.log().is_some());
        let key = |index: usize| rows[index].key.clone();
        let settled = Settled {
            taken: outcome.taken.iter().map(|index| key(*index)).collect(),
            dead: outcome
                .dead
                .iter()
                .map(|(index, reason)| (key(*index), reason.clone()))
                .collect(),
            noted: noted.map(Noted::from),
        };
        store.settle(&settled).await?;
        self.metrics.published.inc_by(settled.taken.len() as u64);
        self.metrics.dead.inc_by(settled.dead.len() as u64);
        for (key, reason) in &settled.dead {
            warn!(
                row = key.id,
                reason, "a row of the outbox can't be published"
            );
        }
        Ok(())
    }

    /// Logs what is new and lasts; gives how long to wait.
    fn failed(&mut self, trouble: &Trouble) -> Duration {
        let says = trouble.in_words();
        if self.well.elapsed() >= LASTING && self.trouble.as_ref() != Some(&says) {
            let advice = trouble.is_forbidden().then_some(FORBIDDEN);
            warn!(
                error = says,
                advice, "the outbox is not published for the moment"
            );
            self.trouble = Some(says);
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSES.1);
        pause
    }

    /// All is well, and somebody else publishes, or there is nothing to publish.
    fn nothing_to_do(&mut self, pause: Duration) -> Duration {
        self.pause = PAUSES.0;
        self.well = Instant::now();
        self.trouble = None;
        pause
    }

    fn recovered(&mut self) {
        self.pause = PAUSES.0;
        self.well = Instant::now();
        if self.trouble.take().is_some() {
            info!("the outbox is published again");
        }
    }
}
