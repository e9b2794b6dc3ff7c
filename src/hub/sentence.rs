//! Which sessions are to end because of the tokens that they were opened with, and how.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::notice::End;
use crate::credential::Credential;
use crate::event::UserId;

/// Which tokens are no longer good.
type Refuses = dyn Fn(&UserId, &Credential) -> bool + Send + Sync;

/// Ends sessions by their tokens. Cheap to clone.
#[derive(Clone)]
pub struct Sentence {
    refuses: Arc<Refuses>,
    /// Whose sessions alone it can concern; `None` for everybody's.
    users: Option<Arc<[UserId]>>,
    end: End,
    spread: Duration,
}

impl Sentence {
    /// Ends the sessions of all tokens that are refused, for a reason, over a time.
    #[must_use]
    pub fn new(
        end: End,
        spread: Duration,
        refuses: impl Fn(&UserId, &Credential) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            refuses: Arc::new(refuses),
            users: None,
            end,
            spread,
        }
    }

    /// Of the sessions of these users alone, each of them named once: the others are not looked at.
    #[must_use]
    pub fn of(self, users: Vec<UserId>) -> Self {
        let users = Some(users.into());
        Self { users, ..self }
    }

    pub(super) fn users(&self) -> Option<&[UserId]> {
        self.users.as_deref()
    }

    pub(super) fn concerns(&self, user: &UserId, credential: Option<&Credential>) -> bool {
        credential.is_some_and(|credential| (self.refuses)(user, credential))
    }

    pub(super) fn end(&self) -> End {
        self.end
    }

    pub(super) fn spread(&self) -> Duration {
        self.spread
    }
}

impl fmt::Debug for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sentence({:?} within {:?})", self.end, self.spread)
    }
}
