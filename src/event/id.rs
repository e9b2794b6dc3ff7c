//! Ids of users and chats. A JSON number and its decimal text are the same id.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The longest text id that is accepted, in bytes.
pub(super) const MAX_ID_BYTES: usize = 200;

/// Up to here every whole number has a floating-point number of its own: 2^53 - 1.
const EXACT: f64 = 9_007_199_254_740_991.0;

/// An identifier that backends write as a JSON number or as a string.
///
/// `2` and `"2"` are equal; text that is not a canonical decimal integer (`"02"`, `"a1"`) stays
/// text. It is written as a number when it is one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Id {
    /// A decimal integer.
    Number(i64),
    /// Anything else.
    Text(Arc<str>),
}

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("an id can't be empty")]
    Empty,
    /// The text is longer than 200 bytes.
    #[error("an id has at most {MAX_ID_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// The text has a character that would change the meaning of a channel or a subject.
    #[error("an id can't contain {0:?}")]
    Character(char),
}

impl Id {
    /// Parses the text form.
    ///
    /// # Errors
    /// Empty or over-long text, and characters that are white space, control characters or have a
    /// meaning in channel names and subjects (`:`, `,`, `*`, `>`).
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if let Some(wrong) = text.chars().find(|c| *c == ':') {
            return Err(IdError::Character(wrong));
        }
        Self::parse_path(text)
    }

    /// Parses an id that may have further segments behind colons, as channels do.
    pub(super) fn parse_path(text: &str) -> Result<Self, IdError> {
        if let Some(number) = canonical_integer(text) {
            return Ok(Self::Number(number));
        }
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > MAX_ID_BYTES {
            return Err(IdError::TooLong(text.len()));
        }
        if let Some(wrong) = text.chars().find(|c| !is_id_character(*c)) {
            return Err(IdError::Character(wrong));
        }
        Ok(Self::Text(Arc::from(text)))
    }
}

/// The number that `text` is the one canonical decimal spelling of.
fn canonical_integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let canonical = match digits {
        [] => false,
        [b'0'] => !text.starts_with('-'),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if canonical { text.parse().ok() } else { None }
}

fn is_id_character(c: char) -> bool {
    !(c.is_whitespace() || c.is_control() || matches!(c, ',' | '*' | '>'))
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_i64(*number),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor)
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = Id;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id: a whole number or a string")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Id, E> {
        Ok(Id::Number(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Id, E> {
        // Past i64 the number has no canonical integer form here; its text is still unique.
        Ok(i64::try_from(number)
            .map_or_else(|_| Id::Text(Arc::from(number.to_string())), Id::Number))
    }

    /// `2.0` is the number 2, as some encoders write it.
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Id, E> {
        if number.fract() == 0.0 && number.abs() <= EXACT {
            // It is whole, and small enough to be represented exactly.
            return Ok(Id::Number(number as i64));
        }
        Err(E::invalid_type(de::Unexpected::Float(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
        Id::parse(text).map_err(E::custom)
    }
}

macro_rules! id_of {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Id);

        impl $name {
            /// Parses the text form.
            ///
            /// # Errors
            /// As [`Id::parse`].
            pub fn parse(text: &str) -> Result<Self, IdError> {
                Id::parse(text).map(Self)
            }

            /// The id itself.
            #[must_use]
            pub fn id(&self) -> &Id {
                &self.0
            }
        }

        impl From<Id> for $name {
            fn from(id: Id) -> Self {
                Self(id)
            }
        }

        impl From<i64> for $name {
            fn from(number: i64) -> Self {
                Self(Id::Number(number))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id_of!(
    /// Whom a token speaks for.
    UserId
);
id_of!(
    /// A chat, as the membership query names it.
    ChatId
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn number_and_text_are_one_id() {
        let from_number: Id = serde_json::from_str("2").unwrap();
        let from_text: Id = serde_json::from_str("\"2\"").unwrap();
        assert_eq!(from_number, from_text);
        assert_eq!(serde_json::to_string(&from_text).unwrap(), "2");
    }

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        for (json, number) in [
            ("2.0", 2),
            ("-3e2", -300),
            ("9007199254740991.0", 9_007_199_254_740_991),
        ] {
            assert_eq!(
                serde_json::from_str::<Id>(json).unwrap(),
                Id::Number(number),
                "{json}"
            );
        }
        for json in ["2.5", "1e300", "9007199254740994.0"] {
            assert!(serde_json::from_str::<Id>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn text_that_only_looks_like_a_number_stays_text() {
        for text in ["02", "+2", "-0", "2.0", "9223372036854775808"] {
            let id = Id::parse(text).unwrap();
            assert_eq!(id, Id::Text(Arc::from(text)), "{text}");
        }
    }

    #[test]
    fn separators_are_refused() {
        for text in ["", "a:b", "a b", "a,b", "a*", "a>", "a\n"] {
            assert!(Id::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Id::parse(&"x".repeat(201)), Err(IdError::TooLong(201)));
    }

    proptest! {
        #[test]
        fn display_and_parse_are_inverse(number: i64) {
            prop_assert_eq!(Id::parse(&number.to_string()), Ok(Id::Number(number)));
        }

        #[test]
        fn parse_never_panics_and_keeps_the_text(text in ".*") {
            if let Ok(id) = Id::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
