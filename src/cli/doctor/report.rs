//! The findings as a table for people and as JSON for programs. Pure.

use std::fmt::Write as _;

use serde::Serialize;

use super::finding::{Check, Finding, Status};

/// What is said of a check that another one's failure has left nothing to look at.
const NOT_POSSIBLE: &str = "not possible after what was found above";

/// All findings about one address, in the order of the checks.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    url: String,
    /// Of this program.
    version: &'static str,
    result: Status,
    checks: Vec<Finding>,
}

impl Report {
    /// Puts the findings in order; a check that has none was not possible.
    pub(super) fn new(url: &str, mut findings: Vec<Finding>) -> Self {
        for check in Check::ALL {
            if !findings.iter().any(|finding| finding.check == check) {
                findings.push(check.skipped(NOT_POSSIBLE));
            }
        }
        findings.sort_by_key(|finding| finding.check);
        let has = |status| findings.iter().any(|finding| finding.status == status);
        let worst = [Status::Problem, Status::Warning];
        Self {
            url: url.to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            result: worst.into_iter().find(|s| has(*s)).unwrap_or(Status::Ok),
            checks: findings,
        }
    }

    pub(super) fn has_problems(&self) -> bool {
        self.result == Status::Problem
    }

    /// What was not possible is one line, so that what is wrong stays in sight; what is wrong is named at the end again.
    pub(super) fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.url);
        let (impossible, others): (Vec<&Finding>, Vec<&Finding>) =
            self.checks.iter().partition(|f| f.detail == NOT_POSSIBLE);
        for finding in others {
            let word = match finding.status {
                Status::Ok => "ok",
                Status::Warning => "warning",
                Status::Problem => "PROBLEM",
                Status::Skipped => "-",
            };
            let name = finding.check.name();
            // Writing to a String can't fail.
            let _ = writeln!(text, "{word:<8} {name:<13} {}", finding.detail);
            if let Some(advice) = &finding.advice {
                let _ = writeln!(text, "{:22} -> {advice}", "");
            }
        }
        if !impossible.is_empty() {
            let names: Vec<&str> = impossible.iter().map(|f| f.check.name()).collect();
            let _ = writeln!(text, "-        {NOT_POSSIBLE}: {}", names.join(", "));
        }
        let problems = self.counted(Status::Problem, "problem");
        let warnings = self.counted(Status::Warning, "warning");
        let _ = writeln!(text, "\n{problems}, {warnings}");
        text
    }

    /// E.g. `2 problems (buffering, idle)`.
    fn counted(&self, status: Status, what: &str) -> String {
        let found = self.checks.iter().filter(|f| f.status == status);
        let names: Vec<&str> = found.map(|f| f.check.name()).collect();
        match names.len() {
            0 => format!("no {what}s"),
            1 => format!("1 {what} ({})", names[0]),
            count => format!("{count} {what}s ({})", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_a_line_and_the_worst_is_the_result() {
        let findings = vec![
            Check::Publish.skipped("not asked for"),
            Check::Buffering.problem("held back", "turn buffering off"),
            Check::Reachable.ok("answers"),
            Check::Protocol.warning("HTTP/1.1", "turn HTTP/2 on"),
        ];
        let report = Report::new("https://notify.example.com/", findings);
        assert!(report.has_problems());
        let table = report.table();
        for check in Check::ALL {
            let lines = table.lines().filter(|line| line.contains(check.name()));
            assert!(lines.count() >= 1, "{}", check.name());
        }
        assert!(table.contains("-        publish       not asked for\n"));
        assert!(table.contains("not possible after what was found above: health, token, clock"));
        assert_eq!(table.matches("not possible").count(), 1);
        assert!(table.contains("PROBLEM  buffering     held back\n"));
        assert!(table.contains("-> turn buffering off\n"));
        assert!(table.ends_with("\n1 problem (buffering), 1 warning (protocol)\n"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["result"], "problem");
        assert_eq!(json["checks"][8]["check"], "buffering");
        assert_eq!(json["checks"][6]["check"], "first_byte");
        assert_eq!(json["checks"].as_array().unwrap().len(), Check::ALL.len());
    }

    #[test]
    fn without_findings_to_complain_about_all_is_good() {
        let report = Report::new("http://localhost/", vec![Check::Health.ok("ready")]);
        assert!(!report.has_problems());
        assert!(report.table().ends_with("\nno problems, no warnings\n"));
    }
}
