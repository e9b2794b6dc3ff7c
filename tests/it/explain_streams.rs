//! `explain` goes by what the user's streams listened on, whatever the database says: memberships that were changed
//! by SQL alone, or published and not written.

use serde_json::{Value, json};

use crate::explain::{Pair, ended, expect, explain, id_of, of_one_thread};
use crate::membership::postgres_with;
use crate::support::payload::{self, chat_subject};
use crate::support::tokens::Token;
use crate::support::{Backend, EventStream, Request, eventually, sqlite, tokens};

impl Pair {
    /// Changes the chat backend's database, and tells nobody.
    async fn sql(&self, statement: &str) {
        sqlite::execute(&self.first.settings().database_file(), statement).await;
    }

    async fn insert(&self, user: i64) {
        self.sql(&sqlite::insert_members(&[(5, &[user])])).await;
    }

    async fn delete(&self, user: i64) {
        self.sql(&format!("DELETE FROM chat_members WHERE user_id = {user}"))
            .await;
    }
}

/// A stream has got nothing else before what is told to its user by name now.
async fn has_got_nothing(backend: &Backend, user: i64, stream: &mut EventStream) {
    let mark = json!({"type": "nothing_before", "target": {"user_id": user}});
    backend.publish("fechatter.realtime.push", &mark).await;
    stream.expect_type("nothing_before").await;
}

fn stay(
    then: impl Into<Option<bool>>,
    now: impl Into<Option<bool>>,
    listened: impl Into<Option<bool>>,
) -> Value {
    let mut stay = json!({"chat_id": 5, "then": then.into(), "now": now.into()});
    if let Some(listened) = listened.into() {
        stay["listened"] = json!(listened);
    }
    json!([stay])
}

/// The only hint of an answer.
fn hint(answer: &Value) -> &str {
    let hints = answer["hints"].as_array().unwrap();
    assert_eq!(hints.len(), 1, "{answer:#}");
    hints[0].as_str().unwrap()
}

fn is_without_hints(answer: &Value) {
    assert_eq!(answer["hints"], json!([]), "{answer:#}");
}

#[tokio::test]
async fn a_row_that_was_inserted_without_an_event_moves_no_open_stream() {
    let pair = Pair::start().await;
    let mut member = pair.first.connect(2).await;
    let mut stream = pair.second.connect(3).await;
    pair.say("before").await;
    let before = id_of(&mut member, "before").await;
    pair.insert(3).await;
    pair.say("after").await;
    let after = id_of(&mut member, "after").await;
    has_got_nothing(&pair.backend, 3, &mut stream).await;
    for id in [&before, &after] {
        let answer = expect(&pair, 3, id, "not_listening").await;
        assert_eq!(answer["delivered"], false, "{answer:#}");
        assert_eq!(answer["judged_by"], "streams", "{answer:#}");
        // The row says nothing of when it was written.
        assert_eq!(answer["memberships"], stay(true, true, false));
        assert_eq!(answer["sessions"][0]["listened_on"], json!([]));
        let told = hint(&answer);
        assert!(
            told.contains("did not listen on it when the event came"),
            "{told}"
        );
        assert!(
            told.contains("takes effect when the client reconnects"),
            "{told}"
        );
    }
    let settings = pair.first.settings();
    let url = pair.first.url();
    let told = ["explain", "--url", &url, "--user", "3", "--event", &after];
    let told = settings.run(&told).await;
    assert_eq!(told.code, Some(1), "{told:?}");
    for line in [
        "reason: not_listening",
        "chat 5, by the database: was in it then, is in it now; no stream listened on it then",
        "judged by: what the user's streams listened on",
        "note: chat 5: the database has the user in it, but stream ",
    ] {
        assert!(told.stdout.contains(line), "{told:?}");
    }
    // The stream that has ended is remembered with what it listened on; the next one listens.
    drop(stream);
    ended(&pair.second, 1.0).await;
    let mut stream = pair.second.connect(3).await;
    pair.say("later").await;
    let later = id_of(&mut stream, "later").await;
    let answer = expect(&pair, 3, &later, "written").await;
    assert_eq!(answer["memberships"], stay(true, true, true));
    is_without_hints(&answer);
    let answer = expect(&pair, 3, &after, "not_listening").await;
    assert_eq!(answer["memberships"], stay(true, true, false));
    assert!(hint(&answer).contains("Streams that were opened since then listen on it"));
}

