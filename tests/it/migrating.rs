//! What `docs/migrating.md` says is here, on the right of its tables, is here.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::support::{Request, Server, Settings};

/// The right cell of a table's row, and the heading that it stands under.
struct Row {
    heading: String,
    here: String,
}

fn document() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migrating.md");
    std::fs::read_to_string(file).unwrap()
}

fn rows() -> Vec<Row> {
    let (mut rows, mut heading) = (Vec::new(), String::new());
    for line in document().lines() {
        if let Some(text) = line.strip_prefix("### ") {
            heading = text.to_owned();
        }
        let Some(row) = line.strip_prefix("| ") else {
            continue;
        };
        let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 2, "{line}");
        rows.push(Row {
            heading: heading.clone(),
            here: cells[1].to_owned(),
        });
    }
    assert!(rows.len() > 50, "{} rows", rows.len());
    rows
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// All that is said of this server: not the left cells.
fn ours() -> String {
    let document = document();
    let prose = document.lines().filter(|line| !line.starts_with('|'));
    let mut text: String = prose.flat_map(|line| [line, "\n"]).collect();
    for row in rows() {
        text.push_str(&row.here);
    }
    text
}

fn settings() -> impl Iterator<Item = String> {
    let rows = rows().into_iter().filter(|row| row.heading == "Settings");
    rows.flat_map(|row| code(&row.here).map(str::to_owned).collect::<Vec<_>>())
}

/// The paths of all values, as `server.port`.
fn keys(at: &str, value: &Value, found: &mut BTreeSet<String>) {
    found.insert(at.to_owned());
    for (name, value) in value.as_object().into_iter().flatten() {
        let key = match at {
            "" => name.clone(),
            at => format!("{at}.{name}"),
        };
        keys(&key, value, found);
    }
}

#[tokio::test]
async fn every_key_is_one() {
    let outcome = Settings::new().run(&["check-config"]).await;
    let config: Value = serde_saphyr::from_str(&outcome.stdout).unwrap();
    let mut known = BTreeSet::new();
    keys("", &config, &mut known);
    let is_key = |text: &String| {
        text.contains('.')
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || "._".contains(c))
    };
    // `jetstream.max_age: 12h` is about `jetstream.max_age`.
    let key_of = |text: &str| text.split(':').next().unwrap_or_default().to_owned();
    let mut named: BTreeSet<String> = settings().map(|text| key_of(&text)).collect();
    named.retain(is_key);
    assert!(named.len() > 20, "{named:?}");
    // Elsewhere it may be a member of a message, unless it begins like a key.
    let elsewhere = ours();
    let mut elsewhere: BTreeSet<String> = code(&elsewhere).map(key_of).collect();
    elsewhere.retain(is_key);
    let section = |key: &String| known.contains(key.split('.').next().unwrap_or_default());
    elsewhere.retain(section);
    named.extend(elsewhere);
    let wrong: Vec<&String> = named.iter().filter(|key| !known.contains(*key)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[tokio::test]
async fn every_variable_is_understood() {
    let is_variable = |text: &String| text.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let variables: BTreeSet<String> = settings().filter(is_variable).collect();
    assert!(variables.len() >= 8, "{variables:?}");
    for variable in variables {
        // What no key can be, so that whoever reads the variable says so.
        let wrong = match variable.as_str() {
            "JWT_SECRET" => "",
            "NATS_URL" => "nats://[",
            _ => "\u{1}",
        };
        let settings = Settings::new().environment(&variable, wrong);
        let outcome = settings.run(&["check-config"]).await;
        assert_eq!(outcome.code, Some(2), "{variable}");
        assert!(outcome.stderr.contains(&variable), "{}", outcome.stderr);
    }
}

#[tokio::test]
async fn every_endpoint_is_there() {
    let server = Server::start(Settings::new()).await;
    let mut checked = 0;
    for row in rows() {
        for text in code(&row.here) {
            let Some((method @ ("GET" | "POST" | "DELETE"), target)) = text.split_once(' ') else {
                continue;
            };
            let target = target.split(' ').next().unwrap_or_default();
            let target = target
                .replace("{channel}", "job:1")
                .replace(['{', '}', '…'], "");
            // No resource knows this method, and each says which it does know.
            let mut response = server.send(Request::new("PATCH", &target)).await;
            let (status, allowed) = (response.status, response.header("allow"));
            let allowed = allowed.unwrap_or_default().to_owned();
            assert_eq!(status, 405, "{text}: {}", response.text().await);
            assert!(allowed.contains(method), "{text}: {allowed}");
            checked += 1;
        }
    }
    assert!(checked > 25, "{checked} endpoints");
}

#[test]
fn every_link_leads_somewhere() {
    let document = document();
    let headings: BTreeSet<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|text| text.to_lowercase().replace(' ', "-").replace('\'', ""))
        .collect();
    let links: Vec<&str> = document.split("](#").skip(1).collect();
    assert_eq!(links.len(), 5);
    for link in links {
        let anchor = link.split(')').next().unwrap_or_default();
        assert!(headings.contains(anchor), "{anchor} of {headings:?}");
    }
}
