//! `/api/v1/bus/{subject}`: publishes a payload as a backend would, for those that speak no NATS
//! and for the in-process bus, which has no other door.

use actix_web::HttpResponse;
use actix_web::web::{Bytes, Data, Path};
use serde::Serialize;

use super::credentials::Publisher;
use super::error::{self, ApiError};
use super::max_body;
use super::rate::PublishRate;
use crate::bus::subject::{Pattern, check_publish};
use crate::bus::{Bus, PublishError};
use crate::event::Timestamp;
use crate::event::decode::{Rules, decode};

#[derive(Serialize)]
struct Published {
    /// The event's id on streams.
    id: String,
    position: u64,
}

/// `POST /api/v1/bus/{subject}`
pub(super) async fn publish(
    Publisher(identity): Publisher,
    subject: Path<String>,
    payload: Result<Bytes, actix_web::Error>,
    bus: Data<Bus>,
    (rules, patterns, rate): (Data<Rules>, Data<Vec<Pattern>>, Data<PublishRate>),
) -> Result<HttpResponse, ApiError> {
    if !identity.grant.may_publish_everything() {
        return Err(ApiError::Forbidden(
            "publishing on any subject needs the claim notify.publish with \"*\", or notify.admin"
                .into(),
        ));
    }
    rate.take(&identity.user, 1)?;
    check_publish(&subject).map_err(PublishError::from)?;
    if !patterns.iter().any(|pattern| pattern.matches(&subject)) {
        let known: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
        return Err(ApiError::Invalid {
            field: "subject".into(),
            problem: format!("this server listens on {} only", known.join(" and ")),
        });
    }
    let payload = payload.map_err(|error| error::body(&error, max_body(&rules)))?;
    // Here somebody is waiting for an answer, who can be told what subscribers could only count.
    decode(&rules, &subject, &payload, Timestamp::now())?;
    let id = bus.publish(&subject, payload, None).await?;
    Ok(HttpResponse::Accepted().json(Published {
        id: id.to_string(),
        position: id.position(),
    }))
}
