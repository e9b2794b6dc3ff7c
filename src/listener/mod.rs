//! Accepts connections and serves them, on a few threads, each with its own share of the hub.
//!
//! A thread takes one connection, then lets everything else on it have a turn, then takes the next.
//! While events are being delivered it also rests between some few, so that newcomers don't take all of
//! its time. Those that wait do so in the kernel, where they cost nothing: when thousands of clients
//! come at once, the streams that are open already go on receiving.
//!
//! Sockets are bounded by `room`, which also says who makes room for others, and watched by `guard`.

mod connection;
mod entering;
mod guard;
mod http2;
mod room;
mod serve;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::time::Duration;

use actix_http::body::MessageBody;
use actix_http::{Protocol as HttpProtocol, Request, Response};
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt as _, map_config};
use actix_web::dev::AppConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

pub use connection::{Busy, Connection};
pub use room::SocketLimit;

use crate::limits::{Limit, Limits};
use crate::tls::Tls;
use entering::{Arriving, Entering, enter_plain, enter_tls, find_dead_peers};
use guard::Guard;
use room::Room;
use serve::{Serve, protocols};

/// How long a client may take to send a request's head, and to take leave.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle connection is kept for another request.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The pause after accepting has failed, most likely for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Connections that are taken before a rest, while events are being delivered.
const BEFORE_REST: u32 = 8;

/// The rest: as short as the clock of the runtime can make it. With the above, at most some 3,000
/// newcomers a second and thread.
const REST: Duration = Duration::from_millis(1);

/// How often it is looked whether HTTP/2 connections still have streams, when the server stops.
const LOOK: Duration = Duration::from_millis(100);

/// How connections are accepted.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen.
    pub address: SocketAddr,
    /// Connections that may wait in the kernel.
    pub backlog: u32,
    /// Threads that serve.
    pub threads: usize,
    /// Connections that each thread may have.
    pub sockets: SocketLimit,
    /// Counts those that met a limit.
    pub limits: Limits,
    /// A peer that acknowledges nothing for so long is given up by the kernel.
    pub dead_after: Duration,
    /// How the server proves itself; plain HTTP without.
    pub tls: Option<Tls>,
    /// Whether HTTP/2 is understood without TLS, as proxies speak it.
    pub h2c: bool,
}

/// The client has shown a certificate of the configured authorities.
#[derive(Debug, Clone, Copy)]
pub struct ClientCertificate;

/// A connection of HTTP/2, which can be ended as a whole: a stream whose client does not take what it is sent
/// can't be ended alone.
#[derive(Debug, Clone)]
pub struct SharedConnection(pub CancellationToken);

/// Where a connection comes from, and what is spoken on it.
type Arrived<T> = (T, HttpProtocol, Option<SocketAddr>);

/// The same, watched.
type Watched<T> = (Guard<T>, HttpProtocol, Option<SocketAddr>);

/// A server that listens.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    stop: CancellationToken,
    cut: CancellationToken,
    /// Closed when the last thread has ended.
    running: mpsc::Receiver<()>,
}

impl Listener {
    /// The address that it listens on, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more. Connections end when their responses do.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends all connections as they are.
    pub fn cut(&self) {
        self.stop.cancel();
        self.cut.cancel();
    }

    /// Comes back when no connection is left after [`Listener::stop`], or all threads have ended for
    /// another reason.
    pub async fn stopped(&mut self) {
        let _ = self.running.recv().await;
    }
}

/// What the listener has to know about the rest of the server.
pub trait Load: Clone + Send + 'static {
    /// Whether events are being delivered.
    fn delivering(&mut self) -> bool;
    /// Whether there are streams.
    fn streaming(&self) -> bool;
}

