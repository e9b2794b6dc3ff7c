//! The command line, each subcommand.

use serde_json::{Value, json};

use crate::support::payload;
use crate::support::tokens::{SECRET, Token};
use crate::support::{KeyPair, Kind, Nats, Outcome, Process, Request, Server, Settings, tokens};

fn claims(token: &str) -> Value {
    let key = jsonwebtoken::DecodingKey::from_secret(SECRET.as_bytes());
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    validation.validate_aud = false;
    jsonwebtoken::decode(token, &key, &validation)
        .unwrap()
        .claims
}

fn succeeded(outcome: &Outcome) -> &str {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout.trim()
}

#[tokio::test]
async fn token_prints_a_token_that_the_server_accepts() {
    let settings = Settings::new();
    let outcome = settings.run(&["token", "--user", "2"]).await;
    let token = succeeded(&outcome);
    let server = Server::start(settings.clone()).await;
    server.connect_with(token).await;
    let outcome = settings
        .run(&[
            "token",
            "--user",
            "ann",
            "--ttl",
            "90m",
            "--claim",
            "role=tester",
            "--claim",
            "level=3",
        ])
        .await;
    let claims = claims(succeeded(&outcome));
    let lives = claims["exp"].as_i64().unwrap() - tokens::now();
    assert!((90 * 60 - 60..=90 * 60).contains(&lives), "{lives} s");
    assert_eq!(claims["role"], "tester");
    assert_eq!(claims["level"], 3, "what is JSON stays JSON");
}

#[tokio::test]
async fn token_carries_what_the_configuration_demands() {
    let settings = Settings::new()
        .set("auth.issuer", json!(["https://issuer.example.com"]))
        .set("auth.audience", json!(["notify"]));
    let outcome = settings.run(&["token", "--user", "2"]).await;
    let token = succeeded(&outcome).to_owned();
    Server::start(settings).await.connect_with(&token).await;
}

#[tokio::test]
async fn token_says_so_where_it_has_no_key_to_sign_with() {
    let key = KeyPair::generate(Kind::Ed25519);
    let settings = Settings::new().set("auth.keys", json!([{"pem": key.public_pem()}]));
    let outcome = settings.run(&["token", "--user", "2"]).await;
    assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
    assert!(
        outcome.stderr.contains("HS256") || outcome.stderr.contains("secret"),
        "{outcome:?}"
    );
    assert_eq!(outcome.stdout, "");
}

#[tokio::test]
async fn listen_prints_events_readably() {
    let settings = Settings::new().chat(5, &[2]);
    let server = Server::start(settings.clone()).await;
    let url = server.url();
    for identity in [["--user", "2"], ["--token", &tokens::of_user(2)]] {
        let arguments = [&["listen", "--url", &url][..], &identity].concat();
        let listening = Process::spawn("listen", &mut settings.command(&arguments));
        let confirmed = |line: &str| line.contains("connection_confirmed");
        listening.stdout_line(confirmed).await;
        let request = Request::new("POST", "/api/v1/bus/fechatter.realtime.chat.5")
            .bearer(&tokens::of_publisher(1))
            .json(&payload::chat_message(5, "good to read"));
        assert_eq!(server.send(request).await.status, 202);
        let line = listening
            .stdout_line(|line| line.contains("good to read"))
            .await;
        assert!(listening.stdout().contains("new_message"), "{line}");
    }
}

#[tokio::test]
async fn listen_says_why_it_is_refused() {
    let server = Server::start(Settings::new()).await;
    let url = server.url();
    let arguments = ["listen", "--url", &url, "--token", "no.real.token"];
    let outcome = server.settings().run(&arguments).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("401"), "{outcome:?}");
    assert!(!outcome.stderr.contains("no.real.token"), "{outcome:?}");
}

#[tokio::test]
async fn publish_goes_over_http_where_there_is_no_nats() {
    let settings = Settings::new().chat(5, &[2]);
    let server = Server::start(settings.clone()).await;
    let mut stream = server.connect(2).await;
    let payload = payload::chat_message(5, "by hand").to_string();
    let url = server.url();
    let subject = "fechatter.realtime.chat.5";
    let outcome = settings
        .run(&["publish", subject, &payload, "--server", &url])
        .await;
    succeeded(&outcome);
    stream.expect_type("new_message").await;
}

