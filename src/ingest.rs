//! From the bus to the hub: decodes what arrives, in order, and hands it on.
//!
//! One task, because order matters. What can't be decoded is counted, logged within a rate, and
//! stops nothing. Presence needs a look into the database first, so it takes a lane of its own:
//! it is ephemeral, goes out without a position, and is dropped when the lane is full.

mod metrics;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use crate::bus::subject::template;
use crate::bus::{Arrival, Feed, Loss, Message, Passage, Source, Traces};
use crate::event::decode::{Decoded, Rejection, Rules, decode};
use crate::event::{Audience, Channel, Event, EventId, Journey, Recipients, Timestamp, UserId};
use crate::hub::{Delivery, Gap, GapReason, Hub};
use crate::inbox::{Durable, Inbox};
use crate::membership::Membership;
use crate::refresh::Refresh;
use crate::rejections::{self, Rejected, Rejections};
use crate::trace::{Arrived, Parent};
use crate::units::{Period, Size};

pub use metrics::Metrics;
use metrics::{Class, Received};

/// Presence events that wait for the database; more are dropped.
const PRESENCE: usize = 1_024;

/// Between two log lines about rejections for the same reason.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The `events` section of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventsConfig {
    /// A larger payload is rejected.
    pub max_payload: Size,
    /// Time to live of events that name none; 0 keeps them as long as the log.
    pub default_ttl: Period,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            max_payload: Size(256 * 1024),
            default_ttl: Period::secs(0),
        }
    }
}

impl EventsConfig {
    /// The decoder's rules.
    #[must_use]
    pub fn rules(&self, channel_prefix: &str) -> Rules {
        Rules {
            max_payload: self.max_payload.bytes(),
            default_ttl: Some(self.default_ttl.0).filter(|ttl| !ttl.is_zero()),
            channel_prefix: channel_prefix.to_owned(),
        }
    }
}

/// Moves events from the bus to the hub.
#[derive(Debug)]
pub struct Ingest {
    feed: Feed,
    hub: Hub,
    rules: Rules,
    metrics: Metrics,
    received: Received,
    rejections: Rejections,
    logged: RejectionLog,
    presence: mpsc::Sender<Event>,
    refresh: Refresh,
    inbox: Inbox,
    traces: Traces,
}

/// Looks up whom presence events are for.
#[derive(Debug)]
pub struct PresenceLane {
    waiting: mpsc::Receiver<Event>,
    hub: Hub,
    membership: Membership,
    metrics: Metrics,
}

impl Ingest {
    /// The ingest and the lane for presence; both must run.
    #[must_use]
    pub fn new(
        feed: Feed,
        hub: Hub,
        rules: Rules,
        membership: Membership,
        refresh: Refresh,
        (inbox, traces): (Inbox, Traces),
        metrics: Metrics,
    ) -> (Self, PresenceLane) {
        let (presence, waiting) = mpsc::channel(PRESENCE);
        let lane = PresenceLane {
            waiting,
            hub: hub.clone(),
            membership,
            metrics: metrics.clone(),
        };
        let ingest = Self {
            feed,
            hub,
            rules,
            received: metrics.received(),
            metrics,
            rejections: Rejections::default(),
            logged: RejectionLog::default(),
            presence,
            refresh,
            inbox,
            traces,
        };
        (ingest, lane)
    }

    /// What was no event.
    #[must_use]
    pub fn rejections(&self) -> Rejections {
        self.rejections.clone()
    }

    /// Runs until the bus ends.
    pub async fn run(mut self) {
        while let Some(arrival) = self.feed.next().await {
            match arrival {
                Arrival::Message(message) => self.message(&message).await,
                Arrival::Began(origin) => self.hub.restart(origin),
                Arrival::Gap { loss, from, to } => self.gap(loss, from, to).await,
                Arrival::Forgotten(position) => self.hub.forget_up_to(position),
                // Joins and leaves may be among what nobody has stored.
                Arrival::Doubt => self.refresh.request(),
            }
        }
    }

