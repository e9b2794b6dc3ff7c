//! Tokens, good and hostile, against a verifier with local keys.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::development::Signer;
use super::*;
use crate::event::UserId;
use crate::secret::Secret;

const SECRET: &str = "a secret that is long enough for HS256";

fn shared() -> AuthConfig {
    AuthConfig {
        keys: vec![KeyConfig {
            secret: Some(Secret::new(SECRET)),
            ..KeyConfig::default()
        }],
        ..AuthConfig::default()
    }
}

fn sign(config: &AuthConfig, claims: &Value) -> String {
    let signer = Signer::configured(config).unwrap();
    let claims = claims.as_object().cloned().unwrap_or_default();
    signer
        .sign(&UserId::from(2), Duration::from_secs(600), claims)
        .unwrap()
}

fn verify(config: &AuthConfig, token: &str) -> Result<Identity, TokenError> {
    Verifier::new(config).unwrap().0.ring().verify_now(token)
}

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

#[test]
fn a_good_token_names_its_user() {
    let identity = verify(&shared(), &sign(&shared(), &json!({}))).unwrap();
    assert_eq!(identity.user, UserId::from(2));
    assert!(identity.expires_at.unwrap() > now());
}

#[test]
fn claims_about_time_are_checked_with_leeway() {
    let cases = [
        (json!({"exp": now() - 30}), None),
        (json!({"exp": now() - 90}), Some(TokenError::Expired)),
        (json!({"nbf": now() + 30}), None),
        (json!({"nbf": now() + 90}), Some(TokenError::NotYetValid)),
        (
            json!({"exp": null}),
            Some(TokenError::MissingClaim("exp".to_owned())),
        ),
    ];
    for (claims, refusal) in cases {
        let result = verify(&shared(), &sign(&shared(), &claims));
        assert_eq!(result.err(), refusal, "{claims}");
    }
}

#[test]
fn issuer_and_audience_are_checked_where_configured() {
    let strict = AuthConfig {
        issuer: vec!["https://id.example".to_owned()],
        audience: vec!["chat".to_owned()],
        ..shared()
    };
    let cases = [
        (
            json!({"iss": "https://id.example", "aud": ["x", "chat"]}),
            None,
        ),
        (
            json!({"iss": "https://other.example", "aud": "chat"}),
            Some("issuer"),
        ),
        (
            json!({"iss": "https://id.example", "aud": "mail"}),
            Some("audience"),
        ),
        (json!({"iss": "https://id.example"}), Some("missing_claim")),
        (json!({"aud": "chat"}), Some("missing_claim")),
    ];
    for (claims, cause) in cases {
        let token = sign(&strict, &claims);
        let result = verify(&strict, &token);
        assert_eq!(result.err().map(|e| e.cause()), cause, "{claims}");
        // Unconfigured, neither is looked at.
        assert!(verify(&shared(), &token).is_ok(), "{claims}");
    }
}

#[test]
fn a_token_can_not_choose_how_a_key_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let (signer, key) = Signer::development(folder.path()).unwrap();
    let public = key.pem.clone().unwrap();
    let config = AuthConfig {
        keys: vec![key],
        ..AuthConfig::default()
    };
    let ttl = Duration::from_secs(60);
    let good = signer.sign(&UserId::from(1), ttl, Map::new()).unwrap();
    assert!(verify(&config, &good).is_ok());

    // HS256 with the public key as the secret: what a careless verifier would accept.
    let confused = AuthConfig {
        keys: vec![KeyConfig {
            secret: Some(Secret::new(public)),
            ..KeyConfig::default()
        }],
        ..AuthConfig::default()
    };
    let refusal = verify(&config, &sign(&confused, &json!({}))).unwrap_err();
    assert_eq!(refusal, TokenError::Algorithm);

    let (_, claims, _) = split(&good);
    for alg in ["none", "None", "NONE"] {
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": alg }).to_string());
        let refusal = verify(&config, &format!("{header}.{claims}.")).unwrap_err();
        assert_eq!(refusal, TokenError::Unsigned);
    }
}

