//! What is counted when the configuration is read again.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::event::Timestamp;

/// What is counted.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    reloads: Family<Outcome, Counter>,
    successful: Gauge,
    success_at: Gauge,
    restart_needed: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

impl Metrics {
    /// Registers the metrics under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "config_reloads",
            "Times that the configuration was read again, by what came of it",
            self.reloads.clone(),
        );
        registry.register(
            "config_last_reload_successful",
            "Whether the configuration that was read last can be used: 1 or 0",
            self.successful.clone(),
        );
        registry.register(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read, in seconds since 1970",
            self.success_at.clone(),
        );
        registry.register(
            "config_restart_needed",
            "Keys that differ from what the server was started with, and count from the next start on",
            self.restart_needed.clone(),
        );
        for result in ["applied", "unchanged", "refused"] {
            self.count(result);
        }
    }

    /// The configuration of the start is in force.
    pub(super) fn started(&self, now: Timestamp) {
        self.successful.set(1);
        self.success_at.set(seconds(now));
    }

    /// Another one is, with so many keys changed and so many that need a restart.
    pub(super) fn done(&self, now: Timestamp, changed: usize, restart_needed: usize) {
        let result = if changed > 0 { "applied" } else { "unchanged" };
        self.count(result).inc();
        self.successful.set(1);
        self.success_at.set(seconds(now));
        let keys = i64::try_from(restart_needed).unwrap_or(i64::MAX);
        self.restart_needed.set(keys);
    }

    /// One can't be used.
    pub(super) fn refused(&self) {
        self.count("refused").inc();
        self.successful.set(0);
    }

    fn count(&self, result: &'static str) -> Counter {
        self.reloads.get_or_create_owned(&Outcome { result })
    }
}

fn seconds(at: Timestamp) -> i64 {
    i64::try_from(at.as_millis() / 1000).unwrap_or(i64::MAX)
}
