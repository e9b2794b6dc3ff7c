//! A membership query that can't work is said wherever somebody looks: at the start, in `/health`, in the metrics, in
//! the answer to whoever wants chats, by the commands; and everything that needs no chats goes on.

use serde_json::{Value, json};

use crate::support::tokens::Token;
use crate::support::{LogLine, Postgres, Request, Server, Settings, eventually, sqlite, tokens};

/// What the log says of a look-up that fails for another reason than its query.
const UNTRIED: &str = "the look-up of chats can't be tried at the moment";

const WARNING: &str =
    "the chats of users can't be looked up, and every stream of a user's chats is refused";

fn at(url: &str) -> Settings {
    Settings::new().set("database.url", url)
}

async fn health(server: &Server) -> (u16, Value) {
    let mut response = server.get("/health").await;
    (response.status, response.json().await)
}

async fn is_degraded(server: &Server) -> String {
    let problem = eventually("the query to be tried", || async {
        let (status, health) = health(server).await;
        assert_eq!(status, 200, "{health}");
        let problem = health["problems"][0].as_str()?.to_owned();
        assert_eq!(health["status"], "degraded", "{health}");
        assert_eq!(health["components"]["chats"]["up"], false, "{health}");
        Some(problem)
    })
    .await;
    assert!(problem.starts_with("chats: "), "{problem}");
    // New clients may be sent here all the same.
    assert_eq!(server.get("/ready").await.status, 200);
    server
        .metric_becomes("notify_membership_query_refused", "", 1.0)
        .await;
    problem
}

async fn is_well(server: &Server) {
    eventually("all to be well", || async {
        let (_, health) = health(server).await;
        (health["status"] == "ok").then_some(())
    })
    .await;
}

async fn is_well_again(server: &Server) {
    is_well(server).await;
    server
        .metric_becomes("notify_membership_query_refused", "", 0.0)
        .await;
    server
        .log_line(|line| line.message() == "the chats of users can be looked up again")
        .await;
    let _stream = server.connect(2).await;
}

fn warned(line: &LogLine) -> bool {
    line.level() == "WARN" && line.message() == WARNING
}

#[tokio::test]
async fn an_empty_database_is_told_and_serves_those_without_chats() {
    let postgres = Postgres::start().await;
    let server = Server::start(at(&postgres.url())).await;
    // Before anybody has asked for a stream.
    let line = server.log_line(warned).await;
    assert_eq!(
        line.text("reason"),
        "relation \"chat_members\" does not exist"
    );
    assert!(line.text("advice").contains("notify-server migrate"));
    let problem = is_degraded(&server).await;
    assert!(
        problem.contains("a table that the query reads does not exist"),
        "{problem}"
    );
    assert!(problem.contains("database.membership_query"), "{problem}");
    let mut refused = server.events(&tokens::of_user(2)).await;
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    let says = refused.json().await["detail"].as_str().unwrap().to_owned();
    assert!(
        says.starts_with("the user's chats could not be looked up: a table"),
        "{says}"
    );
    assert!(says.contains("notify-server migrate"), "{says}");
    // What the database says is for operators, and so is the query.
    for secret in ["chat_members", "SELECT", "tester"] {
        assert!(
            !says.contains(secret) && !problem.contains(secret),
            "{says} {problem}"
        );
    }
    let reader = Token::of(2).claim("notify", json!({"subscribe": ["job:*"]}));
    let jobs = Request::get("/sse/stream/job:1").bearer(&reader.sign_hs256(tokens::SECRET));
    assert_eq!(server.send(jobs).await.status, 200);
    // Once it is there, without a restart.
    postgres.execute(sqlite::CHAT_MEMBERS).await;
    is_well_again(&server).await;
}

