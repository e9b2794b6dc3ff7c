//! A session's bounded queue of encoded frames. Pure.
//!
//! Before the queue there can be a lead: what a stream opens with, a replay included. It is bounded
//! by the history that it comes from and holds references only, so it does not count against the
//! limits, which are for what arrives while the client reads.
//!
//! Policy when it is full: ephemeral events are dropped, the oldest first, to make room for
//! durable ones; if that is not enough, the outbox overflows and its session has to end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::meter::{Stopwatch, Waiting};
use crate::event::{Class, EventId, Frame, Timestamp, Tracked};

/// An emptied queue with more places than this gives its memory back, so that a burst does not
/// cost every idle session for ever.
const KEPT_CAPACITY: usize = 16;

/// How much an outbox holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// At most this many frames.
    pub(super) events: usize,
    /// At most this many bytes of frames; one frame always fits into an empty outbox.
    pub(super) bytes: usize,
}

/// What became of a frame that was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Push {
    /// It will be written, and so many ephemeral frames before it will not.
    Queued {
        /// Ephemeral frames dropped to make room.
        shed: usize,
    },
    /// It was ephemeral and there was no room: dropped.
    Shed,
    /// It was durable and there was no room: the session can't be served any further.
    Overflow,
}

/// What was taken out to be written.
#[derive(Debug)]
pub(super) struct Batch {
    /// One or more whole frames.
    pub(super) bytes: Bytes,
    /// How many of them were events.
    pub(super) events: u64,
    /// Of those frames of which somebody wants to know that they were written.
    pub(super) tracked: Vec<Arc<Tracked>>,
    /// Who waits for frames of it to be written.
    pub(super) receipts: Vec<oneshot::Sender<()>>,
    /// What the clock said, if it was looked at.
    pub(super) now: Option<Instant>,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    lead: VecDeque<Frame>,
    frames: VecDeque<Frame>,
    bytes: usize,
    /// What waits in all outboxes of the shard, the lead left out.
    waiting: Waiting,
}

impl Outbox {
    /// An empty one, whose frames count in `waiting`.
    pub(super) fn new(waiting: Waiting) -> Self {
        Self {
            lead: VecDeque::new(),
            frames: VecDeque::new(),
            bytes: 0,
            waiting,
        }
    }

    /// Queues a frame, within the limits.
    pub(super) fn push(&mut self, frame: Frame, limits: Limits) -> Push {
        self.push_noting(frame, limits, |_| {})
    }

    /// The same; `shed` is told of each frame that is dropped, this one included.
    pub(super) fn push_noting(
        &mut self,
        frame: Frame,
        limits: Limits,
        mut shed: impl FnMut(&Frame),
    ) -> Push {
        if self.fits(&frame, limits) {
            self.append(frame);
            return Push::Queued { shed: 0 };
        }
        if frame.class() == Class::Ephemeral {
            shed(&frame);
            return Push::Shed;
        }
        let before = self.frames.len();
        self.shed_until_it_fits(&frame, limits, shed);
        if !self.fits(&frame, limits) {
            return Push::Overflow;
        }
        let shed = before - self.frames.len();
        self.append(frame);
        Push::Queued { shed }
    }

    /// Queues a frame whatever the limits: for the few that the server itself writes, such as the
    /// first and the last of a stream.
    pub(super) fn append(&mut self, frame: Frame) {
        self.bytes += frame.len();
        self.waiting.add(1, frame.len());
        self.frames.push_back(frame);
    }

    /// Puts frames before everything that waits, whatever the limits.
    pub(super) fn lead_with(&mut self, frames: Vec<Frame>) {
        self.lead = frames.into();
    }

