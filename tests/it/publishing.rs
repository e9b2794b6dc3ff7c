//! Publishing over HTTP to the bus that needs no NATS.

use serde_json::json;

use crate::support::payload;
use crate::support::tokens::{SECRET, Token};
use crate::support::{EventStream, Request, Response, Server, Settings, tokens};

const PATH: &str = "/api/v1/bus/fechatter.realtime.chat.5";

async fn publish(server: &Server, token: &str, body: &str) -> Response {
    let request = Request::new("POST", PATH).bearer(token).body(body);
    server.send(request).await
}

#[tokio::test]
async fn what_is_published_over_http_arrives() {
    let server = Server::start(Settings::new().chat(5, &[1, 2])).await;
    let mut streams = [server.connect(1).await, server.connect(2).await];
    let admin = Token::of(9)
        .claim("notify", json!({"admin": true}))
        .sign_hs256(SECRET);
    for token in [tokens::of_publisher(9), admin] {
        let body = payload::chat_message(5, "hello").to_string();
        let mut response = publish(&server, &token, &body).await;
        assert_eq!(response.status, 202);
        let answer = response.json().await;
        for stream in &mut streams {
            let event = stream.expect_type("new_message").await;
            assert_eq!(event.id.as_deref(), answer["id"].as_str(), "{answer}");
        }
        assert!(answer["position"].is_u64(), "{answer}");
    }
}

#[tokio::test]
async fn publishing_takes_the_right_to() {
    let server = Server::start(Settings::new()).await;
    let body = payload::chat_message(5, "hello").to_string();
    let anonymous = server
        .send(Request::new("POST", PATH).body(body.clone()))
        .await;
    assert_eq!(anonymous.status, 401);
    assert_eq!(
        publish(&server, &tokens::of_user(2), &body).await.status,
        403
    );
    let reader = Token::of(2)
        .claim("notify", json!({"subscribe": ["*"]}))
        .sign_hs256(SECRET);
    assert_eq!(publish(&server, &reader, &body).await.status, 403);
}

#[tokio::test]
async fn what_is_no_event_is_refused_with_the_reason() {
    let server = Server::start(Settings::new()).await;
    let token = tokens::of_publisher(1);
    for (body, word) in [
        ("{nope", "JSON"),
        (r#"{"TypingStarted":{"chat_id":5}}"#, "user_id"),
    ] {
        let mut response = publish(&server, &token, body).await;
        assert_eq!(response.status, 422);
        assert_eq!(
            response.header("content-type"),
            Some("application/problem+json")
        );
        let problem = response.json().await;
        assert!(
            problem["detail"].as_str().unwrap().contains(word),
            "{problem}"
        );
    }
    let large = payload::chat_message(5, &"x".repeat(300 * 1024)).to_string();
    assert_eq!(publish(&server, &token, &large).await.status, 413);
}

#[tokio::test]
async fn only_subjects_that_are_listened_on_can_be_published_on() {
    let server = Server::start(Settings::new()).await;
    let token = tokens::of_publisher(1);
    let body = payload::chat_message(5, "hello").to_string();
    for (subject, word) in [
        ("elsewhere.chat.5", "fechatter.realtime.>"),
        ("$JS.API.STREAM.PURGE.x", "fechatter.realtime.>"),
        ("fechatter.realtime.*", "wildcard"),
        ("fechatter..realtime", "empty"),
    ] {
        let target = format!("/api/v1/bus/{subject}");
        let request = Request::new("POST", &target).bearer(&token);
        let mut response = server.send(request.body(body.clone())).await;
        assert_eq!(response.status, 422, "{subject}");
        let problem = response.json().await;
        assert_eq!(problem["field"], "subject", "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(word), "{detail}");
    }
}

/// Browsers add cookies to what other sites' forms post.
#[tokio::test]
async fn a_cookie_is_no_right_to_publish() {
    let server = Server::start(Settings::new()).await;
    let cookie = format!("access_token={}", tokens::of_publisher(1));
    let body = payload::chat_message(5, "hello").to_string();
    let request = Request::new("POST", PATH)
        .header("cookie", &cookie)
        .header("content-type", "text/plain")
        .body(body);
    assert_eq!(server.send(request).await.status, 401);
}

#[tokio::test]
async fn without_authentication_a_parameter_says_who_one_is_on_this_machine_only() {
    let settings = Settings::new().set("auth.enabled", false).chat(5, &[1]);
    let server = Server::start(settings).await;
    assert_eq!(server.get("/events").await.status, 422);
    let mut stream = EventStream::new(server.get("/events?user_id=1").await);
    stream.expect_type("connection_confirmed").await;
    let target = format!("{PATH}?user_id=2");
    let body = payload::chat_message(5, "hello").to_string();
    let published = server.send(Request::new("POST", &target).body(body)).await;
    assert_eq!(published.status, 202);
    stream.expect_type("new_message").await;
    // A page of another name that was made to resolve to this machine.
    let rebound = Request::get("/events?user_id=1").header("host", "rebound.example:6687");
    assert_eq!(server.send(rebound).await.status, 403);
}
