//! `/events/poll`: streams by long poll, for clients whose proxies hold streams back; and tickets, which open a stream without a token in its address.

use std::time::Duration;

use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::channels;
use super::credentials::{Authenticated, ForStream};
use super::error::ApiError;
use super::openapi::{ForRate, ForToken};
use super::rate::PublishRate;
use super::stream::{self, Device, Parts, Wanted};
use crate::auth::tickets::LIFETIME;
use crate::authorize::Authorizer;
use crate::event::Channel;
use crate::hub::{Scope, Transport};
use crate::peers::Peers;
use crate::transport::poll;

/// How long a poll waits where the client does not say, and at most.
const WAIT: f64 = 25.0;
const LONGEST_WAIT: f64 = 60.0;

/// What a poll asks for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// The `last_id` of the answer before; without, the answer comes at once and says where to begin.
    #[param(required = false, value_type = String, example = "1753859400123-4182-9f3a")]
    after: Option<String>,
    /// How many seconds to wait where there is nothing yet.
    #[param(required = false, value_type = f64, minimum = 0, maximum = 60, default = 25)]
    wait: Option<f64>,
    /// Channels, with commas in between, instead of the user's own stream.
    #[param(required = false, value_type = Vec<Channel>, style = Form, explode = false, min_items = 1, max_items = 100, example = json!(["job:123", "chat:42"]))]
    channels: Option<String>,
    #[serde(flatten)]
    #[param(ignore)]
    device: Device,
}

/// What has happened.
#[derive(Serialize, ToSchema)]
#[schema(as = Poll)]
struct Answer<'a> {
    /// As on a stream, without what the server itself says there.
    #[schema(value_type = Vec<serde_json::Map<String, serde_json::Value>>)]
    events: Vec<&'a RawValue>,
    /// The id of each event, `null` where it has none: what came twice, over another connection, has the same.
    #[schema(required = true)]
    ids: Vec<Option<String>>,
    /// What to come back with.
    last_id: Option<String>,
    /// Whether some events can't be given: load the state over your API.
    gap: bool,
}

/// What opens one stream instead of a token.
#[derive(Serialize, ToSchema)]
struct Ticket {
    /// For `?ticket=` of one request for a stream or a poll, on any instance.
    ticket: String,
    /// For how many seconds it is good.
    expires_in: u64,
}

/// The user's stream by long poll
///
/// For clients whose proxies hold streams back.
#[utoipa::path(
    get,
    path = "/events/poll",
    operation_id = "poll",
    tag = "Streams",
    params(Parameters, Device),
    responses(
        (status = 200, description = "What has happened since `after`; nothing, if nothing has within `wait`.", body = Answer<'_>,
            example = json!({"events": [{"type": "new_message", "chat_id": 5, "message": {"id": 7, "content": "hello"}, "timestamp": "2026-11-20T15:10:31.007Z"}], "ids": ["1753859400123-4187-01bc"], "last_id": "1753859400123-4187-01bc", "gap": false})),
        ForToken, ForRate,
    ),
    security(("ticket" = [])),
)]
pub(super) async fn poll(
    request: HttpRequest,
    ForStream(identity): ForStream,
    parameters: Query<Parameters>,
    (parts, authorizer): (Parts, Data<Authorizer>),
) -> Result<HttpResponse, ApiError> {
    let Parameters {
        after,
        wait,
        channels,
        device,
    } = parameters.into_inner();
    let wait = wait.unwrap_or(WAIT);
    if !(0.0..=LONGEST_WAIT).contains(&wait) {
        return Err(ApiError::Invalid {
            field: "wait".into(),
            problem: format!("a poll waits 0 to {LONGEST_WAIT} seconds"),
        });
    }
    let after = after.filter(|after| !after.trim().is_empty());
    // Who has no position yet is given one at once, to come back with.
    let wait = if after.is_none() { 0.0 } else { wait };
    let scope = match channels {
        Some(names) => channels::scope(&identity, &names, &authorizer).await?,
        None => Scope::Own,
    };
    let wanted = Wanted {
        scope,
        transport: Transport::Poll,
        named: false,
        last_event_id: after,
        device,
    };
    let (session, _following) = stream::session(&request, &identity, wanted, parts).await?;
    let polled = poll::collect(session, Duration::from_secs_f64(wait)).await;
    let events: Result<Vec<&RawValue>, _> = polled
        .events
        .iter()
        .map(|json| serde_json::from_slice(json))
        .collect();
    Ok(HttpResponse::Ok()
        .insert_header(("cache-control", "no-store"))
        .json(Answer {
            events: events.map_err(|error| ApiError::Internal(error.into()))?,
            ids: polled.ids,
            last_id: polled.last_id,
            gap: polled.gap,
        }))
}

/// `HEAD /events/poll`: whether a poll would be answered, without taking what waits for the user.
pub(super) async fn head(Authenticated(_): Authenticated) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header(("cache-control", "no-store"))
        .finish()
}

/// A ticket
///
/// So that no token need stand in the address of a stream.
#[utoipa::path(
    post,
    path = "/events/ticket",
    operation_id = "ticket",
    tag = "Streams",
    responses(
        (status = 200, description = "A ticket for the token's user, with what the token allows.", body = Ticket,
            example = json!({"ticket": "7c3a8f0e2b6d4a19b1c5d7e9f0a2b4c6", "expires_in": 30})),
        ForToken, ForRate,
    ),
)]
pub(super) async fn ticket(
    Authenticated(identity): Authenticated,
    (peers, rate): (Data<Peers>, Data<PublishRate>),
) -> Result<HttpResponse, ApiError> {
    // As messages are, so that nobody takes all the tickets.
    rate.take(&identity.user, 1)?;
    let ticket = peers.ticket(identity).ok_or(ApiError::Busy)?;
    Ok(HttpResponse::Ok()
        .insert_header(("cache-control", "no-store"))
        .json(Ticket {
            ticket,
            expires_in: LIFETIME.as_secs(),
        }))
}
