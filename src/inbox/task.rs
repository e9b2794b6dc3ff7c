//! Gives streams what waits for their users.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, sleep, timeout};
use tracing::{debug, warn};
use uuid::Uuid;

use super::held::HELD_FOR;
use super::record::{Claimant, Claimed, Record, Waiting};
use super::{Inbox, Keep, Stream, Told, Work};
use crate::bus::{Bucket, BucketError};
use crate::event::decode::decode;
use crate::event::{Channel, Event, EventId, Frame, Timestamp, UserId};
use crate::hub::{Filter, Finding, Handed, Question};

/// Users that are attended to at a time.
const AT_ONCE: usize = 1_024;

/// How long a claim holds, and how long a message may take to be written. The claim is longer, so that
/// nobody else delivers what is just being written.
const CLAIM: Duration = Duration::from_secs(40);
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);

/// How often it is written down how far durable messages are attended to.
const NOTE: Duration = Duration::from_secs(1);

/// How long a stream has to write what it has before it is looked at again, and how often.
const PAUSE: Duration = Duration::from_secs(2);
const ROUNDS: u32 = 20;

/// A replica may be behind for a moment: how often it is asked again, and after which time.
const READS: usize = 10;
const BEHIND: Duration = Duration::from_millis(50);

/// How often a record that can't be had is tried again, and after which time; for a stream, after one that
/// grows.
const TRIES: usize = 5;
const RETRY: Duration = Duration::from_secs(1);

/// The most streams of one user that are given something at a time.
const STREAMS: usize = 100;

/// Fills and empties inboxes.
#[derive(Debug)]
pub struct InboxTask {
    inbox: Inbox,
    queue: mpsc::Receiver<Work>,
    keeps: mpsc::Receiver<Keep>,
    told: mpsc::Receiver<Told>,
}

/// Whether a stream has to be looked at again.
enum Next {
    Done,
    After(Duration),
}

/// What became of a message that a stream was handed.
enum End {
    Written,
    /// It waits on.
    Kept,
    /// The same, and the stream is gone.
    Gone,
}

impl InboxTask {
    pub(super) fn new(
        inbox: Inbox,
        queue: mpsc::Receiver<Work>,
        keeps: mpsc::Receiver<Keep>,
        told: mpsc::Receiver<Told>,
    ) -> Self {
        Self {
            inbox,
            queue,
            keeps,
            told,
        }
    }

    /// Runs until the server stops.
    pub async fn run(mut self) {
        let mut going: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        // Apart, so that streams that take their time keep nothing from being put in.
        let mut keeping: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        let mut notes = tokio::time::interval(NOTE);
        notes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let room = going.len() < AT_ONCE;
            let work = tokio::select! {
                _ = notes.tick() => {
                    let inbox = self.inbox.clone();
                    going.push(async move { inbox.note().await }.boxed());
                    continue;
                }
                Some(work) = self.queue.recv(), if room => work,
                Some(told) = self.told.recv(), if room => Work::Told(told),
                Some(keep) = self.keeps.recv(), if keeping.len() < AT_ONCE => {
                    let inbox = self.inbox.clone();
                    keeping.push(async move { inbox.keep_on(&keep).await }.boxed());
                    continue;
                }
                Some(()) = keeping.next(), if !keeping.is_empty() => continue,
                Some(()) = going.next(), if !going.is_empty() => continue,
            };
            let inbox = self.inbox.clone();
            going.push(async move { inbox.attend(work).await }.boxed());
        }
    }
}

impl Inbox {
    async fn attend(&self, work: Work) {
        match work {
            Work::Opened(user, stream) => self.serve(&user, &stream, 0).await,
            Work::Told(told) => {
                for stream in self.streams_of(&told.user).await {
                    self.serve(&told.user, &stream, told.revision).await;
                }
            }
        }
    }

    /// Looks who is gone, and writes down how far messages are attended to.
    async fn note(&self) {
        self.take_over();
        // Once more in a moment, if it can't be had now.
        let _ = self.0.attended.write(HELD_FOR).await;
    }

    /// Keeps a message that nobody waits for: it is tried again for a while.
    async fn keep_on(&self, keep: &Keep) {
        self.try_to_keep(keep).await;
        self.0.keeping.fetch_sub(1, Ordering::Relaxed);
    }

    async fn try_to_keep(&self, Keep { message, past }: &Keep) {
        for _ in 0..TRIES {
            let kept = async {
                if *past && self.0.attended.before_start(message.event).await? {
                    return Ok(Vec::new());
                }
                self.keep(std::slice::from_ref(message)).await
            };
            let Err(error) = kept.await else {
                return;
            };
            debug!(error = error.to_string(), "a record can't be had");
            sleep(RETRY).await;
        }
        warn!(
            event = message.event.to_string(),
            "a durable message is not kept for users who are away"
        );
    }

    async fn streams_of(&self, user: &UserId) -> Vec<Stream> {
        let question = Question::Connections(Filter {
            user: Some(user.clone()),
            channel: Some(Channel::user(user)),
            after: None,
            limit: STREAMS,
        });
        let Finding::Connections(found) = self.0.hub.find(question).await else {
            return Vec::new();
        };
        let streams = found.into_iter().filter_map(|connection| {
            Some(Stream {
                connection: Uuid::try_parse(&connection.connection_id).ok()?,
                device: connection.device.map(String::into_boxed_str),
            })
        });
        streams.collect()
    }

