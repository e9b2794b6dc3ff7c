//! NATS subjects and patterns. Pure.

use std::fmt;

/// The longest subject, in bytes.
const MAX_BYTES: usize = 1024;

/// Why a subject can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject:?} is no {what}: {problem}")]
pub struct SubjectError {
    subject: String,
    what: &'static str,
    problem: &'static str,
}

/// A pattern that a server subscribes to, e.g. `fechatter.realtime.>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern(String);

/// Checks a subject that a message is to be published on.
///
/// # Errors
/// Empty tokens, wildcards, white space, control characters, over 1,024 bytes.
pub fn check_publish(subject: &str) -> Result<(), SubjectError> {
    let what = "subject to publish on";
    check(subject, what)?;
    if subject.split('.').any(|token| matches!(token, "*" | ">")) {
        return Err(error(subject, what, "it has a wildcard, * or >"));
    }
    Ok(())
}

fn check(subject: &str, what: &'static str) -> Result<(), SubjectError> {
    let problem = if subject.len() > MAX_BYTES {
        "it has more than 1024 bytes"
    } else if subject.split('.').any(str::is_empty) {
        "a token between its dots is empty"
    } else if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        "it has white space or a control character"
    } else {
        return Ok(());
    };
    Err(error(subject, what, problem))
}

fn error(subject: &str, what: &'static str, problem: &'static str) -> SubjectError {
    SubjectError {
        subject: subject.chars().take(80).collect(),
        what,
        problem,
    }
}

impl Pattern {
    /// Parses a subscription pattern.
    ///
    /// # Errors
    /// As [`check_publish`] but for wildcards, which are allowed as whole tokens, `>` only last.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        let what = "subject pattern";
        check(text, what)?;
        let tokens: Vec<&str> = text.split('.').collect();
        let early = tokens.iter().rev().skip(1).any(|token| *token == ">");
        if early {
            return Err(error(text, what, "> can only be its last token"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it ends in `.*`, which matches one token only, while backends publish deeper.
    #[must_use]
    pub fn ends_in_one_token_wildcard(&self) -> bool {
        self.0.ends_with(".*")
    }

    /// The pattern with `>` in place of a last `*`.
    #[must_use]
    pub fn deeper(&self) -> String {
        let stem = self.0.strip_suffix('*').unwrap_or(&self.0);
        format!("{stem}>")
    }

    /// Whether a message on `subject` is one that the pattern subscribes to.
    #[must_use]
    pub fn matches(&self, subject: &str) -> bool {
        includes(&self.0, subject)
    }

    /// Whether every subject that `other` matches is matched by this one, too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        includes(&self.0, &other.0)
    }

    /// Whether some subject matches both patterns, so that it would arrive twice.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut left = self.0.split('.');
        let mut right = other.0.split('.');
        loop {
            match (left.next(), right.next()) {
                (None, None) => return true,
                (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
                _ => return false,
            }
        }
    }
}

/// The pattern that a subject was listened on by: what can be said of it in public, since subjects may name
/// people.
#[must_use]
pub fn template<'a>(patterns: &'a [Pattern], subject: &str) -> &'a str {
    let pattern = patterns.iter().find(|pattern| pattern.matches(subject));
    pattern.map_or("other", Pattern::as_str)
}

/// Whether `wide` includes `narrow`, which is a pattern or, as the narrowest of patterns, a subject.
fn includes(wide: &str, narrow: &str) -> bool {
    let mut wide = wide.split('.');
    let mut narrow = narrow.split('.');
    loop {
        match (wide.next(), narrow.next()) {
            (None, None) | (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(expected), Some(token)) if expected == token => {}
            _ => return false,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn overlap_is_found() {
        let cases = [
            ("a.>", "a.b", true),
            ("a.>", "a.b.c.*", true),
            ("a.*", "a.b", true),
            ("a.*.c", "a.b.*", true),
            ("a.>", "a", false),
            ("a.b", "a.b.c", false),
            ("fechatter.realtime.>", "fechatter.chat.>", false),
        ];
        for (a, b, expected) in cases {
            assert_eq!(pattern(a).overlaps(&pattern(b)), expected, "{a} {b}");
            assert_eq!(pattern(b).overlaps(&pattern(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn a_wider_pattern_covers_a_narrower_one() {
        let cases = [
            ("a.>", "a.*", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a.>", true),
            ("a.*", "a.>", false),
            ("a.*", "a.b", true),
            ("a.*.c", "a.b.*", false),
            ("a.b", "a.*", false),
        ];
        for (wide, narrow, expected) in cases {
            assert_eq!(
                pattern(wide).covers(&pattern(narrow)),
                expected,
                "{wide} {narrow}"
            );
        }
    }

    #[test]
    fn a_pattern_matches_what_a_server_would_deliver() {
        let cases = [
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.b", "a.b", true),
            ("a.b", "$JS.API.a.b", false),
        ];
        for (text, subject, expected) in cases {
            assert_eq!(pattern(text).matches(subject), expected, "{text} {subject}");
        }
    }

    #[test]
    fn wrong_subjects_are_refused() {
        for text in ["", "a..b", ".a", "a.", "a b", "a.\n", "a.*", "a.>"] {
            assert!(check_publish(text).is_err(), "{text:?}");
        }
        for text in ["", "a..b", "a.>.b", "> "] {
            assert!(Pattern::parse(text).is_err(), "{text:?}");
        }
        assert!(pattern("a.*").ends_in_one_token_wildcard());
        assert_eq!(pattern("a.*").deeper(), "a.>");
    }

    proptest! {
        #[test]
        fn a_subject_that_matches_both_is_an_overlap(
            tokens in proptest::collection::vec("[ab]", 1..5),
            masks in proptest::collection::vec((0..3u8, 0..3u8), 5),
        ) {
            let mask = |choose: fn(&(u8, u8)) -> u8| {
                let mut masked = Vec::new();
                for (index, (token, mask)) in tokens.iter().zip(&masks).enumerate() {
                    match choose(mask) {
                        0 => masked.push(token.as_str()),
                        1 => masked.push("*"),
                        _ if index > 0 => {
                            masked.push(">");
                            break;
                        }
                        _ => masked.push("*"),
                    }
                }
                pattern(&masked.join("."))
            };
            prop_assert!(mask(|m| m.0).overlaps(&mask(|m| m.1)));
        }
    }
}
