//! Messages that wait for users who are nowhere connected.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::tokens::Token;
use crate::support::{Event, EventStream, Nats, Request, Server, Settings, eventually, tokens};

fn publisher() -> String {
    let rights = json!({"publish": ["*"], "admin": true});
    let token = Token::of(9).claim("notify", rights);
    token.sign_hs256(tokens::SECRET)
}

async fn post(server: &Server, what: &str, body: &Value) -> (u16, Value) {
    let request = Request::new("POST", &format!("/api/v1/messages/{what}"));
    let mut response = server.send(request.bearer(&publisher()).json(body)).await;
    (response.status, response.json().await)
}

async fn send(server: &Server, message: &Value) -> Value {
    let (status, answer) = post(server, "send", message).await;
    assert_eq!(status, 202, "{answer}");
    answer
}

async fn open(server: &Server, request: Request) -> EventStream {
    let mut stream = EventStream::new(server.send(request).await);
    stream.expect_type("connection_confirmed").await;
    stream
}

/// A durable message to a user.
fn letter(user: i64, text: &str) -> Value {
    json!({"type": "letter", "durable": true, "target": {"user_id": user}, "data": text})
}

/// Sends a user what does not wait, and reads until it comes: gives what came before, which is then all
/// that there was.
async fn until_marked(stream: &mut EventStream, server: &Server, user: i64) -> Vec<Event> {
    send(
        server,
        &json!({"type": "mark", "target": {"user_id": user}}),
    )
    .await;
    let mut events = Vec::new();
    loop {
        let event = stream.next().await;
        match event.kind() {
            "mark" => return events,
            "letter" => events.push(event),
            other => assert!(
                ["connection_confirmed", "caught_up"].contains(&other),
                "{}",
                event.data
            ),
        }
    }
}

/// The next letter, behind a mark that this stream's thread had yet to route when it opened.
async fn next_letter(stream: &mut EventStream) -> Event {
    let mut event = stream.next().await;
    if event.kind() == "mark" {
        event = stream.next().await;
    }
    assert_eq!(event.kind(), "letter", "{}", event.data);
    event
}

fn texts(events: &[Event]) -> Vec<&str> {
    let texts = events
        .iter()
        .map(|event| event.data["data"].as_str().unwrap());
    texts.collect()
}

/// Waits until so many messages were delivered out of inboxes by these instances.
async fn delivered(servers: &[Server], count: f64) {
    eventually("messages to be delivered", || async {
        let mut sum = 0.0;
        for server in servers {
            sum += server.metric("notify_inbox_delivered_total", "").await;
        }
        (sum == count).then_some(())
    })
    .await;
}

async fn pair(settings: Settings) -> [Server; 2] {
    let servers = [
        Server::start(settings.clone()).await,
        Server::start(settings).await,
    ];
    eventually("both instances to know each other", || async {
        let mut known = true;
        for server in &servers {
            let request = Request::get("/api/v1/connections/stats").bearer(&publisher());
            let stats = server.send(request).await.json().await;
            known &= stats["instances"]["replied"].as_array().unwrap().len() == 2;
        }
        known.then_some(())
    })
    .await;
    servers
}

#[tokio::test]
async fn what_is_sent_to_somebody_who_is_away_waits_and_is_delivered_once() {
    let nats = Nats::start().await;
    let servers = pair(Settings::new().nats(&nats)).await;
    let [one, other] = &servers;
    for text in ["a", "b"] {
        let answer = send(one, &letter(1, text)).await;
        assert_eq!(answer["waiting"], json!([1]), "{answer}");
    }
    let mut stream = other.connect(1).await;
    for text in ["a", "b"] {
        let event = stream.expect_type("letter").await;
        assert_eq!(event.data["data"], text);
        assert_eq!(event.id, None, "it would move the client back");
    }
    delivered(&servers, 2.0).await;
    let last_id = stream.last_event_id().to_owned();
    drop(stream);
    for server in &servers {
        let mut fresh = server.connect(1).await;
        assert_eq!(texts(&until_marked(&mut fresh, one, 1).await), [""; 0]);
        let mut back = server.come_back(1, &last_id).await;
        assert_eq!(texts(&until_marked(&mut back, one, 1).await), [""; 0]);
    }
}

