//! The metrics of all modules under one roof. Each module owns what it counts; this one only
//! brings them together.

use prometheus_client::registry::Registry;

use crate::source::{notify, outbox};
use crate::{archive, authorize, bus, http, hub, inbox, ingest, presence, tls};

/// What every name begins with.
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
    /// Of the HTTP layer.
    pub http: http::Metrics,
}

impl Metrics {
    /// Everything under its public name.
    #[must_use]
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        self.bus.register(&mut registry);
        self.ingest.register(&mut registry);
        self.hub.register(&mut registry);
        self.archive.register(&mut registry);
        self.inbox.register(&mut registry);
        self.authorize.register(&mut registry);
        self.outbox.register(&mut registry);
        self.notify.register(&mut registry);
        self.presence.register(&mut registry);
        self.tls.register(&mut registry);
        self.http.register(&mut registry);
        registry
    }
}
