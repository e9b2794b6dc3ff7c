//! The HTTP interface: the route table, and what handlers are given.
//!
//! A handler asks for the parts that it needs and gets nothing else. Status codes are made in
//! `error.rs` only.

mod bus;
mod channels;
mod config;
mod connections;
mod cors;
mod credentials;
mod development;
mod error;
mod events;
mod health;
mod messages;
mod metrics;
mod online;
mod outgoing;
mod pages;
mod poll;
mod probe;
mod rate;
mod receipts;
mod stream;

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::http::header::ALLOW;
use actix_web::web::{self, Data, ServiceConfig};

pub use config::ServerConfig;
pub use cors::cors;
pub use credentials::ClientCertificates;
pub use development::Development;
pub use error::ApiError;
pub use health::Health;
pub use metrics::{Exporter, Metrics};
pub use rate::PublishRate;

use crate::acknowledgements::Acknowledgements;
use crate::archive::Archive;
use crate::auth::Verifier;
use crate::authorize::Authorizer;
use crate::bus::Bus;
use crate::bus::subject::Pattern;
use crate::event::decode::Rules;
use crate::hub::{Hub, LocalHub};
use crate::inbox::Inbox;
use crate::members::Members;
use crate::membership::Membership;
use crate::peers::Peers;
use crate::presence::Presence;

/// The largest request body, in bytes: a payload of the default limit in its longest escaping.
const MAX_BODY: usize = 1024 * 1024;

/// The largest payload that can be published, in bytes, whatever events are configured to have.
fn max_body(rules: &Rules) -> usize {
    MAX_BODY.max(rules.max_payload)
}

/// Everything that handlers can ask for. Each part is a cheap handle.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Verifies tokens.
    pub verifier: Verifier,
    /// Looks chats up.
    pub membership: Membership,
    /// Looks the members of chats up.
    pub members: Members,
    /// Finds out about clients that come back.
    pub archive: Archive,
    /// Publishes.
    pub bus: Bus,
    /// Says what is an event.
    pub rules: Rules,
    /// The subjects that can be published on.
    pub patterns: Vec<Pattern>,
    /// Admits connections.
    pub hub: Hub,
    /// Knows who has acknowledged what.
    pub acknowledgements: Acknowledgements,
    /// Keeps what waits for users.
    pub inbox: Inbox,
    /// Asks the backend for permissions.
    pub authorizer: Authorizer,
    /// Knows the other instances.
    pub peers: Peers,
    /// Knows who is online.
    pub presence: Presence,
    /// Says how much may be published.
    pub rate: PublishRate,
    /// Counts what the HTTP layer does.
    pub metrics: Metrics,
    /// Writes all metrics out.
    pub exporter: Exporter,
    /// Says how the server is doing.
    pub health: Health,
    /// What takes a certificate of the client.
    pub client_certificates: ClientCertificates,
    /// Tokens and users for development; `None` outside development mode.
    pub development: Option<Development>,
}

