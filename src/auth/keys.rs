//! The keys that tokens are verified with. Which algorithm a key is for is settled when it is
//! loaded; a token only ever chooses among keys, never how a key is used.

use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation};
use serde::{Deserialize, Serialize};
use tracing::warn;
use utoipa::ToSchema;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::RSAPublicKey;

use super::config::{AuthConfig, KeyConfig};
use crate::credential::Mark;
use crate::secret::SecretUrl;

/// A shared secret shorter than this is warned about, since it can be guessed offline from one
/// token: 256 bits is what HS256 is worth.
const SAFE_SECRET_BYTES: usize = 32;

/// The object identifier of the curve P-256 (1.2.840.10045.3.1.7) in DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The longest name of a key that is told, in characters: in a key set it is somebody else's choice.
const LONGEST_KID: usize = 100;

/// What a key is called, which says nothing about the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyName {
    /// Which one it is, as 32 hexadecimal digits: the same on all instances, and however it is configured.
    pub key: String,
    /// Its `kid`; `null` where it has none.
    #[schema(required = true)]
    pub kid: Option<String>,
    /// What tokens are signed with by it.
    pub algorithm: String,
}

/// A key, how to use it, and what else a token must say.
#[derive(Clone)]
pub(super) struct VerificationKey {
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
    /// Which key it is, however it was given.
    pub(super) mark: Mark,
    pub(super) validation: Validation,
}

impl VerificationKey {
    fn new(
        config: &AuthConfig,
        kid: Option<String>,
        algorithm: Algorithm,
        key: DecodingKey,
    ) -> Self {
        Self {
            kid,
            algorithm,
            mark: mark(algorithm, &key),
            key,
            validation: validation(config, algorithm),
        }
    }

    pub(super) fn name(&self) -> KeyName {
        let kid = self.kid.as_ref();
        KeyName {
            key: self.mark.to_text(),
            kid: kid.map(|kid| kid.chars().take(LONGEST_KID).collect()),
            algorithm: format!("{:?}", self.algorithm),
        }
    }

    /// The same key, with what another configuration has tokens say.
    pub(super) fn under(&self, config: &AuthConfig) -> Self {
        Self {
            validation: validation(config, self.algorithm),
            ..self.clone()
        }
    }
}

/// A key has the same mark in PEM and in a key set. That of a secret is no easier to guess the secret from
/// than a token is.
fn mark(algorithm: Algorithm, key: &DecodingKey) -> Mark {
    let kind = format!("{algorithm:?}");
    let plain = |number: &[u8]| {
        let start = number.iter().position(|byte| *byte != 0);
        number[start.unwrap_or(number.len())..].to_vec()
    };
    let rsa = |n: &[u8], e: &[u8]| Mark::of(&kind, &[plain(n), plain(e)].concat());
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => rsa(n, e),
        DecodingKeyKind::SecretOrDer(secret) if algorithm == Algorithm::HS256 => {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            Mark::of(&kind, hmac::sign(&key, b"which key of auth.keys").as_ref())
        }
        DecodingKeyKind::SecretOrDer(der) => match RSAPublicKey::from_der(der) {
            Ok((_, key)) if algorithm == Algorithm::RS256 => rsa(key.modulus, key.exponent),
            _ => Mark::of(&kind, der),
        },
    }
}

impl std::fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} key {:?}", self.algorithm, self.kid)
    }
}

/// What the configured keys amount to.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) keys: Vec<VerificationKey>,
    /// Key sets to be fetched.
    pub(super) urls: Vec<SecretUrl>,
}

