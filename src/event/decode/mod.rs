//! From a published payload to what the server sends: by the payload's shape, not its subject.
//!
//! Each accepted format has a file of its own; this one recognises the shape and names what is
//! wrong with a payload that fits none.

mod broadcast;
mod channel_event;
mod cloud_event;
mod fields;
mod plain;
mod push;
mod realtime;

use std::time::Duration;

use super::{Audience, ChannelError, Class, MembershipChange, Timestamp};
use fields::Fields;

/// The most characters of a payload's own words that a reason quotes.
const LONGEST: usize = 300;

/// What the decoder needs to know besides the payload.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The largest payload that is accepted, in bytes.
    pub max_payload: usize,
    /// Time to live of events that name none; `None` keeps them as long as the log.
    pub default_ttl: Option<Duration>,
    /// Subjects below this prefix name the channel of a payload that names none itself.
    pub channel_prefix: String,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            max_payload: 256 * 1024,
            default_ttl: None,
            channel_prefix: "fechatter.realtime".to_owned(),
        }
    }
}

/// A payload understood: everything that makes an event but its place in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The outgoing `type`.
    pub kind: String,
    /// Whether it is kept and replayed.
    pub class: Class,
    /// Whom it is for; never nobody.
    pub audience: Audience,
    /// The join or leave that it brings about.
    pub membership: Option<MembershipChange>,
    /// From then on it is neither delivered nor replayed.
    pub expires_at: Option<Timestamp>,
    /// Whether it waits for those users among its audience who are nowhere connected: `durable: true`.
    pub waits: bool,
    /// The JSON object that clients receive.
    pub json: Vec<u8>,
}

/// Why a payload is no event. [`Rejection::reason`] is the label to count it by.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// Longer than [`Rules::max_payload`].
    #[error("the payload has {size} bytes, at most {limit} are accepted")]
    TooLarge {
        /// Its length in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not a JSON object in UTF-8.
    #[error("the payload is not a JSON object: {0}")]
    NotJson(String),
    /// Nothing in the payload or the subject says whom it is for.
    #[error(
        "nothing says whom the event is for: it has no chat, recipients, channel or target, and the subject names no channel"
    )]
    NoAudience,
    /// A known format with a field that is missing or wrong.
    #[error("{format}: {problem}")]
    Malformed {
        /// The format or variant, e.g. `MessageReceived`.
        format: String,
        /// The path of the field, e.g. `target.user_id`; empty for the whole.
        field: String,
        /// The field and what is wrong with it.
        problem: String,
    },
}

impl Rejection {
    /// All labels that [`Rejection::reason`] can give.
    pub const REASONS: [&'static str; 4] = ["too_large", "not_json", "no_audience", "malformed"];

    /// A label from a closed list.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::NotJson(_) => "not_json",
            Self::NoAudience => "no_audience",
            Self::Malformed { .. } => "malformed",
        }
    }
}

