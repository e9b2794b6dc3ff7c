//! An event's bytes on the wire: one `text/event-stream` event, encoded once for all receivers.

use std::fmt::Write as _;
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::journey::Journey;
use super::position::EventId;
use super::timestamp::Timestamp;
use super::tracked::Tracked;

/// How much an event matters when not everything can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Kept, replayed, and worth ending a session that can't take it.
    Durable,
    /// Never replayed and the first to be shed: typing, presence.
    Ephemeral,
}

/// Encoded bytes that any number of outboxes share.
#[derive(Debug, Clone)]
pub struct Frame(Arc<Encoded>);

#[derive(Debug)]
struct Encoded {
    bytes: Bytes,
    /// Where the frame starts for streams of unnamed events: behind the `event:` line.
    unnamed_from: usize,
    class: Class,
    expires_at: Option<Timestamp>,
    /// When the event was published, by the clock of this process, where that is worth measuring.
    published: Option<Instant>,
    /// Whether it counts as an event sent, as pings and notices do not.
    counted: bool,
    /// Whom it was written to, for as long as somebody wants to know: frames are kept much longer.
    tracked: Option<Weak<Tracked>>,
    /// What is recorded of the event's way, while that goes on.
    journey: Option<Weak<Journey>>,
    /// Told when the frame is written, where it goes to one session only.
    receipt: Option<Box<Receipt>>,
}

/// Who waits for one frame to be written to one session.
type Receipt = Mutex<Option<oneshot::Sender<()>>>;

impl Frame {
    /// Encodes an event; `json` is one JSON value.
    #[must_use]
    pub fn event(
        id: Option<&EventId>,
        kind: &str,
        json: &[u8],
        class: Class,
        expires_at: Option<Timestamp>,
    ) -> Self {
        Self::encode(id, kind, json, class, expires_at, true)
    }

    /// Encodes something the server itself says to one session or to all, e.g. `ping`.
    #[must_use]
    pub fn notice(id: Option<&EventId>, kind: &str, json: &[u8]) -> Self {
        Self::encode(id, kind, json, Class::Durable, None, false)
    }

    /// The same frame with the moment at which its event was published. For one that nobody shares yet;
    /// another stays as it is.
    #[must_use]
    pub fn published_at(mut self, at: Instant) -> Self {
        if let Some(encoded) = Arc::get_mut(&mut self.0) {
            encoded.published = Some(at);
        }
        self
    }

    /// The same frame, whose way is recorded. For one that nobody shares yet; another stays as it is.
    #[must_use]
    pub fn on_journey(mut self, journey: &Arc<Journey>) -> Self {
        if let Some(encoded) = Arc::get_mut(&mut self.0) {
            encoded.journey = Some(Arc::downgrade(journey));
        }
        self
    }

    /// Where the event's way is recorded, if it is.
    #[must_use]
    pub fn journey(&self) -> Option<Arc<Journey>> {
        self.0.journey.as_ref()?.upgrade()
    }

    /// Whether the two are one and the same.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// When the event was published, by the clock of this process; `None` where that is not measured.
    #[must_use]
    pub fn published(&self) -> Option<Instant> {
        self.0.published
    }

    /// A block that sets the client's reconnection time and dispatches no event.
    #[must_use]
    pub fn retry(retry_ms: u64) -> Self {
        Self(Arc::new(Encoded {
            bytes: Bytes::from(format!("retry: {retry_ms}\n\n")),
            unnamed_from: 0,
            class: Class::Durable,
            expires_at: None,
            published: None,
            counted: false,
            tracked: None,
            journey: None,
            receipt: None,
        }))
    }

    /// A comment, which no client sees: it shows whether anybody still reads.
    #[must_use]
    pub fn beat() -> Self {
        Self(Arc::new(Encoded {
            bytes: Bytes::from_static(b":\n\n"),
            unnamed_from: 0,
            class: Class::Ephemeral,
            expires_at: None,
            published: None,
            counted: false,
            tracked: None,
            journey: None,
            receipt: None,
        }))
    }

