//! From where a client comes: the address that a request is counted and shown under, behind any number of
//! proxies. Pure but for the settings, which can be changed while requests are served.

mod forwarded;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

/// Which header proxies say in whom they speak for. One, not both: what proxies do not write, clients can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: addresses with commas in between.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// A network that proxies are trusted of: `10.0.0.0/8`, `2001:db8::/32`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trusted(IpNet);

/// Whom to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxySettings {
    /// The networks of the proxies that stand before the server.
    pub trusted: Vec<Trusted>,
    /// The header that they write.
    pub header: ForwardedHeader,
    /// How many leading bits of an IPv6 address tell clients apart, from 1 to 128.
    pub ipv6_prefix: u8,
}

/// Finds out from where requests come. Cheap to clone; all clones share the settings.
#[derive(Debug, Clone)]
pub struct Proxies(Arc<RwLock<Arc<ProxySettings>>>);

/// From where a client comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The client's address, as far as it can be known.
    pub address: IpAddr,
    /// What the client is counted under; `None` where the address is one of a trusted proxy, behind
    /// which there may be anybody.
    pub network: Option<Network>,
}

/// What is counted as one client: an IPv4 address, or an IPv6 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl ForwardedHeader {
    /// The header's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }
}

impl Trusted {
    /// Reads a network or an address.
    ///
    /// # Errors
    /// The text is neither; says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address.to_canonical())),
            Err(_) => text.parse::<IpNet>(),
        };
        network.map(Self).map_err(|_| {
            format!("{text:?} is no network such as 10.0.0.0/8 or 2001:db8::/32, and no address")
        })
    }

    fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            trusted: Vec::new(),
            header: ForwardedHeader::default(),
            ipv6_prefix: 64,
        }
    }
}

impl ProxySettings {
    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|trusted| trusted.contains(address))
    }

    /// From where a request comes whose connection comes from `peer`, with the values of the header in their order.
    ///
    /// Each proxy adds whom it speaks for at the right. From there it is gone to the left for as long as whoever
    /// speaks is trusted: the first address that is not is the client's, and what stands further left is
    /// the client's own invention. What is no address (`unknown`, `_hidden`, garbage) ends the way, too.
    fn origin<'a>(
        &self,
        peer: IpAddr,
        values: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> Origin {
        let mut address = peer.to_canonical();
        let mut hops = forwarded::from_the_right(self.header, values);
        while self.trusts(address) {
            match hops.next() {
                Some(Some(next)) => address = next.to_canonical(),
                Some(None) | None => break,
            }
        }
        let network = (!self.trusts(address)).then(|| Network::of(address, self.ipv6_prefix));
        Origin { address, network }
    }
}

impl Proxies {
    /// Believes these.
    #[must_use]
    pub fn new(settings: ProxySettings) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(settings))))
    }

    /// Believes others from now on. Streams that are open stay counted as they are.
    pub fn set(&self, settings: ProxySettings) {
        *self.0.write() = Arc::new(settings);
    }

    /// From where a request comes whose connection comes from `peer`; `values` gives the values of a header,
    /// and is only asked where the peer is trusted.
    pub fn origin<'a, V>(&self, peer: IpAddr, values: impl FnOnce(&'static str) -> V) -> Origin
    where
        V: DoubleEndedIterator<Item = &'a [u8]>,
    {
        let settings = Arc::clone(&self.0.read());
        if !settings.trusts(peer.to_canonical()) {
            let nothing = std::iter::empty::<&[u8]>();
            return settings.origin(peer, nothing);
        }
        settings.origin(peer, values(settings.header.name()))
    }
}

impl Network {
    /// What `address` is counted under.
    #[must_use]
    pub fn of(address: IpAddr, ipv6_prefix: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.into()),
            IpAddr::V6(address) => {
                let cut = 128_u32.saturating_sub(u32::from(ipv6_prefix));
                let mask = u128::MAX.checked_shl(cut).unwrap_or(0);
                Self(Ipv6Addr::from_bits(address.to_bits() & mask).into())
            }
        }
    }
}

impl fmt::Display for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;
