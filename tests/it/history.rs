//! `/api/messages`: writing messages and reading them back, on SQLite with the in-process bus and on
//! PostgreSQL with NATS.

use serde_json::{Value, json};

use crate::support::{EventStream, Nats, Postgres, Request, Response, Server, Settings};
use crate::support::{sqlite, tokens};

const PEOPLE: &str = "INSERT INTO users (id, name) VALUES (1, 'Ann'), (2, 'Bo'), (3, 'Cy');
    INSERT INTO chats (id, name) VALUES (5, 'five');
    INSERT INTO chat_members (chat_id, user_id) VALUES (5, 1), (5, 2)";

/// A server of one of the two kinds, with its database.
struct Setup {
    server: Server,
    _services: Option<(Postgres, Nats)>,
}

impl Setup {
    async fn sqlite() -> Self {
        let settings = Settings::new();
        let file = settings.directory().join("own.db");
        let settings = settings.set("database.url", format!("sqlite://{}", file.display()));
        migrate(&settings).await;
        sqlite::execute(&file, PEOPLE).await;
        Self {
            server: Server::start(settings).await,
            _services: None,
        }
    }

    async fn postgres() -> Self {
        let (postgres, nats) = (Postgres::start().await, Nats::start().await);
        let settings = Settings::new()
            .nats(&nats)
            .set("database.url", postgres.url());
        migrate(&settings).await;
        postgres.execute(PEOPLE).await;
        Self {
            server: Server::start(settings).await,
            _services: Some((postgres, nats)),
        }
    }

    async fn both() -> [Self; 2] {
        [Self::sqlite().await, Self::postgres().await]
    }

    async fn stream(&self, target: &str, token: &str) -> EventStream {
        let request = Request::get(target).bearer(token);
        let mut stream = EventStream::new(self.server.send(request).await);
        stream.expect_type("connection_confirmed").await;
        stream
    }

    async fn post(&self, token: &str, message: Value) -> Response {
        self.post_with_key(token, message, None).await
    }

    async fn post_with_key(&self, token: &str, message: Value, key: Option<&str>) -> Response {
        let mut request = Request::new("POST", "/api/messages")
            .bearer(token)
            .json(&message);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.server.send(request).await
    }

    async fn get(&self, token: &str, query: &str) -> Response {
        let target = format!("/api/messages?{query}");
        self.server.send(Request::get(&target).bearer(token)).await
    }
}

