//! Counts the events of one run: which of them each stream got, in which order, how late. Pure.
//!
//! Exact: one bit per stream and event, so that what is lost and what is doubled can't cancel out.

use crate::histogram::Histogram;

/// What has arrived of the events 0 to `events`, on each of the streams.
pub(crate) struct Tally {
    events: u64,
    receiving: u64,
    words: usize,
    /// For each stream, `words` words of bits: the events it has got.
    seen: Vec<u64>,
    /// For each stream, the event after the highest it has got.
    next: Vec<u64>,
    /// Deliveries still to come.
    pub(crate) missing: u64,
    pub(crate) delivered: u64,
    pub(crate) doubled: u64,
    /// Events that came after one published later.
    pub(crate) out_of_order: u64,
    /// Events that nobody published in this run.
    pub(crate) stray: u64,
    pub(crate) latency: Histogram,
    /// When the last delivery was read, in nanoseconds since the epoch.
    pub(crate) last_ns: u64,
}

impl Tally {
    /// Expects `events` events on each of `receiving` of the `streams`.
    pub(crate) fn new(streams: usize, receiving: usize, events: u64) -> Self {
        let words = events.div_ceil(64) as usize;
        Self {
            events,
            receiving: receiving as u64,
            words,
            seen: vec![0; words * streams],
            next: vec![0; streams],
            missing: receiving as u64 * events,
            delivered: 0,
            doubled: 0,
            out_of_order: 0,
            stray: 0,
            latency: Histogram::new(),
            last_ns: 0,
        }
    }

    /// There are only `events` events, fewer than were expected.
    pub(crate) fn shorten(&mut self, events: u64) {
        let dropped = self.events.saturating_sub(events);
        self.missing = self.missing.saturating_sub(dropped * self.receiving);
        self.events = events;
    }

    /// Event `seq`, published at `sent_ns`, was read from `stream` at `now_ns`.
    pub(crate) fn record(&mut self, stream: usize, seq: u64, sent_ns: u64, now_ns: u64) {
        if seq >= self.events {
            self.stray += 1;
            return;
        }
        let word = &mut self.seen[stream * self.words + (seq / 64) as usize];
        let bit = 1 << (seq % 64);
        if *word & bit != 0 {
            self.doubled += 1;
            return;
        }
        *word |= bit;
        let next = &mut self.next[stream];
        if seq < *next {
            self.out_of_order += 1;
        }
        *next = (*next).max(seq + 1);
        self.delivered += 1;
        // A stream that was refused, and yet delivers, must not hide what another lost.
        self.missing = self.missing.saturating_sub(1);
        self.latency.record(now_ns.saturating_sub(sent_ns));
        self.last_ns = now_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_doubled_and_late_events_are_told_apart() {
        let mut tally = Tally::new(2, 2, 100);
        for seq in 0..100 {
            tally.record(0, seq, 10, 20);
        }
        for seq in [0, 2, 1, 1, 99, 100] {
            tally.record(1, seq, 10, 20);
        }
        assert_eq!(tally.missing, 96);
        assert_eq!(
            (
                tally.delivered,
                tally.doubled,
                tally.out_of_order,
                tally.stray
            ),
            (104, 1, 1, 1)
        );
        assert_eq!(tally.latency.quantile(1.0), 10);
        tally.shorten(100);
        assert_eq!(tally.missing, 96);
        tally.shorten(99);
        assert_eq!(tally.missing, 94);
    }
}
