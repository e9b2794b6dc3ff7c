//! Which chats a user is in, according to somebody else's database.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::payload::{self, chat_subject};
use crate::support::{EventStream, Nats, Postgres, Response, Server, Settings, eventually};
use crate::support::{sqlite, tokens};

fn with_database(url: &str) -> Settings {
    Settings::new().set("database.url", url)
}

/// A database in which these users are in these chats.
pub(crate) async fn postgres_with(members: &[(i64, &[i64])]) -> Postgres {
    let postgres = Postgres::start().await;
    let rows = sqlite::insert_members(members);
    let sql = format!("{}; {rows}", sqlite::CHAT_MEMBERS);
    postgres.execute(&sql).await;
    postgres
}

async fn chats_of(server: &Server, user: impl Into<Value>) -> Value {
    let mut stream = EventStream::new(server.events(&tokens::of_user(user)).await);
    let mut event = stream.expect_type("connection_confirmed").await;
    event.data["connected_chats"].take()
}

#[tokio::test]
async fn the_default_query_leaves_out_chats_that_were_left() {
    let postgres = Postgres::start().await;
    let rows = "INSERT INTO chat_members (chat_id, user_id, left_at)
        VALUES (1, 2, NULL), (3, 2, NULL), (4, 2, now()), (5, 9, NULL)";
    postgres
        .execute(&format!("{}; {rows}", sqlite::CHAT_MEMBERS))
        .await;
    let server = Server::start(with_database(&postgres.url())).await;
    assert_eq!(chats_of(&server, 2).await, json!([1, 3]));
    assert_eq!(chats_of(&server, 9).await, json!([5]));
    assert_eq!(chats_of(&server, 7).await, json!([]));

    let settings = Settings::new();
    let sql = format!("{}; {}", sqlite::CHAT_MEMBERS, rows.replace("now()", "1"));
    sqlite::execute(&settings.database_file(), &sql).await;
    let server = Server::start(settings).await;
    assert_eq!(chats_of(&server, 2).await, json!([1, 3]));
    assert_eq!(chats_of(&server, 9).await, json!([5]));
}

#[tokio::test]
async fn ids_may_be_of_any_column_type() {
    let postgres = Postgres::start().await;
    let user = "7f1d3c52-3a0b-4c39-9a5a-0d5f3f0b6c11";
    let chat = "0b8f8f5e-8f5e-4b8f-8f5e-0b8f8f5e8f5e";
    for (name, column, user, chat) in [
        ("small", "smallint", json!(2), json!(5)),
        ("whole", "integer", json!(2), json!(5)),
        ("big", "bigint", json!(2), json!(5)),
        ("words", "text", json!("ann"), json!("general")),
        ("varchars", "varchar(40)", json!("ann"), json!("general")),
        ("uuids", "uuid", json!(user), json!(chat)),
    ] {
        let literal = |value: &Value| value.to_string().replace('"', "'");
        let (member, room) = (literal(&user), literal(&chat));
        let sql = format!(
            "CREATE TABLE {name} (room {column}, member {column});
             INSERT INTO {name} VALUES ({room}, {member})"
        );
        postgres.execute(&sql).await;
        let query = format!("SELECT room FROM {name} WHERE member = $1");
        let settings = with_database(&postgres.url()).set("database.membership_query", query);
        let server = Server::start(settings).await;
        assert_eq!(chats_of(&server, user).await, json!([chat]), "{column}");
        // Not an id of this type, so in no chat; certainly not a database failure.
        assert_eq!(chats_of(&server, "nobody").await, json!([]), "{column}");
    }
}

/// Also to users whose ids are no value of the column's type.
#[tokio::test]
async fn a_query_may_give_chats_to_everyone() {
    let postgres = postgres_with(&[(99, &[1])]).await;
    let settings = with_database(&postgres.url()).set(
        "database.membership_query",
        "SELECT chat_id FROM chat_members WHERE user_id = $1 OR chat_id = 99",
    );
    let server = Server::start(settings).await;
    assert_eq!(chats_of(&server, 7).await, json!([99]));
    assert_eq!(chats_of(&server, "nobody").await, json!([99]));
}

#[tokio::test]
async fn a_chat_without_numbers_is_routed_like_any_other() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats).set(
        "database.membership_query",
        "SELECT 'team-' || chat_id FROM chat_members WHERE user_id = $1",
    );
    let server = Server::start(settings.chat(7, &[2])).await;
    let mut stream = server.connect(2).await;
    let payload = json!({"event_type": "message_edited", "chat_id": "team-7", "user_id": 3});
    let backend = nats.backend().await;
    backend
        .publish("fechatter.realtime.chat.team-7", &payload)
        .await;
    let event = stream.expect_type("message_edited").await;
    assert_eq!(event.data["chat_id"], "team-7");
}

