//! Who is connected, on all instances, and ending it.

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::tokens::Token;
use crate::support::{Backend, EventStream, Nats, Request, Server, Settings, eventually, tokens};

fn admin() -> String {
    let rights = json!({"admin": true});
    let token = Token::of(99).claim("notify", rights);
    token.sign_hs256(tokens::SECRET)
}

async fn get(server: &Server, target: &str) -> Value {
    let request = Request::get(target).bearer(&admin());
    let mut response = server.send(request).await;
    let answer = response.json().await;
    assert_eq!(response.status, 200, "{answer}");
    answer
}

async fn delete(server: &Server, target: &str) -> (u16, Value) {
    let request = Request::new("DELETE", target).bearer(&admin());
    let mut response = server.send(request).await;
    (response.status, response.json().await)
}

/// Two instances that know of each other.
async fn two(nats: &Nats) -> [Server; 2] {
    let settings = Settings::new().nats(nats).chat(5, &[1, 2]);
    let servers = [
        Server::start(settings.clone()).await,
        Server::start(settings).await,
    ];
    for server in &servers {
        eventually("both instances to answer", || async {
            let stats = get(server, "/api/v1/connections/stats").await;
            let replied = stats["instances"]["replied"].as_array().unwrap().len();
            (replied == 2).then_some(())
        })
        .await;
    }
    servers
}

async fn ended_for_good(mut stream: EventStream) {
    let closing = stream.expect_type("closing").await;
    assert_eq!(closing.data["reason"], "disconnected");
    assert_eq!(closing.data["reconnect"], false);
    stream.expect_end().await;
}

