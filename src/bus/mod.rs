//! Carries published payloads to this instance, in the order of the log.
//!
//! A bus has two ends. [`Bus`] publishes and tells the bus's state. [`Feed`] is what arrives:
//! payloads with their place in the log, and notices of gaps. It has one reader, the ingest.

mod bucket;
mod calls;
mod embedded;
mod keyed_queue;
mod log;
pub mod nats;
mod receipts;
pub mod subject;
mod traces;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::mpsc;

pub use bucket::{Bucket, BucketError, Changes, Place, Record};
pub use calls::{Answers, Call, Calls};
pub use embedded::EmbeddedBus;
pub use nats::jetstream::{Batch, Extent, JetStreamConfig, LogError, LogKind, LogReader, Logged};
pub use nats::{Card, Inquiry, NatsBus, NatsConfig, RegisterError, Registration};
pub use receipts::Submitted;
pub use traces::Traces;

use crate::event::{EventId, Timestamp, TraceContext};
use traces::traced;

/// Arrivals that wait for the ingest; with the largest payloads, 256 MiB of them. When it is full the
/// bus's own queue fills, which is bounded too and reports what it drops.
const FEED: usize = 1_024;

/// What arrives.
#[derive(Debug)]
pub enum Arrival {
    /// A published payload.
    Message(Message),
    /// A log was found whose positions behind this one follow, its past first.
    Began(EventId),
    /// Payloads were lost, or positions before are no longer comparable to those that follow.
    Gap {
        /// What happened.
        loss: Loss,
        /// The last position before.
        from: EventId,
        /// The position from which the feed goes on.
        to: EventId,
    },
    /// The log has nothing up to this position any more.
    Forgotten(u64),
    /// The connection was down. What the log has taken meanwhile has come; what it could not take is
    /// unknown.
    Doubt,
}

/// Why payloads may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The connection was down: what was published meanwhile is unknown.
    Disconnected,
    /// This instance read too slowly and the client library dropped messages.
    Dropped,
    /// The log is another one than before: it was deleted and made again.
    Recreated,
    /// The log has lost its end and uses positions again that it had used before.
    Rewound,
    /// The log has dropped what this instance had still to read.
    Expired,
}

/// A payload as it was published.
#[derive(Debug, Clone)]
pub struct Message {
    /// The subject it was published on.
    pub subject: Arc<str>,
    /// Its bytes.
    pub payload: Bytes,
    /// Its place in the log, if the log took it.
    pub id: Option<EventId>,
    /// When it entered the log, or arrived here where the log has no time.
    pub at: Timestamp,
    /// By which way it came.
    pub passage: Passage,
    /// Which trace it belongs to, where anything is traced and its publisher says so.
    pub trace: Option<TraceContext>,
}

/// By which way a payload came, and with that, who is still to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// In its turn: for everybody.
    Live,
    /// Out of the log, from before this instance followed it: for those who come back.
    Past,
    /// Without a place in the log, which has not taken it in time. The number, which grows, ties it to a
    /// `Late` that may follow.
    Unlogged(u64),
    /// In the log after all, after it came as `Unlogged` under this number: for those who were not
    /// here then.
    Late(u64),
}

/// The receiving end. Dropping it stops the bus.
#[derive(Debug)]
pub struct Feed {
    arrivals: mpsc::Receiver<Arrival>,
    source: Source,
}

/// Where a payload comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Through NATS, as it was published.
    Nats,
    /// From within this process.
    Embedded,
    /// Out of the log, from before.
    Log,
}

impl Feed {
    /// A feed of what is published there, and what fills it.
    fn new(source: Source) -> (mpsc::Sender<Arrival>, Self) {
        let (sender, arrivals) = mpsc::channel(FEED);
        (sender, Self { arrivals, source })
    }

    /// Where a message that came by this feed is from.
    #[must_use]
    pub fn source(&self, message: &Message) -> Source {
        match message.passage {
            Passage::Past => Source::Log,
            Passage::Live | Passage::Unlogged(_) | Passage::Late(_) => self.source,
        }
    }

    /// The next arrival; `None` once the bus has ended.
    pub async fn next(&mut self) -> Option<Arrival> {
        self.arrivals.recv().await
    }
}

/// The publishing end. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Bus {
    /// Within this process.
    Embedded(EmbeddedBus),
    /// Through NATS.
    Nats(Arc<NatsBus>),
}

/// Why a payload could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The subject is not one that a message can be published on.
    #[error(transparent)]
    Subject(#[from] subject::SubjectError),
    /// The bus is not connected, or stopping.
    #[error("the bus is not available: {0}")]
    Unavailable(String),
    /// The payload is larger than NATS takes.
    #[error("the payload has {0} bytes, which is more than NATS takes")]
    TooLarge(usize),
    /// NATS did not take the message.
    #[error("NATS did not take the message")]
    Nats(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl PublishError {
    /// The kind of reason, from a closed list.
    fn kind(&self) -> &'static str {
        match self {
            Self::Subject(_) => "subject",
            Self::Unavailable(_) => "unavailable",
            Self::TooLarge(_) => "too_large",
            Self::Nats(_) => "nats",
        }
    }
}

/// Whether the bus carries anything, and if not, why, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether events arrive.
    pub up: bool,
    /// What it is and how it is doing.
    pub detail: String,
}

