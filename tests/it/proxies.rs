//! The proxy configurations in `deploy/proxy`, in the real nginx and the real Caddy: what a browser
//! behind them sees, and what they write down.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::payload::{self, chat_subject};
use crate::support::web_proxy::{Kind, shipped};
use crate::support::{
    EventStream, Nats, Process, Request, Server, Settings, WebProxy, free_port, tokens, within,
};

/// Every test of the list, once with each proxy.
macro_rules! with_each {
    ($($name:ident),* $(,)?) => {
        mod nginx {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Kind::Nginx).await;
            })*
        }
        mod caddy {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Kind::Caddy).await;
            })*
        }
    };
}

with_each!(
    events_arrive_one_by_one,
    a_client_that_leaves_is_let_go,
    clients_of_a_killed_instance_resume_on_the_next,
    pings_keep_a_quiet_stream_open,
    silence_beyond_the_read_timeout_ends_a_stream,
    curl_streams_over_http_2,
    two_hundred_streams_share_one_connection,
    tokens_are_not_written_down,
    instances_hear_who_asks,
    clients_are_told_apart_by_their_addresses,
    bodies_may_be_as_large_as_the_server_takes,
    metrics_stay_inside,
);

/// A server that sends nothing by itself for the length of a test.
async fn quiet_server() -> Server {
    let settings = Settings::new().set("stream.ping_interval", "10m");
    Server::start(settings.chat(5, &[2])).await
}

async fn publish(proxy: &WebProxy, content: &str) {
    let request = Request::new("POST", &format!("/api/v1/bus/{}", chat_subject(5)))
        .bearer(&tokens::of_publisher(1))
        .json(&payload::chat_message(5, content));
    assert_eq!(proxy.send(request).await.status, 202);
}

async fn events_arrive_one_by_one(kind: Kind) {
    let server = quiet_server().await;
    let proxy = WebProxy::start(kind, &[server.address()]).await;
    let request = Request::get("/events")
        .bearer(&tokens::of_user(2))
        .header("accept-encoding", "gzip, deflate, br");
    let response = proxy.send(request).await;
    assert_eq!(response.header("content-encoding"), None);
    assert_eq!(response.header("x-accel-buffering"), Some("no"));
    assert_eq!(
        response.header("cache-control"),
        Some("no-cache, no-transform")
    );
    // Nothing but these events is sent, so that each arrives by itself or never.
    let mut stream = EventStream::new(response);
    stream.expect_type("connection_confirmed").await;
    for content in ["first", "second", "third"] {
        publish(&proxy, content).await;
        stream.expect_message(content).await;
    }
    // And what was missed comes again, by the header.
    let request = Request::get("/events").bearer(&tokens::of_user(2));
    let last = stream.last_event_id().to_owned();
    publish(&proxy, "missed").await;
    stream.expect_message("missed").await;
    drop(stream);
    let response = proxy.send(request.header("last-event-id", &last)).await;
    let mut stream = EventStream::new(response);
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], true);
    stream.expect_message("missed").await;
}

async fn a_client_that_leaves_is_let_go(kind: Kind) {
    let server = quiet_server().await;
    let proxy = WebProxy::start(kind, &[server.address()]).await;
    let stream = proxy.connect(2).await;
    server.metric_becomes("notify_connections", "", 1.0).await;
    drop(stream);
    server.metric_becomes("notify_connections", "", 0.0).await;
}

async fn clients_of_a_killed_instance_resume_on_the_next(kind: Kind) {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let start = || async {
        let settings = Settings::new().nats(&nats).chat(5, &[2]);
        Server::start(settings.set("stream.ping_interval", "10m")).await
    };
    let mut servers = vec![start().await, start().await];
    let addresses: Vec<SocketAddr> = servers.iter().map(Server::address).collect();
    let proxy = WebProxy::start(kind, &addresses).await;
    let mut stream = proxy.connect(2).await;
    backend
        .publish(&chat_subject(5), &payload::chat_message(5, "before"))
        .await;
    stream.expect_message("before").await;
    let last = stream.last_event_id().to_owned();
    let serves = servers[0].metric("notify_connections", "").await == 1.0;
    let killed = servers.remove(usize::from(!serves));
    killed.process().signal("KILL");
    killed.process().exited().await;
    assert!(stream.next_if_any().await.is_none(), "the stream goes on");
    backend
        .publish(&chat_subject(5), &payload::chat_message(5, "meanwhile"))
        .await;
    // At once, and again: also while the proxy still believes that the instance is there.
    for _ in 0..4 {
        let request = Request::get("/events")
            .bearer(&tokens::of_user(2))
            .header("last-event-id", &last);
        let mut stream = EventStream::new(proxy.send(request).await);
        stream.expect_type("connection_confirmed").await;
        stream.expect_message("meanwhile").await;
    }
}

/// The shipped read timeout, and the same in seconds of a test.
fn read_timeout(kind: Kind, seconds: u64) -> (&'static str, String) {
    match kind {
        Kind::Nginx => (
            "proxy_read_timeout 90s;",
            format!("proxy_read_timeout {seconds}s;"),
        ),
        Kind::Caddy => ("read_timeout 90s", format!("read_timeout {seconds}s")),
    }
}

