//! Tokens that are good no longer: on two instances, by whichever way it was said.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::support::tokens::{Token, now};
use crate::support::{EventStream, Nats, Request, Server, Settings, eventually, tokens, within};

pub(crate) fn admin() -> String {
    let rights = json!({"admin": true, "publish": ["*"]});
    let token = Token::of(99).claim("notify", rights);
    token.sign_hs256(tokens::SECRET)
}

pub(crate) async fn send(
    server: &Server,
    method: &str,
    target: &str,
    body: &Value,
) -> (u16, Value) {
    let request = Request::new(method, target).bearer(&admin()).json(body);
    let mut response = server.send(request).await;
    (response.status, response.json().await)
}

/// Revokes, and gives the answer.
pub(crate) async fn revoke(server: &Server, order: Value) -> Value {
    let (status, answer) = send(server, "POST", "/api/v1/revocations", &order).await;
    assert_eq!(status, 201, "{answer}");
    answer
}

pub(crate) async fn listed(server: &Server) -> Vec<Value> {
    let (status, answer) = send(server, "GET", "/api/v1/revocations", &json!({})).await;
    assert_eq!(status, 200, "{answer}");
    answer["revocations"].as_array().unwrap().clone()
}

/// Two instances that know of each other.
pub(crate) async fn two(nats: &Nats, settings: Settings) -> [Server; 2] {
    let settings = settings.nats(nats);
    let servers = [
        Server::start(settings.clone()).await,
        Server::start(settings).await,
    ];
    for server in &servers {
        know_each_other(server).await;
    }
    servers
}

async fn know_each_other(server: &Server) {
    eventually("both instances to answer", || async {
        let (_, stats) = send(server, "GET", "/api/v1/connections/stats", &json!({})).await;
        let replied = stats["instances"]["replied"].as_array().unwrap().len();
        (replied == 2).then_some(())
    })
    .await;
}

pub(crate) async fn ends_revoked(mut stream: EventStream) {
    let closing = stream.expect_type("closing").await;
    assert_eq!(closing.data["reason"], "token_revoked");
    assert_eq!(closing.data["reconnect"], false);
    stream.expect_end().await;
}

/// Every way in answers 401 and says why.
pub(crate) async fn is_refused(server: &Server, token: &str) {
    let message = json!({"type": "note", "channel": "user:1", "data": {}});
    let requests = [
        Request::get("/events").bearer(token),
        Request::new("HEAD", "/events").bearer(token),
        Request::get(&format!("/events?access_token={token}")),
        Request::get("/events").header("cookie", &format!("access_token={token}")),
        Request::get("/events/poll").bearer(token),
        Request::new("POST", "/events/ticket").bearer(token),
        Request::get("/sse/user/42").bearer(token),
        Request::get("/api/messages?chatId=1").bearer(token),
        Request::get("/api/sse/stats").bearer(token),
        Request::get("/online-users?chat_id=1").bearer(token),
        Request::new("POST", "/api/v1/messages/send")
            .bearer(token)
            .json(&message),
        Request::get("/api/v1/connections").bearer(token),
        Request::new("POST", "/api/v1/revocations")
            .bearer(token)
            .json(&json!({"user_id": 1})),
    ];
    for (number, request) in requests.into_iter().enumerate() {
        let mut response = server.send(request).await;
        assert_eq!(response.status, 401, "request {number}");
        let says = response.header("www-authenticate").unwrap().to_owned();
        assert!(says.contains("invalid_token"), "{says}");
        assert!(says.contains("the token has been revoked"), "{says}");
        assert!(!response.text().await.contains(token));
    }
}

