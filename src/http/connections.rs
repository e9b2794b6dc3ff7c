//! `/api/v1/connections` and `/api/v1/channels`: who is connected to what, on all instances, and ending
//! it. For tokens with the claim `notify.admin`.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::web::{Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};

use super::channels;
use super::credentials::{Admin, Authenticated, certified};
use super::error::ApiError;
use crate::event::{Channel, UserId};
use crate::hub::{Connection, Filter, Finding, Listeners, Question, Stats, Target};
use crate::peers::{Gathered, Peers, Summary};

/// How many entries a page has, where the client does not say, and at most.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 500;

/// Where a page begins and what it is about.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    user_id: Option<String>,
    channel: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// Which instances an answer is from.
#[derive(Debug, Serialize)]
pub(super) struct Instances {
    replied: Vec<String>,
    missing: BTreeSet<String>,
}

/// A connection, and where it is.
#[derive(Serialize)]
struct Located {
    #[serde(flatten)]
    connection: Connection,
    instance: String,
}

#[derive(Serialize)]
struct Connections {
    connections: Vec<Located>,
    next: Option<String>,
    instances: Instances,
}

#[derive(Serialize)]
struct Totals {
    total: usize,
    /// By resource of a channel.
    channels: BTreeMap<String, Listeners>,
    events: u64,
    bytes: u64,
    slow_consumers: u64,
    by_instance: BTreeMap<String, Summary>,
    instances: Instances,
}

#[derive(Serialize)]
struct Channels {
    channels: Vec<Listened>,
    next: Option<String>,
    instances: Instances,
}

#[derive(Serialize)]
struct Listened {
    channel: String,
    listeners: usize,
}

#[derive(Serialize)]
struct Ended {
    ended: usize,
    instances: Instances,
}

/// `GET /api/v1/connections`
pub(super) async fn list(
    _: Admin,
    page: Query<Page>,
    peers: Data<Peers>,
) -> Result<HttpResponse, ApiError> {
    let filter = page.into_inner().filter()?;
    connections(&peers, filter).await
}

/// `GET /api/v1/channels/{channel}`: who listens on one
pub(super) async fn listeners(
    _: Admin,
    request: HttpRequest,
    page: Query<Page>,
    peers: Data<Peers>,
) -> Result<HttpResponse, ApiError> {
    let path = request.uri().path();
    let name = path.rsplit_once('/').map_or("", |(_, name)| name);
    let filter = Filter {
        channel: Some(channels::decode(name)?),
        ..page.into_inner().filter()?
    };
    connections(&peers, filter).await
}

async fn connections(peers: &Peers, filter: Filter) -> Result<HttpResponse, ApiError> {
    let limit = filter.limit;
    // One more than the page has, to know whether there is a next one.
    let question = Question::Connections(Filter {
        limit: limit + 1,
        ..filter
    });
    let Gathered { replies, missing } = peers.find(question).await;
    let instances = Instances::new(replies.keys(), missing);
    let mut found = Vec::new();
    for (instance, finding) in replies {
        let Finding::Connections(connections) = finding else {
            continue;
        };
        found.extend(connections.into_iter().map(|connection| Located {
            connection,
            instance: instance.clone(),
        }));
    }
    let id = |located: &Located| located.connection.connection_id.clone();
    found.sort_by_key(id);
    let more = found.len() > limit;
    found.truncate(limit);
    Ok(HttpResponse::Ok().json(Connections {
        next: found.last().filter(|_| more).map(id),
        connections: found,
        instances,
    }))
}

/// `GET /api/v1/connections/stats`
pub(super) async fn stats(_: Admin, peers: Data<Peers>) -> HttpResponse {
    let (stats, summaries) = tokio::join!(peers.find(Question::Stats), peers.summaries());
    let instances = Instances::new(stats.replies.keys(), stats.missing.clone());
    let Stats {
        connections,
        resources,
    } = merged(stats);
    let sum = |of: fn(&Summary) -> u64| summaries.replies.values().map(of).sum();
    HttpResponse::Ok().json(Totals {
        total: connections,
        channels: resources,
        events: sum(|summary| summary.totals.events),
        bytes: sum(|summary| summary.totals.bytes),
        slow_consumers: sum(|summary| summary.totals.slow_consumers),
        by_instance: summaries.replies,
        instances,
    })
}

/// `DELETE /api/v1/connections/{id}`
pub(super) async fn end(
    _: Admin,
    id: Path<String>,
    peers: Data<Peers>,
) -> Result<HttpResponse, ApiError> {
    end_target(&peers, Target::Connection(id.into_inner())).await
}

