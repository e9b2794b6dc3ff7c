//! Knows which sessions listen on which channel, and routes events to their outboxes.
//!
//! The hub is split into shards, one for each thread that serves connections; a session belongs
//! to the shard of its connection's thread for life. [`Hub`] is the handle that other threads
//! hold: it hands each event to every shard, in order. [`LocalHub`] is the handle within a
//! thread: it registers sessions. The hub knows events and nothing of HTTP, buses or databases.

mod account;
mod activity;
pub mod admission;
mod attendance;
mod bearers;
mod census;
mod handout;
mod history;
mod inspect;
mod listening;
mod matter;
mod meter;
mod metrics;
mod notice;
mod outbox;
mod recall;
mod recent;
pub mod registry;
mod replay;
mod schedule;
mod scope;
mod segment;
mod sentence;
mod session;
mod settings;
mod shard;
mod stream;
mod task;
mod tracking;
mod turnstile;
mod witness;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Level, enabled};
use uuid::Uuid;

pub use account::{Account, For, Heard, Known, MOST_HEARD, SessionAccount, Sought, Standing};
pub use activity::Activity;
pub use attendance::{Attendance, Changes};
pub use census::Census;
pub use handout::Handed;
pub use history::HistoryConfig;
pub use inspect::{Client, Connection, Filter, Finding, Question, Stats, Target, Transport};
pub use metrics::{Metrics, Totals};
pub use notice::{End, Gap, GapReason};
pub use recent::ExplainConfig;
pub use replay::{Backlog, Comeback, Resume, Search};
pub use scope::{Interest, NamedChannels, Scope};
pub use segment::Segment;
pub use sentence::Sentence;
pub use session::{Opening, connection_span};
pub use settings::StreamConfig;
pub use stream::{LocalHub, PendingSession, SessionStream};
pub use task::ShardTask;

use crate::address::Network;
use crate::event::{Channel, ChatId, Event, EventId, Frame, Tracked, UserId};
use admission::{Admission, Permit, Quota, Refusal};
use handout::Handout;
use history::History;
use listening::Hashing;
use recent::Recent;
use shard::Shard;
use task::{Command, Notes, Tally};
use tracking::Tracking;
use witness::Witness;

/// Commands that wait for one shard. A full inbox makes the ingest wait, never the publisher: the
/// bus has its own bounded queue before it.
const INBOX: usize = 1_024;

/// More shards than any machine has, so that none waits to answer.
const SHARDS: usize = 4_096;

/// The handle to all shards. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Arc<StreamConfig>,
    admission: Admission,
    attendance: Attendance,
    metrics: Metrics,
    /// Written here, before an event is sent to the shards, and read by them.
    history: Arc<RwLock<History>>,
    shards: Mutex<Shards>,
    /// Cancelled when a shard ends.
    shard_ended: CancellationToken,
    /// Whether the history is of the log that ids belong to.
    settled: watch::Sender<bool>,
    tracking: Tracking,
    explain: ExplainConfig,
    recent: Mutex<Recent>,
    /// What channels are told apart by in what is remembered.
    hashing: Hashing,
}

#[derive(Debug)]
struct Shards {
    inboxes: Vec<mpsc::Sender<Command>>,
    /// Where a shard that opens now begins.
    head: EventId,
}

/// To which sessions an event is still to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// To all that its audience includes.
    Live,
    /// To all, and under this number, which grows, because its position may follow.
    Unlogged(u64),
    /// To those who were not here when it was delivered under this number; for the others only its
    /// position is new.
    Late(u64),
}

/// What of the log the history has.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// The last place that is gone; what is behind it is all here.
    pub floor: EventId,
    /// The last event that came.
    pub head: EventId,
}

impl Hub {
    /// A hub without shards, whose log begins behind `origin`; not `settled` where another log is yet
    /// to take its place by [`Hub::restart`].
    #[must_use]
    pub fn new(
        settings: StreamConfig,
        (history, explain): (HistoryConfig, ExplainConfig),
        admission: Admission,
        metrics: Metrics,
        origin: EventId,
        settled: bool,
    ) -> Self {
        metrics.allowed(admission.limit());
        Self(Arc::new(Inner {
            settings: Arc::new(settings),
            admission,
            attendance: Attendance::default(),
            metrics,
            history: Arc::new(RwLock::new(History::new(history, origin))),
            shards: Mutex::new(Shards {
                inboxes: Vec::new(),
                head: origin,
            }),
            shard_ended: CancellationToken::new(),
            settled: watch::Sender::new(settled),
            tracking: Tracking::default(),
            recent: Mutex::new(Recent::new(explain.clone(), Instant::now())),
            explain,
            hashing: Hashing::default(),
        }))
    }