/// Why a key can't be used. Says which, never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// None or several of the ways to give a key are used.
    #[error(
        "auth.keys[{0}] needs exactly one of secret, secret_file, secret_env, pem, pem_file, jwks_file, jwks_url"
    )]
    Source(usize),
    /// A file can't be read.
    #[error("auth.keys[{index}]: {} can't be read", file.display())]
    File {
        /// Which key.
        index: usize,
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An environment variable is not set.
    #[error("auth.keys[{index}]: the environment variable {name} is not set")]
    Env {
        /// Which key.
        index: usize,
        /// Which variable.
        name: String,
    },
    /// The algorithm is not supported.
    #[error(
        "auth.keys[{index}].algorithm is {algorithm:?}; allowed are EdDSA, ES256, RS256, HS256"
    )]
    Algorithm {
        /// Which key.
        index: usize,
        /// What was given.
        algorithm: String,
    },
    /// The algorithm does not go with the key.
    #[error("auth.keys[{index}] is a key for {actual:?} and not for the configured {configured:?}")]
    Mismatch {
        /// Which key.
        index: usize,
        /// What was configured.
        configured: Algorithm,
        /// What the key is.
        actual: Algorithm,
    },
    /// A secret is empty.
    #[error("auth.keys[{0}]: the secret is empty; make one with `openssl rand -hex 32`")]
    EmptySecret(usize),
    /// Not a public key in PEM.
    #[error("auth.keys[{0}]: not a public key of type Ed25519, EC P-256 or RSA in PEM")]
    Pem(usize),
    /// Not an address that a key set can be fetched from.
    #[error("auth.keys[{0}].jwks_url is {1}; it must be https://… or http://…")]
    Url(usize, SecretUrl),
    /// A key set says itself what its keys are for and called.
    #[error("auth.keys[{0}]: algorithm and kid are in the key set and can't be set beside it")]
    SetHasItsOwn(usize),
    /// Not a key set.
    #[error("auth.keys[{index}]: not a JSON Web Key Set")]
    Jwks {
        /// Which key.
        index: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A key set holds no usable key.
    #[error("auth.keys[{0}]: the key set has no signing key of type Ed25519, EC P-256 or RSA")]
    NoKey(usize),
    /// A key set that is to be used from now on can't be fetched.
    #[error("auth.keys: {url}: the key set can't be fetched: {why}")]
    Fetch {
        /// From where.
        url: SecretUrl,
        /// Why.
        why: String,
    },
}

/// Loads all configured keys.
pub(super) fn load(config: &AuthConfig) -> Result<Loaded, KeyError> {
    let mut loaded = Loaded::default();
    for (index, key) in config.keys.iter().enumerate() {
        load_one(config, index, key, &mut loaded)?;
    }
    Ok(loaded)
}

fn load_one(
    config: &AuthConfig,
    index: usize,
    key: &KeyConfig,
    loaded: &mut Loaded,
) -> Result<(), KeyError> {
    let configured = key
        .algorithm
        .as_deref()
        .map(|name| algorithm(index, name))
        .transpose()?;
    let mut add = |(algorithm, decoding): (Algorithm, DecodingKey)| {
        if configured.is_some_and(|configured| configured != algorithm) {
            return Err(KeyError::Mismatch {
                index,
                configured: configured.unwrap_or(algorithm),
                actual: algorithm,
            });
        }
        let kid = key.kid.clone();
        let key = VerificationKey::new(config, kid, algorithm, decoding);
        loaded.keys.push(key);
        Ok(())
    };
    let is_set = key.jwks_file.is_some() || key.jwks_url.is_some();
    if is_set && (key.algorithm.is_some() || key.kid.is_some()) {
        return Err(KeyError::SetHasItsOwn(index));
    }
    match Source::of(key).ok_or(KeyError::Source(index))? {
        Source::Secret(secret) => add(shared(index, secret)?),
        Source::SecretFile(file) => add(shared(index, read(index, file)?.trim())?),
        Source::SecretEnv(name) => {
            let secret = std::env::var(name).map_err(|_| KeyError::Env {
                index,
                name: name.to_owned(),
            })?;
            add(shared(index, &secret)?)
        }
        Source::Pem(text) => add(public(index, text)?),
        Source::PemFile(file) => add(public(index, &read(index, file)?)?),
        Source::JwksFile(file) => {
            let text = read(index, file)?;
            let set =
                serde_json::from_str(&text).map_err(|source| KeyError::Jwks { index, source })?;
            let keys = from_set(config, &set);
            if keys.is_empty() {
                return Err(KeyError::NoKey(index));
            }
            loaded.keys.extend(keys);
            Ok(())
        }
        Source::JwksUrl(url) => {
            let scheme = url.expose().split_once("://").map(|(scheme, _)| scheme);
            if !matches!(scheme, Some("http" | "https")) {
                return Err(KeyError::Url(index, url.clone()));
            }
            loaded.urls.push(url.clone());
            Ok(())
        }
    }
}

