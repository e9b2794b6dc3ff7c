//! How often something may happen: so many times a second, and so many at once. Pure (the generic cell rate
//! algorithm: what is kept is the moment up to which everything is used up).

use std::time::{Duration, Instant};

/// So many times a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    interval: Duration,
    /// How long it takes for all that may happen at once to be possible again, less one.
    room: Duration,
}

/// What was used of a pace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used(Option<Instant>);

impl Pace {
    /// So many times a second, and a second's worth at once; `None` for no limit, which 0 means.
    #[must_use]
    pub fn per_second(times: u32) -> Option<Self> {
        Self::with_burst(times, times)
    }

    /// So many times a second, and `burst` at once; `None` for no limit, which 0 times mean.
    #[must_use]
    pub fn with_burst(times: u32, burst: u32) -> Option<Self> {
        let interval = Duration::from_secs(1).checked_div(times)?;
        let room = interval * burst.saturating_sub(1);
        Some(Self { interval, room })
    }

    /// Whether it may happen now.
    ///
    /// # Errors
    /// It may not, but after this time.
    pub fn check(self, used: Used, now: Instant) -> Result<(), Duration> {
        let ahead = used.until(now).saturating_duration_since(now);
        match ahead.checked_sub(self.room) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(wait),
        }
    }

    /// It happens now.
    pub fn take(self, used: &mut Used, now: Instant) {
        *used = Used(Some(used.until(now) + self.interval));
    }
}

impl Used {
    fn until(self, now: Instant) -> Instant {
        self.0.map_or(now, |until| until.max(now))
    }

    /// Whether nothing is used any more.
    #[must_use]
    pub fn is_over(self, now: Instant) -> bool {
        self.0.is_none_or(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_pace_is_none_and_a_burst_is_what_may_happen_at_once() {
        assert_eq!(Pace::per_second(0), None);
        let pace = Pace::with_burst(2, 5).unwrap();
        let (now, mut used) = (Instant::now(), Used::default());
        for _ in 0..5 {
            assert_eq!(pace.check(used, now), Ok(()));
            pace.take(&mut used, now);
        }
        assert_eq!(pace.check(used, now), Err(Duration::from_millis(500)));
    }

    proptest! {
        #[test]
        fn a_second_has_its_worth_and_a_wait_is_enough(
            times in 1_u32..500,
            steps in proptest::collection::vec(0_u64..400, 1..400),
        ) {
            let pace = Pace::per_second(times).unwrap();
            let begin = Instant::now();
            let (mut now, mut used, mut taken) = (begin, Used::default(), Vec::new());
            for step in steps {
                now += Duration::from_millis(step);
                match pace.check(used, now) {
                    Ok(()) => {
                        pace.take(&mut used, now);
                        taken.push(now);
                    }
                    Err(wait) => {
                        prop_assert!(pace.check(used, now + wait).is_ok());
                        prop_assert!(pace.check(used, now + wait / 2).is_err());
                        // Never before a second's worth was used up.
                        let lately = taken.iter().filter(|at| now - **at < Duration::from_secs(2));
                        prop_assert!(lately.count() >= times as usize);
                    }
                }
            }
            // In any stretch: what it allows, and a second's worth.
            for (index, from) in taken.iter().enumerate() {
                for (count, to) in taken[index..].iter().enumerate() {
                    let allowed = f64::from(times) * (1.0 + (*to - *from).as_secs_f64());
                    prop_assert!((count + 1) as f64 <= allowed + 1.0);
                }
            }
            prop_assert!(used.is_over(now + Duration::from_secs(2)));
        }
    }
}
