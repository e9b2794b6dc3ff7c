//! Publishing over HTTP: send, broadcast, batch.

use serde_json::{Value, json};

use crate::explain::of_one_thread;
use crate::support::tokens::Token;
use crate::support::{EventStream, Nats, Request, Response, Server, Settings, eventually, tokens};

/// A token that may publish, and listen on, what the patterns say.
fn publisher(patterns: &[&str]) -> String {
    Token::of(9)
        .claim(
            "notify",
            json!({"publish": patterns, "subscribe": patterns}),
        )
        .sign_hs256(tokens::SECRET)
}

async fn post(server: &Server, path: &str, token: &str, body: &Value) -> Response {
    let request = Request::new("POST", &format!("/api/v1/messages/{path}"));
    server.send(request.bearer(token).json(body)).await
}

async fn accepted(server: &Server, path: &str, token: &str, body: &Value) -> Value {
    let mut response = post(server, path, token, body).await;
    let answer = response.json().await;
    assert_eq!(response.status, 202, "{answer}");
    answer
}

async fn watch(server: &Server, channels: &str, token: &str) -> EventStream {
    let target = format!("/sse/stream/{channels}");
    let request = Request::get(&target).bearer(token);
    let mut stream = EventStream::new(server.send(request).await);
    stream.expect_type("connection_confirmed").await;
    stream
}

#[tokio::test]
async fn what_is_sent_arrives_everywhere_under_the_id_of_the_answer() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats);
    let [one, other] = [
        Server::start(settings.clone()).await,
        Server::start(settings).await,
    ];
    let token = publisher(&["*"]);
    let mut streams = [
        watch(&one, "job:a.b,user:2", &token).await,
        watch(&other, "job:a.b,user:2", &token).await,
    ];
    let messages = [
        json!({"type": "job.progress", "channel": "job:a.b", "data": {"percent": 5}}),
        json!({"type": "progress", "id": "m1", "target": {"user_id": 2}, "data": {}}),
    ];
    for message in &messages {
        let answer = accepted(&one, "send", &token, message).await;
        for stream in &mut streams {
            let event = stream.expect_type(message["type"].as_str().unwrap()).await;
            assert_eq!(event.id.as_deref(), answer["event_id"].as_str());
            assert_eq!(event.data["id"], answer["id"]);
            assert_eq!(event.data["data"], message["data"]);
            assert!(event.data["timestamp"].is_string());
        }
        assert!(answer["position"].as_u64().unwrap() > 0);
        if let Some(id) = message.get("id") {
            assert_eq!(answer["id"], *id);
        }
    }
}

#[tokio::test]
async fn the_embedded_bus_takes_them_too() {
    let server = Server::start(Settings::new()).await;
    let token = publisher(&["*"]);
    let mut stream = watch(&server, "job:1", &token).await;
    let message = json!({"type": "t", "channel": "job:1"});
    let answer = accepted(&server, "send", &token, &message).await;
    let event = stream.expect_type("t").await;
    assert_eq!(event.id.as_deref(), answer["event_id"].as_str());
}

#[tokio::test]
async fn a_broadcast_reaches_everybody() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let mut own = server.connect(1).await;
    let mut named = watch(&server, "job:1", &publisher(&["*"])).await;
    let notice = json!({"type": "notice", "data": {"text": "hello"}});
    accepted(&server, "broadcast", &publisher(&["*"]), &notice).await;
    for stream in [&mut own, &mut named] {
        let event = stream.expect_type("notice").await;
        assert_eq!(event.data["data"]["text"], "hello");
        assert!(event.data.get("broadcast").is_none());
    }
    let some = publisher(&["job:*"]);
    let mut refused = post(&server, "broadcast", &some, &notice).await;
    assert_eq!(refused.status, 403);
    let problem = refused.json().await;
    assert!(problem["detail"].as_str().unwrap().contains("everybody"));
}

