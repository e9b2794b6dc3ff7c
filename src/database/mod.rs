//! The one connection pool, to PostgreSQL or SQLite, and the schema that `migrate` creates.
//!
//! Queries run on the runtime that the pool was opened on, whoever asks: its sockets and timers
//! belong to that runtime, while requests are served by other threads that come and go.

mod config;
mod demo;
mod fault;
mod schema;

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, PgPool, SqlitePool};
use tokio::runtime::Handle;

pub use config::DatabaseConfig;
pub use demo::{DemoChat, DemoUser, demo_chats, demo_users, seed_demo};
pub use fault::Fault;
pub use schema::{Migrated, Part};

use crate::secret::SecretUrl;

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Database {
    pool: Pool,
    runtime: Handle,
    timeout: Duration,
    max_connections: u32,
    listened: bool,
}

/// The pool of the kind that the URL names.
#[derive(Debug, Clone)]
pub enum Pool {
    /// PostgreSQL.
    Postgres(PgPool),
    /// SQLite.
    Sqlite(SqlitePool),
}

/// What the connections of the pool do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// So many are lent out.
    pub used: u32,
    /// So many wait to be.
    pub idle: u32,
}

/// Which database a URL is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// PostgreSQL.
    Postgres,
    /// SQLite.
    Sqlite,
}

/// Why a database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL is not one of a supported database.
    #[error(
        "database.url {url} names no supported database: postgres://… and sqlite://… are supported"
    )]
    Url {
        /// The URL, masked.
        url: SecretUrl,
        /// What is wrong with it.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// The database gave no answer in time.
    #[error("the database gave no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// More queries wait already than can be answered in time.
    #[error("too many queries wait for the database")]
    Busy,
    /// The database refused or broke off.
    #[error("the database failed")]
    Failed(#[from] sqlx::Error),
    /// The schema could not be created.
    #[error("the migration failed")]
    Migrate(#[from] MigrateError),
    /// The query's parameter has a type that no user id can be written as.
    #[error(
        "a membership query compares $1 with type {0}; cast it in the query, e.g. CAST($1 AS TEXT)"
    )]
    Parameter(String),
    /// The query returns more rows than anyone has chats, or than members are looked up.
    #[error("a membership query returns more than {0} rows")]
    TooMany(usize),
    /// The query's result has a type that is no id.
    #[error(
        "a membership query returns a column of type {0}; integers, text and UUIDs are understood"
    )]
    Column(String),
    /// The runtime is stopping.
    #[error("the server is stopping")]
    Stopping,
}

impl Kind {
    /// The kind that the URL's scheme names; `None` if that is not a supported one.
    #[must_use]
    pub fn of(url: &SecretUrl) -> Option<Self> {
        let text = url.expose();
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Some(Self::Postgres)
        } else if text.starts_with("sqlite:") {
            Some(Self::Sqlite)
        } else {
            None
        }
    }
}

impl Database {
    /// Opens the pool without connecting: a database that is down is found out by the queries.
    /// Must be called on the runtime that is to run the queries.
    ///
    /// # Errors
    /// The URL names no supported database.
    pub fn open(url: &SecretUrl, config: &DatabaseConfig) -> Result<Self, DatabaseError> {
        Self::open_beside(url, config, false)
    }

    /// The same; where `listened` is set, one of the connections is left for [`listener_pool`].
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn open_beside(
        url: &SecretUrl,
        config: &DatabaseConfig,
        listened: bool,
    ) -> Result<Self, DatabaseError> {
        let mut connections = config.max_connections;
        let listened = listened && Kind::of(url) == Some(Kind::Postgres) && connections > 1;
        if listened {
            connections -= 1;
        }
        let timeout = config.timeout.0;
        let wrong = |source| DatabaseError::Url {
            url: url.clone(),
            source,
        };
        let text = url.expose();
        let pool = match Kind::of(url).ok_or_else(|| wrong(None))? {
            Kind::Postgres => {
                let options: PgConnectOptions = text.parse().map_err(|e| wrong(Some(e)))?;
                Pool::Postgres(postgres(options, connections, timeout))
            }
            Kind::Sqlite => {
                let options: SqliteConnectOptions = text.parse().map_err(|e| wrong(Some(e)))?;
                Pool::Sqlite(sqlite(options, config, timeout))
            }
        };
        Ok(Self {
            pool,
            runtime: Handle::current(),
            timeout,
            max_connections: connections,
            listened,
        })
    }

