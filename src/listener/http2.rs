//! Follows what an HTTP/2 client sends, by the heads of its frames alone, to find those who keep the server busy
//! without asking for anything, and requests with heads of any length. The library that reads the frames bounds
//! its memory, but neither of these. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::pace::{Pace, Used};

/// What a connection begins with.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// The head of a frame: 3 bytes length, type, flags, 4 bytes stream.
const HEAD: usize = 9;

/// Frames that ask for nothing: pings, settings, priorities, empty data. So many a second, and so many at once.
const IDLE_FRAMES: (u32, u32) = (100, 1_000);

/// Requests that are taken back at once: so many a second, and so many at once.
const TAKEN_BACK: (u32, u32) = (100, 1_000);

/// A request that is taken back within this time was none.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The requests that are remembered in order to tell.
const REMEMBERED: usize = 4_096;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// `END_STREAM` of data, `ACK` of settings and pings.
const LAST: u8 = 1;

/// `PADDED` of data, of which the first byte then says how many at the end are none.
const PADDED: u8 = 8;

/// Why a connection should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// The head of a request is longer than allowed.
    Headers,
    /// More idle frames, or requests that are taken back, than anybody needs.
    Flood,
}

/// What a client has sent so far.
#[derive(Debug)]
pub(super) struct Meter {
    /// The most bytes of a request's head.
    most: usize,
    /// Bytes that are of no interest: the preface, then payloads of frames.
    skip: usize,
    /// A frame's head, and of padded data the byte behind it.
    head: [u8; HEAD + 1],
    /// How much of that is there.
    known: usize,
    /// Bytes of the request's head that is being sent.
    block: usize,
    idle: Used,
    taken_back: Used,
    /// The latest requests, in the order of their numbers.
    latest: VecDeque<(u32, Instant)>,
}

impl Meter {
    /// Nothing was sent yet; heads of requests may have `most` bytes as they are sent.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            skip: PREFACE,
            head: [0; HEAD + 1],
            known: 0,
            block: 0,
            idle: Used::default(),
            taken_back: Used::default(),
            latest: VecDeque::new(),
        }
    }

    /// These bytes have come, in pieces of any size.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Excess> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (self.needed() - self.known).min(bytes.len());
            self.head[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            self.known += taken;
            bytes = &bytes[taken..];
            if self.known == self.needed() {
                self.frame(now)?;
            }
        }
        Ok(())
    }

    /// How many bytes say what a frame is, as far as that is known.
    fn needed(&self) -> usize {
        let [a, b, c, kind, flags, ..] = self.head;
        let padded = kind == DATA && flags & PADDED == PADDED && [a, b, c] != [0; 3];
        HEAD + usize::from(self.known >= HEAD && padded)
    }

    fn frame(&mut self, now: Instant) -> Result<(), Excess> {
        let [a, b, c, kind, flags, s, t, u, v, padding] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        // The first bit means nothing.
        let stream = u32::from_be_bytes([s & 0x7f, t, u, v]);
        // Of padded data: what says how much padding there is, and the padding.
        let beside = std::mem::take(&mut self.known) - HEAD;
        let padding = beside * (1 + usize::from(padding));
        self.skip = length - beside;
        match kind {
            HEADERS => {
                self.block = length;
                self.remember(stream, now);
            }
            CONTINUATION => self.block = self.block.saturating_add(length),
            _ => {}
        }
        if matches!(kind, HEADERS | CONTINUATION) && self.block > self.most {
            return Err(Excess::Headers);
        }
        let last = flags & LAST == LAST;
        let idle = match kind {
            // To the library that is data of no bytes, of which it queues any number.
            DATA => length <= padding && !last,
            CONTINUATION => length == 0,
            SETTINGS | PING => !last,
            HEADERS | RST_STREAM | GOAWAY | WINDOW_UPDATE => false,
            // Priorities, and what nobody knows.
            _ => true,
        };
        if idle {
            take(IDLE_FRAMES, &mut self.idle, now)?;
        }
        if kind == RST_STREAM && self.is_latest(stream, now) {
            take(TAKEN_BACK, &mut self.taken_back, now)?;
        }
        Ok(())
    }

    fn remember(&mut self, stream: u32, now: Instant) {
        let past = |(_, at): &(u32, Instant)| now.saturating_duration_since(*at) > AT_ONCE;
        while self.latest.front().is_some_and(past) || self.latest.len() >= REMEMBERED {
            self.latest.pop_front();
        }
        // Trailers have the number of their request, and no number is used again.
        if self.latest.back().is_none_or(|(last, _)| *last < stream) {
            self.latest.push_back((stream, now));
        }
    }

    fn is_latest(&self, stream: u32, now: Instant) -> bool {
        let found = self
            .latest
            .binary_search_by_key(&stream, |(number, _)| *number);
        found.is_ok_and(|at| now.saturating_duration_since(self.latest[at].1) <= AT_ONCE)
    }
}

