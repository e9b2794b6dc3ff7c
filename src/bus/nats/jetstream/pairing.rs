//! Tells which messages the log has taken. Pure.
//!
//! Every message that the log takes arrives twice: as it was published, and republished with its
//! position. Whichever copy comes second finds the first by a key, a hash of subject and payload.
//! A published copy that stays alone for the park time was not taken by the log; it is delivered
//! all the same, without a position. If its numbered copy does come later, that one says under
//! which tag it was delivered already.

use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::bus::keyed_queue::KeyedQueue;

/// How long a numbered copy that came first waits for the published one, and a message that was
/// delivered without a position for its numbered copy.
const MEMORY: Duration = Duration::from_secs(30);

/// The most entries in each of the two lists that only hold numbers.
const REMEMBERED: usize = 262_144;

/// The most messages that are parked, and their bytes. When there are more, the oldest is delivered
/// as if its time had passed.
const PARKED: usize = 65_536;
const PARKED_BYTES: usize = 64 << 20;

/// What to hash keys with; a process has one, so that nobody outside can aim at collisions.
#[derive(Debug, Default)]
pub(super) struct Keys(RandomState);

impl Keys {
    /// The key of a message.
    pub(super) fn of(&self, subject: &str, payload: &[u8]) -> u64 {
        self.0.hash_one((subject, payload))
    }
}

/// The copies that wait for their twins.
#[derive(Debug)]
pub(super) struct Pairing<T> {
    park: Duration,
    parked: KeyedQueue<(T, usize)>,
    parked_bytes: usize,
    /// Numbered copies whose published copy has not come yet.
    early: KeyedQueue<()>,
    /// The tags under which messages were delivered without a position.
    unlogged: KeyedQueue<u64>,
    last_tag: u64,
}

impl<T> Pairing<T> {
    /// Nothing waits yet; `park` is how long a published copy will.
    pub(super) fn new(park: Duration) -> Self {
        Self {
            park,
            parked: KeyedQueue::default(),
            parked_bytes: 0,
            early: KeyedQueue::default(),
            unlogged: KeyedQueue::default(),
            last_tag: 0,
        }
    }

    /// A published copy has come; `bytes` is what it takes.
    pub(super) fn published(&mut self, key: u64, now: Instant, bytes: usize, message: T) {
        if self.early.take(key).is_none() {
            self.parked_bytes += bytes;
            self.parked.push(key, now, (message, bytes));
        }
    }

    /// A numbered copy has come; gives the tag, if the message was delivered already.
    pub(super) fn numbered(&mut self, key: u64, now: Instant) -> Option<u64> {
        self.forget(now);
        if let Some((_, bytes)) = self.parked.take(key) {
            self.parked_bytes -= bytes;
            return None;
        }
        let tag = self.unlogged.take(key);
        if tag.is_none() {
            self.early.push(key, now, ());
        }
        tag
    }

