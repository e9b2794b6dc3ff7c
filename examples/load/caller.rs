//! A client of the HTTP interface: one connection that is kept, one request at a time. Knows no scenario.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{fleet::Asking, stream::connect, wire::number};

/// Longest answer accepted: a page of connections has some hundred kilobytes.
const MAX_ANSWER: usize = 16 << 20;
/// What is read at once.
const READ: usize = 64 * 1024;

/// One connection, with the token of one user.
pub(crate) struct Caller {
    socket: TcpStream,
    /// What every request says.
    common: String,
    received: Vec<u8>,
}

/// What the server has answered.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Caller {
    /// Connects; the token says that its user may do everything.
    pub(crate) async fn connect(server: SocketAddr, asking: &Asking) -> Result<Self> {
        let socket = connect(server, 0).await.context("connecting")?;
        socket.set_nodelay(true)?;
        let token = asking.administrator()?;
        Ok(Self {
            socket,
            common: format!("Host: {server}\r\nAuthorization: Bearer {token}\r\n"),
            received: Vec::with_capacity(READ),
        })
    }

    pub(crate) async fn get(&mut self, target: &str) -> Result<Answer<'_>> {
        let request = format!("GET {target} HTTP/1.1\r\n{}\r\n", self.common);
        self.call(request.as_bytes()).await
    }

    pub(crate) async fn post(&mut self, target: &str, body: &str) -> Result<Answer<'_>> {
        let request = format!(
            "POST {target} HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.common,
            body.len()
        );
        self.call(request.as_bytes()).await
    }

    async fn call(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.socket.write_all(request).await?;
        self.received.clear();
        let (status, body) = loop {
            self.received.reserve(READ);
            let read = self.socket.read_buf(&mut self.received).await?;
            ensure!(read > 0, "the connection was closed before the answer");
            ensure!(self.received.len() <= MAX_ANSWER, "the answer is too long");
            if let Some((status, begin, end)) = complete(&self.received)? {
                break (status, begin..end);
            }
        };
        Ok(Answer {
            status,
            body: &self.received[body],
        })
    }
}

impl Answer<'_> {
    /// The body, if the status is `status`.
    pub(crate) fn text(&self, status: u16) -> Result<&str> {
        let body = std::str::from_utf8(self.body).context("an answer that is no text")?;
        ensure!(self.status == status, "status {}: {body}", self.status);
        Ok(body)
    }
}

/// Status, begin and end of the body of a complete answer.
fn complete(received: &[u8]) -> Result<Option<(u16, usize, usize)>> {
    let Some(end) = memmem::find(received, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = received[..end].to_ascii_lowercase();
    let status = head
        .strip_prefix(b"http/1.1 ")
        .and_then(number)
        .context("no HTTP/1.1 answer")?;
    let field = b"\r\ncontent-length: ";
    let length = memmem::find(&head, field)
        .and_then(|at| number(&head[at + field.len()..]))
        .context("an answer without its length")?;
    let begin = end + 4;
    let end = begin + usize::try_from(length)?;
    Ok((received.len() >= end).then_some((u16::try_from(status)?, begin, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let text = b"HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\nx: y\r\n\r\nabc";
        for end in 0..text.len() {
            assert!(complete(&text[..end]).expect("an answer").is_none());
        }
        let all = complete(text).expect("an answer");
        assert_eq!(all, Some((202, text.len() - 3, text.len())));
        assert!(complete(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(complete(b"SSH-2.0\r\n\r\n").is_err());
    }
}
