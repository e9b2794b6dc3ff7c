//! Several instances on a simulated NATS that loses words, is cut, and takes instances down.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::event::Timestamp;

const GRACE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(100);

/// An instance, its sessions by user, and what its sessions were told.
struct Instance {
    gossip: Gossip,
    here: BTreeSet<UserId>,
    unseen: BTreeSet<UserId>,
    told: BTreeSet<UserId>,
    tellings: usize,
    alive: bool,
    connected: bool,
    deaf: bool,
}

struct World {
    moment: Moment,
    instances: Vec<Instance>,
}

fn user(number: i64) -> UserId {
    UserId::from(number)
}

impl World {
    fn new(instances: usize) -> Self {
        let mut world = Self {
            moment: Moment {
                now: Instant::now(),
                at: Timestamp::from_millis(1_000_000),
            },
            instances: Vec::new(),
        };
        for _ in 0..instances {
            world.start();
        }
        world
    }

    fn start(&mut self) {
        let name = format!("i{}", self.instances.len());
        let roster = Roster::new(GRACE, true);
        self.instances.push(Instance {
            gossip: Gossip::new(name.into(), true, roster, self.moment.now),
            here: BTreeSet::new(),
            unseen: BTreeSet::new(),
            told: BTreeSet::new(),
            tellings: 0,
            alive: true,
            connected: true,
            deaf: false,
        });
    }

    fn opens(&mut self, instance: usize, number: i64) {
        let instance = &mut self.instances[instance];
        if instance.alive && !instance.gossip.has_left() {
            instance.here.insert(user(number));
            instance.unseen.insert(user(number));
        }
    }

    fn closes(&mut self, instance: usize, number: i64) {
        let instance = &mut self.instances[instance];
        if instance.here.remove(&user(number)) {
            instance.unseen.insert(user(number));
        }
    }

    fn tick(&mut self) {
        self.moment = Moment {
            now: self.moment.now + TICK,
            at: self.moment.at.after(TICK),
        };
        let mut said = Vec::new();
        for instance in self.instances.iter_mut().filter(|i| i.alive) {
            let changed = std::mem::take(&mut instance.unseen);
            let changes = changed
                .into_iter()
                .map(|user| (user.clone(), instance.here.contains(&user)));
            let changes = Changes::Of(changes.collect());
            instance.gossip.attend(changes, self.moment);
            instance.gossip.tick(self.moment.now);
            let words = instance.gossip.take_words();
            said.extend(words.into_iter().filter(|_| instance.connected));
        }
        for word in said {
            for instance in &mut self.instances {
                if instance.alive && instance.connected && !instance.deaf {
                    instance.gossip.hear(word.clone(), self.moment);
                }
            }
        }
        for instance in self.instances.iter_mut().filter(|i| i.alive) {
            while let Some(transition) = instance.gossip.roster.next_transition() {
                instance.tellings += 1;
                let changed = match transition.last_seen {
                    None => instance.told.insert(transition.user),
                    Some(_) => instance.told.remove(&transition.user),
                };
                assert!(changed, "nothing is told twice");
            }
        }
    }

    fn run(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / TICK.as_millis() {
            self.tick();
        }
    }

    fn tellings(&self) -> usize {
        self.instances.iter().map(|i| i.tellings).sum()
    }

    fn sees(&self, instance: usize, number: i64) -> bool {
        let instance = &self.instances[instance];
        let online = instance.gossip.roster.online(&user(number)).is_some();
        assert_eq!(online, instance.told.contains(&user(number)));
        online
    }
}

#[test]
fn users_are_seen_at_once_on_all_instances_and_gone_after_the_grace() {
    let mut world = World::new(3);
    world.run(BEAT * 2);
    world.opens(0, 1);
    world.tick();
    assert!((0..3).all(|instance| world.sees(instance, 1)));
    world.closes(0, 1);
    world.run(GRACE);
    assert!((0..3).all(|instance| world.sees(instance, 1)));
    world.run(TICK * 2);
    assert!((0..3).all(|instance| !world.sees(instance, 1)));
    assert_eq!(world.tellings(), 6);
}

