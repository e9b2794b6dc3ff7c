//! One thread's share of the hub: the sessions whose sockets live on this thread.
//!
//! Everything here runs on one thread, so that delivering an event to a session takes no lock, no
//! atomic but the frame's reference count, and no task switch: frames are queued and the session's
//! connection, which is a task of the same thread, is woken. Other threads reach a shard through
//! its bounded inbox only.
//!
//! This file has what events and the clock do to sessions; `sessions.rs` how sessions come, go and
//! change; `find.rs` what is known about them.

mod find;
mod sessions;

pub(super) use find::ShardAccount;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::RwLock;
use rand::Rng as _;
use tracing::info;

use super::Delivery;
use super::attendance::Attendance;
use super::bearers::Bearers;
use super::handout::{Handed, Handout, Parcel};
use super::history::History;
use super::meter::Meter;
use super::metrics::Metrics;
use super::notice::{self, End, Gap};
use super::outbox::{Limits, Push};
use super::recent::Routed;
use super::registry::{Registry, SessionKey};
use super::schedule::{Due, Schedule};
use super::session::{Action, Phase, Session, Timing, connection_span};
use super::settings::StreamConfig;
use super::witness::{Gone, Who, Witness};
use crate::event::{Channel, Class, Event, EventId, Frame, MembershipChange, Timestamp, UserId};
use crate::memory::Memory;

/// The most bytes handed to the connection at once. The HTTP layer flushes at 32 KiB, so that one
/// such piece still leaves as one write.
const WRITE_BYTES: usize = 32 * 1024;

/// Nobody is asked to come back sooner: the instance needs a moment to be gone.
const SOONEST_RETURN_MS: u64 = 100;

/// The state of a shard.
#[derive(Debug)]
pub(super) struct Shard {
    registry: Registry<Session>,
    /// The sessions that listen on channels by name, by their user: few, compared with users' own
    /// streams.
    watchers: HashMap<UserId, Vec<SessionKey>, RandomState>,
    bearers: Bearers,
    schedule: Schedule,
    settings: Arc<StreamConfig>,
    limits: Limits,
    timing: Timing,
    metrics: Metrics,
    meter: Meter,
    /// Of all shards; written before an event reaches any of them.
    history: Arc<RwLock<History>>,
    /// Of all shards.
    attendance: Attendance,
    memory: Memory,
    /// The last event with a place in the log that went through here.
    head: EventId,
    /// The number of the last event without one that went through here.
    unlogged: u64,
    serial: u32,
    /// Kept between events so that routing does not allocate.
    overflowed: Vec<SessionKey>,
    /// Where it is remembered what became of sessions, unless that is off.
    witness: Option<Witness>,
}

impl Shard {
    pub(super) fn new(
        settings: Arc<StreamConfig>,
        metrics: Metrics,
        history: Arc<RwLock<History>>,
        attendance: Attendance,
        memory: Memory,
        head: EventId,
        witness: Option<Witness>,
    ) -> Self {
        Self {
            registry: Registry::default(),
            watchers: HashMap::default(),
            bearers: Bearers::default(),
            schedule: Schedule::default(),
            limits: settings.outbox(),
            timing: Timing {
                ping_interval: settings.ping_interval.0,
                expiry_warning: settings.expiry_warning.0,
                write_timeout: settings.write_timeout.0,
            },
            settings,
            meter: Meter::new(metrics.clone()),
            metrics,
            history,
            attendance,
            memory,
            head,
            unlogged: 0,
            serial: 0,
            overflowed: Vec::new(),
            witness,
        }
    }

    /// Whether this shard's positions are of the log that the history is of.
    pub(super) fn is_in_epoch(&self) -> bool {
        self.head.epoch() == self.history.read().head().epoch()
    }

    /// Routes one event; gives back how many sessions it was queued for, and was not.
    pub(super) fn deliver(&mut self, event: &Event, delivery: Delivery, now: Instant) -> Routed {
        // Who joins gets the event that says so, and so does who leaves.
        if let Some(change @ MembershipChange::Joined(user, _)) = &event.membership {
            self.change_membership(user, change, now);
        }
        let routed = self.route(event, delivery, now);
        if let Delivery::Unlogged(number) = delivery {
            self.unlogged = number;
        }
        if let Some(id) = event.id {
            self.head = id;
        }
        if let Some(change @ MembershipChange::Left(user, _)) = &event.membership {
            self.change_membership(user, change, now);
        }
        routed
    }

