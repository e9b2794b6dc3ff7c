//! How far in the log somebody has seen to what waits for users: so that an instance that starts can make
//! up for what was published while none ran.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::bus::{Bucket, BucketError};
use crate::event::EventId;

/// Messages within this time share one place.
const STEP: Duration = Duration::from_secs(1);

/// Where it is kept; no user's record has such a key.
const KEY: &str = "attended";

/// The last durable message that was seen to, by this instance and by all.
#[derive(Debug)]
pub(super) struct Attended {
    bucket: Bucket,
    /// In the order in which they came, with the time.
    here: Mutex<VecDeque<(Instant, EventId)>>,
    /// As it was before this instance did anything.
    at_start: OnceCell<Option<EventId>>,
}

impl Attended {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self {
            bucket,
            here: Mutex::default(),
            at_start: OnceCell::new(),
        }
    }

    /// Whether a message was seen to before this instance started.
    pub(super) async fn before_start(&self, event: EventId) -> Result<bool, BucketError> {
        let read = || async {
            let record = self.bucket.read(KEY).await?;
            Ok::<_, BucketError>(record.and_then(|record| parse(&record.value)))
        };
        let last: &Option<EventId> = self.at_start.get_or_try_init(read).await?;
        Ok(last.is_some_and(|last| is_behind(event, last)))
    }

    /// A message has come, and somebody sees to it.
    pub(super) fn seen(&self, event: EventId) {
        let mut here = self.here.lock();
        let now = Instant::now();
        match here.back_mut() {
            // A place for each second will do.
            Some((since, last)) if now.duration_since(*since) < STEP => {
                if is_behind(*last, event) {
                    *last = event;
                }
            }
            _ => here.push_back((now, event)),
        }
    }

    /// Writes down up to where messages came longer ago than `age`: by then they are seen to.
    pub(super) async fn write(&self, age: Duration) -> Result<(), BucketError> {
        let old = |(since, _): &(Instant, EventId)| since.elapsed() >= age;
        let known =
            {
                let here = self.here.lock();
                let known = here.iter().take_while(|entry| old(entry));
                known.map(|(_, event)| *event).reduce(|last, event| {
                    if is_behind(last, event) { event } else { last }
                })
            };
        let Some(last) = known else {
            return Ok(());
        };
        // Not before it is known what stood there.
        self.before_start(last).await?;
        let change = |bytes: Option<&[u8]>| {
            let known = bytes.and_then(parse);
            let newer = known.is_none_or(|known| !is_behind(last, known));
            Ok::<_, BucketError>((newer.then(|| last.to_string().into()), ()))
        };
        self.bucket.modify(KEY, change).await?;
        // What has come meanwhile stays.
        self.here
            .lock()
            .retain(|(_, event)| !is_behind(*event, last));
        Ok(())
    }
}

/// Whether an event is not after another of the same log; of different logs the later one is.
fn is_behind(event: EventId, last: EventId) -> bool {
    (event.epoch().0, event.position()) <= (last.epoch().0, last.position())
}

fn parse(bytes: &[u8]) -> Option<EventId> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Epoch;

    fn event(epoch: u64, position: u64) -> EventId {
        EventId::unknown(Epoch(epoch), position)
    }

    #[tokio::test]
    async fn what_was_seen_to_is_remembered_by_the_next_instance() {
        let bucket = Bucket::in_memory(Duration::from_secs(60));
        let first = Attended::new(bucket.clone());
        assert!(!first.before_start(event(1, 1)).await.unwrap());
        first.seen(event(1, 7));
        first.seen(event(1, 5));
        first.write(Duration::ZERO).await.unwrap();
        assert!(!first.before_start(event(1, 1)).await.unwrap(), "its own");
        let next = Attended::new(bucket);
        for (epoch, position, seen) in [(1, 7, true), (1, 8, false), (2, 1, false)] {
            let before = next.before_start(event(epoch, position)).await.unwrap();
            assert_eq!(before, seen, "{epoch} {position}");
        }
        // One that is behind does not move it back.
        next.seen(event(1, 3));
        next.write(Duration::ZERO).await.unwrap();
        let last = Attended::new(next.bucket.clone());
        assert!(last.before_start(event(1, 7)).await.unwrap());
    }
}
