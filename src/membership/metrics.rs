//! What looking memberships up counts. Label values come from a closed list.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::trial::Signs;
use crate::database::DatabaseError;
use crate::event::Id;
use crate::histogram::Histogram;

/// What is counted of look-ups.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    lookups: Family<Outcome, Counter>,
    latency: Histogram,
    pub(super) signs: Signs,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Metrics {
    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "membership_lookups",
            "Times that the chats of a user, or the members of a chat, were looked up, by outcome",
            self.lookups.clone(),
        );
        registry.register(
            "membership_lookup_seconds",
            "How long looking memberships up took, the wait for a connection included",
            self.latency.clone(),
        );
        registry.register(
            "membership_query_refused",
            "Whether the query for a user's chats can't work on this database",
            self.signs.refused.clone(),
        );
        registry.register(
            "database_up",
            "Whether the database answers",
            self.signs.answers.clone(),
        );
        for outcome in ["ok", "timeout", "busy", "failed"] {
            self.outcome(outcome);
        }
    }

    pub(super) fn count(&self, result: &Result<Vec<Id>, DatabaseError>, took: Duration) {
        let outcome = match result {
            Ok(_) => "ok",
            Err(DatabaseError::Timeout(_)) => "timeout",
            Err(DatabaseError::Busy) => "busy",
            Err(_) => "failed",
        };
        self.outcome(outcome).inc();
        self.latency.observe(took);
    }

    fn outcome(&self, outcome: &'static str) -> Counter {
        self.lookups.get_or_create_owned(&Outcome { outcome })
    }
}
