//! NOTIFY of PostgreSQL: one connection of this instance listens on all names that are configured or needed
//! by streams, and what it hears is published to the bus.
//!
//! Whatever is notified while the connection is down is lost, and those concerned are told so. Every
//! instance that listens publishes; the log takes each notification once.

mod following;
mod message;
mod name;
mod publish;

use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgNotification};
use tokio::sync::mpsc;
use tracing::{info, warn};

pub use following::{Following, Notifications};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use message::fuzz;
pub use name::{NameError, Names};

use super::outbox::Wake;
use crate::bus::Bus;
use crate::causes::Causes;
use crate::database::{Database, DatabaseError, Pool, listener_pool};
use crate::event::decode::Rules;
use publish::Heard;

/// What the outbox notifies.
pub(super) const OUTBOX: &str = "notify_outbox";

/// Names that are listened on by one statement.
const AT_ONCE: usize = 500;

/// Notifications that wait to be published; more are dropped, and those concerned are told so.
const WAITING: usize = 10_000;

/// How often a connection on which nothing happens is asked whether it is there.
const QUIET: Duration = Duration::from_secs(5);

/// The pause before a connection is tried again, which grows from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How often it is told that notifications were missed: when messages pile up, they are missed by the
/// thousand.
const TELLING: Duration = Duration::from_secs(1);

/// The server finds out within 5 s that this end is gone.
const SETTINGS: &str = "SET tcp_keepalives_idle = 2; SET tcp_keepalives_interval = 1;
    SET tcp_keepalives_count = 3; SET tcp_user_timeout = 5000";

/// Notifications were missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    /// Whether anyone may be concerned, and not only who listens on channels of `resources`.
    pub everybody: bool,
    /// The resources of channels that notifications are for.
    pub resources: Vec<String>,
}

/// What listening counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    received: Counter,
    rejected: Counter,
    dropped: Counter,
    listening: Gauge,
}

/// Listens, for as long as the server runs.
#[derive(Debug)]
pub struct NotifyTask {
    database: Database,
    notifications: Notifications,
    heard: mpsc::Sender<Heard>,
    missed: mpsc::Sender<Missed>,
    wake: Wake,
    metrics: Metrics,
    /// Whether somebody may have missed something who was not told.
    owed: bool,
    told: Option<Instant>,
}

/// Publishes what is heard; both tasks must run.
pub use publish::PublishTask;

impl Metrics {
    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "listen_received",
            "Notifications of PostgreSQL that arrived",
            self.received.clone(),
        );
        registry.register(
            "listen_rejected",
            "Notifications that are no event",
            self.rejected.clone(),
        );
        registry.register(
            "listen_dropped",
            "Notifications that were dropped because the bus did not take them",
            self.dropped.clone(),
        );
        registry.register(
            "listen_names",
            "PostgreSQL channels that this instance listens on",
            self.listening.clone(),
        );
    }
}

impl NotifyTask {
    /// The handle, the two tasks, and what tells that notifications were missed.
    #[must_use]
    pub fn new(
        database: Database,
        bus: Bus,
        rules: Rules,
        names: Names,
        wake: Wake,
        metrics: Metrics,
    ) -> (Notifications, Self, PublishTask, mpsc::Receiver<Missed>) {
        let notifications = Notifications::new(names.clone());
        let (heard, waiting) = mpsc::channel(WAITING);
        let (missed, tell) = mpsc::channel(1);
        let publish = PublishTask::new(waiting, bus, rules, names, metrics.clone());
        let task = Self {
            database,
            notifications: notifications.clone(),
            heard,
            missed,
            wake,
            metrics,
            owed: false,
            told: None,
        };
        (notifications, task, publish, tell)
    }

