//! What counts without a restart, and putting it in place.

use std::fmt;

use tracing_subscriber::EnvFilter;

use crate::auth::{self, KeyConfig, Verifier};
use crate::authorize::Authorizer;
use crate::causes::Causes;
use crate::config::Config;
use crate::http::{Exporter, Origins, ServerConfig};
use crate::secret::Secret;
use crate::telemetry::Levels;

/// The keys that count as soon as they are read. All others do at the next start.
const IN_FORCE: [&str; 31] = [
    "auth.audience",
    "auth.issuer",
    "auth.jwks_refresh",
    "auth.keys",
    "auth.leeway",
    "auth.max_token_bytes",
    "auth.revocation_age",
    "auth.user_id_claims",
    "authorize.cache",
    "authorize.resources",
    "authorize.subject",
    "authorize.timeout",
    "logging.level",
    "metrics.token",
    "metrics.token_file",
    "server.allowed_origins",
    "server.bad_token_rate_per_address",
    "server.connection_rate",
    "server.connection_rate_per_address",
    "server.forwarded_header",
    "server.ipv6_prefix",
    "server.max_connections",
    "server.max_connections_per_address",
    "server.max_connections_per_user",
    "server.max_headers",
    "server.max_sockets",
    "server.max_uri",
    "server.memory_limit",
    "server.publish_burst",
    "server.publish_rate",
    "server.trusted_proxies",
];

/// Whether a change of a key counts without a restart.
#[must_use]
pub(super) fn in_force(key: &str) -> bool {
    IN_FORCE.contains(&key)
}

/// Tells the owners of limits what theirs are.
pub struct SetLimits(pub Box<dyn Fn(&ServerConfig) + Send + Sync>);

impl fmt::Debug for SetLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SetLimits")
    }
}

/// What is changed.
#[derive(Debug)]
pub struct Parts {
    /// Knows the keys.
    pub verifier: Verifier,
    /// Tells the owners of limits what theirs are.
    pub limits: SetLimits,
    /// Which pages may read.
    pub origins: Origins,
    /// Asks the backend for permissions.
    pub authorizer: Authorizer,
    /// Takes a token for the metrics.
    pub exporter: Exporter,
    /// The key that the server has made for itself, in development mode.
    pub development: Option<KeyConfig>,
}

/// Everything that is to be put in place; none of it can fail any more.
#[derive(Debug)]
pub(super) struct Prepared {
    config: Config,
    keys: auth::Prepared,
    filter: EnvFilter,
    token: Option<Secret>,
}

impl Parts {
    /// Makes what can fail.
    ///
    /// # Errors
    /// Says what is wrong, as at the start.
    pub(super) async fn prepare(&self, mut config: Config) -> Result<Prepared, String> {
        config.auth.keys.extend(self.development.clone());
        let keys = self.verifier.prepare(&config.auth).await;
        let keys = keys.map_err(|error| Causes(&error).to_string())?;
        let filter = config.logging.filter();
        let filter = filter.map_err(|error| format!("logging.level: {error}"))?;
        let token = config.metrics.token();
        let token = token.map_err(|error| format!("metrics.token_file can't be read: {error}"))?;
        Ok(Prepared {
            config,
            keys,
            filter,
            token,
        })
    }

    /// Puts it in place, and adds to `changed` what has changed in files that the configuration names.
    pub(super) fn put(&self, prepared: Prepared, levels: &Levels, changed: &mut Vec<String>) {
        let Prepared {
            config,
            keys,
            filter,
            token,
        } = prepared;
        let mut note = |key: &str| {
            if let Err(place) = changed.binary_search_by(|known| known.as_str().cmp(key)) {
                changed.insert(place, key.to_owned());
            }
        };
        if self.verifier.difference(&keys) != (0, 0) {
            note("auth.keys");
        }
        if self.exporter.set_token(token) && config.metrics.token_file.is_some() {
            note("metrics.token_file");
        }
        self.verifier.apply(keys);
        (self.limits.0)(&config.server);
        self.origins.set(&config.server.allowed_origins);
        self.authorizer.set(&config.authorize);
        levels.set(filter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// What an operator reads in the documentation is what the table says, and each key of it exists.
    #[test]
    fn the_documented_table_is_this_one() {
        let page = include_str!("../../docs/operations.md");
        let (_, rest) = page.split_once("<!-- in force -->").unwrap();
        let (table, _) = rest.split_once("<!-- end -->").unwrap();
        let mut named: Vec<&str> = table.split('`').skip(1).step_by(2).collect();
        named.sort_unstable();
        assert_eq!(named, IN_FORCE);
        let all = serde_json::to_value(Config::default()).unwrap();
        for key in IN_FORCE {
            let pointer = format!("/{}", key.replace('.', "/"));
            assert!(all.pointer(&pointer).is_some(), "{key}");
        }
    }
}
