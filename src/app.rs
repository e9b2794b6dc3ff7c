//! Builds the server from its configuration, spawns everything that lives long, watches over it
//! and stops it in order. Nothing else spawns a task that outlives its caller.

mod engine;
mod renewal;
mod serving;
mod sources;

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::auth::development::{Signer, SignerError};
use crate::auth::{KeyConfig, KeyError, Revocations, Verifier};
use crate::authorize::Authorizer;
use crate::bounds::Bounds;
use crate::bus::LogError;
use crate::bus::nats::ConnectError;
use crate::config::{Config, Reading};
use crate::database::{Database, DatabaseError};
use crate::discovery::Discovery;
use crate::files;
use crate::http::{
    ClientCertificates, Development, Exporter, Health, Origins, Pages, Parts, Reloads,
};
use crate::hub::Hub;
use crate::inbox::Inbox;
use crate::listener::Listener;
use crate::members::Members;
use crate::messages::Messages;
use crate::metrics::Metrics;
use crate::peers::{self, Peers};
use crate::presence::Presence;
use crate::reload::Origin;
use crate::revocation::Revoker;
use crate::source::notify::NameError;
use crate::tls::{Tls, TlsError};
use crate::trace::{Tracer, TracingError};
use engine::Engine;
use renewal::Renewal;