/// Registers the routes and what they are given, for one thread.
pub fn configure(service: &mut ServiceConfig, parts: Parts, local: LocalHub) {
    service
        .app_data(Data::new(parts.verifier))
        .app_data(Data::new(parts.membership))
        .app_data(Data::new(parts.members))
        .app_data(Data::new(parts.archive))
        .app_data(Data::new(parts.bus))
        .app_data(web::PayloadConfig::new(max_body(&parts.rules)))
        .app_data(Data::new(parts.rules))
        .app_data(Data::new(parts.patterns))
        .app_data(Data::new(parts.hub))
        .app_data(Data::new(parts.acknowledgements))
        .app_data(Data::new(parts.inbox))
        .app_data(Data::new(parts.authorizer))
        .app_data(Data::new(parts.peers))
        .app_data(Data::new(parts.presence))
        .app_data(Data::new(parts.rate))
        .app_data(Data::new(parts.metrics))
        .app_data(Data::new(parts.exporter))
        .app_data(Data::new(parts.health))
        .app_data(Data::new(parts.client_certificates))
        .app_data(Data::new(parts.development))
        .app_data(Data::new(local))
        .app_data(web::QueryConfig::default().error_handler(error::query))
        .app_data(
            web::JsonConfig::default()
                .limit(MAX_BODY)
                .error_handler(error::json),
        )
        .service(readable_stream("/events", || web::get().to(events::stream)))
        .service(readable("/events/poll", || web::get().to(poll::poll)))
        .service(resource("/events/ticket", "POST, OPTIONS", |r| {
            r.route(web::post().to(poll::ticket))
        }))
        .service(readable_stream("/sse/stream/{channels:.*}", || {
            web::get().to(channels::stream)
        }))
        .service(readable_stream("/sse/user/{id}", || {
            web::get().to(channels::user)
        }))
        .service(readable_stream("/sse/service/{name}", || {
            web::get().to(channels::service)
        }))
        .service(resource("/api/v1/bus/{subject}", "POST, OPTIONS", |r| {
            r.route(web::post().to(bus::publish))
        }))
        .service(resource("/api/v1/messages/send", "POST, OPTIONS", |r| {
            r.route(web::post().to(messages::send))
        }))
        .service(resource(
            "/api/v1/messages/broadcast",
            "POST, OPTIONS",
            |r| r.route(web::post().to(messages::broadcast)),
        ))
        .service(resource("/api/v1/messages/batch", "POST, OPTIONS", |r| {
            r.app_data(web::PayloadConfig::new(messages::MAX_BATCH_BODY))
                .route(web::post().to(messages::batch))
        }))
        .service(resource(
            "/api/v1/messages/{id}/ack",
            "POST, OPTIONS",
            |r| r.route(web::post().to(receipts::acknowledge)),
        ))
        .service(readable("/api/v1/messages/{id}/receipts", || {
            web::get().to(receipts::list)
        }))
        .service(readable("/online-users", || web::get().to(online::list)))
        .service(resource(
            "/api/v1/connections",
            "GET, DELETE, OPTIONS",
            |r| {
                r.route(web::get().to(connections::list))
                    .route(web::delete().to(connections::end_user))
            },
        ))
        .service(readable("/api/v1/connections/stats", || {
            web::get().to(connections::stats)
        }))
        .service(resource(
            "/api/v1/connections/{id}",
            "DELETE, OPTIONS",
            |r| r.route(web::delete().to(connections::end)),
        ))
        .service(readable("/api/v1/channels", || {
            web::get().to(connections::active)
        }))
        .service(readable("/api/v1/channels/{channel}", || {
            web::get().to(connections::listeners)
        }))
        .service(readable("/api/sse/test", || web::get().to(probe::test)))
        .service(readable("/api/sse/stats", || {
            web::get().to(connections::sse_stats)
        }))
        .service(resource("/api/dev/users", "GET, OPTIONS", |r| {
            r.route(web::get().to(development::users))
        }))
        .service(resource("/api/dev/token", "POST, OPTIONS", |r| {
            r.route(web::post().to(development::token))
        }))
        .service(readable("/live", || web::get().to(health::live)))
        .service(readable("/ready", || web::get().to(health::ready)))
        .service(readable("/health", || web::get().to(health::health)))
        .service(readable("/metrics", || web::get().to(metrics::metrics)))
        .service(readable("/", || web::get().to(pages::index)))
        .service(readable("/assets/{name}", || web::get().to(pages::asset)))
        .default_service(web::to(error::not_found));
}

/// A resource that answers `OPTIONS` with what it allows, and other methods with 405.
fn resource(
    path: &str,
    allow: &'static str,
    routes: impl FnOnce(actix_web::Resource) -> actix_web::Resource,
) -> actix_web::Resource {
    routes(web::resource(path))
        .route(web::method(Method::OPTIONS).to(move || async move {
            HttpResponse::NoContent()
                .insert_header((ALLOW, allow))
                .finish()
        }))
        .default_service(web::to(move || async move {
            Err::<HttpResponse, _>(ApiError::MethodNotAllowed(allow))
        }))
}

/// A stream, for which a `HEAD` request only says whether the token is good.
fn readable_stream(path: &str, get: impl Fn() -> actix_web::Route) -> actix_web::Resource {
    resource(path, "GET, HEAD, OPTIONS", |r| {
        r.route(get()).route(web::head().to(events::head))
    })
}

/// A resource that is only read: the HTTP layer leaves the body of a `HEAD` answer out.
fn readable(path: &str, get: impl Fn() -> actix_web::Route) -> actix_web::Resource {
    resource(path, "GET, HEAD, OPTIONS", |r| {
        r.route(get()).route(get().method(Method::HEAD))
    })
}