async fn migrate(settings: &Settings) {
    let outcome = settings.run(&["migrate"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

/// May use every session.
fn agent(user: i64) -> String {
    let rights = json!({"publish": ["session:*"], "subscribe": ["session:*"]});
    tokens::Token::of(user)
        .claim("notify", rights)
        .sign_hs256(tokens::SECRET)
}

async fn written(response: &mut Response) -> Value {
    let mut body = response.json().await;
    assert_eq!(response.status, 201, "{body}");
    assert_eq!(body["success"], true);
    body["data"].take()
}

async fn refused(response: &mut Response, status: u16, field: &str) {
    let body = response.json().await;
    assert_eq!(response.status, status, "{body}");
    assert_eq!(body["field"], field, "{body}");
}

#[tokio::test]
async fn what_is_written_is_streamed_and_kept_under_the_same_id() {
    for setup in Setup::both().await {
        let token = agent(1);
        let mut stream = setup
            .stream("/api/sse/messages?sessionId=s-1", &token)
            .await;
        let mut named = setup.stream("/sse/session/s-1", &token).await;
        let message = json!({"sessionId": "s-1", "content": "hello", "senderType": "agent",
            "senderName": "Ann", "messageType": "image"});
        let message = written(&mut setup.post(&token, message).await).await;
        for (key, value) in [
            ("sessionId", "s-1"),
            ("content", "hello"),
            ("senderType", "agent"),
            ("senderId", "1"),
            ("senderName", "Ann"),
            ("messageType", "image"),
        ] {
            assert_eq!(message[key], value);
        }
        assert!(message["createdAt"].is_string() && message.get("chatId").is_none());
        for stream in [&mut stream, &mut named] {
            let event = stream.expect_type("message").await;
            assert_eq!(event.data["data"], message);
            assert_eq!(event.data["channel"], "session:s-1");
        }
        let mut page = setup.get(&token, "sessionId=s-1").await;
        let page = page.json().await;
        let expected = json!({"success": true, "data": {"messages": [message], "next": null}});
        assert_eq!(page, expected);
    }
}

#[tokio::test]
async fn members_of_a_chat_write_to_it_and_read_it() {
    for setup in Setup::both().await {
        let (one, other, stranger) = (tokens::of_user(1), tokens::of_user(2), tokens::of_user(3));
        let mut stream = setup.stream("/events", &other).await;
        let hello = json!({"chatId": 5, "content": "hello"});
        let message = written(&mut setup.post(&one, hello.clone()).await).await;
        assert_eq!(message["chatId"], 5);
        assert_eq!(message["senderType"], "user");
        assert_eq!(stream.expect_type("message").await.data["data"], message);
        let mut page = setup.get(&other, "chatId=5").await;
        assert_eq!(page.json().await["data"]["messages"], json!([message]));
        assert_eq!(setup.post(&stranger, hello.clone()).await.status, 403);
        assert_eq!(setup.get(&stranger, "chatId=5").await.status, 403);
        let mut false_colours = hello;
        false_colours["senderType"] = json!("system");
        assert_eq!(setup.post(&one, false_colours).await.status, 403);
        let to_session = json!({"sessionId": "s-1", "content": "hello"});
        assert_eq!(setup.post(&one, to_session).await.status, 403);
        assert_eq!(setup.get(&one, "sessionId=s-1").await.status, 403);
        let target = "/api/sse/messages?sessionId=s-1";
        let request = Request::get(target).bearer(&one);
        assert_eq!(setup.server.send(request).await.status, 403);
    }
}

#[tokio::test]
async fn a_history_is_read_page_by_page_while_it_grows() {
    for setup in Setup::both().await {
        let token = agent(1);
        for number in 0..7 {
            let message = json!({"sessionId": "s-1", "content": number.to_string()});
            written(&mut setup.post(&token, message).await).await;
        }
        let elsewhere = json!({"sessionId": "s-2", "content": "elsewhere"});
        let elsewhere = written(&mut setup.post(&token, elsewhere).await).await;
        let (mut contents, mut before) = (Vec::new(), String::new());
        loop {
            let query = format!("sessionId=s-1&limit=3{before}");
            let page = setup.get(&token, &query).await.json().await;
            for message in page["data"]["messages"].as_array().unwrap() {
                contents.push(message["content"].as_str().unwrap().to_owned());
            }
            let new = json!({"sessionId": "s-1", "content": "meanwhile"});
            written(&mut setup.post(&token, new).await).await;
            let Some(next) = page["data"]["next"].as_str() else {
                break;
            };
            before = format!("&before={next}");
        }
        assert_eq!(contents.join(""), "6543210");
        for (query, field) in [
            ("limit=3", "sessionId"),
            ("sessionId=s-1&chatId=5", "sessionId"),
            ("sessionId=s-1&limit=0", "limit"),
            ("sessionId=s-1&limit=201", "limit"),
            ("sessionId=a%20b", "sessionId"),
            ("chatId=five", "chatId"),
            ("sessionId=s-1&before=nothing", "before"),
        ] {
            refused(&mut setup.get(&token, query).await, 422, field).await;
        }
        let id = elsewhere["id"].as_str().unwrap();
        let of_another = format!("sessionId=s-1&before={id}");
        refused(&mut setup.get(&token, &of_another).await, 422, "before").await;
    }
}

/// A page that opens the stream first has everything once, by id, whenever it reads the history.
#[tokio::test]
async fn history_and_stream_join_without_a_hole() {
    for setup in Setup::both().await {
        let token = agent(1);
        let writing = async {
            for number in 0..60 {
                let message = json!({"sessionId": "s-1", "content": number.to_string()});
                written(&mut setup.post(&token, message).await).await;
            }
        };
        let reading = async {
            let mut stream = setup
                .stream("/api/sse/messages?sessionId=s-1", &token)
                .await;
            let page = setup
                .get(&token, "sessionId=s-1&limit=200")
                .await
                .json()
                .await;
            let mut messages: Vec<Value> = page["data"]["messages"].as_array().unwrap().clone();
            messages.reverse();
            while messages.last().is_none_or(|last| last["content"] != "59") {
                let mut event = stream.expect_type("message").await;
                let message = event.data["data"].take();
                if messages.iter().all(|known| known["id"] != message["id"]) {
                    messages.push(message);
                }
            }
            messages
        };
        let ((), messages) = futures_util::join!(writing, reading);
        let contents = messages
            .iter()
            .map(|message| message["content"].as_str().unwrap());
        let expected: Vec<String> = (0..60).map(|number| number.to_string()).collect();
        assert_eq!(contents.collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn the_same_request_twice_is_one_message() {
    for setup in Setup::both().await {
        let (one, other) = (agent(1), agent(2));
        let hello = json!({"sessionId": "s-1", "content": "hello"});
        let key = Some("k-1");
        let requests = (0..4).map(|_| setup.post_with_key(&one, hello.clone(), key));
        let mut answers = Vec::new();
        for mut response in futures_util::future::join_all(requests).await {
            answers.push(written(&mut response).await);
        }
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "{answers:?}"
        );
        let another = json!({"sessionId": "s-1", "content": "something else"});
        let mut response = setup.post_with_key(&one, another, key).await;
        refused(&mut response, 422, "Idempotency-Key").await;
        // Somebody else's key is another.
        let others = written(&mut setup.post_with_key(&other, hello, key).await).await;
        assert_ne!(others["id"], answers[0]["id"]);
        let page = setup.get(&one, "sessionId=s-1").await.json().await;
        assert_eq!(page["data"]["messages"], json!([others, answers[0]]));
    }
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    for setup in Setup::both().await {
        let rights = json!({"publish": ["*"]});
        let token = tokens::Token::of(1)
            .claim("notify", rights)
            .sign_hs256(tokens::SECRET);
        let text = "x".repeat(300_000);
        for (message, field) in [
            (json!({"content": "x"}), "sessionId"),
            (json!({"sessionId": "s"}), "content"),
            (json!({"sessionId": "s", "content": " "}), "content"),
            (json!({"sessionId": "s", "content": 5}), "content"),
            (json!({"sessionId": "s", "content": "a\u{0}b"}), "content"),
            (json!({"sessionId": "s", "content": text}), "content"),
            (json!({"sessionId": "a,b", "content": "x"}), "sessionId"),
            (json!({"sessionId": [], "content": "x"}), "sessionId"),
            (json!({"chatId": "five", "content": "x"}), "chatId"),
            (json!({"chatId": 6, "content": "x"}), "chatId"),
            (
                json!({"sessionId": "s", "content": "x", "messageType": ""}),
                "messageType",
            ),
            (
                json!({"sessionId": "s", "content": "x", "senderType": "a b"}),
                "senderType",
            ),
            (
                json!({"sessionId": "s", "content": "x", "senderName": text}),
                "senderName",
            ),
            (
                json!({"sessionId": "s", "content": "x", "senderId": "7"}),
                "senderId",
            ),
            (json!([]), "body"),
        ] {
            refused(&mut setup.post(&token, message).await, 422, field).await;
        }
        let target = "/api/sse/messages";
        let mut response = setup.server.send(Request::get(target).bearer(&token)).await;
        refused(&mut response, 422, "sessionId").await;
        // What is nearly too large comes through.
        let large = json!({"sessionId": "s", "content": "\"".repeat(120_000)});
        written(&mut setup.post(&token, large).await).await;
        setup
            .server
            .metric_becomes("notify_outbox_published_total", "", 1.0)
            .await;
        assert_eq!(
            setup.server.metric("notify_outbox_dead_total", "").await,
            0.0
        );
    }
}

#[tokio::test]
async fn without_the_tables_the_answer_says_so() {
    let postgres = Postgres::start().await;
    postgres.execute(sqlite::CHAT_MEMBERS).await;
    let settings = Settings::new().set("database.url", postgres.url());
    let somebody_elses = "CREATE TABLE messages (id bigint PRIMARY KEY, content text)";
    for (settings, tables) in [(Settings::new(), ""), (settings, somebody_elses)] {
        postgres.execute(tables).await;
        let server = Server::start(settings).await;
        let token = agent(1);
        let message = json!({"sessionId": "s-1", "content": "hello"});
        let write = Request::new("POST", "/api/messages").json(&message);
        for request in [write, Request::get("/api/messages?sessionId=s-1")] {
            let mut response = server.send(request.bearer(&token)).await;
            let problem = response.json().await;
            assert_eq!(response.status, 501, "{problem}");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("migrate"), "{detail}");
        }
    }
}

/// As a server in development has it, without any configuration.
#[tokio::test]
async fn the_embedded_default_has_messages() {
    let server = Server::start(Settings::shipped()).await;
    let asking = Request::new("POST", "/api/dev/token").json(&json!({"user_id": 1}));
    let answer = server.send(asking).await.json().await;
    let token = answer["access_token"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"));
    let mut stream = server.connect_with(token).await;
    let request = Request::new("POST", "/api/messages")
        .bearer(token)
        .json(&json!({"chatId": 2, "content": "hello"}));
    let message = written(&mut server.send(request).await).await;
    assert_eq!(stream.expect_type("message").await.data["data"], message);
}
