//! A shard's loop: takes commands from its inbox, in turns with the connections of its thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::DropGuard;
use tracing::debug;

use super::handout::Handout;
use super::inspect::{Finding, Question};
use super::matter::Matter;
use super::recent::Trail;
use super::sentence::Sentence;
use super::shard::ShardAccount;
use super::{Delivery, Gap, LocalHub, StreamConfig};
use crate::event::{Channel, ChatId, Event, TraceId, UserId};

/// The most commands that a shard handles before it lets its connections write. Half an outbox, in
/// events or bytes, is a bound, too: a burst must not end sessions that read as fast as they are
/// served.
const TURN: usize = 128;

/// How often a shard looks at its clock.
const TICK: Duration = Duration::from_millis(100);

/// What a shard is told.
#[derive(Debug, Clone)]
pub(super) enum Command {
    Deliver(Arc<Event>, Delivery, Notes),
    Gap(Gap),
    /// A gap for those who listen on channels of these resources.
    GapOn(Gap, Arc<Vec<String>>),
    Drain(Duration),
    /// Asks for the users of all live sessions, whose chats are then looked up again.
    BeginRefresh(mpsc::Sender<Vec<UserId>>),
    FinishRefresh(Arc<(UserId, Vec<ChatId>)>),
    Find(Arc<Question>, mpsc::Sender<Finding>),
    /// Asks what is known of an event and a user.
    Account(Arc<Matter>, mpsc::Sender<ShardAccount>),
    Hand(Arc<Handout>),
    /// Ends sessions by their tokens, and asks how many.
    Sentence(Sentence, mpsc::Sender<usize>),
    /// Asks on which chats a user's own stream listens; answered only where there is one.
    ChatsHere(UserId, mpsc::Sender<Vec<ChatId>>),
    /// Asks how many sessions listen on each of some channels.
    Listeners(Arc<[Channel]>, mpsc::Sender<Vec<usize>>),
}

/// Where it is noted what becomes of an event.
#[derive(Debug, Clone)]
pub(super) struct Notes {
    /// For whoever asks later.
    pub(super) trail: Option<Arc<Trail>>,
    /// For the log.
    pub(super) tally: Option<Arc<Tally>>,
}

/// Counts an event's recipients over all shards, and logs the sum when the last one is done.
#[derive(Debug)]
pub(super) struct Tally {
    event: Arc<Event>,
    trace: Option<TraceId>,
    recipients: AtomicU64,
}

/// A shard's loop, to be run on the thread that serves its connections.
#[derive(Debug)]
pub struct ShardTask {
    inbox: mpsc::Receiver<Command>,
    hub: LocalHub,
    turn: Turn,
    /// Sentences that are being carried out, a part in each turn.
    walks: VecDeque<Walk>,
    _ended: DropGuard,
}

/// How far a sentence is carried out.
#[derive(Debug)]
struct Walk {
    sentence: Sentence,
    /// Where it goes on.
    from: usize,
    ended: usize,
    answers: mpsc::Sender<usize>,
}

/// How much a shard does before it lets its connections write.
#[derive(Debug, Clone, Copy)]
struct Turn {
    commands: usize,
    bytes: usize,
}

impl Tally {
    /// Nobody has got it yet.
    pub(super) fn of(event: &Arc<Event>) -> Arc<Self> {
        Arc::new(Self {
            event: Arc::clone(event),
            trace: event.frame.journey().map(|journey| journey.context.trace()),
            recipients: AtomicU64::new(0),
        })
    }
}

impl ShardTask {
    pub(super) fn new(
        inbox: mpsc::Receiver<Command>,
        hub: LocalHub,
        settings: &StreamConfig,
        ended: DropGuard,
    ) -> Self {
        Self {
            inbox,
            hub,
            turn: Turn {
                commands: TURN.min(settings.outbox_events / 2).max(1),
                bytes: settings.outbox_bytes.bytes() / 2,
            },
            walks: VecDeque::new(),
            _ended: ended,
        }
    }

