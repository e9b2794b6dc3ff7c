//! Reads `text/event-stream` as the WHATWG describes it. Pure: bytes in, events out.

use std::time::Duration;

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// The `event:` field, or `message`.
    pub(super) name: String,
    pub(super) data: String,
}

/// The state between two pieces of a stream, which may be cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Reader {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed now belongs to the same line end.
    after_return: bool,
    name: String,
    data: String,
    id: String,
    last_event_id: String,
    retry: Option<Duration>,
}

impl Reader {
    pub(super) fn new(last_event_id: String) -> Self {
        Self {
            id: last_event_id.clone(),
            last_event_id,
            ..Self::default()
        }
    }

    pub(super) fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    pub(super) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Takes the next piece; gives the events that it completes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, *byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(*byte),
            }
        }
        events
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok().map(Duration::from_millis);
            }
            // Comments and fields that are not known.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        self.id.clone_into(&mut self.last_event_id);
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        data.pop()?;
        let name = if name.is_empty() {
            "message".to_owned()
        } else {
            name
        };
        Some(Event { name, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(name: &str, data: &str) -> Event {
        Event {
            name: name.to_owned(),
            data: data.to_owned(),
        }
    }

    #[test]
    fn the_grammar_is_read() {
        let mut reader = Reader::new(String::new());
        let text = "retry: 10\n\n: comment\nevent: a\ndata:x\ndata: y\nid: 7\n\ndata\n\nid\n\n";
        let events = reader.push(text.as_bytes());
        assert_eq!(events, [event("a", "x\ny"), event("message", "")]);
        assert_eq!(reader.last_event_id(), "");
        assert_eq!(reader.retry(), Some(Duration::from_millis(10)));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_a_stream_is_cut(
            lines in proptest::collection::vec("(data|event|id|retry|x)?:? ?[a-z0-9]{0,4}", 0..30),
            ends in proptest::collection::vec("\n|\r\n|\r|\n\n", 30),
            cut in any::<prop::sample::Index>(),
        ) {
            let text: String = lines.iter().zip(&ends).flat_map(|(l, e)| [l.as_str(), e]).collect();
            let mut whole = Reader::new(String::new());
            let expected = whole.push(text.as_bytes());
            let (first, second) = text.as_bytes().split_at(cut.index(text.len() + 1));
            let mut parts = Reader::new(String::new());
            let mut events = parts.push(first);
            events.extend(parts.push(second));
            prop_assert_eq!(events, expected);
            prop_assert_eq!(parts.last_event_id(), whole.last_event_id());
        }
    }
}
