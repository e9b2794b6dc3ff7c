//! One connected client as the hub sees it: phase, outbox, deadlines. Pure but for the waker.

use std::task::Waker;
use std::time::{Duration, Instant};

use tracing::{Span, info_span};
use uuid::Uuid;

use super::admission::Permit;
use super::attendance::Attending;
use super::inspect::Client;
use super::meter::Waiting;
use super::notice::End;
use super::outbox::Outbox;
use super::scope::{NamedChannels, Scope};
use super::witness::Start;
use crate::credential::Credential;
use crate::event::{Channel, ChatId, MembershipChange, UserId};

/// How long it may take to notice that a stream of a shared connection was given up.
const BEAT: Duration = Duration::from_secs(5);

/// What a transport says about a client that it opens a session for.
#[derive(Debug)]
pub struct Opening {
    /// Whether frames carry an `event:` line.
    pub named: bool,
    /// What the client listens on.
    pub scope: Scope,
    /// What is known about the client.
    pub client: Client,
    /// When the token ends, by the monotonic clock; `None` for a session without a token.
    pub expires_at: Option<Instant>,
    /// Which token that is.
    pub credential: Option<Credential>,
    /// The connection's name, for clients and logs.
    pub connection_id: Uuid,
    /// The session's place among the connections that are allowed.
    pub permit: Permit,
}

/// The span that everything logged about a connection stands in. It is made anew when it is needed:
/// an open span takes some 600 bytes, and an idle stream has nothing to say for hours.
#[must_use]
pub fn connection_span(connection_id: Uuid, user: &UserId) -> Span {
    info_span!(
        "connection",
        connection_id = connection_id.simple().to_string(),
        user = user.to_string()
    )
}

/// The state of one session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) serial: u32,
    /// How many joins and leaves took effect on it while it was live; 65,535 are more than are remembered.
    pub(super) turns: u16,
    pub(super) named: bool,
    /// `None` for the user's own stream, which most are.
    pub(super) named_channels: Option<Box<NamedChannels>>,
    pub(super) client: Client,
    pub(super) phase: Phase,
    pub(super) outbox: Outbox,
    /// Up to this position the client has everything, by an earlier stream on another shard.
    pub(super) has_up_to: u64,
    /// How it began to be live.
    pub(super) start: Start,
    /// The last event without a position that went through its shard before it was live.
    pub(super) after_unlogged: u64,
    /// The joins and leaves since its chats began to be looked up again.
    pub(super) refresh: Option<Vec<MembershipChange>>,
    pub(super) waker: Option<Waker>,
    /// Since when something has waited without anything being taken.
    pub(super) waiting_since: Option<Instant>,
    pub(super) next_ping: Instant,
    pub(super) expires_at: Option<Instant>,
    /// Why it ends then.
    expires_by: End,
    pub(super) credential: Option<Credential>,
    pub(super) warned: bool,
    pub(super) opened_at: Instant,
    pub(super) events_sent: u64,
    /// The last position when it was told to end.
    pub(super) over_at: Option<u64>,
    /// What was taken out of its outbox unwritten began here.
    pub(super) unwritten: Option<u64>,
    pub(super) connection_id: Uuid,
    /// Set while the session shows that its user is here.
    pub(super) attending: Option<Attending>,
    /// Held for as long as the session counts.
    _permit: Permit,
}

/// Where a session is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// Its chats are being looked up; joins and leaves that happen meanwhile are kept for it.
    Pending(Pending),
    /// It receives events.
    Live,
    /// It receives nothing any more; what is in the outbox is still written.
    Ending(End),
}

/// What happened while a session's chats were looked up.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Joins and leaves.
    pub(super) changes: Vec<MembershipChange>,
    /// The chats, looked up again for all because changes may have been lost. The changes are those since.
    pub(super) anew: Option<Box<[ChatId]>>,
}

/// What the clock asks of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Ping,
    Beat,
    WarnOfExpiry(Duration),
    End(End),
}

