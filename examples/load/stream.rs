//! One stream: connects, asks, and reads to the end, telling the desk what it sees.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::LazyLock,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use memchr::memmem::Finder;
use serde_json::Value;
use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::OwnedSemaphorePermit,
    time::Instant,
};

use crate::{
    desk::{Desk, count},
    fleet::Request,
    way::{Shared, Source, Way},
    wire::{Reader, number},
};

/// Streams from one source address. Linux hands out 28,232 ports by default, of which `connect` takes one
/// parity first, and finds the last free ones only slowly.
const STREAMS_PER_ADDRESS: usize = 10_000;

/// The publisher's marks. In a JSON text the quotes would be escaped, so nothing else looks like them.
static SEQ: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"seq\":"));
static SENT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"sent_ns\":"));

/// A stream, before or after it is confirmed.
pub(crate) struct Stream {
    desk: Rc<Desk>,
    index: usize,
    reader: Reader,
    confirmed: bool,
}

/// Why a stream ended or was refused.
pub(crate) type Reason = String;

impl Stream {
    pub(crate) fn new(desk: Rc<Desk>, index: usize) -> Self {
        Self {
            desk,
            index,
            reader: Reader::new(),
            confirmed: false,
        }
    }

    /// Opens the stream, gives `place` back, and reads the stream to its end.
    pub(crate) async fn run(
        mut self,
        way: Shared,
        server: SocketAddr,
        request: Request,
        patience: Duration,
        place: OwnedSemaphorePermit,
    ) {
        let started = Instant::now();
        let opened = tokio::time::timeout(patience, self.open(&way, server, &request)).await;
        drop(place);
        let mut source = match opened {
            Ok(Ok(source)) => source,
            Ok(Err(reason)) => return self.desk.refuse(reason),
            Err(_) => return self.desk.refuse("no first event".to_owned()),
        };
        self.desk.confirm(started.elapsed());
        let end = poll_fn(|cx| self.poll_end(&mut source, cx)).await;
        self.desk.end(end);
    }

    async fn open(
        &mut self,
        way: &Way,
        server: SocketAddr,
        request: &Request,
    ) -> Result<Source, Reason> {
        let (mut source, reader) = way.open(server, self.index, request).await?;
        self.reader = reader;
        while !self.confirmed {
            poll_fn(|cx| self.poll_read(&mut source, cx)).await?;
        }
        Ok(source)
    }

    fn poll_end(&mut self, source: &mut Source, cx: &mut Context<'_>) -> Poll<Reason> {
        loop {
            if let Err(reason) = ready!(self.poll_read(source, cx)) {
                return Poll::Ready(reason);
            }
        }
    }

    /// Reads once, and books what was read. An error at the end of the stream.
    fn poll_read(&mut self, source: &mut Source, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let desk = Rc::clone(&self.desk);
        let mut buffer = desk.buffer.borrow_mut();
        let read = ready!(source.poll_read(cx, &mut buffer, |bytes| self.take(bytes)));
        Poll::Ready(read.and_then(|taken| taken))
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        let now = now_ns();
        if bytes.is_empty() {
            let regular = self.reader.is_done();
            let reason = if regular {
                "end of response"
            } else {
                "connection closed"
            };
            return Err(reason.to_owned());
        }
        let mut tally = self.desk.tally.borrow_mut();
        let mut outcome = Ok(());
        let fed = self.reader.feed(bytes, |event| match message(event) {
            Some((seq, sent)) => tally.record(self.index, seq, sent, now),
            None => match notice(&self.desk, event) {
                Ok(confirmed) => self.confirmed |= confirmed,
                Err(reason) => outcome = Err(reason),
            },
        });
        if tally.missing == 0 {
            self.desk.complete();
        }
        fed.map_err(|error| error.to_string()).and(outcome)
    }
}

/// The number and the time of a message of our publisher.
pub(crate) fn message(event: &[u8]) -> Option<(u64, u64)> {
    let seq = SEQ.find(event)? + SEQ.needle().len();
    let sent = SENT.find(event)? + SENT.needle().len();
    Some((number(&event[seq..])?, number(&event[sent..])?))
}

/// Books an event that is no message. True if it confirms the connection, an error if the stream is of no use any more.
fn notice(desk: &Desk, event: &[u8]) -> Result<bool, Reason> {
    let mut lines = event.split(|&byte| byte == b'\n');
    let Some(data) = lines.find_map(|line| line.strip_prefix(b"data: ")) else {
        // Only `retry:`, or a comment.
        return Ok(false);
    };
    let event: Value = serde_json::from_slice(data).map_err(|_| "data that is no JSON")?;
    let kind = event["type"].as_str().ok_or("event without type")?;
    count(&desk.others, kind.to_owned());
    match kind {
        "connection_confirmed" => {
            let chats = event["connected_chats"]
                .as_array()
                .ok_or("no list of chats")?;
            if chats.contains(&desk.chat.into()) {
                Ok(true)
            } else {
                Err(format!("user is not a member of chat {}", desk.chat))
            }
        }
        "closing" => Err(format!("closing: {}", event["reason"])),
        _ => Ok(false),
    }
}

/// Connects. To a server on this machine, from as many addresses as so many ports take. The connection
/// ends by a reset, so that its port is free at once: with tens of thousands waiting for their time to pass,
/// the kernel would search long for another, or find none.
pub(crate) async fn connect(server: SocketAddr, index: usize) -> io::Result<TcpStream> {
    let socket = if server.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    let address = index / STREAMS_PER_ADDRESS;
    if address > 0 && server.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + address as u32);
        socket.bind((source, 0).into())?;
    }
    socket.connect(server).await
}

/// Wall-clock time, in nanoseconds since the epoch.
pub(crate) fn now_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.unwrap_or_default().as_nanos() as u64
}
