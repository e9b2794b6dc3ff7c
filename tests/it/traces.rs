//! Traces, as a collector gets them: which spans there are, what they say, and that nobody waits for them.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::json;

use crate::support::payload::{self, chat_message, chat_subject};
use crate::support::{
    Collector, Manner, Nats, Request, Server, Settings, Span, free_port, tokens, within,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A user and a chat whose numbers stand in nothing else.
const USER: i64 = 770_441;
const CHAT: i64 = 880_552;

const CONSUMER: i32 = 5;
const PRODUCER: i32 = 4;
const SERVER: i32 = 2;

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// Nothing is traced but what its publisher wants to be.
fn traced(collector: &Collector) -> Settings {
    Settings::new()
        .set("tracing.endpoint", collector.url())
        .set("tracing.interval", "100ms")
        .set("tracing.sample_ratio", 0.0)
        .chat(CHAT, &[USER])
}

fn process() -> String {
    "process fechatter.realtime.>".to_owned()
}

fn assert_child(child: &Span, of: &Span) {
    assert_eq!(child.trace(), of.trace(), "{} {}", child.name(), of.name());
    assert_eq!(child.parent(), of.id(), "{} of {}", child.name(), of.name());
}

#[tokio::test]
async fn an_event_is_traced_from_nats_to_the_write() {
    let (nats, collector) = (Nats::start().await, Collector::start());
    let server = Server::start(traced(&collector).nats(&nats)).await;
    let backend = nats.backend().await;
    let mut stream = server.connect(USER).await;
    let headers = [
        ("traceparent", &*traceparent("01")),
        ("tracestate", "vendor=1"),
    ];
    let subject = chat_subject(CHAT);
    backend
        .publish_with(&subject, &headers, &chat_message(CHAT, "confidential"))
        .await;
    let event = stream.expect_message("confidential").await;
    let whole = collector.one(&process()).await;
    assert_eq!(
        (whole.trace(), whole.parent()),
        (TRACE.into(), PARENT.into())
    );
    assert_eq!(whole.wire().kind, CONSUMER);
    assert_eq!(whole.wire().trace_state, "vendor=1");
    assert_eq!(whole.get("messaging.system"), "nats");
    assert_eq!(whole.get("messaging.operation.type"), "process");
    assert_eq!(
        whole.get("messaging.destination.template"),
        "fechatter.realtime.>"
    );
    assert_eq!(whole.get("notify.event.type"), "new_message");
    assert_eq!(Some(whole.get("notify.event.id")), event.id);
    assert_eq!(whole.resource("service.name"), "notify-server");
    assert_eq!(whole.resource("service.version"), env!("CARGO_PKG_VERSION"));
    assert!(!whole.resource("service.instance.id").is_empty());
    for name in ["decode", "route", "write"] {
        let step = collector.one(name).await;
        assert_child(&step, &whole);
        let (own, outer) = (step.wire(), whole.wire());
        assert!(
            own.start_time_unix_nano >= outer.start_time_unix_nano,
            "{name}"
        );
        assert!(own.end_time_unix_nano <= outer.end_time_unix_nano, "{name}");
    }
    assert_eq!(
        collector.one("route").await.get("notify.sessions.queued"),
        "1"
    );
    assert_eq!(
        collector.one("write").await.get("notify.sessions.written"),
        "1"
    );
    let line = server
        .log_line(|line| line.message() == "event routed")
        .await;
    assert_eq!(line.text("trace_id"), TRACE);
    let everything = collector.everything();
    for secret in ["770441", "880552", "confidential", tokens::SECRET, "eyJ"] {
        assert!(!everything.contains(secret), "{secret} in {everything}");
    }
}

#[tokio::test]
async fn a_trace_goes_on_over_http_and_nats_to_every_instance() {
    let (nats, collector) = (Nats::start().await, Collector::start());
    let settings = || traced(&collector).nats(&nats);
    let first = Server::start(settings()).await;
    let second = Server::start(settings()).await;
    let mut streams = [first.connect(USER).await, second.connect(USER).await];
    let backend = nats.backend().await;
    let mut listening = backend
        .client()
        .subscribe("fechatter.realtime.>")
        .await
        .unwrap();
    backend.flush().await;
    let message =
        json!({"type": "invoice.paid", "target": {"user_id": USER}, "data": "confidential"});
    let request = Request::new("POST", "/api/v1/messages/send?wait=1000")
        .bearer(&tokens::of_publisher(USER))
        .header("traceparent", &traceparent("01"))
        .header("tracestate", "vendor=1")
        .json(&message);
    let response = first.send(request).await;
    assert_eq!(response.status, 202);
    for stream in &mut streams {
        stream.expect_type("invoice.paid").await;
    }
    let server = collector.one("POST /api/v1/messages/send").await;
    assert_eq!(
        (server.trace(), server.parent()),
        (TRACE.into(), PARENT.into())
    );
    assert_eq!(server.wire().kind, SERVER);
    assert_eq!(server.get("http.request.method"), "POST");
    assert_eq!(server.get("http.route"), "/api/v1/messages/send");
    assert_eq!(server.get("http.response.status_code"), "202");
    let send = collector.one("send fechatter.realtime.>").await;
    assert_child(&send, &server);
    assert_eq!(send.wire().kind, PRODUCER);
    assert_eq!(send.get("messaging.operation.name"), "publish");
    let message = within("the message", listening.next()).await.unwrap();
    let headers = message.headers.unwrap();
    let says = |name: &'static str| headers.get(name).unwrap().as_str().to_owned();
    assert_eq!(says("traceparent"), format!("00-{TRACE}-{}-01", send.id()));
    assert_eq!(says("tracestate"), "vendor=1");
    let taken = collector.named(&process(), 2).await;
    for whole in &taken {
        assert_child(whole, &send);
        assert_eq!(whole.get("notify.event.id"), send.get("notify.event.id"));
    }
    let instance = |span: &Span| span.resource("service.instance.id");
    assert_ne!(instance(&taken[0]), instance(&taken[1]));
    let everything = collector.everything();
    for secret in ["770441", "confidential", "eyJ"] {
        assert!(!everything.contains(secret), "{secret} in {everything}");
    }
}

#[tokio::test]
async fn without_nats_a_trace_goes_on_within_the_process() {
    let collector = Collector::start();
    let server = Server::start(traced(&collector)).await;
    let mut stream = server.connect(USER).await;
    let request = Request::new("POST", "/api/v1/bus/fechatter.realtime.chat.880552")
        .bearer(&tokens::of_publisher(1))
        .header("traceparent", &traceparent("01"))
        .json(&chat_message(CHAT, "one"));
    assert_eq!(server.send(request).await.status, 202);
    stream.expect_message("one").await;
    let server = collector.one("POST /api/v1/bus/{subject}").await;
    let send = collector.one("send fechatter.realtime.>").await;
    assert_child(&send, &server);
    let whole = collector.one(&process()).await;
    assert_child(&whole, &send);
    assert_eq!(whole.get("messaging.system"), "in_process");
}

#[tokio::test]
async fn what_is_not_to_be_recorded_is_not_and_arrives_all_the_same() {
    let (nats, collector) = (Nats::start().await, Collector::start());
    // Of what nobody has decided, everything.
    let settings = traced(&collector)
        .nats(&nats)
        .set("tracing.sample_ratio", 1.0);
    let server = Server::start(settings).await;
    let backend = nats.backend().await;
    let mut stream = server.connect(USER).await;
    let subject = chat_subject(CHAT);
    let unsampled = traceparent("00");
    backend
        .publish_with(
            &subject,
            &[("traceparent", &unsampled)],
            &chat_message(CHAT, "0"),
        )
        .await;
    stream.expect_message("0").await;
    let malformed = [
        "garbage",
        "",
        "00-zz-yy-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ];
    for (number, parent) in (1..).zip(malformed) {
        let text = number.to_string();
        backend
            .publish_with(
                &subject,
                &[("traceparent", parent)],
                &chat_message(CHAT, &text),
            )
            .await;
        stream.expect_message(&text).await;
    }
    // One that others write as HTTP does.
    let canonical = [("Traceparent", &*traceparent("01"))];
    backend
        .publish_with(&subject, &canonical, &chat_message(CHAT, "last"))
        .await;
    stream.expect_message("last").await;
    let whole = collector.named(&process(), malformed.len() + 1).await;
    assert_eq!(whole.len(), malformed.len() + 1);
    let of_trace: Vec<bool> = whole.iter().map(|span| span.trace() == TRACE).collect();
    assert_eq!(of_trace, [false, false, false, false, true]);
    assert!(whole[..4].iter().all(|span| span.parent().is_empty()));
}

#[tokio::test]
async fn nothing_is_sent_by_default_and_publishers_headers_harm_nobody() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats).chat(CHAT, &[USER])).await;
    let mut stream = server.connect(USER).await;
    let parent = traceparent("01");
    nats.backend()
        .await
        .publish_with(
            &chat_subject(CHAT),
            &[("traceparent", &parent)],
            &chat_message(CHAT, "one"),
        )
        .await;
    stream.expect_message("one").await;
    assert_eq!(
        server.metric("notify_trace_spans_exported_total", "").await,
        0.0
    );
    assert_eq!(
        server.metric("notify_trace_spans_dropped_total", "").await,
        0.0
    );
}

