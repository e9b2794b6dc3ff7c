//! Keys that come and go while streams are open.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::tokens::Token;
use crate::support::{
    EventStream, HttpStub, KeyPair, Kind, Nats, Request, Server, Settings, eventually, tokens,
};

const OLD: &str = "the-old-secret-0123456789-0123456789";
const NEW: &str = "the-new-secret-0123456789-0123456789";

fn with_keys(keys: Value) -> Settings {
    Settings::new()
        .set("auth.keys", keys)
        .set("reload.interval", "0s")
}

fn token(user: i64, secret: &str) -> String {
    let rights = json!({"publish": ["*"]});
    Token::of(user).claim("notify", rights).sign_hs256(secret)
}

async fn publish(server: &Server, token: &str, users: &[i64]) {
    for user in users {
        let message = json!({"type": "note", "channel": format!("user:{user}"), "data": {}});
        let request = Request::new("POST", "/api/v1/messages/send").bearer(token);
        assert_eq!(server.send(request.json(&message)).await.status, 202);
    }
}

async fn refused(server: &Server, token: &str) -> String {
    let mut response = server.events(token).await;
    assert_eq!(response.status, 401);
    response.json().await["detail"].as_str().unwrap().to_owned()
}

async fn ends_for_the_key(mut stream: EventStream) {
    let closing = stream.expect_type("closing").await;
    assert_eq!(closing.data["reason"], "key_removed");
    assert_eq!(closing.data["reconnect"], false);
    stream.expect_end().await;
}

