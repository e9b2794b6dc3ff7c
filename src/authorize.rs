//! Permissions that only the backend knows: for channels of configured resources it is asked, over
//! NATS request and reply, whether a user may listen. What is not answered is denied.

use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::bus::Calls;
use crate::event::{Channel, UserId};
use crate::units::{Period, one_or_more};

/// The most answers that are remembered.
const REMEMBERED: usize = 10_000;

/// The `authorize` section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthorizeConfig {
    /// The resources of channels that the backend is asked about, where the token does not allow them.
    #[serde(deserialize_with = "one_or_more")]
    pub resources: Vec<String>,
    /// The subject on which it is asked.
    pub subject: String,
    /// How long it may take to answer.
    pub timeout: Period,
    /// How long an answer is remembered.
    pub cache: Period,
}

impl Default for AuthorizeConfig {
    fn default() -> Self {
        Self {
            resources: Vec::new(),
            subject: "notify.authorize".to_owned(),
            timeout: Period::secs(2),
            cache: Period::secs(10),
        }
    }
}

/// What asking the backend counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    asked: Family<Answer, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    answer: &'static str,
}

impl Metrics {
    /// Registers the counters under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "authorize_requests",
            "Permissions that the backend was asked for, by its answer",
            self.asked.clone(),
        );
        for answer in ["allowed", "denied", "failed"] {
            self.count(answer);
        }
    }

    fn count(&self, answer: &'static str) -> Counter {
        self.asked.get_or_create_owned(&Answer { answer })
    }
}

/// Asks the backend. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authorizer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: RwLock<Arc<AuthorizeConfig>>,
    calls: Calls,
    metrics: Metrics,
    remembered: Mutex<Remembered>,
}

/// What was answered, and until when that is good.
type Remembered = HashMap<(UserId, Channel), (bool, Instant), RandomState>;

#[derive(Serialize)]
struct Asked<'a> {
    user_id: &'a UserId,
    channel: &'a Channel,
    action: &'static str,
}

#[derive(Deserialize)]
struct Reply {
    allow: bool,
}

impl Authorizer {
    /// Asks as configured.
    #[must_use]
    pub fn new(config: AuthorizeConfig, calls: Calls, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            config: RwLock::new(Arc::new(config)),
            calls,
            metrics,
            remembered: Mutex::default(),
        }))
    }

    /// Asks otherwise from now on. What was answered before is asked again, if so; streams that are open stay.
    pub fn set(&self, config: &AuthorizeConfig) {
        let mut current = self.0.config.write();
        if **current != *config {
            *current = Arc::new(config.clone());
            self.0.remembered.lock().clear();
        }
    }

    /// Whether the backend lets a user listen on a channel; `false` where it is not asked about channels
    /// of that kind.
    pub async fn may_subscribe(&self, user: &UserId, channel: &Channel) -> bool {
        let inner = &self.0;
        let config = Arc::clone(&inner.config.read());
        let resource = channel.resource().as_str();
        if !config.resources.iter().any(|name| name == resource) {
            return false;
        }
        let key = (user.clone(), channel.clone());
        if let Some((allowed, until)) = inner.remembered.lock().get(&key)
            && *until > Instant::now()
        {
            return *allowed;
        }
        let Some(allowed) = inner.ask(&config, user, channel).await else {
            // Not remembered: the next one may be answered.
            inner.metrics.count("failed").inc();
            warn!(
                subject = config.subject,
                resource,
                "the backend does not answer whether a user may listen, so the user may not"
            );
            return false;
        };
        let answer = if allowed { "allowed" } else { "denied" };
        inner.metrics.count(answer).inc();
        inner.remember(&config, key, allowed);
        allowed
    }
}

impl Inner {
    async fn ask(
        &self,
        config: &AuthorizeConfig,
        user: &UserId,
        channel: &Channel,
    ) -> Option<bool> {
        let asked = Asked {
            user_id: user,
            channel,
            action: "subscribe",
        };
        let question = serde_json::to_vec(&asked).ok()?;
        let (subject, timeout) = (&config.subject, config.timeout.0);
        let answer = self
            .calls
            .request(subject, question.into(), timeout)
            .await?;
        let reply: Reply = serde_json::from_slice(&answer).ok()?;
        Some(reply.allow)
    }

    fn remember(&self, config: &Arc<AuthorizeConfig>, key: (UserId, Channel), allowed: bool) {
        // Not by what is in force no more.
        let current = self.config.read();
        if !Arc::ptr_eq(&current, config) {
            return;
        }
        let now = Instant::now();
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED {
            remembered.retain(|_, (_, until)| *until > now);
        }
        if remembered.len() < REMEMBERED {
            remembered.insert(key, (allowed, now + config.cache.0));
        }
    }
}
