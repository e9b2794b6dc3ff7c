//! What the ingest counts. Label values come from closed lists: which types publishers use is theirs.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::bus::Source;
use crate::event::decode::Rejection;
use crate::histogram::Histogram;

/// What kind of event a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Message,
    Read,
    Typing,
    Presence,
    Membership,
    Other,
    Rejected,
}

/// What the ingest counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    received: Family<Origin, Counter>,
    rejected: Family<Reason, Counter>,
    pub(super) presence_dropped: Counter,
    pub(super) latency: Histogram,
}

/// The counters of what was received, so that no payload has its labels looked up.
#[derive(Debug)]
pub(super) struct Received([[Counter; Class::ALL.len()]; SOURCES.len()]);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Origin {
    source: &'static str,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// In the order of their numbers.
const SOURCES: [Source; 3] = [Source::Nats, Source::Embedded, Source::Log];

impl Class {
    /// In the order of their numbers.
    const ALL: [Self; 7] = [
        Self::Message,
        Self::Read,
        Self::Typing,
        Self::Presence,
        Self::Membership,
        Self::Other,
        Self::Rejected,
    ];

    /// The class of an event's outgoing type.
    pub(super) fn of(kind: &str) -> Self {
        match kind {
            "new_message" | "message_edited" | "message_deleted" => Self::Message,
            "message_read" | "message_unread" => Self::Read,
            "typing_started" | "typing_stopped" => Self::Typing,
            "user_presence" => Self::Presence,
            "chat_member_added" | "chat_member_removed" => Self::Membership,
            _ => Self::Other,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Read => "read",
            Self::Typing => "typing",
            Self::Presence => "presence",
            Self::Membership => "membership",
            Self::Other => "other",
            Self::Rejected => "rejected",
        }
    }
}

impl Origin {
    fn of(source: Source, class: Class) -> Self {
        Self {
            source: match source {
                Source::Nats => "nats",
                Source::Embedded => "embedded",
                Source::Log => "log",
            },
            class: class.as_str(),
        }
    }
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
        // Present from the start, so that a rate over the first one is right.
        self.received();
        for reason in Rejection::REASONS {
            self.rejected.get_or_create_owned(&Reason { reason });
        }
    }

    /// The counters of what was received.
    pub(super) fn received(&self) -> Received {
        Received(SOURCES.map(|source| {
            Class::ALL.map(|class| {
                self.received
                    .get_or_create_owned(&Origin::of(source, class))
            })
        }))
    }

    pub(super) fn rejected(&self, reason: &'static str) {
        self.rejected.get_or_create_owned(&Reason { reason }).inc();
    }
}

impl Received {
    /// Counts a payload.
    pub(super) fn count(&self, source: Source, class: Class) {
        self.0[source as usize][class as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_in_the_order_of_the_numbers() {
        for (number, source) in SOURCES.into_iter().enumerate() {
            assert_eq!(source as usize, number);
        }
        for (number, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, number);
        }
    }

    #[test]
    fn each_payload_counts_once_under_its_labels() {
        let metrics = Metrics::default();
        let received = metrics.received();
        received.count(Source::Log, Class::of("typing_stopped"));
        received.count(Source::Log, Class::of("job.progress"));
        let count = |source, class| {
            let origin = Origin::of(source, class);
            metrics.received.get_or_create_owned(&origin).get()
        };
        assert_eq!(count(Source::Log, Class::Typing), 1);
        assert_eq!(count(Source::Log, Class::Other), 1);
        assert_eq!(count(Source::Nats, Class::Typing), 0);
    }
}
