//! Signing tokens: for development, where the server makes its own key on first start and keeps
//! it, and for the `token` command.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value};

use super::config::{AuthConfig, KeyConfig};
use crate::event::{Timestamp, UserId};

/// The file in the data folder that keeps the development key.
const FILE: &str = "development_key.pem";

/// Signs tokens with one key.
pub struct Signer {
    algorithm: Algorithm,
    kid: Option<String>,
    key: EncodingKey,
}

/// Why tokens can't be signed here.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The key's file can't be read or written.
    #[error("the development key {} can't be used", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// No server has made a development key there.
    #[error(
        "there is no development key at {}: a server makes one when it first starts in development mode in this folder; \
         for a server in production give this command its --config and its environment (JWT_SECRET), or, where it takes \
         one, a token (--token, NOTIFY_TOKEN)",
        .0.display()
    )]
    Missing(PathBuf),
    /// The key's file holds no Ed25519 key.
    #[error("{} holds no Ed25519 key in PEM; remove it to have a new one made", .0.display())]
    Pem(PathBuf),
    /// The system gave no randomness.
    #[error("no key could be made")]
    Random(#[from] Unspecified),
    /// The configured keys can only verify.
    #[error(
        "no configured key can sign: `token` needs a shared secret (JWT_SECRET or auth.keys[].secret), or development mode"
    )]
    VerifyOnly,
    /// The library refused.
    #[error("the token could not be signed")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({:?})", self.algorithm)
    }
}

impl Signer {
    /// The development key in `data_dir`, made there if it is missing, and the configuration of
    /// its public half.
    ///
    /// # Errors
    /// The file can't be read, written or understood.
    pub fn development(data_dir: &Path) -> Result<(Self, KeyConfig), SignerError> {
        let file = data_dir.join(FILE);
        if !file.exists() {
            let failed = |error| SignerError::File(file.clone(), error);
            let text = generate()?;
            fs::create_dir_all(data_dir).map_err(failed)?;
            write_private(&file, &text).map_err(failed)?;
        }
        let text = read(&file)?;
        let public = public_pem(&text).ok_or_else(|| SignerError::Pem(file.clone()))?;
        let config = KeyConfig {
            pem: Some(public),
            ..KeyConfig::default()
        };
        Ok((Self::from_pem(file, &text)?, config))
    }

    /// The development key that a server has made in `data_dir`.
    ///
    /// # Errors
    /// There is none, or it can't be read or understood.
    pub fn existing(data_dir: &Path) -> Result<Self, SignerError> {
        let file = data_dir.join(FILE);
        if !file.exists() {
            return Err(SignerError::Missing(file));
        }
        let text = read(&file)?;
        Self::from_pem(file, &text)
    }

    fn from_pem(file: PathBuf, text: &str) -> Result<Self, SignerError> {
        let key = EncodingKey::from_ed_pem(text.as_bytes()).map_err(|_| SignerError::Pem(file))?;
        Ok(Self {
            algorithm: Algorithm::EdDSA,
            kid: None,
            key,
        })
    }

    /// The first configured key that can sign: a shared secret.
    ///
    /// # Errors
    /// There is none.
    pub fn configured(config: &AuthConfig) -> Result<Self, SignerError> {
        for key in &config.keys {
            let secret = match (&key.secret, &key.secret_file, &key.secret_env) {
                (Some(secret), ..) => secret.expose().to_owned(),
                (_, Some(file), _) => read(file)?.trim().to_owned(),
                (.., Some(name)) => std::env::var(name).map_err(|_| SignerError::VerifyOnly)?,
                _ => continue,
            };
            return Ok(Self {
                algorithm: Algorithm::HS256,
                kid: key.kid.clone(),
                key: EncodingKey::from_secret(secret.as_bytes()),
            });
        }
        Err(SignerError::VerifyOnly)
    }

    /// Signs a token for `user` that is valid for `ttl` from now on. `claims` are added, and win
    /// over those made here.
    ///
    /// # Errors
    /// The key can't sign.
    pub fn sign(
        &self,
        user: &UserId,
        ttl: Duration,
        claims: Map<String, Value>,
    ) -> Result<String, SignerError> {
        let now = Timestamp::now();
        let mut all = Map::new();
        all.insert("sub".to_owned(), Value::from(user.to_string()));
        all.insert("iat".to_owned(), Value::from(now.as_millis() / 1000));
        let exp = now.after(ttl).as_millis() / 1000;
        all.insert("exp".to_owned(), Value::from(exp));
        all.extend(claims);
        let header = Header {
            kid: self.kid.clone(),
            ..Header::new(self.algorithm)
        };
        Ok(jsonwebtoken::encode(&header, &all, &self.key)?)
    }
}

fn read(file: &Path) -> Result<String, SignerError> {
    fs::read_to_string(file).map_err(|error| SignerError::File(file.to_owned(), error))
}

fn generate() -> Result<String, SignerError> {
    let pair = Ed25519KeyPair::generate()?;
    let document = pair.to_pkcs8v1()?;
    Ok(pem::encode(&pem::Pem::new(
        "PRIVATE KEY",
        document.as_ref(),
    )))
}

fn public_pem(private: &str) -> Option<String> {
    let private = pem::parse(private).ok()?;
    let pair: Result<Ed25519KeyPair, KeyRejected> =
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(private.contents());
    let public: PublicKeyX509Der<'_> = pair.ok()?.public_key().as_der().ok()?;
    Some(pem::encode(&pem::Pem::new("PUBLIC KEY", public.as_ref())))
}

/// Writes a file that only its owner can read, and never over one that is there.
fn write_private(file: &Path, text: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?
        .write_all(text.as_bytes())
}
