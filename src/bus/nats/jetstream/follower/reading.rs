//! Reading ranges of the log, and what is learned from them: holes are filled, roll-backs found.

use std::time::Instant;

use tracing::warn;

use super::{Follower, PAUSE, ROUTINE, Reading, Why};
use crate::bus::nats::jetstream::cursor::{Cursor, Place};
use crate::bus::nats::jetstream::reader::{Batch, Logged};
use crate::bus::nats::jetstream::stream::Extent;
use crate::bus::{Arrival, Loss};
use crate::event::EventId;

impl Follower {
    /// A part of a range was read.
    pub(in crate::bus::nats::jetstream) fn read(&mut self, batch: Batch, now: Instant) {
        self.progress = now;
        for logged in batch.messages {
            if !self.take(logged, now) {
                return;
            }
        }
        let Some(reading) = &mut self.reading else {
            return;
        };
        reading.next = batch.next;
        if batch.next > reading.to {
            let done = *reading;
            self.reading = None;
            self.finish(done, now);
        }
    }

    pub(super) fn begin_reading(&mut self, why: Why, from: u64, to: u64, now: Instant) {
        let reading = Reading {
            why,
            start: from,
            next: from,
            to,
        };
        if from > to {
            self.finish(reading, now);
        } else {
            self.reading = Some(reading);
        }
    }

    /// Takes what was read from the log; `false` when reading begins anew further back.
    pub(super) fn take(&mut self, logged: Logged, now: Instant) -> bool {
        let (Some(cursor), Some(reading)) = (&self.cursor, &mut self.reading) else {
            return false;
        };
        match cursor.place(logged.id) {
            Place::Known => {}
            Place::Next | Place::Ahead => {
                if self.past_until.is_none() {
                    self.metrics.filled.inc();
                }
                self.deliver(logged, now);
            }
            Place::Conflict => {
                let remembers_from = cursor.remembers_from();
                let position = logged.id.position();
                if position == reading.start && remembers_from < position {
                    reading.start = remembers_from;
                    reading.next = remembers_from;
                    return false;
                }
                self.rewind(position - 1);
                self.deliver(logged, now);
            }
        }
        true
    }

    /// A range was read to its end.
    pub(super) fn finish(&mut self, reading: Reading, now: Instant) {
        if let Some(end) = self.shrunk_to.take()
            && self.position() > end
        {
            self.rewind(end);
        }
        if let Some(cursor) = &mut self.cursor
            && cursor.position() < reading.to
        {
            let position = cursor.position();
            if self.ended_at.replace(position) != Some(position) {
                // The log may have been rolled back since it said how far it reaches.
                return self.want(reading.why, now);
            }
            // The last positions of the range are not in the log any more.
            let end = EventId::unknown(cursor.epoch(), reading.to);
            cursor.advance(end);
        }
        self.ended_at = None;
        if self.past_until.take().is_some()
            && let Some(cursor) = &self.cursor
        {
            self.arrivals.push_back(Arrival::Gap {
                loss: Loss::Disconnected,
                from: self.before,
                to: cursor.last(),
            });
        }
        let compared = reading.why == Why::Conflict;
        self.drain(if compared { reading.to } else { 0 }, now);
        self.say_doubt();
    }

    /// The stream is another one.
    pub(super) fn recreated(&mut self, extent: Extent, now: Instant) {
        let from = self.last();
        let to = EventId::unknown(extent.epoch, extent.first - 1);
        warn!(
            was = from.to_string(),
            epoch = extent.epoch.0,
            "the log was deleted and made again"
        );
        self.lose(Loss::Recreated, from, to);
        self.cursor = Some(Cursor::at(to));
        self.forgotten = extent.first - 1;
        // What is of the new stream is read from it.
        self.forget_ahead();
        self.shorter_since = None;
        self.begin_reading(Why::Hole, extent.first, extent.last, now);
    }

    /// The log ends before the cursor. A new leader of a cluster may be behind for a moment, so it
    /// is only believed when it lasts. When a copy contradicts what was there, what the log has is
    /// compared at once, but that copy may be wrong.
    pub(super) fn shorter(&mut self, extent: Extent, why: Why, now: Instant) {
        let since = *self.shorter_since.get_or_insert(now);
        let lasts = now >= since + ROUTINE;
        if why != Why::Conflict && !lasts {
            self.not_before = now + PAUSE;
            return self.want(Why::Connected, now);
        }
        if lasts {
            self.shorter_since = None;
            self.shrunk_to = Some(extent.last);
        }
        let Some(cursor) = &self.cursor else {
            return;
        };
        let from = cursor.remembers_from().max(extent.first).max(1);
        self.begin_reading(Why::Conflict, from, extent.last, now);
    }

    pub(super) fn rewind(&mut self, position: u64) {
        let Some(cursor) = &mut self.cursor else {
            return;
        };
        let from = cursor.last();
        let to = cursor.rewind(position);
        warn!(
            from = from.to_string(),
            to = to.to_string(),
            "the log was rolled back and uses positions again"
        );
        self.lose(Loss::Rewound, from, to);
    }

    /// The log has dropped positions that were still to be read.
    pub(super) fn expired(&mut self, extent: Extent) {
        let Some(cursor) = &mut self.cursor else {
            return;
        };
        let from = cursor.last();
        let to = EventId::unknown(extent.epoch, extent.first - 1);
        cursor.advance(to);
        self.forgotten = extent.first - 1;
        warn!(
            from = from.to_string(),
            to = to.to_string(),
            "the log has dropped what was still to be read"
        );
        self.lose(Loss::Expired, from, to);
    }

    pub(super) fn lose(&mut self, loss: Loss, from: EventId, to: EventId) {
        self.metrics.lost(loss);
        if loss != Loss::Expired {
            self.receipts.forget();
        }
        self.arrivals.push_back(Arrival::Gap { loss, from, to });
    }
}
