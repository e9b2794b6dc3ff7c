//! Messages that wait for users who are nowhere connected: `durable: true`.
//!
//! When the log has such a message, all instances say which of the users that it names it was written to
//! within a moment. For each of the others it is put into that user's record, in a bucket that all
//! instances share, and all instances are told. Whoever opens a stream of a user looks into the record,
//! claims what is in it, writes it to the stream, without an id, and takes it out when it is written. A
//! stream that was opened while the message was put in is found by the instances that were told; so
//! neither can miss the other. What a stream has from the log anyway, live or as a replay, it is not
//! given again.
//!
//! Whoever publishes over HTTP waits for all of this. What backends publish is attended to by one of the
//! instances, by the message's id; and what they published while no instance ran, by those that start.

mod attended;
mod held;
mod record;
mod task;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::debug;
use uuid::Uuid;

#[cfg(fuzzing)]
#[doc(hidden)]
pub use record::fuzz;
pub use task::InboxTask;

use crate::bus::{Bucket, BucketError};
use crate::event::decode::Rules;
use crate::event::{EventId, Timestamp, UserId};
use crate::hub::Hub;
use crate::peers::{Peers, Waiting as Told};
use attended::Attended;
use held::Held;
use record::{Record, Waiting};

/// How long instances may take to say whom a message was written to.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// Streams whose user's record is still to be looked into, and messages that are to be put in. Of more at
/// a time some are left out, and counted.
const QUEUE: usize = 16_384;

/// How long a stop may wait for messages that are being put in, and how often it looks.
const LAST_KEEPS: Duration = Duration::from_secs(3);
const GLANCE: Duration = Duration::from_millis(10);

/// The most bytes of a device's name.
pub const MAX_DEVICE: usize = 64;

/// All inboxes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Inbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    attended: Attended,
    bucket: Bucket,
    /// How long a message waits at most.
    age: Duration,
    /// Whether ids of events are the same on all instances.
    one_log: bool,
    rules: Rules,
    hub: Hub,
    peers: Peers,
    work: mpsc::Sender<Work>,
    keeps: mpsc::Sender<Keep>,
    /// How many of those there are.
    keeping: AtomicUsize,
    /// Messages that other instances attend to.
    held: Mutex<Held>,
    /// Messages that are being sent from here, and attended to by their senders.
    sending: Mutex<HashSet<String>>,
    metrics: Metrics,
}

/// What inboxes are made of.
#[derive(Debug)]
pub struct Parts {
    /// Where records are kept.
    pub bucket: Bucket,
    /// How long a message waits at most: as long as the log reaches back.
    pub age: Duration,
    /// Whether ids of events are the same on all instances.
    pub one_log: bool,
    /// Says what is an event.
    pub rules: Rules,
    /// Has the streams.
    pub hub: Hub,
    /// Knows the other instances.
    pub peers: Peers,
    /// Counts.
    pub metrics: Metrics,
}

/// A message that is not to get lost to those of its users who are away. The log has it.
#[derive(Debug, Clone)]
pub struct Durable {
    /// Its own id.
    pub id: String,
    /// Its place in the log.
    pub event: EventId,
    /// The users that it names.
    pub users: Vec<UserId>,
    /// Where it was published.
    pub subject: Arc<str>,
    /// What was published.
    pub payload: Bytes,
    /// When it entered the log.
    pub at: Timestamp,
    /// From then on nobody waits for it.
    pub expires_at: Option<Timestamp>,
    /// Whether each device gets it until it has acknowledged it.
    pub per_device: bool,
}

#[derive(Debug)]
enum Work {
    /// A user's stream has opened.
    Opened(UserId, Stream),
    /// Something was put in for a user.
    Told(Told),
}

/// A message that a backend has published, here or before this instance started.
#[derive(Debug)]
struct Keep {
    message: Durable,
    past: bool,
}

/// A stream that can be given messages.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Its connection.
    pub connection: Uuid,
    /// The device that its client says it is on.
    pub device: Option<Box<str>>,
}

/// What inboxes count.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    kept: Counter,
    delivered: Counter,
    evicted: Counter,
    skipped: Counter,
}

/// A message that is being sent from here, until this is dropped.
#[derive(Debug)]
pub struct Sending {
    inbox: Inbox,
    id: String,
}

