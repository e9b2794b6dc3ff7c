//! Publishing over HTTP to the bus that needs no NATS.

use serde_json::json;

use crate::support::payload;
use crate::support::tokens::{SECRET, Token};
use crate::support::{Request, Response, Server, Settings, tokens};

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
