//! What is older than the hub's memory, for clients that come back after long.
//!
//! The log's past is read in chunks of positions, each at most once for all clients that need it at
//! about the same time, by few readers at once, and without any consumer of a single client's own.
//! Decoding happens on threads of its own, so that the live feed is not delayed. A client's search goes
//! from the newest chunk to the oldest, and is bounded: what lies before the bound is a gap.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout_at;
use tracing::{debug, warn};

use crate::bus::{LogError, LogReader, Logged};
use crate::event::decode::{Rules, decode};
use crate::event::{Epoch, Event, EventId};
use crate::hub::{Backlog, Comeback, Gap, GapReason, Hub, Interest, Reach, Resume, Segment};

/// Positions in a chunk.
const CHUNK: u64 = 1_024;

/// Chunks that are read at the same time.
const READERS: usize = 2;

/// How long a client may wait for its past, or for the log to be there at all. Then it gets a gap.
const PATIENCE: Duration = Duration::from_secs(15);
const TOO_LATE: &str = "it took too long, or the memory moves on faster than the log is read";

/// The most chunks that one client's search goes through: about a million positions.
const MAX_CHUNKS: u64 = 1_024;

/// The most events that may be one client's; more is better fetched over the API.
const MAX_FOUND: usize = 20_000;

/// How often a chunk is asked for, and the pause in between.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);

/// A search overlaps with half of the memory, and each time that it begins anew, because the memory moved on
/// meanwhile, with half of the rest, so many times.
const HALVES: u32 = 4;

/// The part of the memory, one in so many, that is about to leave it.
const MARGIN: u64 = 8;

/// What the archive counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    chunks: Counter,
    failures: Counter,
}

impl Metrics {
    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "archive_reads",
            "Chunks of the log that were read for clients older than the memory",
            self.chunks.clone(),
        );
        registry.register(
            "archive_failures",
            "Clients whose past could not be read from the log in time",
            self.failures.clone(),
        );
    }
}

/// Finds out about clients that come back. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Archive(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Option<LogReader>,
    hub: Hub,
    rules: Rules,
    cache: Mutex<Cache>,
    readers: Semaphore,
    metrics: Metrics,
}

/// The chunks that were read, the last used at the back.
#[derive(Debug)]
struct Cache {
    max_bytes: usize,
    slots: VecDeque<Slot>,
}

#[derive(Debug, Clone)]
struct Slot {
    chunk: Chunk,
    segment: Arc<OnceCell<Arc<Segment>>>,
}

/// Which positions of which log: the number counts chunks, and the last position may lie before the
/// chunk's end, where the log did not reach further.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    epoch: Epoch,
    number: u64,
    last: u64,
}

/// What of the log is searched for one client.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// What the client has.
    after: EventId,
    /// The log has nothing up to here any more.
    gone_up_to: u64,
    /// The search begins here, within the memory, or further on…
    target: u64,
    /// … up to the last event that came.
    head: u64,
}

impl Archive {
    /// An archive of the log that `log` reads, if there is one, that keeps up to `max_bytes`.
    #[must_use]
    pub fn new(
        log: Option<LogReader>,
        hub: Hub,
        rules: Rules,
        max_bytes: usize,
        metrics: Metrics,
    ) -> Self {
        Self(Arc::new(Inner {
            log,
            hub,
            rules,
            cache: Mutex::new(Cache {
                max_bytes,
                slots: VecDeque::new(),
            }),
            readers: Semaphore::new(READERS),
            metrics,
        }))
    }

    /// Finds out what the hub can't know about a client that comes back: what it missed before the
    /// hub's memory begins, or whether its position is one that only other instances have seen yet.
    ///
    /// `since` is when the client came: there is a time after which it does not wait any longer.
    pub async fn look_up(&self, interest: &Interest, resume: Resume, since: Instant) -> Comeback {
        let (Resume::After(id), Some(log)) = (resume, &self.0.log) else {
            return resume.into();
        };
        let until = since + PATIENCE;
        // It has come back with what was gone again when it was to be used, all the time.
        if Instant::now() >= until {
            return self.0.failed(resume, TOO_LATE);
        }
        // On the heap, because it is large, and few of the requests that this is a part of need it.
        let search = Box::pin(self.0.look_up(log, interest, id));
        match timeout_at(until.into(), search).await {
            Ok(Ok(comeback)) => comeback,
            Ok(Err(error)) => self.0.failed(resume, &error.to_string()),
            Err(_) => self.0.failed(resume, TOO_LATE),
        }
    }
}

