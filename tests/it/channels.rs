//! Streams of channels that are asked for by name, and who may have them.

use serde_json::{Value, json};

use crate::explain::of_one_thread;
use crate::support::payload::{self, chat_subject};
use crate::support::tokens::Token;
use crate::support::{Backend, EventStream, Nats, Request, Server, Settings, tokens};

/// A token that may listen on what the patterns say.
fn subscriber(user: i64, patterns: &[&str]) -> String {
    Token::of(user)
        .claim("notify", json!({"subscribe": patterns}))
        .sign_hs256(tokens::SECRET)
}

async fn open(server: &Server, target: &str, token: &str) -> EventStream {
    let request = Request::get(target).bearer(token);
    let mut stream = EventStream::new(server.send(request).await);
    stream.expect_type("connection_confirmed").await;
    stream
}

async fn refused(server: &Server, target: &str, token: &str) -> (u16, Value) {
    let mut response = server.send(Request::get(target).bearer(token)).await;
    (response.status, response.json().await)
}

async fn progress(backend: &Backend, channel: &str, percent: i64) {
    let event = json!({"type": "job.progress", "channel": channel, "data": {"percent": percent}});
    backend.publish("fechatter.realtime.job", &event).await;
}

#[tokio::test]
async fn a_stream_of_channels_has_named_events_of_those_channels_only() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let token = subscriber(1, &["job:*"]);
    let request = Request::get("/sse/stream/job:1,job:%E9%A1%B9").bearer(&token);
    let mut stream = EventStream::new(server.send(request).await);
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["channels"], json!(["job:1", "job:项"]));
    assert_eq!(confirmed.data["connected_chats"], json!([]));
    let backend = nats.backend().await;
    for (channel, percent) in [("job:1", 1), ("job:2", 2), ("job:项", 3)] {
        progress(&backend, channel, percent).await;
    }
    for percent in [1, 3] {
        let event = stream.expect_type("job.progress").await;
        assert_eq!(event.name.as_deref(), Some("job.progress"));
        assert_eq!(event.data["data"]["percent"], percent);
    }
}

#[tokio::test]
async fn names_can_be_left_out() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let token = subscriber(1, &["*"]);
    let mut stream = open(&server, "/sse/stream/job:1?named=false", &token).await;
    progress(&nats.backend().await, "job:1", 1).await;
    let event = stream.expect_type("job.progress").await;
    assert_eq!(event.name, None);
}

#[tokio::test]
async fn users_and_services_have_addresses_of_their_own() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let mut own = open(&server, "/sse/user/1", &tokens::of_user(1)).await;
    let token = subscriber(2, &["service:*"]);
    let mut service = open(&server, "/sse/service/billing", &token).await;
    let backend = nats.backend().await;
    let push = json!({"type": "progress", "service": "billing", "target": {"user_id": 1}});
    backend.publish("fechatter.realtime.push", &push).await;
    own.expect_type("progress").await;
    service.expect_type("progress").await;
    let (status, problem) = refused(&server, "/sse/user/1", &tokens::of_user(2)).await;
    assert_eq!(status, 403, "{problem}");
}

#[tokio::test]
async fn who_may_not_listen_is_told_on_which_channel() {
    let server = Server::start(Settings::new().chat(5, &[1])).await;
    let token = subscriber(1, &["job:*"]);
    for (channel, status) in [
        ("job:1", 200),
        ("user:1:notes", 200),
        ("chat:5", 200),
        ("chat:6", 403),
        ("user:2", 403),
        ("service:billing", 403),
    ] {
        let target = format!("/sse/stream/job:2,{channel}");
        let mut response = server.send(Request::get(&target).bearer(&token)).await;
        assert_eq!(response.status, status, "{channel}");
        if status == 403 {
            let problem = response.json().await;
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(channel), "{detail}");
        }
    }
    assert_eq!(server.get("/sse/stream/job:1").await.status, 401);
}

#[tokio::test]
async fn what_is_no_channel_is_refused_with_the_reason() {
    let server = Server::start(Settings::new()).await;
    let token = subscriber(1, &["*"]);
    let many: Vec<String> = (0..101).map(|number| format!("job:{number}")).collect();
    for (channels, says) in [
        ("job", "no colon"),
        ("job:", "empty"),
        ("job%20x:1", "resource"),
        ("job:a*b", "'*'"),
        (&format!("job:{}", "x".repeat(201)), "200"),
        (&many.join(","), "100"),
    ] {
        let (status, problem) = refused(&server, &format!("/sse/stream/{channels}"), &token).await;
        assert_eq!((status, &problem["field"]), (422, &json!("channel")));
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{detail}");
    }
}

