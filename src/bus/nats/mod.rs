//! The bus through core NATS.
//!
//! One task reads all subscriptions and the client's own events, numbers what arrives and fills
//! the feed. Core NATS delivers at most once: after a reconnect, or when the client library
//! dropped messages, the feed says so, so that no session believes that it has everything.

mod config;
pub mod connect;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, Event, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

pub use config::{NatsConfig, TlsConfig};
pub use connect::ConnectError;

use super::log::LocalLog;
use super::{Arrival, Feed, Loss, Message, PublishError, Status, StatusCell};
use crate::event::{EventId, Timestamp};

/// Changes of the connection that wait for the task. They come rarely; dropped messages, which
/// come in floods, are counted and not queued.
const CLIENT_EVENTS: usize = 1_024;

/// How long publishing may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a server may take to confirm the subscriptions before they are believed in.
const CONFIRMATION: Duration = Duration::from_secs(1);

/// Between two log lines, and two gaps to clients, about dropped messages.
const DROPPED_INTERVAL: Duration = Duration::from_secs(1);

/// Publishing and state of the NATS bus. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsBus {
    client: Client,
    status: StatusCell,
    origin: EventId,
}

/// What the NATS bus counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    dropped: Counter,
    disconnects: Counter,
}

/// Reads NATS and fills the feed, until the feed is dropped.
#[derive(Debug)]
pub struct NatsTask {
    subscriptions: SelectAll<Subscriber>,
    events: mpsc::Receiver<Event>,
    feed: mpsc::Sender<Arrival>,
    log: LocalLog,
    status: StatusCell,
    metrics: Metrics,
    /// A subject of this client's own: what is published there comes back once the server has
    /// taken the subscriptions that were sent before.
    probe: Subscriber,
    probe_subject: Subject,
    client: Client,
    confirm_by: Option<Instant>,
    was_connected: bool,
    /// Messages dropped since the last report.
    dropped: Arc<AtomicU64>,
    /// The last subject seen: backends publish many messages on few subjects.
    subject: Arc<str>,
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
    }
}

/// Connects, or begins to, and subscribes.
///
/// # Errors
/// Files that can't be read, URLs that are none; an unreachable server only where the
/// configuration makes that fatal.
pub async fn open(
    config: &NatsConfig,
    metrics: Metrics,
) -> Result<(NatsBus, NatsTask, Feed), ConnectError> {
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
    let status = StatusCell::new(false, "not connected to NATS yet");
    let (sender, events) = mpsc::channel(CLIENT_EVENTS);
    let dropped = Arc::new(AtomicU64::new(0));
    let counted = (Arc::clone(&dropped), metrics.dropped.clone());
    let client = connect::connect(config, move |event| {
        // The callback must not wait: the client library calls it for every dropped message.
        if let Event::SlowConsumer(_) = event {
            counted.0.fetch_add(1, Ordering::Relaxed);
            counted.1.inc();
        } else if sender.try_send(event).is_err() {
            warn!("a change of the NATS connection was missed");
        }
    })
    .await?;
    let mut subscribers = Vec::with_capacity(distinct.len());
    for pattern in &distinct {
        let subscriber = client.subscribe(pattern.as_str().to_owned()).await?;
        subscribers.push(subscriber);
    }
    let probe_subject = Subject::from(client.new_inbox());
    let probe = client.subscribe(probe_subject.clone()).await?;
    let (feed_sender, feed) = Feed::new();
    let log = LocalLog::begin(Timestamp::now());
    let bus = NatsBus {
        client: client.clone(),
        status: status.clone(),
        origin: log.last(),
    };
    let task = NatsTask {
        subscriptions: select_all(subscribers),
        events,
        feed: feed_sender,
        log,
        status,
        metrics,
        probe,
        probe_subject,
        client,
        confirm_by: None,
        was_connected: false,
        dropped,
        subject: Arc::from(""),
    };
    Ok((bus, task, feed))
}

