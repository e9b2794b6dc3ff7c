//! Change without restart: what counts at once, what does not, and what can't be used at all.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::tokens::Token;
use crate::support::{LogLine, Nats, Process, Request, Server, Settings, eventually, tokens};

fn admin() -> String {
    let rights = json!({"admin": true, "publish": ["*"], "subscribe": ["*"]});
    let token = Token::of(99).claim("notify", rights);
    token.sign_hs256(tokens::SECRET)
}

/// The settings, looked at by nobody but whoever is told to.
fn settings() -> Settings {
    Settings::new().set("reload.interval", "0s")
}

async fn publish(server: &Server, text: &str) -> u16 {
    let message = json!({"type": "note", "channel": "user:2", "data": {"content": text}});
    let request = Request::new("POST", "/api/v1/messages/send").bearer(&admin());
    server.send(request.json(&message)).await.status
}

async fn configuration(server: &Server) -> Value {
    server.get("/health").await.json().await["configuration"].clone()
}

async fn allowed(server: &Server, origin: &str) -> Option<String> {
    let request = Request::new("OPTIONS", "/events")
        .header("origin", origin)
        .header("access-control-request-method", "GET");
    let response = server.send(request).await;
    let allowed = response.header("access-control-allow-origin");
    allowed.map(str::to_owned)
}

#[tokio::test]
async fn no_stream_ends_and_limits_count_at_once() {
    let server = Server::start(settings()).await;
    let mut stream = server.connect(2).await;
    let one = settings_of(&server).set("server.max_connections_per_user", 1);
    server
        .reload_with(&one.clone().set("server.max_connections", 2))
        .await;
    assert_eq!(server.events(&tokens::of_user(2)).await.status, 429);
    assert_eq!(server.metric("notify_connections_max", "").await, 2.0);
    let _other = server.connect(3).await;
    assert_eq!(server.events(&tokens::of_user(4)).await.status, 503);
    // More are here than may be: they stay.
    server
        .reload_with(&one.set("server.max_connections", 1))
        .await;
    assert_eq!(publish(&server, "still here").await, 202);
    stream.expect_type("note").await;
    let two = settings_of(&server).set("server.max_connections_per_user", 2);
    server.reload_with(&two).await;
    let _third = server.connect(2).await;
}

#[tokio::test]
async fn the_rate_of_publishing_counts_at_once() {
    let server = Server::start(settings()).await;
    for _ in 0..5 {
        assert_eq!(publish(&server, "free").await, 202);
    }
    let slow = settings_of(&server)
        .set("server.publish_rate", 1)
        .set("server.publish_burst", 1);
    server.reload_with(&slow).await;
    assert_eq!(publish(&server, "one").await, 202);
    assert_eq!(publish(&server, "two").await, 429);
    server.reload_with(&settings_of(&server)).await;
    assert_eq!(publish(&server, "free again").await, 202);
}

#[tokio::test]
async fn what_is_logged_changes_by_module() {
    let server = Server::start(settings().set("logging.level", "info")).await;
    let mut stream = server.connect(2).await;
    publish(&server, "unheard").await;
    stream.expect_type("note").await;
    let routed = |server: &Server| {
        let log = server.log();
        let debug: Vec<_> = log.iter().filter(|line| line.level() == "DEBUG").collect();
        let of_hub = debug.iter().filter(|line| line.message() == "event routed");
        (of_hub.count(), debug.len())
    };
    assert_eq!(routed(&server), (0, 0));
    let level = "info,notify_server::hub=debug";
    server
        .reload_with(&settings_of(&server).set("logging.level", level))
        .await;
    publish(&server, "heard").await;
    stream.expect_type("note").await;
    let line = server
        .log_line(|line| line.message() == "event routed")
        .await;
    assert_eq!(line.text("recipients"), "1");
    let (of_hub, all) = routed(&server);
    assert_eq!(of_hub, all, "only that module says more");
    server
        .reload_with(&settings_of(&server).set("logging.level", "warn"))
        .await;
    publish(&server, "unheard").await;
    stream.expect_type("note").await;
    assert_eq!(routed(&server).0, 1);
}

