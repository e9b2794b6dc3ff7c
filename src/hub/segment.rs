//! A stretch of the log that was read for clients that come back from before the history. Pure.

use std::sync::Arc;

use super::history::{History, HistoryConfig};
use super::replay::Search;
use crate::event::{Event, EventId};
use crate::units::Size;

/// The events of a stretch, indexed as the history is. It does not change.
#[derive(Debug)]
pub struct Segment {
    history: History,
    last: u64,
}

impl Segment {
    /// The stretch behind `before` and up to position `last`, with those of its events that are ever
    /// replayed. They come in log order; of what is no event the id is given.
    #[must_use]
    pub fn new(
        before: EventId,
        last: u64,
        events: impl Iterator<Item = Result<Event, EventId>>,
    ) -> Self {
        let unbounded = HistoryConfig {
            max_events: usize::MAX,
            max_bytes: Size(u64::MAX),
            ..HistoryConfig::default()
        };
        let mut history = History::new(unbounded, before);
        for event in events {
            match event {
                Ok(event) => history.push(&Arc::new(event)),
                Err(id) => history.pass(id),
            }
        }
        Self { history, last }
    }

    /// The last position of the stretch.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.history.bytes()
    }

    /// The id at a position of the stretch, or the one before it.
    #[must_use]
    pub fn id_at(&self, position: u64) -> EventId {
        self.history.id_at(position)
    }

    /// Looks for a user's events from position `from` to `to`, both included.
    pub fn search(&self, search: &mut Search, from: u64, to: u64) {
        search.search(&self.history, from, to);
    }
}
