//! Which sessions are to end because of the tokens that they were opened with, and how.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::notice::End;
use crate::credential::{Credential, Mark};
use crate::event::UserId;

/// Which tokens are no longer good.
type Refuses = dyn Fn(&UserId, &Credential) -> bool + Send + Sync;

/// Ends sessions by their tokens. Cheap to clone.
#[derive(Clone)]
pub struct Sentence {
    refuses: Arc<Refuses>,
    whose: Whose,
    end: End,
    spread: Duration,
}

/// Whose sessions alone it can concern; the others are not looked at.
#[derive(Clone)]
pub(super) enum Whose {
    Everybody,
    Users(Arc<[UserId]>),
    /// The marks by which tokens go.
    Tokens(Arc<[Mark]>),
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
            whose: Whose::Everybody,
            end,
            spread,
        }
    }

    /// Of the sessions of these users alone, each of them named once.
    #[must_use]
    pub fn of(self, users: Vec<UserId>) -> Self {
        let whose = Whose::Users(users.into());
        Self { whose, ..self }
    }

    /// Of the sessions alone whose tokens go by these marks: of their hash, or of their `jti`.
    #[must_use]
    pub fn of_tokens(self, marks: Vec<Mark>) -> Self {
        let whose = Whose::Tokens(marks.into());
        Self { whose, ..self }
    }

    pub(super) fn whose(&self) -> &Whose {
        &self.whose
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

#[cfg(test)]
mod tests;
