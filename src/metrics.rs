//! The metrics of all modules under one roof. Each module owns what it counts; this one only
//! brings them together, with what is only looked at when somebody asks.

mod process;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::auth::Revocations;
use crate::bus::Bus;
use crate::database::Database;
use crate::limits::Limits;
use crate::memory::Memory;
use crate::source::{notify, outbox};
use crate::{
    archive, authorize, bus, http, hub, inbox, ingest, membership, presence, reload, tls, trace,
};
use process::Process;

/// What every name begins with, but those of the process.
const PREFIX: &str = "notify";

/// All metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Of the bus.
    pub bus: bus::nats::Metrics,
    /// Of the ingest.
    pub ingest: ingest::Metrics,
    /// Of the hub.
    pub hub: hub::Metrics,
    /// Of the archive.
    pub archive: archive::Metrics,
    /// Of inboxes.
    pub inbox: inbox::Metrics,
    /// Of asking the backend.
    pub authorize: authorize::Metrics,
    /// Of the outbox.
    pub outbox: outbox::Metrics,
    /// Of listening on PostgreSQL.
    pub notify: notify::Metrics,
    /// Of presence.
    pub presence: presence::Metrics,
    /// Of TLS.
    pub tls: tls::Metrics,
    /// Of looking memberships up.
    pub membership: membership::Metrics,
    /// Of traces.
    pub trace: trace::Metrics,
    /// Of reading the configuration again.
    pub reload: reload::Metrics,
    /// Of the HTTP layer.
    pub http: http::Metrics,
    /// Of limits that are met.
    pub limits: Limits,
    /// Of memory.
    pub memory: Memory,
}

/// What is looked at when somebody asks.
#[derive(Debug)]
struct State {
    bus: Bus,
    database: Database,
}

impl Metrics {
    /// Everything under its public name.
    #[must_use]
    pub fn registry(&self, bus: Bus, database: Database, revocations: &Revocations) -> Registry {
        let mut root = Registry::default();
        root.register_collector(Box::new(Process::new()));
        let registry = root.sub_registry_with_prefix(PREFIX);
        registry.register(
            "build",
            "The version of the server",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_collector(Box::new(State { bus, database }));
        self.bus.register(registry);
        self.ingest.register(registry);
        self.hub.register(registry);
        self.archive.register(registry);
        self.inbox.register(registry);
        self.authorize.register(registry);
        self.membership.register(registry);
        self.outbox.register(registry);
        self.notify.register(registry);
        self.presence.register(registry);
        self.tls.register(registry);
        self.trace.register(registry);
        revocations.register(registry);
        self.reload.register(registry);
        self.http.register(registry);
        self.limits.register(registry);
        self.memory.register(registry);
        root
    }
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let pool = self.database.connections();
        let numbers = [
            (
                "bus_up",
                "Whether events arrive: 1 or 0",
                i64::from(self.bus.status().up),
            ),
            (
                "database_connections_used",
                "Connections of the pool that queries have",
                pool.used.into(),
            ),
            (
                "database_connections_idle",
                "Connections of the pool that wait for queries",
                pool.idle.into(),
            ),
            (
                "database_connections_max",
                "Connections that the pool may have",
                self.database.max_connections().into(),
            ),
        ];
        for (name, help, value) in numbers {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
