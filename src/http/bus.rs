//! `/api/v1/bus/{subject}`: publishes a payload as a backend would, for those that speak no NATS
//! and for the in-process bus, which has no other door.

use actix_web::HttpResponse;
use actix_web::web::{Bytes, Data, Path};
use serde::Serialize;
use utoipa::ToSchema;

use super::credentials::Publisher;
use super::error::{self, ApiError};
use super::max_body;
use super::metrics::Metrics;
use super::openapi::{ForBody, ForRate, ForToken, Payload};
use super::rate::PublishRate;
use super::trace::Trace;
use crate::auth::Identity;
use crate::bus::subject::{Pattern, check_publish};
use crate::bus::{Bus, PublishError};
use crate::event::Timestamp;
use crate::event::decode::{Rules, decode};

/// What says whether a payload may be published, and what it follows from.
type Parts = (Data<Rules>, Data<Vec<Pattern>>, Data<PublishRate>, Trace);

/// A payload that the log has.
#[derive(Serialize, ToSchema)]
struct Published {
    /// The event's id on streams.
    id: String,
    /// Its place in the log.
    position: u64,
}

/// Publish as a backend would
///
/// On one of the subjects that the server listens on, any payload that it would accept on NATS. Takes the claim
/// `notify.publish` with `*`, or `notify.admin`.
#[utoipa::path(
    post,
    path = "/api/v1/bus/{subject}",
    operation_id = "publish",
    tag = "Publishing",
    params(("subject" = String, Path, description = "A NATS subject without wildcards", example = "fechatter.realtime.chat.1")),
    request_body(content = Payload, content_type = "application/json", description = "The media type does not matter."),
    responses(
        (status = 202, description = "The log has it.", body = Published,
            example = json!({"id": "1753859400123-4182-9f3a", "position": 4182})),
        ForToken, ForBody, ForRate,
    ),
)]
pub(super) async fn publish(
    Publisher(identity): Publisher,
    subject: Path<String>,
    payload: Result<Bytes, actix_web::Error>,
    bus: Data<Bus>,
    parts: Parts,
    metrics: Data<Metrics>,
) -> Result<HttpResponse, ApiError> {
    let published = taken(&identity, &subject, payload, &bus, parts).await;
    metrics.published(&published);
    Ok(HttpResponse::Accepted().json(published?))
}

async fn taken(
    identity: &Identity,
    subject: &str,
    payload: Result<Bytes, actix_web::Error>,
    bus: &Bus,
    (rules, patterns, rate, Trace(trace)): Parts,
) -> Result<Published, ApiError> {
    if !identity.grant.may_publish_everything() {
        return Err(ApiError::Forbidden(
            "publishing on any subject needs the claim notify.publish with \"*\", or notify.admin"
                .into(),
        ));
    }
    rate.take(&identity.user, 1)?;
    check_publish(subject).map_err(PublishError::from)?;
    if !patterns.iter().any(|pattern| pattern.matches(subject)) {
        let known: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
        return Err(ApiError::Invalid {
            field: "subject".into(),
            problem: format!("this server listens on {} only", known.join(" and ")),
        });
    }
    let payload = payload.map_err(|error| error::body(&error, max_body(&rules)))?;
    // Here somebody is waiting for an answer, who can be told what subscribers could only count.
    decode(&rules, subject, &payload, Timestamp::now())?;
    let id = bus.publish(subject, payload, None, trace.as_ref()).await?;
    Ok(Published {
        id: id.to_string(),
        position: id.position(),
    })
}