#[tokio::test]
async fn whatever_keeps_the_query_from_working_is_named() {
    let postgres = Postgres::start().await;
    postgres
        .execute(&format!(
            "{}; CREATE ROLE limited LOGIN; CREATE TABLE sums (member bigint, room numeric)",
            sqlite::CHAT_MEMBERS
        ))
        .await;
    let limited = postgres.url().replace("tester@", "limited:hush-hush@");
    let by = |query: &str| at(&postgres.url()).set("database.membership_query", query);
    for (settings, reason, says) in [
        (
            at(&limited),
            "permission denied for table chat_members",
            "may not read",
        ),
        (
            by("SELECT room FROM chat_members WHERE user_id = $1"),
            "column \"room\" does not exist",
            "a column that the query names",
        ),
        // Also where there are no rows.
        (
            by("SELECT room FROM sums WHERE member = $1"),
            "NUMERIC",
            "no integer, text or UUID",
        ),
        (
            by("SELECT chat_id FRM chat_members WHERE user_id = $1"),
            "syntax error",
            "refuses the query",
        ),
    ] {
        let server = Server::start(settings).await;
        let line = server.log_line(warned).await;
        assert!(line.text("reason").contains(reason), "{}", line.whole());
        let problem = is_degraded(&server).await;
        assert!(problem.contains(says), "{problem}");
        let mut refused = server.events(&tokens::of_user(2)).await;
        assert_eq!(refused.status, 503);
        assert!(refused.text().await.contains(says));
        assert!(!server.process().stderr().contains("hush-hush"));
    }
    let settings = Settings::new().set(
        "database.membership_query",
        "SELECT chat_id FROM nowhere WHERE user_id = $1",
    );
    let server = Server::start(settings).await;
    let line = server.log_line(warned).await;
    assert!(line.text("reason").contains("no such table: nowhere"));
    is_degraded(&server).await;
}

#[tokio::test]
async fn a_query_that_only_refuses_nobody_is_well() {
    let postgres = Postgres::start().await;
    postgres
        .execute(&format!(
            "{}; CREATE FUNCTION chats_of(whom bigint) RETURNS SETOF bigint LANGUAGE plpgsql AS $$ BEGIN
                IF whom IS NULL THEN RAISE EXCEPTION 'who?'; END IF;
                RETURN QUERY SELECT chat_id FROM chat_members WHERE user_id = whom;
            END $$",
            sqlite::CHAT_MEMBERS
        ))
        .await;
    let strict = at(&postgres.url()).set("database.membership_query", "SELECT * FROM chats_of($1)");
    let server = Server::start(strict).await;
    let line = server.log_line(|line| line.message() == UNTRIED).await;
    assert_eq!(line.text("reason"), "who?");
    // A database that objects to the trial answers.
    server.metric_becomes("notify_database_up", "", 1.0).await;
    let stream = server.connect(2).await;
    is_well(&server).await;
    assert_eq!(
        server.metric("notify_membership_query_refused", "").await,
        0.0
    );
    drop(stream);
}

#[tokio::test]
async fn a_table_that_goes_and_comes_back_is_noticed_while_the_server_runs() {
    let mut postgres = Postgres::start().await;
    postgres.execute(sqlite::CHAT_MEMBERS).await;
    let server = Server::start(at(&postgres.url())).await;
    let open = server.connect(2).await;
    is_well(&server).await;
    postgres.stop().await;
    let says = server.not_ready().await;
    assert!(says.contains("the database is not available"), "{says}");
    postgres.start_again().await;
    server.ready().await;
    postgres.execute("DROP TABLE chat_members").await;
    // Whoever is refused has it tried at once.
    let refused = server.events(&tokens::of_user(2)).await;
    assert_eq!(refused.status, 503);
    is_degraded(&server).await;
    postgres.execute(sqlite::CHAT_MEMBERS).await;
    is_well_again(&server).await;
    drop(open);
}

