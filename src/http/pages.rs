//! The pages that the binary carries.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use actix_web::http::header::{X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use actix_web::web::Path;

use super::error::ApiError;

/// Nothing from anywhere else, nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const INDEX: &str = include_str!("../../web/index.html");

/// Name, media type and content.
/// The media type of scripts.
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Name, media type and content.
const ASSETS: [(&str, &str, &str); 5] = [
    ("app.js", SCRIPT, include_str!("../../web/app.js")),
    ("stream.js", SCRIPT, include_str!("../../web/stream.js")),
    ("view.js", SCRIPT, include_str!("../../web/view.js")),
    (
        "style.css",
        "text/css; charset=utf-8",
        include_str!("../../web/style.css"),
    ),
    (
        "icon.svg",
        "image/svg+xml",
        include_str!("../../web/icon.svg"),
    ),
];

/// `GET /`
pub(super) async fn index() -> HttpResponse {
    page("text/html; charset=utf-8", INDEX)
}

/// `GET /assets/{name}`
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
