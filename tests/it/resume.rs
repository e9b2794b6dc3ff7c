//! Coming back: a client gets exactly what it missed, in order, once, or is told that it can't.

use crate::support::payload::{self, chat_subject};
use crate::support::{EventStream, Nats, Request, Server, Settings, eventually, sqlite, tokens};
use serde_json::{Value, json};

/// One thread that serves connections: then a witness that has an event shows that it is one of
/// those that come before whoever connects next. With several threads each has a position of its
/// own, and what one replays another sends live; the tests of the seam have two.
fn one_thread(nats: &Nats) -> Settings {
    Settings::new().nats(nats).set("server.workers", 1)
}

/// Opens a user's stream behind `last_event_id`.
async fn come_back(server: &Server, user: i64, last_event_id: &str) -> EventStream {
    let request = Request::get("/events")
        .bearer(&tokens::of_user(user))
        .header("last-event-id", last_event_id);
    EventStream::new(server.send(request).await)
}

fn content(event: &Value) -> String {
    event["message"]["content"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_was_missed_is_replayed_and_then_it_goes_on() {
    let nats = Nats::start().await;
    let server = Server::start(one_thread(&nats).chat(5, &[1, 2])).await;
    let backend = nats.backend().await;
    let mut stream = server.connect(1).await;
    let mut witness = server.connect(2).await;
    let say = async |text: &str| {
        let payload = payload::chat_message(5, text);
        backend.publish(&chat_subject(5), &payload).await;
    };
    say("seen").await;
    stream.expect_type("new_message").await;
    let seen = stream.last_event_id().to_owned();
    drop(stream);
    for text in ["missed 1", "missed 2"] {
        say(text).await;
    }
    // Typing is not for later.
    let typing = payload::event("typing_started", 5, 3);
    backend.publish(&chat_subject(5), &typing).await;
    for _ in 0..3 {
        witness.expect_type("new_message").await;
    }
    witness.expect_type("typing_started").await;

    let mut by_header = come_back(&server, 1, &seen).await;
    let target = format!("/events?last_event_id={seen}");
    let request = Request::get(&target).bearer(&tokens::of_user(1));
    let mut by_parameter = EventStream::new(server.send(request).await);
    for stream in [&mut by_header, &mut by_parameter] {
        let confirmed = stream.expect_type("connection_confirmed").await;
        assert_eq!(confirmed.data["recovered"], true);
        assert_eq!(confirmed.data["replayed"], 2);
        // Whoever breaks off within the replay continues it.
        assert_eq!(stream.last_event_id(), seen);
        for text in ["missed 1", "missed 2"] {
            let event = stream.expect_type("new_message").await;
            assert_eq!(content(&event.data), text);
        }
        let caught_up = stream.expect_type("caught_up").await;
        assert_eq!(caught_up.data["replayed"], 2);
    }
    say("live").await;
    for stream in [&mut by_header, &mut by_parameter] {
        let event = stream.expect_type("new_message").await;
        assert_eq!(content(&event.data), "live");
    }
}

/// A native `EventSource` repeats the address that it was made with, and adds the header.
#[tokio::test]
async fn the_header_counts_and_not_what_the_address_said_once() {
    let nats = Nats::start().await;
    let server = Server::start(one_thread(&nats).chat(5, &[1])).await;
    let backend = nats.backend().await;
    let mut stream = server.connect(1).await;
    let mut ids = vec![stream.last_event_id().to_owned()];
    for text in ["one", "two", "three"] {
        backend.say(5, text).await;
        ids.push(stream.expect_message(text).await.id.unwrap());
    }
    let cases = [
        (Some(&*ids[2]), 1),
        (Some("garbage"), 0),
        (Some(""), 0),
        (None, 3),
    ];
    for (header, replayed) in cases {
        let target = format!("/events?last_event_id={}", ids[0]);
        let mut request = Request::get(&target).bearer(&tokens::of_user(1));
        if let Some(header) = header {
            request = request.header("last-event-id", header);
        }
        let mut stream = EventStream::new(server.send(request).await);
        let confirmed = stream.expect_type("connection_confirmed").await;
        assert_eq!(confirmed.data["replayed"], replayed, "{header:?}");
        assert_eq!(confirmed.data["recovered"], replayed > 0, "{header:?}");
        if header == Some("garbage") {
            stream.expect_gap("epoch").await;
        }
        if replayed > 0 {
            let first = ["three", "two", "one"][replayed - 1];
            stream.expect_message(first).await;
        }
    }
}

/// The same as with a shared log, within the process.
#[tokio::test]
async fn the_in_process_bus_replays_what_was_missed() {
    let settings = Settings::new()
        .set("server.workers", 1)
        .set("history.max_events", 4)
        .chat(5, &[1, 2]);
    let server = Server::start(settings).await;
    let mut witness = server.connect(2).await;
    let publish = async |witness: &mut EventStream, payload: &Value| {
        let request = Request::new("POST", "/api/v1/bus/fechatter.realtime.chat.5")
            .bearer(&tokens::of_publisher(9))
            .body(payload.to_string());
        assert_eq!(server.send(request).await.status, 202);
        witness.next().await;
    };
    let stream = server.connect(1).await;
    let before = stream.last_event_id().to_owned();
    drop(stream);
    for payload in [
        payload::chat_message(5, "one"),
        payload::event("typing_started", 5, 3),
        payload::event("member_removed", 5, 1),
        payload::chat_message(5, "not for those who left"),
        payload::event("member_added", 5, 1),
    ] {
        publish(&mut witness, &payload).await;
    }
    let mut stream = come_back(&server, 1, &before).await;
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], true);
    stream.expect_message("one").await;
    stream.expect_type("chat_member_removed").await;
    stream.expect_type("chat_member_added").await;
    stream.expect_type("caught_up").await;
    publish(&mut witness, &payload::chat_message(5, "live")).await;
    stream.expect_message("live").await;
    // The memory has the last four now.
    let mut late = come_back(&server, 1, &before).await;
    let confirmed = late.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], false);
    late.expect_gap("expired").await;
    late.expect_type("chat_member_removed").await;
    // Another process has another log.
    let settings = server.settings().clone();
    server.stop().await;
    let server = Server::start(settings).await;
    let mut stream = come_back(&server, 1, &before).await;
    stream.expect_type("connection_confirmed").await;
    stream.expect_gap("epoch").await;
}