#[tokio::test]
async fn the_servers_address_is_url_or_server_wherever_one_is_asked_for() {
    let settings = Settings::new().chat(5, &[2]);
    let server = Server::start(settings.clone()).await;
    let url = server.url();
    let _stream = server.connect(2).await;
    let payload = payload::chat_message(5, "either").to_string();
    for name in ["--url", "--server"] {
        let subject = "fechatter.realtime.chat.5";
        for (arguments, code) in [
            (&["publish", subject, &payload][..], 0),
            (&["health"], 0),
            (&["explain", "--user", "2", "--event", "1001"], 0),
            (&["revoke", "--token-id", "some-jti"], 0),
            (&["listen", "--user", "2", "--count", "1"], 0),
        ] {
            let all = [arguments, &[name, &url]].concat();
            let outcome = settings.run(&all).await;
            assert_eq!(outcome.code, Some(code), "{all:?}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn a_command_that_can_make_no_token_says_how_to_pass_one() {
    let pair = KeyPair::generate(Kind::Ed25519);
    let settings = Settings::new()
        .set("auth.keys", json!([{"pem": pair.public_pem()}]))
        .chat(5, &[2]);
    let server = Server::start(settings.clone()).await;
    let url = server.url();
    let rights = json!({"admin": true});
    let admin = Token::of(900).claim("notify", rights).sign(&pair);
    let commands: [(&[&str], i32); 4] = [
        (&["explain", "--user", "2", "--event", "x"], 2),
        (&["revoke", "--user", "42"], 1),
        (&["publish", "fechatter.realtime.chat.5", "{}"], 1),
        (&["listen", "--user", "2", "--count", "1"], 1),
    ];
    for (arguments, code) in commands {
        let all = [arguments, &["--url", &url]].concat();
        let outcome = settings.run(&all).await;
        assert_eq!(outcome.code, Some(code), "{all:?}: {outcome:?}");
        let told = &outcome.stderr;
        assert!(
            told.contains("--token") && told.contains("NOTIFY_TOKEN") && !told.contains("`token`"),
            "{all:?}: {told}"
        );
    }
    let with_token = settings.clone().environment("NOTIFY_TOKEN", &admin);
    let outcome = with_token
        .run(&["explain", "--url", &url, "--user", "2", "--event", "x"])
        .await;
    assert!(
        outcome.stdout.contains("reason: not_remembered"),
        "{outcome:?}"
    );
    let outcome = settings
        .run(&["revoke", "--url", &url, "--user", "42", "--token", &admin])
        .await;
    succeeded(&outcome);
}

#[tokio::test]
async fn publish_warns_of_a_subject_that_nobody_listens_on() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats);
    let outcome = settings.run(&["publish", "chat.6", "{}"]).await;
    succeeded(&outcome);
    assert!(
        outcome.stderr.contains("chat.6") && outcome.stderr.contains("nats.subjects"),
        "{outcome:?}"
    );
    let heard = "fechatter.realtime.chat.6";
    let outcome = settings.run(&["publish", heard, "{}"]).await;
    succeeded(&outcome);
    assert_eq!(outcome.stderr, "");
}

#[tokio::test]
async fn whoever_runs_a_command_elsewhere_is_told_what_it_takes() {
    let settings = Settings::new()
        .set("mode", "development")
        .set("auth", json!({}));
    for command in [&["token", "--user", "2"][..], &["listen", "--user", "2"]] {
        let outcome = settings.run(command).await;
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let told = &outcome.stderr;
        for wanted in ["--config", "JWT_SECRET", "--token", "NOTIFY_TOKEN"] {
            assert!(told.contains(wanted), "{wanted}: {told}");
        }
    }
}

#[tokio::test]
async fn a_refusal_is_told_in_words() {
    let settings = Settings::new();
    let server = Server::start(settings.clone()).await;
    let (url, token) = (server.url(), tokens::of_user(2));
    let arguments = ["explain", "--user", "2", "--event", "x", "--url", &url];
    let outcome = settings
        .run(&[&arguments[..], &["--token", &token]].concat())
        .await;
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("403"), "{outcome:?}");
    assert!(!outcome.stderr.contains('{'), "{outcome:?}");
}

#[tokio::test]
async fn publish_refuses_what_is_no_json() {
    let outcome = Settings::new()
        .run(&["publish", "fechatter.realtime.x", "{nope"])
        .await;
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
}

#[tokio::test]
async fn wrong_usage_is_exit_code_2() {
    for arguments in [
        &["--prot", "1"][..],
        &["sevre"],
        &["token"],
        &["serve", "--port", "x"],
    ] {
        let outcome = Settings::new().run(arguments).await;
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {outcome:?}");
        assert!(!outcome.stderr.is_empty());
        assert_eq!(outcome.stdout, "");
    }
}

#[tokio::test]
async fn help_lists_the_commands() {
    let outcome = Settings::new().run(&["--help"]).await;
    let help = succeeded(&outcome);
    for command in [
        "serve",
        "token",
        "publish",
        "listen",
        "check-config",
        "migrate",
    ] {
        assert!(help.contains(command), "{command} in {help}");
    }
    let outcome = Settings::new().run(&["--version"]).await;
    assert!(succeeded(&outcome).contains(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_failure_in_words() {
    let server = Server::start(Settings::new()).await;
    let port = server.address().port();
    let outcome = Settings::new()
        .set("server.port", port)
        .run(&["serve"])
        .await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains(&port.to_string()), "{outcome:?}");
}