impl Inner {
    fn failed(&self, resume: Resume, error: &str) -> Comeback {
        self.metrics.failures.inc();
        warn!(error, "a client's past could not be read from the log");
        resume.into()
    }

    async fn look_up(
        &self,
        log: &LogReader,
        interest: &Interest,
        id: EventId,
    ) -> Result<Comeback, LogError> {
        let resume = Resume::After(id);
        self.hub.settled().await;
        // For as long as the client is willing to wait: what was read is at hand the next time.
        let mut attempt = 0;
        loop {
            attempt = HALVES.min(attempt + 1);
            let reach = self.hub.reach();
            let (floor, head) = (reach.floor.position(), reach.head.position());
            if id.epoch() != reach.head.epoch() {
                return Ok(resume.into());
            }
            if id.position() > head {
                let comeback = self.ahead(log, id).await?;
                // While the log was asked, the memory may have caught up and gone on.
                if id.position() > self.hub.reach().head.position() {
                    return Ok(comeback);
                }
                continue;
            }
            if is_lasting(reach, id.position()) {
                return Ok(Comeback {
                    lasting: true,
                    ..resume.into()
                });
            }
            let extent = patiently(|| log.extent()).await?;
            if extent.epoch != id.epoch() {
                return Ok(resume.into());
            }
            let stretch = Stretch {
                after: id,
                gone_up_to: extent.first.saturating_sub(1),
                // The memory moves on while this reads, so the two overlap: by half, and by more
                // where that was not enough.
                target: head - ((head - floor) >> attempt),
                head,
            };
            let Some(backlog) = self.backlog(log, interest, stretch).await? else {
                return Ok(Resume::Unreadable.into());
            };
            if is_lasting(self.hub.reach(), backlog.to) {
                return Ok(Comeback {
                    resume,
                    backlog: Some(backlog),
                    log_end: None,
                    lasting: true,
                });
            }
        }
    }

    /// A client that comes from an instance that is ahead of this one, or says so.
    async fn ahead(&self, log: &LogReader, id: EventId) -> Result<Comeback, LogError> {
        let extent = patiently(|| log.extent()).await?;
        Ok(Comeback {
            log_end: (extent.epoch == id.epoch()).then_some(extent.last),
            ..Resume::After(id).into()
        })
    }

    /// Searches the log from within the memory back to what the client has. `None` where something
    /// else stands there than the client has seen.
    async fn backlog(
        &self,
        log: &LogReader,
        interest: &Interest,
        stretch: Stretch,
    ) -> Result<Option<Backlog>, LogError> {
        let Stretch {
            after,
            gone_up_to,
            target,
            head,
        } = stretch;
        let begin = after.position().max(gone_up_to);
        let mut search = self.hub.begin_search(interest, target);
        let mut from = (begin == after.position()).then_some(after);
        let mut reason = GapReason::Expired;
        let mut to = None;
        let newest = number_of(target.max(1));
        for number in (number_of(begin + 1)..=newest).rev() {
            let chunk = Chunk {
                epoch: after.epoch(),
                number,
                last: end_of(number).min(head),
            };
            let at_least = if number == newest { target } else { chunk.last };
            let segment = self.segment(log, chunk, at_least).await?;
            to.get_or_insert(segment.last());
            let first = start_of(number).max(begin + 1);
            if first == begin + 1 {
                let there = segment.id_at(begin);
                if begin == after.position() && there.contradicts(after) {
                    return Ok(None);
                }
                from = from.or(Some(there));
            }
            segment.search(&mut search, first, segment.last());
            if search.len() > MAX_FOUND || newest - number >= MAX_CHUNKS {
                from = Some(segment.id_at(first - 1));
                reason = GapReason::Overflow;
                break;
            }
        }
        let from = from.unwrap_or_else(|| EventId::unknown(after.epoch(), begin));
        let gap = Gap {
            reason,
            from: Some(after),
            to: Some(from),
        };
        Ok(Some(Backlog {
            search,
            from,
            to: to.unwrap_or(begin),
            gap: (from.position() != after.position()).then_some(gap),
        }))
    }

