//! Reading the log's past: ranges of positions, without a filter, through a consumer that lives for
//! one range. Nothing here touches the live path.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::ConsumerErrorKind;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryFutureExt as _};
use tokio::sync::Mutex;

use super::patience::{PATIENCE, Unanswered, timely};
use super::stream::{Extent, LogError, LogStream};
use crate::bus::nats::trace_of;
use crate::event::{Epoch, EventId, Timestamp, TraceContext};

/// The most positions that are read at once, unless the client library can't keep as many.
const BATCH: u64 = 4_096;

/// The most bytes that are read at once, unless a single message is larger.
const BATCH_BYTES: usize = 32 << 20;

/// How long a consumer outlives a reader that could not delete it.
const LINGER: Duration = Duration::from_secs(10);

/// A message as the log has it.
#[derive(Debug, Clone)]
pub struct Logged {
    /// Its place.
    pub id: EventId,
    /// The subject it was published on.
    pub subject: Arc<str>,
    /// Its bytes.
    pub payload: Bytes,
    /// When the log took it.
    pub at: Timestamp,
    /// What the publisher gave to have it deduplicated.
    pub message_id: Option<String>,
    /// Which trace it belongs to, where anything is traced.
    pub trace: Option<TraceContext>,
}

/// A part of a range.
#[derive(Debug)]
pub struct Batch {
    /// What the log has, in order.
    pub messages: Vec<Logged>,
    /// Where to go on; beyond the range when it is done.
    pub next: u64,
}

/// Reads the log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogReader {
    stream: Arc<LogStream>,
    /// The extent, and when it was asked for. Held while it is asked for, so that many who want to
    /// know ask once.
    asked: Arc<Mutex<Option<(Instant, Extent)>>>,
    /// The most positions that are read at once.
    batch: u64,
    /// Whether anything is traced.
    traced: bool,
}

impl LogReader {
    /// `pending_limit` is how many messages of a subscription the client library keeps before it
    /// drops them; `traced` whether anything is.
    pub(super) fn new(stream: Arc<LogStream>, pending_limit: usize, traced: bool) -> Self {
        Self {
            stream,
            traced,
            asked: Arc::default(),
            // One place is for what the server says at the end of a batch.
            batch: (pending_limit as u64).saturating_sub(1).clamp(1, BATCH),
        }
    }

    /// The log's extent, no older than this call.
    ///
    /// # Errors
    /// The log does not answer, or is not there.
    pub async fn extent(&self) -> Result<Extent, LogError> {
        let called = Instant::now();
        let mut asked = self.asked.lock().await;
        if let Some((at, extent)) = *asked
            && at >= called
        {
            return Ok(extent);
        }
        let at = Instant::now();
        let extent = self.stream.extent().await?;
        *asked = Some((at, extent));
        Ok(extent)
    }

    /// Reads what the log has from `from` to `to`, both included, or the first part of it. `epoch`
    /// is which log that is meant to be, for the ids.
    ///
    /// # Errors
    /// The log does not answer, or is not there.
    pub async fn read(&self, epoch: Epoch, from: u64, to: u64) -> Result<Batch, LogError> {
        match self
            .fetch(epoch, from, to.min(from + self.batch - 1), BATCH_BYTES)
            .await?
        {
            // One that is larger than all that may be read at once.
            Fetched::TooLarge => match self.fetch(epoch, from, from, 0).await? {
                Fetched::Batch(batch) => Ok(batch),
                Fetched::TooLarge => Err(LogError::Unavailable(
                    "JetStream does not give a message that is too large".to_owned(),
                )),
            },
            Fetched::Batch(batch) => Ok(batch),
        }
    }

