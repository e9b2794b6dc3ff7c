//! `/api/v1/messages`: publishing push messages and channel events, one or many, to some or to all.
//!
//! The answer comes when the log has the message, with its place there, and never before.

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data, Query};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use utoipa::{IntoParams, ToSchema};

use super::connections::Instances;
use super::credentials::Publisher;
use super::error::{self, ApiError};
use super::metrics::Metrics;
use super::openapi::{Batch, Broadcast, ForBody, ForConflict, ForRate, ForToken, Message};
use super::outgoing::{IdempotencyKey, IdempotencyKeyHeader, Outgoing};
use super::rate::PublishRate;
use crate::acknowledgements::{AckError, Acknowledgements};
use crate::auth::Identity;
use crate::bus::{Bus, Submitted};
use crate::event::decode::Rules;
use crate::event::{Timestamp, UserId};
use crate::inbox::{Durable, Inbox, Sending};
use crate::peers::Peers;

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

/// A message that the log has.
#[derive(Serialize, ToSchema)]
struct Accepted {
    /// The message's own id, given or made.
    id: String,
    /// Its place in the log.
    position: u64,
    /// Its id on streams.
    event_id: String,
    /// Whom it has reached, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Delivered, required = false)]
    delivered: Option<Delivered>,
    /// The users that it waits for, where it is to wait for those who are away.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<UserId>, required = false)]
    waiting: Option<Vec<UserId>>,
}

/// Whom a message has reached within a time.
#[derive(Serialize, ToSchema)]
struct Delivered {
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

/// What publishing takes.
type Parts = (
    Data<Bus>,
    Data<Rules>,
    Data<PublishRate>,
    Data<Peers>,
    Data<Acknowledgements>,
    Data<Inbox>,
    Data<Metrics>,
);

/// Where somebody's messages are published.
struct Desk {
    identity: Identity,
    bus: Data<Bus>,
    rules: Data<Rules>,
    rate: Data<PublishRate>,
    peers: Data<Peers>,
    acknowledgements: Data<Acknowledgements>,
    inbox: Data<Inbox>,
    metrics: Data<Metrics>,
}

impl Desk {
    fn new(identity: Identity, parts: Parts) -> Self {
        let (bus, rules, rate, peers, acknowledgements, inbox, metrics) = parts;
        Self {
            identity,
            bus,
            rules,
            rate,
            peers,
            acknowledgements,
            inbox,
            metrics,
        }
    }
}

/// A message that the bus has been given.
struct Given {
    id: String,
    submitted: Submitted,
    /// What is to be done for those who are away, once the log has it.
    durable: Option<Waits>,
}

/// A message that the log has, and what is to be done for those who are away.
type Taken = (Accepted, Option<(Durable, Sending)>);

/// A message that waits for those of its users who are away.
struct Waits {
    /// Nobody else need attend to it.
    sending: Sending,
    users: Vec<UserId>,
    subject: Arc<str>,
    payload: Bytes,
    expires_at: Option<Timestamp>,
    per_device: bool,
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
            ask(desk, &message).await?;
            Ok::<_, ApiError>(message)
        });
        let mut submitted = Vec::with_capacity(some.len());
        for prepared in join_all(prepared).await {
            submitted.push(match prepared {
                Ok(message) => submit(desk, message).await,
                Err(error) => Err(error),
            });
        }
        let mut taken = Vec::with_capacity(some.len());
        for given in submitted {
            taken.push(match given {
                Ok(given) => accepted(given).await,
                Err(error) => Err(error),
            });
        }
        results.extend(kept(desk, taken).await);
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
        let given = publish(desk, message).await?;
        return kept_one(desk, accepted(given).await?).await;
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
    let given = publish(desk, message).await?;
    let repeated = given.submitted.is_repeated() && peers.is_shared();
    let taken = accepted(given).await?;
    let id = taken.0.id.clone();
    let written = match repeated {
        // It is not delivered again, so that there is nothing to wait for.
        true => None,
        false => Some(peers.written(&id, Duration::from_millis(wait)).await),
    };
    let accepted = kept_one(desk, taken).await?;
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

/// Notes that a message asks to be acknowledged, if it does: before anybody can get it.
async fn ask(desk: &Desk, message: &Outgoing) -> Result<(), ApiError> {
    if let Some(asks) = &message.asks {
        let publisher = &desk.identity.user;
        desk.acknowledgements
            .ask(&message.id, publisher, &asks.channels, asks.per_device)
            .await?;
    }
    Ok(())
}

async fn publish(desk: &Desk, message: Outgoing) -> Result<Given, ApiError> {
    ask(desk, &message).await?;
    submit(desk, message).await
}

/// Publishes a message behind those before it.
async fn submit(desk: &Desk, message: Outgoing) -> Result<Given, ApiError> {
    let durable = message.waits.map(|expires_at| Waits {
        sending: desk.inbox.sending(&message.id),
        users: message.users,
        subject: message.subject.as_str().into(),
        payload: message.payload.clone(),
        expires_at,
        per_device: message.asks.is_some_and(|asks| asks.per_device),
    });
    let by = Some(message.deduplicated_by.as_str());
    let submitted = desk.bus.submit(&message.subject, message.payload, by);
    Ok(Given {
        id: message.id,
        submitted: submitted.await?,
        durable,
    })
}

/// Waits until the log has the message; gives what is then to be done for those who are away.
async fn accepted(given: Given) -> Result<Taken, ApiError> {
    let event = given.submitted.taken().await?;
    let accepted = Accepted {
        position: event.position(),
        event_id: event.to_string(),
        delivered: None,
        waiting: None,
        id: given.id,
    };
    let durable = given.durable.map(|waits| {
        let durable = Durable {
            id: accepted.id.clone(),
            event,
            users: waits.users,
            subject: waits.subject,
            payload: waits.payload,
            at: Timestamp::now(),
            expires_at: waits.expires_at,
            per_device: waits.per_device,
        };
        (durable, waits.sending)
    });
    Ok((accepted, durable))
}
/// Puts messages that the log has in for those of their users who are away.
async fn kept(desk: &Desk, taken: Vec<Result<Taken, ApiError>>) -> Vec<Result<Accepted, ApiError>> {
    let some = taken.iter().flatten();
    let durable = some.filter_map(|(_, durable)| Some(durable.as_ref()?.0.clone()));
    let durable: Vec<Durable> = durable.collect();
    let mut waiting = match durable.is_empty() {
        true => Ok(Vec::new().into_iter()),
        false => desk.inbox.keep(&durable).await.map(Vec::into_iter),
    };
    let answers = taken.into_iter().map(|taken| {
        let (mut accepted, durable) = taken?;
        if durable.is_some() {
            accepted.waiting = match &mut waiting {
                Ok(waiting) => waiting.next(),
                Err(error) => return Err(AckError::from(error.clone()).into()),
            };
        }
        Ok(accepted)
    });
    answers.collect()
}

async fn kept_one(desk: &Desk, taken: Taken) -> Result<Accepted, ApiError> {
    let mut kept = kept(desk, vec![Ok(taken)]).await;
    // One comes out for each that goes in.
    kept.pop().unwrap_or(Err(ApiError::Busy))
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