#[tokio::test]
async fn sqlite_takes_a_query_of_ones_own() {
    let settings = Settings::new().set(
        "database.membership_query",
        "SELECT room FROM seats WHERE holder = $1 ORDER BY room",
    );
    let sql = "CREATE TABLE seats (room TEXT, holder TEXT);
        INSERT INTO seats VALUES ('general', 'ann'), ('12', 'ann')";
    sqlite::execute(&settings.database_file(), sql).await;
    let server = Server::start(settings).await;
    let chats = chats_of(&server, "ann").await;
    assert_eq!(chats, json!([12, "general"]));
}

/// The answer to a request for a stream while the database doesn't work.
async fn refused_in_time(server: &Server) -> Response {
    let before = Instant::now();
    let response = server.events(&tokens::of_user(2)).await;
    let took = before.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(response.status, 503);
    let retry: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!(retry >= 1);
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json")
    );
    response
}

async fn is_back(server: &Server) {
    eventually("streams to open again", || async {
        let response = server.events(&tokens::of_user(2)).await;
        (response.status == 200).then_some(())
    })
    .await;
    assert_eq!(chats_of(server, 2).await, json!([1]));
}

#[tokio::test]
async fn a_stopped_database_refuses_streams_and_keeps_those_that_are_open() {
    let nats = Nats::start().await;
    let mut postgres = postgres_with(&[(1, &[2])]).await;
    let server = Server::start(with_database(&postgres.url()).nats(&nats)).await;
    let mut open = server.connect(2).await;
    postgres.stop().await;
    let mut refused = refused_in_time(&server).await;
    let problem = refused.text().await;
    assert!(
        !problem.contains("SELECT") && !problem.contains("tester"),
        "{problem}"
    );
    let says = server.not_ready().await;
    assert!(
        says.contains("database"),
        "in words what is missing: {says}"
    );
    let backend = nats.backend().await;
    backend
        .publish(&chat_subject(1), &payload::chat_message(1, "still here"))
        .await;
    open.expect_type("new_message").await;
    postgres.start_again().await;
    is_back(&server).await;
    server.ready().await;
}

#[tokio::test]
async fn a_database_that_hangs_refuses_streams_in_time() {
    let postgres = postgres_with(&[(1, &[2])]).await;
    let server = Server::start(with_database(&postgres.url())).await;
    assert_eq!(chats_of(&server, 2).await, json!([1]));
    postgres.freeze();
    refused_in_time(&server).await;
    // With every pooled connection hanging, too.
    let many = (0..8).map(|_| refused_in_time(&server));
    join_all(many).await;
    postgres.thaw();
    is_back(&server).await;
}

#[tokio::test]
async fn many_streams_share_few_database_connections() {
    let postgres = Postgres::start().await;
    postgres.execute(sqlite::CHAT_MEMBERS).await;
    let settings = with_database(&postgres.url()).set("database.max_connections", 2);
    let server = Server::start(settings).await;
    let streams = (0..100).map(|user| server.connect(user));
    let streams = join_all(streams).await;
    assert_eq!(streams.len(), 100);
    let sql = "SELECT count(*)::text FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let connections: i32 = postgres.texts(sql).await[0].parse().unwrap();
    assert!((1..=2).contains(&connections), "{connections}");
}

#[tokio::test]
async fn a_query_that_fails_is_no_empty_list() {
    let settings = Settings::new().set(
        "database.membership_query",
        "SELECT chat_id FROM nowhere WHERE user_id = $1",
    );
    let server = Server::start_unready(settings).await;
    refused_in_time(&server).await;
}

#[tokio::test]
async fn nothing_is_migrated_unasked() {
    let postgres = postgres_with(&[(1, &[2])]).await;
    let server = Server::start(with_database(&postgres.url())).await;
    assert_eq!(chats_of(&server, 2).await, json!([1]));
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(postgres.texts(tables).await, ["chat_members"]);
}

#[tokio::test]
async fn migrate_makes_the_tables_once() {
    let postgres = Postgres::start().await;
    let settings = with_database(&postgres.url());
    for _ in 0..2 {
        let outcome = settings.run(&["migrate"]).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'";
    let tables = postgres.texts(tables).await;
    for table in ["users", "chats", "chat_members"] {
        assert!(tables.iter().any(|t| t == table), "{table} in {tables:?}");
    }
    let server = Server::start(settings).await;
    assert_eq!(chats_of(&server, 2).await, json!([]));

    let file = Settings::new();
    let database = file.directory().join("new.db");
    let url = format!("sqlite://{}?mode=rwc", database.display());
    let settings = with_database(&url);
    for _ in 0..2 {
        let outcome = settings.run(&["migrate"]).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table'";
    let tables = sqlite::texts(&database, sql).await;
    for table in ["users", "chats", "chat_members"] {
        assert!(tables.iter().any(|t| t == table), "{table} in {tables:?}");
    }
}
