//! What a client that comes back gets: which events it missed, and what it can't have. Pure.
//!
//! What was missed may lie in the history and before it, in stretches of the log that somebody has
//! read for this client. A [`Search`] goes through them from the newest to the oldest, because only
//! later leaves tell which chats the user was in before.
//!
//! The fence: of a chat, a user gets what happened while the user was a member. Where the user's
//! joins and leaves are in the stretch that is replayed, they say when that was; where there are
//! none, the user was then what the database says now. The last word is the database's: nothing is
//! replayed of a chat that the user is not in now, but up to a leave that is in the stretch.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::history::History;
use super::notice::{Gap, GapReason};
use super::scope::Interest;
use crate::event::{Channel, ChatId, Event, EventId, Frame, MembershipChange, Timestamp};

/// What a client says about where it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Nothing: it is new, or does not care.
    Fresh,
    /// It has everything up to this event.
    After(EventId),
    /// It sent something that no instance ever gave it.
    Unreadable,
}

/// What a client says, and what was found out about it outside the hub.
#[derive(Debug)]
pub struct Comeback {
    /// What the client says.
    pub resume: Resume,
    /// What was read from the log because it is older than the history.
    pub backlog: Option<Backlog>,
    /// The log's last position, where the client's is ahead of this instance.
    pub log_end: Option<u64>,
    /// Whether the rest was in the history. If it is there no more, it is worth being looked for again.
    pub lasting: bool,
}

/// A stretch of the log that ends within the history.
#[derive(Debug)]
pub struct Backlog {
    /// What was found in it.
    pub search: Search,
    /// Where it begins: the client has, or is told that it has missed, everything up to here.
    pub from: EventId,
    /// Everything up to here was looked at.
    pub to: u64,
    /// What of the client's past could not be read.
    pub gap: Option<Gap>,
}

/// Looks for one user's events, from the newest stretch of the log to the oldest.
#[derive(Debug)]
pub struct Search {
    /// The chats in it are those that the user is in, or was in somewhere in what was searched.
    interest: Interest,
    own: Channel,
    /// The user's joins (`true`) and leaves.
    changes: Vec<(u64, ChatId, bool)>,
    /// What may be the user's, and through which of the chats; `None` through a channel without fence.
    found: Vec<Found>,
}

#[derive(Debug)]
struct Found {
    position: u64,
    chat: Option<usize>,
    event: Arc<Event>,
}

/// The answer to a client that comes back.
#[derive(Debug)]
pub(super) struct Replay {
    /// Where the stream goes on: what the client has, or is told that it has missed.
    pub(super) from: EventId,
    /// Told first, if something can't be replayed.
    pub(super) gap: Option<Gap>,
    /// What was missed, in log order.
    pub(super) frames: Vec<Frame>,
    /// How many of the frames were read from the log.
    pub(super) from_log: usize,
    /// Up to here they were.
    pub(super) read_up_to: u64,
    /// The user's joins and leaves that say what of it was in the user's time.
    pub(super) changes: Vec<(u64, ChatId, bool)>,
    /// Whether the client came back from somewhere at all.
    pub(super) resumed: bool,
}

/// What was found of what is the user's.
struct Kept {
    frames: Vec<Frame>,
    /// How many of them were read from the log.
    from_log: usize,
    changes: Vec<(u64, ChatId, bool)>,
}

impl From<Resume> for Comeback {
    fn from(resume: Resume) -> Self {
        Self {
            resume,
            backlog: None,
            log_end: None,
            lasting: false,
        }
    }
}

impl Comeback {
    /// Whether the history has let go, since, of what was found to be in it.
    pub(super) fn is_outrun(&self, history: &History) -> bool {
        let (Resume::After(id), floor) = (self.resume, history.floor()) else {
            return false;
        };
        let backlog = self.backlog.as_ref();
        self.lasting
            && id.epoch() == floor.epoch()
            && id.position() < floor.position()
            && backlog.is_none_or(|backlog| !backlog.reaches(floor))
    }
}

impl Backlog {
    /// Whether it ends within a history that begins behind `floor`.
    fn reaches(&self, floor: EventId) -> bool {
        self.to >= floor.position() && self.from.epoch() == floor.epoch()
    }
}

impl Replay {
    /// All labels that [`Replay::outcome`] can give.
    pub(super) const OUTCOMES: [&str; 4] =
        ["recovered", "gap_expired", "gap_epoch", "gap_overflow"];

