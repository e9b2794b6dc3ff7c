//! NATS servers that want to know who comes: TLS, credentials, passwords.

use async_nats::ConnectOptions;
use tempfile::TempDir;

use crate::support::payload::{self, chat_subject};
use crate::support::{
    Backend, Nats, Operator, Request, Server, Settings, tokens, write_certificates,
};

pub(crate) async fn delivers(server: &Server, backend: &Backend) {
    let mut stream = server.connect(1).await;
    let payload = payload::message(5, "x", &[1]);
    backend.publish(&chat_subject(5), &payload).await;
    stream.expect_type("new_message").await;
}

#[tokio::test]
async fn tls_with_a_client_certificate() {
    let files = TempDir::new().unwrap();
    write_certificates(files.path());
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let (server_cert, server_key) = (path("server.pem"), path("server.key"));
    let nats = Nats::start_with(&[
        "--tls",
        "--tlsverify",
        "--tlscert",
        &server_cert,
        "--tlskey",
        &server_key,
        "--tlscacert",
        &ca,
    ])
    .await;
    let trusting = Settings::new()
        .nats(&nats)
        .set("nats.tls.required", true)
        .set("nats.tls.ca_file", ca.as_str());
    let server = Server::start(
        trusting
            .clone()
            .set("nats.tls.cert_file", cert.as_str())
            .set("nats.tls.key_file", key.as_str()),
    )
    .await;
    let options = ConnectOptions::new()
        .require_tls(true)
        .add_root_certificates(ca.clone().into())
        .add_client_certificate(cert.into(), key.into());
    delivers(&server, &nats.backend_with(options).await).await;
    let refused = Server::start_unready(trusting).await;
    refused.not_ready().await;
}

#[tokio::test]
async fn a_credentials_file() {
    let files = TempDir::new().unwrap();
    let operator = Operator::new();
    let config = files.path().join("nats.conf");
    operator.write_server_config(&config);
    let nats = Nats::start_without_jetstream(&["-c", config.to_str().unwrap()]).await;
    let credentials = files.path().join("user.creds");
    let text = operator.write_credentials(&credentials);
    let settings = Settings::new()
        .nats(&nats)
        // The operator's accounts have no JetStream.
        .set("log", "memory")
        .set("nats.credentials_file", credentials.to_str().unwrap());
    let server = Server::start(settings).await;
    let options = ConnectOptions::with_credentials(&text).unwrap();
    delivers(&server, &nats.backend_with(options).await).await;
    let refused = Server::start_unready(Settings::new().nats(&nats)).await;
    refused.not_ready().await;
}

#[tokio::test]
async fn a_password_in_the_address() {
    let nats = Nats::start_with(&["--user", "notify", "--pass", "hunter2-hunter2"]).await;
    let url = nats.url().replace("//", "//notify:hunter2-hunter2@");
    let server = Server::start(Settings::new().set("nats.url", url)).await;
    let options = ConnectOptions::with_user_and_password("notify".into(), "hunter2-hunter2".into());
    delivers(&server, &nats.backend_with(options).await).await;
    let log = server.stop().await;
    assert!(!log.contains("hunter2"), "the password stands in the log");
}

/// A NATS account file: `backend` may do everything, `notify` what `permissions` say.
pub(crate) fn accounts(folder: &TempDir, permissions: &str) -> String {
    let file = folder.path().join("accounts.conf");
    let text = format!(
        "authorization {{ users = [
            {{user: backend, password: backend-backend}},
            {{user: notify, password: notify-notify, permissions: {{{permissions}}}}}
        ] }}"
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

pub(crate) fn as_notify(nats: &Nats) -> Settings {
    let url = nats.url().replace("//", "//notify:notify-notify@");
    Settings::new().set("nats.url", url)
}

