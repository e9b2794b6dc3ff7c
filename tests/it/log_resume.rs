//! Coming back from before an instance's memory: the log has what was missed.
//!
//! The memory holds a handful of events here, so that nearly everything comes from the log. One
//! thread serves connections: a witness that has the last event shows that whoever comes next comes
//! behind it.

use serde_json::json;

use crate::support::payload::{self, chat_subject};
use crate::support::{Backend, EventStream, Nats, Server, Settings, eventually, sqlite};

/// Whom the event is for that ends what was published.
const WITNESS: i64 = 99;

fn little_memory(nats: &Nats) -> Settings {
    Settings::new()
        .nats(nats)
        .set("server.workers", 1)
        .set("history.max_events", 5)
}

/// Says something to the witness, and waits until the witness has it.
async fn witnessed(backend: &Backend, witness: &mut EventStream, text: &str) {
    let payload = payload::message(9, text, &[WITNESS]);
    backend.publish(&chat_subject(9), &payload).await;
    while witness.expect_type("new_message").await.content() != text {}
}

/// Fills what is in the memory with what concerns nobody but the witness.
async fn push_out_of_memory(backend: &Backend, witness: &mut EventStream) {
    for _ in 0..10 {
        witnessed(backend, witness, "filler").await;
    }
}

#[tokio::test]
async fn exactly_what_was_missed_is_read_from_the_log_by_whatever_instance() {
    const MISSED: u64 = 3_000;
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let settings = little_memory(&nats).chat(5, &[1]).chat(6, &[2]);
    let one = Server::start(settings.clone()).await;
    let other = Server::start(settings.clone()).await;
    let mut witnesses = [one.connect(WITNESS).await, other.connect(WITNESS).await];
    let mut stream = one.connect(1).await;
    backend.say(5, "seen").await;
    let seen = stream.expect_message("seen").await.id.unwrap();
    drop(stream);
    for first in (0..MISSED).step_by(20) {
        backend.count(5, first / 2..first / 2 + 10).await;
        backend.count(6, 0..10).await;
    }
    let end = payload::message(9, "end", &[WITNESS]);
    backend.publish(&chat_subject(9), &end).await;
    for witness in &mut witnesses {
        witness.expect_message("end").await;
    }
    let late = Server::start(settings).await;
    let mut streams = Vec::new();
    for (name, server) in [("one", &one), ("other", &other), ("late", &late)] {
        let mut stream = server.come_back(1, &seen).await;
        let confirmed = stream.expect_type("connection_confirmed").await;
        assert_eq!(confirmed.data["recovered"], true, "{name}");
        assert_eq!(confirmed.data["replayed"], MISSED / 2, "{name}");
        assert_eq!(stream.last_event_id(), seen);
        stream.expect_count(0..MISSED / 2).await;
        let caught_up = stream.expect_type("caught_up").await;
        assert_eq!(caught_up.data["replayed"], MISSED / 2, "{name}");
        streams.push(stream);
        let from_log = server
            .metric("notify_events_replayed_total", "source=\"log\"")
            .await;
        assert!(from_log > 1_400.0, "{name}: {from_log}");
    }
    backend.say(5, "live").await;
    for stream in &mut streams {
        stream.expect_message("live").await;
    }
}

#[tokio::test]
async fn what_the_log_has_no_more_is_one_gap_and_the_rest_follows() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(little_memory(&nats).chat(5, &[1])).await;
    let mut witness = server.connect(WITNESS).await;
    let mut stream = server.connect(1).await;
    backend.count(5, 0..3).await;
    stream.expect_count(0..3).await;
    let id = stream.last_event_id().to_owned();
    drop(stream);
    backend.count(5, 3..60).await;
    push_out_of_memory(&backend, &mut witness).await;
    // The event that says n is at position n + 1.
    backend.purge_before(41).await;
    let mut stream = server.come_back(1, &id).await;
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], false);
    assert_eq!(confirmed.data["replayed"], 20);
    let gap = stream.expect_gap("expired").await;
    assert_eq!(gap.data["from"], id.as_str());
    stream.expect_count(40..60).await;
    stream.expect_type("caught_up").await;
    backend.say(5, "live").await;
    stream.expect_message("live").await;
}

