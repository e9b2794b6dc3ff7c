//! Connections that are left, half closed, or used for more than one thing at a time.

use std::fs;

use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::hostile::{Besieged, MESSAGE, publish};
use crate::support::{LAST, Raw, Server, eventually, tokens};

fn stream_request(user: i64, lines: &str) -> String {
    let token = tokens::of_user(user);
    format!("GET /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{lines}\r\n")
}

fn confirmed(text: &str) -> bool {
    text.contains("connection_confirmed")
}

fn sockets(server: &Server) -> usize {
    let folder = format!("/proc/{}/fd", server.process().pid());
    let files = fs::read_dir(folder).unwrap();
    let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    targets
        .filter(|file| file.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Wherever a client breaks off, with a goodbye or without, nothing of it stays.
#[tokio::test]
async fn a_client_may_leave_at_any_byte() {
    let besieged = Besieged::start().await;
    let server = &besieged.server;
    let before = sockets(server);
    let size = MESSAGE.len();
    let message = [
        publish(&format!("content-length: {size}\r\n")),
        MESSAGE.into(),
    ]
    .concat();
    let chunked = [
        publish("transfer-encoding: chunked\r\n"),
        format!("{size:x}\r\n{MESSAGE}\r\n0\r\n\r\n").into(),
    ]
    .concat();
    let poll = stream_request(2, "").replace("/events", "/events/poll?after=1-1-0000&wait=20");
    for request in [
        stream_request(2, "").as_bytes(),
        poll.as_bytes(),
        &message,
        &chunked,
    ] {
        let mut cuts: Vec<usize> = (0..request.len()).step_by(5).collect();
        // The last bytes matter most.
        cuts.extend(request.len() - 12..=request.len());
        for (number, cut) in cuts.into_iter().enumerate() {
            let mut socket = TcpStream::connect(server.address()).await.unwrap();
            if number % 2 == 0 {
                // Leaves with a reset.
                SockRef::from(&socket)
                    .set_linger(Some(std::time::Duration::ZERO))
                    .unwrap();
            }
            let _ = socket.write_all(&request[..cut]).await;
        }
    }
    server.metric_becomes("notify_connections", "", 1.0).await;
    eventually("all sockets to be closed", || async {
        (sockets(server) <= before).then_some(())
    })
    .await;
    besieged.unmoved().await;
}

/// A client that will say nothing more is gone: this is how the server hears of most clients that leave.
#[tokio::test]
async fn a_stream_ends_when_its_client_closes_its_half() {
    let besieged = Besieged::start().await;
    let mut raw = Raw::connect(besieged.server.address()).await;
    raw.send(stream_request(2, "").as_bytes()).await;
    raw.read_until(confirmed).await;
    raw.finish().await;
    raw.rest().await;
    let log = besieged
        .server
        .log_line(|line| line.message() == "disconnected");
    assert_eq!(log.await.text("reason"), "client_gone");
    // What is answered at once is answered all the same.
    let mut raw = Raw::connect(besieged.server.address()).await;
    raw.send(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .finish()
        .await;
    let answers = raw.answers().await;
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0].status, 200);
    besieged.unmoved().await;
}

/// What is sent behind the request for a stream waits for the stream's end, and does not change it.
#[tokio::test]
async fn requests_behind_a_stream_do_not_get_into_it() {
    let besieged = Besieged::start().await;
    for behind in [
        "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "HEAD /nothing HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /nothing HTTP/1.0\r\n\r\n".to_owned(),
        "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1_000),
        stream_request(3, ""),
    ] {
        let mut raw = Raw::connect(besieged.server.address()).await;
        raw.send(stream_request(1, "").as_bytes()).await;
        let begin = raw.read_until(confirmed).await;
        assert!(begin.contains("transfer-encoding: chunked\r\n"), "{begin}");
        raw.send(behind.as_bytes()).await;
        besieged.say("for both").await;
        let text = raw.read_until(|text| text.contains("for both")).await;
        assert!(!text.contains("HTTP/1."), "{text}");
        assert!(!text.contains("404"), "{text}");
    }
    besieged.unmoved().await;
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_their_order() {
    let besieged = Besieged::start().await;
    let token = tokens::of_user(2);
    let mut all = String::new();
    for number in 0..60 {
        let target = match number % 3 {
            0 => format!("/nothing/{number}"),
            1 => "/events/poll".to_owned(),
            _ => "/live".to_owned(),
        };
        all.push_str(&format!(
            "GET {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
        ));
    }
    let answers = besieged.answers(all.as_bytes()).await;
    let found: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    let wanted: Vec<u16> = (0..60)
        .map(|n| if n % 3 == 0 { 404 } else { 200 })
        .collect();
    assert_eq!(found[..60], wanted);
    assert_eq!(found.len(), 61);
    assert!(answers[1].body.contains("last_id"), "{:?}", answers[1]);
    assert!(answers[2].body.contains("live"), "{:?}", answers[2]);
    // Something that is no request ends the connection, behind what was asked before it.
    let mut raw = Raw::connect(besieged.server.address()).await;
    raw.send(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n\x00\x01\r\n\r\n")
        .await;
    raw.send(LAST).await;
    let answers = raw.answers().await;
    let found: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(found, [200, 400]);
    besieged.unmoved().await;
}
