//! How streams behave: the `stream` section of the configuration.

use serde::{Deserialize, Serialize};

use super::outbox;
use crate::units::{Period, Size};

/// The `stream` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// Time between pings on an idle or busy stream; the first is jittered.
    pub ping_interval: Period,
    /// The reconnection time that clients are told, ±20 % each.
    pub retry: Period,
    /// The most events that wait for one session.
    pub outbox_events: usize,
    /// The most bytes that wait for one session.
    pub outbox_bytes: Size,
    /// A session whose socket takes nothing for so long is ended.
    pub write_timeout: Period,
    /// `token_expiring` is sent that long before the token's `exp`.
    pub expiry_warning: Period,
    /// How many clients a second are asked to come back when an instance stops.
    pub reconnect_rate: u32,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            ping_interval: Period::secs(30),
            retry: Period::millis(2750),
            outbox_events: 256,
            outbox_bytes: Size(1 << 20),
            write_timeout: Period::secs(30),
            expiry_warning: Period::secs(60),
            reconnect_rate: 500,
        }
    }
}

impl StreamConfig {
    pub(super) fn outbox(&self) -> outbox::Limits {
        outbox::Limits {
            events: self.outbox_events,
            bytes: self.outbox_bytes.bytes(),
        }
    }
}
