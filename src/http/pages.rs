//! The pages that the binary carries.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use actix_web::http::header::{X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use actix_web::web::Path;

use super::error::ApiError;
use super::openapi::ForUnknown;

/// Nothing from anywhere else, nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const INDEX: &str = include_str!("../../web/index.html");

const DOCS: &str = include_str!("../../web/docs.html");

/// What streams carry, and what is published on NATS.
const ASYNCAPI: &str = include_str!("../../docs/asyncapi.yaml");

const PAGE: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Name, media type and content.
const ASSETS: [(&str, &str, &str); 8] = [
    ("app.js", SCRIPT, include_str!("../../web/app.js")),
    ("stream.js", SCRIPT, include_str!("../../web/stream.js")),
    ("view.js", SCRIPT, include_str!("../../web/view.js")),
    ("style.css", STYLE, include_str!("../../web/style.css")),
    ("docs.js", SCRIPT, include_str!("../../web/docs.js")),
    ("markdown.js", SCRIPT, include_str!("../../web/markdown.js")),
    ("docs.css", STYLE, include_str!("../../web/docs.css")),
    (
        "icon.svg",
        "image/svg+xml",
        include_str!("../../web/icon.svg"),
    ),
];

/// The demo page
#[utoipa::path(
    get,
    path = "/",
    operation_id = "index",
    tag = "Pages",
    responses((status = 200, description = "A page that shows a user's stream", body = String, content_type = "text/html")),
)]
pub(super) async fn index() -> HttpResponse {
    page(PAGE, INDEX)
}

/// The page that shows this document
#[utoipa::path(
    get,
    path = "/docs",
    operation_id = "docs",
    tag = "Pages",
    responses((status = 200, description = "This document, to read", body = String, content_type = "text/html")),
)]
pub(super) async fn docs() -> HttpResponse {
    page(PAGE, DOCS)
}

/// What streams carry
///
/// And what is published on NATS: AsyncAPI 3.0.
#[utoipa::path(
    get,
    path = "/asyncapi.yaml",
    operation_id = "asyncapi",
    tag = "Pages",
    responses((status = 200, description = "AsyncAPI 3.0", body = serde_json::Map<String, serde_json::Value>, content_type = "application/yaml")),
)]
pub(super) async fn asyncapi() -> HttpResponse {
    page("application/yaml", ASYNCAPI)
}

/// What the pages are made of
#[utoipa::path(
    get,
    path = "/assets/{name}",
    operation_id = "asset",
    tag = "Pages",
    params(("name" = String, Path, description = "A file", example = "style.css")),
    responses(
        (status = 200, description = "The file", content(
            (String = "text/css"),
            (String = "text/javascript"),
            (String = "image/svg+xml"),
        )),
        ForUnknown,
    ),
)]
pub(super) async fn asset(name: Path<String>) -> Result<HttpResponse, ApiError> {
    let found = ASSETS.iter().find(|(asset, ..)| *asset == name.as_str());
    let (_, media_type, content) = found.ok_or(ApiError::NotFound)?;
    Ok(page(media_type, content))
}

fn page(media_type: &str, content: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(media_type)
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        // A token in the address must not travel to a linked page.
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((X_FRAME_OPTIONS, "DENY"))
        .body(content)
}
