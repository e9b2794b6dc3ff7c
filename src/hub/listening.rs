//! On which channels of an event's audience a session listened when the event came. Pure.
//!
//! What a session listens on is known at any time (the registry), and of one that has ended it is kept. What
//! it listened on before follows from the joins and leaves that took effect since, which are kept for all
//! sessions of a shard together: they are few, and nothing is kept for each event.

use std::collections::VecDeque;
use std::hash::BuildHasher as _;

use foldhash::quality::RandomState;

use super::account::For;
use super::replay::stretches;
use super::witness::{CameBack, Who};
use crate::event::{Audience, Channel, ChatId, Recipients, UserId};

/// Joins and leaves that took effect on sessions of one thread; 640 KiB.
const TURNS: usize = 16_384;

/// The most channels that are remembered of a session that has ended, 8 bytes each.
const MOST_CHANNELS: usize = 4_096;

/// When something came to a shard: at a position of the log, or under the number of what has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Position(u64),
    Number(u64),
}

/// The last event of either kind that went through a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) position: u64,
    pub(super) number: u64,
}

/// What channels are told apart by: the same on all shards of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct Hashing(RandomState);

/// One session began to listen on a channel, or ceased to.
#[derive(Debug, Clone, Copy)]
struct Turn {
    who: Who,
    channel: u64,
    began: bool,
    /// What came up to here came before it.
    after: Passed,
}

/// The latest joins and leaves of a shard's sessions; the oldest make room.
#[derive(Debug)]
pub(super) struct Turns {
    hashing: Hashing,
    turns: VecDeque<Turn>,
    /// The latest of those that have made room.
    lost: Option<Passed>,
}

/// Whom an event is for, to be compared with what sessions listen on.
#[derive(Debug)]
pub(super) struct Hearers {
    pub(super) everybody: bool,
    channels: Vec<Channel>,
    /// The hashes of the channels, in order and each once, with their places.
    places: Vec<(u64, u32)>,
    /// Whether there are more that streams of channels by name may listen on, or any stream.
    cut: Cut,
}

/// Which channels are missing of an audience that was told by another.
#[derive(Debug, Clone, Copy, Default)]
struct Cut {
    users: bool,
    others: bool,
}

/// What is known of a session's channels.
#[derive(Debug)]
pub(super) struct Seats {
    /// The channels of the audience that it listens on now, or did when it ended; `None` where that is not
    /// known.
    pub(super) on: Option<Vec<u32>>,
    /// How many joins and leaves took effect on it while it was live.
    pub(super) turns: u16,
    /// Whether it listens on channels by name.
    pub(super) named: bool,
}

impl Hashing {
    fn of(&self, channel: &Channel) -> u64 {
        self.0.hash_one(channel)
    }

    /// What is remembered of the channels of a session that ends; `None` where they are too many.
    pub(super) fn all<'a>(
        &self,
        channels: impl Iterator<Item = &'a Channel>,
    ) -> Option<Box<[u64]>> {
        let hashes = channels.take(MOST_CHANNELS + 1);
        let hashes: Box<[u64]> = hashes.map(|channel| self.of(channel)).collect();
        (hashes.len() <= MOST_CHANNELS).then_some(hashes)
    }
}

impl Turns {
    pub(super) fn new(hashing: Hashing) -> Self {
        Self {
            hashing,
            turns: VecDeque::new(),
            lost: None,
        }
    }

    pub(super) fn hashing(&self) -> &Hashing {
        &self.hashing
    }

    pub(super) fn note(&mut self, who: Who, channel: &Channel, began: bool, after: Passed) {
        if self.turns.len() >= TURNS {
            self.lost = self.turns.pop_front().map(|oldest| oldest.after);
        }
        self.turns.push_back(Turn {
            who,
            channel: self.hashing.of(channel),
            began,
            after,
        });
    }

    /// Positions go on behind `position`, as in another log or one that was rolled back: everything was
    /// before that.
    pub(super) fn rewind(&mut self, position: u64) {
        let turns = self.turns.iter_mut().map(|turn| &mut turn.after);
        for after in turns.chain(&mut self.lost) {
            after.position = after.position.min(position);
        }
    }

    /// What a session listened on at a moment, of an audience; `None` where that is not remembered.
    pub(super) fn at(
        &self,
        who: Who,
        seats: &Seats,
        hearers: &Hearers,
        moment: Moment,
    ) -> Option<Vec<u32>> {
        let mut on = seats.on.clone()?;
        let own = || self.turns.iter().filter(|turn| turn.who == who);
        // Those that have made room are older than all that are here.
        let all = own().count() == usize::from(seats.turns);
        if !all && self.lost.is_some_and(|lost| moment.is_before(lost)) {
            return None;
        }
        for turn in own().rev().take_while(|turn| moment.is_before(turn.after)) {
            let Some(place) = hearers.place(turn.channel) else {
                continue;
            };
            on.retain(|other| *other != place);
            if !turn.began {
                on.push(place);
            }
        }
        on.sort_unstable();
        (!on.is_empty() || !hearers.is_cut(seats.named)).then_some(on)
    }

