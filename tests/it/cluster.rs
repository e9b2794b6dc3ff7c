//! A log that three NATS servers keep together, and what happens when one of them goes.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::support::{Backend, Cluster, DEADLINE, Event, EventStream, Server, Settings};

/// One cluster at a time: three servers that elect leaders are a load for a small machine, and
/// late elections only make everything later.
static ALONE: Mutex<()> = Mutex::const_new(());

fn settings(cluster: &Cluster) -> Settings {
    Settings::new()
        .set("nats.url", cluster.urls())
        .set("jetstream.replicas", 3)
        .set("server.workers", 1)
        .chat(5, &[1])
}

/// Says one number after the other, a hundred a second, until it is enough. `said` is how many.
async fn keep_counting(backend: &Backend, said: &Cell<u64>, enough: &Cell<bool>) {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    while !enough.get() {
        pace.tick().await;
        let next = said.get();
        backend.count(5, next..next + 1).await;
        said.set(next + 1);
    }
}

/// Reads until a number from `from` on has come with an id, or without one.
async fn read_until(stream: &mut EventStream, events: &mut Vec<Event>, from: u64, with_id: bool) {
    loop {
        let event = stream.expect_type("new_message").await;
        let done = number(&event) >= from && event.id.is_some() == with_id;
        events.push(event);
        if done {
            return;
        }
    }
}

/// Every number came once, and those with ids in the order of the log.
fn check(events: &[Event], published: u64) {
    let mut numbers: Vec<u64> = events.iter().map(number).collect();
    numbers.sort_unstable();
    let all: Vec<u64> = (0..published).collect();
    assert_eq!(numbers, all);
    let logged: Vec<&Event> = events.iter().filter(|event| event.id.is_some()).collect();
    for pair in logged.windows(2) {
        assert!(number(pair[0]) < number(pair[1]), "out of order");
        assert!(position(pair[0]) < position(pair[1]), "out of order");
    }
}

fn number(event: &Event) -> u64 {
    event.content().parse().unwrap()
}

