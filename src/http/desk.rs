//! Where somebody's messages are published, and put in for those of their users who are away.

use std::sync::Arc;

use actix_web::web::{Bytes, Data};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::messages::Delivered;
use super::metrics::Metrics;
use super::outgoing::Outgoing;
use super::rate::PublishRate;
use super::trace::Trace;
use crate::acknowledgements::{AckError, Acknowledgements};
use crate::auth::Identity;
use crate::bus::{Bus, Submitted};
use crate::event::decode::Rules;
use crate::event::{Timestamp, UserId};
use crate::inbox::{Durable, Inbox, Sending};
use crate::peers::Peers;

/// A message that the log has.
#[derive(Serialize, ToSchema)]
pub(super) struct Accepted {
    /// The message's own id, given or made.
    pub(super) id: String,
    /// Its place in the log.
    pub(super) position: u64,
    /// Its id on streams.
    pub(super) event_id: String,
    /// Whom it has reached, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Delivered, required = false)]
    pub(super) delivered: Option<Delivered>,
    /// The users that it waits for, where it is to wait for those who are away.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<UserId>, required = false)]
    pub(super) waiting: Option<Vec<UserId>>,
}

/// What publishing takes.
pub(super) type Parts = (
    Data<Bus>,
    Data<Rules>,
    Data<PublishRate>,
    Data<Peers>,
    Data<Acknowledgements>,
    Data<Inbox>,
    Data<Metrics>,
    Trace,
);

/// Where somebody's messages are published.
pub(super) struct Desk {
    pub(super) identity: Identity,
    pub(super) bus: Data<Bus>,
    pub(super) rules: Data<Rules>,
    pub(super) rate: Data<PublishRate>,
    pub(super) peers: Data<Peers>,
    pub(super) acknowledgements: Data<Acknowledgements>,
    pub(super) inbox: Data<Inbox>,
    pub(super) metrics: Data<Metrics>,
    trace: Trace,
}

impl Desk {
    pub(super) fn new(identity: Identity, parts: Parts) -> Self {
        let (bus, rules, rate, peers, acknowledgements, inbox, metrics, trace) = parts;
        Self {
            identity,
            bus,
            rules,
            rate,
            peers,
            acknowledgements,
            inbox,
            metrics,
            trace,
        }
    }

    /// Notes that a message asks to be acknowledged, if it does: before anybody can get it.
    pub(super) async fn ask(&self, message: &Outgoing) -> Result<(), ApiError> {
        if let Some(asks) = &message.asks {
            let publisher = &self.identity.user;
            self.acknowledgements
                .ask(&message.id, publisher, &asks.channels, asks.per_device)
                .await?;
        }
        Ok(())
    }

    pub(super) async fn publish(&self, message: Outgoing) -> Result<Given, ApiError> {
        self.ask(&message).await?;
        self.submit(message).await
    }

    /// Publishes a message behind those before it.
    pub(super) async fn submit(&self, message: Outgoing) -> Result<Given, ApiError> {
        let durable = message.waits.map(|expires_at| Waits {
            sending: self.inbox.sending(&message.id),
            users: message.users,
            subject: message.subject.as_str().into(),
            payload: message.payload.clone(),
            expires_at,
            per_device: message.asks.is_some_and(|asks| asks.per_device),
        });
        let by = Some(message.deduplicated_by.as_str());
        let trace = self.trace.0.as_ref();
        let bus = &self.bus;
        let submitted = bus.submit(&message.subject, message.payload, by, trace);
        Ok(Given {
            id: message.id,
            submitted: submitted.await?,
            durable,
        })
    }

    /// Puts messages that the log has in for those of their users who are away.
    pub(super) async fn kept(
        &self,
        taken: Vec<Result<Taken, ApiError>>,
    ) -> Vec<Result<Accepted, ApiError>> {
        let some = taken.iter().flatten();
        let durable = some.filter_map(|(_, durable)| Some(durable.as_ref()?.0.clone()));
        let durable: Vec<Durable> = durable.collect();
        let mut waiting = match durable.is_empty() {
            true => Ok(Vec::new().into_iter()),
            false => self.inbox.keep(&durable).await.map(Vec::into_iter),
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

    pub(super) async fn kept_one(&self, taken: Taken) -> Result<Accepted, ApiError> {
        let mut kept = self.kept(vec![Ok(taken)]).await;
        // One comes out for each that goes in.
        kept.pop().unwrap_or(Err(ApiError::Busy))
    }
}

/// A message that the bus has been given.
pub(super) struct Given {
    id: String,
    pub(super) submitted: Submitted,
    /// What is to be done for those who are away, once the log has it.
    durable: Option<Waits>,
}

/// A message that the log has, and what is to be done for those who are away.
pub(super) type Taken = (Accepted, Option<(Durable, Sending)>);

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

impl Given {
    /// Waits until the log has the message; gives what is then to be done for those who are away.
    pub(super) async fn accepted(self) -> Result<Taken, ApiError> {
        let event = self.submitted.taken().await?;
        let accepted = Accepted {
            position: event.position(),
            event_id: event.to_string(),
            delivered: None,
            waiting: None,
            id: self.id,
        };
        let durable = self.durable.map(|waits| {
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
}
