//! The outbox in whichever database it is.

use std::time::Duration;

use super::postgres::PostgresStore;
use super::row::{Key, Row};
use super::sqlite::SqliteStore;
use crate::database::{Database, DatabaseError, Pool};
use crate::event::{Epoch, EventId};

/// The most bytes of payloads that are fetched at once, unless a single one has more.
pub(super) const BATCH_BYTES: i64 = 16 << 20;

/// How long putting things in order may take, which looks at every row.
const TIDYING: Duration = Duration::from_secs(60);

/// An outbox that only this instance publishes from, for as long as this is kept.
#[derive(Debug)]
pub(super) struct Store {
    kind: Kind,
    timeout: Duration,
}

#[derive(Debug)]
enum Kind {
    Postgres(Box<PostgresStore>),
    Sqlite(SqliteStore),
}

/// Whether this instance has the outbox.
#[derive(Debug)]
pub(super) enum Opened {
    /// It has.
    Ours(Store),
    /// Another instance has.
    Taken,
    /// There is no outbox.
    Missing,
}

/// What is kept about the outbox as a whole.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Which database this is.
    pub(super) source: String,
    /// The place in the log up to which what was published has been deleted.
    pub(super) noted: Option<Noted>,
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) epoch: Epoch,
    pub(super) position: u64,
}

/// What has become of rows.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// These are in the log.
    pub(super) taken: Vec<Key>,
    /// These can't be published, and why.
    pub(super) dead: Vec<(Key, String)>,
    /// The place in the log up to which nothing is left of what was published.
    pub(super) noted: Option<Noted>,
}

impl From<EventId> for Noted {
    fn from(id: EventId) -> Self {
        Self {
            epoch: id.epoch(),
            position: id.position(),
        }
    }
}

impl Noted {
    /// As the database has it; its numbers have a sign.
    pub(super) fn as_numbers(self) -> (i64, i64) {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        (number(self.epoch.0), number(self.position))
    }

    pub(super) fn from_numbers(epoch: Option<i64>, position: Option<i64>) -> Option<Self> {
        Some(Self {
            epoch: Epoch(u64::try_from(epoch?).ok()?),
            position: u64::try_from(position?).ok()?,
        })
    }
}

impl Store {
    /// Takes the outbox of a database, if it has one and nobody else has it.
    pub(super) async fn open(database: &Database) -> Result<Opened, DatabaseError> {
        let timeout = database.timeout();
        let kind = match database.pool() {
            Pool::Postgres(pool) => PostgresStore::open(pool, timeout)
                .await?
                .map(|found| found.map(|store| Kind::Postgres(Box::new(store)))),
            Pool::Sqlite(pool) => within(timeout, SqliteStore::open(pool))
                .await?
                .map(|store| Some(Kind::Sqlite(store))),
        };
        Ok(match kind {
            None => Opened::Missing,
            Some(None) => Opened::Taken,
            Some(Some(kind)) => Opened::Ours(Self { kind, timeout }),
        })
    }

    /// Puts in order what was left behind.
    pub(super) async fn tidy(&mut self) -> Result<(), DatabaseError> {
        match &mut self.kind {
            Kind::Postgres(store) => within(TIDYING, store.tidy()).await,
            Kind::Sqlite(_) => Ok(()),
        }
    }

    pub(super) async fn state(&mut self) -> Result<State, DatabaseError> {
        match &mut self.kind {
            Kind::Postgres(store) => within(self.timeout, store.state()).await,
            Kind::Sqlite(store) => within(self.timeout, store.state()).await,
        }
    }

    /// The next rows in order, payloads of more than `largest` bytes left out.
    pub(super) async fn next(
        &mut self,
        most: usize,
        largest: usize,
    ) -> Result<Vec<Row>, DatabaseError> {
        let most = i32::try_from(most).unwrap_or(i32::MAX);
        let largest = i64::try_from(largest).unwrap_or(i64::MAX);
        match &mut self.kind {
            Kind::Postgres(store) => within(self.timeout, store.next(most, largest)).await,
            Kind::Sqlite(store) => within(self.timeout, store.next(most, largest)).await,
        }
    }

    /// Deletes what is in the log, and puts aside what can't be published.
    pub(super) async fn settle(&mut self, settled: &Settled) -> Result<(), DatabaseError> {
        match &mut self.kind {
            Kind::Postgres(store) => within(self.timeout, store.settle(settled)).await,
            Kind::Sqlite(store) => within(self.timeout, store.settle(settled)).await,
        }
    }
}

/// A connection that does not answer in time is given up with the store.
async fn within<T>(
    limit: Duration,
    query: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DatabaseError> {
    match tokio::time::timeout(limit, query).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(DatabaseError::Timeout(limit)),
    }
}
