//! Messages that are kept: writing one, and reading the history of a session or chat. The event that goes
//! with a message is made by the database itself, in the outbox.

mod query;

use sqlx::error::ErrorKind;
use uuid::Uuid;

use crate::database::{Database, DatabaseError, is_broken_connection};
use crate::event::UserId;
use query::{Asking, Session, once, position, read, write_postgres, write_sqlite};

/// The messages of the database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Messages(Database);

/// Where a message belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conversation {
    /// A session.
    Session(String),
    /// A chat.
    Chat(i64),
}

/// A message that somebody wants to write.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The session that it is for.
    pub session: Option<String>,
    /// The chat that it is for.
    pub chat: Option<i64>,
    /// What it says, or where what it says is to be found.
    pub content: String,
    /// What kind of sender it is, e.g. `user`.
    pub sender_type: String,
    /// Who sends it.
    pub sender: UserId,
    /// What the sender is called.
    pub sender_name: Option<String>,
    /// What kind of message it is, e.g. `text`.
    pub message_type: String,
    /// What makes two requests of the sender one.
    pub key: Option<String>,
}

/// A part of a history.
#[derive(Debug)]
pub struct Page {
    /// The messages as JSON objects, the newest first.
    pub messages: Vec<String>,
    /// The id of the last of them, if there are more behind it.
    pub next: Option<String>,
}

/// Why messages can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The database has no such table.
    #[error(
        "the database has no messages that this server can write and read: `notify-server migrate` makes \
         the tables"
    )]
    NotInstalled(#[source] sqlx::Error),
    /// There is no such chat.
    #[error("there is no such chat")]
    NoChat,
    /// Another message was written with the same key.
    #[error("the key was used for another message")]
    KeyTaken,
    /// The message that the page is to begin behind is not in the history.
    #[error("no message of this history has that id")]
    NoSuchMessage,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for MessageError {
    fn from(error: sqlx::Error) -> Self {
        let Some(said) = error.as_database_error() else {
            return DatabaseError::from(error).into();
        };
        // Table, column and function that do not exist.
        let unknown = matches!(said.code().as_deref(), Some("42P01" | "42703" | "42883"));
        if unknown
            || said.message().starts_with("no such ")
            || said.message().contains("has no column")
        {
            Self::NotInstalled(error)
        } else if said.kind() == ErrorKind::ForeignKeyViolation {
            Self::NoChat
        } else {
            DatabaseError::from(error).into()
        }
    }
}

impl Messages {
    /// The messages of this database.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self(database)
    }

    /// Writes a message, or finds the one that was written with the same key; gives it as JSON.
    ///
    /// # Errors
    /// The chat does not exist, the key was used for another message, or the database fails.
    pub async fn write(&self, draft: Draft) -> Result<String, MessageError> {
        // Made here, so that trying again on another connection does not write it twice.
        let id = Uuid::new_v4().to_string();
        self.retried(move |session| {
            let (id, draft) = (id.clone(), draft.clone());
            Box::pin(async move {
                match session {
                    Session::Postgres(connection) => write_postgres(connection, &id, &draft).await,
                    Session::Sqlite(pool) => write_sqlite(pool, &id, &draft).await,
                }
            })
        })
        .await
    }

    /// At most `limit` messages, the newest first: those behind the message `before`, which is older the
    /// further one goes.
    ///
    /// # Errors
    /// There is no message `before`, or the database fails.
    pub async fn page(
        &self,
        conversation: Conversation,
        before: Option<String>,
        limit: usize,
    ) -> Result<Page, MessageError> {
        let mut found = self
            .retried(move |mut session| {
                let (of, before) = (conversation.clone(), before.clone());
                Box::pin(async move {
                    let until = match &before {
                        None => i64::MAX,
                        Some(id) => position(&mut session, &of, id).await?,
                    };
                    read(&mut session, &of, until, limit + 1).await
                })
            })
            .await?;
        let more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().map(|(id, _)| id.clone());
        Ok(Page {
            next: last.filter(|_| more),
            messages: found.into_iter().map(|(_, message)| message).collect(),
        })
    }

    /// After a restart of the database each pooled connection may be dead, and each attempt finds out about
    /// one.
    async fn retried<T: Send + 'static>(
        &self,
        ask: impl for<'c> Fn(Session<'c>) -> Asking<'c, T> + Send + Sync + 'static,
    ) -> Result<T, MessageError> {
        let database = self.0.clone();
        let asking = async move {
            let mut attempts = database.max_connections();
            loop {
                match once(&database, &ask).await {
                    Err(MessageError::Database(DatabaseError::Failed(error)))
                        if attempts > 0 && is_broken_connection(&error) =>
                    {
                        attempts -= 1;
                    }
                    other => return Ok(other),
                }
            }
        };
        self.0.run(asking).await?
    }
}
