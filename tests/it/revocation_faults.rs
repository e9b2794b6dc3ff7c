//! Revocations while instances and NATS come and go.

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream;
use serde_json::json;

use crate::revocation::{ends_revoked, is_refused, listed, revoke, send, two};
use crate::support::tokens::Token;
use crate::support::{Nats, Request, Server, Settings, eventually, tokens};

const BUCKET: &str = "KV_NOTIFY_REVOCATIONS";

#[tokio::test]
async fn instances_that_start_later_or_again_know() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats);
    let first = Server::start(settings.clone()).await;
    revoke(&first, json!({"user_id": 42})).await;
    let token = Token::of(7)
        .claim("jti", "stolen")
        .sign_hs256(tokens::SECRET);
    revoke(&first, json!({"token_id": "stolen"})).await;
    // Ready means that it knows.
    let second = Server::start(settings.clone()).await;
    is_refused(&second, &token).await;
    is_refused(&second, &tokens::of_user(42)).await;
    let _other = second.connect(7).await;
    first.stop().await;
    second.stop().await;
    let third = Server::start(settings).await;
    is_refused(&third, &token).await;
    is_refused(&third, &tokens::of_user(42)).await;
    assert_eq!(listed(&third).await.len(), 2);
    assert_eq!(third.metric("notify_revocations_unstored", "").await, 0.0);
}

#[tokio::test]
async fn what_is_said_while_nats_is_away_is_known_everywhere_when_it_is_back() {
    let mut nats = Nats::start().await;
    let [one, two] = two(&nats, Settings::new()).await;
    revoke(&one, json!({"user_id": 1})).await;
    let streams = [one.connect(42).await, two.connect(42).await];
    nats.kill();
    one.not_ready().await;
    let answer = revoke(&one, json!({"user_id": 42})).await;
    assert_eq!(answer["stored"], false, "{answer}");
    let [here, there] = streams;
    ends_revoked(here).await;
    is_refused(&one, &tokens::of_user(42)).await;
    one.metric_becomes("notify_revocations_unstored", "", 1.0)
        .await;
    // Cut off, the other one can't know.
    let _late = two.connect(42).await;
    nats.start_again().await;
    ends_revoked(there).await;
    is_refused(&two, &tokens::of_user(42)).await;
    one.metric_becomes("notify_revocations_unstored", "", 0.0)
        .await;
    // Nor is it forgotten with the one that has heard it.
    one.stop().await;
    let third = Server::start(two.settings().clone()).await;
    is_refused(&third, &tokens::of_user(42)).await;
}

#[tokio::test]
async fn a_bucket_that_is_lost_is_made_again() {
    let nats = Nats::start().await;
    let [one, two] = two(&nats, Settings::new()).await;
    revoke(&one, json!({"user_id": 42})).await;
    let backend = nats.backend().await;
    let context = backend.jetstream();
    eventually("the other one to have seen the bucket", || async {
        (listed(&two).await.len() == 1).then_some(())
    })
    .await;
    revoke(&two, json!({"user_id": 43})).await;
    context.delete_stream(BUCKET).await.unwrap();
    eventually("both to be stored again", || async {
        let mut stream = context.get_stream(BUCKET).await.ok()?;
        let info = stream.info().await.ok()?;
        (info.state.messages == 2).then_some(())
    })
    .await;
    for server in [&one, &two] {
        is_refused(server, &tokens::of_user(42)).await;
    }
    let third = Server::start(one.settings().clone()).await;
    is_refused(&third, &tokens::of_user(43)).await;
}

