//! The answer to why somebody did or did not get an event, as it is told.

use std::collections::BTreeSet;

use serde::Serialize;
use utoipa::ToSchema;

use crate::event::{Channel, ChatId, Timestamp, UserId};
use crate::hub::Transport;
use crate::rejections::Rejected;

/// Why somebody did or did not get an event.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Explanation {
    /// Whether the user has it: it was handed to a connection of the user's. `null` where that can't be told.
    #[schema(required = true)]
    pub delivered: Option<bool>,
    /// Why, from a closed list.
    pub reason: Reason,
    /// The same in words.
    pub explanation: String,
    /// The user.
    pub user_id: UserId,
    /// The event, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = EventAccount, required = false)]
    pub event: Option<EventAccount>,
    /// Whether the user was in the chats that the event is for.
    pub memberships: Vec<Stay>,
    /// What tells whether the event is for the user, where that depends on chats.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Basis, required = false)]
    pub judged_by: Option<Basis>,
    /// What does not fit together, what is not known and why, and what to do about it, in words.
    pub hints: Vec<String>,
    /// What was wrong with the payload, where it is no event.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Rejected, required = false)]
    pub rejection: Option<Rejected>,
    /// The user's streams on all instances, those that have ended first.
    pub sessions: Vec<SessionOutcome>,
    /// How often the event was published again under the same message id, which counts for nothing.
    pub repeats: u32,
    /// Events that came since then are remembered by all instances that replied.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Timestamp, required = false)]
    pub remembered_since: Option<Timestamp>,
    /// The instances that replied.
    pub instances: Vec<String>,
    /// Instances that are known and have not replied in time.
    pub missing: BTreeSet<String>,
}

/// An event, as far as it concerns one user.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EventAccount {
    /// Its id on streams; `null` where the log could not take it.
    #[schema(required = true)]
    pub id: Option<String>,
    /// Its type.
    pub r#type: String,
    /// When it came, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Timestamp, required = false)]
    pub at: Option<Timestamp>,
    /// Whether it is for the moment only: never replayed, the first to be dropped.
    pub ephemeral: bool,
    /// Whether it waits for users who are away.
    pub durable: bool,
    /// When its time to live ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Timestamp, required = false)]
    pub expires_at: Option<Timestamp>,
    /// Whom it is for: everybody (`*`) or channels, the user's own first; the first twenty of other users.
    pub audience: Vec<String>,
    /// How many channels it is for in all; 0 for everybody.
    pub audience_size: usize,
    /// Whether the user is left out.
    pub excluded: bool,
    /// Sessions of all users that it was queued for, on the instances that remember it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false)]
    pub queued: Option<u64>,
}

/// Whether a user was in a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stay {
    /// The chat.
    pub chat_id: ChatId,
    /// When the event came, by what the database says now, with the joins and leaves undone that were published
    /// since; `null` where these are not all known, or the database does not answer.
    #[schema(required = true)]
    pub then: Option<bool>,
    /// Now, by the database; `null` where that does not answer.
    #[schema(required = true)]
    pub now: Option<bool>,
    /// Whether a stream of the user's listened on it when the event came, or got it with what it had missed.
    /// Where that is not what `then` says, `hints` says why that may be. Left out where there was no stream, or
    /// it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub listened: Option<bool>,
}

/// What tells whether an event is for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// What the user's streams listened on when it came.
    Streams,
    /// What the database says now, with the joins and leaves undone that were published since: there was no
    /// stream.
    Database,
}

/// What became of an event on one stream.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SessionOutcome {
    /// The stream's connection.
    pub connection_id: String,
    /// Where it is, or was.
    pub instance: String,
    /// How it is connected.
    pub transport: Transport,
    /// Since when.
    pub opened_at: Timestamp,
    /// Until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Timestamp, required = false)]
    pub ended_at: Option<Timestamp>,
    /// Why not longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub ended_because: Option<String>,
    /// What it listens on, where that was asked for by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false)]
    pub channels: Option<Vec<Channel>>,
    /// The channels of the audience that it listened on when the event came, the first twenty, or through which it
    /// got it with what it had missed. Left out where it was not there, or it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false)]
    pub listened_on: Option<Vec<Channel>>,
    /// What became of the event.
    pub outcome: Reason,
    /// When it was handed to the connection, at the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Timestamp, required = false)]
    pub written_by: Option<Timestamp>,
}

