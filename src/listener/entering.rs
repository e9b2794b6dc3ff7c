//! A socket from being accepted to its end: what is spoken on it, keys, and then requests, until it ends or has to make
//! room.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use actix_http::Protocol as HttpProtocol;
use actix_http::error::DispatchError;
use futures_util::future::LocalBoxFuture;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection::Connection;
use super::guard::Guard;
use super::serve::{Serve, Serving};
use super::{Arrived, REQUEST_TIMEOUT, REST, SharedConnection};
use crate::limits::{Limit, Limits};
use crate::tls::{Disagreement, Tls};

/// What an HTTP/2 connection without TLS begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Gives what is spoken on a socket. Apart from the rest, so that what it takes to agree on keys is free as soon as that
/// is done.
pub(super) type Arriving<T> = LocalBoxFuture<'static, Option<Arrived<T>>>;

/// A socket that was accepted.
pub(super) struct Entering {
    pub(super) connection: Connection,
    /// Nobody enters any more.
    pub(super) stop: CancellationToken,
    /// It has to end, if it is of HTTP/2.
    pub(super) end: CancellationToken,
    pub(super) limits: Limits,
}

/// A connection that is served.
struct Served {
    requests: Serving,
    peer: Option<IpAddr>,
    /// Whether it is of HTTP/2.
    shared: bool,
}

impl Entering {
    /// Serves it until it ends, or has to make room.
    pub(super) async fn serve<T>(self, arriving: Arriving<T>, serve: Rc<dyn Serve<T>>)
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let Some(Served {
            requests,
            peer,
            shared,
        }) = self.enter(arriving, serve).await
        else {
            return;
        };
        tokio::select! {
            biased;
            // First, so that nobody goes whose request has come meanwhile. Whatever goes wrong on a connection has
            // been answered, or can't be.
            ended = requests => {
                if ended.is_err_and(|error| is_flood(&error)) {
                    self.limits.met(Limit::Http2, peer);
                }
            }
            () = self.end.cancelled(), if shared => {}
            () = self.connection.asked_to_leave() => {}
        }
    }

    /// `None` if it ends, or has to go, before it is known what is spoken on it.
    async fn enter<T>(&self, arriving: Arriving<T>, serve: Rc<dyn Serve<T>>) -> Option<Served>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (stream, protocol, peer) = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            () = self.connection.asked_to_leave() => None,
            arrived = arriving => arrived,
        }?;
        let ip = peer.map(|peer| peer.ip());
        let shared = (protocol == HttpProtocol::Http2).then(|| SharedConnection(self.end.clone()));
        let is_shared = shared.is_some();
        let (connection, limits) = (self.connection.clone(), self.limits.clone());
        let guard = Guard::new(stream, connection, limits, ip, shared);
        Some(Served {
            requests: serve.serve((guard, protocol, peer)),
            peer: ip,
            shared: is_shared,
        })
    }
}

/// Whether the HTTP library has had enough of an HTTP/2 client, as of one that takes back requests faster than they
/// are looked at.
fn is_flood(error: &DispatchError) -> bool {
    /// `ENHANCE_YOUR_CALM` (RFC 9113).
    const CALM: u32 = 11;
    match error {
        DispatchError::H2(error) => error.reason().is_some_and(|why| u32::from(why) == CALM),
        _ => false,
    }
}

/// Finds out what is spoken on a socket without TLS.
pub(super) async fn enter_plain(
    stream: TcpStream,
    h2c: bool,
    limits: Limits,
) -> Option<Arrived<TcpStream>> {
    let peer = stream.peer_addr().ok();
    let mut protocol = HttpProtocol::Http1;
    if h2c {
        let mut known = 0;
        match timeout(REQUEST_TIMEOUT, begins_http2(&stream, &mut known)).await {
            Ok(true) => protocol = HttpProtocol::Http2,
            Ok(false) => {}
            Err(_) => {
                // Browsers open connections ahead, and say nothing on them until they need one.
                if known > 0 {
                    limits.met(Limit::SlowHeaders, peer.map(|peer| peer.ip()));
                }
                return None;
            }
        }
    }
    Some((stream, protocol, peer))
}

/// Whether the first bytes are those of HTTP/2, as soon as that can be told; `known` is how many have come.
async fn begins_http2(stream: &TcpStream, known: &mut usize) -> bool {
    let mut begin = [0; PREFACE.len()];
    loop {
        // What is there is given each time, so that it has to be waited for more.
        match stream.peek(&mut begin).await {
            Ok(0) | Err(_) => return false,
            Ok(length) if begin[..length] != PREFACE[..length] => return false,
            Ok(length) if length == PREFACE.len() => return true,
            Ok(length) if length == *known => tokio::time::sleep(REST).await,
            Ok(length) => *known = length,
        }
    }
}

/// Agrees on keys, and on what is spoken.
pub(super) async fn enter_tls(
    tls: Tls,
    stream: TcpStream,
    limits: Limits,
) -> Option<Arrived<TlsStream<TcpStream>>> {
    let peer = stream.peer_addr().ok();
    let agreed = tls.accept(stream).await;
    if let Err(Disagreement::Slow) = agreed {
        limits.met(Limit::SlowHandshake, peer.map(|peer| peer.ip()));
    }
    let stream = agreed.ok()?;
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => HttpProtocol::Http2,
        _ => HttpProtocol::Http1,
    };
    Some((stream, protocol, peer))
}

/// Has the kernel give a connection up whose peer acknowledges nothing: a phone that is gone sends
/// no goodbye, and a stalled reader takes nothing.
pub(super) fn find_dead_peers(stream: &TcpStream, dead_after: Duration) {
    // Events are small and must not wait for others to share a packet with.
    let _ = stream.set_nodelay(true);
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(dead_after)) {
        warn!(
            error = error.to_string(),
            "dead peers will be found late because TCP_USER_TIMEOUT could not be set"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_is_told_when_to_give_a_peer_up() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let dead_after = Duration::from_millis(45_000);
        find_dead_peers(&stream, dead_after);
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(dead_after));
        assert!(stream.nodelay().unwrap());
    }
}