    fn route(&mut self, event: &Event, delivery: Delivery, now: Instant) -> Routed {
        let Self {
            registry,
            overflowed,
            limits,
            witness,
            ..
        } = self;
        let (mut recipients, mut shed) = (0, 0);
        // Before anything else suffers for want of memory.
        let sheds = event.frame.class() == Class::Ephemeral && self.memory.is_short();
        // An event without a position is always new.
        let position = event.id.map_or(u64::MAX, |id| id.position());
        // What a session gets that has had the event itself: it moves on by its position.
        let only_id = match (delivery, event.id) {
            (Delivery::Late(number), Some(id)) => Some((number, Frame::position(&id))),
            _ => None,
        };
        registry.route(&event.audience, |key, session| {
            if !session.is_live() || position <= session.has_up_to {
                return;
            }
            let serial = session.serial;
            let mut note = |frame: &Frame| {
                if let Some(witness) = witness.as_mut() {
                    witness.shed(Who { key, serial }, frame, now);
                }
            };
            if sheds {
                note(&event.frame);
                shed += 1;
                return;
            }
            let frame = match &only_id {
                Some((number, only_id)) if session.after_unlogged < *number => only_id,
                _ => &event.frame,
            };
            match session.outbox.push_noting(frame.clone(), *limits, note) {
                Push::Queued { shed: dropped } => {
                    recipients += 1;
                    shed += dropped as u64;
                    session.wake(now);
                }
                Push::Shed => shed += 1,
                Push::Overflow => overflowed.push(key),
            }
        });
        self.metrics.routed(recipients, shed);
        if let Some(tracked) = event.frame.tracked() {
            tracked.queued(recipients);
        }
        let overflowed = self.overflowed.len() as u64;
        if let Some(journey) = event.frame.journey() {
            // Not when this thread's turn began.
            journey.routed(recipients, shed, overflowed, Instant::now());
        }
        while let Some(key) = self.overflowed.pop() {
            self.end(key, End::SlowConsumer, now);
            if let (Some(id), Some(session)) = (event.id, self.registry.get_mut(key)) {
                // This event is the first that it did without.
                session.over_at = Some(id.position());
            }
        }
        Routed {
            queued: recipients,
            shed,
            overflowed,
        }
    }

    /// Tells every live session of a gap on the way to this instance.
    pub(super) fn gap(&mut self, gap: &Gap, now: Instant) {
        let frame = notice::gap(gap);
        // From where on, if positions begin anew.
        let anew = gap.to.and_then(|to| {
            let same_log = to.epoch() == self.head.epoch();
            let anew = !same_log || to.position() < self.head.position();
            let from = if same_log { to.position() } else { 0 };
            anew.then_some((from, same_log))
        });
        if let (Some((anew, same_log)), Some(witness)) = (anew, &mut self.witness) {
            witness.rewind(anew, same_log);
        }
        for key in self.registry.keys() {
            if let (Some((anew, _)), Some(session)) = (anew, self.registry.get_mut(key)) {
                session.has_up_to = 0;
                session.start.rewind(anew);
            }
            self.say(key, frame.clone(), now);
        }
        if let Some(to) = gap.to {
            self.head = to;
        }
    }

    /// Tells those live sessions of a gap that listen on channels of these resources.
    pub(super) fn gap_on(&mut self, gap: &Gap, resources: &[String], now: Instant) {
        let frame = notice::gap(gap);
        for key in self.registry.keys() {
            let channels = self.registry.channels_of(key);
            let concerned = |channel: &Channel| {
                let resource = channel.resource().as_str();
                resources.iter().any(|name| name == resource)
            };
            if channels.iter().any(concerned) {
                self.say(key, frame.clone(), now);
            }
        }
    }

    /// Queues messages that have waited for a session's user, if the session is here.
    pub(super) fn hand(&mut self, handout: &Handout, now: Instant) {
        let (own, limits) = (Channel::user(&handout.user), self.limits);
        let (epoch, head) = (self.head.epoch(), self.head.position());
        for key in self.sessions_of(&handout.user) {
            let listens = self.registry.listens_on(key, &own);
            let Some(session) = self.registry.get_mut(key) else {
                continue;
            };
            let meant = session.connection_id == handout.connection && session.is_live();
            if !meant || !listens {
                continue;
            }
            let Some(Parcel { messages, answer }) = handout.take() else {
                return;
            };
            let had = |id: &EventId| id.epoch() == epoch && id.position() > session.has_up_to;
            let mut handed = Vec::with_capacity(messages.len());
            let waits = !session.outbox.is_empty();
            // It may still be on its way to this shard.
            let written = |id: &EventId| !waits && id.position() <= head;
            for (id, frame) in messages {
                handed.push(match id {
                    Some(id) if had(&id) && written(&id) => Handed::Had,
                    Some(id) if had(&id) => Handed::Having,
                    _ => {
                        let (frame, receipt) = frame.registered();
                        match session.outbox.push(frame, limits) {
                            Push::Queued { .. } => Handed::Queued(receipt),
                            Push::Shed | Push::Overflow => Handed::Refused,
                        }
                    }
                });
            }
            session.wake(now);
            // Whoever handed it over may have gone; then nobody hears that it was written.
            let _ = answer.send(handed);
            return;
        }
    }

