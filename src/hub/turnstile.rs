//! Lets the newcomers of a thread in one by one. What they wait for, such as the database, often comes for many at
//! once, and each takes a tenth of a millisecond to become live. Behind a hundred of them an event would be late.
//!
//! Nor may they keep an event from reaching this thread at all: whoever reads it from NATS may share a core with it,
//! and the kernel lets a thread that never sleeps go on for milliseconds. So, while events are being delivered, the
//! thread naps behind each newcomer that is early at a fixed pace. At that pace storms are over in time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::iter;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::{spawn_local, yield_now};

use super::activity::Activity;
use crate::pace::{Pace, Used};

/// How many newcomers a second come in without a nap…
const PACE: u32 = 2_600;

/// … and how many at once.
const FEW: u32 = 8;

/// The longest nap: as long as a newcomer takes, so that an event that comes meanwhile waits no longer than for one
/// of those.
const NAP: Duration = Duration::from_micros(100);

/// One thread's turnstile. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Turnstile(Rc<RefCell<Queue>>);

#[derive(Debug)]
struct Queue {
    /// As many as have been admitted, at most.
    waiting: VecDeque<oneshot::Sender<()>>,
    /// Somebody has passed, and the thread has had no time for anything else since.
    turning: bool,
    passed: Used,
    activity: Activity,
}

impl Turnstile {
    /// One that minds the events of `activity`.
    pub(super) fn new(activity: Activity) -> Self {
        Self(Rc::new(RefCell::new(Queue {
            waiting: VecDeque::new(),
            turning: false,
            passed: Used::default(),
            activity,
        })))
    }

    /// Comes back when it is one's turn, in the order in which newcomers asked. Whatever else the thread has to do
    /// comes in between. Only within a [`LocalSet`](tokio::task::LocalSet).
    pub(super) async fn pass(&self) {
        let turn = {
            let mut queue = self.0.borrow_mut();
            if queue.turning {
                let (sender, turn) = oneshot::channel();
                queue.waiting.push_back(sender);
                Some(turn)
            } else {
                queue.turning = true;
                spawn_local(self.clone().turn());
                None
            }
        };
        if let Some(turn) = turn {
            // Nobody who waits is forgotten; if one were, there would be nothing to wait for.
            let _ = turn.await;
        }
    }

    /// Lets in who waits, one each time that the thread has done everything else. Not a matter of those who wait:
    /// one whose connection is stuck is not polled, and must not keep the others out.
    async fn turn(self) {
        loop {
            yield_now().await;
            let nap = self.0.borrow_mut().nap(Instant::now());
            if let Some(nap) = nap {
                thread::sleep(nap);
            }
            let mut queue = self.0.borrow_mut();
            // Who has gone away takes no turn.
            let mut waiting = iter::from_fn(|| queue.waiting.pop_front());
            if !waiting.any(|next| next.send(()).is_ok()) {
                queue.turning = false;
                return;
            }
        }
    }
}

