//! One thread's share of the hub: the sessions whose sockets live on this thread.
//!
//! Everything here runs on one thread, so that delivering an event to a session takes no lock, no
//! atomic but the frame's reference count, and no task switch: frames are queued and the session's
//! connection, which is a task of the same thread, is woken. Other threads reach a shard through
//! its bounded inbox only.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::Rng as _;
use tracing::info;

use super::metrics::Metrics;
use super::notice::{self, Confirmation, End, Gap, GapReason};
use super::outbox::{Limits, Push};
use super::registry::{Registry, SessionKey};
use super::schedule::{Due, Schedule};
use super::session::{Action, Opening, Phase, Session, Timing, connection_span};
use super::settings::StreamConfig;
use super::stream::Resume;
use crate::event::{Channel, ChatId, Event, EventId, Frame, MembershipChange, Timestamp, UserId};

/// The most bytes handed to the connection at once. The HTTP layer flushes at 32 KiB, so that one
/// such piece still leaves as one write.
const WRITE_BYTES: usize = 32 * 1024;

/// The state of a shard.
#[derive(Debug)]
pub(super) struct Shard {
    registry: Registry<Session>,
    schedule: Schedule,
    settings: Arc<StreamConfig>,
    limits: Limits,
    timing: Timing,
    metrics: Metrics,
    /// The last event with a place in the log that went through here.
    head: EventId,
    serial: u32,
    /// Kept between events so that routing does not allocate.
    overflowed: Vec<SessionKey>,
}

impl Shard {
    pub(super) fn new(settings: Arc<StreamConfig>, metrics: Metrics, head: EventId) -> Self {
        Self {
            registry: Registry::default(),
            schedule: Schedule::default(),
            limits: settings.outbox(),
            timing: Timing {
                ping_interval: settings.ping_interval.0,
                expiry_warning: settings.expiry_warning.0,
                write_timeout: settings.write_timeout.0,
            },
            settings,
            metrics,
            head,
            serial: 0,
            overflowed: Vec::new(),
        }
    }

    /// Routes one event; gives back how many sessions it was queued for.
    pub(super) fn deliver(&mut self, event: &Event, now: Instant) -> u64 {
        if let Some(MembershipChange::Joined(user, chat)) = &event.membership {
            self.change_membership(user, &MembershipChange::Joined(user.clone(), chat.clone()));
        }
        let recipients = self.route(event, now);
        if let Some(MembershipChange::Left(user, chat)) = &event.membership {
            self.change_membership(user, &MembershipChange::Left(user.clone(), chat.clone()));
        }
        if let Some(id) = event.id {
            self.head = id;
        }
        recipients
    }

