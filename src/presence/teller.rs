//! Tells the sessions of this instance who came and who went: one user after the other, so that what is
//! told of a user is in order, and no more at a time than leaves room for other events.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tracing::debug;

use super::metrics::Untold;
use super::roster::Transition;
use super::{Metrics, Presence, PresenceConfig};
use crate::database::DatabaseError;
use crate::event::decode::Decoded;
use crate::event::{Audience, Channel, ChatId, Class, Event, Timestamp, UserId};
use crate::hub::{Delivery, Hub};
use crate::membership::Membership;

/// Deliveries that presence may make in a second: about a tenth of a core. To find out whom to tell costs
/// as much as ten.
const RATE: u32 = 25_000;
const FINDING_OUT: u32 = 10;

/// Shorter pauses are made together.
const PAUSE: Duration = Duration::from_millis(5);

/// How often the chats of a user are looked up before nobody is told, once a second.
const TRIES: u32 = 30;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// The outgoing type.
const KIND: &str = "user_presence";

/// Tells who came and who went; it must run.
#[derive(Debug)]
pub struct Teller {
    presence: Presence,
    hub: Hub,
    membership: Membership,
    max_listeners: usize,
    metrics: Metrics,
}

/// As a backend's `UserPresence` goes out.
#[derive(Serialize)]
struct UserPresence<'a> {
    r#type: &'static str,
    user_id: &'a UserId,
    status: &'static str,
    last_seen: Option<Timestamp>,
    timestamp: Timestamp,
}

impl Teller {
    /// Tells what `presence` knows to the sessions of `hub`.
    #[must_use]
    pub fn new(
        presence: &Presence,
        hub: &Hub,
        membership: &Membership,
        config: &PresenceConfig,
    ) -> Self {
        let metrics = presence.0.metrics.clone();
        Self {
            presence: presence.clone(),
            hub: hub.clone(),
            membership: membership.clone(),
            max_listeners: config.max_listeners,
            metrics,
        }
    }

    /// Runs until the server stops.
    pub async fn run(self) {
        let mut free_at = Instant::now();
        loop {
            let transition = self.presence.transition().await;
            let deliveries = self.tell(&transition).await;
            let now = Instant::now();
            free_at = free_at.max(now) + cost(deliveries);
            if free_at > now + PAUSE {
                tokio::time::sleep_until(free_at).await;
            }
        }
    }

    /// Tells those who share a chat; gives how many sessions that are at most.
    async fn tell(&self, transition: &Transition) -> usize {
        if self.hub.admission().total() == 0 {
            return 0;
        }
        let Some(chats) = self.chats_of(transition).await else {
            return 0;
        };
        let channels: Vec<Channel> = chats.iter().map(Channel::chat).collect();
        let listeners = self.hub.listeners(channels.clone()).await;
        let mut deliveries = 0;
        let mut crowded = false;
        let mut to = Vec::new();
        for (channel, listeners) in channels.into_iter().zip(listeners) {
            if listeners > self.max_listeners {
                crowded = true;
            } else if listeners > 0 {
                deliveries += listeners;
                to.push(channel);
            }
        }
        if crowded {
            self.metrics.untold(Untold::Crowd);
        }
        if !to.is_empty()
            && let Some(event) = event(transition, to)
        {
            self.hub.deliver(event, Delivery::Live).await;
            self.metrics.told(status(transition));
        }
        deliveries
    }

    /// The chats that a user is in, if that can be found out before it does not matter any more.
    async fn chats_of(&self, transition: &Transition) -> Option<Vec<ChatId>> {
        let user = &transition.user;
        if transition.last_seen.is_none()
            && let Some(chats) = self.hub.chats_here(user).await
        {
            return Some(chats);
        }
        for _ in 0..TRIES {
            match self.membership.chats_of(user).await {
                Ok(chats) => return Some(chats),
                Err(error) => {
                    debug!(
                        user = user.to_string(),
                        error = error.to_string(),
                        "whom to tell of a user can't be looked up"
                    );
                    if !may_pass(&error) {
                        break;
                    }
                }
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
            if !self.presence.still_holds(transition) {
                // The opposite will be told.
                return None;
            }
        }
        self.metrics.untold(Untold::Lookup);
        None
    }
}

/// The time that so many deliveries may take.
fn cost(deliveries: usize) -> Duration {
    let deliveries = u32::try_from(deliveries).unwrap_or(u32::MAX);
    (Duration::from_secs(1) / RATE).saturating_mul(deliveries.saturating_add(FINDING_OUT))
}

/// Whether an error may be gone in a while.
fn may_pass(error: &DatabaseError) -> bool {
    matches!(
        error,
        DatabaseError::Timeout(_) | DatabaseError::Busy | DatabaseError::Failed(_)
    )
}

fn status(transition: &Transition) -> &'static str {
    match transition.last_seen {
        None => "online",
        Some(_) => "offline",
    }
}

fn event(transition: &Transition, to: Vec<Channel>) -> Option<Event> {
    let json = serde_json::to_vec(&UserPresence {
        r#type: KIND,
        user_id: &transition.user,
        status: status(transition),
        last_seen: transition.last_seen,
        timestamp: Timestamp::now(),
    });
    let decoded = Decoded {
        kind: KIND.to_owned(),
        class: Class::Ephemeral,
        audience: Audience::channels(to).except(transition.user.clone()),
        membership: None,
        expires_at: None,
        waits: false,
        // Plain structs of text and numbers always serialize.
        json: json.ok()?,
    };
    Some(Event::new(None, decoded))
}