    /// Runs for ever; for a database other than PostgreSQL there is nothing to do.
    pub async fn run(mut self) {
        let pool = match self.database.pool().clone() {
            Pool::Postgres(pool) if self.database.is_listened() => pool,
            _ => return std::future::pending().await,
        };
        let mut pause = PAUSES.0;
        loop {
            while !self.notifications.is_needed() {
                self.notifications.changed().await;
            }
            let started = Instant::now();
            let error = match self.listen(&pool).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            self.notifications.lost();
            self.metrics.listening.set(0);
            self.owed = true;
            if started.elapsed() > PAUSES.1 {
                pause = PAUSES.0;
            }
            if pause == PAUSES.0 {
                warn!(
                    error = Causes(&error).to_string(),
                    "PostgreSQL can't be listened on for the moment"
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Listens until the connection is lost.
    async fn listen(&mut self, pool: &PgPool) -> Result<std::convert::Infallible, DatabaseError> {
        let limit = self.database.timeout();
        let own = listener_pool(pool, limit);
        let mut listener = within(limit, PgListener::connect_with(&own)).await?;
        listener.eager_reconnect(false);
        within(limit, execute(&mut listener, SETTINGS.to_owned())).await?;
        let mut listening = 0_i64;
        let mut quiet = tokio::time::interval(QUIET);
        quiet.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            loop {
                let changes = self.notifications.changes(AT_ONCE, Instant::now());
                let (more, less) = (changes.listen.len(), changes.unlisten.len());
                if more + less == 0 {
                    break;
                }
                let listen = changes
                    .listen
                    .iter()
                    .map(|name| format!("LISTEN {};", quoted(name)));
                let unlisten = changes
                    .unlisten
                    .iter()
                    .map(|name| format!("UNLISTEN {};", quoted(name)));
                let statements: String = unlisten.chain(listen).collect();
                within(limit, execute(&mut listener, statements)).await?;
                self.notifications.listening(&changes.listen);
                listening += more as i64 - less as i64;
                self.metrics.listening.set(listening);
            }
            if self.owed {
                self.tell();
                info!("listening on PostgreSQL again");
                // What was committed meanwhile has woken nobody.
                self.wake.wake();
            }
            tokio::select! {
                received = listener.try_recv() => match received? {
                    Some(notification) => self.received(&notification),
                    None => return Err(lost().into()),
                },
                () = self.notifications.changed() => {}
                _ = quiet.tick() => within(limit, execute(&mut listener, "SELECT 1".to_owned())).await?,
            }
        }
    }

    fn received(&mut self, notification: &PgNotification) {
        if notification.channel() == OUTBOX {
            return self.wake.wake();
        }
        self.metrics.received.inc();
        let heard = Heard {
            process: notification.process_id(),
            name: notification.channel().to_owned(),
            payload: notification.payload().to_owned(),
        };
        if self.heard.try_send(heard).is_err() {
            self.metrics.dropped.inc();
            if self.told.is_none_or(|told| told.elapsed() > TELLING) {
                warn!("notifications of PostgreSQL are dropped because the bus does not take them");
                self.tell();
            }
        }
    }

    /// Tells those who may have missed something. When it is being told already, that covers it.
    fn tell(&mut self) {
        self.owed = false;
        self.told = Some(Instant::now());
        let names = self.notifications.names();
        let missed = Missed {
            everybody: !names.fixed().is_empty(),
            resources: names.resources(),
        };
        if missed.everybody || !missed.resources.is_empty() {
            let _ = self.missed.try_send(missed);
        }
    }
}

/// A name as PostgreSQL reads it as it is: with capitals, hyphens, colons.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\"").replace('\0', ""))
}

async fn execute(listener: &mut PgListener, statements: String) -> sqlx::Result<()> {
    use sqlx::Executor as _;
    listener
        .execute(sqlx::AssertSqlSafe(statements))
        .await
        .map(drop)
}

fn lost() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into())
}

async fn within<T>(
    limit: Duration,
    query: impl Future<Output = sqlx::Result<T>>,
) -> Result<T, DatabaseError> {
    match tokio::time::timeout(limit, query).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(DatabaseError::Timeout(limit)),
    }
}
