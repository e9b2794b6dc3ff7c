//! Readers that stall: they are ended, nobody else notices, and memory stays bounded.

use futures_util::StreamExt as _;
use futures_util::stream::iter;

use crate::explain::of_one_thread;
use crate::support::payload::{self, chat_subject};
use crate::support::{
    Backend, Event, EventStream, Nats, Request, Response, Server, Settings, tokens,
};

const KIBIBYTE: usize = 1024;

/// Opens a stream of user 1 and never reads more than its head.
async fn stalled(server: &Server) -> Response {
    stalled_of(server, 1).await
}

async fn stalled_of(server: &Server, user: i64) -> Response {
    let request = Request::get("/events")
        .bearer(&tokens::of_user(user))
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
    // However long this takes, the stalled reader is not given up for not reading.
    let settings = Settings::new()
        .nats(&nats)
        .set("stream.write_timeout", "5m")
        .chat(5, &[1, 2]);
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
            kind => break assert_eq!(kind, "new_message", "{}", event.data),
        }
    }
    assert!(seen < 600, "nothing was shed");
    let ended = "notify_sessions_ended_total";
    assert_eq!(server.metric(ended, "").await, 0.0);
}

/// A thousand that stall while 100 MB pass.
#[tokio::test]
async fn a_thousand_stalled_readers_take_bounded_memory_and_cost_nobody_an_event() {
    const STALLED: i64 = 1_000;
    const READER: i64 = STALLED + 1;
    const EVENTS: usize = 3_200;
    const EVENT: usize = 32 * KIBIBYTE;
    const AT_ONCE: usize = 8;
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let nats = Nats::start().await;
    let settings = Settings::new()
        .nats(&nats)
        .set("logging.level", "info")
        .set("history.max_bytes", "1 MiB")
        // Long enough for the outboxes to overflow before the kernel gives a peer up that takes
        // nothing, which is at 1.5 times that.
        .set("stream.write_timeout", "4s")
        .chat(5, &(1..=READER).collect::<Vec<_>>());
    let server = Server::start(settings).await;
    let _stalled: Vec<Response> = iter(1..=STALLED)
        .map(|user| stalled_of(&server, user))
        .buffer_unordered(50)
        .collect()
        .await;
    let mut reader = server.connect(READER).await;
    let backend = nats.backend().await;
    let before = server.resident_bytes();
    let mut most = before;
    let content = "x".repeat(EVENT);
    for batch in 0..EVENTS / AT_ONCE {
        let numbers = batch * AT_ONCE..(batch + 1) * AT_ONCE;
        for number in numbers.clone() {
            let payload = payload::chat_message(5, &format!("{number} {content}"));
            let bytes = payload.to_string().into_bytes();
            backend.send(&chat_subject(5), bytes).await;
        }
        backend.flush().await;
        for number in numbers {
            let event = reader.expect_type("new_message").await;
            let received = event.data["message"]["content"].as_str().unwrap();
            assert!(received.starts_with(&format!("{number} ")), "{number}");
        }
        most = most.max(server.resident_bytes());
    }
    let ended = "notify_sessions_ended_total";
    server
        .metric_becomes(ended, "reason=\"slow_consumer\"", STALLED as f64)
        .await;
    server.metric_becomes("notify_connections", "", 1.0).await;
    // Outboxes of 1 MiB each could wait for a gigabyte. But what waits in them are references to
    // frames that all share, and all end at the same place, so that together they hold 1 MiB, as
    // does the history. What a connection has of its own is what it is about to write: less than
    // 32 KiB in the HTTP library's buffer, when it asks for more, and then a piece of at most 32 KiB
    // and the event that crosses this line. The rest is for the bus, the log and the allocator.
    let in_hand = STALLED as usize * (2 * 32 * KIBIBYTE + EVENT);
    let rest = 32 * KIBIBYTE * KIBIBYTE;
    let grown = most - before;
    assert!(grown < in_hand + rest, "{grown} bytes more");
}

/// Ended as too slow, a client goes on where it was, on the same instance or another.
#[tokio::test]
async fn who_was_too_slow_resumes_and_has_lost_nothing() {
    const EVENTS: usize = 300;
    let nats = Nats::start().await;
    let settings = Settings::new()
        .nats(&nats)
        .set("stream.outbox_events", 32)
        .chat(5, &[1, 2]);
    let settings = of_one_thread(settings);
    let server = Server::start(settings.clone()).await;
    let other = Server::start(settings).await;
    let slow = stalled(&server).await;
    let mut reader = server.connect(2).await;
    let backend = nats.backend().await;
    let mut typing = payload::event("typing_started", 5, 3);
    typing["user_name"] = "x".repeat(30 * KIBIBYTE).into();
    for number in 0..EVENTS {
        let payload = payload::chat_message(5, &format!("{number} {}", "x".repeat(30 * KIBIBYTE)));
        backend.publish(&chat_subject(5), &payload).await;
        reader.expect_type("new_message").await;
        // Some of it never arrives, which moves nothing.
        if number % 10 == 0 {
            backend.publish(&chat_subject(5), &typing).await;
            reader.expect_type("typing_started").await;
        }
    }
    let ended = "notify_sessions_ended_total";
    let mut slow = EventStream::new(slow);
    let mut messages = 0;
    let closing = loop {
        let event = slow.next().await;
        match event.kind() {
            "new_message" => messages = assert_number(&event, messages),
            "connection_confirmed" | "typing_started" => {}
            _ => break event,
        }
    };
    assert_eq!(closing.kind(), "closing");
    assert_eq!(closing.data["reason"], "slow_consumer");
    assert!(0 < messages && messages < EVENTS, "{messages}");
    server
        .metric_becomes(ended, "reason=\"slow_consumer\"", 1.0)
        .await;
    for instance in [&other, &server] {
        let request = Request::get("/events")
            .bearer(&tokens::of_user(1))
            .header("last-event-id", slow.last_event_id());
        let mut resumed = EventStream::new(instance.send(request).await);
        let confirmed = resumed.expect_type("connection_confirmed").await;
        assert_eq!(confirmed.data["recovered"], true);
        let mut next = messages;
        while next < EVENTS {
            let event = resumed.next().await;
            match event.kind() {
                "new_message" => next = assert_number(&event, next),
                "caught_up" => {}
                other => panic!("{other}: {}", event.data),
            }
        }
    }
}

/// The event must be the message of this number; gives the next.
fn assert_number(event: &Event, number: usize) -> usize {
    let content = event.data["message"]["content"].as_str().unwrap();
    assert!(content.starts_with(&format!("{number} ")), "{number}");
    number + 1
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
