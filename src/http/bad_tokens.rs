//! How many tokens that were never good for anything are answered one by one for an address: beyond that the answer is 429.
//!
//! Whoever shows a good token is let in all the same, from whatever address: who is counted is only known once the
//! token was looked at, and one client with a fault must not lock out the others behind its address. So this
//! spares what comes after a refusal (logs, clients that try again at once), not the look itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::config::ServerConfig;
use crate::address::Network;
use crate::pace::{Pace, Used};

/// Addresses that are remembered before it is first looked which of them can be forgotten.
const FEW_ADDRESSES: usize = 1_024;

/// The most addresses that are told apart, some 64 bytes each. The others count as one until there is room again.
const MOST_ADDRESSES: usize = 65_536;

/// Between two looks when there is no room: each is at all of them.
const LOOK: Duration = Duration::from_secs(1);

/// Counts bad tokens by the address that they come from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BadTokens(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    rate: u32,
    addresses: HashMap<Network, Used, RandomState>,
    /// With so many addresses it is looked again which can be forgotten.
    many: usize,
    looked: Option<Instant>,
    /// Of all addresses that there is no room for.
    others: Used,
}

impl BadTokens {
    /// The rate that is configured.
    #[must_use]
    pub fn new(config: &ServerConfig) -> Self {
        Self(Arc::new(Mutex::new(Table {
            rate: config.bad_token_rate_per_address,
            addresses: HashMap::default(),
            many: FEW_ADDRESSES,
            looked: None,
            others: Used::default(),
        })))
    }

    /// The rate that is configured now.
    pub fn set(&self, config: &ServerConfig) {
        self.0.lock().rate = config.bad_token_rate_per_address;
    }

    /// A bad token came from an address.
    ///
    /// # Errors
    /// There were too many; the time after which one more is answered for itself.
    pub(super) fn take(&self, address: Network, now: Instant) -> Result<(), Duration> {
        self.0.lock().take(address, now)
    }
}

impl Table {
    fn take(&mut self, address: Network, now: Instant) -> Result<(), Duration> {
        let Some(pace) = Pace::per_second(self.rate) else {
            return Ok(());
        };
        let lately = |at: Instant| now.saturating_duration_since(at) < LOOK;
        let crowded = self.many == MOST_ADDRESSES && self.looked.is_some_and(lately);
        if self.addresses.len() >= self.many && !crowded {
            self.looked = Some(now);
            self.addresses.retain(|_, used| !used.is_over(now));
            // Doubled, so that looking costs each bad token next to nothing.
            self.many = FEW_ADDRESSES
                .max(2 * self.addresses.len())
                .min(MOST_ADDRESSES);
        }
        let room = self.addresses.len() < MOST_ADDRESSES;
        let used = match self.addresses.get_mut(&address) {
            Some(used) => used,
            None if room => self.addresses.entry(address).or_default(),
            None => &mut self.others,
        };
        pace.check(*used, now)?;
        pace.take(used, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn network(number: u32) -> Network {
        Network::of(Ipv4Addr::from_bits(number).into(), 64)
    }

    fn of_rate(rate: u32) -> BadTokens {
        BadTokens::new(&ServerConfig {
            bad_token_rate_per_address: rate,
            ..ServerConfig::default()
        })
    }

    #[test]
    fn each_address_has_a_rate_of_its_own_which_can_be_changed() {
        let bad = of_rate(2);
        let now = Instant::now();
        for address in [1, 2] {
            assert!(bad.take(network(address), now).is_ok());
            assert!(bad.take(network(address), now).is_ok());
            let wait = bad.take(network(address), now).unwrap_err();
            assert!(bad.take(network(address), now + wait).is_ok());
        }
        bad.set(&ServerConfig {
            bad_token_rate_per_address: 0,
            ..ServerConfig::default()
        });
        for _ in 0..100 {
            assert!(bad.take(network(1), now).is_ok());
        }
    }

    #[test]
    fn the_table_is_bounded_and_forgets() {
        let bad = of_rate(1);
        let now = Instant::now();
        let most = u32::try_from(MOST_ADDRESSES).unwrap();
        for number in 0..most {
            assert!(bad.take(network(number), now).is_ok());
        }
        // The rest are one, and nobody whom there is room for notices.
        assert!(bad.take(network(most), now).is_ok());
        assert!(bad.take(network(most + 1), now).is_err());
        assert!(bad.take(network(0), now).is_err());
        assert_eq!(bad.0.lock().addresses.len(), MOST_ADDRESSES);
        let later = now + Duration::from_secs(2);
        assert!(bad.take(network(most + 1), later).is_ok());
        assert_eq!(bad.0.lock().addresses.len(), 1);
    }
}
