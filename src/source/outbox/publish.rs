//! Publishing a batch of rows: those of a channel one after the other, others at the same time.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::order::Order;
use super::recall::Recalled;
use super::row::{Message, Row};
use crate::bus::{Bus, PublishError};
use crate::event::EventId;
use crate::event::decode::Rules;

/// How long after it was fetched a row may be published. Shorter than the time after which PostgreSQL gives up a
/// connection whose network is cut, and the lock with it: by then this instance publishes no more.
const LEASE: Duration = Duration::from_secs(4);

/// What has become of the rows of a batch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) taken: Vec<usize>,
    pub(super) dead: Vec<(usize, String)>,
    /// The last place in the log that one of them has.
    pub(super) last: Option<EventId>,
    pub(super) failed: Option<PublishError>,
}

/// Where rows are published.
pub(super) struct Publisher<'a> {
    pub(super) bus: &'a Bus,
    pub(super) rules: &'a Rules,
    /// Which database the rows are of.
    pub(super) source: &'a str,
    /// What the log has already.
    pub(super) known: &'a Recalled,
}

impl Outcome {
    /// Whether every row is settled.
    pub(super) fn is_done(&self, rows: &[Row]) -> bool {
        self.failed.is_none() && self.taken.len() + self.dead.len() == rows.len()
    }
}

impl Publisher<'_> {
    /// Publishes rows in order, until one fails or the time is up, and waits for all that were.
    pub(super) async fn publish(&self, rows: &[Row], read_at: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let mut messages: Vec<(usize, Message)> = Vec::with_capacity(rows.len());
        for (index, row) in rows.iter().enumerate() {
            match row.message(self.rules, self.source) {
                Ok(message) => messages.push((index, message)),
                Err(reason) => outcome.dead.push((index, reason)),
            }
        }
        let mut order = Order::new(messages.iter().map(|(_, message)| &*message.channels));
        let mut ready = VecDeque::from(order.first());
        let mut running = FuturesUnordered::new();
        loop {
            while outcome.failed.is_none() && read_at.elapsed() < LEASE {
                let Some(next) = ready.pop_front() else { break };
                let message = &messages[next].1;
                running.push(async move { (next, self.store(message).await) });
            }
            let Some((done, result)) = running.next().await else {
                return outcome;
            };
            match result {
                Ok(id) => {
                    outcome.taken.push(messages[done].0);
                    outcome.last = latest(outcome.last, id);
                }
                Err(error @ PublishError::TooLarge(_)) => {
                    outcome.dead.push((messages[done].0, error.to_string()));
                }
                Err(error) => {
                    outcome.failed = Some(error);
                    continue;
                }
            }
            ready.extend(order.done(done));
        }
    }

    /// Publishes a message and waits until the log has it, unless it has it already.
    async fn store(&self, message: &Message) -> Result<EventId, PublishError> {
        if let Some(id) = self.known.get(&message.id) {
            return Ok(*id);
        }
        let (subject, payload) = (&message.subject, message.payload.clone());
        let submitted = self.bus.store(subject, payload, &message.id).await?;
        submitted.taken().await
    }
}

/// The later of two places of the same log, or the one of the newer log.
fn latest(before: Option<EventId>, id: EventId) -> Option<EventId> {
    let place = |id: &EventId| (id.epoch().0, id.position());
    before.into_iter().chain([id]).max_by_key(place)
}
