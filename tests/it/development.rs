//! One command on a bare machine.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{EventStream, Process, Request, Server, Settings, tokens};

/// A line pasted into a second terminal, which is in another folder.
fn pasted(line: &str, folder: &TempDir) -> Process {
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).current_dir(folder.path());
    Process::spawn(line, &mut shell)
}

async fn development_token(server: &Server, user: i64) -> String {
    let request = Request::new("POST", "/api/dev/token").json(&json!({"user_id": user}));
    let mut response = server.send(request).await;
    assert_eq!(response.status, 200);
    let answer = response.json().await;
    assert!(
        answer["expires_in"]
            .as_i64()
            .is_some_and(|seconds| seconds > 60),
        "{answer}"
    );
    answer["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_three_lines_that_a_bare_start_prints_work() {
    let server = Server::start(Settings::shipped()).await;
    let process = server.process();
    process
        .stdout_line(|line| line.contains("http://") && !line.contains("curl"))
        .await;
    let stdout = process.stdout();
    let said = stdout
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let said: Vec<_> = said.map(str::trim).collect();
    let [curl, publish, page] = said[..] else {
        panic!("three lines, not {said:?}");
    };
    assert!(curl.starts_with("curl -N"), "{curl}");
    let elsewhere = TempDir::new().unwrap();
    let curl = pasted(curl, &elsewhere);
    curl.stdout_line(|line| line.contains("connection_confirmed"))
        .await;
    let published = pasted(publish, &elsewhere);
    let status = published.exited().await;
    assert_eq!(status.code(), Some(0), "{}", published.stderr());
    let data = |line: &str| line.starts_with("data: ") && !line.contains("connection_confirmed");
    curl.stdout_line(data).await;
    let left_behind = std::fs::read_dir(elsewhere.path()).unwrap().count();
    assert_eq!(left_behind, 0, "files in a folder that isn't the server's");

    let address: SocketAddr = page
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()
        .unwrap_or_else(|error| panic!("{error}: {page}"));
    assert_eq!(address.port(), server.address().port());
    let mut response = Request::get("/").send(address).await;
    assert_eq!(response.status, 200);
    let content_type = response.header("content-type").unwrap();
    assert!(content_type.starts_with("text/html"), "{content_type}");
    assert!(response.text().await.contains("</html>"));
}

#[tokio::test]
async fn a_start_needs_no_configuration_file_either() {
    let settings = Settings::shipped();
    let mut command = settings.command(&[]);
    std::fs::remove_file(settings.directory().join("config.yml")).unwrap();
    let process = Process::spawn("notify-server", &mut command);
    process.stderr_line(|line| line.contains("listening")).await;
}

#[tokio::test]
async fn demo_users_and_chats_are_there() {
    let server = Server::start(Settings::shipped()).await;
    let users: Value = server.get("/api/dev/users").await.json().await;
    let users = users["users"].as_array().unwrap();
    assert_eq!(users.len(), 5);
    for (id, chats) in [(1, json!([1, 2])), (2, json!([1, 2, 3])), (5, json!([1]))] {
        let user = users.iter().find(|user| user["id"] == id).unwrap();
        assert_eq!(user["chats"], chats, "{user}");
        assert!(user["name"].as_str().is_some_and(|name| !name.is_empty()));
        let token = development_token(&server, id).await;
        let mut stream = EventStream::new(server.events(&token).await);
        let confirmed = stream.expect_type("connection_confirmed").await;
        assert_eq!(confirmed.data["connected_chats"], chats);
    }
}

#[tokio::test]
async fn keys_and_data_are_kept_across_a_restart() {
    let settings = Settings::shipped();
    let server = Server::start(settings.clone()).await;
    let token = development_token(&server, 2).await;
    let outcome = settings.run(&["token", "--user", "3"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    server.connect_with(&token).await;
    server.stop().await;
    let again = Server::start(settings).await;
    again.connect_with(&token).await;
    again.connect_with(outcome.stdout.trim()).await;
    assert_eq!(
        again.get("/api/dev/users").await.json().await["users"]
            .as_array()
            .unwrap()
            .len(),
        5
    );
}

#[cfg(unix)]
#[tokio::test]
async fn keys_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let settings = Settings::shipped();
    let _server = Server::start(settings.clone()).await;
    let mut folders = vec![settings.directory().join("data")];
    let mut keys = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let name = entry.file_name().into_string().unwrap();
            if name.contains("key") || name.contains("secret") {
                keys += 1;
                let mode = entry.metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
            }
        }
    }
    assert!(keys > 0, "no key file in the data folder");
}

#[tokio::test]
async fn a_public_address_is_refused() {
    for host in ["0.0.0.0", "::", "192.0.2.1"] {
        for mode in ["auto", "development"] {
            let settings = Settings::text(&format!("mode: {mode}"))
                .argument("--host")
                .argument(host)
                .argument("--port")
                .argument("0");
            let outcome = settings.run(&[]).await;
            assert_eq!(outcome.code, Some(2), "{mode} on {host}: {outcome:?}");
            assert!(outcome.stderr.contains(host), "{outcome:?}");
            assert!(outcome.stderr.contains("development"), "{outcome:?}");
        }
    }
}

#[tokio::test]
async fn production_without_a_key_or_a_database_is_refused() {
    let secret = tokens::SECRET;
    for (config, key) in [
        ("mode: production".to_owned(), "auth.keys"),
        (
            format!("mode: production\nauth: {{keys: [{{algorithm: HS256, secret: {secret}}}]}}"),
            "database.url",
        ),
    ] {
        let outcome = Settings::text(&config).run(&["--port", "0"]).await;
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains(key), "{outcome:?}");
    }
}

#[tokio::test]
async fn production_has_no_development_doors() {
    let settings = Settings::new();
    let server = Server::start(settings.clone()).await;
    assert_eq!(server.get("/api/dev/users").await.status, 404);
    let request = Request::new("POST", "/api/dev/token").json(&json!({"user_id": 2}));
    assert_eq!(server.send(request).await.status, 404);
    assert_eq!(server.process().stdout(), "");
    assert!(!settings.directory().join("data").exists());
}

/// Behind a proxy everybody seems to be on this machine, and other sites' pages can have names
/// that resolve to it.
#[tokio::test]
async fn tokens_for_the_asking_are_for_this_machine_only() {
    let server = Server::start(Settings::shipped()).await;
    let ask = || Request::new("POST", "/api/dev/token").json(&json!({"user_id": 1}));
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.9"),
        ("forwarded", "for=203.0.113.9"),
        ("via", "1.1 proxy"),
        ("origin", "https://evil.example"),
        ("host", "evil.example"),
    ] {
        let response = server.send(ask().header(name, value)).await;
        assert_eq!(response.status, 403, "{name}: {value}");
    }
    assert_eq!(server.send(ask()).await.status, 200);
}

/// Someone who meant to configure production must not get development instead.
#[tokio::test]
async fn a_forgotten_key_is_not_development() {
    for (name, value, says) in [
        ("JWT_SECRET", "", "empty"),
        ("DATABASE_URL", "postgres://127.0.0.1:1/chat", "JWT_SECRET"),
    ] {
        let settings = Settings::shipped().environment(name, value);
        let outcome = settings.run(&["check-config"]).await;
        assert_eq!(outcome.code, Some(2), "{name}={value}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("auth.keys"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(says), "{}", outcome.stderr);
    }
}
