//! Those who connect and ask for nothing, or for nothing whole: they are let go, and keep nobody out.

use std::time::Duration;

use reqwest::Client;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Request, Server, Settings, eventually, tokens, within};

async fn socket(server: &Server) -> TcpStream {
    TcpStream::connect(server.address()).await.unwrap()
}

async fn write(socket: &mut TcpStream, text: &str) {
    within("a write", socket.write_all(text.as_bytes()))
        .await
        .unwrap();
}

/// What comes until the server ends the connection.
async fn rest(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // Bytes that the server had not read when it ended make this an error.
    let _ = within("the end of a connection", socket.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until a text has come.
async fn until(socket: &mut TcpStream, text: &str) {
    let read = async {
        let mut bytes = Vec::new();
        while !String::from_utf8_lossy(&bytes).contains(text) {
            bytes.push(socket.read_u8().await.unwrap());
        }
    };
    within(text, read).await;
}

/// Sends a letter each second for ever, or until the server has had enough.
async fn trickle(mut socket: impl AsyncWrite + Unpin) {
    let mut letters = tokio::time::interval(Duration::from_secs(1));
    loop {
        letters.tick().await;
        if socket.write_all(b"x").await.is_err() {
            return;
        }
    }
}

/// Begins another head on a connection that was used before; comes back when the server has ended it.
async fn a_head_that_never_ends_is_not_waited_for(mut socket: TcpStream) {
    write(&mut socket, "GET /live HTTP/1.1\r\nx: ").await;
    let (mut answers, letters) = socket.into_split();
    let trickling = tokio::spawn(trickle(letters));
    let mut bytes = Vec::new();
    let _ = within("the end", answers.read_to_end(&mut bytes)).await;
    trickling.abort();
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_is_answered_408() {
    let server = Server::start(Settings::new()).await;
    let mut slow = socket(&server).await;
    write(&mut slow, "GET /live HTTP/1.1\r\nhost: x\r\n").await;
    let answer = rest(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(server.limited("slow_headers").await, 1.0);
    server.limit_line("slow_headers").await;
}

/// As browsers open ahead, in case that they need one soon.
#[tokio::test]
async fn a_connection_on_which_nothing_is_said_ends_and_is_nobodys_fault() {
    let server = Server::start(Settings::new()).await;
    let mut silent = socket(&server).await;
    let answer = rest(&mut silent).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(server.limited("slow_headers").await, 0.0);
}

#[tokio::test]
async fn a_second_head_has_no_more_time_than_the_first() {
    let server = Server::start(Settings::new()).await;
    let mut slow = socket(&server).await;
    write(&mut slow, "GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until(&mut slow, "live").await;
    a_head_that_never_ends_is_not_waited_for(slow).await;
    assert_eq!(server.limited("slow_headers").await, 1.0);
    // One that comes in time may be as late as it likes, up to the keep-alive.
    let mut honest = socket(&server).await;
    for _ in 0..3 {
        write(&mut honest, "GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await;
        until(&mut honest, "live").await;
    }
    // And a stream on a connection that was used before goes on.
    let token = tokens::of_user(1);
    let request = format!("GET /events?access_token={token} HTTP/1.1\r\nhost: x\r\n\r\n");
    let (head, tail) = request.split_at(20);
    write(&mut honest, head).await;
    write(&mut honest, tail).await;
    until(&mut honest, "connection_confirmed").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(server.metric("notify_connections", "").await, 1.0);
    assert_eq!(server.limited("slow_headers").await, 1.0);
}

/// Which is answered before anything else looks at it.
#[tokio::test]
async fn a_preflight_is_a_request_like_any_other() {
    let origins = serde_json::json!(["https://chat.example.com"]);
    let server = Server::start(Settings::new().set("server.allowed_origins", origins)).await;
    let mut slow = socket(&server).await;
    let preflight = "OPTIONS /events HTTP/1.1\r\nhost: x\r\norigin: https://chat.example.com\r\n\
        access-control-request-method: GET\r\n\r\n";
    write(&mut slow, preflight).await;
    until(&mut slow, "\r\n\r\n").await;
    a_head_that_never_ends_is_not_waited_for(slow).await;
    assert_eq!(server.limited("slow_headers").await, 1.0);
}

#[tokio::test]
async fn a_body_that_does_not_come_in_time_is_answered_408() {
    let server = Server::start(Settings::new()).await;
    let mut slow = socket(&server).await;
    let token = tokens::of_publisher(1);
    let head = format!(
        "POST /api/v1/messages/send HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-length: 1000\r\n\r\n{{"
    );
    write(&mut slow, &head).await;
    until(&mut slow, "HTTP/1.1 408 ").await;
    until(&mut slow, "problem+json").await;
    assert_eq!(server.limited("slow_body").await, 1.0);
    server.limit_line("slow_body").await;
}

#[tokio::test]
async fn a_body_that_comes_steadily_may_take_longer() {
    let server = Server::start(Settings::new()).await;
    let mut steady = socket(&server).await;
    let token = tokens::of_publisher(1);
    let (pieces, piece) = (12, "x".repeat(17 * 1024));
    let begin = r#"{"type":"t","channel":"job:1","data":""#;
    let length = begin.len() + pieces * piece.len() + 2;
    let head = format!(
        "POST /api/v1/messages/send HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-length: {length}\r\n\r\n{begin}"
    );
    write(&mut steady, &head).await;
    // Longer than a body may take of which nothing comes.
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..pieces {
        seconds.tick().await;
        write(&mut steady, &piece).await;
    }
    write(&mut steady, "\"}").await;
    until(&mut steady, "HTTP/1.1 202 ").await;
    assert_eq!(server.limited("slow_body").await, 0.0);
}

#[tokio::test]
async fn many_who_never_finish_a_request_keep_nobody_out() {
    let settings = Settings::new()
        .set("server.workers", 2)
        .set("server.max_sockets", 40);
    let server = Server::start(settings).await;
    let mut living = server.connect(1).await;
    let mut slow = JoinSet::new();
    let connect = async || {
        let mut socket = socket(&server).await;
        // May be let go already.
        let _ = socket.write_all(b"GET /events HTTP/1.1\r\nx: ").await;
        socket
    };
    for _ in 0..300 {
        slow.spawn(trickle(connect().await));
    }
    let mut streams = Vec::new();
    for user in 2..12 {
        streams.push(server.connect(user).await);
        // They don't tire.
        for _ in 0..30 {
            slow.spawn(trickle(connect().await));
        }
    }
    assert!(server.limited("sockets").await > 100.0);
    server.limit_line("sockets").await;
    assert_eq!(server.metric("notify_connections", "").await, 11.0);
    // Nobody who is listening had to go.
    let message = serde_json::json!({"type": "t", "data": {}});
    let rights = tokens::of_publisher(99);
    let request = Request::new("POST", "/api/v1/messages/broadcast").bearer(&rights);
    assert_eq!(server.send(request.json(&message)).await.status, 202);
    living.expect_type("t").await;
    for stream in &mut streams {
        stream.expect_type("t").await;
    }
    slow.shutdown().await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET / ` over HTTP, in the words of HPACK.
const GET: [u8; 6] = [0x82, 0x86, 0x84, 0x41, 0x01, b'x'];

/// `GET` of a path of more than 126 bytes, in the same words.
fn get(path: &str) -> Vec<u8> {
    let more = path.len().checked_sub(127).unwrap();
    let length = [0x7f, (more % 128) as u8 | 0x80, (more / 128) as u8];
    let begin = [0x82, 0x86, 0x41, 0x01, b'x', 0x04];
    [&begin[..], &length[..], path.as_bytes()].concat()
}

#[tokio::test]
async fn floods_over_http_2_end_their_connection_and_no_other() {
    let server = Server::start(Settings::new().set("server.h2c", true)).await;
    let proxy = Client::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("{}/events", server.url());
    let request = proxy.get(url).bearer_auth(tokens::of_user(1)).send();
    let mut living = within("an answer", request).await.unwrap();
    let pings = || frame(6, 0, 0, &[0; 8]);
    let settings = || frame(4, 0, 0, &[]);
    // Data that is none, for a request that goes on for as long as its stream, plain and padded.
    let opened = || {
        frame(
            1,
            4,
            1,
            &get(&format!("/events?access_token={}", tokens::of_user(2))),
        )
    };
    let empty = |flags, padding: &'static [u8]| {
        let frames = (0..5_000).flat_map(move |_| frame(0, flags, 1, padding));
        opened().into_iter().chain(frames).collect()
    };
    let floods: [(&str, Vec<u8>); 6] = [
        ("http2", empty(0, &[])),
        ("http2", empty(8, &[2, 0, 0])),
        ("http2", (0..5_000).flat_map(|_| pings()).collect()),
        ("http2", (0..5_000).flat_map(|_| settings()).collect()),
        (
            "http2",
            (0..5_000)
                .flat_map(|number| {
                    let stream = 2 * number + 1;
                    [
                        frame(1, 5, stream, &GET),
                        frame(3, 0, stream, &[0, 0, 0, 8]),
                    ]
                    .concat()
                })
                .collect(),
        ),
        (
            "headers",
            [frame(1, 1, 1, &[0; 16_384]), frame(9, 4, 1, &[0; 16_384])].concat(),
        ),
    ];
    for (limit, flood) in floods {
        let before = server.limited(limit).await;
        let mut socket = socket(&server).await;
        socket.write_all(PREFACE).await.unwrap();
        socket.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        // The server has enough before all of it is sent.
        let (mut read, mut write) = socket.into_split();
        let sending = tokio::spawn(async move {
            let _ = write.write_all(&flood).await;
            write
        });
        let mut bytes = Vec::new();
        let _ = within("the end of a flood", read.read_to_end(&mut bytes)).await;
        drop(within("the flood", sending).await.unwrap());
        eventually("it to be counted", || async {
            (server.limited(limit).await == before + 1.0).then_some(())
        })
        .await;
    }
    let mut text = String::new();
    while !text.contains("connection_confirmed") {
        let chunk = within("a chunk", living.chunk()).await.unwrap().unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    server
        .metric_becomes("notify_connections", "sse", 1.0)
        .await;
}

#[tokio::test]
async fn who_is_slow_to_agree_on_keys_makes_room_for_others() {
    let folder = tempfile::TempDir::new().unwrap();
    crate::support::keys::write_certificates(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let settings = Settings::new()
        .set("tls.cert_file", file("server.pem"))
        .set("tls.key_file", file("server.key"))
        .set("server.workers", 1)
        .set("server.max_sockets", 10);
    let server = Server::start_unready(settings).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(socket(&server).await);
    }
    // Those for whom there is room have some seconds to say something.
    server.limit_line("sockets").await;
    server.limit_line("slow_handshake").await;
    let authority = std::fs::read(folder.path().join("ca.pem")).unwrap();
    let authority = reqwest::Certificate::from_pem(&authority).unwrap();
    let client = Client::builder()
        .tls_certs_only([authority])
        .no_proxy()
        .build()
        .unwrap();
    let url = format!("https://{}/live", server.address());
    let answer = within("an answer", client.get(url).send()).await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// The head of a request to publish, in the words of HPACK, whose body is yet to come.
fn publishing(stream: u32) -> Vec<u8> {
    let token = tokens::of_publisher(1);
    let path = format!("/api/v1/messages/send?access_token={token}");
    // `POST`, `http`, the authority `x`, and a path of its own.
    let mut block = vec![0x83, 0x86, 0x01, 0x01, b'x', 0x04];
    let mut more = path.len() - 127;
    block.push(127);
    while more >= 128 {
        block.push(u8::try_from(more % 128).unwrap() | 128);
        more /= 128;
    }
    block.push(u8::try_from(more).unwrap());
    block.extend(path.as_bytes());
    frame(1, 4, stream, &block)
}

#[tokio::test]
async fn a_connection_has_only_so_many_requests_that_wait() {
    let settings = Settings::new()
        .set("server.h2c", true)
        .set("server.publish_burst", 10_000);
    let server = Server::start(settings).await;
    let mut greedy = socket(&server).await;
    let mut requests = [PREFACE, &frame(4, 0, 0, &[])].concat();
    for number in 0..1_200 {
        requests.extend(publishing(2 * number + 1));
    }
    within("the requests", greedy.write_all(&requests))
        .await
        .unwrap();
    eventually("those beyond to be refused", || async {
        (server.limited("requests").await >= 1.0).then_some(())
    })
    .await;
    server.limit_line("requests").await;
    // Other connections know nothing of it.
    let mut living = server.connect(2).await;
    let message = serde_json::json!({"type": "t", "target": {"user_id": 2}, "data": {}});
    let request = Request::new("POST", "/api/v1/messages/send").bearer(&tokens::of_publisher(9));
    assert_eq!(server.send(request.json(&message)).await.status, 202);
    living.expect_type("t").await;
    let refused = server.limited("requests").await;
    assert!(refused <= 200.0, "{refused}");
}