#[tokio::test]
async fn what_is_over_is_forgotten_everywhere() {
    let nats = Nats::start().await;
    let settings = Settings::new().set("auth.leeway", "0s");
    let [one, two] = two(&nats, settings).await;
    let token = Token::of(42)
        .claim("jti", "short")
        .sign_hs256(tokens::SECRET);
    let soon = tokens::now() + 3;
    revoke(&one, json!({"token_id": "short", "expires_at": soon})).await;
    revoke(&one, json!({"user_id": 1})).await;
    for server in [&one, &two] {
        assert_eq!(listed(server).await.len(), 2);
        assert_eq!(server.events(&token).await.status, 401);
    }
    for server in [&one, &two] {
        eventually("it to be over", || async {
            (listed(server).await.len() == 1).then_some(())
        })
        .await;
        assert!(tokens::now() >= soon);
        // Who says that a token expires earlier than it does has it back.
        let _good = server.connect_with(&token).await;
        server.metric_becomes("notify_revocations", "", 1.0).await;
    }
    let context = nats.backend().await.jetstream();
    eventually("the record to be removed", || async {
        let mut stream = context.get_stream(BUCKET).await.unwrap();
        let info = stream.info().await.unwrap();
        (info.state.messages == 1).then_some(())
    })
    .await;
}

/// Orders that cross each other end in the same state everywhere.
#[tokio::test]
async fn instances_that_are_told_at_the_same_time_agree() {
    let nats = Nats::start().await;
    let [one, two] = two(&nats, Settings::new()).await;
    let target = |id: &str| format!("/api/v1/revocations/{id}");
    for round in 0..5 {
        let order = json!({"user_id": round});
        let (a, b) = tokio::join!(revoke(&one, order.clone()), revoke(&two, order));
        let id = a["id"].as_str().unwrap();
        assert_eq!(b["id"], id);
        if round % 2 == 0 {
            let lift = target(id);
            let empty = json!({});
            let (a, b) = tokio::join!(
                send(&one, "DELETE", &lift, &empty),
                send(&two, "DELETE", &lift, &empty),
            );
            assert!([a.0, b.0].contains(&200));
        }
    }
    let expected = [1, 3].map(|user| json!(user));
    for server in [&one, &two, &Server::start(one.settings().clone()).await] {
        eventually("the same to be revoked", || async {
            let mut users: Vec<_> = listed(server)
                .await
                .iter()
                .map(|entry| entry["user_id"].clone())
                .collect();
            users.sort_by_key(serde_json::Value::as_i64);
            (users == expected).then_some(())
        })
        .await;
    }
}

/// What two instances are told while they can't hear each other adds up, and ends streams where more is
/// revoked than was known.
#[tokio::test]
async fn what_two_instances_are_told_apart_adds_up() {
    let mut nats = Nats::start().await;
    let [one, two] = two(&nats, Settings::new()).await;
    let token = Token::of(42)
        .claim("iat", tokens::now() - 5)
        .sign_hs256(tokens::SECRET);
    let stream = one.connect_with(&token).await;
    nats.kill();
    one.not_ready().await;
    let strong = revoke(&two, json!({"user_id": 42})).await;
    let soon = tokens::now() + 3_600;
    let order = json!({"user_id": 42, "issued_before": 1_000, "expires_at": soon});
    let weak = revoke(&one, order).await;
    assert_eq!(
        (&weak["stored"], &weak["ended"]),
        (&json!(false), &json!(0))
    );
    nats.start_again().await;
    ends_revoked(stream).await;
    for server in [&one, &two, &Server::start(one.settings().clone()).await] {
        eventually("both to count", || async {
            let entry = listed(server).await.pop()?;
            let parts = ["expires_at", "issued_before"];
            parts
                .iter()
                .all(|part| entry[part] == strong[part])
                .then_some(())
        })
        .await;
        is_refused(server, &token).await;
        server
            .metric_becomes("notify_revocations_unstored", "", 0.0)
            .await;
    }
}

