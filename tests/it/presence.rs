//! Who is online, over all instances: told to those who share a chat, and to those who ask.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::tokens::Token;
use crate::support::{
    EventStream, Nats, Request, Server, Settings, eventually, sqlite, tokens, within,
};

/// Long enough to come back on a busy machine, short enough to be waited for.
const GRACE: &str = "3s";

/// Chat 5 has users 1, 2 and 3; user 4 shares chat 6 with user 3 alone; user 9 is in no chat.
fn settings() -> Settings {
    Settings::new()
        .set("presence.enabled", true)
        .set("presence.grace", GRACE)
        .chat(5, &[1, 2, 3])
        .chat(6, &[3, 4])
}

/// Two instances that know of each other.
async fn two(nats: &Nats, settings: Settings) -> [Server; 2] {
    let settings = settings.nats(nats);
    let servers = [
        Server::start(settings.clone()).await,
        Server::start(settings).await,
    ];
    for server in &servers {
        instances_are(server, 2).await;
    }
    servers
}

/// Waits until an instance knows the users of as many.
async fn instances_are(server: &Server, count: usize) {
    eventually("all instances to be known", || async {
        let online = online(server, 1, "?chat_id=5").await;
        let known = online["instances"].as_array().unwrap().len();
        (known == count).then_some(())
    })
    .await;
}

async fn online(server: &Server, user: i64, query: &str) -> Value {
    let request = Request::get(&format!("/online-users{query}")).bearer(&tokens::of_user(user));
    let mut response = server.send(request).await;
    let answer = response.json().await;
    assert_eq!(response.status, 200, "{answer}");
    assert_eq!(response.header("cache-control"), Some("no-store"));
    answer
}

fn ids(answer: &Value) -> Vec<i64> {
    let users = answer["users"].as_array().unwrap().iter();
    users
        .map(|user| {
            assert!(user["since"].is_string());
            user["user_id"].as_i64().unwrap()
        })
        .collect()
}

async fn online_become(server: &Server, users: &[i64]) {
    eventually(&format!("{users:?} to be online"), || async {
        let answer = online(server, 1, "?chat_id=5").await;
        (ids(&answer) == users && answer["complete"] == true).then_some(())
    })
    .await;
}

async fn connections_become(server: &Server, count: f64) {
    server.metric_becomes("notify_connections", "", count).await;
}

/// Publishes to chat 5 over HTTP.
async fn publish(server: &Server, content: &str) {
    let payload = crate::support::payload::chat_message(5, content);
    let request = Request::new("POST", "/api/v1/bus/fechatter.realtime.chat.5")
        .bearer(&tokens::of_publisher(99))
        .json(&payload);
    assert_eq!(server.send(request).await.status, 202);
}

/// The next event, which must say that a user came or went.
async fn expect(stream: &mut EventStream, user: i64, status: &str) -> Value {
    let event = stream.expect_type("user_presence").await;
    assert_eq!(event.id, None, "presence is never replayed");
    assert_eq!(
        (&event.data["user_id"], &event.data["status"]),
        (&json!(user), &json!(status)),
    );
    assert_eq!(event.data["last_seen"].is_null(), status == "online");
    assert!(event.data["timestamp"].is_string());
    event.data
}

#[tokio::test]
async fn those_who_share_a_chat_see_a_user_come_and_go_on_any_instance() {
    let nats = Nats::start().await;
    let [here, there] = two(&nats, settings()).await;
    let mut stranger = here.connect(4).await;
    let mut outsider = here.connect(9).await;
    let mut watchers = [here.connect(1).await, there.connect(1).await];
    online_become(&here, &[1]).await;
    let user = there.connect(2).await;
    for watcher in &mut watchers {
        expect(watcher, 2, "online").await;
    }
    online_become(&there, &[1, 2]).await;
    let left = tokens::now();
    drop(user);
    for watcher in &mut watchers {
        let gone = expect(watcher, 2, "offline").await;
        let seen = gone["last_seen"].as_str().unwrap();
        assert!(seen.starts_with("20"), "{seen}");
    }
    assert!(tokens::now() - left >= 2, "the grace was not waited for");
    // User 3 shares chat 6 with the stranger, for whom nothing has happened before.
    let shared = here.connect(3).await;
    expect(&mut stranger, 3, "online").await;
    drop(shared);
    let end = crate::support::payload::message(7, "nothing else", &[9]);
    let backend = nats.backend().await;
    backend.publish("fechatter.realtime.any", &end).await;
    outsider.expect_message("nothing else").await;
    here.metric_becomes("notify_presence_events_total", "offline", 2.0)
        .await;
}

/// Users who go at the same time go offline in the order of their ids, so that whoever is missing before
/// user 3 did not go.
#[tokio::test]
async fn reloads_and_one_of_two_devices_are_no_flicker() {
    let nats = Nats::start().await;
    let [here, there] = two(&nats, settings()).await;
    let mut watcher = here.connect(1).await;
    let page = here.connect(2).await;
    expect(&mut watcher, 2, "online").await;
    let other = here.connect(3).await;
    expect(&mut watcher, 3, "online").await;
    // A reload, which the load balancer sends to the other instance.
    drop(page);
    connections_become(&here, 2.0).await;
    let page = there.connect(2).await;
    // A second device, which is then closed.
    let device = here.connect(2).await;
    drop(device);
    connections_become(&here, 2.0).await;
    drop(other);
    expect(&mut watcher, 3, "offline").await;
    drop(page);
    expect(&mut watcher, 2, "offline").await;
}