pub(crate) fn hash(token: &str) -> String {
    let (signed, _) = token.rsplit_once('.').unwrap();
    let sum = digest(&SHA256, signed.as_bytes());
    sum.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[tokio::test]
async fn an_administrator_ends_a_users_streams_everywhere_and_for_good() {
    let nats = Nats::start().await;
    let [one, two] = two(&nats, Settings::new()).await;
    let token = Token::of(42)
        .claim("iat", now() - 5)
        .sign_hs256(tokens::SECRET);
    let streams = [
        one.connect_with(&token).await,
        two.connect_with(&token).await,
        two.connect_with(&tokens::of_user(42)).await,
    ];
    let mut other = two.connect(4).await;
    let position = Request::get("/events/poll").bearer(&token);
    let position = two.send(position).await.json().await["last_id"].clone();
    let poll = format!("/events/poll?wait=60&after={}", position.as_str().unwrap());
    let (poll, address) = (Request::get(&poll).bearer(&token), two.address());
    let poll = tokio::spawn(async move { poll.send(address).await });
    two.metric_becomes("notify_connections", "poll", 1.0).await;
    let ticket = Request::new("POST", "/events/ticket").bearer(&token);
    let ticket = one.send(ticket).await.json().await["ticket"].clone();
    let answer = revoke(&one, json!({"user_id": "42"})).await;
    assert_eq!(answer["ended"], 4, "{answer}");
    assert_eq!(
        (&answer["user_id"], &answer["by"]),
        (&json!(42), &json!(99))
    );
    assert_eq!(answer["stored"], true);
    assert_eq!(answer["instances"]["replied"].as_array().unwrap().len(), 2);
    assert_eq!(answer["instances"]["missing"], json!([]));
    for stream in streams {
        ends_revoked(stream).await;
    }
    // A poll has nothing to say.
    let mut answer = within("the poll to end", poll).await.unwrap();
    assert_eq!(answer.json().await["events"], json!([]));
    for server in [&one, &two] {
        is_refused(server, &token).await;
        let target = format!("/events?ticket={}", ticket.as_str().unwrap());
        assert_eq!(server.get(&target).await.status, 401);
        assert_eq!(listed(server).await.len(), 1);
        assert!(server.metric("notify_auth_failures_total", "revoked").await >= 13.0);
        assert_eq!(server.metric("notify_revocations", "").await, 1.0);
        // Whoever signs in again is welcome.
        let again = Token::of(42)
            .claim("iat", now() + 2)
            .sign_hs256(tokens::SECRET);
        let _stream = server.connect_with(&again).await;
        assert!(!server.process().stderr().contains(&token));
    }
    assert_eq!(
        one.metric("notify_sessions_ended_total", "token_revoked")
            .await,
        1.0
    );
    assert_eq!(
        two.metric("notify_sessions_ended_total", "token_revoked")
            .await,
        3.0
    );
    let line = one.log_line(|line| line.message() == "revoked").await;
    let said = ["kind", "name", "by", "over"].map(|field| line.text(field));
    assert_eq!(said, ["user", "42", "99", "http"]);
    let message = json!({"type": "note", "channel": "user:4", "data": {}});
    assert_eq!(
        send(&one, "POST", "/api/v1/messages/send", &message)
            .await
            .0,
        202
    );
    other.expect_type("note").await;
}

#[tokio::test]
async fn one_token_is_revoked_by_its_name_or_by_its_hash() {
    let nats = Nats::start().await;
    let [one, two] = two(&nats, Settings::new()).await;
    let with = |jti: &str| Token::of(42).claim("jti", jti).sign_hs256(tokens::SECRET);
    let [named, hashed, wild] = ["a b*", "hashed", ">"].map(with);
    let streams = [
        one.connect_with(&named).await,
        two.connect_with(&named).await,
        one.connect_with(&hashed).await,
    ];
    let last = two.connect_with(&wild).await;
    let answer = revoke(&two, json!({"token_id": "a b*"})).await;
    assert_eq!(
        (&answer["ended"], &answer["token_id"]),
        (&json!(2), &json!("a b*"))
    );
    let answer = revoke(&two, json!({"token_hash": hash(&hashed)})).await;
    assert_eq!(answer["ended"], 1);
    for stream in streams {
        ends_revoked(stream).await;
    }
    // Names are no patterns.
    for id in ["*", ">", "a b", "A B*", "$KV.NOTIFY_REVOCATIONS.>"] {
        let ended = revoke(&one, json!({"token_id": id})).await["ended"].clone();
        assert_eq!(ended, usize::from(id == ">"), "{id}");
    }
    ends_revoked(last).await;
    for server in [&one, &two] {
        is_refused(server, &named).await;
        is_refused(server, &hashed).await;
        let _others = server.connect_with(&with("another")).await;
    }
}

/// On several threads, with streams that came and went before, and a name that two users' tokens have.
#[tokio::test]
async fn of_many_streams_those_of_the_token_end_and_no_others() {
    let server = Server::start(Settings::new().set("server.workers", 3)).await;
    let with = |user: i64, jti: &str| {
        let token = Token::of(user).claim("jti", jti);
        token.sign_hs256(tokens::SECRET)
    };
    let (one, two, other) = (with(1, "shared"), with(2, "shared"), with(1, "other"));
    let plain = tokens::of_user(1);
    let mut left: Vec<EventStream> = Vec::new();
    for token in [&one, &other, &two, &plain, &one, &one] {
        left.push(server.connect_with(token).await);
    }
    let by_name = Request::get("/sse/user/1").bearer(&one);
    let mut by_name = EventStream::new(server.send(by_name).await);
    by_name.expect_type("connection_confirmed").await;
    let mut meant = vec![
        by_name,
        server.connect_with(&two).await,
        server.connect_with(&one).await,
    ];
    // The first and the last of a token's streams have gone, and others are in their places.
    for at in [5, 4, 0] {
        drop(left.remove(at));
    }
    server
        .metric_becomes("notify_connections", "sse", 6.0)
        .await;
    let of_plain = left.remove(2);
    meant.extend([left.remove(1), server.connect_with(&one).await]);
    left.push(server.connect_with(&with(2, "third")).await);
    let answer = revoke(&server, json!({"token_id": "shared"})).await;
    assert_eq!(answer["ended"], 5, "{answer}");
    for stream in meant {
        ends_revoked(stream).await;
    }
    let answer = revoke(&server, json!({"token_hash": hash(&plain)})).await;
    assert_eq!(answer["ended"], 1, "{answer}");
    ends_revoked(of_plain).await;
    let again = revoke(&server, json!({"token_hash": hash(&plain)})).await;
    assert_eq!(again["ended"], 0, "{again}");
    let event = json!({"type": "note", "channel": "user:1,user:2", "data": {}});
    let (status, _) = send(&server, "POST", "/api/v1/messages/send", &event).await;
    assert_eq!(status, 202);
    for mut stream in left {
        stream.expect_type("note").await;
    }
}

#[tokio::test]
async fn a_backend_revokes_over_nats() {
    let nats = Nats::start().await;
    let [one, two] = two(&nats, Settings::new()).await;
    let backend = nats.backend().await;
    let ask = async |order: &str| -> Value {
        let order = order.to_owned().into();
        let answer = backend.client().request("notify.peers.revoke", order).await;
        serde_json::from_slice(&answer.unwrap().payload).unwrap()
    };
    let streams = [one.connect(42).await, two.connect(42).await];
    let _other = one.connect(4).await;
    let answer = ask(r#"{"user_id": 42}"#).await;
    assert!(
        answer["id"].as_str().is_some_and(|id| id.len() == 32),
        "{answer}"
    );
    for stream in streams {
        ends_revoked(stream).await;
    }
    for server in [&one, &two] {
        is_refused(server, &tokens::of_user(42)).await;
        server
            .metric_becomes("notify_revocations_unstored", "", 0.0)
            .await;
        assert_eq!(listed(server).await[0]["user_id"], 42);
        assert!(listed(server).await[0].get("by").is_none());
    }
    // The answer goes to no subject that only the server may publish on.
    let mut other = one.connect(5).await;
    for reply in [
        "fechatter.realtime.user.5",
        "notify.log.fechatter.realtime.user.5",
    ] {
        let (subject, order) = ("notify.peers.revoke", r#"{"user_id": 6}"#);
        let client = backend.client();
        client
            .publish_with_reply(subject, reply, order.into())
            .await
            .unwrap();
    }
    backend.flush().await;
    eventually("both to be followed", || async {
        (listed(&one).await.len() == 2).then_some(())
    })
    .await;
    backend
        .publish("fechatter.realtime.user.5", &json!({"said": "last"}))
        .await;
    let first = other.next().await.data.to_string();
    assert!(first.contains("last"), "{first}");
    // Told without waiting for an answer, too.
    let stream = two.connect(43).await;
    backend
        .publish("notify.peers.revoke", &json!({"user_id": 43}))
        .await;
    ends_revoked(stream).await;
    for (order, says) in [
        ("{}", "exactly one of"),
        ("nonsense", "expected"),
        (r#"{"user_id": 1, "all": true}"#, "unknown field"),
        (r#"{"token_id": "a\u0000b"}"#, "control characters"),
        (
            &format!("{{\"token_id\": \"{}\"}}", "x".repeat(5000)),
            "at most",
        ),
    ] {
        let answer = ask(order).await;
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(says), "{order}: {error}");
    }
    assert_eq!(listed(&one).await.len(), 3);
    assert!(
        one.metric("notify_revocation_orders_total", "invalid")
            .await
            >= 5.0
    );
    let log = one.log_line(|line| line.message() == "revoked").await;
    assert_eq!([log.text("over"), log.text("name")], ["nats", "42"]);
}

#[tokio::test]
async fn a_revocation_is_taken_back() {
    let nats = Nats::start().await;
    let [one, two] = two(&nats, Settings::new()).await;
    let id = revoke(&one, json!({"user_id": 42})).await["id"].clone();
    let target = format!("/api/v1/revocations/{}", id.as_str().unwrap());
    is_refused(&two, &tokens::of_user(42)).await;
    let (status, answer) = send(&two, "DELETE", &target, &json!({})).await;
    assert_eq!((status, &answer["stored"]), (200, &json!(true)), "{answer}");
    for server in [&one, &two] {
        drop(server.connect(42).await);
        server.metric_becomes("notify_connections", "", 0.0).await;
        assert!(listed(server).await.is_empty());
        assert_eq!(send(server, "DELETE", &target, &json!({})).await.0, 404);
        // It is remembered that it was taken back, and that is in force no more.
        assert_eq!(server.metric("notify_revocations", "").await, 0.0);
    }
    // And made again.
    assert_eq!(revoke(&one, json!({"user_id": 42})).await["ended"], 0);
    is_refused(&two, &tokens::of_user(42)).await;
    two.metric_becomes("notify_revocations", "", 1.0).await;
    two.log_line(|line| line.message() == "a revocation was taken back")
        .await;
}

#[tokio::test]
async fn hostile_orders_and_those_of_others_revoke_nothing() {
    let server = Server::start(Settings::new()).await;
    let mut stream = server.connect(42).await;
    let post = |token: &str| Request::new("POST", "/api/v1/revocations").bearer(token);
    for token in [tokens::of_user(42), tokens::of_publisher(42)] {
        let requests = [
            post(&token).json(&json!({"user_id": 42})),
            Request::get("/api/v1/revocations").bearer(&token),
            Request::new("DELETE", &format!("/api/v1/revocations/{}", "a".repeat(32)))
                .bearer(&token),
        ];
        for request in requests {
            assert_eq!(server.send(request).await.status, 403);
        }
    }
    assert_eq!(
        server
            .send(post("nonsense").json(&json!({"user_id": 42})))
            .await
            .status,
        401
    );
    let far = now() + 1_000 * 86_400;
    let long = "x".repeat(600);
    let bodies = [
        json!({}),
        json!([]),
        json!("user_id"),
        json!({"user_id": null}),
        json!({"user_id": ""}),
        json!({"user_id": ["42"]}),
        json!({"user_id": "*.>"}),
        json!({"user_id": 42, "token_id": "a"}),
        json!({"user_id": 42, "issued_before": now() + 3600}),
        json!({"user_id": 42, "issued_before": -1}),
        json!({"user_id": 42, "expires_at": 1}),
        json!({"user_id": 42, "expires_at": far}),
        json!({"user_id": 42, "expires_at": "tomorrow"}),
        json!({"user_id": 42, "lifted": true}),
        json!({"token_id": ""}),
        json!({"token_id": long}),
        json!({"token_id": "a\r\nset-cookie: b"}),
        json!({"token_hash": "é".repeat(32)}),
        json!({"token_hash": "0".repeat(63)}),
    ];
    for body in bodies {
        let (status, answer) = send(&server, "POST", "/api/v1/revocations", &body).await;
        assert_eq!(status, 422, "{body}: {answer}");
    }
    let raw = post(&admin())
        .header("content-type", "application/json")
        .body("{\"user_id\": 42");
    assert_eq!(server.send(raw).await.status, 422);
    for id in [
        "*",
        ">",
        "..",
        "%2e%2e",
        "%00",
        "a",
        &"g".repeat(32),
        &"0".repeat(32),
    ] {
        let target = format!("/api/v1/revocations/{id}");
        let request = Request::new("DELETE", &target).bearer(&admin());
        let status = server.send(request).await.status;
        assert!([400, 404, 405].contains(&status), "{id}: {status}");
    }
    for query in ["after=*", "limit=0", "limit=501", "user_id="] {
        let (status, _) = send(
            &server,
            "GET",
            &format!("/api/v1/revocations?{query}"),
            &json!({}),
        )
        .await;
        assert_eq!(status, 422, "{query}");
    }
    assert!(listed(&server).await.is_empty());
    let message = json!({"type": "note", "channel": "user:42", "data": {}});
    assert_eq!(
        send(&server, "POST", "/api/v1/messages/send", &message)
            .await
            .0,
        202
    );
    stream.expect_type("note").await;
}

#[tokio::test]
async fn what_is_revoked_is_listed_page_by_page() {
    let server = Server::start(Settings::new()).await;
    for user in 1..=5 {
        assert_eq!(
            revoke(&server, json!({"user_id": user})).await["stored"],
            false
        );
    }
    revoke(&server, json!({"token_id": "a"})).await;
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let target = format!("/api/v1/revocations?limit=2{after}");
        let (_, page) = send(&server, "GET", &target, &json!({})).await;
        seen.extend(page["revocations"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 6);
    assert!(seen.is_sorted_by_key(|entry| entry["id"].as_str().unwrap().to_owned()));
    let (_, page) = send(&server, "GET", "/api/v1/revocations?user_id=3", &json!({})).await;
    assert_eq!(page["revocations"].as_array().unwrap().len(), 1);
    // The same again adds nothing.
    revoke(&server, json!({"user_id": 3})).await;
    assert_eq!(listed(&server).await.len(), 6);
}

#[tokio::test]
async fn the_command_revokes_through_a_running_server() {
    let server = Server::start(Settings::new()).await;
    let url = server.url();
    let run = async |arguments: &[&str]| {
        let all = [&["revoke", "--url", &url], arguments].concat();
        server.settings().run(&all).await
    };
    let stream = server.connect(42).await;
    let done = run(&["--user", "42", "--expires-in", "2h"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let answer: Value = serde_json::from_str(&done.stdout).unwrap();
    let until = answer["expires_at"].as_i64().unwrap() - now();
    assert!((7_000..7_400).contains(&until), "{until}");
    ends_revoked(stream).await;
    let token = Token::of(7).expires_in(5_000).sign_hs256(tokens::SECRET);
    let stream = server.connect_with(&token).await;
    let file = server.settings().directory().join("token.txt");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let done = run(&["--token-file", "token.txt"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    ends_revoked(stream).await;
    is_refused(&server, &token).await;
    // As long as the token says of itself, and `auth.leeway`; or as somebody says.
    let answer: Value = serde_json::from_str(&done.stdout).unwrap();
    let until = answer["expires_at"].as_i64().unwrap() - now();
    assert!((4_900..=5_060).contains(&until), "{until}");
    let done = run(&["--token-file", "token.txt", "--expires-in", "3h"]).await;
    let answer: Value = serde_json::from_str(&done.stdout).unwrap();
    let until = answer["expires_at"].as_i64().unwrap() - now();
    assert!((10_700..=10_860).contains(&until), "{until}");
    std::fs::write(&file, "not.a-token").unwrap();
    let done = run(&["--token-file", "token.txt"]).await;
    assert_eq!(
        done.code,
        Some(0),
        "what is in it need not be readable: {done:?}"
    );
    let over = Token::of(8).expires_in(-500).sign_hs256(tokens::SECRET);
    std::fs::write(&file, over).unwrap();
    let done = run(&["--token-file", "token.txt"]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(
        done.stderr.contains("the token is refused anyway"),
        "{done:?}"
    );
    // One that lives for years can't be revoked for as long.
    let years = Token::of(8).expires_in(900 * 86_400);
    let years = years.sign_hs256(tokens::SECRET);
    std::fs::write(&file, &years).unwrap();
    let done = run(&["--token-file", "token.txt"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains("within 399 days"), "{done:?}");
    is_refused(&server, &years).await;
    let done = run(&["--token-id", "some-jti"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let none = run(&[]).await;
    assert_eq!(none.code, Some(2), "{none:?}");
    let denied = run(&["--user", "1", "--token", &tokens::of_user(2)]).await;
    assert!(denied.stderr.contains("403"), "{denied:?}");
}

/// Whatever a user's streams listen on, and none of others that listen on the user's channel.
#[tokio::test]
async fn all_streams_of_a_user_end_and_those_that_watch_the_user_do_not() {
    let server = Server::start(Settings::new()).await;
    let of = |user: i64| {
        let rights = json!({"subscribe": ["user:*", "job:*"], "publish": ["*"]});
        let token = Token::of(user).claim("notify", rights);
        token
            .claim("jti", format!("of-{user}"))
            .sign_hs256(tokens::SECRET)
    };
    let open = async |target: &str, user: i64| {
        let request = Request::get(target).bearer(&of(user));
        let response = server.send(request).await;
        assert_eq!(response.status, 200, "{target}");
        let mut stream = EventStream::new(response);
        stream.expect_type("connection_confirmed").await;
        stream
    };
    let mut watching = open("/sse/user/42?named=false", 7).await;
    let targets = [
        "/events",
        "/sse/stream/job:1?named=false",
        "/sse/stream/job:1,user:42?named=false",
    ];
    for order in [json!({"user_id": 42}), json!({"token_id": "of-43"})] {
        let user = if order.get("user_id").is_some() {
            42
        } else {
            43
        };
        let mut streams = Vec::new();
        for target in targets {
            streams.push(open(target, user).await);
        }
        assert_eq!(revoke(&server, order).await["ended"], 3);
        for stream in streams {
            ends_revoked(stream).await;
        }
    }
    let message = json!({"type": "note", "channel": "user:42", "data": {}});
    let (status, _) = send(&server, "POST", "/api/v1/messages/send", &message).await;
    assert_eq!(status, 202);
    watching.expect_type("note").await;
}
