//! Which chats a user is in, and which users a chat has, by the configured queries on the chat
//! backend's database.
//!
//! Look-ups run in one task, as many at a time as there are connections in the pool. What a
//! request leaves behind while it waits is a user id and a channel for the answer, so that a storm
//! of clients does not fill the memory that their connections will live in.

mod metrics;
mod trial;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::postgres::{PgArguments, PgRow, PgStatement};
use sqlx::query::Query;
use sqlx::sqlite::SqliteRow;
use sqlx::{
    AssertSqlSafe, Column as _, Either, Executor as _, PgConnection, PgPool, Postgres, Row as _,
    SqlSafeStr as _, SqlitePool, Statement as _, TypeInfo as _, ValueRef as _,
};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::debug;
use uuid::Uuid;

pub use metrics::Metrics;

use crate::database::{Database, DatabaseConfig, DatabaseError, Fault, Pool, is_broken_connection};
use crate::event::{ChatId, Id, UserId};
use trial::{Signs, Trial};

/// Look-ups that wait for a connection of the pool; more are refused at once. More would not be
/// answered in time anyway.
const WAITING: usize = 16_384;

/// The most chats of one user. With more the query is likely to be wrong, and a stream without
/// some of its chats would be worse than none.
const MAX_CHATS: usize = 20_000;

/// The most members of one chat that are looked up.
const MAX_MEMBERS: usize = 100_000;

/// How long before a look-up's deadline its connection is given up.
const CLOSING: Duration = Duration::from_millis(20);

/// Looks memberships up. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Membership {
    lookups: mpsc::Sender<Lookup>,
    timeout: Duration,
    metrics: Metrics,
    trial: Trial,
    /// Whether there is a query for a user's chats.
    has_chats: bool,
}

/// Performs the look-ups, for as long as a [`Membership`] lives.
#[derive(Debug)]
pub struct MembershipTask {
    lookups: mpsc::Receiver<Lookup>,
    database: Database,
    queries: Queries,
    trial: Trial,
    signs: Signs,
}

/// `$1` is the id of a user, or of a chat.
#[derive(Debug)]
struct Queries {
    chats: Arc<str>,
    members: Arc<str>,
}

#[derive(Debug)]
struct Lookup {
    wanted: Wanted,
    deadline: Instant,
    answer: oneshot::Sender<Result<Vec<Id>, DatabaseError>>,
}

#[derive(Debug)]
enum Wanted {
    ChatsOf(UserId),
    MembersOf(ChatId),
}

/// One query with its parameter, and the most rows that it may have.
#[derive(Debug, Clone, Copy)]
struct Question<'a> {
    query: &'a Arc<str>,
    /// `None` for nobody's, which equals nothing.
    id: Option<&'a Id>,
    most: usize,
}

impl Membership {
    /// With the configured queries. The task must run, on the runtime that the database was opened on.
    #[must_use]
    pub fn new(
        database: Database,
        config: &DatabaseConfig,
        metrics: Metrics,
    ) -> (Self, MembershipTask) {
        let (sender, lookups) = mpsc::channel(WAITING);
        let membership = Self {
            lookups: sender,
            timeout: database.timeout(),
            metrics,
            trial: Trial::default(),
            has_chats: !config.membership_query.is_empty(),
        };
        let task = MembershipTask {
            lookups,
            trial: membership.trial.clone(),
            signs: membership.metrics.signs.clone(),
            database,
            queries: Queries {
                chats: Arc::from(config.membership_query.as_str()),
                members: Arc::from(config.members_query.as_str()),
            },
        };
        (membership, task)
    }

    /// The chats that `user` is in now; none where no query is configured.
    ///
    /// # Errors
    /// The database fails or gives no answer in time: the caller must not take that for "none".
    pub async fn chats_of(&self, user: &UserId) -> Result<Vec<ChatId>, DatabaseError> {
        if !self.has_chats {
            return Ok(Vec::new());
        }
        let found = self.look_up(Wanted::ChatsOf(user.clone())).await;
        self.trial.saw(&found);
        let ids = found?;
        Ok(ids.into_iter().map(ChatId::from).collect())
    }