    /// Takes out a published copy whose time has passed.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<T> {
        let deadline = now.checked_sub(self.park)?;
        let (message, bytes) = if self.is_full() {
            self.parked.pop()
        } else {
            self.parked.pop_until(deadline)
        }?;
        self.parked_bytes -= bytes;
        Some(message)
    }

    /// Gives a tag to deliver a message under that is overdue.
    pub(super) fn tag(&mut self, key: u64, now: Instant) -> u64 {
        self.last_tag += 1;
        self.unlogged.push(key, now, self.last_tag);
        self.forget(now);
        self.last_tag
    }

    /// When the published copy came that has waited longest.
    pub(super) fn parked_since(&self) -> Option<Instant> {
        self.parked.oldest()
    }

    /// Whether more is parked than may be.
    pub(super) fn is_full(&self) -> bool {
        self.parked.len() > PARKED || self.parked_bytes > PARKED_BYTES
    }

    fn forget(&mut self, now: Instant) {
        let Some(deadline) = now.checked_sub(MEMORY) else {
            return;
        };
        while self.early.pop_until(deadline).is_some() {}
        while self.unlogged.pop_until(deadline).is_some() {}
        while self.early.len() > REMEMBERED {
            self.early.pop();
        }
        while self.unlogged.len() > REMEMBERED {
            self.unlogged.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARK: Duration = Duration::from_secs(1);

    /// One message: its text, which others may share, and when each of its copies comes.
    #[derive(Debug, Clone)]
    struct Sent {
        text: u64,
        published: Option<u64>,
        numbered: Option<u64>,
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let times = (
            0..5_000u64,
            proptest::option::weighted(0.8, 0..3_000u64),
            any::<bool>(),
        );
        (0..5u64, times).prop_map(|(text, (at, delay, numbered_first))| {
            let later = delay.map(|delay| at + delay);
            match later {
                None => Sent {
                    text,
                    published: Some(at),
                    numbered: None,
                },
                Some(later) if numbered_first => Sent {
                    text,
                    published: Some(later),
                    numbered: Some(at),
                },
                Some(_) => Sent {
                    text,
                    published: Some(at),
                    numbered: later,
                },
            }
        })
    }

    proptest! {
        /// Of each text exactly as many messages are delivered as were sent: numbered ones as they
        /// come, less those that say that they were delivered, and the rest without a position.
        #[test]
        fn each_message_is_delivered_once(all in proptest::collection::vec(sent(), 0..60)) {
            let start = Instant::now();
            let mut copies: Vec<(u64, bool, u64)> = Vec::new();
            for sent in &all {
                copies.extend(sent.published.map(|at| (at, false, sent.text)));
                copies.extend(sent.numbered.map(|at| (at, true, sent.text)));
            }
            copies.sort_unstable();
            let mut pairing = Pairing::new(PARK);
            let mut delivered = [0usize; 5];
            let mut tags = Vec::new();
            let mut release = |pairing: &mut Pairing<u64>, now, delivered: &mut [usize; 5]| {
                while let Some(text) = pairing.overdue(now) {
                    tags.push(pairing.tag(text, now));
                    delivered[text as usize] += 1;
                }
            };
            for (at, numbered, text) in copies {
                let now = start + PARK + Duration::from_millis(at);
                release(&mut pairing, now, &mut delivered);
                if !numbered {
                    pairing.published(text, now, 10, text);
                } else if pairing.numbered(text, now).is_none() {
                    delivered[text as usize] += 1;
                }
            }
            let end = start + PARK + Duration::from_secs(20);
            release(&mut pairing, end, &mut delivered);
            for text in 0..5u64 {
                let expected = all.iter().filter(|sent| sent.text == text).count();
                prop_assert_eq!(delivered[text as usize], expected, "text {}", text);
            }
            prop_assert!(tags.is_sorted());
            prop_assert_eq!(pairing.parked_bytes, 0);
        }
    }

    #[test]
    fn a_copy_without_a_twin_goes_out_when_its_time_has_passed_and_no_sooner() {
        let start = Instant::now() + PARK;
        let mut pairing = Pairing::new(PARK);
        pairing.published(7, start, 10, 7);
        let almost = start + PARK - Duration::from_millis(1);
        assert_eq!(pairing.overdue(almost), None);
        assert_eq!(pairing.overdue(start + PARK), Some(7));
        assert_eq!(pairing.tag(7, start + PARK), 1);
        assert_eq!(pairing.numbered(7, start + PARK * 2), Some(1));
    }

    #[test]
    fn when_too_much_is_parked_the_oldest_goes_out_early() {
        let start = Instant::now() + PARK;
        let mut pairing = Pairing::new(PARK);
        pairing.published(1, start, PARKED_BYTES, 1);
        assert!(!pairing.is_full());
        pairing.published(2, start, 1, 2);
        assert_eq!(pairing.overdue(start), Some(1));
        assert_eq!(pairing.overdue(start), None);
    }
}
