//! Builds the server from its configuration, spawns everything that lives long, watches over it
//! and stops it in order. Nothing else spawns a task that outlives its caller.

mod sources;

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix_web::App;
use actix_web::dev::Service as _;
use actix_web_lab::middleware::CatchPanic;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::acknowledgements::Acknowledgements;
use crate::archive::Archive;
use crate::auth::development::{Signer, SignerError};
use crate::auth::{JwksTask, KeyError, Verifier};
use crate::authorize::Authorizer;
use crate::bus::nats::ConnectError;
use crate::bus::{Bucket, Bus, EmbeddedBus, Feed, LogError, LogKind, nats};
use crate::config::Config;
use crate::database::{self, Database, DatabaseError, Part};
use crate::discovery::Discovery;
use crate::http::{
    self, ClientCertificates, Development, Exporter, Health, Pages, Parts, PublishRate,
};
use crate::hub::Hub;
use crate::hub::admission::{Admission, Quota};
use crate::inbox::{self, Inbox};
use crate::ingest::Ingest;
use crate::listener::{self, Listener};
use crate::members::Members;
use crate::membership::Membership;
use crate::messages::Messages;
use crate::metrics::Metrics;
use crate::peers::{Peers, instance_name};
use crate::presence::{Presence, Teller};
use crate::refresh::Refresh;
use crate::source::notify::NameError;
use crate::source::outbox::Wake;
use crate::tls::{Tls, TlsError};
use sources::Sources;

/// How long the rest of the stop may take after the connections are gone.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long the start waits for the log.
const FIRST_WORDS: Duration = Duration::from_secs(3);

/// Whoever was sent an event within this time is likely to be sent another one.
const LATELY: Duration = Duration::from_millis(200);

/// What other instances say that waits for somebody, and was not attended to yet.
const TOLD: usize = 4_096;

/// Connections at a port for metrics alone.
const SCRAPERS: u32 = 64;

/// The open files limit where it can't be found out.
const USUAL_FILES: usize = 1_024;

/// Files that connections leave to the database, NATS, and the rest of the process.
const RESERVED_FILES: usize = 256;

/// A server that listens and is ready to run.
#[derive(Debug)]
pub struct Application {
    config: Config,
    hub: Hub,
    peers: Peers,
    inbox: Inbox,
    presence: Presence,
    discovery: Discovery,
    health: Health,
    database: Database,
    tasks: JoinSet<RunError>,
    listener: Listener,
    /// Where the metrics have a port of their own.
    metrics: Option<Listener>,
}

