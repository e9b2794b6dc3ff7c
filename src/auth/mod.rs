//! From a token to an [`Identity`].
//!
//! The order of checks: size, form, then the key, chosen by `kid` and by the algorithm that the
//! key was configured for, then the signature, and only then what the token says.

mod config;
pub mod development;
mod identity;
mod jwks;
mod keys;
pub mod tickets;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::{Error as JwtError, ErrorKind};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::{Map, Value};

pub use config::{AuthConfig, KeyConfig};
pub use identity::{Grant, Identity};
pub use jwks::JwksTask;
pub use keys::KeyError;
pub use tickets::Tickets;

use identity::ClaimError;
use jwks::Refresher;
use keys::VerificationKey;

/// How long a token may wait for keys: every request is answered within five seconds.
const PATIENCE: Duration = Duration::from_secs(4);

/// Verifies tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Verifier(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    enabled: bool,
    user_id_claims: Vec<String>,
    leeway_secs: u64,
    max_token_bytes: usize,
    configured: Vec<VerificationKey>,
    fetched: Arc<RwLock<Fetched>>,
    refresher: Option<Refresher>,
}

/// The keys of all fetched key sets.
#[derive(Debug, Default)]
struct Fetched {
    keys: Arc<Vec<VerificationKey>>,
    /// Why a set is missing, if one is.
    missing: Option<String>,
}

/// Why a token is refused. None of it holds any of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is none.
    #[error(
        "no token: send it as `Authorization: Bearer`, `?access_token=` or cookie access_token"
    )]
    Missing,
    /// It is longer than allowed.
    #[error("the token has {0} bytes, at most {1} are accepted")]
    TooLarge(usize, usize),
    /// It is not a JWT.
    #[error("the token is not a JWT: {0}")]
    Malformed(&'static str),
    /// It is not signed.
    #[error("the token is not signed: alg none is not accepted")]
    Unsigned,
    /// It claims an algorithm that no configured key is for.
    #[error("the token is signed with an algorithm that no configured key is for")]
    Algorithm,
    /// No key has its `kid`.
    #[error("the token names a key (kid) that is not known here")]
    UnknownKey,
    /// The signature is not by any configured key.
    #[error("the token's signature is not valid")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet (nbf)")]
    NotYetValid,
    /// A claim that must be there is missing.
    #[error("the token has no claim {0}")]
    MissingClaim(String),
    /// A claim has a wrong form.
    #[error("the token's claim {0} has a wrong form")]
    WrongClaim(String),
    /// `iss` is not the configured one.
    #[error("the token is from another issuer (iss)")]
    Issuer,
    /// `aud` is not the configured one.
    #[error("the token is for another audience (aud)")]
    Audience,
    /// It names no usable user or grant.
    #[error("the token can't be used: {0}")]
    Claims(String),
    /// A ticket that is not known, was used, or is too old.
    #[error("the ticket is not known: it is good for one stream, within 30 seconds")]
    Ticket,
    /// The keys could not be fetched yet.
    #[error("the keys to verify tokens with could not be fetched: {0}")]
    KeysUnavailable(String),
}

impl TokenError {
    /// All labels that [`TokenError::cause`] can give.
    pub const CAUSES: [&str; 16] = [
        "missing",
        "too_large",
        "malformed",
        "unsigned",
        "algorithm",
        "unknown_key",
        "signature",
        "expired",
        "not_yet_valid",
        "missing_claim",
        "wrong_claim",
        "issuer",
        "audience",
        "claims",
        "ticket",
        "keys_unavailable",
    ];

    /// A label from a closed list.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooLarge(..) => "too_large",
            Self::Malformed(_) => "malformed",
            Self::Unsigned => "unsigned",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::MissingClaim(_) => "missing_claim",
            Self::WrongClaim(_) => "wrong_claim",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claims(_) => "claims",
            Self::Ticket => "ticket",
            Self::KeysUnavailable(_) => "keys_unavailable",
        }
    }
}

/// Checks the configured keys without fetching any.
///
/// # Errors
/// A key can't be used.
pub fn check(config: &AuthConfig) -> Result<(), KeyError> {
    keys::load(config).map(drop)
}

impl Verifier {
    /// Loads the configured keys. The task, where there is one, fetches key sets and must run.
    ///
    /// # Errors
    /// A key can't be used.
    pub fn new(config: &AuthConfig) -> Result<(Self, Option<JwksTask>), KeyError> {
        let loaded = keys::load(config)?;
        let fetched = Arc::default();
        let (refresher, task) = if loaded.urls.is_empty() {
            (None, None)
        } else {
            let (refresher, task) = jwks::new(config, loaded.urls, Arc::clone(&fetched));
            (Some(refresher), Some(task))
        };
        let verifier = Self(Arc::new(Inner {
            enabled: config.enabled,
            user_id_claims: config.user_id_claims.clone(),
            leeway_secs: config.leeway.0.as_secs(),
            max_token_bytes: config.max_token_bytes,
            configured: loaded.keys,
            fetched,
            refresher,
        }));
        Ok((verifier, task))
    }

