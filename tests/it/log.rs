//! The log: the stream behind it is made, adopted or refused, and instances share its ids.

use std::time::Duration;

use async_nats::jetstream::stream::{self, DiscardPolicy, Republish, RetentionPolicy, StorageType};
use futures_util::StreamExt as _;
use serde_json::json;
use tempfile::TempDir;

use crate::support::payload::{self, chat_subject};
use crate::support::{Nats, STREAM, Server, Settings, within};

/// A stream that fits, as somebody else would make it.
fn foreign() -> stream::Config {
    stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["fechatter.chat.>".into(), "fechatter.realtime.>".into()],
        max_age: Duration::from_secs(600),
        no_ack: true,
        republish: Some(Republish {
            source: ">".to_owned(),
            destination: "notify.log.>".to_owned(),
            headers_only: false,
        }),
        ..stream::Config::default()
    }
}

/// What a server says that does not start.
async fn refused(settings: &Settings) -> String {
    let outcome = settings.run(&[]).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    outcome.stderr
}

#[tokio::test]
async fn the_stream_is_made_as_configured() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let made = backend.stream_info().await.config;
    assert_eq!(made.subjects, ["fechatter.realtime.>", "fechatter.chat.>"]);
    assert_eq!(made.storage, StorageType::File);
    assert_eq!(made.retention, RetentionPolicy::Limits);
    assert_eq!(made.discard, DiscardPolicy::Old);
    assert!(made.no_ack);
    assert_eq!(made.republish, foreign().republish);
    assert_eq!(made.max_age, Duration::from_secs(24 * 60 * 60));
    assert_eq!(made.max_bytes, 1 << 30);
    assert_eq!(made.max_messages, -1);
    assert_eq!(made.num_replicas, 1);
    server.stop().await;

    let settings = Settings::new()
        .nats(&nats)
        .set("nats.subjects", json!(["other.>"]))
        .set("jetstream.stream", "OTHER")
        .set("jetstream.max_age", "10m")
        .set("jetstream.max_bytes", "16 MiB")
        .set("jetstream.storage", "memory")
        .set("jetstream.republish", "other_log");
    let _server = Server::start(settings).await;
    let stream = backend.jetstream().get_stream("OTHER").await.unwrap();
    let made = &stream.cached_info().config;
    assert_eq!(made.subjects, ["other.>"]);
    assert_eq!(made.storage, StorageType::Memory);
    assert_eq!(made.max_age, Duration::from_secs(600));
    assert_eq!(made.max_bytes, 16 << 20);
    let republish = made.republish.as_ref().unwrap();
    assert_eq!(republish.destination, "other_log.>");
}

#[tokio::test]
async fn a_stream_of_its_own_is_brought_up_to_the_configuration_and_keeps_its_events() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let settings = Settings::new().nats(&nats);
    let server = Server::start(settings.clone()).await;
    backend.say(5, "kept").await;
    backend.logged(1).await;
    server.stop().await;
    let subjects = [
        "fechatter.realtime.>",
        "fechatter.chat.>",
        "fechatter.new.>",
    ];
    let settings = settings
        .set("nats.subjects", json!(subjects))
        .set("jetstream.max_age", "1h")
        .set("jetstream.max_bytes", "8 MiB");
    let server = Server::start(settings).await;
    let line = server
        .log_line(|line| line.message() == "JetStream stream updated")
        .await;
    for setting in ["max_age", "max_bytes", "subjects"] {
        assert!(line.text("changes").contains(setting), "{}", line.whole());
    }
    let info = backend.stream_info().await;
    assert_eq!(info.config.max_age, Duration::from_secs(3600));
    assert_eq!(info.config.max_bytes, 8 << 20);
    assert_eq!(info.config.subjects, subjects);
    assert_eq!(info.state.messages, 1);
}

#[tokio::test]
async fn a_stream_of_somebody_else_is_used_with_its_own_limits() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    backend.jetstream().create_stream(foreign()).await.unwrap();
    let settings = Settings::new()
        .nats(&nats)
        .chat(5, &[1])
        .set("jetstream.max_age", "1h");
    let server = Server::start(settings).await;
    let warning = server
        .log_line(|line| line.level() == "WARN" && line.whole().contains("max_age"))
        .await;
    let says = warning.whole();
    assert!(says.contains(STREAM) && says.contains("10m"), "{says}");
    let config = backend.stream_info().await.config;
    assert_eq!(config.max_age, foreign().max_age);
    assert_eq!(config.description, None);
    let mut stream = server.connect(1).await;
    backend.say(5, "through it").await;
    let event = stream.expect_message("through it").await;
    assert!(event.id.is_some(), "it has a place in that stream");
}

