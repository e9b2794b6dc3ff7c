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
/// log used twice is not mistaken for the first event that stood there.
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
        Self {
            epoch,
            position,
            check,
        }
    }

    /// The place before the first event of `epoch`.
    #[must_use]
    pub fn origin(epoch: Epoch) -> Self {
        Self {
            epoch,
            position: 0,
            check: 0,
        }
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
        }

        #[test]
        fn parse_never_panics(text in ".*") {
            let _ = text.parse::<EventId>();
        }
    }
}
