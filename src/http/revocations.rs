//! `/api/v1/revocations`: tokens that are no longer good, on all instances. For tokens with the claim
//! `notify.admin`.

use actix_web::HttpResponse;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::web::{Data, Json, Path, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::connections::{Instances, LARGEST_PAGE, PAGE};
use super::credentials::Admin;
use super::error::ApiError;
use super::openapi::{ForBody, ForToken, ForUnknown};
use crate::auth::revocation::{Order, Revocation, Whose};
use crate::credential::Mark;
use crate::event::{Timestamp, UserId};
use crate::revocation::{Revoked, Revoker};

/// Where a page begins and what it is about.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Of this user only; tokens that were revoked one by one are nobody's.
    #[param(value_type = UserId, required = false)]
    user_id: Option<String>,
    /// The `next` of the page before.
    #[param(value_type = String, required = false, pattern = "^[0-9a-f]{32}$")]
    after: Option<String>,
    /// The most entries of a page.
    #[param(value_type = usize, required = false, minimum = 1, maximum = 500, default = 50)]
    limit: Option<usize>,
}

/// Something that is revoked. One of `user_id`, `token_id` and `token_hash` says what.
#[derive(Serialize, ToSchema)]
#[schema(as = Revocation)]
struct Entry {
    /// For taking it back.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = UserId, required = false)]
    user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    token_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    token_hash: Option<String>,
    /// Of a user's tokens those issued before this time, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false)]
    issued_before: Option<u64>,
    /// Until when it is remembered, in seconds since 1970: the time that was given, and `auth.leeway`.
    expires_at: u64,
    revoked_at: Timestamp,
    /// The administrator; nobody for what came over NATS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = UserId, required = false)]
    by: Option<UserId>,
}

/// What an order has come to.
#[derive(Serialize, ToSchema)]
struct Outcome {
    #[serde(flatten)]
    revocation: Entry,
    /// Whether instances that start later, or were cut off, find it. Where they should and can't yet, it is tried until
    /// they do; with the in-process bus and with `log: memory` they never do.
    stored: bool,
    /// How many streams were ended.
    ended: usize,
    instances: Instances,
}

/// A page of what is revoked.
#[derive(Serialize, ToSchema)]
struct Revocations {
    revocations: Vec<Entry>,
    /// `after` of the next page, if there is one.
    next: Option<String>,
}

impl Entry {
    fn of(revocation: Revocation) -> Self {
        let id = revocation.whose.mark().to_text();
        let (mut user_id, mut token_id, mut token_hash) = (None, None, None);
        match revocation.whose {
            Whose::User(user) => user_id = Some(user),
            Whose::TokenId(id) => token_id = Some(id),
            Whose::TokenHash(hash) => token_hash = Some(hash),
        }
        Self {
            id,
            user_id,
            token_id,
            token_hash,
            issued_before: revocation.issued_before,
            expires_at: revocation.expires_at,
            revoked_at: revocation.changed_at,
            by: revocation.by,
        }
    }
}

impl Outcome {
    fn of(revoked: Revoked) -> Self {
        let replies = &revoked.ended.replies;
        Self {
            ended: replies.values().sum(),
            instances: Instances::new(replies.keys(), revoked.ended.missing.clone()),
            stored: revoked.stored,
            revocation: Entry::of(revoked.revocation),
        }
    }
}

/// Revoke a token, or all of a user's
///
/// From now on every instance refuses it with 401, and its streams end at once with `closing` (`token_revoked`). Until it
/// expires: `expires_at`, or `auth.revocation_age` from now on. What a user is given later is good. Revoking the same again
/// adds to it. `instances.missing` have not replied, and learn of it within seconds of being back.
#[utoipa::path(
    post,
    path = "/api/v1/revocations",
    operation_id = "revoke",
    tag = "Connections",
    request_body(content = Order, examples(
        ("user" = (summary = "Everything that a user was given so far", value = json!({"user_id": 42}))),
        ("token" = (summary = "One token, by its claim jti", value = json!({"token_id": "6b6c2a4e-2a3b-4ef1-9a0f-3a1d6f0f6a55"}))),
    )),
    responses(
        (status = 201, description = "It is revoked.", body = Outcome,
            example = json!({"id": "0c6d1f1cbb9a3d0fb1b2f3a4c5d6e7f8", "user_id": 42, "issued_before": 1_795_000_001, "expires_at": 1_797_592_060, "revoked_at": "2026-11-20T15:10:00.123Z", "by": 1, "stored": true, "ended": 2, "instances": {"replied": ["notify-0", "notify-1"], "missing": []}})),
        ForToken, ForBody,
    ),
)]
pub(super) async fn revoke(
    Admin(admin): Admin,
    order: Json<Order>,
    revoker: Data<Revoker>,
) -> Result<HttpResponse, ApiError> {
    let revoked = revoker.revoke(order.into_inner(), &admin.user).await?;
    Ok(HttpResponse::Created().json(Outcome::of(revoked)))
}

