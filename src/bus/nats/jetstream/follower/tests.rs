//! The follower in simulated worlds. Here are those that each show one behaviour, in `chance` many by
//! chance, and in `found` what those have found.

mod chance;
mod found;
mod log;
mod reader;
mod simulation;

use self::simulation::{Copies, World};
use super::Errand;
use crate::bus::{Arrival, Message, Passage};

/// Both copies arrive soon.
const SOON: Copies = Copies {
    published: Some(5),
    numbered: Some(5),
};

/// The numbered copy is lost.
const HOLE: Copies = Copies {
    published: Some(5),
    numbered: None,
};

/// Both are.
const UNHEARD: Copies = Copies {
    published: None,
    numbered: None,
};

/// Answers are here after 10 ms and bring up to 100 messages.
fn prompt(before: u64, past: usize) -> World {
    let mut world = World::new(before, past, vec![(5, 5, 100)]);
    world.pass(200);
    world.arrivals.clear();
    world
}

/// In short: positions, contents without one, and losses.
fn told(world: &mut World) -> Vec<String> {
    let arrivals = std::mem::take(&mut world.arrivals);
    let words = arrivals.into_iter().filter_map(|arrival| match arrival {
        Arrival::Message(Message {
            id: Some(id),
            passage,
            ..
        }) => Some(match passage {
            Passage::Past => format!("past {}", id.position()),
            Passage::Late(_) => format!("late {}", id.position()),
            _ => id.position().to_string(),
        }),
        Arrival::Message(_) => Some("unlogged".to_owned()),
        Arrival::Gap { loss, from, to } => {
            let (from, to) = (from.position(), to.position());
            Some(format!("{loss:?} {from}-{to}"))
        }
        _ => None,
    });
    words.collect()
}

#[test]
fn the_past_comes_first_and_ends_with_a_gap() {
    let mut world = World::new(5, 3, vec![(5, 5, 2)]);
    world.publish(SOON, false);
    world.pass(200);
    let told = told(&mut world);
    assert_eq!(told, ["past 4", "past 5", "past 6", "Disconnected 0-6"]);
    assert!(world.follower.is_following());
}

#[test]
fn a_hole_is_filled_before_what_is_behind_it() {
    let mut world = prompt(0, 0);
    for copies in [SOON, HOLE, HOLE, SOON, SOON] {
        world.publish(copies, false);
    }
    world.pass(100);
    assert_eq!(told(&mut world), ["1", "2", "3", "4", "5"]);
}

#[test]
fn a_hole_with_nothing_behind_it_is_found_by_looking() {
    let mut world = prompt(0, 0);
    world.publish(UNHEARD, false);
    world.pass(3_000);
    assert_eq!(told(&mut world), ["1"]);
}

#[test]
fn what_the_log_does_not_take_goes_on_without_a_position_after_a_while() {
    let mut world = prompt(0, 0);
    world.takes_nothing(100);
    world.publish(SOON, false);
    world.pass(900);
    assert!(told(&mut world).is_empty());
    world.pass(1_200);
    assert_eq!(told(&mut world), ["unlogged"]);
}

#[test]
fn what_the_log_took_late_is_told_as_late() {
    let mut world = prompt(0, 0);
    world.answers_nothing(10_000);
    world.publish(HOLE, false);
    world.pass(9_000);
    assert_eq!(told(&mut world), ["unlogged"]);
    world.pass(3_000);
    assert_eq!(told(&mut world), ["late 1"]);
}

#[test]
fn what_the_log_has_by_another_message_of_the_same_id_is_not_told_again() {
    let mut world = prompt(0, 0);
    world.publish(SOON, true);
    world.publish_again(0, SOON);
    world.pass(5_000);
    assert_eq!(told(&mut world), ["1"]);
}

#[test]
fn a_log_that_was_rolled_back_is_read_again_from_there() {
    let mut world = prompt(0, 0);
    for _ in 0..5 {
        world.publish(SOON, false);
    }
    world.pass(100);
    world.roll_back(3);
    world.publish(SOON, false);
    world.publish(SOON, false);
    world.pass(100);
    let begin = ["1", "2", "3", "4", "5", "Rewound 5-2", "3", "4"];
    assert_eq!(told(&mut world), begin);
}

#[test]
fn a_shorter_log_is_believed_only_when_it_lasts() {
    let mut world = prompt(0, 0);
    for _ in 0..5 {
        world.publish(SOON, false);
    }
    world.pass(100);
    told(&mut world);
    world.says_less(1_200, 3);
    world.pass(5_000);
    assert!(told(&mut world).is_empty());
    world.roll_back(3);
    world.pass(5_000);
    assert_eq!(told(&mut world), ["Rewound 5-2"]);
}

#[test]
fn a_log_that_was_made_again_is_read_from_its_beginning() {
    let mut world = prompt(0, 0);
    world.publish(SOON, false);
    world.publish(SOON, false);
    world.pass(100);
    world.delete();
    world.create();
    world.publish(HOLE, false);
    world.publish(SOON, false);
    world.publish(SOON, false);
    world.pass(100);
    assert_eq!(told(&mut world), ["1", "2", "Recreated 2-0", "1", "2", "3"]);
}

#[test]
fn a_log_that_is_gone_is_made_again() {
    let mut world = prompt(0, 0);
    world.publish(SOON, false);
    world.delete();
    world.pass(3_000);
    let opened = world
        .errands
        .iter()
        .filter(|errand| **errand == Errand::Open);
    assert_eq!(opened.count(), 2);
    world.publish(SOON, false);
    world.pass(3_000);
    // It is asked for the first message before that one's time has passed.
    assert_eq!(told(&mut world), ["Recreated 0-0", "unlogged", "1"]);
}

#[test]
fn what_the_log_drops_before_it_is_read_is_a_gap() {
    let mut world = prompt(0, 0);
    world.publish(SOON, false);
    world.disconnect(1_000);
    for _ in 0..5 {
        world.publish(SOON, false);
    }
    world.expire(4);
    world.pass(1_500);
    assert_eq!(told(&mut world), ["Expired 0-4", "5", "6"]);
}

#[test]
fn a_forged_copy_is_dropped_and_holds_up_nothing() {
    let mut world = prompt(0, 0);
    world.publish(SOON, false);
    world.pass(50);
    world.forge(1_000);
    world.publish(SOON, false);
    world.pass(200);
    assert_eq!(told(&mut world), ["1", "2"]);
    world.pass(20_000);
    world.publish(SOON, false);
    world.pass(200);
    assert_eq!(told(&mut world), ["3"]);
}