/// Why, from a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It was handed to a connection when it came.
    Written,
    /// It was given to a stream that came back, from memory.
    ReplayedFromMemory,
    /// It was given to a stream that came back, from the log.
    ReplayedFromLog,
    /// It waited for the user and was delivered later.
    DeliveredFromInbox,
    /// The client said that it had it already.
    HadAlready,
    /// It waits to be written to an open stream.
    Queued,
    /// The instance that the user is connected to has not had it yet.
    OnItsWay,
    /// It waits for the user to connect.
    WaitsInInbox,
    /// The stream ended because the client read too slowly.
    SlowConsumer,
    /// The stream ended before it was written.
    EndedBefore,
    /// It was dropped for want of room: it was for the moment only.
    Shed,
    /// Its time to live was over.
    Expired,
    /// Events were lost, and the client was told so.
    Gap,
    /// The stream began later, and did not ask for what had been before.
    OpenedLater,
    /// The streams that there were listened on none of its channels.
    NotListening,
    /// The user had no stream.
    NotConnected,
    /// The user was not in the chat when it came.
    NotAMember,
    /// The event is for everybody in its audience but this user.
    Excluded,
    /// The event is for others.
    NotInAudience,
    /// The payload is no event.
    Rejected,
    /// No such event is known.
    UnknownEvent,
    /// Something else stands at its place in the log.
    OtherEvent,
    /// What there is to say about the event is no longer, or was never, remembered.
    NotRemembered,
}

impl Reason {
    /// Whether the user has the event; `None` where that can't be told.
    #[must_use]
    pub fn delivered(self) -> Option<bool> {
        match self {
            Self::Written
            | Self::ReplayedFromMemory
            | Self::ReplayedFromLog
            | Self::DeliveredFromInbox
            | Self::HadAlready => Some(true),
            Self::UnknownEvent | Self::OtherEvent | Self::NotRemembered => None,
            _ => Some(false),
        }
    }

    /// The reason in words, about a user and an event.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Written => "it was handed to a connection of the user's when it came",
            Self::ReplayedFromMemory => {
                "the user's client came back later and was given it, from an instance's memory"
            }
            Self::ReplayedFromLog => {
                "the user's client came back later and was given it, from the log"
            }
            Self::DeliveredFromInbox => {
                "nobody was there when it came; it waited for the user and was delivered since"
            }
            Self::HadAlready => {
                "the user's client came back with a Last-Event-ID at or behind it: it had it already"
            }
            Self::Queued => "it waits to be written: the user's client does not read, or slowly",
            Self::OnItsWay => "it has not come yet to the instance that the user is connected to",
            Self::WaitsInInbox => "it waits for the user, who has not connected since it came",
            Self::SlowConsumer => {
                "the stream ended because the client read too slowly; the client gets it from the log when it comes \
                 back with its Last-Event-ID"
            }
            Self::EndedBefore => {
                "the stream ended before it was written; the client gets it from the log when it comes back with its \
                 Last-Event-ID"
            }
            Self::Shed => {
                "it was dropped because the client read too slowly: it was for the moment only, and such events go \
                 first"
            }
            Self::Expired => "its time to live was over before it could be written",
            Self::Gap => {
                "events were lost before they could be given to the user's stream, and its client was told so by a gap"
            }
            Self::OpenedLater => {
                "the user's stream was opened after it came, without a Last-Event-ID before it"
            }
            Self::NotListening => "none of the user's streams listened on a channel that it is for",
            Self::NotConnected => {
                "the user had no stream when it came, and has not come back since"
            }
            Self::NotAMember => "the user was not in the chat when it came",
            Self::Excluded => "it is for all of its audience but this user, e.g. who caused it",
            Self::NotInAudience => "it is for others: nothing in its audience is the user's",
            Self::Rejected => "the payload at this place in the log is no event",
            Self::UnknownEvent => "there is no such event: nothing stands at this place in the log",
            Self::OtherEvent => {
                "another event stands at this place in the log: the log was rolled back or made again"
            }
            Self::NotRemembered => {
                "it can't be told: what would tell is no longer, or was never, remembered"
            }
        }
    }
}
