//! What presence counts. Label values come from closed lists.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why a transition was told to nobody, or not to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Untold {
    /// The user's chats could not be looked up.
    Lookup,
    /// A chat has too many listeners.
    Crowd,
}

/// What presence counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    users: Gauge,
    events: Family<Status, Counter>,
    untold: Family<Reason, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Metrics {
    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "presence_users",
            "Users online on any instance",
            self.users.clone(),
        );
        registry.register(
            "presence_events",
            "Users that this instance's sessions were told about, by what was told",
            self.events.clone(),
        );
        registry.register(
            "presence_untold",
            "Users that not all sessions here who share a chat were told about, by reason",
            self.untold.clone(),
        );
        for status in ["online", "offline"] {
            self.events.get_or_create_owned(&Status { status });
        }
        for untold in [Untold::Lookup, Untold::Crowd] {
            self.untold_for(untold);
        }
    }

    pub(super) fn users(&self, users: usize) {
        self.users.set(i64::try_from(users).unwrap_or(i64::MAX));
    }

    pub(super) fn told(&self, status: &'static str) {
        self.events.get_or_create_owned(&Status { status }).inc();
    }

    pub(super) fn untold(&self, untold: Untold) {
        self.untold_for(untold).inc();
    }

    fn untold_for(&self, untold: Untold) -> Counter {
        let reason = match untold {
            Untold::Lookup => "lookup",
            Untold::Crowd => "crowd",
        };
        self.untold.get_or_create_owned(&Reason { reason })
    }
}
