//! `GET /events` on the wire.

use std::collections::HashSet;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::payload::{self, chat_subject};
use crate::support::tokens::{SECRET, Token};
use crate::support::{Event, EventStream, Nats, Process, Request, Server, Settings, tokens};

async fn first_event(server: &Server, user: i64) -> (EventStream, Event) {
    let mut stream = EventStream::new(server.events(&tokens::of_user(user)).await);
    let event = stream.expect_type("connection_confirmed").await;
    (stream, event)
}

#[tokio::test]
async fn headers_keep_proxies_from_buffering() {
    let server = Server::start(Settings::new()).await;
    let request = Request::get("/events")
        .bearer(&tokens::of_user(2))
        .header("accept-encoding", "gzip, br, zstd");
    let response = server.send(request).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    assert_eq!(
        response.header("cache-control"),
        Some("no-cache, no-transform")
    );
    assert_eq!(response.header("x-accel-buffering"), Some("no"));
    assert_eq!(response.header("content-encoding"), None);
    assert_eq!(response.header("content-length"), None);
}

#[tokio::test]
async fn the_first_event_confirms_and_lists_the_chats() {
    let server = Server::start(Settings::new().chat(5, &[2]).chat(9, &[2]).chat(1, &[2, 3])).await;
    let (stream, event) = first_event(&server, 2).await;
    assert_eq!(event.data["user_id"], 2);
    assert_eq!(event.data["connected_chats"], json!([1, 5, 9]));
    assert_eq!(event.data["recovered"], false);
    assert_eq!(event.data["replayed"], 0);
    assert_eq!(event.data["ping_interval_ms"], 30_000);
    assert!(
        event.data["connection_id"]
            .as_str()
            .is_some_and(|id| !id.is_empty())
    );
    let timestamp = event.data["timestamp"].as_str().unwrap();
    assert!(
        timestamp.ends_with('Z') && timestamp.len() == 24,
        "{timestamp}"
    );
    assert_eq!(event.name, None);
    assert!(!stream.last_event_id().is_empty());
    assert!(stream.retry().is_some());
}

#[tokio::test]
async fn a_user_without_chats_is_confirmed_too() {
    let server = Server::start(Settings::new()).await;
    let (_stream, event) = first_event(&server, 2).await;
    assert_eq!(event.data["connected_chats"], json!([]));
}

#[tokio::test]
async fn connections_have_ids_of_their_own() {
    let server = Server::start(Settings::new()).await;
    let (_one, first) = first_event(&server, 2).await;
    let (_two, second) = first_event(&server, 2).await;
    assert_ne!(first.data["connection_id"], second.data["connection_id"]);
}

#[tokio::test]
async fn the_first_event_comes_at_once() {
    let server = Server::start(Settings::new()).await;
    let before = Instant::now();
    let _open = first_event(&server, 2).await;
    let took = before.elapsed();
    // It takes a few milliseconds; what this would notice is a buffer that waits to be filled.
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn clients_are_told_different_times_to_come_back() {
    let server = Server::start(Settings::new()).await;
    let mut times = HashSet::new();
    for user in 0..20 {
        let (stream, _) = first_event(&server, user).await;
        let retry = stream.retry().unwrap();
        assert!(
            (2200..=3300).contains(&retry),
            "{retry} is within 20 % of 2750"
        );
        times.insert(retry);
    }
    assert!(times.len() > 5, "{times:?}");
}

#[tokio::test]
async fn the_time_to_come_back_is_configurable() {
    let server = Server::start(Settings::new().set("stream.retry", "10s")).await;
    let (stream, _) = first_event(&server, 2).await;
    assert!((8000..=12_000).contains(&stream.retry().unwrap()));
}

#[tokio::test]
async fn pings_come_without_an_id() {
    let nats = Nats::start().await;
    let settings = Settings::new()
        .nats(&nats)
        .set("stream.ping_interval", "100ms");
    let server = Server::start(settings).await;
    let (mut stream, confirmed) = first_event(&server, 2).await;
    assert_eq!(confirmed.data["ping_interval_ms"], 100);
    let backend = nats.backend().await;
    backend
        .publish(&chat_subject(5), &payload::message(5, "x", &[2]))
        .await;
    stream.expect_type("new_message").await;
    let last_event_id = stream.last_event_id().to_owned();
    assert!(!last_event_id.is_empty());
    for _ in 0..3 {
        let ping = stream.expect_ping().await;
        assert_eq!(ping.id, None);
        assert!(ping.data["timestamp"].is_string());
    }
    assert_eq!(stream.last_event_id(), last_event_id);
}

#[tokio::test]
async fn events_have_ids_that_differ() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let (mut one, _) = first_event(&server, 2).await;
    let (mut two, _) = first_event(&server, 3).await;
    let backend = nats.backend().await;
    let mut ids = HashSet::new();
    for _ in 0..3 {
        backend
            .publish(&chat_subject(5), &payload::message(5, "x", &[2, 3]))
            .await;
        let id = one.expect_type("new_message").await.id;
        assert_eq!(two.expect_type("new_message").await.id, id);
        assert!(ids.insert(id.expect("durable events have an id")));
    }
}

