//! The figures of a run: as a table, as JSON, and against the targets given. Knows no scenario.

use std::{fmt, str::FromStr};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// What was measured, in the order in which it is shown.
pub(crate) struct Report {
    figures: Vec<Figure>,
    notes: Vec<String>,
    failures: Vec<String>,
}

struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// The target as it was given, and whether it was reached.
    target: Option<(Target, bool)>,
}

/// A figure's limit: `NAME<VALUE` or `NAME>VALUE`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    name: String,
    less: bool,
    limit: f64,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            figures: Vec::new(),
            notes: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub(crate) fn figure(&mut self, name: &str, value: f64, unit: &'static str) {
        self.figures.push(Figure {
            name: name.to_owned(),
            value,
            unit,
            target: None,
        });
    }

    /// A figure that is a failure unless it is 0.
    pub(crate) fn must_be_zero(&mut self, name: &str, count: u64) {
        self.figure(name, count as f64, "");
        if count > 0 {
            self.failure(format!("{name}: {count}"));
        }
    }

    pub(crate) fn failure(&mut self, text: String) {
        self.failures.push(text);
    }

    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Holds the figures against the targets. A target without its figure is an error: it would be met by a typing mistake.
    pub(crate) fn judge(&mut self, targets: &[Target]) -> Result<()> {
        for target in targets {
            let figure = self
                .figures
                .iter_mut()
                .find(|figure| figure.name == target.name);
            let figure =
                figure.with_context(|| format!("the target {target} has no figure in this run"))?;
            let met = target.is_met(figure.value);
            figure.target = Some((target.clone(), met));
            if !met {
                let text = format!("missed {target}: {}", shown(figure.value));
                self.failures.push(text);
            }
        }
        Ok(())
    }

    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// One line.
    pub(crate) fn json(&self) -> Value {
        let figures: Map<_, _> = self
            .figures
            .iter()
            .map(|figure| (figure.name.clone(), figure.value.into()))
            .collect();
        json!({ "passed": self.passed(), "figures": figures, "notes": self.notes, "failures": self.failures })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Figure {
            name,
            value,
            unit,
            target,
        } in &self.figures
        {
            write!(f, "  {name:<24} {:>14} {unit:<4}", shown(*value))?;
            match target {
                Some((target, true)) => writeln!(f, " met ({target})")?,
                Some((target, false)) => writeln!(f, " MISSED ({target})")?,
                None => writeln!(f)?,
            }
        }
        self.notes
            .iter()
            .try_for_each(|note| writeln!(f, "  {note}"))?;
        self.failures
            .iter()
            .try_for_each(|failure| writeln!(f, "  FAILED: {failure}"))
    }
}

impl Target {
    fn is_met(&self, value: f64) -> bool {
        if self.less {
            value < self.limit
        } else {
            value > self.limit
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.less { '<' } else { '>' };
        write!(f, "{}{sign}{}", self.name, self.limit)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is not of the form NAME<VALUE or NAME>VALUE");
        let (name, limit) = text.split_once(['<', '>']).ok_or_else(wrong)?;
        let limit = limit.parse().map_err(|_| wrong())?;
        Ok(Self {
            name: name.to_owned(),
            less: text.contains('<'),
            limit,
        })
    }
}

/// Three digits that count; whole numbers whole, in groups of three.
fn shown(value: f64) -> String {
    if value.fract() != 0.0 && value < 1000.0 {
        return format!("{value:.*}", if value < 10.0 { 3 } else { 1 });
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_judged() {
        let mut report = Report::new();
        report.figure("latency_p99_ms", 8.5, "ms");
        report.figure("deliveries_per_second", 2_100_000.0, "/s");
        let targets = ["deliveries_per_second>2e6", "latency_p99_ms<8"]
            .map(|text| text.parse().expect("a target"));
        report
            .judge(&targets[..1])
            .expect("a figure for the target");
        assert!(report.passed());
        report.judge(&targets).expect("a figure for each target");
        assert!(!report.passed());
        assert!(
            report
                .judge(&["latency<8".parse().expect("a target")])
                .is_err()
        );
        assert!("latency".parse::<Target>().is_err());
    }

    #[test]
    fn figures_are_readable() {
        for (value, text) in [
            (0.0, "0"),
            (4.1239, "4.124"),
            (11.72, "11.7"),
            (1234.6, "1,235"),
            (2_100_000.0, "2,100,000"),
        ] {
            assert_eq!(shown(value), text);
        }
    }
}
