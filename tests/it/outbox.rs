//! The outbox: a committed row is an event, once, in the order of commits.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::support::{EventStream, Nats, Postgres, Request, Server, Settings, eventually, within};
use crate::support::{sqlite, tokens};

/// A database with the schema, of which `migrate` was told by these settings.
async fn migrated(postgres: &Postgres, nats: &Nats) -> Settings {
    let settings = Settings::new()
        .nats(nats)
        .set("database.url", postgres.url());
    let outcome = settings.run(&["migrate"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    settings
}

async fn listen(server: &Server, channels: &str) -> EventStream {
    open(server, channels, "").await
}

/// Opens a stream behind an event that was had before.
async fn open(server: &Server, channels: &str, last_event_id: &str) -> EventStream {
    let token = tokens::Token::of(1)
        .claim("notify", json!({"subscribe": ["*"]}))
        .sign_hs256(tokens::SECRET);
    let request = Request::get(&format!("/sse/stream/{channels}"))
        .bearer(&token)
        .header("last-event-id", last_event_id);
    let mut stream = EventStream::new(server.send(request).await);
    stream.expect_type("connection_confirmed").await;
    stream
}

fn insert(session: &str, content: &str) -> String {
    format!("INSERT INTO messages (session_id, content) VALUES ('{session}', '{content}')")
}

/// The next messages must say this, in this order.
async fn expect(stream: &mut EventStream, contents: &[&str]) {
    for content in contents {
        let event = stream.expect_type("message").await;
        assert_eq!(event.data["data"]["content"], *content);
    }
}

/// Waits until the outbox is empty.
async fn drained(postgres: &Postgres) {
    let sql = "SELECT count(*)::text FROM notify_outbox";
    eventually("the outbox to be empty", || async {
        (postgres.texts(sql).await == ["0"]).then_some(())
    })
    .await;
}

async fn connection(postgres: &Postgres) -> PgConnection {
    PgConnection::connect(&postgres.url()).await.unwrap()
}

async fn run(connection: &mut PgConnection, sql: &str) {
    let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    within("a statement", sql.execute(connection))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_committed_row_is_an_event_and_a_rolled_back_one_never() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    let server = Server::start(migrated(&postgres, &nats).await).await;
    let mut stream = listen(&server, "session:s-1,chat:5").await;
    let rolled_back = format!("BEGIN; {}; ROLLBACK", insert("s-1", "never"));
    postgres.execute(&rolled_back).await;
    let row = "INSERT INTO chats (id, name) VALUES (5, 'x');
        INSERT INTO messages (id, session_id, chat_id, content, sender_type, sender_id, sender_name,
            message_type, created_at)
        VALUES ('m-1', 's-1', 5, 'hello', 'user', '7', 'Ann', 'image', '2026-02-10T11:47:37.931918+08:00')";
    postgres.execute(row).await;
    let event = stream.expect_type("message").await;
    assert_eq!(event.name.as_deref(), Some("message"));
    assert!(event.id.is_some());
    assert_eq!(
        event.data["data"],
        json!({"id": "m-1", "sessionId": "s-1", "chatId": 5, "content": "hello", "senderType": "user",
            "senderId": "7", "senderName": "Ann", "messageType": "image",
            "createdAt": "2026-02-10T03:47:37.931918+00:00"})
    );
    assert_eq!(event.data["channel"], "session:s-1,chat:5");
    // Once, although the stream has both of its channels.
    postgres.execute(&insert("s-1", "next")).await;
    expect(&mut stream, &["next"]).await;
    drained(&postgres).await;
    let left = "SELECT count(*)::text FROM notify_outbox_commits";
    eventually("nothing to be left", || async {
        (postgres.texts(left).await == ["0"]).then_some(())
    })
    .await;
}

/// Two transactions that write to two channels in turns, and others in between.
async fn interleave(postgres: &Postgres) {
    let (mut first, mut second) = (connection(postgres).await, connection(postgres).await);
    run(
        &mut first,
        &format!("BEGIN; {}", insert("a", "1 begun first")),
    )
    .await;
    run(
        &mut second,
        &format!("BEGIN; {}", insert("a", "2 begun second")),
    )
    .await;
    run(
        &mut second,
        &format!("{}; COMMIT", insert("b", "3 of the second")),
    )
    .await;
    postgres.execute(&insert("a", "4 between")).await;
    run(
        &mut first,
        &format!("{}; COMMIT", insert("b", "5 of the first")),
    )
    .await;
    postgres.execute(&insert("b", "6 last")).await;
}

async fn expect_interleaved(stream: &mut EventStream) {
    let (mut a, mut b) = (String::new(), String::new());
    while a.len() + b.len() < 6 {
        let event = stream.next().await;
        if event.kind() == "caught_up" {
            continue;
        }
        let data = &event.data["data"];
        let number = &data["content"].as_str().unwrap()[..1];
        match data["sessionId"].as_str() {
            Some("a") => a.push_str(number),
            _ => b.push_str(number),
        }
    }
    assert_eq!((a.as_str(), b.as_str()), ("241", "356"));
}

#[tokio::test]
async fn rows_of_a_channel_come_in_the_order_of_commits() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    let server = Server::start(migrated(&postgres, &nats).await).await;
    let mut stream = listen(&server, "session:a,session:b").await;
    interleave(&postgres).await;
    expect_interleaved(&mut stream).await;
}

#[tokio::test]
async fn rows_that_were_committed_while_no_server_ran_come_in_the_same_order() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    let settings = migrated(&postgres, &nats).await;
    let server = Server::start(settings.clone()).await;
    let mut stream = listen(&server, "session:a,session:b").await;
    postgres.execute(&insert("a", "before")).await;
    expect(&mut stream, &["before"]).await;
    server.stop().await;
    interleave(&postgres).await;
    let server = Server::start(settings).await;
    let mut stream = open(&server, "session:a,session:b", stream.last_event_id()).await;
    expect_interleaved(&mut stream).await;
}

