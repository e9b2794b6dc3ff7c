//! Channels as tokens of a NATS subject, and back.
//!
//! `job:123` is `job.123`. What a token can't have, or what would end it, is percent-encoded, so that no
//! two channels share a subject and every channel has one.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;

use super::channel::Channel;

/// The tokens of a channel's subject, with dots in between.
#[must_use]
pub fn tokens_of(channel: &Channel) -> String {
    let mut tokens = encode(channel.resource().as_str());
    for segment in channel.id().to_string().split(':') {
        tokens.push('.');
        tokens.push_str(&encode(segment));
    }
    tokens
}

/// The channel that a subject's tokens name; `None` where they name none.
pub(in crate::event) fn channel_of(tokens: &str) -> Option<Channel> {
    let segments: Vec<String> = tokens.split('.').map(decode).collect();
    let channel = Channel::parse(&segments.join(":")).ok()?;
    // A colon that was encoded would have made another segment.
    (channel.to_string().split(':').count() == segments.len()).then_some(channel)
}

fn encode(segment: &str) -> String {
    let mut token = String::with_capacity(segment.len());
    for c in segment.chars() {
        let plain = !(c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '%'));
        if plain {
            token.push(c);
            continue;
        }
        let mut buffer = [0; 4];
        for byte in c.encode_utf8(&mut buffer).bytes() {
            // Writing to a String can't fail.
            let _ = write!(token, "%{byte:02X}");
        }
    }
    token
}

/// A token that is not percent-encoded UTF-8 means what it says.
fn decode(token: &str) -> String {
    match percent_decode_str(token).decode_utf8() {
        Ok(decoded) => decoded.into_owned(),
        Err(_) => token.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Id;
    use proptest::prelude::*;

    #[test]
    fn plain_channels_have_plain_subjects() {
        for (channel, tokens) in [
            ("chat:42", "chat.42"),
            ("user:456:notifications", "user.456.notifications"),
            ("job:a.b", "job.a%2Eb"),
            ("app.v1:x", "app%2Ev1.x"),
            ("job:100%", "job.100%25"),
            ("room:蓝", "room.蓝"),
        ] {
            let channel = Channel::parse(channel).unwrap();
            assert_eq!(tokens_of(&channel), tokens);
            assert_eq!(channel_of(tokens), Some(channel));
        }
    }

    #[test]
    fn tokens_that_name_no_channel_are_none() {
        for tokens in ["", "job", "job.", "job.a%3Ab", "job.a%2Cb", "jo b.1"] {
            assert_eq!(channel_of(tokens), None, "{tokens}");
        }
    }

    proptest! {
        #[test]
        fn channels_and_subjects_are_one_to_one(
            resource in "[a-zA-Z0-9_.~-]{1,8}",
            id in "[^:]{1,12}(:[^:]{1,12}){0,2}",
        ) {
            if let Ok(channel) = Channel::parse(&format!("{resource}:{id}")) {
                let tokens = tokens_of(&channel);
                prop_assert!(!tokens.split('.').any(str::is_empty));
                prop_assert!(!tokens.contains(['*', '>', ' ']));
                prop_assert_eq!(channel_of(&tokens), Some(channel));
            }
        }

        #[test]
        fn any_text_can_be_a_token(text in "\\PC{1,20}", control in any::<char>()) {
            let text = format!("{text}{control}");
            let token = encode(&text);
            let plain = |c: char| !c.is_whitespace() && !c.is_control() && !".*>".contains(c);
            prop_assert!(token.chars().all(plain));
            prop_assert_eq!(decode(&token), text);
        }

        #[test]
        fn numbers_stay_numbers(number: i64) {
            let channel = Channel::new("chat", Id::Number(number)).unwrap();
            prop_assert_eq!(channel_of(&tokens_of(&channel)), Some(channel));
        }
    }
}
