//! A strict reader of `text/event-stream`, after the grammar of the WHATWG HTML standard
//! ("9.2.5 Parsing an event stream"). Where a browser shrugs, this fails.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use serde_json::Value;

use super::http::Response;
use super::within;

/// One dispatched event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// The `id:` field of this very event.
    pub(crate) id: Option<String>,
    /// The `event:` field of this very event.
    pub(crate) name: Option<String>,
    pub(crate) data: Value,
}

impl Event {
    pub(crate) fn kind(&self) -> &str {
        self.data["type"].as_str().unwrap_or("")
    }

    /// What a chat message says.
    pub(crate) fn content(&self) -> &str {
        let content = self.data["message"]["content"].as_str();
        content.unwrap_or_else(|| panic!("no chat message: {}", self.data))
    }
}

/// The grammar over bytes that come in any pieces.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    after_carriage_return: bool,
    any_line: bool,
    block: Block,
    ready: VecDeque<Event>,
    /// What an `EventSource` would send as Last-Event-ID.
    pub(crate) last_event_id: String,
    /// What an `EventSource` would wait before it comes back, in milliseconds.
    pub(crate) retry: Option<u64>,
}

#[derive(Debug, Default)]
struct Block {
    any_field: bool,
    id: Option<String>,
    name: Option<String>,
    retry: Option<u64>,
    data: Option<String>,
}

