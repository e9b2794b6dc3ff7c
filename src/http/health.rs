//! `/live`, `/ready` and `/health`: how the server is doing, and what is wrong, in words.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::HttpResponse;
use actix_web::http::header::RETRY_AFTER;
use actix_web::web::Data;
use bytes::Bytes;
use parking_lot::RwLock;
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use crate::auth::Verifier;
use crate::bus::{Bus, Status};
use crate::database::Database;
use crate::event::Timestamp;
use crate::hub::Hub;
use crate::membership::Membership;

/// How long an answer of the database is good for: probes of many kinds must not become load.
const FRESH: Duration = Duration::from_secs(1);

/// How long the database may take to answer a probe.
const PATIENCE: Duration = Duration::from_secs(2);

/// The `status` when nothing is wrong, when something is that not everybody needs, and when something is that
/// everybody does.
type Words = [&'static str; 3];

const READY: Words = ["ready", "ready", "not_ready"];
const HEALTH: Words = ["ok", "degraded", "unhealthy"];

/// Says how the server is doing. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bus: Bus,
    database: Database,
    membership: Membership,
    hub: Hub,
    verifier: Verifier,
    instance: String,
    started: Instant,
    stopping: AtomicBool,
    last_ping: Mutex<Option<(Instant, Component)>>,
    configuration: RwLock<Configuration>,
}

/// Which configuration is in force.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Configuration {
    /// When it was read.
    pub read_at: Timestamp,
    /// Whether one was read since that can't be used.
    pub refused: bool,
    /// The keys that differ from what the server was started with, and count when it is started again.
    pub restart_needed: Vec<String>,
}

/// One part of the server.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct Component {
    up: bool,
    detail: String,
}

/// The parts of the server.
#[derive(Debug, Serialize, ToSchema)]
struct Components {
    bus: Component,
    database: Component,
    chats: Component,
    hub: Component,
    auth: Component,
    memory: Component,
}

/// How the server is doing.
#[derive(Serialize, ToSchema)]
struct Report {
    /// `ready` or `not_ready`; `ok`, `degraded` where what is wrong is nothing that everybody needs, or `unhealthy`.
    status: &'static str,
    #[serde(flatten)]
    about: Option<About>,
    /// What is wrong, in words; empty when nothing is.
    problems: Vec<String>,
    components: Components,
}

/// What `/health` says besides.
#[derive(Serialize, ToSchema)]
struct About {
    #[schema(required = false)]
    version: &'static str,
    #[schema(required = false)]
    instance: String,
    #[schema(required = false)]
    uptime_secs: u64,
    /// Streams on this instance.
    #[schema(required = false)]
    connections: usize,
    #[schema(required = false)]
    configuration: Configuration,
}

/// That the process answers.
#[derive(Serialize, ToSchema)]
struct Live {
    status: &'static str,
}

impl Health {
    /// Watches these, of the instance of this name.
    #[must_use]
    pub fn new(
        instance: String,
        bus: Bus,
        (database, membership): (Database, Membership),
        hub: Hub,
        verifier: Verifier,
    ) -> Self {
        Self(Arc::new(Inner {
            bus,
            database,
            membership,
            hub,
            verifier,
            instance,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            last_ping: Mutex::new(None),
            configuration: RwLock::new(Configuration {
                read_at: Timestamp::now(),
                refused: false,
                restart_needed: Vec::new(),
            }),
        }))
    }

    /// Another configuration was read.
    pub fn configured(&self, change: impl FnOnce(&mut Configuration)) {
        change(&mut self.0.configuration.write());
    }

    /// From now on nobody should be sent here any more.
    pub fn stopping(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    async fn components(&self) -> Components {
        let Status { up, detail } = self.0.bus.status();
        Components {
            bus: Component { up, detail },
            database: self.database().await,
            chats: self.chats(),
            hub: self.hub(),
            auth: self.auth(),
            memory: self.memory(),
        }
    }

    async fn database(&self) -> Component {
        let mut last = self.0.last_ping.lock().await;
        if let Some((at, component)) = &*last
            && at.elapsed() < FRESH
        {
            return component.clone();
        }
        let kind = self.0.database.kind();
        let component = match tokio::time::timeout(PATIENCE, self.0.database.ping()).await {
            Ok(Ok(())) => Component::up(format!("{kind} answers")),
            Ok(Err(error)) => Component::down(format!("{kind}: {}", error.fault())),
            Err(_) => Component::down(format!("{kind}: no answer in time")),
        };
        *last = Some((Instant::now(), component.clone()));
        component
    }

    fn chats(&self) -> Component {
        let membership = &self.0.membership;
        match membership.problem() {
            Some(problem) => Component::down(format!(
                "every stream of a user's chats is refused: {problem}"
            )),
            None => Component::up(membership.detail()),
        }
    }

    fn auth(&self) -> Component {
        let verifier = &self.0.verifier;
        match verifier.problem().or(verifier.revocations().problem()) {
            Some(problem) => Component::down(problem),
            None => Component::up("keys are loaded"),
        }
    }

    fn hub(&self) -> Component {
        let hub = &self.0.hub;
        if self.0.stopping.load(Ordering::Relaxed) {
            Component::down("the server is stopping")
        } else if hub.shard_count() == 0 {
            Component::down("no thread serves connections yet")
        } else {
            Component::up(format!("{} connections", hub.admission().total()))
        }
    }

    fn memory(&self) -> Component {
        let memory = self.0.hub.admission().memory();
        match memory.is_short() {
            false => Component::up(memory.detail()),
            true => Component::down(memory.detail()),
        }
    }

    /// What `/health` answers.
    pub async fn to_json(&self) -> Bytes {
        let report = self.report(HEALTH, true).await;
        // Plain text and numbers always serialize.
        serde_json::to_vec(&report).unwrap_or_default().into()
    }

    async fn report(&self, [good, degraded, bad]: Words, with_about: bool) -> Report {
        let components = self.components().await;
        let problems = components.problems();
        Report {
            status: match components.are_well() {
                true if problems.is_empty() => good,
                true => degraded,
                false => bad,
            },
            about: with_about.then(|| About {
                version: env!("CARGO_PKG_VERSION"),
                instance: self.0.instance.clone(),
                uptime_secs: self.0.started.elapsed().as_secs(),
                connections: self.0.hub.admission().total(),
                configuration: self.0.configuration.read().clone(),
            }),
            problems,
            components,
        }
    }

    async fn answer(&self, words: Words, with_about: bool) -> HttpResponse {
        let report = self.report(words, with_about).await;
        let mut response = if report.components.are_well() {
            HttpResponse::Ok()
        } else {
            let mut response = HttpResponse::ServiceUnavailable();
            response.insert_header((RETRY_AFTER, FRESH.as_secs()));
            response
        };
        response.json(report)
    }
}

impl Component {
    fn up(detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { up: true, detail }
    }

