//! The user's stream as a client sees it: its head, its first byte, its first event, and a test
//! event of one's own.

use std::time::{Duration, Instant};

use notify_server::event::Timestamp;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::{Value, json};

use super::finding::{Check, Finding};
use super::pace::seconds;
use super::stream::Stream;
use super::target::Target;

/// A first byte that takes longer than this was held back rather than far away.
const SLOW: Duration = Duration::from_secs(2);

/// The type of the test event.
const TEST_EVENT: &str = "doctor.test";

/// What the stream has shown.
pub(super) struct Live {
    pub(super) findings: Vec<Finding>,
    /// How far the server's clock is ahead of this one, in milliseconds.
    pub(super) skew_ms: Option<i64>,
}

pub(super) async fn examine(target: &Target, publish: bool) -> Live {
    let mut live = Live {
        findings: Vec::new(),
        skew_ms: None,
    };
    let mut stream = match Stream::open(target, target.stream("/events")).await {
        Ok(stream) => stream,
        Err(why) => {
            let advice = "a stream's head is sent at once, so that something on the way holds it back: turn \
                          response buffering off. See docs/proxies.md";
            live.findings.push(Check::FirstByte.problem(why, advice));
            return live;
        }
    };
    let status = stream.response.status().as_u16();
    if status != 200 {
        let advice = match status {
            429 | 503 => {
                "if that lasts longer than Retry-After says: /health and the server's log have the reason"
            }
            _ => "check what answers /events",
        };
        let says = target.complaint(stream.response).await;
        live.findings
            .push(Check::Headers.problem(format!("/events answers {says}"), advice));
        return live;
    }
    live.findings.push(headers(stream.response.headers()));
    let until = stream.began.elapsed() + target.timeout;
    let confirmed = stream.expect("connection_confirmed", until).await;
    live.findings.push(first_byte(&stream, target.timeout));
    let user = match confirmed {
        Some(event) => {
            live.skew_ms = skew(&event.data, stream.began, event.at);
            live.findings.push(confirmation(&event.data));
            event.data["user_id"].clone()
        }
        None => {
            live.findings.push(Check::Confirmation.problem(
                format!("no connection_confirmed within {}", seconds(target.timeout)),
                "the stream is held back or is another server's; see the other lines",
            ));
            return live;
        }
    };
    if publish {
        live.findings
            .push(published(target, &mut stream, &user).await);
    }
    live
}

fn headers(headers: &HeaderMap) -> Finding {
    let check = Check::Headers;
    let value = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
    };
    let content_type = value(CONTENT_TYPE.as_str());
    let mut wrong = Vec::new();
    if content_type.split(';').next() != Some("text/event-stream") {
        wrong.push(format!(
            "content-type is {content_type:?}, not text/event-stream: EventSource refuses it"
        ));
    }
    let cache = value("cache-control");
    if !cache.contains("no-cache") && !cache.contains("no-store") {
        wrong.push(format!(
            "cache-control is {cache:?}: caches may keep the stream"
        ));
    }
    if headers.contains_key("content-length") {
        wrong.push("content-length ends the stream".to_owned());
    }
    if headers.contains_key("age") {
        wrong.push("age says that it comes from a cache".to_owned());
    }
    if !wrong.is_empty() {
        let advice =
            "let the server's headers through unchanged, and cache nothing below /events and /sse";
        return check.problem(wrong.join("; "), advice);
    }
    if !cache.contains("no-transform") {
        return check.warning(
            format!("{content_type}, but cache-control is {cache:?}"),
            "let the server's no-transform through: it keeps others from compressing the stream",
        );
    }
    check.ok(format!("{content_type}, {cache}"))
}

fn first_byte(stream: &Stream, timeout: Duration) -> Finding {
    let check = Check::FirstByte;
    let advice = "the server sends the first event at once: something on the way waits for more; turn response \
                  buffering off. See docs/proxies.md";
    match stream.data.first() {
        None => check.problem(format!("no byte within {}", seconds(timeout)), advice),
        Some(at) if *at > SLOW => check.problem(format!("after {}", seconds(*at)), advice),
        Some(at) => check.ok(format!("after {} ms", at.as_millis())),
    }
}

