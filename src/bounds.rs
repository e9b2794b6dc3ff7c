//! The limits of the server, each with its owner: made from the configuration, and changed by it while the server
//! runs. New limits are for newcomers; no stream, request or socket that is there ends because of them.

use crate::address::Proxies;
use crate::http::{Gate, HeadLimits, PublishRate, ServerConfig};
use crate::hub::Hub;
use crate::limits::Limits;
use crate::listener::SocketLimit;
use crate::memory::Memory;
use crate::metrics::Metrics;

/// Files that connections leave to the database, NATS, and the rest of the process.
const RESERVED_FILES: usize = 256;

/// All owners. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bounds {
    hub: Hub,
    memory: Memory,
    /// Counts those that are met.
    pub limits: Limits,
    /// How much may be published over HTTP.
    pub rate: PublishRate,
    /// From where clients come.
    pub proxies: Proxies,
    heads: HeadLimits,
    /// How many sockets each thread may have.
    pub sockets: SocketLimit,
    /// Threads that serve.
    pub threads: usize,
    files: usize,
}

impl Bounds {
    /// The limits that are configured, for a process that may open so many files.
    #[must_use]
    pub fn new(server: &ServerConfig, metrics: &Metrics, hub: &Hub, files: usize) -> Self {
        let threads = workers(server);
        let bounds = Self {
            hub: hub.clone(),
            memory: metrics.memory.clone(),
            limits: metrics.limits.clone(),
            rate: PublishRate::new(server),
            proxies: Proxies::new(server.proxies().unwrap_or_default()),
            heads: HeadLimits::new(server),
            sockets: SocketLimit::new(sockets(server, files, threads)),
            threads,
            files,
        };
        bounds.set(server);
        bounds
    }

    /// What requests pass.
    #[must_use]
    pub fn gate(&self) -> Gate {
        Gate::new(
            self.limits.clone(),
            self.proxies.clone(),
            self.heads.clone(),
        )
    }

    /// The limits that are configured now.
    pub fn set(&self, server: &ServerConfig) {
        self.hub.set_quota(server.quota());
        self.memory.set_limit(server.memory_limit);
        self.rate.set(server);
        // A configuration that names no network where it should is not loaded.
        self.proxies.set(server.proxies().unwrap_or_default());
        self.heads.set(server);
        self.sockets.set(sockets(server, self.files, self.threads));
    }
}

fn workers(server: &ServerConfig) -> usize {
    match server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

/// How many sockets each thread may have. Without files, accepting would fail for everybody.
fn sockets(server: &ServerConfig, files: usize, threads: usize) -> usize {
    let possible = files.saturating_sub(RESERVED_FILES);
    let all = match server.max_sockets {
        0 => possible,
        most => most.min(possible),
    };
    (all / threads.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_shared_among_threads_and_bounded_by_files() {
        let server = |max_sockets| ServerConfig {
            max_sockets,
            ..ServerConfig::default()
        };
        assert_eq!(sockets(&server(0), 1_256, 2), 500);
        assert_eq!(sockets(&server(100), 1_256, 2), 50);
        assert_eq!(sockets(&server(5_000), 1_256, 2), 500);
        assert_eq!(sockets(&server(1), 10, 8), 1);
    }
}