#[tokio::test]
async fn what_is_past_the_age_of_the_log_is_a_gap() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let settings = little_memory(&nats).set("jetstream.max_age", "1s");
    let server = Server::start(settings.chat(5, &[1])).await;
    let mut stream = server.connect(1).await;
    backend.count(5, 0..10).await;
    let first = stream.expect_message("0").await.id.unwrap();
    eventually("the log to let go of what is old", || async {
        (backend.stream_info().await.state.messages == 0).then_some(())
    })
    .await;
    backend.say(5, "young").await;
    eventually("a gap and the young event", || async {
        let mut stream = server.come_back(1, &first).await;
        stream.expect_type("connection_confirmed").await;
        let gap = stream.expect_gap("expired").await;
        assert_eq!(gap.data["from"], first.as_str());
        // Memory lets go of what the log has not any more, within about a second.
        (stream.next().await.content() == "young").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_fence_of_membership_spans_log_and_memory() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let settings = little_memory(&nats).chat(5, &[2]).chat(6, &[1, 2]);
    let server = Server::start(settings.set("history.max_events", 6)).await;
    let mut witness = server.connect(WITNESS).await;
    let stream = server.connect(1).await;
    let before = stream.last_event_id().to_owned();
    drop(stream);
    let change = payload::event;
    let publish = async |steps: &[serde_json::Value]| {
        for payload in steps {
            backend.publish("fechatter.chat.events", payload).await;
        }
    };
    publish(&[
        payload::chat_message(5, "before the first stay"),
        change("member_added", 5, 1),
        payload::chat_message(5, "first stay"),
        change("member_removed", 5, 1),
        payload::chat_message(5, "between"),
        payload::chat_message(6, "not left yet"),
        change("member_added", 5, 1),
        payload::chat_message(5, "second stay"),
    ])
    .await;
    push_out_of_memory(&backend, &mut witness).await;
    publish(&[
        payload::chat_message(5, "still there"),
        change("member_removed", 6, 1),
        payload::chat_message(6, "after leaving"),
        change("member_removed", 5, 1),
        payload::chat_message(5, "gone again"),
    ])
    .await;
    witnessed(&backend, &mut witness, "end").await;
    sqlite::execute(
        &server.settings().database_file(),
        "UPDATE chat_members SET left_at = CURRENT_TIMESTAMP WHERE user_id = 1",
    )
    .await;

    let mut stream = server.come_back(1, &before).await;
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["connected_chats"], json!([]));
    assert_eq!(confirmed.data["recovered"], true);
    stream.expect_type("chat_member_added").await;
    stream.expect_message("first stay").await;
    stream.expect_type("chat_member_removed").await;
    stream.expect_message("not left yet").await;
    stream.expect_type("chat_member_added").await;
    stream.expect_message("second stay").await;
    stream.expect_message("still there").await;
    for chat in [6, 5] {
        let left = stream.expect_type("chat_member_removed").await;
        assert_eq!(left.data["chat_id"], chat);
    }
    stream.expect_type("caught_up").await;
}

