//! Who receives what: the table in docs/ARCHITECTURE.md, row by row, through NATS.

use serde_json::json;

use crate::support::payload::{self, chat_subject};
use crate::support::{Backend, Event, EventStream, Nats, Server, Settings};

/// Chat 5 has users 1, 2 and 3; user 4 shares chat 6 with user 3 alone; user 9 is in no chat.
struct Chats {
    _nats: Nats,
    backend: Backend,
    server: Server,
}

impl Chats {
    async fn start() -> Self {
        let nats = Nats::start().await;
        let settings = Settings::new()
            .nats(&nats)
            .chat(5, &[1, 2, 3])
            .chat(6, &[3, 4]);
        Self {
            server: Server::start(settings).await,
            backend: nats.backend().await,
            _nats: nats,
        }
    }

    async fn connect<const N: usize>(&self, users: [i64; N]) -> [EventStream; N] {
        let mut streams = Vec::new();
        for user in users {
            streams.push(self.server.connect(user).await);
        }
        streams.try_into().ok().unwrap()
    }

    async fn publish(&self, payload: serde_json::Value) {
        self.backend
            .publish("fechatter.realtime.any", &payload)
            .await;
    }

    /// Publishes what all users receive, and shows that it is the next that each stream gets:
    /// whatever was published before did not reach it.
    async fn nothing_else<'a>(&self, streams: impl IntoIterator<Item = &'a mut EventStream>) {
        let end = payload::message(7, "sentinel", &[1, 2, 3, 4, 9]);
        self.publish(end).await;
        for stream in streams {
            let event = stream.expect_type("new_message").await;
            assert_eq!(event.data["message"]["content"], "sentinel");
        }
    }
}

async fn all_get(streams: &mut [EventStream], kind: &str) -> Event {
    let mut last = None;
    for stream in streams {
        let event = stream.expect_type(kind).await;
        if let Some(last) = last.replace(event.clone()) {
            assert_eq!(last, event, "one event, the same for everybody");
        }
    }
    last.unwrap()
}

#[tokio::test]
async fn a_message_goes_to_its_recipients_the_sender_included() {
    let chats = Chats::start().await;
    let mut receivers = chats.connect([1, 2]).await;
    let mut others = chats.connect([3, 4, 9]).await;
    chats.publish(payload::message(5, "hello", &[1, 2])).await;
    let event = all_get(&mut receivers, "new_message").await;
    assert_eq!(event.data["chat_id"], 5);
    assert_eq!(event.data["message"]["content"], "hello");
    assert_eq!(event.data["message"]["id"], "1001");
    assert!(event.data["timestamp"].is_string());
    chats
        .nothing_else(receivers.iter_mut().chain(&mut others))
        .await;
}

#[tokio::test]
async fn explicit_recipients_need_not_be_in_the_chat() {
    let chats = Chats::start().await;
    let mut receivers = chats.connect([4, 9]).await;
    let mut members = chats.connect([1, 2, 3]).await;
    chats
        .publish(payload::message(5, "for others", &[4, 9]))
        .await;
    all_get(&mut receivers, "new_message").await;
    chats
        .nothing_else(receivers.iter_mut().chain(&mut members))
        .await;
}

#[tokio::test]
async fn a_message_without_recipients_goes_to_its_chat() {
    let chats = Chats::start().await;
    let mut members = chats.connect([1, 2, 3]).await;
    let mut others = chats.connect([4, 9]).await;
    chats.publish(payload::chat_message(5, "hello")).await;
    all_get(&mut members, "new_message").await;
    chats
        .nothing_else(members.iter_mut().chain(&mut others))
        .await;
}

