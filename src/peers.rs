//! The instances of a deployment among each other: who else is there, and asking all of them.
//!
//! Every instance says every few seconds that it is there, on NATS. A question goes to all, and is
//! answered by this instance and by the others within a deadline; the answer says who has not replied.
//! Without NATS an instance is alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::auth::revocation::{Put, Revocation, Whose};
use crate::auth::{Identity, KeyName, Tickets, Verifier};
use crate::bus::{Call, Calls};
use crate::event::UserId;
use crate::hub::{Account, End, Finding, Hub, Question, Sentence, Sought, Totals};

/// Between two signs of life, and how long after the last one an instance counts as gone.
const HELLO: Duration = Duration::from_secs(3);
const FORGOTTEN: Duration = Duration::from_secs(10);

/// How long answers of others are waited for.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Questions of others that are being answered.
const AT_ONCE: usize = 256;

/// How long an answer may be on its way.
const ON_THE_WAY: Duration = Duration::from_millis(50);

/// The longest that anybody may wait for what a message has reached, and how often it is looked at.
const LONGEST: Duration = Duration::from_secs(10);
const GLANCE: Duration = Duration::from_millis(5);

/// This instance among the others. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Peers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    instance: String,
    calls: Calls,
    hub: Hub,
    verifier: Verifier,
    tickets: Tickets,
    started: Instant,
    /// What other instances say that waits for somebody.
    waiting: mpsc::Sender<Waiting>,
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
    /// Of a question: the answer may leave out what [`Question::in_brief`] does. It stands here because instances of
    /// earlier versions read over it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    brief: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Hello,
    Bye,
    Find(Question),
    Summary,
    Redeem(Uuid),
    /// Note whom the message of this id is written to.
    Track(String),
    /// Say whom the messages of these ids were written to: when each was written to all that it was queued
    /// for, or after so many milliseconds.
    Written(Vec<String>, u64),
    /// Something waits for these users.
    Waiting(Vec<Waiting>),
    /// Say what you know of an event and a user.
    Explain(Sought),
    /// These are revoked, or no longer.
    Revoke(Vec<Revocation>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Tracking,
    Written(BTreeMap<String, Reach>),
    Found(Finding),
    Summary(Summary),
    Redeemed(Option<Identity>),
    Explained(Box<Account>),
    /// How many streams that has ended.
    Revoked(usize),
}

/// One instance in numbers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// Its version.
    pub version: String,
    /// How long it has run, in seconds.
    pub uptime_secs: u64,
    /// Connections now.
    pub connections: usize,
    /// The keys that it takes tokens by; of very many, the first hundred.
    #[serde(default)]
    pub keys: Vec<KeyName>,
    /// What it has done so far.
    #[serde(flatten)]
    pub totals: Totals,
}

/// Whom a message has reached on one instance.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reach {
    /// Sessions that it was written to.
    pub sessions: u64,
    /// Their users.
    pub users: BTreeSet<UserId>,
}