#[tokio::test]
async fn origins_are_allowed_and_forbidden_at_once() {
    const PAGE: &str = "https://chat.example.com";
    let server = Server::start(settings()).await;
    assert_eq!(allowed(&server, PAGE).await, None);
    let with = |origins: Value| settings_of(&server).set("server.allowed_origins", origins);
    server.reload_with(&with(json!([PAGE]))).await;
    assert_eq!(allowed(&server, PAGE).await.as_deref(), Some(PAGE));
    assert_eq!(allowed(&server, "https://other.example").await, None);
    let request = Request::get("/events").bearer(&tokens::of_user(2));
    let response = server.send(request.header("origin", PAGE)).await;
    assert_eq!(response.header("access-control-allow-origin"), Some(PAGE));
    server.reload_with(&with(json!("*"))).await;
    assert_eq!(
        allowed(&server, "https://other.example").await.as_deref(),
        Some("*")
    );
    server.reload_with(&with(json!([]))).await;
    assert_eq!(allowed(&server, PAGE).await, None);
}

#[tokio::test]
async fn the_backend_is_asked_for_other_permissions() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let _asked = backend
        .answer(
            "backend.may",
            |question| json!({"allow": question["user_id"] == 7}),
        )
        .await;
    let server = Server::start(settings().nats(&nats)).await;
    let open = async |user: i64| {
        let request = Request::get("/sse/stream/job:1").bearer(&tokens::of_user(user));
        server.send(request).await.status
    };
    assert_eq!(open(7).await, 403);
    let asking = settings_of(&server)
        .set("authorize.resources", json!(["job"]))
        .set("authorize.subject", "backend.may");
    server.reload_with(&asking).await;
    assert_eq!((open(7).await, open(8).await), (200, 403));
    // Answers that were remembered are not those of the other subject.
    let silent = asking
        .set("authorize.subject", "backend.nobody")
        .set("authorize.timeout", "100ms");
    server.reload_with(&silent).await;
    assert_eq!(open(7).await, 403);
    server.reload_with(&settings_of(&server)).await;
    assert_eq!(open(7).await, 403);
}

#[tokio::test]
async fn scrapers_need_the_token_that_is_in_the_file_now() {
    let settings = Settings::new()
        .set("reload.interval", "100ms")
        .set("metrics.token_file", "token");
    let file = settings.directory().join("token");
    std::fs::write(&file, "first-token\n").unwrap();
    let server = Server::start(settings).await;
    let scrape = async |token: &str| {
        let request = Request::get("/metrics").bearer(token);
        server.send(request).await.status
    };
    assert_eq!(scrape("first-token").await, 200);
    // Its configuration stays as it is.
    std::fs::write(&file, "second-token\n").unwrap();
    eventually("the other token to be taken", || async {
        (scrape("second-token").await == 200).then_some(())
    })
    .await;
    assert_eq!(scrape("first-token").await, 401);
    let log = server
        .log_line(|line| line.message() == "the configuration was read again")
        .await;
    assert_eq!(log.text("changed"), "metrics.token_file");
    // One that is gone changes nothing.
    std::fs::remove_file(&file).unwrap();
    let refused = |line: &LogLine| line.level() == "ERROR";
    let line = server.log_line(refused).await;
    assert!(
        line.text("problem").contains("metrics.token_file"),
        "{line:?}"
    );
    assert_eq!(scrape("second-token").await, 200);
    assert!(!server.process().stderr().contains("second-token"));
}