impl Session {
    pub(super) fn new(
        opening: Opening,
        serial: u32,
        now: Instant,
        first_ping: Duration,
        waiting: Waiting,
    ) -> Self {
        Self {
            serial,
            turns: 0,
            named: opening.named,
            named_channels: match opening.scope {
                Scope::Own => None,
                Scope::Named(named) => Some(Box::new(named)),
            },
            client: opening.client,
            phase: Phase::Pending(Pending::default()),
            outbox: Outbox::new(waiting),
            has_up_to: 0,
            start: Start::default(),
            after_unlogged: 0,
            refresh: None,
            waker: None,
            waiting_since: None,
            next_ping: now + first_ping,
            expires_at: opening.expires_at,
            expires_by: End::TokenExpired,
            credential: opening.credential,
            warned: false,
            opened_at: now,
            events_sent: 0,
            over_at: None,
            unwritten: None,
            connection_id: opening.connection_id,
            attending: None,
            _permit: opening.permit,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// Whether it receives nothing any more.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending(_))
    }

    /// Has it end at a moment for a reason, unless it ends before; `false` if so. The client is not warned: it
    /// could only come back all the sooner.
    pub(super) fn end_at(&mut self, at: Instant, end: End) -> bool {
        if self.expires_at.is_some_and(|expires_at| expires_at <= at) {
            return false;
        }
        self.expires_at = Some(at);
        self.expires_by = end;
        self.warned = true;
        true
    }

    /// What the session listens on.
    pub(super) fn scope(&self) -> Scope {
        match &self.named_channels {
            None => Scope::Own,
            Some(named) => Scope::Named((**named).clone()),
        }
    }

    /// The channels that were asked for by name, if it is a stream of such.
    pub(super) fn asked_for(&self) -> Option<Vec<Channel>> {
        let named = self.named_channels.as_ref()?;
        let chats = named.as_member.iter().map(Channel::chat);
        Some(named.granted.iter().cloned().chain(chats).collect())
    }

    /// Whether a join or leave of the user in `chat` concerns the session.
    pub(super) fn follows(&self, chat: &ChatId) -> bool {
        self.named_channels
            .as_ref()
            .is_none_or(|named| named.as_member.contains(chat))
    }

    /// Notes that something waits and wakes the transport.
    pub(super) fn wake(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether something has waited too long for the connection to take it.
    pub(super) fn is_stalled(&self, now: Instant, timing: &Timing) -> bool {
        self.waiting_since
            .is_some_and(|since| now.saturating_duration_since(since) >= timing.write_timeout)
    }

    /// What is to be done at `now`; moves the deadlines on.
    pub(super) fn due(&mut self, now: Instant, timing: &Timing) -> Option<Action> {
        if self.is_stalled(now, timing) {
            return Some(Action::End(End::SlowConsumer));
        }
        if let Some(expires_at) = self.expires_at {
            if now >= expires_at {
                return Some(Action::End(self.expires_by));
            }
            let left = expires_at - now;
            if !self.warned && left <= timing.expiry_warning {
                self.warned = true;
                return Some(Action::WarnOfExpiry(left));
            }
        }
        if now >= self.next_ping {
            self.next_ping = now + timing.ping_interval;
            return Some(Action::Ping);
        }
        let beats = self.client.shared.is_some() && self.outbox.is_empty();
        beats.then_some(Action::Beat)
    }

    /// The next moment at which [`Session::due`] has something to say.
    pub(super) fn next_due(&self, now: Instant, timing: &Timing) -> Instant {
        // Whether something waits is not known in advance, so it is looked at every so often.
        let mut next = self.next_ping.min(now + timing.write_timeout / 4);
        if self.client.shared.is_some() {
            next = next.min(now + BEAT);
        }
        let Some(expires_at) = self.expires_at else {
            return next;
        };
        let expiry = if self.warned {
            expires_at
        } else {
            expires_at
                .checked_sub(timing.expiry_warning)
                .unwrap_or(self.opened_at)
        };
        expiry.min(next)
    }
}

/// The settings that sessions' deadlines are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub(super) ping_interval: Duration,
    pub(super) expiry_warning: Duration,
    pub(super) write_timeout: Duration,
}
