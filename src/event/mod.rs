//! What happened, whom it is for, and its bytes on the wire.
//!
//! This module is pure: no I/O, no clock, no runtime, and it knows none of the other modules.

mod audience;
mod channel;
pub mod decode;
mod frame;
mod id;
mod journey;
mod position;
mod schema;
pub mod subject;
mod timestamp;
mod trace_context;
mod tracked;

pub use audience::{Audience, MembershipChange, Recipients};
pub use channel::{Channel, ChannelError, Resource};
pub use frame::{Class, Frame};
pub use id::{ChatId, Id, IdError, UserId};
pub use journey::{Journey, Progress, Recipient};
pub use position::{Epoch, EventId, EventIdError};
pub use timestamp::Timestamp;
pub use trace_context::{SpanId, TRACEPARENT, TRACESTATE, TraceContext, TraceId};
pub use tracked::{Tracked, Written};

use std::time::Instant;

/// One immutable thing that happened: decoded once, encoded once, shared by every session that
/// receives it.
#[derive(Debug)]
pub struct Event {
    /// The place in the log; `None` where the log could not take the event.
    pub id: Option<EventId>,
    /// The outgoing `type`, e.g. `new_message`.
    pub kind: String,
    /// Whom the event is for.
    pub audience: Audience,
    /// Set when the event moves a user's live sessions into or out of a chat.
    pub membership: Option<MembershipChange>,
    /// The encoded bytes.
    pub frame: Frame,
}

impl Event {
    /// Encodes a decoded payload as the event at `id`.
    #[must_use]
    pub fn new(id: Option<EventId>, decoded: decode::Decoded) -> Self {
        let frame = Frame::event(
            id.as_ref(),
            &decoded.kind,
            &decoded.json,
            decoded.class,
            decoded.expires_at,
        );
        Self {
            id,
            kind: decoded.kind,
            audience: decoded.audience,
            membership: decoded.membership,
            frame,
        }
    }

    /// The same event with the moment at which it was published, by the clock of this process, so that
    /// it is measured how long it takes to be written.
    #[must_use]
    pub fn published_at(mut self, at: Instant) -> Self {
        self.frame = self.frame.published_at(at);
        self
    }
}
