//! Bodies that are not what their head says, that unfold, that are deep, or that never end.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::hostile::{Besieged, MESSAGE, publish};
use crate::support::payload::chat_subject;
use crate::support::{Nats, Raw, Request, Server, Settings, tokens, within};

/// What the server gives a client for a body, with what a busy machine may add.
const LONGEST: Duration = Duration::from_secs(22);

#[tokio::test]
async fn chunks_that_are_none_end_the_connection() {
    let besieged = Besieged::start().await;
    let head = publish("transfer-encoding: chunked\r\n");
    let size = format!("{:x}", MESSAGE.len());
    for chunks in [
        "g\r\n".to_owned(),
        "-1\r\n".to_owned(),
        "+1\r\n".to_owned(),
        format!("0x{size}\r\n{MESSAGE}\r\n0\r\n\r\n"),
        "fffffffffffffffff\r\n".to_owned(),
        "\r\n".to_owned(),
        format!(" {size}\r\n{MESSAGE}\r\n0\r\n\r\n"),
        format!("{size} {size}\r\n{MESSAGE}\r\n0\r\n\r\n"),
        format!("{size};a\nb\r\n{MESSAGE}\r\n0\r\n\r\n"),
        format!("{size};a\0b\r\n{MESSAGE}\r\n0\r\n\r\n"),
        format!("{size}\n{MESSAGE}\n0\n\n"),
        format!("{size}\r{MESSAGE}\r0\r\r"),
        format!("{size}\r\n{MESSAGE}0\r\n\r\n"),
        format!("1\r\n{MESSAGE}\r\n0\r\n\r\n"),
    ] {
        let request = [&head[..], chunks.as_bytes()].concat();
        besieged.refuses(&chunks, &request, &[400, 422]).await;
    }
    let taken = "notify_http_published_total";
    let taken = besieged.server.metric(taken, "outcome=\"taken\"").await;
    assert_eq!(taken, 0.0, "half a message is none");
    for chunks in [
        format!("{size}\r\n{MESSAGE}\r\n0\r\n\r\n"),
        format!("{}\r\n{MESSAGE}\r\n0\r\n\r\n", size.to_uppercase()),
        format!("{size};a=b;c=\"d\"\r\n{MESSAGE}\r\n0;last\r\n\r\n"),
        format!("{size}\r\n{MESSAGE}\r\n0\r\nx-trailer: y\r\n\r\n"),
        format!("000000000000000000000000{size}\r\n{MESSAGE}\r\n0000\r\n\r\n"),
    ] {
        let request = [&head[..], chunks.as_bytes()].concat();
        besieged.answers_with(&chunks, &request, 202).await;
    }
    // A trailer is no header: neither a length nor a token behind the body counts.
    let trailer =
        format!("{size}\r\n{MESSAGE}\r\n0\r\ncontent-length: 5\r\nauthorization: Bearer x\r\n\r\n");
    let request = [&head[..], trailer.as_bytes()].concat();
    besieged.answers_with("trailers", &request, 202).await;
    besieged.unmoved().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_is_there() {
    let besieged = Besieged::start().await;
    for size in ["1048577", "99999999", "18446744073709551615"] {
        let head = publish(&format!("content-length: {size}\r\n"));
        let mut raw = Raw::connect(besieged.server.address()).await;
        raw.send(&head).await.send(b"{").await;
        let text = raw.read_until(|text| text.contains("}")).await;
        assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
        assert!(text.contains("connection: close\r\n"), "{text}");
    }
    let piece = format!("10000\r\n{}\r\n", "a".repeat(65_536)).repeat(17);
    let mut raw = Raw::connect(besieged.server.address()).await;
    raw.send(&publish("transfer-encoding: chunked\r\n")).await;
    raw.send(piece.as_bytes()).await;
    let text = raw.read_until(|text| text.contains("}")).await;
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    besieged.unmoved().await;
}

#[tokio::test]
async fn a_body_that_is_read_by_nobody_is_no_second_request() {
    let besieged = Besieged::start().await;
    let inner = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    for (method, target, status) in [
        ("GET", "/live", 200),
        ("GET", "/nothing", 404),
        ("DELETE", "/live", 405),
        ("POST", "/nothing", 404),
        ("POST", "/api/v1/messages/send", 401),
    ] {
        for lines in [
            format!("content-length: {}\r\n\r\n{inner}", inner.len()),
            format!(
                "transfer-encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n",
                inner.len()
            ),
        ] {
            let request = format!("{method} {target} HTTP/1.1\r\nhost: x\r\n{lines}");
            let mut raw = Raw::connect(besieged.server.address()).await;
            raw.send(request.as_bytes()).await.finish().await;
            let answers = raw.answers().await;
            assert_eq!(answers.len(), 1, "{request}: {answers:#?}");
            // A body in chunks takes more to skip than a length.
            let refused = method == "GET" && request.contains("chunked");
            let status = if refused { 400 } else { status };
            assert_eq!(answers[0].status, status, "{request}");
        }
    }
    besieged.unmoved().await;
}

fn unread(method: &str, target: &str) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").into()
}

