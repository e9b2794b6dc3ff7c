//! Judges when things arrived: events that were sent apart, and a stream on which nothing happened.
//! Pure: times come in, findings go out.

use std::time::Duration;

use super::finding::{Check, Finding};

/// Events that wait longer than this on the way, compared with the quickest, were held back.
const HELD: Duration = Duration::from_millis(700);

/// How much later than announced a ping may come.
const LATE: Duration = Duration::from_secs(2);

/// How exactly a cut-off keeps to its time.
const SLACK: Duration = Duration::from_millis(500);

/// An event of the test stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    /// When it arrived, on this clock, from any moment on.
    pub(super) arrived: Duration,
    /// When it was sent, on the server's clock, from any moment on.
    pub(super) sent: Duration,
}

/// How the quiet stream went.
#[derive(Debug, Clone)]
pub(super) struct Quiet {
    /// For how long it was to be held.
    pub(super) wanted: Duration,
    /// What the server says about its pings.
    pub(super) ping_interval: Option<Duration>,
    /// When something arrived, since the request.
    pub(super) data: Vec<Duration>,
    /// When it ended, since the request, and how.
    pub(super) end: End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// It was still open after the time that was wanted.
    Held,
    /// The server said why.
    Closing(Duration, String),
    /// Something ended it.
    Cut(Duration),
}

/// Whether the events of the test stream, of which there should be `expected`, were held back.
pub(super) fn buffering(expected: u64, arrivals: &[Arrival]) -> Finding {
    let check = Check::Buffering;
    let count = arrivals.len();
    let ([first, .., last], true) = (arrivals, count as u64 >= expected) else {
        return check.problem(
            format!("of {expected} events, one a second, {count} arrived"),
            UNBUFFER,
        );
    };
    let sent_over = last.sent.saturating_sub(first.sent);
    let came_over = last.arrived.saturating_sub(first.arrived);
    let held = longest_hold(arrivals);
    if held <= HELD {
        return check.ok(format!(
            "{count} events sent over {} arrived as they were sent",
            seconds(sent_over)
        ));
    }
    let detail = format!(
        "{count} events sent over {} arrived within {}: one was held back for {}",
        seconds(sent_over),
        seconds(came_over),
        seconds(held)
    );
    check.problem(detail, UNBUFFER)
}

const UNBUFFER: &str = "something on the way collects the stream before it passes it on: turn response \
     buffering off (nginx: proxy_buffering off, and no proxy_ignore_headers X-Accel-Buffering); \
     until then clients should use the long poll. See docs/proxies.md";

/// How much longer than the quickest event the slowest was on its way. The clocks of the two sides
/// don't matter, only how they advance.
fn longest_hold(arrivals: &[Arrival]) -> Duration {
    let signed = |duration: Duration| duration.as_nanos().cast_signed();
    let transits = || arrivals.iter().map(|a| signed(a.arrived) - signed(a.sent));
    let (quickest, slowest) = (transits().min(), transits().max());
    let held = slowest.unwrap_or(0) - quickest.unwrap_or(0);
    Duration::from_nanos(u64::try_from(held).unwrap_or(u64::MAX))
}

/// Whether a quiet stream stays open, and why not.
pub(super) fn idle(quiet: &Quiet) -> Finding {
    match &quiet.end {
        End::Held => held(quiet),
        End::Closing(at, reason) => Check::Idle.warning(
            format!(
                "the server ended the stream after {}: {reason}",
                seconds(*at)
            ),
            "that is the server's own doing; run this again, with a token that lasts longer if \
             that was the reason",
        ),
        End::Cut(at) => cut(quiet, *at),
    }
}

fn held(quiet: &Quiet) -> Finding {
    let check = Check::Idle;
    let wanted = seconds(quiet.wanted);
    let silence = longest_silence(&quiet.data, quiet.wanted);
    let Some(interval) = quiet.ping_interval else {
        return check.problem(
            format!("open for {wanted}, but without a confirmation that says when pings come"),
            UNBUFFER,
        );
    };
    if silence > interval + LATE {
        return check.problem(
            format!(
                "nothing arrived for {} although the server pings every {}",
                seconds(silence),
                seconds(interval)
            ),
            UNBUFFER,
        );
    }
    if quiet.wanted < interval {
        return check.warning(
            format!(
                "open for {wanted}, which is less than the {} between two pings",
                seconds(interval)
            ),
            "a cut-off would show only later: run this with a longer --idle",
        );
    }
    check.ok(format!(
        "open for {wanted}, pings every {}, at most {} of silence",
        seconds(interval),
        seconds(silence)
    ))
}

fn cut(quiet: &Quiet, at: Duration) -> Finding {
    let last = quiet.data.last().copied().unwrap_or_default();
    let silence = at.saturating_sub(last);
    let pings = quiet.ping_interval.map_or_else(
        || "when the server pings could not be seen".to_owned(),
        |interval| format!("the server pings every {}", seconds(interval)),
    );
    let detail = format!(
        "cut off after {}, {} after the last byte; {pings}",
        seconds(at),
        seconds(silence)
    );
    // What counts silence would have struck in a longer one before.
    let counts_silence = silence + SLACK >= longest_silence(&quiet.data, last);
    let advice = if counts_silence {
        format!(
            "something on the way gives up after about {} of silence: raise its idle or read timeout \
             to two or three times stream.ping_interval (nginx: proxy_read_timeout), or set \
             stream.ping_interval below it. See docs/proxies.md",
            seconds(silence)
        )
    } else {
        format!(
            "something on the way ends responses after {} however busy they are: raise its limit \
             for a whole response (Google Cloud: the backend service's timeout). Clients resume, \
             but reconnect each time. See docs/proxies.md",
            seconds(at)
        )
    };
    Check::Idle.problem(detail, advice)
}

