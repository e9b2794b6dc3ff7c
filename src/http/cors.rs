//! Which pages of other origins may read from this server.

use std::cell::RefCell;
use std::future::{Ready, ready};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_cors::{Cors, CorsMiddleware};
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE,
};
use actix_web::http::{Method, Uri};
use futures_util::FutureExt as _;
use parking_lot::RwLock;

/// How long a browser may remember what it was allowed, in seconds.
const MAX_AGE: usize = 3600;

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
        current.call(request)
    }
}

/// The middleware for some origins. Requests from others are answered without the headers that would
/// let their pages read the answer.
fn cors(allowed: &[String]) -> Cors {
    let cors = Cors::default()
        .allowed_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::DELETE,
            Method::OPTIONS,
        ])
        .allowed_headers([
            AUTHORIZATION,
            CACHE_CONTROL,
            CONTENT_TYPE,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
        ])
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
