//! What the instances say to each other about who is there, and what each makes of it. Pure: words and
//! time go in, words come out.
//!
//! Each instance numbers its changes. The words of one instance arrive in the order in which it said
//! them, and any may be lost: whoever misses a number asks for all users of that instance anew.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::other::Other;
use super::roster::{MAX_USERS, Moment, Roster};
use super::word::{self, Message, Word};
use crate::event::UserId;
use crate::hub::Changes;

/// Between two beats of an instance.
pub(super) const BEAT: Duration = Duration::from_secs(2);

/// Without a beat of our own coming back for so long, the others can't be heard either.
const CUT_OFF: Duration = Duration::from_secs(5);

/// Between two times that this instance says all its users.
const PAUSE: Duration = Duration::from_secs(1);

/// Between a beat and one that is said early, because somebody new is there.
const EARLY: Duration = Duration::from_millis(500);

/// The most other instances that are listened to.
const INSTANCES: usize = 256;

/// The last instances that stopped, of which late words may still come.
const STOPPED: usize = 256;

/// The longest that the users of an instance that stops may take to come back.
const LONGEST_RETURN: Duration = Duration::from_secs(300);

/// This instance among the others.
#[derive(Debug)]
pub(super) struct Gossip {
    me: Arc<str>,
    /// Whether there may be others.
    shared: bool,
    pub(super) roster: Roster,
    /// Changes said so far.
    changes: u64,
    others: HashMap<Arc<str>, Other, RandomState>,
    stopped: VecDeque<Arc<str>>,
    next_beat: Instant,
    last_beat: Option<Instant>,
    echo: Option<Echo>,
    /// Whether somebody has asked for all users.
    asked: bool,
    last_all: Option<Instant>,
    left: bool,
    says: Vec<Word>,
}

/// Our own beats, as they come back.
#[derive(Debug, Clone, Copy)]
struct Echo {
    last: Instant,
    /// Since when without an interruption.
    since: Instant,
    /// The last one that counted. Early ones, and such as come together after a hold-up, left the others
    /// no time to say something.
    counted: Instant,
}

impl Gossip {
    pub(super) fn new(me: Arc<str>, shared: bool, roster: Roster, now: Instant) -> Self {
        Self {
            me,
            shared,
            roster,
            changes: 0,
            others: HashMap::default(),
            stopped: VecDeque::new(),
            next_beat: now,
            last_beat: None,
            echo: None,
            asked: false,
            last_all: None,
            left: false,
            says: Vec::new(),
        }
    }

    /// Users came to this instance, or went.
    pub(super) fn attend(&mut self, changes: Changes, moment: Moment) {
        if self.left {
            return;
        }
        let (mut came, mut went) = (Vec::new(), Vec::new());
        let changes = match changes {
            Changes::Of(changes) => changes,
            Changes::Everybody(here) => self.compared_with(here),
        };
        for (user, here) in changes {
            // Who is not here has been meanwhile, were it for the length of a poll.
            if self.roster.enter(&self.me, &user, moment.at) {
                came.push((user.clone(), moment.at.as_millis()));
            }
            if !here && self.roster.leave(&self.me, &user, moment) {
                went.push(user);
            }
        }
        if self.shared {
            let words = word::changes(came, went, &mut self.changes);
            self.says.extend(words);
        }
    }

    fn compared_with(&self, here: Vec<UserId>) -> Vec<(UserId, bool)> {
        let now: BTreeSet<UserId> = here.into_iter().collect();
        let before = self.roster.of(&self.me).into_iter().flatten();
        let mut changes: Vec<(UserId, bool)> = before
            .map(|(user, _)| user)
            .filter(|user| !now.contains(*user))
            .map(|user| (user.clone(), false))
            .collect();
        changes.extend(now.into_iter().map(|user| (user, true)));
        changes
    }

    /// Something was said, by whomever.
    pub(super) fn hear(&mut self, message: Message, moment: Moment) {
        let Message { from, says } = message;
        if self.left {
            // Another word of its own would look like a sign of life.
            return;
        }
        if from == self.me {
            if matches!(says, Word::Beat { .. }) {
                self.echoed(moment.now);
            }
            return;
        }
        if self.stopped.contains(&from) || !self.meet(&from, moment) {
            return;
        }
        let Some(other) = self.others.get_mut(&from) else {
            return;
        };
        match says {
            Word::Beat { changes } if other.compare(changes) => {}
            Word::Change { change, came, went } if other.change(change) => {
                for (user, since) in came.into_iter().map(word::known) {
                    self.roster.enter(&from, &user, since);
                }
                for user in went {
                    self.roster.leave(&from, &user, moment);
                }
            }
            Word::Beat { .. } | Word::Change { .. } => {
                if other.may_ask(moment.now) {
                    self.says.push(Word::Ask { whom: from });
                }
            }
            Word::Part(part) => {
                if let Some(users) = other.gather(part) {
                    self.roster.replace(&from, &users, moment);
                }
            }
            Word::Ask { whom } => self.asked |= whom == self.me,
            Word::Leaving { return_ms } => self.part_with(from, return_ms, moment),
        }
    }

