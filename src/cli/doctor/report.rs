//! The findings as a table for people and as JSON for programs. Pure.

use std::fmt::Write as _;

use serde::Serialize;

use super::finding::{Check, Finding, Status};

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
                findings.push(check.skipped("not possible after what was found above"));
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

    pub(super) fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.url);
        for finding in &self.checks {
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
        let count = |status| self.checks.iter().filter(|f| f.status == status).count();
        let problems = counted(count(Status::Problem), "problem");
        let warnings = counted(count(Status::Warning), "warning");
        let _ = writeln!(text, "\n{problems}, {warnings}");
        text
    }
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
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
            assert_eq!(table.matches(&format!(" {:<13} ", check.name())).count(), 1);
        }
        assert!(table.contains("PROBLEM  buffering     held back\n"));
        assert!(table.contains("-> turn buffering off\n"));
        assert!(table.ends_with("\n1 problem, 1 warning\n"));
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