    /// How coming back ended, as a label: with everything, or without what a gap names. `None` for
    /// a client that did not come back.
    pub(super) fn outcome(&self) -> Option<&'static str> {
        let outcome = match self.gap.map(|gap| gap.reason) {
            None => "recovered",
            Some(GapReason::Expired) => "gap_expired",
            Some(GapReason::Epoch) => "gap_epoch",
            Some(GapReason::Overflow) => "gap_overflow",
        };
        self.resumed.then_some(outcome)
    }
}

impl Search {
    /// For what somebody is interested in.
    #[must_use]
    pub fn new(interest: Interest) -> Self {
        Self {
            own: Channel::user(&interest.user),
            interest,
            changes: Vec::new(),
            found: Vec::new(),
        }
    }

    /// How many events were found that may be the user's.
    #[must_use]
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Learns from the user's joins and leaves in a stretch, both ends included, which chats matter.
    pub(super) fn note_changes(&mut self, history: &History, from: u64, to: u64) {
        for position in history.of_channel(&self.own, from, to) {
            let Some(event) = history.event(position) else {
                continue;
            };
            let (chat, joined) = match &event.membership {
                Some(MembershipChange::Joined(who, chat)) if *who == self.interest.user => {
                    (chat, true)
                }
                Some(MembershipChange::Left(who, chat)) if *who == self.interest.user => {
                    (chat, false)
                }
                _ => continue,
            };
            if !self.interest.chats.contains(chat) {
                if !self.interest.former_chats {
                    continue;
                }
                self.interest.chats.push(chat.clone());
            }
            self.changes.push((position, chat.clone(), joined));
        }
    }

    /// The joins (`true`) and leaves that were found, in their order.
    #[must_use]
    pub fn into_changes(mut self) -> Vec<(u64, ChatId, bool)> {
        self.changes.sort_unstable_by_key(|change| change.0);
        self.changes.dedup();
        self.changes
    }

    /// Searches a stretch, both ends included; later stretches were searched before.
    pub(super) fn search(&mut self, history: &History, from: u64, to: u64) {
        self.note_changes(history, from, to);
        let direct = self.interest.direct.iter();
        let direct = direct.flat_map(|channel| history.of_channel(channel, from, to));
        let for_user = direct.chain(history.of_everybody(from, to));
        let found = &mut self.found;
        let mut keep = |position: u64, chat: Option<usize>| {
            let event = history.event(position);
            found.extend(event.map(|event| Found {
                position,
                chat,
                event: Arc::clone(event),
            }));
        };
        for position in for_user {
            keep(position, None);
        }
        for (index, chat) in self.interest.chats.iter().enumerate() {
            for position in history.of_channel(&Channel::chat(chat), from, to) {
                keep(position, Some(index));
            }
        }
    }

    /// Takes in what an earlier search, of older stretches, has found.
    fn append(&mut self, older: Self) {
        let own = &mut self.interest.chats;
        let chats: Vec<usize> = older
            .interest
            .chats
            .iter()
            .map(|chat| {
                let known = own.iter().position(|other| other == chat);
                known.unwrap_or_else(|| {
                    own.push(chat.clone());
                    own.len() - 1
                })
            })
            .collect();
        let found = older.found.into_iter().map(|found| Found {
            chat: found.chat.and_then(|index| chats.get(index)).copied(),
            ..found
        });
        self.found.extend(found);
        self.changes.extend(older.changes);
    }

    /// The frames between `from`, excluded, and `to` that are the user's, in log order, and how many of
    /// them stand at `read_up_to` or before.
    fn frames(
        mut self,
        member_of: &[ChatId],
        (from, to): (u64, u64),
        read_up_to: u64,
        now: Timestamp,
    ) -> Kept {
        self.changes.sort_unstable_by_key(|change| change.0);
        self.changes.dedup();
        let stays = stays(member_of, &self.changes, from + 1, to);
        let chats = &self.interest.chats;
        let is_member = |chat: usize, position: u64| {
            let stays = chats.get(chat).and_then(|chat| stays.get(chat));
            stays.is_some_and(|stays| {
                stays
                    .iter()
                    .any(|(since, until)| (*since..=*until).contains(&position))
            })
        };
        let user = &self.interest.user;
        self.found.retain(|found| {
            let event = &found.event;
            found.position > from
                && found.position <= to
                && event.audience.except.as_ref() != Some(user)
                && !event.frame.is_expired(now)
                && found
                    .chat
                    .is_none_or(|chat| is_member(chat, found.position))
        });
        self.found.sort_unstable_by_key(|found| found.position);
        self.found.dedup_by_key(|found| found.position);
        let read = self
            .found
            .partition_point(|found| found.position <= read_up_to);
        let frames = self.found.iter().map(|found| found.event.frame.clone());
        Kept {
            frames: frames.collect(),
            from_log: read,
            changes: self.changes,
        }
    }
}

