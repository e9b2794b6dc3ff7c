//! Long poll, and tickets.

use serde_json::{Value, json};

use crate::support::payload::{self, chat_subject};
use crate::support::{EventStream, Nats, Request, Server, Settings, eventually, tokens};

async fn poll(server: &Server, query: &str) -> Value {
    let target = format!("/events/poll{query}");
    let request = Request::get(&target).bearer(&tokens::of_user(1));
    let mut response = server.send(request).await;
    let answer = response.json().await;
    assert_eq!(response.status, 200, "{answer}");
    assert_eq!(response.header("cache-control"), Some("no-store"));
    answer
}

fn id(answer: &Value) -> String {
    answer["last_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_poll_gives_what_was_missed_at_once_and_else_waits() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats).chat(5, &[1]);
    let servers = [
        Server::start(settings.clone()).await,
        Server::start(settings).await,
    ];
    let first = poll(&servers[0], "").await;
    assert_eq!(
        (&first["events"], &first["gap"]),
        (&json!([]), &json!(false))
    );
    let empty = poll(&servers[0], "?after=&wait=60").await;
    assert_eq!(
        empty["events"],
        json!([]),
        "who has no position waits for nothing"
    );
    let backend = nats.backend().await;
    for text in ["one", "two"] {
        let payload = payload::chat_message(5, text);
        backend.publish(&chat_subject(5), &payload).await;
    }
    // Several polls may be needed to get both: one comes back as soon as there is something.
    let mut texts = Vec::new();
    let mut known = Vec::new();
    let mut after = id(&first);
    while texts.len() < 2 {
        let answer = poll(&servers[1], &format!("?after={after}")).await;
        after = id(&answer);
        for event in answer["events"].as_array().unwrap() {
            assert_eq!(event["type"], "new_message");
            texts.push(event["message"]["content"].clone());
        }
        // Each event has its own id; the last one is where to go on.
        let ids = answer["ids"].as_array().unwrap();
        assert_eq!(ids.len(), answer["events"].as_array().unwrap().len());
        assert_eq!(ids.last(), Some(&answer["last_id"]));
        known.extend(ids.clone());
    }
    assert_eq!(texts, ["one", "two"]);
    assert_ne!(known[0], known[1]);
    let nothing = poll(&servers[0], &format!("?after={after}&wait=0.2")).await;
    assert_eq!(nothing["events"], json!([]));
    assert_eq!(id(&nothing), after);
    let query = format!("?after={after}&wait=20");
    let waiting = poll(&servers[0], &query);
    let publish = async {
        servers[0]
            .metric_becomes("notify_connections", "", 1.0)
            .await;
        let payload = payload::chat_message(5, "three");
        backend.publish(&chat_subject(5), &payload).await;
    };
    let (answer, ()) = tokio::join!(waiting, publish);
    assert_eq!(answer["events"][0]["message"]["content"], "three");
}

#[tokio::test]
async fn a_poll_says_when_something_can_not_be_given() {
    let server = Server::start(Settings::new()).await;
    let answer = poll(&server, "?after=1-2-abcd").await;
    assert_eq!(answer["gap"], true);
    for query in ["?after=x&wait=61", "?after=x&wait=-1"] {
        let target = format!("/events/poll{query}");
        let request = Request::get(&target).bearer(&tokens::of_user(1));
        let mut response = server.send(request).await;
        assert_eq!(response.status, 422);
        assert_eq!(response.json().await["field"], "wait");
    }
}

#[tokio::test]
async fn channels_are_polled_as_they_are_streamed() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let token = tokens::Token::of(1)
        .claim("notify", json!({"subscribe": ["job:*"]}))
        .sign_hs256(tokens::SECRET);
    let ask = async |query: String| {
        let target = format!("/events/poll?channels={query}");
        let mut response = server.send(Request::get(&target).bearer(&token)).await;
        (response.status, response.json().await)
    };
    let (status, first) = ask("job:1,job:%E9%A1%B9".to_owned()).await;
    assert_eq!(status, 200, "{first}");
    let backend = nats.backend().await;
    for channel in ["job:2", "job:项"] {
        let event = json!({"type": "job.progress", "channel": channel, "data": 1});
        backend.publish("fechatter.realtime.job", &event).await;
    }
    let query = format!("job:1,job:%E9%A1%B9&after={}", id(&first));
    let (_, answer) = ask(query).await;
    assert_eq!(answer["events"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(answer["events"][0]["channel"], "job:项");
    for (query, expected) in [("service:x", 403), ("chat:9", 403), ("job", 422)] {
        assert_eq!(ask(query.to_owned()).await.0, expected, "{query}");
    }
}

async fn ticket(server: &Server) -> String {
    let request = Request::new("POST", "/events/ticket").bearer(&tokens::of_user(1));
    let mut response = server.send(request).await;
    assert_eq!(response.status, 200);
    let answer = response.json().await;
    assert_eq!(answer["expires_in"], 30);
    answer["ticket"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_ticket_opens_one_stream_on_any_instance() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats).chat(5, &[1]);
    let [one, other] = [
        Server::start(settings.clone()).await,
        Server::start(settings).await,
    ];
    for server in [&one, &other] {
        let ticket = ticket(&one).await;
        let target = format!("/events?ticket={ticket}");
        let mut stream = EventStream::new(server.get(&target).await);
        let confirmed = stream.expect_type("connection_confirmed").await;
        assert_eq!(confirmed.data["user_id"], 1);
        for server in [&one, &other] {
            let response = server.get(&target).await;
            assert_eq!(response.status, 401, "a second time");
            let challenge = response.header("www-authenticate").unwrap();
            assert!(challenge.contains("ticket"), "{challenge}");
        }
    }
    for ticket in ["", "x", "nobody.0123456789abcdef0123456789abcdef", "a.b.c"] {
        let target = format!("/events?ticket={ticket}");
        assert_eq!(one.get(&target).await.status, 401, "{ticket:?}");
    }
    // A ticket is no token: it opens a stream and does nothing else.
    let target = format!("/api/sse/stats?ticket={}", ticket(&one).await);
    assert_eq!(one.get(&target).await.status, 401);
    let target = format!("/events/ticket?ticket={}", ticket(&one).await);
    let response = one.send(Request::new("POST", &target)).await;
    assert_eq!(response.status, 401);
}

#[tokio::test]
async fn a_ticket_of_an_instance_that_is_gone_is_not_good() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats);
    let [one, other] = [
        Server::start(settings.clone()).await,
        Server::start(settings).await,
    ];
    let ticket = ticket(&one).await;
    one.stop().await;
    let target = format!("/events?ticket={ticket}");
    eventually("the ticket to be refused", || async {
        (other.get(&target).await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn asking_for_the_head_of_a_poll_waits_for_nothing_and_takes_nothing() {
    let server = Server::start(Settings::new().set("server.max_connections_per_user", 1)).await;
    let after = id(&poll(&server, "").await);
    let target = format!("/events/poll?after={after}&wait=60");
    let head = Request::new("HEAD", &target);
    let good = server.send(head.bearer(&tokens::of_user(1))).await;
    assert_eq!(
        (good.status, good.header("cache-control")),
        (200, Some("no-store"))
    );
    assert_eq!(server.send(Request::new("HEAD", &target)).await.status, 401);
    assert_eq!(server.metric("notify_connections", "").await, 0.0);
}
