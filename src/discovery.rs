//! This instance in the directory of NATS services, for as long as clients should be sent to it.

use std::collections::HashMap;
use std::future::pending;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::bus::{Bus, Card, Registration};
use crate::causes::Causes;
use crate::http::Health;
use crate::peers::Peers;

/// Leaves the directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Discovery(CancellationToken);

/// Answers those who have found this instance.
#[derive(Debug)]
pub struct DiscoveryTask {
    registration: Option<Registration>,
    health: Health,
    leaving: CancellationToken,
}

impl Discovery {
    /// Registers this instance, with what an operator should know of it (`metadata`), and the task that
    /// answers, which must run. Whoever can't be registered serves all the same.
    pub async fn new(
        bus: &Bus,
        peers: Peers,
        health: Health,
        metadata: HashMap<String, String>,
    ) -> (Self, DiscoveryTask) {
        let card = Card {
            instance: peers.instance().to_owned(),
            metadata,
            // Plain numbers and text always serialize.
            stats: Box::new(move || serde_json::to_value(peers.summary()).unwrap_or_default()),
        };
        let registration = bus.register(card).await.unwrap_or_else(|error| {
            warn!(
                error = Causes(&error).to_string(),
                "this instance can't be found through NATS"
            );
            None
        });
        let leaving = CancellationToken::new();
        let task = DiscoveryTask {
            registration,
            health,
            leaving: leaving.clone(),
        };
        (Self(leaving), task)
    }

    /// From now on nobody finds this instance any more.
    pub fn leave(&self) {
        self.0.cancel();
    }
}

impl DiscoveryTask {
    /// Runs until the server stops.
    pub async fn run(self) {
        if let Some(mut registration) = self.registration {
            tokio::select! {
                () = answer(&mut registration, &self.health) => {}
                () = self.leaving.cancelled() => {}
            }
            registration.leave().await;
        }
        pending().await
    }
}

/// One after the other: an answer is as quick as `/health`, which asks the database once a second at
/// most, and those who ask wait for a time only.
async fn answer(registration: &mut Registration, health: &Health) {
    while let Some(inquiry) = registration.next().await {
        inquiry.answer(health.to_json().await).await;
    }
}