async fn ticket(server: &Server, token: &str) -> String {
    let request = Request::new("POST", "/events/ticket").bearer(token);
    let answer = server.send(request).await.json().await;
    answer["ticket"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_key_is_rotated_without_anybody_noticing_but_those_of_the_old_one() {
    let [old, new] = [json!({"secret": OLD}), json!({"secret": NEW})];
    let server = Server::start(with_keys(json!([old]))).await;
    let mut first = server.connect_with(&token(1, OLD)).await;
    assert_eq!(server.events(&token(2, NEW)).await.status, 401);

    // Two valid keys.
    let both = server
        .settings()
        .clone()
        .set("auth.keys", json!([new, old]));
    server.reload_with(&both).await;
    let line = server
        .log_line(|line| line.message() == "the configuration was read again")
        .await;
    assert_eq!(line.text("changed"), "auth.keys");
    let mut second = server.connect_with(&token(2, NEW)).await;
    let third = server.connect_with(&token(3, OLD)).await;
    publish(&server, &token(9, OLD), &[1, 2]).await;
    first.expect_type("note").await;
    second.expect_type("note").await;
    let [of_old, of_new] = [
        ticket(&server, &token(3, OLD)).await,
        ticket(&server, &token(2, NEW)).await,
    ];

    // Only the new one.
    let only = server.settings().clone().set("auth.keys", json!([new]));
    server.reload_with(&only).await;
    refused(&server, &token(1, OLD)).await;
    let spoiled = server.get(&format!("/events?ticket={of_old}")).await;
    assert_eq!(spoiled.status, 401);
    let taken = server.get(&format!("/events?ticket={of_new}")).await;
    assert_eq!(taken.status, 200);
    let poll = Request::get("/events/poll").bearer(&token(1, OLD));
    assert_eq!(server.send(poll).await.status, 401);
    ends_for_the_key(first).await;
    ends_for_the_key(third).await;
    publish(&server, &token(9, NEW), &[2]).await;
    second.expect_type("note").await;
    let ended = "notify_sessions_ended_total";
    server.metric_becomes(ended, "key_removed", 2.0).await;
    assert_eq!(server.metric(ended, "token_revoked").await, 0.0);
    for secret in [OLD, NEW] {
        assert!(!server.process().stderr().contains(secret));
    }
}

async fn get(server: &Server, target: &str, secret: &str) -> Value {
    let token = Token::of(900)
        .claim("notify", json!({"admin": true}))
        .sign_hs256(secret);
    let mut response = server.send(Request::get(target).bearer(&token)).await;
    assert_eq!(response.status, 200);
    response.json().await
}

/// What is told of the keys, without the name that is made of each.
async fn keys(server: &Server, secret: &str) -> Vec<(Value, Value, Value)> {
    let stats = get(server, "/api/v1/connections/stats", secret).await;
    let keys = stats["keys"].as_array().unwrap().iter();
    let told = |key: &Value| {
        assert_eq!(key["key"].as_str().unwrap().len(), 32, "{key}");
        (
            key["kid"].clone(),
            key["connections"].clone(),
            key["taken_by"].clone(),
        )
    };
    keys.map(told).collect()
}

#[tokio::test]
async fn by_which_key_streams_are_open_shows_on_any_instance_while_keys_are_rotated() {
    let nats = Nats::start().await;
    let [old, new] = [
        json!({"kid": "2026-05", "secret": OLD}),
        json!({"kid": "2026-11", "secret": NEW}),
    ];
    let settings = with_keys(json!([old])).nats(&nats);
    let first = Server::start(settings.clone()).await;
    let second = Server::start(settings.clone()).await;
    eventually("the instances to know each other", || async {
        let stats = get(&first, "/api/v1/connections/stats", OLD).await;
        (stats["instances"]["replied"].as_array()?.len() == 2).then_some(())
    })
    .await;
    let of_old_key = [
        first.connect_with(&token(1, OLD)).await,
        second.connect_with(&token(2, OLD)).await,
    ];
    let both = settings.clone().set("auth.keys", json!([new, old]));
    first.reload_with(&both).await;
    let _of_new = first.connect_with(&token(3, NEW)).await;
    // Not on all instances yet.
    let expected = [
        (json!("2026-11"), json!(1), json!(1)),
        (json!("2026-05"), json!(2), json!(2)),
    ];
    let mut told = keys(&first, OLD).await;
    told.sort_by_key(|(kid, ..)| kid.as_str() != Some("2026-11"));
    assert_eq!(told, expected);
    second.reload().await;
    assert!(
        keys(&second, NEW)
            .await
            .contains(&(json!("2026-11"), json!(1), json!(2)))
    );
    for server in [&first, &second] {
        let page = get(server, "/api/v1/connections", NEW).await;
        let connections = page["connections"].as_array().unwrap();
        let mut by: Vec<(i64, &str)> = connections
            .iter()
            .map(|one| {
                (
                    one["user_id"].as_i64().unwrap(),
                    one["kid"].as_str().unwrap(),
                )
            })
            .collect();
        by.sort_unstable();
        assert_eq!(by, [(1, "2026-05"), (2, "2026-05"), (3, "2026-11")]);
        for secret in [OLD, NEW] {
            assert!(!page.to_string().contains(secret));
        }
    }
    // When they have other tokens, nothing is by the old key.
    drop(of_old_key);
    eventually("no stream to be by the old key", || async {
        let told = keys(&first, NEW).await;
        told.contains(&(json!("2026-05"), json!(0), json!(2)))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_content_of_a_key_file_counts_although_the_configuration_has_not_changed() {
    let pairs = [Kind::Ed25519, Kind::P256].map(KeyPair::generate);
    let settings = Settings::new()
        .set("auth.keys", json!([{"pem_file": "key.pem"}]))
        .set("reload.interval", "100ms");
    let file = settings.directory().join("key.pem");
    std::fs::copy(pairs[0].public_file(), &file).unwrap();
    let server = Server::start(settings).await;
    let [one, other] = [0, 1].map(|pair| Token::of(2).sign(&pairs[pair]));
    let stream = server.connect_with(&one).await;
    std::fs::copy(pairs[1].public_file(), &file).unwrap();
    ends_for_the_key(stream).await;
    let _stream = server.connect_with(&other).await;
    assert_eq!(server.events(&one).await.status, 401);
    let line = server
        .log_line(|line| line.message() == "the configuration was read again")
        .await;
    assert_eq!(line.text("changed"), "auth.keys");
}

/// It is the same key, and its streams have nothing to do with how it was given.
#[tokio::test]
async fn a_key_that_is_given_in_another_way_is_the_same() {
    for kind in [Kind::Ed25519, Kind::P256, Kind::Rsa] {
        let pair = KeyPair::generate(kind);
        let server = Server::start(with_keys(json!([{"pem": pair.public_pem()}]))).await;
        let token = Token::of(2)
            .kid("k")
            .claim("notify", json!({"publish": ["*"]}))
            .sign(&pair);
        let mut stream = server.connect_with(&token).await;
        let set = server.settings().directory().join("jwks.json");
        std::fs::write(&set, json!({"keys": [pair.jwk("k")]}).to_string()).unwrap();
        let other = server
            .settings()
            .clone()
            .set("auth.keys", json!([{"jwks_file": "jwks.json"}]));
        server.reload_with(&other).await;
        publish(&server, &token, &[2]).await;
        stream.expect_type("note").await;
        assert_eq!(server.metric("notify_sessions_ended_total", "").await, 0.0);
    }
}

#[tokio::test]
async fn a_key_set_at_another_address_is_fetched_before_it_counts() {
    let (old, new) = (
        KeyPair::generate(Kind::Ed25519),
        KeyPair::generate(Kind::Ed25519),
    );
    let stubs = [&old, &new].map(|pair| HttpStub::serve(json!({"keys": [pair.jwk("k")]})));
    let urls = [0, 1].map(|stub: usize| json!([{"jwks_url": stubs[stub].url("/jwks.json")}]));
    let server = Server::start(with_keys(urls[0].clone())).await;
    let stream = server.connect_with(&Token::of(1).kid("k").sign(&old)).await;
    server
        .reload_with(&server.settings().clone().set("auth.keys", urls[1].clone()))
        .await;
    // At no moment is there no key.
    let _other = server.connect_with(&Token::of(2).kid("k").sign(&new)).await;
    ends_for_the_key(stream).await;
    assert_eq!(
        server
            .events(&Token::of(1).kid("k").sign(&old))
            .await
            .status,
        401
    );
    assert_eq!(server.get("/ready").await.status, 200);
}

#[tokio::test]
async fn a_key_that_leaves_its_set_is_gone_and_a_set_that_is_away_takes_none() {
    let (old, new) = (
        KeyPair::generate(Kind::Ed25519),
        KeyPair::generate(Kind::Ed25519),
    );
    let stub = HttpStub::serve(json!({"keys": [old.jwk("old"), new.jwk("new")]}));
    let settings = with_keys(json!([{"jwks_url": stub.url("/jwks.json")}]));
    let server = Server::start(settings).await;
    let first = server
        .connect_with(&Token::of(1).kid("old").sign(&old))
        .await;
    let rights = json!({"publish": ["*"]});
    let token = Token::of(2).kid("new").claim("notify", rights).sign(&new);
    let mut second = server.connect_with(&token).await;
    stub.replace(json!("gone"));
    let requests = stub.requests();
    server.reload().await;
    eventually("the set to be asked for", || async {
        (stub.requests() > requests).then_some(())
    })
    .await;
    publish(&server, &token, &[1, 2]).await;
    second.expect_type("note").await;
    stub.replace(json!({"keys": [new.jwk("new")]}));
    server.reload().await;
    let mut first = first;
    first.expect_type("note").await;
    ends_for_the_key(first).await;
    publish(&server, &token, &[2]).await;
    second.expect_type("note").await;
}

/// Clients are asked to come back at a rate, and not all at once.
#[tokio::test]
async fn streams_of_a_removed_key_end_spread_over_time() {
    let settings = with_keys(json!([{"secret": OLD}, {"secret": NEW}]))
        .set("server.max_connections_per_user", 100)
        .set("stream.reconnect_rate", 10);
    let server = Server::start(settings).await;
    let mut streams = Vec::new();
    for _ in 0..30 {
        streams.push(server.connect_with(&token(1, OLD)).await);
    }
    let began = std::time::Instant::now();
    let only = server
        .settings()
        .clone()
        .set("auth.keys", json!([{"secret": NEW}]));
    server.reload_with(&only).await;
    let ends = streams.into_iter().map(|stream| async {
        ends_for_the_key(stream).await;
        began.elapsed()
    });
    let ends = futures_util::future::join_all(ends).await;
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    // 30 streams at 10 a second: within about three seconds, and not within one.
    assert!(
        *last - *first > Duration::from_millis(1_200),
        "{first:?} {last:?}"
    );
    let log = server
        .log_line(|line| line.message() == "streams of keys that are gone end")
        .await;
    assert_eq!(
        (log.text("ended"), log.text("within_ms")),
        ("30".into(), "3000".into())
    );
    assert_eq!(server.events(&tokens::of_user(1)).await.status, 401);
}

/// What nobody has taken away has the benefit of the doubt while a set is missing; what somebody has, has not.
#[tokio::test]
async fn a_key_is_removed_although_a_key_set_was_never_fetched() {
    let stub = HttpStub::serve(json!("no set"));
    let set = json!({"jwks_url": stub.url("/jwks.json")});
    let keys = json!([{"secret": OLD}, {"secret": NEW}, set]);
    let server = Server::start_unready(with_keys(keys)).await;
    let first = server.connect_with(&token(1, OLD)).await;
    let mut second = server.connect_with(&token(2, NEW)).await;
    let spoiled = ticket(&server, &token(1, OLD)).await;
    let only = json!([{"secret": NEW}, set]);
    server
        .reload_with(&server.settings().clone().set("auth.keys", only))
        .await;
    ends_for_the_key(first).await;
    let spoiled = server.get(&format!("/events?ticket={spoiled}")).await;
    assert_eq!(spoiled.status, 401);
    publish(&server, &token(9, NEW), &[2]).await;
    second.expect_type("note").await;
}
