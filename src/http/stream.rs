//! Opening a stream: admission, memberships, what the client missed, the body. What the streams of
//! `/events` and `/sse` have in common.

use std::time::{Duration, Instant};

use actix_web::http::header::USER_AGENT;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use tracing::{Instrument as _, info};
use utoipa::IntoParams;
use uuid::Uuid;

use super::error::ApiError;
use super::gate::origin;
use crate::address::{Origin, Proxies};
use crate::archive::Archive;
use crate::auth::{Identity, Verifier};
use crate::event::{Channel, ChatId, Timestamp};
use crate::hub::{
    Client, Hub, LocalHub, Opening, Resume, Scope, SessionStream, Transport, connection_span,
};
use crate::inbox::{self, Inbox, MAX_DEVICE};
use crate::listener::SharedConnection;
use crate::membership::Membership;
use crate::source::notify::{Following, Notifications};
use crate::transport::sse;

/// The most characters of a header that are logged.
const LOGGED: usize = 200;

/// The most chats that are logged by name.
const LOGGED_CHATS: usize = 20;

/// The stream's own parameters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// Whether events have an `event:` line with their type.
    #[param(required = false, value_type = bool)]
    named: Option<bool>,
    /// For clients that can't send the header `Last-Event-ID`, which counts where both are given.
    #[param(required = false, value_type = String)]
    last_event_id: Option<String>,
    #[serde(flatten)]
    #[param(ignore)]
    device: Device,
}

/// The header that says where a client was. It is read where it is needed; this describes it.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "only its description is used")]
pub(super) struct LastEventId {
    /// The last id that the client has seen, which `EventSource` sends by itself: what was missed since is replayed.
    #[param(rename = "Last-Event-ID", required = false, value_type = String, example = "1753859400123-4182-9f3a")]
    last_event_id: Option<String>,
}

/// Which of its user's devices a client says that it is on.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Device {
    /// Which of the user's devices this is; messages that ask to be acknowledged by each device wait for it.
    #[param(required = false, value_type = String, min_length = 1, max_length = 64, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$", example = "phone")]
    device: Option<String>,
}

impl Device {
    /// The device's name, if the client has said one that can be one.
    pub(super) fn name(self) -> Result<Option<Box<str>>, ApiError> {
        let Some(name) = self.device else {
            return Ok(None);
        };
        if !(1..=MAX_DEVICE).contains(&name.len()) || name.chars().any(char::is_control) {
            return Err(ApiError::Invalid {
                field: "device".into(),
                problem: format!("it has 1 to {MAX_DEVICE} bytes, none of them control characters"),
            });
        }
        Ok(Some(name.into()))
    }
}

/// What a stream is made of, besides the request.
pub(super) type Parts = (
    Data<LocalHub>,
    Data<Hub>,
    Data<Membership>,
    Data<Archive>,
    Data<Verifier>,
    Data<Notifications>,
    Data<Inbox>,
    Data<Proxies>,
);

/// What is asked for.
pub(super) struct Wanted {
    /// What to listen on.
    pub(super) scope: Scope,
    /// How.
    pub(super) transport: Transport,
    /// Whether events have names.
    pub(super) named: bool,
    /// Where the client says that it was, besides the header.
    pub(super) last_event_id: Option<String>,
    /// On which of the user's devices.
    pub(super) device: Device,
}

impl Wanted {
    /// A stream of Server-Sent Events; `named` is whether events have names where the client does
    /// not say.
    pub(super) fn sse(scope: Scope, named: bool, parameters: Parameters) -> Self {
        Self {
            scope,
            transport: Transport::Sse,
            named: parameters.named.unwrap_or(named),
            last_event_id: parameters.last_event_id,
            device: parameters.device,
        }
    }
}

/// Opens a stream for a client that may have it.
pub(super) async fn open(
    request: &HttpRequest,
    identity: &Identity,
    wanted: Wanted,
    parts: Parts,
) -> Result<HttpResponse, ApiError> {
    let (session, following) = session(request, identity, wanted, parts).await?;
    Ok(sse::response(session, following))
}

/// Opens the session that a stream or a poll reads, with what has to be kept for it.
pub(super) async fn session(
    request: &HttpRequest,
    identity: &Identity,
    wanted: Wanted,
    parts: Parts,
) -> Result<(SessionStream, Vec<Following>), ApiError> {
    let connection_id = Uuid::new_v4();
    let span = connection_span(connection_id, &identity.user);
    open_as(request, identity, wanted, parts, connection_id)
        .instrument(span)
        .await
}