    /// Opens a shard on the calling thread. It lives for as long as its task runs.
    #[must_use]
    pub fn open_shard(&self) -> (LocalHub, ShardTask) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let mut shards = self.0.shards.lock();
        shards.inboxes.retain(|inbox| !inbox.is_closed());
        shards.inboxes.push(sender);
        let explain = &self.0.explain;
        let hashing = || self.0.hashing.clone();
        let witness = || Witness::new(explain.max_sessions, hashing(), Instant::now());
        let shard = Shard::new(
            Arc::clone(&self.0.settings),
            self.0.metrics.clone(),
            Arc::clone(&self.0.history),
            self.0.attendance.clone(),
            self.0.admission.memory().clone(),
            shards.head,
            explain.enabled.then(witness),
        );
        let hub = LocalHub::new(shard, self.activity());
        let ended = self.0.shard_ended.clone().drop_guard();
        let task = ShardTask::new(inbox, hub.clone(), &self.0.settings, ended);
        (hub, task)
    }

    /// Begins to note whom the message with this id of its own is written to; `false` while too many
    /// are tracked.
    #[must_use]
    pub fn track(&self, id: &str) -> bool {
        self.0.tracking.begin(id, Instant::now()).is_some()
    }

    /// Tracks a message under a further id. What is tracked already, by its own, is the same.
    #[must_use]
    pub fn track_also(&self, id: &str, own: Option<Arc<Tracked>>) -> Option<Arc<Tracked>> {
        match (self.0.tracking.find(id), own) {
            (Some(known), _) => Some(known),
            (None, Some(own)) => {
                self.0.tracking.join(id, Arc::clone(&own), Instant::now());
                Some(own)
            }
            (None, None) => self.0.tracking.begin(id, Instant::now()),
        }
    }

    /// Whether any message is tracked.
    #[must_use]
    pub fn is_tracking(&self) -> bool {
        self.0.tracking.is_active()
    }

    /// Where it is noted whom a message is written to, if it is.
    #[must_use]
    pub fn tracked(&self, id: &str) -> Option<Arc<Tracked>> {
        self.0.tracking.find(id)
    }

    /// Routes an event to every session that its audience includes. Events must come in log
    /// order, from one task.
    pub async fn deliver(&self, event: Event, delivery: Delivery) {
        let event = Arc::new(event);
        let notes = Notes {
            trail: self.remember_trail(&event, delivery),
            tally: enabled!(Level::DEBUG).then(|| Tally::of(&event)),
        };
        let head = event.id;
        self.0.history.write().push(&event);
        if let Some(tracked) = event.frame.tracked() {
            tracked.goes_to(self.shard_count());
        }
        if let Some(journey) = event.frame.journey() {
            journey.goes_to(self.shard_count());
        }
        self.send(&Command::Deliver(event, delivery, notes), head)
            .await;
    }

    /// The history begins anew behind `origin`, and is filled by [`Hub::remember`]. Sessions are told
    /// by [`Hub::gap`] when that is done.
    pub fn restart(&self, origin: EventId) {
        self.0.history.write().restart(origin);
    }

    /// Keeps an event for those who come back, and delivers it to nobody.
    pub fn remember(&self, event: Event) {
        self.0.history.write().push(&Arc::new(event));
    }

    /// Notes a place of the past at which there is no event.
    pub fn pass(&self, id: Option<EventId>) {
        if let Some(id) = id {
            self.0.history.write().pass(id);
        }
    }

    /// Drops what the history has up to a position, because the log has it no more.
    pub fn forget_up_to(&self, position: u64) {
        self.0.history.write().forget_up_to(position);
    }

    /// What of the log the history has now.
    #[must_use]
    pub fn reach(&self) -> Reach {
        let history = self.0.history.read();
        Reach {
            floor: history.floor(),
            head: history.head(),
        }
    }

    /// Begins a search in the log's past that has to know what the user joined and left since: behind
    /// position `since`.
    #[must_use]
    pub fn begin_search(&self, interest: &Interest, since: u64) -> Search {
        let mut search = Search::new(interest.clone());
        let history = self.0.history.read();
        search.note_changes(&history, since + 1, history.head().position());
        search
    }

    /// Whether an id of the history's epoch is certainly not what stands at its position.
    #[must_use]
    pub fn contradicts(&self, id: EventId) -> bool {
        self.0.history.read().contradicts(id)
    }

    /// Tells every session that events were lost on the way here. Nothing before can be replayed
    /// from then on.
    pub async fn gap(&self, gap: Gap) {
        self.0.recent.lock().gap(gap);
        if let Some(to) = gap.to {
            let mut history = self.0.history.write();
            // Unless it has just been filled up to there.
            if history.head() != to {
                history.restart(to);
            }
        }
        self.send(&Command::Gap(gap), gap.to).await;
        self.0.settled.send_replace(true);
    }

    /// Tells sessions that events were lost on the way to the log: all, or those that listen on channels of
    /// these resources.
    pub async fn missed(&self, resources: Option<Vec<String>>) {
        let gap = Gap {
            reason: GapReason::Overflow,
            from: None,
            to: None,
        };
        let command = match resources {
            None => Command::Gap(gap),
            Some(resources) => Command::GapOn(gap, Arc::new(resources)),
        };
        self.send(&command, None).await;
    }

    /// Waits until the log is there that ids belong to, with its recent past.
    pub async fn settled(&self) {
        // The sender is as old as this handle.
        let _ = self
            .0
            .settled
            .subscribe()
            .wait_for(|settled| *settled)
            .await;
    }

    /// Ends every session with a `closing`, and admits no more. Clients are asked to come back
    /// over a time that makes them as many a second as configured.
    pub async fn drain(&self) {
        self.0.admission.stop();
        self.send(&Command::Drain(self.spread()), None).await;
    }

    /// The time over which the clients that are here now would be asked to come back.
    #[must_use]
    pub fn spread(&self) -> Duration {
        let sessions = u32::try_from(self.0.admission.total()).unwrap_or(u32::MAX);
        let seconds = f64::from(sessions) / f64::from(self.0.settings.reconnect_rate.max(1));
        // At least a second, so that even a few clients don't come in the same instant.
        Duration::from_secs_f64(seconds.max(1.0))
    }

    /// The chats that the sessions of a user who is here listen on; `None` for a user without a stream of
    /// the user's own here.
    pub async fn chats_here(&self, user: &UserId) -> Option<Vec<ChatId>> {
        let (sender, mut answers) = mpsc::channel(SHARDS);
        let command = Command::ChatsHere(user.clone(), sender);
        self.send(&command, None).await;
        drop(command);
        answers.recv().await
    }

    /// How many sessions listen on each of some channels.
    pub async fn listeners(&self, channels: Vec<Channel>) -> Vec<usize> {
        let mut sum = vec![0; channels.len()];
        let (sender, mut answers) = mpsc::channel(SHARDS);
        let command = Command::Listeners(channels.into(), sender);
        self.send(&command, None).await;
        drop(command);
        while let Some(counts) = answers.recv().await {
            for (sum, count) in sum.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        sum
    }

    /// Begins to look up again which chats the live sessions are in, and gives their users. Joins
    /// and leaves from now on are added to what [`Hub::finish_refresh`] brings.
    pub async fn begin_refresh(&self) -> HashSet<UserId> {
        let (sender, mut answers) = mpsc::channel(1);
        self.send(&Command::BeginRefresh(sender), None).await;
        let mut users = HashSet::new();
        while let Some(some) = answers.recv().await {
            users.extend(some);
        }
        users
    }

    /// Has the sessions of `user` listen on `chats`.
    pub async fn finish_refresh(&self, user: UserId, chats: Vec<ChatId>) {
        let command = Command::FinishRefresh(Arc::new((user, chats)));
        self.send(&command, None).await;
    }

    /// Finds something out about the sessions of all shards.
    pub async fn find(&self, question: Question) -> Finding {
        let question = Arc::new(question);
        let (sender, mut answers) = mpsc::channel(SHARDS);
        let command = Command::Find(Arc::clone(&question), sender);
        self.send(&command, None).await;
        // The shards have clones; without this one the last of them ends the answers.
        drop(command);
        if *question == Question::Stats {
            return Finding::Stats(together(answers).await);
        }
        let mut found = question.nothing();
        while let Some(more) = answers.recv().await {
            found = found.merge(more, question.limit());
        }
        found
    }

    /// Ends the sessions of tokens that are no longer good, and gives how many: those that have begun to end
    /// by the time that the last shard answers, or will.
    pub async fn sentence(&self, sentence: Sentence) -> usize {
        let (sender, mut answers) = mpsc::channel(SHARDS);
        let command = Command::Sentence(sentence, sender);
        self.send(&command, None).await;
        drop(command);
        let mut ended = 0;
        while let Some(more) = answers.recv().await {
            ended += more;
        }
        ended
    }

    /// Gives the session of a connection messages that have waited for its user, in this order, each with
    /// its place in the log; `None` where there is no such session that listens on its user's channel.
    pub async fn hand(
        &self,
        user: &UserId,
        connection: Uuid,
        messages: Vec<(Option<EventId>, Frame)>,
    ) -> Option<Vec<Handed>> {
        let (handout, handed) = Handout::new(user.clone(), connection, messages);
        let command = Command::Hand(Arc::new(handout));
        self.send(&command, None).await;
        // With the last of the shards' clones the answer is given up.
        drop(command);
        handed.await.ok()
    }

    /// Live events that were queued so far, once per session.
    #[must_use]
    pub fn routed(&self) -> u64 {
        self.0.metrics.routed_total()
    }

    /// What tells whether events are being delivered.
    #[must_use]
    pub fn activity(&self) -> Activity {
        self.0.metrics.activity()
    }

    /// What this instance has done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.0.metrics.totals()
    }

    /// Comes back when a shard has ended, which none does while its thread serves connections.
    pub async fn shard_ended(&self) {
        self.0.shard_ended.cancelled().await;
    }

    /// Whether shards are there to take sessions.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        let shards = self.0.shards.lock();
        let open = shards.inboxes.iter().filter(|inbox| !inbox.is_closed());
        open.count()
    }

    /// Which users are here.
    #[must_use]
    pub fn attendance(&self) -> &Attendance {
        &self.0.attendance
    }

    /// Admits one more connection of `user`; `address` is what it counts under besides, if anything.
    ///
    /// # Errors
    /// A limit is reached, or the instance stops; which is counted.
    pub fn admit(&self, user: &UserId, address: Option<Network>) -> Result<Permit, Refusal> {
        let admitted = self.0.admission.admit(user, address, Instant::now());
        admitted.inspect_err(|refusal| self.0.metrics.refused(*refusal))
    }

    /// So many connections are allowed from now on; those that there are stay.
    pub fn set_quota(&self, quota: Quota) {
        self.0.admission.set_quota(quota);
        self.0.metrics.allowed(quota.total);
    }

    /// Who is counted and admitted.
    #[must_use]
    pub fn admission(&self) -> &Admission {
        &self.0.admission
    }

    async fn send(&self, command: &Command, head: Option<EventId>) {
        // The lock also orders `head` against `open_shard`: a shard opened later begins behind
        // this command, one opened earlier gets it.
        let inboxes = {
            let mut shards = self.0.shards.lock();
            if let Some(head) = head {
                shards.head = head;
            }
            shards.inboxes.clone()
        };
        for inbox in inboxes {
            // A closed inbox belongs to a thread that has stopped, and its sessions with it.
            let _ = inbox.send(command.clone()).await;
        }
    }
}

/// The numbers of all shards as one: off this thread, which may have a shard of its own to serve.
async fn together(mut answers: mpsc::Receiver<Finding>) -> Stats {
    let mut parts = Vec::new();
    while let Some(answer) = answers.recv().await {
        if let Finding::Stats(stats) = answer {
            parts.push(stats);
        }
    }
    let counted = tokio::task::spawn_blocking(|| Stats::of(parts)).await;
    // The runtime is stopping.
    counted.unwrap_or_default()
}
