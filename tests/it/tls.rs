//! TLS and HTTP/2 to those who connect.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Response, Version};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::tokens::Token;
use crate::support::{Server, Settings, eventually, keys, scrape, tokens, within};

fn file(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap()
}

/// A server with a certificate of its own, and the folder with all of them.
async fn secure(settings: Settings) -> (Server, TempDir) {
    let folder = TempDir::new().unwrap();
    keys::write_certificates(folder.path());
    let settings = settings
        .set("tls.cert_file", file(&folder, "server.pem"))
        .set("tls.key_file", file(&folder, "server.key"))
        .set("tls.reload", "100ms");
    (Server::start_unready(settings).await, folder)
}

/// A client that trusts nobody but the test's authority.
fn client(folder: &TempDir, change: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Client {
    let authority = Certificate::from_pem(&read(folder.path(), "ca.pem")).unwrap();
    let builder = Client::builder().tls_certs_only([authority]).no_proxy();
    change(builder).build().unwrap()
}

async fn get(client: &Client, server: &Server, target: &str) -> Response {
    let url = format!("https://{}{target}", server.address());
    let request = client.get(url).bearer_auth(tokens::of_user(1)).send();
    within("an answer", request).await.unwrap()
}

async fn send(client: &Client, server: &Server, message: &Value) -> u16 {
    let rights = json!({"publish": ["*"], "admin": true});
    let token = Token::of(9)
        .claim("notify", rights)
        .sign_hs256(tokens::SECRET);
    let url = format!("https://{}/api/v1/messages/send", server.address());
    let request = client
        .post(url)
        .bearer_auth(token)
        .header("content-type", "application/json")
        .body(message.to_string());
    let response = within("an answer", request.send()).await.unwrap();
    response.status().as_u16()
}

/// Reads until a text has come.
async fn until(stream: &mut Response, text: &str) {
    let read = async {
        let mut read = String::new();
        while !read.contains(text) {
            let chunk = stream.chunk().await.unwrap();
            let chunk = chunk.unwrap_or_else(|| panic!("the stream ended without {text}: {read}"));
            read.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    };
    within(text, read).await;
}

async fn metric(client: &Client, server: &Server, name: &str) -> f64 {
    let text = get(client, server, "/metrics").await.text().await.unwrap();
    scrape::sum(&text, name, "")
}

#[tokio::test]
async fn streams_work_over_both_versions_of_http() {
    let (server, folder) = secure(Settings::new()).await;
    let old = client(&folder, ClientBuilder::http1_only);
    let new = client(&folder, |builder| builder);
    for (client, version) in [(&old, Version::HTTP_11), (&new, Version::HTTP_2)] {
        let mut stream = get(client, &server, "/events").await;
        assert_eq!((stream.status().as_u16(), stream.version()), (200, version));
        until(&mut stream, "connection_confirmed").await;
        let message = json!({"type": "t", "target": {"user_id": 1}});
        assert_eq!(send(client, &server, &message).await, 202);
        until(&mut stream, r#""type": "t""#.replace(' ', "").as_str()).await;
    }
    assert_eq!(get(&new, &server, "/ready").await.status(), 200);
    // The token's own errors are the same.
    let refused = new
        .get(format!("https://{}/events", server.address()))
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 401);
}

#[tokio::test]
async fn many_streams_share_a_connection_and_one_that_is_not_read_delays_none() {
    let (server, folder) =
        secure(Settings::new().set("server.max_connections_per_user", 100)).await;
    let client = client(&folder, |builder| {
        builder
            .http2_initial_stream_window_size(65_535)
            .http2_initial_connection_window_size(16 << 20)
            .pool_max_idle_per_host(1)
    });
    let mut streams = join_all((0..50).map(|_| get(&client, &server, "/events"))).await;
    for stream in &mut streams {
        until(stream, "connection_confirmed").await;
    }
    // The first is not read, and has more to come than its window takes.
    let (stalled, others) = streams.split_first_mut().unwrap();
    for number in 0..20 {
        let text = "x".repeat(10_000);
        let message =
            json!({"type": "t", "number": number, "data": text, "target": {"user_id": 1}});
        assert_eq!(send(&client, &server, &message).await, 202);
        for stream in others.iter_mut() {
            until(stream, &format!("\"number\":{number},")).await;
        }
    }
    until(stalled, "\"number\":19,").await;
}

#[tokio::test]
async fn a_stream_that_is_given_up_is_noticed_although_its_connection_goes_on() {
    let (server, folder) = secure(Settings::new()).await;
    let client = client(&folder, |builder| builder);
    let mut kept = get(&client, &server, "/events").await;
    let mut given_up = get(&client, &server, "/events").await;
    until(&mut kept, "connection_confirmed").await;
    until(&mut given_up, "connection_confirmed").await;
    drop(given_up);
    eventually("the stream to be gone", || async {
        (metric(&client, &server, "notify_connections").await == 1.0).then_some(())
    })
    .await;
    let message = json!({"type": "t", "target": {"user_id": 1}});
    assert_eq!(send(&client, &server, &message).await, 202);
    until(&mut kept, "\"type\":\"t\"").await;
}

#[tokio::test]
async fn a_stream_that_is_not_read_ends_with_its_connection() {
    let settings = Settings::new()
        .set("stream.write_timeout", "1s")
        .set("stream.outbox_bytes", "64 KiB");
    let (server, folder) = secure(settings).await;
    let stalling = client(&folder, |builder| {
        builder.http2_initial_stream_window_size(16_384)
    });
    let client = client(&folder, |builder| builder);
    let mut stalled = get(&stalling, &server, "/events").await;
    until(&mut stalled, "connection_confirmed").await;
    let text = "x".repeat(10_000);
    let message = json!({"type": "t", "data": text, "target": {"user_id": 1}});
    for _ in 0..20 {
        assert_eq!(send(&client, &server, &message).await, 202);
    }
    eventually("the stream to be gone", || async {
        (metric(&client, &server, "notify_connections").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart_and_a_broken_one_is_not() {
    let (server, folder) = secure(Settings::new()).await;
    let before = client(&folder, |builder| builder);
    let mut stream = get(&before, &server, "/events").await;
    until(&mut stream, "connection_confirmed").await;
    let expires = "notify_tls_certificate_expires_timestamp_seconds";
    assert!(metric(&before, &server, expires).await > 1_700_000_000.0);
    std::fs::write(folder.path().join("server.pem"), "no certificate").unwrap();
    let said = server
        .log_line(|line| {
            line.message()
                .starts_with("a renewed certificate can't be used")
        })
        .await;
    assert!(said.text("error").contains("server.pem"));
    let again = client(&folder, |builder| builder);
    assert_eq!(get(&again, &server, "/live").await.status(), 200);
    // Another authority, and another certificate of its own.
    keys::write_certificates(folder.path());
    eventually("the new certificate to be shown", || async {
        let renewed = client(&folder, |builder| builder);
        let url = format!("https://{}/live", server.address());
        renewed.get(url).send().await.is_ok().then_some(())
    })
    .await;
    // Who was connected still is.
    let message = json!({"type": "t", "target": {"user_id": 1}});
    let renewed = client(&folder, |builder| builder);
    assert_eq!(send(&renewed, &server, &message).await, 202);
    until(&mut stream, "\"type\":\"t\"").await;
}

#[tokio::test]
async fn administration_and_publishing_can_take_a_certificate_of_the_client() {
    let folder = TempDir::new().unwrap();
    keys::write_certificates(folder.path());
    let settings = Settings::new()
        .set("tls.cert_file", file(&folder, "server.pem"))
        .set("tls.key_file", file(&folder, "server.key"))
        .set("tls.client_ca_file", file(&folder, "ca.pem"))
        .set("tls.client_required", true);
    let server = Server::start_unready(settings).await;
    let without = client(&folder, |builder| builder);
    let pair = [
        read(folder.path(), "client.pem"),
        read(folder.path(), "client.key"),
    ]
    .concat();
    let identity = Identity::from_pem(&pair).unwrap();
    let with = client(&folder, |builder| builder.identity(identity));
    let message = json!({"type": "t", "target": {"user_id": 1}});
    assert_eq!(send(&without, &server, &message).await, 403);
    assert_eq!(send(&with, &server, &message).await, 202);
    let rights = json!({"admin": true});
    let token = Token::of(9)
        .claim("notify", rights)
        .sign_hs256(tokens::SECRET);
    for (client, status) in [(&without, 403), (&with, 200)] {
        let url = format!("https://{}/api/v1/connections", server.address());
        let answer = client.get(url).bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.status(), status);
        // Streams take none.
        let mut stream = get(client, &server, "/events").await;
        until(&mut stream, "connection_confirmed").await;
    }
    // One of another authority is not let in at all.
    let other = TempDir::new().unwrap();
    keys::write_certificates(other.path());
    let pair = [
        read(other.path(), "client.pem"),
        read(other.path(), "client.key"),
    ]
    .concat();
    let identity = Identity::from_pem(&pair).unwrap();
    let stranger = client(&folder, |builder| builder.identity(identity));
    let url = format!("https://{}/live", server.address());
    assert!(stranger.get(url).send().await.is_err());
    assert!(metric(&with, &server, "notify_tls_handshakes_failed_total").await >= 1.0);
}

#[tokio::test]
async fn a_server_that_stops_ends_http2_connections_when_their_streams_have_ended() {
    let (server, folder) = secure(Settings::new().set("server.drain_timeout", "60s")).await;
    let client = client(&folder, |builder| builder);
    let mut stream = get(&client, &server, "/events").await;
    until(&mut stream, "connection_confirmed").await;
    server.terminate();
    until(&mut stream, "draining").await;
    // Within the time that tests wait, and not after a minute.
    within("the server to end", server.process().exited()).await;
}

#[tokio::test]
async fn proxies_can_speak_http2_without_tls() {
    let server = Server::start(Settings::new().set("server.h2c", true)).await;
    let proxy = Client::builder().http2_prior_knowledge().build().unwrap();
    let browser = Client::builder().http1_only().build().unwrap();
    for (client, version) in [(proxy, Version::HTTP_2), (browser, Version::HTTP_11)] {
        let url = format!("{}/events", server.url());
        let request = client.get(url).bearer_auth(tokens::of_user(1)).send();
        let mut stream = within("an answer", request).await.unwrap();
        assert_eq!(stream.version(), version);
        until(&mut stream, "connection_confirmed").await;
    }
    // One that says nothing, and one that says half of it, hold nobody up.
    let silent = tokio::net::TcpStream::connect(server.address())
        .await
        .unwrap();
    let mut half = tokio::net::TcpStream::connect(server.address())
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut half, b"PRI * HT")
        .await
        .unwrap();
    assert_eq!(server.get("/live").await.status, 200);
    drop((silent, half));
}

#[tokio::test]
async fn who_speaks_no_tls_is_not_served_and_holds_nobody_up() {
    let (server, folder) = secure(Settings::new()).await;
    let mut plain = tokio::net::TcpStream::connect(server.address())
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let _silent = tokio::net::TcpStream::connect(server.address())
        .await
        .unwrap();
    let client = client(&folder, |builder| {
        builder.connect_timeout(Duration::from_secs(3))
    });
    assert_eq!(get(&client, &server, "/live").await.status(), 200);
    let failed = "notify_tls_handshakes_failed_total";
    eventually("the failure to be counted", || async {
        (metric(&client, &server, failed).await >= 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_can_not_be_used_stops_the_start_with_the_reason() {
    let folder = TempDir::new().unwrap();
    keys::write_certificates(folder.path());
    let settings = || Settings::new().set("tls.cert_file", file(&folder, "server.pem"));
    let half = settings().run(&[]).await;
    assert_eq!(half.code, Some(2));
    assert!(half.stderr.contains("go together"), "{}", half.stderr);
    let wrong = settings().set("tls.key_file", file(&folder, "client.key"));
    let wrong = wrong.run(&[]).await;
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong.stderr.contains("certificate and its key"),
        "{}",
        wrong.stderr
    );
    let none = settings().set("tls.key_file", file(&folder, "server.pem"));
    let none = none.run(&[]).await;
    assert!(
        none.stderr.contains("no usable private key"),
        "{}",
        none.stderr
    );
}

#[tokio::test]
async fn the_health_command_reaches_a_server_with_tls() {
    let (server, _folder) = secure(Settings::new()).await;
    let port = server.address().port();
    let settings = server.settings().clone().set("server.port", port);
    let outcome = settings.run(&["health"]).await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
}
