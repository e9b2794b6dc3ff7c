//! What every request passes on its way in and out: limits that are the same for all addresses, and the counting of
//! all that were met.

use std::future::ready;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::BoxedPayloadStream;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::Method;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpMessage as _, HttpRequest};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::Either;
use tokio::time::{Sleep, sleep};

use super::config::ServerConfig;
use super::error::ApiError;
use crate::address::{Origin, Proxies};
use crate::limits::Limits;
use crate::listener::{Busy, Connection};

/// The most requests of one connection that wait for their answer. Of HTTP/1.1 there is one; over HTTP/2 a proxy may
/// have many for its clients, polls among them.
const UNANSWERED: u32 = 1_000;

/// How long the body of a request may take, and the bytes that earn it another second. So 1 MiB may take 74 s.
const BODY_TIME: Duration = Duration::from_secs(10);
const BODY_RATE: usize = 16 * 1024;

/// The largest heads of requests, which can be changed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HeadLimits(Arc<Most>);

#[derive(Debug)]
struct Most {
    uri: AtomicUsize,
    headers: AtomicUsize,
}

/// Lets requests through. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate {
    limits: Limits,
    proxies: Proxies,
    heads: HeadLimits,
    /// Requests that are not answered yet.
    open: Arc<AtomicUsize>,
}

/// A request, until it is answered or given up.
struct Open(Arc<AtomicUsize>);

/// The body of an answer, with which its request is over.
#[derive(Debug)]
pub struct Answer {
    body: BoxBody,
    _busy: Option<Busy>,
}

/// The body of a request, which has to come at a certain pace.
struct Paced {
    payload: Payload,
    timer: Pin<Box<Sleep>>,
    /// What has come since time was last added.
    come: usize,
}

impl HeadLimits {
    /// The limits that are configured.
    #[must_use]
    pub fn new(config: &ServerConfig) -> Self {
        let most = Self(Arc::new(Most {
            uri: AtomicUsize::default(),
            headers: AtomicUsize::default(),
        }));
        most.set(config);
        most
    }

    /// The limits that are configured now.
    pub fn set(&self, config: &ServerConfig) {
        let most = &self.0;
        most.uri.store(config.max_uri.bytes(), Ordering::Relaxed);
        most.headers
            .store(config.max_headers.bytes(), Ordering::Relaxed);
    }

    fn check(&self, request: &ServiceRequest) -> Result<(), ApiError> {
        let most = self.0.uri.load(Ordering::Relaxed);
        let uri = request.uri();
        let query = uri.query().map_or(0, |query| query.len() + 1);
        if uri.path().len() + query > most {
            return Err(ApiError::LongUri(most));
        }
        let most = self.0.headers.load(Ordering::Relaxed);
        // With a colon, a space, and the end of the line.
        let header =
            |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
        if request.headers().iter().map(header).sum::<usize>() > most {
            return Err(ApiError::LongHeaders(most));
        }
        Ok(())
    }
}

impl Gate {
    /// A gate through which nobody has come.
    #[must_use]
    pub fn new(limits: Limits, proxies: Proxies, heads: HeadLimits) -> Self {
        Self {
            limits,
            proxies,
            heads,
            open: Arc::default(),
        }
    }

    /// How many requests are not answered yet.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Follows a request until its answer is all there; any request, whoever answers it.
    ///
    /// # Errors
    /// Those of the service.
    pub fn follow<S, B>(
        &self,
        request: ServiceRequest,
        service: &S,
    ) -> impl Future<Output = Result<ServiceResponse<Answer>, actix_web::Error>> + use<S, B>
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error>,
        B: MessageBody + 'static,
    {
        let open = Open::begin(&self.open);
        let busy = request.conn_data::<Connection>().map(Connection::begin);
        let served = service.call(request);
        async move {
            let answer = served.await;
            drop(open);
            if let Some(busy) = &busy {
                busy.answered();
            }
            Ok(answer?.map_body(|_, body| Answer {
                body: body.boxed(),
                _busy: busy,
            }))
        }
    }

