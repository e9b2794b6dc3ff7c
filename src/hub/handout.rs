//! Messages for one session, besides what is routed to it: those that have waited for its user.

use parking_lot::Mutex;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::event::{EventId, Frame, UserId};

/// Messages for the session of one connection.
#[derive(Debug)]
pub(super) struct Handout {
    pub(super) user: UserId,
    pub(super) connection: Uuid,
    /// Taken by the shard that has the session.
    parcel: Mutex<Option<Parcel>>,
}

#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) messages: Vec<(Option<EventId>, Frame)>,
    pub(super) answer: oneshot::Sender<Vec<Handed>>,
}

/// What has become of one message.
#[derive(Debug)]
pub enum Handed {
    /// It waits in the session's outbox. The receiver hears when it is written, or, with an error, that
    /// it never will be.
    Queued(oneshot::Receiver<()>),
    /// The session has been sent it already: it was there when the message came, or it came back from
    /// before it. All that it was sent is written.
    Had,
    /// The same, but something still waits to be written.
    Having,
    /// There was no room.
    Refused,
}

impl Handout {
    pub(super) fn new(
        user: UserId,
        connection: Uuid,
        messages: Vec<(Option<EventId>, Frame)>,
    ) -> (Self, oneshot::Receiver<Vec<Handed>>) {
        let (answer, handed) = oneshot::channel();
        let parcel = Mutex::new(Some(Parcel { messages, answer }));
        let handout = Self {
            user,
            connection,
            parcel,
        };
        (handout, handed)
    }

    pub(super) fn take(&self) -> Option<Parcel> {
        self.parcel.lock().take()
    }
}