    /// An instance stops.
    fn part_with(&mut self, instance: Arc<str>, return_ms: u64, moment: Moment) {
        let within = Duration::from_millis(return_ms).min(LONGEST_RETURN);
        self.others.remove(&instance);
        self.roster.remove(&instance, moment, within);
        self.stopped.push_back(instance);
        if self.stopped.len() > STOPPED {
            self.stopped.pop_front();
        }
    }

    /// Notes that an instance is there; `false` if there is no more room for it.
    fn meet(&mut self, instance: &Arc<str>, moment: Moment) -> bool {
        if let Some(other) = self.others.get_mut(instance) {
            other.hear(moment);
            return true;
        }
        if self.others.len() >= INSTANCES {
            return false;
        }
        self.others.insert(Arc::clone(instance), Other::new(moment));
        // So that it need not wait to learn of this one.
        let early = self.last_beat.map_or(moment.now, |last| last + EARLY);
        self.next_beat = self.next_beat.min(early);
        true
    }

    /// A beat of our own has come back: those who can be heard had the time to say something.
    fn echoed(&mut self, now: Instant) {
        let before = self.echo.filter(|echo| now < echo.last + CUT_OFF);
        let counts = self
            .echo
            .is_none_or(|echo| now >= echo.counted + BEAT * 3 / 4);
        self.echo = Some(Echo {
            last: now,
            since: before.map_or(now, |echo| echo.since),
            counted: self
                .echo
                .filter(|_| !counts)
                .map_or(now, |echo| echo.counted),
        });
        if !counts {
            return;
        }
        let roster = &mut self.roster;
        self.others.retain(|instance, other| {
            let there = other.beat_passes();
            if !there {
                roster.remove(instance, other.heard(), Duration::ZERO);
            }
            there
        });
    }

    /// Does what the clock asks for.
    pub(super) fn tick(&mut self, now: Instant) {
        self.roster.expire(now);
        if !self.shared || self.left {
            return;
        }
        let rested = |last: Option<Instant>| last.is_none_or(|last| now >= last + PAUSE);
        if self.asked && rested(self.last_all) {
            let all = word::all(self.roster.of(&self.me), self.changes);
            self.says.extend(all);
            (self.asked, self.last_all) = (false, Some(now));
        }
        if now >= self.next_beat {
            (self.last_beat, self.next_beat) = (Some(now), now + BEAT);
            self.says.push(Word::Beat {
                changes: self.changes,
            });
        }
    }

    /// This instance stops, and its users come back elsewhere within a time. It says no more.
    pub(super) fn leave(&mut self, within: Duration) {
        self.left = true;
        let return_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.says = vec![Word::Leaving { return_ms }];
    }

    /// What is to be said to all instances, in this order. What can't be said is lost.
    pub(super) fn take_words(&mut self) -> Vec<Message> {
        let words = std::mem::take(&mut self.says).into_iter();
        words
            .filter(|_| self.shared)
            .map(|says| Message {
                from: Arc::clone(&self.me),
                says,
            })
            .collect()
    }

    /// Whether this instance stops.
    pub(super) fn has_left(&self) -> bool {
        self.left
    }

    /// Whether all users are known, as far as this instance can tell.
    pub(super) fn is_complete(&self, now: Instant) -> bool {
        let heard = |echo: Echo| now < echo.last + CUT_OFF && now >= echo.since + BEAT + PAUSE;
        let known = self.others.values().all(Other::is_known);
        let together = known && self.echo.is_some_and(heard);
        (!self.shared || together)
            && self.others.len() < INSTANCES
            && self.roster.len() < MAX_USERS
            && !self.left
    }

    /// The names of all instances that are there, this one among them.
    pub(super) fn instances(&self) -> BTreeSet<Arc<str>> {
        let others = self.others.keys().cloned();
        others.chain([Arc::clone(&self.me)]).collect()
    }
}

/// What other instances say, a word a line, whatever it is: this one goes on, in bounded memory.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let mut now = Instant::now();
    let mut at = crate::event::Timestamp::from_millis(1_753_859_400_000);
    let roster = Roster::new(Duration::from_secs(10), true);
    let mut gossip = Gossip::new("me".into(), true, roster, now);
    for line in data.split(|byte| *byte == b'\n') {
        let moment = Moment { now, at };
        match serde_json::from_slice::<Message>(line) {
            Ok(message) => {
                let said = serde_json::to_vec(&message);
                let heard = said.and_then(|said| serde_json::from_slice::<Message>(&said));
                assert!(heard.is_ok(), "what is heard can be said");
                gossip.hear(message, moment);
            }
            Err(_) => gossip.tick(now),
        }
        let words = gossip.take_words();
        assert!(words.iter().all(|word| *word.from == *gossip.me));
        assert!(gossip.instances().len() <= INSTANCES + 1);
        assert!(gossip.stopped.len() <= STOPPED);
        now += Duration::from_millis(300);
        at = at.after(Duration::from_millis(300));
    }
    now += Duration::from_secs(400);
    gossip.tick(now);
}

#[cfg(test)]
mod tests;
