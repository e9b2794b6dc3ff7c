//! Why a user did or did not get an event: each answer, on two instances, over the interface and the command line.

use serde_json::{Value, json};

use crate::support::payload::{self, chat_message, chat_subject};
use crate::support::tokens::Token;
use crate::support::{
    Backend, EventStream, Nats, Request, Response, Server, Settings, eventually, sqlite, tokens,
};

const KIBIBYTE: usize = 1024;

pub(crate) fn admin() -> String {
    let rights = json!({"admin": true, "publish": ["*"]});
    Token::of(900)
        .claim("notify", rights)
        .sign_hs256(tokens::SECRET)
}

/// Two instances that share a log and a database, in which users 1 and 2 are in chat 5.
pub(crate) struct Pair {
    pub(crate) nats: Nats,
    pub(crate) backend: Backend,
    pub(crate) first: Server,
    pub(crate) second: Server,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        Self::start_as(|settings| settings).await
    }

    pub(crate) async fn start_as(change: impl Fn(Settings) -> Settings) -> Self {
        let nats = Nats::start().await;
        let settings = change(Settings::new().nats(&nats).chat(5, &[1, 2]));
        let first = Server::start(settings.clone()).await;
        let second = Server::start(settings).await;
        let pair = Self {
            backend: nats.backend().await,
            nats,
            first,
            second,
        };
        pair.know_each_other().await;
        pair
    }

    pub(crate) async fn know_each_other(&self) {
        for server in [&self.first, &self.second] {
            eventually("the instances to know each other", || async {
                let stats = get(server, "/api/v1/connections/stats").await;
                let replied = stats["instances"]["replied"].as_array()?.len();
                (replied == 2).then_some(())
            })
            .await;
        }
    }

    pub(crate) async fn say(&self, text: &str) {
        self.backend
            .publish(&chat_subject(5), &chat_message(5, text))
            .await;
    }

    /// Both instances have had all that was published before, if they are of one thread.
    pub(crate) async fn settle(&self, witness: &mut [EventStream; 2]) -> String {
        let mark = json!({"type": "mark", "target": {"user_id": 800}});
        self.backend.publish("fechatter.realtime.push", &mark).await;
        let mut id = None;
        for stream in witness {
            id = stream.expect_type("mark").await.id;
        }
        id.unwrap()
    }

    /// Streams of somebody else on both instances.
    pub(crate) async fn witness(&self) -> [EventStream; 2] {
        [
            self.first.connect(800).await,
            self.second.connect(800).await,
        ]
    }
}

/// What one stream of such an instance has had, all have.
pub(crate) fn of_one_thread(settings: Settings) -> Settings {
    settings.set("server.workers", 1)
}