    /// Takes frames up to about `most` bytes, joined into one piece of memory; a single frame is
    /// shared and not copied. Frames past their time to live are left out.
    pub(super) fn take(
        &mut self,
        named: bool,
        most: usize,
        now: impl Fn() -> Timestamp,
        mut stopwatch: Stopwatch<'_>,
    ) -> Option<Batch> {
        let first = self.pop(&now, &mut stopwatch)?;
        let events = u64::from(first.is_event());
        // Most often there is none, and no memory is taken.
        let mut tracked: Vec<Arc<Tracked>> = first.tracked().into_iter().collect();
        let mut receipts: Vec<oneshot::Sender<()>> = first.take_receipt().into_iter().collect();
        if self.is_empty() {
            self.give_back_memory();
            let bytes = first.bytes(named);
            return Some(Batch {
                bytes,
                events,
                tracked,
                receipts,
                now: stopwatch.now(),
            });
        }
        let mut waiting = self.bytes;
        let mut lead = self.lead.iter();
        while waiting < most
            && let Some(frame) = lead.next()
        {
            waiting += frame.len();
        }
        let mut batch = BytesMut::with_capacity(most.min(waiting + first.len()));
        batch.extend_from_slice(first.as_slice(named));
        let mut events = events;
        while batch.len() < most
            && let Some(frame) = self.pop(&now, &mut stopwatch)
        {
            batch.extend_from_slice(frame.as_slice(named));
            events += u64::from(frame.is_event());
            tracked.extend(frame.tracked());
            receipts.extend(frame.take_receipt());
        }
        self.give_back_memory();
        let bytes = batch.freeze();
        Some(Batch {
            bytes,
            events,
            tracked,
            receipts,
            now: stopwatch.now(),
        })
    }

    /// Takes at most so many frames, without those past their time to live.
    pub(super) fn take_frames(
        &mut self,
        most: usize,
        now: impl Fn() -> Timestamp,
        mut stopwatch: Stopwatch<'_>,
    ) -> Vec<Frame> {
        let mut frames = Vec::new();
        while frames.len() < most
            && let Some(frame) = self.pop(&now, &mut stopwatch)
        {
            frames.push(frame);
        }
        self.give_back_memory();
        frames
    }

    /// Whether a frame of a kind waits.
    pub(super) fn holds(&self, is: &dyn Fn(&Frame) -> bool) -> bool {
        self.lead.iter().chain(&self.frames).any(is)
    }

    /// The first position that waits, if anything does; 0 where only what has none does.
    pub(super) fn waits_from(&self) -> Option<u64> {
        let position = |frame: &Frame| {
            let id: EventId = frame.id()?.parse().ok()?;
            frame.is_event().then(|| id.position())
        };
        let events = self.lead.iter().chain(&self.frames);
        let mut events = events.filter(|frame| frame.is_event()).peekable();
        events.peek()?;
        Some(events.find_map(position).unwrap_or_default())
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lead.is_empty() && self.frames.is_empty()
    }

    /// Drops everything that waits; says how many frames that were.
    pub(super) fn clear(&mut self) -> usize {
        let dropped = self.frames.len();
        self.waiting.remove(dropped, self.bytes);
        self.lead = VecDeque::new();
        self.frames = VecDeque::new();
        self.bytes = 0;
        dropped
    }

