//! `/api/v1/connections` and `/api/v1/channels`: who is connected to what, on all instances, and ending
//! it. For tokens with the claim `notify.admin`.

use std::collections::BTreeSet;

use actix_web::web::{Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::channels;
use super::credentials::Admin;
use super::error::ApiError;
use super::openapi::{ForToken, ForUnknown};
use crate::event::{Channel, UserId};
use crate::hub::{Connection, Filter, Finding, Question, Target};
use crate::peers::{Gathered, Peers};

/// How many entries a page has, where the client does not say, and at most.
pub(super) const PAGE: usize = 50;
pub(super) const LARGEST_PAGE: usize = 500;

/// Where a page begins and what it is about.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Of this user only.
    #[param(value_type = UserId, required = false)]
    user_id: Option<String>,
    /// Listening on this channel only.
    #[param(value_type = Channel, required = false)]
    channel: Option<String>,
    /// The `next` of the page before.
    #[param(value_type = String, required = false)]
    after: Option<String>,
    /// The most entries of a page.
    #[param(value_type = usize, required = false, minimum = 1, maximum = 500, default = 50)]
    limit: Option<usize>,
}

/// Whose connections to end.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "only its description is used")]
struct OfUser {
    /// The user.
    user_id: UserId,
}

/// Which instances an answer is from.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Instances {
    replied: Vec<String>,
    /// Those that are known and have not replied in time.
    missing: BTreeSet<String>,
}

/// A connection, and where it is.
#[derive(Serialize, ToSchema)]
struct Located {
    #[serde(flatten)]
    connection: Connection,
    instance: String,
}

/// A page of connections.
#[derive(Serialize, ToSchema)]
struct Connections {
    connections: Vec<Located>,
    /// `after` of the next page, if there is one.
    next: Option<String>,
    instances: Instances,
}

/// A page of channels.
#[derive(Serialize, ToSchema)]
struct Channels {
    channels: Vec<Listened>,
    /// `after` of the next page, if there is one.
    next: Option<String>,
    instances: Instances,
}

/// A channel that has listeners.
#[derive(Serialize, ToSchema)]
struct Listened {
    #[schema(value_type = String)]
    channel: String,
    listeners: usize,
}

/// How many streams were ended.
#[derive(Serialize, ToSchema)]
struct Ended {
    ended: usize,
    instances: Instances,
}

/// Who is connected
///
/// In the order of the connections' ids.
#[utoipa::path(
    get,
    path = "/api/v1/connections",
    operation_id = "list_connections",
    tag = "Connections",
    params(Page),
    responses(
        (status = 200, description = "A page of connections.", body = Connections,
            example = json!({"connections": [{"connection_id": "0e324104f9c8496798caa89d31a62318", "user_id": 2, "channels": ["user:2", "chat:42"], "channel_count": 2, "transport": "sse", "remote": "203.0.113.7:51034", "user_agent": "Mozilla/5.0", "kid": "2026-11", "key": "3b6fd1c0a4e94f6a9c7f3a1be0d2c85e", "connected_at": "2026-11-20T15:10:00.123Z", "sent": 17, "instance": "notify-0"}], "next": null, "instances": {"replied": ["notify-0"], "missing": []}})),
        ForToken,
    ),
)]
pub(super) async fn list(
    _: Admin,
    page: Query<Page>,
    peers: Data<Peers>,
) -> Result<HttpResponse, ApiError> {
    let filter = page.into_inner().filter()?;
    connections(&peers, filter).await
}

/// Who listens on a channel
#[utoipa::path(
    get,
    path = "/api/v1/channels/{channel}",
    operation_id = "list_listeners",
    tag = "Connections",
    params(("channel" = Channel, Path, description = "The channel, percent-encoded"), Page),
    responses(
        (status = 200, description = "A page of connections.", body = Connections,
            example = json!({"connections": [{"connection_id": "0e324104f9c8496798caa89d31a62318", "user_id": 2, "channels": ["user:2", "chat:42"], "channel_count": 2, "transport": "sse", "remote": "203.0.113.7:51034", "user_agent": "Mozilla/5.0", "kid": "2026-11", "key": "3b6fd1c0a4e94f6a9c7f3a1be0d2c85e", "connected_at": "2026-11-20T15:10:00.123Z", "sent": 17, "instance": "notify-0"}], "next": null, "instances": {"replied": ["notify-0"], "missing": []}})),
        ForToken,
    ),
)]
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

/// End a stream
///
/// Its client is told not to come back.
#[utoipa::path(
    delete,
    path = "/api/v1/connections/{id}",
    operation_id = "end_connection",
    tag = "Connections",
    params(("id" = String, Path, description = "The `connection_id`")),
    responses(
        (status = 200, description = "How many were ended: one, or none where an instance has not replied.", body = Ended,
            example = json!({"ended": 1, "instances": {"replied": ["notify-0", "notify-1"], "missing": []}})),
        ForToken, ForUnknown,
    ),
)]
pub(super) async fn end(
    _: Admin,
    id: Path<String>,
    peers: Data<Peers>,
) -> Result<HttpResponse, ApiError> {
    end_target(&peers, Target::Connection(id.into_inner())).await
}

/// End all streams of a user
///
/// Their clients are told not to come back.
#[utoipa::path(
    delete,
    path = "/api/v1/connections",
    operation_id = "end_connections",
    tag = "Connections",
    params(OfUser),
    responses(
        (status = 200, description = "How many were ended.", body = Ended,
            example = json!({"ended": 3, "instances": {"replied": ["notify-0", "notify-1"], "missing": []}})),
        ForToken, ForUnknown,
    ),
)]
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

/// Channels that have listeners
///
/// In the order of their names.
#[utoipa::path(
    get,
    path = "/api/v1/channels",
    operation_id = "list_channels",
    tag = "Connections",
    params(Page),
    responses(
        (status = 200, description = "A page of channels.", body = Channels,
            example = json!({"channels": [{"channel": "chat:42", "listeners": 3}], "next": null, "instances": {"replied": ["notify-0", "notify-1"], "missing": []}})),
        ForToken,
    ),
)]
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
