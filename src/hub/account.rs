//! What one instance knows about an event and a user, for those who ask why the one did or did not reach the
//! other: facts, which others put together with what the other instances know.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::inspect::Transport;
use super::witness::Gone;
use crate::event::{Audience, Channel, Event, Recipients, Resource, Timestamp, UserId};

/// The most channels of an audience, or of a stream, that are told.
pub(super) const CHANNELS: usize = 100;

/// The most channels of other users that are told of an audience.
const FEW: usize = 20;

/// The most channels of an audience that are told of a session that listened on them.
pub const MOST_HEARD: usize = 20;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sought {
    /// Whom it is about.
    pub user: UserId,
    /// The event: its id on streams, or one that its publisher gave it.
    pub event: String,
    /// What whoever asks knows of it: the instance that is asked may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Box<Known>>,
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
    /// Of other users' own channels, the first twenty.
    #[serde(default)]
    pub others: Vec<Channel>,
    /// How many channels it names in all.
    #[serde(default)]
    pub total: usize,
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
    /// What it listened on of the event's audience.
    #[serde(default)]
    pub heard: Heard,
    /// How it stands to the event, if the event is for it at all.
    pub standing: Standing,
}

/// What a session listened on of an event's audience when the event came, or, of one that came back later, in
/// what it was given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heard {
    /// It was not there, or it is not known here whom the event is for.
    #[default]
    Absent,
    /// It was there, and what it listened on is not remembered.
    Forgotten,
    /// It was there.
    There {
        /// Whether the event was for it.
        reached: bool,
        /// Through which channels; the first twenty, and none where it is for everybody.
        channels: Vec<Channel>,
    },
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
        let below = format!("{own}:");
        let is_anothers = |channel: &&Channel| {
            let somebody = *channel.resource() == Resource::User;
            somebody && **channel != own && !channel.to_string().starts_with(&below)
        };
        let others = channels.iter().filter(is_anothers);
        let rest = channels
            .iter()
            .filter(|channel| !is_anothers(channel) && **channel != own);
        Self {
            everybody,
            user: channels.contains(&own),
            excluded: audience.except.as_ref() == Some(user),
            channels: rest.take(CHANNELS).cloned().collect(),
            others: others.take(FEW).cloned().collect(),
            total: channels.len(),
        }
    }
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
pub(super) fn of_gone(
    gone: &Gone,
    (standing, heard): (Standing, Heard),
    now: Instant,
) -> SessionAccount {
    SessionAccount {
        connection_id: gone.connection.simple().to_string(),
        transport: gone.transport,
        opened_at: wall(gone.opened, now),
        ended: Some((wall(gone.ended, now), gone.end.as_str().to_owned())),
        named: gone.named.as_deref().map(told),
        heard,
        standing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audience_is_told_from_one_users_point_of_view() {
        let names = ["user:2", "user:3", "user:2:notes", "chat:5", "job:1"];
        let channels = names.iter().map(|name| Channel::parse(name).unwrap());
        let audience = Audience::channels(channels.collect()).except(UserId::from(3));
        let of = |user: i64| For::of(&audience, &UserId::from(user));
        let channels = |of: &For| {
            let names = of.channels.iter().map(ToString::to_string);
            names.collect::<Vec<_>>()
        };
        assert!(of(2).user && !of(2).excluded && !of(2).everybody);
        assert_eq!(channels(&of(2)), ["user:2:notes", "chat:5", "job:1"]);
        assert!(of(3).user && of(3).excluded);
        assert_eq!(channels(&of(3)), ["chat:5", "job:1"]);
        assert!(!of(4).user);
    }
}
