//! `/sse`: streams of channels that are asked for by name.

use actix_web::web::{Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::future::join_all;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use utoipa::IntoParams;

use super::credentials::ForStream;
use super::error::ApiError;
use super::history::session_channel;
use super::openapi::{ForRate, ForToken, Streaming};
use super::stream::{self, Device, LastEventId, Parameters, Parts, Wanted};
use crate::auth::Identity;
use crate::authorize::Authorizer;
use crate::event::{Channel, ChatId, Resource, UserId};
use crate::hub::{NamedChannels, Scope};

/// The most channels of one stream.
const MAX_CHANNELS: usize = 100;

/// What the addresses of streams begin with.
pub(super) const STREAM: &str = "/sse/stream/";

/// Which session to stream.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Session {
    /// The session, or what follows `session:`. Other letters are good, too.
    #[serde(rename = "sessionId")]
    #[param(required = true, value_type = String, pattern = "^[A-Za-z0-9._~-]{1,100}$", example = "s-1")]
    id: Option<String>,
}

/// A stream of channels
///
/// Of up to 100 channels, each percent-encoded, with commas in between. A token may listen on its user's own
/// `user:{id}…`, on the chats that its user is in, and on what the claim `notify.subscribe` covers. Events are
/// named by their type unless `?named=false`.
#[utoipa::path(
    get,
    path = "/sse/stream/{channels}",
    operation_id = "stream_channels",
    tag = "Streams",
    params(
        ("channels" = Vec<Channel>, Path, description = "Channels", style = Simple, min_items = 1, max_items = 100, example = json!(["job:123", "chat:42"])),
        Parameters,
        Device,
        LastEventId,
    ),
    responses(Streaming, ForToken, ForRate),
    security(("ticket" = [])),
)]
pub(super) async fn stream(
    request: HttpRequest,
    ForStream(identity): ForStream,
    parameters: Query<Parameters>,
    parts: (Parts, Data<Authorizer>),
) -> Result<HttpResponse, ApiError> {
    // As it was sent: once decoded, a comma within an id could not be told from one between two
    // channels.
    let names = request.uri().path().strip_prefix(STREAM).unwrap_or("");
    let channels = parse(names)?;
    open((&request, &identity), channels, parameters, parts).await
}

/// A stream of a user's own channel
///
/// Short for `/sse/stream/user:{id}`.
#[utoipa::path(
    get,
    path = "/sse/user/{id}",
    operation_id = "stream_user",
    tag = "Streams",
    params(("id" = UserId, Path, description = "The user, or what follows `user:`"), Parameters, Device, LastEventId),
    responses(Streaming, ForToken, ForRate),
    security(("ticket" = [])),
)]
pub(super) async fn user(
    request: HttpRequest,
    ForStream(identity): ForStream,
    id: Path<String>,
    parameters: Query<Parameters>,
    parts: (Parts, Data<Authorizer>),
) -> Result<HttpResponse, ApiError> {
    let channels = vec![channel(&format!("user:{id}"))?];
    open((&request, &identity), channels, parameters, parts).await
}

/// A stream of a service's channel
///
/// Short for `/sse/stream/service:{name}`.
#[utoipa::path(
    get,
    path = "/sse/service/{name}",
    operation_id = "stream_service",
    tag = "Streams",
    params(("name" = String, Path, description = "The service", example = "billing"), Parameters, Device, LastEventId),
    responses(Streaming, ForToken, ForRate),
    security(("ticket" = [])),
)]
pub(super) async fn service(
    request: HttpRequest,
    ForStream(identity): ForStream,
    name: Path<String>,
    parameters: Query<Parameters>,
    parts: (Parts, Data<Authorizer>),
) -> Result<HttpResponse, ApiError> {
    let channels = vec![channel(&format!("service:{name}"))?];
    open((&request, &identity), channels, parameters, parts).await
}

/// A stream of a session's channel
///
/// Short for `/sse/stream/session:{id}`.
#[utoipa::path(
    get,
    path = "/sse/session/{id}",
    operation_id = "stream_session",
    tag = "Streams",
    params(("id" = String, Path, description = "The session, or what follows `session:`", example = "s-1"), Parameters, Device, LastEventId),
    responses(Streaming, ForToken, ForRate),
    security(("ticket" = [])),
)]
pub(super) async fn session(
    request: HttpRequest,
    ForStream(identity): ForStream,
    id: Path<String>,
    parameters: Query<Parameters>,
    parts: (Parts, Data<Authorizer>),
) -> Result<HttpResponse, ApiError> {
    let channels = vec![channel(&format!("session:{id}"))?];
    open((&request, &identity), channels, parameters, parts).await
}

