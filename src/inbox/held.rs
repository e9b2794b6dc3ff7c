//! Messages that another instance attends to, for as long as it can be found out that it is gone. Pure.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::Durable;

/// How long they are held: longer than it takes to miss an instance, and shorter than it is known whom a
/// message was written to.
pub(super) const HELD_FOR: Duration = Duration::from_secs(15);

/// The most messages that are held; the oldest make room.
const MESSAGES: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Held {
    messages: VecDeque<(Instant, Durable)>,
    others: BTreeSet<String>,
}

impl Held {
    pub(super) fn hold(&mut self, message: Durable) {
        if self.messages.len() >= MESSAGES {
            self.messages.pop_front();
        }
        self.messages.push_back((Instant::now(), message));
    }

    /// All that is held, if one of the others that were there is there no more.
    pub(super) fn after_a_loss(&mut self, others: &BTreeSet<String>) -> Vec<Durable> {
        let old = |(since, _): &(Instant, Durable)| since.elapsed() > HELD_FOR;
        while self.messages.front().is_some_and(old) {
            self.messages.pop_front();
        }
        let lost = !self.others.is_subset(others);
        self.others.clone_from(others);
        match lost {
            true => self.messages.iter().map(|(_, held)| held.clone()).collect(),
            false => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Epoch, EventId, Timestamp};

    #[test]
    fn what_is_held_comes_out_when_somebody_is_gone() {
        let mut held = Held::default();
        let both = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert!(held.after_a_loss(&both).is_empty());
        held.hold(Durable {
            id: "1".to_owned(),
            event: EventId::unknown(Epoch(1), 1),
            users: Vec::new(),
            subject: "s".into(),
            payload: "{}".into(),
            at: Timestamp::now(),
            expires_at: None,
            per_device: false,
        });
        assert!(held.after_a_loss(&both).is_empty());
        let one = BTreeSet::from(["a".to_owned()]);
        assert_eq!(held.after_a_loss(&one).len(), 1);
        assert!(held.after_a_loss(&one).is_empty(), "once for each loss");
    }
}
