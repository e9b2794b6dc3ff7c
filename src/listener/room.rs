//! How many sockets a thread may have, and who makes room when it has them all: of those that nobody is answered
//! on, the one that has waited the longest. So neither clients that connect and say nothing, or not enough, nor those
//! that are kept for another request that does not come, keep others out. A request is never cut short for it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

/// How many sockets each thread may have, which can be changed while it has some. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SocketLimit(Arc<AtomicUsize>);

/// The sockets of one thread. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Room(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: SocketLimit,
    taken: Cell<usize>,
    /// Those on which nobody is answered, by the order in which they began to wait.
    waiting: RefCell<BTreeMap<u64, Rc<Leave>>>,
    next: Cell<u64>,
    /// A place was given back, or somebody began to wait.
    changed: Notify,
}

/// A socket's place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    room: Room,
    leave: Rc<Leave>,
    /// Its number, while it waits.
    waiting: Cell<Option<u64>>,
}

/// Whether a socket has to go. Looked at whenever its task runs, so that there is no lock.
#[derive(Default)]
struct Leave {
    asked: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl SocketLimit {
    /// So many, at least one.
    #[must_use]
    pub fn new(sockets: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(sockets.max(1))))
    }

    /// So many from now on, at least one. Where there are more, they stay.
    pub fn set(&self, sockets: usize) {
        self.0.store(sockets.max(1), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Room {
    /// Nobody is there.
    pub(super) fn new(limit: SocketLimit) -> Self {
        Self(Rc::new(Inner {
            limit,
            taken: Cell::new(0),
            waiting: RefCell::default(),
            next: Cell::new(0),
            changed: Notify::new(),
        }))
    }

    /// A place for one more socket, as soon as there is one; `asked` is called when somebody was asked to leave.
    pub(super) async fn enter(&self, mut asked: impl FnMut()) -> Place {
        let inner = &self.0;
        let mut leaving = Weak::<Leave>::new();
        while inner.taken.get() >= inner.limit.get() {
            // One at a time, unless that one is answered after all.
            let on_its_way = leaving.upgrade().is_some_and(|leave| leave.asked.get());
            if !on_its_way && let Some(leave) = self.ask_to_leave() {
                leaving = Rc::downgrade(&leave);
                asked();
            }
            inner.changed.notified().await;
        }
        inner.taken.set(inner.taken.get() + 1);
        let place = Place {
            room: self.clone(),
            leave: Rc::default(),
            waiting: Cell::new(None),
        };
        place.begin_to_wait();
        place
    }

    /// Tells the one that has waited the longest to go, if there is one.
    fn ask_to_leave(&self) -> Option<Rc<Leave>> {
        let (_, leave) = self.0.waiting.borrow_mut().pop_first()?;
        leave.ask();
        Some(leave)
    }
}

impl Place {
    /// Nobody is answered on this socket from now on.
    pub(super) fn begin_to_wait(&self) {
        let inner = &self.room.0;
        let number = inner.next.get();
        inner.next.set(number + 1);
        self.end_waiting();
        let leave = Rc::clone(&self.leave);
        inner.waiting.borrow_mut().insert(number, leave);
        self.waiting.set(Some(number));
        inner.changed.notify_one();
    }

    /// Somebody is answered on it.
    pub(super) fn end_waiting(&self) {
        if let Some(number) = self.waiting.take() {
            self.room.0.waiting.borrow_mut().remove(&number);
        }
        if self.leave.asked.replace(false) {
            // Then somebody else has to.
            self.room.0.changed.notify_one();
        }
    }

    /// Comes back when the socket has to go.
    pub(super) async fn asked_to_leave(&self) {
        poll_fn(|context| self.leave.poll(context)).await;
    }
}

impl Leave {
    fn ask(&self) {
        self.asked.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.asked.get() {
            return Poll::Ready(());
        }
        let known = self.waker.take();
        let same = known.filter(|waker| waker.will_wake(context.waker()));
        self.waker
            .set(same.or_else(|| Some(context.waker().clone())));
        Poll::Pending
    }
}

impl fmt::Debug for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leave").field("asked", &self.asked).finish()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.end_waiting();
        let inner = &self.room.0;
        inner.taken.set(inner.taken.get() - 1);
        inner.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, poll};

    use super::*;

    fn enters(room: &Room) -> Option<Place> {
        room.enter(|| ()).now_or_never()
    }

    /// Whether it has to go.
    fn is_asked(place: &Place) -> bool {
        place.asked_to_leave().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_longest_waiting_makes_room_and_nobody_who_is_answered() {
        let room = Room::new(SocketLimit::new(3));
        let [busy, old, young] = [(); 3].map(|()| enters(&room).unwrap());
        busy.end_waiting();
        let times = Cell::new(0);
        let newcomer = room.enter(|| times.set(times.get() + 1));
        tokio::pin!(newcomer);
        assert!(poll!(&mut newcomer).is_pending());
        assert!(is_asked(&old));
        assert!(!is_asked(&young) && !is_asked(&busy));
        drop(old);
        let Poll::Ready(newcomer) = poll!(newcomer) else {
            panic!("there is room");
        };
        assert_eq!(times.get(), 1);
        // Whoever was answered waits anew, behind the others.
        busy.begin_to_wait();
        newcomer.end_waiting();
        assert!(enters(&room).is_none());
        assert!(is_asked(&young) && !is_asked(&busy));
    }

    #[tokio::test]
    async fn where_all_are_answered_newcomers_wait_for_one_to_finish() {
        let room = Room::new(SocketLimit::new(2));
        let [one, other] = [(); 2].map(|()| enters(&room).unwrap());
        one.end_waiting();
        other.end_waiting();
        let newcomer = room.enter(|| ());
        tokio::pin!(newcomer);
        assert!(poll!(&mut newcomer).is_pending());
        one.begin_to_wait();
        assert!(poll!(&mut newcomer).is_pending());
        assert!(is_asked(&one));
        drop(one);
        assert!(poll!(newcomer).is_ready());
    }

    #[tokio::test]
    async fn who_is_answered_after_all_stays_and_the_next_goes() {
        let room = Room::new(SocketLimit::new(2));
        let [one, other] = [(); 2].map(|()| enters(&room).unwrap());
        let newcomer = room.enter(|| ());
        tokio::pin!(newcomer);
        assert!(poll!(&mut newcomer).is_pending());
        assert!(is_asked(&one));
        one.end_waiting();
        assert!(!is_asked(&one));
        assert!(poll!(&mut newcomer).is_pending());
        assert!(is_asked(&other));
    }

    #[tokio::test]
    async fn another_limit_counts_for_newcomers() {
        let limit = SocketLimit::new(1);
        let room = Room::new(limit.clone());
        let first = enters(&room).unwrap();
        limit.set(2);
        let _second = enters(&room).unwrap();
        limit.set(0);
        drop(first);
        assert!(enters(&room).is_none());
    }
}
