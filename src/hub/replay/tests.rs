//! Replays against a plain model: a list of everything that was published.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::event::{Audience, Class, Epoch, Event, Recipients, UserId};
use crate::hub::history::HistoryConfig;
use crate::hub::scope::Scope;
use crate::hub::segment::Segment;
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
        ..HistoryConfig::default()
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

/// The plan for a client of whom only the history knows anything.
fn plan(
    history: &History,
    user: &UserId,
    chats: &[ChatId],
    resume: Resume,
    head: EventId,
) -> Replay {
    super::plan(history, own(user, chats), resume.into(), head, now())
}

fn own(user: &UserId, chats: &[ChatId]) -> Interest {
    Scope::Own.interest(user, chats.to_vec())
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_000)
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
    history.push(&moved(position, joined, number));
}

/// User 1 joins or leaves a chat.
fn moved(position: u64, joined: bool, number: i64) -> Arc<Event> {
    let audience = Audience::channels(vec![Channel::chat(&chat(number)), Channel::user(&user(1))]);
    let change = if joined {
        MembershipChange::Joined(user(1), chat(number))
    } else {
        MembershipChange::Left(user(1), chat(number))
    };
    event(position, audience, Some(change))
}

#[test]
fn a_client_that_missed_nothing_gets_nothing() {
    let mut history = history(10);
    say(&mut history, 1, 5);
    let replay = plan(&history, &user(1), &[chat(5)], Resume::After(id(1)), id(1));
    assert!(replay.frames.is_empty() && replay.gap.is_none() && replay.resumed);
}

/// Between looking and activating, the memory moves on.
#[test]
fn a_memory_that_has_let_go_of_what_was_there_is_outrun() {
    let mut history = history(3);
    (1..=6).for_each(|position| say(&mut history, position, 5));
    let comeback = |after: u64, to: Option<u64>| Comeback {
        backlog: to.map(|to| Backlog {
            search: Search::new(own(&user(1), &[chat(5)])),
            from: id(after),
            to,
            gap: None,
        }),
        lasting: true,
        ..Resume::After(id(after)).into()
    };
    // It begins behind position 3.
    assert!(!comeback(3, None).is_outrun(&history));
    assert!(comeback(2, None).is_outrun(&history));
    assert!(!comeback(1, Some(3)).is_outrun(&history));
    assert!(comeback(1, Some(2)).is_outrun(&history));
    // Who could not be helped, or is of another log, is not kept waiting.
    assert!(!Comeback::from(Resume::After(id(2))).is_outrun(&history));
    assert!(!Comeback::from(Resume::Fresh).is_outrun(&history));
    history.restart(EventId::origin(Epoch(8)));
    assert!(!comeback(2, None).is_outrun(&history));
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

/// What the log has at a position, made anew for whoever reads it.
fn published(at: u64, step: &Step) -> Arc<Event> {
    let to = |channel: Channel| Audience::channel(channel);
    match step {
        Step::Say(number) => event(at, to(Channel::chat(&chat(*number))), None),
        Step::Tell(users) => {
            let users = users.iter().map(|number| Channel::user(&user(*number)));
            event(at, Audience::channels(users.collect()), None)
        }
        Step::Everybody => {
            let audience = Audience {
                to: Recipients::Everybody,
                except: None,
            };
            event(at, audience, None)
        }
        Step::Join(number) => moved(at, true, *number),
        Step::Leave(number) => moved(at, false, *number),
        Step::Skip => ephemeral(at),
    }
}

/// The stretches of the log, of a length, that lie between two positions, the newest first.
fn segments(steps: &[Step], from: u64, to: u64, length: u64) -> Vec<(u64, Segment)> {
    let mut segments = Vec::new();
    let mut first = from + 1;
    while first <= to {
        let last = (first + length - 1).min(to);
        let events = (first..=last).map(|at| {
            let event = published(at, &steps[at as usize - 1]);
            Arc::try_unwrap(event).map_err(|_| id(at))
        });
        segments.push((first, Segment::new(id(first - 1), last, events)));
        first = last + 1;
    }
    segments.reverse();
    segments
}

proptest! {
    /// The user is user 1. What the user may see at each position is recorded as it happens; a
    /// replay must give exactly that, from wherever the client was: with the history alone, behind a
    /// gap where it does not reach back, and with the log read in stretches, all of it.
    #[test]
    fn a_replay_is_what_the_live_stream_was(
        steps in proptest::collection::vec(step(), 0..60),
        members in proptest::collection::btree_set(1..4i64, 0..4),
        from in any::<prop::sample::Index>(),
        kept in 1..80usize,
        length in 1..20u64,
        overlap in 0..20u64,
    ) {
        let mut history = history(kept);
        let mut chats: BTreeSet<i64> = members;
        let mut seen = Vec::new();
        let mut durable = Vec::new();
        let mut happened = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let at = index as u64 + 1;
            // A backend says that somebody joined only of somebody who was out.
            let step = match step {
                Step::Join(number) if chats.contains(number) => &Step::Skip,
                Step::Leave(number) if !chats.contains(number) => &Step::Skip,
                step => step,
            };
            happened.push(step.clone());
            history.push(&published(at, step));
            let visible = match step {
                Step::Say(number) => chats.contains(number),
                Step::Tell(users) => users.contains(&1),
                Step::Everybody => true,
                Step::Join(number) => chats.insert(*number),
                Step::Leave(number) => chats.remove(number),
                Step::Skip => continue,
            };
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
        let missed = |from: u64| seen.iter().copied().filter(move |at| *at > from);
        prop_assert_eq!(positions(&replay), missed(begin).collect::<Vec<_>>());
        prop_assert_eq!(replay.gap.is_some(), after < floor);
        prop_assert_eq!(replay.from.position(), begin);

        let to = (floor + overlap).min(head).max(after);
        let mut search = Search::new(own(&user(1), &now));
        search.note_changes(&history, to + 1, head);
        for (first, segment) in segments(&happened, after, to, length) {
            segment.search(&mut search, first, segment.last());
        }
        let comeback = Comeback {
            resume: Resume::After(id(after)),
            backlog: Some(Backlog { search, from: id(after), to, gap: None }),
            log_end: None,
            lasting: true,
        };
        let replay = super::plan(&history, own(&user(1), &now), comeback, id(head), super::tests::now());
        prop_assert_eq!(positions(&replay), missed(after).collect::<Vec<_>>());
        prop_assert!(replay.gap.is_none());
        if after < floor {
            let from_log = missed(after).filter(|at| *at <= to).count();
            prop_assert_eq!(replay.from_log, from_log);
        }
    }
}