    /// What is wrong with the query for a user's chats, whoever asks, and what to do; `None` where nothing is
    /// known to be.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.trial.problem()
    }

    /// How that query does, in words.
    #[must_use]
    pub fn detail(&self) -> &'static str {
        match self.has_chats {
            true => self.trial.detail(),
            false => "there are none: database.membership_query is empty",
        }
    }

    /// The users that are in `chat` now.
    ///
    /// # Errors
    /// The database fails, gives no answer in time, or has no table that the query asks for: the caller
    /// must not take that for "none".
    pub async fn members_of(&self, chat: &ChatId) -> Result<Vec<UserId>, DatabaseError> {
        let ids = self.look_up(Wanted::MembersOf(chat.clone())).await?;
        Ok(ids.into_iter().map(UserId::from).collect())
    }

    async fn look_up(&self, wanted: Wanted) -> Result<Vec<Id>, DatabaseError> {
        let began = Instant::now();
        let result = self.ask(wanted).await;
        self.metrics.count(&result, began.elapsed());
        result
    }

    async fn ask(&self, wanted: Wanted) -> Result<Vec<Id>, DatabaseError> {
        let (answer, result) = oneshot::channel();
        let lookup = Lookup {
            wanted,
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
            lookups,
            database,
            queries,
            trial,
            signs,
        } = self;
        let lookups = Mutex::new(lookups);
        // As many as there are connections, for good: a look-up is several KiB of state, and what is allocated for each
        // and freed again ends up beneath the buffers of streams.
        let workers = (0..database.max_connections()).map(|_| async {
            while let Some(lookup) = next(&lookups).await {
                perform(&database, &queries, lookup).await;
            }
        });
        tokio::select! {
            _ = join_all(workers) => {}
            () = trial.run(&signs, || try_out(&database, &queries.chats)) => {}
        }
    }
}

async fn next(lookups: &Mutex<mpsc::Receiver<Lookup>>) -> Option<Lookup> {
    lookups.lock().await.recv().await
}

/// Tries the configured query for a user's chats.
///
/// # Errors
/// Why it does not work.
pub async fn attempt(database: &Database, config: &DatabaseConfig) -> Result<(), DatabaseError> {
    look_up_nobody(database, &Arc::from(config.membership_query.as_str())).await
}

/// Where there is no query, whether there is a database.
async fn try_out(database: &Database, query: &Arc<str>) -> Result<(), DatabaseError> {
    match query.is_empty() {
        true => database.ping().await,
        false => look_up_nobody(database, query).await,
    }
}

async fn look_up_nobody(database: &Database, query: &Arc<str>) -> Result<(), DatabaseError> {
    if query.is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + database.timeout();
    let question = Question {
        query,
        id: None,
        most: MAX_CHATS,
    };
    answer(database, question, deadline).await.map(drop)
}

async fn answer(
    database: &Database,
    question: Question<'_>,
    deadline: Instant,
) -> Result<Vec<Id>, DatabaseError> {
    let result = timeout_at(deadline, ids(database, question, deadline)).await;
    result.unwrap_or_else(|_| Err(DatabaseError::Timeout(database.timeout())))
}

/// What is wrong with looking up a user's chats, and what would be right, without the database's own words.
#[must_use]
pub fn problem(fault: Fault) -> String {
    trial::problem(fault)
}

async fn perform(database: &Database, queries: &Queries, lookup: Lookup) {
    let Lookup {
        wanted,
        deadline,
        answer: waiting,
    } = lookup;
    if waiting.is_closed() {
        return;
    }
    let question = match &wanted {
        Wanted::ChatsOf(user) => Question {
            query: &queries.chats,
            id: Some(user.id()),
            most: MAX_CHATS,
        },
        Wanted::MembersOf(chat) => Question {
            query: &queries.members,
            id: Some(chat.id()),
            most: MAX_MEMBERS,
        },
    };
    // A client that has gone needs no answer.
    let _ = waiting.send(answer(database, question, deadline).await);
}

