//! `/events`: the user's own stream.

use actix_web::web::Query;
use actix_web::{HttpRequest, HttpResponse};

use super::credentials::{Authenticated, ForStream};
use super::error::ApiError;
use super::openapi::{ForRate, ForToken, Streaming};
use super::stream::{self, Device, LastEventId, Parameters, Parts, Wanted};
use crate::hub::Scope;
use crate::transport::sse;

/// The user's stream
///
/// Of the user's own channel and all of the user's chats, as joins and leaves change them. Events have no names
/// unless `?named=true`, so that `EventSource.onmessage` gets them all.
#[utoipa::path(
    get,
    path = "/events",
    operation_id = "stream_own",
    tag = "Streams",
    params(Parameters, Device, LastEventId),
    responses(Streaming, ForToken, ForRate),
    security(("ticket" = [])),
)]
pub(super) async fn stream(
    request: HttpRequest,
    ForStream(identity): ForStream,
    parameters: Query<Parameters>,
    parts: Parts,
) -> Result<HttpResponse, ApiError> {
    // Chat clients read everything in `onmessage`.
    let wanted = Wanted::sse(Scope::Own, false, parameters.into_inner());
    stream::open(&request, &identity, wanted, parts).await
}

/// `HEAD /events`: whether a stream would open, without opening it.
pub(super) async fn head(Authenticated(_): Authenticated) -> HttpResponse {
    sse::head()
}
