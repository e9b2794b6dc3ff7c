//! What one instance knows about an event and a user, for those who ask why the one did or did not reach the
//! other: facts, which others put together with what the other instances know.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Delivery;
use super::inspect::Transport;
use super::recent::Trail;
use super::witness::{Gone, Start, Who, Witness};
use crate::event::{
    Audience, Channel, Event, EventId, Frame, Recipients, Resource, Timestamp, UserId,
};

/// The most channels of an audience, or of a stream, that are told.
const CHANNELS: usize = 100;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sought {
    /// Whom it is about.
    pub user: UserId,
    /// The event: its id on streams, or one that its publisher gave it.
    pub event: String,
}

/// What an instance knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Account {
    /// Whether recent events are remembered at all.
    pub enabled: bool,
    /// The event, where it is known here.
    pub event: Option<Known>,
    /// Whether it is remembered when it came, and what became of it.
    pub at_known: bool,
    /// The place in the log certainly holds another event.
    pub contradicted: bool,
    /// Why the event did not come here, where it is known to have been lost on the way.
    pub gap: Option<String>,
    /// The user's sessions, those that have ended first.
    pub sessions: Vec<SessionAccount>,
    /// Events that came here since then are remembered.
    pub events_since: Timestamp,
    /// Sessions that ended here since then are remembered.
    pub sessions_since: Timestamp,
}

/// What is known of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its id on streams; `None` where the log could not take it.
    pub id: Option<String>,
    /// Its outgoing type.
    pub kind: String,
    /// Whether it is for the moment only: never replayed.
    pub ephemeral: bool,
    /// Whom it is for, as far as that concerns the user.
    pub audience: For,
    /// When it came, as far as that is known.
    pub at: Option<Timestamp>,
    /// When its time to live ends.
    pub expires_at: Option<Timestamp>,
    /// Whether it waits for users who are away.
    pub durable: bool,
    /// Sessions of all users that it was queued for on this instance, where that is remembered.
    pub queued: Option<u64>,
}

/// Whom an event is for, from one user's point of view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct For {
    /// Everybody.
    pub everybody: bool,
    /// The user, by name.
    pub user: bool,
    /// Not this user, whoever else.
    pub excluded: bool,
    /// Those who listen on one of these; users' own channels are left out, and of very many, some.
    pub channels: Vec<Channel>,
}

/// What is known of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionAccount {
    /// Its connection.
    pub connection_id: String,
    /// How it is, or was, connected.
    pub transport: Transport,
    /// Since when.
    pub opened_at: Timestamp,
    /// Until when, and why not longer.
    pub ended: Option<(Timestamp, String)>,
    /// What it listens on, where that was asked for by name; `None` for the user's own stream.
    pub named: Option<Vec<Channel>>,
    /// Whether it listens on a channel of the event's audience now.
    pub listens: Option<bool>,
    /// How it stands to the event, if the event is for it at all.
    pub standing: Standing,
}

/// How a session stands to an event that is for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It was over before the event came.
    Over,
    /// It began after the event had come, and did not ask for what was before.
    Fresh,
    /// Its client said that it had the event already.
    Had,
    /// Its client was told that it has missed this, and why.
    Gap(String),
    /// It came later and was given it: from the log, or from memory.
    Replayed {
        /// Whether it was read from the log.
        from_log: bool,
    },
    /// It has not come here yet.
    Coming,
    /// It waits to be written.
    Queued,
    /// It was dropped for want of room, being ephemeral.
    Shed,
    /// The session ended before it was written.
    Unwritten,
    /// It was past its time when its turn came.
    Expired,
    /// It was handed to the connection, at the latest at this moment.
    Written(Option<Timestamp>),
    /// It can't be told.
    Unknown,
}

/// An event that a shard is asked about.
#[derive(Debug)]
pub(super) struct Matter {
    pub(super) user: UserId,
    pub(super) id: Option<EventId>,
    pub(super) event: Option<Arc<Event>>,
    pub(super) trail: Option<Arc<Trail>>,
    /// The place in the log is one that was lost on the way here.
    pub(super) gap: Option<&'static str>,
}

