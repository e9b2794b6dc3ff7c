//! Prometheus' own checker.

use std::io::Write as _;
use std::process::{Command, Stdio};

const INSTALL: &str = "the tests need promtool in PATH: it is part of Prometheus; \
    scripts/install-test-tools servers puts it into target/test-tools/bin";

/// What `promtool check metrics` finds wrong with a scrape; nothing where all is well.
pub(crate) fn check_metrics(scrape: &str) -> String {
    // Scripts have the folder in PATH; whoever runs cargo need not.
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-tools/bin");
    let path = format!("{}:{own}", std::env::var("PATH").unwrap());
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool does not start: {error}; {INSTALL}"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(scrape.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(output.status.success() || !said.is_empty());
    said
}