    /// A block that moves the client's last event id and dispatches no event.
    #[must_use]
    pub fn position(id: &EventId) -> Self {
        Self(Arc::new(Encoded {
            bytes: Bytes::from(format!("id: {id}\n\n")),
            unnamed_from: 0,
            class: Class::Ephemeral,
            expires_at: None,
            published: None,
            counted: false,
            tracked: None,
            journey: None,
            receipt: None,
        }))
    }

    /// The same notice with a `retry:` field of its own.
    #[must_use]
    pub fn with_retry(&self, retry_ms: u64) -> Self {
        let encoded = &*self.0;
        let (name, rest) = encoded.bytes.split_at(encoded.unnamed_from);
        let retry = format!("retry: {retry_ms}\n");
        let bytes = [name, retry.as_bytes(), rest].concat();
        Self(Arc::new(Encoded {
            bytes: Bytes::from(bytes),
            tracked: None,
            journey: None,
            receipt: None,
            ..*encoded
        }))
    }

    /// The same frame, of which it is noted whom it is written to.
    #[must_use]
    pub fn track(&self, tracked: &Arc<Tracked>) -> Self {
        let encoded = &*self.0;
        Self(Arc::new(Encoded {
            bytes: encoded.bytes.clone(),
            tracked: Some(Arc::downgrade(tracked)),
            journey: encoded.journey.clone(),
            receipt: None,
            ..*encoded
        }))
    }

    /// The same frame for one session, and what tells when it has been written there; a frame that is
    /// dropped instead ends the wait with an error.
    #[must_use]
    pub fn registered(&self) -> (Self, oneshot::Receiver<()>) {
        let encoded = &*self.0;
        let (receipt, written) = oneshot::channel();
        let frame = Self(Arc::new(Encoded {
            bytes: encoded.bytes.clone(),
            // It has waited, and not on its way.
            published: None,
            tracked: None,
            journey: None,
            receipt: Some(Box::new(Mutex::new(Some(receipt)))),
            ..*encoded
        }));
        (frame, written)
    }

    /// Who waits for the frame to be written, the first time that somebody asks.
    #[must_use]
    pub fn take_receipt(&self) -> Option<oneshot::Sender<()>> {
        self.0.receipt.as_ref()?.lock().take()
    }

    /// Where it is noted whom the frame is written to.
    #[must_use]
    pub fn tracked(&self) -> Option<Arc<Tracked>> {
        self.0.tracked.as_ref()?.upgrade()
    }

    fn encode(
        id: Option<&EventId>,
        kind: &str,
        json: &[u8],
        class: Class,
        expires_at: Option<Timestamp>,
        counted: bool,
    ) -> Self {
        let mut head = String::with_capacity(96);
        head.push_str("event: ");
        // The name is a field's value: a line break in it would begin another field.
        head.extend(kind.chars().filter(|c| !matches!(c, '\r' | '\n' | '\0')));
        head.push('\n');
        let unnamed_from = head.len();
        if let Some(id) = id {
            // Writing to a String can't fail.
            let _ = writeln!(head, "id: {id}");
        }
        let mut bytes = Vec::with_capacity(head.len() + json.len() + 8);
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(b"data: ");
        push_one_line(&mut bytes, json);
        bytes.extend_from_slice(b"\n\n");
        Self(Arc::new(Encoded {
            bytes: Bytes::from(bytes),
            unnamed_from,
            class,
            expires_at,
            published: None,
            counted,
            tracked: None,
            journey: None,
            receipt: None,
        }))
    }

    /// The bytes for a stream of named or of unnamed events.
    #[must_use]
    pub fn bytes(&self, named: bool) -> Bytes {
        if named {
            self.0.bytes.clone()
        } else {
            self.0.bytes.slice(self.0.unnamed_from..)
        }
    }

    /// The same without a reference to the frame.
    #[must_use]
    pub fn as_slice(&self, named: bool) -> &[u8] {
        let from = if named { 0 } else { self.0.unnamed_from };
        &self.0.bytes[from..]
    }

