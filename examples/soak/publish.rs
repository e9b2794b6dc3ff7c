//! Publishes numbers, each until it was taken: over HTTP, and as rows of the outbox.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};

use crate::Options;
use crate::count::{CHANNELS, Count, add};

/// The longest that one message may take: less than the two minutes for which its key is known.
const LONGEST: Duration = Duration::from_secs(100);

/// The longest that one answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// One message after the other, by the instances in turn.
pub(crate) async fn over_http(
    options: &Options,
    token: &str,
    until: Instant,
    count: &Count,
) -> Result<()> {
    let mut clock = clock(options.rate);
    let mut tries = 0;
    for number in 1.. {
        if Instant::now() >= until {
            break;
        }
        clock.tick().await;
        let body =
            json!({"type": "soak", "channel": CHANNELS[0], "data": {"number": number}}).to_string();
        let request = format!(
            "POST /api/v1/messages/send HTTP/1.1\r\nhost: soak\r\nauthorization: Bearer {token}\r\n\
             idempotency-key: soak-{number}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let began = Instant::now();
        loop {
            tries += 1;
            let server = options.servers[tries % options.servers.len()];
            match timeout(PATIENCE, status_of(server, &request)).await {
                Ok(Ok(202)) => break,
                // An instance that is away, or one whose log is.
                Ok(Ok(503) | Err(_)) | Err(_) => add(&count.again),
                Ok(Ok(status)) => bail!("message {number} was answered by {status}"),
            }
            if began.elapsed() > LONGEST {
                bail!("message {number} was not taken for {LONGEST:?}");
            }
            sleep(PAUSE).await;
        }
        count.longest.set(count.longest.get().max(began.elapsed()));
        count.published[0].set(number);
    }
    Ok(())
}

async fn status_of(server: SocketAddr, request: &str) -> Result<u16> {
    let mut socket = TcpStream::connect(server).await?;
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    let status = answer
        .get(9..12)
        .and_then(|status| std::str::from_utf8(status).ok());
    status
        .and_then(|status| status.parse().ok())
        .context("no answer")
}

/// One row after the other, each in a transaction of its own.
pub(crate) async fn rows(options: &Options, until: Instant, count: &Count) -> Result<()> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&options.database);
    let pool = pool.await.context("connecting to PostgreSQL")?;
    let mut clock = clock(options.rate);
    for number in 1.. {
        if Instant::now() >= until {
            break;
        }
        clock.tick().await;
        let payload = json!({"number": number}).to_string();
        sqlx::query(
            "INSERT INTO notify_outbox (channel, type, payload) VALUES ($1, 'soak', $2::jsonb)",
        )
        .bind(CHANNELS[1])
        .bind(&payload)
        .execute(&pool)
        .await
        .context("writing a row")?;
        count.published[1].set(number);
    }
    Ok(())
}

fn clock(rate: u64) -> Interval {
    let mut clock =
        interval(Duration::from_secs(1) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}