/// Clients that never come to an end, each in its own way, and one that sends nothing at all.
#[tokio::test]
async fn a_body_that_does_not_come_to_its_end_is_given_up() {
    let besieged = Besieged::start().await;
    let address = besieged.server.address();
    let slow = |begin: Vec<u8>, more: &'static [u8], status: u16| async move {
        let began = Instant::now();
        let mut raw = Raw::connect(address).await;
        raw.send(&begin).await;
        let answers = loop {
            // The pace of the attack: slow enough that it would take hours.
            match timeout(Duration::from_millis(500), raw.answers()).await {
                Ok(answers) => break answers,
                Err(_) => raw.send(more).await,
            };
        };
        assert_eq!(answers.len(), 1, "{answers:#?}");
        assert_eq!(answers[0].status, status, "{answers:#?}");
        assert_eq!(answers[0].header("connection"), Some("close"));
        assert!(began.elapsed() < LONGEST, "{:?}", began.elapsed());
    };
    let chunked = publish("transfer-encoding: chunked\r\n");
    let extension = [&chunked[..], b"1;"].concat();
    let trailer = [&chunked[..], b"1\r\n{\r\n0\r\n"].concat();
    within("all of them to be given up", async {
        tokio::join!(
            slow(publish("content-length: 100000\r\n"), b" ", 408),
            slow(publish("content-length: 100000\r\n"), b"", 408),
            slow(chunked.clone(), b"1\r\n \r\n", 408),
            slow(extension, b"x", 408),
            slow(trailer, b"x-t: y\r\n", 408),
            // Nobody reads these bodies.
            slow(unread("POST", "/nothing"), b"1\r\n \r\n", 404),
            slow(unread("POST", "/events"), b"1\r\n \r\n", 405),
            slow(
                unread("DELETE", "/api/v1/connections/x"),
                b"1\r\n \r\n",
                401
            ),
            slow(unread("GET", "/live"), b"1\r\n \r\n", 400),
        )
    })
    .await;
    besieged.unmoved().await;
}

/// 64 MiB of zeros in 64 KiB: nothing is unpacked for anybody.
#[tokio::test]
async fn what_is_compressed_stays_so() {
    let besieged = Besieged::start().await;
    let zip = "head -c 67108864 /dev/zero | gzip -9";
    let zip = Command::new("sh")
        .args(["-c", zip])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let bomb = zip.stdout;
    assert!((10_000..200_000).contains(&bomb.len()), "{}", bomb.len());
    let before = besieged.server.resident_bytes();
    for coding in ["gzip", "gzip, gzip", "deflate", "br", "zstd"] {
        let lines = format!(
            "content-encoding: {coding}\r\ncontent-length: {}\r\n",
            bomb.len()
        );
        let request = [publish(&lines), bomb.clone()].concat();
        let answer = besieged.answers_with(coding, &request, 422).await;
        assert!(answer.body.contains("UTF-8"), "{answer:?}");
    }
    let grown = besieged.server.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes");
    besieged.unmoved().await;
}