#[tokio::test]
async fn what_somebody_gets_live_or_as_a_replay_does_not_wait() {
    let nats = Nats::start().await;
    let servers = pair(Settings::new().nats(&nats)).await;
    let [one, other] = &servers;
    let mut stream = other.connect(1).await;
    let answer = send(one, &letter(1, "live")).await;
    assert_eq!(answer["waiting"], json!([]), "{answer}");
    let event = stream.expect_type("letter").await;
    assert_eq!(event.id.as_deref(), answer["event_id"].as_str());
    let last_id = stream.last_event_id().to_owned();
    drop(stream);
    eventually("the stream to be gone", || async {
        (other.metric("notify_connections", "").await == 0.0).then_some(())
    })
    .await;
    let answer = send(one, &letter(1, "missed")).await;
    assert_eq!(answer["waiting"], json!([1]), "{answer}");
    let mut back = one.come_back(1, &last_id).await;
    back.expect_type("connection_confirmed").await;
    let event = back.expect_type("letter").await;
    assert_eq!(event.data["data"], "missed");
    assert!(event.id.is_some(), "from the log");
    delivered(&servers, 1.0).await;
    assert_eq!(texts(&until_marked(&mut back, one, 1).await), [""; 0]);
    let mut fresh = other.connect(1).await;
    assert_eq!(texts(&until_marked(&mut fresh, one, 1).await), [""; 0]);
}

#[tokio::test]
async fn who_connects_while_it_is_sent_gets_it_once() {
    let nats = Nats::start().await;
    let servers = pair(Settings::new().nats(&nats)).await;
    for user in 1..=40 {
        let (to, from) = (&servers[user as usize % 2], &servers[user as usize / 2 % 2]);
        let letter = letter(user, "now");
        let (mut stream, _) = tokio::join!(to.connect(user), send(from, &letter));
        let event = stream.expect_type("letter").await;
        assert_eq!(event.data["data"], "now");
        assert_eq!(texts(&until_marked(&mut stream, from, user).await), [""; 0]);
    }
}

#[tokio::test]
async fn of_several_streams_that_open_at_once_one_gets_it() {
    let nats = Nats::start().await;
    let servers = pair(Settings::new().nats(&nats)).await;
    send(&servers[0], &letter(1, "once")).await;
    let streams = (0..8).map(|number| servers[number % 2].connect(1));
    let mut streams = join_all(streams).await;
    delivered(&servers, 1.0).await;
    send(
        &servers[0],
        &json!({"type": "mark", "target": {"user_id": 1}}),
    )
    .await;
    let mut letters = 0;
    for stream in &mut streams {
        loop {
            match stream.next().await.kind() {
                "mark" => break,
                kind => letters += usize::from(kind == "letter"),
            }
        }
    }
    assert_eq!(letters, 1);
}

