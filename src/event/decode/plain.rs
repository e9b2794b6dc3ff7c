//! Any other JSON object: an event of type `message` for the channel that its subject names.

use serde_json::value::RawValue;

use super::fields::Outgoing;
use super::{Decoded, Rejection, Rules};
use crate::event::{Audience, Channel, Class, Timestamp, subject};

pub(super) fn decode(
    rules: &Rules,
    on: &str,
    text: &str,
    now: Timestamp,
) -> Result<Decoded, Rejection> {
    let channel = channel_of(rules, on).ok_or(Rejection::NoAudience)?;
    let data: &RawValue = serde_json::from_str(text).map_err(super::not_json)?;
    let json = Outgoing::new("message")
        .with("channel", &channel)
        .with("data", data)
        .with("timestamp", &now)
        .finish();
    Ok(Decoded {
        kind: "message".to_owned(),
        class: Class::Durable,
        audience: Audience::channel(channel),
        membership: None,
        expires_at: None,
        waits: false,
        json,
    })
}

/// `{prefix}.{resource}.{id}.…` is `{resource}:{id}:…`.
pub(super) fn channel_of(rules: &Rules, on: &str) -> Option<Channel> {
    let path = on
        .strip_prefix(rules.channel_prefix.as_str())?
        .strip_prefix('.')?;
    subject::channel_of(path)
}
