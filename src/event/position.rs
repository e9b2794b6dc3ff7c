//! Places in the log, and the SSE `id` that names them.

use std::fmt;
use std::str::FromStr;

/// Which log a position belongs to. It grows with the time at which the log was created; positions
/// of different epochs can't be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

/// An event's place in the log, written `{epoch}-{position}-{check}`.
///
/// Opaque to clients. The check is taken from the payload, so that a position that a rolled back
/// log used twice is not mistaken for the first event that stood there. It is 0 where nobody knows
/// what stands there, e.g. at the place before the first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId {
    epoch: Epoch,
    position: u64,
    check: u16,
}

/// Why a text is not an event id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an event id is {{epoch}}-{{position}}-{{check}}, e.g. 1753859400-4182-9f3a")]
pub struct EventIdError;

impl EventId {
    /// The id of `payload` at `position`.
    #[must_use]
    pub fn new(epoch: Epoch, position: u64, payload: &[u8]) -> Self {
        // Sixteen bits tell a reused position from the original in all but one of 65,536 cases,
        // and the epoch already covers every recreated log.
        let check = (crc32fast::hash(payload) & 0xffff) as u16;
        Self::with_check(epoch, position, check.max(1))
    }

    /// The id at `position` with a check that was kept; 0 is one that is not known.
    #[must_use]
    pub fn with_check(epoch: Epoch, position: u64, check: u16) -> Self {
        Self {
            epoch,
            position,
            check,
        }
    }

    /// A position of which nobody knows what stands there, or stood.
    #[must_use]
    pub fn unknown(epoch: Epoch, position: u64) -> Self {
        Self::with_check(epoch, position, 0)
    }

    /// The place before the first event of `epoch`.
    #[must_use]
    pub fn origin(epoch: Epoch) -> Self {
        Self::unknown(epoch, 0)
    }

    /// The log that the position belongs to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The position in that log; the first event has 1.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The same position and check in another log.
    #[must_use]
    pub fn in_epoch(self, epoch: Epoch) -> Self {
        Self { epoch, ..self }
    }

    /// The check of what stands there; 0 where it is not known.
    #[must_use]
    pub fn check(&self) -> u16 {
        self.check
    }

    /// Whether the two can't be the same event although they have the same place.
    #[must_use]
    pub fn contradicts(&self, other: Self) -> bool {
        let known = self.check != 0 && other.check != 0;
        self.epoch != other.epoch
            || self.position != other.position
            || (known && self.check != other.check)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:04x}", self.epoch.0, self.position, self.check)
    }
}

impl FromStr for EventId {
    type Err = EventIdError;

    fn from_str(text: &str) -> Result<Self, EventIdError> {
        let mut parts = text.split('-');
        let (Some(epoch), Some(position), Some(check), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(EventIdError);
        };
        if check.len() != 4 {
            return Err(EventIdError);
        }
        Ok(Self {
            epoch: Epoch(decimal(epoch)?),
            position: decimal(position)?,
            check: u16::from_str_radix(check, 16).map_err(|_| EventIdError)?,
        })
    }
}

fn decimal(text: &str) -> Result<u64, EventIdError> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().map_err(|_| EventIdError)
    } else {
        Err(EventIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_ids_are_refused() {
        let hostile = [
            "",
            "garbage",
            "1-2",
            "1-2-3-4",
            "-1-2-9f3a",
            "1-+2-9f3a",
            "1-99999999999999999999999-9f3a",
            "1-2-9f3",
            "1-2-zzzz",
        ];
        for text in hostile {
            assert_eq!(text.parse::<EventId>(), Err(EventIdError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_and_value_are_inverse(epoch: u64, position: u64, payload: Vec<u8>) {
            let id = EventId::new(Epoch(epoch), position, &payload);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert!(!id.contradicts(id));
            prop_assert!(!id.contradicts(EventId::unknown(Epoch(epoch), position)));
            prop_assert_ne!(id.check(), 0);
        }

        #[test]
        fn parse_never_panics(text in ".*") {
            let _ = text.parse::<EventId>();
        }
    }
}
