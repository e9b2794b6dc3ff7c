//! The way of one recorded event through this instance, for its trace: when it was decoded, when it was
//! routed, and to how many sessions it was written. Few events are recorded, and the others know nothing
//! of this.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use uuid::Uuid;

use super::trace_context::TraceContext;

/// No moment yet.
const NEVER: u64 = u64::MAX;

/// One event's way. Threads that route and write it only add to numbers.
#[derive(Debug)]
pub struct Journey {
    /// The span that stands for all of it.
    pub context: TraceContext,
    began: Instant,
    began_at: SystemTime,
    decoded: AtomicU64,
    /// Threads that it goes to, and those that have routed it.
    threads: AtomicU64,
    threads_done: AtomicU64,
    routed: AtomicU64,
    queued: AtomicU64,
    shed: AtomicU64,
    overflowed: AtomicU64,
    written: AtomicU64,
    first_written: AtomicU64,
    last_written: AtomicU64,
    /// Each writing, where that is asked for.
    recipients: Option<Recipients>,
}

#[derive(Debug)]
struct Recipients {
    most: usize,
    list: Mutex<Vec<Recipient>>,
}

/// One session that the event was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipient {
    /// The session's connection.
    pub connection: Uuid,
    /// When, after the event came.
    pub after: Duration,
}

/// How far an event has come. Durations are since it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Its decoding ended.
    pub decoded: Option<Duration>,
    /// The last thread has routed it.
    pub routed: Option<Duration>,
    /// It was written for the first time, and for the last.
    pub written: Option<(Duration, Duration)>,
    /// Sessions that it was queued for.
    pub queued: u64,
    /// Sessions that had no room and did without: it was ephemeral.
    pub shed: u64,
    /// Sessions that had no room and were ended.
    pub overflowed: u64,
    /// Sessions that it was written to.
    pub sessions: u64,
}

impl Journey {
    /// One that begins now, by both clocks; notes up to so many recipients.
    #[must_use]
    pub fn begin(context: TraceContext, recipients: usize, now: (SystemTime, Instant)) -> Self {
        let number = |value| AtomicU64::new(value);
        Self {
            context,
            began: now.1,
            began_at: now.0,
            decoded: number(NEVER),
            threads: number(0),
            threads_done: number(0),
            routed: number(NEVER),
            queued: number(0),
            shed: number(0),
            overflowed: number(0),
            written: number(0),
            first_written: number(NEVER),
            last_written: number(0),
            recipients: (recipients > 0).then(|| Recipients {
                most: recipients,
                list: Mutex::default(),
            }),
        }
    }

    /// When it began, by the clock of the world, and by this process's own.
    #[must_use]
    pub fn began(&self) -> (SystemTime, Instant) {
        (self.began_at, self.began)
    }

    /// The payload is understood, or is not.
    pub fn decoded(&self, now: Instant) {
        self.decoded.store(self.after(now), Relaxed);
    }

    /// It goes to so many threads.
    pub fn goes_to(&self, threads: usize) {
        self.threads.store(threads as u64, Relaxed);
    }

    /// One thread has routed it.
    pub fn routed(&self, queued: u64, shed: u64, overflowed: u64, now: Instant) {
        self.queued.fetch_add(queued, Relaxed);
        self.shed.fetch_add(shed, Relaxed);
        self.overflowed.fetch_add(overflowed, Relaxed);
        self.routed.store(self.after(now), Relaxed);
        self.threads_done.fetch_add(1, Relaxed);
    }

    /// It was handed to a session's connection.
    pub fn written(&self, connection: Uuid, now: Instant) {
        let after = self.after(now);
        self.first_written.fetch_min(after, Relaxed);
        self.last_written.fetch_max(after, Relaxed);
        if let Some(recipients) = &self.recipients {
            let mut list = recipients.list.lock();
            if list.len() < recipients.most {
                list.push(Recipient {
                    connection,
                    after: Duration::from_nanos(after),
                });
            }
        }
        self.written.fetch_add(1, Relaxed);
    }

    /// Whether all threads have routed it and everybody has it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let threads = self.threads.load(Relaxed);
        threads > 0
            && self.threads_done.load(Relaxed) >= threads
            && self.written.load(Relaxed) >= self.queued.load(Relaxed)
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let moment = |number: &AtomicU64| {
            let nanos = number.load(Relaxed);
            (nanos != NEVER).then(|| Duration::from_nanos(nanos))
        };
        let last = Duration::from_nanos(self.last_written.load(Relaxed));
        Progress {
            decoded: moment(&self.decoded),
            routed: moment(&self.routed),
            written: moment(&self.first_written).map(|first| (first, last)),
            queued: self.queued.load(Relaxed),
            shed: self.shed.load(Relaxed),
            overflowed: self.overflowed.load(Relaxed),
            sessions: self.written.load(Relaxed),
        }
    }

    /// Those that were noted.
    #[must_use]
    pub fn recipients(&self) -> Vec<Recipient> {
        let noted = self.recipients.as_ref();
        noted.map_or_else(Vec::new, |recipients| recipients.list.lock().clone())
    }

    fn after(&self, now: Instant) -> u64 {
        let after = now.saturating_duration_since(self.began);
        u64::try_from(after.as_nanos()).unwrap_or(NEVER - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{SpanId, TraceId};

    fn journey(recipients: usize) -> Journey {
        let context = TraceContext::root(TraceId([1; 16]), SpanId([2; 8]), true);
        Journey::begin(context, recipients, (SystemTime::now(), Instant::now()))
    }

    #[test]
    fn it_is_over_when_all_threads_have_routed_it_and_everybody_has_it() {
        let journey = journey(0);
        assert!(!journey.is_over());
        journey.goes_to(2);
        journey.routed(1, 0, 0, Instant::now());
        journey.written(Uuid::nil(), Instant::now());
        assert!(!journey.is_over(), "another thread may queue it");
        journey.routed(1, 2, 3, Instant::now());
        assert!(!journey.is_over());
        journey.written(Uuid::nil(), Instant::now());
        assert!(journey.is_over());
        let progress = journey.progress();
        assert_eq!((progress.queued, progress.sessions), (2, 2));
        assert_eq!((progress.shed, progress.overflowed), (2, 3));
        assert!(progress.written.is_some_and(|(first, last)| first <= last));
        assert!(journey.recipients().is_empty());
    }

    #[test]
    fn recipients_are_noted_up_to_a_bound() {
        let journey = journey(2);
        for _ in 0..5 {
            journey.written(Uuid::nil(), Instant::now());
        }
        assert_eq!(journey.recipients().len(), 2);
        assert_eq!(journey.progress().sessions, 5);
    }
}
