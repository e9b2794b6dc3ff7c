//! Requests that no well-behaved client sends, on a raw socket: lines and lengths that two readers could
//! understand differently, heads without measure, targets and methods of other worlds. Each has one answer
//! at most, none is a failure of the server, and nobody else notices.

use crate::support::{Answer, EventStream, LAST, Nats, Raw, Server, Settings, tokens};

/// A server with somebody on it who must not notice anything.
pub(super) struct Besieged {
    pub(super) server: Server,
    nats: Nats,
    witness: EventStream,
}

impl Besieged {
    pub(super) async fn start() -> Self {
        let nats = Nats::start().await;
        let server = Server::start(Settings::new().nats(&nats).chat(5, &[1])).await;
        let witness = server.connect(1).await;
        Self {
            server,
            nats,
            witness,
        }
    }

    /// Sends bytes and, behind them, a request that ends the connection; gives all answers.
    pub(super) async fn answers(&self, bytes: &[u8]) -> Vec<Answer> {
        let mut raw = Raw::connect(self.server.address()).await;
        raw.send(&[bytes, LAST].concat()).await.answers().await
    }

    /// The connection is ended behind one refusal: what follows can't be told from what was refused.
    pub(super) async fn refuses(&self, what: &str, bytes: &[u8], statuses: &[u16]) {
        let answers = self.answers(bytes).await;
        let [answer] = &answers[..] else {
            panic!("{what}: not one answer but {answers:#?}");
        };
        assert!(statuses.contains(&answer.status), "{what}: {answer:#?}");
    }

    /// The same, or only the request is refused and the next one is answered, where its end was found.
    async fn refuses_at_least(&self, what: &str, bytes: &[u8], statuses: &[u16]) {
        let answers = self.answers(bytes).await;
        let all: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert!(matches!(all[..], [_] | [_, 200]), "{what}: {answers:#?}");
        assert!(statuses.contains(&all[0]), "{what}: {answers:#?}");
    }

    /// The request is answered, and so is the next one.
    pub(super) async fn answers_with(&self, what: &str, bytes: &[u8], status: u16) -> Answer {
        let answers = self.answers(bytes).await;
        let answers: Vec<_> = answers.iter().filter(|a| a.status >= 200).collect();
        let [answer, last] = &answers[..] else {
            panic!("{what}: not two answers but {answers:#?}");
        };
        assert_eq!(
            (answer.status, last.status),
            (status, 200),
            "{what}: {answer:#?}"
        );
        if status >= 400 {
            let kind = answer.header("content-type");
            assert_eq!(kind, Some("application/problem+json"), "{what}");
        }
        (*answer).clone()
    }

    /// Says something to whoever listens on chat 5.
    pub(super) async fn say(&self, text: &str) {
        self.nats.backend().await.say(5, text).await;
    }

    /// Who was there before still gets events, the server is well, and nothing of it has panicked.
    pub(super) async fn unmoved(mut self) {
        self.say("still here").await;
        loop {
            let event = self.witness.expect_type("new_message").await;
            if event.content() == "still here" {
                break;
            }
        }
        assert_eq!(self.server.get("/ready").await.status, 200);
        drop(self.witness);
        self.server
            .metric_becomes("notify_connections", "", 0.0)
            .await;
        let log = self.server.stop().await;
        assert!(!log.contains("panicked"), "{log}");
        assert!(!log.contains("request failed"), "{log}");
        // What clients do wrong is no news for operators, or anybody could fill the log.
        assert!(!log.contains("\"level\":\"ERROR\""), "{log}");
    }
}

/// A request to publish with the lines that a test puts between, up to the empty line.
pub(super) fn publish(lines: &str) -> Vec<u8> {
    let token = tokens::of_publisher(7);
    format!(
        "POST /api/v1/messages/send HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{lines}\r\n"
    )
    .into_bytes()
}

