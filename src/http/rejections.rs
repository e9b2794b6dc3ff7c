//! `/api/v1/rejections`: what came from the bus and was no event. For tokens with the claim `notify.admin`.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::Serialize;
use utoipa::ToSchema;

use super::credentials::Admin;
use super::openapi::ForToken;
use crate::peers::Peers;
use crate::rejections::{Rejected, Rejections};

/// What was no event, the newest first.
#[derive(Serialize, ToSchema)]
struct Rejecteds {
    /// At most 100.
    rejections: Vec<Rejected>,
    /// Which instance has seen them.
    instance: String,
}

/// What was no event
///
/// The last payloads from the bus that were rejected, as the instance that answers has seen them. All instances see
/// the same.
#[utoipa::path(
    get,
    path = "/api/v1/rejections",
    operation_id = "rejections",
    tag = "Operations",
    responses(
        (status = 200, description = "The newest first.", body = Rejecteds,
            example = json!({"rejections": [{"at": "2026-11-20T15:10:00.123Z", "event_id": "1753859400123-4182-9f3a", "ids": ["invoice-17"], "reason": "no_audience", "problem": "nothing says whom the event is for: it has no chat, recipients, channel or target, and the subject names no channel", "subject": "fechatter.realtime.push", "payload": "{\"id\":\"invoice-17\",\"type\":\"paid\"}"}], "instance": "notify-0"})),
        ForToken,
    ),
)]
pub(super) async fn list(
    _: Admin,
    rejections: Data<Rejections>,
    peers: Data<Peers>,
) -> HttpResponse {
    HttpResponse::Ok().json(Rejecteds {
        rejections: rejections.list(),
        instance: peers.instance().to_owned(),
    })
}