fn confirmation(event: &Value) -> Finding {
    let chats = event["connected_chats"].as_array().map_or(0, Vec::len);
    let interval = Duration::from_millis(event["ping_interval_ms"].as_u64().unwrap_or(0));
    let said = format!(
        "user {}, {chats} chats, pings every {}",
        event["user_id"],
        seconds(interval)
    );
    match chats {
        0 => Check::Confirmation.warning(
            said,
            "fine for a user who is in no chat; else run database.membership_query by hand with this user's id: \
             the stream has the user's own events and no chat's",
        ),
        _ => Check::Confirmation.ok(said),
    }
}

/// How far the server's clock is ahead, in milliseconds, taking the event to have been made between
/// the request and its arrival.
fn skew(event: &Value, began: Instant, arrived: Duration) -> Option<i64> {
    let stamp: Timestamp = serde_json::from_value(event["timestamp"].clone()).ok()?;
    let since = began.elapsed().saturating_sub(arrived / 2);
    let since = i64::try_from(since.as_millis()).ok()?;
    let millis = |stamp: Timestamp| i64::try_from(stamp.as_millis()).ok();
    Some(millis(stamp)? - (millis(Timestamp::now())? - since))
}

/// Publishes an event to the stream's own user and waits for it.
async fn published(target: &Target, stream: &mut Stream, user: &Value) -> Finding {
    let check = Check::Publish;
    let nonce = uuid::Uuid::new_v4().to_string();
    // Of low priority: it is for this stream, and nobody is to find it in the log.
    let event = json!({
        "type": TEST_EVENT,
        "target": {"user_id": user},
        "data": {"nonce": nonce},
        "metadata": {"priority": "low", "ttl": 60},
    });
    let began = Instant::now();
    let request = target
        .request(Method::POST, "/api/v1/messages/send")
        .json(&event);
    let answer = match target.ask(request).await {
        Ok(answer) => answer,
        Err(why) => return check.problem(why, "check that POST gets through to /api/v1"),
    };
    match answer.status {
        202 => {}
        403 => {
            return check.problem(
                answer.complaint(),
                "use a token whose claim notify.publish covers its own user channel",
            );
        }
        _ => {
            return check.problem(
                answer.complaint(),
                "check that POST gets through to /api/v1",
            );
        }
    }
    let until = stream.began.elapsed() + target.timeout;
    while let Some(event) = stream.expect(TEST_EVENT, until).await {
        let data = event.data.to_string();
        if data.contains(&nonce) {
            let took = (stream.began + event.at).saturating_duration_since(began);
            return check.ok(format!(
                "a test event was back after {} ms",
                took.as_millis()
            ));
        }
    }
    check.problem(
        format!(
            "taken, but not on the stream within {}",
            seconds(target.timeout)
        ),
        "if buffering is fine: check that all instances use the same NATS and the same subjects",
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    fn judged(pairs: &[(&'static str, &'static str)]) -> Finding {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = reqwest::header::HeaderName::from_static(name);
            (name, reqwest::header::HeaderValue::from_static(value))
        });
        headers(&pairs.collect())
    }

    #[test]
    fn heads_are_judged() {
        let kind = ("content-type", "text/event-stream; charset=utf-8");
        let cache = ("cache-control", "no-cache, no-transform");
        assert_eq!(judged(&[kind, cache]).status, Status::Ok);
        let weaker = ("cache-control", "no-cache");
        assert_eq!(judged(&[kind, weaker]).status, Status::Warning);
        for wrong in [
            &[("content-type", "text/html"), cache][..],
            &[kind],
            &[kind, ("cache-control", "max-age=60")],
            &[kind, cache, ("content-length", "10")],
            &[kind, cache, ("age", "3")],
        ] {
            assert_eq!(judged(wrong).status, Status::Problem, "{wrong:?}");
        }
    }
}
