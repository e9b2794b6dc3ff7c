//! Channel events: `{"type": "job.progress", "channel": "job:123", "data": …, "timestamp": …}`. Several
//! channels have commas in between, as in the address of a stream.

use super::fields::{Fields, Outgoing};
use super::{Decoded, FieldError, push};
use crate::event::{Audience, Channel, Timestamp};

pub(super) fn decode(fields: &Fields<'_>, now: Timestamp) -> Result<Decoded, FieldError> {
    let kind: String = fields.required("type")?;
    let name: String = fields.required("channel")?;
    let channels: Result<Vec<Channel>, _> = name.split(',').map(Channel::parse).collect();
    let channels = channels.map_err(|source| FieldError::Channel {
        field: "channel".to_owned(),
        source,
    })?;
    let (class, expires_at) = push::metadata(fields, now)?;
    let mut outgoing = Outgoing::new(&kind).with_all(fields, &["type"]);
    if !fields.has("timestamp") {
        outgoing = outgoing.with("timestamp", &now);
    }
    Ok(Decoded {
        kind,
        class,
        audience: Audience::channels(channels),
        membership: None,
        expires_at,
        waits: push::waits(fields, class),
        json: outgoing.finish(),
    })
}
