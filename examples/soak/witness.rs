//! Clients: witnesses, who have to get everything, and passers-by, who want nothing.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::Rng as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

use crate::count::{CHANNELS, Count, add};
use crate::wire::Reader;

/// How long an instance may take to begin a stream.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries to get one.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a witness stays, at most, in milliseconds.
const STAY_MS: u64 = 20_000;

/// Streams, breaks off and resumes on the next instance, for good.
pub(crate) async fn watch(
    number: usize,
    servers: Vec<SocketAddr>,
    token: String,
    count: Rc<Count>,
) {
    let mut last_id = String::new();
    let mut turn = number;
    loop {
        let server = servers[turn % servers.len()];
        turn += 1;
        let stay = Duration::from_millis(rand::rng().random_range(100..STAY_MS));
        if stream(number, server, &token, &mut last_id, stay, &count)
            .await
            .is_err()
        {
            add(&count.unavailable);
            sleep(PAUSE).await;
        }
    }
}

async fn stream(
    witness: usize,
    server: SocketAddr,
    token: &str,
    last_id: &mut String,
    stay: Duration,
    count: &Count,
) -> Result<()> {
    let mut socket = timeout(PATIENCE, TcpStream::connect(server)).await??;
    let resume = match last_id.is_empty() {
        true => String::new(),
        false => format!("last-event-id: {last_id}\r\n"),
    };
    let channels = CHANNELS.join(",");
    let request = format!(
        "GET /sse/stream/{channels} HTTP/1.1\r\nhost: soak\r\nauthorization: Bearer {token}\r\n{resume}\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut reader = Reader::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut begun = false;
    let mut end = Instant::now() + PATIENCE;
    loop {
        let read = match timeout_at(end, socket.read(&mut buffer)).await {
            Ok(read) => read?,
            Err(_) if begun => return Ok(()),
            Err(_) => bail!("no stream"),
        };
        if read == 0 {
            return if begun { Ok(()) } else { bail!("no stream") };
        }
        let mut confirmed = false;
        let fed = reader.feed(&buffer[..read], |event| {
            confirmed |= take(event, witness, last_id, count);
        });
        fed.map_err(|error| anyhow::anyhow!("{error}"))
            .context("a stream")?;
        if confirmed && !begun {
            begun = true;
            add(&count.confirmed);
            if !resume.is_empty() {
                add(&count.resumed);
            }
            end = Instant::now() + stay;
        }
    }
}

/// Takes one event; says whether it is the confirmation.
fn take(event: &[u8], witness: usize, last_id: &mut String, count: &Count) -> bool {
    let text = String::from_utf8_lossy(event);
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    if let Some(id) = field("id: ") {
        id.clone_into(last_id);
    }
    let Some(data) = field("data: ") else {
        return false;
    };
    let Ok(data) = serde_json::from_str::<Value>(data) else {
        count.strange(format!("no JSON: {data}"));
        return false;
    };
    match data["type"].as_str() {
        Some("connection_confirmed") => return true,
        Some("gap") => {
            add(&count.gaps);
            count.strange(format!("gap: {data}"));
        }
        Some("soak") => {
            let channel = data["channel"].as_str().unwrap_or("");
            let channel = CHANNELS.iter().position(|name| *name == channel);
            match (channel, data["data"]["number"].as_u64()) {
                (Some(channel), Some(number)) => count.note(witness, channel, number),
                _ => count.strange(format!("an event of nobody: {data}")),
            }
        }
        _ => {}
    }
    false
}

/// Comes, listens on channels of nobody, or not even that, and is gone.
pub(crate) async fn pass_by(
    servers: Vec<SocketAddr>,
    token: String,
    rate: u64,
    until: Instant,
    count: Rc<Count>,
) {
    let mut clock =
        interval(Duration::from_secs(1) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX));
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut number: usize = 0;
    while Instant::now() < until {
        clock.tick().await;
        number += 1;
        let (server, token, count) = (
            servers[number % servers.len()],
            token.clone(),
            Rc::clone(&count),
        );
        spawn_local(async move {
            let passing = async {
                let mut socket = TcpStream::connect(server).await?;
                let target = match number % 4 {
                    0 => format!("/sse/stream/job:nobody-{number}"),
                    1 => "/events/poll?wait=1".to_owned(),
                    2 => "/events?access_token=x".to_owned(),
                    _ => "/live".to_owned(),
                };
                let request = format!(
                    "GET {target} HTTP/1.1\r\nhost: soak\r\nauthorization: Bearer {token}\r\n\r\n"
                );
                socket.write_all(request.as_bytes()).await?;
                socket.read_u8().await
            };
            // An instance that is away has nobody pass by.
            if let Ok(Ok(_)) = timeout(PATIENCE, passing).await {
                add(&count.passed_by);
            }
        });
    }
}
