//! Messages that ask to be acknowledged, and who has.

use serde_json::{Value, json};

use crate::support::tokens::Token;
use crate::support::{Nats, Request, Response, Server, Settings, tokens};

fn publisher() -> String {
    let rights = json!({"publish": ["*"]});
    let token = Token::of(9).claim("notify", rights);
    token.sign_hs256(tokens::SECRET)
}

async fn send(server: &Server, message: &Value) -> String {
    let request = Request::new("POST", "/api/v1/messages/send");
    let request = request.bearer(&publisher()).json(message);
    let mut response = server.send(request).await;
    let answer = response.json().await;
    assert_eq!(response.status, 202, "{answer}");
    answer["id"].as_str().unwrap().to_owned()
}

async fn acknowledge(server: &Server, id: &str, user: i64) -> u16 {
    let target = format!("/api/v1/messages/{id}/ack");
    let request = Request::new("POST", &target).bearer(&tokens::of_user(user));
    server.send(request).await.status
}

async fn receipts(server: &Server, id: &str, token: &str) -> Response {
    let target = format!("/api/v1/messages/{id}/receipts");
    server.send(Request::get(&target).bearer(token)).await
}

async fn users(server: &Server, id: &str) -> Vec<Value> {
    let answer = receipts(server, id, &publisher()).await.json().await;
    let receipts = answer["receipts"].as_array().unwrap();
    for receipt in receipts {
        assert!(receipt["at"].is_string(), "{receipt}");
    }
    let users = receipts.iter().map(|receipt| receipt["user_id"].clone());
    users.collect()
}

#[tokio::test]
async fn whoever_a_message_is_for_can_acknowledge_it_on_any_instance_and_its_sender_sees_that() {
    let nats = Nats::start().await;
    let settings = Settings::new().nats(&nats).chat(5, &[3]);
    let [one, other] = [
        Server::start(settings.clone()).await,
        Server::start(settings).await,
    ];
    let mut stream = one.connect(1).await;
    let message = json!({"type": "t", "ack": true, "target": {"user_id": 1, "chat_id": 5}});
    let id = send(&one, &message).await;
    let event = stream.expect_type("t").await;
    assert_eq!(
        (&event.data["id"], &event.data["ack"]),
        (&json!(id), &json!(true))
    );
    assert_eq!(users(&other, &id).await, Vec::<Value>::new());
    assert_eq!(acknowledge(&other, &id, 1).await, 204);
    assert_eq!(acknowledge(&one, &id, 1).await, 204, "a second time");
    assert_eq!(
        acknowledge(&one, &id, 3).await,
        204,
        "as a member of the chat"
    );
    assert_eq!(users(&one, &id).await, [json!(1), json!(3)]);
    assert_eq!(users(&other, &id).await, [json!(1), json!(3)]);
}

#[tokio::test]
async fn many_can_acknowledge_at_once() {
    let nats = Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let targets = json!({"type": "notice", "ack": true, "id": "for all"});
    let request = Request::new("POST", "/api/v1/messages/broadcast");
    let request = request.bearer(&publisher()).json(&targets);
    assert_eq!(server.send(request).await.status, 202);
    let all = (1..=20).map(|user| acknowledge(&server, "for%20all", user));
    let statuses = futures_util::future::join_all(all).await;
    assert_eq!(statuses, [204; 20]);
    assert_eq!(users(&server, "for%20all").await.len(), 20);
}

#[tokio::test]
async fn what_is_not_ones_business_is_not_found() {
    for nats in [Some(Nats::start().await), None] {
        let mut settings = Settings::new();
        if let Some(nats) = &nats {
            settings = settings.nats(nats);
        }
        let server = Server::start(settings).await;
        let message = json!({"type": "t", "ack": true, "target": {"user_id": 1}});
        let id = send(&server, &message).await;
        assert_eq!(acknowledge(&server, &id, 2).await, 404, "for somebody else");
        let of_others = receipts(&server, &id, &tokens::of_user(1)).await;
        assert_eq!(of_others.status, 404);
        assert_eq!(acknowledge(&server, "nothing", 1).await, 404);
        let without = json!({"type": "t", "target": {"user_id": 1}});
        let without = send(&server, &without).await;
        assert_eq!(acknowledge(&server, &without, 1).await, 404);
        assert_eq!(acknowledge(&server, &id, 1).await, 204);
        assert_eq!(users(&server, &id).await, [json!(1)]);
        let rights = json!({"admin": true});
        let admin = Token::of(50).claim("notify", rights);
        let admin = admin.sign_hs256(tokens::SECRET);
        assert_eq!(receipts(&server, &id, &admin).await.status, 200);
        let other = json!({"type": "t", "id": id, "ack": true, "target": {"user_id": 2}});
        let request = Request::new("POST", "/api/v1/messages/send");
        let taken = server.send(request.bearer(&publisher()).json(&other)).await;
        assert_eq!(taken.status, 409, "an id that another message has");
        let wrong = json!({"type": "t", "ack": "yes", "target": {"user_id": 1}});
        let request = Request::new("POST", "/api/v1/messages/send");
        let mut refused = server.send(request.bearer(&publisher()).json(&wrong)).await;
        assert_eq!(refused.status, 422);
        assert_eq!(refused.json().await["field"], "ack");
    }
}
