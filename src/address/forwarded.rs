//! Reads `X-Forwarded-For` and `Forwarded` (RFC 7239) from the right, since what stands there was written by the
//! nearest proxy, and what stands left of it may have been written by anybody to mislead whoever reads on.

use std::net::{IpAddr, SocketAddr};

use super::ForwardedHeader;

/// The most proxies that are followed.
const MOST: usize = 32;

/// Whom each proxy speaks for, the nearest first; `None` where that is not an address.
pub(super) fn from_the_right<'a>(
    header: ForwardedHeader,
    values: impl DoubleEndedIterator<Item = &'a [u8]>,
) -> impl Iterator<Item = Option<IpAddr>> {
    let elements = values.rev().flat_map(move |value| Elements {
        rest: Some(value),
        quotes: header == ForwardedHeader::Forwarded,
    });
    let addresses = elements.map(move |element| match header {
        ForwardedHeader::XForwardedFor => node(element),
        ForwardedHeader::Forwarded => node(parameter(element)?),
    });
    addresses.take(MOST)
}

/// The elements of a list, from its end.
struct Elements<'a> {
    rest: Option<&'a [u8]>,
    /// Whether commas between quotation marks separate nothing.
    quotes: bool,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let mut quoted = false;
        let comma = rest.iter().rposition(|byte| {
            quoted ^= self.quotes && *byte == b'"';
            *byte == b',' && !quoted
        });
        let (before, element) = match comma {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        self.rest = before;
        Some(element.trim_ascii())
    }
}

/// What `for` of an element of `Forwarded` is. No address has a semicolon or an escaped letter.
fn parameter(element: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    for pair in element.split(|byte| *byte == b';') {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        if !name.trim_ascii().eq_ignore_ascii_case(b"for") {
            continue;
        }
        // Twice is malformed, and nobody knows which is meant.
        if found.replace(value.trim_ascii()).is_some() {
            return None;
        }
    }
    match found? {
        [b'"', inner @ .., b'"'] => Some(inner),
        // Only between quotation marks may colons stand.
        plain if plain.contains(&b':') => None,
        plain => Some(plain),
    }
}

/// An address, perhaps with a port: `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::1`, `[2001:db8::1]:4711`.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    if let Some(inner) = inner {
        return inner.parse().ok().filter(IpAddr::is_ipv6);
    }
    let with_port: SocketAddr = text.parse().ok()?;
    // The library also reads `[fe80::1%3]:1`, whose zone means something on another machine.
    (!text.contains('%')).then(|| with_port.ip())
}
