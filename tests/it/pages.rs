//! The pages that the binary carries, as a browser is given them; what they do is tested in a browser.

use serde_json::{Value, json};

use crate::support::{Request, Server, Settings, eventually, tokens};

const PAGES: [&str; 4] = ["/", "/sse-demo", "/diagnostic", "/admin"];

/// What follows each `src="` and `href="` of a page.
fn links(html: &str) -> Vec<String> {
    let marks = ["src=\"", "href=\""];
    let parts = marks.iter().flat_map(|mark| html.split(mark).skip(1));
    parts
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect()
}

/// What a module imports.
fn imports(script: &str) -> Vec<String> {
    let parts = script.split("from \"./").skip(1);
    parts
        .map(|rest| format!("/assets/{}", rest.split('"').next().unwrap()))
        .collect()
}

/// Whether there is an attribute such as `onclick=`.
fn has_handler(html: &str) -> bool {
    let mut rests = html.split(" on").skip(1);
    rests.any(|rest| {
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        rest.starts_with('=')
    })
}

#[tokio::test]
async fn pages_bring_all_they_need_and_are_from_this_host_alone() {
    let server = Server::start(Settings::new()).await;
    let mut wanted: Vec<String> = PAGES.map(str::to_owned).to_vec();
    let mut seen = Vec::new();
    while let Some(target) = wanted.pop() {
        if seen.contains(&target) {
            continue;
        }
        let mut response = server.get(&target).await;
        assert_eq!(response.status, 200, "{target}");
        let policy = response.header("content-security-policy");
        let Some(policy) = policy else {
            let documents = ["/openapi.json", "/asyncapi.yaml"];
            assert!(documents.contains(&target.as_str()), "{target}: no policy");
            seen.push(target);
            continue;
        };
        for (directive, sources) in policy.split(';').filter_map(|d| d.trim().split_once(' ')) {
            for source in sources.split(' ') {
                let known = ["'none'", "'self'", "data:", "blob:", "'script'"];
                assert!(known.contains(&source), "{directive} {source}");
            }
        }
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(response.header(name), Some(value), "{target}");
        }
        let kind = response.header("content-type").unwrap().to_owned();
        if kind.starts_with("text/html") {
            let html = response.text().await;
            assert!(!html.contains(" style="), "{target}: an inline style");
            assert!(!has_handler(&html), "{target}: an inline handler");
            for link in links(&html) {
                assert!(link.starts_with('/') && !link.starts_with("//"), "{link}");
                wanted.push(link);
            }
        } else if kind.starts_with("text/javascript") {
            let script = response.text().await;
            for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval("] {
                assert!(!script.contains(sink), "{target} has {sink}");
            }
            wanted.extend(imports(&script));
        }
        seen.push(target);
    }
    for asset in ["/assets/words.js", "/assets/chart.js", "/assets/style.css"] {
        assert!(seen.iter().any(|target| target == asset), "{asset}");
    }
    assert_eq!(server.get("/assets/nothing.js").await.status, 404);
}

#[tokio::test]
async fn pages_can_be_switched_off() {
    let server = Server::start(Settings::new().set("server.pages", false)).await;
    let assets = ["/assets/chat.js", "/assets/settings.json"];
    for target in PAGES.iter().chain(&assets) {
        assert_eq!(server.get(target).await.status, 404, "{target}");
    }
}

#[tokio::test]
async fn pages_may_ask_where_users_sign_in_and_nobody_else() {
    for (sign_in, connect) in [
        ("/api/signin", "connect-src 'self';"),
        (
            "https://chat.example.com:8443/api/signin",
            "connect-src 'self' https://chat.example.com:8443;",
        ),
    ] {
        let server = Server::start(Settings::new().set("server.sign_in", sign_in)).await;
        let mut response = server.get("/assets/settings.json").await;
        assert_eq!(response.json().await["sign_in"], sign_in);
        let page = server.get("/diagnostic").await;
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.contains(connect), "{policy}");
    }
}