async fn open_as(
    request: &HttpRequest,
    identity: &Identity,
    wanted: Wanted,
    (local, hub, membership, archive, verifier, notifications, inbox, proxies): Parts,
    connection_id: Uuid,
) -> Result<(SessionStream, Vec<Following>), ApiError> {
    let Wanted {
        scope,
        transport,
        named,
        last_event_id,
        device,
    } = wanted;
    let device = device.name()?;
    let from = origin(request, &proxies);
    let permit = hub.admit(&identity.user, from.and_then(|from| from.network))?;
    info!(agent = agent(request), "connected");
    let opening = Opening {
        named,
        scope: scope.clone(),
        client: Client {
            transport,
            remote: remote(request, from),
            user_agent: agent(request).into(),
            shared: request
                .conn_data::<SharedConnection>()
                .map(|connection| connection.0.clone()),
            device: device.clone(),
        },
        expires_at: deadline(identity, verifier.leeway_secs()),
        credential: identity.credential.clone(),
        connection_id,
        permit,
    };
    // Registered before the look-up, so that a join or leave in between is not missed.
    let pending = local.register(&identity.user, opening);
    // Whoever ends streams of tokens that are no longer good either finds this one, or has said so before.
    verifier.still_vouches(identity)?;
    let chats = chats(&scope, identity, &membership).await?;
    // What is notified from the confirmation on has to be heard.
    let following = match &scope {
        Scope::Own => notifications.follow(&[Channel::user(&identity.user)]).await,
        Scope::Named(channels) => notifications.follow(&channels.granted).await,
    };
    let resume = resume(request, last_event_id.as_deref());
    let interest = scope.interest(&identity.user, chats.clone());
    let (mut pending, mut given, since) = (pending, chats, Instant::now());
    let (stream, chats) = loop {
        let comeback = archive.look_up(&interest, resume, since).await;
        match pending.activate(given, comeback).await {
            Ok(live) => break live,
            // What was in the memory when it was looked for is there no more.
            Err(outrun) => (pending, given) = outrun,
        }
    };
    match &scope {
        Scope::Own => info!(chats = chats.len(), chat_ids = names(&chats), "registered"),
        Scope::Named(channels) => info!(
            channels = channels.granted.len() + chats.len(),
            "registered"
        ),
    }
    let own = Channel::user(&identity.user);
    let listens = match &scope {
        Scope::Own => true,
        Scope::Named(channels) => channels.granted.contains(&own),
    };
    // A poll that only asks for a position takes no events.
    let asks = transport == Transport::Poll && resume == Resume::Fresh;
    if listens && !asks {
        let connection = connection_id;
        inbox.opened(&identity.user, inbox::Stream { connection, device });
    }
    Ok((stream, following))
}

/// The chats that the user is in.
pub(super) async fn chats_of(
    identity: &Identity,
    membership: &Membership,
) -> Result<Vec<ChatId>, ApiError> {
    let chats = membership.chats_of(&identity.user).await;
    chats.map_err(ApiError::Chats)
}

/// The chats that the stream listens on as its user's: all of them, or those that were asked for,
/// all of which the user has to be in.
async fn chats(
    scope: &Scope,
    identity: &Identity,
    membership: &Membership,
) -> Result<Vec<ChatId>, ApiError> {
    let Scope::Named(channels) = scope else {
        return chats_of(identity, membership).await;
    };
    if channels.as_member.is_empty() {
        return Ok(Vec::new());
    }
    let member_of = chats_of(identity, membership).await?;
    for chat in &channels.as_member {
        if !member_of.contains(chat) {
            return Err(ApiError::not_readable(&format!("chat:{chat}")));
        }
    }
    Ok(channels.as_member.clone())
}

/// The moment at which the stream ends, by the clock that can't be set. A token that was accepted
/// past its `exp` thanks to the leeway lasts as long as the leeway.
fn deadline(identity: &Identity, leeway_secs: u64) -> Option<Instant> {
    let expires_at = identity.expires_at?;
    let now = Timestamp::now().as_millis();
    let mut end = expires_at.saturating_mul(1000);
    if end <= now {
        end = end.saturating_add(leeway_secs.saturating_mul(1000));
    }
    // A moment that the clock can't express is one that never comes.
    Instant::now().checked_add(Duration::from_millis(end.saturating_sub(now)))
}

/// The header wins over the parameter: a reconnecting `EventSource` repeats the address that it
/// was made with and adds the header.
fn resume(request: &HttpRequest, parameter: Option<&str>) -> Resume {
    let header = request.headers().get("last-event-id");
    let given = match (header, parameter) {
        (Some(header), _) => header.to_str().unwrap_or("?"),
        (None, Some(parameter)) => parameter,
        (None, None) => return Resume::Fresh,
    };
    match given.trim() {
        "" => Resume::Fresh,
        id => id.parse().map_or(Resume::Unreadable, Resume::After),
    }
}

/// Where a client connects from: with its port, where no proxy stands between.
fn remote(request: &HttpRequest, from: Option<Origin>) -> Option<Box<str>> {
    let (peer, from) = (request.peer_addr()?, from?);
    Some(match peer.ip().to_canonical() == from.address {
        true => peer.to_string().into(),
        false => from.address.to_string().into(),
    })
}

fn agent(request: &HttpRequest) -> String {
    let agent = request.headers().get(USER_AGENT);
    let agent = agent.and_then(|value| value.to_str().ok()).unwrap_or("");
    agent.chars().take(LOGGED).collect()
}

fn names(chats: &[ChatId]) -> String {
    let mut names: Vec<String> = chats
        .iter()
        .take(LOGGED_CHATS)
        .map(ToString::to_string)
        .collect();
    if chats.len() > LOGGED_CHATS {
        names.push("…".to_owned());
    }
    names.join(",")
}
