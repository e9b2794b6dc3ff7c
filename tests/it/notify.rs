//! Plain NOTIFY, of databases whose triggers exist already.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{EventStream, Nats, Postgres, Request, Server, Settings};
use crate::support::{sqlite, tokens};

fn examples() -> Vec<Value> {
    let lines = include_str!("fixtures/postgres_notify.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn database() -> Postgres {
    let postgres = Postgres::start().await;
    postgres.execute(sqlite::CHAT_MEMBERS).await;
    postgres
}

fn settings(postgres: &Postgres, names: &[&str]) -> Settings {
    Settings::new()
        .set("database.url", postgres.url())
        .set("source.notify", json!(names))
}

async fn notify(postgres: &Postgres, name: &str, payload: &Value) {
    let payload = payload.to_string().replace('\'', "''");
    postgres
        .execute(&format!("SELECT pg_notify('{name}', '{payload}')"))
        .await;
}

async fn open(server: &Server, target: &str) -> EventStream {
    let token = tokens::Token::of(9)
        .claim("notify", json!({"subscribe": ["*"]}))
        .sign_hs256(tokens::SECRET);
    let mut stream = EventStream::new(server.send(Request::get(target).bearer(&token)).await);
    stream.expect_type("connection_confirmed").await;
    stream
}

/// Ends the connections of servers, as an administrator would.
async fn cut(postgres: &Postgres) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    postgres.execute(sql).await;
}

#[tokio::test]
async fn the_notifications_of_classic_servers_are_events() {
    let postgres = database().await;
    let names = ["session_messages:*", "message_created", "chat_updated"];
    let server = Server::start(settings(&postgres, &names)).await;
    let session = "/api/sse/messages?sessionId=test-sse-1770695257924";
    let mut session = open(&server, session).await;
    let mut two = server.connect(2).await;
    let mut four = server.connect(4).await;
    for example in examples() {
        let name = example["channel"].as_str().unwrap();
        notify(&postgres, name, &example["payload"]).await;
    }
    let event = session.expect_type("message").await;
    assert_eq!(event.data["data"], examples()[0]["payload"]);
    assert_eq!(event.data["channel"], "session:test-sse-1770695257924");
    let event = two.expect_message("hello").await;
    assert_eq!(event.data["chat_id"], 5);
    // Who is added listens on the chat from there on.
    let event = four.expect_type("chat_member_added").await;
    assert_eq!(event.data["user_id"], 4);
    let to_all = json!({"message": {"id": 8, "chat_id": 5, "content": "to the chat"}});
    notify(&postgres, "message_created", &to_all).await;
    four.expect_message("to the chat").await;
    let left = json!({"op": "DELETE", "old": {"chat_id": 5, "user_id": 4}, "new": null});
    notify(&postgres, "chat_updated", &left).await;
    four.expect_type("chat_member_removed").await;
}

#[tokio::test]
async fn names_are_what_they_are() {
    let postgres = database().await;
    let names = ["session_messages:*", "job:Nightly \"X\"", "Ünïcode-Name"];
    let server = Server::start(settings(&postgres, &names)).await;
    for session in ["A-b:C.d", "a-b:c.d", "select", "7", "x\"y", "蓝"] {
        let path: String = session.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mut stream = open(&server, &format!("/api/sse/messages?sessionId={path}")).await;
        let name = format!("session_messages:{session}");
        notify(&postgres, &name.to_uppercase(), &json!("wrong")).await;
        notify(&postgres, &name, &json!(session)).await;
        assert_eq!(stream.expect_type("message").await.data["data"], session);
    }
    let mut stream = open(&server, "/sse/stream/job:1").await;
    let whole = json!({"type": "job.done", "channel": "job:1", "data": 1});
    notify(
        &postgres,
        "job:Nightly \"X\"",
        &json!("no channel of its own"),
    )
    .await;
    notify(&postgres, "Ünïcode-Name", &json!({"no": "event"})).await;
    notify(&postgres, "Ünïcode-Name", &whole).await;
    assert_eq!(stream.expect_type("job.done").await.data["data"], 1);
    server
        .metric_becomes("notify_listen_rejected_total", "", 2.0)
        .await;
}

