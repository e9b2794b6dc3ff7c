//! Streams of sessions on a server, and rows that are written to them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use futures_util::{StreamExt as _, stream};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::figures::{Clock, connections, summary};

/// How long nothing may come before the rest counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct Arguments {
    /// The database of the server
    #[arg(long)]
    database: String,
    /// The server, e.g. http://127.0.0.1:6687
    #[arg(long)]
    server: String,
    /// The server's HS256 secret
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    secret: String,
    /// Sessions, each with a stream
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Rows a second, each a transaction
    #[arg(long, default_value_t = 100)]
    rate: u32,
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Streams that are being opened at the same time
    #[arg(long, default_value_t = 10)]
    in_flight: usize,
}

pub(crate) async fn run(arguments: Arguments) -> Result<bool> {
    let clock = Clock::start();
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let mut readers = JoinSet::new();
    let http = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .build()?;
    let token = token(&arguments.secret)?;
    let opening = stream::iter(0..arguments.clients).map(|session| {
        let url = format!(
            "{}/api/sse/messages?sessionId=s-{session}",
            arguments.server
        );
        let request = http.get(url).bearer_auth(&token);
        async move {
            let started = Instant::now();
            let mut response = request.send().await?.error_for_status()?;
            let mut text = String::new();
            while !text.contains("connection_confirmed") {
                let chunk = response.chunk().await?.context("a stream ended")?;
                text.push_str(std::str::from_utf8(&chunk)?);
            }
            anyhow::Ok((response, started.elapsed()))
        }
    });
    let mut opening = opening.buffer_unordered(arguments.in_flight);
    let mut opened = Vec::new();
    while let Some(open) = opening.next().await {
        let (response, took) = open?;
        opened.push(took);
        readers.spawn(read(response, clock, arrived.clone()));
    }
    let wanted = u64::from(arguments.rate) * u64::from(arguments.seconds);
    let writing = tokio::spawn(write(
        clock,
        arguments.database.clone(),
        arguments.clients,
        wanted,
        arguments.rate,
    ));
    let mut latencies = Vec::new();
    while (latencies.len() as u64) < wanted {
        match tokio::time::timeout(PATIENCE, arrivals.recv()).await {
            Ok(Some(latency)) => latencies.push(latency),
            _ => break,
        }
    }
    let connections = connections(&arguments.database, "notify-server").await?;
    writing.await??;
    let lost = wanted - latencies.len() as u64;
    let line = json!({"way": "notify-server", "clients": arguments.clients, "rate": arguments.rate,
        "connections": connections, "lost": lost, "open": summary(&mut opened),
        "latency": summary(&mut latencies)});
    println!("{line}");
    Ok(lost == 0)
}

async fn read(
    mut response: reqwest::Response,
    clock: Clock,
    arrived: mpsc::UnboundedSender<Duration>,
) {
    const MARK: &str = "\"content\":\"";
    let mut text = String::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        text.push_str(&String::from_utf8_lossy(&chunk));
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let content = event
                .split_once(MARK)
                .and_then(|(_, rest)| rest.split_once('"'));
            if let Some(latency) = content.and_then(|(stamp, _)| clock.since(stamp)) {
                // The program is about to end.
                let _ = arrived.send(latency);
            }
        }
    }
}

/// Commits rows at a rate: from the moment a statement is sent, its commit included.
async fn write(
    clock: Clock,
    database: String,
    sessions: usize,
    rows: u64,
    rate: u32,
) -> Result<()> {
    let mut connection = PgConnection::connect(&database).await?;
    let sql = "INSERT INTO messages (session_id, content) VALUES ($1, $2)";
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    for row in 0..rows {
        ticks.tick().await;
        let session = format!("s-{}", row % sessions as u64);
        sqlx::query(sql)
            .bind(session)
            .bind(clock.stamp())
            .execute(&mut connection)
            .await?;
    }
    Ok(())
}

fn token(secret: &str) -> Result<String> {
    ensure!(!secret.is_empty(), "the server's secret is missing");
    let exp = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs()
        + 3600;
    let claims = json!({"sub": "1", "exp": exp, "notify": {"subscribe": ["session:*"]}});
    let key = EncodingKey::from_secret(secret.as_bytes());
    Ok(jsonwebtoken::encode(&Header::default(), &claims, &key)?)
}
