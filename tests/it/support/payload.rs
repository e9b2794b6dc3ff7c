//! What a chat backend publishes.

use serde_json::{Value, json};

/// A chat's subject.
pub(crate) fn chat_subject(chat: i64) -> String {
    format!("fechatter.realtime.chat.{chat}")
}

/// A message to explicit recipients.
pub(crate) fn message(chat: i64, content: &str, recipients: &[i64]) -> Value {
    json!({"MessageReceived": {
        "message": {"id": "1001", "chat_id": chat, "sender_id": 2, "content": content,
            "files": [], "timestamp": 1_753_859_400},
        "chat_id": chat,
        "recipients": recipients,
    }})
}

/// A message to whoever is in the chat.
pub(crate) fn chat_message(chat: i64, content: &str) -> Value {
    let mut payload = message(chat, content, &[]);
    let body = payload["MessageReceived"].as_object_mut().unwrap();
    body.remove("recipients");
    payload
}

/// One of the backend's events in the `event_type` spelling.
pub(crate) fn event(kind: &str, chat: i64, user: i64) -> Value {
    json!({"event_type": kind, "chat_id": chat, "user_id": user,
        "timestamp": "2025-07-30T15:12:00Z"})
}
