//! What may fail while rows are written and published: nothing is lost, nothing doubled, nothing out of
//! order. What the database has at the end is the truth.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::{Cable, EventStream, Nats, Postgres, Request, Server, Settings};
use crate::support::{eventually, free_port, tokens, within};

const SESSIONS: usize = 4;

/// What the last message of each session says.
const END: &str = "end";

/// A server's settings, at a port that it keeps.
fn settings(nats: &Nats, database: &str) -> Settings {
    Settings::new()
        .nats(nats)
        .set("database.url", database)
        .set("server.port", free_port())
}

async fn migrated(postgres: &Postgres, nats: &Nats) -> Settings {
    let settings = settings(nats, &postgres.url());
    let outcome = settings.run(&["migrate"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    settings
}

/// Programs that write, each to a session of its own, one transaction after the other.
struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Writers {
    fn start(postgres: &Postgres) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for session in 0..SESSIONS {
            let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
            tasks.spawn(write(postgres.url(), session, stop, written));
        }
        Self {
            stop,
            written,
            tasks,
        }
    }

    /// Waits until so many more rows are written.
    async fn write(&self, more: usize) {
        let until = self.written.load(Ordering::Relaxed) + more;
        eventually("rows to be written", || async {
            (self.written.load(Ordering::Relaxed) >= until).then_some(())
        })
        .await;
    }

    /// Stops, and writes what ends each session. The database must be there.
    async fn finish(mut self, postgres: &Postgres) {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        for session in 0..SESSIONS {
            postgres.execute(&insert(session, END)).await;
        }
    }
}

fn insert(session: usize, content: &str) -> String {
    format!("INSERT INTO messages (session_id, content) VALUES ('s-{session}', '{content}')")
}

async fn write(url: String, session: usize, stop: Arc<AtomicBool>, written: Arc<AtomicUsize>) {
    let mut connection: Option<PgConnection> = None;
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(open) = &mut connection else {
            connection = PgConnection::connect(&url).await.ok();
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // One that fails may have been committed.
        number += 1;
        let sql = insert(session, &number.to_string());
        match sqlx::raw_sql(AssertSqlSafe(sql)).execute(open).await {
            Ok(_) => {
                written.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            Err(_) => connection = None,
        }
    }
}

/// A client that comes back, to whichever server is there, until it has the end of each session.
struct Reader(JoinHandle<BTreeMap<String, Vec<String>>>);

impl Reader {
    async fn start(servers: &[SocketAddr]) -> Self {
        let first = Self::connect(servers, "").await;
        Self(tokio::spawn(Self::run(first, servers.to_vec())))
    }

    async fn connect(servers: &[SocketAddr], last_event_id: &str) -> EventStream {
        let channels: Vec<String> = (0..SESSIONS).map(|n| format!("session:s-{n}")).collect();
        let token = tokens::Token::of(1)
            .claim("notify", json!({"subscribe": ["*"]}))
            .sign_hs256(tokens::SECRET);
        let request = Request::get(&format!("/sse/stream/{}", channels.join(",")))
            .bearer(&token)
            .header("last-event-id", last_event_id);
        let response = eventually("a stream", || async {
            for server in servers {
                if let Ok(response) = request.try_send(*server).await
                    && response.status == 200
                {
                    return Some(response);
                }
            }
            None
        });
        EventStream::new(response.await)
    }

    async fn run(
        mut stream: EventStream,
        servers: Vec<SocketAddr>,
    ) -> BTreeMap<String, Vec<String>> {
        let mut sessions: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut last_event_id = String::new();
        loop {
            let Some(event) = stream.next_if_any().await else {
                stream = Self::connect(&servers, &last_event_id).await;
                continue;
            };
            match event.kind() {
                "message" => {}
                "gap" => panic!("a gap: {}", event.data),
                _ => continue,
            }
            last_event_id = event.id.expect("every event of the outbox has an id");
            let data = &event.data["data"];
            let text = |key: &str| data[key].as_str().unwrap().to_owned();
            sessions
                .entry(text("sessionId"))
                .or_default()
                .push(text("content"));
            let ended = |contents: &&Vec<String>| contents.last().is_some_and(|last| last == END);
            if sessions.values().filter(ended).count() == SESSIONS {
                return sessions;
            }
        }
    }

    /// Everything that was committed must have come, once, in order.
    async fn check(self, postgres: &Postgres) {
        let came = within("the end of each session", self.0).await.unwrap();
        for (session, contents) in &came {
            let sql = format!(
                "SELECT content FROM messages WHERE session_id = '{session}' ORDER BY position"
            );
            assert_eq!(*contents, postgres.texts(&sql).await, "{session}");
        }
        assert_eq!(came.len(), SESSIONS);
        let left = "SELECT count(*)::text FROM notify_outbox";
        eventually("the outbox to be empty", || async {
            (postgres.texts(left).await == ["0"]).then_some(())
        })
        .await;
        let dead = "SELECT count(*)::text FROM notify_outbox_dead";
        assert_eq!(postgres.texts(dead).await, ["0"]);
    }
}

#[tokio::test]
async fn connections_that_the_database_ends() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    let server = Server::start(migrated(&postgres, &nats).await).await;
    let reader = Reader::start(&[server.address()]).await;
    let writers = Writers::start(&postgres);
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'notify-server' AND pid <> pg_backend_pid()";
    for _ in 0..10 {
        writers.write(20).await;
        postgres.execute(cut).await;
    }
    writers.write(20).await;
    writers.finish(&postgres).await;
    reader.check(&postgres).await;
}

#[tokio::test]
async fn a_database_that_restarts_or_crashes() {
    let (mut postgres, nats) = (Postgres::start().await, Nats::start().await);
    let server = Server::start(migrated(&postgres, &nats).await).await;
    let reader = Reader::start(&[server.address()]).await;
    let writers = Writers::start(&postgres);
    for crash in [false, true, true, true] {
        writers.write(100).await;
        if crash {
            postgres.crash().await;
        } else {
            postgres.stop().await;
        }
        postgres.start_again().await;
    }
    writers.write(20).await;
    writers.finish(&postgres).await;
    reader.check(&postgres).await;
}

/// The server's own keepalive, which the cable stands in for, gives the lock back.
#[tokio::test]
async fn a_network_that_is_cut_in_the_middle_of_a_drain() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    let direct = migrated(&postgres, &nats).await;
    let cable = Cable::to(postgres.address()).await;
    let url = format!("postgres://tester@{}/postgres", cable.address());
    let server = Server::start(settings(&nats, &url).set("database.timeout", "1s")).await;
    let reader = Reader::start(&[server.address()]).await;
    let writers = Writers::start(&postgres);
    for _ in 0..3 {
        writers.write(100).await;
        cable.cut();
        writers.write(50).await;
        cable.server_gives_up();
        cable.mend();
    }
    // Another instance takes over from one that is cut off for good.
    writers.write(50).await;
    cable.cut();
    let other = Server::start(direct).await;
    writers.write(50).await;
    cable.server_gives_up();
    other.metric_becomes("notify_outbox_leading", "", 1.0).await;
    writers.finish(&postgres).await;
    reader.check(&postgres).await;
}

