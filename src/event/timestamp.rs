//! Points in time as payloads write them and as events carry them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// A number at least this large is milliseconds, a smaller one seconds: as seconds it would lie
/// in the year 5138, as milliseconds in 1973.
const MILLISECONDS_FROM: f64 = 1e11;

/// The last moment that RFC 3339 can write, 9999-12-31T23:59:59.999Z, in Unix milliseconds.
const LATEST_MILLIS: u64 = 253_402_300_799_999;

/// A moment, in milliseconds since 1970-01-01T00:00:00Z; written as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment that many milliseconds after the Unix epoch; what RFC 3339 can't write becomes
    /// the last moment that it can.
    #[must_use]
    pub fn from_millis(millis: u64) -> Self {
        Self(millis.min(LATEST_MILLIS))
    }

    /// Now, by this machine's clock.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// This moment and `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// This moment and `duration` earlier.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self::from_millis(self.0.saturating_sub(millis))
    }

    /// How long this moment is after an earlier one; nothing where it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Reads a JSON value: seconds or milliseconds as a number, RFC 3339 text, or the same without
    /// an offset, which is taken as UTC. `None` for anything else.
    #[must_use]
    pub fn from_json(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        if text.starts_with('"') {
            let text: String = serde_json::from_str(text).ok()?;
            return Self::from_text(&text);
        }
        let number: f64 = serde_json::from_str(text).ok()?;
        if number < 0.0 {
            return None;
        }
        let millis = if number >= MILLISECONDS_FROM {
            number
        } else {
            number * 1000.0
        };
        // A float beyond u64 saturates, and from_millis bounds it.
        Some(Self::from_millis(millis.round() as u64))
    }

    fn from_text(text: &str) -> Option<Self> {
        let nanos = match OffsetDateTime::parse(text, &Rfc3339) {
            Ok(moment) => moment.unix_timestamp_nanos(),
            Err(_) => without_offset(text)?.assume_utc().unix_timestamp_nanos(),
        };
        u64::try_from(nanos / 1_000_000).ok().map(Self::from_millis)
    }
}

fn without_offset(text: &str) -> Option<PrimitiveDateTime> {
    let format = format_description!(
        version = 2,
        "[year]-[month]-[day][first [T][ ]][hour]:[minute]:[second][optional [.[subsecond]]]"
    );
    PrimitiveDateTime::parse(text, format).ok()
}

impl From<SystemTime> for Timestamp {
    fn from(moment: SystemTime) -> Self {
        let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// What lies before 1970 is 1970.
impl From<OffsetDateTime> for Timestamp {
    fn from(moment: OffsetDateTime) -> Self {
        let millis = moment.unix_timestamp_nanos() / 1_000_000;
        Self::from_millis(u64::try_from(millis).unwrap_or_default())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = UNIX_EPOCH + Duration::from_millis(self.0);
        humantime::format_rfc3339_millis(moment).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_text(&text).ok_or_else(|| de::Error::custom("expected a moment in RFC 3339"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(json: &str) -> Option<String> {
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        Timestamp::from_json(raw).map(|moment| moment.to_string())
    }

    #[test]
    fn the_spellings_of_the_examples_are_read() {
        let cases = [
            ("1753859400", "2025-07-30T07:10:00.000Z"),
            ("1753859400123", "2025-07-30T07:10:00.123Z"),
            ("\"2025-07-30T15:10:00.123Z\"", "2025-07-30T15:10:00.123Z"),
            ("\"2025-07-30T15:10:00.000\"", "2025-07-30T15:10:00.000Z"),
            ("\"2025-07-30 15:10:00\"", "2025-07-30T15:10:00.000Z"),
            (
                "\"2026-02-10T11:47:37.931918+08:00\"",
                "2026-02-10T03:47:37.931Z",
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(read(json).as_deref(), Some(expected), "{json}");
        }
    }

    #[test]
    fn what_is_no_moment_is_none() {
        for json in ["null", "true", "{}", "-1", "\"yesterday\"", "\"\""] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_number_can_be_written(number in proptest::num::f64::POSITIVE) {
            let json = serde_json::to_string(&number).unwrap();
            prop_assert!(read(&json).is_some());
        }
    }
}
