//! What the server measures: that it is right, that it is documented, who may see it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::explain::of_one_thread;
use crate::support::payload::{self, chat_subject};
use crate::support::scrape::{Family, families};
use crate::support::{
    Backend, Nats, Postgres, Request, Server, Settings, eventually, promtool, sqlite, tokens,
};

const TOKEN: &str = "scraper-5ad1";

async fn scrape(server: &Server) -> String {
    server.get("/metrics").await.text().await
}

/// A server that has had something to do with each of its parts.
async fn busy_server(nats: &Nats, backend: &Backend) -> Server {
    let server = Server::start(Settings::new().nats(nats).chat(5, &[1, 2])).await;
    let mut reader = server.connect(1).await;
    let _poll = server.send(poll(2)).await;
    let _refused = server.events("no token").await;
    backend
        .publish(&chat_subject(5), &payload::message(5, "one", &[1, 2]))
        .await;
    reader.expect_message("one").await;
    server
}

fn poll(user: i64) -> Request {
    Request::get("/events/poll?wait=1").bearer(&tokens::of_user(user))
}

/// The rows of docs/metrics.md that describe a metric.
fn documented() -> BTreeMap<String, Family> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let text = std::fs::read_to_string(file).unwrap();
    let rows = text
        .lines()
        .filter(|row| row.starts_with("| `notify_") || row.starts_with("| `process_"));
    let mut documented = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else {
            panic!("a row has four cells: {row}");
        };
        assert!(!meaning.is_empty(), "{row}");
        // A label is `name`, with its values in parentheses behind it.
        let labels = labels.split(") ").flat_map(|label| label.split('`').nth(1));
        let family = Family {
            kind: kind.to_owned(),
            labels: labels.map(str::to_owned).collect(),
        };
        let before = documented.insert(name.trim_matches('`').to_owned(), family);
        assert!(before.is_none(), "{name} has two rows");
    }
    documented
}

#[tokio::test]
async fn every_metric_is_documented_and_nothing_else_is() {
    let nats = Nats::start().await;
    let server = busy_server(&nats, &nats.backend().await).await;
    let measured = families(&scrape(&server).await);
    let documented = documented();
    let names = |of: &BTreeMap<String, Family>| of.keys().cloned().collect::<BTreeSet<_>>();
    let undocumented: Vec<_> = names(&measured)
        .difference(&names(&documented))
        .cloned()
        .collect();
    let gone: Vec<_> = names(&documented)
        .difference(&names(&measured))
        .cloned()
        .collect();
    assert!(
        undocumented.is_empty() && gone.is_empty(),
        "docs/metrics.md has no row for {undocumented:?}, and the server does not have {gone:?}"
    );
    for (name, family) in &measured {
        assert_eq!(documented.get(name), Some(family), "the row of {name}");
    }
}

#[tokio::test]
async fn a_scrape_is_as_prometheus_wants_it() {
    let nats = Nats::start().await;
    let server = busy_server(&nats, &nats.backend().await).await;
    let mut response = server.get("/metrics").await;
    let content_type = response.header("content-type").unwrap().to_owned();
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(promtool::check_metrics(&response.text().await), "");
    let request = Request::get("/metrics").header(
        "accept",
        "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
    );
    let mut response = server.send(request).await;
    let content_type = response.header("content-type").unwrap();
    assert!(
        content_type.starts_with("application/openmetrics-text"),
        "{content_type}"
    );
    assert!(response.text().await.ends_with("# EOF\n"));
}

#[tokio::test]
async fn streams_are_counted_by_transport_and_reason() {
    let settings = Settings::new().set("server.max_connections", 2);
    let server = Server::start(settings).await;
    let first = server.connect(1).await;
    let _second = server.connect(2).await;
    assert_eq!(server.events(&tokens::of_user(3)).await.status, 503);
    assert_eq!(server.metric("notify_connections", "\"sse\"").await, 2.0);
    let refused = "notify_connections_refused_total";
    assert_eq!(server.metric(refused, "reason=\"full\"").await, 1.0);
    drop(first);
    server
        .metric_becomes("notify_connections", "\"sse\"", 1.0)
        .await;
    assert_eq!(server.send(poll(3)).await.status, 200);
    let opened = "notify_sessions_opened_total";
    assert_eq!(server.metric(opened, "\"sse\"").await, 2.0);
    assert_eq!(server.metric(opened, "\"poll\"").await, 1.0);
    let ended = "notify_sessions_ended_total";
    server
        .metric_becomes(ended, "transport=\"poll\",reason=\"client_gone\"", 1.0)
        .await;
    let gone = "transport=\"sse\",reason=\"client_gone\"";
    assert_eq!(server.metric(ended, gone).await, 1.0);
}

