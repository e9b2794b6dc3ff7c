//! What an operator can read in the log.

use crate::support::payload::{self, chat_subject};
use crate::support::{
    EventStream, LogLine, Nats, Process, Request, Server, Settings, eventually, free_port, tokens,
};

#[tokio::test]
async fn the_life_of_a_stream_is_visible_at_info() {
    let nats = Nats::start().await;
    let settings = Settings::new()
        .nats(&nats)
        .set("logging.level", "info")
        .chat(5, &[2])
        .chat(9, &[2]);
    let server = Server::start(settings).await;
    let request = Request::get("/events")
        .bearer(&tokens::of_user(2))
        .header("user-agent", "TestBrowser/1.0");
    let mut stream = EventStream::new(server.send(request).await);
    let confirmed = stream.expect_type("connection_confirmed").await;
    let backend = nats.backend().await;
    for _ in 0..3 {
        backend
            .publish(&chat_subject(5), &payload::chat_message(5, "x"))
            .await;
        stream.expect_type("new_message").await;
    }
    drop(stream);
    let line = |message: &'static str| server.log_line(move |line| line.message() == message);
    let connected = line("connected").await;
    assert_eq!(connected.text("user"), "2");
    assert!(
        connected.text("agent").contains("TestBrowser/1.0"),
        "{connected:?}"
    );
    let registered = line("registered").await;
    assert_eq!(registered.text("user"), "2");
    let chats = registered.text("chats");
    assert!(
        chats == "2" || (chats.contains('5') && chats.contains('9')),
        "{registered:?}"
    );
    let disconnected = line("disconnected").await;
    assert_eq!(disconnected.text("reason"), "client_gone");
    assert_eq!(disconnected.text("events"), "3");
    assert!(
        disconnected.field("duration_ms").is_some(),
        "{disconnected:?}"
    );
    let id = confirmed.data["connection_id"].as_str().unwrap();
    for line in [&connected, &registered, &disconnected] {
        assert_eq!(line.level(), "INFO");
        assert_eq!(line.text("connection_id"), id, "one span: {line:?}");
    }
    let routed = server
        .log()
        .iter()
        .any(|line| line.message() == "event routed");
    assert!(!routed, "events are for debug");
}

#[tokio::test]
async fn each_event_is_visible_at_debug_with_its_number_of_recipients() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let _one = server.connect(1).await;
    let _two = server.connect(2).await;
    let backend = nats.backend().await;
    let routed_to = |recipients: &'static str| {
        server.log_line(move |line: &LogLine| {
            line.message() == "event routed" && line.text("recipients") == recipients
        })
    };
    for (users, recipients) in [(&[1, 2][..], "2"), (&[2], "1"), (&[3], "0")] {
        let payload = payload::message(5, "x", users);
        backend.publish(&chat_subject(5), &payload).await;
        let line = routed_to(recipients).await;
        assert_eq!(line.text("kind"), "new_message");
        assert_eq!(line.level(), "DEBUG");
    }
}

#[tokio::test]
async fn the_loss_of_nats_and_its_return_are_visible() {
    let mut nats = Nats::start().await;
    let settings = Settings::new().nats(&nats).set("logging.level", "info");
    let server = Server::start(settings).await;
    nats.kill();
    server.log_line(|line| line.level() == "WARN").await;
    nats.start_again().await;
    eventually("the return to be logged", || async {
        let log = server.log();
        let lost = log.iter().position(|line| line.level() == "WARN").unwrap();
        let mut after = log[lost..].iter();
        after.any(|line| line.level() == "INFO").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_human_format_says_the_same() {
    let port = free_port();
    let settings = Settings::new()
        .set("logging.format", "human")
        .set("server.port", port);
    let process = Process::spawn("notify-server", &mut settings.command(&["serve"]));
    let line = process.stderr_line(|line| line.contains("listening")).await;
    assert!(line.contains(&format!("127.0.0.1:{port}")), "{line}");
    assert!(LogLine::parse(&line).is_none(), "{line}");
}

#[tokio::test]
async fn the_first_line_says_which_instance_it_is() {
    let server = Server::start(Settings::new()).await;
    let health = server.get("/health").await.json().await;
    let first = server.log_line(|_| true).await;
    assert_eq!(first.message(), "starting");
    assert_eq!(first.text("instance"), health["instance"].as_str().unwrap());
}