    /// Through which channels of an audience a session was given, or would have been, what came at a position
    /// before it was live, up to `live_from`.
    pub(super) fn in_replay(
        &self,
        who: Who,
        seats: &Seats,
        hearers: &Hearers,
        (comeback, live_from): (&CameBack, u64),
        position: u64,
    ) -> Option<Vec<u32>> {
        let start = self.at(who, seats, hearers, Moment::Position(0))?;
        let changes = comeback.changes.as_deref()?;
        let of = |chat: &ChatId| hearers.place(self.hashing.of(&Channel::chat(chat)));
        let mut candidates = start.clone();
        candidates.extend(changes.iter().filter_map(|(_, chat, _)| of(chat)));
        candidates.sort_unstable();
        candidates.dedup();
        candidates.retain(|place| {
            let own = changes
                .iter()
                .filter(|(_, chat, _)| of(chat) == Some(*place));
            let own: Vec<(u64, bool)> = own.map(|(at, _, joined)| (*at, *joined)).collect();
            let stays = stretches(start.contains(place), &own, comeback.from + 1, live_from);
            let mut stays = stays.iter();
            stays.any(|(since, until)| (*since..=*until).contains(&position))
        });
        Some(candidates)
    }
}

impl Moment {
    /// Whether it is not after what had passed.
    fn is_before(self, passed: Passed) -> bool {
        match self {
            Self::Position(position) => position <= passed.position,
            Self::Number(number) => number <= passed.number,
        }
    }
}

impl Hearers {
    /// Those of an event that is here.
    pub(super) fn of(audience: &Audience, hashing: &Hashing) -> Self {
        let (everybody, channels) = match &audience.to {
            Recipients::Everybody => (true, Vec::new()),
            Recipients::Channels(channels) => (false, channels.clone()),
            Recipients::SharingChatWith(_) => (false, Vec::new()),
        };
        Self::new(everybody, channels, Cut::default(), hashing)
    }

    /// Those of an event that another instance, or the log, has told of.
    pub(super) fn told(audience: &For, user: &UserId, hashing: &Hashing) -> Self {
        let own = audience.user.then(|| Channel::user(user));
        let named = audience.channels.iter().chain(&audience.others).cloned();
        let channels: Vec<Channel> = own.into_iter().chain(named).collect();
        let users = audience.others.len();
        let cut = Cut {
            users: audience.total > channels.len(),
            others: audience.total > channels.len()
                && channels.len() - users >= super::account::CHANNELS,
        };
        Self::new(audience.everybody, channels, cut, hashing)
    }

    fn new(everybody: bool, channels: Vec<Channel>, cut: Cut, hashing: &Hashing) -> Self {
        let hashes = channels.iter().map(|channel| hashing.of(channel));
        let mut places: Vec<(u64, u32)> = hashes.zip(0..).collect();
        places.sort_unstable();
        places.dedup_by_key(|(hash, _)| *hash);
        Self {
            everybody,
            channels,
            places,
            cut,
        }
    }

    /// Those of the channels that a session listens on.
    pub(super) fn among(&self, listens_on: impl Fn(&Channel) -> bool) -> Vec<u32> {
        let places = self.places.iter().map(|(_, place)| *place);
        let on = places.filter(|place| self.channel(*place).is_some_and(&listens_on));
        on.collect()
    }

    /// Those of the channels that are remembered by these hashes.
    pub(super) fn among_hashes(&self, hashes: &[u64]) -> Vec<u32> {
        let mut places: Vec<u32> = hashes.iter().filter_map(|hash| self.place(*hash)).collect();
        places.sort_unstable();
        places
    }

    pub(super) fn channel(&self, place: u32) -> Option<&Channel> {
        self.channels.get(place as usize)
    }

    fn place(&self, hash: u64) -> Option<u32> {
        let index = self.places.binary_search_by_key(&hash, |(hash, _)| *hash);
        let (_, place) = self.places.get(index.ok()?)?;
        Some(*place)
    }

    /// Whether a session may listen on one of the channels that are missing.
    fn is_cut(&self, named: bool) -> bool {
        self.cut.others || (self.cut.users && named)
    }
}

#[cfg(test)]
mod tests;
