//! Decides what of the log goes on to the feed, in which order, and what to ask the log. Pure: what
//! arrives comes in, arrivals and errands come out; the task does the talking.
//!
//! - Numbered copies go on in the order of their positions. Where one is missing, it is read from
//!   the log before anything behind it goes on.
//! - What stands at a position is known by its check for the last few thousand. When something
//!   else stands there, the log was rolled back, and what it has instead is read.
//! - A published copy that the log does not take in time goes on without a position.

mod reading;
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{info, warn};

use super::cursor::{Cursor, Place};
use super::metrics::LogMetrics;
use super::pairing::{Keys, Pairing};
use super::reader::Logged;
use super::stream::Extent;
use crate::bus::Arrival;
use crate::bus::receipts::Receipts;
use crate::event::{Epoch, EventId, TraceContext};

/// Between two looks at the log's extent.
const ROUTINE: Duration = Duration::from_secs(1);

/// The pause after a look that found the log ahead, in which what is on its way may arrive, and
/// before an errand that failed is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// Between two log lines about messages that the log has not taken.
const REPORTS: Duration = Duration::from_secs(1);

/// How often a copy may turn out to be ahead of the log itself before it is not believed.
const FUTILE: u32 = 8;

/// Copies that wait for a hole before them to be filled; more are dropped and read from the log.
const AHEAD: usize = 65_536;
const AHEAD_BYTES: usize = 64 << 20;

/// Something to ask the log. One at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    /// Make or adopt the stream.
    Open,
    /// Ask for its extent.
    Look,
    /// Read a range.
    Read { epoch: Epoch, from: u64, to: u64 },
}

/// A message as it was published.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) subject: Arc<str>,
    pub(super) payload: Bytes,
    pub(super) message_id: Option<String>,
    pub(super) trace: Option<TraceContext>,
}

/// Why the log is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// From time to time.
    Routine,
    /// A message has waited long for its position: perhaps the log has it, and its numbered copy
    /// was lost on the way.
    Overdue,
    /// Something is missing.
    Hole,
    /// The connection was down: what was the last position may have become something else.
    Connected,
    /// A copy contradicts what stood at its position.
    Conflict,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    why: Why,
    start: u64,
    next: u64,
    to: u64,
}

/// The state of following.
#[derive(Debug)]
pub(super) struct Follower {
    /// The last place before there was a log.
    before: EventId,
    /// How many positions of the past to begin with.
    past: u64,
    cursor: Option<Cursor>,
    /// Up to here, what is read is the past.
    past_until: Option<u64>,
    keys: Keys,
    pairing: Pairing<(u64, Published)>,
    receipts: Receipts,
    /// Numbered copies behind a hole.
    ahead: VecDeque<Logged>,
    ahead_bytes: usize,
    /// How often the first of them was ahead of the log.
    futile: u32,
    look: Option<Why>,
    reading: Option<Reading>,
    missing: bool,
    /// Whether the connection was down and what the log has taken meanwhile is still to be read.
    in_doubt: bool,
    /// Where the cursor stood when a range that was read had less than the log had said.
    ended_at: Option<u64>,
    /// The log ends here, before the cursor; where exactly it was rolled back is being read.
    shrunk_to: Option<u64>,
    /// Since when the log has been seen to end before the cursor.
    shorter_since: Option<Instant>,
    /// The log's end at the last look, and whether a numbered copy has come since.
    behind: Option<u64>,
    heard: bool,
    forgotten: u64,
    /// Messages that went on without a position since that was last logged, and when it may be again.
    unreported: u64,
    next_report: Instant,
    next_look: Instant,
    /// Messages that came up to here are not asked for any more.
    asked_for: Instant,
    not_before: Instant,
    /// The last time that the log gave something, or that waiting for it began.
    progress: Instant,
    park: Duration,
    arrivals: VecDeque<Arrival>,
    metrics: LogMetrics,
}