/// `DELETE /api/v1/connections?user_id=…`
pub(super) async fn end_user(
    _: Admin,
    page: Query<Page>,
    peers: Data<Peers>,
) -> Result<HttpResponse, ApiError> {
    let user = page.into_inner().filter()?.user;
    let user = user.ok_or_else(|| ApiError::Invalid {
        field: "user_id".into(),
        problem: "it has to say whose connections to end".to_owned(),
    })?;
    end_target(&peers, Target::User(user)).await
}

async fn end_target(peers: &Peers, target: Target) -> Result<HttpResponse, ApiError> {
    let gathered = peers.find(Question::End(target)).await;
    let instances = Instances::new(gathered.replies.keys(), gathered.missing);
    let ended = gathered.replies.into_values().map(|finding| match finding {
        Finding::Ended(ended) => ended,
        _ => 0,
    });
    let ended = ended.sum();
    if ended == 0 && instances.missing.is_empty() {
        return Err(ApiError::NotFound);
    }
    Ok(HttpResponse::Ok().json(Ended { ended, instances }))
}

/// `GET /api/v1/channels`
pub(super) async fn active(
    _: Admin,
    page: Query<Page>,
    peers: Data<Peers>,
) -> Result<HttpResponse, ApiError> {
    let page = page.into_inner();
    let (after, limit) = (page.after.clone(), page.limit()?);
    let question = Question::Channels {
        after,
        limit: limit + 1,
    };
    let Gathered { replies, missing } = peers.find(question).await;
    let instances = Instances::new(replies.keys(), missing);
    let found = replies
        .into_values()
        .reduce(|all, more| all.merge(more, limit + 1));
    let Some(Finding::Channels(mut found)) = found else {
        return Err(ApiError::Internal("the hub does not answer".into()));
    };
    let more = found.len() > limit;
    if more {
        found.pop_last();
    }
    let next = found.last_key_value().filter(|_| more);
    Ok(HttpResponse::Ok().json(Channels {
        next: next.map(|(channel, _)| channel.clone()),
        channels: found
            .into_iter()
            .map(|(channel, listeners)| Listened { channel, listeners })
            .collect(),
        instances,
    }))
}

#[derive(Serialize)]
struct Success<T> {
    success: bool,
    data: T,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SseStats {
    total_connections: usize,
    channels: BTreeMap<String, usize>,
}

/// `GET /api/sse/stats`: connections in all, and listeners by resource; by channel for administrators.
pub(super) async fn sse_stats(
    Authenticated(identity): Authenticated,
    request: HttpRequest,
    peers: Data<Peers>,
) -> HttpResponse {
    let Stats {
        connections,
        resources,
    } = merged(peers.find(Question::Stats).await);
    let mut channels: BTreeMap<String, usize> = resources
        .into_iter()
        .map(|(resource, listeners)| (resource, listeners.listeners))
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
    HttpResponse::Ok().json(Success {
        success: true,
        data: SseStats {
            total_connections: connections,
            channels,
        },
    })
}

/// All instances' numbers as one.
fn merged(gathered: Gathered<Finding>) -> Stats {
    let replies = gathered.replies.into_values();
    match replies.reduce(|all, more| all.merge(more, usize::MAX)) {
        Some(Finding::Stats(stats)) => stats,
        _ => Stats::default(),
    }
}

impl Page {
    fn limit(&self) -> Result<usize, ApiError> {
        match self.limit {
            None => Ok(PAGE),
            Some(limit @ 1..=LARGEST_PAGE) => Ok(limit),
            Some(limit) => Err(ApiError::Invalid {
                field: "limit".into(),
                problem: format!("a page has 1 to {LARGEST_PAGE} entries, not {limit}"),
            }),
        }
    }

    fn filter(self) -> Result<Filter, ApiError> {
        let limit = self.limit()?;
        let user = self.user_id.map(|text| {
            UserId::parse(&text).map_err(|error| ApiError::Invalid {
                field: "user_id".into(),
                problem: error.to_string(),
            })
        });
        let channel = self.channel.map(|text| {
            Channel::parse(&text).map_err(|error| ApiError::Invalid {
                field: "channel".into(),
                problem: error.to_string(),
            })
        });
        Ok(Filter {
            user: user.transpose()?,
            channel: channel.transpose()?,
            after: self.after,
            limit,
        })
    }
}

impl Instances {
    pub(super) fn new<'a>(
        replied: impl Iterator<Item = &'a String>,
        missing: BTreeSet<String>,
    ) -> Self {
        Self {
            replied: replied.cloned().collect(),
            missing,
        }
    }
}
