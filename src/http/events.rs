//! `/events`: the user's own stream.

use actix_web::web::Query;
use actix_web::{HttpRequest, HttpResponse};

use super::credentials::{Authenticated, ForStream};
use super::error::ApiError;
use super::stream::{self, Parameters, Parts, Wanted};
use crate::hub::Scope;
use crate::transport::sse;

/// `GET /events`
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
