//! How many connections there may be, in all and per user.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::event::UserId;

/// Counts connections over all shards. A cheap handle.
#[derive(Debug, Clone)]
pub struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Quota,
    counts: Mutex<Counts>,
}

/// How many connections are allowed.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// On this instance.
    pub total: usize,
    /// By one user on this instance.
    pub per_user: usize,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_user: HashMap<UserId, usize, RandomState>,
    stopping: bool,
}

/// Why a connection is not admitted. The living are never evicted for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The instance has as many connections as it may.
    #[error("this instance has all {0} connections that it may have")]
    Full(usize),
    /// The user has as many connections as one may.
    #[error("this user has all {0} connections that one user may have")]
    UserFull(usize),
    /// The instance stops.
    #[error("this instance is stopping")]
    Stopping,
}

/// One admitted connection; dropping it makes room for another.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    user: UserId,
}

impl Refusal {
    /// All labels that [`Refusal::reason`] can give.
    pub(super) const REASONS: [&str; 3] = ["full", "user_full", "stopping"];

    /// Why, as a label.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Full(_) => "full",
            Self::UserFull(_) => "user_full",
            Self::Stopping => "stopping",
        }
    }
}

impl Admission {
    /// No connections yet.
    #[must_use]
    pub fn new(limits: Quota) -> Self {
        Self(Arc::new(Shared {
            limits,
            counts: Mutex::default(),
        }))
    }

    /// Admits one connection of `user`.
    ///
    /// # Errors
    /// A limit is reached, or the instance stops.
    pub fn admit(&self, user: &UserId) -> Result<Permit, Refusal> {
        let limits = self.0.limits;
        let mut counts = self.0.counts.lock();
        if counts.stopping {
            return Err(Refusal::Stopping);
        }
        if counts.total >= limits.total {
            return Err(Refusal::Full(limits.total));
        }
        let of_user = counts.by_user.entry_ref(user).or_insert(0);
        if *of_user >= limits.per_user {
            return Err(Refusal::UserFull(limits.per_user));
        }
        *of_user += 1;
        counts.total += 1;
        Ok(Permit {
            shared: Arc::clone(&self.0),
            user: user.clone(),
        })
    }

    /// Admits nobody from now on.
    pub fn stop(&self) {
        self.0.counts.lock().stopping = true;
    }

    /// How many connections there may be.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.limits.total
    }

    /// How many connections there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0.counts.lock().total
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.shared.counts.lock();
        counts.total -= 1;
        if let Some(of_user) = counts.by_user.get_mut(&self.user) {
            *of_user -= 1;
            if *of_user == 0 {
                counts.by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_room_is_given_back() {
        let admission = Admission::new(Quota {
            total: 3,
            per_user: 2,
        });
        let (one, two) = (UserId::from(1), UserId::from(2));
        let first = admission.admit(&one).unwrap();
        let _second = admission.admit(&one).unwrap();
        assert_eq!(admission.admit(&one).unwrap_err(), Refusal::UserFull(2));
        let _third = admission.admit(&two).unwrap();
        assert_eq!(admission.admit(&two).unwrap_err(), Refusal::Full(3));
        drop(first);
        assert_eq!(admission.total(), 2);
        let _again = admission.admit(&one).unwrap();
        admission.stop();
        drop(_again);
        assert_eq!(admission.admit(&one).unwrap_err(), Refusal::Stopping);
    }
}
