//! Text that users and backends choose, where it could be taken for something else: a field of a stream, a
//! header, a subject, a line of the log, a metric.

use std::process::Command;

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::support::tokens::{SECRET, Token};
use crate::support::{
    EventStream, LogLine, Nats, Process, Raw, Request, Response, Server, Settings, free_port,
    promtool, tokens, within,
};

/// What nobody may find outside of the value that it was sent as.
const FORGED: &str = "forged";

/// Text that would begin something new, wherever line ends, quotes or escapes are taken at their word.
const TEXTS: [&str; 12] = [
    "x\r\nforged: yes",
    "x\n\nevent: forged\ndata: {}\n\n",
    "x\rid: forged\r",
    "x\0forged",
    "x\u{2028}forged\u{2029}",
    "x\u{85}forged",
    "x\u{b}forged\u{c}",
    "x\u{1b}[2J\u{1b}]0;forged\u{7}",
    "x\u{202e}forged",
    "x\"} forged{a=\"",
    "x\\n forged=\"1\" \\\"",
    "x%0d%0aforged%00",
];

fn reader() -> String {
    let rights = json!({"subscribe": ["*"], "publish": ["*"]});
    Token::of(1).claim("notify", rights).sign_hs256(SECRET)
}

async fn post(server: &Server, target: &str, body: &Value) -> Response {
    let request = Request::new("POST", target).bearer(&reader()).json(body);
    server.send(request).await
}