    fn route(&mut self, event: &Event, now: Instant) -> u64 {
        let Self {
            registry,
            overflowed,
            limits,
            ..
        } = self;
        let (mut recipients, mut shed) = (0, 0);
        registry.route(&event.audience, |key, session| {
            if !session.is_live() {
                return;
            }
            match session.outbox.push(event.frame.clone(), *limits) {
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
        while let Some(key) = self.overflowed.pop() {
            self.end(key, End::SlowConsumer, now);
        }
        recipients
    }

    fn change_membership(&mut self, user: &UserId, change: &MembershipChange) {
        for key in self.registry.sessions_of(user) {
            if let Some(Session {
                phase: Phase::Pending(changes),
                ..
            }) = self.registry.get_mut(key)
            {
                changes.push(change.clone());
            } else {
                self.apply(key, change);
            }
        }
    }

    fn apply(&mut self, key: SessionKey, change: &MembershipChange) {
        match change {
            MembershipChange::Joined(_, chat) => self.registry.join(key, &Channel::chat(chat)),
            MembershipChange::Left(_, chat) => self.registry.leave(key, &Channel::chat(chat)),
        };
    }

    /// Tells every live session of a gap on the way to this instance.
    pub(super) fn gap(&mut self, gap: &Gap, now: Instant) {
        let frame = notice::gap(gap);
        for key in self.registry.keys() {
            self.say(key, frame.clone(), now);
        }
        if let Some(to) = gap.to {
            self.head = to;
        }
    }

    /// Ends every session; `spread` is the time over which the clients are asked to come back.
    pub(super) fn drain(&mut self, spread: Duration, now: Instant) {
        let longest = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
        for key in self.registry.keys() {
            let retry_ms = rand::rng().random_range(0..=longest);
            self.end_with(key, End::Draining, retry_ms, now);
        }
    }

    /// Does what the clock asks for.
    pub(super) fn tick(&mut self, now: Instant) {
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
        if session.serial != due.serial || matches!(session.phase, Phase::Ending(_)) {
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
        let retry_ms = if end.reconnect() { self.retry_ms() } else { 0 };
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
        if end == End::SlowConsumer {
            // What waits can't be written in time; the client resumes behind what it has read.
            session.outbox.clear();
        }
        session.outbox.append(notice::closing(end, retry_ms));
        session.wake(now);
    }

    /// Adds a session that receives nothing until it is activated, but misses no join or leave.
    pub(super) fn register(&mut self, user: &UserId, opening: Opening, now: Instant) -> SessionKey {
        // Spread over the whole interval, so that clients that came together are not pinged
        // together for ever.
        let first_ping = self
            .timing
            .ping_interval
            .mul_f64(rand::rng().random_range(0.1..=1.0));
        self.serial = self.serial.wrapping_add(1);
        let session = Session::new(opening, self.serial, now, first_ping);
        let key = self.registry.add(user.clone(), session);
        self.registry.join(key, &Channel::user(user));
        self.metrics.connections.inc();
        key
    }

    /// Makes a registered session live: it listens on its chats from the current position on, and
    /// the confirmation is the first thing in its outbox. Gives back the chats it listens on.
    pub(super) fn activate(
        &mut self,
        key: SessionKey,
        chats: Vec<ChatId>,
        resume: Resume,
        now: Instant,
    ) -> Vec<ChatId> {
        let timing = self.timing;
        let Some(session) = self.registry.get_mut(key) else {
            return Vec::new();
        };
        let changes = match std::mem::replace(&mut session.phase, Phase::Live) {
            Phase::Pending(changes) => changes,
            Phase::Live => Vec::new(),
            ending @ Phase::Ending(_) => {
                // Ended while its chats were looked up: the goodbye already waits.
                session.phase = ending;
                Vec::new()
            }
        };
        let (serial, at) = (session.serial, session.next_due(now, &timing));
        self.schedule.add(Due { at, key, serial });
        let chats = after_changes(chats, &changes);
        for chat in &chats {
            self.registry.join(key, &Channel::chat(chat));
        }
        self.confirm(key, &chats, resume, now);
        chats
    }

    fn confirm(&mut self, key: SessionKey, chats: &[ChatId], resume: Resume, now: Instant) {
        let Some(user) = self.registry.user_of(key).cloned() else {
            return;
        };
        let Some(connection_id) = self.registry.get_mut(key).map(|s| s.connection_id) else {
            return;
        };
        let missed = missed(resume, self.head);
        let confirmation = notice::confirmation(
            &Confirmation {
                user: &user,
                chats,
                connection_id: &connection_id.simple().to_string(),
                recovered: resume != Resume::Fresh && missed.is_none(),
                replayed: 0,
                ping_interval_ms: self.settings.ping_interval.as_millis(),
            },
            &self.head,
            Timestamp::now(),
        );
        let retry = Frame::retry(self.retry_ms());
        let Some(session) = self.registry.get_mut(key) else {
            return;
        };
        let goodbye = std::mem::take(&mut session.outbox);
        session.outbox.append(retry);
        session.outbox.append(confirmation);
        if let Some(gap) = missed {
            session.outbox.append(notice::gap(&gap));
        }
        session.outbox.absorb(goodbye);
        session.wake(now);
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
        if let Some(batch) = session
            .outbox
            .take(session.named, WRITE_BYTES, Timestamp::now)
        {
            session.events_sent += batch.events;
            session.waiting_since = None;
            self.metrics.written(batch.events, batch.bytes.len() as u64);
            return Poll::Ready(Some(batch.bytes));
        }
        session.waiting_since = None;
        if matches!(session.phase, Phase::Ending(_)) {
            return Poll::Ready(None);
        }
        session.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Removes a session whose connection is over.
    pub(super) fn remove(&mut self, key: SessionKey, now: Instant) {
        let user = self.registry.user_of(key).cloned();
        let (Some(user), Some(session)) = (user, self.registry.remove(key)) else {
            return;
        };
        let end = match session.phase {
            Phase::Ending(end) => end,
            Phase::Live => End::ClientGone,
            Phase::Pending(_) => End::NotOpened,
        };
        self.metrics.connections.dec();
        self.metrics.ended(end);
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

/// The looked-up chats with the joins and leaves that happened since, sorted.
fn after_changes(mut chats: Vec<ChatId>, changes: &[MembershipChange]) -> Vec<ChatId> {
    for change in changes {
        match change {
            MembershipChange::Joined(_, chat) => chats.push(chat.clone()),
            MembershipChange::Left(_, chat) => chats.retain(|other| other != chat),
        }
    }
    chats.sort_unstable();
    chats.dedup();
    chats
}

/// What a resuming client missed and can't have, given that nothing is replayed from memory yet.
fn missed(resume: Resume, head: EventId) -> Option<Gap> {
    let (reason, from) = match resume {
        Resume::Fresh => return None,
        Resume::After(id) if id == head => return None,
        Resume::After(id) if id.epoch() == head.epoch() => (GapReason::Expired, Some(id)),
        Resume::After(id) => (GapReason::Epoch, Some(id)),
        Resume::Unreadable => (GapReason::Epoch, None),
    };
    Some(Gap {
        reason,
        from,
        to: Some(head),
    })
}
