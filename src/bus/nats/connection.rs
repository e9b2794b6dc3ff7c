//! The state of the connection to NATS, as the client's own events tell it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, Event, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::{info, warn};

use super::{ConnectError, Metrics, NatsConfig, connect};

/// Changes of the connection that wait for the task. They come rarely; dropped messages, which
/// come in floods, are counted and not queued.
const CLIENT_EVENTS: usize = 1_024;

/// How long a server may take to confirm the subscriptions before they are believed in.
const CONFIRMATION: Duration = Duration::from_secs(1);

/// Between two log lines, and two gaps to clients, about dropped messages.
const DROPPED_INTERVAL: Duration = Duration::from_secs(1);

/// Subjects on which services are looked for, as an error of NATS names them.
const DIRECTORY: &str = "\"$SRV.";

/// Subjects on which answers are waited for.
const ANSWERS: &str = "for Publish to \"_INBOX.";

/// What happened to the connection.
#[derive(Debug)]
pub(super) enum Change {
    /// It is there, for the first time or again. What was published before is unknown.
    Connected,
    /// The server has taken the subscriptions.
    Confirmed,
    /// It is lost, and being tried again.
    Disconnected,
    /// The client library dropped messages because this instance reads too slowly.
    Dropped,
    /// The server does not let this client do something, in the server's words.
    Denied(String),
    /// Nothing has connected yet, and why.
    Unreachable(String),
    /// The client has stopped.
    Closed,
}

/// Watches the connection. All but [`Connection::next`] belongs to whoever opened it.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    events: mpsc::Receiver<Event>,
    /// A subject of this client's own: what is published there comes back once the server has
    /// taken the subscriptions that were sent before.
    probe: Subscriber,
    probe_subject: Subject,
    /// The configured servers, for the log.
    servers: String,
    /// Where the instances talk; who may not is alone, and no worse.
    peers: String,
    /// Where they are found, and whether it was said that this one is not, or may not answer.
    service: String,
    not_found: bool,
    not_answering: bool,
    confirm_by: Option<Instant>,
    was_connected: bool,
    /// Messages dropped since the last report.
    dropped: Arc<AtomicU64>,
    reports: Interval,
    metrics: Metrics,
}

impl Connection {
    /// Connects, or begins to, and subscribes to `subjects`.
    pub(super) async fn open(
        config: &NatsConfig,
        subjects: &[String],
        metrics: Metrics,
    ) -> Result<(Self, Vec<Subscriber>), ConnectError> {
        let (sender, events) = mpsc::channel(CLIENT_EVENTS);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = (Arc::clone(&dropped), metrics.dropped.clone());
        let client = connect::connect(config, move |event| {
            // The callback must not wait: the client library calls it for every dropped message.
            if let Event::SlowConsumer(_) = event {
                counted.0.fetch_add(1, Ordering::Relaxed);
                counted.1.inc();
            } else if let Err(TrySendError::Full(_)) = sender.try_send(event) {
                warn!("a change of the NATS connection was missed");
            }
        })
        .await?;
        let mut subscribers = Vec::with_capacity(subjects.len());
        for subject in subjects {
            subscribers.push(client.subscribe(subject.clone()).await?);
        }
        // Last, so that the server has the others when it answers this one.
        let probe_subject = Subject::from(client.new_inbox());
        let probe = client.subscribe(probe_subject.clone()).await?;
        let mut reports = tokio::time::interval(DROPPED_INTERVAL);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let connection = Self {
            client,
            events,
            probe,
            probe_subject,
            servers: connect::servers(config),
            peers: format!("{}.", config.peers),
            service: match config.service.as_str() {
                "" => DIRECTORY.to_owned(),
                name => format!("\"{name}."),
            },
            not_found: false,
            not_answering: false,
            confirm_by: None,
            was_connected: false,
            dropped,
            reports,
            metrics,
        };
        Ok((connection, subscribers))
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The next change. Nothing is lost when this is dropped before it is ready.
    pub(super) async fn next(&mut self) -> Change {
        loop {
            let confirm = self.confirm_by;
            let change = tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => self.client_event(event).await,
                    None => Some(Change::Closed),
                },
                _ = self.reports.tick() => self.dropped(),
                probed = self.probe.next() => match probed {
                    Some(_) => self.confirmed(),
                    None => Some(Change::Closed),
                },
                () = due(confirm) => self.confirmed(),
            };
            if let Some(change) = change {
                return change;
            }
        }
    }

    async fn client_event(&mut self, event: Event) -> Option<Change> {
        match event {
            Event::Connected => {
                self.was_connected = true;
                self.metrics.connected.set(1);
                // A client that may not publish gets no answer, so that it is not waited for long.
                self.confirm_by = Some(Instant::now() + CONFIRMATION);
                let probe = self
                    .client
                    .publish(self.probe_subject.clone(), Bytes::new());
                if let Err(error) = probe.await {
                    let (error, servers) = (error.to_string(), &self.servers);
                    warn!(error, servers, "NATS client error");
                }
                Some(Change::Connected)
            }
            Event::Disconnected => {
                self.confirm_by = None;
                self.metrics.disconnects.inc();
                self.metrics.connected.set(0);
                warn!(servers = self.servers, "disconnected from NATS");
                Some(Change::Disconnected)
            }
            // Counted where they are reported.
            Event::SlowConsumer(_) => None,
            Event::LameDuckMode => {
                warn!("the NATS server is about to stop");
                None
            }
            Event::Draining => {
                info!("the NATS connection is draining");
                None
            }
            Event::Closed => {
                self.metrics.connected.set(0);
                Some(Change::Closed)
            }
            Event::ServerError(error) => self.server_error(&error.to_string()),
            Event::ClientError(error) => {
                let servers = &self.servers;
                warn!(error = error.to_string(), servers, "NATS client error");
                (!self.was_connected).then(|| Change::Unreachable(error.to_string()))
            }
        }
    }

    fn server_error(&mut self, error: &str) -> Option<Change> {
        if error.contains(self.probe_subject.as_str()) {
            return None;
        }
        if error.contains("Permissions Violation") && self.is_of_answers(error) {
            return None;
        }
        warn!(error, "NATS reported an error");
        if error.contains(&self.peers) {
            return None;
        }
        // A denied subscription shows only here.
        if error.contains("Permissions Violation for Subscription") {
            self.confirm_by = None;
        }
        let denied = error.contains("Permissions Violation");
        denied.then(|| Change::Denied(error.to_owned()))
    }

    /// Whether only those who ask are concerned. Said once, since others can ask as often as they like, and
    /// NATS refuses every one of the many subscriptions by itself.
    fn is_of_answers(&mut self, error: &str) -> bool {
        if error.contains(DIRECTORY) || error.contains(&self.service) {
            if !std::mem::replace(&mut self.not_found, true) {
                warn!(
                    error,
                    "NATS does not let this instance be found as a service"
                );
            }
            return true;
        }
        let answer = error.contains(ANSWERS);
        if answer && !std::mem::replace(&mut self.not_answering, true) {
            warn!(error, "NATS does not let this instance answer");
        }
        answer
    }

    fn confirmed(&mut self) -> Option<Change> {
        self.confirm_by.take().map(|_| Change::Confirmed)
    }

    fn dropped(&self) -> Option<Change> {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped == 0 {
            return None;
        }
        warn!(
            dropped,
            "the NATS client dropped messages because this instance reads too slowly"
        );
        Some(Change::Dropped)
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
