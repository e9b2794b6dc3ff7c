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

/// Says what is refused, by which header, and what would be right, but neither whose pages may read nor what was sent
/// as it was sent.
#[tokio::test]
async fn a_refused_preflight_says_what_is_wrong() {
    let server = server().await;
    let headers = "Access-Control-Request-Headers";
    let long = format!("x-{}", "y".repeat(5_000));
    for (origin, method, asked, field, says) in [
        (
            OTHER,
            "GET",
            "authorization",
            "Origin",
            "server.allowed_origins",
        ),
        ("null", "GET", "", "Origin", "server.allowed_origins"),
        ("\"><script>", "GET", "", "Origin", "server.allowed_origins"),
        (
            ALLOWED,
            "PUT",
            "",
            "Access-Control-Request-Method",
            "GET, HEAD, POST",
        ),
        (
            ALLOWED,
            "GET",
            "authorization, X-Own",
            headers,
            "and not x-own",
        ),
        (
            ALLOWED,
            "GET",
            "x-own",
            headers,
            "may send authorization, cache-control",
        ),
        (ALLOWED, "GET", &long, headers, "and not x-yyy"),
        (ALLOWED, "GET", "<script>", headers, "commas"),
    ] {
        let mut request = Request::new("OPTIONS", "/events")
            .header("origin", origin)
            .header("access-control-request-method", method);
        if !asked.is_empty() {
            request = request.header("access-control-request-headers", asked);
        }
        let mut response = server.send(request).await;
        assert_eq!(response.status, 400, "{origin} {method} {asked}");
        let kind = response.header("content-type");
        assert_eq!(kind, Some("application/problem+json"));
        let vary = response.header("vary").unwrap().to_ascii_lowercase();
        for name in [
            "origin",
            "access-control-request-method",
            "access-control-request-headers",
        ] {
            assert!(vary.split(", ").any(|one| one == name), "{vary}");
        }
        assert_eq!(response.header("access-control-allow-origin"), None);
        let problem = response.json().await;
        assert_eq!(problem["status"], 400);
        assert_eq!(problem["field"], field);
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.starts_with(field) && detail.contains(says),
            "{detail}"
        );
        assert!(problem["request_id"].is_string());
        let text = problem.to_string();
        for secret in ["chat.example.com", "localhost:3000", "script"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(text.len() < 500, "{text}");
    }
    let without = Request::new("OPTIONS", "/events").header("access-control-request-method", "GET");
    let mut response = server.send(without).await;
    assert_eq!(response.status, 400);
    assert_eq!(response.json().await["field"], "Origin");
}

/// Where any origin may read, methods and headers are still those that there are.
#[tokio::test]
async fn any_origin_may_not_send_anything() {
    let settings = Settings::new().set("server.allowed_origins", json!(["*"]));
    let server = Server::start(settings).await;
    assert_eq!(preflight(&server, OTHER).await.status, 200);
    let request = Request::new("OPTIONS", "/events")
        .header("origin", OTHER)
        .header("access-control-request-method", "PATCH");
    let mut response = server.send(request).await;
    assert_eq!(response.status, 400);
    let problem = response.json().await;
    assert_eq!(problem["field"], "Access-Control-Request-Method");
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
