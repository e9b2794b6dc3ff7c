//! What the doctor finds: one line for each check, and what to do about it. Pure.

use serde::Serialize;

/// The checks, in the order in which they are shown. The diagnostic page uses the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Check {
    /// The name resolves, the port answers, the certificate is good.
    Reachable,
    /// The server is ready, and which version it is.
    Health,
    /// Which HTTP version a browser would speak.
    Protocol,
    /// What the token says, and whether the server takes it.
    Token,
    /// How far this clock and the server's are apart.
    Clock,
    /// The head of a stream as it arrives here.
    Headers,
    /// How long the first byte of a stream takes.
    FirstByte,
    /// The first event is `connection_confirmed`.
    Confirmation,
    /// Events arrive when they are sent.
    Buffering,
    /// Nothing compresses streams.
    Compression,
    /// A quiet stream stays open.
    Idle,
    /// Pages of another origin may read.
    Cors,
    /// A token in a cookie gets through.
    Cookies,
    /// A token in the address gets through.
    Query,
    /// The fallback works, also while nothing happens.
    Poll,
    /// A ticket opens a stream.
    Ticket,
    /// A published event comes back.
    Publish,
}

impl Check {
    /// All of them, in order.
    pub(super) const ALL: [Self; 17] = [
        Self::Reachable,
        Self::Health,
        Self::Protocol,
        Self::Token,
        Self::Clock,
        Self::Headers,
        Self::FirstByte,
        Self::Confirmation,
        Self::Buffering,
        Self::Compression,
        Self::Idle,
        Self::Cors,
        Self::Cookies,
        Self::Query,
        Self::Poll,
        Self::Ticket,
        Self::Publish,
    ];

    /// The name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reachable => "reachable",
            Self::Health => "health",
            Self::Protocol => "protocol",
            Self::Token => "token",
            Self::Clock => "clock",
            Self::Headers => "headers",
            Self::FirstByte => "first byte",
            Self::Confirmation => "confirmation",
            Self::Buffering => "buffering",
            Self::Compression => "compression",
            Self::Idle => "idle",
            Self::Cors => "cors",
            Self::Cookies => "cookies",
            Self::Query => "query",
            Self::Poll => "poll",
            Self::Ticket => "ticket",
            Self::Publish => "publish",
        }
    }

    pub(super) fn ok(self, detail: impl Into<String>) -> Finding {
        self.finding(Status::Ok, detail.into(), None)
    }

    pub(super) fn warning(self, detail: impl Into<String>, advice: impl Into<String>) -> Finding {
        self.finding(Status::Warning, detail.into(), Some(advice.into()))
    }

    pub(super) fn problem(self, detail: impl Into<String>, advice: impl Into<String>) -> Finding {
        self.finding(Status::Problem, detail.into(), Some(advice.into()))
    }

    pub(super) fn skipped(self, why: impl Into<String>) -> Finding {
        self.finding(Status::Skipped, why.into(), None)
    }

    fn finding(self, status: Status, detail: String, advice: Option<String>) -> Finding {
        Finding {
            check: self,
            status,
            detail,
            advice,
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    Ok,
    /// Works, but not as well as it could.
    Warning,
    /// Clients will lose or wait for events.
    Problem,
    /// Not asked for, or not possible after what other checks found.
    Skipped,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: Check,
    pub(super) status: Status,
    /// What was seen, in one line.
    pub(super) detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}
