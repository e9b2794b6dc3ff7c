//! Instances are found through NATS as services, for as long as clients should be sent to them.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::{ConnectOptions, StatusCode};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::nats_security::{accounts, as_notify, delivers};
use crate::support::payload::{self, chat_subject};
use crate::support::tokens::Token;
use crate::support::{
    Backend, LogLine, Nats, Request, Server, Settings, eventually, tokens, within,
};

/// Asks all who listen on a subject, and waits for so many answers.
async fn ask(backend: &Backend, subject: &str, answers: usize) -> Vec<Value> {
    let client = backend.client();
    let inbox = client.new_inbox();
    let replies = client.subscribe(inbox.clone()).await.unwrap();
    client
        .publish_with_reply(subject.to_owned(), inbox, "".into())
        .await
        .unwrap();
    let taken = replies.take(answers).map(|reply| {
        assert_eq!(reply.status, None, "nobody listens on {subject}");
        serde_json::from_slice(&reply.payload).unwrap()
    });
    within(&format!("answers on {subject}"), taken.collect()).await
}

/// Waits until somebody listens on a subject, and gives one answer.
async fn found(backend: &Backend, subject: &str) -> Value {
    eventually(&format!("somebody to answer on {subject}"), || async {
        let reply = backend.client().request(subject.to_owned(), "".into());
        let reply = reply.await.ok()?;
        Some(serde_json::from_slice(&reply.payload).unwrap())
    })
    .await
}

/// Waits until nobody listens on a subject. NATS itself says so at once.
async fn nobody(backend: &Backend, subject: &str) {
    let client = backend.client();
    eventually(&format!("nobody to listen on {subject}"), || async {
        let inbox = client.new_inbox();
        let mut replies = client.subscribe(inbox.clone()).await.unwrap();
        client
            .publish_with_reply(subject.to_owned(), inbox, "".into())
            .await
            .unwrap();
        // Who leaves just now takes the question along and gives no answer: then it is asked again.
        let reply = timeout(Duration::from_secs(1), replies.next()).await;
        let reply = reply.ok()?.unwrap();
        (reply.status == Some(StatusCode::NO_RESPONDERS)).then_some(())
    })
    .await;
}

fn texts<'a>(answers: &'a [Value], path: &str) -> BTreeSet<&'a str> {
    let texts = answers.iter().map(|one| one.pointer(path));
    texts.map(|text| text.unwrap().as_str().unwrap()).collect()
}

/// The instances that know of each other, by the names that the HTTP interface has for them.
async fn instances(server: &Server, count: usize) -> Vec<String> {
    let token = Token::of(99).claim("notify", json!({"admin": true}));
    let token = token.sign_hs256(tokens::SECRET);
    eventually("the instances to know of each other", || async {
        let request = Request::get("/api/v1/connections/stats").bearer(&token);
        let stats = server.send(request).await.json().await;
        let replied = stats["instances"]["replied"].as_array().unwrap();
        let names = replied.iter().map(|name| name.as_str().unwrap().to_owned());
        (replied.len() == count).then(|| names.collect())
    })
    .await
}

#[tokio::test]
async fn every_instance_answers_under_the_name_that_the_http_interface_has_for_it() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats);
    let servers = [
        Server::start(settings.clone()).await,
        Server::start(settings).await,
    ];
    let names = instances(&servers[0], 2).await;
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let backend = nats.backend().await;
    for subject in ["$SRV.PING", "$SRV.PING.notify-server"] {
        let pings = ask(&backend, subject, 2).await;
        assert_eq!(texts(&pings, "/metadata/instance"), names);
        assert_eq!(texts(&pings, "/name"), ["notify-server"].into());
        assert_eq!(
            texts(&pings, "/version"),
            [env!("CARGO_PKG_VERSION")].into()
        );
        assert_eq!(texts(&pings, "/id").len(), 2);
    }
    let infos = ask(&backend, "$SRV.INFO", 2).await;
    let addresses = servers.each_ref().map(|s| s.address().to_string());
    let addresses: BTreeSet<&str> = addresses.iter().map(String::as_str).collect();
    assert_eq!(texts(&infos, "/metadata/address"), addresses);
    let subjects = texts(&infos, "/endpoints/0/subject");
    assert_eq!(subjects, ["notify-server.health"].into());
    // Each by the id that the ping has told.
    for info in &infos {
        let id = info["id"].as_str().unwrap();
        let subject = format!("$SRV.INFO.notify-server.{id}");
        assert_eq!(ask(&backend, &subject, 1).await[0], *info);
    }
    let reports = ask(&backend, "notify-server.health", 2).await;
    assert_eq!(texts(&reports, "/instance"), names);
    assert_eq!(texts(&reports, "/status"), ["ok"].into());
}

