//! What the hub counts. Label values come from closed lists.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::activity::Activity;
use super::admission::Refusal;
use super::inspect::Transport;
use super::notice::End;
use super::replay::Replay;
use crate::histogram::{Bucket, Histogram};

/// Counters shared by all shards.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    routed: Counter,
    shed: Counter,
    delivered: Counter,
    bytes: Counter,
    pub(super) latency: Histogram,
    outbox_frames: Gauge,
    outbox_bytes: Gauge,
    connections: Family<ByTransport, Gauge>,
    connections_max: Gauge,
    opened: Family<ByTransport, Counter>,
    refused: Family<Reason, Counter>,
    ended: Family<Ended, Counter>,
    resumed: Family<Outcome, Counter>,
    replayed: Family<Source, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTransport {
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    transport: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// What an instance has done since it began.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Events handed to connections, once per session.
    pub events: u64,
    /// Bytes of frames handed to connections.
    pub bytes: u64,
    /// Sessions that ended because their client read too slowly.
    pub slow_consumers: u64,
    /// How many events took how long from the log to a connection, once per session.
    #[serde(default)]
    pub delivery: Vec<Bucket>,
}

impl Metrics {
    pub(super) fn routed_total(&self) -> u64 {
        self.routed.get()
    }

    pub(super) fn activity(&self) -> Activity {
        Activity::by(self.routed.clone())
    }

    pub(super) fn totals(&self) -> Totals {
        let slow = |transport| self.ended_by(transport, End::SlowConsumer).get();
        Totals {
            events: self.delivered.get(),
            bytes: self.bytes.get(),
            slow_consumers: Transport::ALL.into_iter().map(slow).sum(),
            delivery: self.latency.buckets(),
        }
    }

    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        self.register_sessions(registry);
        registry.register(
            "events_routed",
            "Events queued, once per session",
            self.routed.clone(),
        );
        registry.register(
            "deliveries",
            "Events handed to a connection, once per session",
            self.delivered.clone(),
        );
        registry.register(
            "delivery_latency_seconds",
            "From an event's entry into the log to its being handed to a connection, once per session; \
             without replays",
            self.latency.clone(),
        );
        registry.register(
            "events_shed",
            "Ephemeral events dropped because an outbox was full or memory is short",
            self.shed.clone(),
        );
        registry.register(
            "outbox_frames",
            "Frames that wait in the outboxes of all streams",
            self.outbox_frames.clone(),
        );
        registry.register(
            "outbox_bytes",
            "Bytes of frames that wait in the outboxes of all streams",
            self.outbox_bytes.clone(),
        );
        registry.register(
            "stream_bytes",
            "Bytes of frames handed to connections",
            self.bytes.clone(),
        );
        registry.register(
            "resumes",
            "Streams that continued an earlier one, by outcome",
            self.resumed.clone(),
        );
        registry.register(
            "events_replayed",
            "Events replayed, once per session, by where they were found",
            self.replayed.clone(),
        );
        self.present_from_the_start();
    }

    fn register_sessions(&self, registry: &mut Registry) {
        registry.register(
            "connections",
            "Streams open now, by transport",
            self.connections.clone(),
        );
        registry.register(
            "connections_max",
            "Streams that this instance may have",
            self.connections_max.clone(),
        );
        registry.register(
            "sessions_opened",
            "Streams opened, by transport",
            self.opened.clone(),
        );
        registry.register(
            "sessions_ended",
            "Streams ended, by transport and reason",
            self.ended.clone(),
        );
        registry.register(
            "connections_refused",
            "Streams not opened because of a limit, for want of memory, or because the instance stops, by reason",
            self.refused.clone(),
        );
    }

    /// So that a rate over the first of its kind is right.
    fn present_from_the_start(&self) {
        for source in ["memory", "log"] {
            self.replayed_from(source);
        }
        for outcome in Replay::OUTCOMES {
            self.resumed.get_or_create_owned(&Outcome { outcome });
        }
        for reason in Refusal::REASONS {
            self.refused.get_or_create_owned(&Reason { reason });
        }
        for transport in Transport::ALL {
            self.connections
                .get_or_create_owned(&ByTransport::of(transport));
            self.opened.get_or_create_owned(&ByTransport::of(transport));
            for end in End::ALL {
                self.ended_by(transport, end);
            }
        }
    }

    pub(super) fn routed(&self, sessions: u64, shed: u64) {
        self.routed.inc_by(sessions);
        if shed > 0 {
            self.shed.inc_by(shed);
        }
    }

    pub(super) fn written(&self, events: u64, bytes: u64) {
        self.delivered.inc_by(events);
        self.bytes.inc_by(bytes);
    }

    /// So much more, or less, waits in outboxes.
    pub(super) fn waiting(&self, frames: i64, bytes: i64) {
        self.outbox_frames.inc_by(frames);
        self.outbox_bytes.inc_by(bytes);
    }

    pub(super) fn resumed(&self, replay: &Replay) {
        if let Some(outcome) = replay.outcome() {
            self.resumed.get_or_create_owned(&Outcome { outcome }).inc();
            let from_log = replay.from_log;
            self.replayed_from("log").inc_by(from_log as u64);
            let from_memory = replay.frames.len() - from_log;
            self.replayed_from("memory").inc_by(from_memory as u64);
        }
    }

    fn replayed_from(&self, source: &'static str) -> Counter {
        self.replayed.get_or_create_owned(&Source { source })
    }

    /// So many streams are allowed.
    pub(super) fn allowed(&self, connections: usize) {
        self.connections_max
            .set(i64::try_from(connections).unwrap_or(i64::MAX));
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        let reason = refusal.reason();
        self.refused.get_or_create_owned(&Reason { reason }).inc();
    }

    pub(super) fn opened(&self, transport: Transport) {
        let labels = ByTransport::of(transport);
        self.opened.get_or_create_owned(&labels).inc();
        self.connections.get_or_create_owned(&labels).inc();
    }

    pub(super) fn ended(&self, transport: Transport, end: End) {
        self.connections
            .get_or_create_owned(&ByTransport::of(transport))
            .dec();
        self.ended_by(transport, end).inc();
    }

    fn ended_by(&self, transport: Transport, end: End) -> Counter {
        self.ended.get_or_create_owned(&Ended {
            transport: transport.as_str(),
            reason: end.as_str(),
        })
    }
}

impl ByTransport {
    fn of(transport: Transport) -> Self {
        Self {
            transport: transport.as_str(),
        }
    }
}
