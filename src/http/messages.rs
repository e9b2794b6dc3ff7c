//! `/api/v1/messages`: publishing push messages and channel events, one or many, to some or to all.
//!
//! The answer comes when the log has the message, with its place there, and never before.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Query};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use utoipa::{IntoParams, ToSchema};

use super::connections::Instances;
use super::credentials::Publisher;
use super::desk::{Accepted, Desk, Parts};
use super::error::{self, ApiError};
use super::openapi::{Batch, Broadcast, ForBody, ForConflict, ForRate, ForToken, Message};
use super::outgoing::{IdempotencyKey, IdempotencyKeyHeader, Outgoing};
use crate::event::UserId;

/// The most messages of a batch.
const MAX_BATCH: usize = 1_000;

/// The largest body of a batch, in bytes.
pub(super) const MAX_BATCH_BODY: usize = 8 << 20;

/// The longest that a client can wait to hear whom its message has reached, in milliseconds.
const LONGEST_WAIT: u64 = 10_000;

/// Senders that wait at a time.
static WAITS: Semaphore = Semaphore::const_new(64);

/// Messages of a batch that are published before the first of them is waited for.
const IN_FLIGHT: usize = 100;

/// Whom a message has reached within a time.
#[derive(Serialize, ToSchema)]
pub(super) struct Delivered {
    /// Sessions that it was written to.
    sessions: u64,
    /// Target users that it was written to no session of.
    absent: Vec<UserId>,
    instances: Instances,
}

/// What `send` and `broadcast` can be asked for besides.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// How long to wait to hear whom the message has reached, in milliseconds.
    #[param(value_type = u64, required = false, maximum = 10000)]
    wait: Option<u64>,
}

/// What has become of the messages of a batch.
#[derive(Serialize, ToSchema)]
struct BatchAnswer {
    accepted: usize,
    rejected: usize,
    /// In the order of the messages.
    results: Vec<Item>,
}

/// What has become of one message of a batch.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = BatchItem)]
enum Item {
    /// The log has it.
    Accepted {
        /// 202
        status: u16,
        #[serde(flatten)]
        accepted: Accepted,
    },
    /// It was not published.
    Rejected {
        /// What the answer would have been to this message alone.
        status: u16,
        detail: String,
        /// The path in the body.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = String, required = false)]
        field: Option<String>,
    },
}

/// Send a message
///
/// A push message or a channel event. The token has to cover each channel that it is for by a pattern of `notify.publish`.
#[utoipa::path(
    post,
    path = "/api/v1/messages/send",
    operation_id = "send",
    tag = "Publishing",
    params(Parameters, IdempotencyKeyHeader),
    request_body(content = Message, content_type = "application/json", description = "The media type does not matter."),
    responses(
        (status = 202, description = "The log has it.", body = Accepted,
            examples(
                ("Accepted" = (value = json!({"id": "invoice-17-paid", "position": 4182, "event_id": "1753859400123-4182-9f3a"}))),
                ("Waited for" = (value = json!({"id": "m-1", "position": 4183, "event_id": "1753859400123-4183-01bc", "delivered": {"sessions": 2, "absent": [7], "instances": {"replied": ["notify-0"], "missing": []}}}))),
            )),
        ForToken, ForBody, ForRate, ForConflict,
    ),
)]
pub(super) async fn send(
    Publisher(identity): Publisher,
    key: IdempotencyKey,
    parameters: Query<Parameters>,
    body: Result<Bytes, actix_web::Error>,
    parts: Parts,
) -> Result<HttpResponse, ApiError> {
    let desk = Desk::new(identity, parts);
    let sent = one(&desk, body, parameters.wait, |text| {
        Outgoing::addressed(&desk.rules, &desk.identity, text, "", &key)
    });
    Ok(HttpResponse::Accepted().json(sent.await?))
}