#[tokio::test]
async fn events_are_named_for_those_who_ask() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let request = Request::get("/events?named=true").bearer(&tokens::of_user(2));
    let mut stream = EventStream::new(server.send(request).await);
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.name.as_deref(), Some("connection_confirmed"));
    let backend = nats.backend().await;
    backend
        .publish(&chat_subject(5), &payload::message(5, "x", &[2]))
        .await;
    let event = stream.expect_type("new_message").await;
    assert_eq!(event.name.as_deref(), Some("new_message"));
}

#[tokio::test]
async fn a_client_that_comes_back_is_confirmed_first_whatever_id_it_has() {
    let nats = Nats::start().await;
    // Of two threads one may be a moment behind, and what a stream of the other has had new to its own.
    let settings = Settings::new().nats(&nats).set("server.workers", 1);
    let server = Server::start(settings).await;
    let backend = nats.backend().await;
    let stream = server.connect(2).await;
    for id in [stream.last_event_id(), "1-2-3", "never given out"] {
        let request = Request::get("/events")
            .bearer(&tokens::of_user(2))
            .header("last-event-id", id);
        let mut stream = EventStream::new(server.send(request).await);
        stream.expect_type("connection_confirmed").await;
        backend
            .publish(&chat_subject(5), &payload::message(5, id, &[2]))
            .await;
        let mut event = stream.next().await;
        if event.kind() == "gap" {
            event = stream.next().await;
        }
        assert_eq!(event.data["message"]["content"], id);
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let settings = Settings::new().set("stream.expiry_warning", "2s");
    let server = Server::start(settings).await;
    let token = Token::of(2).expires_in(4).sign_hs256(SECRET);
    let mut stream = server.connect_with(&token).await;
    let expires = tokens::now() + 4;
    let warning = stream.expect_type("token_expiring").await;
    assert_eq!(warning.id, None);
    assert!(tokens::now() < expires);
    let closing = stream.expect_type("closing").await;
    assert_eq!(closing.data["reason"], "token_expired");
    assert_eq!(closing.data["reconnect"], false);
    assert!(closing.data["retry_ms"].is_u64());
    assert_eq!(closing.id, None);
    assert!((expires - 1..=expires + 2).contains(&tokens::now()));
    stream.expect_end().await;
    let log = server
        .log_line(|line| line.message() == "disconnected")
        .await;
    assert_eq!(log.text("reason"), "token_expired");
}

#[tokio::test]
async fn a_token_that_is_about_to_expire_is_warned_of_at_once() {
    let server = Server::start(Settings::new()).await;
    let token = Token::of(2).expires_in(30).sign_hs256(SECRET);
    let mut stream = server.connect_with(&token).await;
    stream.expect_type("token_expiring").await;
}

#[tokio::test]
async fn head_answers_like_get_without_a_stream() {
    let server = Server::start(Settings::new()).await;
    let head = Request::new("HEAD", "/events");
    let response = server.send(head.clone().bearer(&tokens::of_user(2))).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    assert_eq!(
        response.header("cache-control"),
        Some("no-cache, no-transform")
    );
    assert_eq!(server.metric("notify_connections", "").await, 0.0);
    assert_eq!(server.send(head).await.status, 401);
}

#[tokio::test]
async fn other_methods_are_refused() {
    let server = Server::start(Settings::new()).await;
    let request = Request::new("POST", "/events").bearer(&tokens::of_user(2));
    let response = server.send(request).await;
    assert_eq!(response.status, 405);
    let allow = response.header("allow").unwrap().to_owned();
    for method in ["GET", "HEAD", "OPTIONS"] {
        assert!(allow.contains(method), "{allow}");
    }
}

#[tokio::test]
async fn curl_prints_what_arrives() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let url = format!(
        "{}/events?access_token={}",
        server.url(),
        tokens::of_user(2)
    );
    let curl = Process::spawn("curl", Command::new("curl").args(["-sS", "-i", "-N", &url]));
    curl.stdout_line(|line| line.starts_with("data: {\"type\":\"connection_confirmed\""))
        .await;
    let backend = nats.backend().await;
    backend
        .publish(&chat_subject(5), &payload::message(5, "for curl", &[2]))
        .await;
    let data = curl.stdout_line(|line| line.contains("for curl")).await;
    assert!(
        data.starts_with("data: {\"type\":\"new_message\",\"chat_id\":5,"),
        "{data}"
    );
    let text = curl.stdout();
    let (head, body) = text.split_once("\n\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(body.starts_with("retry: "), "{body}");
}