#[tokio::test]
async fn events_are_counted_by_source_and_class() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(Settings::new().nats(&nats).chat(5, &[1, 2])).await;
    let mut reader = server.connect(1).await;
    for content in ["one", "two"] {
        backend
            .publish(&chat_subject(5), &payload::message(5, content, &[1, 2]))
            .await;
    }
    let typing = json!({"event_type": "typing_started", "chat_id": 5, "user_id": 2});
    backend.publish(&chat_subject(5), &typing).await;
    backend
        .publish_bytes(&chat_subject(5), b"no JSON".to_vec())
        .await;
    let job = json!({"type": "job.progress", "channel": "user:1", "data": {}});
    let request = Request::new("POST", "/api/v1/messages/send")
        .bearer(&tokens::of_publisher(1))
        .json(&job);
    assert_eq!(server.send(request).await.status, 202);
    let unaddressed = Request::new("POST", "/api/v1/messages/send")
        .bearer(&tokens::of_publisher(1))
        .json(&json!({"type": "job.progress", "data": {}}));
    assert_eq!(server.send(unaddressed).await.status, 422);
    reader.expect_type("new_message").await;
    reader.expect_type("new_message").await;
    reader.expect_type("typing_started").await;
    reader.expect_type("job.progress").await;
    let received = "notify_events_received_total";
    for (class, count) in [
        ("message", 2.0),
        ("typing", 1.0),
        ("rejected", 1.0),
        ("other", 1.0),
    ] {
        let labels = format!("source=\"nats\",class=\"{class}\"");
        server.metric_becomes(received, &labels, count).await;
    }
    let published = "notify_http_published_total";
    assert_eq!(server.metric(published, "\"taken\"").await, 1.0);
    assert_eq!(server.metric(published, "\"refused\"").await, 1.0);
    // A server that begins later reads what was before it from the log.
    let settings = Settings::new().nats(&nats).chat(5, &[1, 2]);
    let later = Server::start(settings).await;
    later
        .metric_becomes(received, "source=\"log\",class=\"message\"", 2.0)
        .await;
}

#[tokio::test]
async fn the_time_to_the_socket_is_measured_once_for_each_delivery() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let settings = Settings::new().nats(&nats).chat(5, &[1, 2]);
    let server = Server::start(of_one_thread(settings)).await;
    let mut readers = [server.connect(1).await, server.connect(2).await];
    let beginning = readers[0].resumes_from().to_owned();
    for number in 0..20 {
        let content = number.to_string();
        backend
            .publish(&chat_subject(5), &payload::message(5, &content, &[1, 2]))
            .await;
        for reader in &mut readers {
            reader.expect_message(&content).await;
        }
    }
    let count = "notify_delivery_latency_seconds_count";
    server.metric_becomes(count, "", 40.0).await;
    let bucket = "notify_delivery_latency_seconds_bucket";
    assert_eq!(server.metric(bucket, "+Inf").await, 40.0);
    // Nothing on one machine takes that long.
    assert_eq!(server.metric(bucket, "le=\"30.0\"").await, 40.0);
    assert_eq!(
        server.metric("notify_bus_latency_seconds_count", "").await,
        20.0
    );
    // A replay is not late, it was asked for.
    let mut back = server.come_back(1, &beginning).await;
    back.expect_type("connection_confirmed").await;
    for number in 0..20 {
        back.expect_message(&number.to_string()).await;
    }
    back.expect_type("caught_up").await;
    backend
        .publish(&chat_subject(5), &payload::message(5, "last", &[1]))
        .await;
    back.expect_message("last").await;
    // To the two streams of user 1.
    server.metric_becomes(count, "", 42.0).await;
    assert_eq!(
        server
            .metric("notify_events_replayed_total", "\"memory\"")
            .await,
        20.0
    );
}

#[tokio::test]
async fn what_waits_for_slow_readers_shows_and_goes_with_them() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    // No bound is to end the stalled reader before it is looked at.
    let settings = Settings::new()
        .nats(&nats)
        .set("stream.outbox_bytes", "1 GiB")
        .set("stream.outbox_events", 1_000_000);
    let server = Server::start(settings).await;
    let request = Request::get("/events")
        .bearer(&tokens::of_user(1))
        .receive_buffer(4096);
    let stalled = server.send(request).await;
    let mut reader = server.connect(2).await;
    let content = "x".repeat(100 * 1024);
    // More than the kernel takes before anything waits here.
    for _ in 0..120 {
        backend
            .publish(&chat_subject(5), &payload::message(5, &content, &[1, 2]))
            .await;
        reader.expect_message(&content).await;
    }
    eventually("frames to wait", || async {
        let bytes = server.metric("notify_outbox_bytes", "").await;
        let frames = server.metric("notify_outbox_frames", "").await;
        (bytes > 300_000.0 && frames > 2.0).then_some(())
    })
    .await;
    drop(stalled);
    server.metric_becomes("notify_outbox_frames", "", 0.0).await;
    server.metric_becomes("notify_outbox_bytes", "", 0.0).await;
}

