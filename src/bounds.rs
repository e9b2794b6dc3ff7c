//! The limits of the server, each with its owner: made from the configuration, and changed by it while the server
//! runs. New limits are for newcomers; no stream, request or socket that is there ends because of them.

use crate::address::Proxies;
use crate::files;
use crate::http::{BadTokens, Gate, HeadLimits, PublishRate, ServerConfig};
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
    /// How many bad tokens an address may show.
    pub bad_tokens: BadTokens,
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
            bad_tokens: BadTokens::new(server),
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
        self.bad_tokens.set(server);
        // A configuration that names no network where it should is not loaded.
        self.proxies.set(server.proxies().unwrap_or_default());
        self.heads.set(server);
        self.sockets.set(sockets(server, self.files, self.threads));
        files::make_room(places(server, self.files));
    }
}

fn workers(server: &ServerConfig) -> usize {
    match server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

/// The most files that room is made for ahead of time, for 8 MiB: a limit of streams may be a number that is never
/// meant to be reached.
const MOST_PLACES: usize = 1 << 20;

/// How many files there may soon be: as many as there may be streams, which are what comes in thousands.
fn places(server: &ServerConfig, files: usize) -> usize {
    server
        .max_connections
        .saturating_add(RESERVED_FILES)
        .min(files)
        .min(MOST_PLACES)
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
    use crate::event::{Epoch, EventId, UserId};
    use crate::hub::admission::Admission;
    use crate::hub::{ExplainConfig, HistoryConfig, StreamConfig};
    use crate::memory::MemoryLimit;
    use crate::units::Size;

    #[test]
    fn another_configuration_reaches_every_owner() {
        let metrics = Metrics::default();
        let before = ServerConfig::default();
        let admission = Admission::new(before.quota(), metrics.memory.clone());
        let hub = Hub::new(
            StreamConfig::default(),
            (HistoryConfig::default(), ExplainConfig::default()),
            admission,
            metrics.hub.clone(),
            EventId::origin(Epoch(1)),
            true,
        );
        let bounds = Bounds::new(&before, &metrics, &hub, 1_256);
        let [user, other] = [1, 2].map(UserId::from);
        let permit = hub.admit(&user, None).unwrap();
        bounds.set(&ServerConfig {
            workers: 1,
            max_connections: 1,
            max_sockets: 100,
            trusted_proxies: vec!["10.0.0.0/8".to_owned()],
            memory_limit: MemoryLimit::At(Size(1 << 40)),
            ..before.clone()
        });
        assert_eq!(hub.admission().total(), 1);
        assert!(hub.admit(&other, None).is_err());
        assert_eq!(bounds.sockets.get(), 100 / bounds.threads);
        let client = b"192.0.2.7".as_slice();
        let origin = bounds
            .proxies
            .origin([10, 0, 0, 1].into(), |_| std::iter::once(client));
        assert_eq!(origin.address.to_string(), "192.0.2.7");
        assert!(metrics.memory.detail().contains("limit 1.0 TiB"));
        bounds.set(&before);
        assert!(hub.admit(&other, None).is_ok());
        drop(permit);
    }

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

    #[test]
    fn there_is_room_for_as_many_files_as_streams_as_far_as_the_process_may_open_them() {
        let server = |max_connections| ServerConfig {
            max_connections,
            ..ServerConfig::default()
        };
        assert_eq!(places(&server(10_000), 1 << 20), 10_256);
        assert_eq!(places(&server(10_000), 1_024), 1_024);
        assert_eq!(places(&server(usize::MAX), 1_024), 1_024);
        assert_eq!(places(&server(usize::MAX), usize::MAX), 1 << 20);
    }
}
