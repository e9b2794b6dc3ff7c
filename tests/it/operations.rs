//! What operators are given: alerts, dashboard and runbook fit together, and the metrics that they name
//! are those of a running server.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::support::scrape::{families, samples};
use crate::support::{Server, Settings};

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rules that fire.
fn alerts() -> Vec<Value> {
    let rules = yaml("deploy/prometheus/alerts.yml");
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap());
    rules.cloned().collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&file("deploy/grafana/notify-server.json")).unwrap()
}

/// All expressions of the dashboard's panels and variables.
fn dashboard_expressions() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let variables = variables.filter_map(|variable| variable["definition"].as_str());
    targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .chain(variables.map(str::to_owned))
        .collect()
}

/// The names in an expression that can only be those of our metrics.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    expression
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("notify_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// The labels that an expression selects by their exact values, as `name="value"`.
fn selected_in(expression: &str) -> BTreeSet<String> {
    let pieces = expression.split(['{', ',', '}']).map(str::trim);
    let selected = pieces.filter_map(|piece| piece.split_once('='));
    selected
        .filter(|(name, value)| {
            let name_is_plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            name_is_plain && value.starts_with('"') && !["job", "instance"].contains(name)
        })
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

#[tokio::test]
async fn dashboard_and_alerts_name_metrics_that_a_running_server_has() {
    let server = Server::start(Settings::new()).await;
    let text = server.get("/metrics").await.text().await;
    let families = families(&text);
    let known: BTreeSet<String> = families
        .iter()
        .flat_map(|(name, family)| samples(name, family))
        .collect();
    let rules = alerts();
    let alerts = rules.iter().map(|rule| rule["expr"].as_str().unwrap());
    let expressions: Vec<String> = alerts
        .map(str::to_owned)
        .chain(dashboard_expressions())
        .collect();
    assert!(expressions.len() > 60);
    let mut shown = BTreeSet::new();
    for expression in &expressions {
        for name in metrics_in(expression) {
            assert!(known.contains(&name), "{name} in {expression}");
            shown.insert(name);
        }
        for selected in selected_in(expression) {
            assert!(text.contains(&selected), "{selected} in {expression}");
        }
    }
    // And nothing is measured that nobody looks at.
    for (name, family) in &families {
        let looked_at = samples(name, family)
            .iter()
            .any(|name| shown.contains(name));
        assert!(
            looked_at,
            "{name} is neither on the dashboard nor in an alert"
        );
    }
}

#[test]
fn every_alert_leads_to_its_section_of_the_runbook() {
    let runbook = file("docs/runbook.md");
    let sections: BTreeSet<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .filter(|title| title.starts_with("Notify"))
        .collect();
    let mut names = BTreeSet::new();
    for rule in alerts() {
        let name = rule["alert"].as_str().unwrap().to_owned();
        let anchor = format!("docs/runbook.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook_url"], anchor, "{name}");
        assert!(rule["annotations"]["summary"].is_string(), "{name}");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{name}"
        );
        assert!(names.insert(name));
    }
    let sections: BTreeSet<String> = sections.into_iter().map(str::to_owned).collect();
    assert_eq!(names, sections);
}

#[test]
fn every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let cases = yaml("deploy/prometheus/alerts.test.yml");
    let mut firing = BTreeSet::new();
    let mut quiet = BTreeSet::new();
    for case in cases["tests"].as_array().unwrap() {
        for expected in case["alert_rule_test"].as_array().unwrap() {
            let name = expected["alertname"].as_str().unwrap().to_owned();
            match expected["exp_alerts"].as_array().unwrap().is_empty() {
                true => quiet.insert(name),
                false => firing.insert(name),
            };
        }
    }
    let alerts = alerts();
    let names: BTreeSet<String> = alerts
        .iter()
        .map(|rule| rule["alert"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, firing);
    assert_eq!(names, quiet);
}

#[test]
fn the_dashboards_panels_lie_side_by_side_and_say_what_they_show() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} lies on another panel");
            }
        }
        if panel["type"] != "row" {
            assert!(
                panel["description"].as_str().is_some_and(|d| !d.is_empty()),
                "{title}"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}

/// Links of the documentation to other files of it and to their sections.
#[test]
fn links_of_the_documentation_lead_somewhere() {
    let mut broken = Vec::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let pages = std::fs::read_dir(folder).unwrap();
    let pages = pages.map(|page| page.unwrap().file_name().into_string().unwrap());
    for page in pages.filter(|page| page.ends_with(".md")) {
        for link in links(&file(&format!("docs/{page}"))) {
            let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if target.is_empty() { &page } else { target };
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("docs")
                .join(target);
            let found = path.exists()
                && (anchor.is_empty()
                    || anchors(&std::fs::read_to_string(&path).unwrap()).contains(anchor));
            if !found {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn links(text: &str) -> Vec<String> {
    let rest = text.split("](").skip(1);
    let links = rest.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()));
    links.filter(|link| !link.contains("://")).collect()
}

/// The sections of a page, named as pages that show it name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let titles = text.lines().filter(|line| line.starts_with('#'));
    let names = titles.map(|title| title.trim_start_matches('#').trim().to_lowercase());
    names
        .map(|name| {
            let kept = name
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}
