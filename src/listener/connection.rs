//! What requests say of themselves to the connection that they came on, and the socket to those who wait for it.

use std::cell::Cell;
use std::rc::Rc;

use super::room::Place;

/// A connection, as its requests and its socket see it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connection(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Place,
    /// Requests that have come.
    come: Cell<u64>,
    /// Those whose answer is not all there.
    open: Cell<u32>,
    /// Those whose answer has not begun.
    unanswered: Cell<u32>,
}

/// A request, until its answer is all there.
#[derive(Debug)]
pub struct Busy {
    connection: Connection,
    answered: Cell<bool>,
}

impl Connection {
    pub(super) fn new(place: Place) -> Self {
        Self(Rc::new(Inner {
            place,
            come: Cell::new(0),
            open: Cell::new(0),
            unanswered: Cell::new(0),
        }))
    }

    /// A request has come.
    #[must_use]
    pub fn begin(&self) -> Busy {
        let inner = &self.0;
        if inner.open.get() == 0 {
            inner.place.end_waiting();
        }
        inner.come.set(inner.come.get() + 1);
        inner.open.set(inner.open.get() + 1);
        inner.unanswered.set(inner.unanswered.get() + 1);
        Busy {
            connection: self.clone(),
            answered: Cell::new(false),
        }
    }

    /// How many requests wait for their answer.
    #[must_use]
    pub fn unanswered(&self) -> u32 {
        self.0.unanswered.get()
    }

    /// Whether a request is being answered.
    pub(super) fn is_busy(&self) -> bool {
        self.0.open.get() > 0
    }

    /// How many requests have come.
    pub(super) fn come(&self) -> u64 {
        self.0.come.get()
    }

    /// Comes back when the connection has to make room.
    pub(super) async fn asked_to_leave(&self) {
        self.0.place.asked_to_leave().await;
    }
}

impl Busy {
    /// Its answer begins.
    pub fn answered(&self) {
        if !self.answered.replace(true) {
            let unanswered = &self.connection.0.unanswered;
            unanswered.set(unanswered.get() - 1);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.answered();
        let inner = &self.connection.0;
        inner.open.set(inner.open.get() - 1);
        if inner.open.get() == 0 {
            inner.place.begin_to_wait();
        }
    }
}
