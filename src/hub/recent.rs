//! What is remembered of events for those who ask later why somebody did or did not get one. Pure.
//!
//! One entry for each event, which shares the event, and nothing for each recipient: who got it is told
//! from the positions that sessions know. Bounded by events and bytes; the oldest make room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Delivery;
use super::notice::Gap;
use crate::event::{ChatId, Event, EventId, MembershipChange, Recipients, UserId};
use crate::units::Size;

/// What an entry takes besides the event's bytes.
const OVERHEAD: usize = 500;

/// What each channel of an audience takes.
const CHANNEL_OVERHEAD: usize = 48;

/// Gaps that are remembered.
const GAPS: usize = 64;

/// The `explain` section of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExplainConfig {
    /// Whether recent events and ended streams are remembered, for `explain`.
    pub enabled: bool,
    /// The most events.
    pub max_events: usize,
    /// The most memory that they may take; most of it is shared with the history.
    pub max_bytes: Size,
    /// The most ended streams, on each thread that serves connections.
    pub max_sessions: usize,
}

/// What became of one event here.
#[derive(Debug)]
pub(super) struct Trail {
    pub(super) event: Arc<Event>,
    pub(super) delivery: Delivery,
    pub(super) came: Instant,
    queued: AtomicU64,
    shed: AtomicU64,
    overflowed: AtomicU64,
}

/// Sessions of one thread that an event was, or was not, queued for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Routed {
    pub(super) queued: u64,
    pub(super) shed: u64,
    pub(super) overflowed: u64,
}

/// The entries, in the order in which the events came.
#[derive(Debug)]
pub(super) struct Recent {
    config: ExplainConfig,
    trails: VecDeque<Arc<Trail>>,
    bytes: usize,
    /// Everything that came since is here.
    since: Instant,
    gaps: VecDeque<Gap>,
}

impl Default for ExplainConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            max_events: 10_000,
            max_bytes: Size(8 << 20),
            max_sessions: 5_000,
        }
    }
}

impl Trail {
    pub(super) fn new(event: &Arc<Event>, delivery: Delivery, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            event: Arc::clone(event),
            delivery,
            came: now,
            queued: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
        })
    }

    /// One thread has routed it.
    pub(super) fn routed(&self, routed: Routed) {
        self.queued.fetch_add(routed.queued, Relaxed);
        self.shed.fetch_add(routed.shed, Relaxed);
        self.overflowed.fetch_add(routed.overflowed, Relaxed);
    }

    /// What all threads have done so far.
    pub(super) fn so_far(&self) -> Routed {
        Routed {
            queued: self.queued.load(Relaxed),
            shed: self.shed.load(Relaxed),
            overflowed: self.overflowed.load(Relaxed),
        }
    }

    /// Whether the event has this id of its own, which its publisher gave it.
    pub(super) fn is(&self, text: &str) -> bool {
        has_own_id(&self.event.frame.json(), text)
    }

    fn size(&self) -> usize {
        let channels = match &self.event.audience.to {
            Recipients::Channels(channels) => channels.len(),
            Recipients::Everybody | Recipients::SharingChatWith(_) => 0,
        };
        OVERHEAD + self.event.frame.len() + channels * CHANNEL_OVERHEAD
    }
}