#[tokio::test]
async fn hostile_ids_get_a_gap_and_a_working_stream() {
    let nats = Nats::start().await;
    let server = Server::start(one_thread(&nats).chat(5, &[1])).await;
    let backend = nats.backend().await;
    let stream = server.connect(1).await;
    let current = stream.last_event_id().to_owned();
    let (epoch, _) = current.split_once('-').unwrap();
    let future = format!("{epoch}-18446744073709551615-0000");
    let huge = "9".repeat(8_000);
    let hostile = [
        "garbage",
        "-1",
        "1-2-3-4",
        "1-2-zzzz",
        "0-0-0000",
        "99999999999999999999-1-0000",
        future.as_str(),
        "' OR 1=1 --",
        "\u{fffd}\u{1f41f}\t%00",
        huge.as_str(),
    ];
    for (id, by_header) in hostile.iter().flat_map(|&id| [(id, true), (id, false)]) {
        let mut stream = if by_header {
            come_back(&server, 1, id).await
        } else {
            let target = format!("/events?last_event_id={}", encoded(id));
            let request = Request::get(&target).bearer(&tokens::of_user(1));
            EventStream::new(server.send(request).await)
        };
        let confirmed = stream.expect_type("connection_confirmed").await;
        assert_eq!(confirmed.data["recovered"], false, "{id}");
        let gap = stream.expect_type("gap").await;
        assert_eq!(gap.data["reason"], "epoch", "{id}");
        let payload = payload::chat_message(5, id);
        backend.publish(&chat_subject(5), &payload).await;
        let event = stream.expect_type("new_message").await;
        assert_eq!(content(&event.data), id);
    }
}

/// As it can stand in an address.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' => char::from(byte).to_string(),
        _ => format!("%{byte:02x}"),
    };
    text.bytes().map(byte).collect()
}

#[tokio::test]
async fn without_a_shared_log_what_memory_no_longer_has_is_a_gap_and_the_rest_follows() {
    let nats = Nats::start().await;
    let settings = one_thread(&nats)
        .set("log", "memory")
        .chat(5, &[1, 2])
        .set("history.max_events", 3);
    let server = Server::start(settings).await;
    let backend = nats.backend().await;
    let stream = server.connect(1).await;
    let before = stream.last_event_id().to_owned();
    drop(stream);
    let mut witness = server.connect(2).await;
    for number in 0..5 {
        let payload = payload::chat_message(5, &number.to_string());
        backend.publish(&chat_subject(5), &payload).await;
        witness.expect_type("new_message").await;
    }
    let mut stream = come_back(&server, 1, &before).await;
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], false);
    let gap = stream.expect_type("gap").await;
    assert_eq!(gap.data["reason"], "expired");
    assert_eq!(gap.data["from"], before.as_str());
    for number in 2..5 {
        let event = stream.expect_type("new_message").await;
        assert_eq!(content(&event.data), number.to_string());
    }
    stream.expect_type("caught_up").await;
}