/// Swaps the folder that a link leads to, as Kubernetes does when a ConfigMap changes.
fn swap(folder: &Path, name: &str, text: &str) {
    let version = folder.join(name);
    std::fs::create_dir(&version).unwrap();
    std::fs::write(version.join("config.yml"), text).unwrap();
    symlink(name, folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[tokio::test]
async fn a_file_that_is_written_or_swapped_is_noticed() {
    let settings = Settings::new().set("reload.interval", "100ms");
    let server = Server::start(settings.clone()).await;
    let mut stream = server.connect(2).await;
    let becomes = async |most: u32| {
        server
            .metric_becomes("notify_connections_max", "", most.into())
            .await;
    };
    let with = |most: u32| {
        settings
            .clone()
            .set("server.max_connections", most)
            .config_text()
    };
    // In its place, by another file, and then by a link to one in a folder that is swapped.
    let file = settings.directory().join("config.yml");
    std::fs::write(&file, with(101)).unwrap();
    becomes(101).await;
    server.rewrite_text(&with(102));
    becomes(102).await;
    swap(settings.directory(), "..1", &with(103));
    symlink("..data/config.yml", file.with_extension("link")).unwrap();
    std::fs::rename(file.with_extension("link"), &file).unwrap();
    becomes(103).await;
    swap(settings.directory(), "..2", &with(104));
    becomes(104).await;
    // A file that is not there for a moment is no configuration without settings.
    std::fs::remove_file(&file).unwrap();
    server
        .metric_becomes("notify_config_last_reload_successful", "", 0.0)
        .await;
    becomes(104).await;
    std::fs::write(&file, with(105)).unwrap();
    becomes(105).await;
    server
        .metric_becomes("notify_config_last_reload_successful", "", 1.0)
        .await;
    publish(&server, "still here").await;
    stream.expect_type("note").await;
}

/// A Secret may be swapped after the ConfigMap that names one of its files.
#[tokio::test]
async fn a_file_that_comes_after_the_configuration_that_names_it_is_waited_for() {
    let settings = Settings::new().set("reload.interval", "100ms");
    let server = Server::start(settings.clone()).await;
    let token = settings.directory().join("token");
    let wanted = settings
        .clone()
        .set("metrics.token_file", token.to_str().unwrap());
    server.rewrite_text(&wanted.set("server.max_connections", 101).config_text());
    eventually("the configuration to be refused", || async {
        (configuration(&server).await["refused"] == true).then_some(())
    })
    .await;
    let tried = "notify_config_reloads_total";
    eventually("more tries", || async {
        (server.metric(tried, "refused").await >= 3.0).then_some(())
    })
    .await;
    std::fs::write(&token, "t0ken").unwrap();
    eventually("the configuration to be in force", || async {
        (configuration(&server).await["refused"] == false).then_some(())
    })
    .await;
    assert_eq!(server.get("/metrics").await.status, 401);
    let errors = server.log();
    let errors = errors.iter().filter(|line| line.level() == "ERROR");
    assert_eq!(errors.count(), 1);
}

#[tokio::test]
async fn what_can_not_be_used_changes_nothing_and_is_said_as_at_the_start() {
    let server = Server::start(settings()).await;
    let mut stream = server.connect(2).await;
    // Of each the rest could be put in place.
    let wanted = || {
        settings_of(&server)
            .set("server.max_connections", 7)
            .set("logging.level", "error")
            .set(
                "server.allowed_origins",
                json!(["https://chat.example.com"]),
            )
    };
    let keys = |key: Value| wanted().set("auth.keys", json!([key])).config_text();
    let cases = [
        ("server: [".to_owned(), "not valid YAML"),
        (
            wanted().set("server.max_connection", 5).config_text(),
            "did you mean max_connections?",
        ),
        (
            wanted().set("server.publish_rate", 0).config_text(),
            "server.publish_rate = 0",
        ),
        (
            wanted().set("logging.level", "loud").config_text(),
            "logging.level = loud",
        ),
        (
            wanted().set("auth.keys", json!([])).config_text(),
            "auth.keys",
        ),
        (
            wanted()
                .set("server.allowed_origins", json!(["https://a b"]))
                .config_text(),
            "allowed_origins",
        ),
        (
            keys(json!({"secret_file": "nowhere"})),
            "nowhere can't be read",
        ),
        (
            keys(json!({"pem": "s3cret-nonsense"})),
            "auth.keys[0]: not a public key",
        ),
        (
            keys(json!({"jwks_url": "http://127.0.0.1:1/s3cret?k=s3cret"})),
            "can't be fetched",
        ),
    ];
    for (number, (text, says)) in cases.iter().enumerate() {
        server.rewrite_text(text);
        server.reload().await;
        let refused = server
            .metric("notify_config_reloads_total", "refused")
            .await;
        assert_eq!(refused as usize, number + 1, "{says}");
        assert_eq!(
            server
                .metric("notify_config_last_reload_successful", "")
                .await,
            0.0
        );
        let last = eventually("the log to say why", || async {
            let log = server.log();
            let errors = log.iter().filter(|line| line.level() == "ERROR");
            errors.map(|line| line.text("problem")).nth(number)
        })
        .await;
        assert!(last.contains(says), "{says}: {last}");
    }
    assert_eq!(server.metric("notify_connections_max", "").await, 10_000.0);
    assert_eq!(allowed(&server, "https://chat.example.com").await, None);
    assert_eq!(configuration(&server).await["refused"], true);
    publish(&server, "still here").await;
    stream.expect_type("note").await;
    let _new = server.connect(3).await;
    // The level is still what it was: this is said at debug.
    server
        .log_line(|line| line.message() == "event routed")
        .await;
    server.reload_with(&wanted()).await;
    assert_eq!(server.metric("notify_connections_max", "").await, 7.0);
    assert_eq!(configuration(&server).await["refused"], false);
    assert!(!server.process().stderr().contains("s3cret-nonsense"));
    assert!(!server.process().stderr().contains("k=s3cret"));
}

#[tokio::test]
async fn what_needs_a_restart_is_named_until_it_is_undone() {
    let server = Server::start(settings()).await;
    let url = format!(
        "sqlite://{}?s3cret=1",
        server.settings().database_file().display()
    );
    let other = settings_of(&server)
        .set("stream.ping_interval", "15s")
        .set("database.url", url)
        .set("server.workers", 3)
        .set("server.max_connections", 9);
    server.reload_with(&other).await;
    let names = ["database.url", "server.workers", "stream.ping_interval"];
    let line = server
        .log_line(|line| {
            line.message() == "settings have changed that count from the next start on"
        })
        .await;
    assert_eq!(
        (line.level(), line.text("keys")),
        ("WARN", names.join(", "))
    );
    let line = server
        .log_line(|line| line.message() == "the configuration was read again")
        .await;
    assert_eq!(line.text("changed"), "server.max_connections");
    assert_eq!(server.metric("notify_config_restart_needed", "").await, 3.0);
    assert_eq!(configuration(&server).await["restart_needed"], json!(names));
    // What counts at once does.
    assert_eq!(server.metric("notify_connections_max", "").await, 9.0);
    // Another way to write the same is no change.
    let same = settings_of(&server).set("stream.ping_interval", "30000ms");
    server.reload_with(&same).await;
    assert_eq!(server.metric("notify_config_restart_needed", "").await, 0.0);
    assert_eq!(configuration(&server).await["restart_needed"], json!([]));
    assert_eq!(
        server
            .metric("notify_config_reloads_total", "applied")
            .await,
        2.0
    );
    server.reload().await;
    assert_eq!(
        server
            .metric("notify_config_reloads_total", "unchanged")
            .await,
        1.0
    );
    assert!(!server.process().stderr().contains("s3cret"));
}

#[tokio::test]
async fn an_administrator_asks_for_it() {
    let server = Server::start(settings()).await;
    let reload = async |token: &str| {
        let request = Request::new("POST", "/api/v1/reload").bearer(token);
        let mut response = server.send(request).await;
        (response.status, response.json().await)
    };
    assert_eq!(reload(&tokens::of_user(2)).await.0, 403);
    assert_eq!(reload("nonsense").await.0, 401);
    server.rewrite(
        &settings_of(&server)
            .set("logging.level", "info")
            .set("server.port", 1),
    );
    let (status, answer) = reload(&admin()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["changed"], json!(["logging.level"]));
    assert_eq!(answer["restart_needed"], json!(["server.port"]));
    server.rewrite_text("server: {prot: 1}");
    let (status, answer) = reload(&admin()).await;
    assert_eq!((status, &answer["field"]), (422, &json!("configuration")));
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.contains("did you mean port?"), "{detail}");
    assert_eq!(reload(&tokens::of_user(2)).await.0, 403);
}

#[tokio::test]
async fn development_mode_does_not_begin_or_end_without_a_restart() {
    let development =
        Settings::text("server: {host: 127.0.0.1, port: 0}\nreload: {interval: 0s}\n")
            .environment("NOTIFY_SERVER__LOGGING__FORMAT", "json");
    let server = Server::start(development).await;
    let token = async || {
        let request = Request::new("POST", "/api/dev/token").json(&json!({"user_id": 2}));
        let mut response = server.send(request).await;
        response.json().await["access_token"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut stream = server.connect_with(&token().await).await;
    // The key that the server has made stays good.
    server.reload().await;
    let text = format!(
        "server: {{host: 127.0.0.1, port: 0}}\nreload: {{interval: 0s}}\nauth: {{keys: [{{secret: {}}}]}}\n\
         database: {{url: 'sqlite://x.db'}}\n",
        tokens::SECRET
    );
    server.rewrite_text(&text);
    server.reload().await;
    let needed = configuration(&server).await["restart_needed"].clone();
    assert_eq!(needed, json!(["auth.keys", "database.url"]));
    assert_eq!(server.events(&tokens::of_user(2)).await.status, 401);
    let _other = server.connect_with(&token().await).await;
    let publish = Request::new("POST", "/api/v1/bus/fechatter.realtime.user.2")
        .bearer(&token().await)
        .json(&json!({"content": "still here"}));
    assert_eq!(server.send(publish).await.status, 202);
    stream.expect_type("message").await;
}

/// What the server was started with, in its own directory.
fn settings_of(server: &Server) -> Settings {
    server.settings().clone()
}

/// A signal that means something else where somebody has started the server by hand.
#[tokio::test]
async fn a_server_in_a_terminal_ends_with_the_terminal() {
    let settings = Settings::new();
    settings.run(&["check-config"]).await;
    let server = env!("CARGO_BIN_EXE_notify-server");
    let mut command = std::process::Command::new("script");
    command
        .args(["-qefc", server, "/dev/null"])
        .current_dir(settings.directory());
    let terminal = Process::spawn("script (of util-linux)", &mut command);
    let listening =
        |line: &str| LogLine::parse(line).is_some_and(|line| line.message() == "listening");
    let line = terminal.stdout_line(listening).await;
    let address: SocketAddr = LogLine::parse(&line)
        .unwrap()
        .text("address")
        .parse()
        .unwrap();
    let answers = async || Request::get("/live").try_send(address).await.is_ok();
    assert!(answers().await);
    terminal.signal("KILL");
    eventually("the server to end", || async {
        (!answers().await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_same_read_again_is_said_to_be_the_same() {
    let server = Server::start(Settings::new()).await;
    server.reload().await;
    let line = server
        .log_line(|line| {
            line.message()
                .starts_with("the configuration was read again")
        })
        .await;
    assert_eq!(
        line.message(),
        "the configuration was read again, and nothing that counts at once has changed"
    );
    assert!(line.field("changed").is_none(), "{}", line.whole());
}