/// Plans the replay of what somebody is interested in up to `head`, which is the last event that
/// the client's shard has seen: what comes later reaches the client live. A client can be ahead of
/// its new shard; then what comes live up to [`Replay::from`] is not for it.
pub(super) fn plan(
    history: &History,
    interest: Interest,
    comeback: Comeback,
    head: EventId,
    now: Timestamp,
) -> Replay {
    let Comeback {
        resume,
        backlog,
        log_end,
        lasting: _,
    } = comeback;
    let Resume::After(after) = resume else {
        return none(resume, head);
    };
    // Not the shard's head: the client may come from a shard that is ahead of this one, or from an
    // instance that is ahead of this one.
    let end = history.head().position().max(log_end.unwrap_or(0));
    let foreign =
        after.epoch() != head.epoch() || after.position() > end || history.contradicts(after);
    if foreign {
        return Replay {
            from: head,
            gap: Some(lost(Some(after), head)),
            ..none(resume, head)
        };
    }
    let floor = history.floor();
    let chats = interest.chats.clone();
    let mut search = Search::new(interest);
    let reaches = |backlog: &Backlog| backlog.reaches(floor);
    let (from, gap, searched_to) = match backlog.filter(reaches) {
        _ if after.position() >= floor.position() => (after, None, after.position()),
        Some(backlog) => {
            search.search(history, backlog.to + 1, head.position());
            search.append(backlog.search);
            (backlog.from, backlog.gap, backlog.to)
        }
        None => {
            let gap = Gap {
                reason: GapReason::Expired,
                from: Some(after),
                to: Some(floor),
            };
            (floor, Some(gap), floor.position())
        }
    };
    let read_up_to = if searched_to > from.position() {
        searched_to
    } else {
        search.search(history, from.position() + 1, head.position());
        0
    };
    let range = (from.position(), head.position());
    let kept = search.frames(&chats, range, read_up_to, now);
    Replay {
        from,
        gap,
        frames: kept.frames,
        from_log: kept.from_log,
        read_up_to,
        changes: kept.changes,
        resumed: true,
    }
}

/// The answer that replays nothing: to a client that is new, or whose stream has ended before it was live. Whoever
/// comes back keeps the place that it came with, so that nothing is lost to it when it comes back once more.
pub(super) fn none(resume: Resume, head: EventId) -> Replay {
    let (from, gap) = match resume {
        Resume::Fresh => (head, None),
        Resume::Unreadable => (head, Some(lost(None, head))),
        Resume::After(id) => (id, None),
    };
    Replay {
        from,
        gap,
        frames: Vec::new(),
        from_log: 0,
        read_up_to: 0,
        changes: Vec::new(),
        resumed: resume != Resume::Fresh,
    }
}

/// What lies between a place that means nothing here, or none, and this one.
fn lost(from: Option<EventId>, head: EventId) -> Gap {
    Gap {
        reason: GapReason::Epoch,
        from,
        to: Some(head),
    }
}

/// For each chat the stretches, both ends included, in which the user was a member. A join and a
/// leave belong to the stretch that they open or close.
fn stays(
    chats: &[ChatId],
    changes: &[(u64, ChatId, bool)],
    from: u64,
    to: u64,
) -> BTreeMap<ChatId, Vec<(u64, u64)>> {
    let mut by_chat: BTreeMap<ChatId, Vec<(u64, bool)>> = chats
        .iter()
        .map(|chat| (chat.clone(), Vec::new()))
        .collect();
    for (position, chat, joined) in changes {
        let changes = by_chat.entry(chat.clone()).or_default();
        changes.push((*position, *joined));
    }
    let stays = by_chat.into_iter().map(|(chat, changes)| {
        let stretches = stretches(chats.contains(&chat), &changes, from, to);
        (chat, stretches)
    });
    stays.collect()
}

/// The stretches of one chat, of which the joins (`true`) and leaves are given in their order.
pub(super) fn stretches(
    member_now: bool,
    changes: &[(u64, bool)],
    from: u64,
    to: u64,
) -> Vec<(u64, u64)> {
    // Before a join the user was out, before a leave in.
    let member_before = changes.first().map_or(member_now, |(_, joined)| !joined);
    let mut since = member_before.then_some(from);
    let mut stretches = Vec::new();
    for (position, joined) in changes {
        if *joined {
            since.get_or_insert(*position);
        } else if let Some(since) = since.take() {
            stretches.push((since, *position));
        }
    }
    if let (Some(since), true) = (since, member_now) {
        stretches.push((since, to));
    }
    stretches
}

#[cfg(test)]
mod tests;
