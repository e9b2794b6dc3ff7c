//! `/api/sse/test`: whether this server answers, and with `Accept: text/event-stream`, whether a stream
//! gets through whatever lies in between, as it is sent.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::http::header::ACCEPT;
use actix_web::{FromRequest as _, HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;

use super::credentials::Authenticated;
use super::error::ApiError;
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

/// `GET /api/sse/test`
pub(super) async fn test(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let accept = request.headers().get(ACCEPT);
    let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or("");
    if !accept.contains("text/event-stream") {
        return Ok(HttpResponse::Ok().json(serde_json::json!({
            "success": true,
            "data": {
                "message": "the server answers; ask with Accept: text/event-stream for a stream",
                "timestamp": Timestamp::now(),
            },
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
