//! What the server itself says on a stream: confirmations, pings, gaps, goodbyes. Pure.

use serde::Serialize;

use crate::event::{Channel, ChatId, EventId, Frame, Timestamp, UserId};

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The token's `exp` has come.
    TokenExpired,
    /// This instance stops.
    Draining,
    /// Somebody ended it on purpose.
    Disconnected,
    /// The token was revoked.
    TokenRevoked,
    /// The key that has signed the token is none that tokens are verified with any more.
    KeyRemoved,
    /// The client did not read fast enough: its outbox overflowed or its socket took nothing.
    SlowConsumer,
    /// The client closed the connection, or it broke.
    ClientGone,
    /// The stream never opened, e.g. because the client's chats could not be looked up.
    NotOpened,
}

impl End {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::TokenExpired,
        Self::Draining,
        Self::Disconnected,
        Self::TokenRevoked,
        Self::KeyRemoved,
        Self::SlowConsumer,
        Self::ClientGone,
        Self::NotOpened,
    ];

    /// The reason's name on the wire, in logs and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenExpired => "token_expired",
            Self::Draining => "draining",
            Self::Disconnected => "disconnected",
            Self::TokenRevoked => "token_revoked",
            Self::KeyRemoved => "key_removed",
            Self::SlowConsumer => "slow_consumer",
            Self::ClientGone => "client_gone",
            Self::NotOpened => "not_opened",
        }
    }

    /// Whether the client does well to come back: with the same token it can't once that is no longer good, and
    /// after an intended disconnect it should not.
    #[must_use]
    pub fn reconnect(self) -> bool {
        match self {
            Self::TokenExpired | Self::TokenRevoked | Self::KeyRemoved | Self::Disconnected => {
                false
            }
            Self::Draining | Self::SlowConsumer | Self::ClientGone | Self::NotOpened => true,
        }
    }
}

/// Why some events can't be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// The log reaches back less far.
    Expired,
    /// The positions belong to another log.
    Epoch,
    /// Events were dropped on the way to this instance.
    Overflow,
}

impl Gap {
    /// Whether a place in the log lies in it.
    pub(super) fn covers(&self, id: EventId) -> bool {
        let behind = |from: EventId| from.epoch() == id.epoch() && id.position() > from.position();
        let within = |to: EventId| to.epoch() == id.epoch() && id.position() <= to.position();
        // One that names no places is of events that never had one.
        match (self.from, self.to) {
            (Some(from), Some(to)) if from.epoch() == to.epoch() => behind(from) && within(to),
            // Of the log before, what came behind was never seen here.
            (Some(from), Some(_)) => behind(from),
            _ => false,
        }
    }
}

impl GapReason {
    /// The reason's name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Epoch => "epoch",
            Self::Overflow => "overflow",
        }
    }
}

/// Events that a client should fetch over the API because the stream can't give them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// The last event before the gap, where known.
    pub from: Option<EventId>,
    /// The last event within it, where known.
    pub to: Option<EventId>,
}

/// The first event of a stream.
#[derive(Debug)]
pub(super) struct Confirmation<'a> {
    pub(super) user: &'a UserId,
    pub(super) chats: &'a [ChatId],
    /// The channels of a stream that was asked for by name.
    pub(super) channels: Option<&'a [Channel]>,
    pub(super) connection_id: &'a str,
    pub(super) recovered: bool,
    pub(super) replayed: u64,
    pub(super) ping_interval_ms: u64,
}

#[derive(Serialize)]
struct ConfirmationJson<'a> {
    r#type: &'static str,
    user_id: &'a UserId,
    timestamp: Timestamp,
    connected_chats: &'a [ChatId],
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<&'a [Channel]>,
    connection_id: &'a str,
    recovered: bool,
    replayed: u64,
    ping_interval_ms: u64,
}

#[derive(Serialize)]
struct GapJson {
    r#type: &'static str,
    reason: &'static str,
    from: Option<String>,
    to: Option<String>,
}

#[derive(Serialize)]
struct ClosingJson {
    r#type: &'static str,
    reason: &'static str,
    reconnect: bool,
    retry_ms: u64,
}

#[derive(Serialize)]
struct CaughtUp {
    r#type: &'static str,
    replayed: u64,
}

#[derive(Serialize)]
struct Timed {
    r#type: &'static str,
    timestamp: Timestamp,
}

#[derive(Serialize)]
struct Expiring {
    r#type: &'static str,
    timestamp: Timestamp,
    expires_in_ms: u64,
}

pub(super) fn confirmation(said: &Confirmation<'_>, at: &EventId, now: Timestamp) -> Frame {
    let json = encode(&ConfirmationJson {
        r#type: "connection_confirmed",
        user_id: said.user,
        timestamp: now,
        connected_chats: said.chats,
        channels: said.channels,
        connection_id: said.connection_id,
        recovered: said.recovered,
        replayed: said.replayed,
        ping_interval_ms: said.ping_interval_ms,
    });
    Frame::notice(Some(at), "connection_confirmed", &json)
}

pub(super) fn ping(now: Timestamp) -> Frame {
    let json = encode(&Timed {
        r#type: "ping",
        timestamp: now,
    });
    Frame::notice(None, "ping", &json)
}

pub(super) fn token_expiring(now: Timestamp, expires_in_ms: u64) -> Frame {
    let json = encode(&Expiring {
        r#type: "token_expiring",
        timestamp: now,
        expires_in_ms,
    });
    Frame::notice(None, "token_expiring", &json)
}

pub(super) fn gap(gap: &Gap) -> Frame {
    let json = encode(&GapJson {
        r#type: "gap",
        reason: gap.reason.as_str(),
        from: gap.from.map(|id| id.to_string()),
        to: gap.to.map(|id| id.to_string()),
    });
    // Its id moves the client's Last-Event-ID past the gap: what is told once need not be told
    // again at every reconnect.
    Frame::notice(gap.to.as_ref(), "gap", &json)
}

/// The end of a replay. Its id is the position that the client has reached.
pub(super) fn caught_up(replayed: u64, at: &EventId) -> Frame {
    let json = encode(&CaughtUp {
        r#type: "caught_up",
        replayed,
    });
    Frame::notice(Some(at), "caught_up", &json)
}

/// The last event. The `retry:` line tells a native `EventSource` what `retry_ms` tells others.
pub(super) fn closing(end: End, retry_ms: u64) -> Frame {
    let json = encode(&ClosingJson {
        r#type: "closing",
        reason: end.as_str(),
        reconnect: end.reconnect(),
        retry_ms,
    });
    Frame::notice(None, "closing", &json).with_retry(retry_ms)
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    // Plain structs of text and numbers always serialize.
    serde_json::to_vec(value).unwrap_or_default()
}
