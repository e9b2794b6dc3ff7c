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
    let (class, expires_at) = metadata(fields, now)?;
    Ok(Decoded {
        kind: fields.required("type")?,
        class,
        audience: Audience::channels(channels(fields)?),
        membership: None,
        expires_at,
        waits: waits(fields, class)?,
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

/// Whether it waits for users who are nowhere connected: `durable: true`.
pub(super) fn waits(fields: &Fields<'_>, class: Class) -> Result<bool, FieldError> {
    let waits = fields.optional("durable")?.unwrap_or(false);
    if waits && class == Class::Ephemeral {
        return Err(FieldError::Wrong {
            field: "durable".to_owned(),
            problem: "a message of low priority is not kept for anybody".to_owned(),
        });
    }
    Ok(waits)
}

/// What `metadata` says: `priority: low` is ephemeral, `ttl` counts in seconds from now. Where there is no
/// `metadata`, the two may stand beside `data`; what can't be one of them there is the sender's own.
pub(super) fn metadata(
    fields: &Fields<'_>,
    now: Timestamp,
) -> Result<(Class, Option<Timestamp>), FieldError> {
    let Some(metadata) = object(fields.get("metadata"), "metadata")? else {
        let class = class(fields).unwrap_or(Class::Durable);
        let ttl = ttl(fields).unwrap_or(None);
        return Ok((class, ttl.map(|ttl| now.after(ttl))));
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
