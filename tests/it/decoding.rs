//! Every payload that is accepted, and what becomes of those that are not.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::support::payload::{self, chat_subject};
use crate::support::{Backend, EventStream, Nats, Server, Settings, eventually};

const REALTIME: &str = include_str!("fixtures/realtime.jsonl");
const CHANNEL_AND_PUSH: &str = include_str!("fixtures/channel_and_push.jsonl");

/// For each line of `REALTIME`: the outgoing type, and which of users 1 to 4 receive it. Chat 5
/// has users 1, 2 and 3, until user 4 comes and goes.
const EXPECTED: [(&str, &[i64]); 14] = [
    ("new_message", &[1, 2, 3]),
    ("new_message", &[1, 2, 3]),
    ("message_read", &[1, 2]),
    ("message_unread", &[1]),
    ("typing_started", &[1, 3]),
    ("typing_stopped", &[1, 3]),
    ("typing_started", &[1, 3]),
    ("user_presence", &[1, 3]),
    ("user_presence", &[1, 3]),
    ("message_deleted", &[1, 2, 3]),
    ("message_read", &[1, 2]),
    ("chat_member_added", &[1, 2, 3, 4]),
    ("chat_member_removed", &[1, 2, 3, 4]),
    ("new_message", &[1, 2, 3]),
];

fn lines(text: &str) -> Vec<(String, Value)> {
    let line = |line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let subject = line["subject"].as_str().unwrap().to_owned();
        (subject, line["payload"].take())
    };
    text.lines().map(line).collect()
}

#[tokio::test]
async fn every_realtime_example_reaches_those_it_is_for() {
    let nats = Nats::start().await;
    let subjects = [
        "fechatter.realtime.>",
        "fechatter.chat.>",
        "fechatter.message.>",
    ];
    let settings = Settings::new()
        .nats(&nats)
        .set("nats.subjects", json!(subjects))
        .chat(5, &[1, 2, 3]);
    let server = Server::start(settings).await;
    let mut streams = HashMap::new();
    for user in 1..=4 {
        streams.insert(user, server.connect(user).await);
    }
    let backend = nats.backend().await;
    let examples = lines(REALTIME);
    assert_eq!(examples.len(), EXPECTED.len());
    for ((subject, payload), (kind, receivers)) in examples.iter().zip(EXPECTED) {
        backend.publish(subject, payload).await;
        for user in receivers {
            let event = streams.get_mut(user).unwrap().expect_type(kind).await;
            assert!(event.data["timestamp"].is_string(), "{}", event.data);
            assert_eq!(event.name, None, "events are unnamed here");
        }
    }
    let end = payload::message(5, "sentinel", &[1, 2, 3, 4]);
    backend.publish(&chat_subject(5), &end).await;
    for stream in streams.values_mut() {
        let event = stream.expect_type("new_message").await;
        assert_eq!(event.data["message"]["content"], "sentinel");
    }
    let all = EXPECTED.len() as f64 + 1.0;
    assert_eq!(server.metric("notify_events_received_total", "").await, all);
    assert_eq!(server.metric("notify_events_rejected_total", "").await, 0.0);
}

#[tokio::test]
async fn texts_come_out_as_they_went_in() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let mut stream = server.connect(1).await;
    let backend = nats.backend().await;
    let text = "a \"quoted\"\r\nsecond line\u{2028}third \0 data: x\n\nid: 7\n\n\u{1f600} 你好";
    let payload = payload::message(5, text, &[1]);
    // Written as a human would: line breaks between the tokens, too.
    let pretty = serde_json::to_vec_pretty(&payload).unwrap();
    backend.publish_bytes(&chat_subject(5), pretty).await;
    let event = stream.expect_type("new_message").await;
    assert_eq!(event.data["message"]["content"], text);
    assert_eq!(event.data["message"], payload["MessageReceived"]["message"]);
}

#[tokio::test]
async fn every_channel_and_push_example_is_accepted() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let mut user123 = server.connect("user123").await;
    let backend = nats.backend().await;
    let examples = lines(CHANNEL_AND_PUSH);
    for (subject, payload) in &examples {
        backend.publish(subject, payload).await;
    }
    let event = user123.expect_type("progress").await;
    assert_eq!(
        event.data, examples[3].1,
        "push messages go out as they came"
    );
    for (kind, recipients) in [
        ("job.progress", "0"),
        ("job.completed", "0"),
        ("progress", "1"),
        ("com.example.order.shipped", "0"),
        ("message", "0"),
    ] {
        let routed = server
            .log_line(|line| line.message() == "event routed" && line.text("kind") == kind)
            .await;
        assert_eq!(routed.text("recipients"), recipients, "{kind}");
    }
    assert_eq!(server.metric("notify_events_rejected_total", "").await, 0.0);
    assert_eq!(server.metric("notify_events_received_total", "").await, 6.0);
}

