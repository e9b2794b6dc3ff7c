//! A token as a client sends it. Nobody can make one that is accepted without a key: those that are have been
//! signed here.
#![no_main]

use std::sync::LazyLock;

use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use notify_server::auth::{AuthConfig, KeyConfig, TokenError, Verifier};

const SECRET: &str = "correct-horse-battery-staple-0123456789";

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let config = AuthConfig {
        keys: vec![
            KeyConfig {
                secret: Some(serde_json::from_value(SECRET.into()).expect("a text")),
                ..KeyConfig::default()
            },
            key(include_str!("../keys/ed25519.pem")),
            key(include_str!("../keys/p256.pem")),
            key(include_str!("../keys/rsa.pem")),
        ],
        ..AuthConfig::default()
    };
    let (verifier, _) = Verifier::new(&config).expect("the keys are good");
    verifier.revocations().completed();
    verifier
});

fn key(pem: &str) -> KeyConfig {
    KeyConfig {
        pem: Some(pem.to_owned()),
        ..KeyConfig::default()
    }
}

fuzz_target!(|token: &str| {
    let verified = VERIFIER
        .verify(token)
        .now_or_never()
        .expect("there is nothing to wait for");
    match verified {
        Ok(identity) => {
            // What nobody alive can have signed: the corpus has no token that is good, and no key.
            panic!("accepted for {}: {token}", identity.user);
        }
        Err(error) => {
            assert!(TokenError::CAUSES.contains(&error.cause()));
            let told = error.to_string();
            assert!(told.len() < 1_000, "{told}");
        }
    }
});
