//! A JSON object as its keys and unparsed values: what decoders pick from and write back.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::FieldError;
use crate::event::{ChatId, Id, Timestamp, UserId};

/// The members of one JSON object, in order, values as they were written.
#[derive(Debug)]
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The value of `key`; a `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().rev().find(|(name, _)| name == key)?;
        (value.get() != "null").then_some(*value)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The only member, where there is exactly one.
    pub(super) fn only(&self) -> Option<(&str, &'a RawValue)> {
        match self.0.as_slice() {
            [(key, value)] => Some((key, value)),
            _ => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), *value))
    }

    pub(super) fn optional<T: DeserializeOwned>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, FieldError> {
        self.get(key).map(|value| typed(key, value)).transpose()
    }

    pub(super) fn required<T: DeserializeOwned>(&self, key: &'static str) -> Result<T, FieldError> {
        self.optional(key)?.ok_or(FieldError::Missing(key))
    }

    pub(super) fn chat(&self, key: &'static str) -> Result<ChatId, FieldError> {
        self.required::<Id>(key).map(ChatId::from)
    }

    pub(super) fn user(&self, key: &'static str) -> Result<UserId, FieldError> {
        self.required::<Id>(key).map(UserId::from)
    }

    /// The first of `keys` that holds a moment.
    pub(super) fn moment(&self, keys: &[&str]) -> Option<Timestamp> {
        keys.iter()
            .find_map(|key| Timestamp::from_json(self.get(key)?))
    }
}

/// Reads one value; an error names the field.
pub(super) fn typed<T: DeserializeOwned>(field: &str, value: &RawValue) -> Result<T, FieldError> {
    serde_json::from_str(value.get()).map_err(|error| FieldError::Wrong {
        field: field.to_owned(),
        problem: error.to_string(),
    })
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(Key(key)) = map.next_key()? {
                    members.push((key, map.next_value()?));
                }
                Ok(Fields(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// A key that is borrowed unless it has escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// An outgoing object under construction: `type` first, then members in the order added.
pub(super) struct Outgoing(Vec<u8>);

impl Outgoing {
    pub(super) fn new(kind: &str) -> Self {
        let mut outgoing = Self(Vec::with_capacity(256));
        outgoing.0.extend_from_slice(b"{\"type\":");
        outgoing.value(kind);
        outgoing
    }

    pub(super) fn with(mut self, key: &str, value: &(impl Serialize + ?Sized)) -> Self {
        self.0.push(b',');
        self.value(key);
        self.0.push(b':');
        self.value(value);
        self
    }

    /// Adds all members but those named.
    pub(super) fn with_all(mut self, fields: &Fields<'_>, but: &[&str]) -> Self {
        for (key, value) in fields.iter() {
            if !but.contains(&key) {
                self = self.with(key, value);
            }
        }
        self
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }

    fn value(&mut self, value: &(impl Serialize + ?Sized)) {
        let before = self.0.len();
        // Text, numbers, ids and raw JSON always serialize; should a type that does not be added
        // one day, the object stays valid.
        if serde_json::to_writer(&mut self.0, value).is_err() {
            self.0.truncate(before);
            self.0.extend_from_slice(b"null");
        }
    }
}
