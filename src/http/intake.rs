//! Framing that the HTTP library leaves open: what a request says about its body has to be what its body is, for
//! everybody who reads it on its way.

use std::cell::{Cell, RefCell};
use std::future::{Future, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use actix_web::http::{ConnectionType, Method, Version};
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage as _};
use futures_util::future::Either;
use futures_util::{Stream, StreamExt as _};

use super::error::ApiError;

/// Passes a request on, if it is clear where it ends.
pub fn intake<S>(
    mut request: ServiceRequest,
    service: &S,
) -> impl Future<Output = Result<ServiceResponse, Error>> + use<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse, Error = Error>,
{
    let version = request.version();
    let incoming = incoming(&mut request);
    let answer = match problem_of(&request) {
        None => Either::Left(service.call(request)),
        Some(problem) => {
            let refusal = request.error_response(ApiError::Framing(problem));
            Either::Right(ready(Ok(refusal)))
        }
    };
    async move {
        let mut answer = answer.await?;
        let streams = answer.response().body().size() == BodySize::Stream;
        if version < Version::HTTP_11 && streams {
            end_with_connection(&mut answer);
        }
        match incoming.filter(|incoming| !streams && !incoming.ended.get()) {
            Some(unread) if version < Version::HTTP_2 => Ok(keep(answer, unread)),
            _ => Ok(answer),
        }
    }
}

/// What of a request's framing would have two readers of the same bytes see different requests.
fn problem_of(request: &ServiceRequest) -> Option<&'static str> {
    let reads = !matches!(*request.method(), Method::GET | Method::HEAD);
    let has = |name| request.headers().contains_key(name);
    let mut protocols = request.headers().get_all(UPGRADE);
    let websocket = protocols.any(|value| {
        let value = value.as_bytes().trim_ascii();
        value.eq_ignore_ascii_case(b"websocket")
    });
    // To the HTTP library everything that follows such a request is its body, whatever its length says: what a
    // proxy in between sends as the next request, of somebody else, would become a part of this one.
    if websocket && (reads || has(CONTENT_LENGTH)) {
        return Some(
            "this server speaks no WebSocket, and no request that asks for one has a body",
        );
    }
    if !reads && has(TRANSFER_ENCODING) {
        return Some("a request with GET or HEAD has no body");
    }
    None
}

/// HTTP/1.0 knows no chunks: a body of unknown length ends with the connection.
fn end_with_connection<B>(answer: &mut ServiceResponse<B>) {
    let head = answer.response_mut().head_mut();
    head.no_chunking(true);
    head.set_connection_type(ConnectionType::Close);
}

/// A request's body, of which the rest must not be given up before the answer is written: then the HTTP
/// library ends the connection. What it sees given up it reads to the end, which may never come.
struct Incoming {
    payload: Rc<RefCell<Payload>>,
    ended: Rc<Cell<bool>>,
}

fn incoming(request: &mut ServiceRequest) -> Option<Incoming> {
    let payload = match request.take_payload() {
        Payload::None => return None,
        payload => Rc::new(RefCell::new(payload)),
    };
    let ended = Rc::new(Cell::new(false));
    let shared = Shared {
        payload: Rc::clone(&payload),
        ended: Rc::clone(&ended),
    };
    request.set_payload(Payload::Stream {
        payload: Box::pin(shared),
    });
    Some(Incoming { payload, ended })
}

/// The body as handlers read it.
struct Shared {
    payload: Rc<RefCell<Payload>>,
    ended: Rc<Cell<bool>>,
}

impl Stream for Shared {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.payload.borrow_mut().poll_next_unpin(context);
        if let Poll::Ready(next) = &next {
            self.ended.set(next.is_none());
        }
        next
    }
}

fn keep(answer: ServiceResponse, unread: Incoming) -> ServiceResponse {
    answer.map_body(|_, body| {
        BoxBody::new(Keeping {
            body,
            _unread: unread.payload,
        })
    })
}

/// An answer's body, with what has to last as long.
struct Keeping {
    body: BoxBody,
    _unread: Rc<RefCell<Payload>>,
}

impl MessageBody for Keeping {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}
