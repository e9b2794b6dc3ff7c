//! The chat backend's database as an SQLite file.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _, SqliteConnection};

/// The only table that the server needs of somebody else's database.
pub(crate) const CHAT_MEMBERS: &str = "CREATE TABLE chat_members (
    chat_id BIGINT NOT NULL, user_id BIGINT NOT NULL, left_at TIMESTAMP)";

/// Runs statements, in a file that is made if there is none.
pub(crate) async fn execute(file: &Path, sql: &str) {
    let mut connection = open(file).await;
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap();
}

/// The first column of the rows, as text.
pub(crate) async fn texts(file: &Path, sql: &str) -> Vec<String> {
    let mut connection = open(file).await;
    let rows = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(&mut connection)
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The statement that makes `members` of `(chat, users)`.
pub(crate) fn insert_members(members: &[(i64, &[i64])]) -> String {
    let row = |chat: i64, user: i64| format!("({chat}, {user})");
    let rows: Vec<_> = members
        .iter()
        .flat_map(|&(chat, users)| users.iter().map(move |&user| row(chat, user)))
        .collect();
    format!(
        "INSERT INTO chat_members (chat_id, user_id) VALUES {}",
        rows.join(", ")
    )
}

async fn open(file: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .connect()
        .await
        .unwrap()
}