/// Every way in that takes a token answers 503 with `Retry-After` and the reason, whatever the token.
async fn knows_nothing_yet(server: &Server) {
    let message = json!({"type": "note", "channel": "user:1", "data": {}});
    let token = tokens::of_publisher(42);
    for request in [
        Request::get("/events").bearer(&token),
        Request::get(&format!("/events?access_token={token}")),
        Request::get("/events/poll").bearer(&token),
        Request::new("POST", "/events/ticket").bearer(&token),
        Request::get("/sse/user/42").bearer(&token),
        Request::get("/api/v1/connections").bearer(&token),
        Request::new("POST", "/api/v1/messages/send")
            .bearer(&token)
            .json(&message),
    ] {
        let mut response = server.send(request).await;
        assert_eq!(response.status, 503);
        assert!(response.header("retry-after").is_some());
        assert!(response.header("www-authenticate").is_none());
        let says = response.json().await["detail"].to_string();
        assert!(
            says.contains("which tokens are revoked is not known yet"),
            "{says}"
        );
    }
    // What nobody has signed is refused for good.
    let forged = tokens::Token::of(42).sign_hs256("somebody else's secret of some length");
    assert_eq!(server.events(&forged).await.status, 401);
    assert_eq!(server.metric("notify_revocations_known", "").await, 0.0);
    let refused = server
        .metric("notify_auth_failures_total", "revocations_unknown")
        .await;
    assert_eq!(refused, 7.0);
}

#[tokio::test]
async fn who_starts_while_nats_is_away_takes_no_token_until_it_knows() {
    let mut nats = Nats::start().await;
    let settings = Settings::new().nats(&nats);
    let first = Server::start(settings.clone()).await;
    revoke(&first, json!({"user_id": 42})).await;
    first.stop().await;
    nats.kill();
    let server = Server::start_unready(settings).await;
    knows_nothing_yet(&server).await;
    let says = server.not_ready().await;
    assert!(says.contains("auth: which tokens are revoked"), "{says}");
    nats.start_again().await;
    server.ready().await;
    is_refused(&server, &tokens::of_user(42)).await;
    let _other = server.connect(7).await;
    assert_eq!(server.metric("notify_revocations_known", "").await, 1.0);
    // Who knew once goes on with that.
    nats.kill();
    server.not_ready().await;
    is_refused(&server, &tokens::of_user(42)).await;
    let _late = server.connect(7).await;
}

#[tokio::test]
async fn who_can_not_read_the_bucket_takes_no_token_and_says_why() {
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    // As the server would make it, but for the one reader that it may have.
    let config = stream::Config {
        name: BUCKET.to_owned(),
        subjects: vec!["$KV.NOTIFY_REVOCATIONS.>".to_owned()],
        max_messages_per_subject: 1,
        allow_rollup: true,
        allow_direct: true,
        deny_delete: true,
        max_consumers: 1,
        ..stream::Config::default()
    };
    let context = backend.jetstream();
    let bucket = context.create_stream(config).await.unwrap();
    let settings = Settings::new().nats(&nats);
    let first = Server::start(settings.clone()).await;
    let answer = revoke(&first, json!({"user_id": 42})).await;
    assert_eq!(answer["stored"], true, "{answer}");
    first.stop().await;
    let reader = eventually("the one place of a reader", || async {
        let config = pull::Config::default();
        bucket.create_consumer(config).await.ok()
    })
    .await;
    let server = Server::start_unready(settings).await;
    let line = server
        .log_line(|line| {
            line.level() == "WARN" && line.message().starts_with("which tokens are revoked can't")
        })
        .await;
    assert!(line.text("error").contains("consumers"), "{}", line.whole());
    // Events arrive, and that is all that is wrong.
    server.metric_becomes("notify_bus_up", "", 1.0).await;
    let says = server.not_ready().await;
    assert!(says.contains("auth: which tokens are revoked"), "{says}");
    knows_nothing_yet(&server).await;
    let name = &reader.cached_info().name;
    bucket.delete_consumer(name).await.unwrap();
    server.ready().await;
    is_refused(&server, &tokens::of_user(42)).await;
    let _other = server.connect(7).await;
}
