//! The `database` section of the configuration.

use serde::{Deserialize, Serialize};

use crate::secret::SecretUrl;
use crate::units::Period;

/// The `database` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    /// `postgres://…` or `sqlite://…`; empty for a SQLite file in `data_dir`, which only
    /// development mode creates by itself.
    pub url: Option<SecretUrl>,
    /// The most connections of this instance, for everything.
    pub max_connections: u32,
    /// How long a query may take, the wait for a connection included.
    pub timeout: Period,
    /// Which chats a user is in: `$1` is the user id, the first column the chat id. Empty where there are no chats.
    pub membership_query: String,
    /// Which users are in a chat: `$1` is the chat id, the first column the user id. Needed to say who is
    /// online only.
    pub members_query: String,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: None,
            max_connections: 5,
            timeout: Period::secs(3),
            membership_query:
                "SELECT chat_id FROM chat_members WHERE user_id = $1 AND left_at IS NULL".to_owned(),
            members_query:
                "SELECT user_id FROM chat_members WHERE chat_id = $1 AND left_at IS NULL".to_owned(),
        }
    }
}