#[tokio::test]
async fn a_transaction_that_is_held_open_holds_up_nobody() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    let server = Server::start(migrated(&postgres, &nats).await).await;
    let mut stream = listen(&server, "session:a,session:b").await;
    let mut long = connection(&postgres).await;
    run(&mut long, &format!("BEGIN; {}", insert("a", "long"))).await;
    for session in ["a", "b"] {
        let content = format!("meanwhile {session}");
        postgres.execute(&insert(session, &content)).await;
        expect(&mut stream, &[&content]).await;
    }
    run(&mut long, "COMMIT").await;
    expect(&mut stream, &["long"]).await;
}

#[tokio::test]
async fn what_can_not_be_published_is_put_aside_and_stops_nothing() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    let server = Server::start(migrated(&postgres, &nats).await).await;
    let mut stream = listen(&server, "session:a,job:1").await;
    let rows = "INSERT INTO notify_outbox (channel, type, payload) VALUES
        ('job:1', 'job.progress', '{\"percent\": 5}'),
        ('job:1', 'message', '{nope'),
        ('nowhere', 'message', '{}'),
        ('job:1', 'message', '\"' || repeat('x', 262144) || '\"'),
        ('job:1', 'message', '\"' || repeat('x', 5000000) || '\"'),
        ('job:1', 'job.done', '7')";
    postgres.execute(rows).await;
    let event = stream.expect_type("job.progress").await;
    assert_eq!(event.data["data"], json!({"percent": 5}));
    assert_eq!(stream.expect_type("job.done").await.data["data"], 7);
    // A row of 200 kB is none of them.
    let large = "x".repeat(200_000);
    postgres.execute(&insert("a", &large)).await;
    expect(&mut stream, &[&large]).await;
    drained(&postgres).await;
    let reasons = "SELECT reason FROM notify_outbox_dead ORDER BY id";
    let reasons = postgres.texts(reasons).await;
    let expected = ["not JSON", "no colon", "262144", "5000002"];
    assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
    for (reason, says) in reasons.iter().zip(expected) {
        assert!(reason.contains(says), "{reason}");
    }
    server
        .metric_becomes("notify_outbox_dead_total", "", 4.0)
        .await;
}

