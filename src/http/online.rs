//! `/online-users`: who is online, of the members of a chat or of all with whom one shares a chat.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::web::{Data, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::credentials::Authenticated;
use super::error::ApiError;
use super::openapi::ForToken;
use super::stream::chats_of;
use crate::auth::Identity;
use crate::event::{Channel, ChatId, Timestamp, UserId};
use crate::members::Members;
use crate::membership::Membership;
use crate::presence::Presence;

/// How many users a page has, where the client does not say, and at most.
const PAGE: usize = 500;
const LARGEST_PAGE: usize = 5_000;

/// The most chats whose members make up a listing, and the most members.
const CHATS: usize = 100;
const MEMBERS: usize = 100_000;

/// What is asked for. Unknown parameters are refused: a mistyped one would ask for something else.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    /// Of the members of this chat; else of all chats of the one who asks, up to 100.
    #[param(value_type = ChatId, required = false)]
    chat_id: Option<String>,
    /// The `next` of the page before.
    #[param(value_type = UserId, required = false)]
    after: Option<String>,
    /// The most users of a page.
    #[param(value_type = usize, required = false, minimum = 1, maximum = 5000, default = 500)]
    limit: Option<usize>,
    /// These say who asks.
    #[param(ignore)]
    #[serde(rename = "access_token")]
    _access_token: Option<String>,
    #[param(ignore)]
    #[serde(rename = "user_id")]
    _user_id: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct OnlineUsers {
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_id: Option<ChatId>,
    users: Vec<OnlineUser>,
    /// The `after` of the next page.
    next: Option<UserId>,
    /// Whether nobody can be missing.
    complete: bool,
    /// The instances whose users are known.
    #[schema(value_type = Vec<String>)]
    instances: BTreeSet<Arc<str>>,
}

#[derive(Serialize, ToSchema)]
struct OnlineUser {
    user_id: UserId,
    /// Since when.
    since: Timestamp,
}

/// Of whom it is asked who is online.
struct Asked {
    /// In the order of their ids.
    users: Arc<[UserId]>,
    /// Whether that is all of them.
    complete: bool,
}

/// Who is online
///
/// Of the members of a chat, for those who may listen on it, or of all with whom the one who asks shares a chat;
/// in the order of their ids.
#[utoipa::path(
    get,
    path = "/online-users",
    operation_id = "online_users",
    tag = "Connections",
    params(Parameters),
    responses(
        (status = 200, description = "A page of users.", body = OnlineUsers,
            example = json!({"chat_id": 5, "users": [{"user_id": 2, "since": "2026-11-20T15:10:00.123Z"}], "next": null, "complete": true, "instances": ["notify-0", "notify-1"]})),
        ForToken,
    ),
)]
pub(super) async fn list(
    Authenticated(identity): Authenticated,
    parameters: Query<Parameters>,
    (members, membership, presence): (Data<Members>, Data<Membership>, Data<Presence>),
) -> Result<HttpResponse, ApiError> {
    let parameters = parameters.into_inner();
    let limit = parameters.limit()?;
    let after = parse("after", parameters.after.as_deref(), UserId::parse)?;
    let chat = parse("chat_id", parameters.chat_id.as_deref(), ChatId::parse)?;
    let asked = match &chat {
        Some(chat) => of_chat(&identity, chat, &membership, &members).await?,
        None => of_own_chats(&identity, &membership, &members).await?,
    };
    let from = after.map_or(0, |after| {
        asked.users.partition_point(|user| *user <= after)
    });
    // Before the users, so that it never says too much.
    let complete = asked.complete && presence.is_complete();
    let listing = presence.online(asked.users[from..].iter(), limit);
    let last = listing.users.last().map(|(user, _)| user.clone());
    Ok(HttpResponse::Ok()
        .insert_header(("cache-control", "no-store"))
        .json(OnlineUsers {
            chat_id: chat,
            next: last.filter(|_| listing.more),
            users: listing
                .users
                .into_iter()
                .map(|(user_id, since)| OnlineUser { user_id, since })
                .collect(),
            complete,
            instances: presence.instances(),
        }))
}

/// The members of a chat, for those who may read it.
async fn of_chat(
    identity: &Identity,
    chat: &ChatId,
    membership: &Membership,
    members: &Members,
) -> Result<Asked, ApiError> {
    let channel = Channel::chat(chat);
    let allowed = identity.grant.admin || identity.may_subscribe(&channel);
    // Before the members, who may be many.
    if !allowed && !chats_of(identity, membership).await?.contains(chat) {
        return Err(ApiError::not_readable(&channel.to_string()));
    }
    let users = members.of(chat).await.map_err(ApiError::Members)?;
    Ok(Asked {
        users,
        complete: true,
    })
}

/// The members of all chats that the user is in, as far as that is not too many.
async fn of_own_chats(
    identity: &Identity,
    membership: &Membership,
    members: &Members,
) -> Result<Asked, ApiError> {
    let chats = chats_of(identity, membership).await?;
    let mut complete = chats.len() <= CHATS;
    let (mut users, mut seen) = (BTreeSet::new(), 0);
    for chat in chats.iter().take(CHATS) {
        let some = members.of(chat).await.map_err(ApiError::Members)?;
        seen += some.len();
        if seen > MEMBERS {
            complete = false;
            break;
        }
        users.extend(some.iter().cloned());
    }
    Ok(Asked {
        users: users.into_iter().collect(),
        complete,
    })
}

impl Parameters {
    fn limit(&self) -> Result<usize, ApiError> {
        match self.limit {
            None => Ok(PAGE),
            Some(limit @ 1..=LARGEST_PAGE) => Ok(limit),
            Some(limit) => Err(ApiError::Invalid {
                field: "limit".into(),
                problem: format!("a page has 1 to {LARGEST_PAGE} users, not {limit}"),
            }),
        }
    }
}

fn parse<T, E: std::fmt::Display>(
    field: &'static str,
    text: Option<&str>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, ApiError> {
    text.map(parse)
        .transpose()
        .map_err(|error| ApiError::Invalid {
            field: field.into(),
            problem: error.to_string(),
        })
}
