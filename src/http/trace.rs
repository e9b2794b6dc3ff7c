//! The spans of requests: which trace a request belongs to, for those who answer it.
//!
//! A span names the route and never the address, which may have a token or people's names in it.

use std::convert::Infallible;
use std::future::{Ready, ready};

use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::Version;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};

use crate::event::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::trace::{Kind, Span, Tracer};

/// What of the interface is traced: what probes, scrapers and pages ask for is not.
const TRACED: [&str; 4] = ["/api/", "/events", "/sse/", "/online-users"];

/// What is called by a name that it does not have.
const NO_ROUTE: &str = "no route";

/// Which trace a request belongs to, where anything is traced.
#[derive(Debug, Clone)]
pub(super) struct Trace(pub(super) Option<TraceContext>);

impl FromRequest for Trace {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(
            request.extensions().get::<TraceContext>().cloned(),
        )))
    }
}

/// Begins the span of a request, where that is recorded, and lets those who answer it know its place.
#[must_use]
pub fn begin_span(tracer: &Tracer, request: &ServiceRequest) -> Option<Span> {
    if !tracer.is_on() || !TRACED.iter().any(|path| request.path().starts_with(path)) {
        return None;
    }
    let header = |name: &str| request.headers().get(name)?.to_str().ok();
    let parent =
        header(TRACEPARENT).and_then(|parent| TraceContext::read(parent, header(TRACESTATE), true));
    let place = tracer.place(parent.as_ref())?;
    request.extensions_mut().insert(place.context.clone());
    let method = request.method().as_str();
    let mut span = tracer.span(&place, Kind::Server, || method.to_owned())?;
    span.set("http.request.method", method);
    span.set("network.protocol.name", "http");
    span.set("network.protocol.version", version(request.version()));
    Some(span)
}

/// Ends it, now that the head of the answer is there.
pub fn end_span<B: MessageBody>(
    span: Option<Span>,
    answer: &Result<ServiceResponse<B>, actix_web::Error>,
) {
    let Some(mut span) = span else {
        return;
    };
    let (status, route) = match answer {
        Ok(answer) => (answer.status(), answer.request().match_pattern()),
        Err(error) => (error.as_response_error().status_code(), None),
    };
    if let Ok(answer) = answer {
        let method = answer.request().method().as_str();
        span.rename(format!("{method} {}", route.as_deref().unwrap_or(NO_ROUTE)));
    }
    if let Some(route) = route {
        span.set("http.route", route);
    }
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail(status.as_str());
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}
