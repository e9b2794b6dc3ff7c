//! What is wrong with a configuration, in words that say what would be right.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, e.g. `server.port`; empty for the file as a whole.
    pub key: String,
    /// What stands there, secrets masked.
    pub value: Option<String>,
    /// Where it was set: a file, an environment variable, a flag.
    pub origin: Option<String>,
    /// What is wrong and what is allowed.
    pub problem: String,
    /// A key that may have been meant.
    pub suggestion: Option<String>,
}

/// A configuration that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Problem>);

impl std::error::Error for ConfigError {}

impl Problem {
    /// A problem with a key.
    #[must_use]
    pub fn at(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: None,
            origin: None,
            problem: problem.into(),
            suggestion: None,
        }
    }

    /// The same with the value that stands there.
    #[must_use]
    pub fn with_value(self, value: impl fmt::Display) -> Self {
        Self {
            value: Some(value.to_string()),
            ..self
        }
    }
}

/// The known key that `key` most likely stands for.
pub(super) fn near_miss<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // 0.75 takes one or two wrong letters in a short word, and leaves other words alone.
    known
        .map(|name| (strsim::jaro_winkler(key, name), name))
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.key.is_empty() {
            "configuration"
        } else {
            &self.key
        })?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(origin) = &self.origin {
            write!(f, " (from {origin})")?;
        }
        write!(f, ": {}", self.problem)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean {suggestion}?")?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