#[tokio::test]
async fn a_users_channel_can_be_named_by_every_shape() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let mut stream = server.connect(7).await;
    let backend = nats.backend().await;
    let payloads = [
        json!({"type": "job.progress", "channel": "user:7", "data": {"progress": 50},
            "timestamp": 1_753_859_400_123_u64}),
        json!({"type": "progress", "target": {"user_id": "7"}, "data": {}}),
        json!({"specversion": "1.0", "id": "A234", "source": "/orders", "type": "order.shipped",
            "subject": "user:7", "data": {"carrier": "ship-it"}}),
        json!({"anything": "goes", "n": 1}),
    ];
    for payload in &payloads {
        backend.publish("fechatter.realtime.user.7", payload).await;
    }
    let event = stream.expect_type("job.progress").await;
    assert_eq!(event.data["data"], payloads[0]["data"]);
    stream.expect_type("progress").await;
    let event = stream.expect_type("order.shipped").await;
    assert_eq!(event.data["data"], payloads[2]["data"]);
    let event = stream.expect_type("message").await;
    assert_eq!(event.data["data"], payloads[3]);
}

#[tokio::test]
async fn what_has_outlived_its_time_is_not_delivered() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let mut stream = server.connect(7).await;
    let backend = nats.backend().await;
    for (ttl, kind) in [(0, "late"), (60, "in.time")] {
        let push = json!({"type": kind, "target": {"user_id": 7}, "metadata": {"ttl": ttl}});
        backend.publish("fechatter.realtime.push", &push).await;
    }
    stream.expect_type("in.time").await;
}

/// Publishes what is no event, and then an event that still arrives.
async fn rejects(
    server: &Server,
    (backend, stream): (&Backend, &mut EventStream),
    (subject, payload, reason): (&str, Vec<u8>, &str),
) {
    let label = format!("reason=\"{reason}\"");
    let name = "notify_events_rejected_total";
    let before = server.metric(name, &label).await;
    let all_before = server.metric(name, "").await;
    let excerpt = String::from_utf8_lossy(&payload[..payload.len().min(80)]).into_owned();
    backend.publish_bytes(subject, payload).await;
    let valid = payload::message(5, &excerpt, &[1]);
    backend.publish(&chat_subject(5), &valid).await;
    let event = stream.expect_type("new_message").await;
    assert_eq!(event.data["message"]["content"], excerpt);
    let counted = server.metric(name, &label).await;
    assert_eq!(counted, before + 1.0, "{reason}: {excerpt}");
    assert_eq!(server.metric(name, "").await, all_before + 1.0, "{excerpt}");
}

#[tokio::test]
async fn malformed_input_is_counted_by_reason_and_stops_nothing() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let mut stream = server.connect(1).await;
    let backend = nats.backend().await;
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let large = payload::message(5, &"x".repeat(300 * 1024), &[1]).to_string();
    let subject = "fechatter.realtime.chat.5";
    let cases: [(&str, &[u8], &str); 17] = [
        (subject, b"", "not_json"),
        (subject, b"hello", "not_json"),
        (subject, b"\xff\xfe\x00", "not_json"),
        (subject, b"{\"MessageReceived\":", "not_json"),
        (subject, b"{} trailing", "not_json"),
        (subject, b"[1,2,3]", "not_json"),
        (subject, b"null", "not_json"),
        (subject, &deep, "not_json"),
        (subject, large.as_bytes(), "too_large"),
        (
            "fechatter.realtime.x",
            br#"{"no":"audience"}"#,
            "no_audience",
        ),
        (
            subject,
            br#"{"MessageReceived":{"message":{},"chat_id":5,"recipients":[]}}"#,
            "malformed",
        ),
        (
            subject,
            br#"{"MessageReceived":{"chat_id":5,"recipients":[1]}}"#,
            "malformed",
        ),
        (
            subject,
            br#"{"MessageReceived":{"message":{},"chat_id":5,"recipients":"all"}}"#,
            "malformed",
        ),
        (subject, br#"{"TypingStarted":{"chat_id":5}}"#, "malformed"),
        (
            subject,
            br#"{"event_type":"member_added","chat_id":{},"user_id":1}"#,
            "malformed",
        ),
        (
            subject,
            br#"{"type":"job.progress","channel":"nocolon","data":{}}"#,
            "malformed",
        ),
        (subject, br#"{"type":"p","target":7}"#, "malformed"),
    ];
    for (subject, payload, reason) in cases {
        let case = (subject, payload.to_vec(), reason);
        rejects(&server, (&backend, &mut stream), case).await;
    }
}

#[tokio::test]
async fn rejections_are_logged_within_a_rate_with_subject_and_first_bytes() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let backend = nats.backend().await;
    for number in 0..200 {
        let payload = format!("no JSON {number}").into_bytes();
        backend.send("fechatter.realtime.chat.5", payload).await;
    }
    backend
        .publish("fechatter.realtime.x", &json!({"no": "audience"}))
        .await;
    let reason = "reason=\"not_json\"";
    eventually("all to be counted", || async {
        let name = "notify_events_rejected_total";
        let counted = server.metric(name, reason).await;
        (counted == 200.0 && server.metric(name, "").await == 201.0).then_some(())
    })
    .await;
    let log = server.log();
    let about = |text: &str| {
        let warnings = log.iter().filter(|line| line.level() == "WARN");
        warnings.filter(|line| line.whole().contains(text)).count()
    };
    let first = server
        .log_line(|line| line.whole().contains("no JSON 0"))
        .await;
    assert!(first.whole().contains("fechatter.realtime.chat.5"));
    assert!(about("no JSON") <= 3, "200 rejections in one interval");
    assert_eq!(
        about("fechatter.realtime.x"),
        1,
        "each reason has its own rate"
    );
}
