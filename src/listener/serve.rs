//! What serves the requests of a connection: the HTTP library, by what is spoken on it.

use std::convert::Infallible;
use std::future::ready;
use std::net::SocketAddr;
use std::rc::Rc;

use actix_http::body::{BoxBody, MessageBody};
use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol, Request, Response};
use actix_service::{Service, ServiceFactory as _, fn_factory};
use futures_util::future::LocalBoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::{ClientCertificate, DISCONNECT_TIMEOUT, KEEP_ALIVE, REQUEST_TIMEOUT, Watched};

/// The requests of a connection, until it ends.
pub(super) type Serving = LocalBoxFuture<'static, Result<(), DispatchError>>;

/// Serves connections.
pub(super) trait Serve<T> {
    fn serve(&self, connection: Watched<T>) -> Serving;
}

/// One service for each protocol. The library has one that knows both, with which a connection of HTTP/1.1 takes as
/// much memory as one of HTTP/2.
struct Protocols<H1, H2> {
    http1: H1,
    http2: H2,
}

impl<T, H1, H2> Serve<T> for Protocols<H1, H2>
where
    H1: Service<(Guard<T>, Option<SocketAddr>), Response = (), Error = DispatchError>,
    H1::Future: 'static,
    H2: Service<(Guard<T>, Option<SocketAddr>), Response = (), Error = DispatchError>,
    H2::Future: 'static,
{
    fn serve(&self, (guard, protocol, peer): Watched<T>) -> Serving {
        match protocol {
            Protocol::Http2 => Box::pin(self.http2.call((guard, peer))),
            _ => Box::pin(self.http1.call((guard, peer))),
        }
    }
}

/// What serves the connections of one thread with `app`. `shown` says whether a client has shown a certificate. `None`
/// if the library can't begin.
pub(super) async fn protocols<T, S, B>(
    stop: &CancellationToken,
    app: S,
    shown: impl Fn(&T) -> bool + 'static,
) -> Option<Rc<dyn Serve<T>>>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service<Request> + 'static,
    S::Error: Into<Response<BoxBody>> + 'static,
    S::Response: Into<Response<B>> + 'static,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    let (app, shown) = (Rc::new(app), Rc::new(shown));
    let library = || {
        let (stop, shown) = (stop.clone(), Rc::clone(&shown));
        HttpService::build()
            .graceful_shutdown_signal(move || stop.clone().cancelled_owned())
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(REQUEST_TIMEOUT)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            .h1_allow_half_closed(false)
            .on_connect_ext(move |guard: &Guard<T>, extensions| {
                extensions.insert(guard.connection().clone());
                if shown(guard.stream()) {
                    extensions.insert(ClientCertificate);
                }
                if let Some(shared) = guard.shared() {
                    extensions.insert(shared.clone());
                }
            })
    };
    // Both have the same one, which is of this thread.
    let app = || {
        let app = Rc::clone(&app);
        fn_factory(move || ready(Ok::<_, Infallible>(Rc::clone(&app))))
    };
    let http1 = library().h1(app()).new_service(()).await.ok()?;
    let http2 = library().h2(app()).new_service(()).await.ok()?;
    Some(Rc::new(Protocols { http1, http2 }))
}
