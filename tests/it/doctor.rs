//! `notify-server doctor`: green where all is well, and the right name for everything that is not.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::tokens::Token;
use crate::support::web_proxy::Kind;
use crate::support::{
    Nats, Outcome, Server, Settings, WebProxy, free_port, tokens, write_certificates,
};

const ORIGIN: &str = "https://app.example.com";

/// A server that pings often, so that a short look at a quiet stream sees it.
fn settings() -> Settings {
    Settings::new()
        .set("stream.ping_interval", "1s")
        .set("server.allowed_origins", json!([ORIGIN]))
        .chat(5, &[2])
}

/// Runs the doctor with a quiet stream of three seconds.
async fn doctor(url: &str, token: &str, more: &[&str]) -> Outcome {
    let arguments = [
        "doctor",
        url,
        "--token",
        token,
        "--idle",
        "3s",
        "--timeout",
        "4s",
    ];
    let outcome = Settings::new().run(&[&arguments[..], more].concat()).await;
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(!said.contains(token), "the token is printed");
    outcome
}

/// The findings by name.
struct Findings(Value);

impl Findings {
    fn read(outcome: &Outcome) -> Self {
        Self(serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {outcome:?}")))
    }

    fn of(&self, check: &str) -> &Value {
        let checks = self.0["checks"].as_array().unwrap();
        checks.iter().find(|found| found["check"] == check).unwrap()
    }

    #[track_caller]
    fn expect(&self, check: &str, status: &str, detail: &str) {
        let found = self.of(check);
        assert_eq!(found["status"], status, "{}", self.0);
        let text = found["detail"].as_str().unwrap();
        assert!(text.contains(detail), "{found}");
        let told_what_to_do = found["advice"].is_string();
        assert_eq!(
            told_what_to_do,
            matches!(status, "problem" | "warning"),
            "{found}"
        );
    }

    /// Nothing but these is red.
    #[track_caller]
    fn expect_problems(&self, expected: &[&str]) {
        let checks = self.0["checks"].as_array().unwrap();
        let red = checks.iter().filter(|found| found["status"] == "problem");
        let red: Vec<&str> = red.map(|found| found["check"].as_str().unwrap()).collect();
        assert_eq!(red, expected, "{:#}", self.0);
    }
}

const EVERYTHING: [&str; 5] = ["--publish", "--query-token", "--origin", ORIGIN, "--json"];

#[tokio::test]
async fn a_good_server_is_green() {
    let server = Server::start(settings()).await;
    let outcome = doctor(&server.url(), &tokens::of_publisher(2), &EVERYTHING).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let findings = Findings::read(&outcome);
    assert_eq!(findings.0["result"], "ok");
    for found in findings.0["checks"].as_array().unwrap() {
        assert_eq!(found["status"], "ok", "{found}");
    }
    findings.expect("confirmation", "ok", "user 2, 1 chats, pings every 1 s");
    // As a table, and with what was not asked for left out.
    let outcome = doctor(&server.url(), &tokens::of_user(2), &[]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stdout.contains("ok       buffering     5 events"),
        "{outcome:?}"
    );
    assert!(
        outcome
            .stdout
            .contains("-        publish       not asked for"),
        "{outcome:?}"
    );
    assert!(
        outcome.stdout.ends_with("no problems, no warnings"),
        "{outcome:?}"
    );
}

async fn through(kind: Kind) {
    let server = Server::start(settings()).await;
    let proxy = WebProxy::start(kind, &[server.address()]).await;
    let authority = proxy.authority();
    let more = [&EVERYTHING[..], &["--ca-file", &authority]].concat();
    let outcome = doctor(&proxy.url(), &tokens::of_publisher(2), &more).await;
    let findings = Findings::read(&outcome);
    assert_eq!(outcome.code, Some(0), "{:#}", findings.0);
    assert_eq!(findings.0["result"], "ok", "{:#}", findings.0);
    findings.expect("protocol", "ok", "HTTP/2");
    findings.expect("reachable", "ok", "TLS");
}

#[tokio::test]
async fn the_shipped_nginx_is_green() {
    through(Kind::Nginx).await;
}

#[tokio::test]
async fn the_shipped_caddy_is_green() {
    through(Kind::Caddy).await;
}

#[tokio::test]
async fn a_bad_nginx_is_told_each_of_its_mistakes() {
    let settings = settings().set("stream.ping_interval", "30s");
    let server = Server::start(settings).await;
    let changes = [
        (
            "proxy_buffering off;",
            "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;",
        ),
        (
            "proxy_cache off;",
            "proxy_cache off; proxy_set_header Cookie \"\"; add_header Access-Control-Allow-Origin *;",
        ),
        (
            "gzip off;",
            "gzip on; gzip_proxied any; gzip_min_length 1; gzip_types text/event-stream;",
        ),
        ("proxy_read_timeout 90s;", "proxy_read_timeout 2s;"),
    ];
    let proxy = WebProxy::start_with(Kind::Nginx, &[server.address()], &changes).await;
    let more = [
        "--json",
        "--origin",
        ORIGIN,
        "--ca-file",
        &proxy.authority(),
    ];
    let outcome = doctor(&proxy.url(), &tokens::of_user(2), &more).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let findings = Findings::read(&outcome);
    findings.expect(
        "compression",
        "problem",
        "compressed (gzip) and arrives within",
    );
    findings.expect("idle", "problem", "cut off after 2");
    findings.expect("poll", "problem", "504");
    findings.expect("cors", "problem", "twice");
    findings.expect("cookies", "warning", "does not get through (401)");
    findings.expect("token", "ok", "accepted");
}

#[tokio::test]
async fn a_proxy_that_collects_streams_is_noticed() {
    let server = Server::start(settings()).await;
    let url = format!("http://{}", collecting_proxy(server.address()).await);
    let findings = Findings::read(&doctor(&url, &tokens::of_user(2), &["--json"]).await);
    findings.expect("first_byte", "problem", "no answer within 4s");
    findings.expect("buffering", "problem", "held back for 4");
    findings.expect("poll", "ok", "an answer");
    findings.expect("ticket", "problem", "does not open");
    findings.expect_problems(&["first_byte", "buffering", "ticket"]);
}

/// A proxy that passes an answer on when it has all of it.
async fn collecting_proxy(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let client = listener.accept().await.unwrap().0;
            // A client that goes away ends its own exchange only.
            tokio::spawn(async move { collect(client, server).await.ok() });
        }
    });
    address
}