#[tokio::test]
async fn each_device_gets_it_until_it_has_acknowledged_it() {
    let nats = Nats::start().await;
    let servers = pair(Settings::new().nats(&nats)).await;
    let [one, other] = &servers;
    let on = async |server: &Server, device: &str| {
        let target = format!("/events?device={device}");
        let request = Request::get(&target).bearer(&tokens::of_user(1));
        open(server, request).await
    };
    let mut letter = letter(1, "each");
    letter["ack"] = json!("device");
    // One device is there, and gets it live; it counts as all others do.
    let mut phone = on(one, "phone").await;
    let answer = send(other, &letter).await;
    assert_eq!(answer["waiting"], json!([1]));
    let id = answer["id"].as_str().unwrap();
    assert_eq!(texts(&until_marked(&mut phone, one, 1).await), ["each"]);
    for _ in 0..2 {
        let mut desk = on(other, "desk").await;
        assert_eq!(next_letter(&mut desk).await.data["data"], "each");
    }
    let acknowledge = async |device: &str| {
        let target = format!("/api/v1/messages/{id}/ack?device={device}");
        let request = Request::new("POST", &target).bearer(&tokens::of_user(1));
        one.send(request).await.status
    };
    assert_eq!(acknowledge("desk").await, 204);
    let mut desk = on(one, "desk").await;
    assert_eq!(texts(&until_marked(&mut desk, one, 1).await), [""; 0]);
    drop(phone);
    let mut phone = on(other, "phone").await;
    assert_eq!(next_letter(&mut phone).await.data["data"], "each");
    assert_eq!(acknowledge("phone").await, 204);
    let target = format!("/api/v1/messages/{id}/receipts");
    let request = Request::get(&target).bearer(&publisher());
    let receipts = other.send(request).await.json().await;
    let devices: Vec<&Value> = receipts["receipts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|receipt| &receipt["device"])
        .collect();
    assert_eq!(devices, [&json!("desk"), &json!("phone")]);
    let too_long = format!("/events?device={}", "x".repeat(65));
    let request = Request::get(&too_long).bearer(&tokens::of_user(1));
    assert_eq!(one.send(request).await.status, 422);
}

#[tokio::test]
async fn what_a_backend_publishes_waits_too() {
    let nats = Nats::start().await;
    let servers = pair(Settings::new().nats(&nats)).await;
    let backend = nats.backend().await;
    for number in 0..20 {
        let letter = letter(number, "from the backend");
        backend.publish("fechatter.realtime.push", &letter).await;
    }
    eventually("all to wait", || async {
        let mut kept = 0.0;
        for server in &servers {
            kept += server.metric("notify_inbox_kept_total", "").await;
        }
        (kept == 20.0).then_some(())
    })
    .await;
    for number in 0..20 {
        let mut stream = servers[number as usize % 2].connect(number).await;
        let event = stream.expect_type("letter").await;
        assert_eq!(event.data["data"], "from the backend");
        assert_eq!(
            texts(&until_marked(&mut stream, &servers[0], number).await),
            [""; 0]
        );
    }
}

#[tokio::test]
async fn it_outlives_the_instance_that_kept_it_and_nats() {
    let mut nats = Nats::start().await;
    let settings = Settings::new().nats(&nats);
    let one = Server::start(settings.clone()).await;
    send(&one, &letter(1, "kept")).await;
    one.process().signal("KILL");
    one.process().exited().await;
    let other = Server::start(settings).await;
    nats.kill();
    // A record can't be had now, and is as soon as NATS is back.
    let mut stream = other.connect(1).await;
    nats.start_again().await;
    let event = loop {
        let event = stream.next().await;
        if event.kind() == "letter" {
            break event;
        }
    };
    assert_eq!(event.data["data"], "kept");
    other.ready().await;
    delivered(&[other], 1.0).await;
}

#[tokio::test]
async fn what_a_killed_instance_was_to_keep_the_others_do() {
    let nats = Nats::start().await;
    let [one, other] = pair(Settings::new().nats(&nats)).await;
    one.process().signal("KILL");
    one.process().exited().await;
    let backend = nats.backend().await;
    for number in 0..40 {
        let letter = letter(number, "left behind");
        backend.publish("fechatter.realtime.push", &letter).await;
    }
    other
        .metric_becomes("notify_inbox_kept_total", "", 40.0)
        .await;
}

#[tokio::test]
async fn two_publishers_may_choose_the_same_id() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let mut stream = server.connect(1).await;
    let mut first = letter(1, "first");
    first["id"] = json!("m-1");
    let backend = nats.backend().await;
    backend.publish("fechatter.realtime.push", &first).await;
    assert_eq!(stream.expect_type("letter").await.data["data"], "first");
    drop(stream);
    server.metric_becomes("notify_connections", "", 0.0).await;
    let mut second = letter(1, "second");
    second["id"] = json!("m-1");
    let answer = send(&server, &second).await;
    assert_eq!(answer["waiting"], json!([1]), "{answer}");
    let mut stream = server.connect(1).await;
    assert_eq!(stream.expect_type("letter").await.data["data"], "second");
}

#[tokio::test]
async fn what_is_published_while_no_instance_runs_waits_too() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats);
    let server = Server::start(settings.clone()).await;
    let backend = nats.backend().await;
    let mut stream = server.connect(1).await;
    let publish = async |text: &str| {
        backend
            .publish("fechatter.realtime.push", &letter(1, text))
            .await;
    };
    publish("live").await;
    assert_eq!(stream.expect_type("letter").await.data["data"], "live");
    server.stop().await;
    // Written down with the last of what was attended to.
    assert_eq!(
        backend.record("INBOX", "attended").await,
        stream.last_event_id()
    );
    publish("meanwhile").await;
    backend.flush().await;
    let server = Server::start(settings).await;
    server
        .metric_becomes("notify_inbox_kept_total", "", 1.0)
        .await;
    let mut stream = server.connect(1).await;
    assert_eq!(stream.expect_type("letter").await.data["data"], "meanwhile");
    assert_eq!(texts(&until_marked(&mut stream, &server, 1).await), [""; 0]);
}

