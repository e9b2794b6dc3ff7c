//! The metrics of all modules under one roof. Each module owns what it counts; this one only
//! brings them together and writes them out.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::{bus, http, hub, ingest};

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
    /// Of the HTTP layer.
    pub http: http::Metrics,
}

/// Writes all metrics out. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Exporter(Arc<Registry>);

impl Metrics {
    /// Everything registered under its public name.
    #[must_use]
    pub fn exporter(&self) -> Exporter {
        let mut registry = Registry::with_prefix(PREFIX);
        self.bus.register(&mut registry);
        self.ingest.register(&mut registry);
        self.hub.register(&mut registry);
        self.http.register(&mut registry);
        Exporter(Arc::new(registry))
    }
}

impl Exporter {
    /// The metrics in OpenMetrics text.
    ///
    /// # Errors
    /// A collector failed to write itself.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0)?;
        Ok(text)
    }
}
