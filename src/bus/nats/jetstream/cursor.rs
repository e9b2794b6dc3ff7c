//! How far this instance has come in the log, and whether what comes next follows. Pure.

use std::collections::VecDeque;

use crate::event::{Epoch, EventId};

/// How many checks of past positions are kept, to tell a position that comes again from one that
/// a rolled back log uses for something else.
const REMEMBERED: usize = 4_096;

/// Where an id stands as seen from the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Right behind it.
    Next,
    /// Further on: there is a hole.
    Ahead,
    /// It was there, and it was this.
    Known,
    /// It was there, and it was something else: the log has been rolled back.
    Conflict,
}

/// The last position that was taken, and what stood there and shortly before.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    last: EventId,
    /// Of the positions up to the last, the newest at the back; 0 where it is not known.
    checks: VecDeque<u16>,
}

impl Cursor {
    /// A cursor that has taken everything up to `last`.
    pub(super) fn at(last: EventId) -> Self {
        Self {
            last,
            checks: VecDeque::new(),
        }
    }

    /// The log's epoch.
    pub(super) fn epoch(&self) -> Epoch {
        self.last.epoch()
    }

    /// The last id that was taken.
    pub(super) fn last(&self) -> EventId {
        self.last
    }

    /// The last position that was taken.
    pub(super) fn position(&self) -> u64 {
        self.last.position()
    }

    /// The first position of which the check is remembered, or the last position.
    pub(super) fn remembers_from(&self) -> u64 {
        (self.position() + 1 - self.checks.len() as u64).min(self.position())
    }

    /// Where an id of the same epoch stands.
    pub(super) fn place(&self, id: EventId) -> Place {
        let position = id.position();
        if position > self.position() {
            return if position == self.position() + 1 {
                Place::Next
            } else {
                Place::Ahead
            };
        }
        match self.at_position(position) {
            Some(known) if known.contradicts(id) => Place::Conflict,
            _ => Place::Known,
        }
    }

    /// Takes an id that lies ahead; what is skipped is not in the log any more.
    pub(super) fn advance(&mut self, id: EventId) {
        let skipped = id.position().saturating_sub(self.position() + 1);
        if skipped >= REMEMBERED as u64 {
            self.checks.clear();
        } else {
            self.checks.extend((0..skipped).map(|_| 0));
        }
        self.checks.push_back(id.check());
        while self.checks.len() > REMEMBERED {
            self.checks.pop_front();
        }
        self.last = id;
    }

    /// Goes back to a position, as the log did. Gives the id there.
    pub(super) fn rewind(&mut self, position: u64) -> EventId {
        let to = self
            .at_position(position)
            .unwrap_or_else(|| EventId::unknown(self.epoch(), position));
        let back = usize::try_from(self.position().saturating_sub(position)).unwrap_or(usize::MAX);
        let keep = self.checks.len().saturating_sub(back);
        self.checks.truncate(keep);
        self.last = to;
        to
    }

    /// The id at a position that was taken, as far as it is remembered.
    fn at_position(&self, position: u64) -> Option<EventId> {
        let back = usize::try_from(self.position().checked_sub(position)?).ok()?;
        if back == 0 {
            return Some(self.last);
        }
        let index = self.checks.len().checked_sub(back + 1)?;
        let check = *self.checks.get(index)?;
        Some(EventId::with_check(self.epoch(), position, check))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EPOCH: Epoch = Epoch(7);

    fn id(position: u64, text: &str) -> EventId {
        EventId::new(EPOCH, position, text.as_bytes())
    }

    #[test]
    fn what_follows_what_is_missing_and_what_was_there_are_told_apart() {
        let mut cursor = Cursor::at(EventId::origin(EPOCH));
        cursor.advance(id(1, "a"));
        cursor.advance(id(2, "b"));
        assert_eq!(cursor.place(id(3, "c")), Place::Next);
        assert_eq!(cursor.place(id(4, "d")), Place::Ahead);
        assert_eq!(cursor.place(id(2, "b")), Place::Known);
        assert_eq!(cursor.place(id(1, "a")), Place::Known);
        assert_eq!(cursor.place(id(1, "x")), Place::Conflict);
        assert_eq!(cursor.remembers_from(), 1);
    }

    #[test]
    fn after_a_rewind_positions_come_again() {
        let mut cursor = Cursor::at(EventId::origin(EPOCH));
        for position in 1..=5 {
            cursor.advance(id(position, "old"));
        }
        assert_eq!(cursor.rewind(2), id(2, "old"));
        assert_eq!(cursor.place(id(3, "new")), Place::Next);
        cursor.advance(id(3, "new"));
        assert_eq!(cursor.place(id(3, "old")), Place::Conflict);
        assert_eq!(cursor.place(id(2, "old")), Place::Known);
    }

    proptest! {
        #[test]
        fn what_was_taken_is_known(
            skips in proptest::collection::vec(prop_oneof![9 => Just(0u64), 1 => 1..6_000u64], 1..300)
        ) {
            let mut cursor = Cursor::at(EventId::unknown(EPOCH, 10));
            let mut taken = Vec::new();
            let mut position = 10;
            for skip in skips {
                position += 1 + skip;
                let next = id(position, &position.to_string());
                cursor.advance(next);
                taken.push(next);
                prop_assert_eq!(cursor.last(), next);
                prop_assert!(cursor.remembers_from() <= position);
            }
            for id in taken {
                prop_assert_eq!(cursor.place(id), Place::Known);
            }
        }
    }
}
