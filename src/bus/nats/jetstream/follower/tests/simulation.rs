//! A log, publishers, a connection that loses things, and the task's part, all in simulated time.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{Errand, Follower, Published};
use super::log::{Entry, Log, logged, payload};
use crate::bus::Arrival;
use crate::bus::nats::jetstream::metrics::LogMetrics;
use crate::bus::nats::jetstream::reader::Batch;
use crate::bus::nats::jetstream::stream::Extent;
use crate::bus::receipts::Receipts;
use crate::event::{Epoch, EventId};

/// How long a message waits for its position.
pub(super) const PARK: Duration = Duration::from_secs(1);

const STEP: Duration = Duration::from_millis(5);

/// Steps between two ticks of the task.
const STEPS_PER_TICK: u64 = 10;

/// The origin's epoch.
const NOWHERE: Epoch = Epoch(1);

/// What became of a message that was published.
#[derive(Debug, Clone, Default)]
pub(super) struct Fate {
    /// How many published copies arrived.
    pub(super) arrived: u32,
    /// How often it was published.
    pub(super) published: u32,
    /// Whether the log ever took it.
    pub(super) taken: bool,
    pub(super) forged: bool,
}

/// When the two copies of a message arrive, in milliseconds, if they do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copies {
    pub(super) published: Option<u64>,
    pub(super) numbered: Option<u64>,
}

#[derive(Debug)]
enum OnWire {
    Published(u64, Option<String>),
    Numbered(u64, Entry),
}

#[derive(Debug)]
struct Request {
    errand: Errand,
    /// When the log answers, and when the answer is here.
    asked: Instant,
    here: Instant,
    answer: Option<Answer>,
}

#[derive(Debug)]
enum Answer {
    Extent(Extent),
    Batch(Batch),
    Failure { missing: bool },
}

/// Everything.
#[derive(Debug)]
pub(super) struct World {
    pub(super) follower: Follower,
    pub(super) log: Log,
    pub(super) arrivals: Vec<Arrival>,
    pub(super) fates: BTreeMap<u64, Fate>,
    /// The errands that were begun.
    pub(super) errands: Vec<Errand>,
    pub(super) now: Instant,
    steps: u64,
    wire: BTreeMap<(Instant, u64), OnWire>,
    request: Option<Request>,
    /// Since when, or from when on, there is a connection.
    online_from: Instant,
    online: bool,
    checks: HashSet<u16>,
    content: u64,
    serial: u64,
    /// How long answers take, in milliseconds, and how many messages they bring, in turn.
    latencies: Vec<(u64, u64, u64)>,
    with_id: Vec<(u64, String)>,
}

impl World {
    /// A log with `before` messages, and a follower that begins with `past` of them.
    pub(super) fn new(before: u64, past: usize, latencies: Vec<(u64, u64, u64)>) -> Self {
        // Far enough from the machine's start that times before exist.
        let now = Instant::now() + Duration::from_secs(3_600);
        let follower = Follower::new(
            EventId::origin(NOWHERE),
            past,
            PARK,
            Receipts::default(),
            LogMetrics::default(),
            now,
        );
        let log = Log::new(now);
        let mut world = Self {
            follower,
            log,
            arrivals: Vec::new(),
            fates: BTreeMap::new(),
            errands: Vec::new(),
            now,
            steps: 0,
            wire: BTreeMap::new(),
            request: None,
            online_from: now,
            online: false,
            checks: HashSet::new(),
            content: 0,
            serial: 0,
            latencies,
            with_id: Vec::new(),
        };
        let unheard = Copies {
            published: None,
            numbered: None,
        };
        for _ in 0..before {
            world.publish(unheard, false);
        }
        world
    }

    /// Publishes a message of its own; gives its content.
    pub(super) fn publish(&mut self, copies: Copies, with_id: bool) -> u64 {
        let content = self.new_content();
        let message_id = with_id.then(|| format!("id-{content}"));
        if let Some(id) = &message_id {
            self.with_id.push((content, id.clone()));
        }
        self.publish_content(content, message_id, copies);
        content
    }