/// The longest time between two arrivals, from the request to `end`.
fn longest_silence(data: &[Duration], end: Duration) -> Duration {
    let mut longest = Duration::ZERO;
    let mut last = Duration::ZERO;
    for at in data.iter().copied().chain([end]) {
        longest = longest.max(at.saturating_sub(last));
        last = at;
    }
    longest
}

/// A duration as people write it: `0.4 s`, `12 s`.
pub(super) fn seconds(duration: Duration) -> String {
    let tenths = (duration.as_millis() + 50) / 100;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} s"),
        (whole, rest) => format!("{whole}.{rest} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;
    use proptest::prelude::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn arrivals(times: &[(u64, u64)]) -> Vec<Arrival> {
        let arrival = |&(sent, arrived)| Arrival {
            sent: Duration::from_millis(sent),
            arrived: Duration::from_millis(arrived),
        };
        times.iter().map(arrival).collect()
    }

    #[test]
    fn what_comes_together_was_held_back() {
        let together = arrivals(&[(0, 4001), (1000, 4001), (2000, 4002), (4000, 4002)]);
        let finding = buffering(4, &together);
        assert_eq!(finding.status, Status::Problem);
        assert!(
            finding.detail.contains("held back for 4 s"),
            "{}",
            finding.detail
        );
    }

    #[test]
    fn missing_events_are_a_problem() {
        for times in [&[][..], &[(0, 0)], &[(0, 0), (1000, 1000)]] {
            assert_eq!(buffering(5, &arrivals(times)).status, Status::Problem);
        }
    }

    proptest! {
        #[test]
        fn clocks_and_distance_do_not_matter(
            skew in 0..10_000_000_u64,
            distance in 0..5_000_u64,
            jitter in proptest::collection::vec(0..500_u64, 5),
        ) {
            let times: Vec<_> = jitter.iter().zip(0..).map(|(jitter, number)| {
                (skew + number * 1000, number * 1000 + distance + jitter)
            }).collect();
            prop_assert_eq!(buffering(5, &arrivals(&times)).status, Status::Ok);
        }

        #[test]
        fn a_pile_is_seen_whatever_the_clocks(skew in 0..10_000_000_u64, size in 2..6_usize) {
            // The first `size` events arrive with the last of them.
            let times: Vec<_> = (0..5_usize).map(|number| {
                let seen_with = number.max(size - 1);
                (skew + number as u64 * 1000, seen_with as u64 * 1000)
            }).collect();
            prop_assert_eq!(buffering(5, &arrivals(&times)).status, Status::Problem);
        }
    }

    fn quiet(data: &[u64], end: End) -> Quiet {
        Quiet {
            wanted: secs(60),
            ping_interval: Some(secs(30)),
            data: data.iter().map(|&at| secs(at)).collect(),
            end,
        }
    }

    #[test]
    fn a_stream_that_stays_open_and_pings_is_good() {
        let finding = idle(&quiet(&[0, 12, 42], End::Held));
        assert_eq!(finding.status, Status::Ok, "{finding:?}");
        assert!(finding.detail.contains("at most 30 s of silence"));
    }

    #[test]
    fn pings_that_do_not_come_are_a_problem() {
        assert_eq!(idle(&quiet(&[0], End::Held)).status, Status::Problem);
        let unseen = Quiet {
            ping_interval: None,
            ..quiet(&[], End::Held)
        };
        assert_eq!(idle(&unseen).status, Status::Problem);
    }

    #[test]
    fn a_cut_off_is_told_by_what_it_counts() {
        let silent = idle(&quiet(&[0], End::Cut(secs(20))));
        assert_eq!(silent.status, Status::Problem);
        let advice = silent.advice.unwrap();
        assert!(advice.contains("20 s of silence"), "{advice}");
        let busy = idle(&quiet(&[0, 10, 20, 29], End::Cut(secs(30))));
        let advice = busy.advice.unwrap();
        assert!(advice.contains("ends responses after 30 s"), "{advice}");
    }

    #[test]
    fn an_end_that_the_server_explains_is_no_cut_off() {
        let end = End::Closing(secs(5), "draining".to_owned());
        let finding = idle(&quiet(&[0, 5], end));
        assert_eq!(finding.status, Status::Warning);
        assert!(finding.detail.contains("draining"));
    }

    #[test]
    fn too_short_a_look_says_so() {
        let short = Quiet {
            wanted: secs(10),
            ..quiet(&[0], End::Held)
        };
        assert_eq!(idle(&short).status, Status::Warning);
    }

    #[test]
    fn durations_are_readable() {
        assert_eq!(seconds(Duration::from_millis(399)), "0.4 s");
        assert_eq!(seconds(secs(12)), "12 s");
        assert_eq!(seconds(Duration::from_millis(1960)), "2 s");
    }
}