/// Every line that a stream has is a field of the event that it was meant to be.
fn has_only_its_fields(text: &str) {
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    // The chunks are of no interest: their sizes stand alone on lines that end otherwise.
    let lines = body
        .split("\r\n")
        .enumerate()
        .filter(|(number, _)| number % 2 == 1);
    let stream: String = lines.map(|(_, chunk)| chunk).collect();
    assert!(!stream.contains(['\r', '\0']), "{stream:?}");
    for line in stream.split('\n') {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        assert!(
            ["", "event", "id", "data", "retry"].contains(&name),
            "{line:?}"
        );
        match name {
            "id" => assert!(!value.contains(FORGED), "{line:?}"),
            "data" => assert!(serde_json::from_str::<Value>(value).is_ok(), "{line:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn no_text_leaves_its_field_of_a_stream() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let mut raw = Raw::connect(server.address()).await;
    let head = "GET /sse/stream/job:1 HTTP/1.1\r\nhost: x\r\n";
    raw.send(format!("{head}authorization: Bearer {}\r\n\r\n", reader()).as_bytes())
        .await;
    let begin = raw
        .read_until(|text| text.contains("connection_confirmed"))
        .await;
    let mut strict = EventStream::new(
        server
            .send(Request::get("/sse/stream/job:1").bearer(&reader()))
            .await,
    );
    strict.expect_type("connection_confirmed").await;
    let backend = nats.backend().await;
    for text in TEXTS {
        for payload in [
            json!({"type": text, "channel": "job:1", "data": {"text": text, text: 1}}),
            json!({"type": "t", "id": text, "channel": "job:1", "data": text}),
            json!({"type": "t", "channel": "job:1", "timestamp": text, "data": text}),
            json!({"specversion": "1.0", "id": text, "source": text, "type": text, "subject": "job:1", "data": text}),
        ] {
            backend.publish("fechatter.realtime.job.1", &payload).await;
            // Text that is not escaped but stands between tokens, as no encoder writes it.
            let pretty = serde_json::to_string_pretty(&payload)
                .unwrap()
                .replace('\n', "\r\n");
            backend
                .publish_bytes("fechatter.realtime.job.1", pretty.into_bytes())
                .await;
            let answer = post(&server, "/api/v1/messages/send", &payload).await;
            assert!(matches!(answer.status, 202 | 422), "{}", answer.status);
        }
    }
    backend
        .publish(
            "fechatter.realtime.job.1",
            &json!({"type": "last", "channel": "job:1"}),
        )
        .await;
    loop {
        let event = strict.next().await;
        let id = event.id.as_deref().unwrap_or("");
        assert!(!id.contains(FORGED), "{event:?}");
        assert_ne!(event.name.as_deref(), Some(FORGED));
        if event.kind() == "last" {
            break;
        }
    }
    let text = raw
        .read_until(|text| text.contains("event: last\n") && text.ends_with("\n\n\r\n"))
        .await;
    assert!(text.contains(FORGED), "some of it has arrived");
    has_only_its_fields(&(begin + &text));
}

#[tokio::test]
async fn no_text_leaves_its_header() {
    let origin = "https://app.example";
    let settings = Settings::new().set("server.allowed_origins", json!([origin]));
    let server = Server::start(settings).await;
    let bad = |text: &str| {
        vec![
            Token::of(text).sign_hs256(SECRET),
            Token::of(1).kid(text).sign_hs256("another"),
            Token::of(1)
                .claim("iss", text)
                .claim("aud", text)
                .claim("exp", text)
                .sign_hs256(SECRET),
            Token::of(1)
                .claim("notify", json!({"subscribe": [text]}))
                .sign_hs256(SECRET),
            text.to_owned(),
            format!("{text}.{text}.{text}"),
        ]
    };
    for text in TEXTS {
        for token in bad(text) {
            let encoded: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let response = server
                .get(&format!("/events/poll?access_token={encoded}"))
                .await;
            // Names that a user may have are fine.
            assert!(
                matches!(response.status, 200 | 401),
                "{text:?}: {}",
                response.status
            );
            assert_eq!(response.header(FORGED), None, "{text:?}");
            if let Some(challenge) = response.header("www-authenticate") {
                assert_eq!(challenge.matches('"').count(), 6, "{challenge}");
                assert!(
                    challenge.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                    "{challenge}"
                );
            }
        }
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for target in [
            format!("/sse/stream/{encoded}"),
            format!("/sse/user/{encoded}"),
            format!("/api/v1/channels/{encoded}"),
            format!("/api/v1/messages/{encoded}/receipts"),
            format!("/assets/{encoded}"),
            format!("/{encoded}?{encoded}={encoded}"),
        ] {
            let request = Request::get(&target).bearer(&tokens::of_user(2));
            let response = server.send(request).await;
            assert!(
                (400..500).contains(&response.status),
                "{target}: {}",
                response.status
            );
            assert_eq!(response.header(FORGED), None, "{target}");
        }
    }
    // Of what a page asks for, only what is configured comes back.
    for (name, value) in [
        ("origin", "https://app.example.forged"),
        ("origin", "https://app.example\u{1}forged"),
        ("access-control-request-headers", "x-forged, authorization"),
        ("access-control-request-method", "FORGED"),
    ] {
        let mut request = Request::new("OPTIONS", "/events").header(name, value);
        if name != "origin" {
            request = request.header("origin", origin);
        }
        if let Ok(response) = request.try_send(server.address()).await {
            for name in [
                "access-control-allow-origin",
                "access-control-allow-methods",
                "access-control-allow-headers",
            ] {
                let value = response.header(name).unwrap_or("").to_ascii_lowercase();
                assert!(!value.contains(FORGED), "{name}: {value}");
            }
        }
    }
}

/// A subject is made of what a client says, and so are the headers that a message goes out with.
#[tokio::test]
async fn no_text_leaves_its_token_of_a_subject() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let backend = nats.backend().await;
    let mut everything = backend.client().subscribe("fechatter.>").await.unwrap();
    let mut elsewhere = backend.client().subscribe("forged.>").await.unwrap();
    backend.flush().await;
    let ids = [
        "a.b",
        "a..b",
        "*",
        ">",
        "a b",
        "a\tb",
        "a\r\nPUB forged.x 1\r\n",
        "a\0",
        "a%2eb",
        "\u{2028}",
        "ü.>",
    ];
    let mut taken = 0;
    for id in ids.into_iter().chain(TEXTS) {
        let channel = format!("job:{id}");
        let message = json!({"type": "t", "channel": channel, "id": id, "data": 1});
        let key: String = id.chars().filter(|c| (' '..='~').contains(c)).collect();
        let request = Request::new("POST", "/api/v1/messages/send").bearer(&reader());
        let request = request
            .header("idempotency-key", &format!("k{key}"))
            .json(&message);
        let response = server.send(request).await;
        match response.status {
            202 => {
                taken += 1;
                let message = within("the message", everything.next()).await.unwrap();
                let tokens: Vec<&str> = message.subject.split('.').collect();
                assert_eq!(tokens.len(), 4, "{channel:?} on {}", message.subject);
                assert_eq!(tokens[..3], ["fechatter", "realtime", "job"]);
                let headers = message.headers.unwrap();
                for (name, values) in headers.iter() {
                    let name = name.to_string();
                    assert!(
                        name.starts_with("Nats-") || name.starts_with("Notify-"),
                        "{name}"
                    );
                    for value in values {
                        let value = value.as_str();
                        assert!(
                            value.bytes().all(|b| b.is_ascii_graphic()),
                            "{name}: {value:?}"
                        );
                    }
                }
            }
            status => assert_eq!(status, 422, "{channel:?}"),
        }
    }
    assert!(taken >= 3, "{taken}");
    for subject in [
        "fechatter.realtime.a%0d%0aPUB%20forged.x%201",
        "fechatter.realtime.*",
        "fechatter.realtime.%3e",
        "fechatter.realtime.a%20b",
        "forged.x",
        "fechatter.realtime..x",
        "$JS.API.STREAM.DELETE.NOTIFY",
        "notify.log.x",
        "_INBOX.x",
    ] {
        let response = post(&server, &format!("/api/v1/bus/{subject}"), &json!({"a": 1})).await;
        assert_eq!(response.status, 422, "{subject}");
    }
    // Whatever was sent elsewhere would have come before this.
    backend
        .client()
        .publish("forged.end", "end".into())
        .await
        .unwrap();
    let first = within("the end", elsewhere.next()).await.unwrap();
    assert_eq!(first.subject.as_str(), "forged.end");
}

/// Puts the texts everywhere where what others say could be logged or counted.
async fn provoke(server: &Server, nats: &Nats) {
    let backend = nats.backend().await;
    for text in TEXTS {
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
        // What a header can carry, and what it can't: raw bytes.
        let mut raw = Raw::connect(server.address()).await;
        let visible: Vec<u8> = text.bytes().filter(|b| !b"\r\n\0".contains(b)).collect();
        let request = [
            b"GET /events/poll HTTP/1.1\r\nconnection: close\r\nhost: x\r\nuser-agent: ",
            &visible[..],
            b"\r\nlast-event-id: ",
            &visible[..],
            b"\r\nx-forwarded-for: ",
            &visible[..],
            b"\r\nauthorization: Bearer ",
            reader().as_bytes(),
            b"\r\n\r\n",
        ]
        .concat();
        raw.send(&request).await.rest().await;
        for target in [
            format!("/events/poll?last_event_id={encoded}&device={encoded}"),
            format!("/sse/stream/{encoded}"),
            format!("/api/v1/channels/{encoded}"),
            format!("/{encoded}"),
            format!("/events/poll?{encoded}={encoded}&wait={encoded}"),
            format!("/api/messages?chatId={encoded}"),
        ] {
            server.send(Request::get(&target).bearer(&reader())).await;
            server
                .get(&format!("{target}?access_token={encoded}"))
                .await;
        }
        for user in [
            text.to_owned(),
            text.replace(|c: char| c.is_whitespace() || c.is_control(), "-"),
        ] {
            let token = Token::of(user).sign_hs256(SECRET);
            server
                .send(Request::get("/events/poll").bearer(&token))
                .await;
        }
        for payload in [
            text.to_owned(),
            json!({"type": text}).to_string(),
            json!({"MessageReceived": {text: text}}).to_string(),
            json!({"type": text, "channel": text}).to_string(),
            json!({"type": text, "channel": "job:1", "id": text}).to_string(),
            json!({text: text}).to_string(),
        ] {
            let subject = "fechatter.realtime.job.1";
            backend.send(subject, payload.clone().into_bytes()).await;
            let request = Request::new("POST", "/api/v1/messages/send").bearer(&reader());
            server.send(request.body(payload)).await;
        }
    }
    backend.flush().await;
    let last = json!({"type": "last", "channel": "job:1"});
    post(server, "/api/v1/messages/send", &last).await;
}

fn is_plain(line: &str) {
    let wrong = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202e}');
    assert!(!line.contains(wrong), "{line:?}");
}

#[tokio::test]
async fn no_text_forges_a_line_of_the_log() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats).set("logging.level", "debug");
    let server = Server::start(settings).await;
    provoke(&server, &nats).await;
    server
        .log_line(|line| line.message() == "event routed" && line.text("kind") == "last")
        .await;
    let log = server.stop().await;
    assert!(log.contains(FORGED), "some of it was logged");
    for line in log.split('\n') {
        assert!(!line.contains(|c: char| c.is_ascii_control()), "{line:?}");
        let line = LogLine::parse(line).unwrap_or_else(|| panic!("no line of the log: {line:?}"));
        assert!(!line.message().contains(FORGED), "{line:?}");
        assert_eq!(line.field(FORGED), None, "{line:?}");
    }
}