#[tokio::test]
async fn the_forms_of_other_push_services_are_understood() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats);
    let server = Server::start(of_one_thread(settings)).await;
    let token = publisher(&["*"]);
    let mut stream = server.connect(1).await;
    // Who says it, which is not whom it is for.
    let notice = json!({"type": "notice", "service": "billing", "data": 1});
    accepted(&server, "broadcast", &token, &notice).await;
    let event = stream.expect_type("notice").await;
    assert_eq!(event.data["service"], "billing");
    // A list alone, and what else stands in `metadata` beside the data.
    let brief = json!({"type": "brief", "target": {"user_id": 1}, "ttl": 0.001});
    let slight = json!({"type": "slight", "target": {"user_id": 1}, "priority": "low", "ttl": "x"});
    let lasting = json!({"type": "lasting", "target": {"user_id": 1}});
    let list = json!([brief, slight, lasting]);
    let answer = accepted(&server, "batch", &token, &list).await;
    assert_eq!(answer["accepted"], 3, "{answer}");
    let before = event.id.unwrap();
    loop {
        if stream.next().await.kind() == "lasting" {
            break;
        }
    }
    // What is brief is over, and what is slight is never replayed.
    let mut back = server.come_back(1, &before).await;
    back.expect_type("connection_confirmed").await;
    back.expect_type("lasting").await;
    let answer = post(&server, "batch", &token, &json!([])).await;
    assert_eq!(answer.status, 422);
}

#[tokio::test]
async fn a_batch_answers_for_each_message_and_keeps_their_order() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let token = publisher(&["job:*"]);
    let mut stream = watch(&server, "job:1", &token).await;
    let mut messages: Vec<Value> = (0..250)
        .map(|number| json!({"type": "t", "channel": "job:1", "data": number}))
        .collect();
    messages.insert(3, json!({"type": "t", "channel": "nocolon"}));
    messages.insert(7, json!({"type": "t", "target": {"user_id": "a:b"}}));
    messages.insert(9, json!({"type": "t", "channel": "chat:1"}));
    messages.insert(11, json!("no object"));
    messages.insert(12, json!({"channel": "job:1"}));
    messages.insert(13, json!({"type": "t"}));
    let answer = accepted(&server, "batch", &token, &json!({"messages": messages})).await;
    assert_eq!(
        (&answer["accepted"], &answer["rejected"]),
        (&json!(250), &json!(6))
    );
    let results = answer["results"].as_array().unwrap();
    for (index, status, field) in [
        (3, 422, json!("messages[3].channel")),
        (7, 422, json!("messages[7].target.user_id")),
        (9, 403, Value::Null),
        (11, 422, json!("messages[11]")),
        (12, 422, json!("messages[12].type")),
        (13, 422, json!("messages[13].target")),
    ] {
        assert_eq!(results[index]["status"], status, "{}", results[index]);
        assert_eq!(results[index]["field"], field);
    }
    let positions: Vec<u64> = results
        .iter()
        .filter_map(|item| item["position"].as_u64())
        .collect();
    assert!(positions.is_sorted() && positions.len() == 250);
    for number in 0..250 {
        assert_eq!(stream.expect_type("t").await.data["data"], number);
    }
}

