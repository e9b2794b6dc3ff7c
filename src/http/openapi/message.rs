//! What is published over HTTP. The server takes these bodies apart itself, to name the path of what is wrong
//! and to pass the rest on as it is, so that these types only describe them; a test has their examples accepted.

use std::borrow::Cow;

use serde_json::{Value, json};
use utoipa::openapi::schema::{AllOfBuilder, AnyOfBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::event::{Channel, Id};

/// A message that is for a channel, a target or a service.
pub(in crate::http) struct Message;

impl PartialSchema for Message {
    fn schema() -> RefOr<Schema> {
        let has = |member: &str| ObjectBuilder::new().required(member);
        let addressed = AnyOfBuilder::new()
            .item(has("channel"))
            .item(has("target"))
            .item(has("service"));
        AllOfBuilder::new()
            .description(Some(
                "A message for a `channel` (a channel event), or for a `target` or a `service` (a push message).",
            ))
            .item(Ref::from_schema_name(Members::name()))
            .item(addressed)
            .examples([
                json!({
                    "type": "invoice.paid",
                    "target": {"user_id": 2},
                    "data": {"number": 17},
                    "metadata": {"ttl": 3600}
                }),
                json!({"type": "job.progress", "channel": "job:123", "data": {"progress": 50, "state": "active"}}),
                json!({"id": "m-1", "type": "progress", "service": "billing", "target": {"task_id": 7}, "ack": true}),
                json!({"type": "invoice.due", "channel": "user:2", "data": {"number": 18}, "ack": "device", "durable": true}),
            ])
            .into()
    }
}

impl ToSchema for Message {
    fn name() -> Cow<'static, str> {
        "Message".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Members::name().into_owned(), Members::schema()));
        Members::schemas(schemas);
    }
}

/// The members of a message. Further ones are passed on.
#[derive(ToSchema)]
#[schema(as = MessageMembers)]
#[allow(dead_code, reason = "only its schema is used")]
struct Members {
    /// What clients know the event by; not one of those that the server itself says on streams, nor of the chat
    /// backend's own.
    #[schema(example = "job.progress")]
    r#type: String,
    /// Whom it is for: those who listen on this channel.
    #[schema(required = false)]
    channel: Channel,
    #[schema(required = false, schema_with = target)]
    target: Value,
    /// Whom it is for, besides: the channel `service:{name}`.
    #[schema(required = false, example = "billing")]
    service: Id,
    /// Anything.
    #[schema(required = false)]
    data: Value,
    #[schema(required = false, schema_with = message_id)]
    id: Value,
    /// When it happened; now, where it is missing.
    #[schema(required = false)]
    timestamp: Value,
    #[schema(required = false)]
    metadata: Metadata,
    /// Whether those it is for are to acknowledge it, each once, or on each device.
    #[schema(required = false, schema_with = ack)]
    ack: Value,
    /// Whether it waits for those of its users who are nowhere connected. For messages that name a user, by
    /// `target.user_id` or the channel `user:…`, and not of low priority.
    #[schema(required = false, default = false)]
    durable: bool,
}

/// How it is to be handled.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
struct Metadata {
    /// `low` is never replayed, and dropped first: like typing.
    #[schema(required = false, example = "low")]
    priority: String,
    /// For how many seconds it is delivered and replayed.
    #[schema(required = false, minimum = 0, maximum = 1e15, example = 3600)]
    ttl: f64,
}

/// A message for everybody. Further members are passed on.
#[derive(ToSchema)]
#[schema(examples(json!({"type": "maintenance", "data": {"at": "22:00"}})))]
#[allow(dead_code, reason = "only its schema is used")]
pub(in crate::http) struct Broadcast {
    /// What clients know the event by; not one of those that the server itself says on streams, nor of the chat
    /// backend's own.
    #[schema(example = "maintenance")]
    r#type: String,
    /// Anything.
    #[schema(required = false)]
    data: Value,
    #[schema(required = false, schema_with = message_id)]
    id: Value,
    /// When it happened; now, where it is missing.
    #[schema(required = false)]
    timestamp: Value,
    #[schema(required = false)]
    metadata: Metadata,
    /// Whether everybody is to acknowledge it, once, or on each device.
    #[schema(required = false, schema_with = ack)]
    ack: Value,
}

/// Messages to publish in this order.
#[derive(ToSchema)]
#[schema(examples(json!({"messages": [
    {"type": "job.progress", "channel": "job:123", "data": {"progress": 50}},
    {"type": "job.completed", "channel": "job:123"}
]})))]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
pub(in crate::http) struct Batch {
    #[schema(min_items = 1, max_items = 1000)]
    messages: Vec<Message>,
}

/// What a backend publishes on NATS.
pub(in crate::http) struct Payload;

impl PartialSchema for Payload {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some(
                "What a backend publishes on NATS, in any of the shapes that [/asyncapi.yaml](/asyncapi.yaml) describes.",
            ))
            .examples([
                json!({
                    "MessageReceived": {
                        "message": {"id": 7, "chat_id": 1, "sender_id": 3, "content": "hello", "files": []},
                        "chat_id": 1,
                        "recipients": [1, 2, 3]
                    }
                }),
                json!({"type": "job.progress", "channel": "job:123", "data": {"progress": 50}}),
            ])
            .into()
    }
}

impl ToSchema for Payload {
    fn name() -> Cow<'static, str> {
        "Payload".into()
    }
}

fn target() -> RefOr<Schema> {
    let resource = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^[A-Za-z0-9.~-][A-Za-z0-9._~-]{0,63}$"));
    ObjectBuilder::new()
        .description(Some(
            "Whom it is for: each `{x}_id` is the channel `{x}:…`.",
        ))
        .min_properties(Some(1))
        .property_names(Some(resource))
        .additional_properties(Some(Ref::from_schema_name(Id::name())))
        .examples([json!({"user_id": 2})])
        .into()
}

fn ack() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::AnyValue)
        .description(Some(
            "Whether those it is for are to acknowledge it, each once, or on each device.",
        ))
        .enum_values(Some([json!(true), json!(false), json!("device")]))
        .default(Some(json!(false)))
        .into()
}

fn message_id() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Number]))
        .description(Some(
            "Its own id: two messages of a user with the same one are one, within two minutes. Made where it is missing.",
        ))
        .min_length(Some(1))
        .max_length(Some(200))
        .pattern(Some(r"^[^\x00-\x1f\x7f-\x9f]+$"))
        .examples([json!("invoice-17-paid")])
        .into()
}
