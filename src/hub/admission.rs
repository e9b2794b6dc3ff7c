//! How many streams there may be: in all, per user, per address, and how many new ones a second. Limits are for
//! newcomers: none of them, however it is changed, ends a stream that is open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::address::Network;
use crate::event::UserId;
use crate::memory::Memory;
use crate::pace::{Pace, Used};

/// Addresses that are remembered before it is first looked which of them can be forgotten.
const FEW_ADDRESSES: usize = 1_024;

/// Counts connections over all shards. A cheap handle.
#[derive(Debug, Clone)]
pub struct Admission {
    counts: Arc<Mutex<Counts>>,
    memory: Memory,
}

/// How many connections are allowed on this instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// In all.
    pub total: usize,
    /// By one user.
    pub per_user: usize,
    /// From one address; 0 for no limit.
    pub per_address: usize,
    /// New ones a second; 0 for no limit.
    pub rate: u32,
    /// New ones a second from one address; 0 for no limit.
    pub rate_per_address: u32,
}

#[derive(Debug)]
struct Counts {
    quota: Quota,
    total: usize,
    used: Used,
    by_user: HashMap<UserId, usize, RandomState>,
    by_address: HashMap<Network, OfAddress, RandomState>,
    /// With so many addresses it is looked again which can be forgotten.
    many_addresses: usize,
    stopping: bool,
}

/// What comes from one address.
#[derive(Debug, Default)]
struct OfAddress {
    connections: usize,
    used: Used,
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
    /// The address has as many connections as one may.
    #[error("this address has all {0} connections that one address may have")]
    AddressFull(usize),
    /// More connect than may; the time after which one more may.
    #[error("more clients connect than may in a second")]
    TooFast(Duration),
    /// More connect from the address than may; the time after which one more may.
    #[error("more clients connect from this address than may in a second")]
    AddressTooFast(Duration),
    /// Memory is short.
    #[error("this instance is short of memory")]
    Memory,
    /// The instance stops.
    #[error("this instance is stopping")]
    Stopping,
}

/// One admitted connection; dropping it makes room for another.
#[derive(Debug)]
pub struct Permit {
    counts: Arc<Mutex<Counts>>,
    user: UserId,
    address: Option<Network>,
}

impl Refusal {
    /// All labels that [`Refusal::reason`] can give.
    pub(super) const REASONS: [&str; 7] = [
        "full",
        "user_full",
        "address_full",
        "too_fast",
        "address_too_fast",
        "memory",
        "stopping",
    ];

    /// Why, as a label.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Full(_) => "full",
            Self::UserFull(_) => "user_full",
            Self::AddressFull(_) => "address_full",
            Self::TooFast(_) => "too_fast",
            Self::AddressTooFast(_) => "address_too_fast",
            Self::Memory => "memory",
            Self::Stopping => "stopping",
        }
    }
}

impl Admission {
    /// No connections yet, and none while `memory` is short.
    #[must_use]
    pub fn new(quota: Quota, memory: Memory) -> Self {
        let counts = Counts {
            quota,
            total: 0,
            used: Used::default(),
            by_user: HashMap::default(),
            by_address: HashMap::default(),
            many_addresses: FEW_ADDRESSES,
            stopping: false,
        };
        Self {
            counts: Arc::new(Mutex::new(counts)),
            memory,
        }
    }

    /// Admits one connection of `user`; `address` is what it counts under besides, if anything.
    ///
    /// # Errors
    /// A limit is reached, memory is short, or the instance stops.
    pub fn admit(
        &self,
        user: &UserId,
        address: Option<Network>,
        now: Instant,
    ) -> Result<Permit, Refusal> {
        let short = self.memory.is_short();
        self.counts.lock().admit(user, address, short, now)?;
        Ok(Permit {
            counts: Arc::clone(&self.counts),
            user: user.clone(),
            address,
        })
    }

    /// From now on so many are allowed; those that there are stay.
    pub fn set_quota(&self, quota: Quota) {
        self.counts.lock().quota = quota;
    }

    /// What says whether memory is short.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Admits nobody from now on.
    pub fn stop(&self) {
        self.counts.lock().stopping = true;
    }

    /// How many connections there may be.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.counts.lock().quota.total
    }

    /// How many connections there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.counts.lock().total
    }
}

impl Counts {
    /// Counts one more connection, unless there is a reason not to: then nothing is counted.
    fn admit(
        &mut self,
        user: &UserId,
        address: Option<Network>,
        short_of_memory: bool,
        now: Instant,
    ) -> Result<(), Refusal> {
        let quota = self.quota;
        if self.stopping {
            return Err(Refusal::Stopping);
        }
        if short_of_memory {
            return Err(Refusal::Memory);
        }
        if self.total >= quota.total {
            return Err(Refusal::Full(quota.total));
        }
        let of_user = self.by_user.get(user).copied().unwrap_or(0);
        if of_user >= quota.per_user {
            return Err(Refusal::UserFull(quota.per_user));
        }
        let pace = Pace::per_second(quota.rate);
        if let Some(pace) = pace {
            pace.check(self.used, now).map_err(Refusal::TooFast)?;
        }
        if let Some(address) = address {
            self.admit_from(address, now)?;
        }
        if let Some(pace) = pace {
            pace.take(&mut self.used, now);
        }
        *self.by_user.entry_ref(user).or_insert(0) += 1;
        self.total += 1;
        Ok(())
    }

    fn admit_from(&mut self, address: Network, now: Instant) -> Result<(), Refusal> {
        let (most, pace) = (
            self.quota.per_address,
            Pace::per_second(self.quota.rate_per_address),
        );
        if self.by_address.len() >= self.many_addresses {
            self.by_address
                .retain(|_, of| of.connections > 0 || !of.used.is_over(now));
            // Doubled, so that looking costs each newcomer next to nothing.
            self.many_addresses = FEW_ADDRESSES.max(2 * self.by_address.len());
        }
        let of_address = self.by_address.entry(address).or_default();
        if most > 0 && of_address.connections >= most {
            return Err(Refusal::AddressFull(most));
        }
        if let Some(pace) = pace {
            pace.check(of_address.used, now)
                .map_err(Refusal::AddressTooFast)?;
            pace.take(&mut of_address.used, now);
        }
        of_address.connections += 1;
        Ok(())
    }

    fn leave(&mut self, user: &UserId, address: Option<Network>) {
        self.total -= 1;
        if let Some(of_user) = self.by_user.get_mut(user) {
            *of_user -= 1;
            if *of_user == 0 {
                self.by_user.remove(user);
            }
        }
        let Some(address) = address else { return };
        if let Some(of_address) = self.by_address.get_mut(&address) {
            of_address.connections -= 1;
            // What was used of its pace is remembered until somebody looks.
            if of_address.connections == 0 && self.quota.rate_per_address == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counts.lock().leave(&self.user, self.address);
    }
}

#[cfg(test)]
mod tests;
