//! Small records that all instances share: a JetStream key-value bucket, or this process's memory.

mod changes;

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::Context;
use async_nats::jetstream::kv::{self, UpdateErrorKind};
use async_nats::jetstream::stream::{DiscardPolicy, StorageType};
use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use uuid::Uuid;

pub use changes::{Changes, Place};

use super::nats::jetstream::{JetStreamConfig, PATIENCE, Storage, Unanswered, timely};

/// The most bytes of records in JetStream, which sets that much aside.
const MAX_BYTES: i64 = 64 << 20;

/// How long a bucket that could not be opened or made is not tried again.
const REST: Duration = Duration::from_secs(1);

/// How long a replica may be behind.
const BEHIND: Duration = Duration::from_millis(50);

/// How often a record that somebody else has changed meanwhile is read again.
const ATTEMPTS: u32 = 30;

/// The longest pause in between, in milliseconds.
const PAUSE_MS: u64 = 40;

/// The most records in memory.
const RECORDS: usize = 10_000;

/// Records by key. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Memory(Arc<Mutex<Memory>>),
    JetStream(Arc<JetStream>),
}

#[derive(Debug, Default)]
struct Memory {
    records: HashMap<String, (Record, Instant), RandomState>,
    age: Duration,
}

#[derive(Debug)]
struct JetStream {
    context: Context,
    config: kv::Config,
    store: OnceCell<kv::Store>,
    /// When it could not be opened or made last.
    failed: Mutex<Option<Instant>>,
}

/// What stands at a key, and which state of it this is.
#[derive(Debug, Clone)]
pub struct Record {
    /// The bytes.
    pub value: Bytes,
    /// Grows with every change.
    pub revision: u64,
}

/// Why a record can't be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// Somebody else has written it meanwhile.
    #[error("the record has changed meanwhile")]
    Changed,
    /// The bucket does not answer.
    #[error("records can't be kept: {0}")]
    Unavailable(String),
}

impl Bucket {
    /// In the memory of this process, each record for `age`.
    #[must_use]
    pub fn in_memory(age: Duration) -> Self {
        Self(Kind::Memory(Arc::new(Mutex::new(Memory {
            records: HashMap::default(),
            age,
        }))))
    }

    /// In JetStream, kept where the log is, each record for `age`; made when it is used first.
    pub(super) fn in_jetstream(
        context: Context,
        config: &JetStreamConfig,
        name: &str,
        age: Duration,
    ) -> Self {
        let config = kv::Config {
            bucket: format!("{}_{name}", config.stream),
            description: "Records of notify-server".to_owned(),
            history: 1,
            max_age: age,
            max_bytes: MAX_BYTES,
            storage: match config.storage {
                Storage::File => StorageType::File,
                Storage::Memory => StorageType::Memory,
            },
            num_replicas: config.replicas,
            ..kv::Config::default()
        };
        Self(Kind::JetStream(Arc::new(JetStream {
            context,
            config,
            store: OnceCell::new(),
            failed: Mutex::default(),
        })))
    }

    /// The key of a name: names are any text, keys are not.
    #[must_use]
    pub fn key(name: impl Display) -> String {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, name.to_string().as_bytes())
            .simple()
            .to_string()
    }

    /// What stands at a key.
    ///
    /// # Errors
    /// The bucket does not answer.
    pub async fn read(&self, key: &str) -> Result<Option<Record>, BucketError> {
        match &self.0 {
            Kind::Memory(memory) => Ok(memory.lock().read(key)),
            Kind::JetStream(bucket) => {
                let store = bucket.store().await?;
                let mut entry = timely(store.entry(key.to_owned())).await?;
                // A replica answers that may be behind for a moment.
                let mut tries = if bucket.config.num_replicas > 1 { 3 } else { 0 };
                while entry.is_none() && tries > 0 {
                    tokio::time::sleep(BEHIND).await;
                    entry = timely(store.entry(key.to_owned())).await?;
                    tries -= 1;
                }
                let put = |entry: &kv::Entry| entry.operation == kv::Operation::Put;
                Ok(entry.filter(put).map(|entry| Record {
                    value: entry.value,
                    revision: entry.revision,
                }))
            }
        }
    }

    /// Changes a record, or makes one, by what stands there: `change` gives what is to stand there, if
    /// that is something else, and what else the caller wants. It is asked again when somebody else was
    /// faster. Gives the record's state behind the change, too.
    ///
    /// # Errors
    /// What `change` says; the bucket does not answer, or is written by others all the time.
    pub async fn modify<T, E: From<BucketError>>(
        &self,
        key: &str,
        mut change: impl FnMut(Option<&[u8]>) -> Result<(Option<Bytes>, T), E>,
    ) -> Result<(T, u64), E> {
        for _ in 0..ATTEMPTS {
            let record = self.read(key).await?;
            let (value, answer) = change(record.as_ref().map(|record| &*record.value))?;
            let Some(value) = value else {
                return Ok((answer, record.map_or(0, |record| record.revision)));
            };
            match self.write(key, value, record.as_ref()).await {
                Ok(revision) => return Ok((answer, revision)),
                Err(BucketError::Changed) => {}
                Err(error) => return Err(error.into()),
            }
            let pause = Duration::from_millis(rand::rng().random_range(1..=PAUSE_MS));
            tokio::time::sleep(pause).await;
        }
        Err(BucketError::Changed.into())
    }

    /// Writes a record where there is none (`before` is `None`), or in place of `before`. Gives its new
    /// revision.
    ///
    /// # Errors
    /// Another one stands there; the bucket does not answer.
    pub async fn write(
        &self,
        key: &str,
        value: Bytes,
        before: Option<&Record>,
    ) -> Result<u64, BucketError> {
        let revision = before.map_or(0, |record| record.revision);
        match &self.0 {
            Kind::Memory(memory) => memory.lock().write(key, value, revision),
            Kind::JetStream(bucket) => {
                let store = bucket.store().await?;
                match timeout(PATIENCE, store.update(key, value, revision)).await {
                    Ok(Ok(revision)) => Ok(revision),
                    Ok(Err(error)) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                        Err(BucketError::Changed)
                    }
                    Ok(Err(error)) => Err(BucketError::Unavailable(error.to_string())),
                    Err(_) => Err(Unanswered::Silent.into()),
                }
            }
        }
    }
}

