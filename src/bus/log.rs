//! Numbers what arrives where no JetStream does: positions of an epoch that belongs to this
//! instance alone. A client that comes back to another instance learns that from the epoch.

use rand::Rng as _;

use crate::event::{Epoch, EventId, Timestamp};

/// Hands out positions, one after the other.
#[derive(Debug)]
pub(super) struct LocalLog {
    last: EventId,
}

impl LocalLog {
    /// A log that begins now.
    pub(super) fn begin(now: Timestamp) -> Self {
        Self {
            last: EventId::origin(epoch(now)),
        }
    }

    /// The place of the next payload.
    pub(super) fn append(&mut self, payload: &[u8]) -> EventId {
        let next = EventId::new(self.last.epoch(), self.last.position() + 1, payload);
        self.last = next;
        next
    }

    /// The last place handed out.
    pub(super) fn last(&self) -> EventId {
        self.last
    }

    /// Begins a new epoch, because what came before may have holes. Gives the last place of the
    /// old epoch and the origin of the new.
    pub(super) fn renew(&mut self, now: Timestamp) -> (EventId, EventId) {
        let before = self.last;
        let Epoch(old) = before.epoch();
        let Epoch(new) = epoch(now);
        // Two epochs within one millisecond must differ all the same.
        self.last = EventId::origin(Epoch(new.max(old + 1)));
        (before, self.last)
    }
}

/// Instances that start together must not share an epoch, so the time alone will not do.
fn epoch(now: Timestamp) -> Epoch {
    Epoch(now.as_millis() * 1000 + rand::rng().random_range(0..1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_each_other_and_epochs_differ() {
        let now = Timestamp::from_millis(5_000);
        let mut log = LocalLog::begin(now);
        assert_eq!(log.append(b"a").position(), 1);
        let second = log.append(b"b");
        assert_eq!(second.position(), 2);
        let (before, after) = log.renew(now);
        assert_eq!(before, second);
        assert_ne!(after.epoch(), before.epoch());
        assert_eq!(log.last(), after);
        assert_eq!(log.append(b"c").position(), 1);
    }
}
