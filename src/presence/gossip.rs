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
use serde::{Deserialize, Serialize};

use super::roster::{MAX_USERS, Moment, Roster, Users};
use crate::event::{Timestamp, UserId};
use crate::hub::Changes;

/// Between two beats of an instance.
pub(super) const BEAT: Duration = Duration::from_secs(2);

/// As many beats of our own come back without a word of another instance until it counts as gone: 8 to
/// 10 s, with room for a few lost words and for a process that is held up for a while.
const SILENT_BEATS: u32 = 5;

/// Without a beat of our own coming back for so long, the others can't be heard either.
const CUT_OFF: Duration = Duration::from_secs(5);

/// The most users in one word: at 200 bytes each, a quarter of what NATS carries by default.
const WORD: usize = 1_000;

/// Between two times that an instance says all its users, or is asked to.
const PAUSE: Duration = Duration::from_secs(1);

/// Between a beat and one that is said early, because somebody new is there.
const EARLY: Duration = Duration::from_millis(500);

/// The most other instances that are listened to.
const INSTANCES: usize = 256;

/// The last instances that stopped, of which late words may still come.
const STOPPED: usize = 256;

/// The longest that the users of an instance that stops may take to come back.
const LONGEST_RETURN: Duration = Duration::from_secs(300);

/// What an instance says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Message {
    pub(super) from: Arc<str>,
    pub(super) says: Word,
}

/// A user and since when, in Unix milliseconds.
type Entry = (UserId, u64);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// It is there, and has said so many changes.
    Beat { changes: u64 },
    /// Users came and went. Changes are numbered from 1.
    Change {
        change: u64,
        came: Vec<Entry>,
        went: Vec<UserId>,
    },
    /// A part of all its users, as they are after so many changes.
    Part {
        changes: u64,
        part: usize,
        of: usize,
        users: Vec<Entry>,
    },
    /// That instance should say all its users.
    Ask { whom: Arc<str> },
    /// It stops, and says no more. Its users come back to other instances within this time.
    Leaving { return_ms: u64 },
}

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
}

#[derive(Debug)]
struct Other {
    /// The last change that is known; `None` while not all of its users are.
    changes: Option<u64>,
    gathering: Option<Gathering>,
    heard: Moment,
    /// Beats of our own that came back since.
    silent: u32,
    /// When its users may be asked for again.
    ask_at: Instant,
}

/// Parts that have come, which is all parts up to the next.
#[derive(Debug)]
struct Gathering {
    changes: u64,
    next: usize,
    users: Users,
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
        let (mut came, mut went) = (came.into_iter(), went.into_iter());
        while self.shared && (came.len() > 0 || went.len() > 0) {
            self.changes += 1;
            let came: Vec<Entry> = came.by_ref().take(WORD).collect();
            let rest = WORD - came.len();
            self.says.push(Word::Change {
                change: self.changes,
                went: went.by_ref().take(rest).collect(),
                came,
            });
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
        match says {
            Word::Beat { changes } => self.compare(&from, changes, moment.now),
            Word::Change { change, came, went } => self.change(&from, change, came, &went, moment),
            Word::Part {
                changes,
                part,
                of,
                users,
            } => self.gather(&from, (changes, part, of), users, moment),
            Word::Ask { whom } => self.asked |= whom == self.me,
            Word::Leaving { return_ms } => {
                let within = Duration::from_millis(return_ms).min(LONGEST_RETURN);
                self.others.remove(&from);
                self.roster.remove(&from, moment, within);
                self.stopped.push_back(from);
                if self.stopped.len() > STOPPED {
                    self.stopped.pop_front();
                }
            }
        }
    }

    /// Notes that an instance is there; `false` if there is no more room for it.
    fn meet(&mut self, instance: &Arc<str>, moment: Moment) -> bool {
        if let Some(other) = self.others.get_mut(instance) {
            other.heard = moment;
            other.silent = 0;
            return true;
        }
        if self.others.len() >= INSTANCES {
            return false;
        }
        let other = Other {
            changes: None,
            gathering: None,
            heard: moment,
            silent: 0,
            ask_at: moment.now,
        };
        self.others.insert(Arc::clone(instance), other);
        // So that it need not wait to learn of this one.
        let early = self.last_beat.map_or(moment.now, |last| last + EARLY);
        self.next_beat = self.next_beat.min(early);
        true
    }