impl Parser {
    /// Takes further bytes of the stream.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        for &byte in bytes {
            let line_feed_of_pair = self.after_carriage_return && byte == b'\n';
            self.after_carriage_return = byte == b'\r';
            match byte {
                _ if line_feed_of_pair => {}
                b'\r' | b'\n' => self.end_line()?,
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    /// The stream has ended; nothing may be left half-said.
    pub(crate) fn finish(&self) -> Result<(), String> {
        if !self.line.is_empty() {
            let rest = String::from_utf8_lossy(&self.line);
            return Err(format!("the stream ends inside the line {rest:?}"));
        }
        if self.block.any_field {
            return Err("the stream ends without the blank line after an event".to_owned());
        }
        Ok(())
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    fn end_line(&mut self) -> Result<(), String> {
        let line = String::from_utf8(std::mem::take(&mut self.line))
            .map_err(|error| format!("not UTF-8: {error}"))?;
        if !self.any_line && line.starts_with('\u{feff}') {
            return Err("the stream begins with a byte order mark".to_owned());
        }
        self.any_line = true;
        if line.is_empty() {
            return self.dispatch();
        }
        if line.starts_with(':') {
            return Ok(());
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        self.field(name, value.strip_prefix(' ').unwrap_or(value))
    }

    fn field(&mut self, name: &str, value: &str) -> Result<(), String> {
        self.block.any_field = true;
        let twice = match name {
            "data" => {
                match &mut self.block.data {
                    Some(data) => *data = format!("{data}\n{value}"),
                    none => *none = Some(value.to_owned()),
                }
                false
            }
            "event" => self.block.name.replace(value.to_owned()).is_some(),
            "id" if value.contains('\0') => return Err("an id contains NULL".to_owned()),
            "id" => self.block.id.replace(value.to_owned()).is_some(),
            "retry" => match value.parse() {
                Ok(retry) if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                    self.block.retry.replace(retry).is_some()
                }
                _ => return Err(format!("retry is not decimal: {value:?}")),
            },
            _ => return Err(format!("unknown field {name:?}")),
        };
        if twice {
            return Err(format!("{name} stands twice in one event"));
        }
        Ok(())
    }

    fn dispatch(&mut self) -> Result<(), String> {
        let block = std::mem::take(&mut self.block);
        if let Some(id) = &block.id {
            self.last_event_id.clone_from(id);
        }
        self.retry = block.retry.or(self.retry);
        let Some(data) = block.data else {
            return match block.name {
                Some(name) => Err(format!("the event {name:?} has no data")),
                None => Ok(()),
            };
        };
        let data = serde_json::from_str(&data)
            .map_err(|error| format!("data is not JSON ({error}): {data:?}"))?;
        self.ready.push_back(Event {
            id: block.id,
            name: block.name,
            data,
        });
        Ok(())
    }
}

/// An open stream.
pub(crate) struct EventStream {
    response: Response,
    parser: Parser,
    /// Of the events that were taken; the parser may be ahead.
    last_event_id: String,
}

impl EventStream {
    /// Reads the body of a response that is an event stream.
    pub(crate) fn new(response: Response) -> Self {
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some("text/event-stream"));
        Self {
            response,
            parser: Parser::default(),
            last_event_id: String::new(),
        }
    }

    pub(crate) fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// What an `EventSource` would come back with: positions that came without an event, too.
    pub(crate) fn resumes_from(&self) -> &str {
        &self.parser.last_event_id
    }

    pub(crate) fn retry(&self) -> Option<u64> {
        self.parser.retry
    }

    /// The next event that isn't a ping.
    pub(crate) async fn next(&mut self) -> Event {
        let next = async {
            loop {
                match self.read().await {
                    Some(event) if event.kind() == "ping" => {}
                    other => break other,
                }
            }
        };
        let event = within("the next event", next).await;
        event.expect("the stream ended instead of another event")
    }

    /// The next event that isn't a ping, which must have this `type`.
    pub(crate) async fn expect_type(&mut self, kind: &str) -> Event {
        let event = self.next().await;
        assert_eq!(event.kind(), kind, "in {}", event.data);
        event
    }

    /// The next event that isn't a ping, which must be a chat message that says this.
    pub(crate) async fn expect_message(&mut self, content: &str) -> Event {
        let event = self.expect_type("new_message").await;
        assert_eq!(event.content(), content);
        event
    }

    /// The next event that isn't a ping; `None` when the stream has ended, in good form or not, as
    /// it does when a server is killed.
    pub(crate) async fn next_if_any(&mut self) -> Option<Event> {
        let next = async {
            loop {
                match self.try_read().await {
                    Ok(Some(event)) if event.kind() == "ping" => {}
                    other => break other.ok().flatten(),
                }
            }
        };
        within("the next event or the end", next).await
    }

    /// The next events that aren't pings, which must be chat messages that say the numbers of this
    /// range, each with an id. Gives the last id.
    pub(crate) async fn expect_count(&mut self, numbers: Range<u64>) -> String {
        for number in numbers {
            let event = self.expect_message(&number.to_string()).await;
            assert!(event.id.is_some(), "{number} has no id");
        }
        self.last_event_id.clone()
    }

    /// The next event that isn't a ping, which must be a gap for this reason.
    pub(crate) async fn expect_gap(&mut self, reason: &str) -> Event {
        let gap = self.expect_type("gap").await;
        assert_eq!(gap.data["reason"], reason, "{}", gap.data);
        gap
    }

    /// The next event, which must be a ping.
    pub(crate) async fn expect_ping(&mut self) -> Event {
        let event = within("a ping", self.read()).await;
        let event = event.expect("the stream ended instead of a ping");
        assert_eq!(event.kind(), "ping", "in {}", event.data);
        event
    }

    /// The stream must end here, in good form.
    pub(crate) async fn expect_end(&mut self) {
        if let Some(event) = within("the end of the stream", self.read()).await {
            panic!("expected the end of the stream, not {}", event.data);
        }
    }

    /// Reads on until the stream ends in good form, and returns all that came.
    pub(crate) async fn rest(&mut self) -> Vec<Event> {
        let rest = async {
            let mut events = Vec::new();
            while let Some(event) = self.read().await {
                events.push(event);
            }
            events
        };
        within("the end of the stream", rest).await
    }

    async fn read(&mut self) -> Option<Event> {
        self.try_read().await.expect("the stream breaks off")
    }

    /// An error where the connection breaks; what is wrong with the stream itself fails the test.
    async fn try_read(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.parser.pop() {
                if let Some(id) = &event.id {
                    self.last_event_id.clone_from(id);
                }
                return Ok(Some(event));
            }
            match self.response.chunk().await? {
                Some(bytes) => self.parser.feed(&bytes).unwrap(),
                None => {
                    self.parser.finish().unwrap();
                    return Ok(None);
                }
            }
        }
    }
}
