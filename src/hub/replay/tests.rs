//! Replays against a plain model: a list of everything that was published.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::event::{Audience, Class, Epoch, Event, Recipients};
use crate::hub::history::HistoryConfig;
use crate::units::Size;

const EPOCH: Epoch = Epoch(7);

fn id(position: u64) -> EventId {
    match position {
        0 => EventId::origin(EPOCH),
        _ => EventId::new(EPOCH, position, b"payload"),
    }
}

fn history(max_events: usize) -> History {
    let config = HistoryConfig {
        max_events,
        max_bytes: Size(1 << 30),
    };
    History::new(config, id(0))
}

fn event(position: u64, audience: Audience, membership: Option<MembershipChange>) -> Arc<Event> {
    let id = id(position);
    Arc::new(Event {
        id: Some(id),
        kind: "t".to_owned(),
        audience,
        membership,
        frame: Frame::event(Some(&id), "t", b"{}", Class::Durable, None),
    })
}

/// What takes a position and is never replayed.
fn ephemeral(position: u64) -> Arc<Event> {
    let id = id(position);
    Arc::new(Event {
        id: Some(id),
        kind: "t".to_owned(),
        audience: Audience::channel(Channel::chat(&chat(1))),
        membership: None,
        frame: Frame::event(Some(&id), "t", b"{}", Class::Ephemeral, None),
    })
}

fn user(number: i64) -> UserId {
    UserId::from(number)
}

fn chat(number: i64) -> ChatId {
    ChatId::from(number)
}

/// The positions of the frames.
fn positions(replay: &Replay) -> Vec<u64> {
    let ids = replay.frames.iter().map(|frame| {
        let text = String::from_utf8(frame.as_slice(false).to_vec()).unwrap();
        let id: EventId = text.lines().next().unwrap()["id: ".len()..]
            .parse()
            .unwrap();
        id.position()
    });
    ids.collect()
}

fn say(history: &mut History, position: u64, number: i64) {
    history.push(&event(
        position,
        Audience::channel(Channel::chat(&chat(number))),
        None,
    ));
}

fn change(history: &mut History, position: u64, joined: bool, number: i64) {
    let audience = Audience::channels(vec![Channel::chat(&chat(number)), Channel::user(&user(1))]);
    let change = if joined {
        MembershipChange::Joined(user(1), chat(number))
    } else {
        MembershipChange::Left(user(1), chat(number))
    };
    history.push(&event(position, audience, Some(change)));
}

#[test]
fn a_client_that_missed_nothing_gets_nothing() {
    let mut history = history(10);
    say(&mut history, 1, 5);
    let replay = plan(&history, &user(1), &[chat(5)], Resume::After(id(1)), id(1));
    assert!(replay.frames.is_empty() && replay.gap.is_none() && replay.resumed);
}

#[test]
fn what_comes_after_the_head_is_left_to_the_live_stream() {
    let mut history = history(10);
    for position in 1..=4 {
        say(&mut history, position, 5);
    }
    let replay = plan(&history, &user(1), &[chat(5)], Resume::After(id(1)), id(3));
    assert_eq!(positions(&replay), [2, 3]);
}

/// A client that comes from another shard may have seen more than this one has.
#[test]
fn a_client_that_is_ahead_of_its_shard_misses_nothing() {
    let mut history = history(10);
    for position in 1..=4 {
        say(&mut history, position, 5);
    }
    let replay = plan(&history, &user(1), &[chat(5)], Resume::After(id(4)), id(2));
    assert!(replay.frames.is_empty() && replay.gap.is_none());
    assert_eq!(replay.from, id(4));
}

#[test]
fn what_is_gone_is_a_gap_and_the_rest_follows() {
    let mut history = history(2);
    for position in 1..=5 {
        say(&mut history, position, 5);
    }
    let replay = plan(&history, &user(1), &[chat(5)], Resume::After(id(1)), id(5));
    assert_eq!(positions(&replay), [4, 5]);
    let gap = replay.gap.unwrap();
    assert_eq!(gap.reason, GapReason::Expired);
    assert_eq!((gap.from, gap.to), (Some(id(1)), Some(id(3))));
}

#[test]
fn foreign_ids_are_gaps() {
    let mut history = history(10);
    say(&mut history, 1, 5);
    say(&mut history, 2, 5);
    let foreign = [
        Resume::Unreadable,
        Resume::After(EventId::new(Epoch(6), 1, b"payload")),
        Resume::After(EventId::new(EPOCH, 1, b"what stood there before")),
        Resume::After(id(3)),
        Resume::After(id(u64::MAX)),
    ];
    for resume in foreign {
        let replay = plan(&history, &user(1), &[chat(5)], resume, id(2));
        let gap = replay.gap.unwrap();
        assert_eq!((gap.reason, gap.to), (GapReason::Epoch, Some(id(2))));
        assert!(replay.frames.is_empty());
    }
}