/// Listens, and serves connections by what `app` makes, once on each thread.
///
/// # Errors
/// The address can't be listened on, or threads can't be had.
pub fn listen<F, L, I, S, B>(settings: Settings, load: L, app: F) -> io::Result<Listener>
where
    L: Load,
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    S::Service: 'static,
    <S::Service as actix_service::Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let socket = bind(&settings)?;
    let (sender, running) = mpsc::channel(1);
    let listener = Listener {
        address: socket.local_addr()?,
        stop: CancellationToken::new(),
        cut: CancellationToken::new(),
        running,
    };
    for number in 0..settings.threads {
        let thread = Thread {
            // The threads share one queue of the kernel, so that whoever has time takes the next.
            socket: socket.try_clone()?,
            settings: settings.clone(),
            stop: listener.stop.clone(),
            cut: listener.cut.clone(),
        };
        let (app, load, running) = (app.clone(), load.clone(), sender.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name(format!("http-{number}"))
            .spawn(move || {
                // What `app` makes may begin tasks of this thread.
                LocalSet::new().block_on(&runtime, async {
                    let stop = thread.stop.clone();
                    let app = app()
                        .into_factory()
                        .map_err(|error| error.into().error_response());
                    let Ok(app) = map_config(app, |()| AppConfig::default())
                        .new_service(())
                        .await
                    else {
                        warn!("a thread that serves connections could not begin");
                        return;
                    };
                    let limits = thread.settings.limits.clone();
                    match thread.settings.tls.clone() {
                        None => {
                            let h2c = thread.settings.h2c;
                            let serve = protocols(&stop, app, |_: &TcpStream| false).await;
                            let enter = move |stream| -> Arriving<_> {
                                Box::pin(enter_plain(stream, h2c, limits.clone()))
                            };
                            thread.run(load, serve, enter).await;
                        }
                        Some(tls) => {
                            let shown = |stream: &TlsStream<TcpStream>| {
                                stream.get_ref().1.peer_certificates().is_some()
                            };
                            let serve = protocols(&stop, app, shown).await;
                            let enter = move |stream| -> Arriving<_> {
                                Box::pin(enter_tls(tls.clone(), stream, limits.clone()))
                            };
                            thread.run(load, serve, enter).await;
                        }
                    }
                });
                drop(running);
            })?;
    }
    Ok(listener)
}

fn bind(settings: &Settings) -> io::Result<StdListener> {
    let address = settings.address;
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restart need not wait for the connections of the server before to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(settings.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

struct Thread {
    socket: StdListener,
    settings: Settings,
    stop: CancellationToken,
    cut: CancellationToken,
}

impl Thread {
    async fn run<T: AsyncRead + AsyncWrite + Unpin + 'static>(
        self,
        mut load: impl Load,
        serve: Option<Rc<dyn Serve<T>>>,
        enter: impl Fn(TcpStream) -> Arriving<T>,
    ) {
        let (Some(serve), Ok(socket)) = (serve, TcpListener::from_std(self.socket)) else {
            warn!("a thread that serves connections could not begin");
            return;
        };
        let room = Room::new(self.settings.sockets.clone());
        let limits = self.settings.limits.clone();
        let connections = TaskTracker::new();
        let ends = CancellationToken::new();
        let mut taken = 0_u32;
        loop {
            let accepted = async {
                let (stream, peer) = socket.accept().await?;
                // Who is there already is asked to make room now that somebody wants it.
                let place = room
                    .enter(|| limits.met(Limit::Sockets, Some(peer.ip())))
                    .await;
                io::Result::Ok((stream, place))
            };
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, place)) => {
                    find_dead_peers(&stream, self.settings.dead_after);
                    let socket = Entering {
                        connection: Connection::new(place),
                        stop: self.stop.clone(),
                        end: ends.child_token(),
                        limits: limits.clone(),
                    };
                    connections.spawn_local(socket.serve(enter(stream), Rc::clone(&serve)));
                }
                Err(error) => {
                    warn!(
                        error = error.to_string(),
                        "a connection could not be accepted"
                    );
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            taken = taken.wrapping_add(1);
            if taken.is_multiple_of(BEFORE_REST) && load.delivering() {
                tokio::time::sleep(REST).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
        drop(socket);
        connections.close();
        tokio::select! {
            () = connections.wait() => {}
            () = self.cut.cancelled() => {}
            // A connection of HTTP/2 outlives its streams, and its client does not know that there will
            // be no more.
            () = last_stream(&load) => {
                ends.cancel();
                tokio::select! {
                    () = connections.wait() => {}
                    () = self.cut.cancelled() => {}
                }
            }
        }
    }
}

/// Waits until there are no streams, and what they were told last is written, as are answers to other
/// requests.
async fn last_stream(load: &impl Load) {
    let mut quiet = 0;
    while quiet < 10 {
        tokio::time::sleep(LOOK).await;
        quiet = if load.streaming() { 0 } else { quiet + 1 };
    }
}