#[tokio::test]
async fn settings_that_clash_stop_the_start_and_are_named() {
    let nats = Nats::start().await;
    let jetstream = nats.backend().await.jetstream();
    let settings = Settings::new().nats(&nats);
    let subjects = stream::Config {
        subjects: vec!["fechatter.chat.>".into()],
        ..foreign()
    };
    let republish = stream::Config {
        republish: None,
        ..foreign()
    };
    let retention = stream::Config {
        retention: RetentionPolicy::WorkQueue,
        ..foreign()
    };
    let storage = stream::Config {
        storage: StorageType::Memory,
        ..foreign()
    };
    let clashes = [
        (
            subjects,
            "subjects",
            "fechatter.chat.>",
            "fechatter.realtime.>",
        ),
        (republish, "republish", "none", "> to notify.log.>"),
        (retention, "retention", "workqueue", "limits"),
        (storage, "storage", "memory", "file"),
    ];
    for (config, setting, is, must_be) in clashes {
        jetstream.create_stream(config).await.unwrap();
        let says = refused(&settings).await;
        for word in [STREAM, setting, is, must_be] {
            assert!(says.contains(word), "{word} in: {says}");
        }
        jetstream.delete_stream(STREAM).await.unwrap();
    }
}

#[tokio::test]
async fn the_storage_of_a_stream_of_its_own_can_not_change_and_that_is_said() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats);
    Server::start(settings.clone()).await.stop().await;
    let says = refused(&settings.set("jetstream.storage", "memory")).await;
    assert!(says.contains("storage") && says.contains(STREAM), "{says}");
}

#[tokio::test]
async fn more_replicas_than_there_are_servers_stop_the_start() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats).set("jetstream.replicas", 3);
    let says = refused(&settings).await;
    assert!(says.contains("replicas"), "{says}");
}

#[tokio::test]
async fn another_stream_that_has_the_subjects_stops_the_start_and_is_named() {
    let nats = Nats::start().await;
    let jetstream = nats.backend().await.jetstream();
    let other = stream::Config {
        name: "CHATS".to_owned(),
        subjects: vec!["fechatter.chat.>".into()],
        ..stream::Config::default()
    };
    jetstream.create_stream(other).await.unwrap();
    let says = refused(&Settings::new().nats(&nats)).await;
    assert!(says.contains("CHATS"), "{says}");
    assert!(says.contains("jetstream.stream"), "what to do: {says}");
}

#[tokio::test]
async fn without_jetstream_the_start_is_refused_and_a_log_in_memory_will_do() {
    let nats = Nats::start_without_jetstream(&[]).await;
    let settings = Settings::new().nats(&nats).chat(5, &[1]);
    let says = refused(&settings).await;
    assert!(says.contains("JetStream"), "{says}");
    assert!(says.contains("log: memory"), "{says}");
    let server = Server::start(settings.set("log", "memory")).await;
    let mut stream = server.connect(1).await;
    nats.backend().await.say(5, "all the same").await;
    stream.expect_message("all the same").await;
}

#[tokio::test]
async fn a_server_whose_nats_comes_late_and_without_jetstream_ends_and_says_why() {
    let mut nats = Nats::not_started_without_jetstream();
    let server = Server::start_unready(Settings::new().nats(&nats)).await;
    server.not_ready().await;
    nats.start_again().await;
    let status = server.process().exited().await;
    let says = server.process().stderr();
    assert_eq!(status.code(), Some(1), "{says}");
    assert!(says.contains("JetStream is not enabled"), "{says}");
    assert!(says.contains("log: memory"), "{says}");
}

#[tokio::test]
async fn an_account_that_may_not_ask_for_the_log_is_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("accounts.conf");
    let accounts = "authorization { users = [{user: notify, password: notify-notify, \
        permissions: {publish: {deny: \"$JS.API.>\"}}}] }";
    std::fs::write(&file, accounts).unwrap();
    let nats = Nats::start_with(&["-c", file.to_str().unwrap()]).await;
    let url = nats.url().replace("//", "//notify:notify-notify@");
    let says = refused(&Settings::new().set("nats.url", url)).await;
    assert!(says.contains("$JS.API"), "{says}");
    assert!(says.contains("log: memory"), "{says}");
}

