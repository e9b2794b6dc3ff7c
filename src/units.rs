//! Durations and sizes as people write them in configuration: `30s`, `1 MiB`.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A span of time, written `30s`, `2750ms`, `1h 30m`, or as a whole number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// An amount of memory, written `256 KiB`, `1 MB`, or as a whole number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Period {
    /// That many milliseconds.
    #[must_use]
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// That many seconds.
    #[must_use]
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// Whole milliseconds, saturating.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Size {
    /// The size as a length in memory, saturating.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bytesize::ByteSize::b(self.0).fmt(f)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 30s, 2750ms or 1h, or a whole number of seconds")
            }

            fn visit_u64<E: de::Error>(self, secs: u64) -> Result<Period, E> {
                Ok(Period::secs(secs))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                if let Ok(secs) = text.trim().parse() {
                    return Ok(Period::secs(secs));
                }
                humantime::parse_duration(text)
                    .map(Period)
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 256 KiB or 1 MiB, or a whole number of bytes")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse::<bytesize::ByteSize>()
                    .map(|size| Size(size.as_u64()))
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

/// Reads a list; one text stands for a list of what is between its commas, and nothing for an
/// empty list. For `#[serde(deserialize_with = …)]`.
///
/// # Errors
/// Neither a text nor a list of texts.
pub fn one_or_more<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: From<String>,
{
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text or a list of texts")]
    enum Texts {
        One(String),
        More(Vec<String>),
        None(()),
    }
    let texts = match Texts::deserialize(deserializer)? {
        Texts::One(text) => text.split(',').map(|item| item.trim().to_owned()).collect(),
        Texts::More(texts) => texts,
        Texts::None(()) => Vec::new(),
    };
    let texts = texts.into_iter().filter(|text| !text.is_empty());
    Ok(texts.map(T::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_forms_are_read() {
        let period = |text: &str| serde_json::from_str::<Period>(text).ok();
        assert_eq!(period("30"), Some(Period::secs(30)));
        assert_eq!(period("\"30\""), Some(Period::secs(30)));
        assert_eq!(period("\"2750ms\""), Some(Period::millis(2750)));
        assert_eq!(period("\"soon\""), None);
        assert_eq!(period("-1"), None);
        let size = |text: &str| serde_json::from_str::<Size>(text).ok();
        assert_eq!(size("\"256 KiB\""), Some(Size(262_144)));
        assert_eq!(size("10"), Some(Size(10)));
        assert_eq!(size("\"big\""), None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for period in [Period::secs(0), Period::millis(2750), Period::secs(86_400)] {
            let text = serde_json::to_string(&period).unwrap();
            assert_eq!(serde_json::from_str::<Period>(&text).unwrap(), period);
        }
        for size in [Size(0), Size(262_144), Size(1 << 20)] {
            let text = serde_json::to_string(&size).unwrap();
            assert_eq!(serde_json::from_str::<Size>(&text).unwrap(), size);
        }
    }
}