/// A field of a known format that can't be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
enum FieldError {
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{field}` is wrong: {problem}")]
    Wrong { field: String, problem: String },
    #[error("`{field}` names no channel: {source}")]
    Channel { field: String, source: ChannelError },
}

impl FieldError {
    fn field(&self) -> &str {
        match self {
            Self::Missing(field) => field,
            Self::Wrong { field, .. } | Self::Channel { field, .. } => field,
        }
    }
}

/// Decodes one payload that arrived on `subject` at `now`.
///
/// # Errors
/// Says what is wrong with the payload; any bytes are acceptable input.
pub fn decode(
    rules: &Rules,
    subject: &str,
    payload: &[u8],
    now: Timestamp,
) -> Result<Decoded, Rejection> {
    if payload.len() > rules.max_payload {
        return Err(Rejection::TooLarge {
            size: payload.len(),
            limit: rules.max_payload,
        });
    }
    let text = std::str::from_utf8(payload).map_err(not_json)?;
    let fields = Fields::parse(text).map_err(not_json)?;
    let mut decoded = by_shape(rules, subject, text, &fields, now)?;
    if decoded.audience.is_nobody() {
        return Err(Rejection::NoAudience);
    }
    if let (None, Some(ttl)) = (decoded.expires_at, rules.default_ttl) {
        decoded.expires_at = Some(now.after(ttl));
    }
    Ok(decoded)
}

fn by_shape(
    rules: &Rules,
    subject: &str,
    text: &str,
    fields: &Fields<'_>,
    now: Timestamp,
) -> Result<Decoded, Rejection> {
    if fields.has("specversion") {
        return named(
            "CloudEvent",
            cloud_event::decode(rules, subject, fields, now),
        );
    }
    if let Some((variant, body)) = realtime::recognise(fields)? {
        let body = body.as_ref().unwrap_or(fields);
        return named(variant.name(), realtime::decode(variant, body, now));
    }
    let typed = fields.has("type");
    if typed && fields.has("channel") {
        return named("channel event", channel_event::decode(fields, now));
    }
    let targeted = fields.has("target");
    if typed && !targeted && broadcast::is_one(fields) {
        return named("broadcast", broadcast::decode(fields, now));
    }
    if typed && (targeted || fields.has("service")) {
        return named("push message", push::decode(text, fields, now));
    }
    plain::decode(rules, subject, text, now)
}

fn named(format: &str, result: Result<Decoded, FieldError>) -> Result<Decoded, Rejection> {
    result.map_err(|problem| Rejection::Malformed {
        format: shortened(format),
        field: shortened(problem.field()),
        problem: shortened(&problem.to_string()),
    })
}

fn not_json(error: impl std::fmt::Display) -> Rejection {
    Rejection::NotJson(shortened(&error.to_string()))
}

/// What is said of a payload quotes it, and it may be long.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_short_whatever_it_quotes() {
        let long = "词".repeat(10_000);
        for payload in [
            serde_json::json!({"type": "t", "target": {&long: {}}}),
            serde_json::json!({"type": "t", "target": {"user_id": 1}, "metadata": {"ttl": &long}}),
            serde_json::json!({"type": "t", "channel": &long}),
            serde_json::json!({"type": &long, "channel": 1}),
        ] {
            let payload = payload.to_string();
            let rejection =
                decode(&Rules::default(), "", payload.as_bytes(), Timestamp::now()).unwrap_err();
            assert!(rejection.to_string().chars().count() < 700, "{rejection}");
            assert_eq!(rejection.reason(), "malformed");
        }
        let text = serde_json::Value::String(long).to_string();
        let rejection =
            decode(&Rules::default(), "", text.as_bytes(), Timestamp::now()).unwrap_err();
        assert!(rejection.to_string().chars().count() < 400, "{rejection}");
        assert_eq!(rejection.reason(), "not_json");
    }
    use crate::event::{Channel, Recipients, UserId};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOW: u64 = 1_800_000_000_000;

    fn read(subject: &str, payload: &Value) -> Result<Decoded, Rejection> {
        decode(
            &Rules::default(),
            subject,
            payload.to_string().as_bytes(),
            Timestamp::from_millis(NOW),
        )
    }

    fn outgoing(decoded: &Decoded) -> Value {
        serde_json::from_slice(&decoded.json).unwrap()
    }

    fn channels(names: &[&str]) -> Recipients {
        Recipients::Channels(names.iter().map(|n| Channel::parse(n).unwrap()).collect())
    }

    #[test]
    fn three_spellings_of_one_variant() {
        let body = json!({"chat_id": 5, "user_id": 2, "user_name": "S"});
        let mut internal = body.clone();
        internal["type"] = json!("TypingStarted");
        let mut by_event_type = body.clone();
        by_event_type["event_type"] = json!("typing_started");
        for payload in [json!({ "TypingStarted": body }), internal, by_event_type] {
            let decoded = read("any", &payload).unwrap();
            assert_eq!(decoded.kind, "typing_started");
            assert_eq!(decoded.class, Class::Ephemeral);
            assert_eq!(decoded.audience.to, channels(&["chat:5"]));
            assert_eq!(decoded.audience.except, Some(UserId::from(2)));
            assert_eq!(outgoing(&decoded)["user_name"], "S");
        }
    }

    #[test]
    fn a_message_goes_to_its_recipients_and_else_to_its_chat() {
        let message = json!({"id": 1, "content": "x", "timestamp": 1_753_859_400});
        let listed = json!({"MessageReceived": {"message": message, "chat_id": "5", "recipients": [1, "2"]}});
        let decoded = read("any", &listed).unwrap();
        assert_eq!(decoded.audience.to, channels(&["user:1", "user:2"]));
        assert_eq!(
            outgoing(&decoded),
            json!({"type": "new_message", "chat_id": 5, "message": message,
                   "timestamp": "2025-07-30T07:10:00.000Z"})
        );
        let unlisted = json!({"MessageReceived": {"message": message, "chat_id": 5}});
        assert_eq!(
            read("any", &unlisted).unwrap().audience.to,
            channels(&["chat:5"])
        );
    }

    #[test]
    fn an_empty_list_of_recipients_is_nobody() {
        let payload = json!({"MessageReceived": {"message": {}, "chat_id": 5, "recipients": []}});
        let Err(Rejection::Malformed { field, problem, .. }) = read("any", &payload) else {
            panic!("an event for nobody was taken");
        };
        assert_eq!(field, "recipients");
        assert!(problem.contains("an empty list is nobody"), "{problem}");
    }

    #[test]
    fn a_push_message_goes_to_every_target() {
        let payload = json!({"type": "progress", "service": "billing", "target":
            {"user_id": "u1", "task_id": 7, "note": null}, "metadata": {"ttl": 60}});
        let decoded = read("any", &payload).unwrap();
        assert_eq!(
            decoded.audience.to,
            channels(&["task:7", "user:u1", "service:billing"])
        );
        assert_eq!(
            decoded.expires_at,
            Some(Timestamp::from_millis(NOW + 60_000))
        );
        assert_eq!(outgoing(&decoded), payload);
    }

    #[test]
    fn a_channel_event_goes_to_all_its_channels() {
        let payload = json!({"type": "t", "channel": "session:a-1,chat:5", "data": 1});
        let decoded = read("any", &payload).unwrap();
        assert_eq!(decoded.audience.to, channels(&["session:a-1", "chat:5"]));
        for channel in ["chat:5,", ",chat:5", "chat:5, chat:6"] {
            let rejection = read("any", &json!({"type": "t", "channel": channel})).unwrap_err();
            assert_eq!(rejection.reason(), "malformed", "{channel}");
        }
    }

    #[test]
    fn a_broadcast_goes_to_everybody() {
        let payload = json!({"type": "notice", "data": 1, "broadcast": true,
            "metadata": {"priority": "low"}});
        let decoded = read("any", &payload).unwrap();
        assert_eq!(decoded.audience.to, Recipients::Everybody);
        assert_eq!(decoded.class, Class::Ephemeral);
        assert_eq!(outgoing(&decoded)["data"], 1);
        let mut addressed = payload;
        addressed["channel"] = json!("job:1");
        let decoded = read("any", &addressed).unwrap();
        assert_eq!(decoded.audience.to, channels(&["job:1"]));
        assert_eq!(decoded.class, Class::Ephemeral);
    }

    #[test]
    fn a_cloud_event_goes_to_its_subject_or_the_nats_subject() {
        let mut payload = json!({"specversion": "1.0", "id": "a", "source": "/o",
            "type": "order.shipped", "subject": "order:9", "data": {"n": 1}});
        let decoded = read("fechatter.realtime.x", &payload).unwrap();
        assert_eq!(decoded.kind, "order.shipped");
        assert_eq!(decoded.audience.to, channels(&["order:9"]));
        payload["subject"] = json!("no channel");
        let decoded = read("fechatter.realtime.order.10", &payload).unwrap();
        assert_eq!(decoded.audience.to, channels(&["order:10"]));
    }

    #[test]
    fn any_other_object_goes_to_the_subjects_channel() {
        let payload = json!({"anything": "goes", "n": 1});
        let decoded = read("fechatter.realtime.room.blue.east", &payload).unwrap();
        assert_eq!(decoded.kind, "message");
        assert_eq!(decoded.audience.to, channels(&["room:blue:east"]));
        assert_eq!(outgoing(&decoded)["data"], payload);
        assert_eq!(
            read("fechatter.realtime.room", &payload),
            Err(Rejection::NoAudience)
        );
    }

    #[test]
    fn a_malformed_variant_names_its_field() {
        let cases = [
            (
                json!({"TypingStarted": {"chat_id": 5}}),
                "`user_id` is missing",
            ),
            (json!({"type": "MessageRead", "chat_id": []}), "`chat_id`"),
            (
                json!({"MessageReceived": {"message": {}, "chat_id": 1, "recipients": [1, {}]}}),
                "`recipients`",
            ),
            (json!({"MessageReceived": 7}), "MessageReceived"),
            (json!({"type": "a", "channel": "nocolon"}), "no colon"),
            (json!({"type": 5, "channel": "a:1"}), "`type`"),
            (
                json!({"type": "p", "target": {"user_id": "a:b"}}),
                "target.user_id",
            ),
        ];
        for (payload, says) in cases {
            let rejection = read("any", &payload).unwrap_err();
            assert_eq!(rejection.reason(), "malformed", "{payload}");
            assert!(rejection.to_string().contains(says), "{rejection}");
        }
    }

    #[test]
    fn what_is_no_object_is_not_json() {
        for payload in [&b"\xff"[..], b"", b"[1]", b"7", b"{\"a\":", b"{} x"] {
            let rejection =
                decode(&Rules::default(), "s", payload, Timestamp::from_millis(NOW)).unwrap_err();
            assert_eq!(rejection.reason(), "not_json");
        }
        let large = vec![b' '; 256 * 1024 + 1];
        let rejection =
            decode(&Rules::default(), "s", &large, Timestamp::from_millis(NOW)).unwrap_err();
        assert_eq!(rejection.reason(), "too_large");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let key = prop_oneof![
            "[a-z]{0,5}",
            proptest::sample::select(vec![
                "type",
                "event_type",
                "channel",
                "target",
                "service",
                "specversion",
                "subject",
                "data",
                "chat_id",
                "user_id",
                "message",
                "recipients",
                "metadata",
                "ttl",
                "MessageReceived",
                "UserPresence",
                "timestamp",
                "message_ids",
                "reader_id",
            ])
            .prop_map(str::to_owned),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            proptest::sample::select(vec!["MessageRead", "typing_started", "user:1", "1.0"])
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                proptest::collection::vec((key.clone(), inner), 0..8)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(subject in ".{0,40}", payload: Vec<u8>) {
            let _ = decode(&Rules::default(), &subject, &payload, Timestamp::from_millis(NOW));
        }

        #[test]
        fn arbitrary_json_is_rejected_or_gives_one_json_object_with_type(payload in any_json()) {
            if let Ok(decoded) = read("fechatter.realtime.room.1", &payload) {
                let json = outgoing(&decoded);
                prop_assert_eq!(json["type"].as_str(), Some(decoded.kind.as_str()));
            }
        }
    }
}
