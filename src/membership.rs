//! Which chats a user is in, by the configured query on the chat backend's database.
//!
//! Look-ups run in one task, as many at a time as there are connections in the pool. What a
//! request leaves behind while it waits is a user id and a channel for the answer, so that a storm
//! of clients does not fill the memory that their connections will live in.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::postgres::{PgArguments, PgRow, PgStatement};
use sqlx::query::Query;
use sqlx::sqlite::SqliteRow;
use sqlx::{
    AssertSqlSafe, Column as _, Either, Executor as _, PgConnection, PgPool, Postgres, Row as _,
    SqlSafeStr as _, SqlitePool, Statement as _, TypeInfo as _, ValueRef as _,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::debug;
use uuid::Uuid;

use crate::database::{Database, DatabaseError, Pool};
use crate::event::{ChatId, Id, UserId};

/// Look-ups that wait for a connection of the pool; more are refused at once. More would not be
/// answered in time anyway.
const WAITING: usize = 16_384;

/// The most chats of one user. With more the query is likely to be wrong, and a stream without
/// some of its chats would be worse than none.
const MAX_CHATS: usize = 20_000;

/// How long before a look-up's deadline its connection is given up.
const CLOSING: Duration = Duration::from_millis(20);

/// Looks memberships up. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Membership {
    lookups: mpsc::Sender<Lookup>,
    timeout: Duration,
}

/// Performs the look-ups, for as long as a [`Membership`] lives.
#[derive(Debug)]
pub struct MembershipTask {
    lookups: mpsc::Receiver<Lookup>,
    database: Database,
    query: Arc<str>,
}

#[derive(Debug)]
struct Lookup {
    user: UserId,
    deadline: Instant,
    answer: oneshot::Sender<Result<Vec<ChatId>, DatabaseError>>,
}

impl Membership {
    /// With a query whose `$1` is the user id and whose first column is the chat id. The task must
    /// run, on the runtime that the database was opened on.
    #[must_use]
    pub fn new(database: Database, query: &str) -> (Self, MembershipTask) {
        let (sender, lookups) = mpsc::channel(WAITING);
        let membership = Self {
            lookups: sender,
            timeout: database.timeout(),
        };
        let task = MembershipTask {
            lookups,
            database,
            query: Arc::from(query),
        };
        (membership, task)
    }

    /// The chats that `user` is in now.
    ///
    /// # Errors
    /// The database fails or gives no answer in time: the caller must not take that for "none".
    pub async fn chats_of(&self, user: &UserId) -> Result<Vec<ChatId>, DatabaseError> {
        let (answer, result) = oneshot::channel();
        let lookup = Lookup {
            user: user.clone(),
            deadline: Instant::now() + self.timeout,
            answer,
        };
        self.lookups.try_send(lookup).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => DatabaseError::Busy,
            mpsc::error::TrySendError::Closed(_) => DatabaseError::Stopping,
        })?;
        result.await.map_err(|_| DatabaseError::Stopping)?
    }
}

impl MembershipTask {
    /// Runs until the last [`Membership`] is dropped.
    pub async fn run(self) {
        let Self {
            mut lookups,
            database,
            query,
        } = self;
        let connections = database.max_connections() as usize;
        futures_util::stream::poll_fn(|context| lookups.poll_recv(context))
            .for_each_concurrent(connections, |lookup| perform(&database, &query, lookup))
            .await;
    }
}

async fn perform(database: &Database, query: &Arc<str>, lookup: Lookup) {
    let Lookup {
        user,
        deadline,
        answer,
    } = lookup;
    if answer.is_closed() {
        return;
    }
    let result = timeout_at(deadline, chats_of(database, query, &user, deadline)).await;
    let result = result.unwrap_or_else(|_| Err(DatabaseError::Timeout(database.timeout())));
    // A client that has gone needs no answer.
    let _ = answer.send(result);
}

async fn chats_of(
    database: &Database,
    query: &Arc<str>,
    user: &UserId,
    deadline: Instant,
) -> Result<Vec<ChatId>, DatabaseError> {
    // After a restart of the database each pooled connection may be dead, and each attempt finds
    // out about one.
    let attempts = database.max_connections() + 1;
    let mut attempt = 1;
    loop {
        let result = match database.pool() {
            Pool::Postgres(pool) => postgres(pool, query, user, deadline, database.timeout()).await,
            Pool::Sqlite(pool) => sqlite(pool, query, user).await,
        };
        match result {
            Err(DatabaseError::Failed(error))
                if attempt < attempts && is_broken_connection(&error) =>
            {
                attempt += 1;
            }
            other => return other,
        }
    }
}

/// Whether the connection broke, rather than the query.
fn is_broken_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        // Connection exceptions, and the server being shut down.
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("08") || code.starts_with("57P")),
        _ => false,
    }
}