/// A key set that was never fetched gives keys that nobody has seen the benefit of the doubt, and no other.
#[tokio::test]
async fn a_removed_key_is_gone_although_a_key_set_is_missing() {
    let of = |secret: &str| KeyConfig {
        secret: Some(Secret::new(secret)),
        ..KeyConfig::default()
    };
    let set = KeyConfig {
        jwks_url: Some(crate::secret::SecretUrl::new("http://127.0.0.1:1/")),
        ..KeyConfig::default()
    };
    let with = |mut keys: Vec<KeyConfig>| {
        keys.push(set.clone());
        AuthConfig {
            keys,
            ..AuthConfig::default()
        }
    };
    let other = "another secret that is long enough too";
    let (both, one) = (with(vec![of(SECRET), of(other)]), with(vec![of(other)]));
    // Its task does not run: nothing is ever fetched.
    let (verifier, _task) = Verifier::new(&both).unwrap();
    verifier.revocations().completed();
    let [gone, kept] = [SECRET, other].map(|secret| {
        let token = sign(&with(vec![of(secret)]), &json!({}));
        verifier.ring().verify_now(&token).unwrap()
    });
    let mut unseen = kept.clone();
    if let Some(credential) = &mut unseen.credential {
        credential.key = crate::credential::Mark::of("key", b"of a peer");
    }
    let mut changes = verifier.changes();
    let prepared = verifier.prepare(&one).await.unwrap();
    assert_eq!(verifier.difference(&prepared), (0, 1));
    verifier.apply(prepared);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    for _ in 0..2 {
        assert_eq!(verifier.still_vouches(&gone), Err(TokenError::UnknownKey));
        assert_eq!(verifier.still_vouches(&kept), Ok(()));
        assert_eq!(verifier.still_vouches(&unseen), Ok(()));
        // Reloading the same again forgets nothing, and ends nothing.
        verifier.apply(verifier.prepare(&one).await.unwrap());
        assert!(!changes.has_changed().unwrap());
    }
    // Put back, it counts again.
    verifier.apply(verifier.prepare(&both).await.unwrap());
    assert_eq!(verifier.still_vouches(&gone), Ok(()));
    assert!(changes.has_changed().unwrap());
}

fn split(token: &str) -> (&str, &str, &str) {
    let mut parts = token.split('.');
    (
        parts.next().unwrap(),
        parts.next().unwrap(),
        parts.next().unwrap(),
    )
}

#[test]
fn a_changed_token_is_refused() {
    let token = sign(&shared(), &json!({}));
    let (header, claims, signature) = split(&token);
    let other = URL_SAFE_NO_PAD.encode(json!({"sub": "1", "exp": now() + 60}).to_string());
    let cases = [
        (format!("{header}.{other}.{signature}"), "signature"),
        (format!("{header}.{claims}."), "signature"),
        (format!("{header}.{claims}"), "malformed"),
        (format!("{header}.{claims}.{signature}.x"), "malformed"),
        (String::new(), "malformed"),
        ("x".repeat(9_000), "too_large"),
    ];
    for (token, cause) in cases {
        assert_eq!(verify(&shared(), &token).unwrap_err().cause(), cause);
    }
}

#[test]
fn a_kid_chooses_among_keys() {
    let key = |kid: Option<&str>, secret: &str| KeyConfig {
        kid: kid.map(str::to_owned),
        secret: Some(Secret::new(secret.repeat(40))),
        ..KeyConfig::default()
    };
    let with = |keys| AuthConfig {
        keys,
        ..AuthConfig::default()
    };
    let both = with(vec![key(Some("a"), "a"), key(Some("b"), "b")]);
    let cases = [
        (with(vec![key(Some("b"), "b")]), None),
        (with(vec![key(None, "b")]), None),
        (with(vec![key(Some("a"), "b")]), Some(TokenError::Signature)),
        (
            with(vec![key(Some("c"), "b")]),
            Some(TokenError::UnknownKey),
        ),
    ];
    for (signing, refusal) in cases {
        let result = verify(&both, &sign(&signing, &json!({})));
        assert_eq!(result.err(), refusal);
    }
}

const P384: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEwa0K1jlLAkfXouj7CEI88uxzgOMMj+e0
UI5EV7oJfG3T0GK1Xn4Odii7JkOdwlnQYJpUUMpuQ6MznR2qohFAPvY8nWdG7HI0
/Q9XZ1+8l6DExOnd+DLsTgkERnkUD0rt
-----END PUBLIC KEY-----";

#[test]
fn wrong_keys_are_named() {
    let cases = [
        (KeyConfig::default(), "exactly one"),
        (
            KeyConfig {
                secret: Some(Secret::new("")),
                ..KeyConfig::default()
            },
            "empty",
        ),
        (
            KeyConfig {
                pem: Some("nonsense".to_owned()),
                ..KeyConfig::default()
            },
            "PEM",
        ),
        (
            KeyConfig {
                pem: Some(P384.to_owned()),
                ..KeyConfig::default()
            },
            "EC P-256",
        ),
        (
            KeyConfig {
                algorithm: Some("HS512".to_owned()),
                secret: Some(Secret::new(SECRET)),
                ..KeyConfig::default()
            },
            "EdDSA, ES256, RS256, HS256",
        ),
        (
            KeyConfig {
                algorithm: Some("RS256".to_owned()),
                secret: Some(Secret::new(SECRET)),
                ..KeyConfig::default()
            },
            "RS256",
        ),
    ];
    for (key, says) in cases {
        let config = AuthConfig {
            keys: vec![key],
            ..AuthConfig::default()
        };
        let error = Verifier::new(&config).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(!error.contains(SECRET));
    }
}

#[test]
fn the_development_key_is_kept_and_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let (_, first) = Signer::development(folder.path()).unwrap();
    let (_, second) = Signer::development(folder.path()).unwrap();
    assert_eq!(first.pem, second.pem);
    let file = folder.path().join("development_key.pem");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::write(&file, "broken").unwrap();
    assert!(Signer::development(folder.path()).is_err());
}

proptest! {
    #[test]
    fn no_text_is_a_token(text in ".{0,200}") {
        prop_assert!(verify(&shared(), &text).is_err());
    }
}
