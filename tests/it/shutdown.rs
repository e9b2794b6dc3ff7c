//! Stopping: every stream is told, the exit is clean, and in time.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::{FuturesUnordered, iter};

use crate::explain::of_one_thread;
use crate::support::payload::{self, chat_subject};
use crate::support::{EventStream, Nats, Request, Server, Settings, eventually, tokens};

const STREAMS: i64 = 2000;

async fn open_streams(server: &Server) -> Vec<EventStream> {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    iter(0..STREAMS)
        .map(|user| server.connect(user))
        .buffer_unordered(50)
        .collect()
        .await
}

#[tokio::test]
async fn thousands_of_streams_are_told_to_come_back_at_the_configured_rate() {
    const PER_SECOND: u64 = 200;
    let settings = Settings::new().set("stream.reconnect_rate", PER_SECOND);
    let server = Server::start(settings).await;
    let streams = open_streams(&server).await;
    server
        .metric_becomes("notify_connections", "", STREAMS as f64)
        .await;
    let asked = Instant::now();
    server.terminate();
    let mut endings: FuturesUnordered<_> = streams
        .into_iter()
        .map(|mut stream| async move { (stream.rest().await, stream.retry()) })
        .collect();
    let mut times = Vec::new();
    while let Some((events, retry)) = endings.next().await {
        let closing = events.last().expect("a last event");
        assert_eq!(closing.kind(), "closing");
        assert_eq!(closing.data["reason"], "draining");
        assert_eq!(closing.data["reconnect"], true);
        assert_eq!(closing.id, None);
        let retry_ms = closing.data["retry_ms"].as_u64().unwrap();
        assert_eq!(retry, Some(retry_ms), "EventSource is told the same");
        times.push(retry_ms);
    }
    assert_spread(&times, STREAMS as u64 * 1000 / PER_SECOND);
    let status = server.process().exited().await;
    assert_eq!(status.code(), Some(0), "{}", server.process().stderr());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
}

/// The times lie evenly over all of the time up to `longest`: in each tenth of it is a tenth of them,
/// give or take a half, which is at least six standard deviations.
fn assert_spread(times: &[u64], longest: u64) {
    let mut tenths = [0; 10];
    for &time in times {
        assert!(time <= longest, "{time} ms of {longest} ms");
        let tenth = (time * 10 / longest).min(9);
        tenths[tenth as usize] += 1;
    }
    let expected = times.len() / 10;
    let even = expected / 2..=expected * 3 / 2;
    assert!(tenths.iter().all(|n| even.contains(n)), "{tenths:?}");
    let different: HashSet<_> = times.iter().collect();
    assert!(different.len() > times.len() / 2, "{}", different.len());
}

#[tokio::test]
async fn an_interrupt_stops_like_a_termination() {
    let server = Server::start(Settings::new()).await;
    let mut stream = server.connect(1).await;
    server.process().signal("INT");
    let closing = stream.expect_type("closing").await;
    assert_eq!(closing.data["reason"], "draining");
    stream.expect_end().await;
    assert_eq!(server.process().exited().await.code(), Some(0));
}

#[tokio::test]
async fn a_server_with_nothing_to_do_stops_at_once() {
    let server = Server::start(Settings::new()).await;
    let asked = Instant::now();
    server.stop().await;
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test]
async fn a_stalled_reader_does_not_hold_up_the_exit_and_nobody_new_is_let_in() {
    let nats = Nats::start().await;
    let settings = Settings::new()
        .nats(&nats)
        .set("server.drain_timeout", "3s")
        .set("stream.outbox_bytes", "1 GiB")
        .set("stream.outbox_events", 1_000_000);
    let server = Server::start(settings).await;
    let request = Request::get("/events").bearer(&tokens::of_user(1));
    let stalled = server.send(request.receive_buffer(4096)).await;
    let mut reader = server.connect(2).await;
    let backend = nats.backend().await;
    for _ in 0..120 {
        let payload = payload::message(5, &"x".repeat(100 * 1024), &[1, 2]);
        backend.publish(&chat_subject(5), &payload).await;
        reader.expect_type("new_message").await;
    }
    let asked = Instant::now();
    server.terminate();
    reader.expect_type("closing").await;
    // Load balancers must see it leave, whether they ask or find the door closed.
    eventually("/ready to refuse", || async {
        match Request::get("/ready").try_send(server.address()).await {
            Ok(response) => (response.status == 503).then_some(()),
            Err(_) => Some(()),
        }
    })
    .await;
    let newcomer = Request::get("/events").bearer(&tokens::of_user(3));
    if let Ok(response) = newcomer.try_send(server.address()).await {
        assert_eq!(response.status, 503);
        assert!(response.header("retry-after").is_some());
    }
    assert_eq!(server.process().exited().await.code(), Some(0));
    assert!(
        asked.elapsed() < Duration::from_secs(8),
        "{:?}",
        asked.elapsed()
    );
    drop(stalled);
}

#[tokio::test]
async fn a_second_server_takes_over() {
    let nats = Nats::start().await;
    let settings = of_one_thread(Settings::new().nats(&nats).chat(5, &[1]));
    let old = Server::start(settings.clone()).await;
    let new = Server::start(settings).await;
    let mut stream = old.connect(1).await;
    let mut witness = new.connect(1).await;
    let backend = nats.backend().await;
    backend
        .publish(&chat_subject(5), &payload::chat_message(5, "old"))
        .await;
    // What the new one has yet to get would be live there.
    for stream in [&mut stream, &mut witness] {
        stream.expect_type("new_message").await;
    }
    old.terminate();
    stream.expect_type("closing").await;
    stream.expect_end().await;
    let mut stream = new.connect(1).await;
    backend
        .publish(&chat_subject(5), &payload::chat_message(5, "new"))
        .await;
    let event = stream.expect_type("new_message").await;
    assert_eq!(event.data["message"]["content"], "new");
}

#[tokio::test]
async fn a_load_balancer_has_time_to_notice() {
    let settings = Settings::new().set("server.unready_delay", "2s");
    let server = Server::start(settings).await;
    let mut stream = server.connect(1).await;
    server.terminate();
    let says = server.not_ready().await;
    assert!(says.contains("stopping"), "{says}");
    // Not ready is not gone: who is sent here all the same is served.
    let mut late = server.connect(2).await;
    for stream in [&mut stream, &mut late] {
        let closing = stream.expect_type("closing").await;
        assert_eq!(closing.data["reason"], "draining");
    }
    assert_eq!(server.process().exited().await.code(), Some(0));
}