/// Why the server could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A key can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The development key can't be used.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The server's certificate can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The database can't be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The folder for the development database can't be made.
    #[error("the data folder {0} can't be made")]
    DataDir(String, #[source] std::io::Error),
    /// A PostgreSQL channel can't be listened on.
    #[error(transparent)]
    Name(#[from] NameError),
    /// NATS can't be used.
    #[error(transparent)]
    Nats(#[from] ConnectError),
    /// Something that must run has ended before it began.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The token for the metrics can't be read.
    #[error("metrics.token_file can't be read")]
    MetricsToken(#[source] std::io::Error),
    /// The address can't be listened on.
    #[error("{0} can't be listened on")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// Why the server stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something that must run has ended.
    #[error("{0} has ended unexpectedly")]
    Ended(&'static str),
    /// There is no log, and waiting for one does not help.
    #[error("there is no log of events")]
    Log(#[from] LogError),
    /// Something that must run has panicked.
    #[error("a task has failed")]
    Task(#[from] tokio::task::JoinError),
}

impl Application {
    /// Builds everything and begins to listen.
    ///
    /// # Errors
    /// Says what could not be built.
    pub async fn build(mut config: Config) -> Result<Self, BuildError> {
        let files = raise_file_limit();
        let signer = development_signer(&mut config)?;
        let (verifier, jwks) = Verifier::new(&config.auth)?;
        let database = open_database(&config).await?;
        let metrics = Metrics::default();
        let (membership, lookups) = Membership::new(
            database.clone(),
            &config.database,
            metrics.membership.clone(),
        );
        let mut tasks = JoinSet::new();
        spawn(&mut tasks, "the membership task", lookups.run());
        let (bus, feed) = open_bus(&config, &metrics, &mut tasks).await?;
        let hub = new_hub(&config, &metrics, &bus);
        let rules = config.events.rules(&config.nats.channel_prefix);
        let (refresh, refresh_task) = Refresh::new(hub.clone(), membership.clone());
        spawn(&mut tasks, "the refresh task", refresh_task.run());
        let (told, tell) = mpsc::channel(TOLD);
        let instance = instance_name(&machine_name());
        let (peers, peers_task) = Peers::new(instance, bus.calls(), hub.clone(), told);
        spawn(&mut tasks, "the peers task", peers_task.run());
        let (inbox, inbox_task) = Inbox::new(
            inbox::Parts {
                bucket: bucket(&config, &bus, "INBOX"),
                age: config.jetstream.max_age.0,
                one_log: bus.log().is_some() || !peers.is_shared(),
                rules: rules.clone(),
                hub: hub.clone(),
                peers: peers.clone(),
                metrics: metrics.inbox.clone(),
            },
            tell,
        );
        spawn(&mut tasks, "the inbox task", inbox_task.run());
        let (ingest, presence_lane) = Ingest::new(
            feed,
            hub.clone(),
            rules.clone(),
            membership.clone(),
            refresh.clone(),
            inbox.clone(),
            metrics.ingest.clone(),
        );
        let rejections = ingest.rejections();
        spawn(&mut tasks, "the ingest", ingest.run());
        spawn(&mut tasks, "the presence lane", presence_lane.run());
        let archive = Archive::new(
            bus.log().cloned(),
            hub.clone(),
            rules.clone(),
            config.history.archive_bytes.bytes(),
            metrics.archive.clone(),
        );
        let wake = Wake::default();
        let sources = Sources {
            database: &database,
            bus: &bus,
            rules: &rules,
            wake: &wake,
        };
        let notifications = sources.spawn(&config, &metrics, &hub, refresh, &mut tasks)?;
        let (presence, presence_task) = Presence::new(
            peers.instance(),
            &config.presence,
            bus.calls(),
            hub.attendance().clone(),
            metrics.presence.clone(),
        );
        spawn(&mut tasks, "the presence task", presence_task.run());
        let teller = Teller::new(&presence, &hub, &membership, &config.presence);
        spawn(&mut tasks, "the presence teller", teller.run());
        if let Some(jwks) = jwks {
            spawn(&mut tasks, "the key set task", run_jwks(jwks));
        }
        let own_database = config.owns_database().then(|| database.clone());
        first_words(&hub, &mut tasks).await?;
        let token = config.metrics.token().map_err(BuildError::MetricsToken)?;
        let registry = metrics.registry(bus.clone(), database.clone());
        let exporter = Exporter::new(registry, token);
        let metrics_listener = listen_for_scrapers(&config, &exporter)?;
        let health = Health::new(
            peers.instance().to_owned(),
            bus.clone(),
            database.clone(),
            hub.clone(),
            verifier.clone(),
        );
        let parts = Parts {
            health: health.clone(),
            verifier,
            members: Members::new(membership.clone()),
            membership,
            messages: Messages::new(database.clone()),
            notifications,
            wake,
            archive,
            acknowledgements: Acknowledgements::new(bucket(&config, &bus, "ACKS")),
            inbox: inbox.clone(),
            authorizer: Authorizer::new(
                config.authorize.clone(),
                bus.calls(),
                metrics.authorize.clone(),
            ),
            peers: peers.clone(),
            presence: presence.clone(),
            bus: bus.clone(),
            rules,
            patterns: config.nats.patterns().map_err(ConnectError::from)?,
            hub: hub.clone(),
            rejections,
            rate: PublishRate::new(&config.server),
            pages: Pages::new(&config.server),
            metrics: metrics.http.clone(),
            exporter: metrics_listener.is_none().then_some(exporter),
            client_certificates: ClientCertificates {
                required: config.tls.client_required,
            },
            development: signer.map(|signer| Development::new(signer, own_database)),
        };
        let tls = match Tls::load(&config.tls, metrics.tls.clone())? {
            Some((tls, task)) => {
                spawn(&mut tasks, "the certificate task", task.run());
                Some(tls)
            }
            None => None,
        };
        let listener = listen(&config, parts, files, tls)?;
        let about = metadata(listener.address());
        let (discovery, discovery_task) =
            Discovery::new(&bus, peers.clone(), health.clone(), about).await;
        spawn(&mut tasks, "the discovery task", discovery_task.run());
        Ok(Self {
            config,
            hub,
            peers,
            inbox,
            presence,
            discovery,
            health,
            database,
            tasks,
            listener,
            metrics: metrics_listener,
        })
    }

    /// The address that it listens on, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The address that the metrics are at, where that is one of their own.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(Listener::address)
    }

    /// Runs until `stop` is ready, and then stops in order.
    ///
    /// # Errors
    /// Something ended that must not.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), RunError> {
        let unexpected = tokio::select! {
            () = stop => None,
            ended = self.tasks.join_next() => Some(match ended {
                Some(Ok(error)) => error,
                Some(Err(error)) => error.into(),
                None => RunError::Ended("every task"),
            }),
            () = self.hub.shard_ended() => Some(RunError::Ended("a shard of the hub")),
            () = self.listener.stopped() => Some(RunError::Ended("the HTTP server")),
        };
        match unexpected {
            Some(error) => {
                self.listener.cut();
                Err(error)
            }
            None => {
                self.stop().await;
                Ok(())
            }
        }
    }

    /// Unready, then no new connections, then `closing` to every stream, then the end.
    async fn stop(mut self) {
        let connections = self.hub.admission().total();
        let deadline = self.config.server.drain_timeout;
        info!(connections, "stopping");
        self.health.stopping();
        self.discovery.leave();
        tokio::time::sleep(self.config.server.unready_delay.0).await;
        self.hub.admission().stop();
        // The listener closes before the streams are told to go, so that none of them comes back to
        // here.
        self.listener.stop();
        // Before their streams end, so that nobody takes that for going offline.
        self.presence.leave(self.hub.spread()).await;
        self.hub.drain().await;
        let stopped = self.listener.stopped();
        if tokio::time::timeout(deadline.0, stopped).await.is_err() {
            warn!(
                connections = self.hub.admission().total(),
                "connections are cut because the drain timeout has passed"
            );
            self.listener.cut();
        }
        // Until here, so that the stop can be watched.
        if let Some(metrics) = &self.metrics {
            metrics.cut();
        }
        self.peers.leave().await;
        // What comes from now on is for the others.
        self.inbox.close().await;
        self.tasks.shutdown().await;
        if tokio::time::timeout(LAST_WORDS, self.database.close())
            .await
            .is_err()
        {
            warn!("the database did not close in time");
        }
        info!("stopped");
    }
}

/// Each connection takes a file, and the usual soft limit of 1,024 is for programs that use
/// `select`. Gives the limit.
fn raise_file_limit() -> usize {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => {
            info!(files, "open files limit");
            usize::try_from(files).unwrap_or(usize::MAX)
        }
        Err(error) => {
            warn!(
                error = error.to_string(),
                "the open files limit could not be raised"
            );
            USUAL_FILES
        }
    }
}

/// This machine's name; empty where it can't be found out.
fn machine_name() -> String {
    let file = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = file.or_else(|_| std::env::var("HOSTNAME"));
    name.unwrap_or_default()
}

/// Where this instance is, for the directory of NATS services.
fn metadata(address: SocketAddr) -> HashMap<String, String> {
    HashMap::from([
        ("host".to_owned(), machine_name().trim().to_owned()),
        ("address".to_owned(), address.to_string()),
    ])
}

/// In development mode, the development key is one of the keys that tokens may be signed with.
fn development_signer(config: &mut Config) -> Result<Option<Signer>, SignerError> {
    if !config.is_development() {
        return Ok(None);
    }
    let (signer, key) = Signer::development(&config.data_dir)?;
    // Settled now: the key just added must not make it look like production.
    config.mode = crate::config::Mode::Development;
    config.auth.keys.push(key);
    Ok(Some(signer))
}

async fn open_database(config: &Config) -> Result<Database, BuildError> {
    if let Some(url) = &config.database.url {
        let listened = config.source.is_used();
        return Ok(Database::open_beside(url, &config.database, listened)?);
    }
    let file = config.development_database();
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|error| BuildError::DataDir(config.data_dir.display().to_string(), error))?;
    let database = Database::open(&Database::file_url(&file), &config.database)?;
    database.migrate(Part::Everything).await?;
    database::seed_demo(&database).await?;
    Ok(database)
}

async fn open_bus(
    config: &Config,
    metrics: &Metrics,
    tasks: &mut JoinSet<RunError>,
) -> Result<(Bus, Feed), ConnectError> {
    if config.nats.url.is_empty() {
        let (bus, feed) = EmbeddedBus::new();
        return Ok((Bus::Embedded(bus), feed));
    }
    let log = match config.log {
        LogKind::Memory => nats::Log::Memory,
        // The memory is filled from the log at the start, and more than fits would be in vain.
        LogKind::Auto | LogKind::Jetstream => {
            nats::Log::JetStream(&config.jetstream, config.history.max_events)
        }
    };
    let (bus, task, feed) = nats::open(&config.nats, log, metrics.bus.clone()).await?;
    tasks.spawn(async move {
        match task.run().await {
            Ok(()) => RunError::Ended("the NATS task"),
            Err(error) => RunError::Log(error),
        }
    });
    Ok((Bus::Nats(Arc::new(bus)), feed))
}

/// Records that are kept as long as the log, by all instances or by this one.
fn bucket(config: &Config, bus: &Bus, name: &str) -> Bucket {
    let shared = bus.bucket(name);
    shared.unwrap_or_else(|| Bucket::in_memory(config.jetstream.max_age.0))
}

/// Waits a moment for the log, so that what makes it impossible stops the start, with the reason,
/// before anyone can connect. A NATS server that is not there yet is waited for while the server runs.
async fn first_words(hub: &Hub, tasks: &mut JoinSet<RunError>) -> Result<(), RunError> {
    tokio::select! {
        () = hub.settled() => Ok(()),
        Some(Ok(error)) = tasks.join_next() => Err(error),
        () = tokio::time::sleep(FIRST_WORDS) => Ok(()),
    }
}

fn new_hub(config: &Config, metrics: &Metrics, bus: &Bus) -> Hub {
    let admission = Admission::new(Quota {
        total: config.server.max_connections,
        per_user: config.server.max_connections_per_user,
    });
    Hub::new(
        config.stream.clone(),
        config.history.clone(),
        admission,
        metrics.hub.clone(),
        bus.origin(),
        bus.log().is_none(),
    )
}

async fn run_jwks(task: JwksTask) {
    if let Err(error) = task.run().await {
        warn!(error = error.to_string(), "key sets can't be fetched");
    }
}

/// Spawns a task that must not end before it is told to.
fn spawn(
    tasks: &mut JoinSet<RunError>,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        task.await;
        RunError::Ended(name)
    });
}

