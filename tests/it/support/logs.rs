//! One line of the server's JSON log.

use serde_json::Value;

/// A parsed log line. Fields may stand in the event or in the spans around it; a reader of logs
/// doesn't care, and neither do the tests.
#[derive(Debug, Clone)]
pub(crate) struct LogLine(Value);

impl LogLine {
    /// `None` where the line isn't a JSON log line.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        value.get("level")?;
        Some(Self(value))
    }

    pub(crate) fn message(&self) -> &str {
        self.field("message").and_then(Value::as_str).unwrap_or("")
    }

    pub(crate) fn level(&self) -> &str {
        self.0["level"].as_str().unwrap_or("")
    }

    /// The field of this name: of the event, else of the innermost span that has it.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        let spans = self.0["spans"].as_array().into_iter().flatten().rev();
        [&self.0["fields"], &self.0, &self.0["span"]]
            .into_iter()
            .chain(spans)
            .find_map(|place| place.get(name))
    }

    /// The field as text, whether it was logged as text or as a number.
    pub(crate) fn text(&self, name: &str) -> String {
        match self.field(name) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }

    /// The whole line, to look for words anywhere in it.
    pub(crate) fn whole(&self) -> String {
        self.0.to_string()
    }
}
