//! Server-Sent Events over HTTP: a session's stream as the body of a response.
//!
//! The body is polled by the connection's own task whenever the socket takes more, so a stream
//! needs no task and no channel of its own.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;

use crate::hub::SessionStream;

/// The answer that streams a session, and keeps something for as long as it does.
#[must_use]
pub fn response(stream: SessionStream, kept: impl Unpin + 'static) -> HttpResponse {
    builder().body(EventStream {
        stream,
        _kept: kept,
    })
}

/// The same answer without a body.
#[must_use]
pub fn head() -> HttpResponse {
    builder().body(NoBody)
}

/// Headers that keep everything on the way from holding events back: no cache, no transformation
/// such as compression, no buffering in nginx and its kin.
#[must_use]
pub fn builder() -> HttpResponseBuilder {
    let mut builder = HttpResponse::Ok();
    builder
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-cache, no-transform"))
        .insert_header(("x-accel-buffering", "no"));
    builder
}

struct EventStream<K> {
    stream: SessionStream,
    _kept: K,
}

impl<K: Unpin> MessageBody for EventStream<K> {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        self.stream.poll_next(context).map(|piece| piece.map(Ok))
    }
}

/// A body of unknown length that is over at once, so that a `HEAD` answer has the headers of the
/// stream and no `content-length`.
struct NoBody;

impl MessageBody for NoBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(None)
    }
}
