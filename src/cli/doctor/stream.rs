//! A stream as it arrives: its head, its events, and when each of them came.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, Response};
use serde_json::Value;

use super::super::event_stream::Reader;
use super::target::{Failure, Target};

/// The most that is read of one stream, in bytes: a stream that is read to be examined is quiet.
const MAX_BYTES: usize = 8 << 20;

/// An open stream.
pub(super) struct Stream {
    pub(super) response: Response,
    /// When the request went out.
    pub(super) began: Instant,
    /// When bytes arrived, since then.
    pub(super) data: Vec<Duration>,
    reader: Reader,
    ready: VecDeque<Received>,
    bytes: usize,
}

/// An event, and when it arrived.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) at: Duration,
    pub(super) data: Value,
}

/// What comes next on a stream.
#[derive(Debug)]
pub(super) enum Next {
    Event(Received),
    /// Nothing until the time was up.
    Silence,
    /// The stream is over, properly or not.
    Ended,
}

impl Received {
    pub(super) fn kind(&self) -> &str {
        self.data["type"].as_str().unwrap_or("")
    }
}

impl Stream {
    /// Opens a stream; gives it whatever the status of the answer is.
    pub(super) async fn open(target: &Target, request: RequestBuilder) -> Result<Self, Failure> {
        Self::open_patiently(target, request, Duration::ZERO).await
    }

    /// The same for a stream that is of interest even when it was held back for so long.
    pub(super) async fn open_patiently(
        target: &Target,
        request: RequestBuilder,
        longer: Duration,
    ) -> Result<Self, Failure> {
        let began = Instant::now();
        let response = target.head(request, longer).await?;
        Ok(Self {
            response,
            began,
            data: Vec::new(),
            reader: Reader::new(String::new()),
            ready: VecDeque::new(),
            bytes: 0,
        })
    }

    /// The next event, by a time since the request.
    pub(super) async fn next(&mut self, until: Duration) -> Next {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Next::Event(event);
            }
            match self.read(until).await {
                Some(true) => {}
                Some(false) => return Next::Ended,
                None => return Next::Silence,
            }
        }
    }

    /// The next event of a type, by a time since the request.
    pub(super) async fn expect(&mut self, kind: &str, until: Duration) -> Option<Received> {
        loop {
            match self.next(until).await {
                Next::Event(event) if event.kind() == kind => return Some(event),
                Next::Event(_) => {}
                Next::Silence | Next::Ended => return None,
            }
        }
    }

    /// Whether bytes have come, or the stream has ended; `None` when the time is up.
    pub(super) async fn read(&mut self, until: Duration) -> Option<bool> {
        let deadline = tokio::time::Instant::from_std(self.began + until);
        let chunk = tokio::time::timeout_at(deadline, self.response.chunk()).await;
        let Ok(Ok(Some(bytes))) = chunk else {
            return chunk.is_ok().then_some(false);
        };
        let at = self.began.elapsed();
        self.data.push(at);
        self.bytes += bytes.len();
        if self.bytes > MAX_BYTES {
            return Some(false);
        }
        let events = self.reader.push(&bytes).into_iter();
        self.ready.extend(events.map(|event| Received {
            at,
            // What is no JSON has no type, and is nothing that is waited for.
            data: serde_json::from_str(&event.data).unwrap_or_default(),
        }));
        Some(true)
    }
}