#[tokio::test]
async fn a_replay_stays_within_the_time_of_membership() {
    let nats = Nats::start().await;
    let server = Server::start(one_thread(&nats).chat(5, &[2]).chat(6, &[1, 2])).await;
    let backend = nats.backend().await;
    let stream = server.connect(1).await;
    let before = stream.last_event_id().to_owned();
    drop(stream);
    let mut witness = server.connect(2).await;
    let change = payload::event;
    let steps = [
        payload::chat_message(5, "before the first stay"),
        change("member_added", 5, 1),
        payload::chat_message(5, "first stay"),
        change("member_removed", 5, 1),
        payload::chat_message(5, "between"),
        change("member_added", 5, 1),
        payload::chat_message(5, "second stay"),
        change("member_removed", 6, 1),
        payload::chat_message(6, "after leaving"),
    ];
    for payload in &steps {
        backend.publish("fechatter.chat.events", payload).await;
        witness.next().await;
    }
    let file = server.settings().database_file();
    sqlite::execute(&file, &sqlite::insert_members(&[(5, &[1])])).await;
    sqlite::execute(
        &file,
        "UPDATE chat_members SET left_at = CURRENT_TIMESTAMP WHERE chat_id = 6 AND user_id = 1",
    )
    .await;

    let mut stream = come_back(&server, 1, &before).await;
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["connected_chats"], json!([5]));
    stream.expect_type("chat_member_added").await;
    let first = stream.expect_type("new_message").await;
    assert_eq!(content(&first.data), "first stay");
    stream.expect_type("chat_member_removed").await;
    stream.expect_type("chat_member_added").await;
    let second = stream.expect_type("new_message").await;
    assert_eq!(content(&second.data), "second stay");
    let left = stream.expect_type("chat_member_removed").await;
    assert_eq!(left.data["chat_id"], 6);
    stream.expect_type("caught_up").await;
}

#[tokio::test]
async fn what_is_past_its_time_to_live_is_not_replayed() {
    let nats = Nats::start().await;
    let server = Server::start(one_thread(&nats).chat(5, &[1])).await;
    let backend = nats.backend().await;
    let stream = server.connect(1).await;
    let before = stream.last_event_id().to_owned();
    let mut witness = server.connect(1).await;
    let push = json!({"type": "progress", "target": {"user_id": 1}, "metadata": {"ttl": 0.2}});
    backend.publish("fechatter.realtime.push", &push).await;
    witness.expect_type("progress").await;
    backend
        .publish(&chat_subject(5), &payload::chat_message(5, "for good"))
        .await;
    witness.expect_type("new_message").await;
    // The next event behind the confirmation is the one without a time to live, once the other's
    // has passed.
    eventually("the event to expire", || async {
        let mut stream = come_back(&server, 1, &before).await;
        stream.expect_type("connection_confirmed").await;
        (stream.next().await.kind() == "new_message").then_some(())
    })
    .await;
}

#[tokio::test]
async fn memberships_lost_with_the_connection_are_looked_up_again() {
    let mut nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats).chat(5, &[1]).chat(6, &[2])).await;
    let mut stream = server.connect(1).await;
    nats.kill();
    server.not_ready().await;
    let file = server.settings().database_file();
    sqlite::execute(
        &file,
        "UPDATE chat_members SET left_at = CURRENT_TIMESTAMP WHERE chat_id = 5",
    )
    .await;
    sqlite::execute(&file, &sqlite::insert_members(&[(6, &[1])])).await;
    nats.start_again().await;
    server.ready().await;
    server
        .log_line(|line| line.message() == "memberships looked up again")
        .await;
    let backend = nats.backend().await;
    for (chat, text) in [(5, "no longer"), (6, "from now on")] {
        let payload = payload::chat_message(chat, text);
        backend.publish(&chat_subject(chat), &payload).await;
    }
    let event = stream.expect_type("new_message").await;
    assert_eq!(content(&event.data), "from now on");
}
