//! What a session listens on. Pure.

use crate::event::{Channel, ChatId, UserId};

/// What a client has asked to listen on, and may.
#[derive(Debug, Clone)]
pub enum Scope {
    /// The user's own channel and chats, as they are at every moment.
    Own,
    /// Channels that were asked for by name.
    Named(NamedChannels),
}

/// Channels that were asked for by name.
#[derive(Debug, Clone, Default)]
pub struct NamedChannels {
    /// Those that the token allows, whatever happens.
    pub granted: Vec<Channel>,
    /// The chats that the user may listen on as a member, for as long as that lasts.
    pub as_member: Vec<ChatId>,
}

/// Whose events a replay looks for, and where.
#[derive(Debug, Clone)]
pub struct Interest {
    pub(super) user: UserId,
    /// Channels without a fence.
    pub(super) direct: Vec<Channel>,
    /// The chats that the user is in now.
    pub(super) chats: Vec<ChatId>,
    /// Whether chats that the user was in before count, too.
    pub(super) former_chats: bool,
}

impl Scope {
    /// What a replay for this scope looks for; `chats` are those of the scope that the user is in now.
    #[must_use]
    pub fn interest(&self, user: &UserId, chats: Vec<ChatId>) -> Interest {
        let (direct, former_chats) = match self {
            Self::Own => (vec![Channel::user(user)], true),
            Self::Named(named) => (named.granted.clone(), false),
        };
        Interest {
            user: user.clone(),
            direct,
            chats,
            former_chats,
        }
    }
}
