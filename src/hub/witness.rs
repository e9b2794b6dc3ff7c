//! What a shard remembers of its sessions for those who ask later: which have ended, when outboxes were
//! written to the end, what was shed. Pure, and bounded: the oldest make room.

use std::collections::VecDeque;
use std::time::Instant;

use uuid::Uuid;

use super::inspect::Transport;
use super::listening::{Hashing, Turns};
use super::notice::{End, Gap};
use super::registry::SessionKey;
use crate::event::{Channel, ChatId, EventId, Frame, UserId};

/// The most memory that sessions that have ended may take, in bytes: what 5,000 take that listened on 50 channels.
const GONE_BYTES: usize = 4 << 20;

/// Times that an outbox was written to the end; 768 KiB on each thread.
const DRAINS: usize = 32_768;

/// Frames that were shed.
const SHED: usize = 4_096;

/// The most joins and leaves within a replay that are remembered.
const CHANGES: usize = 64;

/// Tells a session from those that had its place before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) key: SessionKey,
    pub(super) serial: u32,
}

/// How a session began to be live.
#[derive(Debug, Clone, Default)]
pub(super) struct Start {
    /// The last position before it: what came later came live.
    pub(super) live_from: u64,
    /// Where its client came back from; `None` where it is new. Few sessions of an idle server have this.
    pub(super) comeback: Option<Box<CameBack>>,
}

/// Where a client came back from, and what it was given.
#[derive(Debug, Clone)]
pub(super) struct CameBack {
    /// It had, or was told that it has missed, everything up to here.
    pub(super) from: u64,
    /// What it was told that it has missed.
    pub(super) gap: Option<Gap>,
    /// What it was given up to here was read from the log, and the rest from memory.
    pub(super) log_up_to: u64,
    /// The joins (`true`) and leaves by which it was given what was in its user's time; `None` where they were
    /// too many.
    pub(super) changes: Option<Box<[(u64, ChatId, bool)]>>,
}

impl Start {
    /// Positions go on behind one that is not behind the last, in the same log or, from 0, in another.
    pub(super) fn rewind(&mut self, to: u64) {
        self.live_from = self.live_from.min(to);
        if to == 0 {
            self.comeback = None;
        }
        if let Some(comeback) = &mut self.comeback {
            comeback.from = comeback.from.min(to);
            comeback.log_up_to = comeback.log_up_to.min(to);
        }
    }
}

impl CameBack {
    /// What is remembered of the joins and leaves of a replay.
    pub(super) fn few(changes: Vec<(u64, ChatId, bool)>) -> Option<Box<[(u64, ChatId, bool)]>> {
        (changes.len() <= CHANGES).then(|| changes.into_boxed_slice())
    }
}

/// A session that has ended.
#[derive(Debug, Clone)]
pub(super) struct Gone {
    pub(super) who: Who,
    pub(super) user: UserId,
    pub(super) connection: Uuid,
    pub(super) transport: Transport,
    pub(super) named: Option<Vec<Channel>>,
    /// Hashes of the channels that it listened on at the end; `None` where they were too many.
    pub(super) on: Option<Box<[u64]>>,
    /// How many joins and leaves took effect on it.
    pub(super) turns: u16,
    pub(super) opened: Instant,
    pub(super) ended: Instant,
    pub(super) end: End,
    pub(super) start: Start,
    pub(super) after_unlogged: u64,
    /// The last position when it ended.
    pub(super) head: EventId,
    /// What it was not written of what waited, if anything: from this position on.
    pub(super) unwritten: Option<u64>,
}

impl Gone {
    /// What it takes, about: clients choose how many channels they name, and how long the names are.
    fn bytes(&self) -> usize {
        let named = self.named.iter().flatten();
        let named = named.map(|channel| size_of::<Channel>() + channel.to_string().len());
        let on = self.on.as_deref().map_or(0, size_of_val);
        size_of::<Self>() + named.sum::<usize>() + on
    }
}

/// The memory of one shard.
#[derive(Debug)]
pub(super) struct Witness {
    most: usize,
    /// What those below take, with the names of their channels.
    bytes: usize,
    gone: VecDeque<Gone>,
    /// All that have ended since are here.
    since: Instant,
    drains: VecDeque<(Who, Instant)>,
    shed: VecDeque<(Who, usize, Instant)>,
    /// When sessions began and ceased to listen on channels.
    pub(super) turns: Turns,
}

impl Witness {
    /// Remembers at most so many sessions.
    pub(super) fn new(most: usize, hashing: Hashing, now: Instant) -> Self {
        Self {
            most,
            bytes: 0,
            gone: VecDeque::new(),
            since: now,
            drains: VecDeque::new(),
            shed: VecDeque::new(),
            turns: Turns::new(hashing),
        }
    }

    pub(super) fn gone(&mut self, gone: Gone) {
        self.bytes += gone.bytes();
        self.gone.push_back(gone);
        while self.gone.len() > self.most || self.bytes > GONE_BYTES {
            let Some(oldest) = self.gone.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes();
            self.since = oldest.ended;
        }
    }

    /// Positions go on behind one that is not behind the last: of the same log, where that was rolled back, or
    /// from 0 of another, to which those that have ended have never listened.
    pub(super) fn rewind(&mut self, to: u64, same_log: bool) {
        self.turns.rewind(to);
        for gone in self.gone.iter_mut().filter(|_| same_log) {
            let head = gone.head;
            gone.head = EventId::unknown(head.epoch(), head.position().min(to));
            gone.start.rewind(to);
            gone.unwritten = gone.unwritten.filter(|from| *from <= to);
        }
    }

