//! Tokens, good ones and all kinds of bad ones.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use super::keys::KeyPair;

/// The HS256 secret that servers of `Settings::new` are configured with.
pub(crate) const SECRET: &str = "correct-horse-battery-staple-0123456789";

/// A token of `user`, good for an hour at servers of `Settings::new`.
pub(crate) fn of_user(user: impl Into<Value>) -> String {
    Token::of(user).sign_hs256(SECRET)
}

/// A token of `user` that may publish everything.
pub(crate) fn of_publisher(user: impl Into<Value>) -> String {
    let rights = json!({"publish": ["*"]});
    Token::of(user).claim("notify", rights).sign_hs256(SECRET)
}

/// A token in the making: claims that are good unless a test spoils them.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    kid: Option<String>,
    claims: Value,
}

impl Token {
    pub(crate) fn of(user: impl Into<Value>) -> Self {
        let claims = json!({"user_id": user.into(), "exp": now() + 3600});
        Self { kid: None, claims }
    }

    pub(crate) fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.claims.as_object_mut().unwrap().remove(name);
        self
    }

    /// Sets `exp` that many seconds from now.
    pub(crate) fn expires_in(self, seconds: i64) -> Self {
        self.claim("exp", now() + seconds)
    }

    pub(crate) fn kid(mut self, kid: &str) -> Self {
        self.kid = Some(kid.to_owned());
        self
    }

    pub(crate) fn sign(&self, key: &KeyPair) -> String {
        self.assemble(key.algorithm(), &key.encoding_key())
    }

    pub(crate) fn sign_hs256(&self, secret: impl AsRef<[u8]>) -> String {
        let key = EncodingKey::from_secret(secret.as_ref());
        self.assemble(Algorithm::HS256, &key)
    }

    /// A token that claims to need no signature.
    pub(crate) fn unsigned(&self) -> String {
        format!("{}.", self.message("none"))
    }

    fn assemble(&self, algorithm: Algorithm, key: &EncodingKey) -> String {
        let message = self.message(&format!("{algorithm:?}"));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
        format!("{message}.{signature}")
    }

    fn message(&self, algorithm: &str) -> String {
        let mut header = json!({"typ": "JWT", "alg": algorithm});
        if let Some(kid) = &self.kid {
            header["kid"] = json!(kid);
        }
        let part = |value: &Value| base64url(value.to_string().as_bytes());
        format!("{}.{}", part(&header), part(&self.claims))
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// Base 64 with the URL alphabet and without padding, as JOSE has it.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(bits);
        for digit in 0..=group.len() {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}
