//! A session's two ends: the guard that a transport holds while it registers a client, and the
//! stream of bytes that it reads from then on. Dropping either takes the session out of the hub.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;

use super::activity::Activity;
use super::registry::SessionKey;
use super::replay::Comeback;
use super::session::Opening;
use super::shard::Shard;
use super::turnstile::Turnstile;
use crate::event::{ChatId, Frame, UserId};

/// How often a thread may do something else before a client is told that its position is of another
/// epoch, or, where it is new, that one has begun. One turn is what it takes, unless the history is just being filled.
const TURNS: usize = 1_000;

/// This thread's part of the hub. A cheap handle that stays on its thread.
#[derive(Debug, Clone)]
pub struct LocalHub {
    pub(super) shard: Rc<RefCell<Shard>>,
    turnstile: Turnstile,
}

/// A session that is registered and not yet live.
#[derive(Debug)]
pub struct PendingSession {
    session: SessionGuard,
    /// Whether it has had its turn. A second one would let the memory move on again.
    passed: bool,
}

/// A live session's bytes, in order, each piece one or more whole frames.
#[derive(Debug)]
pub struct SessionStream(SessionGuard);

#[derive(Debug)]
struct SessionGuard {
    hub: LocalHub,
    key: SessionKey,
}

impl LocalHub {
    pub(super) fn new(shard: Shard, activity: Activity) -> Self {
        Self {
            shard: Rc::new(RefCell::new(shard)),
            turnstile: Turnstile::new(activity),
        }
    }

    /// Registers a session: from now on it misses no join or leave of its user.
    #[must_use]
    pub fn register(&self, user: &UserId, opening: Opening) -> PendingSession {
        let key = self
            .shard
            .borrow_mut()
            .register(user, opening, Instant::now());
        PendingSession {
            session: SessionGuard {
                hub: self.clone(),
                key,
            },
            passed: false,
        }
    }
}

impl PendingSession {
    /// Makes the session live from the current position on. Gives the stream, which opens with
    /// `connection_confirmed`, and the chats that it listens on: those given, changed by what
    /// happened since it was registered.
    ///
    /// # Errors
    /// The memory has let go of what was found to be there: the session, which waits on, and the chats, for
    /// another try when that was looked for again.
    pub async fn activate(
        mut self,
        chats: Vec<ChatId>,
        comeback: Comeback,
    ) -> Result<(SessionStream, Vec<ChatId>), (Self, Vec<ChatId>)> {
        self.catch_up_with_epoch().await;
        let hub = &self.session.hub;
        if !std::mem::replace(&mut self.passed, true) {
            hub.turnstile.pass().await;
        }
        let now = Instant::now();
        let key = self.session.key;
        let activated = hub.shard.borrow_mut().activate(key, chats, comeback, now);
        match activated {
            Ok(chats) => Ok((SessionStream(self.session), chats)),
            Err(chats) => Err((self, chats)),
        }
    }

    /// When a new epoch has begun, the news may still be in this thread's inbox. It is handled as soon
    /// as the thread has a moment.
    async fn catch_up_with_epoch(&self) {
        for _ in 0..TURNS {
            if self.session.hub.shard.borrow().is_in_epoch() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl SessionStream {
    /// The next piece; `None` once the session has ended and its last frame was handed over.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.0.hub.shard.borrow_mut().poll(self.0.key, context)
    }
}

impl SessionStream {
    /// The next frames, at most so many; `None` once the session has ended and the last was handed
    /// over.
    pub fn poll_frames(
        &mut self,
        context: &mut Context<'_>,
        most: usize,
    ) -> Poll<Option<Vec<Frame>>> {
        let mut shard = self.0.hub.shard.borrow_mut();
        shard.poll_frames(self.0.key, context, most)
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.hub.shard.borrow_mut().remove(self.key, Instant::now());
    }
}
