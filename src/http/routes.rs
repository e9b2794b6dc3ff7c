//! The route table: every address, the methods that it takes, and who answers.
//!
//! Each has its description in `openapi`; a test compares the two.

use actix_web::http::Method;
use actix_web::http::header::ALLOW;
use actix_web::web;
use actix_web::{HttpResponse, Resource};

use super::error::ApiError;
use super::{
    bus, channels, connections, development, events, explain, health, history, messages, metrics,
};
use super::{
    online, openapi, pages, poll, probe, receipts, rejections, reload, revocations, stats,
};

/// An address.
pub(super) struct Route {
    /// With parameters in braces, as the router takes it.
    #[cfg(test)]
    pub(super) path: &'static str,
    /// The methods, as the `Allow` header has them.
    #[cfg(test)]
    pub(super) allow: &'static str,
    /// Who answers.
    pub(super) resource: Resource,
}

/// All addresses, in the order in which they are tried.
pub(super) fn table() -> Vec<Route> {
    vec![
        readable_stream("/events", || web::to(events::stream)),
        resource("/events/poll", "GET, HEAD, OPTIONS", |r| {
            r.route(web::get().to(poll::poll))
                .route(web::head().to(poll::head))
        }),
        resource("/events/ticket", "POST, OPTIONS", |r| {
            r.route(web::post().to(poll::ticket))
        }),
        readable_stream("/sse/stream/{channels:.*}", || web::to(channels::stream)),
        readable_stream("/sse/user/{id}", || web::to(channels::user)),
        readable_stream("/sse/session/{id}", || web::to(channels::session)),
        readable_stream("/sse/service/{name}", || web::to(channels::service)),
        resource("/api/v1/bus/{subject}", "POST, OPTIONS", |r| {
            r.route(web::post().to(bus::publish))
        }),
        resource("/api/v1/messages/send", "POST, OPTIONS", |r| {
            r.route(web::post().to(messages::send))
        }),
        resource("/api/v1/messages/broadcast", "POST, OPTIONS", |r| {
            r.route(web::post().to(messages::broadcast))
        }),
        resource("/api/v1/messages/batch", "POST, OPTIONS", |r| {
            r.app_data(web::PayloadConfig::new(messages::MAX_BATCH_BODY))
                .route(web::post().to(messages::batch))
        }),
        resource("/api/v1/messages/{id}/ack", "POST, OPTIONS", |r| {
            r.route(web::post().to(receipts::acknowledge))
        }),
        readable("/api/v1/messages/{id}/receipts", || web::to(receipts::list)),
        readable("/online-users", || web::to(online::list)),
        resource("/api/v1/connections", "GET, HEAD, DELETE, OPTIONS", |r| {
            r.route(web::get().to(connections::list))
                .route(web::head().to(connections::list))
                .route(web::delete().to(connections::end_user))
        }),
        readable("/api/v1/connections/stats", || web::to(stats::stats)),
        resource("/api/v1/connections/{id}", "DELETE, OPTIONS", |r| {
            r.route(web::delete().to(connections::end))
        }),
        resource("/api/v1/reload", "POST, OPTIONS", |r| {
            r.route(web::post().to(reload::reload))
        }),
        resource("/api/v1/revocations", "GET, HEAD, POST, OPTIONS", |r| {
            r.route(web::get().to(revocations::list))
                .route(web::head().to(revocations::list))
                .route(web::post().to(revocations::revoke))
        }),
        resource("/api/v1/revocations/{id}", "DELETE, OPTIONS", |r| {
            r.route(web::delete().to(revocations::lift))
        }),
        readable("/api/v1/channels", || web::to(connections::active)),
        readable("/api/v1/channels/{channel}", || {
            web::to(connections::listeners)
        }),
        resource("/api/messages", "GET, HEAD, POST, OPTIONS", |r| {
            r.route(web::post().to(history::write))
                .route(web::get().to(history::read))
                .route(web::head().to(history::read))
        }),
        readable_stream("/api/sse/messages", || web::to(channels::messages)),
        readable("/api/v1/rejections", || web::to(rejections::list)),
        readable("/api/v1/explain", || web::to(explain::explain)),
        readable("/api/sse/test", || web::to(probe::test)),
        readable("/api/sse/stats", || web::to(stats::sse_stats)),
        readable("/api/dev/users", || web::to(development::users)),
        resource("/api/dev/token", "POST, OPTIONS", |r| {
            r.route(web::post().to(development::token))
        }),
        readable("/live", || web::to(health::live)),
        readable("/ready", || web::to(health::ready)),
        readable("/health", || web::to(health::health)),
        readable("/metrics", || web::to(metrics::metrics)),
        readable("/", || web::to(pages::index)),
        readable("/sse-demo", || web::to(pages::sse_demo)),
        readable("/diagnostic", || web::to(pages::diagnostic)),
        readable("/admin", || web::to(pages::admin)),
        readable("/assets/{name}", || web::to(pages::asset)),
        readable("/openapi.json", || web::to(openapi::document)),
        readable("/asyncapi.yaml", || web::to(pages::asyncapi)),
        readable("/docs", || web::to(pages::docs)),
    ]
}

/// A resource that answers `OPTIONS` with what it allows, and other methods with 405.
fn resource(
    path: &'static str,
    allow: &'static str,
    routes: impl FnOnce(Resource) -> Resource,
) -> Route {
    let resource = routes(web::resource(path))
        .route(web::method(Method::OPTIONS).to(move || async move {
            HttpResponse::NoContent()
                .insert_header((ALLOW, allow))
                .finish()
        }))
        .default_service(web::to(move || async move {
            Err::<HttpResponse, _>(ApiError::MethodNotAllowed(allow))
        }));
    Route {
        #[cfg(test)]
        path,
        #[cfg(test)]
        allow,
        resource,
    }
}

/// A stream, for which a `HEAD` request only says whether the token is good.
fn readable_stream(path: &'static str, get: impl Fn() -> actix_web::Route) -> Route {
    resource(path, "GET, HEAD, OPTIONS", |r| {
        r.route(get().method(Method::GET))
            .route(web::head().to(events::head))
    })
}

/// A resource that is only read: the HTTP layer leaves the body of a `HEAD` answer out. The route is one for any
/// method.
pub(super) fn readable(path: &'static str, get: impl Fn() -> actix_web::Route) -> Route {
    resource(path, "GET, HEAD, OPTIONS", |r| {
        r.route(get().method(Method::GET))
            .route(get().method(Method::HEAD))
    })
}
