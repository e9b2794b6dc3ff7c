//! The bus through NATS.
//!
//! One task reads all subscriptions and the client's own events and fills the feed. Core NATS
//! delivers at most once and forgets. With JetStream (`jetstream`), a stream that all instances
//! share keeps and numbers what was published, and what an instance has missed is read from there.
//! Without (`core`), each instance numbers what arrives, and says when it may have missed something.

mod config;
pub mod connect;
mod connection;
mod core;
pub mod jetstream;
mod service;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::client::PublishErrorKind;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures_util::stream::select_all;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing::warn;
use uuid::Uuid;

pub use config::{NatsConfig, TlsConfig};
pub use connect::ConnectError;
pub use service::{Card, Inquiry, RegisterError, Registration};

use self::core::CoreTask;
use super::log::LocalLog;
use super::receipts::Receipts;
use super::subject::{Pattern, SubjectError};
use super::{Bucket, Calls, Feed, PublishError, Source, Status, StatusCell, Submitted, Traces};
use crate::event::{EventId, TRACEPARENT, TRACESTATE, Timestamp, TraceContext};
use crate::trace::{Place, Tracer};
use connection::Connection;
use jetstream::{JetStreamConfig, LogError, LogMetrics, LogReader, LogTask};

/// How long publishing may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(4);

/// The header of messages that their publisher publishes again until the log has them: what the log does
/// not take of them is not delivered.
const LOG_ONLY: &str = "Notify-Log-Only";

/// Publishing and state of the NATS bus.
#[derive(Debug)]
pub struct NatsBus {
    client: Client,
    status: StatusCell,
    origin: EventId,
    log: Option<LogReader>,
    receipts: Receipts,
    calls: Calls,
    /// The name that instances are found by, where they are to be.
    service: Option<String>,
    /// How a shared log is kept, where there is one.
    jetstream: Option<JetStreamConfig>,
    traces: Traces,
}

/// What the NATS bus counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    dropped: Counter,
    disconnects: Counter,
    connected: Gauge,
    log: LogMetrics,
}

/// Reads NATS and fills the feed.
#[derive(Debug)]
pub struct NatsTask(Task);

#[derive(Debug)]
enum Task {
    Core(Box<CoreTask>),
    Log(Box<LogTask>),
}

/// Where the log is.
#[derive(Debug, Clone, Copy)]
pub enum Log<'a> {
    /// In each instance's memory.
    Memory,
    /// In a stream, of which this many recent positions are read at the start.
    JetStream(&'a JetStreamConfig, usize),
}

impl Metrics {
    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "bus_dropped",
            "Messages that the NATS client dropped because this instance read too slowly",
            self.dropped.clone(),
        );
        registry.register(
            "bus_disconnects",
            "Times that the connection to NATS was lost",
            self.disconnects.clone(),
        );
        registry.register(
            "bus_connected",
            "Whether there is a connection to NATS",
            self.connected.clone(),
        );
        self.log.register(registry);
    }
}

/// Connects, or begins to, and subscribes.
///
/// # Errors
/// Files that can't be read, URLs that are none; an unreachable server only where the
/// configuration makes that fatal.
pub async fn open(
    config: &NatsConfig,
    log: Log<'_>,
    tracer: Tracer,
    metrics: Metrics,
) -> Result<(NatsBus, NatsTask, Feed), ConnectError> {
    let patterns = distinct_patterns(config)?;
    let mut subjects: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    if let Log::JetStream(jetstream, _) = log {
        subjects.push(jetstream.republished());
    }
    let traced = tracer.is_on();
    let status = StatusCell::new(false, "not connected to NATS yet");
    let (connection, subscribers) = Connection::open(config, &subjects, metrics.clone()).await?;
    let (sender, feed) = Feed::new(Source::Nats);
    let local = LocalLog::begin(Timestamp::now());
    let mut bus = NatsBus {
        client: connection.client().clone(),
        status: status.clone(),
        origin: local.last(),
        log: None,
        receipts: Receipts::default(),
        calls: Calls::through(connection.client().clone(), &config.peers),
        service: (!config.service.is_empty()).then(|| config.service.clone()),
        jetstream: match log {
            Log::Memory => None,
            Log::JetStream(jetstream, _) => Some(jetstream.clone()),
        },
        traces: Traces {
            tracer,
            patterns: patterns.clone().into(),
        },
    };
    let receipts = bus.receipts.clone();
    let subscriptions = select_all(subscribers);
    let task = match log {
        Log::Memory => Task::Core(Box::new(CoreTask {
            connection,
            subscriptions,
            feed: sender,
            log: local,
            status,
            receipts,
            traced,
            subject: Arc::from(""),
        })),
        Log::JetStream(jetstream, past) => {
            let parts = jetstream::Parts {
                connection,
                subscriptions,
                feed: sender,
                status,
                metrics: metrics.log,
                receipts,
                origin: bus.origin,
                pending_limit: config.pending_limit,
                traced,
            };
            let (task, reader) = LogTask::new(parts, jetstream, &patterns, past);
            bus.log = Some(reader);
            Task::Log(Box::new(task))
        }
    };
    Ok((bus, NatsTask(task), feed))
}