fn take((times, burst): (u32, u32), used: &mut Used, now: Instant) -> Result<(), Excess> {
    let Some(pace) = Pace::with_burst(times, burst) else {
        return Ok(());
    };
    pace.check(*used, now).map_err(|_| Excess::Flood)?;
    pace.take(used, now);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const MOST: usize = 1_000;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut frame = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(vec![b'x'; length]);
        frame
    }

    fn connected() -> Meter {
        let mut meter = Meter::new(MOST);
        let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        meter.read(begin, Instant::now()).unwrap();
        meter
    }

    /// How many of these frames are taken when all come at once.
    fn taken(frames: impl Iterator<Item = Vec<u8>>) -> usize {
        let (mut meter, now) = (connected(), Instant::now());
        let frames = frames.take(5_000);
        frames
            .take_while(|frame| meter.read(frame, now).is_ok())
            .count()
    }

    #[test]
    fn heads_of_requests_have_a_limit_however_they_are_cut() {
        let now = Instant::now();
        let mut meter = connected();
        assert_eq!(meter.read(&frame(HEADERS, 0, 1, MOST), now), Ok(()));
        let more = frame(CONTINUATION, 4, 1, 1);
        assert_eq!(meter.read(&more, now), Err(Excess::Headers));
        // The next one begins anew.
        let mut meter = connected();
        for stream in [1, 3, 5] {
            assert_eq!(meter.read(&frame(HEADERS, 4, stream, 900), now), Ok(()));
        }
        assert_eq!(
            meter.read(&frame(HEADERS, 4, 7, MOST + 1), now),
            Err(Excess::Headers)
        );
    }

    #[test]
    fn floods_of_frames_that_ask_for_nothing_end() {
        let burst = IDLE_FRAMES.1 as usize;
        for (kind, flags, length) in [
            (PING, 0, 8),
            (SETTINGS, 0, 0),
            (2, 0, 5),
            (DATA, 0, 0),
            (DATA, PADDED, 0),
            // The first byte of these is an x: 120.
            (DATA, PADDED, 1),
            (DATA, PADDED, 121),
        ] {
            let frames = std::iter::repeat_with(|| frame(kind, flags, 1, length));
            assert_eq!(taken(frames), burst, "type {kind}");
        }
        let empty = std::iter::once(frame(HEADERS, 0, 1, 1))
            .chain(std::iter::repeat_with(|| frame(CONTINUATION, 0, 1, 0)));
        assert_eq!(taken(empty), burst + 1);
    }

    #[test]
    fn what_an_honest_client_sends_has_no_limit() {
        for (kind, flags, length) in [
            (PING, LAST, 8),
            (SETTINGS, LAST, 0),
            (DATA, 0, 1),
            (DATA, LAST, 0),
            (DATA, PADDED, 122),
            (DATA, PADDED | LAST, 121),
            (WINDOW_UPDATE, 0, 4),
        ] {
            let frames = std::iter::repeat_with(|| frame(kind, flags, 1, length));
            assert_eq!(taken(frames), 5_000, "type {kind}");
        }
        let requests = (0..).map(|number| frame(HEADERS, 5, 2 * number + 1, 50));
        assert_eq!(taken(requests), 5_000);
    }

    #[test]
    fn requests_that_are_taken_back_at_once_are_a_flood_and_those_of_closed_tabs_are_not() {
        let rapid = (0..).flat_map(|number| {
            let stream = 2 * number + 1;
            [
                frame(HEADERS, 5, stream, 50),
                frame(RST_STREAM, 0, stream, 4),
            ]
        });
        assert_eq!(taken(rapid), 2 * TAKEN_BACK.1 as usize + 1);
        let (mut meter, begin) = (connected(), Instant::now());
        for number in 0..4_000 {
            let request = frame(HEADERS, 5, 2 * number + 1, 50);
            meter.read(&request, begin).unwrap();
        }
        let later = begin + AT_ONCE + Duration::from_millis(1);
        for number in 0..4_000 {
            let given_up = frame(RST_STREAM, 0, 2 * number + 1, 4);
            assert_eq!(meter.read(&given_up, later), Ok(()));
        }
    }

    #[test]
    fn a_steady_rate_below_the_limit_goes_on_for_ever() {
        let (mut meter, mut now) = (connected(), Instant::now());
        for _ in 0..20_000 {
            now += Duration::from_millis(10);
            assert_eq!(meter.read(&frame(PING, 0, 0, 8), now), Ok(()));
        }
    }

    proptest! {
        #[test]
        fn frames_are_found_in_whatever_pieces_they_come(
            frames in vec((0_u8..12, any::<u8>(), 0_u32..50, 0_usize..1_200), 0..40),
            pieces in vec(1_usize..300, 1..20),
        ) {
            let now = Instant::now();
            let (mut whole, mut cut) = (connected(), connected());
            let bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(kind, flags, stream, length)| frame(*kind, *flags, *stream, *length))
                .collect();
            let at_once = whole.read(&bytes, now);
            let mut piecewise = Ok(());
            let (mut rest, mut pieces) = (&bytes[..], pieces.iter().cycle());
            while piecewise.is_ok() && !rest.is_empty() {
                let (piece, further) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
                piecewise = cut.read(piece, now);
                rest = further;
            }
            prop_assert_eq!(at_once, piecewise);
            let block = |(kind, _, _, length): &(u8, u8, u32, usize)| {
                matches!(*kind, HEADERS) && *length > MOST
            };
            prop_assert!(!frames.iter().any(block) || at_once.is_err());
        }

        #[test]
        fn no_bytes_do_any_harm(bytes in vec(any::<u8>(), 0..2_000)) {
            let _ = Meter::new(MOST).read(&bytes, Instant::now());
        }
    }
}