/// How long the rest of the stop may take after the connections are gone.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long the start waits for the log.
const FIRST_WORDS: Duration = Duration::from_secs(3);

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
    tracer: Tracer,
    tasks: Tasks,
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
    /// Traces can't be sent.
    #[error(transparent)]
    Tracing(#[from] TracingError),
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
    /// Builds everything and begins to listen, as the instance of this name, which no other has. Where the
    /// configuration came from, it is read again when that changes.
    ///
    /// # Errors
    /// Says what could not be built.
    pub async fn build(
        reading: Reading,
        origin: Origin,
        instance: String,
    ) -> Result<Self, BuildError> {
        let files = files::raise_limit();
        let mut config = reading.config.clone();
        let (signer, development_key) = development_signer(&mut config)?;
        let (verifier, keys) = Verifier::new(&config.auth)?;
        let metrics = Metrics::default();
        let mut tasks = Tasks::default();
        let engine = Engine::build(&config, &metrics, instance, &verifier, &mut tasks).await?;
        let bounds = Bounds::new(&config.server, &metrics, &engine.hub, files);
        tasks.spawn("the memory task", metrics.memory.clone().run());
        tasks.spawn("the key task", keys.run());
        let revoker = renewal::revoke(&verifier, &engine, &mut tasks);
        tasks
            .first_words(&engine.hub, verifier.revocations())
            .await?;
        let token = config.metrics.token().map_err(BuildError::MetricsToken)?;
        let (bus, database) = (engine.bus.clone(), engine.database.clone());
        let registry = metrics.registry(bus, database, verifier.revocations());
        let exporter = Exporter::new(registry, token);
        let metrics_listener = serving::listen_for_scrapers(&config, &exporter, &bounds)?;
        let health = Health::new(
            engine.peers.instance().to_owned(),
            engine.bus.clone(),
            (engine.database.clone(), engine.membership.clone()),
            engine.hub.clone(),
            verifier.clone(),
        );
        let own_database = config.owns_database().then(|| engine.database.clone());
        let development = signer.map(|signer| Development::new(signer, own_database));
        let (reloads, asked) = Reloads::new();
        let origins = Origins::new(&config.server.allowed_origins);
        let pages = Pages::new(&config.server, origins.clone());
        let guards = (verifier, health.clone(), revoker, reloads, pages);
        let exported = metrics_listener.is_none().then(|| exporter.clone());
        let engine_and_bounds = (&engine, &bounds);
        let parts = parts(
            &config,
            &metrics,
            engine_and_bounds,
            guards,
            exported,
            development,
        )?;
        let renewal = Renewal {
            parts: &parts,
            bounds: bounds.clone(),
            origins: origins.clone(),
            exporter,
            development_key,
            metrics: metrics.reload.clone(),
        };
        renewal.spawn(reading, origin, asked, &mut tasks);
        let tls = match Tls::load(&config.tls, metrics.tls.clone())? {
            Some((tls, task)) => {
                tasks.spawn("the certificate task", task.run());
                Some(tls)
            }
            None => None,
        };
        let listener = serving::listen(&config, parts, origins, &bounds, tls)?;
        let about = metadata(listener.address());
        let (bus, peers) = (&engine.bus, engine.peers.clone());
        let (discovery, task) = Discovery::new(bus, peers, health.clone(), about).await;
        tasks.spawn("the discovery task", task.run());
        Ok(Self {
            config,
            hub: engine.hub,
            peers: engine.peers,
            inbox: engine.inbox,
            presence: engine.presence,
            tracer: engine.tracer,
            discovery,
            health,
            database: engine.database,
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
            ended = self.tasks.0.join_next() => Some(match ended {
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
        self.tracer.close(LAST_WORDS).await;
        self.tasks.0.shutdown().await;
        if tokio::time::timeout(LAST_WORDS, self.database.close())
            .await
            .is_err()
        {
            warn!("the database did not close in time");
        }
        info!("stopped");
    }
}

/// What the handlers of the HTTP interface are given.
fn parts(
    config: &Config,
    metrics: &Metrics,
    (engine, bounds): (&Engine, &Bounds),
    (verifier, health, revoker, reloads, pages): (Verifier, Health, Revoker, Reloads, Pages),
    exporter: Option<Exporter>,
    development: Option<Development>,
) -> Result<Parts, BuildError> {
    Ok(Parts {
        health,
        verifier,
        members: Members::new(engine.membership.clone()),
        membership: engine.membership.clone(),
        messages: Messages::new(engine.database.clone()),
        notifications: engine.notifications.clone(),
        wake: engine.wake.clone(),
        archive: engine.archive.clone(),
        acknowledgements: engine.acknowledgements.clone(),
        inbox: engine.inbox.clone(),
        authorizer: Authorizer::new(
            config.authorize.clone(),
            engine.bus.calls(),
            metrics.authorize.clone(),
        ),
        peers: engine.peers.clone(),
        presence: engine.presence.clone(),
        bus: engine.bus.clone(),
        rules: engine.rules.clone(),
        patterns: config.nats.patterns().map_err(ConnectError::from)?,
        tracer: engine.tracer.clone(),
        hub: engine.hub.clone(),
        explainer: engine.explainer(),
        rejections: engine.rejections.clone(),
        proxies: bounds.proxies.clone(),
        bad_tokens: bounds.bad_tokens.clone(),
        rate: bounds.rate.clone(),
        revoker,
        reloads,
        pages,
        metrics: metrics.http.clone(),
        exporter,
        client_certificates: ClientCertificates {
            required: config.tls.client_required,
        },
        development,
    })
}

/// A name for an instance on this machine that no other instance has.
#[must_use]
pub fn instance_name() -> String {
    peers::instance_name(&machine_name())
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
fn development_signer(
    config: &mut Config,
) -> Result<(Option<Signer>, Option<KeyConfig>), SignerError> {
    if !config.is_development() {
        return Ok((None, None));
    }
    let (signer, key) = Signer::development(&config.data_dir)?;
    // Settled now: the key just added must not make it look like production.
    config.mode = crate::config::Mode::Development;
    config.auth.keys.push(key.clone());
    Ok((Some(signer), Some(key)))
}

/// What runs until the server stops.
#[derive(Debug, Default)]
struct Tasks(JoinSet<RunError>);

impl Tasks {
    /// Spawns a task that must not end before it is told to.
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            RunError::Ended(name)
        });
    }

    /// Waits a moment for the log, so that what makes it impossible stops the start, with the reason,
    /// before anyone can connect, and for what is revoked, so that nobody is turned away for not knowing it.
    /// A NATS server that is not there yet is waited for while the server runs.
    async fn first_words(&mut self, hub: &Hub, revocations: &Revocations) -> Result<(), RunError> {
        let known = async { tokio::join!(hub.settled(), revocations.known()) };
        tokio::select! {
            _ = known => Ok(()),
            Some(Ok(error)) = self.0.join_next() => Err(error),
            () = tokio::time::sleep(FIRST_WORDS) => Ok(()),
        }
    }
}
