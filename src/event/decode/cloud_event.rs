//! CloudEvents 1.0 in JSON: `type` is the type, `subject` the channel if it parses as one.

use super::fields::{Fields, Outgoing};
use super::{Decoded, FieldError, Rules, plain};
use crate::event::{Audience, Channel, Class, Timestamp};

pub(super) fn decode(
    rules: &Rules,
    subject: &str,
    fields: &Fields<'_>,
    now: Timestamp,
) -> Result<Decoded, FieldError> {
    let kind: String = fields.required("type")?;
    let named: Option<String> = fields.optional("subject")?;
    let channel = named
        .and_then(|name| Channel::parse(&name).ok())
        .or_else(|| plain::channel_of(rules, subject));
    let mut outgoing = Outgoing::new(&kind).with_all(fields, &["type", "channel", "timestamp"]);
    if let Some(channel) = &channel {
        outgoing = outgoing.with("channel", channel);
    }
    let timestamp = fields.moment(&["time"]).unwrap_or(now);
    Ok(Decoded {
        kind,
        class: Class::Durable,
        audience: Audience::channels(channel.into_iter().collect()),
        membership: None,
        expires_at: None,
        waits: false,
        json: outgoing.with("timestamp", &timestamp).finish(),
    })
}