    /// Opens the pool, and makes a SQLite file that is missing: for `migrate` only, as elsewhere a
    /// missing file is a wrong address.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn create(url: &SecretUrl, config: &DatabaseConfig) -> Result<Self, DatabaseError> {
        let text = url.expose();
        if Kind::of(url) != Some(Kind::Sqlite) || text.contains("mode=") {
            return Self::open(url, config);
        }
        let separator = if text.contains('?') { '&' } else { '?' };
        Self::open(
            &SecretUrl::new(format!("{text}{separator}mode=rwc")),
            config,
        )
    }

    /// The URL of a SQLite file that is created when it is missing.
    #[must_use]
    pub fn file_url(path: &Path) -> SecretUrl {
        SecretUrl::new(format!("sqlite://{}?mode=rwc", path.display()))
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// How many connections there can be.
    #[must_use]
    pub fn max_connections(&self) -> u32 {
        self.max_connections
    }

    /// Whether a connection is left for [`listener_pool`].
    #[must_use]
    pub fn is_listened(&self) -> bool {
        self.listened
    }

    /// What the connections do now.
    #[must_use]
    pub fn connections(&self) -> Connections {
        let (open, idle) = match &self.pool {
            Pool::Postgres(pool) => (pool.size(), pool.num_idle()),
            Pool::Sqlite(pool) => (pool.size(), pool.num_idle()),
        };
        // The two are not read at the same moment.
        let idle = u32::try_from(idle).unwrap_or(u32::MAX).min(open);
        Connections {
            used: open - idle,
            idle,
        }
    }

    /// How long a query may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Runs a query on the pool's own runtime, within the configured time.
    ///
    /// # Errors
    /// What the query fails with, or [`DatabaseError::Timeout`].
    pub async fn run<T: Send + 'static>(
        &self,
        query: impl Future<Output = Result<T, DatabaseError>> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let timeout = self.timeout;
        let running = self
            .runtime
            .spawn(async move { tokio::time::timeout(timeout, query).await });
        match running.await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(DatabaseError::Timeout(timeout)),
            Err(_) => Err(DatabaseError::Stopping),
        }
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// It gives none.
    pub async fn ping(&self) -> Result<(), DatabaseError> {
        let pool = self.pool.clone();
        self.run(async move {
            match pool {
                Pool::Postgres(pool) => sqlx::query("SELECT 1").execute(&pool).await.map(drop),
                Pool::Sqlite(pool) => sqlx::query("SELECT 1").execute(&pool).await.map(drop),
            }
            .map_err(DatabaseError::from)
        })
        .await
    }

    /// The database's kind, for people.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.pool {
            Pool::Postgres(_) => "PostgreSQL",
            Pool::Sqlite(_) => "SQLite",
        }
    }

    /// Closes the pool.
    pub async fn close(&self) {
        match &self.pool {
            Pool::Postgres(pool) => pool.close().await,
            Pool::Sqlite(pool) => pool.close().await,
        }
    }
}

/// Whether the connection broke, rather than the query.
#[must_use]
pub fn is_broken_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        // Connection exceptions, and the server being shut down.
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("08") || code.starts_with("57P")),
        _ => false,
    }
}

/// A pool for the one connection that listens for notifications, which belongs to nothing else.
#[must_use]
pub fn listener_pool(pool: &PgPool, timeout: Duration) -> PgPool {
    PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(timeout)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with((*pool.connect_options()).clone())
}

fn postgres(options: PgConnectOptions, connections: u32, timeout: Duration) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(timeout)
        // Costs a round trip before every query; queries retry on a broken connection instead.
        .test_before_acquire(false)
        .connect_lazy_with(
            options
                .application_name("notify-server")
                .disable_statement_logging(),
        )
}

fn sqlite(options: SqliteConnectOptions, config: &DatabaseConfig, timeout: Duration) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(timeout)
        .test_before_acquire(false)
        .connect_lazy_with(
            options
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Normal)
                .busy_timeout(timeout)
                .disable_statement_logging(),
        )
}
