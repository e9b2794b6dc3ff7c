//! What has become of messages that were published with an id of their own: where the log has put
//! them, and who waits to hear it.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::PublishError;
use super::keyed_queue::KeyedQueue;
use crate::event::EventId;
use crate::trace::Span;

/// For how long the same message id means the same message. JetStream's own window, unless the
/// stream was made with another one.
const WINDOW: Duration = Duration::from_secs(120);

/// The most message ids that are remembered.
const REMEMBERED: usize = 262_144;

/// How long the log may take to say that it has a message.
const PATIENCE: Duration = Duration::from_secs(4);

/// When there are more that wait, those who have given up are looked for.
const WAITING: usize = 1_024;

/// Remembers where messages went. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Receipts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    keys: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: KeyedQueue<EventId>,
    /// How often messages came again.
    repeated: KeyedQueue<u32>,
    waiting: HashMap<u64, Vec<oneshot::Sender<EventId>>, RandomState>,
}

/// A payload that was published, and that the log may have.
#[derive(Debug)]
pub struct Submitted {
    receipt: Receipt,
    /// Of sending it, where that is recorded.
    span: Option<Span>,
}

#[derive(Debug)]
enum Receipt {
    Known(EventId),
    Expected(oneshot::Receiver<EventId>, tokio::time::Instant),
}

impl Submitted {
    /// One whose place is known already.
    pub(super) fn known(id: EventId) -> Self {
        Self::of(Receipt::Known(id))
    }

    /// One whose place will be told.
    pub(super) fn expected(receipt: oneshot::Receiver<EventId>) -> Self {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        Self::of(Receipt::Expected(receipt, deadline))
    }

    fn of(receipt: Receipt) -> Self {
        Self {
            receipt,
            span: None,
        }
    }

    /// The same, with the span that is over when it is known what became of it.
    pub(super) fn traced(self, span: Span) -> Self {
        Self {
            span: Some(span),
            ..self
        }
    }

    /// Whether the log had the payload before, so that it is not delivered again.
    #[must_use]
    pub fn is_repeated(&self) -> bool {
        matches!(self.receipt, Receipt::Known(_))
    }

    /// Waits until the log has the payload; gives its place there.
    ///
    /// # Errors
    /// The log does not say so in time. It may have the payload all the same: with the same
    /// `message_id` it can be published again without harm.
    pub async fn taken(self) -> Result<EventId, PublishError> {
        let taken = Self::wait(self.receipt).await;
        if let Some(mut span) = self.span {
            match &taken {
                Ok(id) => span.set("notify.event.id", id.to_string()),
                Err(error) => span.fail(error.kind()),
            }
        }
        taken
    }

    async fn wait(receipt: Receipt) -> Result<EventId, PublishError> {
        let (receipt, deadline) = match receipt {
            Receipt::Known(id) => return Ok(id),
            Receipt::Expected(receipt, deadline) => (receipt, deadline),
        };
        match tokio::time::timeout_at(deadline, receipt).await {
            Ok(Ok(id)) => Ok(id),
            Ok(Err(_)) => Err(PublishError::Unavailable(
                "the server is stopping".to_owned(),
            )),
            Err(_) => Err(PublishError::Unavailable(
                "the log does not say that it has the message, so that it may be lost: publish it again"
                    .to_owned(),
            )),
        }
    }
}

impl Receipts {
    /// The log has put a message at `id`.
    pub(super) fn taken(&self, message_id: &str, id: EventId, now: Instant) {
        let key = self.key(message_id);
        let mut state = self.0.state.lock();
        for waiting in state.waiting.remove(&key).into_iter().flatten() {
            // Whoever has given up does not need it.
            let _ = waiting.send(id);
        }
        state.known.push(key, now, id);
        if let Some(deadline) = now.checked_sub(WINDOW) {
            while state.known.pop_until(deadline).is_some() {}
        }
        while state.known.len() > REMEMBERED {
            state.known.pop();
        }
    }