async fn postgres(
    pool: &PgPool,
    query: &Arc<str>,
    user: &UserId,
    deadline: Instant,
    limit: Duration,
) -> Result<Vec<ChatId>, DatabaseError> {
    let mut connection = pool.acquire().await?;
    // A little before the caller gives up, so that this sees it first: a connection that does not
    // answer must not go back into the pool, which would wait for it to.
    let before = deadline.checked_sub(CLOSING).unwrap_or(deadline);
    let answer = timeout_at(before, ask_postgres(&mut connection, query, user)).await;
    let answer = answer.unwrap_or(Err(DatabaseError::Timeout(limit)));
    match &answer {
        Err(DatabaseError::Timeout(_)) => connection.close_on_drop(),
        Err(DatabaseError::Failed(error)) if is_broken_connection(error) => {
            connection.close_on_drop();
        }
        _ => {}
    }
    answer
}

async fn ask_postgres(
    connection: &mut PgConnection,
    query: &Arc<str>,
    user: &UserId,
) -> Result<Vec<ChatId>, DatabaseError> {
    // Prepared once for each connection and then found in its cache. The server says which type
    // it compares the parameter with, so that an id is sent as what the column is.
    let sql = AssertSqlSafe(Arc::clone(query)).into_sql_str();
    let statement = connection.prepare(sql).await?;
    let query = bind(&statement, user.id())?;
    let rows = query.fetch(connection).take(MAX_CHATS + 1);
    let rows: Vec<PgRow> = rows.try_collect().await?;
    bounded(rows.len())?;
    let chats = rows.iter().filter_map(|row| postgres_id(row).transpose());
    chats.map(|id| id.map(ChatId::from)).collect()
}

fn bounded(chats: usize) -> Result<(), DatabaseError> {
    if chats > MAX_CHATS {
        return Err(DatabaseError::TooManyChats(MAX_CHATS));
    }
    Ok(())
}

/// The query with the user id as the type that the server expects. An id that is no value of that
/// type is NULL, which equals nothing.
fn bind<'q>(
    statement: &'q PgStatement,
    id: &Id,
) -> Result<Query<'q, Postgres, PgArguments>, DatabaseError> {
    let query = statement.query();
    let Some(Either::Left([expected, ..])) = statement.parameters() else {
        return Ok(query);
    };
    let number = match id {
        Id::Number(number) => Some(*number),
        Id::Text(_) => None,
    };
    Ok(match expected.name() {
        "INT8" => query.bind(number),
        "INT4" => query.bind(number.and_then(|number| i32::try_from(number).ok())),
        "INT2" => query.bind(number.and_then(|number| i16::try_from(number).ok())),
        "UUID" => query.bind(Uuid::parse_str(&id.to_string()).ok()),
        "TEXT" | "VARCHAR" | "CHAR" | "BPCHAR" | "NAME" | "citext" => query.bind(id.to_string()),
        other => return Err(DatabaseError::Parameter(other.to_owned())),
    })
}

fn postgres_id(row: &PgRow) -> Result<Option<Id>, DatabaseError> {
    let kind = match row.columns().first() {
        Some(column) => column.type_info().name(),
        None => return Ok(None),
    };
    let number = match kind {
        "INT8" => row.try_get::<Option<i64>, _>(0)?,
        "INT4" => row.try_get::<Option<i32>, _>(0)?.map(i64::from),
        "INT2" => row.try_get::<Option<i16>, _>(0)?.map(i64::from),
        "TEXT" | "VARCHAR" | "BPCHAR" | "NAME" | "citext" => {
            return Ok(row.try_get::<Option<&str>, _>(0)?.and_then(usable));
        }
        "UUID" => {
            let uuid = row.try_get::<Option<Uuid>, _>(0)?;
            return Ok(uuid.and_then(|uuid| usable(&uuid.to_string())));
        }
        other => return Err(DatabaseError::Column(other.to_owned())),
    };
    Ok(number.map(Id::Number))
}

async fn sqlite(
    pool: &SqlitePool,
    query: &Arc<str>,
    user: &UserId,
) -> Result<Vec<ChatId>, DatabaseError> {
    let query = sqlx::query(AssertSqlSafe(Arc::clone(query)));
    let query = match user.id() {
        Id::Number(number) => query.bind(*number),
        Id::Text(text) => query.bind(text.to_string()),
    };
    let rows = query.fetch(pool).take(MAX_CHATS + 1);
    let rows: Vec<SqliteRow> = rows.try_collect().await?;
    bounded(rows.len())?;
    let chats = rows.iter().filter_map(|row| sqlite_id(row).transpose());
    chats.map(|id| id.map(ChatId::from)).collect()
}

fn sqlite_id(row: &SqliteRow) -> Result<Option<Id>, DatabaseError> {
    let value = row.try_get_raw(0)?;
    let kind = value.type_info();
    match kind.name() {
        "NULL" => Ok(None),
        "INTEGER" => Ok(Some(Id::Number(row.try_get(0)?))),
        "TEXT" => Ok(usable(row.try_get(0)?)),
        other => Err(DatabaseError::Column(other.to_owned())),
    }
}

/// A chat id that can't be part of a channel can't be listened on by anyone; it is left out.
fn usable(text: &str) -> Option<Id> {
    Id::parse(text)
        .inspect_err(|error| {
            debug!(
                error = error.to_string(),
                "a chat is left out because its id can't be a channel's"
            );
        })
        .ok()
}