#[tokio::test]
async fn a_row_that_was_deleted_without_an_event_leaves_open_streams_listening() {
    let pair = Pair::start().await;
    let mut stream = pair.second.connect(2).await;
    pair.delete(2).await;
    pair.say("one").await;
    let one = id_of(&mut stream, "one").await;
    let answer = expect(&pair, 2, &one, "written").await;
    assert_eq!(answer["delivered"], true, "{answer:#}");
    assert_eq!(answer["judged_by"], "streams", "{answer:#}");
    assert_eq!(answer["memberships"], stay(false, false, true));
    assert_eq!(answer["sessions"][0]["listened_on"], json!(["chat:5"]));
    assert!(hint(&answer).contains("goes on listening until its client reconnects"));
    // Over, and the same.
    drop(stream);
    ended(&pair.second, 1.0).await;
    let answer = expect(&pair, 2, &one, "written").await;
    assert_eq!(answer["memberships"], stay(false, false, true));
    assert!(hint(&answer).contains("Streams that were opened since then don't listen on it"));
    // From the next stream on the database counts.
    let mut stream = pair.second.connect(2).await;
    let mut witness = pair.first.connect(1).await;
    pair.say("two").await;
    let two = id_of(&mut witness, "two").await;
    has_got_nothing(&pair.backend, 2, &mut stream).await;
    let answer = expect(&pair, 2, &two, "not_a_member").await;
    assert_eq!(answer["judged_by"], "streams", "{answer:#}");
    assert_eq!(answer["memberships"], stay(false, false, false));
    is_without_hints(&answer);
}

#[tokio::test]
async fn a_join_that_was_published_and_not_written_counts_until_the_client_reconnects() {
    let pair = Pair::start().await;
    let mut streams = [pair.first.connect(3).await, pair.second.connect(3).await];
    let mut member = pair.first.connect(2).await;
    pair.say("before").await;
    let before = id_of(&mut member, "before").await;
    let joined = payload::event("member_added", 5, 3);
    pair.backend.publish(&chat_subject(5), &joined).await;
    let mut join = String::new();
    for stream in &mut streams {
        join = stream.expect_type("chat_member_added").await.id.unwrap();
    }
    pair.say("after").await;
    let mut after = String::new();
    for stream in &mut streams {
        after = id_of(stream, "after").await;
    }
    let left = payload::event("member_removed", 5, 3);
    pair.backend.publish(&chat_subject(5), &left).await;
    let mut leave = String::new();
    for stream in &mut streams {
        leave = stream.expect_type("chat_member_removed").await.id.unwrap();
    }
    let judged = async |when: &str| {
        let answer = expect(&pair, 3, &before, "not_a_member").await;
        is_without_hints(&answer);
        for id in [&join, &after, &leave] {
            let answer = expect(&pair, 3, id, "written").await;
            assert_eq!(
                answer["memberships"][0]["listened"], true,
                "{when}: {answer:#}"
            );
        }
        // Of the leave that undoes the join, the database has both: it agrees.
        let answer = expect(&pair, 3, &after, "written").await;
        assert_eq!(answer["memberships"], stay(true, false, true));
        is_without_hints(&answer);
    };
    judged("while the streams are open").await;
    drop(streams);
    ended(&pair.first, 1.0).await;
    ended(&pair.second, 1.0).await;
    judged("when they have ended").await;
}

#[tokio::test]
async fn a_join_without_a_row_is_told_from_a_membership() {
    let pair = Pair::start().await;
    let mut stream = pair.second.connect(3).await;
    let joined = payload::event("member_added", 5, 3);
    pair.backend.publish(&chat_subject(5), &joined).await;
    stream.expect_type("chat_member_added").await;
    pair.say("heard").await;
    let heard = id_of(&mut stream, "heard").await;
    let answer = expect(&pair, 3, &heard, "written").await;
    assert_eq!(answer["judged_by"], "streams", "{answer:#}");
    assert_eq!(answer["memberships"], stay(false, false, true));
    assert!(
        hint(&answer).contains("without a row in the database"),
        "{answer:#}"
    );
    drop(stream);
    ended(&pair.second, 1.0).await;
    assert_eq!(
        expect(&pair, 3, &heard, "written").await["memberships"],
        stay(false, false, true)
    );
    let mut stream = pair.second.connect(3).await;
    let mut member = pair.first.connect(2).await;
    pair.say("missed").await;
    let missed = id_of(&mut member, "missed").await;
    has_got_nothing(&pair.backend, 3, &mut stream).await;
    let answer = expect(&pair, 3, &missed, "not_a_member").await;
    assert_eq!(answer["memberships"], stay(false, false, false));
}

