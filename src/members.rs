//! Who is in a chat, by the configured query, remembered for a moment: after an interruption many
//! clients ask about the same chats at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::database::DatabaseError;
use crate::event::{ChatId, UserId};
use crate::membership::Membership;

/// How long members are remembered.
const REMEMBERED: Duration = Duration::from_secs(2);

/// The most chats whose members are remembered, and the most members in all.
const CHATS: usize = 1_024;
const MEMBERS: usize = 1_000_000;

/// The members of chats. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Members(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    membership: Membership,
    remembered: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    chats: HashMap<ChatId, Entry, RandomState>,
    /// Members of all of them.
    members: usize,
}

#[derive(Debug)]
struct Entry {
    /// Held while they are looked up: whoever asks meanwhile waits for the same answer.
    members: Arc<tokio::sync::OnceCell<Arc<[UserId]>>>,
    until: Instant,
    counted: usize,
}

impl Members {
    /// By the query of `membership`.
    #[must_use]
    pub fn new(membership: Membership) -> Self {
        Self(Arc::new(Inner {
            membership,
            remembered: Mutex::default(),
        }))
    }

    /// The users that are in a chat, in the order of their ids.
    ///
    /// # Errors
    /// As of [`Membership::members_of`].
    pub async fn of(&self, chat: &ChatId) -> Result<Arc<[UserId]>, DatabaseError> {
        let cell = self.0.remembered.lock().cell(chat, Instant::now());
        let look_up = || async {
            let mut members = self.0.membership.members_of(chat).await?;
            members.sort_unstable();
            members.dedup();
            let members: Arc<[UserId]> = members.into();
            self.0.remembered.lock().count(chat, members.len());
            Ok(members)
        };
        cell.get_or_try_init(look_up).await.cloned()
    }
}

impl Remembered {
    fn cell(&mut self, chat: &ChatId, now: Instant) -> Arc<tokio::sync::OnceCell<Arc<[UserId]>>> {
        if let Some(entry) = self.chats.get(chat)
            && entry.until > now
        {
            return Arc::clone(&entry.members);
        }
        self.forget(now);
        let members = Arc::default();
        if self.chats.len() < CHATS && self.members < MEMBERS {
            let entry = Entry {
                members: Arc::clone(&members),
                until: now + REMEMBERED,
                counted: 0,
            };
            self.chats.insert(chat.clone(), entry);
        }
        members
    }

    fn forget(&mut self, now: Instant) {
        self.chats.retain(|_, entry| entry.until > now);
        self.members = self.chats.values().map(|entry| entry.counted).sum();
    }

    fn count(&mut self, chat: &ChatId, members: usize) {
        if let Some(entry) = self.chats.get_mut(chat) {
            self.members = self.members - entry.counted + members;
            entry.counted = members;
        }
    }
}
