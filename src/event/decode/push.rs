//! Push messages: `{"type", "target": {"user_id", "session_id", …}, "service", "data",
//! "metadata": {"priority", "ttl"}}`, sent on as they are.

use std::time::Duration;

use serde_json::value::RawValue;

use super::fields::{Fields, typed};
use super::{Decoded, FieldError};
use crate::event::{Audience, Channel, Class, Id, Timestamp};

pub(super) fn decode(
    text: &str,
    fields: &Fields<'_>,
    now: Timestamp,
) -> Result<Decoded, FieldError> {
    let (class, expires_at) = metadata_or_beside(fields, now)?;
    Ok(Decoded {
        kind: fields.required("type")?,
        class,
        audience: Audience::channels(channels(fields)?),
        membership: None,
        expires_at,
        waits: waits(fields, class),
        json: text.as_bytes().to_vec(),
    })
}

/// One channel for each key of `target` that has a value, and one for the service.
fn channels(fields: &Fields<'_>) -> Result<Vec<Channel>, FieldError> {
    let mut channels = Vec::new();
    if let Some(target) = object(fields.get("target"), "target")? {
        for (key, value) in target.iter().filter(|(_, value)| value.get() != "null") {
            channels.push(channel(&format!("target.{key}"), key, value)?);
        }
    }
    if let Some(service) = fields.get("service") {
        channels.push(channel("service", "service", service)?);
    }
    Ok(channels)
}

/// `task_id: 7` is `task:7`; a key without `_id` is the resource itself.
fn channel(field: &str, key: &str, value: &RawValue) -> Result<Channel, FieldError> {
    let id: Id = typed(field, value)?;
    let resource = key.strip_suffix("_id").unwrap_or(key);
    Channel::new(resource, id).map_err(|source| FieldError::Channel {
        field: field.to_owned(),
        source,
    })
}

/// Whether it waits for users who are nowhere connected: `durable: true`. Anything else there is the sender's
/// own, and what is ephemeral is kept for nobody.
pub(super) fn waits(fields: &Fields<'_>, class: Class) -> bool {
    let durable = fields.get("durable");
    class == Class::Durable && durable.is_some_and(|value| value.get() == "true")
}

/// As [`metadata`], but where there is none, the two may stand beside `data`; what can't be one of them there is
/// the sender's own.
pub(super) fn metadata_or_beside(
    fields: &Fields<'_>,
    now: Timestamp,
) -> Result<(Class, Option<Timestamp>), FieldError> {
    if fields.has("metadata") {
        return metadata(fields, now);
    }
    let ttl = ttl(fields).unwrap_or(None);
    let class = class(fields).unwrap_or(Class::Durable);
    Ok((class, ttl.map(|ttl| now.after(ttl))))
}

/// What `metadata` says: `priority: low` is ephemeral, `ttl` counts in seconds from now.
pub(super) fn metadata(
    fields: &Fields<'_>,
    now: Timestamp,
) -> Result<(Class, Option<Timestamp>), FieldError> {
    let Some(metadata) = object(fields.get("metadata"), "metadata")? else {
        return Ok((Class::Durable, None));
    };
    let ttl = ttl(&metadata)?;
    Ok((class(&metadata)?, ttl.map(|ttl| now.after(ttl))))
}

fn class(metadata: &Fields<'_>) -> Result<Class, FieldError> {
    let priority: Option<String> = metadata.optional("priority")?;
    Ok(match priority.as_deref() {
        Some("low") => Class::Ephemeral,
        _ => Class::Durable,
    })
}

fn ttl(metadata: &Fields<'_>) -> Result<Option<Duration>, FieldError> {
    let seconds: Option<f64> = metadata.optional("ttl")?;
    seconds
        .map(|seconds| {
            Duration::try_from_secs_f64(seconds).map_err(|error| FieldError::Wrong {
                field: "metadata.ttl".to_owned(),
                problem: error.to_string(),
            })
        })
        .transpose()
}

fn object<'a>(value: Option<&'a RawValue>, field: &str) -> Result<Option<Fields<'a>>, FieldError> {
    value
        .map(|value| {
            Fields::parse(value.get()).map_err(|error| FieldError::Wrong {
                field: field.to_owned(),
                problem: error.to_string(),
            })
        })
        .transpose()
}