#[tokio::test]
async fn who_had_no_stream_is_judged_by_the_database_and_told_so() {
    let pair = Pair::start().await;
    let mut member = pair.first.connect(2).await;
    pair.say("one").await;
    let one = id_of(&mut member, "one").await;
    for (user, reason, in_it) in [(1, "not_connected", true), (3, "not_a_member", false)] {
        let answer = expect(&pair, user, &one, reason).await;
        assert_eq!(answer["judged_by"], "database", "{answer:#}");
        assert_eq!(answer["memberships"], stay(in_it, in_it, None));
        is_without_hints(&answer);
    }
    let url = pair.first.url();
    let told = ["explain", "--url", &url, "--user", "3", "--event", &one];
    let told = pair.first.settings().run(&told).await;
    assert!(
        told.stdout
            .contains("judged by: what the database says now"),
        "{told:?}"
    );
    // What does not depend on chats is judged by nothing.
    let note = json!({"type": "note", "target": {"user_id": 2}});
    pair.backend.publish("fechatter.realtime.push", &note).await;
    let id = member.expect_type("note").await.id.unwrap();
    let answer = expect(&pair, 2, &id, "written").await;
    assert!(answer["judged_by"].is_null(), "{answer:#}");
}

/// The hour at which it is asked.
#[tokio::test]
async fn while_the_database_is_away_what_streams_listened_on_tells() {
    let mut postgres = postgres_with(&[(5, &[1, 2])]).await;
    let url = postgres.url();
    let pair = Pair::start_as(|settings| {
        let settings = settings.set("database.url", url.as_str());
        settings.set("database.timeout", "1s")
    })
    .await;
    let mut member = pair.first.connect(2).await;
    let mut stream = pair.second.connect(3).await;
    postgres.stop().await;
    pair.say("one").await;
    let one = id_of(&mut member, "one").await;
    has_got_nothing(&pair.backend, 3, &mut stream).await;
    for (user, reason, listened) in [
        (2, "written", Some(true)),
        (3, "not_listening", Some(false)),
        (1, "not_connected", None),
    ] {
        let answer = expect(&pair, user, &one, reason).await;
        assert_eq!(answer["memberships"], stay(None, None, listened));
        let judge = listened.map(|_| "streams");
        assert_eq!(answer["judged_by"], json!(judge), "{answer:#}");
        assert!(
            hint(&answer).contains("the database can't say in which chats"),
            "{answer:#}"
        );
    }
    let url = pair.first.url();
    let told = ["explain", "--url", &url, "--user", "3", "--event", &one];
    let told = pair.first.settings().run(&told).await;
    assert_eq!(told.code, Some(1), "{told:?}");
    let line = "chat 5, by the database: whether then, is not known, whether now, is not known; no stream listened";
    assert!(told.stdout.contains(line), "{told:?}");
}

#[tokio::test]
async fn what_a_client_that_came_back_was_given_is_by_its_chats_of_that_moment() {
    let pair = Pair::start_as(of_one_thread).await;
    let mut witness = pair.witness().await;
    let mut member = pair.first.connect(2).await;
    let mut stream = pair.second.connect(3).await;
    has_got_nothing(&pair.backend, 3, &mut stream).await;
    let last = stream.last_event_id().to_owned();
    drop(stream);
    ended(&pair.second, 1.0).await;
    pair.say("missed").await;
    let missed = id_of(&mut member, "missed").await;
    // It would be live for a client that is back before this instance has had it.
    pair.settle(&mut witness).await;
    let mut back = pair.second.come_back(3, &last).await;
    back.expect_type("connection_confirmed").await;
    has_got_nothing(&pair.backend, 3, &mut back).await;
    pair.insert(3).await;
    let answer = expect(&pair, 3, &missed, "not_listening").await;
    assert_eq!(answer["judged_by"], "streams", "{answer:#}");
    assert!(hint(&answer).contains("did not listen on it when its client came back"));
    drop(back);
    ended(&pair.second, 2.0).await;
    expect(&pair, 3, &missed, "not_listening").await;
    let mut again = pair.second.come_back(3, &last).await;
    again.expect_type("connection_confirmed").await;
    id_of(&mut again, "missed").await;
    // Out again, by SQL alone, once it was given.
    pair.delete(3).await;
    let answer = expect(&pair, 3, &missed, "replayed_from_memory").await;
    assert_eq!(answer["delivered"], true, "{answer:#}");
    assert_eq!(answer["memberships"], stay(false, false, true));
}