#[tokio::test]
async fn ten_thousand_rows_of_one_transaction_come_once_and_in_order() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    let server = Server::start(migrated(&postgres, &nats).await).await;
    let channels: Vec<String> = (0..50)
        .map(|number| format!("session:s-{number}"))
        .collect();
    let mut stream = listen(&server, &channels.join(",")).await;
    let rows = "INSERT INTO messages (session_id, content)
        SELECT 's-' || n % 50, n::text FROM generate_series(1, 10000) n";
    postgres.execute(rows).await;
    let mut last = vec![0_u64; 50];
    for _ in 0..10_000 {
        let event = stream.expect_type("message").await;
        let number: u64 = event.data["data"]["content"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let before = &mut last[usize::try_from(number % 50).unwrap()];
        let expected = if *before == 0 && number < 50 {
            number
        } else {
            *before + 50
        };
        assert_eq!(number, expected);
        *before = number;
    }
    drained(&postgres).await;
}

/// NOTIFY can be switched off in the database.
#[tokio::test]
async fn without_notify_the_outbox_is_looked_at_from_time_to_time() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    let server = Server::start(migrated(&postgres, &nats).await).await;
    let off = "ALTER TABLE notify_outbox_commits DISABLE TRIGGER notify_outbox_wake";
    postgres.execute(off).await;
    let mut stream = listen(&server, "session:a").await;
    for content in ["1", "2", "3"] {
        postgres.execute(&insert("a", content)).await;
        expect(&mut stream, &[content]).await;
    }
}

#[tokio::test]
async fn an_outbox_that_is_made_later_is_found() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    postgres.execute(sqlite::CHAT_MEMBERS).await;
    let settings = Settings::new()
        .nats(&nats)
        .set("database.url", postgres.url());
    let server = Server::start(settings.clone()).await;
    let mut stream = listen(&server, "job:1").await;
    let outcome = settings.run(&["migrate", "--outbox-only"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let row =
        "INSERT INTO notify_outbox (channel, payload) VALUES ('job:1', '{\"content\": \"x\"}')";
    postgres.execute(row).await;
    expect(&mut stream, &["x"]).await;
}

#[tokio::test]
async fn a_role_that_may_not_use_the_outbox_is_told_what_it_needs() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    let settings = migrated(&postgres, &nats).await;
    let limited =
        "CREATE ROLE limited LOGIN; GRANT SELECT ON chat_members, notify_outbox TO limited";
    postgres.execute(limited).await;
    let url = postgres.url().replace("tester@", "limited@");
    let server = Server::start(settings.set("database.url", url)).await;
    let line = server
        .log_line(|line| line.message() == "the outbox is not published for the moment")
        .await;
    assert!(
        line.text("error").starts_with("permission denied for"),
        "{}",
        line.whole()
    );
    let advice = line.text("advice");
    assert!(advice.starts_with("grant the role"), "{advice}");
    // Who can't publish it does not say that it does.
    let publishes = "publishing the outbox";
    assert!(server.log().iter().all(|line| line.message() != publishes));
    let mut stream = listen(&server, "session:s-1").await;
    postgres.execute(&insert("s-1", "late")).await;
    // The tables that the advice names.
    let tables = advice.split_once("tables ").map(|(_, tables)| tables);
    let tables = tables.unwrap().replace(" and ", ", ");
    let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO limited");
    postgres.execute(&grant).await;
    expect(&mut stream, &["late"]).await;
    server.log_line(|line| line.message() == publishes).await;
}
