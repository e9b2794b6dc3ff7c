//! A payload from NATS: a line with its subject, then the payload.
//!
//! What is accepted is one event on the wire, whatever stood in it; what is not is told where and why in few
//! words, and counted under a label of a closed list.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use notify_server::event::decode::{Rejection, Rules, decode};
use notify_server::event::{Epoch, Event, EventId, Recipients, Timestamp};
use serde_json::value::RawValue;

/// The longest reason that a publisher is given, besides what it quotes.
const LONGEST: usize = 2_000;

/// The type of an object, as whoever reads it has it: of two members with the same name the last counts. Numbers of
/// any size are JSON; only what is looked at is read.
fn type_of(object: &[u8]) -> String {
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_slice(object).expect("a JSON object");
    serde_json::from_str(members["type"].get()).expect("a text")
}

fuzz_target!(|data: &[u8]| {
    let (subject, payload) = match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (&b"fechatter.realtime.job.1"[..], data),
    };
    let subject = String::from_utf8_lossy(subject);
    let rules = Rules {
        max_payload: 64 * 1024,
        ..Rules::default()
    };
    let decoded = match decode(
        &rules,
        &subject,
        payload,
        Timestamp::from_millis(1_753_859_400_000),
    ) {
        Ok(decoded) => decoded,
        Err(rejection) => return is_told_well(&rejection),
    };
    let kind = decoded.kind.clone();
    assert_eq!(
        type_of(&decoded.json),
        kind,
        "the type on the stream is that of the data"
    );
    if let Recipients::Channels(channels) = &decoded.audience.to {
        assert!(!channels.is_empty(), "an event is for somebody");
    }
    let id = EventId::new(Epoch(1_753_859_400_123), 7, payload);
    let event = Event::new(Some(id), decoded);
    let named = text(&event.frame.bytes(true));
    let unnamed = text(&event.frame.bytes(false));
    let lines: Vec<&str> = named.split('\n').collect();
    let [name, place, payload, "", ""] = lines[..] else {
        panic!("not one event: {named:?}");
    };
    assert!(!named.contains(['\r', '\0']));
    let plain = |c: &char| !matches!(c, '\r' | '\n' | '\0');
    // What would end the line is left out of the name alone.
    let in_name: String = kind.chars().filter(plain).collect();
    assert_eq!(name, format!("event: {in_name}"));
    assert_eq!(place, format!("id: {id}"));
    let received = payload.strip_prefix("data: ").expect("data");
    assert_eq!(type_of(received.as_bytes()), kind);
    assert_eq!(unnamed, format!("{place}\n{payload}\n\n"));
});

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("a stream is UTF-8")
}

fn is_told_well(rejection: &Rejection) {
    assert!(Rejection::REASONS.contains(&rejection.reason()));
    let told = rejection.to_string();
    assert!(
        !told.is_empty() && told.len() < LONGEST,
        "{} bytes",
        told.len()
    );
    if let Rejection::Malformed {
        format, problem, ..
    } = rejection
    {
        assert!(!format.is_empty() && !problem.is_empty());
    }
}
