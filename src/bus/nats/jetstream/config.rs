//! The `log` and `jetstream` keys of the configuration.

use serde::{Deserialize, Serialize};

use crate::units::{Period, Size};

/// What keeps recent events: the `log` key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// JetStream where there is NATS, memory with the in-process bus.
    Auto,
    /// A JetStream stream, which all instances share.
    Jetstream,
    /// The memory of each instance: its ids mean nothing to another.
    Memory,
}

/// The `jetstream` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JetStreamConfig {
    /// The stream's name. Instances that share it serve the same events.
    pub stream: String,
    /// How long events are kept.
    pub max_age: Period,
    /// How many bytes of events are kept, the oldest making room.
    pub max_bytes: Size,
    /// How many servers of a NATS cluster keep them: 1, 3 or 5.
    pub replicas: usize,
    /// Whether they are kept in files or in the NATS server's memory.
    pub storage: Storage,
    /// Below this subject the stream publishes again what it has taken, with its position.
    pub republish: String,
    /// How long a message waits for its position before it is delivered without one.
    pub park: Period,
}

/// Where the NATS server keeps the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// In files.
    File,
    /// In memory: gone when the server stops.
    Memory,
}

impl Default for JetStreamConfig {
    fn default() -> Self {
        Self {
            stream: "NOTIFY".to_owned(),
            max_age: Period::secs(24 * 60 * 60),
            max_bytes: Size(1 << 30),
            replicas: 1,
            storage: Storage::File,
            republish: "notify.log".to_owned(),
            park: Period::secs(1),
        }
    }
}

impl JetStreamConfig {
    /// The pattern of the subjects that the stream publishes on.
    #[must_use]
    pub fn republished(&self) -> String {
        format!("{}.>", self.republish)
    }
}
