//! Tokens that are good: where they may stand, how they may be signed, whom they name.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::tokens::{self, SECRET, Token};
use crate::support::{EventStream, HttpStub, KeyPair, Kind, Request, Server, Settings};

const KINDS: [Kind; 3] = [Kind::Ed25519, Kind::P256, Kind::Rsa];

/// Settings with these keys and no other.
fn with_keys(keys: Value) -> Settings {
    Settings::new().set("auth.keys", keys)
}

/// The user whom the server takes the bearer for.
async fn user_of(server: &Server, token: &str) -> Value {
    let mut response = server.events(token).await;
    if response.status != 200 {
        let text = response.text().await;
        panic!("{}: {text}", response.status);
    }
    let mut stream = EventStream::new(response);
    stream.expect_type("connection_confirmed").await.data["user_id"].take()
}

#[tokio::test]
async fn a_token_may_stand_in_the_query_the_header_or_a_cookie() {
    let server = Server::start(Settings::new()).await;
    let token = tokens::of_user(2);
    for request in [
        Request::get(&format!("/events?access_token={token}")),
        Request::get("/events").header("authorization", &format!("bearer {token}")),
        Request::get("/events").header("cookie", &format!("a=b; access_token={token}; c=d")),
    ] {
        assert_eq!(server.send(request).await.status, 200);
    }
}

#[tokio::test]
async fn public_keys_in_pem_verify_every_algorithm() {
    for kind in KINDS {
        let key = KeyPair::generate(kind);
        let inline = with_keys(json!([{"algorithm": format!("{:?}", key.algorithm()),
            "pem": key.public_pem()}]));
        let server = Server::start(inline).await;
        let token = Token::of(2).sign(&key);
        assert_eq!(user_of(&server, &token).await, 2, "{kind:?}");
        let from_file = with_keys(json!([{"algorithm": format!("{:?}", key.algorithm()),
            "pem_file": key.public_file().to_str().unwrap()}]));
        let server = Server::start(from_file).await;
        assert_eq!(user_of(&server, &token).await, 2, "{kind:?}");
    }
}

#[tokio::test]
async fn the_algorithm_of_a_pem_need_not_be_said() {
    let pairs = KINDS.map(KeyPair::generate);
    let keys: Vec<_> = pairs
        .iter()
        .map(|key| json!({"pem": key.public_pem()}))
        .collect();
    let server = Server::start(with_keys(json!(keys))).await;
    for key in &pairs {
        assert_eq!(user_of(&server, &Token::of(2).sign(key)).await, 2);
    }
}

#[tokio::test]
async fn a_secret_may_come_from_the_configuration_a_file_or_the_environment() {
    let secrets = [
        "first-secret-0123456789-0123456789",
        SECRET,
        "third-secret-0123456789-0123456789",
    ];
    let settings = with_keys(json!([
        {"algorithm": "HS256", "secret": secrets[0]},
        {"algorithm": "HS256", "secret_file": "secret.txt"},
        {"algorithm": "HS256", "secret_env": "MY_SECRET"},
    ]))
    .environment("MY_SECRET", secrets[2]);
    // Editors end files with a line break, which is not meant to be part of the secret.
    let file = settings.directory().join("secret.txt");
    std::fs::write(file, format!("{}\n", secrets[1])).unwrap();
    let server = Server::start(settings).await;
    for secret in secrets {
        let token = Token::of(2).sign_hs256(secret);
        assert_eq!(user_of(&server, &token).await, 2);
    }
}

#[tokio::test]
async fn a_key_set_in_a_file_holds_keys_of_all_kinds() {
    let pairs = KINDS.map(KeyPair::generate);
    let kids = ["a", "b", "c"];
    let keys: Vec<_> = pairs
        .iter()
        .zip(kids)
        .map(|(key, kid)| key.jwk(kid))
        .collect();
    let settings = with_keys(json!([{"jwks_file": "jwks.json"}]));
    let file = settings.directory().join("jwks.json");
    std::fs::write(file, json!({ "keys": keys }).to_string()).unwrap();
    let server = Server::start(settings).await;
    for (key, kid) in pairs.iter().zip(kids) {
        let token = Token::of(2).kid(kid).sign(key);
        assert_eq!(user_of(&server, &token).await, 2);
    }
}

