//! The `auth` section of the configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::secret::{Secret, SecretUrl};
use crate::units::{Period, one_or_more};

/// The `auth` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Whether clients need a token. Without, `?user_id=` says who they are; loopback only.
    pub enabled: bool,
    /// The keys that tokens may be signed with; any of them will do.
    pub keys: Vec<KeyConfig>,
    /// The `iss` that tokens must have; unchecked when empty.
    #[serde(deserialize_with = "one_or_more")]
    pub issuer: Vec<String>,
    /// One of these must be in a token's `aud`; unchecked when empty.
    #[serde(deserialize_with = "one_or_more")]
    pub audience: Vec<String>,
    /// How far clocks may differ.
    pub leeway: Period,
    /// Paths to the user id in the claims; the first that exists counts.
    #[serde(deserialize_with = "one_or_more")]
    pub user_id_claims: Vec<String>,
    /// A longer token is refused unread.
    pub max_token_bytes: usize,
    /// Between two looks at a `jwks_url`; an unknown `kid` asks for one sooner.
    pub jwks_refresh: Period,
    /// How long a token stays revoked where nobody says when it expires: at least as long as tokens live.
    pub revocation_age: Period,
}

/// One source of keys: exactly one of the six ways to give it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyConfig {
    /// `EdDSA`, `ES256`, `RS256` or `HS256`; told by the key where it is not given.
    pub algorithm: Option<String>,
    /// The `kid` that tokens name this key by; without, the key is tried on every token.
    pub kid: Option<String>,
    /// A shared secret.
    pub secret: Option<Secret>,
    /// A file with a shared secret; white space around it is ignored.
    pub secret_file: Option<PathBuf>,
    /// The environment variable with a shared secret.
    pub secret_env: Option<String>,
    /// A public key, PEM.
    pub pem: Option<String>,
    /// A file with a public key, PEM.
    pub pem_file: Option<PathBuf>,
    /// A file with a JSON Web Key Set.
    pub jwks_file: Option<PathBuf>,
    /// Where a JSON Web Key Set is fetched from.
    pub jwks_url: Option<SecretUrl>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        let claims = ["user.id", "user_id", "id", "sub"];
        Self {
            enabled: true,
            keys: Vec::new(),
            issuer: Vec::new(),
            audience: Vec::new(),
            leeway: Period::secs(60),
            user_id_claims: claims.map(str::to_owned).to_vec(),
            max_token_bytes: 8 * 1024,
            jwks_refresh: Period::secs(300),
            revocation_age: Period::secs(30 * 24 * 3600),
        }
    }
}
