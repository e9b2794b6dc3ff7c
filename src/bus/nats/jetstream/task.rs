//! The task that follows the log: reads the subscriptions, runs the follower's errands, fills the
//! feed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::header::{NATS_SEQUENCE, NATS_STREAM, NATS_TIME_STAMP};
use async_nats::{HeaderMap, Subscriber};
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::SelectAll;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::config::JetStreamConfig;
use super::follower::{Errand, Follower, Published};
use super::metrics::LogMetrics;
use super::reader::{Batch, LogReader, Logged, message_id};
use super::stream::{Extent, LogError, LogStream};
use crate::bus::nats::connection::{Change, Connection};
use crate::bus::nats::{LOG_ONLY, trace_of};
use crate::bus::receipts::Receipts;
use crate::bus::subject::Pattern;
use crate::bus::{Arrival, StatusCell};
use crate::event::{EventId, Timestamp, TraceContext};

/// How often the follower looks at its clock.
const TICK: Duration = Duration::from_millis(50);

/// How long the log may be silent, as while a cluster elects a leader, before this instance is not
/// ready.
const SILENCE: Duration = Duration::from_secs(15);

/// How often the log is asked for before a refusal is believed: servers that start together.
const ATTEMPTS: u32 = 4;

/// What the task is made of.
pub(in crate::bus::nats) struct Parts {
    pub(in crate::bus::nats) connection: Connection,
    pub(in crate::bus::nats) subscriptions: SelectAll<Subscriber>,
    pub(in crate::bus::nats) feed: mpsc::Sender<Arrival>,
    pub(in crate::bus::nats) status: StatusCell,
    pub(in crate::bus::nats) metrics: LogMetrics,
    pub(in crate::bus::nats) receipts: Receipts,
    pub(in crate::bus::nats) origin: EventId,
    /// Messages of a subscription that the client library keeps before it drops them.
    pub(in crate::bus::nats) pending_limit: usize,
    /// Whether anything is traced.
    pub(in crate::bus::nats) traced: bool,
}

/// Follows the log and fills the feed, until the feed is dropped.
pub(in crate::bus::nats) struct LogTask {
    connection: Connection,
    subscriptions: SelectAll<Subscriber>,
    feed: mpsc::Sender<Arrival>,
    status: StatusCell,
    metrics: LogMetrics,
    stream: Arc<LogStream>,
    reader: LogReader,
    follower: Follower,
    /// What the subjects of numbered copies begin with.
    prefix: String,
    errand: Option<BoxFuture<'static, Found>>,
    link: Link,
    /// Since when the log has not answered, and what it said last.
    silent: Option<(Instant, String)>,
    refusals: u32,
    /// What the server does not let this client do, since the last connection.
    denied: Option<String>,
    traced: bool,
    /// The last subject seen: backends publish many messages on few subjects.
    subject: Arc<str>,
}

/// How the connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Link {
    Down(String),
    Unconfirmed,
    Up,
}

/// What an errand has found.
enum Found {
    Opened(Result<Extent, LogError>),
    Looked(Result<Extent, LogError>),
    Read(Result<Batch, LogError>),
}

impl std::fmt::Debug for LogTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogTask")
            .field("stream", &self.stream.name())
            .finish_non_exhaustive()
    }
}

impl LogTask {
    /// The task, and what reads the log's past. `past` is how many recent positions to begin with.
    pub(in crate::bus::nats) fn new(
        parts: Parts,
        config: &JetStreamConfig,
        subjects: &[Pattern],
        past: usize,
    ) -> (Self, LogReader) {
        let client = parts.connection.client().clone();
        let stream = Arc::new(LogStream::new(client, config, subjects));
        let reader = LogReader::new(Arc::clone(&stream), parts.pending_limit, parts.traced);
        let follower = Follower::new(
            parts.origin,
            past,
            config.park.0,
            parts.receipts,
            parts.metrics.clone(),
            Instant::now(),
        );
        let task = Self {
            connection: parts.connection,
            subscriptions: parts.subscriptions,
            feed: parts.feed,
            status: parts.status,
            metrics: parts.metrics,
            stream,
            reader: reader.clone(),
            follower,
            prefix: format!("{}.", config.republish),
            errand: None,
            link: Link::Down("not connected to NATS yet".to_owned()),
            silent: None,
            refusals: 0,
            denied: None,
            traced: parts.traced,
            subject: Arc::from(""),
        };
        (task, reader)
    }

