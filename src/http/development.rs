//! What only development mode has: users to choose from and tokens for the asking.
//!
//! The server listens on a loopback address then, so what remains to be kept out is other pages
//! in the same browser: they are told from our own by `Origin`, and names that were made to
//! resolve to this machine by `Host`.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{HOST, ORIGIN};
use actix_web::web::{Data, Json};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use utoipa::ToSchema;

use super::error::ApiError;
use super::openapi::{ForBody, ForDevelopment};
use crate::auth::development::Signer;
use crate::database::{self, Database, DemoChat, DemoUser};
use crate::event::UserId;

/// How long a development token lasts.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// What proxies add to the requests that they pass on.
const PROXY_HEADERS: [&str; 5] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-real-ip",
];

/// Makes tokens for development. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Development {
    signer: Arc<Signer>,
    /// The development database; `None` where somebody's own is used.
    database: Option<Database>,
}

/// Who there is to try things with.
#[derive(Serialize, ToSchema)]
struct Users {
    users: Vec<DemoUser>,
    chats: Vec<DemoChat>,
}

/// Whom a token is for.
#[derive(Deserialize, ToSchema)]
pub(super) struct TokenRequest {
    user_id: UserId,
    /// Whether the token is one of an administrator.
    #[serde(default)]
    admin: bool,
}

/// A token.
#[derive(Serialize, ToSchema)]
struct TokenAnswer {
    access_token: String,
    /// In seconds.
    expires_in: u64,
}

impl Development {
    /// With the development key, and the development database where that is used.
    #[must_use]
    pub fn new(signer: Signer, database: Option<Database>) -> Self {
        Self {
            signer: Arc::new(signer),
            database,
        }
    }
}

/// Demo users and chats
#[utoipa::path(
    get,
    path = "/api/dev/users",
    operation_id = "demo_users",
    tag = "Development",
    responses(
        (status = 200, description = "Empty where somebody's own database is used.", body = Users,
            example = json!({"users": [{"id": 2, "name": "Bashir", "chats": [1, 2, 3]}], "chats": [{"id": 1, "name": "general"}]})),
        ForDevelopment,
    ),
)]
pub(super) async fn users(
    request: HttpRequest,
    development: Data<Option<Development>>,
) -> Result<HttpResponse, ApiError> {
    let development = allowed(&request, &development)?;
    let (users, chats) = match &development.database {
        Some(database) => (
            database::demo_users(database).await?,
            database::demo_chats(database).await?,
        ),
        None => (Vec::new(), Vec::new()),
    };
    Ok(HttpResponse::Ok().json(Users { users, chats }))
}

/// A token for the asking
#[utoipa::path(
    post,
    path = "/api/dev/token",
    operation_id = "demo_token",
    tag = "Development",
    request_body(content = TokenRequest, example = json!({"user_id": 2, "admin": false})),
    responses(
        (status = 200, description = "A token for that user, which may also publish.", body = TokenAnswer,
            example = json!({"access_token": "eyJ…", "expires_in": 86400})),
        ForBody,
        ForDevelopment,
    ),
)]
pub(super) async fn token(
    request: HttpRequest,
    development: Data<Option<Development>>,
    wanted: Json<TokenRequest>,
) -> Result<HttpResponse, ApiError> {
    let development = allowed(&request, &development)?;
    let mut claims = Map::new();
    claims.insert(
        "notify".to_owned(),
        json!({ "publish": ["*"], "admin": wanted.admin }),
    );
    let access_token = development
        .signer
        .sign(&wanted.user_id, TOKEN_TTL, claims)
        .map_err(|error| ApiError::Internal(error.into()))?;
    Ok(HttpResponse::Ok().json(TokenAnswer {
        access_token,
        expires_in: TOKEN_TTL.as_secs(),
    }))
}

/// Development mode, where it is on and answers who asks.
pub(super) fn allowed<'a>(
    request: &HttpRequest,
    development: &'a Option<Development>,
) -> Result<&'a Development, ApiError> {
    let development = development.as_ref().ok_or(ApiError::NotFound)?;
    let header = |name| {
        let value = request.headers().get(name)?;
        Some(value.to_str().unwrap_or("?"))
    };
    let host = header(HOST).unwrap_or_default();
    // Behind a proxy, everybody seems to be on this machine.
    let proxied = PROXY_HEADERS
        .iter()
        .any(|name| request.headers().contains_key(*name));
    let own_page = header(ORIGIN).is_none_or(|origin| origin == format!("http://{host}"));
    if is_loopback(host) && own_page && !proxied {
        Ok(development)
    } else {
        Err(ApiError::Forbidden(
            "development endpoints answer pages of this server only, on localhost or 127.0.0.1, without a proxy".into(),
        ))
    }
}

/// Whether a `Host` header names this machine by a name that can't be made to point elsewhere.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for host in [
            "localhost",
            "localhost:1",
            "127.0.0.1:6687",
            "[::1]:6687",
            "[::1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example:80",
            "10.0.0.1:6687",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
