//! The last payloads from the bus that were no events, for whoever looks for a mistake in a backend. Every
//! instance gets the same payloads, so each has its own list.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::event::decode::Rejection;
use crate::event::{EventId, Timestamp};

/// How many are kept; the oldest make room.
const KEPT: usize = 100;

/// The most characters that are kept of each text.
const LONGEST: usize = 400;

/// How many bytes of a payload are kept, and logged.
const EXCERPT: usize = 120;

/// The most ids of a payload that are kept, and the longest, in bytes.
const IDS: usize = 4;
const LONGEST_ID: usize = 200;

/// The largest payload, in bytes, that is looked through for them: a rejected event must not cost more than a good one.
const READ_FOR_IDS: usize = 16 * 1024;

/// How deep in a payload its id may stand: in the message of a variant.
const DEPTH: usize = 2;

/// The list. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Rejections(Arc<Mutex<VecDeque<Rejected>>>);

/// A payload that was rejected.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Rejected {
    /// When.
    pub at: Timestamp,
    /// The place in the log that it has, in the form of an event's id on streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub event_id: Option<String>,
    /// The ids that its publisher gave it, as far as that can be read from what is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub ids: Vec<String>,
    /// The kind of reason, from a closed list.
    pub reason: &'static str,
    /// What is wrong, and where.
    pub problem: String,
    /// Where it was published.
    pub subject: String,
    /// Its first bytes, escaped.
    pub payload: String,
}

impl Rejected {
    /// What a payload was rejected for that came at a time, at a place of the log if it has one.
    #[must_use]
    pub fn new(
        rejection: &Rejection,
        id: Option<EventId>,
        subject: &str,
        payload: &[u8],
        at: Timestamp,
    ) -> Self {
        let ids = match rejection {
            // Those are not read.
            Rejection::TooLarge { .. } | Rejection::NotJson(_) => Vec::new(),
            Rejection::NoAudience | Rejection::Malformed { .. } => ids_in(payload),
        };
        Self {
            at,
            event_id: id.map(|id| id.to_string()),
            ids,
            reason: rejection.reason(),
            problem: head(rejection.to_string()),
            subject: head(subject.to_owned()),
            payload: excerpt(payload),
        }
    }
}

impl Rejections {
    /// Adds one.
    pub fn note(&self, rejected: Rejected) {
        let mut list = self.0.lock();
        if list.len() == KEPT {
            list.pop_back();
        }
        list.push_front(rejected);
    }

    /// What was rejected and has this id: of its place in the log, or one that its publisher gave it. The newest.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Rejected> {
        let list = self.0.lock();
        let mut list = list.iter();
        let found = list.find(|rejected| {
            let placed = rejected.event_id.as_deref() == Some(id);
            placed || rejected.ids.iter().any(|own| own == id)
        });
        found.cloned()
    }

    /// All that are kept, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Rejected> {
        self.0.lock().iter().cloned().collect()
    }
}

/// The ids that a payload has of its own: at the top, in its message, or in either of them within a variant.
fn ids_in(payload: &[u8]) -> Vec<String> {
    let mut ids = Vec::new();
    if payload.len() <= READ_FOR_IDS
        && let Ok(Value::Object(payload)) = serde_json::from_slice(payload)
    {
        collect(&payload, DEPTH, &mut ids);
    }
    ids.truncate(IDS);
    ids
}

fn collect(object: &Map<String, Value>, depth: usize, ids: &mut Vec<String>) {
    let own = ["id", "message_id"]
        .into_iter()
        .filter_map(|key| object.get(key));
    let own = own.filter_map(|id| match id {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    });
    ids.extend(own.filter(|id| (1..=LONGEST_ID).contains(&id.len())));
    let variant = object.values().next().filter(|_| object.len() == 1);
    let inner = object.get("message").or(variant);
    if let (1.., Some(Value::Object(inner))) = (depth, inner) {
        collect(inner, depth - 1, ids);
    }
}

/// The first bytes of a payload, as text that can't forge a log line.
pub(crate) fn excerpt(payload: &[u8]) -> String {
    let head = &payload[..payload.len().min(EXCERPT)];
    let mut text = String::with_capacity(head.len());
    for letter in String::from_utf8_lossy(head).chars() {
        match letter {
            // JSON is full of them, and they end no line.
            '"' | '\'' | '\\' => text.push(letter),
            _ => text.extend(letter.escape_debug()),
        }
    }
    text
}

fn head(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(problem: &str) -> Rejected {
        Rejected {
            at: Timestamp::now(),
            event_id: None,
            ids: vec![problem.to_owned()],
            reason: "not_json",
            problem: problem.to_owned(),
            subject: "a.b".to_owned(),
            payload: "项".repeat(1_000),
        }
    }

    #[test]
    fn the_newest_are_kept_and_cut() {
        let rejections = Rejections::default();
        for number in 0..250 {
            rejections.note(rejected(&number.to_string()));
        }
        let list = rejections.list();
        assert_eq!(list.len(), KEPT);
        assert_eq!(list[0].problem, "249");
        assert_eq!(list[KEPT - 1].problem, "150");
        assert!(rejections.find("149").is_none());
        let found = rejections.find("150").map(|found| found.problem);
        assert_eq!(found.as_deref(), Some("150"));
    }

    #[test]
    fn ids_are_read_where_publishers_write_them() {
        let variant = r#"{"MessageReceived":{"message":{"id":77,"content":"m"},"chat_id":"?"}}"#;
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(LONGEST_ID + 1));
        for (payload, ids) in [
            (r#"{"id":"m-1","data":{"id":"inner"}}"#, &["m-1"][..]),
            (r#"{"event_type":"message_deleted","message_id":5}"#, &["5"]),
            (variant, &["77"]),
            (r#"{"id":{"a":1}}"#, &[]),
            (r#"{"a":{"b":{"c":{"id":1}}}}"#, &[]),
            (r#"[{"id":1}]"#, &[]),
            ("{", &[]),
            (&long, &[]),
        ] {
            assert_eq!(ids_in(payload.as_bytes()), ids, "{payload}");
        }
    }

    #[test]
    fn what_is_rejected_is_cut() {
        let rejection = Rejection::NotJson("项".repeat(1_000));
        let now = Timestamp::now();
        let rejected = Rejected::new(&rejection, None, &"a".repeat(1_000), &[b'{'; 1_000], now);
        assert_eq!(rejected.problem.chars().count(), LONGEST + 1);
        assert_eq!(rejected.subject.chars().count(), LONGEST + 1);
        assert_eq!(rejected.payload.len(), EXCERPT);
        assert!(rejected.ids.is_empty());
    }

    #[test]
    fn an_excerpt_can_be_read_and_is_one_line() {
        assert_eq!(excerpt("{\"名\":\"a\\b\"}".as_bytes()), "{\"名\":\"a\\b\"}");
        let hostile = "\r\nERROR forged\u{2028}\u{202e}\u{1b}[2J\u{0}".as_bytes();
        let text = excerpt(hostile);
        assert!(!text.contains(char::is_control), "{text}");
        assert!(!text.contains(['\u{2028}', '\u{202e}']), "{text}");
        assert_eq!(excerpt(b"\xff{"), "\u{fffd}{");
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        let text = excerpt(&[b'\n'; 1000]);
        assert_eq!(text, "\\n".repeat(EXCERPT));
    }
}
