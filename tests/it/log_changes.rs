//! The log becomes another one: lost, rolled back, deleted, made again, purged.

use std::path::Path;
use std::process::Command;

use async_nats::jetstream::stream;

use crate::support::{Backend, Nats, STREAM, Server, Settings, eventually};

/// One thread, so that who has seen an event shows that it comes before whoever connects next.
fn settings(nats: &Nats) -> Settings {
    Settings::new()
        .nats(nats)
        .set("server.workers", 1)
        .chat(5, &[1])
}

/// A client that comes back with an id that means nothing any more gets a gap, then what is live.
async fn is_foreign(server: &Server, id: &str) {
    let mut stream = server.come_back(1, id).await;
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], false, "{id}");
    assert_eq!(confirmed.data["replayed"], 0, "{id}");
    stream.expect_gap("epoch").await;
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp failed");
}

/// Kills the NATS server, and starts it with another store.
async fn roll_back(nats: &mut Nats, kept: &Path) {
    nats.kill();
    let store = nats.store().join("jetstream");
    std::fs::remove_dir_all(&store).unwrap();
    copy(kept, &store);
    nats.start_again().await;
}

/// Makes the stream again as it was, for somebody who is no notify-server.
async fn make_again(backend: &Backend) {
    let config = stream::Config {
        description: None,
        ..backend.stream_info().await.config
    };
    let jetstream = backend.jetstream();
    jetstream.delete_stream(STREAM).await.unwrap();
    eventually("the stream to be made again", || async {
        // Right after the deletion, the name may not be free yet.
        jetstream.create_stream(config.clone()).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_log_in_the_memory_of_a_killed_nats_begins_anew_with_a_gap() {
    let mut nats = Nats::start().await;
    let backend = nats.backend().await;
    let settings = settings(&nats).set("jetstream.storage", "memory");
    let server = Server::start(settings).await;
    let mut stream = server.connect(1).await;
    backend.count(5, 0..10).await;
    let old = stream.expect_count(0..10).await;
    nats.kill();
    nats.start_again().await;
    stream.expect_gap("epoch").await;
    server.ready().await;
    nats.backend().await.count(5, 10..15).await;
    let new = stream.expect_count(10..15).await;
    assert_ne!(old.split('-').next(), new.split('-').next(), "the epoch");
    is_foreign(&server, &old).await;
    let mut stream = server.come_back(1, &new).await;
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], true);
}

#[tokio::test]
async fn a_store_that_was_rolled_back_is_noticed_although_it_ends_before_what_was_there() {
    let mut nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(settings(&nats)).await;
    let mut stream = server.connect(1).await;
    backend.count(5, 0..10).await;
    let kept = stream.expect_count(0..10).await;
    nats.stop().await;
    let aside = server.settings().directory().join("kept");
    copy(&nats.store().join("jetstream"), &aside);
    nats.start_again().await;
    server.ready().await;
    nats.backend().await.count(5, 10..20).await;
    let lost = stream.expect_count(10..20).await;
    roll_back(&mut nats, &aside).await;
    stream.expect_gap("epoch").await;
    server.ready().await;
    nats.backend().await.count(5, 20..25).await;
    stream.expect_count(20..25).await;
    is_foreign(&server, &lost).await;
    assert_eq!(server.metric("notify_log_gaps_total", "rewound").await, 1.0);
    // What stands before the lost stretch means what it meant.
    let mut stream = server.come_back(1, &kept).await;
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], true);
    stream.expect_count(20..25).await;
}

#[tokio::test]
async fn a_store_that_was_rolled_back_is_noticed_although_it_reaches_further_again() {
    let mut nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(settings(&nats)).await;
    let mut stream = server.connect(1).await;
    backend.count(5, 0..10).await;
    stream.expect_count(0..10).await;
    nats.stop().await;
    let aside = server.settings().directory().join("kept");
    copy(&nats.store().join("jetstream"), &aside);
    nats.start_again().await;
    server.ready().await;
    nats.backend().await.count(5, 10..20).await;
    let within = stream.expect_count(10..15).await;
    let lost = stream.expect_count(15..20).await;
    server.process().signal("STOP");
    roll_back(&mut nats, &aside).await;
    let backend = nats.backend().await;
    backend.count(5, 20..40).await;
    backend.logged(30).await;
    server.process().signal("CONT");
    stream.expect_gap("epoch").await;
    stream.expect_count(20..40).await;
    for id in [within, lost] {
        is_foreign(&server, &id).await;
    }
    assert_eq!(server.metric("notify_log_gaps_total", "rewound").await, 1.0);
}

#[tokio::test]
async fn a_stream_made_again_by_somebody_else_is_noticed_by_what_it_has() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(settings(&nats)).await;
    let mut stream = server.connect(1).await;
    backend.count(5, 0..10).await;
    let old = stream.expect_count(0..10).await;
    make_again(&backend).await;
    backend.count(5, 10..30).await;
    stream.expect_gap("epoch").await;
    stream.expect_count(10..30).await;
    is_foreign(&server, &old).await;
}

#[tokio::test]
async fn a_stream_made_again_by_somebody_else_is_noticed_although_nothing_happens() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(settings(&nats)).await;
    let mut stream = server.connect(1).await;
    backend.count(5, 0..10).await;
    stream.expect_count(0..10).await;
    make_again(&backend).await;
    stream.expect_gap("epoch").await;
    backend.count(5, 10..20).await;
    stream.expect_count(10..20).await;
}

#[tokio::test]
async fn a_stream_that_was_deleted_is_made_again() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(settings(&nats)).await;
    let mut stream = server.connect(1).await;
    backend.count(5, 0..10).await;
    let old = stream.expect_count(0..10).await;
    backend.jetstream().delete_stream(STREAM).await.unwrap();
    // What comes in between reaches the clients all the same.
    backend.say(5, "in between").await;
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let event = stream.next().await;
        if event.kind() == "new_message" {
            assert_eq!(event.content(), "in between");
        }
        kinds.push(event.kind().to_owned());
    }
    kinds.sort_unstable();
    assert_eq!(kinds, ["gap", "new_message"]);
    server
        .log_line(|line| line.message() == "JetStream stream created")
        .await;
    backend.count(5, 10..20).await;
    stream.expect_count(10..20).await;
    is_foreign(&server, &old).await;
}

#[tokio::test]
async fn a_purged_stream_goes_on_without_a_gap_and_replays_no_more_what_was_purged() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(settings(&nats)).await;
    let mut stream = server.connect(1).await;
    backend.count(5, 0..10).await;
    let first = stream.expect_message("0").await.id.unwrap();
    stream.expect_count(1..10).await;
    backend.stream().await.purge().await.unwrap();
    backend.count(5, 10..13).await;
    stream.expect_count(10..13).await;
    eventually("memory to let go of what was purged", || async {
        let mut stream = server.come_back(1, &first).await;
        let confirmed = stream.expect_type("connection_confirmed").await;
        if confirmed.data["recovered"] == true {
            return None;
        }
        let gap = stream.expect_type("gap").await;
        assert_eq!(gap.data["reason"], "expired");
        assert_eq!(gap.data["from"], first.as_str());
        stream.expect_count(10..13).await;
        Some(())
    })
    .await;
    backend.count(5, 13..15).await;
    stream.expect_count(13..15).await;
}
