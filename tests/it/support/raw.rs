//! A connection on which a test can send whatever it likes, and a strict reader of all that comes back.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::within;

/// More than any answer that is read to its end.
const MOST: usize = 4 << 20;

/// A well-formed request that ends its connection: whatever came before it, it is answered last, or not at all.
pub(crate) const LAST: &[u8] =
    b"GET /api/sse/test HTTP/1.1\r\nhost: last\r\nconnection: close\r\n\r\n";

/// A connection, and what has been read of it but not been given yet.
pub(crate) struct Raw {
    socket: TcpStream,
    read: Vec<u8>,
}

/// One answer, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let connecting = TcpStream::connect(address);
        let socket = within("a connection", connecting).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            read: Vec::new(),
        }
    }

    /// Sends bytes; that the other side takes no more is no error, since it may have had enough.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> &mut Self {
        let _ = within("the server to read", self.socket.write_all(bytes)).await;
        self
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub(crate) async fn finish(&mut self) -> &mut Self {
        let _ = self.socket.shutdown().await;
        self
    }

    /// What has come when `enough` says so.
    pub(crate) async fn read_until(&mut self, enough: impl Fn(&str) -> bool) -> String {
        let reading = async {
            loop {
                let text = String::from_utf8_lossy(&self.read).into_owned();
                if enough(&text) {
                    self.read.clear();
                    return text;
                }
                assert!(
                    self.read_more().await,
                    "the end came too soon, behind {text:?}"
                );
            }
        };
        within("what the test waits for", reading).await
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        within("the end of the connection", async {
            while self.read_more().await {}
        })
        .await;
        std::mem::take(&mut self.read)
    }

    /// Whether there was more to read.
    async fn read_more(&mut self) -> bool {
        assert!(self.read.len() < MOST, "an answer without an end");
        match self.socket.read_buf(&mut self.read).await {
            Ok(length) => length > 0,
            // What was sent and not read resets the connection behind the answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// All answers up to the end of the connection, none of them cut off and nothing in between.
    pub(crate) async fn answers(&mut self) -> Vec<Answer> {
        let all = self.rest().await;
        let mut rest = &all[..];
        let mut answers = Vec::new();
        while !rest.is_empty() {
            let (answer, behind) = Answer::parse(rest);
            answers.push(answer);
            rest = behind;
        }
        answers
    }
}

impl Answer {
    fn parse(bytes: &[u8]) -> (Self, &[u8]) {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {shown:?}")) + 4;
        let head = std::str::from_utf8(&bytes[..end]).unwrap().to_owned();
        let status = head
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5)?.parse().ok())
            .unwrap_or_else(|| panic!("no answer: {shown:?}"));
        let answer = Self {
            status,
            head,
            body: String::new(),
        };
        let rest = &bytes[end..];
        let chunked = answer.header("transfer-encoding").is_some();
        let length = answer.header("content-length");
        assert!(!(chunked && length.is_some()), "{shown:?}");
        let bodiless = status < 200 || status == 204 || status == 304;
        let (body, behind) = match length {
            _ if bodiless => (Vec::new(), rest),
            _ if chunked => chunks(rest),
            Some(length) => {
                let length: usize = length.parse().unwrap();
                assert!(rest.len() >= length, "the body is cut off: {shown:?}");
                (rest[..length].to_vec(), &rest[length..])
            }
            None => (rest.to_vec(), &rest[rest.len()..]),
        };
        let body = String::from_utf8(body).unwrap();
        (Self { body, ..answer }, behind)
    }

    /// A header's value; it must not stand there twice.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let mut values = lines.filter_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        });
        let first = values.next();
        assert!(values.next().is_none(), "{name} stands twice");
        first
    }
}

fn chunks(mut rest: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let from = end + 2;
        assert_eq!(&rest[from + size..from + size + 2], b"\r\n");
        body.extend_from_slice(&rest[from..from + size]);
        rest = &rest[from + size + 2..];
        if size == 0 {
            return (body, rest);
        }
    }
}
