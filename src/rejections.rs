//! The last payloads from the bus that were no events, for whoever looks for a mistake in a backend. Every
//! instance gets the same payloads, so each has its own list.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use crate::event::Timestamp;

/// How many are kept; the oldest make room.
const KEPT: usize = 100;

/// The most characters that are kept of each text.
const LONGEST: usize = 400;

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
    /// The kind of reason, from a closed list.
    pub reason: &'static str,
    /// What is wrong, and where.
    pub problem: String,
    /// Where it was published.
    pub subject: String,
    /// Its first bytes, escaped.
    pub payload: String,
}

impl Rejections {
    /// Adds one.
    pub fn note(&self, rejected: Rejected) {
        let rejected = Rejected {
            problem: head(rejected.problem),
            subject: head(rejected.subject),
            payload: head(rejected.payload),
            ..rejected
        };
        let mut list = self.0.lock();
        if list.len() == KEPT {
            list.pop_back();
        }
        list.push_front(rejected);
    }

    /// Whether what stands at this place in the log was rejected.
    #[must_use]
    pub fn has(&self, event_id: &str) -> bool {
        let list = self.0.lock();
        list.iter()
            .any(|rejected| rejected.event_id.as_deref() == Some(event_id))
    }

    /// All that are kept, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Rejected> {
        self.0.lock().iter().cloned().collect()
    }
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
        assert_eq!(list[0].payload.chars().count(), LONGEST + 1);
    }
}