#[tokio::test]
async fn nothing_is_promised_that_can_not_be_kept() {
    let mut nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    nats.kill();
    let (status, _) = post(&server, "send", &letter(1, "x")).await;
    assert_eq!(status, 503);
    for (what, message) in [
        (
            "send",
            json!({"type": "t", "durable": true, "channel": "job:1"}),
        ),
        (
            "send",
            json!({"type": "t", "durable": true, "channel": "user:1:notes"}),
        ),
        (
            "send",
            json!({"type": "t", "durable": "yes", "target": {"user_id": 1}}),
        ),
        ("broadcast", json!({"type": "t", "durable": true})),
        (
            "send",
            json!({"type": "t", "durable": true, "target": {"user_id": 1}, "metadata": {"priority": "low"}}),
        ),
    ] {
        let (status, answer) = post(&server, what, &message).await;
        assert_eq!(
            (status, &answer["field"]),
            (422, &json!("durable")),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_batch_says_for_each_for_whom_it_waits() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats).set("server.workers", 1);
    let server = Server::start(settings).await;
    let mut stream = server.connect(1).await;
    let plain = json!({"type": "t", "target": {"user_id": 2}});
    let wrong = json!({"type": "t", "durable": true, "channel": "job:1"});
    let batch = json!({"messages": [letter(1, "a"), letter(2, "b"), plain, wrong, letter(2, "c")]});
    let (status, answer) = post(&server, "batch", &batch).await;
    assert_eq!(status, 202, "{answer}");
    let results = answer["results"].as_array().unwrap();
    let waiting: Vec<&Value> = results.iter().map(|result| &result["waiting"]).collect();
    let (none, some) = (json!([]), json!([2]));
    assert_eq!(waiting, [&none, &some, &Value::Null, &Value::Null, &some]);
    assert_eq!(results[3]["field"], "messages[3].durable");
    // What a thread had yet to route would be live, and come before what waits.
    send(&server, &letter(1, "d")).await;
    for text in ["a", "d"] {
        assert_eq!(stream.expect_type("letter").await.data["data"], text);
    }
    let mut second = server.connect(2).await;
    for text in ["b", "c"] {
        assert_eq!(second.expect_type("letter").await.data["data"], text);
    }
}

#[tokio::test]
async fn the_embedded_default_keeps_them_in_memory() {
    let server = Server::start(Settings::new()).await;
    for number in 0..=100 {
        send(&server, &letter(1, &number.to_string())).await;
    }
    assert_eq!(server.metric("notify_inbox_evicted_total", "").await, 1.0);
    let repeated = json!({"id": "r", "type": "letter", "durable": true, "target": {"user_id": 2}});
    send(&server, &repeated).await;
    send(&server, &repeated).await;
    assert_eq!(server.metric("notify_inbox_kept_total", "").await, 102.0);
    let mut stream = server.connect(1).await;
    for number in 1..=100 {
        let event = stream.expect_type("letter").await;
        assert_eq!(event.data["data"], number.to_string());
    }
    // Nobody else is given what waits for somebody, whatever may be listened to.
    let rights = json!({"subscribe": ["*"]});
    let token = Token::of(3).claim("notify", rights);
    let request = Request::get("/sse/user/2").bearer(&token.sign_hs256(tokens::SECRET));
    let mut watcher = open(&server, request).await;
    assert_eq!(
        texts(&until_marked(&mut watcher, &server, 2).await),
        [""; 0]
    );
    let request = Request::get("/sse/user/2").bearer(&tokens::of_user(2));
    let mut named = open(&server, request).await;
    assert_eq!(next_letter(&mut named).await.data["id"], "r");
}

#[tokio::test]
async fn it_waits_no_longer_than_its_time_to_live() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let mut brief = letter(1, "brief");
    brief["metadata"] = json!({"ttl": 0.001});
    send(&server, &brief).await;
    send(&server, &letter(1, "long")).await;
    let mut stream = server.connect(1).await;
    assert_eq!(stream.expect_type("letter").await.data["data"], "long");
}

#[tokio::test]
async fn a_long_poll_gets_it() {
    let server = Server::start(Settings::new()).await;
    send(&server, &letter(1, "polled")).await;
    let poll = async |query: &str| {
        let target = format!("/events/poll{query}");
        let request = Request::get(&target).bearer(&tokens::of_user(1));
        server.send(request).await.json().await
    };
    let first = poll("").await;
    let after = first["last_id"].as_str().unwrap();
    let second = poll(&format!("?after={after}&wait=20")).await;
    assert_eq!(second["events"][0]["data"], "polled", "{second}");
}
