//! What following the log counts. Label values come from a closed list.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::bus::Loss;

/// Counters and gauges of the log.
#[derive(Debug, Clone, Default)]
pub struct LogMetrics {
    pub(super) up: Gauge,
    pub(super) position: Gauge<u64, AtomicU64>,
    pub(super) lag: Gauge<u64, AtomicU64>,
    pub(super) unlogged: Counter,
    pub(super) late: Counter,
    pub(super) duplicates: Counter,
    pub(super) filled: Counter,
    pub(super) failures: Counter,
    losses: Family<Reason, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl LogMetrics {
    /// Registers everything under its public name.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "log_up",
            "Whether the log answers and is followed",
            self.up.clone(),
        );
        registry.register(
            "log_position",
            "The last position of the log that was taken here",
            self.position.clone(),
        );
        registry.register(
            "log_lag",
            "Positions that the log was ahead of this instance when it was last asked",
            self.lag.clone(),
        );
        registry.register(
            "log_unlogged",
            "Messages delivered without an id because the log did not take them in time",
            self.unlogged.clone(),
        );
        registry.register(
            "log_late",
            "Messages that the log took after they were delivered without an id",
            self.late.clone(),
        );
        registry.register(
            "log_duplicates",
            "Messages dropped because the log had already taken one with the same Nats-Msg-Id",
            self.duplicates.clone(),
        );
        registry.register(
            "log_filled",
            "Messages that did not arrive and were read from the log",
            self.filled.clone(),
        );
        registry.register(
            "log_failures",
            "Requests to the log that failed",
            self.failures.clone(),
        );
        registry.register(
            "log_gaps",
            "Times that positions were lost or could no longer be trusted, by reason",
            self.losses.clone(),
        );
        for loss in [Loss::Recreated, Loss::Rewound, Loss::Expired] {
            self.losses_of(loss);
        }
    }

    pub(super) fn lost(&self, loss: Loss) {
        self.losses_of(loss).inc();
    }

    fn losses_of(&self, loss: Loss) -> Counter {
        let reason = match loss {
            Loss::Recreated => "recreated",
            Loss::Rewound => "rewound",
            Loss::Expired => "expired",
            Loss::Disconnected => "disconnected",
            Loss::Dropped => "dropped",
        };
        self.losses.get_or_create_owned(&Reason { reason })
    }
}
