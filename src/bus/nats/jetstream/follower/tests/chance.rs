//! Worlds by chance, and what is true in all of them.

use proptest::prelude::*;

use super::reader::Reader;
use super::simulation::{Copies, World};
use crate::bus::Loss;
use crate::bus::nats::jetstream::follower::Errand;

/// What happens in a world by chance. Numbers are milliseconds, or counts.
#[derive(Debug, Clone)]
enum Happening {
    Publish(Vec<Copies>),
    PublishWithId(Copies),
    PublishAgain(usize, Copies),
    Pass(u64),
    Disconnect(u64),
    TakesNothing(u64),
    AnswersNothing(u64),
    Election(u64),
    SaysLess(u64, u64),
    Expire(u64),
    /// With the server that goes down, and by itself.
    Restart(u64, u64),
    RollBack(u64),
    Delete(u64),
    Forge(i64),
}

fn copies() -> impl Strategy<Value = Copies> {
    let delay = || prop_oneof![12 => 0..30u64, 1 => 0..2_500u64];
    let numbered = proptest::option::weighted(0.9, delay());
    (proptest::option::weighted(0.95, delay()), numbered).prop_map(|(published, numbered)| Copies {
        published,
        numbered,
    })
}

/// What leaves the log as it is, but for what is added.
fn harmless() -> BoxedStrategy<Happening> {
    prop_oneof![
        8 => proptest::collection::vec(copies(), 1..6).prop_map(Happening::Publish),
        2 => copies().prop_map(Happening::PublishWithId),
        2 => (0..3usize, copies()).prop_map(|(back, copies)| Happening::PublishAgain(back, copies)),
        4 => (0..1_500u64).prop_map(Happening::Pass),
        2 => (0..100u64).prop_map(Happening::Pass),
        1 => (5..2_000u64).prop_map(Happening::Disconnect),
        1 => (5..3_000u64).prop_map(Happening::TakesNothing),
        1 => (5..3_000u64).prop_map(Happening::AnswersNothing),
        1 => (5..6_000u64).prop_map(Happening::Election),
        1 => (5..700u64, 1..20u64).prop_map(|(millis, by)| Happening::SaysLess(millis, by)),
    ]
    .boxed()
}

/// What takes something out of the log, or lies about it.
fn harmful() -> BoxedStrategy<Happening> {
    prop_oneof![
        2 => (1..10u64).prop_map(Happening::Expire),
        1 => Just(Happening::Expire(1_000)),
        2 => (1..8u64, 5..1_500u64).prop_map(|(count, millis)| Happening::Restart(count, millis)),
        2 => (1..8u64).prop_map(Happening::RollBack),
        1 => (0..2_500u64).prop_map(Happening::Delete),
        1 => (-5..=0i64).prop_map(Happening::Forge),
        1 => (1_000..2_000i64).prop_map(Happening::Forge),
    ]
    .boxed()
}

fn happen(world: &mut World, happening: &Happening) {
    match happening {
        Happening::Publish(all) => {
            for copies in all {
                world.publish(*copies, false);
            }
        }
        Happening::PublishWithId(copies) => {
            world.publish(*copies, true);
        }
        Happening::PublishAgain(back, copies) => world.publish_again(*back, *copies),
        Happening::Pass(millis) => world.pass(*millis),
        Happening::Disconnect(millis) => world.disconnect(*millis),
        Happening::TakesNothing(millis) => world.takes_nothing(*millis),
        Happening::AnswersNothing(millis) => world.answers_nothing(*millis),
        Happening::Election(millis) => {
            world.takes_nothing(*millis);
            world.answers_nothing(*millis);
        }
        Happening::SaysLess(millis, by) => world.says_less(*millis, *by),
        Happening::Expire(count) => world.expire(*count),
        Happening::Restart(count, millis) => {
            world.roll_back(*count);
            world.disconnect(*millis);
        }
        Happening::RollBack(count) => {
            // Not believed at once, so what says less than there is must not meet it.
            world.says_the_truth();
            world.roll_back(*count);
        }
        Happening::Delete(millis) => {
            world.delete();
            world.pass(*millis);
            world.create();
        }
        Happening::Forge(ahead) => world.forge(*ahead),
    }
}

/// Lets everything happen, and then come to rest.
fn live(story: &Story) -> World {
    let mut world = World::new(story.before, story.past, story.latencies.clone());
    for happening in &story.happenings {
        happen(&mut world, happening);
    }
    world.come_to_rest();
    let errands = world.errands.len();
    world.pass(10_000);
    let last = &world.errands[errands..];
    assert!(last.len() <= 10, "{} errands at rest", last.len());
    assert!(
        last.iter().all(|errand| *errand == Errand::Look),
        "{last:?}"
    );
    assert!(world.follower.ahead.is_empty());
    world
}

fn latencies() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
    let latency = prop_oneof![8 => 0..20u64, 1 => 0..700u64];
    let back = prop_oneof![8 => 0..20u64, 1 => 0..300u64];
    proptest::collection::vec((latency, back, 1..30u64), 1..8)
}

/// A world by chance. It is shown in one line.
#[derive(Clone)]
struct Story {
    before: u64,
    past: usize,
    latencies: Vec<(u64, u64, u64)>,
    happenings: Vec<Happening>,
}

impl std::fmt::Debug for Story {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            before,
            past,
            latencies,
            happenings,
        } = self;
        let text = format!("{before} before, {past} of them past, {latencies:?}, {happenings:?}");
        f.write_str(&text)
    }
}

fn story(happening: impl Strategy<Value = Happening>) -> impl Strategy<Value = Story> {
    let happenings = proptest::collection::vec(happening, 0..40);
    let all = (0..30u64, 0..40usize, latencies(), happenings);
    all.prop_map(|(before, past, latencies, happenings)| Story {
        before,
        past,
        latencies,
        happenings,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// As long as the log loses nothing, nobody is told of a gap, and everything comes once.
    #[test]
    fn where_the_log_loses_nothing_there_is_no_gap(story in story(harmless())) {
        let world = live(&story);
        let reader = Reader::of(&world);
        prop_assert_eq!(&reader.losses, &[Loss::Disconnected]);
        reader.agrees_with_the_log(&world);
        reader.has_all_that_was_heard_once(&world, false);
    }

    /// Whatever happens, in the end all that the log has was told, or named by a gap.
    #[test]
    fn whatever_happens_the_end_is_the_log(
        story in story(prop_oneof![4 => harmless(), 1 => harmful()])
    ) {
        let world = live(&story);
        let reader = Reader::of(&world);
        reader.agrees_with_the_log(&world);
        // What was read of a log while it became another is read again.
        let anew = |happening: &Happening| {
            matches!(happening, Happening::Delete(_) | Happening::RollBack(_))
        };
        reader.has_all_that_was_heard_once(&world, story.happenings.iter().any(anew));
    }
}

/// Each case is some 90 simulated seconds; more are worth it after a change.
fn cases() -> u32 {
    let more = std::env::var("PROPTEST_CASES").ok();
    more.and_then(|more| more.parse().ok()).unwrap_or(300)
}
