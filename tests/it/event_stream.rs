//! The reader that the other tests rely on, against streams that are right and wrong.

use serde_json::json;

use crate::support::{Event, Parser};

fn read(bytes: &[u8]) -> Result<Vec<Event>, String> {
    let mut parser = Parser::default();
    // One byte at a time: where the pieces break must not matter.
    for byte in bytes {
        parser.feed(std::slice::from_ref(byte))?;
    }
    parser.finish()?;
    Ok(std::iter::from_fn(|| parser.pop()).collect())
}

#[test]
fn fields_make_an_event() {
    let events = read(b": hello\nid: 7\nevent:a\ndata: {\"x\":\r\ndata:1}\r\r\ndata: 2\n\n");
    let first = Event {
        id: Some("7".to_owned()),
        name: Some("a".to_owned()),
        data: json!({"x": 1}),
    };
    let second = Event {
        id: None,
        name: None,
        data: json!(2),
    };
    assert_eq!(events, Ok(vec![first, second]));
}

#[test]
fn ids_and_retry_are_kept() {
    let mut parser = Parser::default();
    parser.feed(b"retry: 2750\n\nid: 1\ndata: 1\n\n").unwrap();
    parser.feed(b"data: 2\n\n").unwrap();
    assert_eq!(parser.last_event_id, "1");
    assert_eq!(parser.retry, Some(2750));
}

#[test]
fn mistakes_are_found() {
    let cases: [(&[u8], &str); 11] = [
        (b"\xef\xbb\xbfdata: 1\n\n", "byte order mark"),
        (b"data: \xff\n\n", "UTF-8"),
        (b"dat: 1\n\n", "unknown field"),
        (b" data: 1\n\n", "unknown field"),
        (b"id: a\0b\ndata: 1\n\n", "NULL"),
        (b"retry: 2.5\n\n", "not decimal"),
        (b"retry: +2\n\n", "not decimal"),
        (b"data: {\n\n", "not JSON"),
        (b"id: 1\nid: 2\ndata: 1\n\n", "twice"),
        (b"data: 1\n", "blank line"),
        (b"event: a\n\n", "no data"),
    ];
    for (bytes, says) in cases {
        let error = read(bytes).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}