    async fn gap(&self, loss: Loss, from: EventId, to: EventId) {
        let reason = match loss {
            Loss::Disconnected | Loss::Recreated | Loss::Rewound => GapReason::Epoch,
            Loss::Dropped => GapReason::Overflow,
            Loss::Expired => GapReason::Expired,
        };
        let gap = Gap {
            reason,
            from: Some(from),
            to: Some(to),
        };
        self.hub.gap(gap).await;
        // Joins and leaves may be among what was lost.
        self.refresh.request();
    }

    async fn message(&mut self, message: &Message) {
        let journey = match message.passage {
            Passage::Live | Passage::Unlogged(_) => {
                self.traces.tracer.journey(message.trace.as_ref())
            }
            // It was, or would have been, recorded when it was new.
            Passage::Past | Passage::Late(_) => None,
        };
        let decoded = decode(&self.rules, &message.subject, &message.payload, message.at);
        let class = match &decoded {
            Ok(decoded) => Class::of(&decoded.kind),
            Err(_) => Class::Rejected,
        };
        self.received.count(self.feed.source(message), class);
        let journey = journey.map(|(journey, parent)| {
            self.follow(message, &journey, parent, &decoded);
            journey
        });
        match decoded {
            Ok(decoded) => self.decoded(message, decoded, journey).await,
            // It was rejected, and said so, when it was new.
            Err(_) if message.passage == Passage::Past => self.hub.pass(message.id),
            Err(rejection) => self.reject(message, &rejection, journey.as_deref()),
        }
    }

    /// Has the way of an event recorded from here on.
    fn follow(
        &self,
        message: &Message,
        journey: &Arc<Journey>,
        parent: Parent,
        decoded: &Result<Decoded, Rejection>,
    ) {
        journey.decoded(std::time::Instant::now());
        let destination = template(&self.traces.patterns, &message.subject);
        self.traces.tracer.follow(Arrived {
            journey: Arc::clone(journey),
            parent,
            destination: destination.to_owned(),
            system: match self.feed.source(message) {
                Source::Nats | Source::Log => "nats",
                Source::Embedded => "in_process",
            },
            bytes: message.payload.len(),
            event: message.id.map(|id| id.to_string()),
            kind: match decoded {
                Ok(decoded) => Ok(decoded.kind.clone()),
                Err(rejection) => Err(rejection.reason()),
            },
        });
    }

    async fn decoded(&self, message: &Message, decoded: Decoded, journey: Option<Arc<Journey>>) {
        let delivery = match message.passage {
            Passage::Past => {
                if let Some(durable) = durable(message, &decoded) {
                    self.inbox.found(durable);
                }
                return self.hub.remember(Event::new(message.id, decoded));
            }
            Passage::Live => Delivery::Live,
            Passage::Unlogged(number) => Delivery::Unlogged(number),
            Passage::Late(number) => Delivery::Late(number),
        };
        let age = Timestamp::now().since(message.at);
        self.metrics.latency.observe(age);
        let now = std::time::Instant::now();
        let published = now.checked_sub(age).unwrap_or(now);
        let event = |id, decoded| {
            let mut event = Event::new(id, decoded).published_at(published);
            if let Some(journey) = &journey {
                event.frame = event.frame.on_journey(journey);
            }
            event
        };
        if let Recipients::SharingChatWith(_) = decoded.audience.to {
            // It waits for the database while later events go on, so it can't have a place in
            // their order. One that is late has been here.
            let late = matches!(delivery, Delivery::Late(_));
            if !late && self.presence.try_send(event(None, decoded)).is_err() {
                self.metrics.presence_dropped.inc();
            }
        } else {
            let durable = durable(message, &decoded);
            let mut tracked = None;
            if self.hub.is_tracking() {
                tracked = own_id(&message.payload).and_then(|id| self.hub.tracked(&id));
            }
            if let Some(durable) = &durable {
                // Whom it reaches is asked in a moment.
                tracked = self.hub.track_also(&self.inbox.key(durable), tracked);
            }
            let mut event = event(message.id, decoded);
            if let Some(tracked) = tracked {
                event.frame = event.frame.track(&tracked);
            }
            self.hub.deliver(event, delivery).await;
            if let Some(durable) = durable {
                self.inbox.arrived(durable);
            }
        }
    }