/// A status that a bus task writes and anyone reads.
#[derive(Debug, Clone)]
struct StatusCell(Arc<RwLock<Status>>);

impl StatusCell {
    fn new(up: bool, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self(Arc::new(RwLock::new(Status { up, detail })))
    }

    fn set(&self, up: bool, detail: impl Into<String>) {
        let detail = detail.into();
        *self.0.write() = Status { up, detail };
    }

    /// For those who report often and rarely anything new.
    fn set_if_changed(&self, up: bool, detail: &str) {
        let status = self.get();
        if status.up != up || status.detail != detail {
            self.set(up, detail);
        }
    }

    fn get(&self) -> Status {
        self.0.read().clone()
    }
}

impl Bus {
    /// Publishes a payload, and comes back when the log has it, with its place there. See
    /// [`Bus::submit`].
    ///
    /// # Errors
    /// As of [`Bus::submit`] and [`Submitted::taken`].
    pub async fn publish(
        &self,
        subject: &str,
        payload: Bytes,
        message_id: Option<&str>,
        trace: Option<&TraceContext>,
    ) -> Result<EventId, PublishError> {
        self.submit(subject, payload, message_id, trace)
            .await?
            .taken()
            .await
    }

    /// Publishes a payload behind all that were submitted before. Two payloads with the same
    /// `message_id`, which is any text of the publisher's, within two minutes are one: the second one is
    /// given the place of the first. `trace` is what it follows from.
    ///
    /// # Errors
    /// The subject is not valid, or the bus is not available.
    pub async fn submit(
        &self,
        subject: &str,
        payload: Bytes,
        message_id: Option<&str>,
        trace: Option<&TraceContext>,
    ) -> Result<Submitted, PublishError> {
        subject::check_publish(subject)?;
        let (place, span) = self.begin(subject, &payload, trace);
        let submitted = match self {
            Self::Embedded(bus) => bus
                .publish(subject, payload, message_id, place.as_ref())
                .map(Submitted::known),
            Self::Nats(bus) => {
                bus.submit(subject, payload, message_id, false, place.as_ref())
                    .await
            }
        };
        traced(submitted, span)
    }

    /// As [`Bus::submit`], for a publisher that goes on until the log has the payload: nobody gets it
    /// before, so that nobody gets it twice.
    ///
    /// # Errors
    /// As of [`Bus::submit`].
    pub async fn store(
        &self,
        subject: &str,
        payload: Bytes,
        message_id: &str,
    ) -> Result<Submitted, PublishError> {
        subject::check_publish(subject)?;
        let (place, span) = self.begin(subject, &payload, None);
        let submitted = match self {
            Self::Embedded(bus) => bus
                .publish(subject, payload, Some(message_id), place.as_ref())
                .map(Submitted::known),
            Self::Nats(bus) => {
                bus.submit(subject, payload, Some(message_id), true, place.as_ref())
                    .await
            }
        };
        traced(submitted, span)
    }

    /// Where the log has put a message that was published lately with this `message_id`, and how often it came
    /// again, which counts for nothing.
    #[must_use]
    pub fn about(&self, message_id: &str) -> Option<(EventId, u32)> {
        match self {
            Self::Embedded(bus) => bus.about(message_id),
            Self::Nats(bus) => bus.about(message_id),
        }
    }

    /// How the bus is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Embedded(bus) => bus.status(),
            Self::Nats(bus) => bus.status(),
        }
    }

    /// Records that are kept for as long as the log, and shared as it is; `None` where it is not.
    #[must_use]
    pub fn bucket(&self, name: &str) -> Option<Bucket> {
        match self {
            Self::Embedded(_) => None,
            Self::Nats(bus) => bus.bucket(name, None),
        }
    }

    /// Records that are shared as the log is, each kept for `age`; `None` where it is not.
    #[must_use]
    pub fn bucket_of_age(&self, name: &str, age: Duration) -> Option<Bucket> {
        match self {
            Self::Embedded(_) => None,
            Self::Nats(bus) => bus.bucket(name, Some(age)),
        }
    }

    /// Reaches the other instances.
    #[must_use]
    pub fn calls(&self) -> Calls {
        match self {
            Self::Embedded(_) => Calls::alone(),
            Self::Nats(bus) => bus.calls(),
        }
    }

    /// Lets this instance be found through NATS; `None` where there is no NATS, or it is not to be.
    ///
    /// # Errors
    /// The client has stopped.
    pub async fn register(&self, card: Card) -> Result<Option<Registration>, RegisterError> {
        match self {
            Self::Embedded(_) => Ok(None),
            Self::Nats(bus) => bus.register(card).await,
        }
    }

    /// Reads the past of the log that instances share; `None` where each has its own.
    #[must_use]
    pub fn log(&self) -> Option<&LogReader> {
        match self {
            Self::Embedded(_) => None,
            Self::Nats(bus) => bus.log(),
        }
    }

    /// The place in the log behind which this instance begins.
    #[must_use]
    pub fn origin(&self) -> EventId {
        match self {
            Self::Embedded(bus) => bus.origin(),
            Self::Nats(bus) => bus.origin(),
        }
    }
}