#[tokio::test]
async fn a_database_that_can_not_be_asked_is_away_and_no_bad_query() {
    let postgres = Postgres::start().await;
    let url = postgres
        .url_of("nowhere")
        .replace("tester@", "tester:hush-hush@");
    let server = Server::start_unready(at(&url)).await;
    let untried = |line: &LogLine| {
        line.level() == "WARN"
            && line.message() == UNTRIED
            && line.text("reason").contains("\"nowhere\" does not exist")
    };
    server.log_line(untried).await;
    let (status, health) = health(&server).await;
    assert_eq!((status, &health["status"]), (503, &json!("unhealthy")));
    assert_eq!(
        server.metric("notify_membership_query_refused", "").await,
        0.0
    );
    let mut refused = server.events(&tokens::of_user(2)).await;
    assert_eq!(refused.status, 503);
    let says = refused.text().await;
    assert!(
        says.contains("could not be looked up: the database is not available"),
        "{says}"
    );
    assert!(!server.process().stderr().contains("hush-hush"));
    postgres.execute("CREATE DATABASE nowhere").await;
    server.ready().await;
    is_degraded(&server).await;
}

#[tokio::test]
async fn who_has_no_chats_says_so_and_is_well() {
    let postgres = Postgres::start().await;
    let server = Server::start(at(&postgres.url()).set("database.membership_query", "")).await;
    let (status, health) = health(&server).await;
    assert_eq!((status, &health["status"]), (200, &json!("ok")), "{health}");
    let mut stream = server.connect(2).await;
    let event = json!({"type": "t", "target": {"user_id": 2}, "data": {}});
    let request = Request::new("POST", "/api/v1/messages/send")
        .bearer(&tokens::of_publisher(1))
        .json(&event);
    assert_eq!(server.send(request).await.status, 202);
    stream.expect_type("t").await;
    let chat = Request::get("/sse/stream/chat:5").bearer(&tokens::of_user(2));
    assert_eq!(server.send(chat).await.status, 403);
}

#[tokio::test]
async fn the_doctor_and_migrate_tell() {
    let postgres = Postgres::start().await;
    let settings = at(&postgres.url());
    let server = Server::start(settings.clone()).await;
    is_degraded(&server).await;
    let doctor = || async {
        let (url, token) = (server.url(), tokens::of_user(2));
        let arguments = ["doctor", &url, "--token", &token, "--idle", "0s", "--json"];
        let outcome = Settings::new().run(&arguments).await;
        let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
        (outcome.code, report)
    };
    let of = |report: &Value, check: &str| {
        let checks = report["checks"].as_array().unwrap().iter();
        let found = checks.clone().find(|found| found["check"] == check);
        found.unwrap().clone()
    };
    let (code, report) = doctor().await;
    assert_eq!(code, Some(1));
    let found = of(&report, "health");
    assert_eq!(found["status"], "problem", "{report:#}");
    assert!(found["detail"].as_str().unwrap().contains("a table"));
    let found = of(&report, "headers");
    assert!(
        found["detail"]
            .as_str()
            .unwrap()
            .contains("could not be looked up"),
        "{report:#}"
    );
    // Only the outbox has no tables of chats.
    let outcome = settings.run(&["migrate", "--outbox-only"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for part in [
        "PostgreSQL at postgres://********@127.0.0.1",
        "/postgres is up to date",
        "applied now: 2 outbox\n",
        "there before: nothing\n",
        "does not work here",
        "relation \"chat_members\" does not exist",
        "not touched",
    ] {
        assert!(outcome.stdout.contains(part), "{part}: {outcome:?}");
    }
    let outcome = settings.run(&["migrate"]).await;
    for part in [
        "applied now: 1 chats, 3 messages\n",
        "there before: 2 outbox\n",
        "database.membership_query works here",
    ] {
        assert!(outcome.stdout.contains(part), "{part}: {outcome:?}");
    }
    is_well_again(&server).await;
    // A stream that works, of somebody who is nowhere a member.
    let (code, report) = doctor().await;
    assert_eq!(code, Some(0), "{report:#}");
    let found = of(&report, "confirmation");
    assert_eq!(found["status"], "warning", "{report:#}");
    assert!(found["detail"].as_str().unwrap().contains("0 chats"));
}