/// Three pings fit into the read timeout, as they do into the shipped one.
async fn pings_keep_a_quiet_stream_open(kind: Kind) {
    let server = Server::start(Settings::new().set("stream.ping_interval", "1s")).await;
    let (from, to) = read_timeout(kind, 3);
    let proxy = WebProxy::start_with(kind, &[server.address()], &[(from, &to)]).await;
    let mut stream = proxy.connect(2).await;
    for _ in 0..8 {
        stream.expect_ping().await;
    }
}

async fn silence_beyond_the_read_timeout_ends_a_stream(kind: Kind) {
    let server = quiet_server().await;
    let (from, to) = read_timeout(kind, 2);
    let proxy = WebProxy::start_with(kind, &[server.address()], &[(from, &to)]).await;
    let mut stream = proxy.connect(2).await;
    assert!(stream.next_if_any().await.is_none());
}

#[test]
fn the_read_timeout_is_three_pings_and_longer_than_a_poll() {
    let ping = crate::support::shipped_config();
    assert!(ping.contains("ping_interval: 30s"), "{ping}");
    for kind in [Kind::Nginx, Kind::Caddy] {
        let text = shipped(kind);
        assert_eq!(text.matches(read_timeout(kind, 0).0).count(), 1, "{kind:?}");
    }
}

async fn curl_streams_over_http_2(kind: Kind) {
    let server = quiet_server().await;
    let proxy = WebProxy::start(kind, &[server.address()]).await;
    let mut command = std::process::Command::new("curl");
    let token = format!("authorization: Bearer {}", tokens::of_user(2));
    command
        .args([
            "--http2",
            "--no-progress-meter",
            "-N",
            "-D",
            "-",
            "--cacert",
            &proxy.authority(),
        ])
        .args(["-H", &token, &format!("{}/events", proxy.url())]);
    let curl = Process::spawn("curl", &mut command);
    curl.stdout_line(|line| line == "HTTP/2 200").await;
    curl.stdout_line(|line| line.contains("connection_confirmed"))
        .await;
    publish(&proxy, "over h2").await;
    curl.stdout_line(|line| line.contains("over h2")).await;
}

async fn two_hundred_streams_share_one_connection(kind: Kind) {
    const STREAMS: i64 = 200;
    let members: Vec<i64> = (1..=STREAMS).collect();
    let settings = Settings::new()
        .set("stream.ping_interval", "10m")
        .chat(5, &members);
    let server = Server::start(settings).await;
    let proxy = WebProxy::start(kind, &[server.address()]).await;
    let authority = std::fs::read(proxy.authority()).unwrap();
    let authority = reqwest::Certificate::from_pem(&authority).unwrap();
    let browser = reqwest::Client::builder()
        .tls_certs_only([authority])
        .build()
        .unwrap();
    let mut streams = Vec::new();
    for user in members {
        let request = browser.get(format!("{}/events", proxy.url()));
        let response = request.bearer_auth(tokens::of_user(user)).send();
        let mut response = within("a stream", response).await.unwrap();
        assert_eq!(response.version(), reqwest::Version::HTTP_2);
        read_until(&mut response, "connection_confirmed").await;
        streams.push(response);
    }
    server.metric_becomes("notify_connections", "", 200.0).await;
    assert_eq!(connections_to(proxy.tls_port()), 1);
    publish(&proxy, "to all tabs").await;
    for stream in &mut streams {
        read_until(stream, "to all tabs").await;
    }
}

async fn read_until(response: &mut reqwest::Response, wanted: &str) {
    let mut text = String::new();
    while !text.contains(wanted) {
        let chunk = within(wanted, response.chunk()).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk.expect("the stream ended")));
    }
}

/// Established connections of this machine to a port.
fn connections_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1].ends_with(&local) && row[3] == "01")
        .count()
}

async fn tokens_are_not_written_down(kind: Kind) {
    let server = quiet_server().await;
    let proxy = WebProxy::start(kind, &[server.address()]).await;
    let token = tokens::of_user(2);
    let ticket = Request::new("POST", "/events/ticket").bearer(&token);
    let ticket = proxy.send(ticket).await.json().await["ticket"]
        .as_str()
        .unwrap()
        .to_owned();
    let requests = || {
        [
            Request::get("/events").bearer(&token),
            Request::get("/events").header("cookie", &format!("access_token={token}")),
            Request::get(&format!("/events?access_token={token}")),
            Request::get(&format!("/events?ticket={ticket}")),
            Request::get(&format!("/nothing?access_token={token}")).header(
                "referer",
                &format!("https://notify.example.com/?access_token={token}"),
            ),
        ]
    };
    for (request, status) in requests().into_iter().zip([200, 200, 200, 200, 404]) {
        assert_eq!(proxy.send(request).await.status, status);
    }
    // Also when there is something to complain about.
    server.process().signal("KILL");
    server.process().exited().await;
    for request in requests() {
        assert!(matches!(proxy.send(request).await.status, 502 | 503));
    }
    let written = proxy.stop().await;
    for path in ["/events", "/nothing"] {
        assert!(written.contains(path), "{path} is not logged:\n{written}");
    }
    assert!(!written.contains(&ticket), "the ticket is in the logs");
    let signature = token.rsplit('.').next().unwrap();
    assert!(!written.contains(signature), "the token is in the logs");
}