/// A message that is accepted.
pub(super) const MESSAGE: &str = r#"{"type":"t","channel":"job:1"}"#;

fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

fn get(lines: &str) -> Vec<u8> {
    format!("GET /live HTTP/1.1\r\n{lines}\r\n").into_bytes()
}

#[tokio::test]
async fn lengths_that_can_be_understood_in_two_ways_are_refused() {
    let besieged = Besieged::start().await;
    let size = MESSAGE.len();
    let inner = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    let hidden = format!("0\r\n\r\n{inner}");
    let both = format!(
        "content-length: {}\r\ntransfer-encoding: chunked\r\n",
        hidden.len()
    );
    let turned = format!("transfer-encoding: chunked\r\ncontent-length: {size}\r\n");
    for lines in [&both, &turned] {
        let request = [publish(lines), hidden.clone().into_bytes()].concat();
        besieged.refuses(lines, &request, &[400]).await;
    }
    for lines in [
        format!("content-length: {size}\r\ncontent-length: {size}\r\n"),
        format!("content-length: {size}\r\ncontent-length: 0\r\n"),
        format!("content-length: {size}, {size}\r\n"),
        format!("content-length: +{size}\r\n"),
        format!("content-length: -{size}\r\n"),
        format!("content-length: 0x{size:x}\r\n"),
        format!("content-length: {size}.0\r\n"),
        format!("content-length: {size}\u{b}\r\n"),
        "content-length: 18446744073709551616\r\n".to_owned(),
        "content-length: 1e1\r\n".to_owned(),
        "content-length:\r\n".to_owned(),
        "content-length: \u{663}\r\n".to_owned(),
    ] {
        let request = [publish(&lines), MESSAGE.into()].concat();
        besieged.refuses(&lines, &request, &[400]).await;
    }
    for coding in [
        "xchunked",
        "chunked, identity",
        "identity, chunked",
        "gzip, chunked",
        "chunked, chunked",
        "identity",
        "\"chunked\"",
        "chunked;q=1",
        "\u{b}chunked",
        "chunked\0",
        "",
        "chunked\r\ntransfer-encoding: chunked",
        "chunked\r\ntransfer-encoding: identity",
        "\r\n chunked",
    ] {
        let lines = format!("transfer-encoding: {coding}\r\n");
        let request = [publish(&lines), chunked(MESSAGE).into()].concat();
        besieged.refuses(&lines, &request, &[400]).await;
    }
    for name in [
        "transfer-encoding ",
        "transfer-encoding\t",
        " transfer-encoding",
        "transfer\0-encoding",
    ] {
        let lines = format!("x: y\r\n{name}: chunked\r\n");
        let request = [publish(&lines), chunked(MESSAGE).into()].concat();
        besieged.refuses(name, &request, &[400]).await;
    }
    for coding in ["CHUNKED", " \t chunked\t "] {
        let lines = format!("transfer-encoding: {coding}\r\n");
        let request = [publish(&lines), chunked(MESSAGE).into()].concat();
        besieged.answers_with(&lines, &request, 202).await;
    }
    besieged.unmoved().await;
}

