//! `/events/poll`: the user's stream by long poll, for clients whose proxies hold streams back; and
//! tickets, which open a stream without a token in its address.

use std::time::Duration;

use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::credentials::{Authenticated, ForStream};
use super::error::ApiError;
use super::rate::PublishRate;
use super::stream::{self, Device, Parts, Wanted};
use crate::auth::tickets::LIFETIME;
use crate::hub::{Scope, Transport};
use crate::peers::Peers;
use crate::transport::poll;

/// How long a poll waits where the client does not say, and at most.
const WAIT: f64 = 25.0;
const LONGEST_WAIT: f64 = 60.0;

/// What a poll asks for.
#[derive(Debug, Deserialize)]
pub(super) struct Parameters {
    after: Option<String>,
    wait: Option<f64>,
    #[serde(flatten)]
    device: Device,
}

#[derive(Serialize)]
struct Answer<'a> {
    events: Vec<&'a RawValue>,
    last_id: Option<String>,
    gap: bool,
}

#[derive(Serialize)]
struct Ticket {
    ticket: String,
    expires_in: u64,
}

/// `GET /events/poll?after=ID&wait=25`
pub(super) async fn poll(
    request: HttpRequest,
    ForStream(identity): ForStream,
    parameters: Query<Parameters>,
    parts: Parts,
) -> Result<HttpResponse, ApiError> {
    let Parameters {
        after,
        wait,
        device,
    } = parameters.into_inner();
    let wait = wait.unwrap_or(WAIT);
    if !(0.0..=LONGEST_WAIT).contains(&wait) {
        return Err(ApiError::Invalid {
            field: "wait".into(),
            problem: format!("a poll waits 0 to {LONGEST_WAIT} seconds"),
        });
    }
    // Who has no position yet is given one at once, to come back with.
    let wait = if after.is_none() { 0.0 } else { wait };
    let wanted = Wanted {
        scope: Scope::Own,
        transport: Transport::Poll,
        named: false,
        last_event_id: after,
        device,
    };
    let session = stream::session(&request, &identity, wanted, parts).await?;
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
            last_id: polled.last_id,
            gap: polled.gap,
        }))
}

/// `POST /events/ticket`
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
