//! Recent events in memory: what a client that comes back has missed. Pure.
//!
//! Bounded by events and bytes; the oldest make room. Each channel has the list of its positions,
//! so that a replay costs what it finds and not what happened to everybody.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use crate::event::{Audience, Channel, Class, Event, EventId, Recipients};
use crate::units::Size;

/// What an event takes besides its frame: itself, its place in the lists, its allocations.
const EVENT_OVERHEAD: usize = 400;

/// What each channel of an event's audience takes: in the audience, and in the channel's list.
const CHANNEL_OVERHEAD: usize = 100;

/// For how many positions checks are kept, as a multiple of the events that are kept.
const CHECKS: usize = 4;

/// The `history` section of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistoryConfig {
    /// The most events kept for clients that come back.
    pub max_events: usize,
    /// The most memory that they may take.
    pub max_bytes: Size,
    /// The most memory for what is read from the log for clients that come back from before them.
    pub archive_bytes: Size,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self {
            max_events: 100_000,
            max_bytes: Size(64 << 20),
            archive_bytes: Size(32 << 20),
        }
    }
}

/// The events themselves, in log order.
#[derive(Debug)]
pub(super) struct History {
    config: HistoryConfig,
    events: VecDeque<Kept>,
    by_channel: HashMap<Channel, VecDeque<u64>, RandomState>,
    to_everybody: VecDeque<u64>,
    bytes: usize,
    /// Everything up to here is gone.
    floor: EventId,
    /// The last event that came, kept or not.
    head: EventId,
    /// The checks of the positions up to the head, of events that are not kept, too; 0 where none
    /// came.
    checks: VecDeque<u16>,
}

#[derive(Debug)]
struct Kept {
    id: EventId,
    event: Arc<Event>,
}

impl History {
    /// An empty history of the log that begins behind `origin`.
    pub(super) fn new(config: HistoryConfig, origin: EventId) -> Self {
        Self {
            config,
            events: VecDeque::new(),
            by_channel: HashMap::default(),
            to_everybody: VecDeque::new(),
            bytes: 0,
            floor: origin,
            head: origin,
            checks: VecDeque::new(),
        }
    }

    /// Begins anew: nothing before `origin` can be replayed.
    pub(super) fn restart(&mut self, origin: EventId) {
        *self = Self::new(self.config.clone(), origin);
    }

    /// Keeps an event, if it is one that is ever replayed. Events come in log order.
    pub(super) fn push(&mut self, event: &Arc<Event>) {
        let Some(id) = event.id else {
            return;
        };
        self.note(id);
        if event.frame.class() != Class::Durable {
            return;
        }
        let position = id.position();
        match &event.audience.to {
            Recipients::Everybody => self.to_everybody.push_back(position),
            Recipients::Channels(channels) => {
                for channel in channels {
                    let positions = self.by_channel.entry_ref(channel).or_default();
                    // A channel named twice is listed once.
                    if positions.back() != Some(&position) {
                        positions.push_back(position);
                    }
                }
            }
            Recipients::SharingChatWith(_) => return,
        }
        self.bytes += size(event);
        self.events.push_back(Kept {
            id,
            event: Arc::clone(event),
        });
        while self.events.len() > self.config.max_events
            || self.bytes > self.config.max_bytes.bytes()
        {
            self.evict();
        }
    }

    /// Notes what takes a position and is no event.
    pub(super) fn pass(&mut self, id: EventId) {
        self.note(id);
    }

    /// Keeps the check of what came.
    fn note(&mut self, id: EventId) {
        let most = self.config.max_events.saturating_mul(CHECKS).max(CHECKS);
        let skipped = id.position().saturating_sub(self.head.position() + 1);
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        if skipped >= most {
            self.checks.clear();
        } else {
            self.checks.extend(std::iter::repeat_n(0, skipped));
        }
        self.checks.push_back(id.check());
        while self.checks.len() > most {
            self.checks.pop_front();
        }
        self.head = id;
    }

    /// Drops what stands up to a position, because the log has it no more.
    pub(super) fn forget_up_to(&mut self, position: u64) {
        while self
            .events
            .front()
            .is_some_and(|kept| kept.id.position() <= position)
        {
            self.evict();
        }
        if self.floor.position() < position {
            self.floor = self.id_at(position);
        }
    }

    /// The memory that the events take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The id at a position, as far as it is known.
    pub(super) fn id_at(&self, position: u64) -> EventId {
        let epoch = self.floor.epoch();
        if position == self.floor.position() {
            return self.floor;
        }
        let check = self
            .head
            .position()
            .checked_sub(position)
            .and_then(|back| usize::try_from(back).ok())
            .and_then(|back| self.checks.len().checked_sub(back + 1))
            .and_then(|index| self.checks.get(index));
        EventId::with_check(epoch, position, check.copied().unwrap_or(0))
    }

    fn evict(&mut self) {
        let Some(Kept { id, event }) = self.events.pop_front() else {
            return;
        };
        self.bytes -= size(&event);
        self.floor = id;
        let Audience { to, .. } = &event.audience;
        match to {
            Recipients::Everybody => {
                self.to_everybody.pop_front();
            }
            Recipients::Channels(channels) => {
                for channel in channels {
                    self.forget(channel, id.position());
                }
            }
            Recipients::SharingChatWith(_) => {}
        }
    }

    fn forget(&mut self, channel: &Channel, position: u64) {
        let Some(positions) = self.by_channel.get_mut(channel) else {
            return;
        };
        if positions.front() == Some(&position) {
            positions.pop_front();
        }
        if positions.is_empty() {
            self.by_channel.remove(channel);
        }
    }

    /// The last event that came: no client can have a later one.
    pub(super) fn head(&self) -> EventId {
        self.head
    }

    /// The last place that is gone; what is behind it is all here.
    pub(super) fn floor(&self) -> EventId {
        self.floor
    }

    /// Whether `id` is certainly not what stands, or stood, at its position.
    pub(super) fn contradicts(&self, id: EventId) -> bool {
        self.id_at(id.position()).contradicts(id)
    }

    /// The event at a position, if one is kept.
    pub(super) fn event(&self, position: u64) -> Option<&Arc<Event>> {
        self.get(position).map(|kept| &kept.event)
    }

    /// The positions of a channel's events in a stretch, both ends included.
    pub(super) fn of_channel(
        &self,
        channel: &Channel,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = u64> + '_ {
        let positions = self.by_channel.get(channel);
        positions
            .into_iter()
            .flat_map(move |positions| within(positions, from, to))
    }

    /// The positions of events for everybody in a stretch, both ends included.
    pub(super) fn of_everybody(&self, from: u64, to: u64) -> impl Iterator<Item = u64> + '_ {
        within(&self.to_everybody, from, to)
    }

    fn get(&self, position: u64) -> Option<&Kept> {
        let index = self
            .events
            .binary_search_by_key(&position, |kept| kept.id.position());
        index.ok().and_then(|index| self.events.get(index))
    }
}

fn within(positions: &VecDeque<u64>, from: u64, to: u64) -> impl Iterator<Item = u64> + '_ {
    let start = positions.partition_point(|position| *position < from);
    let end = positions.partition_point(|position| *position <= to);
    positions.range(start..end.max(start)).copied()
}

fn size(event: &Event) -> usize {
    let channels = match &event.audience.to {
        Recipients::Channels(channels) => channels.len(),
        Recipients::Everybody | Recipients::SharingChatWith(_) => 0,
    };
    EVENT_OVERHEAD + event.frame.len() + channels * CHANNEL_OVERHEAD
}
