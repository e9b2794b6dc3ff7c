//! The claims of a token with a good signature: what an issuer that makes mistakes might write. The input is the
//! JSON, signed here.
#![no_main]

use std::sync::LazyLock;

use futures_util::FutureExt as _;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use libfuzzer_sys::fuzz_target;
use notify_server::auth::{AuthConfig, KeyConfig, TokenError, Verifier};
use notify_server::event::{Channel, UserId};
use serde_json::Value;

const SECRET: &str = "correct-horse-battery-staple-0123456789";

static KEY: LazyLock<EncodingKey> = LazyLock::new(|| EncodingKey::from_secret(SECRET.as_bytes()));

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let secret = KeyConfig {
        secret: Some(serde_json::from_value(SECRET.into()).expect("a text")),
        ..KeyConfig::default()
    };
    let config = AuthConfig {
        keys: vec![secret],
        max_token_bytes: 1 << 20,
        ..AuthConfig::default()
    };
    let (verifier, _) = Verifier::new(&config).expect("the key is good");
    verifier.revocations().completed();
    verifier
});

fuzz_target!(|claims: &[u8]| {
    let message = format!("eyJhbGciOiJIUzI1NiJ9.{}", base64url(claims));
    let signature = crypto::sign(message.as_bytes(), &KEY, Algorithm::HS256).expect("a signature");
    let token = format!("{message}.{signature}");
    let verified = VERIFIER
        .verify(&token)
        .now_or_never()
        .expect("there is nothing to wait for");
    match verified {
        Ok(identity) => {
            let claims: Value = serde_json::from_slice(claims).expect("only JSON is accepted");
            assert!(
                claims.get("exp").is_some_and(Value::is_number),
                "a token ends: {claims}"
            );
            let user = identity.user.to_string();
            assert_eq!(UserId::parse(&user).as_ref(), Ok(&identity.user));
            let own = Channel::parse(&format!("user:{user}")).expect("a user has a channel");
            assert!(identity.may_subscribe(&own));
            let other = Channel::parse("user:4711471147114711").expect("a channel");
            let granted = !identity.grant.subscribe.is_empty() || own == other;
            assert!(granted || !identity.may_subscribe(&other), "{claims}");
            assert!(!identity.grant.admin || claims.pointer("/notify/admin") == Some(&true.into()));
        }
        Err(error) => {
            assert!(TokenError::CAUSES.contains(&error.cause()));
            assert!(
                !matches!(error, TokenError::Signature | TokenError::UnknownKey),
                "{error}"
            );
        }
    }
});

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(bits);
        for digit in 0..=group.len() {
            text.push(char::from(
                ALPHABET[((bits >> (18 - 6 * digit)) & 63) as usize],
            ));
        }
    }
    text
}
