//! What worlds by chance have found, each in the fewest steps that show it.

use super::simulation::World;
use super::{HOLE, SOON, UNHEARD, prompt, told};
use crate::bus::Arrival;

/// A world in which so many messages were told.
fn with_messages(count: u64) -> World {
    let mut world = prompt(0, 0);
    for _ in 0..count {
        world.publish(SOON, false);
    }
    world.pass(100);
    world.arrivals.clear();
    world
}

#[test]
fn a_rollback_does_not_hide_behind_the_next_position() {
    let mut world = with_messages(3);
    world.roll_back(2);
    world.disconnect(5);
    // The log grows back to where it was, and the first copy to arrive seems to be next.
    world.publish(UNHEARD, false);
    world.publish(UNHEARD, false);
    world.pass(5);
    world.publish(SOON, false);
    world.pass(200);
    assert_eq!(told(&mut world), ["Rewound 3-1", "2", "3", "4"]);
}

#[test]
fn what_waited_when_the_connection_broke_is_not_believed_later() {
    let mut world = with_messages(1);
    world.answers_nothing(60);
    world.publish(HOLE, false);
    world.publish(SOON, false);
    world.pass(20);
    // Both are lost, and their places are used again.
    world.roll_back(2);
    world.disconnect(5);
    world.pass(1_000);
    world.publish(SOON, false);
    world.pass(5_000);
    assert_eq!(told(&mut world), ["2", "unlogged", "unlogged"]);
}

#[test]
fn a_copy_ahead_of_the_log_does_not_delay_those_behind_it() {
    let mut world = with_messages(1);
    for ahead in 1_000..1_100 {
        world.forge(ahead);
    }
    world.pass(10_000);
    world.publish(SOON, false);
    world.pass(100);
    assert_eq!(told(&mut world), ["2"]);
    assert!(world.follower.ahead.is_empty());
}

#[test]
fn a_copy_that_contradicts_does_not_make_a_lagging_log_believed() {
    let mut world = with_messages(5);
    world.says_less(300, 3);
    world.forge(-3);
    world.pass(5_000);
    assert!(told(&mut world).is_empty());
}

#[test]
fn a_log_that_lags_twice_is_not_shorter_for_as_long_as_it_was_silent_between() {
    let mut world = with_messages(5);
    // A look is due within the first, and one within the second.
    world.says_less(1_200, 3);
    world.pass(1_100);
    world.answers_nothing(3_500);
    world.pass(3_400);
    world.says_less(400, 3);
    world.pass(5_000);
    assert!(told(&mut world).is_empty());
}

#[test]
fn a_log_that_was_rolled_back_after_it_was_looked_at_is_looked_at_again() {
    let mut world = World::new(9, 9, vec![(5, 5, 2)]);
    // Some of its past is read when the end is lost.
    world.pass(30);
    world.roll_back(2);
    world.pass(1_000);
    world.publish(UNHEARD, false);
    world.pass(3_000);
    let told = told(&mut world);
    assert_eq!(told.last().map(String::as_str), Some("8"), "{told:?}");
}

#[test]
fn where_a_log_ended_is_forgotten_with_the_connection() {
    let mut world = World::new(0, 0, vec![(5, 5, 100), (5, 400, 1)]);
    world.pass(500);
    for _ in 0..5 {
        world.publish(SOON, false);
    }
    world.pass(500);
    world.arrivals.clear();
    world.roll_back(3);
    // It is believed, and being compared, when the connection breaks.
    while world.follower.shrunk_to.is_none() {
        world.pass(5);
    }
    world.disconnect(5);
    for _ in 0..3 {
        world.publish(UNHEARD, false);
    }
    world.pass(10_000);
    assert_eq!(told(&mut world), ["Rewound 5-2", "3", "4", "5"]);
}

#[test]
fn a_duplicate_that_was_dropped_does_not_make_the_next_one_late() {
    let mut world = prompt(0, 0);
    world.publish(SOON, true);
    world.publish_again(0, SOON);
    world.pass(5_000);
    // The log loses it, and takes it when it is published once more: it is new again.
    world.roll_back(1);
    world.disconnect(5);
    world.pass(3_000);
    world.publish_again(0, SOON);
    world.pass(100);
    assert_eq!(told(&mut world), ["1", "Rewound 1-0", "1"]);
}

#[test]
fn the_doubt_comes_behind_what_was_missed() {
    let mut world = with_messages(1);
    world.disconnect(100);
    for _ in 0..3 {
        world.publish(SOON, false);
    }
    world.pass(500);
    assert_eq!(world.arrivals.len(), 4);
    assert!(matches!(world.arrivals[3], Arrival::Doubt));
}

#[test]
fn the_doubt_does_not_wait_for_a_log_that_is_silent() {
    let mut world = with_messages(1);
    world.disconnect(100);
    world.answers_nothing(10_000);
    world.pass(200);
    world.publish(HOLE, false);
    world.pass(4_000);
    assert!(matches!(world.arrivals[0], Arrival::Doubt));
    assert_eq!(told(&mut world), ["unlogged"]);
}