#[tokio::test]
async fn a_read_receipt_goes_to_the_chat_less_the_reader() {
    let chats = Chats::start().await;
    let mut others = chats.connect([1, 2]).await;
    let [mut reader] = chats.connect([3]).await;
    let read = json!({"MessageRead": {"message_id": 1001, "chat_id": 5, "reader_id": 3,
        "read_at": "2025-07-30T15:10:02Z"}});
    chats.publish(read).await;
    let event = all_get(&mut others, "message_read").await;
    assert_eq!(event.data["reader_id"], 3);
    assert_eq!(event.data["chat_id"], 5);
    let mut several = payload::event("messages_read", 5, 3);
    several["message_ids"] = json!([1001, 1002]);
    chats.publish(several).await;
    let event = all_get(&mut others, "message_read").await;
    assert_eq!(event.data["message_ids"], json!([1001, 1002]));
    chats
        .nothing_else(others.iter_mut().chain([&mut reader]))
        .await;
}

#[tokio::test]
async fn an_unread_mark_goes_to_the_users_own_sessions() {
    let chats = Chats::start().await;
    let mut own = chats.connect([1, 1]).await;
    let mut others = chats.connect([2, 3]).await;
    let unread = json!({"MessageUnread": {"message_id": 1001, "chat_id": 5, "user_id": 1}});
    chats.publish(unread).await;
    all_get(&mut own, "message_unread").await;
    chats.nothing_else(own.iter_mut().chain(&mut others)).await;
}

#[tokio::test]
async fn typing_goes_to_the_chat_less_every_session_of_the_typist() {
    let chats = Chats::start().await;
    let mut others = chats.connect([1, 3]).await;
    let mut typist = chats.connect([2, 2]).await;
    let mut strangers = chats.connect([4]).await;
    let body = json!({"chat_id": 5, "user_id": 2, "user_name": "Super User"});
    chats.publish(json!({ "TypingStarted": body })).await;
    let event = all_get(&mut others, "typing_started").await;
    assert_eq!(event.data["user_name"], "Super User");
    chats.publish(payload::event("typing_stopped", 5, 2)).await;
    all_get(&mut others, "typing_stopped").await;
    let everybody = others.iter_mut().chain(&mut typist).chain(&mut strangers);
    chats.nothing_else(everybody).await;
}

#[tokio::test]
async fn presence_goes_to_users_who_share_a_chat() {
    let chats = Chats::start().await;
    let mut sharers = chats.connect([1, 3]).await;
    let mut others = chats.connect([2, 4, 9]).await;
    let presence = json!({"UserPresence": {"user_id": 2, "status": "away",
        "last_seen": "2025-07-30T15:09:00Z"}});
    chats.publish(presence).await;
    let event = all_get(&mut sharers, "user_presence").await;
    assert_eq!(event.data["status"], "away");
    assert_eq!(event.data["user_id"], 2);
    chats
        .nothing_else(sharers.iter_mut().chain(&mut others))
        .await;
}

#[tokio::test]
async fn presence_of_a_user_who_is_not_connected_reaches_those_who_share_a_chat() {
    let chats = Chats::start().await;
    let mut sharers = chats.connect([3]).await;
    let mut others = chats.connect([1, 9]).await;
    let presence = json!({"UserPresence": {"user_id": 4, "status": "online", "last_seen": null}});
    chats.publish(presence).await;
    all_get(&mut sharers, "user_presence").await;
    chats
        .nothing_else(sharers.iter_mut().chain(&mut others))
        .await;
}

#[tokio::test]
async fn deletions_and_edits_go_to_the_chat() {
    let chats = Chats::start().await;
    let mut members = chats.connect([1, 2, 3]).await;
    let mut others = chats.connect([4]).await;
    let deleted = json!({"MessageDeleted": {"message_id": 1001, "chat_id": 5, "deleted_by": 2,
        "deleted_at": "2025-07-30T15:11:00Z"}});
    chats.publish(deleted).await;
    let event = all_get(&mut members, "message_deleted").await;
    assert_eq!(event.data["message_id"], 1001);
    for (sent, received) in [
        ("message_edited", "message_edited"),
        ("message_deleted", "message_deleted"),
    ] {
        chats.publish(payload::event(sent, 5, 2)).await;
        all_get(&mut members, received).await;
    }
    chats
        .nothing_else(members.iter_mut().chain(&mut others))
        .await;
}