    /// Has a request served, if it is within the limits. It is followed already.
    ///
    /// # Errors
    /// Those of the service.
    pub fn pass<S>(
        &self,
        mut request: ServiceRequest,
        service: &S,
    ) -> impl Future<Output = Result<ServiceResponse, actix_web::Error>> + use<S>
    where
        S: Service<ServiceRequest, Response = ServiceResponse, Error = actix_web::Error>,
    {
        let connection = request.conn_data::<Connection>();
        // Itself among them.
        let crowded = connection.is_some_and(|connection| connection.unanswered() > UNANSWERED);
        let checked = if crowded {
            Err(ApiError::Crowded)
        } else {
            self.heads.check(&request)
        };
        let served = match checked {
            Ok(()) => {
                pace(&mut request);
                Either::Left(service.call(request))
            }
            Err(error) => Either::Right(ready(Ok(request.error_response(error)))),
        };
        let gate = self.clone();
        async move {
            let answer = served.await?;
            gate.count(&answer);
            Ok(answer)
        }
    }

    /// Counts the limit that an answer is about, if it is.
    fn count(&self, answer: &ServiceResponse) {
        let error = answer.response().error();
        let limit = error.and_then(|error| error.as_error::<ApiError>()?.limit());
        if let Some(limit) = limit {
            let origin = origin(answer.request(), &self.proxies);
            self.limits.met(limit, origin.map(|origin| origin.address));
        }
    }
}

/// From where a request comes.
pub(super) fn origin(request: &HttpRequest, proxies: &Proxies) -> Option<Origin> {
    let peer = request.peer_addr()?.ip();
    Some(proxies.origin(peer, |name| {
        let values: Vec<&[u8]> = request
            .headers()
            .get_all(name)
            .map(HeaderValue::as_bytes)
            .collect();
        values.into_iter()
    }))
}

/// Has the body of a request come at a certain pace, if it may have one that anybody reads.
fn pace(request: &mut ServiceRequest) {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return;
    }
    let payload = request.take_payload();
    if matches!(payload, Payload::None) {
        return;
    }
    let paced: BoxedPayloadStream = Box::pin(Paced {
        payload,
        timer: Box::pin(sleep(BODY_TIME)),
        come: 0,
    });
    request.set_payload(paced.into());
}

impl Open {
    fn begin(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MessageBody for Answer {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(context)
    }
}

impl Stream for Paced {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, PayloadError>>> {
        let paced = self.get_mut();
        if let Poll::Ready(piece) = Pin::new(&mut paced.payload).poll_next(context) {
            if let Some(Ok(bytes)) = &piece {
                paced.come += bytes.len();
                let earned = u32::try_from(paced.come / BODY_RATE).unwrap_or(u32::MAX);
                paced.come %= BODY_RATE;
                if earned > 0 {
                    let deadline = paced.timer.deadline() + earned * Duration::from_secs(1);
                    paced.timer.as_mut().reset(deadline);
                }
            }
            return Poll::Ready(piece);
        }
        std::task::ready!(paced.timer.as_mut().poll(context));
        Poll::Ready(Some(Err(PayloadError::Io(ErrorKind::TimedOut.into()))))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;
    use crate::units::Size;

    #[test]
    fn other_limits_count_for_the_next_request() {
        let mut config = ServerConfig::default();
        let heads = HeadLimits::new(&config);
        let long = || TestRequest::with_uri(&format!("/{}", "x".repeat(1999))).to_srv_request();
        let large = || {
            let request = TestRequest::default().insert_header(("x-large", "x".repeat(2000)));
            request.to_srv_request()
        };
        assert!(heads.check(&long()).is_ok() && heads.check(&large()).is_ok());
        config.max_uri = Size(1999);
        config.max_headers = Size(2000);
        heads.clone().set(&config);
        assert!(matches!(heads.check(&long()), Err(ApiError::LongUri(1999))));
        assert!(matches!(
            heads.check(&large()),
            Err(ApiError::LongHeaders(2000))
        ));
        config.max_uri = Size(2000);
        heads.set(&config);
        assert!(heads.check(&long()).is_ok());
    }
}
