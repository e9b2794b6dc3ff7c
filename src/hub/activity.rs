//! Whether events are being delivered: then newcomers have to give way.

use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

/// Whoever was sent an event within this time is likely to be sent another one.
const LATELY: Duration = Duration::from_millis(200);

/// Watches whether events are being delivered.
#[derive(Debug, Clone)]
pub struct Activity {
    routed: Counter,
    /// How many there were when somebody asked last.
    seen: u64,
    /// When there were more than the time before.
    at: Option<Instant>,
}

impl Activity {
    /// By what counts live events that were queued.
    pub(super) fn by(routed: Counter) -> Self {
        Self {
            seen: routed.get(),
            routed,
            at: None,
        }
    }

    /// Whether a live event was queued within the last 200 ms or so, or since this was asked last.
    pub fn is_lively(&mut self, now: Instant) -> bool {
        let routed = self.routed.get();
        if routed != self.seen {
            self.seen = routed;
            self.at = Some(now);
        }
        self.at
            .is_some_and(|at| now.saturating_duration_since(at) < LATELY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_felt_for_a_while() {
        let routed = Counter::default();
        let (begin, mut activity) = (Instant::now(), Activity::by(routed.clone()));
        assert!(!activity.is_lively(begin));
        routed.inc();
        assert!(activity.is_lively(begin + LATELY));
        assert!(activity.is_lively(begin + LATELY * 2 - Duration::from_millis(1)));
        assert!(!activity.is_lively(begin + LATELY * 2));
        routed.inc();
        assert!(activity.is_lively(begin + LATELY * 3));
    }
}