    /// An outbox was written to the end.
    pub(super) fn drained(&mut self, who: Who, now: Instant) {
        if self.drains.len() >= DRAINS {
            self.drains.pop_front();
        }
        self.drains.push_back((who, now));
    }

    /// A frame was dropped for want of room.
    pub(super) fn shed(&mut self, who: Who, frame: &Frame, now: Instant) {
        if self.shed.len() >= SHED {
            self.shed.pop_front();
        }
        self.shed.push_back((who, frame.address(), now));
    }

    /// Those of a user that have ended, in the order in which they did.
    pub(super) fn of<'a>(&'a self, user: &'a UserId) -> impl Iterator<Item = &'a Gone> {
        self.gone.iter().filter(move |gone| gone.user == *user)
    }

    /// All sessions that have ended since then are here.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// When a session's outbox was written to the end for the first time at or after a moment.
    pub(super) fn drained_after(&self, who: Who, moment: Instant) -> Option<Instant> {
        let from = self.drains.partition_point(|(_, at)| *at < moment);
        let mut drains = self.drains.range(from..);
        drains
            .find(|(drained, _)| *drained == who)
            .map(|(_, at)| *at)
    }

    /// Whether a frame was shed that came at a moment. Its place in memory may have been another's before.
    pub(super) fn was_shed(&self, who: Who, frame: &Frame, came: Instant) -> bool {
        let address = frame.address();
        let mut shed = self.shed.iter();
        shed.any(|(of, shed, at)| *of == who && *shed == address && *at >= came)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Class;
    use std::time::Duration;

    fn who(serial: u32) -> Who {
        Who {
            key: SessionKey::default(),
            serial,
        }
    }

    #[test]
    fn sessions_with_long_names_leave_room_for_fewer() {
        let start = Instant::now();
        let mut witness = Witness::new(5_000, Hashing::default(), start);
        let long = "x".repeat(190);
        let named: Vec<Channel> = (0..100)
            .map(|number| Channel::parse(&format!("user:2:{long}{number}")).unwrap())
            .collect();
        for number in 1..=1_000 {
            witness.gone(Gone {
                who: who(number),
                user: UserId::from(2),
                connection: Uuid::nil(),
                transport: Transport::Sse,
                named: Some(named.clone()),
                on: None,
                turns: 0,
                opened: start,
                ended: start + Duration::from_secs(number.into()),
                end: End::ClientGone,
                start: Start::default(),
                after_unlogged: 0,
                head: EventId::origin(crate::event::Epoch(1)),
                unwritten: None,
            });
        }
        let kept = witness.of(&UserId::from(2)).count();
        assert!((100..300).contains(&kept), "{kept}");
        assert!(witness.bytes <= GONE_BYTES);
        let first_gone = start + Duration::from_secs(1_000 - kept as u64);
        assert_eq!(witness.since(), first_gone);
    }

    #[test]
    fn what_stood_behind_a_log_that_was_rolled_back_was_not_for_those_who_had_gone() {
        let now = Instant::now();
        let mut witness = Witness::new(5, Hashing::default(), now);
        let epoch = crate::event::Epoch(1);
        witness.gone(Gone {
            who: who(1),
            user: UserId::from(2),
            connection: Uuid::nil(),
            transport: Transport::Sse,
            named: None,
            on: None,
            turns: 0,
            opened: now,
            ended: now,
            end: End::ClientGone,
            start: Start {
                live_from: 60,
                comeback: None,
            },
            after_unlogged: 0,
            head: EventId::unknown(epoch, 100),
            unwritten: Some(90),
        });
        witness.rewind(0, false);
        assert_eq!(witness.gone[0].head.position(), 100);
        witness.rewind(50, true);
        let gone = &witness.gone[0];
        assert_eq!((gone.head.position(), gone.start.live_from), (50, 50));
        assert_eq!(gone.unwritten, None);
    }

    #[test]
    fn drains_are_found_by_session_and_time() {
        let start = Instant::now();
        let mut witness = Witness::new(1, Hashing::default(), start);
        for (serial, second) in [(1, 1), (2, 2), (1, 3)] {
            witness.drained(who(serial), start + Duration::from_secs(second));
        }
        let after = |serial, second| {
            let moment = start + Duration::from_secs(second);
            let at = witness.drained_after(who(serial), moment)?;
            Some(at.duration_since(start).as_secs())
        };
        assert_eq!(after(1, 0), Some(1));
        assert_eq!(after(1, 2), Some(3));
        assert_eq!(after(2, 3), None);
        for _ in 0..DRAINS {
            witness.drained(who(3), start + Duration::from_secs(4));
        }
        assert_eq!(witness.drains.len(), DRAINS);
    }

    #[test]
    fn what_was_shed_is_told_from_what_had_its_place_before() {
        let start = Instant::now();
        let mut witness = Witness::new(1, Hashing::default(), start);
        let frame = Frame::event(None, "t", b"1", Class::Ephemeral, None);
        let other = Frame::event(None, "t", b"1", Class::Ephemeral, None);
        witness.shed(who(1), &frame, start);
        assert!(witness.was_shed(who(1), &frame, start));
        assert!(!witness.was_shed(who(1), &frame, start + Duration::from_secs(1)));
        assert!(!witness.was_shed(who(2), &frame, start));
        assert!(!witness.was_shed(who(1), &other, start));
    }
}