#[tokio::test]
async fn what_is_no_event_is_traced_as_a_failure() {
    let (nats, collector) = (Nats::start().await, Collector::start());
    let server = Server::start(traced(&collector).nats(&nats)).await;
    let parent = traceparent("01");
    let wrong = json!({"TypingStarted": {"chat_id": CHAT}});
    nats.backend()
        .await
        .publish_with(&chat_subject(CHAT), &[("traceparent", &parent)], &wrong)
        .await;
    let whole = collector.one(&process()).await;
    assert_eq!(whole.get("error.type"), "malformed");
    assert_eq!(whole.wire().status.as_ref().unwrap().code, 2);
    let line = server
        .log_line(|line| line.message() == "event rejected")
        .await;
    assert_eq!(line.text("trace_id"), TRACE);
}

#[tokio::test]
async fn recipients_have_spans_only_when_they_are_asked_for_and_no_more_than_allowed() {
    let (nats, collector) = (Nats::start().await, Collector::start());
    let settings = traced(&collector)
        .nats(&nats)
        .set("tracing.per_recipient", true)
        .set("tracing.max_recipients", 2);
    let server = Server::start(settings).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(server.connect(USER).await);
    }
    let parent = traceparent("01");
    nats.backend()
        .await
        .publish_with(
            &chat_subject(CHAT),
            &[("traceparent", &parent)],
            &chat_message(CHAT, "one"),
        )
        .await;
    for stream in &mut streams {
        stream.expect_message("one").await;
    }
    let write = collector.one("write").await;
    assert_eq!(write.get("notify.sessions.written"), "3");
    let each = collector.named("write to session", 2).await;
    assert_eq!(each.len(), 2);
    for one in &each {
        assert_child(one, &write);
        assert_eq!(one.get("notify.connection.id").len(), 32);
    }
    assert!(!collector.everything().contains("770441"));
}