#[tokio::test]
async fn an_account_without_jetstream_or_a_server_without_room_is_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("nats.conf");
    let elsewhere = "accounts { \
        CHATS { users = [{user: notify, password: notify-notify}] }, \
        OTHERS { jetstream: enabled, users = [{user: other, password: other-other}] } }";
    let little = "jetstream { max_file_store: 1MB }, \
        authorization { users = [{user: notify, password: notify-notify}] }";
    for (config, why) in [
        (elsewhere, "not enabled for account"),
        (little, "insufficient storage"),
    ] {
        std::fs::write(&file, config).unwrap();
        let nats = Nats::start_with(&["-c", file.to_str().unwrap()]).await;
        let url = nats.url().replace("//", "//notify:notify-notify@");
        let says = refused(&Settings::new().set("nats.url", url)).await;
        assert!(says.contains(why), "{says}");
        assert!(says.contains("log: memory"), "{says}");
    }
}

#[tokio::test]
async fn an_event_has_the_same_id_on_every_instance() {
    let nats = Nats::start().await;
    // One thread each, so that who has seen an event shows that it comes before whoever follows.
    let settings = Settings::new()
        .nats(&nats)
        .set("server.workers", 1)
        .chat(5, &[1]);
    let one = Server::start(settings.clone()).await;
    let other = Server::start(settings).await;
    let mut here = one.connect(1).await;
    let mut there = other.connect(1).await;
    let backend = nats.backend().await;
    for text in ["first", "second", "third"] {
        backend.say(5, text).await;
    }
    let mut ids = Vec::new();
    for text in ["first", "second", "third"] {
        let id = here.expect_message(text).await.id;
        assert_eq!(there.expect_message(text).await.id, id);
        ids.push(id.expect("an id"));
    }
    assert!(ids.iter().all(|id| id.find('-') == Some(13)), "{ids:?}");
    // Each takes up where the other was left.
    for server in [&one, &other] {
        let mut stream = server.come_back(1, &ids[0]).await;
        let confirmed = stream.expect_type("connection_confirmed").await;
        assert_eq!(confirmed.data["recovered"], true);
        for (text, id) in [("second", &ids[1]), ("third", &ids[2])] {
            assert_eq!(stream.expect_message(text).await.id.as_ref(), Some(id));
        }
    }
}

#[tokio::test]
async fn without_a_shared_log_an_id_of_another_instance_is_a_gap() {
    let nats = Nats::start().await;
    let settings = Settings::new()
        .nats(&nats)
        .set("log", "memory")
        .set("server.workers", 1)
        .chat(5, &[1]);
    let one = Server::start(settings.clone()).await;
    let other = Server::start(settings).await;
    let backend = nats.backend().await;
    let (mut stream, mut there) = (one.connect(1).await, other.connect(1).await);
    backend.say(5, "here").await;
    let id = stream.expect_message("here").await.id.unwrap();
    there.expect_message("here").await;
    assert_eq!(
        id.find('-'),
        Some(16),
        "{id} does not look like one of memory"
    );
    let mut stream = other.come_back(1, &id).await;
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], false);
    let gap = stream.expect_type("gap").await;
    assert_eq!(gap.data["reason"], "epoch");
    assert_eq!(gap.data["from"], id.as_str());
    backend.say(5, "there").await;
    stream.expect_message("there").await;
}

#[tokio::test]
async fn a_request_on_a_subject_of_the_log_is_answered_by_its_responder_alone() {
    let nats = Nats::start().await;
    let _server = Server::start(Settings::new().nats(&nats)).await;
    let (asking, answering) = (nats.backend().await, nats.backend().await);
    let client = asking.client();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    let mut questions = answering.client().subscribe(chat_subject(5)).await.unwrap();
    answering.flush().await;
    let payload = payload::chat_message(5, "a question").to_string();
    client
        .publish_with_reply(chat_subject(5), inbox, payload.into())
        .await
        .unwrap();
    asking.flush().await;
    let question = within("the question", questions.next()).await.unwrap();
    // The stream has taken the question, and would have said so by now.
    answering.logged(1).await;
    let answer = "an answer";
    answering
        .client()
        .publish(question.reply.unwrap(), answer.into())
        .await
        .unwrap();
    let first = within("an answer", answers.next()).await.unwrap();
    assert_eq!(first.payload, answer);
}
