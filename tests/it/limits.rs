//! How many streams there may be, how large requests may be, what those beyond are told, and that it disturbs nobody
//! who is there.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::payload::{self, chat_message, chat_subject};
use crate::support::{EventStream, Nats, Request, Response, Server, Settings, eventually, tokens};

async fn refused(response: Response, status: u16) {
    let retry: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=12).contains(&retry), "{retry}");
    problem(response, status).await;
}

async fn problem(mut response: Response, status: u16) -> Value {
    assert_eq!(response.status, status);
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json")
    );
    let problem = response.json().await;
    assert_eq!(problem["status"], status);
    problem
}

/// Publishes to a user who listens, which gets there.
async fn is_alive(server: &Server, stream: &mut EventStream, user: i64) {
    let message = json!({"type": "t", "target": {"user_id": user}, "data": {}});
    let request = Request::new("POST", "/api/v1/messages/send")
        .bearer(&tokens::of_publisher(9))
        .json(&message);
    assert_eq!(server.send(request).await.status, 202);
    stream.expect_type("t").await;
}

/// Opens streams of users from 100 on until one is refused.
async fn until_refused(server: &Server) -> (Vec<Response>, Response) {
    let mut open = Vec::new();
    for user in 100..200 {
        let response = server.events(&tokens::of_user(user)).await;
        if response.status != 200 {
            return (open, response);
        }
        open.push(response);
    }
    panic!("nobody was refused");
}

