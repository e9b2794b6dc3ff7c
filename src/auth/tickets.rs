//! Tickets: what opens one stream, once, within half a minute, so that no token need stand in an
//! address.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use uuid::Uuid;

use super::Identity;

/// How long a ticket is good for.
pub const LIFETIME: Duration = Duration::from_secs(30);

/// The most tickets that are open at a time.
const OPEN: usize = 100_000;

/// The tickets that this instance has given out. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tickets(Arc<Mutex<Open>>);

/// By secret: whom the ticket is for, and until when it is good.
type Open = HashMap<Uuid, (Identity, Instant), RandomState>;

impl Tickets {
    /// A ticket for somebody; `None` while too many are open.
    #[must_use]
    pub fn issue(&self, identity: Identity, now: Instant) -> Option<Uuid> {
        let mut open = self.0.lock();
        if open.len() >= OPEN {
            open.retain(|_, (_, until)| *until > now);
        }
        if open.len() >= OPEN {
            return None;
        }
        // 122 random bits of the system's generator.
        let secret = Uuid::new_v4();
        open.insert(secret, (identity, now + LIFETIME));
        Some(secret)
    }

    /// Whom the ticket is for, the first time within its lifetime.
    #[must_use]
    pub fn redeem(&self, secret: Uuid, now: Instant) -> Option<Identity> {
        let (identity, until) = self.0.lock().remove(&secret)?;
        (until > now).then_some(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::UserId;

    #[test]
    fn a_ticket_is_good_once_and_for_a_time() {
        let tickets = Tickets::default();
        let now = Instant::now();
        let identity = Identity::unverified(UserId::from(1));
        let ticket = tickets.issue(identity.clone(), now).unwrap();
        assert_eq!(tickets.redeem(ticket, now), Some(identity.clone()));
        assert_eq!(tickets.redeem(ticket, now), None);
        let late = tickets.issue(identity, now).unwrap();
        assert_eq!(tickets.redeem(late, now + LIFETIME), None);
    }
}
