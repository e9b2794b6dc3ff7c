//! The spans of messages that are published.

use std::sync::Arc;

use bytes::Bytes;

use super::subject::{self, Pattern};
use super::{Bus, PublishError, Submitted};
use crate::event::TraceContext;
use crate::trace::{Kind, Place, Span, Tracer};

/// What messages that are published are traced by.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    /// What records them.
    pub tracer: Tracer,
    /// The subjects that are listened on, which is what is said of a message's own.
    pub patterns: Arc<[Pattern]>,
}

/// The span goes on until it is known that the log has the message.
pub(super) fn traced(
    submitted: Result<Submitted, PublishError>,
    span: Option<Span>,
) -> Result<Submitted, PublishError> {
    match (submitted, span) {
        (submitted, None) => submitted,
        (Ok(submitted), Some(span)) => Ok(submitted.traced(span)),
        (Err(error), Some(mut span)) => {
            span.fail(error.kind());
            Err(error)
        }
    }
}

impl Bus {
    /// The place of a message in its trace, and the span of sending it, where that is recorded.
    pub(super) fn begin(
        &self,
        subject: &str,
        payload: &Bytes,
        trace: Option<&TraceContext>,
    ) -> (Option<Place>, Option<Span>) {
        let (tracer, patterns, system) = match self {
            Self::Embedded(bus) => (bus.tracer(), bus.patterns(), "in_process"),
            Self::Nats(bus) => (bus.tracer(), bus.patterns(), "nats"),
        };
        let Some(place) = tracer.place_within(trace) else {
            return (None, None);
        };
        let template = subject::template(patterns, subject);
        let mut span = tracer.span(&place, Kind::Producer, || format!("send {template}"));
        if let Some(span) = &mut span {
            span.set("messaging.system", system);
            span.set("messaging.operation.name", "publish");
            span.set("messaging.operation.type", "send");
            span.set("messaging.destination.template", template);
            span.set("messaging.message.body.size", payload.len());
        }
        (Some(place), span)
    }
}
