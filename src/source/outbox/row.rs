//! A row of the outbox, and the message that it becomes. Pure.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::bus::subject::check_publish;
use crate::event::decode::{Rejection, Rules, decode};
use crate::event::{Channel, Recipients, Timestamp, subject};

/// What the ids of messages from an outbox begin with.
const ID: &str = "outbox";

/// A row as the database has it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) key: Key,
    /// One channel, or several with commas in between.
    pub(super) channel: String,
    /// The event's type.
    pub(super) kind: String,
    /// The JSON; `None` where it is too large to be fetched.
    pub(super) payload: Option<String>,
    /// The length of the JSON in bytes.
    pub(super) size: usize,
    pub(super) created_at: Timestamp,
}

/// Which row it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// The transaction; empty in SQLite.
    pub(super) transaction: String,
    pub(super) id: i64,
}

/// A row that can be published.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) channels: Vec<Channel>,
    pub(super) subject: String,
    pub(super) payload: Bytes,
    /// What the log recognises it by, whoever publishes it and how often.
    pub(super) id: String,
}

#[derive(Serialize)]
struct Envelope<'a> {
    r#type: &'a str,
    channel: &'a str,
    data: &'a RawValue,
    timestamp: Timestamp,
}

impl Row {
    /// The message; `source` is which database the row is of.
    ///
    /// # Errors
    /// Why the row can never be published, in words.
    pub(super) fn message(&self, rules: &Rules, source: &str) -> Result<Message, String> {
        let too_large = |size| {
            let limit = rules.max_payload;
            Rejection::TooLarge { size, limit }.to_string()
        };
        let Some(payload) = &self.payload else {
            return Err(too_large(self.size));
        };
        let data: &RawValue = serde_json::from_str(payload)
            .map_err(|error| format!("the payload is not JSON: {error}"))?;
        let envelope = Envelope {
            r#type: &self.kind,
            channel: &self.channel,
            data,
            timestamp: self.created_at,
        };
        let payload = serde_json::to_vec(&envelope).map_err(|error| error.to_string())?;
        let decoded = decode(rules, "", &payload, self.created_at).map_err(|e| e.to_string())?;
        let channels = match decoded.audience.to {
            Recipients::Channels(channels) if decoded.kind == self.kind => channels,
            _ => {
                return Err(format!(
                    "{:?} is a type of the chat backend's own",
                    self.kind
                ));
            }
        };
        // An event has at least one channel, or it would not have been decoded.
        let tokens = channels.first().map(subject::tokens_of).unwrap_or_default();
        let subject = format!("{}.{tokens}", rules.channel_prefix);
        check_publish(&subject).map_err(|error| error.to_string())?;
        Ok(Message {
            channels,
            subject,
            // With what the row says, so that a row that has got an old one's id is not taken for it.
            id: format!(
                "{}{}:{:08x}",
                prefix(source),
                self.key.id,
                crc32fast::hash(&payload)
            ),
            payload: payload.into(),
        })
    }
}

/// What the ids of messages of one database begin with.
pub(super) fn prefix(source: &str) -> String {
    format!("{ID}:{source}:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn row(channel: &str, kind: &str, payload: &str) -> Row {
        Row {
            key: Key {
                transaction: "7".to_owned(),
                id: 3,
            },
            channel: channel.to_owned(),
            kind: kind.to_owned(),
            payload: Some(payload.to_owned()),
            size: payload.len(),
            created_at: Timestamp::from_millis(1_753_859_400_123),
        }
    }

    fn message(row: &Row) -> Result<Message, String> {
        row.message(&Rules::default(), "db")
    }

    #[test]
    fn a_row_becomes_a_channel_event() {
        let row = row("session:a.b,chat:5", "message", r#"{"id":"m"}"#);
        let message = message(&row).unwrap();
        assert_eq!(message.subject, "fechatter.realtime.session.a%2Eb");
        assert_eq!(message.channels.len(), 2);
        assert!(message.id.starts_with("outbox:db:3:"), "{}", message.id);
        let payload: Value = serde_json::from_slice(&message.payload).unwrap();
        let expected = json!({"type": "message", "channel": "session:a.b,chat:5",
            "data": {"id": "m"}, "timestamp": "2025-07-30T07:10:00.123Z"});
        assert_eq!(payload, expected);
    }

    #[test]
    fn what_can_not_be_published_says_why() {
        let large = format!("\"{}\"", "x".repeat(256 * 1024));
        for (row, says) in [
            (row("chat:5", "message", "{nope"), "not JSON"),
            (row("chat", "message", "1"), "no colon"),
            (row("chat:5,", "message", "1"), "no colon"),
            (row("session:a\nchat:6", "message", "1"), "can't contain"),
            (row("chat:5", "message", &large), "262144"),
            (row("chat:5", "MessageRead", "{}"), "missing"),
            (row("chat:5", "UserPresence", "{}"), "missing"),
        ] {
            let why = message(&row).unwrap_err();
            assert!(why.contains(says), "{}: {why}", row.channel);
        }
        let unfetched = Row {
            payload: None,
            size: 300_000,
            ..row("chat:5", "message", "1")
        };
        assert!(message(&unfetched).unwrap_err().contains("300000"));
    }

    proptest! {
        #[test]
        fn any_row_is_published_or_says_why(channel: String, kind: String, payload: String) {
            match message(&row(&channel, &kind, &payload)) {
                Ok(message) => prop_assert!(!message.channels.is_empty()),
                Err(why) => prop_assert!(!why.is_empty()),
            }
        }

        /// Nothing that an application puts into its data can address somebody else.
        #[test]
        fn data_does_not_leave_its_place(text: String) {
            let payload = json!({"content": text, "channel": "chat:6", "type": "MessageRead"});
            let message = message(&row("chat:5", "message", &payload.to_string())).unwrap();
            prop_assert_eq!(message.channels, [Channel::parse("chat:5").unwrap()]);
        }
    }
}