fn position(event: &Event) -> u64 {
    let id = event.id.as_ref().unwrap();
    id.split('-').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn streams_go_on_while_the_log_has_no_leader_and_every_event_comes_once() {
    let _alone = ALONE.lock().await;
    let mut cluster = Cluster::start().await;
    // Started while the nodes still agree on who leads them.
    let server = Server::start_unready(settings(&cluster)).await;
    server.ready().await;
    let node = cluster.node_of_server().await;
    let backend = cluster.backend(node).await;
    let mut stream = server.connect(1).await;
    let mut events = Vec::new();
    let (said, enough) = (Cell::new(0), Cell::new(false));
    let reading = async {
        read_until(&mut stream, &mut events, 30, true).await;
        // The leader steps down, and another one takes over.
        let leader = cluster.leader(&backend).await;
        cluster.lead_elsewhere(&backend, &[leader]).await;
        read_until(&mut stream, &mut events, said.get(), true).await;
        // The leader is stopped, as for an update, and comes back.
        let leader = cluster.lead_elsewhere(&backend, &[node]).await;
        cluster.stop(leader).await;
        read_until(&mut stream, &mut events, said.get(), true).await;
        cluster.start_again([leader]).await;
        // The leader is killed, and for seconds there is none. Not the node that both the backend
        // and the server are connected to: what is on the way then, nobody has.
        let leader = cluster.lead_elsewhere(&backend, &[node]).await;
        read_until(&mut stream, &mut events, said.get(), true).await;
        cluster.kill(leader);
        let before = said.get();
        read_until(&mut stream, &mut events, before, false).await;
        read_until(&mut stream, &mut events, before, true).await;
        enough.set(true);
    };
    tokio::join!(keep_counting(&backend, &said, &enough), reading);
    while events.len() < said.get() as usize {
        events.push(stream.expect_type("new_message").await);
    }
    backend.say(5, "end").await;
    let end = stream.expect_message("end").await;
    assert!(end.id.is_some());
    check(&events, said.get());
    assert_eq!(server.metric("notify_log_gaps_total", "").await, 0.0);
}

#[tokio::test]
async fn a_server_whose_node_is_killed_goes_on_at_another_and_fills_the_hole() {
    let _alone = ALONE.lock().await;
    let mut cluster = Cluster::start().await;
    let server = Server::start_unready(settings(&cluster)).await;
    server.ready().await;
    let node = cluster.node_of_server().await;
    let backend = cluster.backend((node + 1) % 3).await;
    // So that the last node that is left is the one that leads: it goes on to answer.
    cluster
        .lead_elsewhere(&backend, &[node, (node + 1) % 3])
        .await;
    let mut stream = server.connect(1).await;
    backend.count(5, 0..10).await;
    let mut events = Vec::new();
    read_until(&mut stream, &mut events, 9, true).await;

    // The server misses what comes until it runs again.
    server.process().signal("STOP");
    cluster.kill(node);
    backend.count(5, 10..200).await;
    backend.logged(200).await;
    server.process().signal("CONT");
    read_until(&mut stream, &mut events, 199, true).await;
    check(&events, 200);
    assert!(server.metric("notify_log_filled_total", "").await > 0.0);
    server.ready().await;

    // One alone is no majority: NATS is there, and the log does not answer for long.
    cluster.kill((node + 1) % 3);
    // A leader notices after some 20 s that it is alone.
    let alone = async {
        while server.metric("notify_log_up", "").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let noticed = tokio::time::timeout(2 * DEADLINE, alone).await;
    assert!(noticed.is_ok(), "a log that takes in nothing is up");
    let says = server.not_ready_because("the log does not answer").await;
    assert!(says.contains("connected to NATS"), "{says}");

    // And when all are gone, it says so.
    cluster.kill((node + 2) % 3);
    let says = server.not_ready_because("disconnected").await;
    assert!(says.contains("NATS"), "{says}");
    cluster.start_again(0..3).await;
    server.ready().await;
    let backend = cluster.backend(0).await;
    backend.count(5, 200..210).await;
    while events.len() < 210 {
        events.push(stream.expect_type("new_message").await);
    }
    check(&events, 210);
    assert_eq!(server.metric("notify_log_gaps_total", "").await, 0.0);
}

#[tokio::test]
async fn what_the_log_takes_late_is_not_delivered_twice() {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::start().await;
    let settings = settings(&cluster).set("stream.ping_interval", "1s");
    let server = Server::start_unready(settings).await;
    server.ready().await;
    let node = cluster.node_of_server().await;
    let backend = cluster.backend(node).await;
    let mut stream = server.connect(1).await;
    let leader = cluster.lead_elsewhere(&backend, &[node]).await;
    backend.say(5, "before").await;
    let before = stream.expect_message("before").await.id.unwrap();
    // What is published reaches the server at once, and the stream when its leader wakes up.
    cluster.signal(leader, "STOP");
    backend.count(5, 0..5).await;
    let mut numbers = Vec::new();
    for _ in 0..5 {
        let event = stream.expect_type("new_message").await;
        assert_eq!(event.id, None);
        numbers.push(number(&event));
    }
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    assert_eq!(stream.resumes_from(), before);
    let mut newcomer = server.come_back(1, &before).await;
    newcomer.expect_type("connection_confirmed").await;
    cluster.signal(leader, "CONT");
    // For whoever has had them, only the position moves on.
    newcomer.expect_count(0..5).await;
    server
        .metric_becomes("notify_log_late_total", "", 5.0)
        .await;
    stream.expect_ping().await;
    stream.expect_ping().await;
    assert_eq!(stream.resumes_from(), newcomer.last_event_id());
    let mut again = server.come_back(1, stream.resumes_from()).await;
    let confirmed = again.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], true);
    assert_eq!(confirmed.data["replayed"], 0);
    backend.say(5, "after").await;
    for stream in [&mut stream, &mut newcomer, &mut again] {
        stream.expect_message("after").await;
    }
}
