//! Where settings come from, and what is said of wrong ones.

use serde_json::{Value, json};

use crate::support::payload::{self, chat_subject};
use crate::support::{Nats, Postgres, Server, Settings, shipped_config, sqlite, tokens};

async fn effective(settings: &Settings) -> Value {
    let outcome = settings.run(&["check-config"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    serde_saphyr::from_str(&outcome.stdout).unwrap()
}

/// With a database, which production can't do without: a key is all it takes to be that.
fn with_database(text: &str) -> Settings {
    let settings = Settings::text(text);
    if text.contains("database:") {
        return settings;
    }
    settings.environment("DATABASE_URL", "sqlite://chat.db")
}

/// Both `check-config` and the start of the server must refuse the settings with exit code 2 and
/// all of `words`; what they miss.
async fn missing_words(settings: &Settings, words: &[&str]) -> Vec<String> {
    let mut missing = Vec::new();
    for arguments in [&["check-config"], &["serve"]] {
        let outcome = settings.run(arguments).await;
        let config = settings.config_text();
        if outcome.code != Some(2) {
            let code = outcome.code;
            missing.push(format!("{arguments:?} exits with {code:?} for {config}"));
            return missing;
        }
        let said = outcome.stderr;
        let unsaid = words.iter().filter(|word| !said.contains(**word));
        missing.extend(unsaid.map(|word| format!("{word:?} for {config} in {said}")));
    }
    missing
}

#[tokio::test]
async fn defaults_are_as_documented() {
    let config = effective(&Settings::text("{}")).await;
    for (pointer, value) in [
        ("/server/port", json!(6687)),
        ("/server/max_connections", json!(10_000)),
        ("/server/max_connections_per_user", json!(20)),
        ("/server/drain_timeout", json!("30s")),
        ("/stream/ping_interval", json!("30s")),
        ("/stream/outbox_events", json!(256)),
        ("/stream/write_timeout", json!("30s")),
        ("/presence/enabled", json!(true)),
        ("/presence/grace", json!("10s")),
        (
            "/auth/user_id_claims",
            json!(["user.id", "user_id", "id", "sub"]),
        ),
        (
            "/nats/subjects",
            json!(["fechatter.realtime.>", "fechatter.chat.>"]),
        ),
    ] {
        assert_eq!(config.pointer(pointer), Some(&value), "{pointer}");
    }
}

#[tokio::test]
async fn the_shipped_file_says_what_the_defaults_are() {
    let shipped = Settings::text(&shipped_config());
    assert_eq!(
        effective(&shipped).await,
        effective(&Settings::text("{}")).await
    );
}

#[tokio::test]
async fn flags_win_over_the_environment_over_the_file() {
    let file =
        Settings::text("server: {port: 1001, max_connections: 11}\nstream: {ping_interval: 7s}");
    assert_eq!(effective(&file).await["server"]["port"], 1001);
    let environment = file
        .environment("NOTIFY_SERVER__PORT", "1002")
        .environment(
            "NOTIFY_SERVER__NATS__URL",
            "nats://one:4222,nats://two:4222",
        )
        .environment("NOTIFY_SERVER__STREAM__RETRY", "4s");
    let config = effective(&environment).await;
    assert_eq!(config["server"]["port"], 1002);
    assert_eq!(config["server"]["max_connections"], 11);
    assert_eq!(config["stream"]["ping_interval"], "7s");
    assert_eq!(config["stream"]["retry"], "4s");
    assert_eq!(
        config["nats"]["url"].as_array().map(Vec::len),
        Some(2),
        "{config}"
    );
    let flags = environment.argument("--port").argument("1003");
    assert_eq!(effective(&flags).await["server"]["port"], 1003);
}

#[tokio::test]
async fn a_list_of_one_needs_no_brackets() {
    let text = "auth: {issuer: a, audience: b}\nnats: {url: nats://c, subjects: d.>}\n\
        server: {allowed_origins: https://e}";
    let config = effective(&Settings::text(text)).await;
    for (pointer, value) in [
        ("/auth/issuer/0", "a"),
        ("/auth/audience/0", "b"),
        ("/nats/url/0", "nats://c"),
        ("/nats/subjects/0", "d.>"),
        ("/server/allowed_origins/0", "https://e"),
    ] {
        assert_eq!(config.pointer(pointer), Some(&json!(value)), "{pointer}");
    }
}

#[tokio::test]
async fn the_names_that_other_servers_use_are_understood() {
    let settings = Settings::text("{}")
        .environment("SERVICE_PORT", "1004")
        .environment("MAX_CONNECTIONS", "12")
        .environment("HEARTBEAT_INTERVAL", "15")
        .environment("MESSAGE_TTL", "3600")
        .environment(
            "CORS_ORIGINS",
            "https://a.example.com,https://b.example.com",
        )
        .environment("JWT_SECRET", tokens::SECRET)
        .environment("NATS_URL", "nats://one:4222")
        .environment("DATABASE_URL", "postgres://tester@127.0.0.1/chat");
    let config = effective(&settings).await;
    for (pointer, value) in [
        ("/server/port", json!(1004)),
        ("/server/max_connections", json!(12)),
        ("/stream/ping_interval", json!("15s")),
        (
            "/server/allowed_origins",
            json!(["https://a.example.com", "https://b.example.com"]),
        ),
        ("/auth/keys/0/secret", json!("********")),
        ("/nats/url/0", json!("nats://one:4222")),
    ] {
        assert_eq!(
            config.pointer(pointer),
            Some(&value),
            "{pointer} in {config}"
        );
    }
    let ttl = config["events"]["default_ttl"].as_str().unwrap();
    assert!(["1h", "3600s", "60m"].contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn three_variables_beside_the_shipped_file_are_enough() {
    let nats = Nats::start().await;
    let postgres = Postgres::start().await;
    let members = sqlite::insert_members(&[(5, &[1])]);
    postgres
        .execute(&format!("{}; {members}", sqlite::CHAT_MEMBERS))
        .await;
    let settings = Settings::shipped()
        .environment("NATS_URL", &nats.url())
        .environment("DATABASE_URL", &postgres.url())
        .environment("JWT_SECRET", tokens::SECRET);
    let server = Server::start(settings).await;
    let mut stream = server.connect(1).await;
    let backend = nats.backend().await;
    backend
        .publish(&chat_subject(5), &payload::chat_message(5, "x"))
        .await;
    stream.expect_type("new_message").await;
}

#[tokio::test]
async fn mistakes_name_the_key_the_value_and_what_is_allowed() {
    let mut unsaid = Vec::new();
    for (text, says) in [
        ("sever: {port: 1}", &["sever", "did you mean", "server"][..]),
        (
            "server: {prot: 1}",
            &["server.prot", "did you mean", "port"],
        ),
        (
            "auth: {keys: [{algoritm: HS256}]}",
            &["algoritm", "did you mean", "algorithm"],
        ),
        ("server: {port: many}", &["server.port", "many", "65535"]),
        ("server: {port: 70000}", &["server.port", "70000", "65535"]),
        (
            "server: {max_connections: -1}",
            &["server.max_connections", "-1"],
        ),
        (
            "stream: {ping_interval: soon}",
            &["stream.ping_interval", "soon", "30s"],
        ),
        (
            "stream: {outbox_bytes: lots}",
            &["stream.outbox_bytes", "lots", "MiB"],
        ),
        (
            "logging: {format: xml}",
            &["logging.format", "xml", "human", "json"],
        ),
        ("mode: prodcution", &["mode", "prodcution", "production"]),
        ("log: disk", &["log", "disk", "jetstream", "memory"]),
        (
            "jetstream: {storage: tape}",
            &["jetstream.storage", "tape", "file", "memory"],
        ),
        (
            "jetstream: {max_age: long}",
            &["jetstream.max_age", "long", "30s"],
        ),
        (
            "auth: {keys: [{algorithm: HS999, secret: x}]}",
            &["algorithm", "HS999", "HS256"],
        ),
        (
            "nats: {url: [\"http://x\"]}",
            &["nats.url", "http://x", "nats://"],
        ),
        ("nats: {subjects: [\"a..b\"]}", &["nats.subjects", "a..b"]),
        (
            "database: {url: \"mysql://x\"}",
            &["database.url", "postgres", "sqlite"],
        ),
        ("server: {port: 1\n", &["config.yml", "line"]),
        ("[]", &["config.yml"]),
    ] {
        unsaid.extend(missing_words(&with_database(text), says).await);
    }
    assert!(unsaid.is_empty(), "{}", unsaid.join("\n"));
}

#[tokio::test]
async fn impossible_values_are_found() {
    let mut unsaid = Vec::new();
    for (text, key) in [
        ("server: {max_connections: 0}", "server.max_connections"),
        ("stream: {ping_interval: 0s}", "stream.ping_interval"),
        ("stream: {outbox_events: 0}", "stream.outbox_events"),
        ("auth: {user_id_claims: []}", "auth.user_id_claims"),
        ("auth: {keys: [{algorithm: HS256}]}", "auth.keys"),
        (
            "auth: {keys: [{algorithm: HS256, secret_file: nowhere.txt}]}",
            "nowhere.txt",
        ),
        ("auth: {keys: [{pem: nonsense}]}", "auth.keys"),
        ("nats: {subjects: []}", "nats.subjects"),
        ("presence: {grace: 6m}", "presence.grace"),
        ("presence: {max_listeners: 0}", "presence.max_listeners"),
        (
            "database: {url: \"sqlite://x\", members_query: SELECT 1}",
            "database.members_query",
        ),
        ("log: jetstream", "nats.url"),
        ("jetstream: {stream: a.b}", "jetstream.stream"),
        ("jetstream: {replicas: 0}", "jetstream.replicas"),
        ("jetstream: {max_bytes: 0}", "jetstream.max_bytes"),
        ("jetstream: {max_age: 0s}", "jetstream.max_age"),
        ("jetstream: {park: 1m}", "jetstream.park"),
        ("jetstream: {republish: \"a.*\"}", "jetstream.republish"),
        (
            "nats: {url: \"nats://x\", subjects: [\">\"]}",
            "jetstream.republish",
        ),
        ("nats: {peers: \"a b\"}", "nats.peers"),
        ("nats: {service: \"a.b\"}", "nats.service"),
        (
            "nats: {url: \"nats://x\", subjects: [\"notify-server.*\"]}",
            "nats.service",
        ),
        (
            "nats: {url: \"nats://x\", peers: fechatter.realtime.peers}",
            "nats.peers",
        ),
        (
            "nats: {url: \"nats://x\", peers: notify.log.peers}",
            "jetstream.republish",
        ),
        (
            "server: {allowed_origins: [chat.example.com]}",
            "server.allowed_origins",
        ),
        (
            "server: {sign_in: //chat.example.com/signin}",
            "server.sign_in",
        ),
        (
            "server: {sign_in: \"javascript:alert(1)\"}",
            "server.sign_in",
        ),
    ] {
        unsaid.extend(missing_words(&with_database(text), &[key]).await);
    }
    assert!(unsaid.is_empty(), "{}", unsaid.join("\n"));
}

#[tokio::test]
async fn the_log_can_be_chosen_by_a_variable() {
    let nats = Nats::start_without_jetstream(&[]).await;
    let settings = Settings::new()
        .nats(&nats)
        .environment("NOTIFY_SERVER__LOG", "memory");
    Server::start(settings).await;
}

#[tokio::test]
async fn wrong_variables_are_found_too() {
    let mut unsaid = Vec::new();
    for (name, value, says) in [
        (
            "NOTIFY_SERVER__PROT",
            "1",
            &["NOTIFY_SERVER__PROT", "did you mean"][..],
        ),
        (
            "NOTIFY_SERVER__PORT",
            "many",
            &["NOTIFY_SERVER__PORT", "many"],
        ),
        ("MAX_CONNECTIONS", "many", &["MAX_CONNECTIONS", "many"]),
    ] {
        let settings = Settings::text("{}").environment(name, value);
        unsaid.extend(missing_words(&settings, says).await);
    }
    assert!(unsaid.is_empty(), "{}", unsaid.join("\n"));
}

#[tokio::test]
async fn a_file_that_was_named_must_exist() {
    let settings = Settings::text("{}");
    let outcome = settings
        .run(&["--config", "nowhere.yml", "check-config"])
        .await;
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("nowhere.yml"), "{outcome:?}");
}

#[tokio::test]
async fn secrets_are_masked() {
    let password = "hunter2-hunter2";
    let settings = Settings::new()
        .set(
            "nats.url",
            format!("nats://notify:{password}@127.0.0.1:4222"),
        )
        .set(
            "database.url",
            format!("postgres://tester:{password}@127.0.0.1/chat"),
        );
    let outcome = settings.run(&["check-config"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let output = outcome.stdout + &outcome.stderr;
    for secret in [password, tokens::SECRET] {
        assert!(!output.contains(secret), "{output}");
    }
    assert!(
        output.contains("127.0.0.1:4222"),
        "the rest is there: {output}"
    );
}