#[tokio::test]
async fn a_lost_bus_and_a_lost_database_show() {
    let mut nats = Nats::start().await;
    let mut postgres = Postgres::start().await;
    postgres.execute(sqlite::CHAT_MEMBERS).await;
    let settings = Settings::new()
        .nats(&nats)
        .set("database.url", postgres.url())
        .set("database.max_connections", 3);
    let server = Server::start(settings).await;
    let _stream = server.connect(1).await;
    assert_eq!(server.metric("notify_bus_up", "").await, 1.0);
    // One of them is kept for listening.
    assert_eq!(
        server.metric("notify_database_connections_max", "").await,
        2.0
    );
    let open = async || {
        server.metric("notify_database_connections_used", "").await
            + server.metric("notify_database_connections_idle", "").await
    };
    assert!((1.0..=3.0).contains(&open().await));
    let lookups = "notify_membership_lookups_total";
    assert_eq!(server.metric(lookups, "\"ok\"").await, 1.0);
    postgres.stop().await;
    assert_eq!(server.events(&tokens::of_user(2)).await.status, 503);
    let failed =
        server.metric(lookups, "\"failed\"").await + server.metric(lookups, "\"timeout\"").await;
    assert_eq!(failed, 1.0);
    nats.kill();
    server.metric_becomes("notify_bus_up", "", 0.0).await;
}

#[tokio::test]
async fn the_process_is_measured_too() {
    let server = Server::start(Settings::new()).await;
    let resident = server.metric("process_resident_memory_bytes", "").await;
    assert!((1e6..1e9).contains(&resident), "{resident}");
    let started = server.metric("process_start_time_seconds", "").await;
    assert!((tokens::now() as f64 - started).abs() < 600.0, "{started}");
    assert!(server.metric("process_cpu_seconds_total", "").await >= 0.0);
    let files = server.metric("process_open_fds", "").await;
    let most = server.metric("process_max_fds", "").await;
    assert!((3.0..most).contains(&files), "{files} of {most}");
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(server.connect(1).await);
    }
    // Some of the requests before may still have been closing.
    eventually("more files to be open", || async {
        (server.metric("process_open_fds", "").await >= files + 10.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn metrics_can_take_a_token() {
    let server = Server::start(Settings::new().set("metrics.token", TOKEN)).await;
    let without = server.get("/metrics").await;
    assert_eq!(without.status, 401);
    assert_eq!(
        without.header("www-authenticate"),
        Some("Bearer realm=\"metrics\"")
    );
    for wrong in ["", "scraper-5ad", "scraper-5ad2", &tokens::of_user(1)] {
        let request = Request::get("/metrics").bearer(wrong);
        assert_eq!(server.send(request).await.status, 401, "{wrong}");
    }
    // It is no token for anything else.
    assert_eq!(server.events(TOKEN).await.status, 401);
    let request = Request::get("/metrics").bearer(TOKEN);
    let mut response = server.send(request).await;
    assert_eq!(response.status, 200);
    let text = response.text().await;
    assert!(text.contains("notify_build_info"), "{text}");
    assert!(!text.contains(TOKEN));
    assert!(!server.process().stderr().contains(TOKEN));
}

#[tokio::test]
async fn metrics_can_have_a_port_of_their_own() {
    let settings = Settings::new().set("metrics.port", 0);
    let token_file = settings.directory().join("scrape-token");
    std::fs::write(&token_file, format!("{TOKEN}\n")).unwrap();
    let file = token_file.display().to_string();
    let server = Server::start(settings.set("metrics.token_file", file)).await;
    let line = server
        .log_line(|line| line.message() == "metrics listening")
        .await;
    let address = line.text("address").parse().unwrap();
    let request = Request::get("/metrics").bearer(TOKEN);
    assert_eq!(server.send(request).await.status, 404);
    let without = Request::get("/metrics").send(address).await;
    assert_eq!(without.status, 401);
    let mut with = Request::get("/metrics").bearer(TOKEN).send(address).await;
    assert_eq!(with.status, 200);
    assert!(with.text().await.contains("notify_connections"));
    let other = Request::get("/events").send(address).await;
    assert_eq!(other.status, 404);
}

#[tokio::test]
async fn settings_that_make_no_sense_are_named() {
    let both = Settings::new()
        .set("metrics.token", TOKEN)
        .set("metrics.token_file", "/nowhere/token");
    let outcome = both.run(&["check-config"]).await;
    assert_eq!(outcome.code, Some(2));
    for named in ["metrics.token_file", "can't be read", "both set"] {
        assert!(outcome.stderr.contains(named), "{}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains(TOKEN), "{}", outcome.stderr);
    let same = Settings::new()
        .set("server.port", 6687)
        .set("metrics.port", 6687);
    let outcome = same.run(&["check-config"]).await;
    assert!(
        outcome.stderr.contains("metrics.port"),
        "{}",
        outcome.stderr
    );
    let empty = Settings::new().set("metrics.token", "");
    let outcome = empty.run(&["check-config"]).await;
    assert!(outcome.stderr.contains("empty"), "{}", outcome.stderr);
}