#[tokio::test]
async fn after_a_lost_connection_those_concerned_get_a_gap_and_all_is_heard_again() {
    let mut postgres = database().await;
    let server = Server::start(settings(&postgres, &["session_messages:*"])).await;
    let mut session = open(&server, "/sse/session/a").await;
    let mut job = open(&server, "/sse/stream/job:1").await;
    for restart in [false, true] {
        if restart {
            postgres.stop().await;
            postgres.start_again().await;
        } else {
            cut(&postgres).await;
        }
        session.expect_gap("overflow").await;
        notify(&postgres, "session_messages:a", &json!("again")).await;
        assert_eq!(session.expect_type("message").await.data["data"], "again");
    }
    // Opened while nothing can be heard, and told when it can.
    postgres.stop().await;
    let mut late = open(&server, "/sse/session/b").await;
    postgres.start_again().await;
    late.expect_gap("overflow").await;
    notify(&postgres, "session_messages:b", &json!("heard")).await;
    assert_eq!(late.expect_type("message").await.data["data"], "heard");
    let publish = Request::new("POST", "/api/v1/messages/send")
        .bearer(&tokens::of_publisher(1))
        .json(&json!({"type": "job.done", "channel": "job:1", "data": 1}));
    assert_eq!(server.send(publish).await.status, 202);
    job.expect_type("job.done").await;
}

#[tokio::test]
async fn where_anyone_may_be_concerned_everybody_gets_the_gap() {
    let postgres = database().await;
    let server = Server::start(settings(&postgres, &["message_created"])).await;
    let mut stream = server.connect(2).await;
    // It listens.
    let message = json!({"message": {"id": 7, "chat_id": 5, "content": "x"}, "chat_members": [2]});
    server.metric_becomes("notify_listen_names", "", 1.0).await;
    notify(&postgres, "message_created", &message).await;
    stream.expect_message("x").await;
    cut(&postgres).await;
    stream.expect_gap("overflow").await;
    notify(&postgres, "message_created", &message).await;
    stream.expect_message("x").await;
}

/// Whoever began to listen first, and as often as they were notified.
#[tokio::test]
async fn instances_that_hear_the_same_publish_it_once() {
    let (postgres, nats) = (database().await, Nats::start().await);
    let settings = settings(&postgres, &["session_messages:*", "notes"]).nats(&nats);
    let one = Server::start(settings.clone()).await;
    let mut first = open(&one, "/sse/stream/session:a,job:1").await;
    let note = json!({"type": "note", "channel": "job:1", "data": "same"});
    notify(&postgres, "session_messages:a", &json!("same")).await;
    assert_eq!(first.expect_type("message").await.data["data"], "same");
    let two = Server::start(settings).await;
    two.metric_becomes("notify_listen_names", "", 1.0).await;
    let mut second = open(&two, "/sse/stream/session:a,job:1").await;
    for number in 0..20 {
        let sql = format!(
            "SELECT pg_notify('session_messages:a', '\"same\"'); SELECT pg_notify('notes', '{note}');
             SELECT pg_notify('session_messages:a', '{number}')"
        );
        postgres.execute(&sql).await;
        for stream in [&mut first, &mut second] {
            assert_eq!(stream.expect_type("message").await.data["data"], "same");
            assert_eq!(stream.expect_type("note").await.data["data"], "same");
            assert_eq!(stream.expect_type("message").await.data["data"], number);
        }
    }
}

#[tokio::test]
async fn all_sessions_share_one_connection() {
    let (postgres, nats) = (database().await, Nats::start().await);
    let settings = settings(&postgres, &["session_messages:*"])
        .nats(&nats)
        .set("server.max_connections_per_user", 1000);
    let server = Server::start(settings).await;
    let targets: Vec<String> = (0..300).map(|n| format!("/sse/session/s-{n}")).collect();
    let mut streams = join_all(targets.iter().map(|target| open(&server, target))).await;
    let sql =
        "SELECT pg_notify('session_messages:s-' || n, n::text) FROM generate_series(0, 299) n";
    postgres.execute(sql).await;
    for (number, stream) in streams.iter_mut().enumerate() {
        assert_eq!(stream.expect_type("message").await.data["data"], number);
    }
    let sql = "SELECT count(*)::text FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let connections: u32 = postgres.texts(sql).await[0].parse().unwrap();
    assert!((1..=5).contains(&connections), "{connections}");
}

#[tokio::test]
async fn names_that_can_not_be_listened_on_stop_the_start() {
    let sqlite = Settings::new().set("source.notify", json!(["message_created"]));
    let postgres = Settings::new().set("database.url", "postgres://localhost/x");
    for (settings, key, says) in [
        (sqlite, "source.notify", "PostgreSQL"),
        (
            postgres.clone().set("source.notify", json!(["session*"])),
            "source.notify",
            "session_messages:*",
        ),
        (
            postgres
                .clone()
                .set("source.notify", json!(["chat_messages:*"])),
            "source.notify",
            "outbox",
        ),
        (
            postgres.clone().set("source.poll_interval", "1ms"),
            "source.poll_interval",
            "10ms",
        ),
        (
            postgres.set("source.batch", 0),
            "source.batch",
            "at least 1",
        ),
    ] {
        let outcome = settings.run(&["check-config"]).await;
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(
            outcome.stderr.contains(key) && outcome.stderr.contains(says),
            "{outcome:?}"
        );
    }
}
