//! Long poll: what a session has for its client within a time, at once.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;

use crate::hub::SessionStream;

/// The most events of one answer; the next poll goes on behind them.
const EVENTS: usize = 1_000;

/// What one poll has found.
#[derive(Debug, Default)]
pub struct Polled {
    /// The events as JSON, in order.
    pub events: Vec<Bytes>,
    /// The id of each, where it has one of its own.
    pub ids: Vec<Option<String>>,
    /// Where the next poll goes on.
    pub last_id: Option<String>,
    /// Whether something can't be given.
    pub gap: bool,
}

/// Waits until there is at least one event, or the time is over, and gives what is there.
pub async fn collect(mut session: SessionStream, wait: Duration) -> Polled {
    let mut polled = Polled::default();
    let deadline = tokio::time::sleep(wait);
    tokio::pin!(deadline);
    loop {
        let room = EVENTS - polled.events.len();
        let frames = tokio::select! {
            biased;
            frames = poll_fn(|context| session.poll_frames(context, room)) => frames,
            () = &mut deadline => return polled,
        };
        let Some(frames) = frames else {
            return polled;
        };
        for frame in frames {
            if let Some(id) = frame.id() {
                polled.last_id = Some(id.to_owned());
            }
            // What the server says about a stream means nothing to who polls, but for a gap.
            polled.gap |= !frame.is_event() && frame.kind() == "gap";
            if frame.is_event() {
                polled.events.push(frame.json());
                polled.ids.push(frame.id().map(str::to_owned));
            }
        }
        if !polled.events.is_empty() || polled.gap {
            return polled;
        }
    }
}
