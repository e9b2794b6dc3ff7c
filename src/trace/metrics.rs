//! What is counted of traces.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What is counted of traces.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    exported: Counter,
    dropped: Family<Reason, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Why a span was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drop {
    /// Too many waited already.
    Queue,
    /// The collector was not there, or said that it can't take any now, for too long.
    Unreachable,
    /// The collector does not want it.
    Refused,
}

impl Drop {
    const ALL: [Self; 3] = [Self::Queue, Self::Unreachable, Self::Refused];

    fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
        }
    }
}

impl Metrics {
    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "trace_spans_exported",
            "Spans that the collector has taken",
            self.exported.clone(),
        );
        registry.register(
            "trace_spans_dropped",
            "Spans that were not sent, by reason",
            self.dropped.clone(),
        );
        for reason in Drop::ALL {
            self.dropped(reason, 0);
        }
    }

    pub(super) fn exported(&self, spans: usize) {
        self.exported.inc_by(spans as u64);
    }

    pub(super) fn dropped(&self, reason: Drop, spans: usize) {
        let reason = Reason {
            reason: reason.as_str(),
        };
        self.dropped
            .get_or_create_owned(&reason)
            .inc_by(spans as u64);
    }
}
