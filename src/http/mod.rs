//! The HTTP interface, and what handlers are given.
//!
//! A handler asks for the parts that it needs and gets nothing else. Status codes are made in
//! `error.rs` only.

mod bad_tokens;
mod bus;
mod channels;
mod config;
mod connections;
mod cors;
mod credentials;
mod desk;
mod development;
mod error;
mod events;
mod explain;
mod exposition;
mod gate;
mod health;
mod history;
mod intake;
mod messages;
mod metrics;
mod online;
mod openapi;
mod outgoing;
mod pages;
mod poll;
mod probe;
mod rate;
mod receipts;
mod rejections;
mod reload;
mod revocations;
mod routes;
mod stats;
mod stream;
mod trace;

use actix_web::web::{self, Data, ServiceConfig};

pub use bad_tokens::BadTokens;
pub use config::ServerConfig;
pub use cors::Origins;
pub use credentials::ClientCertificates;
pub use development::Development;
pub use error::ApiError;
pub use gate::{Answer, Gate, HeadLimits};
pub use health::{Configuration, Health};
pub use intake::intake;
pub use metrics::{Exporter, Metrics, MetricsConfig, configure_metrics};
pub use pages::Pages;
pub use rate::PublishRate;
pub use reload::{Asked, Reloaded, Reloads};
pub use trace::{begin_span, end_span};

#[cfg(fuzzing)]
#[doc(hidden)]
pub use outgoing::fuzz;

use crate::acknowledgements::Acknowledgements;
use crate::address::Proxies;
use crate::archive::Archive;
use crate::auth::Verifier;
use crate::authorize::Authorizer;
use crate::bus::Bus;
use crate::bus::subject::Pattern;
use crate::event::decode::Rules;
use crate::explain::Explainer;
use crate::hub::{Hub, LocalHub};
use crate::inbox::Inbox;
use crate::members::Members;
use crate::membership::Membership;
use crate::messages::Messages;
use crate::peers::Peers;
use crate::presence::Presence;
use crate::rejections::Rejections;
use crate::revocation::Revoker;
use crate::source::notify::Notifications;
use crate::source::outbox::Wake;
use crate::trace::Tracer;

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
    /// Writes and reads messages that are kept.
    pub messages: Messages,
    /// Listens for notifications of PostgreSQL that streams need.
    pub notifications: Notifications,
    /// Says that the outbox has rows.
    pub wake: Wake,
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
    /// Traces requests.
    pub tracer: Tracer,
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
    /// Says why somebody did or did not get an event.
    pub explainer: Explainer,
    /// Knows what was no event.
    pub rejections: Rejections,
    /// Knows from where requests come.
    pub proxies: Proxies,
    /// Counts bad tokens.
    pub bad_tokens: BadTokens,
    /// Revokes tokens.
    pub revoker: Revoker,
    /// Reads the configuration again.
    pub reloads: Reloads,
    /// Says how much may be published.
    pub rate: PublishRate,
    /// Counts what the HTTP layer does.
    pub metrics: Metrics,
    /// Writes all metrics out, unless a port of their own does.
    pub exporter: Option<Exporter>,
    /// The pages, and whether they are served.
    pub pages: Pages,
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
        .app_data(Data::new(parts.messages))
        .app_data(Data::new(parts.notifications))
        .app_data(Data::new(parts.wake))
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
        .app_data(Data::new(parts.explainer))
        .app_data(Data::new(parts.rejections))
        .app_data(Data::new(parts.proxies))
        .app_data(Data::new(parts.bad_tokens))
        .app_data(Data::new(parts.revoker))
        .app_data(Data::new(parts.reloads))
        .app_data(Data::new(parts.rate))
        .app_data(Data::new(parts.pages))
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
        .default_service(web::to(error::not_found));
    for route in routes::table() {
        service.service(route.resource);
    }
}