impl Recent {
    pub(super) fn new(config: ExplainConfig, now: Instant) -> Self {
        Self {
            config,
            trails: VecDeque::new(),
            bytes: 0,
            since: now,
            gaps: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, trail: Arc<Trail>) {
        self.bytes += trail.size();
        self.trails.push_back(trail);
        while self.trails.len() > self.config.max_events
            || self.bytes > self.config.max_bytes.bytes()
        {
            let Some(oldest) = self.trails.pop_front() else {
                return;
            };
            self.bytes -= oldest.size();
            self.since = oldest.came;
        }
    }

    /// Events were lost on the way here.
    pub(super) fn gap(&mut self, gap: Gap) {
        if self.gaps.len() >= GAPS {
            self.gaps.pop_front();
        }
        self.gaps.push_back(gap);
    }

    /// The gap that a place in the log lies in.
    pub(super) fn gap_at(&self, id: EventId) -> Option<Gap> {
        let mut gaps = self.gaps.iter();
        gaps.find(|gap| gap.covers(id)).copied()
    }

    /// The latest event at a place in the log.
    pub(super) fn at(&self, id: EventId) -> Option<Arc<Trail>> {
        let same = |trail: &&Arc<Trail>| trail.event.id.is_some_and(|known| !known.contradicts(id));
        self.trails.iter().rev().find(same).cloned()
    }

    /// The joins (`true`) and leaves of a user from an event on; `None` where that event is not here.
    pub(super) fn changes_since(
        &self,
        user: &UserId,
        id: EventId,
    ) -> Option<Vec<(u64, ChatId, bool)>> {
        let is = |trail: &Arc<Trail>| trail.event.id == Some(id);
        let from = self.trails.iter().position(is)?;
        let changes = self.trails.range(from..).filter_map(|trail| {
            let position = trail.event.id?.position();
            match trail.event.membership.as_ref()? {
                MembershipChange::Joined(who, chat) if who == user => {
                    Some((position, chat.clone(), true))
                }
                MembershipChange::Left(who, chat) if who == user => {
                    Some((position, chat.clone(), false))
                }
                _ => None,
            }
        });
        Some(changes.collect())
    }

    /// All of them, the latest first: to look for ids that take a look into the events.
    pub(super) fn all(&self) -> Vec<Arc<Trail>> {
        self.trails.iter().rev().cloned().collect()
    }

    /// Everything that came since then is here.
    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

/// Whether an event's JSON has this id: at the top, or in the message that it is about.
fn has_own_id(json: &[u8], text: &str) -> bool {
    #[derive(Deserialize)]
    struct Own<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
        #[serde(borrow)]
        message_id: Option<&'a RawValue>,
        #[serde(borrow)]
        message: Option<&'a RawValue>,
    }
    if memchr::memmem::find(json, text.as_bytes()).is_none() {
        return false;
    }
    let is = |raw: Option<&RawValue>| {
        raw.is_some_and(|raw| {
            let quoted = serde_json::from_str::<String>(raw.get());
            quoted.map_or(raw.get() == text, |quoted| quoted == text)
        })
    };
    let Ok(own) = serde_json::from_slice::<Own<'_>>(json) else {
        return false;
    };
    let inner = own
        .message
        .map(|raw| serde_json::from_str::<Own<'_>>(raw.get()));
    is(own.id) || is(own.message_id) || matches!(inner, Some(Ok(inner)) if is(inner.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::decode::{Rules, decode};
    use crate::event::{Epoch, Timestamp};
    use proptest::prelude::*;

    fn trail(position: u64, json: &str) -> Arc<Trail> {
        let id = EventId::new(Epoch(1), position, json.as_bytes());
        let (rules, now) = (Rules::default(), Timestamp::from_millis(0));
        let decoded = decode(&rules, "a", json.as_bytes(), now).unwrap();
        let event = Arc::new(Event::new(Some(id), decoded));
        Trail::new(&event, Delivery::Live, Instant::now())
    }

    fn small(max_events: usize, max_bytes: u64) -> Recent {
        let config = ExplainConfig {
            max_events,
            max_bytes: Size(max_bytes),
            ..ExplainConfig::default()
        };
        Recent::new(config, Instant::now())
    }

    #[test]
    fn events_are_found_by_their_own_ids() {
        let push = r#"{"id":"m-1","type":"t","target":{"user_id":2},"data":{"id":"inner"}}"#;
        let chat = r#"{"MessageReceived":{"message":{"id":77,"content":"m-2"},"chat_id":5}}"#;
        for (json, id) in [(push, "m-1"), (chat, "77")] {
            let trail = trail(3, json);
            assert!(trail.is(id), "{json}");
            for other in ["m", "inner", "m-2", "", "7"] {
                assert!(!trail.is(other), "{other}");
            }
        }
    }

    proptest! {
        #[test]
        fn it_never_holds_more_than_it_may(sizes in proptest::collection::vec(0usize..2_000, 1..60)) {
            let mut recent = small(20, 20_000);
            for (position, size) in (1..).zip(sizes) {
                let text = "x".repeat(size);
                recent.push(trail(position, &format!(r#"{{"type":"t","channel":"a:1","data":"{text}"}}"#)));
                prop_assert!(recent.trails.len() <= 20 && recent.bytes <= 20_000);
                let sum: usize = recent.trails.iter().map(|trail| trail.size()).sum();
                prop_assert_eq!(sum, recent.bytes);
                let last = recent.trails.back().map(|trail| trail.event.id);
                prop_assert!(last.is_none_or(|id| id.unwrap().position() == position));
            }
        }
    }

    #[test]
    fn what_has_made_room_is_not_claimed_to_be_there() {
        let mut recent = small(1, 1 << 20);
        let (first, second) = (
            trail(1, r#"{"type":"t","channel":"a:1"}"#),
            trail(2, r#"{"type":"t","channel":"a:1"}"#),
        );
        recent.push(Arc::clone(&first));
        recent.push(Arc::clone(&second));
        assert!(recent.at(first.event.id.unwrap()).is_none());
        assert!(recent.at(second.event.id.unwrap()).is_some());
        assert_eq!(recent.since(), first.came);
    }
}
