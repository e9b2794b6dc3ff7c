//! What the outbox counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What the outbox counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(super) published: Counter,
    pub(super) dead: Counter,
    pub(super) leading: Gauge,
    pub(super) lag: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "outbox_published",
            "Rows of the outbox that this instance has put into the log",
            self.published.clone(),
        );
        registry.register(
            "outbox_dead",
            "Rows of the outbox that could not be published and were put aside",
            self.dead.clone(),
        );
        registry.register(
            "outbox_leading",
            "Whether this instance is the one that publishes the outbox",
            self.leading.clone(),
        );
        registry.register(
            "outbox_lag_seconds",
            "How long the oldest row of the outbox had waited when this instance, which publishes it, looked last",
            self.lag.clone(),
        );
    }
}