    async fn fetch(
        &self,
        epoch: Epoch,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Fetched, LogError> {
        let created = self.stream.context().create_consumer_on_stream(
            pull::Config {
                deliver_policy: DeliverPolicy::ByStartSequence {
                    start_sequence: from,
                },
                ack_policy: AckPolicy::None,
                inactive_threshold: LINGER,
                memory_storage: true,
                num_replicas: 1,
                ..pull::Config::default()
            },
            self.stream.name(),
        );
        let created = created.map_err(|error| match error.kind() {
            ConsumerErrorKind::JetStream(says)
                if says.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                LogError::Missing
            }
            _ => LogError::Unavailable(error.to_string()),
        });
        let created = tokio::time::timeout(PATIENCE, created).await;
        let consumer = created.unwrap_or_else(|_| Err(silent()))?;
        let fetched = collect(&consumer, epoch, (from, to), max_bytes, self.traced).await;
        let name = consumer.cached_info().name.clone();
        // It would go by itself after a while; whether this works changes nothing.
        let _ = timely(
            self.stream
                .context()
                .delete_consumer_from_stream(name, self.stream.name()),
        )
        .await;
        fetched
    }
}

enum Fetched {
    Batch(Batch),
    TooLarge,
}

async fn collect(
    consumer: &PullConsumer,
    epoch: Epoch,
    (from, to): (u64, u64),
    max_bytes: usize,
    traced: bool,
) -> Result<Fetched, LogError> {
    let pending = consumer.cached_info().num_pending;
    let wanted = usize::try_from((to - from + 1).min(pending)).unwrap_or(usize::MAX);
    let mut messages: Vec<Logged> = Vec::with_capacity(wanted);
    if wanted == 0 {
        let next = to + 1;
        return Ok(Fetched::Batch(Batch { messages, next }));
    }
    let fetch = consumer.fetch().max_messages(wanted).max_bytes(max_bytes);
    let mut fetched = timely(fetch.messages()).await?;
    let mut next = from;
    while next <= to {
        let message = tokio::time::timeout(PATIENCE, fetched.next()).await;
        let message = match message {
            Ok(Some(Ok(message))) => message,
            // The end, or the bytes are used up.
            Ok(None) => break,
            Ok(Some(Err(_))) if !messages.is_empty() => break,
            Ok(Some(Err(error))) if error.to_string().contains("MaxBytes") => {
                return Ok(Fetched::TooLarge);
            }
            Ok(Some(Err(error))) => return Err(unavailable(error.as_ref())),
            Err(_) => return Err(silent()),
        };
        let info = message
            .info()
            .map_err(|error| unavailable(error.as_ref()))?;
        // One that was dropped on the way must not look like one that the log has no more.
        if info.consumer_sequence != messages.len() as u64 + 1 {
            break;
        }
        let (position, pending) = (info.stream_sequence, info.pending);
        let at = Timestamp::from(info.published);
        next = position + 1;
        if position <= to {
            let id = EventId::new(epoch, position, &message.payload);
            messages.push(logged(id, at, message.message, traced));
        }
        if pending == 0 {
            next = next.max(to + 1);
        }
    }
    if messages.is_empty() && next == from {
        return Err(silent());
    }
    Ok(Fetched::Batch(Batch { messages, next }))
}

fn logged(id: EventId, at: Timestamp, message: async_nats::Message, traced: bool) -> Logged {
    let headers = message.headers.as_ref().filter(|_| traced);
    Logged {
        id,
        message_id: message_id(&message),
        subject: Arc::from(message.subject.as_str()),
        trace: trace_of(headers),
        payload: message.payload,
        at,
    }
}

/// What the publisher gave to have a message deduplicated.
pub(in crate::bus::nats) fn message_id(message: &async_nats::Message) -> Option<String> {
    let headers = message.headers.as_ref()?;
    let id = headers.get(async_nats::header::NATS_MESSAGE_ID)?;
    Some(id.as_str().to_owned())
}

impl From<Unanswered> for LogError {
    fn from(why: Unanswered) -> Self {
        Self::Unavailable(why.to_string())
    }
}

fn unavailable(error: &(dyn std::error::Error + Send + Sync)) -> LogError {
    LogError::Unavailable(error.to_string())
}

fn silent() -> LogError {
    LogError::Unavailable("JetStream did not send the messages of a range in time".to_owned())
}
