//! The chat backend's realtime events, in three spellings: `{"MessageRead": {…}}`,
//! `{"type": "MessageRead", …}` and `{"event_type": "messages_read", …}`.

use serde_json::value::RawValue;

use super::fields::{Fields, Outgoing};
use super::{Decoded, FieldError, Rejection};
use crate::event::{
    Audience, Channel, ChatId, Class, Id, MembershipChange, Recipients, Timestamp, UserId,
};

/// The events that the chat backend has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    MessageReceived,
    MessageRead,
    MessageUnread,
    TypingStarted,
    TypingStopped,
    UserPresence,
    MessageDeleted,
    MessageEdited,
    MemberAdded,
    MemberRemoved,
}

/// Each variant with its name as a tag and its name as an `event_type`.
const NAMES: [(Variant, &str, &str); 10] = [
    (Variant::MessageReceived, "MessageReceived", "new_message"),
    (Variant::MessageRead, "MessageRead", "messages_read"),
    (Variant::MessageUnread, "MessageUnread", "message_unread"),
    (Variant::TypingStarted, "TypingStarted", "typing_started"),
    (Variant::TypingStopped, "TypingStopped", "typing_stopped"),
    (Variant::UserPresence, "UserPresence", "user_presence"),
    (Variant::MessageDeleted, "MessageDeleted", "message_deleted"),
    (Variant::MessageEdited, "MessageEdited", "message_edited"),
    (Variant::MemberAdded, "MemberAdded", "member_added"),
    (Variant::MemberRemoved, "MemberRemoved", "member_removed"),
];

/// Members that are the spelling of an event and not part of it.
const TAGS: [&str; 3] = ["type", "event_type", "timestamp"];

impl Variant {
    pub(super) fn name(self) -> &'static str {
        // Every variant has its row.
        NAMES
            .iter()
            .find(|(variant, ..)| *variant == self)
            .map_or("realtime event", |(_, tag, _)| tag)
    }

    fn by_tag(name: &str) -> Option<Self> {
        let row = NAMES.iter().find(|(_, tag, _)| *tag == name)?;
        Some(row.0)
    }

    fn by_event_type(name: &str) -> Option<Self> {
        let row = NAMES.iter().find(|(.., event_type)| *event_type == name);
        match (row, name) {
            (Some(row), _) => Some(row.0),
            // The singular is what clients receive, and some backends send it too.
            (None, "message_read") => Some(Self::MessageRead),
            (None, _) => Self::by_tag(name),
        }
    }
}

/// The variant that a payload spells, and its body where that is a nested object.
pub(super) fn recognise<'a>(
    fields: &Fields<'a>,
) -> Result<Option<(Variant, Option<Fields<'a>>)>, Rejection> {
    if let Some((key, body)) = fields.only()
        && let Some(variant) = Variant::by_tag(key)
    {
        return match Fields::parse(body.get()) {
            Ok(body) => Ok(Some((variant, Some(body)))),
            Err(error) => Err(Rejection::Malformed {
                format: variant.name().to_owned(),
                field: variant.name().to_owned(),
                problem: format!("its value is not a JSON object: {error}"),
            }),
        };
    }
    let tag = text(fields.get("type")).and_then(|name| Variant::by_tag(&name));
    let variant = tag
        .or_else(|| text(fields.get("event_type")).and_then(|name| Variant::by_event_type(&name)));
    Ok(variant.map(|variant| (variant, None)))
}

fn text(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(value?.get()).ok()
}

pub(super) fn decode(
    variant: Variant,
    body: &Fields<'_>,
    now: Timestamp,
) -> Result<Decoded, FieldError> {
    match variant {
        Variant::MessageReceived => message_received(body, now),
        Variant::MessageRead => message_read(body, now),
        Variant::MessageUnread => message_unread(body, now),
        Variant::TypingStarted => typing("typing_started", body, now),
        Variant::TypingStopped => typing("typing_stopped", body, now),
        Variant::UserPresence => user_presence(body, now),
        Variant::MessageDeleted => to_chat("message_deleted", body, now),
        Variant::MessageEdited => to_chat("message_edited", body, now),
        Variant::MemberAdded => member("chat_member_added", body, now, MembershipChange::Joined),
        Variant::MemberRemoved => member("chat_member_removed", body, now, MembershipChange::Left),
    }
}

fn message_received(body: &Fields<'_>, now: Timestamp) -> Result<Decoded, FieldError> {
    let message = body.get("message").ok_or(FieldError::Missing("message"))?;
    let inner = Fields::parse(message.get()).map_err(|error| FieldError::Wrong {
        field: "message".to_owned(),
        problem: error.to_string(),
    })?;
    let chat = match body.optional::<Id>("chat_id")? {
        Some(chat) => ChatId::from(chat),
        None => inner.chat("chat_id")?,
    };
    let audience = match body.optional::<Vec<UserId>>("recipients")? {
        Some(users) if users.is_empty() => {
            return Err(FieldError::Wrong {
                field: "recipients".to_owned(),
                problem: "an empty list is nobody: name users, or leave it out for all of the chat"
                    .to_owned(),
            });
        }
        Some(users) => Audience::channels(users.iter().map(Channel::user).collect()),
        None => Audience::channel(Channel::chat(&chat)),
    };
    let timestamp = body
        .moment(&["timestamp"])
        .or_else(|| inner.moment(&["timestamp", "created_at"]))
        .unwrap_or(now);
    let json = Outgoing::new("new_message")
        .with("chat_id", &chat)
        .with("message", message)
        .with("timestamp", &timestamp)
        .finish();
    Ok(decoded("new_message", Class::Durable, audience, json))
}

