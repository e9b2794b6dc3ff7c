//! An instance as a NATS micro service (ADR-32 of NATS): what `nats micro ls`, `info` and `stats` find.
//!
//! The client library answers `$SRV.PING`, `INFO` and `STATS`; the endpoint's requests are for whoever
//! registered. Subscriptions of the client outlive its connection, so this holds from the first connection
//! on and after every other. The library names each registration by itself; the instance's own name is in
//! the metadata.

use std::collections::HashMap;
use std::fmt;

use async_nats::Client;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{self, Service, ServiceExt as _};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;
use tracing::debug;

/// The endpoint's name, and the last token of its subject.
const ENDPOINT: &str = "health";

/// What an instance says about itself.
pub struct Card {
    /// Its name, which no other has.
    pub instance: String,
    /// Where it is, in words for operators.
    pub metadata: HashMap<String, String>,
    /// What it has done so far. Called for each request of `$SRV.STATS`; must not wait.
    pub stats: Box<dyn Fn() -> Value + Send + Sync>,
}

/// An instance that can be found. Dropping it is no leave: see [`Registration::leave`].
pub struct Registration {
    service: Service,
    endpoint: Endpoint,
}

/// Somebody asks how this instance is doing.
#[derive(Debug)]
pub struct Inquiry(service::Request);

/// The instance can't be registered.
#[derive(Debug, thiserror::Error)]
#[error("the instance can't be registered as a NATS service")]
pub struct RegisterError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Card")
            .field("instance", &self.instance)
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl Registration {
    /// Subscribes; the server learns of it once it is there.
    pub(super) async fn new(
        client: &Client,
        name: &str,
        card: Card,
    ) -> Result<Self, RegisterError> {
        let mut metadata = card.metadata;
        metadata.insert("instance".to_owned(), card.instance.clone());
        let stats = card.stats;
        let service = client
            .service_builder()
            .description("Pushes events from NATS to browsers over Server-Sent Events")
            .metadata(metadata)
            .stats_handler(move |_, _| stats())
            // A queue of its own for each instance: all of them answer.
            .queue_group(card.instance)
            .start(name, env!("CARGO_PKG_VERSION"))
            .await
            .map_err(RegisterError)?;
        let endpoint = service
            .group(name)
            .endpoint(ENDPOINT)
            .await
            .map_err(RegisterError)?;
        Ok(Self { service, endpoint })
    }

    /// The next request of the endpoint; `None` once the client has stopped.
    pub async fn next(&mut self) -> Option<Inquiry> {
        self.endpoint.next().await.map(Inquiry)
    }

    /// Can be found no more.
    pub async fn leave(mut self) {
        // Both fail only where the client has stopped, and then nobody is answered anyway.
        let _ = self.endpoint.stop().await;
        let _ = self.service.stop().await;
    }
}

impl Inquiry {
    /// Answers, if an answer is waited for.
    pub async fn answer(self, payload: Bytes) {
        if let Err(error) = self.0.respond(Ok(payload)).await {
            debug!(error = error.to_string(), "an answer could not be sent");
        }
    }
}
