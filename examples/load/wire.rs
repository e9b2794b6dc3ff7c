//! Reads an HTTP/1.1 response with an event stream in it: head, chunks, events. Pure: bytes in, events out,
//! whatever way the bytes are split. It knows no sockets, and nothing of what an event means.
//!
//! Tuned for millions of small events per second: a whole event inside one chunk is handed out in place,
//! only what a read or a chunk cuts in two is copied.

use std::{fmt, sync::LazyLock};

use memchr::memmem::{self, Finder};

/// Longest response head accepted.
const MAX_HEAD: usize = 16 * 1024;
/// Longest single event accepted: well above the server's largest payload of 256 KiB.
const MAX_EVENT: usize = 1024 * 1024;

/// The server ends lines with LF alone, so an empty line is two of them.
static EVENT_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\n\n"));

/// What is wrong with a response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WireError {
    /// No HTTP/1.1 head, or one without an end.
    Head,
    /// Any status but 200.
    Status(u16),
    /// Not chunked as RFC 9112 says.
    Chunk,
    /// An event longer than [`MAX_EVENT`].
    EventTooLong,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => f.write_str("bad response head"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Chunk => f.write_str("bad chunk"),
            Self::EventTooLong => f.write_str("event too long"),
        }
    }
}

/// Reads one response. [`Reader::feed`] it what was received, in order.
pub(crate) struct Reader {
    state: State,
    /// The head, or the event, that has begun and not ended.
    rest: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// In the hexadecimal size of a chunk.
    Size {
        size: usize,
        digits: u8,
    },
    /// In what follows the size: an extension, CR, LF.
    SizeEnd {
        size: usize,
    },
    /// In a chunk, so many bytes before its end.
    Data {
        left: usize,
    },
    /// In CR LF after a chunk.
    DataEnd,
    /// A body without chunks: it lasts as long as the connection.
    Plain,
    /// After the last chunk.
    Done,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Head,
            rest: Vec::new(),
        }
    }

    /// Reads a body whose head and frames somebody else has read.
    pub(crate) fn of_body() -> Self {
        Self {
            state: State::Plain,
            rest: Vec::new(),
        }
    }

    /// Whether the body came to its regular end.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next bytes and calls `event` for each event they complete, empty line included.
    pub(crate) fn feed(
        &mut self,
        mut input: &[u8],
        mut event: impl FnMut(&[u8]),
    ) -> Result<(), WireError> {
        while let Some(&byte) = input.first() {
            match self.state {
                State::Head => input = self.head(input)?,
                State::Size { size, digits } => match (byte as char).to_digit(16) {
                    // Seven digits are 256 MiB: no chunk of an event stream is that long.
                    Some(_) if digits == 7 => return Err(WireError::Chunk),
                    Some(digit) => {
                        self.state = State::Size {
                            size: size << 4 | digit as usize,
                            digits: digits + 1,
                        };
                        input = &input[1..];
                    }
                    None if digits == 0 => return Err(WireError::Chunk),
                    None => self.state = State::SizeEnd { size },
                },
                State::SizeEnd { size } => {
                    let Some(end) = memchr::memchr(b'\n', input) else {
                        return Ok(());
                    };
                    input = &input[end + 1..];
                    self.state = if size == 0 {
                        State::Done
                    } else {
                        State::Data { left: size }
                    };
                }
                State::Data { left } => {
                    let (data, after) = input.split_at(left.min(input.len()));
                    self.body(data, &mut event)?;
                    input = after;
                    self.state = if data.len() == left {
                        State::DataEnd
                    } else {
                        State::Data {
                            left: left - data.len(),
                        }
                    };
                }
                State::DataEnd => {
                    match byte {
                        b'\r' => {}
                        b'\n' => self.state = State::Size { size: 0, digits: 0 },
                        _ => return Err(WireError::Chunk),
                    }
                    input = &input[1..];
                }
                State::Plain => {
                    self.body(input, &mut event)?;
                    input = &[];
                }
                State::Done => input = &[],
            }
        }
        Ok(())
    }

    /// Collects the head; returns what follows it.
    fn head<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], WireError> {
        let before = self.rest.len();
        self.rest.extend_from_slice(input);
        let Some(end) = memmem::find(&self.rest, b"\r\n\r\n") else {
            return if self.rest.len() > MAX_HEAD {
                Err(WireError::Head)
            } else {
                Ok(&[])
            };
        };
        let head = self.rest[..end].to_ascii_lowercase();
        let after = end + 4 - before;
        self.rest = Vec::new();
        let status = head
            .strip_prefix(b"http/1.1 ")
            .and_then(|line| line.get(..3))
            .ok_or(WireError::Head)?;
        let status = number(status).ok_or(WireError::Head)?;
        if status != 200 {
            return Err(WireError::Status(status as u16));
        }
        let chunked = memmem::find(&head, b"\r\ntransfer-encoding: chunked").is_some();
        self.state = if chunked {
            State::Size { size: 0, digits: 0 }
        } else {
            State::Plain
        };
        Ok(&input[after..])
    }

    /// Splits body bytes into events.
    fn body(&mut self, mut data: &[u8], event: &mut impl FnMut(&[u8])) -> Result<(), WireError> {
        if !self.rest.is_empty() {
            let end = if self.rest.last() == Some(&b'\n') && data.first() == Some(&b'\n') {
                Some(1)
            } else {
                EVENT_END.find(data).map(|at| at + 2)
            };
            let (head, tail) = data.split_at(end.unwrap_or(data.len()));
            self.rest.extend_from_slice(head);
            if end.is_none() {
                return if self.rest.len() > MAX_EVENT {
                    Err(WireError::EventTooLong)
                } else {
                    Ok(())
                };
            }
            event(&self.rest);
            self.rest.clear();
            data = tail;
        }
        let mut start = 0;
        for at in EVENT_END.find_iter(data) {
            event(&data[start..at + 2]);
            start = at + 2;
        }
        self.rest.extend_from_slice(&data[start..]);
        Ok(())
    }
}

