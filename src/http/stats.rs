//! Connections in numbers, over all instances: `/api/v1/connections/stats`, and `/api/sse/stats` in the form of the
//! system that it replaces.

use std::collections::BTreeMap;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::connections::{Instances, LARGEST_PAGE};
use super::credentials::{Admin, Authenticated, certified};
use super::openapi::ForToken;
use crate::hub::{Census, Finding, Question, Stats};
use crate::peers::{Gathered, Peers, Summary};

/// Channels of one resource.
#[derive(Serialize, ToSchema)]
struct Listeners {
    /// Channels that somebody listens on, each once, however many instances have listeners; where `exact` is false,
    /// at most so many.
    channels: usize,
    /// Listeners, counted once for each channel.
    listeners: usize,
    /// Whether that is so: an instance with more than 20,000 channels does not tell the others which they are, so
    /// that those which another one has, too, count twice.
    exact: bool,
}

/// One instance in numbers.
#[derive(Serialize, ToSchema)]
struct OfInstance {
    #[serde(flatten)]
    summary: Summary,
    /// Channels that somebody listens on at this instance, by resource; always exact.
    channels: BTreeMap<String, usize>,
}

/// Connections in numbers.
#[derive(Serialize, ToSchema)]
#[schema(as = ConnectionStats)]
struct Totals {
    total: usize,
    /// By resource of a channel.
    channels: BTreeMap<String, Listeners>,
    /// Events handed to connections, once per session.
    events: u64,
    /// Bytes handed to connections.
    bytes: u64,
    /// Sessions that ended because their client read too slowly.
    slow_consumers: u64,
    /// The keys that tokens are verified with on any instance, and those by which streams are still open.
    keys: Vec<KeyUse>,
    by_instance: BTreeMap<String, OfInstance>,
    instances: Instances,
}

/// A key, and how much it is used.
#[derive(Serialize, ToSchema)]
struct KeyUse {
    /// Which one it is, as 32 hexadecimal digits that say nothing about it.
    key: String,
    /// Its `kid`; `null` where it has none, or no instance takes it any more.
    #[schema(required = true)]
    kid: Option<String>,
    /// What tokens are signed with by it; `null` where no instance takes it any more.
    #[schema(required = true)]
    algorithm: Option<String>,
    /// Streams whose token is by it.
    connections: usize,
    /// Instances, of those that replied, that take tokens by it.
    taken_by: usize,
}

/// Connections in numbers
#[utoipa::path(
    get,
    path = "/api/v1/connections/stats",
    operation_id = "connection_stats",
    tag = "Connections",
    responses(
        (status = 200, description = "All instances' numbers, and each one's.", body = Totals,
            example = json!({"total": 2, "channels": {"user": {"channels": 1, "listeners": 2, "exact": true}}, "events": 4182, "bytes": 902144, "slow_consumers": 0, "keys": [{"key": "3b6fd1c0a4e94f6a9c7f3a1be0d2c85e", "kid": "2026-11", "algorithm": "EdDSA", "connections": 2, "taken_by": 1}], "by_instance": {"notify-0": {"version": "0.1.0", "uptime_secs": 3600, "connections": 2, "keys": [{"key": "3b6fd1c0a4e94f6a9c7f3a1be0d2c85e", "kid": "2026-11", "algorithm": "EdDSA"}], "events": 4182, "bytes": 902144, "slow_consumers": 0, "channels": {"user": 1}}}, "instances": {"replied": ["notify-0"], "missing": []}})),
        ForToken,
    ),
)]
pub(super) async fn stats(_: Admin, peers: Data<Peers>) -> HttpResponse {
    let (stats, summaries) = tokio::join!(peers.find(Question::Stats), peers.summaries());
    let instances = Instances::new(stats.replies.keys(), stats.missing.clone());
    let mut channels_of: BTreeMap<String, BTreeMap<String, usize>> = stats
        .replies
        .iter()
        .filter_map(|(instance, found)| match found {
            Finding::Stats(stats) => Some((instance.clone(), channels(stats))),
            _ => None,
        })
        .collect();
    let Stats {
        connections,
        resources,
        keys,
    } = merged(stats).await;
    let keys = keys_in_use(keys, summaries.replies.values());
    let sum = |of: fn(&Summary) -> u64| summaries.replies.values().map(of).sum();
    let (events, bytes) = (
        sum(|summary| summary.totals.events),
        sum(|summary| summary.totals.bytes),
    );
    let slow_consumers = sum(|summary| summary.totals.slow_consumers);
    let of_instance = |(instance, summary): (String, Summary)| {
        let channels = channels_of.remove(&instance).unwrap_or_default();
        (instance, OfInstance { summary, channels })
    };
    HttpResponse::Ok().json(Totals {
        total: connections,
        channels: resources.iter().map(listeners).collect(),
        events,
        bytes,
        slow_consumers,
        keys,
        by_instance: summaries.replies.into_iter().map(of_instance).collect(),
        instances,
    })
}