impl Follower {
    /// Follows nothing yet. `before` is the place that the hub begins at, `past` how many recent
    /// positions to read first, `park` how long a message waits for its position; `receipts` hear where
    /// messages went.
    pub(super) fn new(
        before: EventId,
        past: usize,
        park: Duration,
        receipts: Receipts,
        metrics: LogMetrics,
        now: Instant,
    ) -> Self {
        Self {
            before,
            past: past as u64,
            cursor: None,
            past_until: None,
            keys: Keys::default(),
            pairing: Pairing::new(park),
            receipts,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            futile: 0,
            look: None,
            reading: None,
            missing: false,
            in_doubt: false,
            ended_at: None,
            shrunk_to: None,
            shorter_since: None,
            behind: None,
            heard: false,
            forgotten: 0,
            unreported: 0,
            next_report: now,
            next_look: now,
            asked_for: now,
            not_before: now,
            progress: now,
            park,
            arrivals: VecDeque::new(),
            metrics,
        }
    }

    /// Whether there is a log, and its recent past is here.
    pub(super) fn is_following(&self) -> bool {
        self.cursor.is_some() && self.past_until.is_none()
    }

    /// Whether there ever was a log.
    pub(super) fn has_begun(&self) -> bool {
        self.cursor.is_some()
    }

    /// The log's epoch, for ids that are made elsewhere; any until there is a log.
    pub(super) fn epoch(&self) -> Epoch {
        self.cursor
            .as_ref()
            .map_or(self.before.epoch(), Cursor::epoch)
    }

    /// The next arrival for the feed.
    pub(super) fn pop(&mut self) -> Option<Arrival> {
        self.arrivals.pop_front()
    }

    /// What to ask the log now, if nothing else is under way.
    pub(super) fn errand(&self, now: Instant) -> Option<Errand> {
        if now < self.not_before {
            return None;
        }
        match (&self.cursor, self.reading) {
            (None, _) => Some(Errand::Open),
            _ if self.missing => Some(Errand::Open),
            (Some(cursor), Some(reading)) => Some(Errand::Read {
                epoch: cursor.epoch(),
                from: reading.next,
                to: reading.to,
            }),
            _ => self.look.map(|_| Errand::Look),
        }
    }

    /// The connection is there, for the first time or again.
    pub(super) fn connected(&mut self, now: Instant) {
        self.not_before = now;
        self.progress = now;
        // What waited is read if it is there: the log may have lost it.
        self.forget_ahead();
        if self.cursor.is_some() {
            self.in_doubt = true;
            // What is being read is looked at again from the start.
            if let Some(reading) = self.reading.take() {
                self.want(reading.why, now);
            }
            self.want(Why::Connected, now);
        }
    }

    /// A message has come as it was published.
    pub(super) fn published(&mut self, message: Published, now: Instant) {
        let key = self.keys.of(&message.subject, &message.payload);
        let bytes = message.payload.len();
        self.pairing.published(key, now, bytes, (key, message));
        if self.pairing.is_full() {
            self.release(now);
        }
    }

    /// A numbered copy has come. Its id may have the wrong epoch.
    pub(super) fn numbered(&mut self, mut logged: Logged, now: Instant) {
        self.heard = true;
        // One that seems to be next may be of a log that was rolled back and has grown again, and
        // would hide that.
        let comparing = matches!(self.look, Some(Why::Connected | Why::Conflict));
        let busy = comparing || self.reading.is_some() || self.missing || !self.ahead.is_empty();
        let Some(cursor) = &self.cursor else {
            return self.wait_ahead(logged);
        };
        logged.id = logged.id.in_epoch(cursor.epoch());
        if busy {
            return self.wait_ahead(logged);
        }
        match cursor.place(logged.id) {
            Place::Next => self.deliver(logged, now),
            Place::Known if logged.id.position() >= cursor.remembers_from() => {}
            // From long ago, or from another log.
            Place::Known => self.want(Why::Hole, now),
            Place::Ahead => {
                self.wait_ahead(logged);
                self.want(Why::Hole, now);
            }
            Place::Conflict => {
                self.wait_ahead(logged);
                self.want(Why::Conflict, now);
            }
        }
    }

    /// Lets time pass: messages that the log has not taken go on, and the log is looked at.
    pub(super) fn tick(&mut self, now: Instant) {
        self.release(now);
        if self.unreported > 0 && now >= self.next_report {
            warn!(
                messages = self.unreported,
                "messages were delivered without an id because the log did not take them in time"
            );
            self.unreported = 0;
            self.next_report = now + REPORTS;
        }
        if !self.is_following() {
            return;
        }
        self.ask_for_overdue(now);
        let idle = self.look.is_none() && self.reading.is_none();
        if idle && now >= self.next_look {
            self.next_look = now + ROUTINE;
            self.heard = false;
            self.look = Some(Why::Routine);
        }
    }