    fn down(detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { up: false, detail }
    }
}

impl Components {
    /// Whether those are that every client needs. Chats are not: there are servers that only stream sessions, or
    /// only publish an outbox.
    fn are_well(&self) -> bool {
        let needed = [
            &self.bus,
            &self.database,
            &self.hub,
            &self.auth,
            &self.memory,
        ];
        needed.into_iter().all(|component| component.up)
    }

    fn problems(&self) -> Vec<String> {
        let all = [
            ("bus", &self.bus),
            ("database", &self.database),
            ("chats", &self.chats),
            ("hub", &self.hub),
            ("auth", &self.auth),
            ("memory", &self.memory),
        ];
        all.into_iter()
            .filter(|(_, component)| !component.up)
            .map(|(name, component)| format!("{name}: {}", component.detail))
            .collect()
    }
}

/// Whether the process answers
#[utoipa::path(
    get,
    path = "/live",
    operation_id = "live",
    tag = "Operations",
    responses((status = 200, description = "It does.", body = Live, example = json!({"status": "live"}))),
)]
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Live { status: "live" })
}

/// Whether new clients should be sent here
#[utoipa::path(
    get,
    path = "/ready",
    operation_id = "ready",
    tag = "Operations",
    responses(
        (status = 200, description = "Bus, database, hub, keys and memory are well.", body = Report,
            example = json!({"status": "ready", "problems": [], "components": {"bus": {"up": true, "detail": "connected to NATS"}, "database": {"up": true, "detail": "PostgreSQL answers"}, "chats": {"up": true, "detail": "database.membership_query works"}, "hub": {"up": true, "detail": "2 connections"}, "auth": {"up": true, "detail": "keys are loaded"}, "memory": {"up": true, "detail": "212.4 MiB resident, limit 435.2 MiB"}}})),
        (status = 503, description = "Something is not; `problems` says what, in words.", body = Report,
            headers(("Retry-After" = u64, description = "After how many seconds to ask again")),
            example = json!({"status": "not_ready", "problems": ["database: PostgreSQL: no answer in time"], "components": {"bus": {"up": true, "detail": "connected to NATS"}, "database": {"up": false, "detail": "PostgreSQL: no answer in time"}, "chats": {"up": true, "detail": "database.membership_query could not be tried"}, "hub": {"up": true, "detail": "2 connections"}, "auth": {"up": true, "detail": "keys are loaded"}, "memory": {"up": true, "detail": "212.4 MiB resident, limit 435.2 MiB"}}})),
    ),
)]
pub(super) async fn ready(health: Data<Health>) -> HttpResponse {
    health.answer(READY, false).await
}

/// How the server is doing
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "health",
    tag = "Operations",
    responses(
        (status = 200, description = "Bus, database, hub, keys and memory are well. `degraded` where chats can't be looked up, which not everybody needs; `problems` says why.", body = Report,
            example = json!({"status": "ok", "version": "0.1.0", "instance": "web-1-9f3a2c", "uptime_secs": 3600, "connections": 2, "configuration": {"read_at": "2026-11-20T14:10:00.123Z", "refused": false, "restart_needed": []}, "problems": [], "components": {"bus": {"up": true, "detail": "connected to NATS"}, "database": {"up": true, "detail": "PostgreSQL answers"}, "chats": {"up": true, "detail": "database.membership_query works"}, "hub": {"up": true, "detail": "2 connections"}, "auth": {"up": true, "detail": "keys are loaded"}, "memory": {"up": true, "detail": "212.4 MiB resident, limit 435.2 MiB"}}})),
        (status = 503, description = "Something is not; `problems` says what, in words.", body = Report,
            headers(("Retry-After" = u64, description = "After how many seconds to ask again")),
            example = json!({"status": "unhealthy", "version": "0.1.0", "instance": "web-1-9f3a2c", "uptime_secs": 3600, "connections": 2, "configuration": {"read_at": "2026-11-20T14:10:00.123Z", "refused": false, "restart_needed": []}, "problems": ["database: PostgreSQL: no answer in time"], "components": {"bus": {"up": true, "detail": "connected to NATS"}, "database": {"up": false, "detail": "PostgreSQL: no answer in time"}, "chats": {"up": true, "detail": "database.membership_query could not be tried"}, "hub": {"up": true, "detail": "2 connections"}, "auth": {"up": true, "detail": "keys are loaded"}, "memory": {"up": true, "detail": "212.4 MiB resident, limit 435.2 MiB"}}})),
    ),
)]
pub(super) async fn health(health: Data<Health>) -> HttpResponse {
    health.answer(HEALTH, true).await
}
