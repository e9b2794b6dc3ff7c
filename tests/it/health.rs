//! What the server says of itself.

use serde_json::Value;

use crate::support::{Nats, Postgres, Request, Server, Settings, sqlite, tokens};

async fn health(server: &Server) -> (u16, Value) {
    let mut response = server.get("/health").await;
    (response.status, response.json().await)
}

#[tokio::test]
async fn a_server_that_has_all_it_needs_is_well() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    for path in ["/health", "/live", "/ready"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let (_, health) = health(&server).await;
    for part in ["bus", "database", "hub"] {
        assert!(health.to_string().contains(part), "{part} in {health}");
    }
}

#[tokio::test]
async fn what_is_no_question_about_health_is_answered_with_a_problem() {
    let server = Server::start(Settings::new()).await;
    let long = format!("/health?x={}", "x".repeat(17_000));
    for (request, status) in [
        (Request::get(&long), 414),
        (Request::get("/health/more"), 404),
        (Request::new("PUT", "/health"), 405),
        (
            Request::get("/health").header("x-large", &"x".repeat(40_000)),
            431,
        ),
    ] {
        let mut response = server.send(request).await;
        assert_eq!(response.status, status);
        let kind = response.header("content-type");
        assert_eq!(kind, Some("application/problem+json"));
        assert_eq!(response.json().await["status"], status);
    }
    // Whoever asks with a token, good or not, or in a query that nobody reads, is answered.
    let bad = Request::get("/health?x=%zz").bearer("bad");
    assert_eq!(server.send(bad).await.status, 200);
}

#[tokio::test]
async fn a_lost_bus_is_named() {
    let mut nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    nats.kill();
    let says = server.not_ready().await;
    assert!(says.contains("NATS"), "{says}");
    let (status, health) = health(&server).await;
    assert_eq!(status, 503);
    assert!(health.to_string().contains("NATS"), "{health}");
    assert_eq!(server.get("/live").await.status, 200);
}

#[tokio::test]
async fn a_lost_database_is_named() {
    let mut postgres = Postgres::start().await;
    postgres.execute(sqlite::CHAT_MEMBERS).await;
    let server = Server::start(Settings::new().set("database.url", postgres.url())).await;
    postgres.stop().await;
    let says = server.not_ready().await;
    assert!(says.contains("database"), "{says}");
    let (status, health) = health(&server).await;
    assert_eq!(status, 503);
    assert!(health.to_string().contains("database"), "{health}");
    assert!(!health.to_string().contains("tester"), "{health}");
    // Found out at once where somebody connects, and by itself where nobody does.
    let up = "notify_database_up";
    assert_eq!(server.events(&tokens::of_user(2)).await.status, 503);
    server.metric_becomes(up, "", 0.0).await;
    postgres.start_again().await;
    server.ready().await;
    server.metric_becomes(up, "", 1.0).await;
}

#[tokio::test]
async fn a_database_that_hangs_does_not_hang_the_answers() {
    let postgres = Postgres::start().await;
    postgres.execute(sqlite::CHAT_MEMBERS).await;
    let server = Server::start(Settings::new().set("database.url", postgres.url())).await;
    postgres.freeze();
    let says = server.not_ready().await;
    assert!(says.contains("database"), "{says}");
    assert_eq!(server.get("/live").await.status, 200);
    postgres.thaw();
    server.ready().await;
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let server = Server::start(Settings::new()).await;
    let _stream = server.connect(2).await;
    let mut response = server.get("/metrics").await;
    assert_eq!(response.status, 200);
    let content_type = response.header("content-type").unwrap();
    let known = ["text/plain", "application/openmetrics-text"];
    assert!(
        known.iter().any(|k| content_type.starts_with(k)),
        "{content_type}"
    );
    let text = response.text().await;
    for name in [
        "notify_events_received_total",
        "notify_events_rejected_total",
        "notify_connections",
        "notify_deliveries_total",
        "notify_sessions_ended_total",
        "notify_bus_dropped_total",
    ] {
        assert!(text.contains(&format!("\n{name}")), "{name} in {text}");
    }
    assert_eq!(server.metric("notify_connections", "").await, 1.0);
}

#[tokio::test]
async fn unknown_paths_are_problems_too() {
    let server = Server::start(Settings::new()).await;
    let mut response = server.get("/nowhere").await;
    assert_eq!(response.status, 404);
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json")
    );
    let problem = response.json().await;
    assert_eq!(problem["status"], 404);
    assert!(problem["request_id"].is_string(), "{problem}");
}
