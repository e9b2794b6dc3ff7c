//! `/api/v1/explain`: why a user did or did not get an event. For tokens with the claim `notify.admin`.

use actix_web::HttpResponse;
use actix_web::web::{Data, Query};
use serde::Deserialize;
use utoipa::IntoParams;

use super::credentials::Admin;
use super::error::ApiError;
use super::openapi::ForToken;
use crate::event::UserId;
use crate::explain::{Explainer, Explanation, MAX_EVENT};

/// Who, and what.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// The user.
    #[param(value_type = UserId)]
    user_id: String,
    /// The event: its id on streams, the `id` that its publisher gave it, or its `Nats-Msg-Id`.
    #[param(min_length = 1, max_length = 400, example = "1753859400123-4182-9f3a")]
    event: String,
}

/// Why a user did or did not get an event
///
/// From what all instances remember of recent events and of what streams listened on, from the log, and, where the user
/// had no stream, from memberships as they are now. What is not remembered any more is said, and never guessed:
/// `delivered` is then `null`.
#[utoipa::path(
    get,
    path = "/api/v1/explain",
    operation_id = "explain",
    tag = "Operations",
    params(Parameters),
    responses(
        (status = 200, description = "The answer, also where the event is not known.", body = Explanation,
            example = json!({"delivered": false, "reason": "not_a_member", "explanation": "User 42 has not got event 1753859400123-4182-9f3a: the user was not in the chat when it came.", "user_id": 42, "event": {"id": "1753859400123-4182-9f3a", "type": "new_message", "at": "2026-11-20T15:10:00.123Z", "ephemeral": false, "durable": false, "audience": ["chat:5"], "audience_size": 1, "excluded": false, "queued": 3}, "memberships": [{"chat_id": 5, "then": false, "now": true, "listened": false}], "judged_by": "streams", "hints": [], "sessions": [{"connection_id": "0e324104f9c8496798caa89d31a62318", "instance": "notify-0", "transport": "sse", "opened_at": "2026-11-20T15:01:00.000Z", "listened_on": [], "outcome": "not_a_member"}], "repeats": 0, "remembered_since": "2026-11-20T14:00:00.000Z", "instances": ["notify-0"], "missing": []})),
        ForToken,
    ),
)]
pub(super) async fn explain(
    _: Admin,
    parameters: Query<Parameters>,
    explainer: Data<Explainer>,
) -> Result<HttpResponse, ApiError> {
    let Parameters { user_id, event } = parameters.into_inner();
    let user = UserId::parse(&user_id).map_err(|error| ApiError::Invalid {
        field: "user_id".into(),
        problem: error.to_string(),
    })?;
    if event.is_empty() || event.len() > MAX_EVENT {
        return Err(ApiError::Invalid {
            field: "event".into(),
            problem: format!("an event is asked for by 1 to {MAX_EVENT} bytes"),
        });
    }
    let explanation = explainer.explain(user, &event).await;
    Ok(HttpResponse::Ok().json(explanation))
}