/// Send a message to everybody
///
/// Takes `notify.publish` with `*`.
#[utoipa::path(
    post,
    path = "/api/v1/messages/broadcast",
    operation_id = "broadcast",
    tag = "Publishing",
    params(Parameters, IdempotencyKeyHeader),
    request_body(content = Broadcast, content_type = "application/json", description = "The media type does not matter."),
    responses(
        (status = 202, description = "The log has it.", body = Accepted,
            example = json!({"id": "invoice-17-paid", "position": 4182, "event_id": "1753859400123-4182-9f3a"})),
        ForToken, ForBody, ForRate, ForConflict,
    ),
)]
pub(super) async fn broadcast(
    Publisher(identity): Publisher,
    key: IdempotencyKey,
    parameters: Query<Parameters>,
    body: Result<Bytes, actix_web::Error>,
    parts: Parts,
) -> Result<HttpResponse, ApiError> {
    let desk = Desk::new(identity, parts);
    let sent = one(&desk, body, parameters.wait, |text| {
        Outgoing::to_everybody(&desk.rules, &desk.identity, text, &key)
    });
    Ok(HttpResponse::Accepted().json(sent.await?))
}

/// Publishes the one message that a body holds.
async fn one(
    desk: &Desk,
    body: Result<Bytes, actix_web::Error>,
    wait: Option<u64>,
    read: impl FnOnce(&RawValue) -> Result<Outgoing, ApiError>,
) -> Result<Accepted, ApiError> {
    let publish = async {
        let text = text(body, super::max_body(&desk.rules))?;
        desk.rate.take(&desk.identity.user, 1)?;
        publish_one(desk, read(parse(&text, "")?)?, wait).await
    };
    let sent = publish.await;
    desk.metrics.published(&sent);
    sent
}

/// Send up to 1,000 messages
///
/// Published in their order; what is wrong with one keeps none of the others back.
#[utoipa::path(
    post,
    path = "/api/v1/messages/batch",
    operation_id = "batch",
    tag = "Publishing",
    params(IdempotencyKeyHeader),
    request_body(content = Batch, content_type = "application/json", description = "The list may also come alone, without the object around it. The media type does not matter."),
    responses(
        (status = 202, description = "What has become of each.", body = BatchAnswer,
            example = json!({"accepted": 1, "rejected": 1, "results": [
                {"status": 202, "id": "m-1", "position": 4182, "event_id": "1753859400123-4182-9f3a"},
                {"status": 422, "detail": "messages[1].type: it is missing, or no text", "field": "messages[1].type"}
            ]})),
        ForToken, ForBody, ForRate,
    ),
)]
pub(super) async fn batch(
    Publisher(identity): Publisher,
    key: IdempotencyKey,
    body: Result<Bytes, actix_web::Error>,
    parts: Parts,
) -> Result<HttpResponse, ApiError> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Batch<'a> {
        #[serde(borrow)]
        messages: Vec<&'a RawValue>,
    }
    let desk = Desk::new(identity, parts);
    let text = text(body, MAX_BATCH_BODY)?;
    let messages: Result<Vec<&RawValue>, _> = match text.trim_start().starts_with('[') {
        true => serde_json::from_str(&text),
        false => serde_json::from_str(&text).map(|batch: Batch<'_>| batch.messages),
    };
    let messages = messages.map_err(|error| ApiError::Invalid {
        field: "messages".into(),
        problem: format!("the body is {{\"messages\": […]}}, or the list alone: {error}"),
    })?;
    let count = messages.len();
    if count == 0 || count > MAX_BATCH {
        return Err(ApiError::Invalid {
            field: "messages".into(),
            problem: format!("a batch has 1 to {MAX_BATCH} messages, this one has {count}"),
        });
    }
    let user = &desk.identity.user;
    desk.rate
        .take(user, u32::try_from(count).unwrap_or(u32::MAX))?;
    let mut results = Vec::with_capacity(count);
    let numbered: Vec<(usize, &RawValue)> = messages.into_iter().enumerate().collect();
    for some in numbered.chunks(IN_FLIGHT) {
        let (desk, key) = (&desk, &key);
        let prepared = some.iter().map(|(index, message)| async move {
            let path = format!("messages[{index}]");
            let message = parse(message.get(), &path)?;
            let key = key.of_item(*index);
            let message = Outgoing::addressed(&desk.rules, &desk.identity, message, &path, &key)?;
            desk.ask(&message).await?;
            Ok::<_, ApiError>(message)
        });
        let mut submitted = Vec::with_capacity(some.len());
        for prepared in join_all(prepared).await {
            submitted.push(match prepared {
                Ok(message) => desk.submit(message).await,
                Err(error) => Err(error),
            });
        }
        let mut taken = Vec::with_capacity(some.len());
        for given in submitted {
            taken.push(match given {
                Ok(given) => given.accepted().await,
                Err(error) => Err(error),
            });
        }
        results.extend(desk.kept(taken).await);
    }
    results.iter().for_each(|sent| desk.metrics.published(sent));
    let items: Vec<Item> = results.into_iter().map(Item::from).collect();
    let rejected = items.iter().filter(|item| item.is_rejected()).count();
    Ok(HttpResponse::Accepted().json(BatchAnswer {
        accepted: items.len() - rejected,
        rejected,
        results: items,
    }))
}

