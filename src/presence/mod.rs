//! Who is online, over all instances and devices, and telling those who share a chat.
//!
//! The sessions of an instance are counted by user in the hub. One task makes of that what this
//! instance says to the others, and of what the others say a roster that every instance holds
//! (`gossip`, `roster`). Another tells this instance's sessions what changes in it (`teller`).

mod config;
mod gossip;
mod metrics;
mod other;
mod roster;
mod teller;
mod word;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tracing::debug;

pub use config::PresenceConfig;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use gossip::fuzz;
pub use metrics::Metrics;
pub use teller::Teller;

use crate::bus::Calls;
use crate::event::{Timestamp, UserId};
use crate::hub::Attendance;
use gossip::Gossip;
use roster::{Moment, Roster, Transition};
use word::Message;

/// Where the instances tell each other about presence.
const TOPIC: &str = "presence";

/// How often it is looked who came and went, and how many of them at a time: so that other tasks get
/// their turn.
const TICK: Duration = Duration::from_millis(100);
const AT_A_TIME: usize = 2_000;

/// Knows who is online. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Presence(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gossip: Mutex<Gossip>,
    calls: Calls,
    /// Something waits to be told.
    untold: Notify,
    metrics: Metrics,
}

/// Follows who comes and goes, here and elsewhere.
#[derive(Debug)]
pub struct PresenceTask {
    presence: Presence,
    attendance: Attendance,
}

/// Some of those who are online.
#[derive(Debug, PartialEq, Eq)]
pub struct Listing {
    /// Them, and since when they are, as far as this instance knows, in the order they were asked for.
    pub users: Vec<(UserId, Timestamp)>,
    /// Whether there may be more behind the last one.
    pub more: bool,
}

impl Presence {
    /// With nobody online yet, and the task, which must run. `instance` is this one's name.
    #[must_use]
    pub fn new(
        instance: &str,
        config: &PresenceConfig,
        calls: Calls,
        attendance: Attendance,
        metrics: Metrics,
    ) -> (Self, PresenceTask) {
        let roster = Roster::new(config.grace.0, config.enabled);
        let gossip = Gossip::new(
            Arc::from(instance),
            calls.is_shared(),
            roster,
            Instant::now(),
        );
        let presence = Self(Arc::new(Inner {
            gossip: Mutex::new(gossip),
            calls,
            untold: Notify::new(),
            metrics,
        }));
        let task = PresenceTask {
            presence: presence.clone(),
            attendance,
        };
        (presence, task)
    }

    /// Those of `users` who are online; the first `limit` of them.
    #[must_use]
    pub fn online<'a>(&self, mut users: impl Iterator<Item = &'a UserId>, limit: usize) -> Listing {
        let gossip = self.0.gossip.lock();
        let online = |user: &UserId| Some((user.clone(), gossip.roster.online(user)?));
        let found = users.by_ref().filter_map(online).take(limit).collect();
        let more = users.any(|user| gossip.roster.online(user).is_some());
        Listing { users: found, more }
    }

    /// Whether this instance knows of everybody, as far as it can tell.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.0.gossip.lock().is_complete(Instant::now())
    }

    /// The instances whose users are known.
    #[must_use]
    pub fn instances(&self) -> BTreeSet<Arc<str>> {
        self.0.gossip.lock().instances()
    }

    /// This instance stops: its users have so long to come back to another one, on top of the grace.
    /// Before its streams are ended.
    pub async fn leave(&self, within: Duration) {
        let words = {
            let mut gossip = self.0.gossip.lock();
            gossip.leave(within);
            gossip.take_words()
        };
        self.say(words).await;
    }

    async fn say(&self, words: Vec<Message>) {
        for word in words {
            // Plain structs of text and numbers always serialize.
            let payload = serde_json::to_vec(&word).unwrap_or_default();
            if !self.0.calls.tell(TOPIC, payload.into()).await {
                // The others see at the next beat that they miss something.
                return;
            }
        }
    }

    fn hear(&self, payload: &[u8]) {
        match serde_json::from_slice(payload) {
            Ok(message) => self.0.gossip.lock().hear(message, now()),
            Err(error) => debug!(error = error.to_string(), "an instance is not understood"),
        }
    }

    async fn tick(&self, attendance: &Attendance) {
        let moment = now();
        let words = {
            let mut gossip = self.0.gossip.lock();
            gossip.attend(attendance.take_changes(AT_A_TIME), moment);
            gossip.tick(moment.now);
            self.0.metrics.users(gossip.roster.len());
            if gossip.roster.has_untold() {
                self.0.untold.notify_one();
            }
            gossip.take_words()
        };
        self.say(words).await;
    }

    /// The next transition that sessions of this instance are to be told; none once it stops.
    async fn transition(&self) -> Transition {
        loop {
            if let Some(transition) = self.next_transition() {
                return transition;
            }
            self.0.untold.notified().await;
        }
    }

    fn next_transition(&self) -> Option<Transition> {
        let mut gossip = self.0.gossip.lock();
        match gossip.has_left() {
            true => None,
            false => gossip.roster.next_transition(),
        }
    }

    /// Whether a transition is what is still to be told.
    fn still_holds(&self, transition: &Transition) -> bool {
        let online = self.0.gossip.lock().roster.online(&transition.user);
        online.is_some() == transition.last_seen.is_none()
    }
}

impl PresenceTask {
    /// Runs until the server stops.
    pub async fn run(self) {
        let Self {
            presence,
            attendance,
        } = self;
        let mut heard = presence.0.calls.hear(TOPIC).await;
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                payload = heard.next() => match payload {
                    Some(payload) => presence.hear(&payload),
                    None => return,
                },
                _ = clock.tick() => presence.tick(&attendance).await,
            }
        }
    }
}

fn now() -> Moment {
    Moment {
        now: Instant::now(),
        at: Timestamp::now(),
    }
}