#[tokio::test]
async fn an_instance_that_does_not_know_the_event_knows_what_its_streams_listened_on() {
    let pair = Pair::start_as(|settings| {
        settings
            .set("explain.max_events", 2)
            .set("history.max_events", 2)
    })
    .await;
    let mut member = pair.first.connect(2).await;
    let mut outsider = pair.second.connect(3).await;
    pair.say("old").await;
    let old = id_of(&mut member, "old").await;
    for number in 0..8 {
        pair.say(&number.to_string()).await;
        id_of(&mut member, &number.to_string()).await;
    }
    has_got_nothing(&pair.backend, 3, &mut outsider).await;
    pair.insert(3).await;
    pair.delete(2).await;
    let answer = expect(&pair, 3, &old, "not_listening").await;
    assert_eq!(answer["memberships"], stay(true, true, false));
    let answer = expect(&pair, 2, &old, "written").await;
    assert_eq!(answer["memberships"], stay(false, false, true));
}

#[tokio::test]
async fn streams_of_channels_by_name_are_told_by_what_they_listened_on() {
    let pair = Pair::start().await;
    let open = async |user: i64, channel: &str, rights: Value| {
        let token = Token::of(user)
            .claim("notify", rights)
            .sign_hs256(tokens::SECRET);
        let request = Request::get(&format!("/sse/stream/{channel}?named=false")).bearer(&token);
        let mut stream = EventStream::new(pair.second.send(request).await);
        stream.expect_type("connection_confirmed").await;
        stream
    };
    // By a pattern of the token, whatever memberships say; and as a member.
    let mut granted = open(3, "chat:5", json!({"subscribe": ["chat:*"]})).await;
    let mut as_member = open(2, "chat:5", json!({})).await;
    // What is another user's.
    let mut watching = open(4, "user:1", json!({"subscribe": ["user:*"]})).await;
    pair.delete(2).await;
    pair.say("one").await;
    let one = id_of(&mut granted, "one").await;
    id_of(&mut as_member, "one").await;
    let answer = expect(&pair, 3, &one, "written").await;
    is_without_hints(&answer);
    let answer = expect(&pair, 2, &one, "written").await;
    assert_eq!(answer["memberships"], stay(false, false, true));
    let only_one = payload::message(5, "for one", &[1]);
    pair.backend.publish(&chat_subject(5), &only_one).await;
    let id = id_of(&mut watching, "for one").await;
    let answer = expect(&pair, 4, &id, "written").await;
    assert_eq!(answer["sessions"][0]["listened_on"], json!(["user:1"]));
    expect(&pair, 3, &id, "not_in_audience").await;
}

#[tokio::test]
async fn what_was_changed_before_the_memory_begins_is_not_made_up() {
    let pair = Pair::start_as(|settings| {
        settings
            .set("explain.max_sessions", 1)
            .set("server.workers", 1)
    })
    .await;
    let stream = pair.second.connect(3).await;
    let mut member = pair.first.connect(2).await;
    pair.say("one").await;
    let one = id_of(&mut member, "one").await;
    drop(stream);
    ended(&pair.second, 1.0).await;
    for count in 2..4 {
        drop(pair.second.connect(800).await);
        ended(&pair.second, f64::from(count)).await;
    }
    // Which streams user 3 had is forgotten, and the database may have been changed.
    let answer = expect(&pair, 3, &one, "not_remembered").await;
    assert_eq!(answer["delivered"], Value::Null, "{answer:#}");
    assert_eq!(answer["memberships"], stay(false, false, None));
    assert!(
        hint(&answer).contains("can't be told what they listened on"),
        "{answer:#}"
    );
}

#[tokio::test]
async fn memberships_that_were_looked_up_again_count_from_then_on() {
    let mut pair = Pair::start().await;
    let mut member = pair.first.connect(2).await;
    let mut stream = pair.second.connect(3).await;
    pair.say("before").await;
    let before = id_of(&mut member, "before").await;
    pair.insert(3).await;
    // After an interruption joins may have been lost, and all memberships are looked up again.
    pair.nats.stop().await;
    pair.nats.start_again().await;
    for server in [&pair.first, &pair.second] {
        server
            .log_line(|line| line.message() == "memberships looked up again")
            .await;
        server.ready().await;
    }
    pair.backend = pair.nats.backend().await;
    pair.know_each_other().await;
    pair.say("after").await;
    let after = id_of(&mut stream, "after").await;
    let answer = eventually("both instances to have it", || async {
        let answer = explain(&pair.first, 3, &after).await;
        (answer["reason"] == "written").then_some(answer)
    })
    .await;
    assert_eq!(answer["memberships"], stay(true, true, true));
    is_without_hints(&answer);
    let answer = expect(&pair, 3, &before, "not_listening").await;
    assert_eq!(answer["memberships"], stay(true, true, false));
}
