//! How many messages a user may publish.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::config::ServerConfig;
use super::error::ApiError;
use crate::event::UserId;

/// When there are more users than this, those who have not published lately are forgotten.
const USERS: usize = 10_000;

/// Counts what users publish on this instance. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PublishRate {
    limiter: Arc<DefaultKeyedRateLimiter<UserId>>,
    burst: u32,
    clock: DefaultClock,
}

impl PublishRate {
    /// The rate that is configured.
    #[must_use]
    pub fn new(config: &ServerConfig) -> Self {
        let per_second = NonZeroU32::new(config.publish_rate).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(config.publish_burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self {
            limiter: Arc::new(RateLimiter::keyed(quota)),
            burst: burst.get(),
            clock: DefaultClock::default(),
        }
    }

    /// Counts messages of a user.
    ///
    /// # Errors
    /// There were too many, with the time after which there may be more.
    pub(super) fn take(&self, user: &UserId, messages: u32) -> Result<(), ApiError> {
        if self.limiter.len() > USERS {
            self.limiter.retain_recent();
        }
        let Some(messages) = NonZeroU32::new(messages) else {
            return Ok(());
        };
        match self.limiter.check_key_n(user, messages) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(early)) => Err(ApiError::TooMany {
                wait: early.wait_time_from(self.clock.now()),
            }),
            // More at once than there may ever be.
            Err(_) => Err(ApiError::Invalid {
                field: "messages".into(),
                problem: format!("at most {} messages can be published at once", self.burst),
            }),
        }
    }
}

/// A time as whole seconds for `Retry-After`, which is too late rather than too early.
pub(super) fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
