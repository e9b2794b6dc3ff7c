//! How ids, channels and moments look in API documents: as they are written, since their JSON is made by
//! hand. Every other schema is derived from the type that it describes.

use std::borrow::Cow;

use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::channel::MAX_RESOURCE_BYTES;
use super::id::MAX_ID_BYTES;
use super::{Channel, ChatId, Id, Timestamp, UserId};

/// What neither an id nor a segment of a channel has: white space, control characters, and what has a
/// meaning in channels and subjects.
const SEGMENT: &str = r"[^\s\x00-\x1f\x7f-\x9f:,*>]+";

fn id(description: &str, example: i64) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Integer, Type::String]))
        .description(Some(description))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .min_length(Some(1))
        .max_length(Some(MAX_ID_BYTES))
        .pattern(Some(format!("^{SEGMENT}$")))
        .examples([serde_json::json!(example)])
        .into()
}

impl PartialSchema for Id {
    fn schema() -> RefOr<Schema> {
        id(
            "An id. Numbers and their decimal text are the same: `2` and `\"2\"`; the server writes a number.",
            2,
        )
    }
}

impl ToSchema for Id {
    fn name() -> Cow<'static, str> {
        "Id".into()
    }
}

impl PartialSchema for UserId {
    fn schema() -> RefOr<Schema> {
        id(
            "A user. Numbers and their decimal text are the same: `2` and `\"2\"`; the server writes a number.",
            2,
        )
    }
}

impl ToSchema for UserId {
    fn name() -> Cow<'static, str> {
        "UserId".into()
    }
}

impl PartialSchema for ChatId {
    fn schema() -> RefOr<Schema> {
        id(
            "A chat. Numbers and their decimal text are the same: `42` and `\"42\"`; the server writes a number.",
            42,
        )
    }
}

impl ToSchema for ChatId {
    fn name() -> Cow<'static, str> {
        "ChatId".into()
    }
}

impl PartialSchema for Channel {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "What clients listen on and events go to: `{resource}:{id}[:{id}…]`.",
            ))
            .pattern(Some(format!(
                "^[A-Za-z0-9._~-]{{1,{MAX_RESOURCE_BYTES}}}(:{SEGMENT})+$"
            )))
            // The shortest resource leaves this much; a long one with a long id can have more.
            .max_length(Some(2 + MAX_ID_BYTES))
            .examples([serde_json::json!("job:123")])
            .into()
    }
}

impl ToSchema for Channel {
    fn name() -> Cow<'static, str> {
        "Channel".into()
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .description(Some("A moment in UTC, with milliseconds (RFC 3339)."))
            .examples([serde_json::json!("2026-11-20T15:10:00.123Z")])
            .into()
    }
}

impl ToSchema for Timestamp {
    fn name() -> Cow<'static, str> {
        "Timestamp".into()
    }
}
