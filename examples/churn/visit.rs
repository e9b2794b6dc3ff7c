//! The ways in which a client can come and go.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::guest::Guest;

/// The chats that there are no members of; a user of one is refused there.
const CHAT: u64 = 1_000_000;

/// One way to come and go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Visit {
    /// A user's stream that is confirmed, and left.
    Stream,
    /// The same, left without a goodbye.
    Reset,
    /// A stream of channels that nobody else listens on.
    Channels,
    /// A stream of a client that was here before.
    Resumed,
    /// A stream that is left before it has begun.
    Hasty,
    Poll,
    /// A stream opened by a ticket.
    Ticket,
    /// A message that waits for a user, who then comes.
    Durable,
    NoToken,
    BadToken,
    /// A chat that the user is not in.
    Forbidden,
    Nowhere,
    /// A message that is none.
    BadMessage,
    /// A request without an end.
    HalfRequest,
    /// Bytes that are no request.
    Garbage,
    /// Nothing at all.
    Silence,
}

/// How often each comes among a hundred.
const SHARES: [(Visit, u64); 16] = [
    (Visit::Stream, 24),
    (Visit::Reset, 10),
    (Visit::Channels, 14),
    (Visit::Resumed, 6),
    (Visit::Hasty, 5),
    (Visit::Poll, 8),
    (Visit::Ticket, 3),
    (Visit::Durable, 1),
    (Visit::NoToken, 6),
    (Visit::BadToken, 5),
    (Visit::Forbidden, 4),
    (Visit::Nowhere, 3),
    (Visit::BadMessage, 3),
    (Visit::HalfRequest, 3),
    (Visit::Garbage, 2),
    (Visit::Silence, 3),
];

impl Visit {
    /// The visit of this number: all ways in turn, mixed.
    pub(crate) fn of(number: u64) -> Self {
        // 37 and 100 have no divisor in common, so that each comes as often as it should.
        let mut at = number * 37 % 100;
        for (visit, share) in SHARES {
            if at < share {
                return visit;
            }
            at -= share;
        }
        Self::Stream
    }

    /// Comes, and goes.
    pub(crate) async fn make(self, guest: &Guest, number: u64) -> Result<()> {
        match self {
            Self::Stream => {
                stream(
                    guest,
                    &format!("/events?device=d{number}"),
                    number,
                    "",
                    false,
                )
                .await
            }
            Self::Reset => stream(guest, "/events", number, "", true).await,
            Self::Channels => {
                let target = format!("/sse/stream/job:{number},task:{number}:log,user:{number}");
                stream(guest, &target, number, "", number.is_multiple_of(2)).await
            }
            Self::Resumed => {
                let header = format!("last-event-id: 1753859400123-{number}-9f3a\r\n");
                stream(guest, "/events", number, &header, false).await
            }
            Self::Poll => {
                stream(
                    guest,
                    "/events/poll?wait=1",
                    number,
                    "connection: close\r\n",
                    false,
                )
                .await
            }
            Self::Ticket => ticket(guest, number).await,
            Self::Durable => durable(guest, number).await,
            Self::NoToken => refused(guest, "GET /events", "", "", &[401]).await,
            Self::BadToken => {
                refused(
                    guest,
                    "GET /events",
                    &format!("a.{number}.c"),
                    "",
                    &[401, 429],
                )
                .await
            }
            Self::Forbidden => {
                let target = format!("GET /sse/stream/chat:{}", CHAT + number);
                refused(
                    guest,
                    &target,
                    &guest.token(number, Value::Null)?,
                    "",
                    &[403],
                )
                .await
            }
            Self::Nowhere => {
                refused(guest, &format!("GET /nothing/{number}"), "", "", &[404]).await
            }
            Self::BadMessage => {
                let token = guest.token(number, rights())?;
                refused(
                    guest,
                    "POST /api/v1/messages/send",
                    &token,
                    r#"{"type":1}"#,
                    &[422],
                )
                .await
            }
            Self::Hasty | Self::HalfRequest | Self::Garbage | Self::Silence => {
                self.leave(guest, number).await
            }
        }
    }

    /// Leaves before there is an answer.
    async fn leave(self, guest: &Guest, number: u64) -> Result<()> {
        let mut connection = guest.connect(number.is_multiple_of(3)).await?;
        match self {
            Self::Hasty => {
                connection
                    .send(&request(guest, "/events", number, "")?)
                    .await
            }
            Self::HalfRequest => {
                connection
                    .send("POST /api/v1/messages/send HTTP/1.1\r\nhost: x\r\ncontent-le")
                    .await
            }
            Self::Garbage => connection.send("\u{1}\u{2}\r\n\r\n").await,
            _ => Ok(()),
        }
    }
}

fn rights() -> Value {
    json!({"subscribe": ["job:*", "task:*"], "publish": ["*"]})
}

fn request(guest: &Guest, target: &str, user: u64, header: &str) -> Result<String> {
    let token = guest.token(user, rights())?;
    Ok(format!(
        "GET {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{header}\r\n"
    ))
}

async fn stream(guest: &Guest, target: &str, user: u64, header: &str, reset: bool) -> Result<()> {
    let mut connection = guest.connect(reset).await?;
    connection
        .send(&request(guest, target, user, header)?)
        .await?;
    let begun = match target.starts_with("/events/poll") {
        true => "\"last_id\"",
        false => "connection_confirmed",
    };
    connection.read_until(begun).await
}

async fn ticket(guest: &Guest, user: u64) -> Result<()> {
    let token = guest.token(user, rights())?;
    let (status, body) = guest.ask("POST /events/ticket", &token, "").await?;
    ensure!(status == 200, "{status}: {body}");
    let body: Value = serde_json::from_str(&body)?;
    let ticket = body["ticket"].as_str().context("no ticket")?;
    let mut connection = guest.connect(false).await?;
    connection
        .send(&format!(
            "GET /events?ticket={ticket} HTTP/1.1\r\nhost: x\r\n\r\n"
        ))
        .await?;
    connection.read_until("connection_confirmed").await
}

async fn durable(guest: &Guest, user: u64) -> Result<()> {
    let token = guest.token(user, rights())?;
    let message = json!({"type": "note", "target": {"user_id": user}, "durable": true, "data": {"number": user}});
    let (status, body) = guest
        .ask("POST /api/v1/messages/send", &token, &message.to_string())
        .await?;
    ensure!(
        status == 202 && body.contains("waiting"),
        "{status}: {body}"
    );
    let mut connection = guest.connect(false).await?;
    connection
        .send(&request(guest, "/events", user, "")?)
        .await?;
    connection.read_until("\"type\":\"note\"").await
}

async fn refused(guest: &Guest, head: &str, token: &str, body: &str, wanted: &[u16]) -> Result<()> {
    let (status, body) = guest.ask(head, token, body).await?;
    ensure!(
        wanted.contains(&status),
        "{status} and not {wanted:?}: {body}"
    );
    Ok(())
}
