//! From a token to an [`Identity`].
//!
//! The order of checks: size, form, then the key, chosen by `kid` and by the algorithm that the
//! key was configured for, then the signature, only then what the token says, and last whether it
//! was revoked. Until that is known, no token is good.

mod config;
pub mod development;
mod identity;
mod jwks;
mod keys;
mod refusal;
pub mod revocation;
mod ring;
pub mod tickets;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tracing::warn;

pub use config::{AuthConfig, KeyConfig};
pub use identity::{Grant, Identity};
pub use keys::{KeyError, KeyName};
pub use refusal::TokenError;
pub use revocation::Revocations;
pub use tickets::Tickets;

use crate::credential::Credential;
use jwks::JwksTask;
use ring::KeyRing;

/// The most keys that are listed.
const MOST_NAMES: usize = 100;

/// Verifies tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Verifier(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    enabled: bool,
    ring: RwLock<Arc<KeyRing>>,
    revocations: Revocations,
    /// Sent when the keys are others than before.
    changed: watch::Sender<()>,
    next: Arc<Next>,
}

/// The fetching of the key sets of a configuration that has just come into force.
#[derive(Debug, Default)]
struct Next {
    task: Mutex<Option<Option<JwksTask>>>,
    set: Notify,
}

/// Fetches the key sets of the configuration in force.
#[derive(Debug)]
pub struct KeysTask {
    current: Option<JwksTask>,
    next: Arc<Next>,
}

/// The keys of a configuration, all of them usable, ready to be put in place.
#[derive(Debug)]
pub struct Prepared {
    ring: KeyRing,
    task: Option<JwksTask>,
}

/// Checks the configured keys without fetching any.
///
/// # Errors
/// A key can't be used.
pub fn check(config: &AuthConfig) -> Result<(), KeyError> {
    keys::load(config).map(drop)
}

impl Verifier {
    /// Loads the configured keys. The task fetches key sets and must run.
    ///
    /// # Errors
    /// A key can't be used.
    pub fn new(config: &AuthConfig) -> Result<(Self, KeysTask), KeyError> {
        let loaded = keys::load(config)?;
        let changed = watch::Sender::new(());
        let (fetched, refresher, current) = jwks::new(config, loaded.urls, changed.clone());
        let next = Arc::<Next>::default();
        let verifier = Self(Arc::new(Inner {
            enabled: config.enabled,
            ring: RwLock::new(Arc::new(KeyRing::new(
                config,
                loaded.keys,
                fetched,
                refresher,
            ))),
            revocations: Revocations::default(),
            changed,
            next: Arc::clone(&next),
        }));
        Ok((verifier, KeysTask { current, next }))
    }

    /// Loads the keys of another configuration, for [`Verifier::apply`]. Key sets that are not known yet
    /// are fetched, so that nothing is put in place that can't be used.
    ///
    /// # Errors
    /// A key can't be used, or a new key set can't be fetched.
    pub async fn prepare(&self, config: &AuthConfig) -> Result<Prepared, KeyError> {
        let loaded = keys::load(config)?;
        let known = self.ring().fetched().read().clone();
        let changed = self.0.changed.clone();
        let (fetched, refresher, task) = jwks::after(config, loaded.urls, &known, changed).await?;
        Ok(Prepared {
            ring: KeyRing::new(config, loaded.keys, fetched, refresher),
            task,
        })
    }

    /// Puts other keys in place. Tokens and identities by keys that are gone are refused from now on.
    pub fn apply(&self, prepared: Prepared) {
        let before = self.ring();
        *self.0.next.task.lock() = Some(prepared.task);
        let changed = prepared.ring.succeed(&before);
        *self.0.ring.write() = Arc::new(prepared.ring);
        self.0.next.set.notify_one();
        if changed {
            self.0.changed.send_replace(());
        }
    }

    /// How many keys there are in one set that are not in the other: of these, how many are new, and how
    /// many would be gone.
    #[must_use]
    pub fn difference(&self, prepared: &Prepared) -> (usize, usize) {
        let (before, after) = (self.ring().marks(), prepared.ring.marks());
        let (new, gone) = (after.difference(&before), before.difference(&after));
        (new.count(), gone.count())
    }

    /// Told each time that the keys are others than before.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Whether clients need a token at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.0.enabled
    }

    /// How far clocks may differ, in seconds.
    #[must_use]
    pub fn leeway_secs(&self) -> u64 {
        self.ring().leeway_secs()
    }

    /// How long a token stays revoked where nobody says when it expires.
    #[must_use]
    pub fn revocation_age(&self) -> Duration {
        self.ring().revocation_age()
    }

    /// What is wrong with the keys, in words; `None` when nothing is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.ring().problem()
    }

    /// Which tokens are revoked.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    /// Verifies a token. A `kid` that is not known, or a key set that was never fetched, has the
    /// key sets fetched first, within a rate.
    ///
    /// # Errors
    /// Says why the token is refused.
    pub async fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        let identity = self.ring().verify(token).await?;
        self.still_vouches(&identity)?;
        Ok(identity)
    }

    /// Whether an identity that was read from a token some time ago would still be: its key is known, and
    /// nobody has revoked the token.
    ///
    /// # Errors
    /// Says why the token would be refused.
    pub fn still_vouches(&self, identity: &Identity) -> Result<(), TokenError> {
        let Some(credential) = &identity.credential else {
            return Ok(());
        };
        if !self.knows(credential) {
            return Err(TokenError::UnknownKey);
        }
        let revocations = &self.0.revocations;
        // Also while not all of them are known: this one is.
        if revocations.revokes(&identity.user, credential) {
            return Err(TokenError::Revoked);
        }
        if !revocations.is_complete() {
            return Err(TokenError::RevocationsUnknown);
        }
        Ok(())
    }

    /// Whether the key of a token is one of those in force.
    #[must_use]
    pub fn knows(&self, credential: &Credential) -> bool {
        self.ring().has(credential.key)
    }

    /// What the keys in force are called; of very many, the first hundred.
    #[must_use]
    pub fn key_names(&self) -> Vec<KeyName> {
        self.ring().names(MOST_NAMES)
    }

    fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.0.ring.read())
    }
}

impl KeysTask {
    /// Runs until the server stops.
    pub async fn run(mut self) {
        loop {
            let current = self.current.take();
            let fetching = async {
                if let Some(task) = current
                    && let Err(error) = task.run().await
                {
                    warn!(error = error.to_string(), "key sets can't be fetched");
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = fetching => {}
                () = self.next.set.notified() => {}
            }
            if let Some(task) = self.next.task.lock().take() {
                self.current = task;
            }
        }
    }
}

#[cfg(test)]
mod tests;
