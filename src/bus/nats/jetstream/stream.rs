//! The stream behind the log: made, or adopted after its settings have been compared.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use async_nats::jetstream::context::{Context, ContextBuilder, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, Republish, RetentionPolicy, StorageType,
};
use async_nats::{Client, jetstream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::config::{JetStreamConfig, Storage};
use crate::bus::subject::Pattern;
use crate::event::{Epoch, Timestamp};

/// How long the JetStream API may take to answer.
const API_TIMEOUT: Duration = Duration::from_secs(3);

/// How a stream that a notify-server has made is described. Such a stream follows the configuration;
/// any other is left as it is.
const OURS: &str = "Log of notify-server";

/// More consumers at a time are refused by the server; each range that is read takes one for a moment.
const MAX_CONSUMERS: i32 = 1_000;

/// Codes of the JetStream API.
mod code {
    pub(super) const NOT_FOUND: u64 = 10_059;
    pub(super) const NAME_EXISTS: u64 = 10_058;
    pub(super) const OVERLAP: u64 = 10_065;
    /// Errors that do not go away by themselves, although some of them have a 5xx status: not
    /// enabled (for the account), replicas without a cluster, storage and account limits.
    pub(super) const LASTING: [u64; 7] = [10_039, 10_076, 10_074, 10_047, 10_028, 10_002, 10_052];
}

/// What is known about the stream at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Which log this is: when the stream was made.
    pub epoch: Epoch,
    /// The first position that is still there; one more than `last` where none is.
    pub first: u64,
    /// The last position that was given.
    pub last: u64,
}

/// Why there is no log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Waiting does not help: somebody has to change something.
    #[error("{0}")]
    Refused(String),
    /// The stream is not there.
    #[error("the JetStream stream does not exist")]
    Missing,
    /// No answer, or one that says to try later.
    #[error("{0}")]
    Unavailable(String),
}

/// The JetStream API for one stream.
#[derive(Debug)]
pub(super) struct LogStream {
    context: Context,
    wanted: Config,
}

/// A setting that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Clash {
    setting: &'static str,
    is: String,
    must_be: String,
}

