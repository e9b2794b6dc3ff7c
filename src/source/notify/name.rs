//! Names of PostgreSQL channels, and how those of patterns become channels of events. Pure.

use crate::event::{Channel, Resource};

/// The longest name that NOTIFY takes, in bytes.
const MAX_BYTES: usize = 63;

/// What the names of patterns may end with, besides the resource.
const SUFFIX: &str = "_messages";

/// What is configured to be listened on.
#[derive(Debug, Clone, Default)]
pub struct Names {
    fixed: Vec<String>,
    patterns: Vec<Pattern>,
}

/// `session_messages:*`
#[derive(Debug, Clone)]
struct Pattern {
    /// `session_messages:`
    prefix: String,
    /// `session`
    resource: String,
}

/// Why a name can't be listened on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is too long, or empty.
    #[error("a PostgreSQL channel has 1 to {MAX_BYTES} bytes; {0:?} does not")]
    Length(String),
    /// A wildcard that is not a last segment of its own.
    #[error("a pattern is name:*, e.g. session_messages:*; {0:?} is not")]
    Wildcard(String),
    /// A pattern that begins with nothing that a channel can begin with.
    #[error(
        "a pattern begins with the resource of a channel, with or without _messages behind it, e.g. \
         session:* or session_messages:*; {0:?} does not"
    )]
    Resource(String),
    /// A pattern for chats, which users listen on without naming them.
    #[error(
        "{0:?} would be for streams that name a chat only; trigger the outbox for chats instead"
    )]
    Chat(String),
}

impl Names {
    /// Reads what is configured.
    ///
    /// # Errors
    /// The first that can't be listened on.
    pub fn parse(names: &[String]) -> Result<Self, NameError> {
        let mut parsed = Self::default();
        for name in names {
            if name.is_empty() || name.len() > MAX_BYTES {
                return Err(NameError::Length(name.clone()));
            }
            if !name.contains('*') {
                parsed.fixed.push(name.clone());
                continue;
            }
            let prefix = name.strip_suffix('*').filter(|rest| rest.ends_with(':'));
            let prefix = prefix.filter(|prefix| !prefix.contains('*'));
            let prefix = prefix.ok_or_else(|| NameError::Wildcard(name.clone()))?;
            let resource = prefix.trim_end_matches(':');
            let resource = resource.strip_suffix(SUFFIX).unwrap_or(resource);
            match Channel::parse(&format!("{resource}:1")) {
                Ok(channel) if *channel.resource() == Resource::Chat => {
                    return Err(NameError::Chat(name.clone()));
                }
                Ok(channel) if channel.resource().as_str() == resource => {}
                _ => return Err(NameError::Resource(name.clone())),
            }
            parsed.patterns.push(Pattern {
                prefix: prefix.to_owned(),
                resource: resource.to_owned(),
            });
        }
        Ok(parsed)
    }

    /// Whether nothing is configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fixed.is_empty() && self.patterns.is_empty()
    }

    /// Those that are always listened on.
    pub(super) fn fixed(&self) -> &[String] {
        &self.fixed
    }

    /// The resources whose channels are listened on while somebody streams them.
    pub(super) fn resources(&self) -> Vec<String> {
        let resources = self.patterns.iter().map(|pattern| pattern.resource.clone());
        resources.collect()
    }

    /// What to listen on for who streams a channel. One that is too long for NOTIFY has nothing to hear.
    pub(super) fn of(&self, channel: &Channel) -> Vec<String> {
        let resource = channel.resource().as_str();
        let patterns = self.patterns.iter();
        patterns
            .filter(|pattern| pattern.resource == resource)
            .map(|pattern| format!("{}{}", pattern.prefix, channel.id()))
            .filter(|name| name.len() <= MAX_BYTES)
            .collect()
    }

    /// The channel that a name of a pattern means.
    pub(super) fn channel(&self, name: &str) -> Option<Channel> {
        self.patterns.iter().find_map(|pattern| {
            let id = name.strip_prefix(&pattern.prefix)?;
            Channel::parse(&format!("{}:{id}", pattern.resource)).ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(names: &[&str]) -> Result<Names, NameError> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Names::parse(&names)
    }

    #[test]
    fn patterns_name_channels() {
        let names = names(&["message_created", "session_messages:*", "job:*"]).unwrap();
        assert_eq!(names.fixed(), ["message_created"]);
        for (channel, name) in [
            ("session:test-sse-1", "session_messages:test-sse-1"),
            ("session:A:b", "session_messages:A:b"),
            ("job:7", "job:7"),
        ] {
            let channel = Channel::parse(channel).unwrap();
            assert_eq!(names.of(&channel), [name]);
            assert_eq!(names.channel(name), Some(channel));
        }
        assert!(names.of(&Channel::parse("task:7").unwrap()).is_empty());
        let long = Channel::parse(&format!("session:{}", "x".repeat(60))).unwrap();
        assert!(names.of(&long).is_empty());
    }

    #[test]
    fn what_can_not_be_listened_on_says_why() {
        for name in ["", &"x".repeat(64)] {
            assert!(
                matches!(names(&[name]), Err(NameError::Length(_))),
                "{name}"
            );
        }
        for name in ["*", "session*", "a:*:b", "*:*"] {
            assert!(
                matches!(names(&[name]), Err(NameError::Wildcard(_))),
                "{name}"
            );
        }
        for name in [":*", "_messages:*", "a b:*"] {
            assert!(
                matches!(names(&[name]), Err(NameError::Resource(_))),
                "{name}"
            );
        }
        assert!(matches!(
            names(&["chat_messages:*"]),
            Err(NameError::Chat(_))
        ));
    }

    proptest! {
        #[test]
        fn names_and_channels_are_one_to_one(id in "[^:]{1,20}(:[^:]{1,9}){0,2}") {
            let names = names(&["session_messages:*"]).unwrap();
            if let Ok(channel) = Channel::parse(&format!("session:{id}")) {
                for name in names.of(&channel) {
                    prop_assert_eq!(names.channel(&name), Some(channel.clone()));
                }
            }
        }
    }
}