impl Memory {
    fn read(&self, key: &str) -> Option<Record> {
        let (record, at) = self.records.get(key)?;
        (at.elapsed() < self.age).then(|| record.clone())
    }

    fn write(&mut self, key: &str, value: Bytes, revision: u64) -> Result<u64, BucketError> {
        let known = self.read(key).map_or(0, |record| record.revision);
        if known != revision {
            return Err(BucketError::Changed);
        }
        let full = self.records.len() >= RECORDS && !self.records.contains_key(key);
        let by_age = |(key, (_, at)): (&String, &(Record, Instant))| (*at, key.clone());
        if let Some((_, oldest)) = self.records.iter().map(by_age).min().filter(|_| full) {
            self.records.remove(&oldest);
        }
        let revision = revision + 1;
        let at = self
            .records
            .get(key)
            .map_or_else(Instant::now, |(_, at)| *at);
        self.records
            .insert(key.to_owned(), (Record { value, revision }, at));
        Ok(revision)
    }
}

impl JetStream {
    async fn store(&self) -> Result<&kv::Store, BucketError> {
        match self.store.get() {
            Some(store) => Ok(store),
            // Most of what has to be done with a bucket is done with one that is open, and should not have the size of
            // opening it.
            None => Box::pin(self.open_once()).await,
        }
    }

    async fn open_once(&self) -> Result<&kv::Store, BucketError> {
        let open = || async {
            // Many may wait for this, and each would take its time to fail.
            let failed = *self.failed.lock();
            if failed.is_some_and(|at| at.elapsed() < REST) {
                return Err(Unanswered::Silent.into());
            }
            let store = self.open().await;
            *self.failed.lock() = store.is_err().then(Instant::now);
            store
        };
        self.store.get_or_try_init(open).await
    }
}

impl JetStream {
    async fn open(&self) -> Result<kv::Store, BucketError> {
        let there = || timely(self.context.get_key_value(&self.config.bucket));
        if let Ok(store) = there().await {
            return Ok(store);
        }
        match self.create().await {
            Ok(store) => Ok(store),
            // Another instance may have been faster, and changed it since.
            Err(error) => there().await.map_err(|_| error),
        }
    }

    /// A bucket in which the oldest make room; by itself it would refuse new ones when it is full.
    async fn create(&self) -> Result<kv::Store, BucketError> {
        let store = timely(self.context.create_key_value(self.config.clone())).await?;
        let mut stream = store.stream.cached_info().config.clone();
        stream.discard = DiscardPolicy::Old;
        timely(self.context.update_stream(stream)).await?;
        Ok(store)
    }
}

impl From<Unanswered> for BucketError {
    fn from(why: Unanswered) -> Self {
        Self::Unavailable(why.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_record_is_only_written_over_the_one_that_was_read() {
        let bucket = Bucket::in_memory(Duration::from_secs(60));
        assert!(bucket.read("a").await.unwrap().is_none());
        bucket.write("a", Bytes::from("1"), None).await.unwrap();
        let again = bucket.write("a", Bytes::from("x"), None).await;
        assert_eq!(again, Err(BucketError::Changed));
        let first = bucket.read("a").await.unwrap().unwrap();
        bucket
            .write("a", Bytes::from("2"), Some(&first))
            .await
            .unwrap();
        let late = bucket.write("a", Bytes::from("x"), Some(&first)).await;
        assert_eq!(late, Err(BucketError::Changed));
        assert_eq!(bucket.read("a").await.unwrap().unwrap().value, "2");
    }

    #[tokio::test]
    async fn records_are_kept_for_a_time() {
        let bucket = Bucket::in_memory(Duration::ZERO);
        bucket.write("a", Bytes::from("1"), None).await.unwrap();
        assert!(bucket.read("a").await.unwrap().is_none());
    }
}