impl Inbox {
    /// The inboxes, and the task that fills and empties them, which must run. `told` is what other
    /// instances say that they have put in.
    #[must_use]
    pub fn new(parts: Parts, told: mpsc::Receiver<Told>) -> (Self, InboxTask) {
        let (work, queue) = mpsc::channel(QUEUE);
        let (keeps, to_keep) = mpsc::channel(QUEUE);
        let inbox = Self(Arc::new(Inner {
            attended: Attended::new(parts.bucket.clone()),
            bucket: parts.bucket,
            age: parts.age,
            one_log: parts.one_log,
            rules: parts.rules,
            hub: parts.hub,
            peers: parts.peers,
            work,
            keeps,
            keeping: AtomicUsize::new(0),
            held: Mutex::default(),
            sending: Mutex::default(),
            metrics: parts.metrics,
        }));
        let task = InboxTask::new(inbox.clone(), queue, to_keep, told);
        (inbox, task)
    }

    /// Looks for what waits for the user of a stream that has just opened, and gives it to the stream.
    pub fn opened(&self, user: &UserId, stream: Stream) {
        self.queue(Work::Opened(user.clone(), stream));
    }

    /// What tells a message from all others, on all instances. Two publishers may choose the same id.
    #[must_use]
    pub fn key(&self, message: &Durable) -> String {
        match self.0.one_log {
            true => message.event.to_string(),
            false => message.id.clone(),
        }
    }

    /// Whether a message waits for a user, `true`, or has waited and was delivered lately, `false`; `None` where
    /// neither is known. `event` is its id on streams, `own` the one that it has of its own.
    ///
    /// # Errors
    /// The record can't be read.
    pub async fn about(
        &self,
        user: &UserId,
        event: &str,
        own: Option<&str>,
    ) -> Result<Option<bool>, BucketError> {
        let name = match self.0.one_log {
            true => event,
            false => own.unwrap_or(event),
        };
        let record = self.0.bucket.read(&Bucket::key(user)).await?;
        let record = Record::read(record.as_ref().map(|record| &record.value[..]));
        Ok(record.about(name))
    }

    /// A message that is not to get lost has come from the bus. Tracked from before it was delivered.
    pub fn arrived(&self, message: Durable) {
        self.0.attended.seen(message.event);
        if self.0.sending.lock().contains(&message.id) {
            return;
        }
        if self.0.peers.is_chosen_for(&message.id) {
            self.keep_later(message, false);
        } else {
            self.0.held.lock().hold(message);
        }
    }

    /// A message that is not to get lost is in the log from before this instance started.
    pub fn found(&self, message: Durable) {
        self.keep_later(message, true);
    }

    fn keep_later(&self, message: Durable, past: bool) {
        self.0.keeping.fetch_add(1, Ordering::Relaxed);
        if self.0.keeps.try_send(Keep { message, past }).is_err() {
            self.0.keeping.fetch_sub(1, Ordering::Relaxed);
            self.0.metrics.skipped.inc();
        }
    }

    /// Takes over what instances were to keep that are gone.
    fn take_over(&self) {
        let others = self.0.peers.others();
        let held = self.0.held.lock().after_a_loss(&others);
        for message in held {
            if self.0.peers.is_chosen_for(&message.id) {
                self.keep_later(message, false);
            }
        }
    }

    /// Says that a message is sent from here, and that its sender calls [`Inbox::keep`].
    #[must_use]
    pub fn sending(&self, id: &str) -> Sending {
        self.0.sending.lock().insert(id.to_owned());
        Sending {
            inbox: self.clone(),
            id: id.to_owned(),
        }
    }

    /// Puts messages in for those of their users that they were not written to, now that the log has
    /// them. Gives, for each, for whom that is.
    ///
    /// # Errors
    /// The records can't be written. Then it can be tried again: nothing is put in twice.
    pub async fn keep(&self, messages: &[Durable]) -> Result<Vec<Vec<UserId>>, BucketError> {
        let keys: Vec<String> = messages.iter().map(|message| self.key(message)).collect();
        let written = self.0.peers.all_written(keys.clone(), WRITTEN_WITHIN).await;
        let reached = |id: &str, user: &UserId| {
            let mut reaches = written.replies.values();
            reaches.any(|reach| {
                reach
                    .get(id)
                    .is_some_and(|reach| reach.users.contains(user))
            })
        };
        let mut absent: Vec<Vec<UserId>> = Vec::with_capacity(messages.len());
        for (message, key) in messages.iter().zip(&keys) {
            let users = message.users.iter();
            let users = users.filter(|user| message.per_device || !reached(key, user));
            absent.push(users.cloned().collect());
        }
        let puts = messages.iter().zip(&absent).flat_map(|(message, users)| {
            let put = move |user| self.put(user, message);
            users.iter().map(put)
        });
        let told: Vec<Told> = try_join_all(puts).await?.into_iter().flatten().collect();
        self.tell(&told).await;
        Ok(absent)
    }