    /// The id that the frame moves its client to.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.field("id: ")
    }

    /// The name of the event; empty where there is none.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.field("event: ").unwrap_or("")
    }

    /// The event's JSON; empty where there is none.
    #[must_use]
    pub fn json(&self) -> Bytes {
        let bytes = &self.0.bytes;
        let mark = b"data: ";
        let start = memchr::memmem::find(bytes, b"\ndata: ").map(|at| at + 1 + mark.len());
        start.map_or_else(Bytes::new, |start| bytes.slice(start..bytes.len() - 2))
    }

    /// The value of a field that stands before the data.
    fn field(&self, name: &str) -> Option<&str> {
        let lines = self.0.bytes.split(|byte| *byte == b'\n');
        let head = lines.take_while(|line| !line.starts_with(b"data: "));
        let mut values = head.filter_map(|line| line.strip_prefix(name.as_bytes()));
        std::str::from_utf8(values.next()?).ok()
    }

    /// What the frame takes in an outbox, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.bytes.len()
    }

    /// Whether the frame has no bytes; it never has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.bytes.is_empty()
    }

    /// How much the event matters.
    #[must_use]
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// Whether it is an event, and not a ping or a notice.
    #[must_use]
    pub fn is_event(&self) -> bool {
        self.0.counted
    }

    /// When the event's time to live ends, if it has one.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.0.expires_at
    }

    /// What tells it from all other frames that exist at the same time.
    #[must_use]
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Whether the event's time to live has passed at `now`.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.0.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether the event has a time to live at all.
    #[must_use]
    pub fn expires(&self) -> bool {
        self.0.expires_at.is_some()
    }
}

/// Appends JSON on one line. Raw line breaks can only be white space between its tokens, since
/// JSON escapes them in strings, so leaving them out changes nothing.
fn push_one_line(bytes: &mut Vec<u8>, json: &[u8]) {
    let mut rest = json;
    while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
        bytes.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
    }
    bytes.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Epoch;

    fn text(frame: &Frame, named: bool) -> String {
        String::from_utf8(frame.bytes(named).to_vec()).unwrap()
    }

    #[test]
    fn named_and_unnamed_share_their_bytes() {
        let id = EventId::new(Epoch(7), 3, b"x");
        let frame = Frame::event(
            Some(&id),
            "job.progress",
            br#"{"a":1}"#,
            Class::Durable,
            None,
        );
        let unnamed = format!("id: {id}\ndata: {{\"a\":1}}\n\n");
        assert_eq!(text(&frame, false), unnamed);
        assert_eq!(
            text(&frame, true),
            format!("event: job.progress\n{unnamed}")
        );
    }

    #[test]
    fn a_frame_can_be_taken_apart() {
        let id = EventId::new(Epoch(7), 3, b"x");
        let frame = Frame::event(Some(&id), "t", br#"{"a":"id: 1"}"#, Class::Durable, None);
        assert_eq!(frame.id(), Some(id.to_string().as_str()));
        assert_eq!(frame.kind(), "t");
        assert_eq!(frame.json(), r#"{"a":"id: 1"}"#);
        let retry = Frame::retry(5);
        assert_eq!(
            (retry.id(), retry.kind(), retry.json().len()),
            (None, "", 0)
        );
        assert_eq!(Frame::position(&id).id(), Some(id.to_string().as_str()));
    }

    #[test]
    fn line_breaks_can_not_leave_their_field() {
        let frame = Frame::event(None, "a\nid: 1", b"{\r\n \"a\": 1\n}", Class::Durable, None);
        assert_eq!(text(&frame, true), "event: aid: 1\ndata: { \"a\": 1}\n\n");
    }

    #[test]
    fn retry_stands_behind_the_name() {
        let frame = Frame::notice(None, "closing", b"{}").with_retry(40);
        assert_eq!(
            text(&frame, true),
            "event: closing\nretry: 40\ndata: {}\n\n"
        );
        assert_eq!(text(&frame, false), "retry: 40\ndata: {}\n\n");
    }
}