impl LogStream {
    pub(super) fn new(client: Client, config: &JetStreamConfig, subjects: &[Pattern]) -> Self {
        Self {
            context: ContextBuilder::new().timeout(API_TIMEOUT).build(client),
            wanted: wanted(config, subjects),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.wanted.name
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// The stream's extent now.
    pub(super) async fn extent(&self) -> Result<Extent, LogError> {
        self.info().await.map(|info| extent(&info))
    }

    /// Makes the stream, or adopts the one of that name.
    pub(super) async fn open(&self) -> Result<Extent, LogError> {
        let info = match self.info().await {
            Err(LogError::Missing) => self.create().await?,
            other => other?,
        };
        self.adopt(info).await
    }

    async fn info(&self) -> Result<Info, LogError> {
        let subject = format!("STREAM.INFO.{}", self.name());
        let info = self.request(&subject, &()).await?;
        if is_led(&info) {
            return Ok(info);
        }
        // The last node that is left tells what it has, and takes in nothing.
        Err(LogError::Unavailable(
            "the JetStream stream has no leader: too few nodes of the NATS cluster run".to_owned(),
        ))
    }

    async fn create(&self) -> Result<Info, LogError> {
        let subject = format!("STREAM.CREATE.{}", self.name());
        match self.api(&subject, &self.wanted).await? {
            Response::Ok(created) => {
                info!(stream = self.name(), "JetStream stream created");
                Ok(created)
            }
            // Another instance was quicker, with other settings.
            Response::Err { error } if error.error_code().0 == code::NAME_EXISTS => {
                self.info().await
            }
            Response::Err { error } if error.error_code().0 == code::OVERLAP => {
                Err(self.overlap().await)
            }
            Response::Err { error } => Err(self.failed(&error)),
        }
    }

    async fn adopt(&self, found: Info) -> Result<Extent, LogError> {
        let ours = found.config.description.as_deref() == Some(OURS);
        let mut clashes = unfit(&found.config);
        let mut differences = structure(&found.config, &self.wanted);
        if !ours {
            clashes.append(&mut differences);
        }
        if !clashes.is_empty() {
            return Err(LogError::Refused(format!(
                "the JetStream stream {} can't be the log: {}. Change the stream or the \
                 configuration, or name another one in jetstream.stream",
                self.name(),
                listed(&clashes)
            )));
        }
        differences.extend(limits(&found.config, &self.wanted));
        if differences.is_empty() {
            return Ok(extent(&found));
        }
        if !ours {
            warn!(
                stream = self.name(),
                differences = listed(&differences),
                "the JetStream stream was made by somebody else and keeps its own limits"
            );
            return Ok(extent(&found));
        }
        let subject = format!("STREAM.UPDATE.{}", self.name());
        let updated: Info = self.request(&subject, &self.wanted).await?;
        info!(
            stream = self.name(),
            changes = listed(&differences),
            "JetStream stream updated"
        );
        Ok(extent(&updated))
    }

    /// Says which stream has the subjects already.
    async fn overlap(&self) -> LogError {
        let mut others = BTreeSet::new();
        for subject in &self.wanted.subjects {
            let names: Result<Value, _> = self
                .request("STREAM.NAMES", &json!({ "subject": subject }))
                .await;
            let names = names.unwrap_or_default();
            let names = names["streams"].as_array().cloned().unwrap_or_default();
            others.extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        let others: Vec<String> = others.into_iter().collect();
        LogError::Refused(format!(
            "the JetStream stream {} can't be made because another stream has some of its subjects, \
             {}: {}. Name that one in jetstream.stream, or change nats.subjects",
            self.name(),
            self.wanted.subjects.join(" and "),
            others.join(", ")
        ))
    }

    async fn request<T: DeserializeOwned>(
        &self,
        subject: &str,
        payload: &(impl Serialize + ?Sized),
    ) -> Result<T, LogError> {
        match self.api(subject, payload).await? {
            Response::Ok(answer) => Ok(answer),
            Response::Err { error } => Err(self.failed(&error)),
        }
    }

    async fn api<T: DeserializeOwned>(
        &self,
        subject: &str,
        payload: &(impl Serialize + ?Sized),
    ) -> Result<Response<T>, LogError> {
        let answer = self.context.request(subject.to_owned(), payload).await;
        answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => LogError::Refused(
                "JetStream is not enabled on the NATS server: enable it, or set log: memory to keep \
                 recent events in this instance's memory only"
                    .to_owned(),
            ),
            RequestErrorKind::TimedOut => LogError::Unavailable(format!(
                "JetStream did not answer within {} s",
                API_TIMEOUT.as_secs()
            )),
            _ => LogError::Unavailable(format!("JetStream can't be asked: {error}")),
        })
    }

    fn failed(&self, error: &jetstream::Error) -> LogError {
        let number = error.error_code().0;
        if number == code::NOT_FOUND {
            return LogError::Missing;
        }
        let stream = self.name();
        let says = format!("JetStream says about the stream {stream}: {error}");
        // 10049 is what a create gets right after a delete.
        let temporary = error.code() >= 500 || number == 10_049;
        if temporary && !code::LASTING.contains(&number) {
            LogError::Unavailable(says)
        } else {
            LogError::Refused(format!(
                "{says}. To keep recent events in this instance's memory only, set log: memory"
            ))
        }
    }
}

fn wanted(config: &JetStreamConfig, subjects: &[Pattern]) -> Config {
    Config {
        name: config.stream.clone(),
        description: Some(OURS.to_owned()),
        subjects: subjects.iter().map(ToString::to_string).collect(),
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_age: config.max_age.0,
        max_bytes: i64::try_from(config.max_bytes.0).unwrap_or(i64::MAX),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: MAX_CONSUMERS,
        storage: match config.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        num_replicas: config.replicas,
        // A backend that sends a request on one of the subjects must get the answer of whoever
        // it asked, not the stream's.
        no_ack: true,
        allow_direct: true,
        republish: Some(Republish {
            source: ">".to_owned(),
            destination: config.republished(),
            headers_only: false,
        }),
        ..Config::default()
    }
}

/// Whether a node leads the stream, as it is where NATS is no cluster.
fn is_led(info: &Info) -> bool {
    let cluster = info.cluster.as_ref();
    cluster.is_none_or(|cluster| {
        cluster
            .leader
            .as_deref()
            .is_some_and(|name| !name.is_empty())
    })
}

fn extent(info: &Info) -> Extent {
    Extent {
        epoch: epoch(info),
        first: info.state.first_sequence.max(1),
        last: info.state.last_sequence,
    }
}

/// The stream's creation in milliseconds. Thirteen digits, where the epoch of a log in memory has
/// sixteen.
fn epoch(info: &Info) -> Epoch {
    Epoch(Timestamp::from(info.created).as_millis())
}

/// What no stream that is a log can have, and no update mends.
fn unfit(is: &Config) -> Vec<Clash> {
    let mut clashes = Clashes::default();
    let policy = |it: &dyn fmt::Debug| format!("{it:?}").to_lowercase();
    let retention = (&is.retention, &RetentionPolicy::Limits);
    clashes.compare("retention", retention, |it| policy(it));
    clashes.compare("discard", (&is.discard, &DiscardPolicy::Old), |it| {
        policy(it)
    });
    let sources = is.sources.as_ref().map_or(0, Vec::len);
    clashes.compare("sources", (&sources, &0), usize::to_string);
    let mirror = is.mirror.as_ref().map(|mirror| mirror.name.as_str());
    clashes.compare("mirror", (&mirror, &None), |it| {
        it.unwrap_or("none").to_owned()
    });
    clashes.compare("sealed", (&is.sealed, &false), bool::to_string);
    let limit = is.max_messages_per_subject.max(-1);
    let limit = if limit == 0 { -1 } else { limit };
    clashes.compare("max_msgs_per_subject", (&limit, &-1), i64::to_string);
    let transform = is.subject_transform.is_some();
    clashes.compare("subject_transform", (&transform, &false), bool::to_string);
    clashes.0
}

/// What decides which events the log has and whether they come back with their positions.
fn structure(is: &Config, wanted: &Config) -> Vec<Clash> {
    let mut clashes = Clashes::default();
    let sorted = |config: &Config| {
        let subjects: BTreeSet<String> = config.subjects.iter().cloned().collect();
        subjects.into_iter().collect::<Vec<_>>().join(" ")
    };
    clashes.compare("subjects", (&sorted(is), &sorted(wanted)), String::clone);
    let republish = |config: &Config| match &config.republish {
        Some(r) => {
            let source = if r.source.is_empty() { ">" } else { &r.source };
            let what = if r.headers_only {
                " (headers only)"
            } else {
                ""
            };
            format!("{source} to {}{what}", r.destination)
        }
        None => "none".to_owned(),
    };
    clashes.compare(
        "republish",
        (&republish(is), &republish(wanted)),
        String::clone,
    );
    let storage = |it: &StorageType| format!("{it:?}").to_lowercase();
    clashes.compare("storage", (&is.storage, &wanted.storage), storage);
    clashes.0
}

/// How much the log keeps, and how.
fn limits(is: &Config, wanted: &Config) -> Vec<Clash> {
    let mut clashes = Clashes::default();
    let age = |it: &Duration| humantime::format_duration(*it).to_string();
    clashes.compare("max_age", (&is.max_age, &wanted.max_age), age);
    clashes.compare(
        "max_bytes",
        (&is.max_bytes, &wanted.max_bytes),
        i64::to_string,
    );
    let replicas = (&is.num_replicas, &wanted.num_replicas);
    clashes.compare("replicas", replicas, usize::to_string);
    clashes.compare("no_ack", (&is.no_ack, &wanted.no_ack), bool::to_string);
    clashes.0
}

#[derive(Default)]
struct Clashes(Vec<Clash>);

impl Clashes {
    fn compare<T: PartialEq>(
        &mut self,
        setting: &'static str,
        (is, must_be): (&T, &T),
        text: impl Fn(&T) -> String,
    ) {
        if is != must_be {
            self.0.push(Clash {
                setting,
                is: text(is),
                must_be: text(must_be),
            });
        }
    }
}

fn listed(clashes: &[Clash]) -> String {
    let each: Vec<String> = clashes.iter().map(ToString::to_string).collect();
    each.join(", ")
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            setting,
            is,
            must_be,
        } = self;
        write!(f, "{setting} is {is} and the configuration says {must_be}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let subjects = [
            Pattern::parse("a.>").unwrap(),
            Pattern::parse("b.>").unwrap(),
        ];
        wanted(&JetStreamConfig::default(), &subjects)
    }

    #[test]
    fn a_stream_as_it_would_be_made_has_no_clash() {
        let config = config();
        assert_eq!(unfit(&config), []);
        assert_eq!(structure(&config, &config), []);
        assert_eq!(limits(&config, &config), []);
    }

    #[test]
    fn each_clash_is_named_with_what_is_and_what_must_be() {
        let mut other = config();
        other.retention = RetentionPolicy::WorkQueue;
        other.subjects = vec!["a.>".to_owned()];
        other.republish = None;
        other.max_age = Duration::from_secs(60);
        assert!(listed(&unfit(&other)).contains("retention is workqueue"));
        let structure = listed(&structure(&other, &config()));
        assert_eq!(
            structure,
            "subjects is a.> and the configuration says a.> b.>, republish is none and the \
             configuration says > to notify.log.>"
        );
        let limits = listed(&limits(&other, &config()));
        assert_eq!(limits, "max_age is 1m and the configuration says 1day");
    }
}