#[tokio::test]
async fn instances_that_are_killed_in_turn() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    let settings = [
        migrated(&postgres, &nats).await,
        settings(&nats, &postgres.url()),
    ];
    let mut servers = Vec::new();
    for settings in &settings {
        servers.push(Server::start(settings.clone()).await);
    }
    let addresses: Vec<SocketAddr> = servers.iter().map(Server::address).collect();
    let reader = Reader::start(&addresses).await;
    let writers = Writers::start(&postgres);
    for round in 0..6 {
        writers.write(60).await;
        // The other one takes over within seconds.
        let killed = servers.remove(0);
        killed.process().signal("KILL");
        killed.process().exited().await;
        servers[0]
            .metric_becomes("notify_outbox_leading", "", 1.0)
            .await;
        servers.push(Server::start(settings[round % 2].clone()).await);
    }
    writers.finish(&postgres).await;
    reader.check(&postgres).await;
}

#[tokio::test]
async fn nats_that_is_killed_again_and_again() {
    let (postgres, mut nats) = (Postgres::start().await, Nats::start().await);
    let server = Server::start(migrated(&postgres, &nats).await).await;
    let reader = Reader::start(&[server.address()]).await;
    let writers = Writers::start(&postgres);
    for _ in 0..6 {
        writers.write(100).await;
        nats.kill();
        writers.write(100).await;
        nats.start_again().await;
    }
    writers.write(20).await;
    writers.finish(&postgres).await;
    reader.check(&postgres).await;
}