/// Publishes and has delivered so many sampled messages; how long the slowest took.
async fn deliver(nats: &Nats, server: &Server, count: u64) -> Duration {
    let backend = nats.backend().await;
    let mut stream = server.connect(USER).await;
    let parent = traceparent("01");
    let mut slowest = Duration::ZERO;
    for number in 0..count {
        let (text, began) = (number.to_string(), Instant::now());
        backend
            .publish_with(
                &chat_subject(CHAT),
                &[("traceparent", &parent)],
                &chat_message(CHAT, &text),
            )
            .await;
        stream.expect_message(&text).await;
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

#[tokio::test]
async fn a_collector_that_is_away_delays_nobody_and_what_it_misses_is_counted() {
    let (nats, port) = (Nats::start().await, free_port());
    let settings = Settings::new()
        .set("tracing.endpoint", format!("http://127.0.0.1:{port}"))
        .set("tracing.headers", json!(["authorization=Bearer s3cret"]))
        .set("tracing.interval", "100ms")
        .set("tracing.timeout", "1s")
        .nats(&nats)
        .chat(CHAT, &[USER]);
    let server = Server::start(settings).await;
    assert!(deliver(&nats, &server, 3).await < Duration::from_secs(1));
    let dropped = "notify_trace_spans_dropped_total";
    crate::support::eventually("spans to be given up", || async {
        (server.metric(dropped, "unreachable").await >= 12.0).then_some(())
    })
    .await;
    let line = server
        .log_line(|line| line.message() == "traces can't be sent")
        .await;
    assert_eq!(line.level(), "WARN");
    // It comes.
    let collector = Collector::start_at(port);
    deliver(&nats, &server, 1).await;
    collector.one(&process()).await;
    server
        .log_line(|line| line.message() == "traces are taken again")
        .await;
    let log = server.stop().await;
    assert!(!log.contains("s3cret"), "{log}");
}

#[tokio::test]
async fn a_collector_that_is_silent_fills_the_queue_and_delays_nobody() {
    let (nats, collector) = (Nats::start().await, Collector::start());
    collector.behave(Manner::Silent);
    let settings = traced(&collector)
        .nats(&nats)
        .set("tracing.queue", 8)
        .set("tracing.timeout", "20s");
    let server = Server::start(settings).await;
    assert!(deliver(&nats, &server, 3).await < Duration::from_secs(1));
    // The task is busy with the first of them, and requests have spans of their own.
    let requests = (0..40).map(|_| {
        let request = Request::get("/online-users?chat_id=1")
            .bearer(&tokens::of_user(USER))
            .header("traceparent", &traceparent("01"));
        server.send(request)
    });
    futures_util::future::join_all(requests).await;
    crate::support::eventually("spans to be dropped", || async {
        let dropped = server
            .metric("notify_trace_spans_dropped_total", "queue")
            .await;
        (dropped >= 1.0).then_some(())
    })
    .await;
    // Nor is the stop held up.
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn what_a_collector_answers_is_heeded() {
    let (nats, collector) = (Nats::start().await, Collector::start());
    let server = Server::start(traced(&collector).nats(&nats)).await;
    let dropped = "notify_trace_spans_dropped_total";
    collector.behave(Manner::Status("400 Bad Request"));
    deliver(&nats, &server, 1).await;
    server.metric_becomes(dropped, "refused", 4.0).await;
    // It is only busy: the same spans are sent again.
    collector.behave(Manner::Status("503 Service Unavailable"));
    deliver(&nats, &server, 1).await;
    collector.behave(Manner::Good);
    collector.one(&process()).await;
    assert_eq!(server.metric(dropped, "refused").await, 4.0);
    assert_eq!(server.metric(dropped, "unreachable").await, 0.0);
}

/// A clock can't hold what it asks for.
#[tokio::test]
async fn a_collector_can_ask_for_any_time() {
    let (nats, collector) = (Nats::start().await, Collector::start());
    let server = Server::start(traced(&collector).nats(&nats)).await;
    collector.behave(Manner::Status(
        "503 Service Unavailable\r\nretry-after: 18446744073709551615",
    ));
    deliver(&nats, &server, 1).await;
    let dropped = "notify_trace_spans_dropped_total";
    server.metric_becomes(dropped, "unreachable", 4.0).await;
    collector.behave(Manner::Good);
    deliver(&nats, &server, 1).await;
    collector.one(&process()).await;
}

#[tokio::test]
async fn a_stop_sends_what_waits() {
    let (nats, collector) = (Nats::start().await, Collector::start());
    let settings = traced(&collector).nats(&nats).set("tracing.interval", "1h");
    let server = Server::start(settings).await;
    deliver(&nats, &server, 1).await;
    server.stop().await;
    assert_eq!(collector.named(&process(), 1).await.len(), 1);
}

#[tokio::test]
async fn the_standard_variables_are_understood() {
    let collector = Collector::start();
    let headers = "authorization=Bearer%20s3cret,x-tenant=blue";
    let settings = Settings::new()
        .environment(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &format!("{}/otlp", collector.url()),
        )
        .environment("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .environment("OTEL_EXPORTER_OTLP_HEADERS", headers)
        .environment("OTEL_BSP_SCHEDULE_DELAY", "100")
        .environment("OTEL_SERVICE_NAME", "push")
        .environment(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test,team=a%2Cb",
        )
        .environment("OTEL_TRACES_SAMPLER", "parentbased_always_on")
        .chat(CHAT, &[USER]);
    let server = Server::start(settings.clone()).await;
    let request = Request::new("POST", "/api/v1/bus/fechatter.realtime.chat.1")
        .bearer(&tokens::of_publisher(1))
        .json(&payload::chat_message(1, "one"));
    assert_eq!(server.send(request).await.status, 202);
    let span = collector.one(&process()).await;
    assert_eq!(span.resource("service.name"), "push");
    assert_eq!(span.resource("deployment.environment.name"), "test");
    assert_eq!(span.resource("team"), "a,b");
    let request = collector.requests().remove(0);
    assert_eq!(request.path, "/otlp/v1/traces");
    let header = |name: &str| {
        let found = request.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(header("authorization"), Some("Bearer s3cret"));
    assert_eq!(header("x-tenant"), Some("blue"));
    assert_eq!(header("content-type"), Some("application/x-protobuf"));
    assert!(!server.stop().await.contains("s3cret"));
    let off = settings.environment("OTEL_SDK_DISABLED", "true");
    let outcome = off.run(&["check-config"]).await;
    assert!(
        outcome.stdout.contains("endpoint: null"),
        "{}",
        outcome.stdout
    );
    assert!(!outcome.stdout.contains("s3cret"), "{}", outcome.stdout);
}

#[tokio::test]
async fn headers_can_stand_in_a_file() {
    let collector = Collector::start();
    let settings = traced(&collector)
        .set("tracing.headers_file", "headers")
        .set("tracing.headers", json!(["x-tenant=blue"]));
    std::fs::write(
        settings.directory().join("headers"),
        "\nauthorization = Bearer s3cret\n\n",
    )
    .unwrap();
    let server = Server::start(settings).await;
    let request = Request::get("/online-users?chat_id=1")
        .bearer(&tokens::of_user(USER))
        .header("traceparent", &traceparent("01"));
    server.send(request).await;
    collector.one("GET /online-users").await;
    let headers = collector.requests().remove(0).headers;
    for (name, value) in [("authorization", "Bearer s3cret"), ("x-tenant", "blue")] {
        assert!(
            headers.contains(&(name.to_owned(), value.to_owned())),
            "{name}"
        );
    }
}

#[tokio::test]
async fn wrong_settings_are_refused_without_showing_secrets() {
    let wrong = [
        (
            "endpoint",
            json!("grpc://s3cret@c:4317"),
            "http://host:4318",
        ),
        ("protocol", json!("grpc"), "http/protobuf"),
        ("headers", json!(["s3cret"]), "header 1"),
        ("headers_file", json!("nowhere"), "can't be read"),
        ("sample_ratio", json!(1.5), "from 0 to 1"),
        ("resource_attributes", json!(["a=b", "c"]), "attribute 2"),
        ("queue", json!(0), "at least 1"),
        ("max_recipients", json!(5000), "at most 1000"),
    ];
    for (key, value, says) in wrong {
        let key = format!("tracing.{key}");
        let outcome = Settings::new()
            .set(&key, value)
            .run(&["check-config"])
            .await;
        assert_eq!(outcome.code, Some(2), "{key}");
        let said = outcome.stderr;
        assert!(said.contains(&key) && said.contains(says), "{key}: {said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
    let sampler = Settings::new().environment("OTEL_TRACES_SAMPLER", "always_on");
    let outcome = sampler.run(&["check-config"]).await;
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome.stderr.contains("parentbased_always_on"),
        "{}",
        outcome.stderr
    );
}
