//! A small HTTP/1.1 client over a plain socket: it shows headers and framing exactly as they are
//! on the wire, and lets a test stop reading.

use std::io;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use super::within;

/// A request to be sent on a connection of its own.
#[derive(Clone)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    receive_buffer: Option<usize>,
    from: Option<IpAddr>,
}

/// A response whose head has been read.
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
    socket: BufReader<TcpStream>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Request {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            receive_buffer: None,
            from: None,
        }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json")
            .body(body.to_string())
    }

    /// Makes the kernel take little on the client's side, so that a stalled reader is soon felt.
    pub(crate) fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Connects from another of this machine's addresses.
    pub(crate) fn from(mut self, address: &str) -> Self {
        self.from = Some(address.parse().unwrap());
        self
    }

    /// Sends the request and reads the head of the response.
    pub(crate) async fn send(&self, address: SocketAddr) -> Response {
        let what = format!("the answer to {} {}", self.method, self.path());
        within(&what, self.try_send(address))
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Like `send`, for servers that may be gone.
    pub(crate) async fn try_send(&self, address: SocketAddr) -> io::Result<Response> {
        let mut socket = self.connect(address).await?;
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if self.headers.iter().all(|(name, _)| name != "host") {
            head.push_str(&format!("host: {address}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || self.method == "POST" {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(&self.body).await?;
        Response::read(socket, self.method == "HEAD").await
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        if let Some(from) = self.from {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(from, 0))?;
            return socket.connect(address).await;
        }
        let Some(bytes) = self.receive_buffer else {
            return TcpStream::connect(address).await;
        };
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_recv_buffer_size(bytes)?;
        // By the size of segments the server's kernel decides how much to buffer: for the loopback's
        // 64 KiB that is megabytes for each client, and for this, which networks have, a few dozen KiB.
        socket.set_tcp_mss(1448)?;
        socket.set_nonblocking(true)?;
        TcpSocket::from_std_stream(socket.into())
            .connect(address)
            .await
    }

    /// The target without its query, which may hold a token.
    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("")
    }
}

impl Response {
    async fn read(socket: TcpStream, head_only: bool) -> io::Result<Self> {
        let mut socket = BufReader::with_capacity(4096, socket);
        let status_line = read_line(&mut socket).await?;
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| wrong(format!("status line {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = read_line(&mut socket).await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| wrong(format!("header line {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Self {
            status,
            headers,
            framing: Framing::Length(0),
            socket,
        };
        if !head_only && status != 204 && status != 304 {
            response.framing = response.framing()?;
        }
        Ok(response)
    }

    fn framing(&self) -> io::Result<Framing> {
        match (
            self.header("transfer-encoding"),
            self.header("content-length"),
        ) {
            (Some("chunked"), None) => Ok(Framing::Chunked),
            (None, Some(length)) => match length.parse() {
                Ok(length) => Ok(Framing::Length(length)),
                Err(_) => Err(wrong(format!("content-length {length:?}"))),
            },
            (None, None) => Ok(Framing::UntilClose),
            both => Err(wrong(format!("framing {both:?}"))),
        }
    }

    /// The value of a header that must not stand there twice.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name);
        let first = values.next();
        assert!(values.next().is_none(), "the header {name} stands twice");
        first.map(|(_, value)| value.as_str())
    }

    /// The rest of the body as text.
    pub(crate) async fn text(&mut self) -> String {
        let body = async {
            let mut body = Vec::new();
            while let Some(bytes) = self.chunk().await.unwrap() {
                body.extend_from_slice(&bytes);
            }
            body
        };
        String::from_utf8(within("the end of a body", body).await).unwrap()
    }

    /// The body as JSON.
    pub(crate) async fn json(&mut self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
    }

    /// The next bytes of the body, `None` at its proper end.
    pub(crate) async fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.framing {
            Framing::Length(0) => Ok(None),
            Framing::Length(length) => {
                let mut body = vec![0; length];
                self.socket.read_exact(&mut body).await?;
                self.framing = Framing::Length(0);
                Ok(Some(body))
            }
            Framing::Chunked => self.transfer_chunk().await,
            Framing::UntilClose => {
                let mut bytes = vec![0; 8192];
                let count = self.socket.read(&mut bytes).await?;
                bytes.truncate(count);
                Ok((count > 0).then_some(bytes))
            }
        }
    }

    async fn transfer_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size = read_line(&mut self.socket).await?;
        let size =
            usize::from_str_radix(&size, 16).map_err(|_| wrong(format!("chunk size {size:?}")))?;
        let mut bytes = vec![0; size];
        self.socket.read_exact(&mut bytes).await?;
        let end = read_line(&mut self.socket).await?;
        if !end.is_empty() {
            return Err(wrong(format!("{end:?} behind a chunk")));
        }
        if size == 0 {
            self.framing = Framing::Length(0);
            return Ok(None);
        }
        Ok(Some(bytes))
    }
}

async fn read_line(socket: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = Vec::new();
    socket.read_until(b'\n', &mut line).await?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => String::from_utf8(line.to_vec()).map_err(|e| wrong(e.to_string())),
        None if line.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Err(wrong("a line without CRLF".to_owned())),
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
