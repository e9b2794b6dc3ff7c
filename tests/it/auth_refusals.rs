//! Tokens that are no good: each is refused with 401, and the answer says what is wrong.

use std::collections::HashMap;

use futures_util::future::join_all;
use serde_json::json;

use crate::support::tokens::{self, SECRET, Token};
use crate::support::{HttpStub, KeyPair, Kind, Request, Response, Server, Settings};

/// What `WWW-Authenticate` says of a refused token.
async fn refusal(mut response: Response) -> String {
    assert_eq!(response.status, 401);
    let challenge = response.header("www-authenticate").unwrap().to_owned();
    assert!(challenge.starts_with("Bearer"), "{challenge}");
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json")
    );
    let problem = response.json().await;
    assert_eq!(problem["status"], 401);
    for member in ["type", "title", "detail", "request_id"] {
        assert!(problem[member].is_string(), "{member} in {problem}");
    }
    challenge
}

#[tokio::test]
async fn each_defect_is_named() {
    let settings = Settings::new()
        .set("auth.issuer", json!(["https://issuer.example.com"]))
        .set("auth.audience", json!(["notify"]));
    let server = Server::start(settings).await;
    let good = Token::of(2)
        .claim("iss", "https://issuer.example.com")
        .claim("aud", "notify");
    assert_eq!(server.events(&good.sign_hs256(SECRET)).await.status, 200);
    let padding = "x".repeat(9000);
    let now = tokens::now();
    let cases = [
        ("alg none", good.unsigned()),
        (
            "signature",
            good.sign_hs256("another-secret-0123456789-0123456789"),
        ),
        ("expired", good.clone().expires_in(-3600).sign_hs256(SECRET)),
        ("no exp", good.clone().without("exp").sign_hs256(SECRET)),
        (
            "not yet",
            good.clone().claim("nbf", now + 3600).sign_hs256(SECRET),
        ),
        (
            "issuer",
            good.clone()
                .claim("iss", "https://evil.example.com")
                .sign_hs256(SECRET),
        ),
        (
            "audience",
            good.clone().claim("aud", "other").sign_hs256(SECRET),
        ),
        (
            "size",
            good.clone().claim("padding", padding).sign_hs256(SECRET),
        ),
        (
            "no user",
            good.clone().without("user_id").sign_hs256(SECRET),
        ),
        ("no JWT", "garbage".to_owned()),
    ];
    let mut said: HashMap<String, &str> = HashMap::new();
    for (defect, token) in cases {
        let says = refusal(server.events(&token).await).await;
        assert!(says.contains("error=\""), "{defect}: {says}");
        assert!(says.contains("error_description="), "{defect}: {says}");
        if let Some(other) = said.insert(says.clone(), defect) {
            panic!("{defect} and {other} get the same answer: {says}");
        }
    }
    let all: String = said.into_keys().collect();
    for word in ["exp", "nbf", "iss", "aud", "signature", "8192"] {
        assert!(all.contains(word), "{word} in {all}");
    }
}

#[tokio::test]
async fn a_missing_token_is_asked_for_without_calling_it_invalid() {
    let server = Server::start(Settings::new()).await;
    for request in [
        Request::get("/events"),
        Request::get("/events?access_token="),
        Request::get("/events").header("authorization", "Basic dXNlcjpwYXNz"),
    ] {
        let says = refusal(server.send(request).await).await;
        assert!(!says.contains("invalid_token"), "{says}");
    }
}

