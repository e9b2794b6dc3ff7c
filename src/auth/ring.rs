//! The keys in force and what tokens have to say: all that a token is verified with, put in place as a
//! whole when the configuration changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::config::AuthConfig;
use super::identity::{ClaimError, Identity};
use super::jwks::{Fetched, Refresher};
use super::keys::{KeyName, VerificationKey};
use super::refusal::{TokenError, refusal};
use crate::credential::Mark;

/// How long a token may wait for keys: every request is answered within five seconds.
const PATIENCE: Duration = Duration::from_secs(4);

/// Verifies tokens with the keys of one configuration.
#[derive(Debug)]
pub(super) struct KeyRing {
    user_id_claims: Vec<String>,
    leeway_secs: u64,
    max_token_bytes: usize,
    revocation_age: Duration,
    configured: Vec<VerificationKey>,
    fetched: Arc<RwLock<Fetched>>,
    refresher: Option<Refresher>,
}

impl KeyRing {
    pub(super) fn new(
        config: &AuthConfig,
        configured: Vec<VerificationKey>,
        fetched: Arc<RwLock<Fetched>>,
        refresher: Option<Refresher>,
    ) -> Self {
        Self {
            user_id_claims: config.user_id_claims.clone(),
            leeway_secs: config.leeway.0.as_secs(),
            max_token_bytes: config.max_token_bytes,
            revocation_age: config.revocation_age.0,
            configured,
            fetched,
            refresher,
        }
    }

    pub(super) fn leeway_secs(&self) -> u64 {
        self.leeway_secs
    }

    pub(super) fn revocation_age(&self) -> Duration {
        self.revocation_age
    }

    pub(super) fn fetched(&self) -> &RwLock<Fetched> {
        &self.fetched
    }

    /// What is wrong with the keys, in words.
    pub(super) fn problem(&self) -> Option<String> {
        self.fetched.read().missing().map(str::to_owned)
    }

    /// The marks of all keys that are known: not all there are, while a key set was never fetched.
    pub(super) fn marks(&self) -> BTreeSet<Mark> {
        let fetched = self.fetched.read();
        let keys = self.configured.iter().chain(fetched.keys().iter());
        keys.map(|key| key.mark).collect()
    }

    /// What the keys are called, those of the configuration first; each once, and at most so many.
    pub(super) fn names(&self, most: usize) -> Vec<KeyName> {
        let fetched = self.fetched.read();
        let mut names: Vec<KeyName> = Vec::new();
        for key in self.configured.iter().chain(fetched.keys().iter()) {
            let name = key.name();
            if names.len() < most && names.iter().all(|other| other.key != name.key) {
                names.push(name);
            }
        }
        names
    }

    /// Whether a key is one of these. While a key set was never fetched, one that was never seen here may
    /// be: another instance may have let somebody in with it. One that was removed is not.
    pub(super) fn has(&self, mark: Mark) -> bool {
        let fetched = self.fetched.read();
        let mut keys = self.configured.iter().chain(fetched.keys().iter());
        keys.any(|key| key.mark == mark)
            || (fetched.missing().is_some() && !fetched.has_removed(mark))
    }

    /// Comes in place of other keys, and remembers which of them are gone; says whether other keys count
    /// than before.
    pub(super) fn succeed(&self, before: &Self) -> bool {
        let own = self.marks();
        let mut fetched = self.fetched.write();
        let earlier = before.fetched.read();
        let configured = before.configured.iter().map(|key| key.mark);
        let gone: BTreeSet<Mark> = configured
            .chain(earlier.marks_before(&fetched))
            .filter(|mark| !own.contains(mark))
            .collect();
        fetched.remember_removed(&earlier, &gone);
        let settled = earlier.missing().is_some() != fetched.missing().is_some();
        drop((earlier, fetched));
        settled || !gone.is_empty() || before.marks() != own
    }

    /// Verifies a token. A `kid` that is not known, or a key set that was never fetched, has the
    /// key sets fetched first, within a rate.
    pub(super) async fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        let first = self.verify_now(token);
        let Some(refresher) = &self.refresher else {
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
        if token.len() > self.max_token_bytes {
            return false;
        }
        let Ok(Header { kid, .. }) = Header::of(token) else {
            return false;
        };
        let fetched = self.fetched.read();
        let mut keys = self.configured.iter().chain(fetched.keys().iter());
        match kid {
            Some(kid) => !keys.any(|key| key.kid.as_ref() == Some(&kid)),
            None => fetched.missing().is_some(),
        }
    }

    pub(super) fn verify_now(&self, token: &str) -> Result<Identity, TokenError> {
        if token.len() > self.max_token_bytes {
            return Err(TokenError::TooLarge(token.len(), self.max_token_bytes));
        }
        let header = Header::of(token)?;
        if header.alg.eq_ignore_ascii_case("none") {
            return Err(TokenError::Unsigned);
        }
        let fetched = Arc::clone(self.fetched.read().keys());
        let keys = self.configured.iter().chain(fetched.iter());
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
                    return Identity::from_claims(&claims, &self.user_id_claims)
                        .map(|identity| identity.by(token, &claims, key.mark))
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
