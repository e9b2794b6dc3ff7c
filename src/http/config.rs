//! The `server` section of the configuration.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::address::{ForwardedHeader, ProxySettings, Trusted};
use crate::hub::admission::Quota;
use crate::memory::MemoryLimit;
use crate::units::{Period, Size, one_or_more};

/// The `server` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// The address to listen on; loopback in development and any in production when empty.
    pub host: Option<IpAddr>,
    /// The port to listen on; 0 for a free one.
    pub port: u16,
    /// Threads that serve connections; 0 for one per processor.
    pub workers: usize,
    /// Connections that may wait to be accepted; the kernel has a limit of its own
    /// (`net.core.somaxconn`).
    pub backlog: u32,
    /// The most streams on this instance.
    pub max_connections: usize,
    /// The most streams of one user on this instance.
    pub max_connections_per_user: usize,
    /// The most streams from one address on this instance; 0 for no limit.
    pub max_connections_per_address: usize,
    /// New streams on this instance in each second; 0 for no limit.
    pub connection_rate: u32,
    /// New streams from one address in each second; 0 for no limit.
    pub connection_rate_per_address: u32,
    /// Tokens from one address that were never good for anything, in each second, that are answered with 401; 0 for no limit.
    pub bad_token_rate_per_address: u32,
    /// The networks of proxies that may say for whom they speak.
    #[serde(deserialize_with = "one_or_more")]
    pub trusted_proxies: Vec<String>,
    /// Where they say it.
    pub forwarded_header: ForwardedHeader,
    /// How many leading bits of IPv6 addresses tell clients apart.
    pub ipv6_prefix: u8,
    /// The most sockets; 0 for as many as there may be open files.
    pub max_sockets: usize,
    /// The longest address of a request.
    pub max_uri: Size,
    /// The largest headers of a request, together.
    pub max_headers: Size,
    /// Above how much memory no new streams are taken.
    pub memory_limit: MemoryLimit,
    /// Messages that one user may publish over HTTP, in each second, on this instance.
    pub publish_rate: u32,
    /// Messages that one user may publish at once.
    pub publish_burst: u32,
    /// How long the server says that it is not ready, and still serves, before it stops: the time
    /// that a load balancer takes to notice.
    pub unready_delay: Period,
    /// How long stopping may take before connections are cut.
    pub drain_timeout: Period,
    /// Whether HTTP/2 is understood without TLS, as proxies speak it to those behind them.
    pub h2c: bool,
    /// Whether the server's own pages are served.
    pub pages: bool,
    /// Where those pages sign users in: a path on this host, or an address; empty where tokens are pasted.
    pub sign_in: String,
    /// Origins of pages that may read from this server; `*` for any.
    #[serde(deserialize_with = "one_or_more")]
    pub allowed_origins: Vec<String>,
}

/// Where pages sign users in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SignIn {
    /// Nowhere, or on this host.
    Here,
    /// On a host of this origin.
    Elsewhere(String),
}

impl ServerConfig {
    /// How many streams are allowed.
    #[must_use]
    pub fn quota(&self) -> Quota {
        Quota {
            total: self.max_connections,
            per_user: self.max_connections_per_user,
            per_address: self.max_connections_per_address,
            rate: self.connection_rate,
            rate_per_address: self.connection_rate_per_address,
        }
    }

    /// Which proxies are believed.
    ///
    /// # Errors
    /// One of the networks is none; says which, and what would be right.
    pub fn proxies(&self) -> Result<ProxySettings, String> {
        let trusted = self.trusted_proxies.iter();
        Ok(ProxySettings {
            trusted: trusted
                .map(|text| Trusted::parse(text))
                .collect::<Result<_, _>>()?,
            header: self.forwarded_header,
            ipv6_prefix: self.ipv6_prefix,
        })
    }

    /// Whether `sign_in` is what it can be.
    ///
    /// # Errors
    /// Says what it can be.
    pub fn check_sign_in(&self) -> Result<(), &'static str> {
        self.sign_in().map(|_| ())
    }

    pub(super) fn sign_in(&self) -> Result<SignIn, &'static str> {
        let text = self.sign_in.as_str();
        if text.is_empty() || (text.starts_with('/') && !text.starts_with("//")) {
            return Ok(SignIn::Here);
        }
        match Url::parse(text) {
            Ok(url)
                if matches!(url.scheme(), "http" | "https")
                    && url.username().is_empty()
                    && url.password().is_none() =>
            {
                Ok(SignIn::Elsewhere(url.origin().ascii_serialization()))
            }
            _ => Err(
                "must be empty, a path on this host such as /api/signin, or an address \
                 https://host/path without credentials",
            ),
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            host: None,
            port: 6687,
            workers: 0,
            backlog: 16_384,
            max_connections: 10_000,
            max_connections_per_user: 20,
            max_connections_per_address: 0,
            connection_rate: 0,
            connection_rate_per_address: 0,
            bad_token_rate_per_address: 50,
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::default(),
            ipv6_prefix: 64,
            max_sockets: 0,
            max_uri: Size(16 * 1024),
            max_headers: Size(32 * 1024),
            memory_limit: MemoryLimit::Auto,
            publish_rate: 1_000,
            publish_burst: 2_000,
            unready_delay: Period::secs(0),
            drain_timeout: Period::secs(30),
            h2c: false,
            pages: true,
            sign_in: String::new(),
            allowed_origins: Vec::new(),
        }
    }
}