    fn reject(&mut self, message: &Message, rejection: &Rejection, journey: Option<&Journey>) {
        let reason = rejection.reason();
        self.metrics.rejected(reason);
        let (id, now) = (message.id, Timestamp::now());
        let rejected = Rejected::new(rejection, id, &message.subject, &message.payload, now);
        self.rejections.note(rejected);
        if let Some(unlogged) = self.logged.admit(reason, Instant::now()) {
            warn!(
                reason,
                subject = &*message.subject,
                problem = rejection.to_string(),
                payload = rejections::excerpt(&message.payload),
                unlogged,
                trace_id = journey.map(|journey| journey.context.trace().to_string()),
                "event rejected"
            );
        }
    }
}

impl PresenceLane {
    /// Runs until the ingest ends. One after the other: a user's `away` must not overtake the
    /// same user's `online`.
    pub async fn run(mut self) {
        while let Some(event) = self.waiting.recv().await {
            let Recipients::SharingChatWith(user) = &event.audience.to else {
                continue;
            };
            match self.membership.chats_of(user).await {
                Ok(chats) => {
                    let to = Recipients::Channels(chats.iter().map(Channel::chat).collect());
                    let audience = Audience {
                        to,
                        except: event.audience.except.clone(),
                    };
                    let event = Event { audience, ..event };
                    self.hub.deliver(event, Delivery::Live).await;
                }
                Err(error) => self.drop_one(user, &error),
            }
        }
    }

    fn drop_one(&self, user: &UserId, error: &crate::database::DatabaseError) {
        self.metrics.presence_dropped.inc();
        tracing::debug!(
            user = user.to_string(),
            error = error.to_string(),
            "presence event dropped"
        );
    }
}

/// What waits for those whom the message names, if it is to. Without a place in the log it does not.
fn durable(message: &Message, decoded: &Decoded) -> Option<Durable> {
    let event = message.id.filter(|_| decoded.waits)?;
    Some(Durable {
        id: own_id(&message.payload).unwrap_or_else(|| event.to_string()),
        event,
        users: decoded.audience.users(),
        subject: Arc::clone(&message.subject),
        payload: message.payload.clone(),
        at: message.at,
        expires_at: decoded.expires_at,
        // Nobody keeps acknowledgements of what was not sent over HTTP.
        per_device: false,
    })
}

/// The id that a message has of its own.
fn own_id(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Own {
        id: serde_json::Value,
    }
    match serde_json::from_slice::<Own>(payload).ok()?.id {
        serde_json::Value::String(id) => Some(id),
        serde_json::Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// Lets one rejection for each reason through in each interval.
#[derive(Debug, Default)]
struct RejectionLog(HashMap<&'static str, (Instant, u64)>);

impl RejectionLog {
    /// Whether to log now, and how many went unlogged since the last one.
    fn admit(&mut self, reason: &'static str, now: Instant) -> Option<u64> {
        match self.0.get_mut(reason) {
            Some((last, unlogged)) if now.duration_since(*last) < LOG_INTERVAL => {
                *unlogged += 1;
                None
            }
            _ => {
                let before = self.0.insert(reason, (now, 0));
                Some(before.map_or(0, |(_, unlogged)| unlogged))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rejections_are_logged_within_a_rate() {
        let mut log = RejectionLog::default();
        assert_eq!(log.admit("malformed", Instant::now()), Some(0));
        for _ in 0..5 {
            assert_eq!(log.admit("malformed", Instant::now()), None);
        }
        assert_eq!(log.admit("not_json", Instant::now()), Some(0));
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!(log.admit("malformed", Instant::now()), Some(5));
    }
}