#[tokio::test]
async fn without_a_shared_log_an_account_that_may_only_listen_is_enough() {
    let folder = TempDir::new().unwrap();
    let config = accounts(&folder, "publish: {deny: \">\"}");
    let nats = Nats::start_with(&["-c", &config]).await;
    let server = Server::start(as_notify(&nats).set("log", "memory")).await;
    let options =
        || ConnectOptions::with_user_and_password("backend".into(), "backend-backend".into());
    delivers(&server, &nats.backend_with(options()).await).await;
    // NATS refuses it behind the server's back; that must not make the server give up listening.
    let body = payload::message(5, "x", &[1]).to_string();
    let request = Request::new("POST", "/api/v1/bus/fechatter.realtime.chat.5")
        .bearer(&tokens::of_publisher(1));
    server.send(request.body(body)).await;
    server
        .log_line(|line| {
            line.text("error")
                .contains("Permissions Violation for Publish")
        })
        .await;
    delivers(&server, &nats.backend_with(options()).await).await;
    assert_eq!(server.get("/ready").await.status, 200);
}

#[tokio::test]
async fn a_denied_subscription_is_not_ready_and_says_so() {
    let folder = TempDir::new().unwrap();
    let config = accounts(&folder, "subscribe: {deny: \"fechatter.chat.>\"}");
    let nats = Nats::start_with(&["-c", &config]).await;
    let server = Server::start_unready(as_notify(&nats)).await;
    server
        .log_line(|line| line.text("error").contains("Permissions Violation"))
        .await;
    let says = server.not_ready().await;
    assert!(says.contains("fechatter.chat.>"), "{says}");
    // That is no fault of the log.
    server.metric_becomes("notify_log_up", "", 1.0).await;
    assert_eq!(server.metric("notify_bus_up", "").await, 0.0);
}

#[tokio::test]
async fn a_log_that_is_away_and_a_bus_that_is_away_are_told_apart() {
    let folder = TempDir::new().unwrap();
    let config = accounts(&folder, "publish: {deny: \"nowhere\"}");
    let mut nats = Nats::start_with(&["-c", &config]).await;
    let server = Server::start(as_notify(&nats)).await;
    let options =
        || ConnectOptions::with_user_and_password("backend".into(), "backend-backend".into());
    delivers(&server, &nats.backend_with(options()).await).await;
    for name in ["notify_bus_up", "notify_bus_connected", "notify_log_up"] {
        assert_eq!(server.metric(name, "").await, 1.0, "{name}");
    }
    // From now on NATS is there, and JetStream is not.
    accounts(&folder, "publish: {deny: \"$JS.API.>\"}");
    nats.reload();
    server.metric_becomes("notify_log_up", "", 0.0).await;
    // Also once that has lasted for too long for new clients.
    server.metric_becomes("notify_bus_up", "", 0.0).await;
    assert_eq!(server.metric("notify_bus_connected", "").await, 1.0);
    assert!(server.metric("notify_log_position", "").await > 0.0);
    nats.kill();
    server.metric_becomes("notify_bus_connected", "", 0.0).await;
    for name in ["notify_bus_up", "notify_log_up"] {
        assert_eq!(server.metric(name, "").await, 0.0, "{name}");
    }
}

#[tokio::test]
async fn an_instance_that_may_not_reach_the_others_serves_all_the_same() {
    let folder = TempDir::new().unwrap();
    let config = accounts(&folder, "subscribe: {deny: \"notify.peers.>\"}");
    let nats = Nats::start_with(&["-c", &config]).await;
    let server = Server::start(as_notify(&nats)).await;
    server
        .log_line(|line| line.text("error").contains("notify.peers"))
        .await;
    let options =
        ConnectOptions::with_user_and_password("backend".into(), "backend-backend".into());
    delivers(&server, &nats.backend_with(options).await).await;
    assert_eq!(server.get("/ready").await.status, 200);
}

#[tokio::test]
async fn not_even_the_client_library_logs_a_password() {
    let nats = Nats::start_with(&["--user", "notify", "--pass", "hunter2-hunter2"]).await;
    let url = nats.url().replace("//", "//notify:hunter2-hunter2@");
    let settings = Settings::new()
        .set("nats.url", url)
        .set("logging.level", "trace,async_nats=trace");
    let server = Server::start(settings).await;
    server
        .log_line(|line| line.whole().contains("async_nats"))
        .await;
    let log = server.stop().await;
    assert!(!log.contains("hunter2"), "the password stands in the log");
}
