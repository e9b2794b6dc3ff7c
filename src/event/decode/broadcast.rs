//! Broadcasts: `{"type": "notice", "data": …, "broadcast": true}`, for everybody.

use super::fields::{Fields, Outgoing};
use super::{Decoded, FieldError, push};
use crate::event::{Audience, Recipients, Timestamp};

/// Whether the payload says of itself that it is for everybody.
pub(super) fn is_one(fields: &Fields<'_>) -> bool {
    fields
        .get("broadcast")
        .is_some_and(|value| value.get() == "true")
}

pub(super) fn decode(fields: &Fields<'_>, now: Timestamp) -> Result<Decoded, FieldError> {
    let kind: String = fields.required("type")?;
    let (class, expires_at) = push::metadata_or_beside(fields, now)?;
    let mut outgoing = Outgoing::new(&kind).with_all(fields, &["type", "broadcast"]);
    if !fields.has("timestamp") {
        outgoing = outgoing.with("timestamp", &now);
    }
    Ok(Decoded {
        kind,
        class,
        audience: Audience {
            to: Recipients::Everybody,
            except: None,
        },
        membership: None,
        expires_at,
        waits: false,
        json: outgoing.finish(),
    })
}
