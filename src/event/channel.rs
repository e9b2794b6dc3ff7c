//! Channels: the addresses that events go to and clients listen on.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::id::{ChatId, Id, IdError, UserId};

/// The longest resource name, in bytes.
pub(super) const MAX_RESOURCE_BYTES: usize = 64;

/// An address of the form `{resource}:{id}[:{id}…]`, e.g. `chat:42` or `user:456:notifications`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Channel {
    resource: Resource,
    id: Id,
}

/// The first segment of a channel. The two that every chat event touches carry no text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Resource {
    /// `user`
    User,
    /// `chat`
    Chat,
    /// Any other resource.
    Other(Arc<str>),
}

/// Why a text is not a channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// There is no colon.
    #[error("a channel is {{resource}}:{{id}}, e.g. job:123; {0:?} has no colon")]
    NoColon(String),
    /// The resource is empty, too long or has a character outside `A-Z a-z 0-9 - _ . ~`.
    #[error(
        "a channel's resource has 1 to {MAX_RESOURCE_BYTES} letters, digits or any of - _ . ~; {0:?} does not"
    )]
    Resource(String),
    /// A segment behind the resource is empty.
    #[error("a channel has no empty segment; {0:?} does")]
    EmptySegment(String),
    /// The id is not acceptable.
    #[error("in channel {channel:?}: {source}")]
    Id {
        /// The channel as given.
        channel: String,
        /// What is wrong with its id.
        source: IdError,
    },
}

impl Channel {
    /// A user's own stream.
    #[must_use]
    pub fn user(user: &UserId) -> Self {
        Self {
            resource: Resource::User,
            id: user.id().clone(),
        }
    }

    /// A chat.
    #[must_use]
    pub fn chat(chat: &ChatId) -> Self {
        Self {
            resource: Resource::Chat,
            id: chat.id().clone(),
        }
    }

    /// The channel of `resource` and one id, e.g. from a push message's `task_id`.
    ///
    /// # Errors
    /// The resource has a character that a channel can't have.
    pub fn new(resource: &str, id: Id) -> Result<Self, ChannelError> {
        Ok(Self {
            resource: Resource::parse(resource)?,
            id,
        })
    }

    /// Parses `{resource}:{id}[:{id}…]`.
    ///
    /// # Errors
    /// Says which part is wrong and what would be right.
    pub fn parse(text: &str) -> Result<Self, ChannelError> {
        let Some((resource, rest)) = text.split_once(':') else {
            return Err(ChannelError::NoColon(excerpt(text)));
        };
        let resource = Resource::parse(resource)?;
        if rest.split(':').any(str::is_empty) {
            return Err(ChannelError::EmptySegment(excerpt(text)));
        }
        match Id::parse_path(rest) {
            Ok(id) => Ok(Self { resource, id }),
            Err(source) => Err(ChannelError::Id {
                channel: excerpt(text),
                source,
            }),
        }
    }

    /// What kind of thing the channel is about.
    #[must_use]
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The part behind the resource.
    #[must_use]
    pub fn id(&self) -> &Id {
        &self.id
    }
}

impl Resource {
    fn parse(text: &str) -> Result<Self, ChannelError> {
        match text {
            "user" => Ok(Self::User),
            "chat" => Ok(Self::Chat),
            _ if text.len() <= MAX_RESOURCE_BYTES
                && !text.is_empty()
                && text.bytes().all(is_resource_byte) =>
            {
                Ok(Self::Other(Arc::from(text)))
            }
            _ => Err(ChannelError::Resource(excerpt(text))),
        }
    }

    /// The resource as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::User => "user",
            Self::Chat => "chat",
            Self::Other(name) => name,
        }
    }
}

fn is_resource_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
}

/// Enough of a wrong text to recognise it by; the rest is not worth a log line.
fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.resource.as_str(), self.id)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Channel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Channel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_chat_are_one_channel() {
        let chat = Channel::chat(&ChatId::from(42));
        assert_eq!(Channel::parse("chat:42"), Ok(chat.clone()));
        assert_eq!(chat.to_string(), "chat:42");
    }

    #[test]
    fn deeper_channels_are_their_own() {
        let deep = Channel::parse("user:456:notifications").unwrap();
        assert_ne!(deep, Channel::user(&UserId::from(456)));
        assert_eq!(deep.to_string(), "user:456:notifications");
    }

    #[test]
    fn wrong_channels_say_why() {
        let cases = [
            ("job", "no colon"),
            (":1", "resource"),
            ("jo b:1", "resource"),
            ("job:", "empty segment"),
            ("job:1::2", "empty segment"),
            ("job:a b", "can't contain ' '"),
        ];
        for (text, says) in cases {
            let message = Channel::parse(text).unwrap_err().to_string();
            assert!(message.contains(says), "{text:?}: {message}");
        }
    }

    proptest! {
        #[test]
        fn parse_never_panics_and_round_trips(text in ".{0,80}") {
            if let Ok(channel) = Channel::parse(&text) {
                prop_assert_eq!(channel.to_string(), text);
            }
        }
    }
}