    /// Serves the shard until the hub is gone.
    pub async fn run(mut self) {
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut received = Vec::with_capacity(TURN);
        let mut commands = VecDeque::with_capacity(TURN);
        loop {
            tokio::select! {
                count = self.inbox.recv_many(&mut received, self.turn.commands) => {
                    if count == 0 {
                        return;
                    }
                    commands.extend(received.drain(..));
                }
                _ = clock.tick() => self.tick(),
                () = std::future::ready(()), if !self.walks.is_empty() => {}
            }
            while !commands.is_empty() {
                self.take_turn(&mut commands).await;
                // The connections that were woken are queued before this task: they write before
                // the next turn fills their outboxes further.
                tokio::task::yield_now().await;
            }
            if self.walk_on() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Carries the next part of a sentence out, if there is one.
    fn walk_on(&mut self) -> bool {
        let Some(walk) = self.walks.pop_front() else {
            return false;
        };
        if let Some(rest) = self.carry_out(walk, Instant::now()) {
            self.walks.push_front(rest);
        }
        true
    }

    /// Carries a part of a sentence out. Gives what is left of it, or says how many it has ended.
    fn carry_out(&self, mut walk: Walk, now: Instant) -> Option<Walk> {
        let mut shard = self.hub.shard.borrow_mut();
        let (ended, next) = shard.sentence(&walk.sentence, walk.from, now);
        walk.ended += ended;
        let Some(from) = next else {
            // Whoever asked may have gone.
            let _ = walk.answers.try_send(walk.ended);
            return None;
        };
        Some(Walk { from, ..walk })
    }

    async fn take_turn(&mut self, commands: &mut VecDeque<Command>) {
        let now = Instant::now();
        let mut bytes = 0;
        while bytes < self.turn.bytes
            && let Some(command) = commands.pop_front()
        {
            match command {
                Command::Deliver(event, delivery, notes) => {
                    bytes += event.frame.len();
                    let routed = self.hub.shard.borrow_mut().deliver(&event, delivery, now);
                    if let Some(trail) = notes.trail {
                        trail.routed(routed);
                    }
                    if let Some(tally) = notes.tally {
                        tally.recipients.fetch_add(routed.queued, Ordering::Relaxed);
                    }
                }
                Command::Gap(gap) => self.hub.shard.borrow_mut().gap(&gap, now),
                Command::GapOn(gap, resources) => {
                    self.hub.shard.borrow_mut().gap_on(&gap, &resources, now);
                }
                Command::Drain(spread) => self.hub.shard.borrow_mut().drain(spread, now),
                Command::BeginRefresh(users) => {
                    let own = self.hub.shard.borrow_mut().begin_refresh();
                    // Whoever asked has gone: then nobody finishes it either.
                    let _ = users.send(own).await;
                }
                Command::Find(question, answers) => {
                    let found = self.hub.shard.borrow_mut().find(&question, now);
                    // Whoever asked may have gone.
                    let _ = answers.try_send(found);
                }
                Command::Account(matter, answers) => {
                    let account = self.hub.shard.borrow_mut().account(&matter, now);
                    let _ = answers.try_send(account);
                }
                Command::Hand(handout) => self.hub.shard.borrow_mut().hand(&handout, now),
                Command::Sentence(sentence, answers) => {
                    let walk = Walk {
                        sentence,
                        from: 0,
                        ended: 0,
                        answers,
                    };
                    let rest = self.carry_out(walk, now);
                    self.walks.extend(rest);
                }
                Command::ChatsHere(user, answers) => {
                    if let Some(chats) = self.hub.shard.borrow_mut().chats_of(&user) {
                        let _ = answers.try_send(chats);
                    }
                }
                Command::Listeners(channels, answers) => {
                    let counts = self.hub.shard.borrow().listeners(&channels);
                    let _ = answers.try_send(counts);
                }
                Command::FinishRefresh(chats) => {
                    let (user, chats) = &*chats;
                    self.hub.shard.borrow_mut().finish_refresh(user, chats, now);
                }
            }
        }
    }

    fn tick(&self) {
        self.hub.shard.borrow_mut().tick(Instant::now());
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let id = self.event.id.map(|id| id.to_string());
        debug!(
            kind = self.event.kind,
            id,
            recipients = self.recipients.load(Ordering::Relaxed),
            trace_id = self.trace.map(|trace| trace.to_string()),
            "event routed"
        );
    }
}
