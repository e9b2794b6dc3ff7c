//! What a client that comes back gets: which events it missed, and what it can't have. Pure.
//!
//! The fence: of a chat, a user gets what happened while the user was a member. Where the user's
//! joins and leaves are in the stretch that is replayed, they say when that was; where there are
//! none, the user was then what the database says now. The last word is the database's: nothing is
//! replayed of a chat that the user is not in now, but up to a leave that is in the stretch.

use std::collections::BTreeMap;

use super::history::History;
use super::notice::{Gap, GapReason};
use crate::event::{Channel, ChatId, EventId, Frame, MembershipChange, UserId};

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

/// The answer to a client that comes back.
#[derive(Debug)]
pub(super) struct Replay {
    /// Where the stream goes on: what the client has, or is told that it has missed.
    pub(super) from: EventId,
    /// Told first, if something can't be replayed.
    pub(super) gap: Option<Gap>,
    /// What was missed, in log order.
    pub(super) frames: Vec<Frame>,
    /// Whether the client came back from somewhere at all.
    pub(super) resumed: bool,
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

/// Plans the replay for `user`, who is in `chats` now, up to `head`, which is the last event that
/// the client's shard has seen: what comes later reaches the client live. A client can be ahead of
/// its new shard; then what comes live up to [`Replay::from`] is not for it.
pub(super) fn plan(
    history: &History,
    user: &UserId,
    chats: &[ChatId],
    resume: Resume,
    head: EventId,
) -> Replay {
    let nothing = |gap: Option<Gap>| Replay {
        from: head,
        gap,
        frames: Vec::new(),
        resumed: resume != Resume::Fresh,
    };
    let lost = |from: Option<EventId>| Gap {
        reason: GapReason::Epoch,
        from,
        to: Some(head),
    };
    let after = match resume {
        Resume::Fresh => return nothing(None),
        Resume::Unreadable => return nothing(Some(lost(None))),
        Resume::After(id) => id,
    };
    // Not the shard's head: the client may come from a shard that is ahead of this one.
    let foreign = after.epoch() != head.epoch()
        || after.position() > history.head().position()
        || history.contradicts(after);
    if foreign {
        return nothing(Some(lost(Some(after))));
    }
    let floor = history.floor();
    let expired = after.position() < floor.position();
    let from = if expired { floor } else { after };
    Replay {
        from,
        gap: expired.then_some(Gap {
            reason: GapReason::Expired,
            from: Some(after),
            to: Some(floor),
        }),
        frames: missed(history, user, chats, from.position() + 1, head.position()),
        resumed: true,
    }
}

fn missed(history: &History, user: &UserId, chats: &[ChatId], from: u64, to: u64) -> Vec<Frame> {
    let own = Channel::user(user);
    let mut positions: Vec<u64> = history.of_channel(&own, from, to).collect();
    positions.extend(history.of_everybody(from, to));
    let changes = changes(history, user, &positions);
    for (chat, stays) in stays(chats, &changes, from, to) {
        let channel = Channel::chat(&chat);
        for (joined, left) in stays {
            positions.extend(history.of_channel(&channel, joined, left));
        }
    }
    positions.sort_unstable();
    positions.dedup();
    let events = positions.iter().filter_map(|at| history.event(*at));
    events
        .filter(|event| event.audience.except.as_ref() != Some(user))
        .map(|event| event.frame.clone())
        .collect()
}

/// The user's joins (`true`) and leaves, in order; they are among the user's own events.
fn changes(history: &History, user: &UserId, own: &[u64]) -> Vec<(u64, ChatId, bool)> {
    let mut changes = Vec::new();
    for position in own {
        let Some(event) = history.event(*position) else {
            continue;
        };
        match &event.membership {
            Some(MembershipChange::Joined(who, chat)) if who == user => {
                changes.push((*position, chat.clone(), true));
            }
            Some(MembershipChange::Left(who, chat)) if who == user => {
                changes.push((*position, chat.clone(), false));
            }
            _ => {}
        }
    }
    changes
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
        let member_now = chats.contains(&chat);
        // Before a join the user was out, before a leave in.
        let member_before = changes.first().map_or(member_now, |(_, joined)| !joined);
        let mut since = member_before.then_some(from);
        let mut stays = Vec::new();
        for (position, joined) in changes {
            if joined {
                since.get_or_insert(position);
            } else if let Some(since) = since.take() {
                stays.push((since, position));
            }
        }
        if let (Some(since), true) = (since, member_now) {
            stays.push((since, to));
        }
        (chat, stays)
    });
    stays.collect()
}

#[cfg(test)]
mod tests;