#[tokio::test]
async fn hostile_ids_get_a_gap_and_a_working_stream_from_a_server_with_a_log() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(little_memory(&nats).chat(5, &[1])).await;
    let mut witness = server.connect(WITNESS).await;
    let mut stream = server.connect(1).await;
    backend.say(5, "early").await;
    let early = stream.expect_message("early").await.id.unwrap();
    push_out_of_memory(&backend, &mut witness).await;
    let (epoch, _) = early.split_once('-').unwrap();
    let other_epoch: u64 = epoch.parse::<u64>().unwrap() - 1;
    let check = early.rsplit_once('-').unwrap().1;
    let wrong_check = if check == "ffff" { "fffe" } else { "ffff" };
    let hostile = [
        "garbage".to_owned(),
        format!("{epoch}--1-{check}"),
        format!("-{early}"),
        format!("{other_epoch}-1-{check}"),
        format!("{epoch}-1-{wrong_check}"),
        format!("{epoch}-12-ffff"),
        format!("{epoch}-13-ffff"),
        format!("{epoch}-5000-ffff"),
        format!("{epoch}-18446744073709551615-ffff"),
        format!("{epoch}-18446744073709551616-ffff"),
        format!("{}-1-{check}", u64::MAX),
    ];
    let mut streams = Vec::new();
    for id in hostile {
        let mut stream = server.come_back(1, &id).await;
        let confirmed = stream.expect_type("connection_confirmed").await;
        assert_eq!(confirmed.data["recovered"], false, "{id}");
        assert_eq!(confirmed.data["replayed"], 0, "{id}");
        let gap = stream.expect_type("gap").await;
        assert_eq!(gap.data["reason"], "epoch", "{id}");
        streams.push(stream);
    }
    backend.say(5, "live").await;
    for stream in &mut streams {
        stream.expect_message("live").await;
    }
    let mut stream = server.come_back(1, &early).await;
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(
        confirmed.data["recovered"], true,
        "the true one still works"
    );
}

#[tokio::test]
async fn what_is_past_its_time_to_live_is_not_replayed_from_the_log() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(little_memory(&nats).chat(5, &[1])).await;
    let mut witness = server.connect(WITNESS).await;
    let stream = server.connect(1).await;
    let before = stream.last_event_id().to_owned();
    drop(stream);
    let push = json!({"type": "progress", "target": {"user_id": 1}, "metadata": {"ttl": 2}});
    backend.publish("fechatter.realtime.push", &push).await;
    backend.say(5, "for good").await;
    push_out_of_memory(&backend, &mut witness).await;
    // The event behind the confirmation is the one without a time to live, once the other's has
    // passed.
    eventually("the event to expire", || async {
        let mut stream = server.come_back(1, &before).await;
        stream.expect_type("connection_confirmed").await;
        (stream.next().await.kind() == "new_message").then_some(())
    })
    .await;
}

#[tokio::test]
async fn many_clients_that_missed_the_same_share_few_reads() {
    const CLIENTS: u64 = 50;
    const MISSED: u64 = 2_500;
    let users: Vec<i64> = (1..=CLIENTS as i64).collect();
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(little_memory(&nats).chat(5, &users).chat(6, &[])).await;
    let mut witness = server.connect(WITNESS).await;
    let stream = server.connect(1).await;
    let before = stream.last_event_id().to_owned();
    drop(stream);
    backend.count(6, 0..MISSED).await;
    backend.count(5, 0..10).await;
    push_out_of_memory(&backend, &mut witness).await;
    let clients = users.iter().map(|user| async {
        let mut stream = server.come_back(*user, &before).await;
        let confirmed = stream.expect_type("connection_confirmed").await;
        assert_eq!(confirmed.data["recovered"], true);
        stream.expect_count(0..10).await;
        stream.expect_type("caught_up").await;
    });
    futures_util::future::join_all(clients).await;
    let reads = server.metric("notify_archive_reads_total", "").await;
    assert!((1.0..=4.0).contains(&reads), "{reads} reads");
    let replayed = server.metric("notify_events_replayed_total", "source=\"log\"");
    assert_eq!(replayed.await, (CLIENTS * 10) as f64);
}

#[tokio::test]
async fn a_server_that_starts_has_the_recent_past_in_its_memory() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let settings = Settings::new().nats(&nats).chat(5, &[1]);
    let earlier = Server::start(settings.clone()).await;
    let mut stream = earlier.connect(1).await;
    backend.count(5, 0..20).await;
    let first = stream.expect_message("0").await.id.unwrap();
    drop(earlier);
    // The last that the log has is no event.
    backend
        .publish_bytes(&chat_subject(5), b"not JSON".to_vec())
        .await;
    backend.logged(21).await;
    let server = Server::start(settings).await;
    let mut stream = server.come_back(1, &first).await;
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], true);
    stream.expect_count(1..20).await;
    let from_memory = server.metric("notify_events_replayed_total", "source=\"memory\"");
    assert_eq!(from_memory.await, 19.0);
}