    /// How many frames wait.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.frames.len()
    }

    fn fits(&self, frame: &Frame, limits: Limits) -> bool {
        self.frames.is_empty()
            || (self.frames.len() < limits.events && self.bytes + frame.len() <= limits.bytes)
    }

    fn shed_until_it_fits(
        &mut self,
        frame: &Frame,
        limits: Limits,
        mut dropped: impl FnMut(&Frame),
    ) {
        let before = self.frames.len();
        let (mut events, mut bytes) = (before, self.bytes);
        self.frames.retain(|waiting| {
            let full = events >= limits.events || bytes + frame.len() > limits.bytes;
            let shed = full && waiting.class() == Class::Ephemeral;
            if shed {
                dropped(waiting);
                events -= 1;
                bytes -= waiting.len();
            }
            !shed
        });
        let left = self.frames.len();
        self.waiting.remove(before - left, self.bytes - bytes);
        self.bytes = bytes;
    }

    fn pop(
        &mut self,
        now: &impl Fn() -> Timestamp,
        stopwatch: &mut Stopwatch<'_>,
    ) -> Option<Frame> {
        loop {
            // What the lead replays was published long ago.
            let is_live = self.lead.is_empty();
            let frame = self.pop_any()?;
            // The clock is only read for the few frames that can expire.
            if frame.expires() && frame.is_expired(now()) {
                continue;
            }
            if is_live {
                stopwatch.written(&frame);
            }
            return Some(frame);
        }
    }

    fn pop_any(&mut self) -> Option<Frame> {
        if let Some(frame) = self.lead.pop_front() {
            if self.lead.is_empty() {
                self.lead = VecDeque::new();
            }
            return Some(frame);
        }
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        self.waiting.remove(1, frame.len());
        Some(frame)
    }

    fn give_back_memory(&mut self) {
        if self.frames.is_empty() && self.frames.capacity() > KEPT_CAPACITY {
            self.frames = VecDeque::new();
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::meter::Meter;
    use crate::hub::metrics::Metrics;
    use proptest::prelude::*;
    use uuid::Uuid;

    const LIMITS: Limits = Limits {
        events: 4,
        bytes: 400,
    };

    fn frame(number: usize, class: Class) -> Frame {
        Frame::event(None, "t", number.to_string().as_bytes(), class, None)
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000)
    }

    fn drain(outbox: &mut Outbox) -> String {
        let mut text = Vec::new();
        let mut meter = Meter::new(Metrics::default());
        while let Some(batch) = outbox.take(false, 64, now, meter.stopwatch(Uuid::nil())) {
            text.extend_from_slice(&batch.bytes);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn ephemeral_frames_make_room_and_then_it_overflows() {
        let mut outbox = Outbox::default();
        outbox.push(frame(0, Class::Durable), LIMITS);
        outbox.push(frame(1, Class::Ephemeral), LIMITS);
        outbox.push(frame(2, Class::Durable), LIMITS);
        outbox.push(frame(3, Class::Ephemeral), LIMITS);
        assert_eq!(outbox.push(frame(4, Class::Ephemeral), LIMITS), Push::Shed);
        let queued = Push::Queued { shed: 1 };
        assert_eq!(outbox.push(frame(5, Class::Durable), LIMITS), queued);
        assert_eq!(outbox.push(frame(6, Class::Durable), LIMITS), queued);
        assert_eq!(
            outbox.push(frame(7, Class::Durable), LIMITS),
            Push::Overflow
        );
        assert_eq!(
            drain(&mut outbox),
            "data: 0\n\ndata: 2\n\ndata: 5\n\ndata: 6\n\n"
        );
    }

    #[test]
    fn a_frame_larger_than_the_limit_fits_into_an_empty_outbox() {
        let mut outbox = Outbox::default();
        let large = Frame::event(None, "t", &[b'1'; 1000], Class::Durable, None);
        assert_eq!(outbox.push(large.clone(), LIMITS), Push::Queued { shed: 0 });
        assert_eq!(outbox.push(large, LIMITS), Push::Overflow);
    }

    #[test]
    fn an_expired_frame_is_not_written() {
        let mut outbox = Outbox::default();
        for (number, expires) in [(0, 999), (1, 1_001), (2, 1_000)] {
            let expires = Some(Timestamp::from_millis(expires));
            let json = i32::to_string(&number);
            let frame = Frame::event(None, "t", json.as_bytes(), Class::Durable, expires);
            outbox.push(frame, LIMITS);
        }
        assert_eq!(drain(&mut outbox), "data: 1\n\n");
    }

    proptest! {
        #[test]
        fn durable_frames_come_out_in_order_until_overflow(
            pushes in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..80)
        ) {
            let mut meter = Meter::new(Metrics::default());
            let waiting = meter.waiting();
            let mut outbox = Outbox::new(waiting.clone());
            let mut expected = Vec::new();
            let mut written = String::new();
            for (number, (durable, take)) in pushes.into_iter().enumerate() {
                let class = if durable { Class::Durable } else { Class::Ephemeral };
                let pushed = outbox.push(frame(number, class), LIMITS);
                prop_assert!(outbox.len() <= LIMITS.events);
                prop_assert_eq!(waiting.get(), (outbox.len(), outbox.bytes));
                match pushed {
                    Push::Queued { .. } if durable => expected.push(number),
                    Push::Queued { shed } => prop_assert_eq!(shed, 0),
                    Push::Shed => prop_assert!(!durable),
                    Push::Overflow => {
                        prop_assert!(durable);
                        prop_assert_eq!(outbox.len(), LIMITS.events);
                    }
                }
                if take && let Some(batch) = outbox.take(false, 64, now, meter.stopwatch(Uuid::nil())) {
                    written.push_str(std::str::from_utf8(&batch.bytes).unwrap());
                }
            }
            written.push_str(&drain(&mut outbox));
            prop_assert_eq!(outbox.bytes, 0);
            prop_assert_eq!(waiting.get(), (0, 0));
            outbox.push(frame(0, Class::Durable), LIMITS);
            drop(outbox);
            prop_assert_eq!(waiting.get(), (0, 0));
            let numbers: Vec<usize> = written
                .lines()
                .filter_map(|line| line.strip_prefix("data: ")?.parse().ok())
                .collect();
            prop_assert!(numbers.is_sorted());
            prop_assert!(expected.iter().all(|number| numbers.contains(number)));
        }
    }
}