    /// Has all instances look whether those are connected for whom something waits.
    async fn tell(&self, told: &[Told]) {
        self.0.peers.tell_waiting(told).await;
        for told in told {
            self.queue(Work::Told(told.clone()));
        }
    }

    /// Keeps what is still to be kept, within a time, and writes down, before the end, how far messages are
    /// attended to. What can't be written is attended to again by the next instance that starts, and then
    /// may be delivered twice.
    pub async fn close(&self) {
        let kept = async {
            while self.0.keeping.load(Ordering::Relaxed) > 0 {
                sleep(GLANCE).await;
            }
        };
        if timeout(LAST_KEEPS, kept).await.is_err() {
            // The next instance that starts makes up for them.
            return;
        }
        if let Err(error) = self.0.attended.write(Duration::ZERO).await {
            debug!(error = error.to_string(), "a record can't be had");
        }
    }

    /// A user's device has acknowledged a message that was sent to be acknowledged by each.
    ///
    /// # Errors
    /// The record can't be written.
    pub async fn acknowledge(
        &self,
        user: &UserId,
        message: &str,
        device: Option<&str>,
    ) -> Result<(), BucketError> {
        let change = |bytes: Option<&[u8]>| {
            let mut record = Record::read(bytes);
            let changed = record.acknowledge(message, device.unwrap_or_default());
            Ok::<_, BucketError>((changed.then(|| record.bytes()), ()))
        };
        self.0.bucket.modify(&Bucket::key(user), change).await?;
        Ok(())
    }

    /// Puts a message in for one user; `None` where it does not wait, because it was delivered before or is over.
    async fn put(&self, user: &UserId, message: &Durable) -> Result<Option<Told>, BucketError> {
        let inner = &self.0;
        let last = message.at.after(inner.age);
        let waiting = Waiting {
            key: self.key(message),
            id: message.id.clone(),
            event: message.event.to_string(),
            subject: message.subject.to_string(),
            // What is not UTF-8 is no event.
            payload: String::from_utf8_lossy(&message.payload).into_owned(),
            at: message.at,
            expires_at: message.expires_at.map_or(last, |at| at.min(last)),
            per_device: message.per_device,
            devices: Vec::new(),
            claim: None,
        };
        let change = |bytes: Option<&[u8]>| {
            let mut record = Record::read(bytes);
            let put = record.put(waiting.clone(), Timestamp::now());
            let waits = record.holds(&waiting.key);
            Ok::<_, BucketError>((put.map(|_| record.bytes()), (put, waits)))
        };
        let ((put, waits), revision) = inner.bucket.modify(&Bucket::key(user), change).await?;
        if let Some(evicted) = put {
            inner.metrics.kept.inc();
            inner.metrics.evicted.inc_by(evicted as u64);
        }
        // Also where it was there already: whoever put it in may not have come to tell.
        Ok(waits.then(|| Told {
            user: user.clone(),
            revision,
        }))
    }

    fn queue(&self, work: Work) {
        if self.0.work.try_send(work).is_err() {
            self.0.metrics.skipped.inc();
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.inbox.0.sending.lock().remove(&self.id);
    }
}

impl Metrics {
    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "inbox_kept",
            "Messages that wait for a user who was not connected, once per user",
            self.kept.clone(),
        );
        registry.register(
            "inbox_delivered",
            "Messages delivered to a user that they had waited for",
            self.delivered.clone(),
        );
        registry.register(
            "inbox_evicted",
            "Messages that no longer wait because too many do for the same user",
            self.evicted.clone(),
        );
        registry.register(
            "inbox_skipped",
            "Streams and messages that were not attended to because too many were at a time",
            self.skipped.clone(),
        );
    }
}