    /// A beat of our own has come back: those who can be heard had the time to say something.
    fn echoed(&mut self, now: Instant) {
        let before = self.echo.filter(|echo| now < echo.last + CUT_OFF);
        self.echo = Some(Echo {
            last: now,
            since: before.map_or(now, |echo| echo.since),
        });
        let roster = &mut self.roster;
        self.others.retain(|instance, other| {
            other.silent += 1;
            let there = other.silent < SILENT_BEATS;
            if !there {
                roster.remove(instance, other.heard, Duration::ZERO);
            }
            there
        });
    }

    fn compare(&mut self, from: &str, changes: u64, now: Instant) {
        let Some(other) = self.others.get_mut(from) else {
            return;
        };
        if changes == 0 && other.changes.is_none() {
            // It has only just begun: there is nothing to ask for.
            other.changes = Some(0);
        }
        if other.changes != Some(changes) {
            other.changes = None;
            ask(&mut self.says, from, other, now);
        }
    }

    fn change(
        &mut self,
        from: &Arc<str>,
        change: u64,
        came: Vec<Entry>,
        went: &[UserId],
        moment: Moment,
    ) {
        let Some(other) = self.others.get_mut(from) else {
            return;
        };
        // Of one that has just begun, the first change is all.
        if other.changes.unwrap_or(0) + 1 != change {
            other.changes = None;
            return ask(&mut self.says, from, other, moment.now);
        }
        other.changes = Some(change);
        for (user, since) in came {
            let since = Timestamp::from_millis(since);
            self.roster.enter(from, &user, since);
        }
        for user in went {
            self.roster.leave(from, user, moment);
        }
    }

    fn gather(
        &mut self,
        from: &Arc<str>,
        (changes, part, of): (u64, usize, usize),
        users: Vec<Entry>,
        moment: Moment,
    ) {
        let Some(other) = self.others.get_mut(from) else {
            return;
        };
        if other.changes == Some(changes) {
            // Somebody else has asked.
            return;
        }
        let mut gathering = match (part, other.gathering.take()) {
            (0, _) => Gathering {
                changes,
                next: 0,
                users: Users::default(),
            },
            (_, Some(begun)) if (begun.changes, begun.next) == (changes, part) => begun,
            // A part is missing: what comes next shows that something has to be asked for.
            _ => return,
        };
        gathering.next += 1;
        for (user, since) in users {
            gathering.users.insert(user, Timestamp::from_millis(since));
        }
        if gathering.next == of {
            other.changes = Some(changes);
            self.roster.replace(from, &gathering.users, moment);
        } else if gathering.users.len() < MAX_USERS {
            other.gathering = Some(gathering);
        }
    }

    /// Does what the clock asks for.
    pub(super) fn tick(&mut self, now: Instant) {
        self.roster.expire(now);
        if !self.shared || self.left {
            return;
        }
        let rested = |last: Option<Instant>| last.is_none_or(|last| now >= last + PAUSE);
        if self.asked && rested(self.last_all) {
            self.say_all();
            (self.asked, self.last_all) = (false, Some(now));
        }
        if now >= self.next_beat {
            (self.last_beat, self.next_beat) = (Some(now), now + BEAT);
            self.says.push(Word::Beat {
                changes: self.changes,
            });
        }
    }

    fn say_all(&mut self) {
        let users = self.roster.of(&self.me).into_iter().flatten();
        let users: Vec<Entry> = users
            .map(|(user, since)| (user.clone(), since.as_millis()))
            .collect();
        let of = users.len().div_ceil(WORD).max(1);
        let mut users = users.into_iter();
        for part in 0..of {
            self.says.push(Word::Part {
                changes: self.changes,
                part,
                of,
                users: users.by_ref().take(WORD).collect(),
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
        let known = |other: &Other| other.changes.is_some() && other.silent <= 2;
        let together = self.echo.is_some_and(heard) && self.others.values().all(known);
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

fn ask(says: &mut Vec<Word>, whom: &str, other: &mut Other, now: Instant) {
    if now >= other.ask_at {
        other.ask_at = now + PAUSE;
        says.push(Word::Ask {
            whom: Arc::from(whom),
        });
    }
}

#[cfg(test)]
mod tests;
