//! A socket that is watched for what the HTTP library does not bound by itself: the heads of all requests but the
//! first that trickle in, connections of HTTP/2 that nobody uses, floods of frames. And it sees which requests the
//! library answers by itself, because their heads came too slowly or were too long.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::connection::Connection;
use super::http2::{Excess, Meter};
use super::{REQUEST_TIMEOUT, SharedConnection};
use crate::limits::{Limit, Limits};

/// How long a connection of HTTP/2 is kept without requests.
const IDLE_HTTP2: Duration = Duration::from_secs(120);

/// The most bytes that the head of a request over HTTP/2 may have as it is sent. Not more than the entries that the
/// library can hold, of which one may take a single byte.
const HTTP2_HEAD: usize = 30 * 1024;

/// A socket, or TLS over one.
#[derive(Debug)]
pub(super) struct Guard<T> {
    stream: T,
    connection: Connection,
    limits: Limits,
    peer: Option<IpAddr>,
    /// Both of HTTP/2 only.
    shared: Option<SharedConnection>,
    meter: Option<Box<Meter>>,
    patience: Option<Patience>,
    /// Whether nothing has come so far. Of HTTP/1.1 only.
    silent: bool,
}

/// How much longer nothing but bytes may come.
#[derive(Debug)]
struct Patience {
    timer: Pin<Box<Sleep>>,
    /// How many requests had come when it began.
    come: u64,
}

impl<T> Guard<T> {
    /// `shared` is what ends the connection if it is of HTTP/2; `None` where HTTP/1.1 is spoken.
    pub(super) fn new(
        stream: T,
        connection: Connection,
        limits: Limits,
        peer: Option<IpAddr>,
        shared: Option<SharedConnection>,
    ) -> Self {
        Self {
            stream,
            connection,
            limits,
            peer,
            meter: shared.is_some().then(|| Box::new(Meter::new(HTTP2_HEAD))),
            shared,
            patience: None,
            silent: true,
        }
    }

    /// The socket itself.
    pub(super) fn stream(&self) -> &T {
        &self.stream
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What ends it, if others share it.
    pub(super) fn shared(&self) -> Option<&SharedConnection> {
        self.shared.as_ref()
    }

    /// Whether patience has ended.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let Some(patience) = &mut self.patience else {
            return false;
        };
        if self.connection.is_busy() || self.connection.come() != patience.come {
            self.patience = None;
            return false;
        }
        patience.timer.as_mut().poll(context).is_ready()
    }

    fn begin_to_wait(&mut self, time: Duration) {
        if self.patience.is_none() && !self.connection.is_busy() {
            self.patience = Some(Patience {
                timer: Box::pin(sleep(time)),
                come: self.connection.come(),
            });
        }
    }

    /// Some bytes have come.
    fn came(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.meter {
            Some(meter) => meter.read(bytes, Instant::now()).map_err(|excess| {
                let limit = match excess {
                    Excess::Headers => Limit::Headers,
                    Excess::Flood => Limit::Http2,
                };
                self.limits.met(limit, self.peer);
                io::ErrorKind::InvalidData.into()
            }),
            None => {
                self.silent &= bytes.is_empty();
                // The library has a timer of its own for the first request, and answers 408.
                if !bytes.is_empty() && self.connection.come() > 0 {
                    self.begin_to_wait(REQUEST_TIMEOUT);
                }
                Ok(())
            }
        }
    }

    /// Some bytes are to be written.
    fn goes(&self, bytes: &[u8]) {
        let limit = match bytes.get(..12) {
            // Browsers open connections ahead, and say nothing on them until they need one.
            Some(b"HTTP/1.1 408") if self.silent => return,
            Some(b"HTTP/1.1 408") => Limit::SlowHeaders,
            Some(b"HTTP/1.1 431") => Limit::Headers,
            _ => return,
        };
        // The server's own answers are counted where they are made.
        if memmem::find(bytes, b"problem+json").is_none() {
            self.limits.met(limit, self.peer);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guard<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        if guard.meter.is_some() {
            guard.begin_to_wait(IDLE_HTTP2);
        }
        if guard.is_over(context) {
            // An idle connection has met no limit, it is just over.
            if guard.meter.is_none() {
                guard.limits.met(Limit::SlowHeaders, guard.peer);
            }
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut guard.stream).poll_read(context, buffer))?;
        Poll::Ready(guard.came(&buffer.filled()[before..]))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guard<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let guard = self.get_mut();
        let written = ready!(Pin::new(&mut guard.stream).poll_write(context, bytes))?;
        if guard.meter.is_none() && !guard.connection.is_busy() {
            guard.goes(bytes);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