async fn collect(mut client: TcpStream, server: SocketAddr) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"connection: close\r\n\r\n");
    let mut upstream = TcpStream::connect(server).await?;
    upstream.write_all(&head).await?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer).await?;
    client.write_all(&answer).await
}

#[tokio::test]
async fn http_1_1_over_tls_is_warned_about() {
    let server = Server::start(settings()).await;
    let plain = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let listen = format!("listen {plain} ssl; listen 443 ssl http2;");
    let changes = [("listen 443 ssl http2;", listen.as_str())];
    let proxy = WebProxy::start_with(Kind::Nginx, &[server.address()], &changes).await;
    let url = format!("https://{plain}");
    let more = ["--json", "--ca-file", &proxy.authority()];
    let findings = Findings::read(&doctor(&url, &tokens::of_user(2), &more).await);
    // In nginx 1.22 a port speaks HTTP/2 or not by itself.
    findings.expect(
        "protocol",
        "warning",
        "HTTP/1.1: over HTTP/1.1 a browser has six connections",
    );
}

#[tokio::test]
async fn a_header_that_is_taken_away_is_noticed() {
    let server = Server::start(settings()).await;
    let changes = [(
        "proxy_cache off;",
        "proxy_cache off; proxy_set_header Authorization \"\";",
    )];
    let proxy = WebProxy::start_with(Kind::Nginx, &[server.address()], &changes).await;
    let url = format!("http://{}", proxy.address());
    let findings = Findings::read(&doctor(&url, &tokens::of_user(2), &["--json"]).await);
    findings.expect_problems(&["token"]);
    let advice = findings.of("token")["advice"].as_str().unwrap();
    assert!(advice.contains("takes away"), "{advice}");
    findings.expect("idle", "skipped", "not possible");
}

#[tokio::test]
async fn tokens_are_judged() {
    let server =
        Server::start(settings().set("auth.issuer", json!(["https://id.example.com"]))).await;
    let good = || Token::of(2).claim("iss", "https://id.example.com");
    for (token, detail) in [
        (good().expires_in(-7200), "it expired 2h"),
        (
            good().claim("iss", "https://other.example.com"),
            "https://other.example.com",
        ),
        (
            good().claim("nbf", tokens::now() + 3600),
            "it is good from ",
        ),
    ] {
        let token = token.sign_hs256(tokens::SECRET);
        let outcome = doctor(&server.url(), &token, &["--json"]).await;
        assert_eq!(outcome.code, Some(1));
        let findings = Findings::read(&outcome);
        findings.expect_problems(&["token"]);
        findings.expect("token", "problem", detail);
    }
    let outcome = doctor(&server.url(), "not-a-token-at-all", &["--json"]).await;
    Findings::read(&outcome).expect("token", "problem", "not a JWT");
}

#[tokio::test]
async fn publishing_takes_the_right_to() {
    let server = Server::start(settings()).await;
    let outcome = doctor(&server.url(), &tokens::of_user(2), &["--publish", "--json"]).await;
    let findings = Findings::read(&outcome);
    findings.expect_problems(&["publish"]);
    findings.expect("publish", "problem", "notify.publish");
}