    /// Messages have been dropped on the way here: published copies, numbered ones, or both.
    pub(super) fn dropped(&mut self, now: Instant) {
        if self.is_following() {
            self.want(Why::Hole, now);
        }
    }

    /// The stream was made or adopted.
    pub(super) fn opened(&mut self, extent: Extent, now: Instant) {
        self.missing = false;
        if self.cursor.is_some() {
            self.look = Some(Why::Connected);
            return self.looked(extent, now);
        }
        self.progress = now;
        let first = extent
            .first
            .max((extent.last + 1).saturating_sub(self.past))
            .max(1);
        let origin = EventId::unknown(extent.epoch, first - 1);
        info!(
            epoch = extent.epoch.0,
            from = first,
            to = extent.last,
            "following the log"
        );
        self.cursor = Some(Cursor::at(origin));
        self.forgotten = first - 1;
        self.arrivals.push_back(Arrival::Began(origin));
        self.past_until = Some(extent.last);
        self.begin_reading(Why::Hole, first, extent.last, now);
    }

    /// The log has said how far it reaches.
    pub(super) fn looked(&mut self, extent: Extent, now: Instant) {
        let why = self.look.take().unwrap_or(Why::Routine);
        self.progress = now;
        // It may be from before the connection broke.
        self.shrunk_to = None;
        let Some(cursor) = &self.cursor else {
            return;
        };
        let (position, remembers_from) = (cursor.position(), cursor.remembers_from());
        if extent.epoch != cursor.epoch() {
            return self.recreated(extent, now);
        }
        self.metrics.lag.set(extent.last.saturating_sub(position));
        if extent.last < position {
            return self.shorter(extent, why, now);
        }
        self.shorter_since = None;
        if extent.first > position + 1 {
            self.expired(extent);
        } else if extent.first > self.forgotten + 1 {
            self.forgotten = extent.first - 1;
            self.arrivals.push_back(Arrival::Forgotten(self.forgotten));
        }
        let from = match why {
            Why::Conflict => remembers_from,
            Why::Connected | Why::Hole => position,
            Why::Overdue if extent.last == position => return,
            Why::Overdue => position,
            Why::Routine if extent.last == position || self.heard => {
                self.behind = None;
                return;
            }
            // What is on its way may have arrived by the next look.
            Why::Routine if self.behind.is_none_or(|behind| position >= behind) => {
                self.behind = Some(extent.last);
                self.next_look = now + PAUSE;
                return;
            }
            Why::Routine => position,
        };
        self.behind = None;
        self.begin_reading(why, from.max(extent.first).max(1), extent.last, now);
    }

    /// An errand has failed, in `missing` because the stream is not there.
    pub(super) fn failed(&mut self, missing: bool, now: Instant) {
        self.not_before = now + PAUSE;
        self.metrics.failures.inc();
        // Whoever answers next may be another leader, that is behind for a moment, too.
        self.shorter_since = None;
        if missing && self.cursor.is_some() {
            self.missing = true;
            self.reading = None;
        }
    }

    fn want(&mut self, why: Why, now: Instant) {
        let idle = self.look.is_none() && self.reading.is_none();
        if idle || matches!(self.look, Some(Why::Routine | Why::Overdue)) {
            self.progress = now;
        }
        // A look for a better reason takes in one for a lesser.
        let rank = |why: Why| match why {
            Why::Routine => 0,
            Why::Overdue => 1,
            Why::Hole => 2,
            Why::Connected => 3,
            Why::Conflict => 4,
        };
        if self.look.is_none_or(|look| rank(look) < rank(why)) {
            self.look = Some(why);
        }
    }

    fn last(&self) -> EventId {
        self.cursor.as_ref().map_or(self.before, Cursor::last)
    }

    fn position(&self) -> u64 {
        self.cursor.as_ref().map_or(0, Cursor::position)
    }
}

#[cfg(test)]
mod tests;
