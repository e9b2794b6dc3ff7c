//! How many messages a user may publish.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use parking_lot::RwLock;

use super::config::ServerConfig;
use super::error::ApiError;
use crate::event::UserId;

/// Users that are remembered before it is first looked which of them have not published lately.
const FEW_USERS: usize = 10_000;

/// Counts what users publish on this instance. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PublishRate(Arc<RwLock<Arc<Limiter>>>);

#[derive(Debug)]
struct Limiter {
    users: DefaultKeyedRateLimiter<UserId>,
    /// With so many users it is looked again which can be forgotten.
    many_users: AtomicUsize,
    quota: Quota,
    clock: DefaultClock,
}

impl PublishRate {
    /// The rate that is configured.
    #[must_use]
    pub fn new(config: &ServerConfig) -> Self {
        Self(Arc::new(RwLock::new(Limiter::new(config))))
    }

    /// The rate that is configured now. If it is another one, what users have published before does not count.
    pub fn set(&self, config: &ServerConfig) {
        let mut limiter = self.0.write();
        if limiter.quota != quota(config) {
            *limiter = Limiter::new(config);
        }
    }

    /// Counts messages of a user.
    ///
    /// # Errors
    /// There were too many, with the time after which there may be more.
    pub(super) fn take(&self, user: &UserId, messages: u32) -> Result<(), ApiError> {
        let limiter = Arc::clone(&self.0.read());
        limiter.forget_some();
        let Some(messages) = NonZeroU32::new(messages) else {
            return Ok(());
        };
        match limiter.users.check_key_n(user, messages) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(early)) => Err(ApiError::TooMany {
                wait: early.wait_time_from(limiter.clock.now()),
            }),
            // More at once than there may ever be.
            Err(_) => Err(ApiError::Invalid {
                field: "messages".into(),
                problem: format!(
                    "at most {} messages can be published at once",
                    limiter.quota.burst_size()
                ),
            }),
        }
    }
}

impl Limiter {
    fn new(config: &ServerConfig) -> Arc<Self> {
        let quota = quota(config);
        Arc::new(Self {
            users: RateLimiter::keyed(quota),
            many_users: AtomicUsize::new(FEW_USERS),
            quota,
            clock: DefaultClock::default(),
        })
    }

    /// Forgets those who have not published lately, when there are many.
    fn forget_some(&self) {
        if self.users.len() > self.many_users.load(Ordering::Relaxed) {
            self.users.retain_recent();
            // Doubled, so that looking costs each message next to nothing.
            let many = FEW_USERS.max(2 * self.users.len());
            self.many_users.store(many, Ordering::Relaxed);
        }
    }
}

fn quota(config: &ServerConfig) -> Quota {
    let per_second = NonZeroU32::new(config.publish_rate).unwrap_or(NonZeroU32::MIN);
    let burst = NonZeroU32::new(config.publish_burst).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(per_second).allow_burst(burst)
}

/// A time as whole seconds for `Retry-After`, which is too late rather than too early.
pub(super) fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_rate_counts_from_then_on() {
        let mut config = ServerConfig {
            publish_rate: 1,
            publish_burst: 2,
            ..ServerConfig::default()
        };
        let rate = PublishRate::new(&config);
        let user = UserId::from(1);
        assert!(rate.take(&user, 2).is_ok());
        assert!(matches!(rate.take(&user, 1), Err(ApiError::TooMany { .. })));
        // The same is no other one.
        rate.set(&config);
        assert!(matches!(rate.take(&user, 1), Err(ApiError::TooMany { .. })));
        config.publish_burst = 5;
        rate.clone().set(&config);
        assert!(rate.take(&user, 5).is_ok());
        assert!(matches!(rate.take(&user, 1), Err(ApiError::TooMany { .. })));
        assert!(matches!(rate.take(&user, 6), Err(ApiError::Invalid { .. })));
    }
}
