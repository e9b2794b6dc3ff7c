//! Which pages of other origins may read streams.

use serde_json::json;

use crate::support::{Request, Response, Server, Settings, tokens};

const ALLOWED: &str = "https://chat.example.com";
const OTHER: &str = "https://elsewhere.example.com";

async fn server() -> Server {
    let origins = json!([ALLOWED, "http://localhost:3000"]);
    Server::start(Settings::new().set("server.allowed_origins", origins)).await
}

async fn preflight(server: &Server, origin: &str) -> Response {
    let request = Request::new("OPTIONS", "/events")
        .header("origin", origin)
        .header("access-control-request-method", "GET")
        .header(
            "access-control-request-headers",
            "authorization, last-event-id",
        );
    server.send(request).await
}

#[tokio::test]
async fn a_preflight_from_an_allowed_origin_is_granted() {
    let server = server().await;
    for origin in [ALLOWED, "http://localhost:3000"] {
        let response = preflight(&server, origin).await;
        assert!([200, 204].contains(&response.status), "{}", response.status);
        assert_eq!(response.header("access-control-allow-origin"), Some(origin));
        let methods = response.header("access-control-allow-methods").unwrap();
        assert!(methods.contains("GET"), "{methods}");
        let headers = response.header("access-control-allow-headers").unwrap();
        for name in ["authorization", "last-event-id"] {
            assert!(headers.to_ascii_lowercase().contains(name), "{headers}");
        }
    }
}

#[tokio::test]
async fn a_preflight_from_elsewhere_is_not() {
    let response = preflight(&server().await, OTHER).await;
    assert_eq!(response.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_stream_says_which_origin_may_read_it() {
    let server = server().await;
    let request = Request::get("/events").bearer(&tokens::of_user(2));
    let response = server.send(request.clone().header("origin", ALLOWED)).await;
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("access-control-allow-origin"),
        Some(ALLOWED)
    );
    let vary = response.header("vary").unwrap().to_ascii_lowercase();
    assert!(vary.contains("origin"), "{vary}");
    let response = server.send(request.header("origin", OTHER)).await;
    assert_eq!(response.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_page_may_read_why_it_was_refused() {
    let request = Request::get("/events").header("origin", ALLOWED);
    let response = server().await.send(request).await;
    assert_eq!(response.status, 401);
    assert_eq!(
        response.header("access-control-allow-origin"),
        Some(ALLOWED)
    );
    // A client that may not read when to come back comes back too soon.
    let exposed = response.header("access-control-expose-headers").unwrap();
    for name in ["retry-after", "www-authenticate"] {
        assert!(exposed.to_ascii_lowercase().contains(name), "{exposed}");
    }
}

#[tokio::test]
async fn options_without_an_origin_lists_the_methods() {
    let response = server()
        .await
        .send(Request::new("OPTIONS", "/events"))
        .await;
    assert!([200, 204].contains(&response.status), "{}", response.status);
    let allow = response.header("allow").unwrap();
    assert!(allow.contains("GET") && allow.contains("HEAD"), "{allow}");
}
