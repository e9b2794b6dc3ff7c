//! `/openapi.json` against what the server answers. That nothing answers otherwise is left to a fuzzer
//! (`scripts/fuzz-api`).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Request, Server, Settings};

async fn document(server: &Server) -> Value {
    let mut response = server.get("/openapi.json").await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    response.json().await
}

#[tokio::test]
async fn the_document_is_there_without_a_token_outside_development() {
    let server = Server::start(Settings::new()).await;
    let document = document(&server).await;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(server.get("/events").await.status, 401);
    assert_eq!(server.get("/docs").await.status, 200);
}

#[tokio::test]
async fn every_address_takes_the_methods_that_are_described() {
    let server = Server::start(Settings::new()).await;
    let document = document(&server).await;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let target: String = path.replace(['{', '}'], "");
        let mut methods: BTreeSet<String> = operations
            .as_object()
            .unwrap()
            .keys()
            .map(|name| name.to_uppercase())
            .collect();
        if methods.contains("GET") {
            methods.insert("HEAD".to_owned());
        }
        for method in &methods {
            let response = server.send(Request::new(method, &target)).await;
            assert_ne!(response.status, 405, "{method} {target}");
        }
        methods.insert("OPTIONS".to_owned());
        let allowed = |header: Option<&str>| -> BTreeSet<String> {
            header
                .unwrap_or("")
                .split(", ")
                .map(str::to_owned)
                .collect()
        };
        let response = server.send(Request::new("OPTIONS", &target)).await;
        assert_eq!(
            (response.status, allowed(response.header("allow"))),
            (204, methods.clone()),
            "{target}"
        );
        for method in ["PUT", "PATCH", "TRACE"] {
            let response = server.send(Request::new(method, &target)).await;
            assert_eq!(
                (response.status, allowed(response.header("allow"))),
                (405, methods.clone()),
                "{method} {target}"
            );
        }
    }
}
