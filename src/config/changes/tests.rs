//! Differences against what is found by writing both trees out key by key.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        (0..3u8).prop_map(Value::from),
        "[ab]".prop_map(Value::from),
        proptest::collection::vec("[ab]", 0..3).prop_map(Value::from),
        // A secret.
        "secret-[ab]".prop_map(Value::from),
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    let section = proptest::collection::btree_map("[xyz]", leaf(), 0..4);
    // Names of sections are no names of keys: a configuration has the same shape always.
    let sections = proptest::collection::btree_map("[AB]", section, 0..3);
    (
        sections,
        proptest::collection::btree_map("[xyz]", leaf(), 0..3),
    )
        .prop_map(|(all, top)| {
            let mut members: BTreeMap<String, Value> = top;
            members.extend(
                all.into_iter()
                    .map(|(name, section)| (name, json!(section))),
            );
            json!(members)
        })
}

fn masked(value: &Value) -> Value {
    match value {
        Value::String(text) if text.starts_with("secret") => Value::from(MASK),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), masked(value)))
            .collect(),
        other => other.clone(),
    }
}

fn written_out(at: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let key = format!("{at}{name}");
                match value {
                    Value::Object(_) => written_out(&format!("{key}."), value, into),
                    leaf => {
                        into.insert(key, leaf.clone());
                    }
                }
            }
        }
        _ => unreachable!("trees are objects"),
    }
}

proptest! {
    #[test]
    fn every_difference_is_named_and_nothing_else(one in tree(), other in tree()) {
        let mut sides = [BTreeMap::new(), BTreeMap::new()];
        written_out("", &one, &mut sides[0]);
        written_out("", &other, &mut sides[1]);
        let keys: BTreeSet<&String> = sides[0].keys().chain(sides[1].keys()).collect();
        let get = |side: &BTreeMap<String, Value>, key| side.get(key).cloned().unwrap_or_default();
        let expected: BTreeSet<String> = keys
            .into_iter()
            .filter(|key| get(&sides[0], *key) != get(&sides[1], *key))
            .cloned()
            .collect();
        let found = differences([&masked(&one), &one], [&masked(&other), &other]);
        let named: BTreeSet<String> = found
            .iter()
            // A section that one of them lacks altogether is named itself.
            .flat_map(|key| {
                let below = format!("{key}.");
                let mut below: Vec<String> = expected
                    .iter()
                    .filter(|expected| expected.starts_with(&below))
                    .cloned()
                    .collect();
                if below.is_empty() {
                    below.push(key.clone());
                }
                below
            })
            .filter(|key| !key.starts_with(['A', 'B']) || key.contains('.'))
            .collect();
        prop_assert_eq!(named, expected);
        let text = format!("{found:?}");
        prop_assert!(!text.contains("secret"));
        prop_assert!(differences([&masked(&one), &one], [&masked(&one), &one]).is_empty());
    }
}