#[tokio::test]
async fn the_same_request_twice_is_one_message() {
    for nats in [Some(Nats::start().await), None] {
        let mut settings = Settings::new();
        if let Some(nats) = &nats {
            settings = settings.nats(nats);
        }
        let server = Server::start(settings).await;
        let token = publisher(&["*"]);
        let mut stream = watch(&server, "job:1", &token).await;
        let with_key = |key: &str| {
            Request::new("POST", "/api/v1/messages/send")
                .bearer(&token)
                .header("idempotency-key", key)
                .json(&json!({"type": "keyed", "channel": "job:1"}))
        };
        let mut answers = Vec::new();
        for key in ["a", "a", "b"] {
            answers.push(server.send(with_key(key)).await.json().await);
        }
        assert_eq!(answers[0], answers[1]);
        assert_ne!(answers[0], answers[2]);
        let by_id = json!({"type": "by_id", "id": "x", "channel": "job:1"});
        let first = accepted(&server, "send", &token, &by_id).await;
        assert_eq!(accepted(&server, "send", &token, &by_id).await, first);
        accepted(
            &server,
            "send",
            &token,
            &json!({"type": "end", "channel": "job:1"}),
        )
        .await;
        for kind in ["keyed", "keyed", "by_id", "end"] {
            stream.expect_type(kind).await;
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_named_by_its_path() {
    let server = Server::start(Settings::new()).await;
    let token = publisher(&["job:*"]);
    let large = "x".repeat(300 * 1024);
    for (body, status, field) in [
        (json!([]), 422, "body"),
        (json!({"channel": "job:1"}), 422, "type"),
        (json!({"type": 5, "channel": "job:1"}), 422, "type"),
        (json!({"type": "t"}), 422, "target"),
        (json!({"type": "t", "channel": "job"}), 422, "channel"),
        (
            json!({"type": "t", "channel": "job:1", "id": ""}),
            422,
            "id",
        ),
        (
            json!({"type": "t", "target": {"job_id": []}}),
            422,
            "target.job_id",
        ),
        (
            json!({"type": "t", "channel": "job:1", "metadata": {"ttl": "soon"}}),
            422,
            "ttl",
        ),
        (
            json!({"type": "t", "channel": "job:1", "data": large}),
            413,
            "body",
        ),
        (json!({"type": "closing", "channel": "job:1"}), 422, "type"),
        (json!({"type": "gap", "channel": "job:1"}), 422, "type"),
    ] {
        let mut response = post(&server, "send", &token, &body).await;
        let problem = response.json().await;
        assert_eq!(response.status, status, "{problem}");
        let named = problem["field"].as_str().unwrap();
        assert!(named.ends_with(field), "{named} is not {field}");
    }
    let forbidden = json!({"type": "t", "target": {"job_id": 1, "user_id": 2}});
    let mut response = post(&server, "send", &token, &forbidden).await;
    assert_eq!(response.status, 403);
    let problem = response.json().await;
    assert!(problem["detail"].as_str().unwrap().contains("user:2"));
    for messages in [json!([]), json!(vec![json!({}); 1001]), json!({})] {
        let body = json!({ "messages": messages });
        let mut response = post(&server, "batch", &token, &body).await;
        assert_eq!(response.status, 422);
        assert_eq!(response.json().await["field"], "messages");
    }
}

/// Whoever may publish to a chat can not make anybody a member of it, nor put words into the chat
/// backend's mouth.
#[tokio::test]
async fn what_only_the_chat_backend_says_can_not_be_sent() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats).chat(5, &[1])).await;
    let mut stream = server.connect(9).await;
    let token = publisher(&["chat:*", "user:*"]);
    for kind in [
        "MemberAdded",
        "member_added",
        "member_removed",
        "MessageReceived",
    ] {
        let spellings = [
            json!({"type": kind, "chat_id": 5, "user_id": 9, "message": {}, "target": {"user_id": 9}}),
            json!({"type": "t", "event_type": kind, "chat_id": 5, "user_id": 9, "message": {},
                "target": {"user_id": 9}}),
            json!({"type": "t", kind: {"chat_id": 5, "user_id": 9, "message": {}}, "target": {"user_id": 9}}),
        ];
        for message in &spellings {
            post(&server, "send", &token, message).await;
        }
    }
    accepted(
        &server,
        "send",
        &token,
        &json!({"type": "end", "target": {"user_id": 9}}),
    )
    .await;
    let backend = nats.backend().await;
    let secret = crate::support::payload::chat_message(5, "for members");
    backend.publish("fechatter.realtime.chat.5", &secret).await;
    let marker = json!({"type": "marker", "channel": "user:9"});
    accepted(&server, "send", &token, &marker).await;
    loop {
        let event = stream.next().await;
        assert!(
            !event.data.to_string().contains("for members"),
            "{}",
            event.data
        );
        assert!(!event.kind().starts_with("chat_member"), "{}", event.data);
        if event.kind() == "marker" {
            break;
        }
    }
}

