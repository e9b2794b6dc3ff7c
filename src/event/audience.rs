//! Whom an event is for.

use super::channel::{Channel, Resource};
use super::id::{ChatId, UserId};

/// Whom an event is for: some recipients, less an optional user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    /// Who receives the event. A session that matches in several ways gets it once.
    pub to: Recipients,
    /// A user none of whose sessions receive it, e.g. the one who types.
    pub except: Option<UserId>,
}

/// The sets of sessions that an event can be addressed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipients {
    /// Every session.
    Everybody,
    /// Sessions that listen on at least one of these channels.
    Channels(Vec<Channel>),
    /// Sessions of users that share a chat with this one. The chats are looked up before the
    /// event reaches the hub, which only knows channels.
    SharingChatWith(UserId),
}

/// A join or a leave, applied to the user's live sessions at the event's place in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipChange {
    /// The user's sessions listen on the chat from this event on, this event included.
    Joined(UserId, ChatId),
    /// The user's sessions get this event and then leave the chat.
    Left(UserId, ChatId),
}

impl Audience {
    /// Everyone who listens on `channel`.
    #[must_use]
    pub fn channel(channel: Channel) -> Self {
        Self::channels(vec![channel])
    }

    /// Everyone who listens on at least one of `channels`.
    #[must_use]
    pub fn channels(channels: Vec<Channel>) -> Self {
        Self {
            to: Recipients::Channels(channels),
            except: None,
        }
    }

    /// The same audience without `user`.
    #[must_use]
    pub fn except(self, user: UserId) -> Self {
        Self {
            except: Some(user),
            ..self
        }
    }

    /// The users that it names.
    #[must_use]
    pub fn users(&self) -> Vec<UserId> {
        let Recipients::Channels(channels) = &self.to else {
            return Vec::new();
        };
        let users = channels.iter().filter_map(|channel| {
            let user = *channel.resource() == Resource::User;
            // A channel below a user's own, as `user:7:notes`, is nobody's name.
            user.then(|| UserId::parse(&channel.id().to_string()).ok())?
        });
        users.collect()
    }

    /// Whether the audience is empty whoever is connected.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        matches!(&self.to, Recipients::Channels(channels) if channels.is_empty())
    }
}