#[tokio::test]
async fn a_poll_makes_online_too_however_short_and_so_does_a_stream_of_named_channels() {
    let server = Server::start(settings()).await;
    let mut watcher = server.connect(1).await;
    let poll = Request::get("/events/poll").bearer(&tokens::of_user(2));
    assert_eq!(server.send(poll).await.status, 200);
    expect(&mut watcher, 2, "online").await;
    let named = Request::get("/sse/user/3").bearer(&tokens::of_user(3));
    let mut named = EventStream::new(server.send(named).await);
    named.expect_type("connection_confirmed").await;
    expect(&mut watcher, 3, "online").await;
    expect(&mut watcher, 2, "offline").await;
    online_become(&server, &[1, 3]).await;
}

#[tokio::test]
async fn users_of_a_killed_instance_are_offline_within_15_seconds() {
    let nats = Nats::start().await;
    // As it is shipped.
    let [here, there] = two(&nats, settings().set("presence.grace", "10s")).await;
    let mut watcher = here.connect(1).await;
    let _moves = there.connect(2).await;
    expect(&mut watcher, 2, "online").await;
    let _goes = there.connect(3).await;
    expect(&mut watcher, 3, "online").await;
    let killed = Instant::now();
    there.process().signal("KILL");
    there.process().exited().await;
    let _moved = here.connect(2).await;
    expect(&mut watcher, 3, "offline").await;
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    online_become(&here, &[1, 2]).await;
    instances_are(&here, 1).await;
}

#[tokio::test]
async fn a_rolling_restart_is_no_flicker() {
    let nats = Nats::start().await;
    let [here, there] = two(&nats, settings()).await;
    let mut watcher = here.connect(1).await;
    let mut moves = there.connect(2).await;
    expect(&mut watcher, 2, "online").await;
    let goes = there.connect(3).await;
    expect(&mut watcher, 3, "online").await;
    there.terminate();
    let rest = moves.rest().await;
    let (closing, told) = rest.split_last().unwrap();
    assert_eq!(closing.data["reason"], "draining");
    assert!(told.iter().all(|event| event.data["status"] == "online"));
    drop(goes);
    there.stop().await;
    let _moved = here.connect(2).await;
    // The one who does not come back; the other would have gone before.
    expect(&mut watcher, 3, "offline").await;
    let there = Server::start(here.settings().clone()).await;
    instances_are(&there, 2).await;
    online_become(&there, &[1, 2]).await;
}

#[tokio::test]
async fn while_nats_is_away_nobody_goes_and_afterwards_all_agree() {
    let mut nats = Nats::start().await;
    let [here, there] = two(&nats, settings()).await;
    let mut watcher = here.connect(1).await;
    let goes = there.connect(2).await;
    expect(&mut watcher, 2, "online").await;
    online_become(&here, &[1, 2]).await;
    nats.kill();
    eventually("the instance to say that it is cut off", || async {
        let answer = online(&here, 1, "?chat_id=5").await;
        (answer["complete"] == false).then(|| assert_eq!(ids(&answer), [1, 2]))
    })
    .await;
    drop(goes);
    connections_become(&there, 0.0).await;
    let _comes = there.connect(3).await;
    nats.start_again().await;
    expect(&mut watcher, 3, "online").await;
    expect(&mut watcher, 2, "offline").await;
    online_become(&here, &[1, 3]).await;
    online_become(&there, &[1, 3]).await;
}

#[tokio::test]
async fn an_instance_that_was_held_up_is_taken_back() {
    let nats = Nats::start().await;
    let [here, there] = two(&nats, settings()).await;
    let mut watcher = here.connect(1).await;
    let _user = there.connect(2).await;
    expect(&mut watcher, 2, "online").await;
    there.process().signal("STOP");
    expect(&mut watcher, 2, "offline").await;
    there.process().signal("CONT");
    expect(&mut watcher, 2, "online").await;
    online_become(&there, &[1, 2]).await;
}

#[tokio::test]
async fn switched_off_nobody_is_told_and_who_asks_is_answered() {
    let nats = Nats::start().await;
    let [here, there] = two(&nats, settings().set("presence.enabled", false)).await;
    let mut watcher = here.connect(1).await;
    let user = there.connect(2).await;
    online_become(&here, &[1, 2]).await;
    drop(user);
    online_become(&here, &[1]).await;
    let end = crate::support::payload::chat_message(5, "nothing else");
    let backend = nats.backend().await;
    backend.publish("fechatter.realtime.chat.5", &end).await;
    watcher.expect_message("nothing else").await;
}