/// What asks for a WebSocket has no end for the HTTP library, whatever its length says: behind a proxy that
/// passes such requests on, the next request on the connection is somebody else's.
#[tokio::test]
async fn a_request_to_upgrade_takes_no_other_request_for_its_body() {
    let besieged = Besieged::start().await;
    let token = tokens::of_user(2);
    let victim =
        format!("GET /events/poll HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    let open = r#"{"type":"t","channel":"job:1","data":""#;
    for lines in [
        format!("upgrade: websocket\r\ncontent-length: {}\r\n", open.len()),
        format!(
            "connection: upgrade\r\nupgrade: WebSocket\r\ncontent-length: {}\r\n",
            open.len()
        ),
        "upgrade: x\r\nupgrade: websocket\r\n".to_owned(),
        "connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n".to_owned(),
    ] {
        let request = [publish(&lines), open.into(), victim.clone().into()].concat();
        let answers = besieged.answers(&request).await;
        assert_eq!(answers.len(), 1, "{lines}: {answers:#?}");
        assert_eq!(answers[0].status, 400, "{lines}");
        assert!(answers[0].body.contains("WebSocket"), "{answers:?}");
        assert_eq!(answers[0].header("connection"), Some("close"));
    }
    let rejected = besieged
        .server
        .metric("notify_http_published_total", "")
        .await;
    assert_eq!(rejected, 0.0, "nothing was read as a message");
    // Without a body there is nothing to take: the answer is what it would be without the header.
    let asks = get(
        "host: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    );
    besieged.refuses("a WebSocket", &asks, &[200]).await;
    let asks = get(
        "host: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    );
    let answers = besieged.answers(&asks).await;
    assert_eq!(answers[0].status, 200, "{answers:#?}");
    besieged.unmoved().await;
}

#[tokio::test]
async fn lines_that_can_be_understood_in_two_ways_are_refused() {
    let besieged = Besieged::start().await;
    for lines in [
        "host: x\r\nx-a: 1\r\n folded: yes\r\n",
        "host: x\r\nx-a: 1\r\n\tfolded\r\n",
        " host: x\r\n",
        "host: x\r\nx-a: a\rx-b: b\r\n",
        "host: x\r\nx-a: a\0b\r\n",
        "host: x\r\nx\0a: b\r\n",
        "host: x\r\nx-a : b\r\n",
        "host: x\r\nno colon\r\n",
        "host: x\r\n: no name\r\n",
        "host: x\r\nx a: b\r\n",
        "host: x\r\nx-a: \u{7f}\r\n",
        "host: x\r\nhost: y\r\n",
        "x-a: no host\r\n",
    ] {
        besieged.refuses(lines, &get(lines), &[400]).await;
    }
    // A line that ends without a carriage return is one line for everybody (RFC 9112, 2.2).
    let bare = "GET /live HTTP/1.1\nhost: x\n\n";
    besieged
        .answers_with("bare line feeds", bare.as_bytes(), 200)
        .await;
    // Bytes beyond ASCII are nobody's business.
    let mut high =
        b"GET /live HTTP/1.1\r\nhost: x\r\nx-a: \xff\xfe\r\nuser-agent: \xc3\x28\r\n\r\n".to_vec();
    besieged.answers_with("no UTF-8", &high, 200).await;
    high.splice(..4, *b"\r\n\r\nGET ");
    besieged
        .answers_with("empty lines before", &high, 200)
        .await;
    besieged.unmoved().await;
}

#[tokio::test]
async fn other_versions_and_protocols_are_refused() {
    let besieged = Besieged::start().await;
    for line in [
        "GET /live",
        "GET /live HTTP/2.0",
        "GET /live HTTP/1.2",
        "GET /live HTTP/11.1",
        "GET /live http/1.1",
        "GET /live HTTP/1.1 x",
        "GET  HTTP/1.1",
        "GET\t/live\tHTTP/1.1",
        " GET /live HTTP/1.1",
        "G(T /live HTTP/1.1",
        "PRI * HTTP/2.0",
        "\u{1}\u{2}",
    ] {
        let request = format!("{line}\r\nhost: x\r\n\r\n");
        besieged.refuses(line, request.as_bytes(), &[400]).await;
    }
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n";
    besieged.refuses("TLS on a plain port", hello, &[400]).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    besieged
        .refuses("HTTP/2 on a plain port", preface, &[400])
        .await;
    besieged.unmoved().await;
}

#[tokio::test]
async fn http_1_0_is_answered_in_http_1_0() {
    let besieged = Besieged::start().await;
    let mut raw = Raw::connect(besieged.server.address()).await;
    raw.send(b"GET /live HTTP/1.0\r\n\r\n").await;
    let answers = raw.answers().await;
    assert_eq!(answers.len(), 1, "{answers:#?}");
    assert_eq!(answers[0].status, 200);
    // A stream is bytes up to the end of the connection: this version has no chunks.
    let token = tokens::of_user(2);
    let request = format!("GET /events HTTP/1.0\r\nauthorization: Bearer {token}\r\n\r\n");
    let mut raw = Raw::connect(besieged.server.address()).await;
    raw.send(request.as_bytes()).await;
    let text = raw
        .read_until(|text| text.contains("connected_chats") && text.ends_with("\n\n"))
        .await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert!(!head.contains("keep-alive"), "{head}");
    assert!(body.starts_with("retry: "), "{body}");
    drop(raw);
    for lines in ["", "transfer-encoding: chunked\r\n"] {
        let request = format!("POST /api/v1/messages/send HTTP/1.0\r\n{lines}\r\n0\r\n\r\n");
        besieged.refuses(lines, request.as_bytes(), &[400]).await;
    }
    besieged.unmoved().await;
}

#[tokio::test]
async fn methods_and_targets_of_other_worlds_have_plain_answers() {
    let besieged = Besieged::start().await;
    let long = "A".repeat(2_000);
    for method in ["BREW", "get", "TRACE", "PROPFIND", "PRI", &long] {
        let request = format!("{method} /live HTTP/1.1\r\nhost: x\r\n\r\n");
        let answer = besieged.answers_with(method, request.as_bytes(), 405).await;
        assert!(!answer.body.contains(&long), "{answer:?}");
    }
    // What follows CONNECT would be another protocol.
    let request = b"CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example\r\n\r\n";
    let mut raw = Raw::connect(besieged.server.address()).await;
    raw.send(request).await.finish().await;
    let answers = raw.answers().await;
    assert_eq!(answers.len(), 1, "{answers:#?}");
    assert_eq!(answers[0].status, 404);
    for (target, status) in [
        ("http://evil.example/live", 200),
        ("ftp://user:word@evil.example:1/live?x", 200),
        ("/live#fragment", 200),
        ("/live?", 200),
        ("/live?&&==&%&%zz=%", 200),
        ("*", 404),
        ("evil.example:80", 404),
        ("//evil.example/live", 404),
        ("/live/", 404),
        ("/./live", 404),
        ("/x/../live", 404),
        ("/assets/../../../../etc/passwd", 404),
        ("/assets/..%2f..%2f..%2fetc%2fpasswd", 404),
        ("/assets/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/assets/chat.js%00.png", 404),
        ("/%", 404),
        ("/%zz", 404),
        ("/%ff%fe", 404),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
        besieged
            .answers_with(target, request.as_bytes(), status)
            .await;
    }
    for target in ["/li\0ve", "/li\u{1}ve", "/li ve", "http://"] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
        besieged.refuses(target, request.as_bytes(), &[400]).await;
    }
    besieged.unmoved().await;
}

#[tokio::test]
async fn text_in_addresses_that_is_no_text_is_named() {
    let besieged = Besieged::start().await;
    let token = tokens::of_user(2);
    for (target, statuses) in [
        ("/sse/user/%ZZ%f", &[403, 422][..]),
        ("/sse/user/%ff%fe", &[403, 404, 422]),
        ("/sse/user/%00", &[422]),
        ("/sse/user/a%0d%0ax-injected:%20yes", &[422]),
        ("/sse/stream/job:1%0a,job:2", &[403, 422]),
        ("/sse/stream/%2c%2c,,", &[422]),
        ("/events?device=%00", &[422]),
        ("/events?device=%0a", &[422]),
        ("/events?device=a&device=b", &[422]),
        ("/events?named=%ff", &[422]),
        ("/events/poll?wait=-1", &[422]),
        ("/events/poll?wait=99999999999999999999999", &[422]),
        ("/api/messages?sessionId=%ff%00", &[403, 422]),
        ("/api/messages?chatId=1&limit=-5", &[403, 422]),
        ("/online-users?chat_id=%00", &[403, 422]),
    ] {
        let request =
            format!("GET {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        let answers = besieged.answers(request.as_bytes()).await;
        assert_eq!(answers.len(), 2, "{target}: {answers:#?}");
        assert!(
            statuses.contains(&answers[0].status),
            "{target}: {answers:#?}"
        );
        assert_eq!(answers[0].header("x-injected"), None, "{target}");
    }
    besieged.unmoved().await;
}

#[tokio::test]
async fn heads_without_measure_end_the_connection() {
    let besieged = Besieged::start().await;
    let long = "a".repeat(200_000);
    let many: String = (0..5_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let same = "cookie: a=b\r\n".repeat(5_000);
    let too_much = [400, 414, 431];
    for (what, request) in [
        (
            "a long target",
            format!("GET /live?{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
        ),
        ("a target without an end", format!("GET /{long}")),
        ("a method without an end", long.clone()),
        (
            "a long value",
            format!("GET /live HTTP/1.1\r\nhost: x\r\nx-a: {long}\r\n\r\n"),
        ),
        (
            "a long name",
            format!("GET /live HTTP/1.1\r\nhost: x\r\n{long}: a\r\n\r\n"),
        ),
        (
            "a head without an end",
            format!("GET /live HTTP/1.1\r\nhost: x\r\nx-a: {long}"),
        ),
        (
            "many headers",
            format!("GET /live HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
        ),
        (
            "one header many times",
            format!("GET /live HTTP/1.1\r\nhost: x\r\n{same}\r\n"),
        ),
    ] {
        besieged
            .refuses_at_least(what, request.as_bytes(), &too_much)
            .await;
    }
    // A token of such a size is none, and is not looked at; the answer does not repeat it.
    let token = "a".repeat(10_000);
    let request =
        format!("GET /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    let answer = besieged
        .answers_with("a long token", request.as_bytes(), 401)
        .await;
    assert!(answer.body.len() < 1_000, "{answer:?}");
    besieged.unmoved().await;
}

#[tokio::test]
async fn conditions_and_ranges_change_no_answer() {
    let besieged = Besieged::start().await;
    let plain = besieged
        .answers_with("plain", &get("host: x\r\n"), 200)
        .await;
    for lines in [
        "range: bytes=0-0,-1,5-3,99999999999999999999-\r\n",
        "range: lines=1-2\r\nif-range: \"x\"\r\n",
        "if-match: \"x\"\r\nif-none-match: *\r\n",
        "if-modified-since: never\r\nif-unmodified-since: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
        "accept: nothing/*;q=9, \"\r\naccept-encoding: *;q=0\r\naccept-language: \"\r\n",
        "te: trailers, deflate;q=0.5\r\ntrailer: x\r\n",
        "connection: keep-alive, host, x, \"\r\n",
        "expect: 200-ok\r\n",
        "x-http-method-override: DELETE\r\nx-original-url: /metrics\r\nx-rewrite-url: /metrics\r\n",
        "forwarded: for=\"[\r\nx-forwarded-for: ',;\r\nx-forwarded-proto: \"\r\n",
        "cookie: ;;;=;=a; access_token\r\norigin: null\r\n",
    ] {
        let answer = besieged
            .answers_with(lines, &get(&format!("host: x\r\n{lines}")), 200)
            .await;
        assert_eq!(answer.body, plain.body, "{lines}");
    }
    for host in ["", "a b@c/d", "[::1", "x:99999999", "\u{ff}"] {
        let answers = besieged.answers(&get(&format!("host: {host}\r\n"))).await;
        assert!(
            matches!(answers[0].status, 200 | 400),
            "{host}: {answers:#?}"
        );
    }
    besieged.unmoved().await;
}
