//! `/events`: the user's own stream.

use std::time::{Duration, Instant};

use actix_web::http::header::USER_AGENT;
use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use tracing::{Instrument as _, info};
use uuid::Uuid;

use super::credentials::Authenticated;
use super::error::ApiError;
use crate::archive::Archive;
use crate::auth::{Identity, Verifier};
use crate::event::{ChatId, Timestamp};
use crate::hub::{Hub, LocalHub, Opening, Resume, Scope, connection_span};
use crate::membership::Membership;
use crate::transport::sse;

/// The most characters of a header that are logged.
const LOGGED: usize = 200;

/// The most chats that are logged by name.
const LOGGED_CHATS: usize = 20;

/// The stream's own parameters.
#[derive(Debug, Deserialize)]
pub(super) struct Parameters {
    named: Option<bool>,
    last_event_id: Option<String>,
}

/// What the stream is made of, besides the request.
type Parts = (
    Data<LocalHub>,
    Data<Hub>,
    Data<Membership>,
    Data<Archive>,
    Data<Verifier>,
);

/// `GET /events`
pub(super) async fn stream(
    request: HttpRequest,
    Authenticated(identity): Authenticated,
    parameters: Query<Parameters>,
    parts: Parts,
) -> Result<HttpResponse, ApiError> {
    let connection_id = Uuid::new_v4();
    let span = connection_span(connection_id, &identity.user);
    open(&request, &identity, &parameters, parts, connection_id)
        .instrument(span)
        .await
}

async fn open(
    request: &HttpRequest,
    identity: &Identity,
    parameters: &Parameters,
    (local, hub, membership, archive, verifier): Parts,
    connection_id: Uuid,
) -> Result<HttpResponse, ApiError> {
    let permit = hub.admission().admit(&identity.user)?;
    info!(agent = agent(request), "connected");
    let opening = Opening {
        named: parameters.named.unwrap_or(false),
        scope: Scope::Own,
        expires_at: deadline(identity, verifier.leeway_secs()),
        connection_id,
        permit,
    };
    // Registered before the look-up, so that a join or leave in between is not missed.
    let pending = local.register(&identity.user, opening);
    let chats = membership.chats_of(&identity.user).await?;
    let resume = resume(request, parameters.last_event_id.as_deref());
    let interest = Scope::Own.interest(&identity.user, chats.clone());
    let comeback = archive.look_up(&interest, resume).await;
    let (stream, chats) = pending.activate(chats, comeback).await;
    info!(chats = chats.len(), chat_ids = names(&chats), "registered");
    Ok(sse::response(stream))
}

/// `HEAD /events`: whether a stream would open, without opening it.
pub(super) async fn head(Authenticated(_): Authenticated) -> HttpResponse {
    sse::head()
}

/// The moment at which the stream ends, by the clock that can't be set. A token that was accepted
/// past its `exp` thanks to the leeway lasts as long as the leeway.
fn deadline(identity: &Identity, leeway_secs: u64) -> Option<Instant> {
    let expires_at = identity.expires_at?;
    let now = Timestamp::now().as_millis();
    let mut end = expires_at.saturating_mul(1000);
    if end <= now {
        end = end.saturating_add(leeway_secs.saturating_mul(1000));
    }
    // A moment that the clock can't express is one that never comes.
    Instant::now().checked_add(Duration::from_millis(end.saturating_sub(now)))
}

/// The header wins over the parameter: a reconnecting `EventSource` repeats the address that it
/// was made with and adds the header.
fn resume(request: &HttpRequest, parameter: Option<&str>) -> Resume {
    let header = request.headers().get("last-event-id");
    let given = match (header, parameter) {
        (Some(header), _) => header.to_str().unwrap_or("?"),
        (None, Some(parameter)) => parameter,
        (None, None) => return Resume::Fresh,
    };
    match given.trim() {
        "" => Resume::Fresh,
        id => id.parse().map_or(Resume::Unreadable, Resume::After),
    }
}

fn agent(request: &HttpRequest) -> String {
    let agent = request.headers().get(USER_AGENT);
    let agent = agent.and_then(|value| value.to_str().ok()).unwrap_or("");
    agent.chars().take(LOGGED).collect()
}

fn names(chats: &[ChatId]) -> String {
    let mut names: Vec<String> = chats
        .iter()
        .take(LOGGED_CHATS)
        .map(ToString::to_string)
        .collect();
    if chats.len() > LOGGED_CHATS {
        names.push("…".to_owned());
    }
    names.join(",")
}