#[tokio::test]
async fn a_new_member_receives_the_chat_from_the_event_on() {
    let chats = Chats::start().await;
    let mut members = chats.connect([1, 3]).await;
    let mut joining = chats.connect([4, 4]).await;
    chats.publish(payload::chat_message(5, "before")).await;
    all_get(&mut members, "new_message").await;
    chats.publish(payload::event("member_added", 5, 4)).await;
    chats.publish(payload::chat_message(5, "after")).await;
    for streams in [&mut members, &mut joining] {
        let event = all_get(streams, "chat_member_added").await;
        assert_eq!(event.data["user_id"], 4);
        let event = all_get(streams, "new_message").await;
        assert_eq!(event.data["message"]["content"], "after");
    }
    chats
        .nothing_else(members.iter_mut().chain(&mut joining))
        .await;
}

#[tokio::test]
async fn a_removed_member_hears_of_it_and_then_nothing_of_the_chat() {
    let chats = Chats::start().await;
    let mut members = chats.connect([1, 2]).await;
    let mut leaving = chats.connect([3, 3]).await;
    chats.publish(payload::event("member_removed", 5, 3)).await;
    chats.publish(payload::chat_message(5, "after")).await;
    all_get(&mut members, "chat_member_removed").await;
    all_get(&mut members, "new_message").await;
    all_get(&mut leaving, "chat_member_removed").await;
    // The other chat is not touched, and sharing it is all that is left to see presence by.
    chats.publish(payload::chat_message(6, "elsewhere")).await;
    let event = all_get(&mut leaving, "new_message").await;
    assert_eq!(event.data["chat_id"], 6);
    chats
        .nothing_else(members.iter_mut().chain(&mut leaving))
        .await;
}

#[tokio::test]
async fn every_session_of_a_user_gets_an_event_once() {
    let chats = Chats::start().await;
    let mut tabs = chats.connect([3, 3, 3]).await;
    // User 3 is reached as a user several times over, and is in the chat besides.
    chats
        .publish(payload::message(5, "once", &[3, 3, 1, 3]))
        .await;
    let event = all_get(&mut tabs, "new_message").await;
    assert_eq!(event.data["message"]["content"], "once");
    chats.publish(payload::event("member_added", 5, 3)).await;
    all_get(&mut tabs, "chat_member_added").await;
    chats.nothing_else(&mut tabs).await;
}

#[tokio::test]
async fn numbers_and_their_texts_are_the_same_ids() {
    let chats = Chats::start().await;
    let mut by_number = chats.server.connect(2).await;
    let mut by_text = chats.server.connect("2").await;
    let payload = json!({"MessageReceived": {"message": {"id": 1, "content": "x"},
        "chat_id": "5", "recipients": ["2"]}});
    chats.publish(payload).await;
    for stream in [&mut by_number, &mut by_text] {
        let event = stream.expect_type("new_message").await;
        assert_eq!(event.data["chat_id"], 5, "decimal ids go out as numbers");
    }
    chats.publish(payload::chat_message(5, "to the chat")).await;
    for stream in [&mut by_number, &mut by_text] {
        stream.expect_type("new_message").await;
    }
}

#[tokio::test]
async fn other_texts_are_ids_too() {
    let chats = Chats::start().await;
    let mut stream = chats.server.connect("user-ä").await;
    let payload = json!({"MessageReceived": {"message": {"id": 1, "content": "x"},
        "chat_id": "team/7", "recipients": ["user-ä"]}});
    chats.publish(payload).await;
    let event = stream.expect_type("new_message").await;
    assert_eq!(event.data["chat_id"], "team/7");
}

#[tokio::test]
async fn events_of_a_chat_keep_their_order() {
    let chats = Chats::start().await;
    let mut streams = chats.connect([1, 2]).await;
    for number in 0..500 {
        let payload = payload::chat_message(5, &number.to_string()).to_string();
        chats
            .backend
            .send(&chat_subject(5), payload.into_bytes())
            .await;
    }
    chats.backend.flush().await;
    for stream in &mut streams {
        for number in 0..500 {
            let event = stream.expect_type("new_message").await;
            assert_eq!(event.data["message"]["content"], number.to_string());
        }
    }
}
