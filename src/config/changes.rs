//! Which keys differ between two configurations. Secrets are compared and never shown. Pure.

use std::fmt;

use serde_json::{Map, Value};

use super::Config;
use crate::secret::MASK;

/// A configuration as it was read.
#[derive(Clone)]
pub struct Reading {
    /// The configuration.
    pub config: Config,
    /// The values as they were written, secrets included.
    written: Value,
}

impl Reading {
    pub(super) fn new(config: Config, written: Value) -> Self {
        Self { config, written }
    }

    /// The keys whose values differ, e.g. `server.port`, in order. Lists are values as a whole; two ways to
    /// write the same are none.
    #[must_use]
    pub fn changes(&self, other: &Self) -> Vec<String> {
        // Plain structs always serialize.
        let meant = |config: &Config| serde_json::to_value(config).unwrap_or_default();
        differences(
            [&meant(&self.config), &self.written],
            [&meant(&other.config), &other.written],
        )
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

/// The differences of two trees, each given as what is meant, with masks for secrets, and as it is
/// written. Where the masks are alike, what is written tells.
fn differences(before: [&Value; 2], after: [&Value; 2]) -> Vec<String> {
    let mut found = Vec::new();
    walk("", before, after, &mut found);
    found
}

fn walk(
    at: &str,
    [meant, written]: [&Value; 2],
    [other_meant, other_written]: [&Value; 2],
    found: &mut Vec<String>,
) {
    if let (Value::Object(one), Value::Object(other)) = (meant, other_meant) {
        let mut names: Vec<&String> = one.keys().chain(other.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let key = match at {
                "" => name.clone(),
                _ => format!("{at}.{name}"),
            };
            let before = [child(Some(one), name), member(written, name)];
            let after = [child(Some(other), name), member(other_written, name)];
            walk(&key, before, after, found);
        }
        return;
    }
    let masked = || has_mask(meant) && written != other_written;
    if meant != other_meant || masked() {
        found.push(at.to_owned());
    }
}

fn member<'a>(value: &'a Value, name: &str) -> &'a Value {
    child(value.as_object(), name)
}

fn child<'a>(members: Option<&'a Map<String, Value>>, name: &str) -> &'a Value {
    const NOTHING: &Value = &Value::Null;
    members
        .and_then(|members| members.get(name))
        .unwrap_or(NOTHING)
}

fn has_mask(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(MASK),
        Value::Array(items) => items.iter().any(has_mask),
        Value::Object(members) => members.values().any(has_mask),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests;
