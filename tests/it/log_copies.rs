//! Every event comes twice, as it was published and from the log. What happens when one of the two
//! does not come, comes twice, or is not what it says.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream;
use tempfile::TempDir;

use crate::support::payload::{self, chat_message, chat_subject};
use crate::support::{Nats, Server, Settings};

fn settings(nats: &Nats) -> Settings {
    Settings::new()
        .nats(nats)
        .set("server.workers", 1)
        .chat(5, &[1])
}

#[tokio::test]
async fn what_a_slow_subscription_drops_is_filled_from_the_log() {
    const BURST: u64 = 3_000;
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let settings = settings(&nats)
        .set("nats.pending_limit", 16)
        .set("stream.outbox_events", 2 * BURST)
        .set("stream.outbox_bytes", "16 MiB");
    let server = Server::start(settings).await;
    let mut stream = server.connect(1).await;
    // What the client library reads at once is more than it may keep.
    server.process().signal("STOP");
    backend.count(5, 0..BURST).await;
    backend.logged(BURST).await;
    server.process().signal("CONT");
    stream.expect_count(0..BURST).await;
    assert!(server.metric("notify_bus_dropped_total", "").await > 0.0);
    assert!(server.metric("notify_log_filled_total", "").await > 0.0);
    backend.say(5, "after").await;
    stream.expect_message("after").await;
    assert_eq!(server.metric("notify_log_gaps_total", "").await, 0.0);
}

#[tokio::test]
async fn what_the_log_does_not_take_is_delivered_late_without_an_id_and_delays_nothing() {
    const PARK: Duration = Duration::from_secs(1);
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(settings(&nats)).await;
    let mut stream = server.connect(1).await;
    let refused_by_the_stream = [("Nats-Expected-Last-Sequence", "12345")];
    let beside = chat_message(5, "beside the log");
    let published = Instant::now();
    backend
        .publish_with(&chat_subject(5), &refused_by_the_stream, &beside)
        .await;
    for text in ["one", "two", "three"] {
        backend.say(5, text).await;
        let event = stream.expect_message(text).await;
        assert!(event.id.is_some());
    }
    let last = stream.last_event_id().to_owned();
    let event = stream.expect_message("beside the log").await;
    assert!(published.elapsed() >= PARK, "{:?}", published.elapsed());
    assert_eq!(event.id, None);
    assert_eq!(stream.last_event_id(), last);
    assert_eq!(server.metric("notify_log_unlogged_total", "").await, 1.0);
    // The log knows nothing of it, so it is not replayed.
    let mut again = server.come_back(1, &last).await;
    let confirmed = again.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], true);
    assert_eq!(confirmed.data["replayed"], 0);
}

/// More than JetStream stores in the time, which drops the rest and tells nobody.
#[tokio::test]
async fn what_comes_faster_than_the_log_can_store_is_delivered_all_the_same_and_counted() {
    const BURST: u64 = 5_000;
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("slow.conf");
    let slow = "jetstream { max_buffered_msgs: 20, sync_interval: always }";
    std::fs::write(&config, slow).unwrap();
    let nats = Nats::start_with(&["-c", config.to_str().unwrap()]).await;
    let backend = nats.backend().await;
    let settings = settings(&nats)
        .set("stream.outbox_events", 2 * BURST)
        .set("stream.outbox_bytes", "16 MiB");
    let server = Server::start(settings).await;
    let mut stream = server.connect(1).await;
    backend.count(5, 0..BURST).await;
    let mut numbers = BTreeSet::new();
    let mut last_with_id = None;
    let mut without_id = 0;
    for _ in 0..BURST {
        let event = stream.expect_type("new_message").await;
        let number: u64 = event.content().parse().unwrap();
        assert!(numbers.insert(number), "{number} came twice");
        if event.id.is_some() {
            assert!(last_with_id < Some(number), "{number} is out of order");
            last_with_id = Some(number);
        } else {
            without_id += 1;
        }
    }
    let stored = backend.stream_info().await.state.messages;
    assert!(stored < BURST, "JetStream has taken everything");
    assert_eq!(without_id, BURST - stored);
    let unlogged = server.metric("notify_log_unlogged_total", "").await;
    assert_eq!(unlogged, without_id as f64);
    server
        .log_line(|line| line.level() == "WARN" && line.message().contains("without an id"))
        .await;
    backend.say(5, "after").await;
    let after = stream.expect_message("after").await;
    assert!(after.id.is_some());
}

#[tokio::test]
async fn what_is_published_twice_under_one_message_id_is_delivered_once() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(settings(&nats)).await;
    let mut stream = server.connect(1).await;
    for attempt in ["first", "second"] {
        let event = payload::chat_message(5, attempt);
        backend
            .publish_with(&chat_subject(5), &[("Nats-Msg-Id", "order-66")], &event)
            .await;
    }
    stream.expect_message("first").await;
    server
        .metric_becomes("notify_log_duplicates_total", "", 1.0)
        .await;
    backend.say(5, "another").await;
    stream.expect_message("another").await;
    assert_eq!(server.metric("notify_log_unlogged_total", "").await, 0.0);
}

#[tokio::test]
async fn equal_events_are_delivered_as_often_as_they_were_published() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(settings(&nats)).await;
    let mut stream = server.connect(1).await;
    for _ in 0..5 {
        backend.say(5, "again").await;
    }
    backend.say(5, "end").await;
    for _ in 0..5 {
        stream.expect_message("again").await;
    }
    stream.expect_message("end").await;
}

#[tokio::test]
async fn a_stream_that_republishes_no_more_is_read_instead() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(settings(&nats)).await;
    let mut stream = server.connect(1).await;
    let config = stream::Config {
        republish: None,
        ..backend.stream_info().await.config
    };
    backend.jetstream().update_stream(config).await.unwrap();
    for round in 0..3 {
        backend.count(5, round * 10..round * 10 + 10).await;
        stream.expect_count(round * 10..round * 10 + 10).await;
    }
}

#[tokio::test]
async fn what_somebody_else_publishes_below_the_republish_subject_is_not_delivered() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(settings(&nats)).await;
    let mut stream = server.connect(1).await;
    backend.say(5, "before").await;
    stream.expect_message("before").await;
    let subject = format!("notify.log.{}", chat_subject(5));
    let forged = chat_message(5, "forged");
    let headers: [&[(&str, &str)]; 6] = [
        &[],
        &[("Nats-Stream", "NOTIFY")],
        &[("Nats-Sequence", "2")],
        &[("Nats-Stream", "OTHER"), ("Nats-Sequence", "2")],
        // What was there already, with something else in it, and far ahead.
        &[("Nats-Stream", "NOTIFY"), ("Nats-Sequence", "1")],
        &[("Nats-Stream", "NOTIFY"), ("Nats-Sequence", "5000000")],
    ];
    for headers in headers {
        backend.publish_with(&subject, headers, &forged).await;
    }
    server
        .log_line(|line| line.level() == "WARN" && line.message().contains("not from the log"))
        .await;
    server
        .log_line(|line| line.message().contains("contradicts the log"))
        .await;
    for text in ["after", "and after"] {
        backend.say(5, text).await;
        stream.expect_message(text).await;
    }
    server
        .log_line(|line| line.message().contains("ahead of the log"))
        .await;
    backend.say(5, "long after").await;
    stream.expect_message("long after").await;
    assert_eq!(server.metric("notify_log_gaps_total", "").await, 0.0);
}