    /// Publishes one of the last messages with an id again.
    pub(super) fn publish_again(&mut self, back: usize, copies: Copies) {
        let index = self.with_id.len().checked_sub(1 + back);
        if let Some((content, id)) = index.map(|index| self.with_id[index].clone()) {
            self.publish_content(content, Some(id), copies);
        }
    }

    fn publish_content(&mut self, content: u64, message_id: Option<String>, copies: Copies) {
        let fate = self.fates.entry(content).or_default();
        fate.published += 1;
        if let Some(taken) = self.log.take(content, message_id.as_ref(), self.now) {
            fate.taken = true;
            let copy = OnWire::Numbered(taken.position, taken.entry);
            // That a position was used again shows nowhere but in its copy, as long as the
            // connection stands; where the first of them is lost, nobody can know.
            let delay = if taken.again {
                Some(0)
            } else {
                copies.numbered
            };
            self.send(delay, copy);
        }
        self.send(copies.published, OnWire::Published(content, message_id));
    }

    /// Sends a numbered copy that the log has not sent, `ahead` of its last position or behind it;
    /// not for a position that is to come soon: there it is believed until the true copy comes,
    /// which not every copy does here.
    pub(super) fn forge(&mut self, ahead: i64) {
        let position = self.log.last.saturating_add_signed(ahead);
        if ahead <= 0 && !(1..=self.follower.position()).contains(&position) {
            return;
        }
        let content = self.new_content();
        self.fates.entry(content).or_default().forged = true;
        let entry = Entry {
            content,
            message_id: None,
        };
        self.send(Some(0), OnWire::Numbered(position, entry));
    }

    /// Nothing arrives for so long, and what is on its way is lost.
    pub(super) fn disconnect(&mut self, millis: u64) {
        self.online = false;
        self.request = None;
        self.wire.clear();
        self.online_from = self.in_millis(millis);
    }

    /// The log takes nothing for so long.
    pub(super) fn takes_nothing(&mut self, millis: u64) {
        self.log.takes_nothing = self.in_millis(millis);
    }

    /// The log answers nothing for so long.
    pub(super) fn answers_nothing(&mut self, millis: u64) {
        self.log.answers_nothing = self.in_millis(millis);
    }

    /// For so long the log says that it ends earlier than it does; not time after time, which
    /// would be no moment any more.
    pub(super) fn says_less(&mut self, millis: u64, by: u64) {
        let (until, _) = self.log.behind;
        if self.now >= until + Duration::from_secs(3) || by == 0 {
            self.log.behind = (self.in_millis(millis), by);
        }
    }

    /// Until now it did.
    pub(super) fn says_the_truth(&mut self) {
        self.log.behind = (self.now, 0);
    }

    /// The log drops its first positions.
    pub(super) fn expire(&mut self, count: u64) {
        self.log.expire(count);
    }

    /// The log loses its last positions.
    pub(super) fn roll_back(&mut self, count: u64) {
        self.log.roll_back(count);
        self.lose_numbered_copies(self.log.last);
    }

    /// The log is deleted.
    pub(super) fn delete(&mut self) {
        self.log.delete();
        self.lose_numbered_copies(0);
    }

    /// Somebody else makes the log, if there is none.
    pub(super) fn create(&mut self) {
        self.log.create();
    }

    /// What the log has lost it has not sent either.
    fn lose_numbered_copies(&mut self, behind: u64) {
        self.wire.retain(|_, copy| match copy {
            OnWire::Published(..) => true,
            OnWire::Numbered(position, _) => *position <= behind,
        });
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, millis: u64) {
        let until = self.in_millis(millis);
        while self.now < until {
            self.step();
        }
    }