#[tokio::test]
async fn other_origins_may_not_read() {
    let server = Server::start(settings()).await;
    let more = ["--origin", "https://elsewhere.example.com", "--json"];
    let findings = Findings::read(&doctor(&server.url(), &tokens::of_user(2), &more).await);
    findings.expect_problems(&["cors"]);
}

#[tokio::test]
async fn what_can_not_be_reached_is_said_at_once() {
    let server = Server::start(settings()).await;
    let proxy = WebProxy::start(Kind::Nginx, &[server.address()]).await;
    let refused = format!("http://127.0.0.1:{}", free_port());
    // Without --ca-file nobody vouches for the certificate; and the port without TLS has none.
    let not_tls = format!("https://{}", proxy.address());
    for (url, advice) in [
        (refused.as_str(), "nothing listens there"),
        ("http://no-such-name.invalid", "check the name"),
        (&proxy.url(), "--ca-file"),
        (&not_tls, "does not speak TLS"),
    ] {
        let outcome = doctor(url, &tokens::of_user(2), &["--json"]).await;
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let findings = Findings::read(&outcome);
        findings.expect_problems(&["reachable"]);
        let given = findings.of("reachable")["advice"].as_str().unwrap();
        assert!(
            given.contains(advice),
            "{url}: {}",
            findings.of("reachable")
        );
    }
}

#[tokio::test]
async fn wrong_arguments_are_exit_code_2() {
    for arguments in [
        &["doctor", "http://localhost"][..],
        &["doctor", "localhost", "--token", "x"],
        &["doctor", "http://localhost?access_token=x", "--token", "x"],
        &["doctor", "http://localhost", "--token", " "],
        &["doctor", "http://localhost", "--token", "-"],
        &[
            "doctor",
            "http://localhost",
            "--token",
            "x",
            "--idle",
            "soon",
        ],
        &[
            "doctor",
            "http://localhost",
            "--token",
            "x",
            "--timeout",
            "0s",
        ],
        &[
            "doctor",
            "http://localhost",
            "--token",
            "x",
            "--origin",
            "app",
        ],
        &[
            "doctor",
            "http://localhost",
            "--token",
            "x",
            "--ca-file",
            "nothing.pem",
        ],
    ] {
        let outcome = Settings::new().run(arguments).await;
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {outcome:?}");
        assert_eq!(outcome.stdout, "");
    }
}

#[tokio::test]
async fn the_token_may_come_by_the_environment_or_standard_input() {
    let server = Server::start(settings()).await;
    let token = tokens::of_user(2);
    let url = server.url();
    let settings = Settings::new().environment("NOTIFY_TOKEN", &token);
    let outcome = settings.run(&["doctor", &url, "--idle", "2s"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let arguments = ["doctor", &url, "--token", "-", "--idle", "2s"];
    let mut child = Settings::new()
        .command(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{token}").unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait())
        .await
        .unwrap();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn an_authority_that_is_shown_as_a_servers_certificate_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    write_certificates(folder.path());
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let settings = settings()
        .set("tls.cert_file", file("ca.pem"))
        .set("tls.key_file", file("ca.key"));
    let server = Server::start_unready(settings).await;
    let url = server.url().replace("http://", "https://");
    let more = ["--json", "--ca-file", &file("ca.pem")];
    let outcome = doctor(&url, &tokens::of_user(2), &more).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let findings = Findings::read(&outcome);
    findings.expect_problems(&["reachable"]);
    let advice = findings.of("reachable")["advice"].to_string();
    assert!(
        advice.contains("the certificate of an authority") && advice.contains("CA:FALSE"),
        "{advice}"
    );
}

#[tokio::test]
async fn its_help_has_its_own_options_alone() {
    let outcome = Settings::new().run(&["doctor", "--help"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("--idle"), "{outcome:?}");
    for foreign in ["--nats", "--database", "--port", "--config", "--log-level"] {
        assert!(!outcome.stdout.contains(foreign), "{foreign}: {outcome:?}");
    }
    let outcome = Settings::new().run(&["listen", "--help"]).await;
    assert!(outcome.stdout.contains("--config"), "{outcome:?}");
}

#[tokio::test]
async fn a_server_that_takes_no_token_yet_says_why() {
    let nats = Nats::not_started();
    let server = Server::start_unready(settings().nats(&nats)).await;
    let outcome = doctor(&server.url(), &tokens::of_user(2), &["--json"]).await;
    let findings = Findings::read(&outcome);
    findings.expect_problems(&["health", "token"]);
    findings.expect("health", "problem", "which tokens are revoked");
    findings.expect(
        "token",
        "problem",
        "503: which tokens are revoked is not known yet",
    );
}
