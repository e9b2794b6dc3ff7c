//! The description of the HTTP interface, OpenAPI 3.1, made from the handlers' attributes and from the very
//! types that they read and write.
//!
//! To add an endpoint: give its handler `#[utoipa::path(…)]`, list it under `paths(…)` below, and its route in
//! `routes.rs`. A test compares the two.

mod message;
mod refusals;
mod security;
mod stream;

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::header::CACHE_CONTROL;
use bytes::Bytes;
use utoipa::OpenApi;

pub(super) use message::{Batch, Broadcast, Message, Payload};
pub(super) use refusals::{
    ForBody, ForConflict, ForDevelopment, ForRate, ForTables, ForToken, ForUnknown,
};
pub(super) use stream::{StreamEvent, Streaming};

use refusals::Shared;
use security::Schemes;

use super::{
    bus, channels, connections, development, events, explain, health, history, messages, metrics,
};
use super::{online, pages, poll, probe, receipts, rejections, reload, revocations, stats};

/// What is true of all endpoints.
const ABOUT: &str = "\
Pushes events to browsers over Server-Sent Events.

**Tokens** come as `Authorization: Bearer …`, as `?access_token=…`, or, for reading, as the cookie \
`access_token`. Where a server runs without authentication, `?user_id=…` says who asks instead. \
Where it asks for certificates of clients, publishing and administration take one besides.

**Errors** are `application/problem+json` (RFC 9457). `field` is the parameter or the path in the body that is \
wrong, `request_id` is what the server's log has it under.

**Methods**: what answers `GET` answers `HEAD`; on streams and polls that only says whether the token is good. `OPTIONS` \
is answered with `Allow`, and any other method with 405 and the same header.

**Events**: what streams carry, and what is published on NATS, is described in [/asyncapi.yaml](/asyncapi.yaml).";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "notify-server",
        description = ABOUT,
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    servers((url = "/", description = "The server that this document comes from")),
    tags(
        (name = "Streams", description = "Events as they happen, and what was missed."),
        (name = "Publishing", description = "Sending messages, answered when the log has them."),
        (name = "Messages", description = "Messages that are kept in the database, and their history."),
        (name = "Acknowledgements", description = "Who has dealt with which message."),
        (name = "Connections", description = "Who is online, and who is connected to what, on all instances; all but `/online-users` and `/api/sse/stats` take the claim `notify.admin`."),
        (name = "Operations", description = "How the server is doing."),
        (name = "Pages", description = "Pages and documents that the server carries."),
        (name = "Development", description = "Only in development mode, and only for pages of this server."),
    ),
    paths(
        events::stream,
        poll::poll,
        poll::ticket,
        channels::stream,
        channels::user,
        channels::session,
        channels::messages,
        channels::service,
        probe::test,
        stats::sse_stats,
        messages::send,
        messages::broadcast,
        messages::batch,
        history::write,
        history::read,
        bus::publish,
        receipts::acknowledge,
        receipts::list,
        online::list,
        connections::list,
        connections::end_user,
        stats::stats,
        connections::end,
        revocations::revoke,
        revocations::list,
        revocations::lift,
        connections::active,
        connections::listeners,
        rejections::list,
        explain::explain,
        reload::reload,
        health::live,
        health::ready,
        health::health,
        metrics::metrics,
        pages::index,
        pages::sse_demo,
        pages::diagnostic,
        pages::admin,
        pages::docs,
        pages::asset,
        pages::asyncapi,
        document,
        development::users,
        development::token,
    ),
    components(schemas(StreamEvent)),
    modifiers(&Shared, &Schemes),
)]
struct Api;

/// Made once, at the first request for it.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    // A tree of plain structs always serializes.
    Bytes::from(serde_json::to_vec(&Api::openapi()).unwrap_or_default())
});

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = "Pages",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value, content_type = "application/json")),
)]
pub(super) async fn document() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header((CACHE_CONTROL, "no-cache"))
        .body(DOCUMENT.clone())
}

#[cfg(test)]
mod tests;