/// What is revoked
///
/// In the order of the ids, as the instance that answers knows it. All instances know the same, but for seconds.
#[utoipa::path(
    get,
    path = "/api/v1/revocations",
    operation_id = "list_revocations",
    tag = "Connections",
    params(Page),
    responses(
        (status = 200, description = "A page of revocations.", body = Revocations,
            example = json!({"revocations": [{"id": "0c6d1f1cbb9a3d0fb1b2f3a4c5d6e7f8", "user_id": 42, "issued_before": 1_795_000_001, "expires_at": 1_797_592_060, "revoked_at": "2026-11-20T15:10:00.123Z", "by": 1}], "next": null})),
        ForToken,
    ),
)]
pub(super) async fn list(
    _: Admin,
    page: Query<Page>,
    revoker: Data<Revoker>,
) -> Result<HttpResponse, ApiError> {
    let Page {
        user_id,
        after,
        limit,
    } = page.into_inner();
    let limit = match limit {
        None => PAGE,
        Some(limit @ 1..=LARGEST_PAGE) => limit,
        Some(limit) => {
            let problem = format!("a page has 1 to {LARGEST_PAGE} entries, not {limit}");
            return Err(invalid("limit", problem));
        }
    };
    let user = user_id.map(|text| UserId::parse(&text)).transpose();
    let user = user.map_err(|error| invalid("user_id", error.to_string()))?;
    let behind = |text: String| {
        let problem = "it is the next of the page before".to_owned();
        Mark::parse(&text).ok_or_else(|| invalid("after", problem))
    };
    let after = after.map(behind).transpose()?;
    let mut found = revoker.revocations().page(after, limit + 1, user.as_ref());
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found
        .last()
        .filter(|_| more)
        .map(|(mark, _)| mark.to_text());
    let entries = found
        .into_iter()
        .map(|(_, revocation)| Entry::of(revocation));
    Ok(HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .json(Revocations {
            revocations: entries.collect(),
            next,
        }))
}

/// Take a revocation back
///
/// Tokens that have not expired are good again. Streams that it has ended stay ended.
#[utoipa::path(
    delete,
    path = "/api/v1/revocations/{id}",
    operation_id = "lift_revocation",
    tag = "Connections",
    params(("id" = String, Path, description = "The `id`")),
    responses(
        (status = 200, description = "It is no longer revoked.", body = Outcome,
            example = json!({"id": "0c6d1f1cbb9a3d0fb1b2f3a4c5d6e7f8", "user_id": 42, "issued_before": 1_795_000_001, "expires_at": 1_797_592_060, "revoked_at": "2026-11-20T15:12:00.123Z", "by": 1, "stored": true, "ended": 0, "instances": {"replied": ["notify-0", "notify-1"], "missing": []}})),
        ForToken, ForUnknown,
    ),
)]
pub(super) async fn lift(
    Admin(admin): Admin,
    id: Path<String>,
    revoker: Data<Revoker>,
) -> Result<HttpResponse, ApiError> {
    let mark = Mark::parse(&id).ok_or(ApiError::NotFound)?;
    let lifted = revoker.lift(mark, &admin.user).await?;
    let lifted = lifted.ok_or(ApiError::NotFound)?;
    Ok(HttpResponse::Ok().json(Outcome::of(lifted)))
}

fn invalid(field: &'static str, problem: String) -> ApiError {
    let field = field.into();
    ApiError::Invalid { field, problem }
}