impl NatsBus {
    pub(super) async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), PublishError> {
        let status = self.status();
        if !status.up {
            return Err(PublishError::Unavailable(status.detail));
        }
        let published = async {
            self.client
                .publish(subject.to_owned(), payload)
                .await
                .map_err(|error| PublishError::Nats(error.into()))?;
            self.client
                .flush()
                .await
                .map_err(|error| PublishError::Nats(error.into()))
        };
        tokio::time::timeout(PUBLISH_TIMEOUT, published)
            .await
            .unwrap_or_else(|_| Err(PublishError::Unavailable("NATS takes nothing".to_owned())))
    }

    pub(super) fn status(&self) -> Status {
        self.status.get()
    }

    pub(super) fn origin(&self) -> EventId {
        self.origin
    }
}

impl NatsTask {
    /// Runs until the feed's reader is gone, or the client gives up, which it is told not to.
    pub async fn run(mut self) {
        let mut reports = tokio::time::interval(DROPPED_INTERVAL);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let confirm = self.confirm_by;
            let alive = tokio::select! {
                // State first: what follows a reconnect must not be numbered as if nothing
                // had happened.
                biased;
                event = self.events.recv() => match event {
                    Some(event) => self.client_event(event).await,
                    None => false,
                },
                _ = reports.tick() => self.report_dropped().await,
                probed = self.probe.next() => probed.is_some() && self.confirmed(),
                () = due(confirm) => self.confirmed(),
                message = self.subscriptions.next() => match message {
                    Some(message) => self.message(message).await,
                    None => false,
                },
                () = self.feed.closed() => false,
            };
            if !alive {
                self.status.set(false, "the NATS client has stopped");
                return;
            }
        }
    }

    async fn message(&mut self, message: async_nats::Message) -> bool {
        if *self.subject != *message.subject.as_str() {
            self.subject = Arc::from(message.subject.as_str());
        }
        let id = self.log.append(&message.payload);
        let arrival = Arrival::Message(Message {
            subject: Arc::clone(&self.subject),
            payload: message.payload,
            id: Some(id),
            at: Timestamp::now(),
        });
        self.feed.send(arrival).await.is_ok()
    }

    async fn client_event(&mut self, event: Event) -> bool {
        match event {
            Event::Connected => return self.connected().await,
            Event::Disconnected => {
                self.confirm_by = None;
                self.metrics.disconnects.inc();
                self.status
                    .set(false, "disconnected from NATS, reconnecting");
                warn!("disconnected from NATS");
            }
            // Counted where they are reported.
            Event::SlowConsumer(_) => {}
            Event::LameDuckMode => warn!("the NATS server is about to stop"),
            Event::Draining => info!("the NATS connection is draining"),
            Event::Closed => return false,
            Event::ServerError(error) => {
                let detail = format!("NATS reports: {error}");
                if detail.contains(self.probe_subject.as_str()) {
                    return true;
                }
                // A denied subscription shows only here.
                if detail.contains("Permissions Violation for Subscription") {
                    self.confirm_by = None;
                    self.status.set(false, detail);
                }
                warn!(error = error.to_string(), "NATS reported an error");
            }
            Event::ClientError(error) => {
                if !self.was_connected {
                    let detail = format!("not connected to NATS yet: {error}");
                    self.status.set(false, detail);
                }
                warn!(error = error.to_string(), "NATS client error");
            }
        }
        true
    }

    async fn connected(&mut self) -> bool {
        self.status
            .set(false, "connected to NATS, waiting for its subscriptions");
        // A client that may not publish gets no answer, so that it is not waited for long.
        self.confirm_by = Some(Instant::now() + CONFIRMATION);
        let probe = self
            .client
            .publish(self.probe_subject.clone(), Bytes::new());
        if let Err(error) = probe.await {
            warn!(error = error.to_string(), "NATS client error");
        }
        self.was_connected = true;
        // What was published while there was no connection is unknown, at the first connection as
        // at any later one: positions before and after must not look like one row.
        self.gap(Loss::Disconnected).await
    }

    fn confirmed(&mut self) -> bool {
        if self.confirm_by.take().is_some() {
            self.status.set(true, "connected to NATS");
            info!("connected to NATS");
        }
        true
    }

    async fn report_dropped(&mut self) -> bool {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped == 0 {
            return true;
        }
        warn!(
            dropped,
            "the NATS client dropped messages because this instance reads too slowly"
        );
        self.gap(Loss::Dropped).await
    }

    async fn gap(&mut self, loss: Loss) -> bool {
        let (from, to) = self.log.renew(Timestamp::now());
        let gap = Arrival::Gap { loss, from, to };
        self.feed.send(gap).await.is_ok()
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
