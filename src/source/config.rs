//! The `source` section of the configuration.

use serde::{Deserialize, Serialize};

use super::notify::{NameError, Names};
use crate::units::{Period, one_or_more};

/// The `source` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceConfig {
    /// Whether the rows of the outbox are published, where the database has one.
    pub outbox: bool,
    /// How often the outbox is looked at when nothing says that it has rows.
    pub poll_interval: Period,
    /// The most rows that are published before they are deleted.
    pub batch: usize,
    /// PostgreSQL channels to listen on: names, and patterns such as `session_messages:*`, which are
    /// listened on for as long as somebody streams `session:…`.
    #[serde(deserialize_with = "one_or_more")]
    pub notify: Vec<String>,
}

impl SourceConfig {
    /// The PostgreSQL channels to listen on, parsed.
    ///
    /// # Errors
    /// The first that can't be listened on.
    pub fn names(&self) -> Result<Names, NameError> {
        Names::parse(&self.notify)
    }

    /// Whether anything of a database is published.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.outbox || !self.notify.is_empty()
    }
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            outbox: true,
            poll_interval: Period::millis(500),
            batch: 1_000,
            notify: Vec::new(),
        }
    }
}
