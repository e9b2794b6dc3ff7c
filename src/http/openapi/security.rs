//! The ways in which a request can say who makes it.

use utoipa::Modify;
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};

use super::refusals::asks_for_a_token;

/// Adds the schemes, and to each operation that asks for a token those that it takes.
pub(super) struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        components.add_security_schemes_from_iter(schemes());
        for PathItem {
            get, post, delete, ..
        } in document.paths.paths.values_mut()
        {
            require(get, &["bearer", "access_token", "cookie"]);
            // Browsers send cookies along with requests that other sites make.
            require(post, &["bearer", "access_token"]);
            require(delete, &["bearer", "access_token"]);
        }
    }
}

fn schemes() -> [(&'static str, SecurityScheme); 4] {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("Counts where several are given."))
        .build();
    let parameter = ApiKeyValue::with_description(
        "access_token",
        "For `EventSource`, which can't send headers. Addresses end up in logs: better take a ticket.",
    );
    let cookie = ApiKeyValue::with_description("access_token", "For reading only.");
    let ticket = ApiKeyValue::with_description(
        "ticket",
        "From `POST /events/ticket`; good for one stream, within 30 seconds.",
    );
    [
        ("bearer", SecurityScheme::Http(bearer)),
        (
            "access_token",
            SecurityScheme::ApiKey(ApiKey::Query(parameter)),
        ),
        ("cookie", SecurityScheme::ApiKey(ApiKey::Cookie(cookie))),
        ("ticket", SecurityScheme::ApiKey(ApiKey::Query(ticket))),
    ]
}

/// Puts these before what the handler itself names.
fn require(operation: &mut Option<Operation>, schemes: &[&str]) {
    let Some(operation) = operation
        .as_mut()
        .filter(|operation| asks_for_a_token(operation))
    else {
        return;
    };
    let no_scopes: [&str; 0] = [];
    let general = schemes
        .iter()
        .map(|scheme| SecurityRequirement::new(*scheme, no_scopes));
    let own = operation.security.take().unwrap_or_default();
    operation.security = Some(general.chain(own).collect());
}
