//! The `presence` section of the configuration.

use serde::{Deserialize, Serialize};

use crate::units::Period;

/// The `presence` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PresenceConfig {
    /// Whether those who share a chat with a user are told when the user comes and goes. Who is online can
    /// be asked in any case.
    pub enabled: bool,
    /// How long after the last session ended a user is still online: longer than a reload takes, or the
    /// pause between two polls.
    pub grace: Period,
    /// A chat on which more sessions of this instance listen is not told.
    pub max_listeners: usize,
}

impl Default for PresenceConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            grace: Period::secs(10),
            max_listeners: 200,
        }
    }
}