    /// A chunk up to position `at_least` or further, from the cache or from the log.
    async fn segment(
        &self,
        log: &LogReader,
        chunk: Chunk,
        at_least: u64,
    ) -> Result<Arc<Segment>, LogError> {
        let slot = self.cache.lock().slot(chunk, at_least);
        let read = slot.segment.get_or_try_init(|| self.read(log, slot.chunk));
        let segment = Arc::clone(read.await?);
        self.cache.lock().trim();
        Ok(segment)
    }

    async fn read(&self, log: &LogReader, chunk: Chunk) -> Result<Arc<Segment>, LogError> {
        let _permit = self.readers.acquire().await.ok();
        let first = start_of(chunk.number);
        // One more, to know what stands before the chunk.
        let mut next = first.saturating_sub(1).max(1);
        let mut logged = Vec::new();
        while next <= chunk.last {
            let batch = patiently(|| log.read(chunk.epoch, next, chunk.last)).await?;
            logged.extend(batch.messages);
            next = batch.next;
        }
        self.metrics.chunks.inc();
        debug!(from = first, to = chunk.last, "read from the log");
        let rules = self.rules.clone();
        let decoded = tokio::task::spawn_blocking(move || {
            let before = logged
                .first()
                .filter(|logged| logged.id.position() < first)
                .map_or(EventId::unknown(chunk.epoch, first - 1), |logged| logged.id);
            let events = logged.iter().filter(|logged| logged.id.position() >= first);
            let events = events.map(|logged| event(&rules, logged));
            Arc::new(Segment::new(before, chunk.last, events))
        });
        decoded
            .await
            .map_err(|_| LogError::Unavailable("a chunk of the log can't be decoded".to_owned()))
    }
}

/// Whether a position is in the memory and not about to leave it.
fn is_lasting(reach: Reach, position: u64) -> bool {
    let (floor, head) = (reach.floor.position(), reach.head.position());
    position >= floor + (head - floor) / MARGIN
}

/// What a logged message is as an event, or its id where it is none.
fn event(rules: &Rules, logged: &Logged) -> Result<Event, EventId> {
    decode(rules, &logged.subject, &logged.payload, logged.at)
        .map(|decoded| Event::new(Some(logged.id), decoded))
        .map_err(|_| logged.id)
}

impl Cache {
    /// The slot of a chunk that is as far as is needed, made anew where there is none.
    fn slot(&mut self, chunk: Chunk, at_least: u64) -> Slot {
        let found = self.slots.iter().position(|slot| {
            slot.chunk.epoch == chunk.epoch
                && slot.chunk.number == chunk.number
                && slot.chunk.last >= at_least
        });
        let slot = found.and_then(|index| self.slots.remove(index));
        let slot = slot.unwrap_or_else(|| Slot {
            chunk,
            segment: Arc::default(),
        });
        self.slots.push_back(slot.clone());
        slot
    }

    /// Lets go of what was not used for longest, until the rest fits.
    fn trim(&mut self) {
        let bytes = |slot: &Slot| slot.segment.get().map_or(0, |segment| segment.bytes());
        let mut sum: usize = self.slots.iter().map(bytes).sum();
        while sum > self.max_bytes
            && let Some(slot) = self.slots.pop_front()
        {
            sum -= bytes(&slot);
        }
    }
}

fn number_of(position: u64) -> u64 {
    (position - 1) / CHUNK
}

fn start_of(number: u64) -> u64 {
    number * CHUNK + 1
}

fn end_of(number: u64) -> u64 {
    (number + 1) * CHUNK
}

/// Tries a few times: a cluster that elects a leader does not answer for a moment, and what was asked
/// when the connection broke is never answered.
async fn patiently<T, F: Future<Output = Result<T, LogError>>>(
    attempt: impl Fn() -> F,
) -> Result<T, LogError> {
    let mut attempts = 1;
    loop {
        match attempt().await {
            Err(LogError::Unavailable(_)) if attempts < ATTEMPTS => {
                attempts += 1;
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}