    /// Runs until the feed's reader is gone, or the client gives up, which it is told not to.
    ///
    /// # Errors
    /// There is no log, and waiting for one does not help. Only before there was one: later, the
    /// streams that are open go on without.
    pub(in crate::bus::nats) async fn run(mut self) -> Result<(), LogError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(arrival) = self.follower.pop() {
                if self.feed.send(arrival).await.is_err() {
                    return Ok(());
                }
            }
            self.begin_errand();
            tokio::select! {
                biased;
                change = self.connection.next() => if !self.change(change)? {
                    self.status.set(false, "the NATS client has stopped");
                    return Ok(());
                },
                found = run_errand(&mut self.errand) => {
                    self.errand = None;
                    self.found(found)?;
                }
                _ = ticks.tick() => {
                    self.follower.tick(Instant::now());
                    self.report();
                }
                message = self.subscriptions.next() => match message {
                    Some(message) => self.message(message),
                    None => return Ok(()),
                },
                () = self.feed.closed() => return Ok(()),
            }
        }
    }

    fn message(&mut self, message: async_nats::Message) {
        let now = Instant::now();
        let subject = message.subject.as_str();
        if let Some(subject) = subject.strip_prefix(&self.prefix) {
            let subject = self.subject.intern(subject);
            match self.numbered(subject, message) {
                Some(logged) => self.follower.numbered(logged, now),
                None => warn!("a message below the republish subject is not from the log"),
            }
            return;
        }
        let headers = message.headers.as_ref();
        if headers.is_some_and(|headers| headers.get(LOG_ONLY).is_some()) {
            return;
        }
        let subject = self.subject.intern(subject);
        let published = Published {
            subject,
            message_id: message_id(&message),
            trace: self.trace(&message),
            payload: message.payload,
        };
        self.follower.published(published, now);
    }

    /// A message that the stream has published again. `None` for one that somebody else has put
    /// there.
    fn numbered(&self, subject: Arc<str>, message: async_nats::Message) -> Option<Logged> {
        let headers = message.headers.as_ref()?;
        let stream = headers.get(NATS_STREAM)?;
        if stream.as_str() != self.stream.name() {
            return None;
        }
        let position = headers.get(NATS_SEQUENCE)?.as_str().parse().ok()?;
        Some(Logged {
            id: EventId::new(self.follower.epoch(), position, &message.payload),
            subject,
            at: taken_at(headers),
            message_id: message_id(&message),
            trace: self.trace(&message),
            payload: message.payload,
        })
    }

    fn trace(&self, message: &async_nats::Message) -> Option<TraceContext> {
        self.traced
            .then(|| trace_of(message.headers.as_ref()))
            .flatten()
    }

    /// `false` once the client has stopped.
    fn change(&mut self, change: Change) -> Result<bool, LogError> {
        let now = Instant::now();
        match change {
            Change::Connected => {
                self.link = Link::Unconfirmed;
                self.denied = None;
                self.errand = None;
                self.follower.connected(now);
            }
            Change::Confirmed => {
                self.link = Link::Up;
                info!("connected to NATS");
            }
            Change::Disconnected => {
                self.link = Link::Down("disconnected from NATS, reconnecting".to_owned());
                self.errand = None;
            }
            Change::Unreachable(error) => {
                self.link = Link::Down(format!("not connected to NATS yet: {error}"));
            }
            // What is missing shows in the positions, but only once something follows.
            Change::Dropped => self.follower.dropped(now),
            Change::Denied(error) => return self.denied(error).map(|()| true),
            Change::Closed => return Ok(false),
        }
        self.report();
        Ok(true)
    }

    /// A denied request shows as one that is not answered, and only here says why.
    fn denied(&mut self, error: String) -> Result<(), LogError> {
        let of_log = error.contains("$JS.API") || error.contains(&self.prefix);
        if of_log && !self.follower.has_begun() {
            return Err(LogError::Refused(format!(
                "NATS reports: {error}. To follow the log, this server needs to subscribe to {}> \
                 and to publish on $JS.API.>; to do without, set log: memory",
                self.prefix
            )));
        }
        if error.contains("for Subscription") {
            self.denied = Some(format!("NATS reports: {error}"));
            self.report();
        }
        Ok(())
    }

    fn begin_errand(&mut self) {
        if self.errand.is_some() || matches!(self.link, Link::Down(_)) {
            return;
        }
        let Some(errand) = self.follower.errand(Instant::now()) else {
            return;
        };
        let (stream, reader) = (Arc::clone(&self.stream), self.reader.clone());
        self.errand = Some(
            async move {
                match errand {
                    Errand::Open => Found::Opened(stream.open().await),
                    Errand::Look => Found::Looked(stream.extent().await),
                    Errand::Read { epoch, from, to } => {
                        Found::Read(reader.read(epoch, from, to).await)
                    }
                }
            }
            .boxed(),
        );
    }

    fn found(&mut self, found: Found) -> Result<(), LogError> {
        let now = Instant::now();
        let result = match found {
            Found::Opened(result) => result.map(|extent| self.follower.opened(extent, now)),
            Found::Looked(result) => result.map(|extent| self.follower.looked(extent, now)),
            Found::Read(result) => result.map(|batch| self.follower.read(batch, now)),
        };
        match result {
            Ok(()) => {
                self.refusals = 0;
                if self.silent.take().is_some() {
                    info!(stream = self.stream.name(), "the log answers again");
                }
            }
            Err(error) => self.failed(error, now)?,
        }
        self.report();
        Ok(())
    }

    fn failed(&mut self, error: LogError, now: Instant) -> Result<(), LogError> {
        let missing = error == LogError::Missing;
        self.follower.failed(missing, now);
        if missing {
            warn!(
                stream = self.stream.name(),
                "the JetStream stream is gone and is made again"
            );
            return Ok(());
        }
        if !self.follower.has_begun() && matches!(error, LogError::Refused(_)) {
            self.refusals += 1;
            if self.refusals >= ATTEMPTS {
                return Err(error);
            }
        }
        let says = error.to_string();
        match &mut self.silent {
            Some((_, last)) => *last = says,
            None => {
                warn!(
                    stream = self.stream.name(),
                    error = says,
                    "the log does not answer"
                );
                self.silent = Some((now, says));
            }
        }
        Ok(())
    }

    /// Says how it goes, where others look.
    fn report(&mut self) {
        let following = self.follower.is_following();
        let silence = self.silent.as_ref();
        let silent_for = silence.map(|(since, _)| since.elapsed());
        let (up, detail) = match (&self.link, &self.denied, silence) {
            (Link::Down(why), ..) => (false, why.clone()),
            (_, Some(denied), _) => (false, denied.clone()),
            (Link::Unconfirmed, ..) => (
                false,
                "connected to NATS, waiting for its subscriptions".to_owned(),
            ),
            (Link::Up, None, Some((_, error))) => (
                following && silent_for.is_some_and(|silent| silent < SILENCE),
                format!("connected to NATS; the log does not answer: {error}"),
            ),
            (Link::Up, None, None) if !following => (
                false,
                "connected to NATS, reading the log's recent past".to_owned(),
            ),
            (Link::Up, None, None) => (
                true,
                format!(
                    "connected to NATS, following the JetStream stream {}",
                    self.stream.name()
                ),
            ),
        };
        // Of the log alone: what else keeps events from arriving is the bus's.
        let asked = !matches!(self.link, Link::Down(_));
        let healthy = asked && following && silence.is_none();
        self.metrics.up.set(i64::from(healthy));
        self.status.set_if_changed(up, &detail);
    }
}

/// Waits for the errand, or for ever where there is none.
async fn run_errand(errand: &mut Option<BoxFuture<'static, Found>>) -> Found {
    match errand {
        Some(errand) => errand.await,
        None => std::future::pending().await,
    }
}

/// When the log took a message. Servers before 2.11 do not say: then it was now.
fn taken_at(headers: &HeaderMap) -> Timestamp {
    headers
        .get(NATS_TIME_STAMP)
        .and_then(|value| OffsetDateTime::parse(value.as_str(), &Rfc3339).ok())
        .map_or_else(Timestamp::now, Timestamp::from)
}

/// Shares the text of a subject with the message before.
trait Intern {
    fn intern(&mut self, subject: &str) -> Arc<str>;
}

impl Intern for Arc<str> {
    fn intern(&mut self, subject: &str) -> Arc<str> {
        if **self != *subject {
            *self = Arc::from(subject);
        }
        Arc::clone(self)
    }
}