#[test]
fn the_fence_follows_joins_and_leaves() {
    let mut history = history(100);
    say(&mut history, 1, 5);
    change(&mut history, 2, true, 5);
    say(&mut history, 3, 5);
    change(&mut history, 4, false, 5);
    say(&mut history, 5, 5);
    change(&mut history, 6, true, 5);
    say(&mut history, 7, 5);
    let resume = Resume::After(id(0));
    let member = plan(&history, &user(1), &[chat(5)], resume, id(7));
    assert_eq!(positions(&member), [2, 3, 4, 6, 7]);
    // The database does not know the user as a member (any more): the open stay is not replayed.
    let stranger = plan(&history, &user(1), &[], resume, id(7));
    assert_eq!(positions(&stranger), [2, 3, 4, 6]);
}

#[test]
fn the_excluded_user_does_not_get_it_later_either() {
    let mut history = history(10);
    let audience = Audience::channel(Channel::chat(&chat(5))).except(user(1));
    history.push(&event(1, audience, None));
    for (who, expected) in [(1, vec![]), (2, vec![1])] {
        let replay = plan(
            &history,
            &user(who),
            &[chat(5)],
            Resume::After(id(0)),
            id(1),
        );
        assert_eq!(positions(&replay), expected);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Say(i64),
    Tell(Vec<i64>),
    Everybody,
    Join(i64),
    Leave(i64),
    Skip,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..4i64).prop_map(Step::Say),
        2 => proptest::collection::vec(1..4i64, 1..4).prop_map(Step::Tell),
        1 => Just(Step::Everybody),
        1 => (1..4i64).prop_map(Step::Join),
        1 => (1..4i64).prop_map(Step::Leave),
        1 => Just(Step::Skip),
    ]
}

proptest! {
    /// The user is user 1. What the user may see at each position is recorded as it happens; a
    /// replay must give exactly that, from wherever the client was.
    #[test]
    fn a_replay_is_what_the_live_stream_was(
        steps in proptest::collection::vec(step(), 0..60),
        members in proptest::collection::btree_set(1..4i64, 0..4),
        from in any::<prop::sample::Index>(),
        kept in 1..80usize,
    ) {
        let mut history = history(kept);
        let mut chats: BTreeSet<i64> = members;
        let mut seen = Vec::new();
        let mut durable = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let at = index as u64 + 1;
            // A backend says that somebody joined only of somebody who was out.
            let step = match step {
                Step::Join(number) if chats.contains(number) => &Step::Skip,
                Step::Leave(number) if !chats.contains(number) => &Step::Skip,
                step => step,
            };
            let mut visible = true;
            match step {
                Step::Say(number) => {
                    say(&mut history, at, *number);
                    visible = chats.contains(number);
                }
                Step::Tell(users) => {
                    let to = users.iter().map(|number| Channel::user(&user(*number)));
                    history.push(&event(at, Audience::channels(to.collect()), None));
                    visible = users.contains(&1);
                }
                Step::Everybody => {
                    let audience = Audience { to: Recipients::Everybody, except: None };
                    history.push(&event(at, audience, None));
                }
                Step::Join(number) => {
                    change(&mut history, at, true, *number);
                    chats.insert(*number);
                }
                Step::Leave(number) => {
                    change(&mut history, at, false, *number);
                    chats.remove(number);
                }
                Step::Skip => {
                    history.push(&ephemeral(at));
                    continue;
                }
            }
            durable.push(at);
            if visible {
                seen.push(at);
            }
        }
        let head = steps.len() as u64;
        let after = from.index(steps.len() + 1) as u64;
        let now: Vec<ChatId> = chats.iter().map(|number| chat(*number)).collect();
        let replay = plan(&history, &user(1), &now, Resume::After(id(after)), id(head));

        let gone = durable.len().saturating_sub(kept);
        let floor = if gone == 0 { 0 } else { durable[gone - 1] };
        let begin = after.max(floor);
        let expected: Vec<u64> = seen.into_iter().filter(|at| *at > begin).collect();
        prop_assert_eq!(positions(&replay), expected);
        prop_assert_eq!(replay.gap.is_some(), after < floor);
        prop_assert_eq!(replay.from.position(), begin);
    }
}
