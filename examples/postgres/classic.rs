//! The classic way: a connection that listens for each client, and a trigger that notifies. Measured up to the
//! connection that listens, which is what a server of that kind would still have to send on.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::figures::{Clock, connections, summary};

const APPLICATION: &str = "classic";

/// How long nothing may come before the rest counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

const SCHEMA: &str = "DROP TABLE IF EXISTS classic; CREATE TABLE classic (session_id text, content text);
    CREATE OR REPLACE FUNCTION classic_notify() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_notify('session_messages:' || NEW.session_id, json_build_object('id', gen_random_uuid(),
            'sessionId', NEW.session_id, 'content', NEW.content)::text);
        RETURN NULL;
    END $$;
    CREATE TRIGGER classic_notify AFTER INSERT ON classic FOR EACH ROW EXECUTE FUNCTION classic_notify()";

#[derive(Args)]
pub(crate) struct Arguments {
    /// The database, which must take a connection for each client
    #[arg(long)]
    database: String,
    /// Clients, each of a session of its own
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Rows a second, each a transaction
    #[arg(long, default_value_t = 100)]
    rate: u32,
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Connections that are being opened at the same time
    #[arg(long, default_value_t = 10)]
    in_flight: usize,
}

pub(crate) async fn run(arguments: Arguments) -> Result<bool> {
    let clock = Clock::start();
    let mut writer = PgConnection::connect(&arguments.database).await?;
    sqlx::raw_sql(SCHEMA).execute(&mut writer).await?;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let options: PgConnectOptions = arguments.database.parse()?;
    let options = options.application_name(APPLICATION);
    let opening = stream::iter(0..arguments.clients).map(|session| {
        let options = options.clone();
        async move {
            let started = std::time::Instant::now();
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .connect_with(options)
                .await?;
            let mut listener = PgListener::connect_with(&pool).await?;
            listener
                .listen(&format!("session_messages:s-{session}"))
                .await?;
            anyhow::Ok((listener, started.elapsed()))
        }
    });
    let mut opening = opening.buffer_unordered(arguments.in_flight);
    let (mut readers, mut opened) = (JoinSet::new(), Vec::new());
    while let Some(open) = opening.next().await {
        let (listener, took) = open?;
        opened.push(took);
        readers.spawn(read(listener, clock, arrived.clone()));
    }
    let wanted = u64::from(arguments.rate) * u64::from(arguments.seconds);
    let sessions = arguments.clients as u64;
    let writing = tokio::spawn(write(clock, writer, sessions, wanted, arguments.rate));
    let mut latencies = Vec::new();
    while (latencies.len() as u64) < wanted {
        match tokio::time::timeout(PATIENCE, arrivals.recv()).await {
            Ok(Some(latency)) => latencies.push(latency),
            _ => break,
        }
    }
    let connections = connections(&arguments.database, APPLICATION).await?;
    writing.await??;
    let lost = wanted - latencies.len() as u64;
    let line = json!({"way": "classic", "clients": arguments.clients, "rate": arguments.rate,
        "connections": connections, "lost": lost, "open": summary(&mut opened),
        "latency": summary(&mut latencies)});
    println!("{line}");
    Ok(true)
}

async fn read(mut listener: PgListener, clock: Clock, arrived: mpsc::UnboundedSender<Duration>) {
    while let Ok(notification) = listener.recv().await {
        let payload: serde_json::Value =
            serde_json::from_str(notification.payload()).unwrap_or_default();
        if let Some(latency) = payload["content"]
            .as_str()
            .and_then(|stamp| clock.since(stamp))
        {
            // The program is about to end.
            let _ = arrived.send(latency);
        }
    }
}

async fn write(
    clock: Clock,
    mut connection: PgConnection,
    sessions: u64,
    rows: u64,
    rate: u32,
) -> Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    for row in 0..rows {
        ticks.tick().await;
        sqlx::query("INSERT INTO classic (session_id, content) VALUES ($1, $2)")
            .bind(format!("s-{}", row % sessions))
            .bind(clock.stamp())
            .execute(&mut connection)
            .await?;
    }
    Ok(())
}