/// The decimal number at the start of `text`.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || digits > 19 {
        return None;
    }
    Some(
        text[..digits]
            .iter()
            .fold(0, |value, digit| value * 10 + u64::from(digit - b'0')),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    const EVENTS: [&str; 4] = [
        "retry: 2750\n\n",
        "id: 1-2-3\ndata: {\"a\":1}\n\n",
        "data: {\"type\":\"ping\"}\n\n",
        ":\n\n",
    ];

    /// The events as a response of chunks of `size` bytes, which cut events wherever they fall.
    fn response(size: usize) -> Vec<u8> {
        let mut bytes = HEAD.as_bytes().to_vec();
        for chunk in EVENTS.concat().as_bytes().chunks(size) {
            bytes.extend(format!("{:X}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        bytes
    }

    fn read(parts: &[&[u8]]) -> Result<(Vec<String>, bool), WireError> {
        let mut reader = Reader::new();
        let mut events = Vec::new();
        for part in parts {
            reader.feed(part, |event| {
                events.push(String::from_utf8_lossy(event).into_owned())
            })?;
        }
        Ok((events, reader.is_done()))
    }

    #[test]
    fn a_response_split_anywhere_gives_the_same_events() {
        for size in [1, 2, 3, 7, 16, 200] {
            let bytes = response(size);
            for first in 0..bytes.len() {
                for second in first..bytes.len() {
                    let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    let (events, done) = read(&parts).expect("a correct response");
                    assert_eq!(
                        events, EVENTS,
                        "chunks of {size}, cut at {first} and {second}"
                    );
                    assert!(done);
                }
            }
        }
    }

    #[test]
    fn a_response_in_single_bytes_gives_the_same_events() {
        let bytes = response(5);
        let parts: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&parts), Ok((EVENTS.map(str::to_owned).to_vec(), true)));
    }

    #[test]
    fn chunk_extensions_are_skipped() {
        let bytes = format!("{HEAD}4;name=value\r\na: \n\r\n1\r\n\n\r\n");
        assert_eq!(
            read(&[bytes.as_bytes()]),
            Ok((vec!["a: \n\n".to_owned()], false))
        );
    }

    #[test]
    fn a_body_without_chunks_is_read_to_its_end() {
        let bytes = format!("HTTP/1.1 200 OK\r\n\r\n{}", EVENTS.concat());
        assert_eq!(
            read(&[bytes.as_bytes()]),
            Ok((EVENTS.map(str::to_owned).to_vec(), false))
        );
    }

    #[test]
    fn what_is_no_stream_is_an_error() {
        for (bytes, error) in [
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\n",
                WireError::Status(503),
            ),
            ("220 smtp.example\r\n\r\n", WireError::Head),
        ] {
            assert_eq!(read(&[bytes.as_bytes()]), Err(error));
        }
        for chunk in ["x\r\n", "\r\n", "12345678\r\n", "1\r\naX"] {
            assert_eq!(
                read(&[HEAD.as_bytes(), chunk.as_bytes()]),
                Err(WireError::Chunk),
                "{chunk:?}"
            );
        }
        assert_eq!(read(&[&[b'a'; MAX_HEAD + 1]]), Err(WireError::Head));
    }

    #[test]
    fn numbers_end_where_their_digits_end() {
        assert_eq!(number(b"1753859400123,\"x\""), Some(1_753_859_400_123));
        assert_eq!(number(b"x"), None);
        assert_eq!(number(b"99999999999999999999"), None);
    }
}
