//! What happens when somebody meets a limit: it is counted, and logged no more often than once in an interval, so
//! that whoever overruns a limit does not overrun the log as well. What the limits are, their owners know.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tracing::warn;

/// The least time between two log lines about the same limit.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Everything that can be met. [`Limit::name`] is its label; `docs/limits.md` has a row for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Streams of this instance.
    Connections,
    /// Streams of one user.
    UserConnections,
    /// Streams from one address.
    AddressConnections,
    /// New streams a second.
    ConnectionRate,
    /// New streams a second from one address.
    AddressConnectionRate,
    /// Memory, for new streams.
    Memory,
    /// Channels of one stream.
    Channels,
    /// Messages that one user publishes over HTTP.
    PublishRate,
    /// A payload that is published over HTTP.
    Payload,
    /// The body of a request.
    Body,
    /// The head of a request.
    Headers,
    /// The address of a request.
    Uri,
    /// A request's head that does not come.
    SlowHeaders,
    /// A request's body that does not come.
    SlowBody,
    /// Agreeing on keys, which takes too long.
    SlowHandshake,
    /// Requests of one connection that wait for their answer.
    Requests,
    /// What HTTP/2 clients do without asking for anything.
    Http2,
    /// Sockets, of which those that wait the longest make room.
    Sockets,
    /// Tokens that nobody has signed, from one address.
    BadTokens,
}

/// Counts and logs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Limits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    met: Family<Label, Counter>,
    /// For each limit, the counters being looked up once.
    counters: [Counter; Limit::ALL.len()],
    logged: Mutex<[Logged; Limit::ALL.len()]>,
}

/// When there was last something in the log, and how often the limit was met since.
#[derive(Debug, Clone, Copy, Default)]
struct Logged {
    at: Option<Instant>,
    since: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    limit: &'static str,
}

impl Limit {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 19] = [
        Self::Connections,
        Self::UserConnections,
        Self::AddressConnections,
        Self::ConnectionRate,
        Self::AddressConnectionRate,
        Self::Memory,
        Self::Channels,
        Self::PublishRate,
        Self::Payload,
        Self::Body,
        Self::Headers,
        Self::Uri,
        Self::SlowHeaders,
        Self::SlowBody,
        Self::SlowHandshake,
        Self::Requests,
        Self::Http2,
        Self::Sockets,
        Self::BadTokens,
    ];

    /// Its name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::UserConnections => "user_connections",
            Self::AddressConnections => "address_connections",
            Self::ConnectionRate => "connection_rate",
            Self::AddressConnectionRate => "address_connection_rate",
            Self::Memory => "memory",
            Self::Channels => "channels",
            Self::PublishRate => "publish_rate",
            Self::Payload => "payload",
            Self::Body => "body",
            Self::Headers => "headers",
            Self::Uri => "uri",
            Self::SlowHeaders => "slow_headers",
            Self::SlowBody => "slow_body",
            Self::SlowHandshake => "slow_handshake",
            Self::Requests => "requests",
            Self::Http2 => "http2",
            Self::Sockets => "sockets",
            Self::BadTokens => "bad_tokens",
        }
    }
}

impl Limits {
    /// Registers the counter under its public name.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "limited",
            "Times that somebody met a limit, by limit",
            self.0.met.clone(),
        );
    }

    /// Somebody, from this address if that is known, has met a limit.
    pub fn met(&self, limit: Limit, address: Option<IpAddr>) {
        self.0.counters[limit as usize].inc();
        let times = self.0.logged.lock()[limit as usize].admit(Instant::now());
        if let Some(times) = times {
            warn!(
                limit = limit.name(),
                times,
                address = address.map(|address| address.to_string()),
                "a limit was met"
            );
        }
    }
}

impl Default for Inner {
    fn default() -> Self {
        let met = Family::<Label, Counter>::default();
        // All are there from the start, so that a rate over the first of its kind is right.
        let counters = Limit::ALL.map(|limit| {
            let limit = limit.name();
            met.get_or_create_owned(&Label { limit })
        });
        Self {
            met,
            counters,
            logged: Mutex::default(),
        }
    }
}

impl Logged {
    /// Whether to log now, and if so, of how many times.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self
            .at
            .is_some_and(|at| now.saturating_duration_since(at) < LOG_INTERVAL)
        {
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_list() {
        for (number, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, number, "{limit:?}");
        }
    }

    #[test]
    fn every_limit_is_documented_and_nothing_else_is() {
        let page = include_str!("../docs/limits.md");
        let rows = page.lines().filter(|row| row.starts_with("| "));
        let last = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
        let mut documented: Vec<&str> = last
            .filter_map(|cell| cell.strip_prefix('`')?.strip_suffix('`'))
            .filter(|name| *name != "limit")
            .collect();
        documented.sort_unstable();
        documented.dedup();
        let mut names = Limit::ALL.map(Limit::name);
        names.sort_unstable();
        assert_eq!(documented, names);
    }

    #[test]
    fn a_flood_is_a_line_in_each_interval_which_says_how_often() {
        let mut logged = Logged::default();
        let begin = Instant::now();
        let mut lines = Vec::new();
        for tenth in 0..350 {
            let now = begin + Duration::from_millis(100 * tenth);
            lines.extend(logged.admit(now));
        }
        assert_eq!(lines, [1, 100, 100, 100]);
    }
}
