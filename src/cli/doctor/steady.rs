//! Streams over time: whether events arrive as they are sent, also when a browser offers compression,
//! and whether a quiet stream stays open.

use std::time::{Duration, Instant};

use notify_server::event::Timestamp;
use reqwest::Method;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING};

use super::finding::{Check, Finding};
use super::pace::{self, Arrival, End, Quiet, seconds};
use super::stream::{Next, Received, Stream};
use super::target::{BROWSER_ENCODINGS, Target};

/// The server's test stream: so many events, one a second.
const TEST_STREAM: &str = "/api/sse/test";
const TEST_EVENTS: u64 = 5;
const TEST_TAKES: Duration = Duration::from_secs(4);

/// Reads the test stream, uncompressed.
pub(super) async fn buffering(target: &Target) -> Finding {
    let check = Check::Buffering;
    let mut stream = match Stream::open_patiently(target, target.stream(TEST_STREAM), TEST_TAKES)
        .await
    {
        Ok(stream) => stream,
        Err(why) => {
            let advice =
                "a stream's head is sent at once: turn response buffering off. See docs/proxies.md";
            return check.problem(format!("the test stream: {why}"), advice);
        }
    };
    let status = stream.response.status().as_u16();
    if status != 200 {
        let advice = format!("check that {TEST_STREAM} gets through to the server");
        return check.problem(format!("{TEST_STREAM} answers {status}"), advice);
    }
    let until = TEST_TAKES + target.timeout;
    let mut arrivals = Vec::new();
    while arrivals.len() < TEST_EVENTS as usize {
        let Some(event) = stream.expect("test", until).await else {
            break;
        };
        arrivals.extend(arrival(&event));
    }
    pace::buffering(TEST_EVENTS, &arrivals)
}

fn arrival(event: &Received) -> Option<Arrival> {
    let sent: Timestamp = serde_json::from_value(event.data["timestamp"].clone()).ok()?;
    Some(Arrival {
        arrived: event.at,
        sent: Duration::from_millis(sent.as_millis()),
    })
}

/// Reads the test stream as a browser asks for it.
pub(super) async fn compression(target: &Target) -> Finding {
    let check = Check::Compression;
    let request = target
        .request(Method::GET, TEST_STREAM)
        .header(ACCEPT, "text/event-stream")
        .header(ACCEPT_ENCODING, BROWSER_ENCODINGS);
    let mut stream = match Stream::open_patiently(target, request, TEST_TAKES).await {
        Ok(stream) => stream,
        Err(why) => {
            let advice =
                "a stream's head is sent at once: turn response buffering off. See docs/proxies.md";
            return check.problem(format!("with {BROWSER_ENCODINGS} offered: {why}"), advice);
        }
    };
    let encoding = stream.response.headers().get(CONTENT_ENCODING);
    let encoding = encoding.map_or("identity", |value| value.to_str().unwrap_or("?"));
    if encoding == "identity" {
        return check.ok(format!("none, with {BROWSER_ENCODINGS} offered"));
    }
    let encoding = encoding.to_owned();
    let until = TEST_TAKES + target.timeout;
    while stream.read(until).await == Some(true) {}
    let spread = match stream.data.as_slice() {
        [first, .., last] => last.saturating_sub(*first),
        _ => Duration::ZERO,
    };
    // The pieces of a stream that is passed on at once arrive as far apart as they are sent.
    let flows = spread + Duration::from_secs(2) > TEST_TAKES;
    let how = if flows {
        format!("arrives over {}, for now", seconds(spread))
    } else {
        format!("arrives within {}", seconds(spread))
    };
    check.problem(
        format!("the stream is compressed ({encoding}) and {how}"),
        "compressors collect before they send: exclude text/event-stream from compression \
         (nginx: not in gzip_types), or switch it off for /events and /sse. See docs/proxies.md",
    )
}

/// Holds a stream on which nothing happens.
pub(super) async fn idle(target: &Target, wanted: Duration) -> Finding {
    let check = Check::Idle;
    if wanted.is_zero() {
        return check.skipped("not asked for (--idle 0s)");
    }
    let began = Instant::now();
    let mut stream = match Stream::open(target, target.quiet_stream("/events")).await {
        Ok(stream) => stream,
        Err(why) => {
            return check.skipped(format!(
                "no stream to hold, after {}: {why}",
                seconds(began.elapsed())
            ));
        }
    };
    let status = stream.response.status().as_u16();
    if status != 200 {
        return check.skipped(format!("no stream to hold: /events answers {status}"));
    }
    let mut ping_interval = None;
    let mut end = End::Held;
    loop {
        match stream.next(wanted).await {
            Next::Event(event) if event.kind() == "connection_confirmed" => {
                let interval = event.data["ping_interval_ms"].as_u64();
                ping_interval = interval.map(Duration::from_millis);
            }
            Next::Event(event) if event.kind() == "closing" => {
                let reason = event.data["reason"].as_str().unwrap_or("?");
                end = End::Closing(event.at, reason.to_owned());
                break;
            }
            Next::Event(_) => {}
            Next::Silence => break,
            Next::Ended => {
                end = End::Cut(stream.began.elapsed());
                break;
            }
        }
    }
    pace::idle(&Quiet {
        wanted,
        ping_interval,
        data: stream.data,
        end,
    })
}
