//! From a notification to what is published for it. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::name::Names;
use crate::bus::subject::check_publish;
use crate::event::decode::{Rules, decode};
use crate::event::{Channel, Recipients, Timestamp, subject};

/// For how long the log knows the ids of messages.
const WINDOW: Duration = Duration::from_secs(120);

/// The most notifications that are remembered.
const REMEMBERED: usize = 262_144;

/// Numbers equal notifications, so that all instances that hear the same ones give them the same ids: an
/// instance that has begun to listen later gives an id that was given already, and publishes nothing new.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    seen: HashMap<Uuid, (u64, Instant)>,
    order: VecDeque<(Instant, Uuid)>,
}

/// A message to publish.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) subject: String,
    pub(super) payload: Bytes,
}

#[derive(Serialize)]
struct Envelope<'a> {
    r#type: &'a str,
    channel: &'a Channel,
    data: &'a RawValue,
    timestamp: Timestamp,
}

impl Numbering {
    /// The id of a notification by a backend's process.
    pub(super) fn id(&mut self, process: u32, name: &str, payload: &str, now: Instant) -> String {
        while let Some((at, key)) = self.order.front().copied() {
            if now.duration_since(at) < WINDOW && self.order.len() < REMEMBERED {
                break;
            }
            self.order.pop_front();
            // Unless it was seen again.
            if self.seen.get(&key).is_some_and(|(_, last)| *last == at) {
                self.seen.remove(&key);
            }
        }
        let text = format!("{process}\n{name}\n{payload}");
        let key = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes());
        let (number, last) = self.seen.entry(key).or_insert((0, now));
        (*number, *last) = (*number + 1, now);
        self.order.push_back((now, key));
        format!("notify:{key}:{number}")
    }
}

/// What to publish for a notification.
///
/// # Errors
/// Why nothing can be, in words.
pub(super) fn outgoing(
    rules: &Rules,
    names: &Names,
    name: &str,
    payload: &str,
    now: Timestamp,
) -> Result<Outgoing, String> {
    let data: &RawValue =
        serde_json::from_str(payload).map_err(|error| format!("it is not JSON: {error}"))?;
    let named = names.channel(name);
    let payload = match (named, name) {
        (Some(channel), _) => event("message", &channel, data, now)?,
        (None, "message_created") => message_created(data)?,
        (None, "chat_updated") => chat_updated(data, now)?,
        (None, _) => match Channel::parse(name) {
            Ok(channel) => event("message", &channel, data, now)?,
            Err(_) => data.get().as_bytes().to_vec(),
        },
    };
    let decoded = decode(rules, "", &payload, now).map_err(|rejection| rejection.to_string())?;
    let tokens = match &decoded.audience.to {
        Recipients::Channels(channels) => channels.first().map(subject::tokens_of),
        Recipients::Everybody | Recipients::SharingChatWith(_) => None,
    };
    let tokens = tokens.unwrap_or_else(|| "notify".to_owned());
    let subject = format!("{}.{tokens}", rules.channel_prefix);
    check_publish(&subject).map_err(|error| error.to_string())?;
    Ok(Outgoing {
        subject,
        payload: payload.into(),
    })
}

fn event(
    kind: &str,
    channel: &Channel,
    data: &RawValue,
    timestamp: Timestamp,
) -> Result<Vec<u8>, String> {
    let envelope = Envelope {
        r#type: kind,
        channel,
        data,
        timestamp,
    };
    serde_json::to_vec(&envelope).map_err(|error| error.to_string())
}

/// `{"message": {…}, "chat_members": […]}`: a message to those members, or to its chat.
fn message_created(data: &RawValue) -> Result<Vec<u8>, String> {
    let data: Value = serde_json::from_str(data.get()).map_err(|error| error.to_string())?;
    let mut body = json!({"message": data["message"]});
    if let Some(members) = data
        .get("chat_members")
        .filter(|members| !members.is_null())
    {
        body["recipients"] = members.clone();
    }
    Ok(json!({"MessageReceived": body}).to_string().into_bytes())
}

/// `{"op": …, "old": …, "new": …}` of a membership, which begins or ends, or of a chat.
fn chat_updated(data: &RawValue, now: Timestamp) -> Result<Vec<u8>, String> {
    let raw = data;
    let data: Value = serde_json::from_str(data.get()).map_err(|error| error.to_string())?;
    let row = |name: &str| data.get(name).filter(|row| row.is_object());
    let (old, new) = (row("old"), row("new"));
    let Some(row) = new.or(old) else {
        return Err("neither old nor new is a row".to_owned());
    };
    if row.get("user_id").is_none() {
        let id = row
            .get("chat_id")
            .or_else(|| row.get("id"))
            .unwrap_or(&Value::Null);
        let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        let channel = Channel::parse(&format!("chat:{id}")).map_err(|error| error.to_string())?;
        return event("chat_updated", &channel, raw, now);
    }
    let member = |row: Option<&Value>| row.is_some_and(|row| row["left_at"].is_null());
    let kind = match (member(old), member(new)) {
        (false, true) => "member_added",
        (true, false) => "member_removed",
        _ => return Err("the membership neither begins nor ends".to_owned()),
    };
    let mut body = row.clone();
    body["event_type"] = json!(kind);
    Ok(body.to_string().into_bytes())
}