/// A stream of a session's messages
///
/// The same as `/sse/session/{id}`.
#[utoipa::path(
    get,
    path = "/api/sse/messages",
    operation_id = "stream_messages",
    tag = "Streams",
    params(Session, Parameters, Device, LastEventId),
    responses(Streaming, ForToken, ForRate),
    security(("ticket" = [])),
)]
pub(super) async fn messages(
    request: HttpRequest,
    ForStream(identity): ForStream,
    session: Query<Session>,
    parameters: Query<Parameters>,
    parts: (Parts, Data<Authorizer>),
) -> Result<HttpResponse, ApiError> {
    let Some(id) = &session.id else {
        return Err(ApiError::Invalid {
            field: "sessionId".into(),
            problem: "it is missing: it says which session to stream".to_owned(),
        });
    };
    let channels = vec![session_channel(id)?];
    open((&request, &identity), channels, parameters, parts).await
}

/// Opens a stream of channels, if its client may listen on all of them.
async fn open(
    (request, identity): (&HttpRequest, &Identity),
    channels: Vec<Channel>,
    parameters: Query<Parameters>,
    (parts, authorizer): (Parts, Data<Authorizer>),
) -> Result<HttpResponse, ApiError> {
    let scope = Scope::Named(permitted(identity, channels, &authorizer).await?);
    // Clients of channels listen for the types that they know.
    let wanted = Wanted::sse(scope, true, parameters.into_inner());
    stream::open(request, identity, wanted, parts).await
}

/// What a poll listens on: channels with commas in between, as they stand in a decoded parameter.
pub(super) async fn scope(
    identity: &Identity,
    names: &str,
    authorizer: &Authorizer,
) -> Result<Scope, ApiError> {
    let channels = collect(names, channel)?;
    Ok(Scope::Named(
        permitted(identity, channels, authorizer).await?,
    ))
}

/// Reads the names of channels, each percent-encoded, with commas in between.
fn parse(names: &str) -> Result<Vec<Channel>, ApiError> {
    collect(names, decode)
}

fn collect(
    names: &str,
    read: impl Fn(&str) -> Result<Channel, ApiError>,
) -> Result<Vec<Channel>, ApiError> {
    let mut channels: Vec<Channel> = Vec::new();
    for name in names.split(',') {
        let channel = read(name)?;
        if !channels.contains(&channel) {
            channels.push(channel);
        }
        if channels.len() > MAX_CHANNELS {
            return Err(ApiError::Channels(MAX_CHANNELS));
        }
    }
    Ok(channels)
}

/// Reads the name of a channel as it stands in an address.
pub(super) fn decode(name: &str) -> Result<Channel, ApiError> {
    let decoded = percent_decode_str(name).decode_utf8();
    let name = decoded.map_err(|_| wrong(format!("{name:?} is not UTF-8, percent-encoded")))?;
    channel(&name)
}

fn channel(name: &str) -> Result<Channel, ApiError> {
    Channel::parse(name).map_err(|error| wrong(error.to_string()))
}

fn wrong(problem: String) -> ApiError {
    ApiError::Invalid {
        field: "channel".into(),
        problem,
    }
}

/// What the token or the backend allows, and what only the user's memberships can.
async fn permitted(
    identity: &Identity,
    channels: Vec<Channel>,
    authorizer: &Authorizer,
) -> Result<NamedChannels, ApiError> {
    let allowed = channels.iter().map(|channel| async {
        identity.may_subscribe(channel) || authorizer.may_subscribe(&identity.user, channel).await
    });
    let allowed = join_all(allowed).await;
    let mut permitted = NamedChannels::default();
    for (channel, allowed) in channels.into_iter().zip(allowed) {
        if allowed {
            permitted.granted.push(channel);
        } else if *channel.resource() == Resource::Chat {
            permitted.as_member.push(ChatId::from(channel.id().clone()));
        } else {
            return Err(ApiError::not_readable(&channel.to_string()));
        }
    }
    Ok(permitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        parse(text)
            .map(|channels| channels.iter().map(ToString::to_string).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_decoded_each_for_itself() {
        assert_eq!(names("job:1").unwrap(), ["job:1"]);
        assert_eq!(names("job:1,chat:2,job:1").unwrap(), ["job:1", "chat:2"]);
        assert_eq!(names("job:%E9%A1%B9%E7%9B%AE").unwrap(), ["job:项目"]);
        assert_eq!(names("user:456:notes.v1~a_b-c").unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_channel_says_why() {
        for (text, says) in [
            ("", "no colon"),
            ("job", "no colon"),
            ("job:1,", "no colon"),
            ("job:", "empty segment"),
            ("j%20b:1", "resource"),
            ("job:a%2Cb", "can't contain ','"),
            ("job:a%20b", "can't contain ' '"),
            ("job:*", "can't contain '*'"),
            ("job:%FF", "not UTF-8"),
        ] {
            let error = names(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
        let many: Vec<String> = (0..=100).map(|number| format!("job:{number}")).collect();
        assert!(names(&many.join(",")).unwrap_err().contains("100"));
    }
}
