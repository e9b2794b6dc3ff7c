//! Which trace something belongs to: the `traceparent` and `tracestate` of W3C Trace Context. Pure.

use std::fmt;
use std::sync::Arc;

/// The longest `tracestate` that is passed on, in bytes; a longer one is left out, as the standard allows.
const MAX_STATE: usize = 512;

/// The most members that a `tracestate` may have.
const MAX_MEMBERS: usize = 32;

/// The flag of traces that are recorded.
const SAMPLED: u8 = 0x01;

/// The flags that are passed on: sampled, and that the trace's id is random.
const KNOWN_FLAGS: u8 = 0x03;

/// The names that the two texts have, in HTTP and in NATS.
pub const TRACEPARENT: &str = "traceparent";
/// See [`TRACEPARENT`].
pub const TRACESTATE: &str = "tracestate";

/// A place in a trace: the span that whatever follows is a child of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace: TraceId,
    span: SpanId,
    flags: u8,
    state: Option<Arc<str>>,
}

/// A trace's id; never all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// A span's id; never all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

impl TraceContext {
    /// The first span of a new trace.
    #[must_use]
    pub fn root(trace: TraceId, span: SpanId, sampled: bool) -> Self {
        Self {
            trace,
            span,
            // Ids are drawn at random here.
            flags: if sampled {
                KNOWN_FLAGS
            } else {
                KNOWN_FLAGS - SAMPLED
            },
            state: None,
        }
    }

    /// Reads what a publisher says, in the form of version 00 or a later one. `None` for what is no
    /// `traceparent`: then there is no trace. A `tracestate` that is none is left out; that of a trace that
    /// is not recorded is not looked at unless it is to be passed on, `forwarded`.
    #[must_use]
    pub fn read(parent: &str, state: Option<&str>, forwarded: bool) -> Option<Self> {
        let bytes = parent.as_bytes();
        let dashes = [2, 35, 52];
        if bytes.len() < 55 || dashes.iter().any(|at| bytes[*at] != b'-') {
            return None;
        }
        let [version] = hex(&bytes[..2])?;
        let well_ended = match version {
            0 => bytes.len() == 55,
            0xff => false,
            // What a later version adds stands behind another dash.
            _ => bytes.len() == 55 || bytes[55] == b'-',
        };
        let trace = hex(&bytes[3..35])?;
        let span = hex(&bytes[36..52])?;
        let [flags] = hex(&bytes[53..55])?;
        if !well_ended || trace == [0; 16] || span == [0; 8] {
            return None;
        }
        let flags = flags & KNOWN_FLAGS;
        let wanted = forwarded || flags & SAMPLED != 0;
        Some(Self {
            trace: TraceId(trace),
            span: SpanId(span),
            flags,
            state: state
                .filter(|state| wanted && is_state(state))
                .map(Arc::from),
        })
    }

    /// The trace's id.
    #[must_use]
    pub fn trace(&self) -> TraceId {
        self.trace
    }

    /// The span's id.
    #[must_use]
    pub fn span(&self) -> SpanId {
        self.span
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The same trace, at another span.
    #[must_use]
    pub fn at(&self, span: SpanId) -> Self {
        Self {
            span,
            ..self.clone()
        }
    }

    /// What the header `traceparent` says.
    #[must_use]
    pub fn parent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace, self.span, self.flags)
    }

    /// What the header `tracestate` says, if there is one.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The flags as `traceparent` has them.
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.flags
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads lowercase hexadecimal digits, as the standard has them.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

/// Whether a text can be passed on: printable, and members that are `key=value`.
fn is_state(text: &str) -> bool {
    let printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    let members = text.split(',').map(str::trim);
    let mut members = members.filter(|member| !member.is_empty());
    printable
        && text.len() <= MAX_STATE
        && members.clone().count() <= MAX_MEMBERS
        && members.clone().next().is_some()
        && members.all(|member| {
            member
                .split_once('=')
                .is_some_and(|(key, _)| !key.is_empty())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_read_is_what_is_written() {
        let context = TraceContext::read(PARENT, Some("a=1, b=2"), false).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.parent(), PARENT);
        assert_eq!(context.state(), Some("a=1, b=2"));
        let child = context.at(SpanId([7; 8]));
        assert_eq!(child.trace(), context.trace());
        assert!(child.parent().ends_with("-0707070707070707-01"));
    }

    #[test]
    fn what_is_no_traceparent_is_no_trace() {
        let wrong = [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-000f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        ];
        for text in wrong {
            assert_eq!(TraceContext::read(text, None, true), None, "{text}");
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = PARENT.replacen("00", "01", 1);
        for text in [later.clone(), format!("{later}-more")] {
            let context = TraceContext::read(&text, None, true).unwrap();
            assert_eq!(context.parent(), PARENT);
        }
        assert_eq!(
            TraceContext::read(&format!("{later}more"), None, true),
            None
        );
    }

    #[test]
    fn a_tracestate_is_passed_on_only_where_it_is_one() {
        let many = vec!["k=v"; 33].join(",");
        let long = format!("k={}", "v".repeat(600));
        for wrong in ["", " , ", "novalue", "=v", "k=v\r\nx: y", &many, &long] {
            let context = TraceContext::read(PARENT, Some(wrong), true).unwrap();
            assert_eq!(context.state(), None, "{wrong:?}");
        }
        let unsampled = PARENT.replace("-01", "-00");
        let read = |forwarded| TraceContext::read(&unsampled, Some("k=v"), forwarded).unwrap();
        assert_eq!(read(false).state(), None);
        assert_eq!(read(true).state(), Some("k=v"));
    }

    proptest! {
        #[test]
        fn anything_can_be_read(parent in ".{0,70}", state in ".{0,40}") {
            if let Some(context) = TraceContext::read(&parent, Some(&state), true) {
                prop_assert!(TraceContext::read(&context.parent(), context.state(), true) == Some(context));
            }
        }
    }
}
