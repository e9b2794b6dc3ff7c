//! What a client sends as its last id.
#![no_main]

use libfuzzer_sys::fuzz_target;
use notify_server::event::EventId;

fuzz_target!(|text: &str| {
    let Ok(id) = text.parse::<EventId>() else {
        return;
    };
    let written = id.to_string();
    assert!(written.len() <= 20 + 1 + 20 + 1 + 4, "{written}");
    assert!(
        written
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    );
    assert_eq!(written.parse(), Ok(id));
    assert!(!id.contradicts(id));
});
