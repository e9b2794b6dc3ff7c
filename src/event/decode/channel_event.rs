//! Channel events: `{"type": "job.progress", "channel": "job:123", "data": …, "timestamp": …}`.

use super::fields::{Fields, Outgoing};
use super::{Decoded, FieldError};
use crate::event::{Audience, Channel, Class, Timestamp};

pub(super) fn decode(fields: &Fields<'_>, now: Timestamp) -> Result<Decoded, FieldError> {
    let kind: String = fields.required("type")?;
    let name: String = fields.required("channel")?;
    let channel = Channel::parse(&name).map_err(|source| FieldError::Channel {
        field: "channel".to_owned(),
        source,
    })?;
    let mut outgoing = Outgoing::new(&kind).with_all(fields, &["type"]);
    if !fields.has("timestamp") {
        outgoing = outgoing.with("timestamp", &now);
    }
    Ok(Decoded {
        kind,
        class: Class::Durable,
        audience: Audience::channel(channel),
        membership: None,
        expires_at: None,
        json: outgoing.finish(),
    })
}
