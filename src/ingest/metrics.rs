//! What the ingest counts. Label values come from closed lists: which types publishers use is theirs.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::bus::Passage;
use crate::event::decode::Rejection;
use crate::histogram::Histogram;

/// By which way payloads come.
const SOURCES: [&str; 3] = ["nats", "embedded", "log"];

/// What kinds of events there are.
const CLASSES: [&str; 7] = [
    "message",
    "read",
    "typing",
    "presence",
    "membership",
    "other",
    REJECTED,
];

/// The class of what is no event.
pub(super) const REJECTED: &str = "rejected";

/// What the ingest counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    received: Family<Received, Counter>,
    rejected: Family<Reason, Counter>,
    pub(super) presence_dropped: Counter,
    pub(super) latency: Histogram,
}

/// Counts what arrives by one bus, without looking labels up for each payload.
#[derive(Debug)]
pub(super) struct Receipts {
    live: Arc<[Counter]>,
    past: Arc<[Counter]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Received {
    source: &'static str,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Metrics {
    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "events_received",
            "Payloads that arrived, by where from and what kind of event they are",
            self.received.clone(),
        );
        registry.register(
            "events_rejected",
            "Payloads that are no event, by reason",
            self.rejected.clone(),
        );
        registry.register(
            "bus_latency_seconds",
            "From a payload's entry into the log to its being decoded here",
            self.latency.clone(),
        );
        registry.register(
            "presence_dropped",
            "Presence events dropped because their chats could not be looked up in time",
            self.presence_dropped.clone(),
        );
        for source in SOURCES {
            self.counters(source);
        }
        for reason in Rejection::REASONS {
            self.rejected.get_or_create_owned(&Reason { reason });
        }
    }

    pub(super) fn rejected(&self, reason: &'static str) {
        self.rejected.get_or_create_owned(&Reason { reason }).inc();
    }

    /// For what arrives by a bus.
    pub(super) fn receipts(&self, bus: &'static str) -> Receipts {
        Receipts {
            live: self.counters(bus),
            past: self.counters("log"),
        }
    }

    fn counters(&self, source: &'static str) -> Arc<[Counter]> {
        let labels = CLASSES.map(|class| Received { source, class });
        let counters = labels.map(|labels| self.received.get_or_create_owned(&labels));
        Arc::new(counters)
    }
}

impl Receipts {
    /// Counts a payload of a class.
    pub(super) fn count(&self, passage: Passage, class: &'static str) {
        let counters = match passage {
            Passage::Past => &self.past,
            Passage::Live | Passage::Unlogged(_) | Passage::Late(_) => &self.live,
        };
        let index = CLASSES.iter().position(|known| *known == class);
        if let Some(counter) = index.and_then(|index| counters.get(index)) {
            counter.inc();
        }
    }
}

/// The class of an event's outgoing type.
pub(super) fn class_of(kind: &str) -> &'static str {
    match kind {
        "new_message" | "message_edited" | "message_deleted" => "message",
        "message_read" | "message_unread" => "read",
        "typing_started" | "typing_stopped" => "typing",
        "user_presence" => "presence",
        "chat_member_added" | "chat_member_removed" => "membership",
        _ => "other",
    }
}
