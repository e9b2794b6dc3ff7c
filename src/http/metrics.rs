//! What the HTTP layer counts, and the endpoint for all metrics.

use std::path::PathBuf;
use std::sync::Arc;

use actix_web::http::header::{ACCEPT, AUTHORIZATION, HeaderName};
use actix_web::web::{Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, web};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

use super::error::{self, ApiError};
use super::exposition::{OPEN_METRICS, PLAIN, plain};
use super::openapi::ForUnknown;
use super::routes;
use crate::auth::TokenError;
use crate::secret::Secret;

/// The `metrics` section of the configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// A port of their own, on the server's address; without one they are at `/metrics` of the
    /// server's port. 0 for a free one.
    pub port: Option<u16>,
    /// What scrapers have to send as bearer token; nothing where it is not set.
    pub token: Option<Secret>,
    /// A file with that token; white space around it is ignored.
    pub token_file: Option<PathBuf>,
}

/// What the HTTP layer counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    refused: Family<Cause, Counter>,
    published: Family<Outcome, Counter>,
}

/// Writes all metrics out. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Exporter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    token: RwLock<Option<Secret>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl MetricsConfig {
    /// The token that scrapers have to send.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn token(&self) -> std::io::Result<Option<Secret>> {
        let Some(file) = &self.token_file else {
            return Ok(self.token.clone());
        };
        let text = std::fs::read_to_string(file)?;
        Ok(Some(Secret::new(text.trim())))
    }
}

impl Metrics {
    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "auth_failures",
            "Requests without an acceptable token, by cause",
            self.refused.clone(),
        );
        registry.register(
            "http_published",
            "Messages that came over HTTP to be published, by outcome",
            self.published.clone(),
        );
        for cause in TokenError::CAUSES {
            self.refused.get_or_create_owned(&Cause { cause });
        }
        for outcome in ["taken", "refused", "failed"] {
            self.published.get_or_create_owned(&Outcome { outcome });
        }
    }

    pub(super) fn refused(&self, error: &TokenError) {
        let cause = error.cause();
        self.refused.get_or_create_owned(&Cause { cause }).inc();
    }

    /// Somebody's message was taken, or was not.
    pub(super) fn published<T>(&self, result: &Result<T, ApiError>) {
        let outcome = match result {
            Ok(_) => "taken",
            Err(error) if error.status().is_server_error() => "failed",
            Err(_) => "refused",
        };
        self.published
            .get_or_create_owned(&Outcome { outcome })
            .inc();
    }
}

impl Exporter {
    /// Writes out what is registered, for whoever sends the token, if there is one.
    #[must_use]
    pub fn new(registry: Registry, token: Option<Secret>) -> Self {
        let token = RwLock::new(token);
        Self(Arc::new(Inner { registry, token }))
    }

    /// Another token from now on, or none; `false` if it is the one that it was.
    pub fn set_token(&self, token: Option<Secret>) -> bool {
        let before = std::mem::replace(&mut *self.0.token.write(), token);
        before != *self.0.token.read()
    }

    fn admits(&self, request: &HttpRequest) -> bool {
        let token = self.0.token.read();
        let Some(token) = &*token else {
            return true;
        };
        let given = header(request, AUTHORIZATION).split_once(' ');
        given.is_some_and(|(scheme, given)| {
            let same = verify_slices_are_equal(given.trim().as_bytes(), token.expose().as_bytes());
            scheme.eq_ignore_ascii_case("bearer") && same.is_ok()
        })
    }
}

/// Registers what a port of the metrics' own has.
pub fn configure_metrics(service: &mut ServiceConfig, exporter: Exporter) {
    let route = routes::readable("/metrics", || web::to(metrics));
    service
        .app_data(Data::new(Some(exporter)))
        .service(route.resource)
        .default_service(web::to(error::not_found));
}

/// Metrics for Prometheus
///
/// In the text format of Prometheus, or as OpenMetrics where `Accept` asks for that. Takes the token of `metrics.token`,
/// where one is configured, and no other: without it the answer is 401. Not here where they have a port of their own.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "Operations",
    responses(
        (status = 200, description = "All metrics", content(
            (String = "text/plain", example = json!("# TYPE notify_connections gauge\nnotify_connections{transport=\"sse\"} 2\n")),
            (String = "application/openmetrics-text", example = json!("# TYPE notify_connections gauge\nnotify_connections{transport=\"sse\"} 2\n# EOF\n")),
        )),
        ForUnknown,
    ),
)]
pub(super) async fn metrics(
    request: HttpRequest,
    exporter: Data<Option<Exporter>>,
) -> Result<HttpResponse, ApiError> {
    let Some(exporter) = exporter.get_ref() else {
        return Err(ApiError::NotFound);
    };
    if !exporter.admits(&request) {
        return Err(ApiError::Scrape);
    }
    let mut text = String::new();
    encode(&mut text, &exporter.0.registry).map_err(|error| ApiError::Internal(error.into()))?;
    let mut response = HttpResponse::Ok();
    Ok(
        if header(&request, ACCEPT).contains("application/openmetrics-text") {
            response.content_type(OPEN_METRICS).body(text)
        } else {
            response.content_type(PLAIN).body(plain(&text))
        },
    )
}

fn header(request: &HttpRequest, name: HeaderName) -> &str {
    let value = request.headers().get(name);
    value.and_then(|value| value.to_str().ok()).unwrap_or("")
}