    /// Ends every session; `spread` is the time over which the clients are asked to come back.
    pub(super) fn drain(&mut self, spread: Duration, now: Instant) {
        let longest = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
        let longest = longest.max(SOONEST_RETURN_MS);
        for key in self.registry.keys() {
            let retry_ms = rand::rng().random_range(SOONEST_RETURN_MS..=longest);
            self.end_with(key, End::Draining, retry_ms, now);
        }
    }

    /// Does what the clock asks for.
    pub(super) fn tick(&mut self, now: Instant) {
        self.meter.report();
        let mut ping = None;
        while let Some(due) = self.schedule.pop(now) {
            self.attend(due, now, &mut ping);
        }
    }

    fn attend(&mut self, due: Due, now: Instant, ping: &mut Option<Frame>) {
        let timing = self.timing;
        let Some(session) = self.registry.get_mut(due.key) else {
            return;
        };
        if session.serial != due.serial {
            return;
        }
        if session.is_ending() {
            // It was told so, and may not take it.
            if let Some(connection) = &session.client.shared
                && session.is_stalled(now, &timing)
            {
                connection.cancel();
            }
            return;
        }
        let action = session.due(now, &timing);
        let at = session.next_due(now, &timing);
        match action {
            Some(Action::End(end)) => return self.end(due.key, end, now),
            Some(Action::Ping) => {
                // One ping serves all sessions of the same tick.
                let frame = ping.get_or_insert_with(|| notice::ping(Timestamp::now()));
                self.say(due.key, frame.clone(), now);
            }
            Some(Action::Beat) => self.say(due.key, Frame::beat(), now),
            Some(Action::WarnOfExpiry(left)) => {
                let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                let frame = notice::token_expiring(Timestamp::now(), left);
                self.say(due.key, frame, now);
            }
            None => {}
        }
        self.schedule.add(Due { at, ..due });
    }

    /// Queues a notice for a live session.
    fn say(&mut self, key: SessionKey, frame: Frame, now: Instant) {
        let limits = self.limits;
        let Some(session) = self.registry.get_mut(key) else {
            return;
        };
        if !session.is_live() {
            return;
        }
        match session.outbox.push(frame, limits) {
            Push::Queued { .. } => session.wake(now),
            Push::Shed | Push::Overflow => self.end(key, End::SlowConsumer, now),
        }
    }

    fn end(&mut self, key: SessionKey, end: End, now: Instant) {
        // Said in any case: a native EventSource comes back whatever `reconnect` says, and must not
        // do so at once.
        let retry_ms = self.retry_ms();
        self.end_with(key, end, retry_ms, now);
    }

    fn end_with(&mut self, key: SessionKey, end: End, retry_ms: u64, now: Instant) {
        let Some(session) = self.registry.get_mut(key) else {
            return;
        };
        if matches!(session.phase, Phase::Ending(_)) {
            return;
        }
        session.phase = Phase::Ending(end);
        session.over_at = Some(self.head.position());
        if end == End::SlowConsumer {
            // What waits can't be written in time; the client resumes behind what it has read.
            let next = self.head.position() + 1;
            session.unwritten = Some(session.outbox.waits_from().unwrap_or(next));
            session.outbox.clear();
        }
        session.outbox.append(notice::closing(end, retry_ms));
        session.wake(now);
        if session.client.shared.is_some() {
            let (at, serial) = (now + self.timing.write_timeout, session.serial);
            self.schedule.add(Due { at, key, serial });
        }
    }

    /// The configured reconnection time, ±20 %.
    fn retry_ms(&self) -> u64 {
        let jitter = rand::rng().random_range(0.8..=1.2);
        let retry = self.settings.retry.0.mul_f64(jitter);
        u64::try_from(retry.as_millis()).unwrap_or(u64::MAX)
    }

