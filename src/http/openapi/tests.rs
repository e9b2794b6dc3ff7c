use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;
use serde_json::{Value, json};
use utoipa::OpenApi as _;

use super::Api;
use crate::auth::{Grant, Identity};
use crate::event::decode::{Rules, decode};
use crate::event::{Timestamp, UserId};
use crate::http::outgoing::{IdempotencyKey, Outgoing};
use crate::http::routes;

fn document() -> Value {
    serde_json::to_value(Api::openapi()).unwrap()
}

/// All operations, by method and path.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of = |path: &String, item: &'_ Value| {
        let methods = item.as_object().unwrap().keys();
        methods
            .map(|method| format!("{} {path}", method.to_uppercase()))
            .collect::<Vec<_>>()
    };
    paths
        .iter()
        .flat_map(|(path, item)| {
            let names = of(path, item);
            names.into_iter().zip(item.as_object().unwrap().values())
        })
        .collect()
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let document = document();
    let described: BTreeSet<String> = operations(&document)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let mut routed = BTreeSet::new();
    for route in routes::table() {
        // The router's patterns behind a parameter's name are of no concern to clients.
        let path = route.path.replace(":.*}", "}");
        let methods = route.allow.split(", ");
        // What every resource answers is said once, for all.
        for method in methods.filter(|method| !["HEAD", "OPTIONS"].contains(method)) {
            assert!(
                routed.insert(format!("{method} {path}")),
                "{method} {path} twice"
            );
        }
    }
    let missing: Vec<_> = routed.difference(&described).collect();
    assert!(
        missing.is_empty(),
        "without #[utoipa::path], or not in paths(…): {missing:?}"
    );
    let extra: Vec<_> = described.difference(&routed).collect();
    assert!(extra.is_empty(), "described, but in no route: {extra:?}");
}

#[test]
fn every_operation_says_what_it_is() {
    let document = document();
    let tags: Vec<&Value> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| &tag["name"])
        .collect();
    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&document) {
        assert!(
            ids.insert(operation["operationId"].as_str().unwrap()),
            "{name}: another has its id"
        );
        assert!(
            !operation["summary"].as_str().unwrap_or("").is_empty(),
            "{name} has no summary"
        );
        assert!(tags.contains(&&operation["tags"][0]), "{name}: unknown tag");
        let responses = operation["responses"].as_object().unwrap();
        assert!(
            responses.keys().any(|status| status.starts_with('2')),
            "{name} never succeeds"
        );
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(
                parameter["description"].is_string(),
                "{name}: {} has no description",
                parameter["name"]
            );
        }
        for (status, response) in responses {
            let json = &response["content"]["application/json"];
            let any = json["schema"]
                .as_object()
                .is_some_and(serde_json::Map::is_empty);
            let exemplified = json["example"].is_object() || json["examples"].is_object();
            assert!(
                json.is_null() || any || exemplified,
                "{name}: {status} has no example"
            );
        }
    }
}

#[test]
fn every_example_fits_its_schema() {
    let document = document();
    let mut examples = Vec::new();
    collect(&document, "", &mut examples);
    assert!(
        examples.len() > 60,
        "only {} examples found",
        examples.len()
    );
    for (at, schema, example) in examples {
        let whole = json!({ "allOf": [schema], "components": document["components"] });
        let validator =
            jsonschema::draft202012::new(&whole).unwrap_or_else(|error| panic!("{at}: {error}"));
        let wrong: Vec<String> = validator
            .iter_errors(&example)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(wrong.is_empty(), "{at}: {example} does not fit: {wrong:?}");
    }
}

/// Every example with its schema: of media types and parameters, which have both side by side, and of the
/// schemas themselves.
fn collect(value: &Value, at: &str, found: &mut Vec<(String, Value, Value)>) {
    match value {
        Value::Object(members) => {
            let schema = members.get("schema").unwrap_or(value);
            if let Some(example) = members
                .get("example")
                .filter(|_| !at.ends_with("/properties"))
            {
                found.push((at.to_owned(), schema.clone(), example.clone()));
            }
            match members
                .get("examples")
                .filter(|_| !at.ends_with("/properties"))
            {
                Some(Value::Array(examples)) => {
                    found.extend(
                        examples
                            .iter()
                            .map(|example| (at.to_owned(), schema.clone(), example.clone())),
                    );
                }
                Some(Value::Object(examples)) => {
                    let values = examples.values().map(|example| example["value"].clone());
                    found.extend(values.map(|example| (at.to_owned(), schema.clone(), example)));
                }
                _ => {}
            }
            for (key, value) in members {
                if !["example", "examples", "default"].contains(&key.as_str()) {
                    collect(value, &format!("{at}/{key}"), found);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                collect(item, at, found);
            }
        }
        _ => {}
    }
}

#[test]
fn the_examples_of_messages_are_accepted() {
    let document = document();
    let examples = |name: &str| {
        let examples = document["components"]["schemas"][name]["examples"].as_array();
        examples
            .unwrap_or_else(|| panic!("{name} has no examples"))
            .clone()
    };
    let rules = Rules::default();
    let identity = administrator();
    let key = IdempotencyKey::none();
    let raw = |value: &Value| RawValue::from_string(value.to_string()).unwrap();
    let batches = examples("Batch").into_iter();
    let batched = batches.flat_map(|batch| batch["messages"].as_array().unwrap().clone());
    for message in examples("Message").into_iter().chain(batched) {
        let outgoing = Outgoing::addressed(&rules, &identity, &raw(&message), "", &key);
        outgoing.unwrap_or_else(|error| panic!("{message}: {error}"));
    }
    for message in examples("Broadcast") {
        let outgoing = Outgoing::to_everybody(&rules, &identity, &raw(&message), &key);
        outgoing.unwrap_or_else(|error| panic!("{message}: {error}"));
    }
    for payload in examples("Payload") {
        let decoded = decode(
            &rules,
            "fechatter.realtime.any",
            payload.to_string().as_bytes(),
            Timestamp::now(),
        );
        decoded.unwrap_or_else(|rejection| panic!("{payload}: {rejection}"));
    }
}

fn administrator() -> Identity {
    Identity {
        grant: Grant {
            admin: true,
            ..Grant::default()
        },
        ..Identity::unverified(UserId::from(1))
    }
}

#[test]
fn what_takes_a_token_says_how() {
    let document = document();
    let mut by_scheme: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, operation) in operations(&document) {
        for requirement in operation["security"].as_array().into_iter().flatten() {
            for scheme in requirement.as_object().unwrap().keys() {
                by_scheme.entry(scheme).or_default().insert(name.clone());
            }
        }
        let asks = operation["responses"]["401"].is_object();
        assert_eq!(asks, operation["security"].is_array(), "{name}");
    }
    assert!(
        by_scheme["cookie"]
            .iter()
            .all(|name| name.starts_with("GET "))
    );
    assert_eq!(by_scheme["bearer"], by_scheme["access_token"]);
    let tickets = [
        "GET /api/sse/messages",
        "GET /events",
        "GET /events/poll",
        "GET /sse/service/{name}",
        "GET /sse/session/{id}",
        "GET /sse/stream/{channels}",
        "GET /sse/user/{id}",
    ];
    assert!(by_scheme["ticket"].iter().eq(tickets.iter()));
}