async fn is_let_in(server: &Server, user: i64) {
    eventually("a place to become free", || async {
        let response = server.events(&tokens::of_user(user)).await;
        (response.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn streams_beyond_the_total_are_refused_until_one_ends() {
    let server = Server::start(Settings::new().set("server.max_connections", 2)).await;
    let first = server.connect(1).await;
    let _second = server.connect(2).await;
    refused(server.events(&tokens::of_user(3)).await, 503).await;
    assert_eq!(server.limited("connections").await, 1.0);
    // Who asks how the server is must get an answer all the same.
    assert_eq!(server.get("/live").await.status, 200);
    drop(first);
    is_let_in(&server, 3).await;
}

#[tokio::test]
async fn streams_beyond_a_users_share_are_refused_and_nobody_elses() {
    let settings = Settings::new().set("server.max_connections_per_user", 2);
    let server = Server::start(settings).await;
    let first = server.connect(1).await;
    let _second = server.connect("1").await;
    refused(server.events(&tokens::of_user(1)).await, 429).await;
    assert_eq!(server.limited("user_connections").await, 1.0);
    let _other = server.connect(2).await;
    drop(first);
    is_let_in(&server, 1).await;
}

/// While the kernel makes the table larger, a thread that takes a connection delivers nothing.
#[tokio::test]
async fn the_table_of_open_files_has_room_for_all_streams_before_they_come() {
    let server = Server::start(Settings::new().set("server.max_connections", 3_000)).await;
    let most = server.metric("process_max_fds", "").await as usize;
    assert!(server.places_for_files() >= most.min(3_256));
    let more = server
        .settings()
        .clone()
        .set("server.max_connections", 6_000);
    server.reload_with(&more).await;
    assert!(server.places_for_files() >= most.min(6_256));
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed() {
    let server = Server::start(Settings::new()).await;
    let stream = server.connect(1).await;
    assert_eq!(server.metric("notify_connections", "").await, 1.0);
    drop(stream);
    server.metric_becomes("notify_connections", "", 0.0).await;
    let gone = server
        .log_line(|line| line.message() == "disconnected")
        .await;
    assert_eq!(gone.text("reason"), "client_gone");
}

#[tokio::test]
async fn streams_beyond_an_addresss_share_are_refused_and_nobody_elses() {
    let settings = Settings::new().set("server.max_connections_per_address", 2);
    let server = Server::start(settings).await;
    let mut first = server.connect(1).await;
    let second = server.connect(2).await;
    refused(server.events(&tokens::of_user(3)).await, 429).await;
    assert_eq!(server.limited("address_connections").await, 1.0);
    let refused_by = "reason=\"address_full\"";
    let metric = "notify_connections_refused_total";
    assert_eq!(server.metric(metric, refused_by).await, 1.0);
    let line = server.limit_line("address_connections").await;
    assert_eq!(line.text("address"), "127.0.0.1");
    let elsewhere = Request::get("/events")
        .bearer(&tokens::of_user(3))
        .from("127.0.0.2");
    assert_eq!(server.send(elsewhere).await.status, 200);
    is_alive(&server, &mut first, 1).await;
    drop(second);
    is_let_in(&server, 3).await;
}

#[tokio::test]
async fn newcomers_beyond_the_rate_are_refused_for_a_moment_and_the_log_is_not_filled() {
    let server = Server::start(Settings::new().set("server.connection_rate", 1)).await;
    let mut first = server.connect(1).await;
    let begin = Instant::now();
    let (_open, response) = until_refused(&server).await;
    refused(response, 503).await;
    let mut times = server.limited("connection_rate").await;
    assert_eq!(times, 1.0);
    while times < 50.0 {
        let (_open, response) = until_refused(&server).await;
        refused(response, 503).await;
        times += 1.0;
    }
    assert_eq!(server.limited("connection_rate").await, times);
    is_alive(&server, &mut first, 1).await;
    is_let_in(&server, 3).await;
    let about = |line: &&crate::support::LogLine| line.message() == "a limit was met";
    let lines = server.log().iter().filter(about).count();
    // A line in ten seconds, however long it took here.
    let most = begin.elapsed().as_secs() / 10 + 1;
    assert!((1..=most).contains(&(lines as u64)), "{lines}");
}

#[tokio::test]
async fn newcomers_of_an_address_beyond_its_rate_are_refused_and_nobody_elses() {
    let settings = Settings::new().set("server.connection_rate_per_address", 1);
    let server = Server::start(settings).await;
    let mut first = server.connect(1).await;
    let (_open, response) = until_refused(&server).await;
    refused(response, 429).await;
    assert_eq!(server.limited("address_connection_rate").await, 1.0);
    let elsewhere = Request::get("/events")
        .bearer(&tokens::of_user(2))
        .from("127.0.0.2");
    assert_eq!(server.send(elsewhere).await.status, 200);
    is_alive(&server, &mut first, 1).await;
    is_let_in(&server, 3).await;
}

#[tokio::test]
async fn requests_that_are_too_large_are_refused_with_what_would_be_right() {
    let server = Server::start(Settings::new().set("server.publish_burst", 3)).await;
    let mut living = server.connect(1).await;
    let user = tokens::of_user(1);
    let get = |target: &str| Request::get(target).bearer(&user);
    let post = |body: String| {
        let request = Request::new("POST", "/api/v1/messages/send");
        request.bearer(&tokens::of_publisher(2)).body(body)
    };
    let long = format!("/live?x={}", "x".repeat(16 * 1024));
    let many: Vec<String> = (0..101).map(|number| format!("job:{number}")).collect();
    let payload = |size| json!({"type": "t", "channel": "job:1", "data": "x".repeat(size)});
    let reader = tokens::Token::of(1).claim("notify", json!({"subscribe": ["*"]}));
    let channels = Request::get(&format!("/sse/stream/{}", many.join(",")))
        .bearer(&reader.sign_hs256(tokens::SECRET));
    let cases = [
        (get(&long), 414, "uri", "16384"),
        (
            get("/live").header("x-long", &"x".repeat(33 * 1024)),
            431,
            "headers",
            "32768",
        ),
        (channels, 422, "channels", "up to 100"),
        (post("x".repeat((1 << 20) + 1)), 413, "body", "1048576"),
        (
            post(payload(300 * 1024).to_string()),
            413,
            "payload",
            "262144",
        ),
    ];
    for (request, status, limit, says) in cases {
        let problem = problem(server.send(request).await, status).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{limit}: {detail}");
        assert_eq!(server.limited(limit).await, 1.0, "{limit}");
        server.limit_line(limit).await;
    }
    // What is just within is served.
    let within = format!("/live?x={}", "x".repeat(16 * 1024 - 8));
    assert_eq!(server.send(get(&within)).await.status, 200);
    // More than the HTTP library takes, which answers by itself.
    let huge = get("/live").header("x-long", &"x".repeat(140 * 1024));
    if let Ok(response) = huge.try_send(server.address()).await {
        assert_eq!(response.status, 431);
    }
    eventually("it to be counted", || async {
        (server.limited("headers").await == 2.0).then_some(())
    })
    .await;
    is_alive(&server, &mut living, 1).await;
}

#[tokio::test]
async fn who_publishes_too_much_is_told_when_to_go_on() {
    let settings = Settings::new()
        .set("server.publish_rate", 1)
        .set("server.publish_burst", 2);
    let server = Server::start(settings).await;
    let publish = || {
        let request = Request::new("POST", "/api/v1/messages/send");
        let message = json!({"type": "t", "channel": "job:1", "data": {}});
        server.send(request.bearer(&tokens::of_publisher(2)).json(&message))
    };
    let response = eventually("a refusal", || async {
        let response = publish().await;
        (response.status != 202).then_some(response)
    })
    .await;
    refused(response, 429).await;
    assert_eq!(server.limited("publish_rate").await, 1.0);
    eventually("to be let through", || async {
        (publish().await.status == 202).then_some(())
    })
    .await;
}

/// A token speaks for one user, so that a user's rate is one for each token, and for all of them together.
#[tokio::test]
async fn a_second_token_of_a_user_is_no_second_rate() {
    let settings = Settings::new()
        .set("server.publish_rate", 1)
        .set("server.publish_burst", 2);
    let server = Server::start(settings).await;
    let publish = |user: i64, name: &str| {
        let token = tokens::Token::of(user)
            .claim("jti", name)
            .claim("notify", json!({"publish": ["*"]}))
            .sign_hs256(tokens::SECRET);
        let request = Request::new("POST", "/api/v1/messages/send").bearer(&token);
        let message = json!({"type": "t", "channel": "job:1", "data": {}});
        let (request, server) = (request.json(&message), &server);
        async move { server.send(request).await }
    };
    let begin = Instant::now();
    let mut taken = 0;
    let response = loop {
        let response = publish(2, &format!("token {taken}")).await;
        match response.status {
            202 => taken += 1,
            _ => break response,
        }
    };
    refused(response, 429).await;
    // The two at once, and one for each second that this took.
    let most = 2 + begin.elapsed().as_secs() + 1;
    assert!((2..=most).contains(&taken), "{taken}");
    assert_eq!(publish(3, "token 0").await.status, 202);
}

/// Shows a bad token from where `request` comes until it is one too many; each before is told what is wrong.
async fn until_too_many(server: &Server, request: impl Fn() -> Request) -> Response {
    loop {
        let response = server.send(request().bearer("not-a-token")).await;
        match response.status {
            401 => assert!(response.header("www-authenticate").is_some()),
            _ => return response,
        }
    }
}

#[tokio::test]
async fn bad_tokens_of_an_address_are_slowed_down_and_good_ones_let_in() {
    let settings = Settings::new().set("server.bad_token_rate_per_address", 1);
    let server = Server::start(settings).await;
    let mut living = server.connect(1).await;
    let here = || Request::get("/events");
    for _ in 0..5 {
        let response = until_too_many(&server, here).await;
        let retry: u64 = response.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=10).contains(&retry), "{retry}");
        let says = problem(response, 429).await["detail"].to_string();
        assert!(says.contains("too many bad tokens come from this address"));
        assert!(says.contains("three parts"), "{says}");
        // Those behind the same address: with a good token, and with one that was good.
        is_let_in(&server, 3).await;
        let expired = tokens::Token::of(4).expires_in(-600);
        let expired = expired.sign_hs256(tokens::SECRET);
        assert_eq!(server.events(&expired).await.status, 401);
        // Or may have been, before the key was changed.
        let forged = tokens::Token::of(1).sign_hs256("somebody else's secret of some length");
        assert_eq!(server.events(&forged).await.status, 401);
        assert_eq!(server.get("/events").await.status, 401);
    }
    assert_eq!(server.limited("bad_tokens").await, 5.0);
    let line = server.limit_line("bad_tokens").await;
    assert_eq!(line.text("address"), "127.0.0.1");
    let elsewhere = here().bearer("not-a-token").from("127.0.0.2");
    assert_eq!(server.send(elsewhere).await.status, 401);
    is_alive(&server, &mut living, 1).await;
    // Without a limit there is none.
    let settings = server.settings().clone();
    server
        .reload_with(&settings.set("server.bad_token_rate_per_address", 0))
        .await;
    for _ in 0..10 {
        assert_eq!(server.events("not-a-token").await.status, 401);
    }
}

#[tokio::test]
async fn bad_tokens_count_for_whom_a_trusted_proxy_speaks() {
    let settings = Settings::new()
        .set("server.bad_token_rate_per_address", 1)
        .set("server.trusted_proxies", json!(["127.0.0.1"]));
    let server = Server::start(settings).await;
    let of =
        |client: &'static str| move || Request::get("/events").header("x-forwarded-for", client);
    let response = until_too_many(&server, of("192.0.2.1")).await;
    refused(response, 429).await;
    let line = server.limit_line("bad_tokens").await;
    assert_eq!(line.text("address"), "192.0.2.1");
    let other = of("192.0.2.2")().bearer("not-a-token");
    assert_eq!(server.send(other).await.status, 401);
    // Behind the proxy itself there may be anybody.
    for _ in 0..10 {
        assert_eq!(server.events("not-a-token").await.status, 401);
    }
}

#[tokio::test]
async fn when_memory_is_short_newcomers_are_refused_and_only_what_matters_is_delivered() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let settings = || {
        Settings::new()
            .nats(&nats)
            .chat(5, &[1, 2])
            // What is freed is given back at once, so that the end of it can be seen.
            .environment("MALLOC_MMAP_THRESHOLD_", "65536")
            .set("history.max_events", 1)
            .set("stream.outbox_bytes", "1 GiB")
            .set("stream.outbox_events", 1_000_000)
            .set("stream.write_timeout", "10m")
    };
    let idle = Server::start(settings()).await.resident_bytes();
    let limit = idle + 32 * 1024 * 1024;
    let server = Server::start(settings().set("server.memory_limit", limit)).await;
    let limit_metric = server.metric("notify_memory_limit_bytes", "").await;
    assert_eq!(limit_metric, limit as f64);
    let request = Request::get("/events")
        .bearer(&tokens::of_user(1))
        .receive_buffer(4096);
    let stalled = server.send(request).await;
    let mut reader = server.connect(2).await;
    let typing = payload::event("typing_started", 5, 1);
    backend.publish(&chat_subject(5), &typing).await;
    reader.expect_type("typing_started").await;
    // What the stalled one does not take stays in memory.
    let content = "x".repeat(200 * 1024);
    let mut sent = 0;
    while server.metric("notify_memory_short", "").await == 0.0 {
        assert!(sent < 1_000, "memory never became short");
        let message = chat_message(5, &content);
        backend.publish(&chat_subject(5), &message).await;
        reader.expect_message(&content).await;
        sent += 1;
    }
    server
        .log_line(|line| line.message().starts_with("memory is short"))
        .await;
    refused(server.events(&tokens::of_user(3)).await, 503).await;
    assert_eq!(server.limited("memory").await, 1.0);
    let ready = server.not_ready().await;
    assert!(ready.contains("memory: "), "{ready}");
    // Typing is left out, and what is behind it comes.
    backend.publish(&chat_subject(5), &typing).await;
    backend
        .publish(&chat_subject(5), &chat_message(5, "it matters"))
        .await;
    reader.expect_message("it matters").await;
    assert!(server.metric("notify_events_shed_total", "").await >= 1.0);
    drop(stalled);
    server.metric_becomes("notify_memory_short", "", 0.0).await;
    server.ready().await;
    is_let_in(&server, 3).await;
    backend.publish(&chat_subject(5), &typing).await;
    reader.expect_type("typing_started").await;
}