/// A session, open or not, as far as it matters here.
pub(super) struct Subject<'a> {
    pub(super) who: Who,
    pub(super) start: &'a Start,
    pub(super) after_unlogged: u64,
    /// Since when it is over, at which position, and from which one on it was not written what waited.
    pub(super) over: Option<(Instant, u64, Option<u64>)>,
}

impl<'a> Subject<'a> {
    pub(super) fn of(gone: &'a Gone) -> Self {
        Self {
            who: gone.who,
            start: &gone.start,
            after_unlogged: gone.after_unlogged,
            over: Some((gone.ended, gone.head.position(), gone.unwritten)),
        }
    }
}

impl Known {
    /// An event from one user's point of view. `came` is when it came.
    #[must_use]
    pub fn of(event: &Event, user: &UserId, came: Option<Timestamp>) -> Self {
        #[derive(Deserialize)]
        struct Asks {
            #[serde(default)]
            durable: bool,
        }
        let asks = serde_json::from_slice::<Asks>(&event.frame.json());
        Self {
            id: event.id.map(|id| id.to_string()),
            kind: event.kind.clone(),
            ephemeral: event.frame.class() == crate::event::Class::Ephemeral,
            audience: For::of(&event.audience, user),
            at: came,
            expires_at: event.frame.expires_at(),
            durable: asks.is_ok_and(|asks| asks.durable),
            queued: None,
        }
    }
}

impl For {
    /// An audience from one user's point of view.
    #[must_use]
    pub fn of(audience: &Audience, user: &UserId) -> Self {
        let own = Channel::user(user);
        let (everybody, channels): (bool, &[Channel]) = match &audience.to {
            Recipients::Everybody => (true, &[]),
            Recipients::Channels(channels) => (false, channels),
            Recipients::SharingChatWith(_) => (false, &[]),
        };
        let others = channels.iter().filter(|channel| {
            let somebody = *channel.resource() == Resource::User;
            !somebody || channel.to_string().starts_with(&format!("{own}:"))
        });
        Self {
            everybody,
            user: channels.contains(&own),
            excluded: audience.except.as_ref() == Some(user),
            channels: others.take(CHANNELS).cloned().collect(),
        }
    }
}

impl Matter {
    /// How a session stands to the event, supposing that it is for the session. `head` is the shard's;
    /// `waits` says whether a frame is still in its outbox.
    pub(super) fn standing(
        &self,
        session: &Subject<'_>,
        head: EventId,
        waits: impl Fn(&dyn Fn(&Frame) -> bool) -> bool,
        witness: &Witness,
        now: Instant,
    ) -> Standing {
        let came = self.trail.as_ref().map(|trail| trail.came);
        let live = match (self.place(head), self.number()) {
            // It had it before its place in the log was known.
            (_, Some(number)) if session.after_unlogged < number => true,
            (Some(position), _) => match before(session.start, position) {
                Some(standing) => {
                    let replayed = matches!(standing, Standing::Replayed { .. });
                    return match (replayed, session.over) {
                        (true, Some((.., Some(from)))) if position >= from => Standing::Unwritten,
                        (true, None) if waits(&|frame| self.is(frame)) => Standing::Queued,
                        _ => standing,
                    };
                }
                None if session.over.is_some_and(|(_, head, _)| position > head) => {
                    return Standing::Over;
                }
                None if position > head.position() => return Standing::Coming,
                None => true,
            },
            (None, Some(_)) => return Standing::Fresh,
            (None, None) => false,
        };
        if !live {
            return Standing::Unknown;
        }
        if let (None, Some(reason)) = (&self.trail, self.gap) {
            return Standing::Gap(reason.to_owned());
        }
        if let (Some((ended, ..)), Some(came)) = (session.over, came)
            && came > ended
        {
            return Standing::Over;
        }
        if session.over.is_none() && waits(&|frame| self.is(frame)) {
            return Standing::Queued;
        }
        let frame = self.event.as_ref().map(|event| &event.frame);
        let shed = |frame| came.is_some_and(|came| witness.was_shed(session.who, frame, came));
        if frame.is_some_and(shed) {
            return Standing::Shed;
        }
        if let Some((.., Some(from))) = session.over
            && self.id.is_none_or(|id| id.position() >= from)
        {
            return Standing::Unwritten;
        }
        self.written(session, witness, now)
    }

