//! When each session is due next. Pure: the time comes in from outside.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::registry::SessionKey;

/// Sessions by the moment at which each wants attention: a ping, a warning, the end.
#[derive(Debug, Default)]
pub(super) struct Schedule(BinaryHeap<Reverse<Due>>);

/// One entry. The serial tells a session from an earlier one that had the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) key: SessionKey,
    pub(super) serial: u32,
}

impl Schedule {
    pub(super) fn add(&mut self, due: Due) {
        self.0.push(Reverse(due));
    }

    /// Takes out one entry that is due at `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Due> {
        let Reverse(first) = self.0.peek()?;
        if first.at > now {
            return None;
        }
        self.0.pop().map(|Reverse(due)| due)
    }
}