pub(crate) async fn get(server: &Server, target: &str) -> Value {
    let mut response = server.send(Request::get(target).bearer(&admin())).await;
    let text = response.text().await;
    assert_eq!(response.status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

pub(crate) async fn explain(server: &Server, user: i64, event: &str) -> Value {
    get(
        server,
        &format!("/api/v1/explain?user_id={user}&event={event}"),
    )
    .await
}

/// The answer must be the same wherever it is asked for.
pub(crate) async fn expect(pair: &Pair, user: i64, event: &str, reason: &str) -> Value {
    let one = explain(&pair.first, user, event).await;
    let other = explain(&pair.second, user, event).await;
    assert_eq!(one["reason"], reason, "{one:#}");
    assert_eq!(other["reason"], reason, "{other:#}");
    one
}

/// The id of the last event of a stream.
pub(crate) async fn id_of(stream: &mut EventStream, content: &str) -> String {
    stream.expect_message(content).await.id.unwrap()
}

pub(crate) async fn ended(server: &Server, count: f64) {
    server
        .metric_becomes("notify_sessions_ended_total", "", count)
        .await;
}

#[tokio::test]
async fn what_was_written_is_told_by_any_instance_and_the_command() {
    let pair = Pair::start().await;
    let mut stream = pair.second.connect(2).await;
    pair.say("one").await;
    let id = id_of(&mut stream, "one").await;
    let answer = expect(&pair, 2, &id, "written").await;
    assert_eq!(answer["delivered"], true, "{answer:#}");
    let session = &answer["sessions"][0];
    assert_eq!(session["outcome"], "written", "{answer:#}");
    assert!(session["written_by"].is_string(), "{answer:#}");
    assert!(session["ended_at"].is_null(), "{answer:#}");
    assert_eq!(answer["event"]["audience"], json!(["chat:5"]));
    assert_eq!(answer["event"]["queued"], 1);
    assert_eq!(
        answer["memberships"],
        json!([{"chat_id": 5, "then": true, "now": true, "listened": true}])
    );
    assert_eq!(answer["instances"].as_array().unwrap().len(), 2);
    let settings = pair.first.settings();
    let url = pair.first.url();
    let arguments = |user: &'static str| {
        ["explain", "--url", &url, "--user", user, "--event", &id].map(str::to_owned)
    };
    let run = |user| {
        let arguments = arguments(user);
        async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            settings.run(&arguments).await
        }
    };
    let told = run("2").await;
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(
        told.stdout.contains("has got") && told.stdout.contains("reason: written"),
        "{told:?}"
    );
    // In the chat, and not there.
    let told = run("1").await;
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stdout.contains("reason: not_connected"), "{told:?}");
    let told = settings
        .run(&[
            "explain", "--url", &url, "--user", "2", "--event", "never", "--json",
        ])
        .await;
    assert_eq!(told.code, Some(2), "{told:?}");
    let json: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(
        (&json["reason"], &json["delivered"]),
        (&json!("not_remembered"), &Value::Null)
    );
    let told = settings.run(&["explain", "--user", "2"]).await;
    assert_eq!(told.code, Some(2), "{told:?}");
    let nowhere = [
        "explain",
        "--url",
        "http://127.0.0.1:1",
        "--user",
        "2",
        "--event",
        &id,
    ];
    assert_eq!(settings.run(&nowhere).await.code, Some(2));
}

#[tokio::test]
async fn only_administrators_are_told() {
    let server = Server::start(Settings::new()).await;
    let target = "/api/v1/explain?user_id=2&event=1-1-0001";
    assert_eq!(server.get(target).await.status, 401);
    for token in [tokens::of_user(2), tokens::of_publisher(2)] {
        let request = Request::get(target).bearer(&token);
        assert_eq!(server.send(request).await.status, 403);
        let told = server
            .settings()
            .run(&[
                "explain",
                "--url",
                &server.url(),
                "--token",
                &token,
                "--user",
                "2",
                "--event",
                "x",
            ])
            .await;
        assert_eq!(told.code, Some(2));
        assert!(
            told.stderr.contains("403") && !told.stderr.contains(&token),
            "{told:?}"
        );
    }
    let long = "x".repeat(401);
    for query in [
        "event=1",
        "user_id=2",
        "user_id=2&event=",
        "user_id=a%20b%0A&event=1",
        &format!("user_id=2&event={long}"),
    ] {
        let request = Request::get(&format!("/api/v1/explain?{query}")).bearer(&admin());
        assert_eq!(server.send(request).await.status, 422, "{query}");
    }
}

