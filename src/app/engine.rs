//! What routes and delivers, without the ports: from the bus, the database and other instances to the
//! hub. Each part is made of those before it.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::sources::Sources;
use super::{BuildError, RunError, Tasks, machine_name};
use crate::acknowledgements::Acknowledgements;
use crate::archive::Archive;
use crate::auth::Verifier;
use crate::bus::nats::ConnectError;
use crate::bus::{Bucket, Bus, EmbeddedBus, Feed, LogKind, Traces, nats};
use crate::config::Config;
use crate::database::{self, Database, Part};
use crate::event::decode::Rules;
use crate::explain::{self, Explainer};
use crate::hub::Hub;
use crate::hub::admission::Admission;
use crate::inbox::{self, Inbox};
use crate::ingest::Ingest;
use crate::membership::Membership;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::presence::{Presence, Teller};
use crate::refresh::Refresh;
use crate::rejections::Rejections;
use crate::source::notify::Notifications;
use crate::source::outbox::Wake;
use crate::trace::{Tracer, TracingError};

/// What other instances say that waits for somebody, and was not attended to yet.
const TOLD: usize = 4_096;

/// The parts that the HTTP interface and the stop have to do with. Their tasks run.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) database: Database,
    pub(super) membership: Membership,
    pub(super) bus: Bus,
    pub(super) hub: Hub,
    pub(super) rules: Rules,
    pub(super) peers: Peers,
    pub(super) inbox: Inbox,
    pub(super) acknowledgements: Acknowledgements,
    pub(super) rejections: Rejections,
    pub(super) archive: Archive,
    pub(super) notifications: Notifications,
    pub(super) wake: Wake,
    pub(super) presence: Presence,
    pub(super) tracer: Tracer,
}

impl Engine {
    /// Builds it and spawns what it runs.
    pub(super) async fn build(
        config: &Config,
        metrics: &Metrics,
        instance: String,
        verifier: &Verifier,
        tasks: &mut Tasks,
    ) -> Result<Self, BuildError> {
        let database = open_database(config).await?;
        let (membership, lookups) = Membership::new(
            database.clone(),
            &config.database,
            metrics.membership.clone(),
        );
        tasks.spawn("the membership task", lookups.run());
        let tracer = open_tracer(config, metrics, &instance, tasks)?;
        let (bus, feed) = open_bus(config, &tracer, metrics, tasks).await?;
        let hub = new_hub(config, metrics, &bus);
        let rules = config.events.rules(&config.nats.channel_prefix);
        let (refresh, refresh_task) = Refresh::new(hub.clone(), membership.clone());
        tasks.spawn("the refresh task", refresh_task.run());
        let (told, tell) = mpsc::channel(TOLD);
        let (calls, guard) = (bus.calls(), verifier.clone());
        let (peers, peers_task) = Peers::new(instance, calls, hub.clone(), guard, told);
        tasks.spawn("the peers task", peers_task.run());
        let (inbox, inbox_task) = Inbox::new(
            inbox::Parts {
                bucket: bucket(config, &bus, "INBOX"),
                age: config.jetstream.max_age.0,
                one_log: bus.log().is_some() || !peers.is_shared(),
                rules: rules.clone(),
                hub: hub.clone(),
                peers: peers.clone(),
                metrics: metrics.inbox.clone(),
            },
            tell,
        );
        tasks.spawn("the inbox task", inbox_task.run());
        let (ingest, presence_lane) = Ingest::new(
            feed,
            hub.clone(),
            rules.clone(),
            membership.clone(),
            refresh.clone(),
            (inbox.clone(), traces(config, &tracer)?),
            metrics.ingest.clone(),
        );
        let rejections = ingest.rejections();
        tasks.spawn("the ingest", ingest.run());
        tasks.spawn("the presence lane", presence_lane.run());
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
        let notifications = sources.spawn(config, metrics, &hub, refresh, tasks)?;
        let presence = tell_presence(config, metrics, (&bus, &hub, &membership, &peers), tasks);
        Ok(Self {
            acknowledgements: Acknowledgements::new(bucket(config, &bus, "ACKS")),
            database,
            membership,
            bus,
            hub,
            rules,
            peers,
            inbox,
            rejections,
            archive,
            notifications,
            wake,
            presence,
            tracer,
        })
    }
}

impl Engine {
    /// What explains who got what.
    pub(super) fn explainer(&self) -> Explainer {
        Explainer::new(explain::Parts {
            peers: self.peers.clone(),
            hub: self.hub.clone(),
            bus: self.bus.clone(),
            archive: self.archive.clone(),
            inbox: self.inbox.clone(),
            membership: self.membership.clone(),
            rejections: self.rejections.clone(),
            rules: self.rules.clone(),
        })
    }
}

fn tell_presence(
    config: &Config,
    metrics: &Metrics,
    (bus, hub, membership, peers): (&Bus, &Hub, &Membership, &Peers),
    tasks: &mut Tasks,
) -> Presence {
    let (presence, task) = Presence::new(
        peers.instance(),
        &config.presence,
        bus.calls(),
        hub.attendance().clone(),
        metrics.presence.clone(),
    );
    tasks.spawn("the presence task", task.run());
    let teller = Teller::new(&presence, hub, membership, &config.presence);
    tasks.spawn("the presence teller", teller.run());
    presence
}

fn new_hub(config: &Config, metrics: &Metrics, bus: &Bus) -> Hub {
    let admission = Admission::new(config.server.quota(), metrics.memory.clone());
    Hub::new(
        config.stream.clone(),
        (config.history.clone(), config.explain.clone()),
        admission,
        metrics.hub.clone(),
        bus.origin(),
        bus.log().is_none(),
    )
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
    tracer: &Tracer,
    metrics: &Metrics,
    tasks: &mut Tasks,
) -> Result<(Bus, Feed), ConnectError> {
    if config.nats.url.is_empty() {
        let (bus, feed) = EmbeddedBus::new(traces(config, tracer)?);
        return Ok((Bus::Embedded(bus), feed));
    }
    let log = match config.log {
        LogKind::Memory => nats::Log::Memory,
        // The memory is filled from the log at the start, and more than fits would be in vain.
        LogKind::Auto | LogKind::Jetstream => {
            nats::Log::JetStream(&config.jetstream, config.history.max_events)
        }
    };
    let (bus, task, feed) =
        nats::open(&config.nats, log, tracer.clone(), metrics.bus.clone()).await?;
    tasks.0.spawn(async move {
        match task.run().await {
            Ok(()) => RunError::Ended("the NATS task"),
            Err(error) => RunError::Log(error),
        }
    });
    Ok((Bus::Nats(Arc::new(bus)), feed))
}

fn open_tracer(
    config: &Config,
    metrics: &Metrics,
    instance: &str,
    tasks: &mut Tasks,
) -> Result<Tracer, TracingError> {
    let (machine, metrics) = (machine_name(), metrics.trace.clone());
    let (tracer, task) = Tracer::new(&config.tracing, instance, machine.trim(), metrics)?;
    if let Some(task) = task {
        tasks.spawn("the task for traces", task.run());
    }
    Ok(tracer)
}

/// What messages are traced by.
fn traces(config: &Config, tracer: &Tracer) -> Result<Traces, ConnectError> {
    Ok(Traces {
        tracer: tracer.clone(),
        patterns: config.nats.patterns()?.into(),
    })
}

/// Records that are kept as long as the log, by all instances or by this one.
fn bucket(config: &Config, bus: &Bus, name: &str) -> Bucket {
    let shared = bus.bucket(name);
    shared.unwrap_or_else(|| Bucket::in_memory(config.jetstream.max_age.0))
}