#[tokio::test]
async fn pages_know_whether_there_are_demo_users_and_whose_pages_may_read() {
    let settings = Settings::shipped().environment("CORS_ORIGINS", "https://app.example.com");
    let server = Server::start(settings).await;
    let asked = async |query: &str, header: Option<&str>| {
        let mut request = Request::get(&format!("/assets/settings.json{query}"));
        if let Some(name) = header {
            request = request.header(name, "203.0.113.7");
        }
        server.send(request).await.json().await
    };
    let own = asked("", None).await;
    assert_eq!(own["development"], true);
    assert_eq!(own["origin_allowed"], json!(null));
    // Behind a proxy there are none.
    let proxied = asked("", Some("x-forwarded-for")).await;
    assert_eq!(proxied["development"], false);
    for (origin, allowed) in [
        ("https://app.example.com", true),
        ("https://app.example.com.evil.example", false),
        ("http://app.example.com", false),
    ] {
        let answer = asked(&format!("?origin={origin}"), None).await;
        assert_eq!(answer["origin_allowed"], allowed, "{origin}");
    }
    let open = Settings::new().set("server.allowed_origins", "*");
    let server = Server::start(open).await;
    let mut answer = server
        .get("/assets/settings.json?origin=https://any.example")
        .await;
    let answer = answer.json().await;
    assert_eq!(answer["origin_allowed"], true);
    assert_eq!(answer["development"], false);
}

#[tokio::test]
async fn development_has_tokens_of_administrators_for_the_asking() {
    let server = Server::start(Settings::shipped()).await;
    for (body, status) in [
        (json!({"user_id": 1}), 403),
        (json!({"user_id": 1, "admin": true}), 200),
    ] {
        let request = Request::new("POST", "/api/dev/token").json(&body);
        let token = server.send(request).await.json().await;
        let token = token["access_token"].as_str().unwrap().to_owned();
        let request = Request::get("/api/v1/rejections").bearer(&token);
        assert_eq!(server.send(request).await.status, status, "{body}");
    }
}

fn admin() -> String {
    let token = tokens::Token::of(99).claim("notify", json!({"admin": true}));
    token.sign_hs256(tokens::SECRET)
}

async fn asked(server: &Server, target: &str) -> Value {
    let request = Request::get(target).bearer(&admin());
    server.send(request).await.json().await
}

#[tokio::test]
async fn administrators_see_what_was_no_event() {
    let nats = crate::support::Nats::start().await;
    let server = Server::start(Settings::new().nats(&nats)).await;
    let request = Request::get("/api/v1/rejections").bearer(&tokens::of_publisher(1));
    assert_eq!(server.send(request).await.status, 403);
    let none = asked(&server, "/api/v1/rejections").await;
    assert_eq!(none["rejections"], json!([]));
    let backend = nats.backend().await;
    let subject = "fechatter.realtime.chat.5";
    backend
        .publish_bytes(subject, b"not JSON <b>at all</b>".to_vec())
        .await;
    backend
        .publish(subject, &json!({"TypingStarted": {"chat_id": 5}}))
        .await;
    let list = eventually("both rejections to be listed", || async {
        let answer = asked(&server, "/api/v1/rejections").await;
        let list = answer["rejections"].as_array().unwrap().clone();
        (list.len() == 2).then_some(list)
    })
    .await;
    assert_eq!(list[1]["subject"], subject);
    assert_eq!(list[1]["reason"], "not_json");
    assert_eq!(list[1]["payload"], "not JSON <b>at all</b>");
    assert!(list[0]["problem"].as_str().unwrap().contains("user_id"));
}

fn sum(buckets: &Value) -> u64 {
    let buckets = buckets.as_array().unwrap();
    assert_eq!(buckets.last().unwrap()["le_ms"], Value::Null);
    let counts = buckets.iter().map(|bucket| bucket["count"].as_u64());
    counts.map(Option::unwrap).sum()
}

#[tokio::test]
async fn how_long_deliveries_take_is_known() {
    let settings = Settings::new().chat(5, &[1, 2]);
    let server = Server::start(settings).await;
    let stats = asked(&server, "/api/v1/connections/stats").await;
    let of = |stats: &Value| {
        let by_instance = stats["by_instance"].as_object().unwrap();
        by_instance.values().next().unwrap()["delivery"].clone()
    };
    assert_eq!(sum(&of(&stats)), 0);
    let mut stream = server.connect(2).await;
    let message = json!({"type": "note", "channel": "user:2", "data": {}});
    let request = Request::new("POST", "/api/v1/messages/send")
        .bearer(&tokens::of_publisher(1))
        .json(&message);
    assert_eq!(server.send(request).await.status, 202);
    stream.expect_type("note").await;
    // Threads hand over what they have counted within a moment.
    eventually("the delivery to be counted", || async {
        let stats = asked(&server, "/api/v1/connections/stats").await;
        (sum(&of(&stats)) == 1).then_some(())
    })
    .await;
}
