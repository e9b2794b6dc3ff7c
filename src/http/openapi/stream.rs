//! What all streams answer. Until OpenAPI 3.2 the schema of an event stream is by convention that of one event.

use std::collections::BTreeMap;

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

const MEANS: &str = "\
The stream (`text/event-stream`), until the token's `exp`. Every event's `data` is one JSON object with `type`:

| `type` | when |
| --- | --- |
| `connection_confirmed` | first; what the stream listens on |
| `ping` | regularly, without an `id` |
| `gap` | some events can't be given: load the state over your API |
| `caught_up` | after a replay |
| `token_expiring` | a minute before the token's `exp` |
| `closing` | last; why, and whether to come back |
| anything else | an event that was published |

The members of each are described in [/asyncapi.yaml](/asyncapi.yaml). As it is read:

```text
retry: 2750

id: 1753859400123-4182-9f3a
data: {\"type\":\"connection_confirmed\",\"user_id\":2,\"timestamp\":\"2026-11-20T15:10:00.123Z\",\"connected_chats\":[1,5,9],\"connection_id\":\"0e324104f9c8496798caa89d31a62318\",\"recovered\":false,\"replayed\":0,\"ping_interval_ms\":30000}

data: {\"type\":\"ping\",\"timestamp\":\"2026-11-20T15:10:30.123Z\"}

id: 1753859400123-4187-01bc
data: {\"type\":\"new_message\",\"chat_id\":5,\"message\":{\"id\":7,\"chat_id\":5,\"sender_id\":3,\"content\":\"hello\",\"files\":[]},\"timestamp\":\"2026-11-20T15:10:31.007Z\"}
```";

/// One event of a stream, taken apart as `EventSource` does.
#[derive(ToSchema)]
#[schema(as = StreamEvent, example = json!({
    "event": "new_message",
    "id": "1753859400123-4187-01bc",
    "data": "{\"type\":\"new_message\",\"chat_id\":5,\"message\":{\"id\":7,\"content\":\"hello\"},\"timestamp\":\"2026-11-20T15:10:31.007Z\"}"
}))]
#[allow(dead_code, reason = "only its schema is used")]
pub(in crate::http) struct StreamEvent {
    /// A JSON object with `type`.
    #[schema(content_media_type = "application/json")]
    data: String,
    /// Its type where events are named, else `message`.
    #[schema(required = false)]
    event: String,
    /// Where the client is now; what moves nobody has none.
    #[schema(required = false)]
    id: String,
}

/// The stream itself.
pub(in crate::http) struct Streaming;

impl IntoResponses for Streaming {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(StreamEvent::name())))
            .build();
        let mut response = ResponseBuilder::new()
            .description(MEANS)
            .content("text/event-stream", content);
        for (name, means) in [
            ("Cache-Control", "`no-cache, no-transform`"),
            (
                "X-Accel-Buffering",
                "`no`: nginx is not to hold events back",
            ),
        ] {
            let header = HeaderBuilder::new()
                .schema(Some(text()))
                .description(Some(means));
            response = response.header(name, header.build());
        }
        BTreeMap::from([("200".to_owned(), response.build().into())])
    }
}
