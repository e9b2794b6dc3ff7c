//! The log of a simulated world: what it has, and what it says.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::bus::nats::jetstream::reader::{Batch, Logged};
use crate::bus::nats::jetstream::stream::Extent;
use crate::event::{Epoch, EventId, Timestamp};

/// The epoch of the first log.
const FIRST: u64 = 100;

/// A message as the log has it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) content: u64,
    pub(super) message_id: Option<String>,
}

/// The stream.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) epoch: u64,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) entries: BTreeMap<u64, Entry>,
    message_ids: HashSet<String>,
    /// The last position that was given before a rollback.
    used_up_to: u64,
    exists: bool,
    /// Until when it takes no messages, answers no requests, and says that it ends earlier.
    pub(super) takes_nothing: Instant,
    pub(super) answers_nothing: Instant,
    pub(super) behind: (Instant, u64),
}

/// What the log has taken.
pub(super) struct Taken {
    pub(super) position: u64,
    pub(super) entry: Entry,
    /// Whether something else stood there before.
    pub(super) again: bool,
}

impl Log {
    /// An empty log.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            epoch: FIRST,
            first: 1,
            last: 0,
            entries: BTreeMap::new(),
            message_ids: HashSet::new(),
            used_up_to: 0,
            exists: true,
            takes_nothing: now,
            answers_nothing: now,
            behind: (now - Duration::from_secs(60), 0),
        }
    }

    pub(super) fn exists(&self) -> bool {
        self.exists
    }

    /// Takes a message, unless it can't or has one of the same id.
    pub(super) fn take(
        &mut self,
        content: u64,
        message_id: Option<&String>,
        now: Instant,
    ) -> Option<Taken> {
        let known = message_id.is_some_and(|id| self.message_ids.contains(id));
        if !self.exists || now < self.takes_nothing || known {
            return None;
        }
        let entry = Entry {
            content,
            message_id: message_id.cloned(),
        };
        self.message_ids.extend(message_id.cloned());
        self.last += 1;
        self.entries.insert(self.last, entry.clone());
        Some(Taken {
            position: self.last,
            entry,
            again: self.last <= self.used_up_to,
        })
    }

    /// Drops the first positions.
    pub(super) fn expire(&mut self, count: u64) {
        self.first = (self.first + count).min(self.last + 1);
        self.entries = self.entries.split_off(&self.first);
    }

    /// Loses the last positions.
    pub(super) fn roll_back(&mut self, count: u64) {
        let last = self.last.saturating_sub(count).max(self.first - 1);
        for (_, entry) in self.entries.split_off(&(last + 1)) {
            if let Some(id) = entry.message_id {
                self.message_ids.remove(&id);
            }
        }
        self.used_up_to = self.used_up_to.max(self.last);
        self.last = last;
    }

    /// Is gone.
    pub(super) fn delete(&mut self) {
        self.exists = false;
        self.entries.clear();
    }

    /// Is there, new if it was gone.
    pub(super) fn create(&mut self) {
        if !self.exists {
            self.epoch += 1;
            self.exists = true;
            self.first = 1;
            self.last = 0;
            self.used_up_to = 0;
            self.message_ids.clear();
        }
    }

    /// How far it says that it reaches.
    pub(super) fn extent(&self, now: Instant) -> Extent {
        let (until, by) = self.behind;
        let by = if now < until { by } else { 0 };
        let last = self.last.saturating_sub(by);
        Extent {
            epoch: Epoch(self.epoch),
            first: self.first.min(last + 1),
            last,
        }
    }

    /// At most so many of a range. That it is of another log than was meant does not show.
    pub(super) fn batch(&self, epoch: Epoch, from: u64, to: u64, most: u64) -> Batch {
        let there = self.entries.range(from..);
        let mut part = there.take(usize::try_from(most).unwrap());
        let mut messages = Vec::new();
        let mut next = from;
        while next <= to {
            let Some((position, entry)) = part.next() else {
                break;
            };
            next = position + 1;
            if *position <= to {
                messages.push(logged(epoch, *position, entry));
            }
        }
        if self.entries.range(next..).next().is_none() {
            next = next.max(to + 1);
        }
        Batch { messages, next }
    }
}

/// The bytes of a content.
pub(super) fn payload(content: u64) -> Bytes {
    Bytes::from(content.to_string())
}

/// An entry as it is read or arrives.
pub(super) fn logged(epoch: Epoch, position: u64, entry: &Entry) -> Logged {
    let payload = payload(entry.content);
    Logged {
        id: EventId::new(epoch, position, &payload),
        subject: Arc::from("a"),
        payload,
        at: Timestamp::from_millis(0),
        message_id: entry.message_id.clone(),
        trace: None,
    }
}