/// A notification of any name and text: what is published for it can be published, and is an event.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (name, payload) = text.split_once('\n').unwrap_or((&text, ""));
    let names = [
        "session_messages:*",
        "job:*",
        "message_created",
        "chat_updated",
    ];
    let Ok(names) = Names::parse(&names.map(str::to_owned)) else {
        unreachable!("the names are good");
    };
    let _ = Names::parse(&[name.to_owned()]);
    let now = Timestamp::from_millis(1_753_859_400_000);
    let rules = Rules::default();
    match outgoing(&rules, &names, name, payload, now) {
        Ok(outgoing) => {
            assert!(
                check_publish(&outgoing.subject).is_ok(),
                "{}",
                outgoing.subject
            );
            assert!(decode(&rules, "", &outgoing.payload, now).is_ok());
        }
        Err(problem) => assert!(!problem.is_empty() && problem.len() < 2_000, "{problem}"),
    }
    let mut numbering = Numbering::default();
    let at = Instant::now();
    let ids = [1, 2].map(|process| numbering.id(process, name, payload, at));
    assert_ne!(ids[0], ids[1]);
    assert!(
        ids.iter()
            .all(|id| id.bytes().all(|byte| byte.is_ascii_graphic()))
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names() -> Names {
        Names::parse(&["session_messages:*".to_owned()]).unwrap()
    }

    fn read(name: &str, payload: &Value) -> Result<(String, Value), String> {
        let now = Timestamp::from_millis(0);
        let rules = Rules::default();
        let outgoing = outgoing(&rules, &names(), name, &payload.to_string(), now)?;
        let payload = serde_json::from_slice(&outgoing.payload).unwrap();
        Ok((outgoing.subject, payload))
    }

    #[test]
    fn what_classic_servers_notify_is_understood() {
        let message = json!({"id": 7, "chat_id": 5, "content": "hello"});
        let created = json!({"message": message, "chat_members": [1, 2]});
        let (subject, payload) = read("message_created", &created).unwrap();
        assert_eq!(subject, "fechatter.realtime.user.1");
        assert_eq!(payload["MessageReceived"]["recipients"], json!([1, 2]));
        let (subject, _) = read("message_created", &json!({"message": message})).unwrap();
        assert_eq!(subject, "fechatter.realtime.chat.5");
        let member = json!({"chat_id": 5, "user_id": 4});
        let left = json!({"chat_id": 5, "user_id": 4, "left_at": "2025-07-30T15:10:00Z"});
        for (old, new, kind) in [
            (json!(null), &member, Some("member_added")),
            (left.clone(), &member, Some("member_added")),
            (member.clone(), &left, Some("member_removed")),
            (member.clone(), &json!(null), Some("member_removed")),
            (member.clone(), &member, None),
        ] {
            let change = json!({"op": "?", "old": old, "new": new});
            let event = read("chat_updated", &change).ok();
            let found = event
                .as_ref()
                .and_then(|(_, event)| event["event_type"].as_str());
            assert_eq!(found, kind, "{change}");
        }
        let renamed = json!({"op": "UPDATE", "old": {"id": 5}, "new": {"id": 5, "name": "x"}});
        let (subject, payload) = read("chat_updated", &renamed).unwrap();
        assert_eq!(subject, "fechatter.realtime.chat.5");
        assert_eq!(payload["data"], renamed);
        let (_, payload) = read("session_messages:S-1", &json!({"id": "m"})).unwrap();
        assert_eq!(payload["channel"], "session:S-1");
        let whole = json!({"type": "job.done", "channel": "job:1", "data": 1});
        assert_eq!(read("anything", &whole).unwrap().1, whole);
        assert!(read("anything", &json!({"a": 1})).is_err());
    }

    #[test]
    fn equal_notifications_are_told_apart_and_recognised() {
        let (mut one, mut late) = (Numbering::default(), Numbering::default());
        let now = Instant::now();
        let first = one.id(1, "n", "p", now);
        let second = one.id(1, "n", "p", now);
        assert_ne!(first, second);
        // Who has heard only the second takes it for the first, which the log knows.
        assert_eq!(late.id(1, "n", "p", now), first);
        assert_ne!(late.id(2, "n", "p", now), first);
        assert_ne!(late.id(1, "n", "q", now), first);
        // When the log has forgotten it, it can come again.
        assert_eq!(one.id(1, "n", "p", now + WINDOW), first);
        assert_eq!(one.order.len(), 1);
        assert_eq!(one.seen.len(), 1);
    }

    proptest! {
        #[test]
        fn any_notification_is_published_or_says_why(name: String, payload: String) {
            let now = Timestamp::from_millis(0);
            let result = outgoing(&Rules::default(), &names(), &name, &payload, now);
            match result {
                Ok(out) => prop_assert!(!out.payload.is_empty()),
                Err(why) => prop_assert!(!why.is_empty()),
            }
        }
    }
}