#[tokio::test]
async fn who_is_not_in_the_audience_is_told_so() {
    let pair = Pair::start().await;
    let mut streams = [pair.first.connect(1).await, pair.second.connect(2).await];
    let mut outsider = pair.first.connect(3).await;
    let only_one = payload::message(5, "for one", &[1]);
    pair.backend.publish(&chat_subject(5), &only_one).await;
    let id = id_of(&mut streams[0], "for one").await;
    let answer = expect(&pair, 2, &id, "not_in_audience").await;
    assert_eq!(answer["event"]["audience"], json!(["user:1"]));
    assert_eq!(answer["event"]["audience_size"], 1);
    let url = pair.first.url();
    let told = ["explain", "--server", &url, "--user", "2", "--event", &id];
    let told = pair.first.settings().run(&told).await;
    assert!(told.stdout.contains(") for user:1\n"), "{told:?}");
    let many: Vec<i64> = (100..150).collect();
    let many = payload::message(5, "for many", &[&[1][..], &many].concat());
    pair.backend.publish(&chat_subject(5), &many).await;
    let id = id_of(&mut streams[0], "for many").await;
    let answer = expect(&pair, 2, &id, "not_in_audience").await;
    assert_eq!(answer["event"]["audience"].as_array().unwrap().len(), 20);
    assert_eq!(answer["event"]["audience_size"], 51);
    let told = ["explain", "--url", &url, "--user", "2", "--event", &id];
    let told = pair.first.settings().run(&told).await;
    assert!(told.stdout.contains("user:118 and 31 more\n"), "{told:?}");
    let typing = payload::event("typing_started", 5, 1);
    pair.backend.publish(&chat_subject(5), &typing).await;
    let id = streams[1].expect_type("typing_started").await.id.unwrap();
    expect(&pair, 1, &id, "excluded").await;
    expect(&pair, 2, &id, "written").await;
    pair.say("for members").await;
    let id = id_of(&mut streams[1], "for members").await;
    let answer = expect(&pair, 3, &id, "not_a_member").await;
    assert_eq!(
        answer["memberships"],
        json!([{"chat_id": 5, "then": false, "now": false, "listened": false}])
    );
    // Joining later changes what is now, and not what was then.
    sqlite::execute(
        &pair.first.settings().database_file(),
        &sqlite::insert_members(&[(5, &[3])]),
    )
    .await;
    let joined = payload::event("member_added", 5, 3);
    pair.backend.publish(&chat_subject(5), &joined).await;
    let join = outsider.expect_type("chat_member_added").await.id.unwrap();
    let answer = expect(&pair, 3, &id, "not_a_member").await;
    assert_eq!(
        answer["memberships"],
        json!([{"chat_id": 5, "then": false, "now": true, "listened": false}])
    );
    expect(&pair, 3, &join, "written").await;
}