#[tokio::test]
async fn connections_of_all_instances_are_listed_page_by_page() {
    let nats = Nats::start().await;
    let servers = two(&nats).await;
    let mut streams = Vec::new();
    for (server, user) in [(0, 1), (1, 1), (1, 2), (0, 3), (1, 4)] {
        streams.push(servers[server].connect(user).await);
    }
    let mut seen: Vec<Value> = Vec::new();
    let mut next = String::new();
    loop {
        let page = get(
            &servers[0],
            &format!("/api/v1/connections?limit=2&after={next}"),
        )
        .await;
        seen.extend(page["connections"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(id) => next = id.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted_by_key(|c| c["connection_id"].as_str().unwrap().to_owned()));
    let one = seen
        .iter()
        .find(|connection| connection["user_id"] == 2)
        .unwrap();
    assert_eq!(one["channels"], json!(["chat:5", "user:2"]));
    assert_eq!(one["transport"], "sse");
    assert!(one["remote"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(one["connected_at"].is_string() && one["instance"].is_string());
    let of_user = get(&servers[1], "/api/v1/connections?user_id=1").await;
    assert_eq!(of_user["connections"].as_array().unwrap().len(), 2);
    let of_channel = get(&servers[0], "/api/v1/channels/chat:5").await;
    assert_eq!(of_channel["connections"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn numbers_and_channels_are_summed_over_instances() {
    let nats = Nats::start().await;
    let servers = two(&nats).await;
    let _streams = [
        servers[0].connect(1).await,
        servers[1].connect(2).await,
        servers[1].connect(3).await,
    ];
    let stats = get(&servers[0], "/api/v1/connections/stats").await;
    assert_eq!(stats["total"], 3);
    assert_eq!(
        stats["channels"]["chat"],
        json!({"channels": 1, "listeners": 2, "exact": true})
    );
    assert_eq!(
        stats["channels"]["user"],
        json!({"channels": 3, "listeners": 3, "exact": true})
    );
    let by_instance = stats["by_instance"].as_object().unwrap();
    let channels: Vec<&Value> = by_instance.values().map(|one| &one["channels"]).collect();
    assert_eq!(channels.len(), 2);
    for expected in [json!({"chat": 1, "user": 1}), json!({"chat": 1, "user": 2})] {
        assert!(channels.contains(&&expected), "{stats}");
    }
    assert!(stats["bytes"].as_u64().unwrap() > 0);
    let page = get(&servers[1], "/api/v1/channels?limit=2").await;
    assert_eq!(
        page["channels"],
        json!([{"channel": "chat:5", "listeners": 2}, {"channel": "user:1", "listeners": 1}])
    );
    let next = page["next"].as_str().unwrap();
    let page = get(&servers[1], &format!("/api/v1/channels?after={next}")).await;
    assert_eq!(page["channels"].as_array().unwrap().len(), 2);
    assert_eq!(page["next"], Value::Null);
    let old_form = get(&servers[0], "/api/sse/stats").await;
    assert_eq!(old_form["success"], true);
    assert_eq!(old_form["data"]["totalConnections"], 3);
    assert_eq!(old_form["data"]["channels"]["chat:5"], 2);
}

/// The subject on which instances ask each other, and the name of one of the version before.
const PEERS: &str = "notify.peers.all";
const OLDER: &str = "older-1";

/// An instance of the version before, which reads over what it does not know: it is there, has two streams that
/// listen on a chat, and passes on what it is asked.
async fn older_instance(backend: &Backend) -> mpsc::UnboundedReceiver<Value> {
    let client = backend.client().clone();
    let mut calls = client.subscribe(PEERS).await.unwrap();
    let (sender, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(call) = calls.next().await {
            let question: Value = serde_json::from_slice(&call.payload).unwrap();
            let stats = question["says"] == json!({"find": "stats"});
            let (true, Some(reply)) = (stats && question["from"] != OLDER, call.reply) else {
                continue;
            };
            let chats = json!({"channels": 1, "listeners": 2, "marks": "AAAAAAAAAAA"});
            let stats = json!({"connections": 2, "resources": {"chat": chats}, "keys": {}});
            let answer = json!({"from": OLDER, "says": {"found": {"stats": stats}}});
            let answer = answer.to_string().into_bytes();
            client.publish(reply, answer.into()).await.unwrap();
            let _ = sender.send(question);
        }
    });
    let hello = json!({"from": OLDER, "says": "hello"});
    backend.publish(PEERS, &hello).await;
    asked
}

#[tokio::test]
async fn channels_are_told_apart_only_for_whoever_counts_them() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(Settings::new().nats(&nats).chat(5, &[1])).await;
    let _stream = server.connect(1).await;
    let mut asked = older_instance(&backend).await;
    let counted = eventually("both instances to answer", || async {
        let stats = get(&server, "/api/v1/connections/stats").await;
        (stats["total"] == 3).then_some(stats)
    })
    .await;
    assert_eq!(
        counted["channels"]["chat"],
        json!({"channels": 2, "listeners": 3, "exact": true})
    );
    let question = asked.recv().await.unwrap();
    assert_eq!(question.get("brief"), None, "{question}");
    while asked.try_recv().is_ok() {}

    let request = Request::get("/api/sse/stats").bearer(&tokens::of_user(1));
    let summed = server.send(request).await.json().await;
    let expected = json!({"totalConnections": 3, "channels": {"chat": 3, "user": 1}});
    assert_eq!(summed["data"], expected);
    let question = asked.recv().await.unwrap();
    assert_eq!(question["brief"], true, "{question}");

    for brief in [None, Some(true)] {
        let mut question = json!({"from": OLDER, "says": {"find": "stats"}});
        if let Some(brief) = brief {
            question["brief"] = json!(brief);
        }
        let question = question.to_string().into_bytes();
        let answer = backend.client().request(PEERS, question.into()).await;
        let answer: Value = serde_json::from_slice(&answer.unwrap().payload).unwrap();
        let stats = &answer["says"]["found"]["stats"];
        assert_eq!(stats["connections"], 1, "{answer}");
        let all = brief.is_none();
        for resource in ["chat", "user"] {
            let census = &stats["resources"][resource];
            assert_eq!(
                (&census["channels"], &census["listeners"]),
                (&json!(1), &json!(1))
            );
            assert_eq!(census["marks"].is_string(), all, "{answer}");
        }
        let keys = stats["keys"].as_object().unwrap();
        assert_eq!(!keys.is_empty(), all, "{answer}");
    }
}

#[tokio::test]
async fn a_channel_counts_once_however_many_threads_have_listeners() {
    let users: Vec<i64> = (1..=24).collect();
    let settings = Settings::new()
        .set("server.workers", 4)
        .chat(5, &users)
        .chat(6, &users);
    let server = Server::start(settings).await;
    let streams = users.iter().map(|user| server.connect(*user));
    let _streams = futures_util::future::join_all(streams).await;
    let stats = get(&server, "/api/v1/connections/stats").await;
    let expected = json!({
        "chat": {"channels": 2, "listeners": 48, "exact": true},
        "user": {"channels": 24, "listeners": 24, "exact": true},
    });
    assert_eq!(stats["channels"], expected);
}

#[tokio::test]
async fn a_connection_and_all_of_a_user_can_be_ended_from_any_instance() {
    let nats = Nats::start().await;
    let servers = two(&nats).await;
    let mut response = servers[0].events(&tokens::of_user(1)).await;
    assert_eq!(response.status, 200);
    let mut one = EventStream::new(std::mem::replace(
        &mut response,
        servers[1].events(&tokens::of_user(7)).await,
    ));
    let confirmed = one.expect_type("connection_confirmed").await;
    let id = confirmed.data["connection_id"].as_str().unwrap();
    let target = format!("/api/v1/connections/{id}");
    let (status, answer) = delete(&servers[1], &target).await;
    assert_eq!((status, &answer["ended"]), (200, &json!(1)));
    ended_for_good(one).await;
    assert_eq!(delete(&servers[1], &target).await.0, 404);

    let users = [servers[0].connect(2).await, servers[1].connect(2).await];
    let mut other = servers[1].connect(1).await;
    let (status, answer) = delete(&servers[0], "/api/v1/connections?user_id=2").await;
    assert_eq!((status, &answer["ended"]), (200, &json!(2)));
    for stream in users {
        ended_for_good(stream).await;
    }
    let backend = nats.backend().await;
    let payload = crate::support::payload::chat_message(5, "still here");
    backend.publish("fechatter.realtime.chat.5", &payload).await;
    other.expect_type("new_message").await;
    assert_eq!(delete(&servers[0], "/api/v1/connections").await.0, 422);
}

#[tokio::test]
async fn an_instance_that_does_not_answer_is_named() {
    let nats = Nats::start().await;
    let [one, other] = two(&nats).await;
    other.process().signal("STOP");
    let stats = get(&one, "/api/v1/connections/stats").await;
    assert_eq!(
        stats["instances"]["missing"].as_array().unwrap().len(),
        1,
        "{stats}"
    );
    other.process().signal("CONT");
    other.stop().await;
    // It has said goodbye.
    eventually("one instance to be left", || async {
        let stats = get(&one, "/api/v1/connections/stats").await;
        let missing = stats["instances"]["missing"].as_array().unwrap().len();
        (missing == 0 && stats["instances"]["replied"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn only_administrators_may_look() {
    let server = Server::start(Settings::new()).await;
    for target in [
        "/api/v1/connections",
        "/api/v1/connections/stats",
        "/api/v1/channels",
        "/api/v1/channels/chat:5",
    ] {
        let request = Request::get(target).bearer(&tokens::of_publisher(1));
        let mut response = server.send(request).await;
        assert_eq!(response.status, 403, "{target}");
        let problem = response.json().await;
        assert!(problem["detail"].as_str().unwrap().contains("notify.admin"));
        assert_eq!(server.get(target).await.status, 401, "{target}");
    }
    for (target, field) in [
        ("/api/v1/connections?limit=0", "limit"),
        ("/api/v1/connections?limit=501", "limit"),
        ("/api/v1/connections?user_id=a:b", "user_id"),
        ("/api/v1/connections?channel=x", "channel"),
        ("/api/v1/channels/nocolon", "channel"),
    ] {
        let mut response = server.send(Request::get(target).bearer(&admin())).await;
        assert_eq!(response.status, 422, "{target}");
        assert_eq!(response.json().await["field"], field);
    }
}

#[tokio::test]
async fn whether_streams_get_through_can_be_tested() {
    let server = Server::start(Settings::new()).await;
    let answer = server.get("/api/sse/test").await.json().await;
    assert_eq!(answer["success"], true);
    let stream = Request::get("/api/sse/test").header("accept", "text/event-stream");
    assert_eq!(server.send(stream.clone()).await.status, 401);
    let stream = stream.bearer(&tokens::of_user(1));
    let mut stream = EventStream::new(server.send(stream).await);
    for number in 1..=5 {
        let event = stream.expect_type("test").await;
        assert_eq!(event.name.as_deref(), Some("test"));
        assert_eq!(event.data["number"], number);
    }
    stream.expect_end().await;
}

#[tokio::test]
async fn of_many_channels_the_first_are_listed_and_all_are_counted() {
    let settings = (1..=30).fold(Settings::new(), |settings, chat| settings.chat(chat, &[7]));
    let server = Server::start(settings).await;
    let _stream = server.connect(7).await;
    let page = get(&server, "/api/v1/connections").await;
    let connection = &page["connections"][0];
    let first: Vec<String> = (1..=20).map(|chat| format!("chat:{chat}")).collect();
    assert_eq!(connection["channels"], json!(first));
    assert_eq!(connection["channel_count"], 31);
}
