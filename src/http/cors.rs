//! Which pages of other origins may read from this server, and what their browsers are told where they may not.

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::{Ready, ready};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_cors::{Cors, CorsError, CorsMiddleware};
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::http::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap,
    HeaderName, HeaderValue, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use actix_web::http::{Method, Uri};
use futures_util::FutureExt as _;
use parking_lot::RwLock;

use super::error::ApiError;

/// How long a browser may remember what it was allowed, in seconds.
const MAX_AGE: usize = 3600;

/// What pages of other origins may use and send.
static METHODS: [Method; 5] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::DELETE,
    Method::OPTIONS,
];
static HEADERS: [HeaderName; 5] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_TYPE,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("last-event-id"),
];

/// What the answer to a preflight depends on.
const ASKED_BY: &str = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";

/// The longest name of a header that an answer repeats.
const LONGEST_NAME: usize = 64;

/// The origins of those pages, which can be changed at any time. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Origins(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    allowed: RwLock<Arc<[String]>>,
    /// Grows with every change.
    version: AtomicU64,
}

/// The middleware for one thread.
#[derive(Debug)]
pub struct OriginsMiddleware<S> {
    service: Rc<S>,
    origins: Origins,
    /// Made for this version of the origins.
    current: RefCell<(u64, Rc<CorsMiddleware<Rc<S>>>)>,
}

impl Origins {
    /// Pages of these may read; `*` stands for any.
    #[must_use]
    pub fn new(allowed: &[String]) -> Self {
        Self(Arc::new(Inner {
            allowed: RwLock::new(allowed.into()),
            version: AtomicU64::new(0),
        }))
    }

    /// Others from now on.
    pub fn set(&self, allowed: &[String]) {
        *self.0.allowed.write() = allowed.into();
        self.0.version.fetch_add(1, Ordering::Release);
    }

    /// Whether a text can be an origin, or `*`.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        let host = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let plain = host.is_some_and(|host| !host.is_empty() && !host.contains('/'));
        text == "*" || (plain && text.parse::<Uri>().is_ok())
    }

    /// Whether pages of an origin may read now.
    #[must_use]
    pub fn allow(&self, origin: &str) -> bool {
        let allowed = self.0.allowed.read();
        allowed.iter().any(|one| one == "*" || one == origin)
    }

    fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// The middleware for what is allowed now; `None` if one of the origins is none.
    fn middleware<S, B>(&self, service: &Rc<S>) -> Option<CorsMiddleware<Rc<S>>>
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error>
            + 'static,
        S::Future: 'static,
        B: MessageBody + 'static,
    {
        let allowed = Arc::clone(&self.0.allowed.read());
        // It is made at once.
        let made = cors(&allowed).new_transform(Rc::clone(service));
        made.now_or_never()?.ok()
    }
}

impl<S, B> Transform<S, ServiceRequest> for Origins
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error> + 'static,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = actix_web::Error;
    type Transform = OriginsMiddleware<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        let (service, version) = (Rc::new(service), self.version());
        let first = self.middleware(&service).ok_or(());
        ready(first.map(|first| OriginsMiddleware {
            service,
            origins: self.clone(),
            current: RefCell::new((version, Rc::new(first))),
        }))
    }
}

impl<S, B> Service<ServiceRequest> for OriginsMiddleware<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error> + 'static,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = actix_web::Error;
    type Future = <CorsMiddleware<Rc<S>> as Service<ServiceRequest>>::Future;

    forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let version = self.origins.version();
        let current = {
            let mut current = self.current.borrow_mut();
            if current.0 != version
                && let Some(other) = self.origins.middleware(&self.service)
            {
                *current = (version, Rc::new(other));
            }
            Rc::clone(&current.1)
        };
        let may_be_preflight = *request.method() == Method::OPTIONS;
        let answer = current.call(request);
        if may_be_preflight {
            return answer.map(|answer| answer.map(in_words)).boxed_local();
        }
        answer
    }
}

/// The same answer, unless it refuses a preflight: then one that says so like any other error here.
fn in_words<B: MessageBody>(
    answer: ServiceResponse<EitherBody<B>>,
) -> ServiceResponse<EitherBody<B>> {
    let error = answer.response().error();
    let Some(refusal) = error.and_then(|error| error.as_error::<CorsError>()) else {
        return answer;
    };
    let error = explained(refusal, answer.request().headers());
    let (request, _) = answer.into_parts();
    let mut answer = ServiceResponse::from_err(error, request);
    let asked_by = HeaderValue::from_static(ASKED_BY);
    answer.headers_mut().insert(VARY, asked_by);
    answer.map_into_right_body()
}

/// Why a preflight is refused. Says what is allowed, but not to whom: which origins those are is not for everybody.
fn explained(refusal: &CorsError, headers: &HeaderMap) -> ApiError {
    const ORIGIN: &str = "Origin";
    const METHOD: &str = "Access-Control-Request-Method";
    const SENT: &str = "Access-Control-Request-Headers";
    let (header, problem): (_, Cow<'static, str>) = match refusal {
        CorsError::MissingOrigin => (ORIGIN, "a preflight says whose page asks".into()),
        CorsError::BadRequestHeaders => {
            let problem = "it names headers, with commas in between";
            (SENT, problem.into())
        }
        CorsError::HeadersNotAllowed => {
            let other = other_header(headers);
            let problem = format!("pages of other origins may send {}", listed(&HEADERS));
            let problem = match other {
                Some(other) => format!("{problem}, and not {other}"),
                None => problem,
            };
            (SENT, problem.into())
        }
        CorsError::MethodNotAllowed
        | CorsError::BadRequestMethod
        | CorsError::MissingRequestMethod => {
            let problem = format!("pages of other origins may use {}", listed(&METHODS));
            (METHOD, problem.into())
        }
        // That it is not allowed.
        _ => {
            let problem = "pages of this origin may not read from this server; those that may are named by \
                           server.allowed_origins, with scheme, host and port";
            (ORIGIN, problem.into())
        }
    };
    ApiError::Preflight { header, problem }
}

/// The first header that is asked for and not allowed. As a name it is made of letters, digits and a few signs.
fn other_header(headers: &HeaderMap) -> Option<String> {
    let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS)?.to_str().ok()?;
    let mut names = asked
        .split(',')
        .filter_map(|name| HeaderName::try_from(name.trim()).ok());
    let other = names.find(|name| !HEADERS.contains(name))?;
    Some(other.as_str().chars().take(LONGEST_NAME).collect())
}

fn listed<T: AsRef<str>>(all: &[T]) -> String {
    all.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
}

/// The middleware for some origins. Requests from others are answered without the headers that would
/// let their pages read the answer.
fn cors(allowed: &[String]) -> Cors {
    let cors = Cors::default()
        .allowed_methods(METHODS.iter().cloned())
        .allowed_headers(HEADERS.iter().cloned())
        // What clients act on or report; pages of other origins see no other header than the usual ones.
        .expose_headers([RETRY_AFTER, WWW_AUTHENTICATE])
        .block_on_origin_mismatch(false)
        .max_age(MAX_AGE);
    if allowed.iter().any(|origin| origin == "*") {
        // Without credentials: a cookie must not be usable from any page there is.
        return cors.allow_any_origin().send_wildcard();
    }
    if allowed.is_empty() {
        return cors;
    }
    allowed
        .iter()
        .fold(cors.supports_credentials(), |cors, origin| {
            cors.allowed_origin(origin)
        })
}