fn listen(
    config: &Config,
    parts: Parts,
    files: usize,
    tls: Option<Tls>,
) -> Result<Listener, BuildError> {
    let address = SocketAddr::new(config.host(), config.server.port);
    let origins = config.server.allowed_origins.clone();
    let threads = workers(config);
    let settings = listener::Settings {
        address,
        backlog: config.server.backlog,
        threads,
        // The hub counts streams and answers when there are too many. This is for the rest, such as
        // idle connections: without files, accepting would fail for everybody.
        connections: (files.saturating_sub(RESERVED_FILES) / threads).max(1),
        // A little later than the hub, which can tell a stalled reader from a broken connection and
        // says so.
        dead_after: config.stream.write_timeout.0.mul_f64(1.5),
        tls,
        h2c: config.server.h2c,
    };
    let requests = Arc::new(AtomicUsize::new(0));
    let load = Load {
        hub: parts.hub.clone(),
        requests: Arc::clone(&requests),
        events: 0,
        since: None,
    };
    let app = move || {
        // Runs once on each thread that serves connections: here its share of the hub begins.
        let (local, shard) = parts.hub.open_shard();
        actix_web::rt::spawn(shard.run());
        let parts = parts.clone();
        let requests = Arc::clone(&requests);
        App::new()
            .wrap_fn(move |request, service| {
                let open = Open::begin(&requests);
                let answer = service.call(request);
                async move {
                    let answer = answer.await;
                    drop(open);
                    answer
                }
            })
            .wrap(http::cors(&origins))
            .wrap(CatchPanic::default())
            .configure(move |service| http::configure(service, parts, local))
    };
    listener::listen(settings, load, app).map_err(|error| BuildError::Listen(address, error))
}

