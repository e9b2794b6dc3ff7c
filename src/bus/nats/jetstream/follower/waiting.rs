//! What waits: numbered copies behind a hole, and published ones for their position.

use std::time::Instant;

use tracing::warn;

use super::{AHEAD, AHEAD_BYTES, FUTILE, Follower, PAUSE, Published, Why};
use crate::bus::nats::jetstream::cursor::Place;
use crate::bus::nats::jetstream::reader::Logged;
use crate::bus::{Arrival, Message, Passage};
use crate::event::Timestamp;

impl Follower {
    /// Looks for what has waited for half of its time. Numbered copies come within moments, so it is
    /// likely to be lost, and there is time left to read it before it would go on without a position.
    pub(super) fn ask_for_overdue(&mut self, now: Instant) {
        let Some(until) = now.checked_sub(self.park / 2) else {
            return;
        };
        let since = self.pairing.parked_since();
        if since.is_some_and(|since| since > self.asked_for && since <= until) {
            self.asked_for = until;
            self.want(Why::Overdue, now);
        }
    }

    /// The database may be ahead of what was not read yet, so this is said behind it.
    pub(super) fn say_doubt(&mut self) {
        if std::mem::take(&mut self.in_doubt) {
            self.arrivals.push_back(Arrival::Doubt);
        }
    }

    /// Lets the copies that waited go on, up to the next hole. Up to `compared`, the log has just
    /// been compared with what is remembered.
    pub(super) fn drain(&mut self, compared: u64, now: Instant) {
        while let (Some(logged), Some(cursor)) = (self.ahead.front_mut(), &self.cursor) {
            logged.id = logged.id.in_epoch(cursor.epoch());
            let (place, position) = (cursor.place(logged.id), logged.id.position());
            match place {
                Place::Ahead => {
                    if self.is_worth_waiting_for(now) {
                        return self.want(Why::Hole, now);
                    }
                    warn!(
                        position,
                        "a numbered message is ahead of the log and is dropped"
                    );
                    // Those behind it would each be waited for. They are read if they are there,
                    // and compared: one may contradict what was there.
                    self.forget_ahead();
                    return self.want(Why::Conflict, now);
                }
                Place::Conflict if compared == 0 => return self.want(Why::Conflict, now),
                // The log said that it does not reach that far: it may have been asked too early.
                Place::Conflict if position > compared && self.is_worth_waiting_for(now) => {
                    return self.want(Why::Conflict, now);
                }
                Place::Conflict => warn!(
                    position,
                    "a numbered message contradicts the log and is dropped"
                ),
                Place::Next | Place::Known => {}
            }
            let Some(logged) = self.ahead.pop_front() else {
                return;
            };
            self.ahead_bytes -= logged.payload.len();
            self.futile = 0;
            if place == Place::Next {
                self.deliver(logged, now);
            }
        }
    }

    pub(super) fn wait_ahead(&mut self, logged: Logged) {
        if self.ahead.len() < AHEAD && self.ahead_bytes < AHEAD_BYTES {
            self.ahead_bytes += logged.payload.len();
            self.ahead.push_back(logged);
        }
    }

    /// Whether to ask the log once more about the first copy that waits, after a pause.
    pub(super) fn is_worth_waiting_for(&mut self, now: Instant) -> bool {
        self.futile += 1;
        self.not_before = now + PAUSE.mul_f64(f64::from(self.futile.min(4) - 1));
        self.futile <= FUTILE
    }

    pub(super) fn forget_ahead(&mut self) {
        self.ahead.clear();
        self.ahead_bytes = 0;
        self.futile = 0;
    }

    /// Hands on what has a position, and moves there.
    pub(super) fn deliver(&mut self, logged: Logged, now: Instant) {
        let Some(cursor) = &mut self.cursor else {
            return;
        };
        cursor.advance(logged.id);
        self.metrics.position.set(logged.id.position());
        if let Some(message_id) = &logged.message_id {
            self.receipts.taken(message_id, logged.id, now);
        }
        let key = self.keys.of(&logged.subject, &logged.payload);
        let delivered = self.pairing.numbered(key, now);
        let past = self
            .past_until
            .is_some_and(|until| logged.id.position() <= until);
        let passage = match delivered {
            _ if past => Passage::Past,
            Some(tag) => {
                self.metrics.late.inc();
                Passage::Late(tag)
            }
            None => Passage::Live,
        };
        self.arrivals.push_back(Arrival::Message(Message {
            subject: logged.subject,
            payload: logged.payload,
            id: Some(logged.id),
            at: logged.at,
            passage,
            trace: logged.trace,
        }));
    }

    /// Hands on, without a position, what the log has not taken in time.
    pub(super) fn release(&mut self, now: Instant) {
        // While the log is being asked and answers, what is missing may yet come from there.
        let waiting = match self.look {
            Some(Why::Routine | Why::Overdue) | None => {
                self.reading.is_some() || self.cursor.is_none()
            }
            Some(_) => true,
        };
        let patience = self.park * 2;
        if waiting && now < self.progress + patience && !self.pairing.is_full() {
            return;
        }
        while let Some((key, message)) = self.pairing.overdue(now) {
            self.say_doubt();
            if self.is_duplicate(&message, now) {
                self.metrics.duplicates.inc();
                continue;
            }
            let tag = self.pairing.tag(key, now);
            self.metrics.unlogged.inc();
            self.unreported += 1;
            self.arrivals.push_back(Arrival::Message(Message {
                subject: message.subject,
                payload: message.payload,
                id: None,
                at: Timestamp::now(),
                passage: Passage::Unlogged(tag),
                trace: message.trace,
            }));
        }
    }

    pub(super) fn is_duplicate(&self, message: &Published, now: Instant) -> bool {
        let id = message.message_id.as_deref();
        id.is_some_and(|id| self.receipts.find_again(id, now).is_some())
    }
}
