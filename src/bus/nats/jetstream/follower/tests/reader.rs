//! What a client makes of the arrivals, and whether that is what it should have.

use std::collections::{BTreeMap, HashMap};

use super::simulation::{Fate, World};
use crate::bus::{Arrival, Loss, Message, Passage};
use crate::event::{Epoch, EventId};

/// A client that takes everything, and checks on the way that the positions make sense.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) losses: Vec<Loss>,
    tally: Tally,
    /// What has a position in the present log.
    have: BTreeMap<u64, u64>,
    /// The stretches that gaps name: from, excluded, and to.
    covered: Vec<(u64, u64)>,
    last: Option<EventId>,
    began: u64,
    tags: HashMap<u64, u64>,
}

/// How often each content was put out, by which way.
#[derive(Debug, Default)]
struct Tally {
    live: HashMap<u64, u32>,
    unlogged: HashMap<u64, u32>,
    past: HashMap<u64, u32>,
    late: HashMap<u64, u32>,
}

impl Reader {
    /// Reads all that the follower has put out.
    pub(super) fn of(world: &World) -> Self {
        let mut reader = Self::default();
        for arrival in &world.arrivals {
            reader.arrival(arrival);
        }
        reader
    }

    fn arrival(&mut self, arrival: &Arrival) {
        match arrival {
            Arrival::Began(origin) => {
                assert_eq!(self.last, None, "a log is found once");
                self.last = Some(*origin);
                self.began = origin.position();
            }
            Arrival::Message(message) => self.message(message),
            Arrival::Gap { loss, from, to } => self.gap(*loss, *from, *to),
            Arrival::Forgotten(_) | Arrival::Doubt => {}
        }
    }

    fn message(&mut self, message: &Message) {
        let content: u64 = std::str::from_utf8(&message.payload)
            .unwrap()
            .parse()
            .unwrap();
        let counts = match message.passage {
            Passage::Past => {
                assert!(!self.past_has_ended(), "the past comes first");
                &mut self.tally.past
            }
            Passage::Live => &mut self.tally.live,
            Passage::Late(tag) => {
                assert_eq!(
                    self.tags.remove(&tag),
                    Some(content),
                    "the tag of a late one"
                );
                &mut self.tally.late
            }
            Passage::Unlogged(tag) => {
                assert_eq!(message.id, None);
                assert_eq!(self.tags.insert(tag, content), None, "tags are used once");
                *self.tally.unlogged.entry(content).or_default() += 1;
                return;
            }
        };
        *counts.entry(content).or_default() += 1;
        let id = message.id.expect("a position");
        let last = self.last.expect("a log");
        assert_eq!(
            id,
            EventId::new(last.epoch(), id.position(), &message.payload)
        );
        assert!(id.position() > last.position(), "{id} behind {last}");
        self.have.insert(id.position(), content);
        self.last = Some(id);
    }

    fn gap(&mut self, loss: Loss, from: EventId, to: EventId) {
        let last = self.last.expect("a log");
        // The follower may be further than what it told: what the log had no more is passed by.
        let behind = |id: EventId| id.epoch() == last.epoch() && id.position() >= last.position();
        match loss {
            Loss::Disconnected => {
                assert!(!self.past_has_ended(), "the past ends once");
                assert!(behind(to), "{to} behind {last}");
            }
            Loss::Expired => {
                assert!(behind(from), "{from} behind {last}");
                assert!(to.position() > from.position() && to.epoch() == last.epoch());
                self.covered.push((from.position(), to.position()));
            }
            Loss::Rewound => {
                assert!(behind(from), "{from} behind {last}");
                assert!(to.position() < from.position() && to.epoch() == last.epoch());
                self.have.split_off(&(to.position() + 1));
                let end = to.position();
                self.covered.retain_mut(|(from, to)| {
                    *to = end.min(*to);
                    *from < *to
                });
            }
            Loss::Recreated => {
                assert!(behind(from), "{from} behind {last}");
                assert_ne!(to.epoch(), last.epoch());
                self.have.clear();
                self.covered.clear();
                self.began = to.position();
            }
            Loss::Dropped => panic!("the follower drops nothing"),
        }
        self.losses.push(loss);
        self.last = Some(to);
    }

    fn past_has_ended(&self) -> bool {
        self.losses.contains(&Loss::Disconnected)
    }

    /// What the log has, this has in the same places, or knows that it has not.
    pub(super) fn agrees_with_the_log(&self, world: &World) {
        let log = &world.log;
        let last = self.last.expect("a log");
        assert_eq!(last.epoch(), Epoch(log.epoch), "the present log");
        for (position, entry) in log.entries.range(self.began + 1..) {
            let covered = self
                .covered
                .iter()
                .any(|(from, to)| (*from + 1..=*to).contains(position));
            let have = self.have.get(position);
            assert!(
                have == Some(&entry.content) || have.is_none() && covered,
                "at {position} the log has {}, not {have:?}",
                entry.content
            );
        }
        for (position, content) in self.have.range(log.first..) {
            let there = log.entries.get(position).map(|entry| entry.content);
            assert_eq!(there, Some(*content), "{position} is not in the log");
        }
    }

    /// What was heard is put out, and not twice. `anew`: the log became another under
    /// the connection, and what came before that was seen may be told again behind a gap.
    pub(super) fn has_all_that_was_heard_once(&self, world: &World, anew: bool) {
        for (content, fate) in &world.fates {
            let of = |counts: &HashMap<u64, u32>| counts.get(content).copied().unwrap_or(0);
            let (live, unlogged) = (of(&self.tally.live), of(&self.tally.unlogged));
            let past = of(&self.tally.past);
            let told = live + unlogged;
            let Fate {
                arrived,
                published,
                taken,
                forged,
            } = *fate;
            assert!(
                arrived == 0 || told + past > 0,
                "{content} was heard and never told"
            );
            if forged {
                continue;
            }
            // One that is published again after the log has lost it is a new one.
            assert!(live <= published || anew, "{content} is live {live} times");
            assert!(past <= 1 || anew, "{content} is past {past} times");
            assert!(unlogged <= arrived, "{content} is told {unlogged} times");
            if published == 1 {
                assert!(told <= 1 || anew, "{content} is told {told} times");
                if !taken {
                    assert_eq!((live, past, unlogged), (0, 0, arrived), "{content}");
                }
            }
        }
    }
}