/// What newcomers would delay, and who is still there.
#[derive(Clone)]
struct Load {
    hub: Hub,
    /// Requests that are not answered yet.
    requests: Arc<AtomicUsize>,
    events: u64,
    since: Option<Instant>,
}

impl listener::Load for Load {
    fn delivering(&mut self) -> bool {
        let events = self.hub.routed();
        if events != self.events {
            self.events = events;
            self.since = Some(Instant::now());
        }
        self.since.is_some_and(|at| at.elapsed() < LATELY)
    }

    fn streaming(&self) -> bool {
        self.hub.admission().total() > 0 || self.requests.load(Ordering::Relaxed) > 0
    }
}

/// A port for the metrics alone, if one is configured: few connections, on a thread of their own.
fn listen_for_scrapers(
    config: &Config,
    exporter: &Exporter,
) -> Result<Option<Listener>, BuildError> {
    let Some(port) = config.metrics.port else {
        return Ok(None);
    };
    let address = SocketAddr::new(config.host(), port);
    let settings = listener::Settings {
        address,
        backlog: SCRAPERS,
        threads: 1,
        connections: SCRAPERS as usize,
        dead_after: config.stream.write_timeout.0,
        tls: None,
        h2c: false,
    };
    let exporter = exporter.clone();
    let app = move || {
        let exporter = exporter.clone();
        App::new()
            .wrap(CatchPanic::default())
            .configure(move |service| http::configure_metrics(service, exporter))
    };
    listener::listen(settings, Scrapes, app)
        .map(Some)
        .map_err(|error| BuildError::Listen(address, error))
}

/// Scrapes delay nobody, and are over at once.
#[derive(Clone)]
struct Scrapes;

impl listener::Load for Scrapes {
    fn delivering(&mut self) -> bool {
        false
    }

    fn streaming(&self) -> bool {
        false
    }
}

/// A request, until it is answered or given up.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn begin(requests: &Arc<AtomicUsize>) -> Self {
        requests.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(requests))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn workers(config: &Config) -> usize {
    match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}