#[tokio::test]
async fn nats_that_is_down_for_a_minute_while_rows_are_written() {
    let (postgres, mut nats) = (Postgres::start().await, Nats::start().await);
    let server = Server::start(migrated(&postgres, &nats).await).await;
    let writers = Writers::start(&postgres);
    writers.write(20).await;
    nats.kill();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while tokio::time::Instant::now() < deadline {
        writers.write(50).await;
    }
    let waited = server.metric("notify_outbox_lag_seconds", "").await;
    assert!(waited > 30.0, "{waited}");
    nats.start_again().await;
    let left = async || {
        let counted = postgres.texts("SELECT count(*)::text FROM notify_outbox");
        counted.await[0].parse::<u64>().unwrap()
    };
    assert_ne!(left().await, 0);
    writers.finish(&postgres).await;
    // They may be many on a slow machine.
    let mut more = left().await;
    while more > 0 {
        more = eventually("the outbox to become shorter", || async {
            let left = left().await;
            (left < more).then_some(left)
        })
        .await;
    }
    server
        .metric_becomes("notify_outbox_lag_seconds", "", 0.0)
        .await;
    assert_eq!(server.metric("notify_log_unlogged_total", "").await, 0.0);
}

/// Where other events would be delivered without an id.
#[tokio::test]
async fn what_the_log_does_not_take_waits_until_it_does() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    let server = Server::start(migrated(&postgres, &nats).await).await;
    let mut stream = Reader::connect(&[server.address()], "").await;
    stream.expect_type("connection_confirmed").await;
    let backend = nats.backend().await;
    backend.take_at_most(10).await;
    postgres.execute(&insert(0, "waits")).await;
    let refused = "the outbox is not published for the moment";
    server.log_line(|line| line.message() == refused).await;
    let other = Request::new("POST", "/api/v1/bus/fechatter.realtime.session.s-0")
        .bearer(&tokens::of_publisher(1))
        .json(&json!({"content": "does not wait"}));
    let address = server.address();
    let other = tokio::spawn(async move { other.send(address).await.status });
    let event = stream.expect_type("message").await;
    assert_eq!(
        (event.id, &event.data["data"]["content"]),
        (None, &json!("does not wait"))
    );
    backend.take_at_most(-1).await;
    let event = stream.expect_type("message").await;
    assert_eq!(event.data["data"]["content"], "waits");
    assert!(event.id.is_some());
    postgres.execute(&insert(0, "next")).await;
    let event = stream.expect_type("message").await;
    assert_eq!(event.data["data"]["content"], "next");
    assert_eq!(other.await.unwrap(), 503);
}

/// Longer than JetStream or any server remembers the ids of messages: only the log itself knows.
#[tokio::test]
async fn what_was_published_long_ago_and_never_deleted_is_not_published_again() {
    let (postgres, nats) = (Postgres::start().await, Nats::start().await);
    let settings = migrated(&postgres, &nats)
        .await
        .set("history.max_events", 1);
    let server = Server::start(settings.clone()).await;
    server
        .metric_becomes("notify_outbox_leading", "", 1.0)
        .await;
    let mut stream = Reader::connect(&[server.address()], "").await;
    stream.expect_type("connection_confirmed").await;
    postgres.execute(&insert(0, "begins")).await;
    stream.expect_type("message").await;
    let drained = "SELECT count(*)::text FROM notify_outbox";
    let empty = || async {
        eventually("the outbox to be empty", || async {
            (postgres.texts(drained).await == ["0"]).then_some(())
        })
        .await;
    };
    empty().await;
    let last = stream.last_event_id().to_owned();
    drop(stream);
    server.stop().await;
    for number in 0..10 {
        postgres.execute(&insert(0, &number.to_string())).await;
    }
    let copy = "CREATE TABLE rows AS SELECT * FROM notify_outbox;
        CREATE TABLE state AS SELECT * FROM notify_outbox_state";
    postgres.execute(copy).await;
    nats.backend().await.forget_message_ids().await;
    let server = Server::start(settings.clone()).await;
    empty().await;
    server.stop().await;
    // As if it had ended before it deleted anything.
    let back = "UPDATE notify_outbox_state SET log_position = state.log_position FROM state;
        INSERT INTO notify_outbox (id, channel, type, payload, created_at) OVERRIDING SYSTEM VALUE
            SELECT id, channel, type, payload, created_at FROM rows ORDER BY id";
    postgres.execute(back).await;
    for number in 10..20 {
        postgres.execute(&insert(0, &number.to_string())).await;
    }
    let server = Server::start(settings).await;
    empty().await;
    let mut stream = Reader::connect(&[server.address()], &last).await;
    let (mut contents, mut caught_up) = (Vec::new(), false);
    // What this thread has yet to get is live.
    while contents.len() < 20 || !caught_up {
        let event = stream.next().await;
        match event.kind() {
            "message" => {
                contents.push(event.data["data"]["content"].as_str().unwrap().to_owned());
            }
            "caught_up" => caught_up = true,
            _ => {}
        }
    }
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(contents, expected);
}