#[tokio::test]
async fn missing_issuer_and_audience_are_refused_where_configured() {
    let issuer = Settings::new().set("auth.issuer", json!(["https://issuer.example.com"]));
    let audience = Settings::new().set("auth.audience", json!(["notify"]));
    for settings in [issuer, audience] {
        let server = Server::start(settings).await;
        refusal(server.events(&tokens::of_user(2)).await).await;
    }
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    for kind in [Kind::Rsa, Kind::Ed25519, Kind::P256] {
        let key = KeyPair::generate(kind);
        let stub = HttpStub::serve(json!({"keys": [key.jwk("k")]}));
        let from_pem = json!([{"pem": key.public_pem()}]);
        let from_set = json!([{"jwks_url": stub.url("/jwks.json")}]);
        let pem = key.public_pem();
        let der = pem::parse(&pem).unwrap().into_contents();
        for keys in [from_pem, from_set] {
            let server = Server::start(Settings::new().set("auth.keys", keys)).await;
            let forged = [pem.as_bytes(), pem.trim_end().as_bytes(), &der]
                .into_iter()
                .flat_map(|secret| {
                    [Token::of(2), Token::of(2).kid("k")].map(|token| token.sign_hs256(secret))
                });
            // At once, since the server may look for fresh keys before it says no.
            let refusals = forged.map(|token| async {
                let token = token;
                refusal(server.events(&token).await).await
            });
            for says in join_all(refusals).await {
                assert!(says.contains("invalid_token"), "{kind:?}: {says}");
            }
            let token = Token::of(2).kid("k").sign(&key);
            assert_eq!(server.events(&token).await.status, 200);
        }
    }
}

#[tokio::test]
async fn other_spellings_of_none_are_refused_too() {
    let server = Server::start(Settings::new()).await;
    let claims = Token::of(2).unsigned();
    let claims = claims.split('.').nth(1).unwrap();
    for header in [r#"{"alg":"None"}"#, r#"{"alg":"NONE","typ":"JWT"}"#, "{}"] {
        let header = tokens::base64url(header.as_bytes());
        refusal(server.events(&format!("{header}.{claims}.")).await).await;
    }
}

#[tokio::test]
async fn a_token_outside_of_every_key_s_algorithm_is_refused() {
    let key = KeyPair::generate(Kind::Ed25519);
    let other = KeyPair::generate(Kind::Ed25519);
    let keys = json!([{"algorithm": "EdDSA", "pem": key.public_pem()}]);
    let server = Server::start(Settings::new().set("auth.keys", keys)).await;
    let rsa = KeyPair::generate(Kind::Rsa);
    for token in [
        Token::of(2).sign(&other),
        Token::of(2).sign(&rsa),
        Token::of(2).sign_hs256(SECRET),
    ] {
        refusal(server.events(&token).await).await;
    }
}

#[tokio::test]
async fn nothing_of_a_token_is_ever_logged() {
    let server = Server::start(Settings::new().set("logging.level", "trace")).await;
    let good = tokens::of_user(2);
    let forged = Token::of(3).sign_hs256("another-secret-0123456789-0123456789");
    for (token, status) in [(&good, 200), (&forged, 401)] {
        for request in [
            Request::get(&format!("/events?x=1&access_token={token}")),
            Request::get("/events").bearer(token),
            Request::get("/events").header("cookie", &format!("access_token={token}")),
            Request::get(&format!("/nowhere?access_token={token}")),
        ] {
            let expected = [status, 404];
            let response = server.send(request).await;
            assert!(expected.contains(&response.status), "{}", response.status);
        }
        refuses_in_silence(&server, token).await;
    }
    let log = server.stop().await;
    assert!(
        log.contains("\"TRACE\"") || log.contains("\"DEBUG\""),
        "{log}"
    );
    for token in [&good, &forged] {
        for part in token.split('.').skip(1) {
            // Half of a signature would be half of a secret too.
            assert!(!log.contains(&part[..16]), "a token stands in the log");
        }
    }
    assert!(!log.contains(SECRET));
}

/// What the server answers must not repeat the token either.
async fn refuses_in_silence(server: &Server, token: &str) {
    let target = format!("/events?access_token={token}x");
    let mut response = server.get(&target).await;
    let signature = token.rsplit('.').next().unwrap();
    assert!(
        !response
            .header("www-authenticate")
            .unwrap()
            .contains(&signature[..16])
    );
    assert!(!response.text().await.contains(&signature[..16]));
}
