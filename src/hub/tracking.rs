//! The messages whose writing is tracked, by their own ids.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::event::Tracked;

/// How long a message is tracked.
const LIFETIME: Duration = Duration::from_secs(20);

/// The most messages that are tracked at a time.
const MESSAGES: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Tracking {
    /// So that nobody looks for ids while nothing is tracked.
    count: AtomicUsize,
    messages: Mutex<HashMap<String, (Arc<Tracked>, Instant), RandomState>>,
}

impl Tracking {
    /// Begins to track a message; `None` while too many are.
    pub(super) fn begin(&self, id: &str, now: Instant) -> Option<Arc<Tracked>> {
        let mut messages = self.messages.lock();
        messages.retain(|_, (_, until)| *until > now);
        if let Some((tracked, _)) = messages.get(id) {
            // Somebody waits for it already.
            return Some(Arc::clone(tracked));
        }
        let tracked = (messages.len() < MESSAGES).then(|| {
            let tracked = Arc::new(Tracked::default());
            messages.insert(id.to_owned(), (Arc::clone(&tracked), now + LIFETIME));
            tracked
        });
        self.count.store(messages.len(), Ordering::Relaxed);
        tracked
    }

    /// Tracks a message under a further id, together with what is tracked of it already.
    pub(super) fn join(&self, id: &str, tracked: Arc<Tracked>, now: Instant) {
        let mut messages = self.messages.lock();
        if messages.len() < MESSAGES {
            messages.insert(id.to_owned(), (tracked, now + LIFETIME));
            self.count.store(messages.len(), Ordering::Relaxed);
        }
    }

    /// Whether any message is tracked.
    pub(super) fn is_active(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// What is tracked of a message.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Tracked>> {
        let messages = self.messages.lock();
        messages.get(id).map(|(tracked, _)| Arc::clone(tracked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_tracked_for_a_time() {
        let tracking = Tracking::default();
        let now = Instant::now();
        assert!(!tracking.is_active());
        tracking.begin("a", now);
        assert!(tracking.is_active() && tracking.find("a").is_some());
        tracking.begin("b", now + LIFETIME);
        assert!(tracking.find("a").is_none() && tracking.find("b").is_some());
    }
}