#[tokio::test]
async fn what_an_instance_has_done_is_in_its_statistics() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let backend = nats.backend().await;
    let mut streams = [server.connect(1).await, server.connect(2).await];
    backend
        .publish(&chat_subject(5), &payload::message(5, "x", &[1, 2]))
        .await;
    for stream in &mut streams {
        stream.expect_type("new_message").await;
    }
    let report = &ask(&backend, "notify-server.health", 1).await[0];
    assert_eq!(report["connections"], 2);
    let stats = &ask(&backend, "$SRV.STATS.notify-server", 1).await[0];
    let endpoint = &stats["endpoints"][0];
    assert_eq!(endpoint["num_requests"], 1);
    assert_eq!(endpoint["num_errors"], 0);
    assert_eq!(endpoint["data"]["connections"], 2);
    // The greetings of the streams count, too.
    assert!(endpoint["data"]["events"].as_u64().unwrap() >= 2, "{stats}");
}

#[tokio::test]
async fn an_instance_is_found_once_nats_is_there_and_after_every_restart() {
    let mut nats = Nats::not_started();
    let server = Server::start_unready(Settings::new().nats(&nats)).await;
    for _ in 0..2 {
        nats.start_again().await;
        server.ready().await;
        let backend = nats.backend().await;
        let ping = found(&backend, "$SRV.PING").await;
        assert_eq!(ping["name"], "notify-server");
        assert_eq!(
            found(&backend, "notify-server.health").await["status"],
            "ok"
        );
        nats.kill();
        server.not_ready().await;
    }
}

#[tokio::test]
async fn an_instance_that_stops_is_not_found_any_more_while_it_still_serves() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats);
    // Long enough for everything here to happen before its end.
    let leaving = Server::start(settings.clone().set("server.unready_delay", "2m")).await;
    let backend = nats.backend().await;
    let ping = found(&backend, "$SRV.PING").await;
    let mut stream = leaving.connect(1).await;
    leaving.terminate();
    nobody(&backend, "$SRV.PING").await;
    nobody(&backend, "notify-server.health").await;
    let id = ping["id"].as_str().unwrap();
    nobody(&backend, &format!("$SRV.INFO.notify-server.{id}")).await;
    backend
        .publish(&chat_subject(5), &payload::message(5, "x", &[1]))
        .await;
    stream.expect_type("new_message").await;
    let staying = Server::start(settings).await;
    let pong = found(&backend, "$SRV.PING").await;
    assert_eq!(
        pong["metadata"]["address"],
        staying.address().to_string().as_str()
    );
}

#[tokio::test]
async fn another_name_can_be_chosen_or_none() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let settings = Settings::new().nats(&nats);
    let named = Server::start(settings.clone().set("nats.service", "push-eu")).await;
    let ping = found(&backend, "$SRV.PING.push-eu").await;
    assert_eq!(ping["name"], "push-eu");
    assert_eq!(found(&backend, "push-eu.health").await["status"], "ok");
    drop(named);
    nobody(&backend, "$SRV.PING").await;
    let server = Server::start(settings.set("nats.service", "")).await;
    nobody(&backend, "$SRV.PING").await;
    assert_eq!(server.get("/ready").await.status, 200);
}

async fn as_backend(nats: &Nats) -> Backend {
    let options =
        ConnectOptions::with_user_and_password("backend".into(), "backend-backend".into());
    nats.backend_with(options).await
}

fn warnings(server: &Server, message: &str) -> usize {
    let log = server.log();
    let lines = log.iter().filter(|line| line.message() == message);
    lines.count()
}

#[tokio::test]
async fn an_instance_that_may_not_be_found_says_so_once_and_serves_all_the_same() {
    let denied = "subscribe: {deny: [\"$SRV.>\", \"notify-server.>\"]}";
    let folder = TempDir::new().unwrap();
    let mut nats = Nats::start_with(&["-c", &accounts(&folder, denied)]).await;
    let server = Server::start(as_notify(&nats)).await;
    let warning = "NATS does not let this instance be found as a service";
    server.log_line(|line| line.message() == warning).await;
    delivers(&server, &as_backend(&nats).await).await;
    assert_eq!(server.get("/ready").await.status, 200);
    // The subscriptions are refused anew with every connection.
    nats.kill();
    server.not_ready().await;
    nats.start_again().await;
    server.ready().await;
    delivers(&server, &as_backend(&nats).await).await;
    assert_eq!(server.get("/ready").await.status, 200);
    assert_eq!(warnings(&server, warning), 1);
}

#[tokio::test]
async fn an_instance_that_may_not_answer_says_so_once_and_serves_all_the_same() {
    let folder = TempDir::new().unwrap();
    let denied = "publish: {deny: \"_INBOX.>\"}";
    let nats = Nats::start_with(&["-c", &accounts(&folder, denied)]).await;
    let server = Server::start(as_notify(&nats)).await;
    let backend = as_backend(&nats).await;
    let client = backend.client();
    for _ in 0..3 {
        client
            .publish_with_reply("notify-server.health", client.new_inbox(), "".into())
            .await
            .unwrap();
    }
    let warning = "NATS does not let this instance answer";
    server.log_line(|line| line.message() == warning).await;
    delivers(&server, &backend).await;
    assert_eq!(server.get("/ready").await.status, 200);
    let error = |line: &LogLine| line.text("error").contains("_INBOX");
    assert_eq!(server.log().iter().filter(|line| error(line)).count(), 1);
}
