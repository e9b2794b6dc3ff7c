//! `docs/asyncapi.yaml` against what the server takes and sends.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::tokens::Token;
use crate::support::{EventStream, Nats, Request, Server, Settings, tokens};

const DOCUMENT: &str = include_str!("../../docs/asyncapi.yaml");

/// What is sent on streams and is described by its form alone.
const ANY_EVENT: &str = "event";

struct Document(Value);

impl Document {
    fn read() -> Self {
        Self(serde_saphyr::from_str(DOCUMENT).unwrap())
    }

    /// The messages of a channel, by name.
    fn messages(&self, channel: &str) -> BTreeMap<String, Value> {
        let messages = self.0["channels"][channel]["messages"].as_object().unwrap();
        let found = messages.iter().map(|(name, reference)| {
            let to = reference["$ref"].as_str().unwrap();
            let message = self.0.pointer(&to[1..]).unwrap_or_else(|| panic!("{to}"));
            (name.clone(), message.clone())
        });
        found.collect()
    }

    /// What is wrong with a payload of a message.
    fn problems(&self, message: &Value, payload: &Value) -> Vec<String> {
        let schema = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "allOf": [message["payload"]],
            "components": self.0["components"],
        });
        let validator = jsonschema::draft7::options()
            .should_validate_formats(true)
            .build(&schema)
            .unwrap();
        let errors = validator.iter_errors(payload);
        errors
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect()
    }
}

fn examples(message: &Value) -> Vec<Value> {
    let examples = message["examples"].as_array().unwrap();
    examples
        .iter()
        .map(|example| example["payload"].clone())
        .collect()
}

#[test]
fn every_example_fits_its_schema() {
    let document = Document::read();
    for (channel, described) in document.0["channels"].as_object().unwrap() {
        assert!(described["messages"].is_object(), "{channel}");
        for (name, message) in document.messages(channel) {
            for example in examples(&message) {
                let problems = document.problems(&message, &example);
                assert!(problems.is_empty(), "{channel}, {name}: {problems:?}");
            }
        }
    }
}

/// The events of a stream that were checked, by the message that they are.
struct Checked<'a> {
    document: &'a Document,
    messages: BTreeMap<String, Value>,
    seen: BTreeSet<String>,
}

impl<'a> Checked<'a> {
    fn new(document: &'a Document, channel: &str) -> Self {
        Self {
            document,
            messages: document.messages(channel),
            seen: BTreeSet::new(),
        }
    }

    /// An event must be one that is described for its type, or else for any other.
    fn check(&mut self, event: &Value) {
        let kind = event["type"].as_str().unwrap_or("");
        let name = if self.messages.contains_key(kind) {
            kind
        } else {
            ANY_EVENT
        };
        let problems = self.document.problems(&self.messages[name], event);
        assert!(problems.is_empty(), "{event}: {problems:?}");
        self.seen.insert(name.to_owned());
    }
}

#[tokio::test]
async fn what_streams_carry_is_as_described() {
    let document = Document::read();
    let nats = Nats::start().await;
    let settings = Settings::new()
        .nats(&nats)
        .set("stream.ping_interval", "100ms")
        .set("auth.leeway", "0s")
        // What one stream has had, whoever comes back has missed.
        .set("server.workers", 1)
        .chat(5, &[1, 2, 3]);
    let server = Server::start(settings).await;
    let backend = nats.backend().await;
    let mut checked = Checked::new(&document, "own");
    // One for what is for the user or the chat, and one for what names a channel.
    let mut own = stream(&server, "/events", &tokens::of_user(1)).await;
    let everything = Token::of(1).claim("notify", json!({"subscribe": ["*"]}));
    let path = "/sse/stream/job:123,order:9,any:1,user:1:notifications";
    let mut named = stream(&server, path, &everything.sign_hs256(tokens::SECRET)).await;
    checked.check(&confirmed(&mut own).await);
    checked.check(&confirmed(&mut named).await);
    for (name, message) in document.messages("realtime") {
        for example in examples(&message) {
            backend.publish("fechatter.realtime.any.1", &example).await;
            let receivers = match name.as_str() {
                "AnyObject" | "ChannelEvent" | "CloudEvent" => vec![&mut named],
                "Broadcast" => vec![&mut own, &mut named],
                _ => vec![&mut own],
            };
            for stream in receivers {
                checked.check(&stream.next().await.data);
            }
        }
    }
    assert_eq!(server.metric("notify_events_rejected_total", "").await, 0.0);
    checked.check(&own.expect_ping().await.data);
    // What the server says of coming back, and at the end.
    let known = own.last_event_id().to_owned();
    backend
        .publish(
            "fechatter.realtime.chat.5",
            &json!({"MessageDeleted": {"message_id": 1, "chat_id": 5}}),
        )
        .await;
    own.expect_type("message_deleted").await;
    for last_event_id in [known.as_str(), "1-2-0003"] {
        let token = Token::of(1).expires_in(2).sign_hs256(tokens::SECRET);
        let request = Request::get("/events")
            .bearer(&token)
            .header("last-event-id", last_event_id);
        let mut back = EventStream::new(server.send(request).await);
        for event in back.rest().await {
            checked.check(&event.data);
        }
    }
    let missing: Vec<_> = checked
        .messages
        .keys()
        .filter(|name| !checked.seen.contains(*name))
        .collect();
    assert!(missing.is_empty(), "described, but never sent: {missing:?}");
}

async fn stream(server: &Server, path: &str, token: &str) -> EventStream {
    EventStream::new(server.send(Request::get(path).bearer(token)).await)
}

async fn confirmed(stream: &mut EventStream) -> Value {
    stream.expect_type("connection_confirmed").await.data
}

#[tokio::test]
async fn what_the_backend_is_asked_is_as_described() {
    let document = Document::read();
    let nats = Nats::start().await;
    let server = Server::start(
        Settings::new()
            .nats(&nats)
            .set("authorize.resources", json!(["job"])),
    )
    .await;
    let backend = nats.backend().await;
    let address = document.0["channels"]["authorize"]["address"]
        .as_str()
        .unwrap();
    let answer = &document.messages("answers")["Answer"];
    let [allowed] = examples(answer).try_into().unwrap();
    let mut asked = backend.answer(address, move |_| allowed.clone()).await;
    let mut stream = stream(&server, "/sse/stream/job:123", &tokens::of_user(2)).await;
    confirmed(&mut stream).await;
    let question = asked.recv().await.unwrap();
    let problems = document.problems(&document.messages("authorize")["Question"], &question);
    assert!(problems.is_empty(), "{question}: {problems:?}");
}

#[tokio::test]
async fn the_server_gives_the_document_out() {
    let server = Server::start(Settings::new()).await;
    let mut response = server.get("/asyncapi.yaml").await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/yaml"));
    assert_eq!(response.text().await, DOCUMENT);
}