    /// Lets time pass with nothing to disturb it, until everything should have settled.
    pub(super) fn come_to_rest(&mut self) {
        self.pass(11_000);
        self.create();
        self.pass(60_000);
    }

    fn step(&mut self) {
        self.now += STEP;
        self.steps += 1;
        if !self.online && self.now >= self.online_from {
            self.online = true;
            self.request = None;
            self.follower.connected(self.now);
            self.settle();
        }
        while let Some(next) = self.wire.first_entry()
            && next.key().0 <= self.now
        {
            let copy = next.remove();
            self.arrive(copy);
            self.settle();
        }
        self.request();
        if self.steps.is_multiple_of(STEPS_PER_TICK) {
            self.follower.tick(self.now);
            self.settle();
        }
    }

    /// What the task does after every step of the follower.
    fn settle(&mut self) {
        while let Some(arrival) = self.follower.pop() {
            self.arrivals.push(arrival);
        }
        if self.online
            && self.request.is_none()
            && let Some(errand) = self.follower.errand(self.now)
        {
            let (there, back, _) = self.latencies[self.errands.len() % self.latencies.len()];
            let asked = self.in_millis(there);
            self.errands.push(errand);
            self.request = Some(Request {
                errand,
                asked,
                here: asked + Duration::from_millis(back),
                answer: None,
            });
        }
    }

    fn arrive(&mut self, copy: OnWire) {
        match copy {
            OnWire::Published(content, message_id) => {
                self.fates.entry(content).or_default().arrived += 1;
                let published = Published {
                    subject: Arc::from("a"),
                    payload: payload(content),
                    message_id,
                    trace: None,
                };
                self.follower.published(published, self.now);
            }
            OnWire::Numbered(position, entry) => {
                let logged = logged(self.follower.epoch(), position, &entry);
                self.follower.numbered(logged, self.now);
            }
        }
    }

    fn request(&mut self) {
        let Some(mut request) = self.request.take() else {
            return;
        };
        if request.answer.is_none() && self.now >= request.asked {
            request.answer = Some(self.answer(request.errand));
        }
        if self.now < request.here {
            self.request = Some(request);
            return;
        }
        match (request.answer, request.errand) {
            (Some(Answer::Extent(extent)), Errand::Open) => self.follower.opened(extent, self.now),
            (Some(Answer::Extent(extent)), _) => self.follower.looked(extent, self.now),
            (Some(Answer::Batch(batch)), _) => self.follower.read(batch, self.now),
            (Some(Answer::Failure { missing }), _) => self.follower.failed(missing, self.now),
            (None, _) => {}
        }
        self.settle();
    }

    fn answer(&mut self, errand: Errand) -> Answer {
        if self.now < self.log.answers_nothing {
            return Answer::Failure { missing: false };
        }
        if errand == Errand::Open {
            self.create();
        }
        match errand {
            _ if !self.log.exists() => Answer::Failure {
                missing: errand == Errand::Look,
            },
            Errand::Open | Errand::Look => Answer::Extent(self.log.extent(self.now)),
            Errand::Read { epoch, from, to } => {
                let (_, _, most) = self.latencies[self.errands.len() % self.latencies.len()];
                Answer::Batch(self.log.batch(epoch, from, to, most))
            }
        }
    }

    fn send(&mut self, delay: Option<u64>, copy: OnWire) {
        if let (Some(delay), true) = (delay, self.online) {
            self.serial += 1;
            self.wire.insert((self.in_millis(delay), self.serial), copy);
        }
    }

    /// Contents differ in their checks, too: how likely it is that they do is not what is tested.
    fn new_content(&mut self) -> u64 {
        loop {
            self.content += 1;
            let id = EventId::new(NOWHERE, 1, &payload(self.content));
            if self.checks.insert(id.check()) {
                return self.content;
            }
        }
    }

    fn in_millis(&self, millis: u64) -> Instant {
        self.now + Duration::from_millis(millis)
    }
}
