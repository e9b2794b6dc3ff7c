//! What the hub counts. Label values come from closed lists.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::notice::End;
use super::replay::Replay;

/// Counters shared by all shards.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    routed: Counter,
    shed: Counter,
    delivered: Counter,
    bytes: Counter,
    pub(super) connections: Gauge,
    ended: Family<Reason, Counter>,
    resumed: Family<Outcome, Counter>,
    replayed: Family<Source, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
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
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Events handed to connections, once per session.
    pub events: u64,
    /// Bytes of frames handed to connections.
    pub bytes: u64,
    /// Sessions that ended because their client read too slowly.
    pub slow_consumers: u64,
}

impl Metrics {
    pub(super) fn routed_total(&self) -> u64 {
        self.routed.get()
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            events: self.delivered.get(),
            bytes: self.bytes.get(),
            slow_consumers: self.ended_by(End::SlowConsumer).get(),
        }
    }

    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("connections", "Streams open now", self.connections.clone());
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
            "events_shed",
            "Ephemeral events dropped because an outbox was full",
            self.shed.clone(),
        );
        registry.register(
            "stream_bytes",
            "Bytes of frames handed to connections",
            self.bytes.clone(),
        );
        registry.register(
            "sessions_ended",
            "Streams ended, by reason",
            self.ended.clone(),
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
        for source in ["memory", "log"] {
            self.replayed_from(source);
        }
        for outcome in Replay::OUTCOMES {
            self.resumed.get_or_create_owned(&Outcome { outcome });
        }
        for end in End::ALL {
            // Present from the start, so that a rate over the first one is right.
            self.ended_by(end);
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

    pub(super) fn ended(&self, end: End) {
        self.ended_by(end).inc();
    }

    fn ended_by(&self, end: End) -> Counter {
        let reason = end.as_str();
        self.ended.get_or_create_owned(&Reason { reason })
    }
}
