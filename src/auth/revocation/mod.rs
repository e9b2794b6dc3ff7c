//! Tokens that are no longer good although they have not expired: one, or all that a user was given
//! before a time.
//!
//! `entry.rs` has what is revoked, `set.rs` all of it; this is the handle that whoever verifies tokens
//! asks. How revocations reach all instances is not known here.

mod entry;
mod set;

use std::sync::Arc;

use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

pub use entry::{LONGEST_AGE, Order, OrderError, Revocation, Terms, Whose};
pub use set::{CAPACITY, Put};

use crate::credential::{Credential, Mark};
use crate::event::{Timestamp, UserId};
use set::RevocationSet;

/// What is revoked, as far as this instance knows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Revocations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    set: RwLock<RevocationSet>,
    past: watch::Sender<Past>,
    metrics: Metrics,
}

/// Whether what was revoked before this instance began is here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Past {
    Known,
    /// Not yet, and what was in the way last, if anything was.
    Unknown(Option<Arc<str>>),
}

/// What revocations count.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    held: Gauge,
    known: Gauge,
    unstored: Gauge,
    orders: Family<Outcome, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Default for Revocations {
    fn default() -> Self {
        Self(Arc::new(Inner {
            set: RwLock::new(RevocationSet::new(CAPACITY)),
            past: watch::Sender::new(Past::Unknown(None)),
            metrics: Metrics::default(),
        }))
    }
}

impl Revocations {
    /// Registers the metrics under their public names.
    pub fn register(&self, registry: &mut Registry) {
        let metrics = &self.0.metrics;
        registry.register(
            "revocations",
            "Users and tokens that are revoked, as far as this instance knows",
            metrics.held.clone(),
        );
        registry.register(
            "revocations_known",
            "Whether this instance knows what was revoked before it started; until then it accepts no token",
            metrics.known.clone(),
        );
        registry.register(
            "revocations_unstored",
            "Users and tokens that were revoked, or no longer are, where that could not be stored yet, so that instances that start do not find it",
            metrics.unstored.clone(),
        );
        registry.register(
            "revocation_orders",
            "Times that something was to be revoked, or no longer, by outcome",
            metrics.orders.clone(),
        );
        for outcome in ["taken", "invalid", "full"] {
            self.count(outcome);
        }
    }

    fn count(&self, outcome: &'static str) -> Counter {
        let orders = &self.0.metrics.orders;
        orders.get_or_create_owned(&Outcome { outcome })
    }

    /// An order could not be read.
    pub fn refused(&self) {
        self.count("invalid").inc();
    }

    /// Follows an order, or takes a revocation back: from now on it counts here. `None` where there is no
    /// room for it.
    #[must_use]
    pub fn order(&self, revocation: Revocation) -> Option<Revocation> {
        let mut set = self.0.set.write();
        let revocation = if revocation.lifted {
            revocation
        } else {
            let before = set.get(revocation.whose.mark());
            revocation.on_top_of(before)
        };
        let put = set.put(revocation.clone(), false, seconds());
        self.show(&set);
        let full = put == Put::Full;
        self.count(if full { "full" } else { "taken" }).inc();
        (!full).then_some(revocation)
    }

    /// Takes in what another instance says, or what is stored.
    pub fn learn(&self, revocation: Revocation, stored: bool) -> Put {
        let mut set = self.0.set.write();
        let put = set.put(revocation, stored, seconds());
        self.show(&set);
        put
    }

    /// Whether a token is revoked.
    #[must_use]
    pub fn revokes(&self, user: &UserId, credential: &Credential) -> bool {
        self.0.set.read().revokes(user, credential, seconds())
    }

    /// What is known under a mark.
    #[must_use]
    pub fn get(&self, mark: Mark) -> Option<Revocation> {
        self.0.set.read().get(mark).cloned()
    }

    /// Nothing is stored any more. Says how many there are, and how many of them were stored.
    pub fn unstore(&self) -> (usize, usize) {
        let mut set = self.0.set.write();
        let (all, unstored) = (set.len(), set.unstored_count());
        set.unstore();
        self.show(&set);
        (all, all - unstored)
    }

    /// Those that are not stored yet, at most so many.
    #[must_use]
    pub fn unstored(&self, most: usize) -> Vec<Revocation> {
        self.0.set.read().unstored(most)
    }

    /// A page of those that count, in the order of their marks, behind `after`.
    #[must_use]
    pub fn page(
        &self,
        after: Option<Mark>,
        limit: usize,
        user: Option<&UserId>,
    ) -> Vec<(Mark, Revocation)> {
        let of_user = |revocation: &Revocation| match (user, &revocation.whose) {
            (None, _) => true,
            (Some(user), Whose::User(revoked)) => user == revoked,
            (Some(_), _) => false,
        };
        self.0.set.read().page(after, limit, of_user)
    }

    /// Forgets what is over, and says what that was.
    #[must_use]
    pub fn forget(&self) -> Vec<Mark> {
        let mut set = self.0.set.write();
        let over = set.forget(seconds());
        self.show(&set);
        over
    }

    /// What was revoked before is here, and stays so: whoever is cut off later goes on with what it knows.
    pub fn completed(&self) {
        self.0.metrics.known.set(1);
        self.0.past.send_if_modified(|past| {
            let changed = *past != Past::Known;
            *past = Past::Known;
            changed
        });
    }

    /// What was revoked before can't be found out at the moment. Says whether that matters and is new.
    pub fn delayed(&self, why: &str) -> bool {
        self.0.past.send_if_modified(|past| match past {
            Past::Unknown(known) if known.as_deref() != Some(why) => {
                *past = Past::Unknown(Some(why.into()));
                true
            }
            Past::Known | Past::Unknown(_) => false,
        })
    }

    /// Whether what was revoked before this instance began is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        *self.0.past.borrow() == Past::Known
    }

    /// What keeps it from being here, in words; `None` where it is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        const UNKNOWN: &str = "which tokens are revoked is not known yet, so that none is accepted";
        match &*self.0.past.borrow() {
            Past::Known => None,
            Past::Unknown(None) => Some(UNKNOWN.to_owned()),
            Past::Unknown(Some(why)) => Some(format!("{UNKNOWN}: {why}")),
        }
    }

    /// Ready once what was revoked before is here.
    pub async fn known(&self) {
        // The sender is this one's own.
        let _ = self
            .0
            .past
            .subscribe()
            .wait_for(|past| *past == Past::Known)
            .await;
    }

    fn show(&self, set: &RevocationSet) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.0.metrics.held.set(number(set.in_force()));
        self.0.metrics.unstored.set(number(set.unstored_count()));
    }
}

/// The time in Unix seconds.
fn seconds() -> u64 {
    Timestamp::now().as_millis() / 1000
}