/// All keys that an instance takes, with the streams by each, and then those that have streams only.
fn keys_in_use<'a>(
    mut in_use: BTreeMap<String, usize>,
    instances: impl Iterator<Item = &'a Summary>,
) -> Vec<KeyUse> {
    let mut keys: Vec<KeyUse> = Vec::new();
    for name in instances.flat_map(|instance| &instance.keys) {
        match keys.iter_mut().find(|key| key.key == name.key) {
            Some(key) => key.taken_by += 1,
            None => keys.push(KeyUse {
                key: name.key.clone(),
                kid: name.kid.clone(),
                algorithm: Some(name.algorithm.clone()),
                connections: in_use.remove(&name.key).unwrap_or(0),
                taken_by: 1,
            }),
        }
    }
    keys.extend(in_use.into_iter().map(|(key, connections)| KeyUse {
        key,
        kid: None,
        algorithm: None,
        connections,
        taken_by: 0,
    }));
    keys
}

fn listeners((resource, census): (&String, &Census)) -> (String, Listeners) {
    let listeners = Listeners {
        channels: census.channels(),
        listeners: census.listeners(),
        exact: census.is_exact(),
    };
    (resource.clone(), listeners)
}

/// How many channels have listeners, by resource.
fn channels(stats: &Stats) -> BTreeMap<String, usize> {
    let of = |(resource, census): (&String, &Census)| (resource.clone(), census.channels());
    stats.resources.iter().map(of).collect()
}

/// The form of answers below `/api/sse`.
#[derive(Serialize, ToSchema)]
pub(super) struct Success<T> {
    success: bool,
    data: T,
}

impl<T> Success<T> {
    pub(super) fn of(data: T) -> Self {
        let success = true;
        Self { success, data }
    }
}

/// Connections and listeners in numbers.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SseStats {
    total_connections: usize,
    /// Listeners by resource; by channel for administrators.
    channels: BTreeMap<String, usize>,
}

/// Streams in numbers
///
/// Connections in all, and listeners by resource; by channel for administrators.
#[utoipa::path(
    get,
    path = "/api/sse/stats",
    operation_id = "sse_stats",
    tag = "Streams",
    responses(
        (status = 200, description = "All instances' numbers.", body = Success<SseStats>,
            example = json!({"success": true, "data": {"totalConnections": 2, "channels": {"user": 2, "chat": 5}}})),
        ForToken,
    ),
)]
pub(super) async fn sse_stats(
    Authenticated(identity): Authenticated,
    request: HttpRequest,
    peers: Data<Peers>,
) -> HttpResponse {
    let Stats {
        connections,
        resources,
        ..
    } = merged(peers.find(Question::BriefStats).await).await;
    let mut channels: BTreeMap<String, usize> = resources
        .into_iter()
        .map(|(resource, census)| (resource, census.listeners()))
        .collect();
    if identity.grant.admin && certified(&request).is_ok() {
        let question = Question::Channels {
            after: None,
            limit: LARGEST_PAGE,
        };
        let replies = peers.find(question).await.replies.into_values();
        let found = replies.reduce(|all, more| all.merge(more, LARGEST_PAGE));
        if let Some(Finding::Channels(found)) = found {
            channels = found;
        }
    }
    HttpResponse::Ok().json(Success::of(SseStats {
        total_connections: connections,
        channels,
    }))
}

/// All instances' numbers as one: off this thread, which has streams to serve.
async fn merged(gathered: Gathered<Finding>) -> Stats {
    let replies = gathered.replies.into_values();
    let stats = replies.filter_map(|found| match found {
        Finding::Stats(stats) => Some(stats),
        _ => None,
    });
    let stats: Vec<Stats> = stats.collect();
    let counted = actix_web::web::block(|| Stats::of(stats)).await;
    // The server is stopping.
    counted.unwrap_or_default()
}