/// Something waits for a user, who may be connected after all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Waiting {
    /// The user.
    pub user: UserId,
    /// The state of the user's record in which it is there.
    pub revision: u64,
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
    /// This instance, under a name that no other has, and the task, which must run. `waiting` is told for
    /// whom other instances say that something waits.
    #[must_use]
    pub fn new(
        instance: String,
        calls: Calls,
        hub: Hub,
        verifier: Verifier,
        waiting: mpsc::Sender<Waiting>,
    ) -> (Self, PeersTask) {
        let peers = Self(Arc::new(Inner {
            instance,
            calls,
            hub,
            verifier,
            tickets: Tickets::default(),
            started: Instant::now(),
            waiting,
            others: Mutex::default(),
        }));
        (peers.clone(), PeersTask(peers))
    }

    /// This instance's name.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.0.instance
    }

    /// Whether there may be others: then what is published comes back through NATS.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.0.calls.is_shared()
    }

    /// This instance in numbers.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_secs: self.0.started.elapsed().as_secs(),
            connections: self.0.hub.admission().total(),
            keys: self.0.verifier.key_names(),
            totals: self.0.hub.totals(),
        }
    }

    /// Asks all instances about their sessions.
    pub async fn find(&self, question: Question) -> Gathered<Finding> {
        let gathered = self.gather(Request::Find(question), PATIENCE).await;
        gathered.filter_map(|reply| match reply {
            Reply::Found(found) => Some(found),
            _ => None,
        })
    }

    /// Asks all instances what they know of an event and a user.
    pub async fn accounts(&self, sought: Sought) -> Gathered<Account> {
        let gathered = self.gather(Request::Explain(sought), PATIENCE).await;
        gathered.filter_map(|reply| match reply {
            Reply::Explained(account) => Some(*account),
            _ => None,
        })
    }

    /// Asks all instances how they are doing.
    pub async fn summaries(&self) -> Gathered<Summary> {
        let gathered = self.gather(Request::Summary, PATIENCE).await;
        gathered.filter_map(|reply| match reply {
            Reply::Summary(summary) => Some(summary),
            _ => None,
        })
    }

    /// Has all instances note whom the message of this id is written to. Before it is published.
    pub async fn track(&self, message: &str) {
        self.gather(Request::Track(message.to_owned()), PATIENCE)
            .await;
    }

    /// Whom a tracked message was written to, as far as that is known within a time.
    pub async fn written(&self, message: &str, within: Duration) -> Gathered<Reach> {
        let gathered = self.all_written(vec![message.to_owned()], within).await;
        gathered.filter_map(|mut reaches| Some(reaches.remove(message).unwrap_or_default()))
    }

    /// Whom tracked messages were written to, by their ids, as far as that is known within a time.
    pub async fn all_written(
        &self,
        messages: Vec<String>,
        within: Duration,
    ) -> Gathered<BTreeMap<String, Reach>> {
        // The others are asked for their answers a little earlier, so that they come in time.
        let answer_after = within.saturating_sub(ON_THE_WAY);
        let millis = u64::try_from(answer_after.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Written(messages, millis);
        let gathered = self.gather(request, within).await;
        gathered.filter_map(|reply| match reply {
            Reply::Written(reaches) => Some(reaches),
            _ => None,
        })
    }

    /// Tells the other instances that something waits for users.
    pub async fn tell_waiting(&self, waiting: &[Waiting]) {
        if !waiting.is_empty() && self.is_shared() {
            let request = Request::Waiting(waiting.to_vec());
            self.0.calls.tell_all(self.envelope(request)).await;
        }
    }

    /// Has all instances refuse what is revoked, and end its streams at once. Gives how many streams that
    /// was.
    pub async fn revoke(&self, revocations: Vec<Revocation>) -> Gathered<usize> {
        let gathered = self.gather(Request::Revoke(revocations), PATIENCE).await;
        gathered.filter_map(|reply| match reply {
            Reply::Revoked(ended) => Some(ended),
            _ => None,
        })
    }

    /// Ends the streams here whose tokens are revoked, as far as these revocations are about them; gives how
    /// many. What was taken back ends none.
    pub async fn end_revoked(&self, revoked: &[Revocation]) -> usize {
        let (mut users, mut tokens) = (BTreeSet::new(), BTreeSet::new());
        for revocation in revoked.iter().filter(|revocation| !revocation.lifted) {
            match &revocation.whose {
                Whose::User(user) => drop(users.insert(user.clone())),
                token => drop(tokens.insert(token.mark())),
            }
        }
        let revocations = self.0.verifier.revocations().clone();
        let sentence = Sentence::new(End::TokenRevoked, Duration::ZERO, move |user, of| {
            revocations.revokes(user, of)
        });
        // Whose they are is found by user and by token: nobody else is looked at.
        let mut ended = 0;
        if !tokens.is_empty() {
            let tokens = sentence.clone().of_tokens(tokens.into_iter().collect());
            ended += self.0.hub.sentence(tokens).await;
        }
        if !users.is_empty() {
            let users = sentence.of(users.into_iter().collect());
            ended += self.0.hub.sentence(users).await;
        }
        ended
    }

    /// Whether this instance is the one among all that attends to a matter. While instances come and go,
    /// two may think so, or none.
    #[must_use]
    pub fn is_chosen_for(&self, matter: &str) -> bool {
        let weight = |instance: &str| {
            let name = format!("{instance}\n{matter}");
            Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
        };
        let own = weight(&self.0.instance);
        self.others().iter().all(|other| weight(other) < own)
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

    async fn gather(&self, request: Request, within: Duration) -> Gathered<Reply> {
        let mut missing: BTreeSet<String> = self.others();
        let mut answers = match missing.is_empty() {
            true => None,
            false => {
                let question = self.question(request.clone());
                Some(self.0.calls.ask_all(question, within).await)
            }
        };
        let own = self.answer(request, true).await;
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

    /// The other instances, as far as they are known.
    #[must_use]
    pub fn others(&self) -> BTreeSet<String> {
        let mut others = self.0.others.lock();
        others.retain(|_, heard| heard.elapsed() < FORGOTTEN);
        others.keys().cloned().collect()
    }

    /// What this instance answers to another one, or to itself where the question is its `own`.
    async fn answer(&self, request: Request, own: bool) -> Option<Reply> {
        let inner = &self.0;
        match request {
            Request::Hello | Request::Bye => None,
            Request::Find(question) => {
                let mut found = inner.hub.find(question).await;
                self.name_keys(&mut found);
                Some(Reply::Found(if own { found } else { found.to_be_sent() }))
            }
            Request::Summary => Some(Reply::Summary(self.summary())),
            Request::Explain(sought) => {
                let account = inner.hub.account(&sought).await;
                Some(Reply::Explained(Box::new(account)))
            }
            Request::Track(message) => inner.hub.track(&message).then_some(Reply::Tracking),
            Request::Written(messages, within) => {
                let within = Duration::from_millis(within).min(LONGEST);
                let reaches = messages.into_iter().map(|message| async {
                    let reach = self.reach(&message, within).await;
                    (message, reach)
                });
                let reaches = join_all(reaches).await;
                Some(Reply::Written(reaches.into_iter().collect()))
            }
            Request::Waiting(waiting) => {
                for waiting in waiting {
                    // Of too many at a time, some wait until their users come back.
                    let _ = inner.waiting.try_send(waiting);
                }
                None
            }
            Request::Revoke(revocations) => {
                let known = inner.verifier.revocations();
                let mut news = Vec::new();
                for revocation in revocations {
                    let put = known.learn(revocation.clone(), false);
                    if put == Put::Full {
                        warn!("a revocation is not remembered because there are too many");
                    }
                    // What this instance itself says it knows, and has ended nothing for it yet.
                    if own || put == Put::New {
                        news.push(revocation);
                    }
                }
                Some(Reply::Revoked(self.end_revoked(&news).await))
            }
            Request::Redeem(secret) => {
                let identity = inner.tickets.redeem(secret, Instant::now());
                Some(Reply::Redeemed(identity))
            }
        }
    }

    /// Says of connections what the keys are called that have let them in.
    fn name_keys(&self, found: &mut Finding) {
        let Finding::Connections(connections) = found else {
            return;
        };
        let names = self.0.verifier.key_names();
        for connection in connections {
            let by = |name: &&KeyName| Some(&name.key) == connection.key.as_ref();
            connection.kid = names.iter().find(by).and_then(|name| name.kid.clone());
        }
    }

    async fn reach(&self, message: &str, within: Duration) -> Reach {
        let deadline = Instant::now() + within;
        // It may not have come yet.
        let begun = self.0.hub.track(message);
        let Some(tracked) = self.0.hub.tracked(message).filter(|_| begun) else {
            return Reach::default();
        };
        loop {
            let so_far = tracked.so_far();
            if so_far.is_complete() || Instant::now() >= deadline {
                return Reach {
                    sessions: so_far.sessions,
                    users: so_far.users,
                };
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    fn envelope<T: Serialize>(&self, says: T) -> Bytes {
        self.sealed(says, false)
    }

    fn question(&self, request: Request) -> Bytes {
        let brief = matches!(&request, Request::Find(question) if question.is_brief());
        self.sealed(request, brief)
    }

    fn sealed<T: Serialize>(&self, says: T, brief: bool) -> Bytes {
        let from = self.0.instance.clone();
        // Plain structs of text and numbers always serialize.
        serde_json::to_vec(&Envelope { from, says, brief })
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
        // Some answers take their time, and must not hold the others up.
        let mut answers = FuturesUnordered::new();
        let mut hellos = tokio::time::interval(HELLO);
        hellos.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                call = calls.next() => match call {
                    Some(call) => called(&peers, call, &mut answers).await,
                    None => return,
                },
                Some(()) = answers.next(), if !answers.is_empty() => {}
                _ = hellos.tick() => {
                    peers.0.calls.tell_all(peers.envelope(Request::Hello)).await;
                }
            }
        }
    }
}

async fn called(peers: &Peers, call: Call, answers: &mut FuturesUnordered<BoxFuture<'static, ()>>) {
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
    // More at once than this are not answered, and those who ask see who is missing. Those that take
    // their time leave room for the others.
    let slow = matches!(envelope.says, Request::Written(..));
    let most = if slow { AT_ONCE } else { AT_ONCE * 4 };
    if answers.len() >= most {
        return;
    }
    let request = match envelope.says {
        Request::Find(question) if envelope.brief => Request::Find(question.in_brief()),
        request => request,
    };
    let peers = peers.clone();
    let answer = async move {
        if let Some(reply) = peers.answer(request, false).await {
            let reply = peers.envelope(reply);
            call.answer(reply).await;
        }
    };
    answers.push(answer.boxed());
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