    /// Whether clients need a token at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.0.enabled
    }

    /// How far clocks may differ, in seconds.
    #[must_use]
    pub fn leeway_secs(&self) -> u64 {
        self.0.leeway_secs
    }

    /// What is wrong with the keys, in words; `None` when nothing is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.0.fetched.read().missing.clone()
    }

    /// Verifies a token. A `kid` that is not known, or a key set that was never fetched, has the
    /// key sets fetched first, within a rate.
    ///
    /// # Errors
    /// Says why the token is refused.
    pub async fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        let first = self.verify_now(token);
        let Some(refresher) = &self.0.refresher else {
            return first;
        };
        if first.is_ok() || !self.wants_other_keys(token) {
            return first;
        }
        // What the fetch brings after that serves the next request.
        let _ = tokio::time::timeout(PATIENCE, refresher.refresh()).await;
        match (self.verify_now(token), self.problem()) {
            (Err(_), Some(why)) if self.wants_other_keys(token) => {
                Err(TokenError::KeysUnavailable(why))
            }
            (second, _) => second,
        }
    }

    /// Whether a token may be good by a key that is not here.
    fn wants_other_keys(&self, token: &str) -> bool {
        if token.len() > self.0.max_token_bytes {
            return false;
        }
        let Ok(Header { kid, .. }) = Header::of(token) else {
            return false;
        };
        let fetched = self.0.fetched.read();
        let mut keys = self.0.configured.iter().chain(fetched.keys.iter());
        match kid {
            Some(kid) => !keys.any(|key| key.kid.as_ref() == Some(&kid)),
            None => fetched.missing.is_some(),
        }
    }

    fn verify_now(&self, token: &str) -> Result<Identity, TokenError> {
        if token.len() > self.0.max_token_bytes {
            return Err(TokenError::TooLarge(token.len(), self.0.max_token_bytes));
        }
        let header = Header::of(token)?;
        if header.alg.eq_ignore_ascii_case("none") {
            return Err(TokenError::Unsigned);
        }
        let fetched = Arc::clone(&self.0.fetched.read().keys);
        let keys = self.0.configured.iter().chain(fetched.iter());
        let mut refusal = TokenError::UnknownKey;
        for key in keys.filter(|key| header.may_mean(key)) {
            if format!("{:?}", key.algorithm) != header.alg {
                if refusal == TokenError::UnknownKey {
                    refusal = TokenError::Algorithm;
                }
                continue;
            }
            match decode(token, key) {
                Ok(claims) => {
                    return Identity::from_claims(&claims, &self.0.user_id_claims)
                        .map_err(|error: ClaimError| TokenError::Claims(error.to_string()));
                }
                Err(error) => refusal = error,
            }
            if refusal != TokenError::Signature {
                // The key was the right one; what the token says is not acceptable.
                break;
            }
        }
        Err(refusal)
    }
}

/// What is read of a token's header before it is verified: which key it asks for.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

impl Header {
    fn of(token: &str) -> Result<Self, TokenError> {
        let mut parts = token.split('.');
        let (Some(header), Some(_), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed(
                "it does not have three parts with dots between them",
            ));
        };
        let json = URL_SAFE_NO_PAD
            .decode(header)
            .map_err(|_| TokenError::Malformed("its header is not base64url"))?;
        serde_json::from_slice(&json)
            .map_err(|_| TokenError::Malformed("its header is not a JSON object with alg"))
    }

    /// Whether a key can be the one that is asked for: a key without `kid` can always be.
    fn may_mean(&self, key: &VerificationKey) -> bool {
        match (&self.kid, &key.kid) {
            (Some(asked), Some(kid)) => asked == kid,
            _ => true,
        }
    }
}

fn decode(token: &str, key: &VerificationKey) -> Result<Map<String, Value>, TokenError> {
    debug_assert_eq!(key.validation.algorithms, [key.algorithm]);
    jsonwebtoken::decode(token, &key.key, &key.validation)
        .map(|data| data.claims)
        .map_err(|error| refusal(&error))
}

fn refusal(error: &JwtError) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYetValid,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(claim) => TokenError::MissingClaim(claim.clone()),
        ErrorKind::InvalidClaimFormat(claim) => TokenError::WrongClaim(claim.clone()),
        ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
        ErrorKind::Base64(_) => TokenError::Malformed("it is not base64url throughout"),
        ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
            TokenError::Malformed("its header or claims are not a JSON object")
        }
        // Whatever else the library finds wrong, the token is not vouched for.
        _ => TokenError::Signature,
    }
}

#[cfg(test)]
mod tests;
