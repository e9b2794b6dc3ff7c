//! NATS is killed, or away, or the log moves on before it was read, and what clients notice of it.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::support::{EventStream, Nats, Server, Settings};

/// One thread, so that who has seen an event shows that it comes before whoever connects next.
fn settings(nats: &Nats) -> Settings {
    Settings::new()
        .nats(nats)
        .set("server.workers", 1)
        .chat(5, &[1])
}

#[tokio::test]
async fn what_was_published_while_a_killed_nats_came_back_arrives_once_and_without_a_gap() {
    let mut nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(settings(&nats)).await;
    let mut stream = server.connect(1).await;
    for round in 0..3 {
        let first = round * 20;
        backend.count(5, first..first + 10).await;
        backend.logged(first + 10).await;
        // The server misses what comes until it runs again.
        server.process().signal("STOP");
        nats.kill();
        nats.start_again().await;
        let elsewhere = nats.backend().await;
        elsewhere.count(5, first + 10..first + 20).await;
        elsewhere.logged(first + 20).await;
        server.process().signal("CONT");
        stream.expect_count(first..first + 20).await;
    }
    assert_eq!(server.metric("notify_log_unlogged_total", "").await, 0.0);
    assert!(server.metric("notify_log_filled_total", "").await >= 30.0);
    assert_eq!(server.metric("notify_log_gaps_total", "").await, 0.0);
}

#[tokio::test]
async fn what_the_log_lets_go_before_it_was_read_is_a_gap_and_the_rest_follows() {
    let mut nats = Nats::start().await;
    let backend = nats.backend().await;
    let settings = settings(&nats).set("jetstream.max_bytes", "64 KiB");
    let server = Server::start(settings).await;
    let mut stream = server.connect(1).await;
    backend.count(5, 0..10).await;
    let last = stream.expect_count(0..10).await;
    server.process().signal("STOP");
    nats.kill();
    nats.start_again().await;
    let backend = nats.backend().await;
    backend.count(5, 10..1_000).await;
    backend.logged(1_000).await;
    let first = backend.stream_info().await.state.first_sequence;
    server.process().signal("CONT");
    let gap = stream.expect_gap("expired").await;
    assert_eq!(gap.data["from"], last.as_str());
    // The event that says n is at position n + 1.
    stream.expect_count(first - 1..1_000).await;
    assert_eq!(server.metric("notify_log_gaps_total", "expired").await, 1.0);
}

#[tokio::test]
async fn clients_that_come_while_nats_is_away_get_what_they_missed() {
    let mut nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(settings(&nats).set("history.max_events", 5)).await;
    let mut stream = server.connect(1).await;
    backend.count(5, 0..10).await;
    let first = stream.expect_message("0").await.id.unwrap();
    let eighth = stream.expect_count(1..8).await;
    stream.expect_count(8..10).await;
    nats.kill();
    server.not_ready().await;
    // What the memory has, at once; for what only the log has, the log is waited for.
    let mut within = server.come_back(1, &eighth).await;
    let confirmed = within.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], true);
    within.expect_count(8..10).await;
    within.expect_type("caught_up").await;
    let (mut before, ()) = tokio::join!(server.come_back(1, &first), nats.start_again());
    let confirmed = before.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], true);
    before.expect_count(1..10).await;
    before.expect_type("caught_up").await;
    nats.backend().await.count(5, 10..12).await;
    for stream in [&mut stream, &mut within, &mut before] {
        stream.expect_count(10..12).await;
    }
}

#[tokio::test]
async fn an_instance_that_is_behind_takes_clients_of_one_that_is_not() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let ahead = Server::start(settings(&nats)).await;
    let behind = Server::start(settings(&nats)).await;
    let mut stream = ahead.connect(1).await;
    for round in 0..5 {
        behind.process().signal("STOP");
        backend.count(5, round * 400..round * 400 + 400).await;
        let last = stream.expect_count(round * 400..round * 400 + 400).await;
        // It takes up the request and what it has missed together.
        let (mut other, ()) = tokio::join!(behind.come_back(1, &last), async {
            behind.process().signal("CONT");
        });
        let confirmed = other.expect_type("connection_confirmed").await;
        assert_eq!(confirmed.data["recovered"], true);
        assert_eq!(confirmed.data["replayed"], 0);
        backend.say(5, "both").await;
        for stream in [&mut stream, &mut other] {
            stream.expect_message("both").await;
        }
    }
}

/// Clients go from one instance to the other and back while NATS is killed again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_and_go_while_nats_is_killed_lose_and_double_nothing() {
    const ROUNDS: u64 = 4;
    const CLIENTS: usize = 6;
    let mut nats = Nats::start().await;
    let settings = settings(&nats)
        .set("server.max_connections_per_user", 100)
        .set("history.max_events", 50)
        // What is published is in the log before NATS is killed, however slow the machine is.
        .set("jetstream.park", "15s");
    let servers = Arc::new([
        Server::start(settings.clone()).await,
        Server::start(settings).await,
    ]);
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let stream = servers[client % 2].connect(1).await;
        let servers = Arc::clone(&servers);
        clients.spawn(wander(servers, client, stream, ROUNDS * 200));
    }
    for round in 0..ROUNDS {
        let backend = nats.backend().await;
        for part in 0..10 {
            let first = round * 200 + part * 20;
            backend.count(5, first..first + 20).await;
            backend.logged(first + 20).await;
        }
        nats.kill();
        nats.start_again().await;
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    for server in &*servers {
        assert_eq!(server.metric("notify_log_gaps_total", "").await, 0.0);
    }
}

/// Reads all numbers, and goes to the other instance after every few of them.
async fn wander(servers: Arc<[Server; 2]>, client: usize, mut stream: EventStream, numbers: u64) {
    let stay = 5 + client as u64 * 13;
    let (mut next, mut left, mut moves) = (0, stay, client);
    while next < numbers {
        let event = stream.next().await;
        match event.kind() {
            "new_message" => {
                assert_eq!(event.content(), next.to_string(), "client {client}");
                next += 1;
                left -= 1;
            }
            "connection_confirmed" => assert_eq!(event.data["recovered"], true),
            "caught_up" => {}
            other => panic!("{other} for client {client}: {}", event.data),
        }
        if left == 0 {
            moves += 1;
            let server = &servers[moves % 2];
            stream = server.come_back(1, stream.last_event_id()).await;
            left = stay;
        }
    }
}
