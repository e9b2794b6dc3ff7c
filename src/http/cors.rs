//! Which pages of other origins may read from this server.

use actix_cors::Cors;
use actix_web::http::Method;
use actix_web::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE,
};

/// How long a browser may remember what it was allowed, in seconds.
const MAX_AGE: usize = 3600;

/// The middleware for the configured origins. Requests from other origins are answered without
/// the headers that would let their pages read the answer.
pub fn cors(allowed_origins: &[String]) -> Cors {
    let cors = Cors::default()
        .allowed_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::DELETE,
            Method::OPTIONS,
        ])
        .allowed_headers([
            AUTHORIZATION,
            CACHE_CONTROL,
            CONTENT_TYPE,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
        ])
        // What clients act on or report; pages of other origins see no other header than the usual ones.
        .expose_headers([RETRY_AFTER, WWW_AUTHENTICATE])
        .block_on_origin_mismatch(false)
        .max_age(MAX_AGE);
    if allowed_origins.iter().any(|origin| origin == "*") {
        // Without credentials: a cookie must not be usable from any page there is.
        return cors.allow_any_origin().send_wildcard();
    }
    if allowed_origins.is_empty() {
        return cors;
    }
    allowed_origins
        .iter()
        .fold(cors.supports_credentials(), |cors, origin| {
            cors.allowed_origin(origin)
        })
}