impl Queue {
    /// How long the thread is to sleep behind the newcomer that has come in, if at all.
    fn nap(&mut self, now: Instant) -> Option<Duration> {
        let pace = Pace::with_burst(PACE, FEW)?;
        pace.take(&mut self.passed, now);
        let wait = pace.check(self.passed, now).err()?;
        self.activity.is_lively(now).then(|| wait.min(NAP))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use prometheus_client::metrics::counter::Counter;
    use tokio::task::LocalSet;

    use super::*;

    const NEWCOMERS: usize = 100;

    /// The turnstile of a thread to which no events come.
    fn quiet() -> Turnstile {
        Turnstile::new(Activity::by(Counter::default()))
    }

    /// The naps behind newcomers that come so long after the beginning, while events are delivered.
    fn naps(newcomers: impl IntoIterator<Item = Duration>) -> Vec<Duration> {
        let routed = Counter::default();
        let turnstile = Turnstile::new(Activity::by(routed.clone()));
        let mut queue = turnstile.0.borrow_mut();
        let begin = Instant::now();
        let nap = |after| {
            routed.inc();
            queue.nap(begin + after)
        };
        newcomers.into_iter().filter_map(nap).collect()
    }

    /// When newcomers come that are so far apart.
    fn every(apart: Duration) -> impl Iterator<Item = Duration> {
        (0..NEWCOMERS as u32).map(move |number| apart * number)
    }

    /// The naps behind those that come all at once.
    const STORM: [Duration; NEWCOMERS - FEW as usize + 1] = [NAP; NEWCOMERS - FEW as usize + 1];

    #[test]
    fn naps_are_for_many_newcomers_that_come_fast_enough() {
        let in_time = Duration::from_secs(1) / PACE;
        assert!(naps(every(in_time)).is_empty());
        assert!(naps(every(in_time * 2)).is_empty());
        assert_eq!(naps(every(Duration::ZERO)), STORM);
        // Those that are a little too fast nap later, and no longer than the pace asks for.
        let nearly = naps(every(in_time - Duration::from_micros(50)));
        assert!(
            (1..STORM.len()).contains(&nearly.len()) && nearly[0] < NAP,
            "{nearly:?}"
        );
    }

    #[test]
    fn who_came_before_costs_a_storm_no_nap() {
        let slowly = Duration::from_millis(5);
        let storm = every(Duration::ZERO).map(|at_once| at_once + slowly * NEWCOMERS as u32);
        assert_eq!(naps(every(slowly).chain(storm)), STORM);
    }

    #[test]
    fn newcomers_give_way_to_events_alone() {
        let routed = Counter::default();
        let turnstile = Turnstile::new(Activity::by(routed.clone()));
        let mut queue = turnstile.0.borrow_mut();
        let now = Instant::now();
        let mut gives_way = || (0..=FEW).any(|_| queue.nap(now).is_some());
        assert!(!gives_way());
        routed.inc();
        assert!(gives_way());
    }

    #[tokio::test]
    async fn what_else_there_is_to_do_comes_between_any_two() {
        let inside = Rc::new(Cell::new(0));
        let turnstile = quiet();
        let tasks = LocalSet::new();
        for number in 0..NEWCOMERS {
            let (turnstile, inside) = (turnstile.clone(), Rc::clone(&inside));
            tasks.spawn_local(async move {
                turnstile.pass().await;
                assert_eq!(inside.replace(number + 1), number);
            });
        }
        let deliveries = async {
            let mut seen = 0;
            while seen < NEWCOMERS {
                yield_now().await;
                assert!(inside.get() <= seen + 1, "{} after {seen}", inside.get());
                seen = inside.get();
            }
        };
        tasks.run_until(deliveries).await;
        tasks.await;
    }

    #[tokio::test]
    async fn who_goes_away_while_waiting_keeps_nobody_out() {
        let turnstile = quiet();
        let passes = |_| {
            let turnstile = turnstile.clone();
            spawn_local(async move { turnstile.pass().await })
        };
        let tasks = LocalSet::new();
        let all = tasks.run_until(async {
            let newcomers: Vec<_> = (0..NEWCOMERS).map(passes).collect();
            yield_now().await;
            for newcomer in newcomers.iter().step_by(2) {
                newcomer.abort();
            }
            let mut passed = 0;
            for newcomer in newcomers {
                passed += usize::from(newcomer.await.is_ok());
            }
            turnstile.pass().await;
            passed
        });
        assert!(all.await >= NEWCOMERS / 2);
    }

    /// As a request is whose connection has ended while its answers are not taken.
    #[tokio::test]
    async fn who_is_kept_and_not_asked_again_keeps_nobody_out() {
        let turnstile = quiet();
        let tasks = LocalSet::new();
        let others = tasks.run_until(async {
            let (mut first, mut second) = (pin!(turnstile.pass()), pin!(turnstile.pass()));
            let mut context = Context::from_waker(Waker::noop());
            assert!(first.as_mut().poll(&mut context).is_ready());
            assert!(second.as_mut().poll(&mut context).is_pending());
            for _ in 0..NEWCOMERS {
                turnstile.pass().await;
            }
        });
        others.await;
    }
}
