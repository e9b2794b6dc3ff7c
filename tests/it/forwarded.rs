//! From where clients come, behind proxies that are trusted and before those that are not.

use serde_json::{Value, json};

use crate::support::tokens::Token;
use crate::support::{Request, Response, Server, Settings, tokens};

/// One stream for each address.
fn one_each() -> Settings {
    Settings::new().set("server.max_connections_per_address", 1)
}

fn behind_a_proxy() -> Settings {
    one_each().set("server.trusted_proxies", json!(["127.0.0.1", "10.0.0.0/8"]))
}

async fn open(server: &Server, header: &str, value: &str) -> Response {
    let request = Request::get("/events").bearer(&tokens::of_user(1));
    server.send(request.header(header, value)).await
}

/// Where the streams come from that the list of connections shows.
async fn shown(server: &Server) -> Vec<String> {
    let admin = Token::of(9).claim("notify", json!({"admin": true}));
    let request = Request::get("/api/v1/connections").bearer(&admin.sign_hs256(tokens::SECRET));
    let page: Value = server.send(request).await.json().await;
    let connections = page["connections"].as_array().unwrap();
    let remote = |connection: &Value| connection["remote"].as_str().unwrap().to_owned();
    connections.iter().map(remote).collect()
}

#[tokio::test]
async fn nobody_can_choose_an_address_without_being_trusted() {
    let server = Server::start(one_each()).await;
    let _first = open(&server, "x-forwarded-for", "192.0.2.1").await;
    for header in ["x-forwarded-for", "forwarded", "x-real-ip"] {
        let other = open(&server, header, "192.0.2.2").await;
        assert_eq!(other.status, 429, "{header}");
    }
    let shown = shown(&server).await;
    assert!(
        shown.iter().all(|remote| remote.starts_with("127.0.0.1:")),
        "{shown:?}"
    );
}

#[tokio::test]
async fn clients_of_a_trusted_proxy_are_told_apart() {
    let server = Server::start(behind_a_proxy()).await;
    let header = "x-forwarded-for";
    let first = open(&server, header, "192.0.2.1").await;
    assert_eq!(first.status, 200);
    assert_eq!(shown(&server).await, ["192.0.2.1"]);
    // What the client itself has written stands further left, and other proxies are further right.
    for value in [
        "192.0.2.1",
        "203.0.113.7, 192.0.2.1",
        "203.0.113.7, 192.0.2.1, 10.1.2.3",
        "::ffff:192.0.2.1",
    ] {
        assert_eq!(open(&server, header, value).await.status, 429, "{value}");
    }
    let line = server.limit_line("address_connections").await;
    assert_eq!(line.text("address"), "192.0.2.1");
    // An IPv6 network is one client.
    let _network = open(&server, header, "2001:db8::1").await;
    assert_eq!(
        open(&server, header, "[2001:db8::2]:4711").await.status,
        429
    );
    let other = open(&server, header, "2001:db8:0:1::1").await;
    assert_eq!(other.status, 200);
    // For whom nobody knows there is no limit.
    let mut unknown = Vec::new();
    for value in ["unknown", "_hidden", "", "1.2.3", "10.0.0.7"] {
        let response = open(&server, header, value).await;
        assert_eq!(response.status, 200, "{value}");
        unknown.push(response);
    }
    // The other header is anybody's.
    assert_eq!(
        open(&server, "forwarded", "for=192.0.2.1").await.status,
        200
    );
}

#[tokio::test]
async fn rfc_7239_is_understood_where_it_is_chosen() {
    let server = Server::start(behind_a_proxy().set("server.forwarded_header", "forwarded")).await;
    let header = "forwarded";
    let _first = open(&server, header, "for=192.0.2.1;proto=https").await;
    let _second = open(&server, header, "for=\"[2001:db8::1]:4711\"").await;
    for value in [
        "for=192.0.2.1",
        "for=203.0.113.7, for=192.0.2.1;by=10.0.0.1, for=10.0.0.9",
        "for=\"203.0.113.7, for=192.0.2.1",
        "For=\"[2001:db8::ffff]\"",
    ] {
        assert_eq!(open(&server, header, value).await.status, 429, "{value}");
    }
    for value in ["for=192.0.2.2", "for=unknown", "for=_x", "garbage"] {
        assert_eq!(open(&server, header, value).await.status, 200, "{value}");
    }
    let mut shown = shown(&server).await;
    shown.sort();
    assert!(shown.contains(&"2001:db8::1".to_owned()), "{shown:?}");
}

#[tokio::test]
async fn how_much_of_an_ipv6_address_counts_is_configured() {
    let server = Server::start(behind_a_proxy().set("server.ipv6_prefix", 48)).await;
    let _first = open(&server, "x-forwarded-for", "2001:db8:0:1::1").await;
    let near = open(&server, "x-forwarded-for", "2001:db8:0:ffff::1").await;
    assert_eq!(near.status, 429);
    let far = open(&server, "x-forwarded-for", "2001:db8:1::1").await;
    assert_eq!(far.status, 200);
}

#[tokio::test]
async fn settings_that_make_no_sense_are_named() {
    let settings = Settings::new()
        .set("server.trusted_proxies", json!(["proxy.example.com"]))
        .set("server.ipv6_prefix", 129)
        .set("server.max_headers", "1 MiB")
        .set("server.max_uri", 10);
    let outcome = settings.run(&["check-config"]).await;
    assert_eq!(outcome.code, Some(2));
    for named in [
        "server.trusted_proxies",
        "\"proxy.example.com\" is no network such as 10.0.0.0/8",
        "server.ipv6_prefix",
        "from 1 to 128",
        "server.max_headers",
        "server.max_uri",
        "from 1 KiB to 64 KiB",
    ] {
        assert!(
            outcome.stderr.contains(named),
            "{named}: {}",
            outcome.stderr
        );
    }
    let wrong = Settings::new().set("server.memory_limit", "much");
    let outcome = wrong.run(&["check-config"]).await;
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome.stderr.contains("auto, off, or a size"),
        "{}",
        outcome.stderr
    );
    let wrong = Settings::new().set("server.forwarded_header", "x-real-ip");
    let outcome = wrong.run(&["check-config"]).await;
    assert!(
        outcome.stderr.contains("x-forwarded-for"),
        "{}",
        outcome.stderr
    );
}
