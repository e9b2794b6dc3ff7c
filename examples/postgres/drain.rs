//! How fast an outbox is emptied that has many rows at once.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The database of the server
    #[arg(long)]
    database: String,
    /// Rows of the transaction
    #[arg(long, default_value_t = 100_000)]
    rows: i64,
    /// Sessions that they are spread over
    #[arg(long, default_value_t = 1000)]
    sessions: i64,
    /// Rows a second to reach
    #[arg(long, default_value_t = 0.0)]
    target: f64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<bool> {
    let mut connection = PgConnection::connect(&arguments.database).await?;
    let sql = "INSERT INTO messages (session_id, content)
        SELECT 's-' || n % $1, n::text FROM generate_series(1, $2) n";
    let mut transaction = connection.begin().await?;
    sqlx::query(sql)
        .bind(arguments.sessions)
        .bind(arguments.rows)
        .execute(&mut *transaction)
        .await?;
    let started = Instant::now();
    transaction.commit().await?;
    while sqlx::query_scalar("SELECT EXISTS (SELECT FROM notify_outbox)")
        .fetch_one(&mut connection)
        .await?
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = started.elapsed();
    let rate = arguments.rows as f64 / took.as_secs_f64();
    let line = json!({"way": "drain", "rows": arguments.rows, "sessions": arguments.sessions,
        "seconds": took.as_secs_f64(), "rows_per_second": rate.round()});
    println!("{line}");
    Ok(rate >= arguments.target)
}