    /// Gives a stream what waits for its user, in a state of the record that is at least `revision`.
    async fn serve(&self, user: &UserId, stream: &Stream, revision: u64) {
        let mut given = Vec::new();
        for round in 1..=ROUNDS {
            match self.serve_once(user, stream, revision, &mut given).await {
                Ok(Next::Done) => return,
                Ok(Next::After(pause)) => sleep(pause).await,
                Err(error) => {
                    debug!(error = error.to_string(), "a record can't be had");
                    sleep(RETRY * round).await;
                }
            }
        }
    }

    async fn serve_once(
        &self,
        user: &UserId,
        stream: &Stream,
        revision: u64,
        given: &mut Vec<String>,
    ) -> Result<Next, BucketError> {
        if !self.anything_for(user, revision).await? {
            return Ok(Next::Done);
        }
        let connection = stream.connection.simple().to_string();
        let Claimed {
            messages,
            others_until,
        } = self.claim(user, &connection, stream, given).await?;
        let others = |others_until: Option<Timestamp>| match others_until {
            Some(until) => Next::After(until.since(Timestamp::now()) + BEHIND),
            None => Next::Done,
        };
        if messages.is_empty() {
            return Ok(others(others_until));
        }
        let (mut done, mut letters) = (Vec::new(), Vec::new());
        for message in &messages {
            match self.frame(message) {
                Some(frame) => letters.push((message, frame)),
                // What is no event by now never will be.
                None => done.push(message.key.clone()),
            }
        }
        let frames = letters.iter().map(|(_, frame)| frame.clone()).collect();
        let Some(handed) = self.0.hub.hand(user, stream.connection, frames).await else {
            self.settle(user, &connection, &done, true).await?;
            return Ok(Next::Done);
        };
        let mut again = false;
        let ends = letters.iter().zip(handed).map(|((message, _), handed)| {
            again |= matches!(handed, Handed::Having);
            if message.per_device && !matches!(handed, Handed::Refused) {
                given.push(message.key.clone());
            }
            async move { (message, end_of(handed).await) }
        });
        let ends: Vec<_> = ends.collect();
        let mut gone = false;
        for (message, end) in join_all(ends).await {
            match end {
                End::Written => done.push(message.key.clone()),
                End::Kept => {}
                End::Gone => gone = true,
            }
        }
        self.settle(user, &connection, &done, gone).await?;
        Ok(match again {
            true => Next::After(PAUSE),
            false => others(others_until),
        })
    }

    async fn anything_for(&self, user: &UserId, revision: u64) -> Result<bool, BucketError> {
        for _ in 0..READS {
            let record = self.0.bucket.read(&Bucket::key(user)).await?;
            let seen = record.as_ref().map_or(0, |record| record.revision);
            if seen >= revision {
                let bytes = record.as_ref().map(|record| &*record.value);
                return Ok(!Record::read(bytes).is_empty());
            }
            sleep(BEHIND).await;
        }
        Ok(true)
    }

    async fn claim(
        &self,
        user: &UserId,
        connection: &str,
        stream: &Stream,
        given: &[String],
    ) -> Result<Claimed, BucketError> {
        let claimant = Claimant {
            connection,
            device: stream.device.as_deref().unwrap_or_default(),
        };
        let change = |bytes: Option<&[u8]>| {
            let mut record = Record::read(bytes);
            let now = Timestamp::now();
            let claimed = record.claim(claimant, given, now, now.after(CLAIM));
            let claims = claimed.messages.iter().any(|message| !message.per_device);
            Ok::<_, BucketError>((claims.then(|| record.bytes()), claimed))
        };
        let (claimed, _) = self.0.bucket.modify(&Bucket::key(user), change).await?;
        Ok(claimed)
    }

    /// Ends a connection's claims; where it is gone, other streams of the user may have what it did not
    /// get.
    async fn settle(
        &self,
        user: &UserId,
        connection: &str,
        done: &[String],
        gone: bool,
    ) -> Result<(), BucketError> {
        let change = |bytes: Option<&[u8]>| {
            let before = Record::read(bytes);
            let mut record = before.clone();
            let settled = record.settle(connection, done, Timestamp::now());
            let changed = record != before;
            Ok::<_, BucketError>((changed.then(|| record.bytes()), settled))
        };
        let (settled, revision) = self.0.bucket.modify(&Bucket::key(user), change).await?;
        self.0.metrics.delivered.inc_by(settled as u64);
        if gone {
            let user = user.clone();
            self.tell(&[Told { user, revision }]).await;
        }
        Ok(())
    }

    /// The message as it is written: without an id, since it may be older than what the stream is at.
    fn frame(&self, message: &Waiting) -> Option<(Option<EventId>, Frame)> {
        let payload = message.payload.as_bytes();
        let mut decoded = decode(&self.0.rules, &message.subject, payload, message.at).ok()?;
        decoded.expires_at = Some(message.expires_at);
        let event = Event::new(None, decoded);
        Some((message.event.parse().ok(), event.frame))
    }
}

/// Waits until it is known what became of a message.
async fn end_of(handed: Handed) -> End {
    match handed {
        Handed::Had => End::Written,
        Handed::Having | Handed::Refused => End::Kept,
        Handed::Queued(written) => match timeout(WRITTEN_WITHIN, written).await {
            Ok(Ok(())) => End::Written,
            // Its claim ends, and whoever comes then may have it.
            Err(_) => End::Kept,
            Ok(Err(_)) => End::Gone,
        },
    }
}
