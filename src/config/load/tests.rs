//! Layers, and what is said about wrong ones.

use std::path::PathBuf;

use super::*;

struct Case {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    overrides: Overrides,
}

impl Case {
    fn new(yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.yml"), yaml).unwrap();
        Self {
            folder,
            environment: Vec::new(),
            overrides: Vec::new(),
        }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("config.yml")
    }

    fn load(&self) -> Result<Config, ConfigError> {
        let environment = self.environment.clone().into_iter();
        load(&self.file(), true, environment, &self.overrides)
    }

    fn error(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

#[test]
fn later_layers_win() {
    let mut case = Case::new("server:\n  port: 1\n  max_connections: 7\n")
        .env("SERVICE_PORT", "2")
        .env("NOTIFY_SERVER__PORT", "3")
        .env("NOTIFY_SERVER__STREAM__PING_INTERVAL", "5s")
        .env("NATS_URL", "nats://a:4222, nats://b:4222");
    let config = case.load().unwrap();
    assert_eq!(config.server.port, 3);
    assert_eq!(config.server.max_connections, 7);
    assert_eq!(config.stream.ping_interval.0.as_secs(), 5);
    assert_eq!(config.nats.url.len(), 2);
    case.overrides = vec![("server.port", "4".to_owned(), "--port")];
    assert_eq!(case.load().unwrap().server.port, 4);
}

#[test]
fn both_readings_of_a_variable_name_work() {
    for name in ["NOTIFY_SERVER__PORT", "NOTIFY_SERVER__SERVER__PORT"] {
        assert_eq!(Case::new("").env(name, "9").load().unwrap().server.port, 9);
    }
}

#[test]
fn plain_variables_make_a_working_server() {
    let config = Case::new("")
        .env("JWT_SECRET", "0123456789abcdef0123456789abcdef")
        .env("DATABASE_URL", "postgres://h/db")
        .env("HEARTBEAT_INTERVAL", "15")
        .env("MESSAGE_TTL", "3600")
        .env("MAX_CONNECTIONS", "5")
        .env("CORS_ORIGINS", "https://a.example,https://b.example")
        .load()
        .unwrap();
    assert!(!config.is_development());
    assert_eq!(config.host().to_string(), "0.0.0.0");
    assert_eq!(config.stream.ping_interval.0.as_secs(), 15);
    assert_eq!(config.events.default_ttl.0.as_secs(), 3600);
    assert_eq!(config.server.max_connections, 5);
    assert_eq!(config.server.allowed_origins.len(), 2);
}

#[test]
fn a_list_in_a_variable_has_commas_or_is_json() {
    let both = ["https://a.example", "http://localhost:3000"];
    for text in [
        "https://a.example,http://localhost:3000",
        " https://a.example , http://localhost:3000,",
        r#"["https://a.example", "http://localhost:3000"]"#,
    ] {
        let case = Case::new("").env("CORS_ORIGINS", text);
        assert_eq!(case.load().unwrap().server.allowed_origins, both, "{text}");
    }
    for wrong in ["[\"https://a.example\"", "[1]"] {
        let error = Case::new("").env("CORS_ORIGINS", wrong).error();
        assert!(error.contains("CORS_ORIGINS"), "{error}");
    }
}

#[test]
fn unknown_keys_are_named_with_a_near_miss() {
    let case = Case::new("server:\n  prot: 1\nstraem: {}\nauth:\n  keys: [{secrte: x}]\n");
    let error = case.error();
    for part in [
        "server.prot",
        "did you mean port",
        "straem",
        "did you mean stream",
        "auth.keys[0].secrte",
        "did you mean secret",
        "config.yml",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let error = Case::new("").env("NOTIFY_SERVER__PROT", "1").error();
    assert!(error.contains("NOTIFY_SERVER__PROT"), "{error}");
    assert!(error.contains("unknown key"), "{error}");
}

#[test]
fn wrong_types_say_what_is_allowed() {
    let cases = [
        (
            "server: {port: many}",
            "server.port = \"many\"",
            "0 to 65535",
        ),
        ("server: {port: 70000}", "server.port = 70000", "0 to 65535"),
        (
            "stream: {ping_interval: soon}",
            "stream.ping_interval",
            "30s",
        ),
        (
            "stream: {outbox_bytes: big}",
            "stream.outbox_bytes",
            "1 MiB",
        ),
        ("auth: {enabled: maybe}", "auth.enabled", "true or false"),
        ("mode: prod", "mode", "`auto`, `development`, `production`"),
        ("nats: {subjects: 7}", "nats.subjects", "a list"),
        ("server: []", "server (from", "keys and values"),
        ("- a", "configuration", "keys and values"),
        ("a: [", "configuration", "YAML"),
    ];
    for (yaml, key, allowed) in cases {
        let error = Case::new(yaml).error();
        assert!(error.contains(key), "{key:?} in {error}");
        assert!(error.contains(allowed), "{allowed:?} in {error}");
    }
}

#[test]
fn impossible_values_are_refused() {
    let cases = [
        ("server: {host: 0.0.0.0}", "server.host", "loopback"),
        (
            "mode: development\nserver: {host: 10.1.2.3}",
            "server.host",
            "loopback",
        ),
        (
            "stream: {ping_interval: 0s}",
            "stream.ping_interval",
            "at least",
        ),
        (
            "stream: {outbox_events: 0}",
            "stream.outbox_events",
            "at least",
        ),
        ("nats: {subjects: [a..b]}", "nats.subjects", "empty"),
        ("nats: {subjects: [a.*.c, a.b.*]}", "nats.subjects", "twice"),
        (
            "database: {membership_query: SELECT 1}",
            "database.membership_query",
            "$1",
        ),
        (
            "database: {url: 'mysql://h/db'}",
            "database.url",
            "postgres://",
        ),
        (
            "server: {allowed_origins: [example.com]}",
            "server.allowed_origins",
            "https://",
        ),
        ("logging: {level: loud}", "logging.level", "info"),
        ("mode: production", "auth.keys", "JWT_SECRET"),
    ];
    for (yaml, key, allowed) in cases {
        let error = Case::new(yaml).error();
        assert!(error.contains(key), "{key:?} in {error}");
        assert!(error.contains(allowed), "{allowed:?} in {error}");
    }
}

#[test]
fn secrets_are_not_repeated() {
    let case = Case::new("auth: {keys: [{secret: [s3cret]}]}\nnats: {url: {a: s3cret}}");
    assert!(!case.error().contains("s3cret"), "{}", case.error());
    let config = Case::new("nats: {url: 'nats://u:s3cret@h'}")
        .env("JWT_SECRET", "s3cret")
        .env("DATABASE_URL", "postgres://u:s3cret@h/db")
        .load()
        .unwrap();
    let yaml = config.to_yaml().unwrap();
    assert!(!yaml.contains("s3cret"), "{yaml}");
}

#[test]
fn a_missing_file_is_an_error_only_if_it_was_asked_for() {
    let file = Path::new("/nowhere/config.yml");
    assert!(load(file, false, std::iter::empty(), &Vec::new()).is_ok());
    assert!(load(file, true, std::iter::empty(), &Vec::new()).is_err());
}