#[tokio::test]
async fn no_text_forges_a_line_for_people() {
    let nats = Nats::start().await;
    let port = free_port();
    let settings = Settings::new()
        .nats(&nats)
        .set("logging.format", "human")
        .set("logging.level", "debug")
        .set("server.port", port);
    settings.run(&["check-config"]).await;
    let mut command: Command = settings.command(&["serve"]);
    let process = Process::spawn("notify-server", &mut command);
    process.stderr_line(|line| line.contains("listening")).await;
    let server = Server::of(process, port, settings);
    server.ready().await;
    provoke(&server, &nats).await;
    server
        .process()
        .stderr_line(|line| line.contains("kind=\"last\""))
        .await;
    let log = server.stop().await;
    assert!(log.contains(FORGED), "some of it was logged");
    for line in log.split('\n') {
        is_plain(line);
        let (time, _) = line.split_once(' ').unwrap_or((line, ""));
        assert!(time.starts_with("20") && time.ends_with('Z'), "{line:?}");
        // What was said stands in quotes.
        assert!(!unquoted(line).contains("forged="), "{line:?}");
    }
}

fn unquoted(line: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let outside = line.chars().filter(|c| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        quoted ^= ends;
        !quoted && !ends
    });
    outside.collect()
}

#[tokio::test]
async fn no_text_becomes_a_metric() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    provoke(&server, &nats).await;
    let before = server.get("/metrics").await.text().await;
    assert!(!before.contains(FORGED), "{before}");
    assert_eq!(promtool::check_metrics(&before), "");
    // Whoever does it again makes no series.
    provoke(&server, &nats).await;
    let after = server.get("/metrics").await.text().await;
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(series(&before), series(&after));
}