async fn ids(
    database: &Database,
    question: Question<'_>,
    deadline: Instant,
) -> Result<Vec<Id>, DatabaseError> {
    // After a restart of the database each pooled connection may be dead, and each attempt finds
    // out about one.
    let attempts = database.max_connections() + 1;
    let mut attempt = 1;
    loop {
        let result = match database.pool() {
            Pool::Postgres(pool) => postgres(pool, question, deadline, database.timeout()).await,
            Pool::Sqlite(pool) => sqlite(pool, question).await,
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

async fn postgres(
    pool: &PgPool,
    question: Question<'_>,
    deadline: Instant,
    limit: Duration,
) -> Result<Vec<Id>, DatabaseError> {
    let mut connection = pool.acquire().await?;
    // A little before the caller gives up, so that this sees it first: a connection that does not
    // answer must not go back into the pool, which would wait for it to.
    let before = deadline.checked_sub(CLOSING).unwrap_or(deadline);
    let answer = timeout_at(before, ask_postgres(&mut connection, question)).await;
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
    question: Question<'_>,
) -> Result<Vec<Id>, DatabaseError> {
    // Prepared once for each connection and then found in its cache. The server says which type
    // it compares the parameter with, so that an id is sent as what the column is.
    let sql = AssertSqlSafe(Arc::clone(question.query)).into_sql_str();
    let statement = connection.prepare(sql).await?;
    // Also where there are no rows, of which the first could tell.
    let kind = statement.columns().first();
    readable(kind.map_or("nothing", |column| column.type_info().name()))?;
    let query = bind(&statement, question.id)?;
    let rows = query.fetch(connection).take(question.most + 1);
    let rows: Vec<PgRow> = rows.try_collect().await?;
    bounded(rows.len(), question.most)?;
    let ids = rows.iter().filter_map(|row| postgres_id(row).transpose());
    ids.collect()
}

fn bounded(rows: usize, most: usize) -> Result<(), DatabaseError> {
    if rows > most {
        return Err(DatabaseError::TooMany(most));
    }
    Ok(())
}

/// The query with the id as the type that the server expects. An id that is no value of that
/// type is NULL, which equals nothing.
fn bind<'q>(
    statement: &'q PgStatement,
    id: Option<&Id>,
) -> Result<Query<'q, Postgres, PgArguments>, DatabaseError> {
    let query = statement.query();
    let Some(Either::Left([expected, ..])) = statement.parameters() else {
        return Ok(query);
    };
    let number = match id {
        Some(Id::Number(number)) => Some(*number),
        Some(Id::Text(_)) | None => None,
    };
    let text = || id.map(ToString::to_string);
    Ok(match expected.name() {
        "INT8" => query.bind(number),
        "INT4" => query.bind(number.and_then(|number| i32::try_from(number).ok())),
        "INT2" => query.bind(number.and_then(|number| i16::try_from(number).ok())),
        "UUID" => query.bind(text().and_then(|text| Uuid::parse_str(&text).ok())),
        "TEXT" | "VARCHAR" | "CHAR" | "BPCHAR" | "NAME" | "citext" => query.bind(text()),
        other => return Err(DatabaseError::Parameter(other.to_owned())),
    })
}

/// Whether a column of this type can hold ids.
fn readable(kind: &str) -> Result<(), DatabaseError> {
    match kind {
        "INT8" | "INT4" | "INT2" | "TEXT" | "VARCHAR" | "BPCHAR" | "NAME" | "citext" | "UUID" => {
            Ok(())
        }
        other => Err(DatabaseError::Column(other.to_owned())),
    }
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

async fn sqlite(pool: &SqlitePool, question: Question<'_>) -> Result<Vec<Id>, DatabaseError> {
    let query = sqlx::query(AssertSqlSafe(Arc::clone(question.query)));
    let query = match question.id {
        Some(Id::Number(number)) => query.bind(*number),
        Some(Id::Text(text)) => query.bind(text.to_string()),
        None => query.bind(None::<i64>),
    };
    let rows = query.fetch(pool).take(question.most + 1);
    let rows: Vec<SqliteRow> = rows.try_collect().await?;
    bounded(rows.len(), question.most)?;
    let ids = rows.iter().filter_map(|row| sqlite_id(row).transpose());
    ids.collect()
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

/// A chat id that can't be part of a channel can't be listened on by anyone, and a user id that can't be
/// is nobody's; it is left out.
fn usable(text: &str) -> Option<Id> {
    Id::parse(text)
        .inspect_err(|error| {
            debug!(
                error = error.to_string(),
                "a chat or a member is left out because its id can't be a channel's"
            );
        })
        .ok()
}