/// Publishes a message, and waits to hear whom it has reached, if that is asked for.
async fn publish_one(
    desk: &Desk,
    message: Outgoing,
    wait: Option<u64>,
) -> Result<Accepted, ApiError> {
    let Some(wait) = wait else {
        let given = desk.publish(message).await?;
        return desk.kept_one(given.accepted().await?).await;
    };
    if wait > LONGEST_WAIT {
        return Err(ApiError::Invalid {
            field: "wait".into(),
            problem: format!("it is at most {LONGEST_WAIT} milliseconds"),
        });
    }
    let Ok(_place) = WAITS.try_acquire() else {
        return Err(ApiError::Busy);
    };
    let (users, peers) = (message.users.clone(), &desk.peers);
    peers.track(&message.id).await;
    let given = desk.publish(message).await?;
    let repeated = given.submitted.is_repeated() && peers.is_shared();
    let taken = given.accepted().await?;
    let id = taken.0.id.clone();
    let written = match repeated {
        // It is not delivered again, so that there is nothing to wait for.
        true => None,
        false => Some(peers.written(&id, Duration::from_millis(wait)).await),
    };
    let accepted = desk.kept_one(taken).await?;
    let Some(written) = written else {
        return Ok(accepted);
    };
    let reached = |user: &UserId| {
        let mut reaches = written.replies.values();
        reaches.any(|reach| reach.users.contains(user))
    };
    Ok(Accepted {
        delivered: Some(Delivered {
            sessions: written.replies.values().map(|reach| reach.sessions).sum(),
            absent: users.into_iter().filter(|user| !reached(user)).collect(),
            instances: Instances::new(written.replies.keys(), written.missing.clone()),
        }),
        ..accepted
    })
}

impl Item {
    fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected { .. })
    }
}

impl From<Result<Accepted, ApiError>> for Item {
    fn from(result: Result<Accepted, ApiError>) -> Self {
        match result {
            Ok(accepted) => Self::Accepted {
                status: StatusCode::ACCEPTED.as_u16(),
                accepted,
            },
            Err(error) => Self::Rejected {
                status: error.status().as_u16(),
                detail: error.to_string(),
                field: error.field().map(|field| field.into_owned()),
            },
        }
    }
}

/// The body as text.
fn text(body: Result<Bytes, actix_web::Error>, limit: usize) -> Result<String, ApiError> {
    let body = body.map_err(|error| error::body(&error, limit))?;
    String::from_utf8(body.to_vec()).map_err(|_| wrong("", "it is not UTF-8"))
}

/// A message, which is a JSON object.
fn parse<'a>(text: &'a str, path: &str) -> Result<&'a RawValue, ApiError> {
    let value: &RawValue = serde_json::from_str(text)
        .map_err(|error| wrong(path, &format!("it is not JSON: {error}")))?;
    if value.get().starts_with('{') {
        Ok(value)
    } else {
        Err(wrong(path, "a message is a JSON object"))
    }
}

fn wrong(path: &str, problem: &str) -> ApiError {
    let field = if path.is_empty() { "body" } else { path };
    ApiError::Invalid {
        field: field.to_owned().into(),
        problem: problem.to_owned(),
    }
}
