//! Whom a frame was written to, for those few messages of which somebody wants to know.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use super::id::UserId;

/// The most users that are remembered of one message.
const USERS: usize = 10_000;

/// Counts the sessions that a frame was written to, and remembers their users.
#[derive(Debug, Default)]
pub struct Tracked(Mutex<Written>);

/// Whom a frame was written to so far.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Threads that the message has gone to, and those that have queued it.
    threads: (usize, usize),
    /// Sessions that it was queued for.
    queued: u64,
    /// Sessions that it was written to.
    pub sessions: u64,
    /// Their users; the first ten thousand.
    pub users: BTreeSet<UserId>,
}

impl Written {
    /// Whether the message has come, and was written to all that it was queued for.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let (threads, queued) = self.threads;
        threads > 0 && queued >= threads && self.sessions >= self.queued
    }
}

impl Tracked {
    /// The message was queued for so many sessions of one thread.
    pub fn queued(&self, sessions: u64) {
        let mut written = self.0.lock();
        written.queued += sessions;
        written.threads.1 += 1;
    }

    /// The message goes to so many threads.
    pub fn goes_to(&self, threads: usize) {
        self.0.lock().threads.0 = threads;
    }

    /// The frame was written to a session of a user.
    pub fn written(&self, user: &UserId) {
        let mut written = self.0.lock();
        written.sessions += 1;
        if written.users.len() < USERS {
            written.users.insert(user.clone());
        }
    }

    /// Whom it was written to so far.
    #[must_use]
    pub fn so_far(&self) -> Written {
        self.0.lock().clone()
    }
}
