use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::hub::registry::SessionKey;

fn who(serial: u32) -> Who {
    Who {
        key: SessionKey::default(),
        serial,
    }
}

fn chat(number: u8) -> Channel {
    Channel::chat(&ChatId::from(i64::from(number)))
}

/// One thing that goes through a shard.
#[derive(Debug, Clone)]
enum Step {
    /// An event at the next position, …
    Logged,
    /// … or one without, under the next number.
    Unlogged,
    /// A session begins to listen on a chat, or ceases to: at the next event, as its join or leave does.
    Turn {
        session: u32,
        chat: u8,
        logged: bool,
    },
    /// What was looked up again takes effect, between two events.
    Refreshed { session: u32, chat: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let (session, chat) = (0..3u32, 0..4u8);
    prop_oneof![
        Just(Step::Logged),
        Just(Step::Unlogged),
        (session.clone(), chat.clone(), any::<bool>()).prop_map(|(session, chat, logged)| {
            Step::Turn {
                session,
                chat,
                logged,
            }
        }),
        (session, chat).prop_map(|(session, chat)| Step::Refreshed { session, chat }),
    ]
}

/// A shard as simple as can be: it writes down what each session listened on at each event.
#[derive(Default)]
struct Model {
    passed: Passed,
    on: [BTreeSet<u8>; 3],
    turns: [u16; 3],
    seen: Vec<(Moment, [BTreeSet<u8>; 3])>,
}

impl Model {
    fn event(&mut self, logged: bool) -> Moment {
        match logged {
            true => {
                self.passed.position += 1;
                Moment::Position(self.passed.position)
            }
            false => {
                self.passed.number += 1;
                Moment::Number(self.passed.number)
            }
        }
    }

    fn turn(&mut self, turns: &mut Turns, (session, number): (u32, u8), after: Passed) {
        let on = &mut self.on[session as usize];
        let begins = !on.remove(&number) && on.insert(number);
        self.turns[session as usize] += 1;
        turns.note(who(session), &chat(number), begins, after);
    }

    fn take(&mut self, step: &Step, turns: &mut Turns) {
        match *step {
            Step::Logged | Step::Unlogged => {
                let moment = self.event(matches!(step, Step::Logged));
                self.seen.push((moment, self.on.clone()));
            }
            Step::Turn {
                session,
                chat,
                logged,
            } => {
                let before = self.passed;
                let moment = self.event(logged);
                let begins = !self.on[session as usize].contains(&chat);
                if begins {
                    // Who joins gets the event that says so, and so does who leaves.
                    self.turn(turns, (session, chat), before);
                    self.seen.push((moment, self.on.clone()));
                } else {
                    self.seen.push((moment, self.on.clone()));
                    self.turn(turns, (session, chat), self.passed);
                }
            }
            Step::Refreshed { session, chat } => self.turn(turns, (session, chat), self.passed),
        }
    }

