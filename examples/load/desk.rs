//! What the tasks of all streams share: the read buffer, and the books in which they write what they see.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

use tokio::sync::Notify;

use crate::{histogram::Histogram, tally::Tally};

/// Bytes read at once: many events, and yet no more than a core's own cache.
const READ_BUFFER: usize = 128 * 1024;

/// The books of one fleet. All on one thread, and never borrowed across an await.
pub(crate) struct Desk {
    pub(crate) buffer: RefCell<Box<[u8]>>,
    /// The chat that each stream must be connected to.
    pub(crate) chat: u64,
    confirmed: Cell<usize>,
    /// Why streams were refused, and how many.
    pub(crate) refused: RefCell<BTreeMap<String, usize>>,
    /// From the start of connecting to `connection_confirmed`.
    pub(crate) first_event: RefCell<Histogram>,
    /// Why streams ended that had been open, and how many.
    pub(crate) ended: RefCell<BTreeMap<String, usize>>,
    /// Events that are no messages, by type.
    pub(crate) others: RefCell<BTreeMap<String, usize>>,
    /// The deliveries of the current run.
    pub(crate) tally: RefCell<Tally>,
    /// Something happened that may complete the opening or the run.
    settled: Notify,
}

impl Desk {
    pub(crate) fn new(chat: u64) -> Self {
        Self {
            buffer: RefCell::new(vec![0; READ_BUFFER].into()),
            chat,
            confirmed: Cell::new(0),
            refused: RefCell::default(),
            first_event: RefCell::new(Histogram::new()),
            ended: RefCell::default(),
            others: RefCell::default(),
            tally: RefCell::new(Tally::new(0, 0, 0)),
            settled: Notify::new(),
        }
    }

    /// A stream is open, `took` after it began to connect.
    pub(crate) fn confirm(&self, took: Duration) {
        self.confirmed.set(self.confirmed.get() + 1);
        self.first_event.borrow_mut().record(took.as_nanos() as u64);
        self.settled.notify_one();
    }

    /// A stream could not be opened.
    pub(crate) fn refuse(&self, reason: String) {
        count(&self.refused, reason);
        self.settled.notify_one();
    }

    /// A stream that was open has ended.
    pub(crate) fn end(&self, reason: String) {
        count(&self.ended, reason);
        self.settled.notify_one();
    }

    /// The last delivery of the run is there.
    pub(crate) fn complete(&self) {
        self.settled.notify_one();
    }

    pub(crate) fn confirmed(&self) -> usize {
        self.confirmed.get()
    }

    /// Streams that are open now.
    pub(crate) fn open(&self) -> usize {
        self.confirmed.get() - total(&self.ended)
    }

    /// Streams whose opening is decided.
    pub(crate) fn decided(&self) -> usize {
        self.confirmed.get() + total(&self.refused)
    }

    /// Waits until `complete`, or until nothing has happened for the time of `patience`.
    pub(crate) async fn wait(&self, patience: Duration, complete: impl Fn() -> bool) {
        let progress = || (self.decided(), self.tally.borrow().delivered);
        while !complete() {
            let before = progress();
            let settled = tokio::time::timeout(patience, self.settled.notified()).await;
            if settled.is_err() && progress() == before {
                return;
            }
        }
    }
}

/// One more of `kind`.
pub(crate) fn count(counts: &RefCell<BTreeMap<String, usize>>, kind: String) {
    *counts.borrow_mut().entry(kind).or_default() += 1;
}

fn total(counts: &RefCell<BTreeMap<String, usize>>) -> usize {
    counts.borrow().values().sum()
}