#[test]
fn who_was_there_between_two_looks_is_online_for_the_grace() {
    let mut world = World::new(2);
    world.run(BEAT);
    world.opens(0, 1);
    world.closes(0, 1);
    world.tick();
    assert!((0..2).all(|instance| world.sees(instance, 1)));
    world.run(GRACE + TICK);
    assert!((0..2).all(|instance| !world.sees(instance, 1)));
}

#[test]
fn a_newcomer_learns_of_everybody_in_words_of_a_bounded_size() {
    let mut world = World::new(1);
    for number in 0..2_500 {
        world.opens(0, number);
    }
    world.tick();
    let words = |gossip: &mut Gossip| {
        gossip.asked = true;
        gossip.last_all = None;
        gossip.tick(Instant::now());
        gossip.take_words()
    };
    let parts: Vec<usize> = words(&mut world.instances[0].gossip)
        .into_iter()
        .filter_map(|word| match word.says {
            Word::Part(part) => Some(part.users.len()),
            _ => None,
        })
        .collect();
    assert_eq!(parts, [1_000, 1_000, 500]);
    world.start();
    world.run(BEAT);
    assert!(world.sees(1, 0) && world.sees(1, 2_499));
    world.run(BEAT);
    let newcomer = &world.instances[1].gossip;
    assert!(newcomer.is_complete(world.moment.now));
    assert_eq!(newcomer.instances().len(), 2);
}

#[test]
fn users_of_a_dead_instance_are_offline_within_15_seconds() {
    let mut world = World::new(2);
    world.opens(0, 1);
    world.opens(1, 2);
    world.run(BEAT * 3);
    world.instances[0].alive = false;
    world.run(Duration::from_millis(7_500));
    assert!(world.sees(1, 1), "a few lost words are no death");
    world.run(Duration::from_millis(7_400));
    assert!(!world.sees(1, 1));
    assert!(world.sees(1, 2));
    assert_eq!(world.instances[1].gossip.instances().len(), 1);
    assert!(world.instances[1].gossip.is_complete(world.moment.now));
}

#[test]
fn many_newcomers_make_nobody_look_dead() {
    let mut world = World::new(2);
    world.opens(1, 1);
    world.run(BEAT);
    // It is held up, while each newcomer has the others say early that they are there.
    world.instances[1].connected = false;
    for _ in 0..7 {
        world.start();
        world.run(EARLY);
    }
    world.run(Duration::from_secs(3));
    let there = world.instances[0].gossip.instances();
    assert!(there.contains("i1"), "{there:?}");
    world.instances[1].connected = true;
    world.run(GRACE * 2);
    assert!((0..world.instances.len()).all(|instance| world.sees(instance, 1)));
    assert_eq!(world.instances[0].tellings, 1);
}

#[test]
fn users_who_move_from_an_instance_that_stops_do_not_flicker() {
    let mut world = World::new(2);
    world.opens(0, 1);
    world.opens(0, 2);
    world.run(BEAT);
    let before = world.tellings();
    world.instances[0].gossip.leave(Duration::from_secs(20));
    world.closes(0, 1);
    world.closes(0, 2);
    world.run(Duration::from_secs(1));
    world.instances[0].alive = false;
    world.run(Duration::from_secs(18));
    world.opens(1, 1);
    world.run(GRACE);
    assert_eq!(world.tellings(), before);
    world.run(TICK * 20);
    assert_eq!(world.tellings(), before + 1, "who does not come back goes");
    assert!(world.sees(1, 1) && !world.sees(1, 2));
}

#[test]
fn an_instance_that_is_cut_off_holds_what_it_knew_and_catches_up() {
    let mut world = World::new(3);
    for instance in 0..3 {
        world.opens(instance, i64::try_from(instance).unwrap());
    }
    world.run(BEAT * 2);
    world.instances[0].connected = false;
    world.run(GRACE * 3);
    assert!((0..3).all(|number| world.sees(0, number)));
    assert!(!world.instances[0].gossip.is_complete(world.moment.now));
    // The others can't know that it is not dead.
    assert!(!world.sees(1, 0) && world.sees(1, 2));
    world.closes(1, 1);
    world.opens(0, 9);
    world.run(GRACE * 2);
    world.instances[0].connected = true;
    world.run(BEAT * 2);
    assert!(world.sees(1, 0) && world.sees(2, 9));
    world.run(GRACE);
    assert!((0..3).all(|instance| !world.sees(instance, 1)));
    assert!((0..3).all(|instance| world.sees(instance, 2)));
}