    fn seats(&self, session: u32, hearers: &Hearers) -> Seats {
        let on = &self.on[session as usize];
        Seats {
            on: Some(hearers.among(|channel| on.iter().any(|number| chat(*number) == *channel))),
            turns: self.turns[session as usize],
            named: false,
        }
    }
}

proptest! {
    #[test]
    fn what_a_session_listened_on_is_what_a_plain_record_says(
        steps in proptest::collection::vec(step(), 0..60),
        named in proptest::collection::vec(0..4u8, 0..6),
    ) {
        let hashing = Hashing::default();
        let (mut model, mut turns) = (Model::default(), Turns::new(hashing.clone()));
        for step in &steps {
            model.take(step, &mut turns);
        }
        let audience = Audience::channels(named.iter().map(|number| chat(*number)).collect());
        let hearers = Hearers::of(&audience, &hashing);
        for session in 0..3 {
            let seats = model.seats(session, &hearers);
            for (moment, on) in &model.seen {
                let heard = turns.at(who(session), &seats, &hearers, *moment);
                let heard: BTreeSet<String> = heard
                    .unwrap()
                    .into_iter()
                    .map(|place| hearers.channel(place).unwrap().to_string())
                    .collect();
                let expected: BTreeSet<String> = on[session as usize]
                    .iter()
                    .filter(|number| named.contains(number))
                    .map(|number| chat(*number).to_string())
                    .collect();
                prop_assert_eq!(heard, expected, "session {} at {:?}", session, moment);
            }
        }
    }
}

#[test]
fn what_has_made_room_is_not_known_and_nothing_else() {
    let hashing = Hashing::default();
    let mut turns = Turns::new(hashing.clone());
    let at = |position| Passed {
        position,
        number: 0,
    };
    turns.note(who(1), &chat(1), true, at(5));
    for _ in 0..TURNS {
        turns.note(who(2), &chat(1), true, at(8));
    }
    assert_eq!(turns.turns.len(), TURNS);
    let hearers = Hearers::of(&Audience::channel(chat(1)), &hashing);
    let seats = |count| Seats {
        on: Some(vec![0]),
        turns: count,
        named: false,
    };
    let heard = |session, count, position| {
        turns.at(
            who(session),
            &seats(count),
            &hearers,
            Moment::Position(position),
        )
    };
    assert_eq!(heard(1, 1, 5), None);
    assert_eq!(heard(1, 1, 6), Some(vec![0]));
    // Of a session that never joined or left, nothing is missing.
    assert_eq!(heard(3, 0, 1), Some(vec![0]));
}

#[test]
fn positions_that_begin_anew_are_after_all_that_was() {
    let hashing = Hashing::default();
    let mut turns = Turns::new(hashing.clone());
    turns.note(
        who(1),
        &chat(1),
        true,
        Passed {
            position: 900,
            number: 3,
        },
    );
    let hearers = Hearers::of(&Audience::channel(chat(1)), &hashing);
    let seats = Seats {
        on: Some(vec![0]),
        turns: 1,
        named: false,
    };
    let heard = |turns: &Turns, moment| turns.at(who(1), &seats, &hearers, moment);
    assert_eq!(heard(&turns, Moment::Position(7)), Some(Vec::new()));
    turns.rewind(0);
    assert_eq!(heard(&turns, Moment::Position(7)), Some(vec![0]));
    assert_eq!(heard(&turns, Moment::Number(3)), Some(Vec::new()));
}

#[test]
fn a_replay_is_by_the_joins_and_leaves_that_were_published() {
    let hashing = Hashing::default();
    let turns = Turns::new(hashing.clone());
    let hearers = Hearers::of(&Audience::channels(vec![chat(1), chat(2)]), &hashing);
    let comeback = |changes: &[(u64, i64, bool)]| CameBack {
        from: 10,
        gap: None,
        log_up_to: 0,
        changes: CameBack::few(
            changes
                .iter()
                .map(|(at, chat, joined)| (*at, ChatId::from(*chat), *joined))
                .collect(),
        ),
    };
    let through = |on: &[u32], changes: &[(u64, i64, bool)], position| {
        let seats = Seats {
            on: Some(on.to_vec()),
            turns: 0,
            named: false,
        };
        let comeback = comeback(changes);
        turns.in_replay(who(1), &seats, &hearers, (&comeback, 30), position)
    };
    assert_eq!(through(&[0], &[], 20), Some(vec![0]));
    assert_eq!(through(&[], &[], 20), Some(vec![]));
    assert_eq!(through(&[0], &[(20, 1, true)], 19), Some(vec![]));
    assert_eq!(through(&[0], &[(20, 1, true)], 20), Some(vec![0]));
    // A chat that the user was in before.
    assert_eq!(through(&[0], &[(20, 2, false)], 20), Some(vec![0, 1]));
    assert_eq!(through(&[0], &[(20, 2, false)], 21), Some(vec![0]));
    let many: Vec<_> = (11..100).map(|at| (at, 1, at % 2 == 0)).collect();
    assert_eq!(through(&[0], &many, 20), None);
}

#[test]
fn of_an_audience_that_was_cut_nothing_is_ruled_out() {
    let hashing = Hashing::default();
    let user = UserId::from(2);
    let names = (0..150).map(|number| Channel::parse(&format!("user:{number}")).unwrap());
    let of_users = For::of(&Audience::channels(names.collect()), &user);
    let names = (0..150).map(|number| Channel::parse(&format!("job:{number}")).unwrap());
    let of_jobs = For::of(&Audience::channels(names.collect()), &user);
    let turns = Turns::new(hashing.clone());
    let heard = |audience: &For, named, on: Vec<u32>| {
        let hearers = Hearers::told(audience, &user, &hashing);
        let seats = Seats {
            on: Some(on),
            turns: 0,
            named,
        };
        turns.at(who(1), &seats, &hearers, Moment::Position(1))
    };
    // A user's own stream listens on no other user's channel.
    assert_eq!(heard(&of_users, false, vec![]), Some(vec![]));
    assert_eq!(heard(&of_users, true, vec![]), None);
    assert_eq!(heard(&of_jobs, false, vec![]), None);
    assert_eq!(heard(&of_jobs, true, vec![3]), Some(vec![3]));
}

#[test]
fn too_many_channels_are_not_remembered_in_part() {
    let hashing = Hashing::default();
    let channels: Vec<Channel> = (0..=4_096)
        .map(|number| Channel::chat(&ChatId::from(number)))
        .collect();
    assert!(hashing.all(channels.iter()).is_none());
    let most = hashing.all(channels[1..].iter()).unwrap();
    let audience = Audience::channels(channels);
    let hearers = Hearers::of(&audience, &hashing);
    assert_eq!(
        hearers.among_hashes(&most),
        (1..=4_096).collect::<Vec<u32>>()
    );
}
