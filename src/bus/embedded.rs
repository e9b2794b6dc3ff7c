//! The bus within one process: for development, and for teams that have one instance and no NATS.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::log::LocalLog;
use super::receipts::Receipts;
use super::subject::Pattern;
use super::{Arrival, Feed, Message, Passage, PublishError, Source, Status, Traces};
use crate::event::{EventId, Timestamp};
use crate::trace::{Place, Tracer};

/// A bus that ends where it begins.
#[derive(Debug, Clone)]
pub struct EmbeddedBus {
    origin: EventId,
    traces: Traces,
    /// Held while a message is queued, so that positions and the order of the feed agree.
    end: Arc<Mutex<End>>,
}

#[derive(Debug)]
struct End {
    log: LocalLog,
    feed: mpsc::Sender<Arrival>,
    receipts: Receipts,
}

impl EmbeddedBus {
    /// A bus and its feed.
    #[must_use]
    pub fn new(traces: Traces) -> (Self, Feed) {
        let (sender, feed) = Feed::new(Source::Embedded);
        let log = LocalLog::begin(Timestamp::now());
        let bus = Self {
            origin: log.last(),
            traces,
            end: Arc::new(Mutex::new(End {
                log,
                feed: sender,
                receipts: Receipts::default(),
            })),
        };
        (bus, feed)
    }

    pub(super) fn publish(
        &self,
        subject: &str,
        payload: Bytes,
        message_id: Option<&str>,
        traced: Option<&Place>,
    ) -> Result<EventId, PublishError> {
        let mut end = self.end.lock();
        let End {
            log,
            feed,
            receipts,
        } = &mut *end;
        if let Some(before) = message_id.and_then(|id| receipts.find_again(id, Instant::now())) {
            return Ok(before);
        }
        // Reserving before numbering leaves no hole when there is no place.
        let place = feed.try_reserve().map_err(|error| {
            PublishError::Unavailable(match error {
                TrySendError::Full(()) => "it is full, try again".to_owned(),
                TrySendError::Closed(()) => "the server is stopping".to_owned(),
            })
        })?;
        let id = log.append(&payload);
        if let Some(message_id) = message_id {
            receipts.taken(message_id, id, Instant::now());
        }
        place.send(Arrival::Message(Message {
            subject: Arc::from(subject),
            payload,
            id: Some(id),
            at: Timestamp::now(),
            passage: Passage::Live,
            trace: traced.map(|traced| traced.context.clone()),
        }));
        Ok(id)
    }

    pub(super) fn about(&self, message_id: &str) -> Option<(EventId, u32)> {
        self.end.lock().receipts.about(message_id)
    }

    pub(super) fn tracer(&self) -> &Tracer {
        &self.traces.tracer
    }

    pub(super) fn patterns(&self) -> &[Pattern] {
        &self.traces.patterns
    }

    pub(super) fn status(&self) -> Status {
        Status {
            up: true,
            detail: "in-process bus, for a single instance".to_owned(),
        }
    }

    pub(super) fn origin(&self) -> EventId {
        self.origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;

    #[tokio::test]
    async fn what_is_published_arrives_in_order_with_its_position() {
        let (bus, mut feed) = EmbeddedBus::new(Traces::default());
        let bus = Bus::Embedded(bus);
        let publish = |text: &'static str, message_id| {
            let bus = bus.clone();
            async move {
                bus.publish("a.b", Bytes::from(text), message_id, None)
                    .await
            }
        };
        let id = publish("1", Some("first")).await.unwrap();
        assert_eq!(publish("again", Some("first")).await.unwrap(), id);
        publish("2", None).await.unwrap();
        for (position, payload) in [(1, "1"), (2, "2")] {
            let Some(Arrival::Message(message)) = feed.next().await else {
                panic!("a message should have arrived");
            };
            assert_eq!(message.payload, payload);
            assert_eq!(message.id.map(|id| id.position()), Some(position));
        }
        assert_eq!(id.position(), 1);
    }

    #[tokio::test]
    async fn publishing_without_a_reader_is_an_error() {
        let (bus, feed) = EmbeddedBus::new(Traces::default());
        drop(feed);
        let error = bus.publish("a.b", Bytes::new(), None, None).unwrap_err();
        assert!(matches!(error, PublishError::Unavailable(_)));
    }
}
