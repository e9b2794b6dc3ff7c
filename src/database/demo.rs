//! The users and chats that development mode starts with.

use serde::Serialize;
use sqlx::{Row as _, SqlitePool};
use utoipa::ToSchema;

use super::{Database, DatabaseError, Pool};
use crate::event::{ChatId, UserId};

const USERS: [(i64, &str); 5] = [
    (1, "Ada"),
    (2, "Bashir"),
    (3, "Chen"),
    (4, "Dagny"),
    (5, "Emeka"),
];

const CHATS: [(i64, &str, &[i64]); 3] = [
    (1, "general", &[1, 2, 3, 4, 5]),
    (2, "design", &[1, 2]),
    (3, "operations", &[2, 3, 4]),
];

/// A demo user with its chats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DemoUser {
    /// The user.
    pub id: UserId,
    /// What to call it.
    pub name: String,
    /// The chats it is in.
    pub chats: Vec<ChatId>,
}

/// A demo chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DemoChat {
    /// The chat.
    pub id: ChatId,
    /// What to call it.
    pub name: String,
}

/// Fills a database that has no users. Only for the development database: any other is left
/// alone.
///
/// # Errors
/// The database failed.
pub async fn seed_demo(database: &Database) -> Result<(), DatabaseError> {
    let Pool::Sqlite(pool) = database.pool() else {
        return Ok(());
    };
    let mut transaction = pool.begin().await?;
    let users: i64 = sqlx::query_scalar("SELECT count(*) FROM users")
        .fetch_one(&mut *transaction)
        .await?;
    if users > 0 {
        return Ok(());
    }
    for (id, name) in USERS {
        sqlx::query("INSERT INTO users (id, name) VALUES ($1, $2)")
            .bind(id)
            .bind(name)
            .execute(&mut *transaction)
            .await?;
    }
    for (id, name, members) in CHATS {
        sqlx::query("INSERT INTO chats (id, name) VALUES ($1, $2)")
            .bind(id)
            .bind(name)
            .execute(&mut *transaction)
            .await?;
        for member in members {
            sqlx::query("INSERT INTO chat_members (chat_id, user_id) VALUES ($1, $2)")
                .bind(id)
                .bind(member)
                .execute(&mut *transaction)
                .await?;
        }
    }
    transaction.commit().await?;
    Ok(())
}

/// The users of the development database, for its pages.
///
/// # Errors
/// The database failed.
pub async fn demo_users(database: &Database) -> Result<Vec<DemoUser>, DatabaseError> {
    let Pool::Sqlite(pool) = database.pool().clone() else {
        return Ok(Vec::new());
    };
    database.run(async move { users_of(&pool).await }).await
}

/// The chats of the development database, for its pages.
///
/// # Errors
/// The database failed.
pub async fn demo_chats(database: &Database) -> Result<Vec<DemoChat>, DatabaseError> {
    let Pool::Sqlite(pool) = database.pool().clone() else {
        return Ok(Vec::new());
    };
    database
        .run(async move {
            let rows: Vec<(i64, String)> =
                sqlx::query_as("SELECT id, name FROM chats ORDER BY id LIMIT 1000")
                    .fetch_all(&pool)
                    .await?;
            let chat = |(id, name)| DemoChat {
                id: ChatId::from(id),
                name,
            };
            Ok(rows.into_iter().map(chat).collect())
        })
        .await
}

async fn users_of(pool: &SqlitePool) -> Result<Vec<DemoUser>, DatabaseError> {
    let rows = sqlx::query(
        "SELECT users.id, users.name, chat_members.chat_id FROM users \
         LEFT JOIN chat_members ON chat_members.user_id = users.id AND left_at IS NULL \
         ORDER BY users.id, chat_members.chat_id LIMIT 1000",
    )
    .fetch_all(pool)
    .await?;
    let mut users: Vec<DemoUser> = Vec::new();
    for row in rows {
        let id = UserId::from(row.try_get::<i64, _>(0)?);
        if users.last().is_none_or(|user| user.id != id) {
            users.push(DemoUser {
                id,
                name: row.try_get(1)?,
                chats: Vec::new(),
            });
        }
        let chat: Option<i64> = row.try_get(2)?;
        if let (Some(user), Some(chat)) = (users.last_mut(), chat) {
            user.chats.push(ChatId::from(chat));
        }
    }
    Ok(users)
}