#[tokio::test]
async fn who_publishes_too_much_is_told_when_to_go_on() {
    let settings = Settings::new()
        .set("server.publish_rate", 1)
        .set("server.publish_burst", 3);
    let server = Server::start(settings).await;
    let token = publisher(&["*"]);
    let message = json!({"type": "t", "channel": "job:1"});
    for _ in 0..3 {
        accepted(&server, "send", &token, &message).await;
    }
    let mut response = post(&server, "send", &token, &message).await;
    assert_eq!(response.status, 429);
    let wait: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&wait), "{wait}");
    assert_eq!(response.json().await["status"], 429);
    // Another user has a rate of its own.
    let rights = json!({"publish": ["*"]});
    let other = Token::of(10).claim("notify", rights);
    let other = other.sign_hs256(tokens::SECRET);
    accepted(&server, "send", &other, &message).await;
}

#[tokio::test]
async fn nothing_is_accepted_that_the_log_does_not_have() {
    let mut nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let token = publisher(&["*"]);
    let message = json!({"type": "t", "channel": "job:1"});
    accepted(&server, "send", &token, &message).await;
    nats.kill();
    let response = post(&server, "send", &token, &message).await;
    assert_eq!(response.status, 503);
    assert!(response.header("retry-after").is_some());
    nats.start_again().await;
    server.ready().await;
    accepted(&server, "send", &token, &message).await;
}

#[tokio::test]
async fn who_sends_can_wait_to_hear_whom_the_message_has_reached() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats);
    let [one, other] = [
        Server::start(settings.clone()).await,
        Server::start(settings).await,
    ];
    let token = publisher(&["*"]);
    let rights = json!({"admin": true, "publish": ["*"]});
    let admin = Token::of(9)
        .claim("notify", rights)
        .sign_hs256(tokens::SECRET);
    eventually("both instances to know each other", || async {
        let request = Request::get("/api/v1/connections/stats").bearer(&admin);
        let stats = one.send(request).await.json().await;
        (stats["instances"]["replied"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    let _streams = [
        one.connect(1).await,
        other.connect(1).await,
        other.connect(2).await,
    ];
    let message = json!({"type": "t", "target": {"user_id": 1, "job_id": 7}});
    let answer = accepted(&one, "send?wait=3000", &token, &message).await;
    let delivered = &answer["delivered"];
    assert_eq!(delivered["sessions"], 2, "{answer}");
    assert_eq!(delivered["absent"], json!([]));
    assert_eq!(
        delivered["instances"]["replied"].as_array().unwrap().len(),
        2
    );
    let message = json!({"type": "t", "target": {"user_id": 5}});
    let answer = accepted(&other, "send?wait=200", &token, &message).await;
    assert_eq!(answer["delivered"]["sessions"], 0);
    assert_eq!(answer["delivered"]["absent"], json!([5]));
    let notice = json!({"type": "notice"});
    let answer = accepted(&other, "broadcast?wait=3000", &token, &notice).await;
    assert_eq!(answer["delivered"]["sessions"], 3);
    // A message that was sent before is not delivered again, and nobody is told that it reached no one.
    let again = json!({"type": "t", "id": "once", "target": {"user_id": 1}});
    let first = accepted(&one, "send?wait=3000", &token, &again).await;
    assert_eq!(first["delivered"]["sessions"], 2);
    let second = accepted(&one, "send?wait=3000", &token, &again).await;
    assert_eq!(second["event_id"], first["event_id"]);
    assert!(second.get("delivered").is_none(), "{second}");
    let mut refused = post(&one, "send?wait=10001", &token, &message).await;
    assert_eq!(refused.status, 422);
    assert_eq!(refused.json().await["field"], "wait");
}
