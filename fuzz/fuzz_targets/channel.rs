//! A channel's name, as clients and backends write it: a name has one subject, and a subject one name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use notify_server::bus::subject::{Pattern, check_publish};
use notify_server::event::decode::{Rules, decode};
use notify_server::event::subject::tokens_of;
use notify_server::event::{Channel, Recipients, Timestamp};

fuzz_target!(|text: &str| {
    if let Ok(pattern) = Pattern::parse(text) {
        assert!(pattern.covers(&pattern));
        assert!(check_publish(text).is_err() || pattern.matches(text));
    }
    let channel = match Channel::parse(text) {
        Ok(channel) => channel,
        Err(error) => {
            let told = error.to_string();
            assert!(
                told.len() < 1_000 && !told.contains(['\n', '\r', '\0']),
                "{told:?}"
            );
            return;
        }
    };
    assert_eq!(channel.to_string(), text);
    assert_eq!(Channel::parse(&channel.to_string()).as_ref(), Ok(&channel));
    assert!(
        !text
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || c == ',')
    );
    let subject = format!("fechatter.realtime.{}", tokens_of(&channel));
    check_publish(&subject).expect("every channel has a subject");
    assert!(Pattern::parse("fechatter.realtime.>").is_ok_and(|all| all.matches(&subject)));
    let decoded = decode(
        &Rules::default(),
        &subject,
        b"{}",
        Timestamp::from_millis(0),
    );
    let decoded = decoded.expect("a subject names its channel");
    assert_eq!(decoded.audience.to, Recipients::Channels(vec![channel]));
});
