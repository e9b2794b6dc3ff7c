//! `/api/sse/test`: whether this server answers, and with `Accept: text/event-stream`, whether a stream
//! gets through whatever lies in between, as it is sent.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::http::header::ACCEPT;
use actix_web::{FromRequest as _, HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use utoipa::ToSchema;

use super::credentials::Authenticated;
use super::error::ApiError;
use super::openapi::{ForToken, StreamEvent};
use super::stats::Success;
use crate::event::{Class, Frame, Timestamp};
use crate::transport::sse;

/// The events of a test stream, and the time between two.
const EVENTS: u64 = 5;
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Test {
    r#type: &'static str,
    number: u64,
    of: u64,
    timestamp: Timestamp,
}

/// What is answered without a stream.
#[derive(Serialize, ToSchema)]
struct Reached {
    message: &'static str,
    timestamp: Timestamp,
}

/// Whether streams get through
///
/// Answers that the server is there. With `Accept: text/event-stream` and a token: five events in five seconds, by
/// which to see whether something in between holds them back.
#[utoipa::path(
    get,
    path = "/api/sse/test",
    operation_id = "test_stream",
    tag = "Streams",
    responses(
        (status = 200, description = "The server is there; or five events.", content(
            (Success<Reached> = "application/json", example = json!({"success": true, "data": {"message": "the server answers; ask with Accept: text/event-stream for a stream", "timestamp": "2026-11-20T15:10:00.123Z"}})),
            (StreamEvent = "text/event-stream", example = json!({"event": "test", "data": "{\"type\":\"test\",\"number\":1,\"of\":5,\"timestamp\":\"2026-11-20T15:10:00.123Z\"}"})),
        )),
        ForToken,
    ),
    security(()),
)]
pub(super) async fn test(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let accept = request.headers().get(ACCEPT);
    let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or("");
    if !accept.contains("text/event-stream") {
        return Ok(HttpResponse::Ok().json(Success::of(Reached {
            message: "the server answers; ask with Accept: text/event-stream for a stream",
            timestamp: Timestamp::now(),
        })));
    }
    // Streams hold connections, so that who opens one has to say who it is.
    Authenticated::extract(&request).await?;
    let events = stream::unfold(1, |number| async move {
        if number > EVENTS {
            return None;
        }
        if number > 1 {
            tokio::time::sleep(PAUSE).await;
        }
        Some((Ok::<Bytes, Infallible>(event(number)), number + 1))
    });
    Ok(sse::builder().streaming(events))
}

fn event(number: u64) -> Bytes {
    let test = Test {
        r#type: "test",
        number,
        of: EVENTS,
        timestamp: Timestamp::now(),
    };
    // A plain struct of text and numbers always serializes.
    let json = serde_json::to_vec(&test).unwrap_or_default();
    Frame::event(None, "test", &json, Class::Ephemeral, None).bytes(true)
}