    fn written(&self, session: &Subject<'_>, witness: &Witness, now: Instant) -> Standing {
        let came = self.trail.as_ref().map(|trail| trail.came);
        let drained = came.and_then(|came| witness.drained_after(session.who, came));
        let by = drained.map(|at| wall(at, now));
        let event = self.event.as_ref();
        let expires = event.and_then(|event| event.frame.expires_at());
        match (expires, by) {
            (Some(expires), Some(by)) if by >= expires => Standing::Expired,
            // Nobody saw when, and it may have been too late.
            (Some(_), None) => Standing::Unknown,
            // What was shed of it is not remembered for ever.
            (None, None) if self.trail.is_none() && self.is_ephemeral() => Standing::Unknown,
            _ => Standing::Written(by),
        }
    }

    fn is_ephemeral(&self) -> bool {
        let event = self.event.as_ref();
        event.is_none_or(|event| event.frame.class() == crate::event::Class::Ephemeral)
    }

    /// The event's position in the log that the shard follows.
    fn place(&self, head: EventId) -> Option<u64> {
        let id = self.id.filter(|id| id.epoch() == head.epoch())?;
        Some(id.position())
    }

    /// The number under which it came without a position.
    fn number(&self) -> Option<u64> {
        match self.trail.as_ref()?.delivery {
            Delivery::Live => None,
            Delivery::Unlogged(number) | Delivery::Late(number) => Some(number),
        }
    }

    fn is(&self, frame: &Frame) -> bool {
        let same = |event: &Arc<Event>| event.frame.is(frame);
        let id = || self.id.map(|id| id.to_string());
        self.event.as_ref().is_some_and(same)
            || (frame.is_event() && frame.id().is_some() && frame.id() == id().as_deref())
    }

    /// Whether a channel is one of the audience's.
    pub(super) fn names(&self, listens_on: impl Fn(&Channel) -> bool) -> Option<bool> {
        match &self.event.as_ref()?.audience.to {
            Recipients::Everybody => Some(true),
            Recipients::Channels(channels) => Some(channels.iter().any(listens_on)),
            Recipients::SharingChatWith(_) => None,
        }
    }
}

/// How a session stands to an event that came before it was live; `None` for one that came later.
fn before(start: &Start, position: u64) -> Option<Standing> {
    let Some(comeback) = &start.comeback else {
        return (position <= start.live_from).then_some(Standing::Fresh);
    };
    // A client can be ahead of its new shard.
    if position > comeback.from {
        let from_log = position <= comeback.log_up_to;
        return (position <= start.live_from).then_some(Standing::Replayed { from_log });
    }
    let missed = comeback.gap.filter(|gap| {
        let from = gap.from.map_or(0, |id| id.position());
        // Of a gap between two logs, the first position means nothing in the second.
        let comparable = gap.from.map(|id| id.epoch()) == gap.to.map(|id| id.epoch());
        !comparable || position > from
    });
    Some(match missed {
        Some(gap) => Standing::Gap(gap.reason.as_str().to_owned()),
        None => Standing::Had,
    })
}

/// A moment of this process's clock by the clock of the world.
pub(super) fn wall(moment: Instant, now: Instant) -> Timestamp {
    Timestamp::now().before(now.saturating_duration_since(moment))
}

/// What a list of channels becomes when it is told.
pub(super) fn told(channels: &[Channel]) -> Vec<Channel> {
    channels.iter().take(CHANNELS).cloned().collect()
}

/// What is told of a session that has ended.
pub(super) fn of_gone(gone: &Gone, standing: Standing, now: Instant) -> SessionAccount {
    SessionAccount {
        connection_id: gone.connection.simple().to_string(),
        transport: gone.transport,
        opened_at: wall(gone.opened, now),
        ended: Some((wall(gone.ended, now), gone.end.as_str().to_owned())),
        named: gone.named.as_deref().map(told),
        listens: None,
        standing,
    }
}

#[cfg(test)]
mod tests;