#[tokio::test]
async fn who_came_later_or_comes_back_is_told_what_became_of_it() {
    let pair = Pair::start_as(of_one_thread).await;
    let mut witness = pair.witness().await;
    let mut early = pair.first.connect(1).await;
    pair.say("one").await;
    let one = id_of(&mut early, "one").await;
    expect(&pair, 2, &one, "not_connected").await;
    let late = pair.second.connect(2).await;
    let answer = expect(&pair, 2, &one, "opened_later").await;
    assert_eq!(answer["delivered"], false);
    drop(late);
    drop(early);
    ended(&pair.second, 1.0).await;
    ended(&pair.first, 1.0).await;
    pair.say("two").await;
    let mark = pair.settle(&mut witness).await;
    let mut back = pair.second.come_back(1, &one).await;
    back.expect_type("connection_confirmed").await;
    let two = id_of(&mut back, "two").await;
    let answer = expect(&pair, 1, &two, "replayed_from_memory").await;
    assert_eq!(answer["delivered"], true);
    // The stream that has ended had the first; the one that came back says that it had it.
    let answer = expect(&pair, 1, &one, "written").await;
    let outcomes: Vec<&Value> = answer["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| &session["outcome"])
        .collect();
    assert_eq!(outcomes.len(), 2, "{answer:#}");
    assert!(outcomes.contains(&&json!("had_already")), "{answer:#}");
    assert!(
        answer["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|session| session["ended_because"] == "client_gone")
    );
    // Somebody who never was here, and says to have had it all.
    let mut claims = pair.first.come_back(2, &mark).await;
    claims.expect_type("connection_confirmed").await;
    expect(&pair, 2, &two, "had_already").await;
    expect(&pair, 800, &mark, "written").await;
}

#[tokio::test]
async fn what_was_read_from_the_log_is_told_and_so_is_what_was_lost() {
    let pair =
        Pair::start_as(|settings| of_one_thread(settings).set("history.max_events", 4)).await;
    let mut witness = pair.witness().await;
    let mut stream = pair.first.connect(1).await;
    let mut ids = Vec::new();
    for number in 0..20 {
        pair.say(&number.to_string()).await;
        ids.push(id_of(&mut stream, &number.to_string()).await);
    }
    pair.settle(&mut witness).await;
    let mut back = pair.second.come_back(2, &ids[0]).await;
    back.expect_type("connection_confirmed").await;
    for number in 1..20 {
        back.expect_message(&number.to_string()).await;
    }
    expect(&pair, 2, &ids[1], "replayed_from_log").await;
    drop(back);
    ended(&pair.second, 1.0).await;
    // What the log has lost can't be given.
    let log = pair
        .backend
        .jetstream()
        .get_stream(crate::support::STREAM)
        .await
        .unwrap();
    log.purge().keep(3).await.unwrap();
    let mut gap = pair.second.come_back(2, &ids[0]).await;
    gap.expect_type("connection_confirmed").await;
    gap.expect_gap("expired").await;
    let answer = explain(&pair.first, 2, &ids[5]).await;
    // The first time it was not.
    assert_eq!(answer["reason"], "replayed_from_log", "{answer:#}");
    let outcomes = answer["sessions"].as_array().unwrap().iter();
    assert!(
        outcomes.clone().any(|session| session["outcome"] == "gap"),
        "{answer:#}"
    );
    let mut lost = pair.second.come_back(1, &ids[0]).await;
    lost.expect_type("connection_confirmed").await;
    drop(stream);
    expect(&pair, 1, &ids[5], "written").await;
}

#[tokio::test]
async fn a_gap_is_an_answer() {
    let settings = Settings::new()
        .set("history.max_events", 2)
        .chat(5, &[1, 2]);
    let server = Server::start(settings).await;
    let mut stream = server.connect(1).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let request = Request::new("POST", "/api/v1/bus/fechatter.realtime.chat.5")
            .bearer(&admin())
            .json(&chat_message(5, &number.to_string()));
        assert_eq!(server.send(request).await.status, 202);
        ids.push(id_of(&mut stream, &number.to_string()).await);
    }
    let mut back = server.come_back(2, &ids[0]).await;
    back.expect_type("connection_confirmed").await;
    back.expect_gap("expired").await;
    let answer = explain(&server, 2, &ids[1]).await;
    assert_eq!(
        (&answer["reason"], &answer["delivered"]),
        (&json!("gap"), &json!(false)),
        "{answer:#}"
    );
}

/// Opens a stream of user 1 and never reads more than its head.
async fn stalled(server: &Server) -> Response {
    let request = Request::get("/events")
        .bearer(&tokens::of_user(1))
        .receive_buffer(4 * KIBIBYTE);
    let response = server.send(request).await;
    assert_eq!(response.status, 200);
    response
}

/// Says something long to users 1 and 2, as fast as user 2 reads; gives the id of the last.
async fn flood(pair: &Pair, reader: &mut EventStream, count: usize) -> String {
    let long = "x".repeat(100 * KIBIBYTE);
    let mut id = String::new();
    for number in 0..count {
        let text = format!("{number} {long}");
        pair.say(&text).await;
        id = id_of(reader, &text).await;
    }
    id
}

#[tokio::test]
async fn a_reader_that_stalls_is_told_from_one_that_is_away() {
    let pair = Pair::start_as(|settings| {
        settings
            .set("stream.outbox_bytes", "1 GiB")
            .set("stream.outbox_events", 200)
            .set("stream.write_timeout", "60s")
    })
    .await;
    let _stalled = stalled(&pair.first).await;
    let mut reader = pair.second.connect(2).await;
    // More than the kernel takes.
    let waits = flood(&pair, &mut reader, 120).await;
    // It may take a moment longer to the other instance.
    eventually("the event to wait", || async {
        let answer = explain(&pair.first, 1, &waits).await;
        (answer["reason"] == "queued").then_some(())
    })
    .await;
    let answer = expect(&pair, 1, &waits, "queued").await;
    assert_eq!(answer["delivered"], false);
    expect(&pair, 2, &waits, "written").await;
    // Its outbox fills, and what is for the moment has no room.
    let mut typing = String::new();
    for _ in 0..200 {
        let payload = payload::event("typing_started", 5, 77);
        pair.backend.publish(&chat_subject(5), &payload).await;
        typing = reader.expect_type("typing_started").await.id.unwrap();
    }
    eventually("the event to be dropped", || async {
        let answer = explain(&pair.first, 1, &typing).await;
        (answer["reason"] == "shed").then_some(())
    })
    .await;
    expect(&pair, 1, &typing, "shed").await;
    expect(&pair, 2, &typing, "written").await;
    // And then nothing has.
    for number in 0..200 {
        pair.say(&number.to_string()).await;
        reader.expect_message(&number.to_string()).await;
    }
    let ended = "notify_sessions_ended_total";
    pair.say("last").await;
    let last = id_of(&mut reader, "last").await;
    // It came when the stream was given up already, and its connection was not.
    expect(&pair, 1, &last, "slow_consumer").await;
    drop(_stalled);
    pair.first
        .metric_becomes(ended, "reason=\"slow_consumer\"", 1.0)
        .await;
    let answer = expect(&pair, 1, &waits, "slow_consumer").await;
    assert_eq!(
        answer["sessions"][0]["ended_because"], "slow_consumer",
        "{answer:#}"
    );
    pair.say("afterwards").await;
    let afterwards = id_of(&mut reader, "afterwards").await;
    expect(&pair, 1, &afterwards, "not_connected").await;
}

#[tokio::test]
async fn what_is_past_its_time_and_what_is_no_event_is_told_so() {
    let pair = Pair::start().await;
    let mut stream = pair.first.connect(2).await;
    let brief =
        json!({"id": "brief-1", "type": "news", "target": {"user_id": 2}, "metadata": {"ttl": 0}});
    pair.backend
        .publish("fechatter.realtime.push", &brief)
        .await;
    let long = json!({"id": "long-1", "type": "news", "target": {"user_id": 2}, "metadata": {"ttl": 3600}});
    pair.backend.publish("fechatter.realtime.push", &long).await;
    stream.expect_type("news").await;
    expect(&pair, 2, "brief-1", "expired").await;
    expect(&pair, 2, "long-1", "written").await;
    let wrong = json!({"TypingStarted": {"chat_id": 5}});
    pair.backend.publish(&chat_subject(5), &wrong).await;
    let id = rejected(&pair.first, 1).await;
    let answer = explain(&pair.first, 2, &id).await;
    assert_eq!(
        (&answer["reason"], &answer["delivered"]),
        (&json!("rejected"), &json!(false))
    );
    let rejection = &answer["rejection"];
    assert_eq!(rejection["subject"], chat_subject(5), "{answer:#}");
    assert_eq!(rejection["reason"], "malformed", "{answer:#}");
    assert!(
        rejection["problem"].as_str().unwrap().contains("user_id"),
        "{answer:#}"
    );
    let url = pair.second.url();
    let told = ["explain", "--url", &url, "--user", "2", "--event", &id];
    let told = pair.first.settings().run(&told).await;
    assert_eq!(told.code, Some(1), "{told:?}");
    for line in [
        "reason: rejected",
        "problem: TypingStarted",
        "subject: fechatter.realtime.chat.5",
    ] {
        assert!(told.stdout.contains(line), "{told:?}");
    }
}

/// The place in the log of the latest of so many rejected payloads.
async fn rejected(server: &Server, count: usize) -> String {
    eventually("a rejection", || async {
        let list = get(server, "/api/v1/rejections").await;
        let list = list["rejections"].as_array()?;
        let latest = list.first().filter(|_| list.len() == count)?;
        Some(latest["event_id"].as_str()?.to_owned())
    })
    .await
}

#[tokio::test]
async fn what_was_rejected_is_found_by_the_id_that_its_publisher_gave_it() {
    let pair = Pair::start_as(|settings| settings.set("events.max_payload", "2 KiB")).await;
    let mut stream = pair.first.connect(2).await;
    let wrong = json!({"MessageReceived": {"message": {"id": "msg-1", "content": "hi"}}});
    pair.backend.publish(&chat_subject(5), &wrong).await;
    let nobody = json!({"id": "push-1", "type": "news", "data": {}});
    pair.backend.publish("fechatter.realtime", &nobody).await;
    pair.backend
        .publish("fechatter.realtime.push", &nobody)
        .await;
    let large = json!({"id": "large-1", "type": "news", "target": {"user_id": 2}, "data": "x".repeat(3_000)});
    pair.backend
        .publish("fechatter.realtime.push", &large)
        .await;
    for server in [&pair.first, &pair.second] {
        rejected(server, 3).await;
    }
    for (name, problem) in [("msg-1", "chat_id"), ("push-1", "says whom")] {
        let answer = expect(&pair, 2, name, "rejected").await;
        assert_eq!(answer["delivered"], false, "{answer:#}");
        assert_eq!(answer["rejection"]["ids"], json!([name]), "{answer:#}");
        let told = answer["rejection"]["problem"].as_str().unwrap();
        assert!(told.contains(problem), "{told}");
    }
    // What is too large is not read.
    expect(&pair, 2, "large-1", "not_remembered").await;
    // Mended and published again, it is what counts.
    let right = json!({"id": "push-1", "type": "news", "target": {"user_id": 2}});
    pair.backend
        .publish("fechatter.realtime.push", &right)
        .await;
    stream.expect_type("news").await;
    eventually("both instances to have it", || async {
        let answer = explain(&pair.second, 2, "push-1").await;
        (answer["reason"] == "written").then_some(())
    })
    .await;
    expect(&pair, 2, "push-1", "written").await;
}

#[tokio::test]
async fn an_id_of_before_the_instances_started_is_asked_for_by_its_place() {
    let pair = Pair::start().await;
    let mut stream = pair.first.connect(2).await;
    let message = json!({"id": "early-1", "type": "early", "target": {"user_id": 2}});
    pair.backend
        .publish("fechatter.realtime.push", &message)
        .await;
    let id = stream.expect_type("early").await.id.unwrap();
    expect(&pair, 2, "early-1", "written").await;
    let Pair {
        nats,
        backend: _backend,
        first,
        second,
    } = pair;
    drop(stream);
    let settings = first.settings().clone();
    first.stop().await;
    second.stop().await;
    let server = Server::start(settings.clone()).await;
    let answer = explain(&server, 2, "early-1").await;
    assert_eq!(
        (&answer["reason"], &answer["delivered"]),
        (&json!("not_remembered"), &Value::Null),
        "{answer:#}"
    );
    let hints = answer["hints"].to_string();
    assert!(
        hints.contains("ask by the id that it has on streams"),
        "{hints}"
    );
    // From where to where the log reaches, to be asked for as it is.
    let place = id.rsplit_once('-').unwrap().0;
    assert!(
        hints.contains(&format!("the log has what stands from {place}-0000")),
        "{hints}"
    );
    let url = server.url();
    let told = [
        "explain", "--url", &url, "--user", "2", "--event", "early-1",
    ];
    let told = settings.run(&told).await;
    assert_eq!(told.code, Some(2), "{told:?}");
    assert!(
        told.stdout.contains("note: the log has what stands from"),
        "{told:?}"
    );
    // By its place the log has it; who was connected then is forgotten.
    let answer = explain(&server, 2, &format!("{place}-0000")).await;
    assert_eq!(answer["event"]["id"], id, "{answer:#}");
    assert_eq!(answer["reason"], "not_remembered", "{answer:#}");
    drop(nats);
}

#[tokio::test]
async fn events_are_found_by_their_publishers_ids_and_what_came_twice_is_told() {
    let pair = Pair::start().await;
    let mut stream = pair.first.connect(2).await;
    let message = json!({"id": "invoice-17", "type": "paid", "target": {"user_id": 2}});
    let headers = [("Nats-Msg-Id", "billing:17")];
    for _ in 0..2 {
        pair.backend
            .publish_with("fechatter.realtime.push", &headers, &message)
            .await;
    }
    let id = stream.expect_type("paid").await.id.unwrap();
    for name in ["invoice-17", "billing:17", &id] {
        let answer = expect(&pair, 2, name, "written").await;
        assert_eq!(answer["event"]["id"], id, "{answer:#}");
    }
    // The copy that the log did not take is told from the first when it has waited for its position.
    eventually("the repetition to be noticed", || async {
        let answer = explain(&pair.first, 2, "billing:17").await;
        (answer["repeats"] == 1).then_some(())
    })
    .await;
    // The number of a chat message.
    pair.say("numbered").await;
    id_of(&mut stream, "numbered").await;
    expect(&pair, 2, "1001", "written").await;
}

#[tokio::test]
async fn what_waits_for_the_user_is_told() {
    let pair = Pair::start().await;
    let letter =
        json!({"id": "letter-1", "type": "letter", "durable": true, "target": {"user_id": 7}});
    let request = Request::new("POST", "/api/v1/messages/send")
        .bearer(&admin())
        .json(&letter);
    assert_eq!(pair.first.send(request).await.status, 202);
    let answer = expect(&pair, 7, "letter-1", "waits_in_inbox").await;
    assert_eq!(answer["delivered"], false);
    let mut stream = pair.second.connect(7).await;
    stream.expect_type("letter").await;
    pair.second
        .metric_becomes("notify_inbox_delivered_total", "", 1.0)
        .await;
    let answer = expect(&pair, 7, "letter-1", "delivered_from_inbox").await;
    assert_eq!(answer["delivered"], true);
}

#[tokio::test]
async fn streams_for_channels_by_name_get_what_is_for_these() {
    let pair = Pair::start().await;
    let token = Token::of(2)
        .claim("notify", json!({"subscribe": ["job:*"]}))
        .sign_hs256(tokens::SECRET);
    let mut jobs = EventStream::new(
        pair.first
            .send(Request::get("/sse/stream/job:1").bearer(&token))
            .await,
    );
    jobs.expect_type("connection_confirmed").await;
    let mut chat = pair.second.connect(1).await;
    pair.say("one").await;
    let said = id_of(&mut chat, "one").await;
    expect(&pair, 2, &said, "not_listening").await;
    let progress = json!({"type": "progress", "channel": "job:1", "data": 1});
    pair.backend
        .publish("fechatter.realtime.job.1", &progress)
        .await;
    let id = jobs.expect_type("progress").await.id.unwrap();
    expect(&pair, 2, &id, "written").await;
    expect(&pair, 1, &id, "not_listening").await;
    expect(&pair, 3, &id, "not_connected").await;
}

#[tokio::test]
async fn what_is_not_remembered_is_not_made_up() {
    let bounds = |settings: Settings| {
        settings
            .set("explain.max_events", 3)
            .set("explain.max_sessions", 1)
            // Each thread has its own memory.
            .set("server.workers", 1)
    };
    let pair = Pair::start_as(bounds).await;
    let mut witness = pair.witness().await;
    let mut stream = pair.first.connect(2).await;
    let typing = payload::event("typing_started", 5, 77);
    pair.backend.publish(&chat_subject(5), &typing).await;
    let typed = stream.expect_type("typing_started").await.id.unwrap();
    pair.say("first").await;
    let first = id_of(&mut stream, "first").await;
    expect(&pair, 2, &typed, "written").await;
    let before = explain(&pair.first, 2, &first).await;
    for number in 0..6 {
        pair.say(&number.to_string()).await;
        id_of(&mut stream, &number.to_string()).await;
    }
    pair.settle(&mut witness).await;
    // The log has the event and the open stream knows its place. When it was written is forgotten.
    let answer = expect(&pair, 2, &first, "written").await;
    assert!(
        before["sessions"][0]["written_by"].is_string(),
        "{before:#}"
    );
    assert!(answer["sessions"][0]["written_by"].is_null(), "{answer:#}");
    assert!(answer["event"]["queued"].is_null(), "{answer:#}");
    assert!(
        answer["remembered_since"].as_str() > before["remembered_since"].as_str(),
        "{answer:#}"
    );
    // What is for the moment may have been dropped, which is forgotten, too.
    let answer = expect(&pair, 2, &typed, "not_remembered").await;
    assert_eq!(answer["delivered"], Value::Null);
    // And streams that have ended make room for others.
    drop(stream);
    ended(&pair.first, 1.0).await;
    expect(&pair, 2, &first, "written").await;
    for count in 2..4 {
        for server in [&pair.first, &pair.second] {
            drop(server.connect(800).await);
            let gone = if std::ptr::eq(server, &pair.first) {
                f64::from(count)
            } else {
                f64::from(count - 1)
            };
            ended(server, gone).await;
        }
    }
    expect(&pair, 2, &first, "not_remembered").await;
}

#[tokio::test]
async fn it_can_be_off() {
    let pair = Pair::start_as(|settings| settings.set("explain.enabled", false)).await;
    let mut stream = pair.first.connect(2).await;
    pair.say("one").await;
    let id = id_of(&mut stream, "one").await;
    let answer = expect(&pair, 2, &id, "not_remembered").await;
    assert_eq!(answer["event"]["type"], "new_message", "{answer:#}");
    assert_eq!(answer["remembered_since"], Value::Null, "{answer:#}");
}

#[tokio::test]
async fn an_instance_that_does_not_answer_leaves_room_for_doubt() {
    let mut pair = Pair::start().await;
    let mut streams = [pair.first.connect(1).await, pair.second.connect(2).await];
    pair.say("one").await;
    let id = id_of(&mut streams[0], "one").await;
    id_of(&mut streams[1], "one").await;
    pair.second.process().signal("STOP");
    let answer = explain(&pair.first, 2, &id).await;
    assert_eq!(answer["reason"], "not_remembered", "{answer:#}");
    assert_eq!(answer["missing"].as_array().unwrap().len(), 1, "{answer:#}");
    // What is certain stays so.
    assert_eq!(explain(&pair.first, 1, &id).await["reason"], "written");
    pair.second.process().signal("CONT");
    // Without the log, and without the others, what is remembered here is told.
    pair.nats.kill();
    pair.first.not_ready().await;
    // And that nothing else comes, whatever is asked for.
    for (event, reason) in [(&*id, "written"), ("never-published", "not_remembered")] {
        let answer = explain(&pair.first, 1, event).await;
        assert_eq!(answer["reason"], reason, "{answer:#}");
        let first = answer["hints"][0].as_str().unwrap_or_default();
        assert!(
            first.starts_with("no event reaches this instance"),
            "{answer:#}"
        );
    }
}

#[tokio::test]
async fn what_does_not_stand_in_the_log_is_not_known() {
    let pair = Pair::start().await;
    let mut stream = pair.first.connect(2).await;
    pair.say("one").await;
    let id = id_of(&mut stream, "one").await;
    let parts: Vec<&str> = id.split('-').collect();
    let (epoch, position) = (parts[0], parts[1]);
    let check = if parts[2] == "0001" { "0002" } else { "0001" };
    for (name, reason) in [
        (format!("{epoch}-{position}-{check}"), "other_event"),
        (format!("1-{position}-{check}"), "other_event"),
        (format!("{epoch}-999-{check}"), "unknown_event"),
        ("nothing".to_owned(), "not_remembered"),
    ] {
        let answer = expect(&pair, 2, &name, reason).await;
        assert_eq!(answer["delivered"], Value::Null, "{name}");
    }
}

#[tokio::test]
async fn bounds_of_nothing_are_refused() {
    for key in ["max_events", "max_bytes", "max_sessions"] {
        let key = format!("explain.{key}");
        let outcome = Settings::new().set(&key, 0).run(&["check-config"]).await;
        assert_eq!(outcome.code, Some(2), "{key}");
        assert!(
            outcome.stderr.contains(&key) && outcome.stderr.contains("at least 1"),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn what_the_log_could_not_take_is_explained_by_its_own_id() {
    let pair = Pair::start().await;
    let mut streams = [pair.first.connect(2).await, pair.second.connect(2).await];
    let refused_by_the_stream = [("Nats-Expected-Last-Sequence", "12345")];
    let message = json!({"id": "beside-1", "type": "beside", "target": {"user_id": 2}});
    pair.backend
        .publish_with("fechatter.realtime.push", &refused_by_the_stream, &message)
        .await;
    for stream in &mut streams {
        assert_eq!(stream.expect_type("beside").await.id, None);
    }
    let answer = expect(&pair, 2, "beside-1", "written").await;
    assert_eq!(answer["event"]["id"], Value::Null, "{answer:#}");
    let written = answer["sessions"].as_array().unwrap().iter();
    assert_eq!(
        written
            .filter(|session| session["outcome"] == "written")
            .count(),
        2
    );
    // Whoever comes later does not get it.
    let [one, other] = streams;
    drop((one, other));
    ended(&pair.first, 1.0).await;
    let _late = pair.first.connect(2).await;
    let answer = expect(&pair, 2, "beside-1", "written").await;
    let mut sessions = answer["sessions"].as_array().unwrap().iter();
    assert!(
        sessions.any(|session| session["outcome"] == "opened_later"),
        "{answer:#}"
    );
}

#[tokio::test]
async fn where_each_instance_has_its_own_log_the_publishers_id_is_good_for_all() {
    let pair = Pair::start_as(|settings| settings.set("log", "memory")).await;
    let mut stream = pair.second.connect(2).await;
    let message = json!({"id": "own-1", "type": "own", "target": {"user_id": 2}});
    pair.backend
        .publish("fechatter.realtime.push", &message)
        .await;
    let id = stream.expect_type("own").await.id.unwrap();
    expect(&pair, 2, "own-1", "written").await;
    assert_eq!(explain(&pair.second, 2, &id).await["reason"], "written");
}
