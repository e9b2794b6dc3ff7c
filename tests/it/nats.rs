//! NATS as the bus: connecting, losing it, and getting it back.

use serde_json::json;

use crate::support::payload::{self, chat_subject};
use crate::support::{Nats, Request, Server, Settings, free_port, tokens};

#[tokio::test]
async fn what_a_backend_publishes_arrives() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats).chat(5, &[1, 2])).await;
    let mut first = server.connect(1).await;
    let mut second = server.connect(2).await;
    let backend = nats.backend().await;
    for subject in [
        "fechatter.realtime.chat.5",
        "fechatter.realtime.chat.5.messages.new",
        "fechatter.chat.events",
    ] {
        let payload = payload::chat_message(5, subject);
        backend.publish(subject, &payload).await;
        for stream in [&mut first, &mut second] {
            let event = stream.expect_type("new_message").await;
            assert_eq!(event.data["message"]["content"], subject);
        }
    }
    // A subject that isn't subscribed to.
    let payload = payload::chat_message(5, "elsewhere");
    backend.publish("fechatter.other", &payload).await;
    backend
        .publish(&chat_subject(5), &payload::chat_message(5, "here"))
        .await;
    let event = first.expect_type("new_message").await;
    assert_eq!(event.data["message"]["content"], "here");
}

#[tokio::test]
async fn a_server_starts_without_nats_and_is_ready_when_it_comes() {
    let mut nats = Nats::not_started();
    let settings = Settings::new().nats(&nats).chat(5, &[1]);
    let server = Server::start_unready(settings).await;
    let says = server.not_ready().await;
    assert!(says.contains("NATS"), "in words what is missing: {says}");
    assert_eq!(server.get("/live").await.status, 200);
    let line = server
        .log_line(|line| line.message() == "NATS client error")
        .await;
    assert_eq!(line.text("servers"), nats.url());
    nats.start_again().await;
    server.ready().await;
    let mut stream = server.connect(1).await;
    let backend = nats.backend().await;
    backend
        .publish(&chat_subject(5), &payload::chat_message(5, "late"))
        .await;
    stream.expect_type("new_message").await;
}

#[tokio::test]
async fn without_a_shared_log_streams_are_told_of_the_gap_that_a_killed_server_leaves() {
    let mut nats = Nats::start().await;
    let settings = Settings::new().nats(&nats).set("log", "memory");
    let server = Server::start(settings.chat(5, &[1])).await;
    let mut stream = server.connect(1).await;
    let backend = nats.backend().await;
    backend
        .publish(&chat_subject(5), &payload::chat_message(5, "before"))
        .await;
    stream.expect_type("new_message").await;
    for round in ["first", "second"] {
        nats.kill();
        server.not_ready().await;
        nats.start_again().await;
        server.ready().await;
        let backend = nats.backend().await;
        backend
            .publish(&chat_subject(5), &payload::chat_message(5, round))
            .await;
        let gap = stream.expect_type("gap").await;
        assert!(["expired", "epoch", "overflow"].contains(&gap.data["reason"].as_str().unwrap()));
        for end in ["from", "to"] {
            assert!(gap.data.get(end).is_some(), "{} has {end}", gap.data);
        }
        let event = stream.expect_type("new_message").await;
        assert_eq!(event.data["message"]["content"], round);
    }
}

#[tokio::test]
async fn nats_can_be_required_at_start() {
    let nats = Nats::not_started();
    let settings = Settings::new()
        .nats(&nats)
        .set("nats.required_at_start", true);
    let outcome = settings.run(&[]).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let address = nats.url().replace("nats://", "");
    assert!(outcome.stderr.contains(&address), "{}", outcome.stderr);
}

