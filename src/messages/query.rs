//! The queries, and the connection that they are made on.

use futures_util::future::BoxFuture;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _, SqlitePool};
use tokio::time::timeout;

use super::{Conversation, Draft, MessageError};
use crate::database::{Database, DatabaseError, Pool, is_broken_connection};

/// What a query is made on.
pub(super) enum Session<'c> {
    Postgres(&'c mut PgConnection),
    Sqlite(&'c SqlitePool),
}

/// A query under way.
pub(super) type Asking<'c, T> = BoxFuture<'c, Result<T, MessageError>>;

/// Asks on one connection.
pub(super) async fn once<T>(
    database: &Database,
    ask: &(impl for<'c> Fn(Session<'c>) -> Asking<'c, T> + Sync),
) -> Result<T, MessageError> {
    let pool = match database.pool() {
        Pool::Sqlite(pool) => return ask(Session::Sqlite(pool)).await,
        Pool::Postgres(pool) => pool,
    };
    let mut connection = pool.acquire().await?;
    // Before the caller gives up: a connection that does not answer must not go back into the pool, which
    // would wait for it to.
    let limit = database.timeout().mul_f32(0.9);
    let answer = timeout(limit, ask(Session::Postgres(&mut connection))).await;
    let answer = answer.unwrap_or_else(|_| Err(DatabaseError::Timeout(limit).into()));
    match &answer {
        Err(MessageError::Database(DatabaseError::Timeout(_))) => connection.close_on_drop(),
        Err(MessageError::Database(DatabaseError::Failed(error)))
            if is_broken_connection(error) =>
        {
            connection.close_on_drop();
        }
        _ => {}
    }
    answer
}

const INSERT: &str = "INSERT INTO messages (id, session_id, chat_id, content, sender_type, sender_id, \
    sender_name, message_type, idempotency_key) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
    ON CONFLICT DO NOTHING";

pub(super) async fn write_postgres(
    connection: &mut PgConnection,
    id: &str,
    draft: &Draft,
) -> Result<String, MessageError> {
    let sender = draft.sender.to_string();
    let insert = format!("{INSERT} RETURNING notify_message(to_jsonb(messages))::text");
    let written: Option<String> = sqlx::query_scalar(AssertSqlSafe(insert))
        .bind(id)
        .bind(&draft.session)
        .bind(draft.chat)
        .bind(&draft.content)
        .bind(&draft.sender_type)
        .bind(&sender)
        .bind(&draft.sender_name)
        .bind(&draft.message_type)
        .bind(&draft.key)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(written) = written {
        return Ok(written);
    }
    let before = "SELECT notify_message(to_jsonb(messages))::text, \
            session_id IS NOT DISTINCT FROM $4 AND chat_id IS NOT DISTINCT FROM $5 \
            AND content = $6 AND message_type = $7 \
        FROM messages WHERE id = $1 OR (sender_id = $2 AND idempotency_key = $3)";
    let row: Option<PgRow> = sqlx::query(before)
        .bind(id)
        .bind(&sender)
        .bind(&draft.key)
        .bind(&draft.session)
        .bind(draft.chat)
        .bind(&draft.content)
        .bind(&draft.message_type)
        .fetch_optional(&mut *connection)
        .await?;
    match row {
        Some(row) => same(row.try_get(0)?, row.try_get(1)?),
        None => Err(gone().into()),
    }
}

pub(super) async fn write_sqlite(
    pool: &SqlitePool,
    id: &str,
    draft: &Draft,
) -> Result<String, MessageError> {
    let sender = draft.sender.to_string();
    sqlx::query(INSERT)
        .bind(id)
        .bind(&draft.session)
        .bind(draft.chat)
        .bind(&draft.content)
        .bind(&draft.sender_type)
        .bind(&sender)
        .bind(&draft.sender_name)
        .bind(&draft.message_type)
        .bind(&draft.key)
        .execute(pool)
        .await?;
    let found = "SELECT shown.message, m.session_id IS $4 AND m.chat_id IS $5 AND m.content = $6 \
            AND m.message_type = $7 \
        FROM messages m JOIN notify_messages shown USING (position) \
        WHERE m.id = $1 OR (m.sender_id = $2 AND m.idempotency_key = $3)";
    let row: Option<SqliteRow> = sqlx::query(found)
        .bind(id)
        .bind(&sender)
        .bind(&draft.key)
        .bind(&draft.session)
        .bind(draft.chat)
        .bind(&draft.content)
        .bind(&draft.message_type)
        .fetch_optional(pool)
        .await?;
    match row {
        Some(row) => same(row.try_get(0)?, row.try_get(1)?),
        None => Err(gone().into()),
    }
}

fn same(message: String, same: bool) -> Result<String, MessageError> {
    if same {
        Ok(message)
    } else {
        Err(MessageError::KeyTaken)
    }
}

/// Somebody has deleted the message in the same moment.
fn gone() -> sqlx::Error {
    sqlx::Error::RowNotFound
}

impl Conversation {
    /// The column that says so.
    fn column(&self) -> &'static str {
        match self {
            Self::Session(_) => "session_id",
            Self::Chat(_) => "chat_id",
        }
    }
}

/// A query whose `$1` is the conversation, whichever database it is and of whatever type.
macro_rules! of {
    ($sql:expr, $conversation:expr) => {{
        let query = sqlx::query(AssertSqlSafe($sql));
        match $conversation {
            Conversation::Session(id) => query.bind(id.clone()),
            Conversation::Chat(id) => query.bind(*id),
        }
    }};
}

/// Where in the history a message is.
pub(super) async fn position(
    session: &mut Session<'_>,
    of: &Conversation,
    id: &str,
) -> Result<i64, MessageError> {
    let column = of.column();
    let sql = format!("SELECT position FROM messages WHERE {column} = $1 AND id = $2");
    let position: Option<i64> = match session {
        Session::Postgres(connection) => {
            let row = of!(sql, of)
                .bind(id)
                .fetch_optional(&mut **connection)
                .await?;
            row.map(|row| row.try_get(0)).transpose()?
        }
        Session::Sqlite(pool) => {
            let row = of!(sql, of).bind(id).fetch_optional(*pool).await?;
            row.map(|row| row.try_get(0)).transpose()?
        }
    };
    position.ok_or(MessageError::NoSuchMessage)
}

pub(super) async fn read(
    session: &mut Session<'_>,
    of: &Conversation,
    until: i64,
    limit: usize,
) -> Result<Vec<(String, String)>, MessageError> {
    let column = of.column();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let wanted = format!("WHERE {column} = $1 AND position < $2 ORDER BY position DESC LIMIT $3");
    Ok(match session {
        Session::Postgres(connection) => {
            let sql = format!(
                "SELECT id, notify_message(to_jsonb(messages))::text FROM messages {wanted}"
            );
            let query = of!(sql, of).bind(until).bind(limit);
            let rows = query.fetch_all(&mut **connection).await?;
            let pairs = rows
                .iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
            pairs.collect::<sqlx::Result<_>>()?
        }
        Session::Sqlite(pool) => {
            let sql = format!("SELECT id, message FROM notify_messages {wanted}");
            let query = of!(sql, of).bind(until).bind(limit);
            let rows = query.fetch_all(*pool).await?;
            let pairs = rows
                .iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
            pairs.collect::<sqlx::Result<_>>()?
        }
    })
}