fn nested(depth: usize) -> Vec<String> {
    let deep = |open: &str, close: &str| {
        let data = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        format!(r#"{{"type":"t","channel":"job:1","data":{data}}}"#)
    };
    vec![
        deep("[", "]"),
        deep("{\"a\":", "}"),
        "[".repeat(depth),
        "{\"a\":".repeat(depth),
    ]
}

#[tokio::test]
async fn json_of_any_depth_is_answered() {
    let besieged = Besieged::start().await;
    let token = tokens::of_publisher(7);
    for target in [
        "/api/v1/messages/send",
        "/api/v1/messages/broadcast",
        "/api/v1/messages/batch",
        "/api/v1/bus/fechatter.realtime.job.1",
        "/api/messages",
    ] {
        for body in nested(40_000) {
            let request = Request::new("POST", target).bearer(&token).body(body);
            let response = besieged.server.send(request).await;
            // What a backend would publish may have any depth; it is passed on as it is.
            let passed_on = target.contains("/bus/") && response.status == 202;
            assert!(
                passed_on || (400..500).contains(&response.status),
                "{target}: {}",
                response.status
            );
        }
    }
    // In a batch one message is refused, and the others are not.
    let deep = &nested(30_000)[0];
    let body = format!("[{MESSAGE},{deep},{MESSAGE}]");
    let request = Request::new("POST", "/api/v1/messages/batch")
        .bearer(&token)
        .body(body);
    let answer = besieged.server.send(request).await.json().await;
    assert_eq!(
        (&answer["accepted"], &answer["rejected"]),
        (&2.into(), &1.into()),
        "{answer}"
    );
    besieged.unmoved().await;
}

#[tokio::test]
async fn a_payload_of_any_shape_stops_no_subscription() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats).chat(5, &[1])).await;
    let mut stream = server.connect(1).await;
    let backend = nats.backend().await;
    let long = "9".repeat(100_000);
    let mut payloads: Vec<Vec<u8>> = nested(40_000).into_iter().map(String::into_bytes).collect();
    payloads.extend([
        Vec::new(),
        vec![0; 1_000],
        vec![0xff; 1_000],
        b"\xef\xbb\xbf{}".to_vec(),
        format!(r#"{{"type":"t","channel":"job:1","data":{long}}}"#).into_bytes(),
        format!(r#"{{"type":"t","channel":"job:1","data":{long}e{long}}}"#).into_bytes(),
        br#"{"type":"t","channel":"job:1","data":1e999999999}"#.to_vec(),
        br#"{"type":"t","channel":"job:1","data":"\ud800"}"#.to_vec(),
        br#"{"type":"t","type":"u","channel":"job:1","channel":"job:2"}"#.to_vec(),
        format!(r#"{{"type":"t","channel":"{}"}}"#, "job:1,".repeat(20_000)).into_bytes(),
        format!(
            r#"{{"MessageReceived":{{"message":{{}},"chat_id":5,"recipients":[{}1]}}}}"#,
            "1,".repeat(100_000)
        )
        .into_bytes(),
        format!("{{{}\"a\":1}}", "\"a\":1,".repeat(30_000)).into_bytes(),
        vec![b' '; 300_000],
    ]);
    for payload in payloads {
        backend.send(&chat_subject(5), payload).await;
    }
    backend.say(5, "behind all of it").await;
    loop {
        let event = stream.next().await;
        if event.data["message"]["content"] == "behind all of it" {
            break;
        }
    }
    let log = server.stop().await;
    assert!(!log.contains("panicked"), "{log}");
}