#[test]
fn when_nats_is_away_for_all_nobody_goes_offline() {
    let mut world = World::new(3);
    for instance in 0..3 {
        world.opens(instance, i64::try_from(instance).unwrap());
    }
    world.run(BEAT * 2);
    let before = world.tellings();
    for instance in &mut world.instances {
        instance.connected = false;
    }
    world.run(GRACE * 6);
    for (later, instance) in world.instances.iter_mut().enumerate() {
        instance.connected = later != 2;
    }
    world.run(Duration::from_secs(4));
    world.instances[2].connected = true;
    world.run(GRACE * 2);
    assert_eq!(world.tellings(), before);
}

#[derive(Debug, Clone)]
enum Step {
    Opens(usize, i64),
    Closes(usize, i64),
    Runs(u64),
    Kill(usize),
    Stop(usize, u64),
    Start,
    Cut(usize),
    Heal(usize),
    Deaf(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4usize, 0..5i64).prop_map(|(instance, user)| Step::Opens(instance, user)),
        5 => (0..4usize, 0..5i64).prop_map(|(instance, user)| Step::Closes(instance, user)),
        5 => (1..6_000u64).prop_map(Step::Runs),
        1 => (0..4usize).prop_map(Step::Kill),
        1 => (0..4usize, 0..5_000u64).prop_map(|(instance, back)| Step::Stop(instance, back)),
        1 => Just(Step::Start),
        1 => (0..4usize).prop_map(Step::Cut),
        2 => (0..4usize).prop_map(Step::Heal),
        1 => (0..4usize).prop_map(Step::Deaf),
    ]
}

fn perform(world: &mut World, step: &Step) {
    let place = |instance: &usize| instance % 4;
    match step {
        Step::Opens(instance, user) if *instance < world.instances.len() => {
            world.opens(place(instance), *user);
        }
        Step::Closes(instance, user) if *instance < world.instances.len() => {
            world.closes(place(instance), *user);
        }
        Step::Runs(millis) => world.run(Duration::from_millis(*millis)),
        Step::Start if world.instances.len() < 5 => world.start(),
        Step::Kill(i) if *i < world.instances.len() => world.instances[*i].alive = false,
        Step::Stop(i, back) if *i < world.instances.len() => {
            let instance = &mut world.instances[*i];
            if !instance.gossip.has_left() {
                instance.gossip.leave(Duration::from_millis(*back));
                instance.here.clear();
            }
        }
        Step::Cut(i) if *i < world.instances.len() => world.instances[*i].connected = false,
        Step::Deaf(i) if *i < world.instances.len() => world.instances[*i].deaf = true,
        Step::Heal(i) if *i < world.instances.len() => {
            world.instances[*i].connected = true;
            world.instances[*i].deaf = false;
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_happens_all_come_to_see_who_is_there(
        steps in proptest::collection::vec(step(), 0..60)
    ) {
        let mut world = World::new(2);
        for step in &steps {
            perform(&mut world, step);
            for instance in world.instances.iter().filter(|i| i.alive && !i.gossip.has_left()) {
                for user in instance.here.difference(&instance.unseen) {
                    prop_assert!(instance.gossip.roster.online(user).is_some());
                }
            }
        }
        for instance in &mut world.instances {
            instance.connected = true;
            instance.deaf = false;
        }
        // Deaths are noticed, those that stopped are waited for, and the grace passes.
        world.run(Duration::from_secs(30));
        let serving = |i: &&Instance| i.alive && !i.gossip.has_left();
        let there: BTreeSet<UserId> = world.instances.iter()
            .filter(serving)
            .flat_map(|i| i.here.iter().cloned())
            .collect();
        let count = world.instances.iter().filter(serving).count();
        for instance in world.instances.iter().filter(serving) {
            prop_assert_eq!(&instance.told, &there);
            prop_assert_eq!(instance.gossip.roster.len(), there.len());
            prop_assert_eq!(instance.gossip.instances().len(), count);
            prop_assert!(instance.gossip.is_complete(world.moment.now));
            for number in 0..5 {
                let online = instance.gossip.roster.online(&user(number)).is_some();
                prop_assert_eq!(online, there.contains(&user(number)));
            }
        }
    }
}
