//! What a shard counts for itself, without an atomic, and hands over to the metrics with its clock.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::metrics::Metrics;
use crate::event::Frame;
use crate::histogram::Observations;

/// What waits in the outboxes of one shard. Clones count together.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting(Rc<Cell<Amount>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amount {
    frames: usize,
    bytes: usize,
}

/// One shard's share of the metrics.
#[derive(Debug)]
pub(super) struct Meter {
    metrics: Metrics,
    waiting: Waiting,
    /// What of `waiting` the metrics have.
    reported: Amount,
    latencies: Observations,
}

/// Measures how long after their publication the frames of one piece are written to one connection. The clock is
/// read once, and only if one of them is an event that was just published.
pub(super) struct Stopwatch<'a> {
    latencies: &'a mut Observations,
    now: Option<Instant>,
    connection: Uuid,
}

impl Waiting {
    /// Frames were queued.
    pub(super) fn add(&self, frames: usize, bytes: usize) {
        let Amount {
            frames: before,
            bytes: bytes_before,
        } = self.0.get();
        self.0.set(Amount {
            frames: before + frames,
            bytes: bytes_before + bytes,
        });
    }

    /// Frames that were queued are not any more.
    pub(super) fn remove(&self, frames: usize, bytes: usize) {
        let Amount {
            frames: before,
            bytes: bytes_before,
        } = self.0.get();
        self.0.set(Amount {
            frames: before - frames,
            bytes: bytes_before - bytes,
        });
    }

    /// Frames and their bytes.
    #[cfg(test)]
    pub(super) fn get(&self) -> (usize, usize) {
        let Amount { frames, bytes } = self.0.get();
        (frames, bytes)
    }
}

impl Meter {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            waiting: Waiting::default(),
            reported: Amount::default(),
            latencies: Observations::default(),
        }
    }

    /// Where the shard's outboxes count what waits.
    pub(super) fn waiting(&self) -> Waiting {
        self.waiting.clone()
    }

    /// For the frames that are written now to a connection.
    pub(super) fn stopwatch(&mut self, connection: Uuid) -> Stopwatch<'_> {
        Stopwatch {
            latencies: &mut self.latencies,
            now: None,
            connection,
        }
    }

    /// Hands over what has changed since the last time.
    pub(super) fn report(&mut self) {
        let now = self.waiting.0.get();
        let change = |now: usize, before: usize| now as i64 - before as i64;
        self.metrics.waiting(
            change(now.frames, self.reported.frames),
            change(now.bytes, self.reported.bytes),
        );
        self.reported = now;
        self.metrics.latency.absorb(&mut self.latencies);
    }
}

impl Drop for Meter {
    /// A shard that ends takes its sessions with it.
    fn drop(&mut self) {
        let Amount { frames, bytes } = self.reported;
        self.metrics.waiting(-(frames as i64), -(bytes as i64));
        self.metrics.latency.absorb(&mut self.latencies);
    }
}

impl Stopwatch<'_> {
    /// What the clock said, if it was looked at.
    pub(super) fn now(&self) -> Option<Instant> {
        self.now
    }

    /// A frame is written; what was not published just now is not measured.
    pub(super) fn written(&mut self, frame: &Frame) {
        let Some(published) = frame.published() else {
            return;
        };
        let now = *self.now.get_or_insert_with(Instant::now);
        let latency: Duration = now.saturating_duration_since(published);
        self.latencies.observe(latency);
        if let Some(journey) = frame.journey() {
            journey.written(self.connection, now);
        }
    }
}