    /// Hands over what waits for a session, or registers to be woken; `None` ends the stream.
    pub(super) fn poll(
        &mut self,
        key: SessionKey,
        context: &mut Context<'_>,
    ) -> Poll<Option<Bytes>> {
        let Some(session) = self.registry.get_mut(key) else {
            return Poll::Ready(None);
        };
        let stopwatch = self.meter.stopwatch(session.connection_id);
        let (named, outbox) = (session.named, &mut session.outbox);
        if let Some(batch) = outbox.take(named, WRITE_BYTES, Timestamp::now, stopwatch) {
            session.events_sent += batch.events;
            session.waiting_since = None;
            if let Some(witness) = &mut self.witness
                && session.outbox.is_empty()
            {
                let serial = session.serial;
                witness.drained(Who { key, serial }, batch.now.unwrap_or_else(Instant::now));
            }
            self.metrics.written(batch.events, batch.bytes.len() as u64);
            for receipt in batch.receipts {
                // Nobody may wait any more.
                let _ = receipt.send(());
            }
            if let (false, Some(user)) = (batch.tracked.is_empty(), self.registry.user_of(key)) {
                batch
                    .tracked
                    .iter()
                    .for_each(|tracked| tracked.written(user));
            }
            return Poll::Ready(Some(batch.bytes));
        }
        if let (Some(_), Some(witness)) = (session.waiting_since.take(), &mut self.witness) {
            // All that waited was past its time.
            let serial = session.serial;
            witness.drained(Who { key, serial }, Instant::now());
        }
        if matches!(session.phase, Phase::Ending(_)) {
            return Poll::Ready(None);
        }
        session.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// As [`Shard::poll`], but whole frames.
    pub(super) fn poll_frames(
        &mut self,
        key: SessionKey,
        context: &mut Context<'_>,
        most: usize,
    ) -> Poll<Option<Vec<Frame>>> {
        let Some(session) = self.registry.get_mut(key) else {
            return Poll::Ready(None);
        };
        let waited = session.waiting_since.take().is_some();
        let stopwatch = self.meter.stopwatch(session.connection_id);
        let frames = session.outbox.take_frames(most, Timestamp::now, stopwatch);
        if let Some(witness) = &mut self.witness
            && waited
            && session.outbox.is_empty()
        {
            let serial = session.serial;
            witness.drained(Who { key, serial }, Instant::now());
        }
        if !frames.is_empty() {
            let events = frames.iter().filter(|frame| frame.is_event()).count() as u64;
            session.events_sent += events;
            let bytes = frames.iter().map(Frame::len).sum::<usize>();
            self.metrics.written(events, bytes as u64);
            for receipt in frames.iter().filter_map(Frame::take_receipt) {
                let _ = receipt.send(());
            }
            for tracked in frames.iter().filter_map(Frame::tracked) {
                if let Some(user) = self.registry.user_of(key) {
                    tracked.written(user);
                }
            }
            return Poll::Ready(Some(frames));
        }
        if matches!(session.phase, Phase::Ending(_)) {
            return Poll::Ready(None);
        }
        session.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Removes a session whose connection is over.
    pub(super) fn remove(&mut self, key: SessionKey, now: Instant) {
        let user = self.registry.user_of(key).cloned();
        let on = self.witness.as_ref().and_then(|witness| {
            let channels = self.registry.each_channel_of(key);
            witness.turns.hashing().all(channels)
        });
        let (Some(user), Some(session)) = (user, self.registry.remove(key)) else {
            return;
        };
        let end = match session.phase {
            Phase::Ending(end) => end,
            Phase::Live => End::ClientGone,
            Phase::Pending(_) => End::NotOpened,
        };
        if session.named_channels.is_some() {
            self.unwatch(&user, key);
        }
        if let Some(credential) = &session.credential {
            self.bearers.remove(key, credential);
        }
        debug_assert!(!self.registry.is_empty() || self.bearers.is_empty());
        self.metrics.ended(session.client.transport, end);
        if let Some(witness) = &mut self.witness
            && end != End::NotOpened
        {
            witness.gone(Gone {
                who: Who {
                    key,
                    serial: session.serial,
                },
                user: user.clone(),
                connection: session.connection_id,
                transport: session.client.transport,
                named: session.asked_for(),
                on,
                turns: session.turns,
                opened: session.opened_at,
                ended: now,
                end,
                unwritten: session.unwritten.or_else(|| session.outbox.waits_from()),
                start: session.start,
                after_unlogged: session.after_unlogged,
                head: EventId::unknown(
                    self.head.epoch(),
                    session.over_at.unwrap_or(self.head.position()),
                ),
            });
        }
        let duration = now.saturating_duration_since(session.opened_at);
        connection_span(session.connection_id, &user).in_scope(|| {
            info!(
                reason = end.as_str(),
                duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
                events = session.events_sent,
                "disconnected"
            );
        });
    }
}
