//! Readers that stall: they are ended, nobody else notices, and memory stays bounded.

use crate::support::payload::{self, chat_subject};
use crate::support::{Backend, EventStream, Nats, Request, Response, Server, Settings, tokens};

const KIBIBYTE: usize = 1024;

/// Opens a stream of user 1 and never reads more than its head.
async fn stalled(server: &Server) -> Response {
    let request = Request::get("/events")
        .bearer(&tokens::of_user(1))
        .receive_buffer(4 * KIBIBYTE);
    let response = server.send(request).await;
    assert_eq!(response.status, 200);
    response
}

/// Publishes `count` messages of `size` bytes to users 1 and 2, as fast as user 2 reads them:
/// faster than that would be a test of user 2's outbox.
async fn publish(backend: &Backend, reader: &mut EventStream, count: usize, size: usize) {
    for number in 0..count {
        let content = format!("{number} {}", "x".repeat(size));
        let payload = payload::message(5, &content, &[1, 2]);
        backend.publish(&chat_subject(5), &payload).await;
        let event = reader.expect_type("new_message").await;
        assert_eq!(event.data["message"]["content"], content);
    }
}

#[tokio::test]
async fn a_stalled_reader_is_ended_and_others_miss_nothing() {
    let nats = Nats::start().await;
    // A client that takes nothing is not waited for longer than this, the last event included.
    let settings = Settings::new()
        .nats(&nats)
        .set("history.max_bytes", "1 MiB")
        .set("stream.write_timeout", "3s");
    let server = Server::start(settings).await;
    let _stalled = stalled(&server).await;
    let mut reader = server.connect(2).await;
    let backend = nats.backend().await;
    let before = server.resident_bytes();
    publish(&backend, &mut reader, 300, 100 * KIBIBYTE).await;
    let ended = "notify_sessions_ended_total";
    server
        .metric_becomes(ended, "reason=\"slow_consumer\"", 1.0)
        .await;
    server.metric_becomes("notify_connections", "", 1.0).await;
    let line = server
        .log_line(|line| line.message() == "disconnected" && line.text("reason") == "slow_consumer")
        .await;
    assert_eq!(line.text("user"), "1");
    // 30 MB went through; what may stay is an outbox and a history of 1 MiB, what the bus and the sockets
    // buffer, and what the allocator keeps for later.
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 16 * KIBIBYTE * KIBIBYTE, "{grown} bytes more");
}

#[tokio::test]
async fn a_write_that_makes_no_progress_ends_the_session() {
    let nats = Nats::start().await;
    let settings = Settings::new()
        .nats(&nats)
        .set("stream.write_timeout", "1s")
        .set("stream.outbox_bytes", "1 GiB")
        .set("stream.outbox_events", 1_000_000);
    let server = Server::start(settings).await;
    let _stalled = stalled(&server).await;
    let mut reader = server.connect(2).await;
    let backend = nats.backend().await;
    // More than the kernel takes for a client that doesn't read, so the write stands still.
    publish(&backend, &mut reader, 120, 100 * KIBIBYTE).await;
    let ended = "notify_sessions_ended_total";
    server
        .metric_becomes(ended, "reason=\"slow_consumer\"", 1.0)
        .await;
    publish(&backend, &mut reader, 1, 1).await;
}

#[tokio::test]
async fn a_reader_that_wakes_up_too_late_is_told_why_it_ended() {
    let nats = Nats::start().await;
    // Bounded in events alone, where the other test is bounded in bytes.
    let settings = Settings::new()
        .nats(&nats)
        .set("stream.outbox_bytes", "1 GiB");
    let server = Server::start(settings).await;
    let slow = stalled(&server).await;
    let mut reader = server.connect(2).await;
    let backend = nats.backend().await;
    publish(&backend, &mut reader, 400, 30 * KIBIBYTE).await;
    let events = EventStream::new(slow).rest().await;
    let closing = events.last().unwrap();
    assert_eq!(closing.kind(), "closing");
    assert_eq!(closing.data["reason"], "slow_consumer");
    assert_eq!(closing.data["reconnect"], true);
    // What it did get is the beginning, without holes.
    let messages = &events[1..events.len() - 1];
    for (number, event) in messages.iter().enumerate() {
        let content = event.data["message"]["content"].as_str().unwrap();
        assert!(content.starts_with(&format!("{number} ")));
    }
    assert!(messages.len() < 400);
    let ended = "notify_sessions_ended_total";
    server
        .metric_becomes(ended, "reason=\"slow_consumer\"", 1.0)
        .await;
}

#[tokio::test]
async fn typing_is_shed_before_a_session_is_ended() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats).chat(5, &[1, 2]);
    let server = Server::start(settings).await;
    let mut slow = EventStream::new(stalled(&server).await);
    slow.expect_type("connection_confirmed").await;
    let mut reader = server.connect(2).await;
    let backend = nats.backend().await;
    let mut typing = payload::event("typing_started", 5, 3);
    typing["user_name"] = "x".repeat(30 * KIBIBYTE).into();
    for _ in 0..600 {
        backend.publish(&chat_subject(5), &typing).await;
        reader.expect_type("typing_started").await;
    }
    publish(&backend, &mut reader, 1, 1).await;
    // The stalled reader wakes up: some of the typing is missing, the message isn't.
    let mut seen = 0;
    loop {
        let event = slow.next().await;
        match event.kind() {
            "typing_started" => seen += 1,
            kind => break assert_eq!(kind, "new_message"),
        }
    }
    assert!(seen < 600, "nothing was shed");
    let ended = "notify_sessions_ended_total";
    assert_eq!(server.metric(ended, "").await, 0.0);
}

/// Several times the outbox in one burst, to a reader that reads: it must not be taken for slow.
#[tokio::test]
async fn a_burst_of_large_events_ends_nobody_who_reads() {
    const EVENTS: usize = 40;
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let mut reader = server.connect(1).await;
    let backend = nats.backend().await;
    let content = "x".repeat(200 * KIBIBYTE);
    for number in 0..EVENTS {
        let payload = payload::message(5, &format!("{number} {content}"), &[1]);
        let bytes = serde_json::to_vec(&payload).unwrap();
        backend.send(&chat_subject(5), bytes).await;
    }
    backend.flush().await;
    for number in 0..EVENTS {
        let event = reader.expect_type("new_message").await;
        let received = event.data["message"]["content"].as_str().unwrap();
        assert!(received.starts_with(&format!("{number} ")), "{number}");
    }
}
