//! How many streams there may be, and what those beyond are told.

use crate::support::{Response, Server, Settings, eventually, tokens};

async fn refused(mut response: Response, status: u16) {
    assert_eq!(response.status, status);
    let retry: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!(retry >= 1);
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json")
    );
    let problem = response.json().await;
    assert_eq!(problem["status"], status);
}

async fn is_let_in(server: &Server, user: i64) {
    eventually("a place to become free", || async {
        let response = server.events(&tokens::of_user(user)).await;
        (response.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn streams_beyond_the_total_are_refused_until_one_ends() {
    let server = Server::start(Settings::new().set("server.max_connections", 2)).await;
    let first = server.connect(1).await;
    let _second = server.connect(2).await;
    refused(server.events(&tokens::of_user(3)).await, 503).await;
    // Who asks how the server is must get an answer all the same.
    assert_eq!(server.get("/live").await.status, 200);
    drop(first);
    is_let_in(&server, 3).await;
}

#[tokio::test]
async fn streams_beyond_a_users_share_are_refused_and_nobody_elses() {
    let settings = Settings::new().set("server.max_connections_per_user", 2);
    let server = Server::start(settings).await;
    let first = server.connect(1).await;
    let _second = server.connect("1").await;
    refused(server.events(&tokens::of_user(1)).await, 429).await;
    let _other = server.connect(2).await;
    drop(first);
    is_let_in(&server, 1).await;
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed() {
    let server = Server::start(Settings::new()).await;
    let stream = server.connect(1).await;
    assert_eq!(server.metric("notify_connections", "").await, 1.0);
    drop(stream);
    server.metric_becomes("notify_connections", "", 0.0).await;
    let gone = server
        .log_line(|line| line.message() == "disconnected")
        .await;
    assert_eq!(gone.text("reason"), "client_gone");
}
