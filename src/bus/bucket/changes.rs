//! Following a bucket: what was written to it behind a place. For records that every instance has to know,
//! however long it was away.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::{Bucket, BucketError, JetStream, Kind};
use crate::bus::nats::jetstream::{PATIENCE, Unanswered, timely};

/// The most records that are read at once; the rest follows with the next look.
const BATCH: u64 = 4_096;

/// How long NATS keeps a reader that was not taken away.
const LINGER: Duration = Duration::from_secs(10);

/// A place in a bucket. The default is the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// When the bucket was made, which tells it from another one of the same name.
    made: i128,
    revision: u64,
}

/// What was written behind a place.
#[derive(Debug)]
pub enum Changes {
    /// There is no bucket: nobody has written to it yet, or it is gone.
    NoBucket,
    /// The last record of each key that was written since, and where to go on.
    Since {
        /// Keys and what stands there.
        records: Vec<(String, Bytes)>,
        /// The place up to which these are.
        place: Place,
        /// Whether there are more behind it.
        more: bool,
    },
}

impl Bucket {
    /// What was written behind a place. In memory nobody else writes, and nothing is new.
    ///
    /// # Errors
    /// The bucket does not answer.
    pub async fn changes(&self, since: Place) -> Result<Changes, BucketError> {
        match &self.0 {
            Kind::Memory(_) => Ok(Changes::Since {
                records: Vec::new(),
                place: since,
                more: false,
            }),
            Kind::JetStream(bucket) => bucket.changes(since).await,
        }
    }

    /// Makes the bucket anew if it is gone.
    ///
    /// # Errors
    /// It can't be made.
    pub async fn renew(&self) -> Result<(), BucketError> {
        match &self.0 {
            Kind::Memory(_) => Ok(()),
            Kind::JetStream(bucket) => bucket.open().await.map(drop),
        }
    }

    /// Removes a record without a trace.
    ///
    /// # Errors
    /// The bucket does not answer.
    pub async fn remove(&self, key: &str) -> Result<(), BucketError> {
        match &self.0 {
            Kind::Memory(memory) => {
                memory.lock().records.remove(key);
                Ok(())
            }
            Kind::JetStream(bucket) => {
                let store = bucket.store().await?;
                let subject = format!("{}{key}", store.prefix);
                let purged = store.stream.purge().filter(subject).into_future();
                timely(purged).await?;
                Ok(())
            }
        }
    }
}

impl JetStream {
    async fn changes(&self, since: Place) -> Result<Changes, BucketError> {
        let name = format!("KV_{}", self.config.bucket);
        let stream = match timeout(PATIENCE, self.context.get_stream(name)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => match error.kind() {
                GetStreamErrorKind::JetStream(says)
                    if says.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    return Ok(Changes::NoBucket);
                }
                _ => return Err(BucketError::Unavailable(error.to_string())),
            },
            Err(_) => return Err(Unanswered::Silent.into()),
        };
        let info = stream.cached_info();
        let made = info.created.unix_timestamp_nanos();
        let after = if made == since.made {
            since.revision
        } else {
            0
        };
        let last = info.state.last_sequence;
        let nothing = after >= last || info.state.messages == 0;
        let mut place = Place {
            made,
            revision: after.max(last),
        };
        if nothing {
            let records = Vec::new();
            let more = false;
            return Ok(Changes::Since {
                records,
                place,
                more,
            });
        }
        let created = stream.create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: after + 1,
            },
            ack_policy: AckPolicy::None,
            inactive_threshold: LINGER,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        });
        let consumer = timely(created).await?;
        let read = self.collect(&consumer).await;
        let own = consumer.cached_info().name.clone();
        // It would go by itself after a while; whether this works changes nothing.
        let _ = timely(stream.delete_consumer(&own)).await;
        let (records, reached) = read?;
        let more = reached.is_some();
        place.revision = reached.unwrap_or(place.revision);
        Ok(Changes::Since {
            records,
            place,
            more,
        })
    }

    /// Records, and the revision of the last one where there are more.
    async fn collect(
        &self,
        consumer: &async_nats::jetstream::consumer::PullConsumer,
    ) -> Result<(Vec<(String, Bytes)>, Option<u64>), BucketError> {
        let wanted = consumer.cached_info().num_pending.min(BATCH);
        let mut records = Vec::new();
        if wanted == 0 {
            return Ok((records, None));
        }
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let prefix = format!("$KV.{}.", self.config.bucket);
        let fetch = consumer.fetch().max_messages(wanted).messages();
        let mut fetched = timely(fetch).await?;
        for number in 1..=wanted as u64 {
            let message = match timeout(PATIENCE, fetched.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Err(BucketError::Unavailable(error.to_string())),
                Ok(None) | Err(_) => return Err(Unanswered::Silent.into()),
            };
            let info = message
                .info()
                .map_err(|error| BucketError::Unavailable(error.to_string()))?;
            if info.consumer_sequence != number {
                // Some were dropped on the way.
                return Err(Unanswered::Silent.into());
            }
            let (revision, pending) = (info.stream_sequence, info.pending);
            let key = message.subject.strip_prefix(&*prefix).map(str::to_owned);
            // What was taken away has no value.
            let value = message.message.payload;
            records.extend(key.filter(|_| !value.is_empty()).map(|key| (key, value)));
            if pending == 0 {
                return Ok((records, None));
            }
            if number == wanted as u64 {
                return Ok((records, Some(revision)));
            }
        }
        Ok((records, None))
    }
}