    /// Where the log has put a message of that id lately, which has come again.
    pub(super) fn find_again(&self, message_id: &str, now: Instant) -> Option<EventId> {
        let key = self.key(message_id);
        let mut state = self.0.state.lock();
        let id = state.known.get(key).copied()?;
        let times = state.repeated.take(key).unwrap_or_default();
        state.repeated.push(key, now, times.saturating_add(1));
        if let Some(deadline) = now.checked_sub(WINDOW) {
            while state.repeated.pop_until(deadline).is_some() {}
        }
        while state.repeated.len() > REMEMBERED {
            state.repeated.pop();
        }
        Some(id)
    }

    /// Where the log has put a message of that id lately, and how often it came again.
    pub(super) fn about(&self, message_id: &str) -> Option<(EventId, u32)> {
        let key = self.key(message_id);
        let state = self.0.state.lock();
        let id = state.known.get(key).copied()?;
        Some((id, state.repeated.get(key).copied().unwrap_or_default()))
    }

    /// Tells where the log puts a message, once it does.
    pub(super) fn wait(&self, message_id: &str) -> oneshot::Receiver<EventId> {
        let (sender, receiver) = oneshot::channel();
        let key = self.key(message_id);
        let mut state = self.0.state.lock();
        if state.waiting.len() >= WAITING {
            state.waiting.retain(|_, waiting| {
                waiting.retain(|sender| !sender.is_closed());
                !waiting.is_empty()
            });
        }
        state.waiting.entry(key).or_default().push(sender);
        receiver
    }

    /// Forgets all places: they are of a log that is no more.
    pub(super) fn forget(&self) {
        let mut state = self.0.state.lock();
        state.known = KeyedQueue::default();
        state.repeated = KeyedQueue::default();
    }

    fn key(&self, message_id: &str) -> u64 {
        self.0.keys.hash_one(message_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Epoch;

    fn id(position: u64) -> EventId {
        EventId::new(Epoch(1), position, b"x")
    }

    fn place(receipts: &Receipts, message_id: &str) -> Option<EventId> {
        receipts.about(message_id).map(|(id, _)| id)
    }

    #[tokio::test]
    async fn who_waits_hears_where_the_message_went() {
        let receipts = Receipts::default();
        let (first, second) = (receipts.wait("a"), receipts.wait("a"));
        assert_eq!(place(&receipts, "a"), None);
        receipts.taken("a", id(7), Instant::now());
        assert_eq!((first.await, second.await), (Ok(id(7)), Ok(id(7))));
        assert_eq!(place(&receipts, "a"), Some(id(7)));
        assert_eq!(place(&receipts, "b"), None);
        receipts.forget();
        assert_eq!(place(&receipts, "a"), None);
    }

    #[test]
    fn messages_that_come_again_are_counted() {
        let receipts = Receipts::default();
        let now = Instant::now();
        assert_eq!(receipts.find_again("a", now), None);
        receipts.taken("a", id(1), now);
        assert_eq!(receipts.about("a"), Some((id(1), 0)));
        for times in 1..=2 {
            assert_eq!(receipts.find_again("a", now), Some(id(1)));
            assert_eq!(receipts.about("a"), Some((id(1), times)));
        }
    }

    #[test]
    fn ids_are_forgotten_after_the_window() {
        let receipts = Receipts::default();
        let start = Instant::now();
        receipts.taken("a", id(1), start);
        receipts.taken("b", id(2), start + WINDOW + Duration::from_secs(1));
        assert_eq!(place(&receipts, "a"), None);
        assert_eq!(place(&receipts, "b"), Some(id(2)));
    }

    #[test]
    fn those_who_gave_up_do_not_pile_up() {
        let receipts = Receipts::default();
        for number in 0..WAITING * 3 {
            drop(receipts.wait(&number.to_string()));
        }
        assert!(receipts.0.state.lock().waiting.len() <= WAITING + 1);
    }
}