/// Which trace a message belongs to, if its publisher says so. Some clients write the names of headers as HTTP
/// has them.
fn trace_of(headers: Option<&HeaderMap>) -> Option<TraceContext> {
    let headers = headers?;
    let get = |name: &'static str, other: &'static str| {
        let value = headers.get(name).or_else(|| headers.get(other));
        value.map(|value| value.as_str())
    };
    let parent = get(TRACEPARENT, "Traceparent")?;
    TraceContext::read(parent, get(TRACESTATE, "Tracestate"), false)
}

fn distinct_patterns(config: &NatsConfig) -> Result<Vec<Pattern>, SubjectError> {
    let patterns = config.patterns()?;
    for pattern in patterns.iter().filter(|p| p.ends_in_one_token_wildcard()) {
        warn!(
            subject = pattern.as_str(),
            instead = pattern.deeper(),
            "a subject that ends in .* matches one more token only, and backends publish deeper"
        );
    }
    let distinct = config.distinct_patterns()?;
    for pattern in patterns.iter().filter(|p| !distinct.contains(p)) {
        warn!(
            subject = pattern.as_str(),
            "a subject is not subscribed to because another one covers it"
        );
    }
    Ok(distinct)
}

impl NatsBus {
    /// What is published comes back to this instance, by the log where there is one: then it is known
    /// to be stored, and where. No acknowledgement of the stream is needed, and none would say more.
    pub(super) async fn submit(
        &self,
        subject: &str,
        payload: Bytes,
        message_id: Option<&str>,
        log_only: bool,
        place: Option<&Place>,
    ) -> Result<Submitted, PublishError> {
        let status = self.status();
        if !status.up {
            return Err(PublishError::Unavailable(status.detail));
        }
        let message_id = message_id.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
        if let Some(before) = self.receipts.find_again(&message_id, Instant::now()) {
            return Ok(Submitted::known(before));
        }
        let receipt = self.receipts.wait(&message_id);
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, message_id);
        if log_only {
            headers.insert(LOG_ONLY, "1");
        }
        if let Some(Place { context, .. }) = place {
            headers.insert(TRACEPARENT, context.parent());
            if let Some(state) = context.state() {
                headers.insert(TRACESTATE, state);
            }
        }
        let size = payload.len();
        let published = self
            .client
            .publish_with_headers(subject.to_owned(), headers, payload);
        match tokio::time::timeout(PUBLISH_TIMEOUT, published).await {
            Ok(Ok(())) => Ok(Submitted::expected(receipt)),
            Ok(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(PublishError::TooLarge(size))
            }
            Ok(Err(error)) => Err(PublishError::Nats(error.into())),
            Err(_) => Err(PublishError::Unavailable("NATS takes nothing".to_owned())),
        }
    }

    pub(super) fn about(&self, message_id: &str) -> Option<(EventId, u32)> {
        self.receipts.about(message_id)
    }

    pub(super) fn tracer(&self) -> &Tracer {
        &self.traces.tracer
    }

    pub(super) fn patterns(&self) -> &[Pattern] {
        &self.traces.patterns
    }

    pub(super) fn status(&self) -> Status {
        self.status.get()
    }

    pub(super) fn origin(&self) -> EventId {
        self.origin
    }

    /// As old as the log where no age is given.
    pub(super) fn bucket(&self, name: &str, age: Option<Duration>) -> Option<Bucket> {
        let context = async_nats::jetstream::new(self.client.clone());
        let config = self.jetstream.as_ref()?;
        let age = age.unwrap_or(config.max_age.0);
        Some(Bucket::in_jetstream(context, config, name, age))
    }

    pub(super) fn calls(&self) -> Calls {
        self.calls.clone()
    }

    pub(super) async fn register(&self, card: Card) -> Result<Option<Registration>, RegisterError> {
        match &self.service {
            Some(name) => Registration::new(&self.client, name, card).await.map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn log(&self) -> Option<&LogReader> {
        self.log.as_ref()
    }
}

impl NatsTask {
    /// Runs until the feed's reader is gone, or the client gives up, which it is told not to.
    ///
    /// # Errors
    /// There is no log, and waiting for one does not help.
    pub async fn run(self) -> Result<(), LogError> {
        match self.0 {
            Task::Core(task) => {
                task.run().await;
                Ok(())
            }
            Task::Log(task) => task.run().await,
        }
    }
}