async fn instances_hear_who_asks(kind: Kind) {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = WebProxy::start(kind, &[upstream.local_addr().unwrap()]).await;
    let (heads, mut heard) = tokio::sync::mpsc::channel(1);
    let listening = tokio::spawn(async move {
        loop {
            let mut socket = upstream.accept().await.unwrap().0;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            socket.write_all(answer).await.unwrap();
            let head = String::from_utf8(head).unwrap();
            // Caddy also asks whether the instance is ready.
            if head.starts_with("GET /events") {
                heads.send(head).await.unwrap();
            }
        }
    });
    let request = Request::get("/events?x=%2C&y=1")
        .header("host", "notify.example.com")
        .header("x-forwarded-for", "203.0.113.9")
        .header("last-event-id", "1-2-abcd")
        .header("cookie", "access_token=x");
    assert_eq!(proxy.send(request).await.status, 200);
    let head = within("the request at the instance", heard.recv())
        .await
        .unwrap();
    listening.abort();
    assert!(
        head.starts_with("GET /events?x=%2C&y=1 HTTP/1.1\r\n"),
        "{head}"
    );
    let lower = head.to_ascii_lowercase();
    for line in [
        "host: notify.example.com",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: notify.example.com",
        "last-event-id: 1-2-abcd",
        "cookie: access_token=x",
    ] {
        assert!(
            lower.contains(&format!("\r\n{line}\r\n")),
            "{line} in {head}"
        );
    }
}

async fn clients_are_told_apart_by_their_addresses(kind: Kind) {
    let settings = Settings::new()
        .set("server.trusted_proxies", json!(["127.0.0.1"]))
        .set("server.max_connections_per_address", 1);
    let server = Server::start(settings).await;
    let proxy = WebProxy::start(kind, &[server.address()]).await;
    let open = |from: &str| {
        // What a client makes up does not get through.
        let request = Request::get("/events")
            .bearer(&tokens::of_user(2))
            .header("x-forwarded-for", "203.0.113.9")
            .from(from);
        proxy.send(request)
    };
    let _first = open("127.0.0.2").await;
    assert_eq!(open("127.0.0.2").await.status, 429);
    assert_eq!(open("127.0.0.3").await.status, 200);
    let line = server.limit_line("address_connections").await;
    assert_eq!(line.text("address"), "127.0.0.2");
}

async fn bodies_may_be_as_large_as_the_server_takes(kind: Kind) {
    const MIB: usize = 1024 * 1024;
    let server = quiet_server().await;
    let proxy = WebProxy::start(kind, &[server.address()]).await;
    let message = json!({"type": "t", "channel": "job:1", "data": {}}).to_string();
    let batch = json!({"messages": [{"type": "t", "channel": "job:1", "data": {}}]}).to_string();
    for (path, body, limit) in [
        ("/api/v1/messages/send", message, MIB),
        ("/api/v1/messages/batch", batch, 8 * MIB),
    ] {
        for (size, status) in [(limit, 202), (limit + 1, 413)] {
            let padded = format!("{body}{}", " ".repeat(size - body.len()));
            let request = Request::new("POST", path)
                .bearer(&tokens::of_publisher(1))
                .header("content-type", "application/json")
                .body(padded);
            assert_eq!(
                server.send(request.clone()).await.status,
                status,
                "{path} {size}"
            );
            match within("the answer", request.try_send(proxy.address())).await {
                Ok(answer) => assert_eq!(answer.status, status, "{path} {size}"),
                // Caddy passes the refusal on while the client still sends, and then hangs up, so
                // that this client may not get to read it.
                Err(error) => assert_eq!((kind, status), (Kind::Caddy, 413), "{path} {error}"),
            }
        }
    }
}

async fn metrics_stay_inside(kind: Kind) {
    let server = quiet_server().await;
    let proxy = WebProxy::start(kind, &[server.address()]).await;
    assert_eq!(proxy.send(Request::get("/metrics")).await.status, 404);
    assert_eq!(proxy.send(Request::get("/health")).await.status, 200);
}

#[tokio::test]
async fn without_any_instance_the_answer_comes_soon() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    for kind in [Kind::Nginx, Kind::Caddy] {
        let proxy = WebProxy::start(kind, &[nobody]).await;
        let request = Request::get("/events").bearer(&tokens::of_user(2));
        let answer = proxy.send(request);
        let answer = tokio::time::timeout(Duration::from_secs(15), answer)
            .await
            .unwrap();
        assert!(
            matches!(answer.status, 502 | 503),
            "{kind:?} {}",
            answer.status
        );
    }
}