#[tokio::test]
async fn a_stream_of_channels_is_resumed_like_any_other() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats).set("history.max_events", 3);
    let server = Server::start(of_one_thread(settings)).await;
    let token = subscriber(1, &["job:*"]);
    let mut stream = open(&server, "/sse/stream/job:1", &token).await;
    let backend = nats.backend().await;
    progress(&backend, "job:1", 0).await;
    stream.expect_type("job.progress").await;
    let seen = stream.last_event_id().to_owned();
    drop(stream);
    let mut witness = open(&server, "/sse/stream/job:1", &token).await;
    for percent in 1..=10 {
        progress(&backend, "job:2", percent).await;
        progress(&backend, "job:1", percent).await;
        witness.expect_type("job.progress").await;
    }
    let target = format!("/sse/stream/job:1?last_event_id={seen}");
    let request = Request::get(&target).bearer(&token);
    let mut stream = EventStream::new(server.send(request).await);
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], true);
    for percent in 1..=10 {
        let event = stream.expect_type("job.progress").await;
        assert_eq!(event.data["data"]["percent"], percent);
    }
    stream.expect_type("caught_up").await;
}

#[tokio::test]
async fn who_leaves_a_chat_loses_its_channel_and_with_the_last_one_the_stream() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats).chat(5, &[1, 2])).await;
    let only = "/sse/stream/chat:5";
    let mut only = open(&server, only, &tokens::of_user(1)).await;
    let token = subscriber(1, &["job:*"]);
    let mut both = open(&server, "/sse/stream/chat:5,job:1", &token).await;
    let backend = nats.backend().await;
    let removed = payload::event("member_removed", 5, 1);
    backend.publish("fechatter.chat.events", &removed).await;
    for stream in [&mut only, &mut both] {
        stream.expect_type("chat_member_removed").await;
    }
    let closing = only.expect_type("closing").await;
    assert_eq!(closing.data["reason"], "disconnected");
    assert_eq!(closing.data["reconnect"], false);
    only.expect_end().await;
    let payload = payload::chat_message(5, "after leaving");
    backend.publish(&chat_subject(5), &payload).await;
    progress(&backend, "job:1", 1).await;
    both.expect_type("job.progress").await;
    // Back again, and the chat's events are, too.
    let added = payload::event("member_added", 5, 1);
    backend.publish("fechatter.chat.events", &added).await;
    both.expect_type("chat_member_added").await;
    let payload = payload::chat_message(5, "back");
    backend.publish(&chat_subject(5), &payload).await;
    both.expect_type("new_message").await;
}

#[tokio::test]
async fn the_backend_can_be_asked_for_permissions_and_what_it_does_not_answer_is_denied() {
    let nats = Nats::start().await;
    let settings = Settings::new()
        .nats(&nats)
        .set("authorize.resources", json!(["job"]))
        .set("authorize.subject", "fechatter.may")
        .set("authorize.timeout", "500ms");
    let server = Server::start(settings).await;
    let token = tokens::of_user(7);
    let silent = refused(&server, "/sse/stream/job:1", &token).await;
    assert_eq!(silent.0, 403, "{}", silent.1);
    let backend = nats.backend().await;
    let mut asked = backend
        .answer(
            "fechatter.may",
            |question| json!({"allow": question["channel"] == "job:1"}),
        )
        .await;
    for _ in 0..3 {
        open(&server, "/sse/stream/job:1", &token).await;
        assert_eq!(refused(&server, "/sse/stream/job:2", &token).await.0, 403);
    }
    // Asked once for each, and not at all about what the token or the user's own id allows.
    open(&server, "/sse/stream/user:7", &token).await;
    let questions = [asked.recv().await.unwrap(), asked.recv().await.unwrap()];
    assert_eq!(
        questions,
        [
            json!({"user_id": 7, "channel": "job:1", "action": "subscribe"}),
            json!({"user_id": 7, "channel": "job:2", "action": "subscribe"}),
        ]
    );
    assert!(asked.try_recv().is_err());
    let metric = "notify_authorize_requests_total";
    assert_eq!(server.metric(metric, "answer=\"allowed\"").await, 1.0);
    assert_eq!(server.metric(metric, "answer=\"failed\"").await, 1.0);
    assert_eq!(refused(&server, "/sse/service/x", &token).await.0, 403);
}