fn message_read(body: &Fields<'_>, now: Timestamp) -> Result<Decoded, FieldError> {
    const OWN: [&str; 7] = [
        "type",
        "event_type",
        "timestamp",
        "chat_id",
        "reader_id",
        "message_id",
        "message_ids",
    ];
    let chat = body.chat("chat_id")?;
    let reader = match body.optional::<Id>("reader_id")? {
        Some(reader) => UserId::from(reader),
        None => body.user("user_id")?,
    };
    let messages = match body.optional::<Vec<Id>>("message_ids")? {
        Some(messages) => messages,
        None => body.optional::<Id>("message_id")?.into_iter().collect(),
    };
    let timestamp = body.moment(&["timestamp", "read_at"]).unwrap_or(now);
    let mut outgoing = Outgoing::new("message_read")
        .with("chat_id", &chat)
        .with("reader_id", &reader)
        .with("message_ids", &messages);
    if let [message] = messages.as_slice() {
        outgoing = outgoing.with("message_id", message);
    }
    let json = outgoing
        .with_all(body, &OWN)
        .with("timestamp", &timestamp)
        .finish();
    let audience = Audience::channel(Channel::chat(&chat)).except(reader);
    Ok(decoded("message_read", Class::Durable, audience, json))
}

fn message_unread(body: &Fields<'_>, now: Timestamp) -> Result<Decoded, FieldError> {
    let audience = Audience::channel(Channel::user(&body.user("user_id")?));
    let json = as_received("message_unread", body, &["timestamp"], now);
    Ok(decoded("message_unread", Class::Durable, audience, json))
}

fn typing(kind: &'static str, body: &Fields<'_>, now: Timestamp) -> Result<Decoded, FieldError> {
    let chat = Channel::chat(&body.chat("chat_id")?);
    let audience = Audience::channel(chat).except(body.user("user_id")?);
    let json = as_received(kind, body, &["timestamp"], now);
    Ok(decoded(kind, Class::Ephemeral, audience, json))
}

fn user_presence(body: &Fields<'_>, now: Timestamp) -> Result<Decoded, FieldError> {
    let user = body.user("user_id")?;
    body.required::<String>("status")?;
    let audience = Audience {
        to: Recipients::SharingChatWith(user.clone()),
        except: Some(user),
    };
    let json = as_received("user_presence", body, &["timestamp"], now);
    Ok(decoded("user_presence", Class::Ephemeral, audience, json))
}

fn to_chat(kind: &'static str, body: &Fields<'_>, now: Timestamp) -> Result<Decoded, FieldError> {
    let audience = Audience::channel(Channel::chat(&body.chat("chat_id")?));
    let moments = ["timestamp", "deleted_at", "edited_at"];
    let json = as_received(kind, body, &moments, now);
    Ok(decoded(kind, Class::Durable, audience, json))
}

fn member(
    kind: &'static str,
    body: &Fields<'_>,
    now: Timestamp,
    change: fn(UserId, ChatId) -> MembershipChange,
) -> Result<Decoded, FieldError> {
    let chat = body.chat("chat_id")?;
    let user = body.user("user_id")?;
    let audience = Audience::channels(vec![Channel::chat(&chat), Channel::user(&user)]);
    let json = as_received(kind, body, &["timestamp"], now);
    Ok(Decoded {
        membership: Some(change(user, chat)),
        ..decoded(kind, Class::Durable, audience, json)
    })
}

/// The event's own members as they came, with ids in their canonical form, `type` before them and
/// `timestamp` behind.
fn as_received(kind: &str, body: &Fields<'_>, moments: &[&str], now: Timestamp) -> Vec<u8> {
    let mut outgoing = Outgoing::new(kind);
    for (key, value) in body.iter().filter(|(key, _)| !TAGS.contains(key)) {
        let id = match key {
            "chat_id" | "user_id" => serde_json::from_str::<Id>(value.get()).ok(),
            _ => None,
        };
        outgoing = match id {
            Some(id) => outgoing.with(key, &id),
            None => outgoing.with(key, value),
        };
    }
    let timestamp = body.moment(moments).unwrap_or(now);
    outgoing.with("timestamp", &timestamp).finish()
}

fn decoded(kind: &str, class: Class, audience: Audience, json: Vec<u8>) -> Decoded {
    Decoded {
        kind: kind.to_owned(),
        class,
        audience,
        membership: None,
        expires_at: None,
        waits: false,
        json,
    }
}