/// The one way in which a key is given.
enum Source<'a> {
    Secret(&'a str),
    SecretFile(&'a Path),
    SecretEnv(&'a str),
    Pem(&'a str),
    PemFile(&'a Path),
    JwksFile(&'a Path),
    JwksUrl(&'a SecretUrl),
}

impl<'a> Source<'a> {
    fn of(key: &'a KeyConfig) -> Option<Self> {
        let mut given = [
            key.secret.as_ref().map(|s| Self::Secret(s.expose())),
            key.secret_file.as_deref().map(Self::SecretFile),
            key.secret_env.as_deref().map(Self::SecretEnv),
            key.pem.as_deref().map(Self::Pem),
            key.pem_file.as_deref().map(Self::PemFile),
            key.jwks_file.as_deref().map(Self::JwksFile),
            key.jwks_url.as_ref().map(Self::JwksUrl),
        ]
        .into_iter()
        .flatten();
        let first = given.next();
        if given.next().is_some() { None } else { first }
    }
}

fn read(index: usize, file: &Path) -> Result<String, KeyError> {
    std::fs::read_to_string(file).map_err(|source| KeyError::File {
        index,
        file: file.to_owned(),
        source,
    })
}

fn algorithm(index: usize, name: &str) -> Result<Algorithm, KeyError> {
    match name {
        "EdDSA" => Ok(Algorithm::EdDSA),
        "ES256" => Ok(Algorithm::ES256),
        "RS256" => Ok(Algorithm::RS256),
        "HS256" => Ok(Algorithm::HS256),
        _ => Err(KeyError::Algorithm {
            index,
            algorithm: name.to_owned(),
        }),
    }
}

fn shared(index: usize, secret: &str) -> Result<(Algorithm, DecodingKey), KeyError> {
    if secret.is_empty() {
        return Err(KeyError::EmptySecret(index));
    }
    if secret.len() < SAFE_SECRET_BYTES {
        warn!(
            key = index,
            bytes = secret.len(),
            recommended = SAFE_SECRET_BYTES,
            "the shared secret is short enough to be guessed; make one with openssl rand -hex 32"
        );
    }
    Ok((
        Algorithm::HS256,
        DecodingKey::from_secret(secret.as_bytes()),
    ))
}

/// The type of a public key is in the key, so that nobody need say it.
fn public(index: usize, pem: &str) -> Result<(Algorithm, DecodingKey), KeyError> {
    type FromPem = fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>;
    let types: [(Algorithm, FromPem); 3] = [
        (Algorithm::EdDSA, DecodingKey::from_ed_pem),
        (Algorithm::ES256, p256),
        (Algorithm::RS256, DecodingKey::from_rsa_pem),
    ];
    types
        .into_iter()
        .find_map(|(algorithm, from_pem)| {
            let key = from_pem(pem.as_bytes()).ok()?;
            Some((algorithm, key))
        })
        .ok_or(KeyError::Pem(index))
}

/// The library takes a key on any curve here and then refuses every token.
fn p256(pem: &[u8]) -> jsonwebtoken::errors::Result<DecodingKey> {
    let on_p256 = pem::parse(pem).is_ok_and(|pem| {
        let der = pem.contents();
        der.windows(P256.len()).any(|bytes| bytes == P256)
    });
    if on_p256 {
        DecodingKey::from_ec_pem(pem)
    } else {
        Err(ErrorKind::InvalidKeyFormat.into())
    }
}

/// The signing keys of a set. Keys of types that are not supported are passed over, as a set may
/// serve others too; shared secrets have no place in a published set.
pub(super) fn from_set(config: &AuthConfig, set: &JwkSet) -> Vec<VerificationKey> {
    let mut keys = Vec::new();
    for jwk in &set.keys {
        let Some(algorithm) = algorithm_of(jwk) else {
            continue;
        };
        match DecodingKey::from_jwk(jwk) {
            Ok(key) => {
                let kid = jwk.common.key_id.clone();
                keys.push(VerificationKey::new(config, kid, algorithm, key));
            }
            // One broken key is no reason to do without the others.
            Err(error) => warn!(
                kid = jwk.common.key_id,
                error = error.to_string(),
                "a key of a key set can't be used"
            ),
        }
    }
    keys
}

fn algorithm_of(jwk: &Jwk) -> Option<Algorithm> {
    let for_signatures = matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    );
    if !for_signatures {
        return None;
    }
    let by_type = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        _ => return None,
    };
    // An `alg` that says otherwise, e.g. PS256, is a key for something else.
    match jwk.common.key_algorithm {
        Some(named) if named.to_string() != format!("{by_type:?}") => None,
        _ => Some(by_type),
    }
}

fn validation(config: &AuthConfig, algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    let mut required = vec!["exp"];
    validation.leeway = config.leeway.0.as_secs();
    validation.validate_nbf = true;
    validation.validate_aud = !config.audience.is_empty();
    if !config.audience.is_empty() {
        validation.set_audience(&config.audience);
        required.push("aud");
    }
    if !config.issuer.is_empty() {
        validation.set_issuer(&config.issuer);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    validation
}
