//! What the HTTP layer counts, and the endpoint for all metrics.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::web::Data;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::error::ApiError;
use crate::auth::TokenError;

/// The media type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the HTTP layer counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    refused: Family<Cause, Counter>,
}

/// Writes all metrics out. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Exporter(Arc<Registry>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

impl Metrics {
    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "auth_failures",
            "Requests without an acceptable token, by cause",
            self.refused.clone(),
        );
    }

    pub(super) fn refused(&self, error: &TokenError) {
        let cause = error.cause();
        self.refused.get_or_create_owned(&Cause { cause }).inc();
    }
}

impl Exporter {
    /// Writes out what is registered.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self(Arc::new(registry))
    }
}

/// Metrics for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "Operations",
    responses((status = 200, description = "OpenMetrics text", body = String, content_type = OPEN_METRICS,
        example = json!("# TYPE notify_connections gauge\nnotify_connections 2\n# EOF\n"))),
)]
pub(super) async fn metrics(exporter: Data<Exporter>) -> Result<HttpResponse, ApiError> {
    let mut text = String::new();
    encode(&mut text, &exporter.0).map_err(|error| ApiError::Internal(error.into()))?;
    Ok(HttpResponse::Ok().content_type(OPEN_METRICS).body(text))
}
