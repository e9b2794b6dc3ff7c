//! `/api/v1/messages/{id}/ack` and `/receipts`: acknowledging a message, and who has.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path, Query};
use serde::Serialize;
use utoipa::ToSchema;

use super::credentials::Authenticated;
use super::error::ApiError;
use super::openapi::{ForConflict, ForToken, ForUnknown};
use super::stream::{Device, chats_of};
use crate::acknowledgements::{AckError, Acknowledgements, Receipt};
use crate::auth::Identity;
use crate::authorize::Authorizer;
use crate::event::{Channel, Resource};
use crate::inbox::Inbox;
use crate::membership::Membership;

/// Who has acknowledged a message.
#[derive(Serialize, ToSchema)]
struct Receipts {
    id: String,
    receipts: Vec<Receipt>,
}

/// Acknowledge a message
///
/// One that asks for it (`"ack": true`) and is for the token's user; on any instance.
#[utoipa::path(
    post,
    path = "/api/v1/messages/{id}/ack",
    operation_id = "acknowledge",
    tag = "Acknowledgements",
    params(("id" = String, Path, description = "The message's `id`"), Device),
    responses((status = 204, description = "It is noted."), ForToken, ForUnknown, ForConflict),
)]
pub(super) async fn acknowledge(
    Authenticated(identity): Authenticated,
    id: Path<String>,
    device: Query<Device>,
    (acknowledgements, inbox): (Data<Acknowledgements>, Data<Inbox>),
    (membership, authorizer): (Data<Membership>, Data<Authorizer>),
) -> Result<HttpResponse, ApiError> {
    let device = device.into_inner().name()?;
    let asked = acknowledgements.of(&id).await?;
    if !is_for(&identity, &asked.channels, &membership, &authorizer).await? {
        // Not that it exists, either.
        return Err(AckError::Unknown.into());
    }
    let (user, device) = (&identity.user, device.as_deref());
    if asked.per_device {
        // First, so that who tries again after a failure has both.
        inbox
            .acknowledge(user, &id, device)
            .await
            .map_err(AckError::from)?;
    }
    acknowledgements.acknowledge(&id, user, device).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Who has acknowledged a message
///
/// For whoever has sent it, and for administrators.
#[utoipa::path(
    get,
    path = "/api/v1/messages/{id}/receipts",
    operation_id = "receipts",
    tag = "Acknowledgements",
    params(("id" = String, Path, description = "The message's `id`")),
    responses(
        (status = 200, description = "Who has, and when.", body = Receipts,
            example = json!({"id": "m-1", "receipts": [{"user_id": 2, "at": "2026-11-20T15:10:00.123Z"}]})),
        ForToken, ForUnknown,
    ),
)]
pub(super) async fn list(
    Authenticated(identity): Authenticated,
    id: Path<String>,
    acknowledgements: Data<Acknowledgements>,
) -> Result<HttpResponse, ApiError> {
    let asked = acknowledgements.of(&id).await?;
    if asked.publisher != identity.user && !identity.grant.admin {
        return Err(AckError::Unknown.into());
    }
    Ok(HttpResponse::Ok().json(Receipts {
        id: id.into_inner(),
        receipts: asked.receipts,
    }))
}

/// Whether a message is for somebody.
async fn is_for(
    identity: &Identity,
    channels: &[Channel],
    membership: &Membership,
    authorizer: &Authorizer,
) -> Result<bool, ApiError> {
    let readable = |channel: &Channel| identity.may_subscribe(channel);
    if channels.is_empty() || channels.iter().any(readable) {
        return Ok(true);
    }
    for channel in channels {
        if authorizer.may_subscribe(&identity.user, channel).await {
            return Ok(true);
        }
    }
    let chat = |channel: &&Channel| *channel.resource() == Resource::Chat;
    let mut chats = channels.iter().filter(chat).peekable();
    if chats.peek().is_none() {
        return Ok(false);
    }
    let member_of = chats_of(identity, membership).await?;
    Ok(chats.any(|channel| member_of.iter().any(|chat| Channel::chat(chat) == *channel)))
}
