//! The instances of a deployment among each other: who else is there, and asking all of them.
//!
//! Every instance says every few seconds that it is there, on NATS. A question goes to all, and is
//! answered by this instance and by the others within a deadline; the answer says who has not replied.
//! Without NATS an instance is alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;
use tracing::{debug, info};
use uuid::Uuid;

use crate::auth::{Identity, Tickets};
use crate::bus::{Call, Calls};
use crate::hub::{Finding, Hub, Question, Totals};

/// Between two signs of life, and how long after the last one an instance counts as gone.
const HELLO: Duration = Duration::from_secs(3);
const FORGOTTEN: Duration = Duration::from_secs(10);

/// How long answers of others are waited for.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// This instance among the others. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Peers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    instance: String,
    calls: Calls,
    hub: Hub,
    tickets: Tickets,
    started: Instant,
    /// When each of the others was last heard of.
    others: Mutex<BTreeMap<String, Instant>>,
}

/// Answers the others, and lets them know that this instance is there.
#[derive(Debug)]
pub struct PeersTask(Peers);

/// What one instance says to others.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope<T> {
    from: String,
    says: T,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Hello,
    Bye,
    Find(Question),
    Summary,
    Redeem(Uuid),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Found(Finding),
    Summary(Summary),
    Redeemed(Option<Identity>),
}

/// One instance in numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// Its version.
    pub version: String,
    /// How long it has run, in seconds.
    pub uptime_secs: u64,
    /// Connections now.
    pub connections: usize,
    /// What it has done so far.
    #[serde(flatten)]
    pub totals: Totals,
}

/// What was gathered from all instances.
#[derive(Debug)]
pub struct Gathered<T> {
    /// By instance, this one included.
    pub replies: BTreeMap<String, T>,
    /// Those that are known and did not reply in time.
    pub missing: BTreeSet<String>,
}

impl Peers {
    /// This instance, under a name that no other has, and the task, which must run.
    #[must_use]
    pub fn new(instance: String, calls: Calls, hub: Hub) -> (Self, PeersTask) {
        let peers = Self(Arc::new(Inner {
            instance,
            calls,
            hub,
            tickets: Tickets::default(),
            started: Instant::now(),
            others: Mutex::default(),
        }));
        (peers.clone(), PeersTask(peers))
    }

    /// This instance's name.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.0.instance
    }

    /// Asks all instances about their sessions.
    pub async fn find(&self, question: Question) -> Gathered<Finding> {
        let gathered = self.gather(Request::Find(question)).await;
        gathered.filter_map(|reply| match reply {
            Reply::Found(found) => Some(found),
            _ => None,
        })
    }

    /// Asks all instances how they are doing.
    pub async fn summaries(&self) -> Gathered<Summary> {
        let gathered = self.gather(Request::Summary).await;
        gathered.filter_map(|reply| match reply {
            Reply::Summary(summary) => Some(summary),
            _ => None,
        })
    }

    /// A ticket that opens one stream on any instance; `None` while too many are open.
    #[must_use]
    pub fn ticket(&self, identity: Identity) -> Option<String> {
        let secret = self.0.tickets.issue(identity, Instant::now())?;
        Some(format!("{}.{}", self.0.instance, secret.simple()))
    }

    /// Whom a ticket is for, the first time that it is shown, if the instance that gave it is there.
    pub async fn redeem(&self, ticket: &str) -> Option<Identity> {
        let (instance, secret) = ticket.rsplit_once('.')?;
        let secret = Uuid::try_parse(secret).ok()?;
        if instance == self.0.instance {
            return self.0.tickets.redeem(secret, Instant::now());
        }
        if !is_name(instance) {
            return None;
        }
        let question = self.envelope(Request::Redeem(secret));
        let answer = self.0.calls.ask_one(instance, question, PATIENCE).await?;
        let envelope: Envelope<Reply> = serde_json::from_slice(&answer).ok()?;
        match envelope.says {
            Reply::Redeemed(identity) => identity,
            _ => None,
        }
    }

    /// Says goodbye, so that nobody waits for this instance's answers any more.
    pub async fn leave(&self) {
        self.0.calls.tell_all(self.envelope(Request::Bye)).await;
    }

    async fn gather(&self, request: Request) -> Gathered<Reply> {
        let mut missing: BTreeSet<String> = self.others();
        let mut answers = match missing.is_empty() {
            true => None,
            false => {
                let question = self.envelope(request.clone());
                Some(self.0.calls.ask_all(question, PATIENCE).await)
            }
        };
        let own = self.answer(request).await;
        let mut replies = BTreeMap::new();
        replies.extend(own.map(|own| (self.0.instance.clone(), own)));
        while let (false, Some(answers)) = (missing.is_empty(), &mut answers) {
            let Some(answer) = answers.next().await else {
                break;
            };
            match serde_json::from_slice::<Envelope<Reply>>(&answer) {
                Ok(envelope) => {
                    missing.remove(&envelope.from);
                    replies.insert(envelope.from, envelope.says);
                }
                Err(error) => debug!(error = error.to_string(), "an instance is not understood"),
            }
        }
        Gathered { replies, missing }
    }

    fn others(&self) -> BTreeSet<String> {
        let mut others = self.0.others.lock();
        others.retain(|_, heard| heard.elapsed() < FORGOTTEN);
        others.keys().cloned().collect()
    }

    async fn answer(&self, request: Request) -> Option<Reply> {
        let inner = &self.0;
        match request {
            Request::Hello | Request::Bye => None,
            Request::Find(question) => Some(Reply::Found(inner.hub.find(question).await)),
            Request::Summary => Some(Reply::Summary(Summary {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_secs: inner.started.elapsed().as_secs(),
                connections: inner.hub.admission().total(),
                totals: inner.hub.totals(),
            })),
            Request::Redeem(secret) => {
                let identity = inner.tickets.redeem(secret, Instant::now());
                Some(Reply::Redeemed(identity))
            }
        }
    }

    fn envelope<T: Serialize>(&self, says: T) -> Bytes {
        let from = self.0.instance.clone();
        // Plain structs of text and numbers always serialize.
        serde_json::to_vec(&Envelope { from, says })
            .unwrap_or_default()
            .into()
    }

    /// Notes who is there; `true` for one that was not known.
    fn heard(&self, instance: &str) -> bool {
        let mut others = self.0.others.lock();
        let new = others.insert(instance.to_owned(), Instant::now()).is_none();
        if new {
            info!(instance, "another instance is there");
        }
        new
    }
}