#[tokio::test]
async fn publishing_says_which_nats_is_not_there() {
    let nats = Nats::not_started();
    let secret = nats.url().replace("nats://", "nats://backend:hush-hush@");
    let settings = Settings::new().set("nats.url", secret);
    let arguments = ["publish", "fechatter.realtime.chat.1", "{}"];
    let outcome = settings.run(&arguments).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let address = nats.url().replace("nats://", "nats://********@");
    let says = format!("NATS is not reachable at {address}");
    assert!(outcome.stderr.contains(&says), "{outcome:?}");
    for wrong in ["required_at_start", "hush-hush"] {
        assert!(!outcome.stderr.contains(wrong), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_pattern_that_matches_one_token_is_warned_about() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats).set(
        "nats.subjects",
        json!(["fechatter.realtime.*", "fechatter.chat.>"]),
    );
    let server = Server::start(settings).await;
    let warning = server
        .log_line(|line| line.level() == "WARN" && line.whole().contains("fechatter.realtime.*"))
        .await;
    let says = warning.whole();
    assert!(
        says.contains("fechatter.realtime.>"),
        "what to write instead: {says}"
    );
    assert!(!says.contains("fechatter.chat"), "{says}");
}

#[tokio::test]
async fn of_several_addresses_one_that_answers_is_enough() {
    let nats = Nats::start().await;
    let nobody = format!("nats://127.0.0.1:{}", free_port());
    let settings = Settings::new().set("nats.url", json!([nobody, nats.url()]));
    let server = Server::start(settings).await;
    let mut stream = server.connect(1).await;
    let backend = nats.backend().await;
    backend
        .publish(&chat_subject(5), &payload::message(5, "x", &[1]))
        .await;
    stream.expect_type("new_message").await;
}

#[tokio::test]
async fn a_connection_that_falls_behind_is_counted_and_told_to_the_streams() {
    let nats = Nats::start().await;
    let settings = Settings::new()
        .nats(&nats)
        .set("log", "memory")
        .set("nats.pending_limit", 1);
    let server = Server::start(settings).await;
    let mut stream = server.connect(1).await;
    let backend = nats.backend().await;
    let payload = payload::message(5, "burst", &[2]).to_string().into_bytes();
    while server.metric("notify_bus_dropped_total", "").await == 0.0 {
        for _ in 0..1000 {
            backend.send(&chat_subject(5), payload.clone()).await;
        }
        backend.flush().await;
    }
    let gap = stream.expect_type("gap").await;
    assert_eq!(gap.data["reason"], "overflow");
    let warned = server.log_line(|line| line.level() == "WARN").await;
    assert!(!warned.message().is_empty());
}

#[tokio::test]
async fn the_publish_command_goes_through_nats() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats).chat(5, &[1])).await;
    let mut stream = server.connect(1).await;
    let payload = payload::chat_message(5, "by hand").to_string();
    let settings = Settings::text("{}");
    let url = nats.url();
    let arguments = [
        "publish",
        "fechatter.realtime.chat.5",
        &payload,
        "--nats",
        &url,
    ];
    let outcome = settings.run(&arguments).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    stream.expect_type("new_message").await;
    // Without --nats, the configuration says where.
    let outcome = server.settings().run(&arguments[..3]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    stream.expect_type("new_message").await;
}

#[tokio::test]
async fn what_is_published_over_http_goes_to_nats() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats).chat(5, &[1]);
    let one = Server::start(settings.clone()).await;
    let other = Server::start(settings).await;
    let mut streams = [one.connect(1).await, other.connect(1).await];
    let request = Request::new("POST", "/api/v1/bus/fechatter.realtime.chat.5")
        .bearer(&tokens::of_publisher(1))
        .json(&payload::chat_message(5, "everywhere"));
    assert_eq!(one.send(request).await.status, 202);
    for stream in &mut streams {
        stream.expect_type("new_message").await;
    }
}

#[tokio::test]
async fn without_a_shared_log_who_came_before_nats_did_is_told_of_a_gap() {
    let mut nats = Nats::not_started();
    // With one, nobody is let in before it is known what is revoked.
    let settings = Settings::new().nats(&nats).set("log", "memory");
    let settings = settings.chat(5, &[1]);
    let server = Server::start_unready(settings).await;
    let mut stream = server.connect(1).await;
    nats.start_again().await;
    stream.expect_type("gap").await;
}