#[tokio::test]
async fn a_crowd_is_not_told() {
    let server = Server::start(settings().set("presence.max_listeners", 2)).await;
    let mut one = server.connect(1).await;
    let _two = server.connect(2).await;
    expect(&mut one, 2, "online").await;
    // With user 3, three listen on chat 5; chat 6 has only the users 3 and 4.
    let mut three = server.connect(3).await;
    server
        .metric_becomes("notify_presence_untold_total", "crowd", 1.0)
        .await;
    let _four = server.connect(4).await;
    // What was said of users 1 and 2 may still have been on its way to the other thread.
    loop {
        let told = three.expect_type("user_presence").await;
        if told.data["user_id"] == 4 {
            break;
        }
        assert!([1, 2].map(Value::from).contains(&told.data["user_id"]));
    }
    online_become(&server, &[1, 2, 3]).await;
    publish(&server, "nothing else").await;
    one.expect_message("nothing else").await;
}

#[tokio::test]
async fn many_who_share_a_large_chat_cost_no_more_than_a_few() {
    let users: Vec<i64> = (1..=60).collect();
    let settings = Settings::new()
        .set("presence.enabled", true)
        .set("presence.max_listeners", 10)
        .chat(5, &users);
    let server = Server::start(settings).await;
    let mut streams = Vec::new();
    for user in &users {
        streams.push(server.connect(*user).await);
    }
    online_become(&server, &users).await;
    // Everyone who came after the tenth, at the latest, was not told.
    eventually("all to be looked at", || async {
        let untold = server.metric("notify_presence_untold_total", "crowd").await;
        let told = server
            .metric("notify_presence_events_total", "online")
            .await;
        (untold + told >= 60.0).then_some(())
    })
    .await;
    let told = server.metric("notify_events_routed_total", "").await;
    assert!(told <= 100.0, "{told} deliveries");
}

#[tokio::test]
async fn whom_to_tell_is_looked_up_again_when_the_database_failed() {
    let server = Server::start(settings()).await;
    let mut watcher = server.connect(1).await;
    let user = server.connect(2).await;
    expect(&mut watcher, 2, "online").await;
    let file = server.settings().database_file();
    sqlite::execute(&file, "ALTER TABLE chat_members RENAME TO elsewhere").await;
    drop(user);
    server
        .log_line(|line| line.message() == "whom to tell of a user can't be looked up")
        .await;
    sqlite::execute(&file, "ALTER TABLE elsewhere RENAME TO chat_members").await;
    expect(&mut watcher, 2, "offline").await;
}

#[tokio::test]
async fn who_is_online_can_be_asked_page_by_page_and_by_those_who_may() {
    let server = Server::start(settings()).await;
    let mut streams = Vec::new();
    for user in [3, 1, 4, 2, 9] {
        streams.push(server.connect(user).await);
    }
    online_become(&server, &[1, 2, 3]).await;
    let answer = online(&server, 2, "?chat_id=5&limit=2").await;
    assert_eq!(
        (ids(&answer), &answer["next"], &answer["chat_id"]),
        (vec![1, 2], &json!(2), &json!(5))
    );
    let answer = online(&server, 2, "?chat_id=5&limit=2&after=2").await;
    assert_eq!((ids(&answer), &answer["next"]), (vec![3], &Value::Null));
    // Without a chat: all with whom one shares any.
    assert_eq!(ids(&online(&server, 3, "").await), [1, 2, 3, 4]);
    assert_eq!(ids(&online(&server, 4, "").await), [3, 4]);
    assert_eq!(ids(&online(&server, 9, "").await), Vec::<i64>::new());
    let may = |rights: Value| {
        Token::of(9)
            .claim("notify", rights)
            .sign_hs256(tokens::SECRET)
    };
    for (token, status) in [
        (tokens::of_user(4), 403),
        (may(json!({"subscribe": ["chat:5"]})), 200),
        (may(json!({"admin": true})), 200),
    ] {
        let request = Request::get("/online-users?chat_id=5").bearer(&token);
        assert_eq!(server.send(request).await.status, status);
    }
    assert_eq!(server.get("/online-users").await.status, 401);
}

#[tokio::test]
async fn what_can_not_be_answered_says_why() {
    let settings = settings().set(
        "database.members_query",
        "SELECT user_id FROM nowhere WHERE chat_id = $1",
    );
    let server = Server::start(settings).await;
    for (query, status, says) in [
        ("?chat_id=a:b", 422, "chat_id"),
        ("?chat=5", 422, "unknown field `chat`"),
        ("?after=a:b", 422, "after"),
        ("?limit=0", 422, "1 to 5000"),
        ("?limit=5001", 422, "1 to 5000"),
        ("?chat_id=5", 503, "database.members_query"),
        ("", 503, "database.members_query"),
    ] {
        let request = Request::get(&format!("/online-users{query}")).bearer(&tokens::of_user(1));
        let mut response = server.send(request).await;
        let problem = response.json().await;
        assert_eq!(response.status, status, "{query}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{query}: {detail}");
    }
    // Streams don't need that query, and neither does telling.
    let mut watcher = server.connect(1).await;
    let _user = server.connect(2).await;
    within("user 2 to be seen", expect(&mut watcher, 2, "online")).await;
}