impl PeersTask {
    /// Runs until the server stops.
    pub async fn run(self) {
        let peers = self.0;
        let mut calls = peers.0.calls.listen(&peers.0.instance).await;
        let mut hellos = tokio::time::interval(HELLO);
        hellos.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                call = calls.next() => match call {
                    Some(call) => called(&peers, call).await,
                    None => return,
                },
                _ = hellos.tick() => {
                    peers.0.calls.tell_all(peers.envelope(Request::Hello)).await;
                }
            }
        }
    }
}

async fn called(peers: &Peers, call: Call) {
    let envelope: Envelope<Request> = match serde_json::from_slice(&call.payload) {
        Ok(envelope) => envelope,
        Err(error) => {
            debug!(error = error.to_string(), "an instance is not understood");
            return;
        }
    };
    if envelope.from == peers.0.instance {
        return;
    }
    if matches!(envelope.says, Request::Bye) {
        peers.0.others.lock().remove(&envelope.from);
        info!(instance = envelope.from, "another instance has gone");
        return;
    }
    if peers.heard(&envelope.from) {
        // It has only just begun, and need not wait to learn that this one is there.
        peers.0.calls.tell_all(peers.envelope(Request::Hello)).await;
    }
    if let Some(reply) = peers.answer(envelope.says).await {
        let reply = peers.envelope(reply);
        call.answer(reply).await;
    }
}

impl<T> Gathered<T> {
    fn filter_map<U>(self, map: impl Fn(T) -> Option<U>) -> Gathered<U> {
        let replies = self.replies.into_iter();
        Gathered {
            replies: replies
                .filter_map(|(instance, reply)| Some((instance, map(reply)?)))
                .collect(),
            missing: self.missing,
        }
    }
}

/// A name for this process that is a token of a subject: the machine's name, as far as it can be one,
/// and something random.
#[must_use]
pub fn instance_name(machine: &str) -> String {
    let machine: String = machine
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(40)
        .collect();
    let machine = if machine.is_empty() {
        "instance"
    } else {
        &machine
    };
    let random = Uuid::new_v4().simple().to_string();
    format!("{machine}-{}", &random[..6])
}

fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=64).contains(&text.len()) && text.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tokens_of_subjects() {
        for machine in ["web-1", "", "a.b c>*", &"x".repeat(300)] {
            let name = instance_name(machine);
            assert!(is_name(&name), "{name}");
        }
        assert_ne!(instance_name("a"), instance_name("a"));
    }
}