#[tokio::test]
async fn a_key_set_at_a_url_is_cached_and_fetched_again_for_an_unknown_kid() {
    let (old, new) = (
        KeyPair::generate(Kind::Ed25519),
        KeyPair::generate(Kind::P256),
    );
    let stub = HttpStub::serve(json!({"keys": [old.jwk("old")]}));
    let settings = with_keys(json!([{"jwks_url": stub.url("/jwks.json")}]));
    let server = Server::start(settings).await;
    for _ in 0..3 {
        let token = Token::of(2).kid("old").sign(&old);
        assert_eq!(user_of(&server, &token).await, 2);
    }
    assert_eq!(stub.requests(), 1, "known keys come from the cache");
    stub.replace(json!({"keys": [old.jwk("old"), new.jwk("new")]}));
    let token = Token::of(3).kid("new").sign(&new);
    assert_eq!(user_of(&server, &token).await, 3);
    assert_eq!(stub.requests(), 2);
}

#[tokio::test]
async fn invented_kids_do_not_make_the_server_fetch_for_ever() {
    let key = KeyPair::generate(Kind::Ed25519);
    let stub = HttpStub::serve(json!({"keys": [key.jwk("known")]}));
    let settings = with_keys(json!([{"jwks_url": stub.url("/jwks.json")}]));
    let server = Server::start(settings).await;
    let invented = (0..20).map(|number| {
        let token = Token::of(2).kid(&format!("invented-{number}")).sign(&key);
        async { server.events(&{ token }).await.status }
    });
    let answers = join_all(invented).await;
    assert_eq!(answers, [401; 20]);
    assert!(stub.requests() <= 4, "{} requests", stub.requests());
    assert_eq!(
        user_of(&server, &Token::of(2).kid("known").sign(&key)).await,
        2
    );
}

#[tokio::test]
async fn several_keys_are_told_apart_by_kid() {
    let secrets = [
        "one-secret-0123456789-0123456789-01",
        "two-secret-0123456789-0123456789-01",
    ];
    let settings = with_keys(json!([
        {"algorithm": "HS256", "kid": "one", "secret": secrets[0]},
        {"algorithm": "HS256", "kid": "two", "secret": secrets[1]},
    ]));
    let server = Server::start(settings).await;
    let two = Token::of(2).kid("two");
    assert_eq!(user_of(&server, &two.sign_hs256(secrets[1])).await, 2);
    assert_eq!(server.events(&two.sign_hs256(secrets[0])).await.status, 401);
}

#[tokio::test]
async fn the_user_is_found_along_the_claim_paths_in_their_order() {
    let server = Server::start(Settings::new()).await;
    let token = || Token::of(0).without("user_id");
    let nested = json!({"id": 1, "name": "x"});
    for (token, user) in [
        (
            token().claim("user", nested.clone()).claim("sub", "4"),
            json!(1),
        ),
        (token().claim("user_id", 2).claim("id", 3), json!(2)),
        (token().claim("id", "3").claim("sub", "4"), json!(3)),
        (token().claim("sub", "auth0|4"), json!("auth0|4")),
    ] {
        let token = token.sign_hs256(SECRET);
        assert_eq!(user_of(&server, &token).await, user);
    }
    let paths = json!(["https://example.com/uid", "account.user.key"]);
    let settings = Settings::new().set("auth.user_id_claims", paths);
    let server = Server::start(settings).await;
    for token in [
        token()
            .claim("https://example.com/uid", 7)
            .claim("sub", "4"),
        token().claim("account", json!({"user": {"key": "7"}})),
    ] {
        assert_eq!(user_of(&server, &token.sign_hs256(SECRET)).await, 7);
    }
}

#[tokio::test]
async fn issuer_and_audience_are_checked_where_configured() {
    let settings = Settings::new()
        .set("auth.issuer", json!(["https://issuer.example.com"]))
        .set("auth.audience", json!(["notify", "chat"]));
    let server = Server::start(settings).await;
    let good = Token::of(2).claim("iss", "https://issuer.example.com");
    for audience in [json!("chat"), json!(["other", "notify"])] {
        let token = good.clone().claim("aud", audience).sign_hs256(SECRET);
        assert_eq!(user_of(&server, &token).await, 2);
    }
    // Where nothing is configured, what a token says of them is nobody's business.
    let server = Server::start(Settings::new()).await;
    let token = good.claim("aud", "anything").sign_hs256(SECRET);
    assert_eq!(user_of(&server, &token).await, 2);
}

#[tokio::test]
async fn clocks_may_differ_by_the_leeway() {
    let server = Server::start(Settings::new()).await;
    let early = Token::of(2).claim("nbf", tokens::now() + 30);
    assert_eq!(user_of(&server, &early.sign_hs256(SECRET)).await, 2);
    let strict = Server::start(Settings::new().set("auth.leeway", "0s")).await;
    assert_eq!(strict.events(&early.sign_hs256(SECRET)).await.status, 401);
}
