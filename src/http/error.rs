//! The one error type of the HTTP interface, and the only place that chooses status codes.
//! Errors are `application/problem+json` (RFC 9457).

use std::borrow::Cow;
use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use actix_web::error::{JsonPayloadError, PayloadError, QueryPayloadError};
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use serde::Serialize;
use tracing::{debug, warn};
use utoipa::ToSchema;
use uuid::Uuid;

use rand::Rng as _;

use super::rate::seconds;
use crate::acknowledgements::AckError;
use crate::auth::TokenError;
use crate::bus::PublishError;
use crate::causes::Causes;
use crate::database::DatabaseError;
use crate::event::decode::Rejection;
use crate::hub::admission::Refusal;
use crate::limits::Limit;
use crate::membership;
use crate::messages::MessageError;
use crate::revocation::RevokeError;

/// When a client should ask again after the server could not serve it, in seconds.
const RETRY_AFTER_SECS: u64 = 2;

/// The seconds over which those come back who met a limit, so that they do not meet it again together.
const SPREAD_SECS: u64 = 8;

/// The most characters of an answer's words, and of a field's name.
const LONGEST: usize = 1_000;

/// Everything that a request can fail with.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The token is missing or refused.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token is refused, as were many others from the same address.
    #[error("too many bad tokens come from this address, and this is one more: {error}")]
    BadTokens {
        /// Why this one is refused.
        #[source]
        error: TokenError,
        /// When one is answered for itself again.
        wait: Duration,
    },
    /// The token that metrics are read with is missing or wrong.
    #[error("the metrics take the configured token as `Authorization: Bearer`")]
    Scrape,
    /// The token does not allow this.
    #[error("{0}")]
    Forbidden(Cow<'static, str>),
    /// There are as many connections as there may be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database can't say what it is asked.
    #[error("{}", .0.fault())]
    Database(#[from] DatabaseError),
    /// The database can't say which chats a user is in.
    #[error("the user's chats could not be looked up: {}", membership::problem(.0.fault()))]
    Chats(#[source] DatabaseError),
    /// The database can't say who is in a chat.
    #[error("the database does not say who is in the chat, which takes database.members_query")]
    Members(#[source] DatabaseError),
    /// The bus does not take the message.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// What is asked for takes tables that the database does not have.
    #[error(transparent)]
    NotInstalled(MessageError),
    /// A message can't be acknowledged.
    #[error(transparent)]
    Acknowledgement(#[from] AckError),
    /// A payload is no event.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// A part of the request can't be used.
    #[error("{field}: {problem}")]
    Invalid {
        /// Which part: a parameter, or a path in the body such as `messages[3].target.user_id`.
        field: Cow<'static, str>,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// Nothing more can be revoked.
    #[error(transparent)]
    Revocation(RevokeError),
    /// Too much of something is open for the moment.
    #[error("the server is busy")]
    Busy,
    /// The user publishes too much.
    #[error("more messages than may be published")]
    TooMany {
        /// When there may be more.
        wait: Duration,
    },
    /// Too many channels for one stream.
    #[error("channel: a stream has up to {0} channels")]
    Channels(usize),
    /// Too many requests of one connection wait for their answer.
    #[error("too many requests of this connection wait for their answer")]
    Crowded,
    /// The address is longer than allowed.
    #[error("the address is longer than the {0} bytes that are accepted")]
    LongUri(usize),
    /// The headers are longer than allowed.
    #[error("the headers are larger than the {0} bytes that are accepted")]
    LongHeaders(usize),
    /// The body has not come in time.
    #[error("the body has not come in time")]
    SlowBody,
    /// A page of another origin may not do what its browser asks for on its behalf.
    #[error("{header}: {problem}")]
    Preflight {
        /// The header that asks for it.
        header: &'static str,
        /// What is wrong and what would be right.
        problem: Cow<'static, str>,
    },
    /// It can't be said for certain where the request ends.
    #[error("{0}")]
    Framing(&'static str),
    /// The body is longer than allowed.
    #[error("the body is larger than the {0} bytes that are accepted")]
    TooLarge(usize),
    /// There is nothing at this address.
    #[error("there is nothing at this address")]
    NotFound,
    /// The address exists, the method does not.
    #[error("this address takes {0}")]
    MethodNotAllowed(&'static str),
    /// The server failed.
    #[error("the server failed")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What is wrong with a request, or with the server (RFC 9457).
#[derive(Serialize, ToSchema)]
pub(super) struct Problem<'a> {
    /// The kind is told by the status.
    #[schema(example = "about:blank")]
    r#type: &'static str,
    /// The status in words.
    #[schema(example = "Unprocessable Entity")]
    title: &'static str,
    #[schema(minimum = 400, maximum = 599, example = 422)]
    status: u16,
    /// What is wrong, and what would be right.
    #[schema(
        example = "channel: a channel is {resource}:{id}, e.g. job:123; \"job\" has no colon"
    )]
    detail: &'a str,
    /// The parameter, the path in the body, e.g. `messages[3].target.user_id`, or the header of a CORS preflight.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, example = "channel")]
    field: Option<Cow<'static, str>>,
    /// What the server's log has it under.
    #[schema(format = "uuid", example = "6b6c2a4e-2a3b-4ef1-9a0f-3a1d6f0f6a55")]
    request_id: &'a str,
}

impl ApiError {
    /// The token does not allow listening on a channel.
    pub(super) fn not_readable(channel: &str) -> Self {
        Self::Forbidden(
            format!(
                "the token may not listen on {channel}: it takes a pattern of the claim \
                 notify.subscribe, one's own user channel, or membership in the chat"
            )
            .into(),
        )
    }

    /// The token does not allow publishing to a channel.
    pub(super) fn not_writable(channel: &str) -> Self {
        Self::Forbidden(
            format!(
                "the token may not publish to {channel}: it takes a pattern of the claim \
                 notify.publish"
            )
            .into(),
        )
    }

    /// The field of a request that is wrong, where one is.
    pub(super) fn field(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Invalid { field, .. } => Some(field.clone()),
            Self::Preflight { header, .. } => Some((*header).into()),
            Self::Publish(PublishError::Subject(_)) => Some("subject".into()),
            Self::Rejected(_) => Some("body".into()),
            Self::Channels(_) => Some("channel".into()),
            _ => None,
        }
    }

    /// The status that says what kind of error it is.
    pub(super) fn status(&self) -> StatusCode {
        self.status_code()
    }

    /// The limit that was met, if one was.
    pub(super) fn limit(&self) -> Option<Limit> {
        Some(match self {
            Self::Refused(refusal) => match refusal {
                Refusal::Full(_) => Limit::Connections,
                Refusal::UserFull(_) => Limit::UserConnections,
                Refusal::AddressFull(_) => Limit::AddressConnections,
                Refusal::TooFast(_) => Limit::ConnectionRate,
                Refusal::AddressTooFast(_) => Limit::AddressConnectionRate,
                Refusal::Memory => Limit::Memory,
                Refusal::Stopping => return None,
            },
            Self::TooMany { .. } => Limit::PublishRate,
            Self::BadTokens { .. } => Limit::BadTokens,
            Self::Channels(_) => Limit::Channels,
            Self::Crowded => Limit::Requests,
            Self::LongUri(_) => Limit::Uri,
            Self::LongHeaders(_) => Limit::Headers,
            Self::SlowBody => Limit::SlowBody,
            Self::TooLarge(_) => Limit::Body,
            Self::Rejected(Rejection::TooLarge { .. })
            | Self::Publish(PublishError::TooLarge(_)) => Limit::Payload,
            _ => return None,
        })
    }

    /// When a client should ask again, in seconds.
    fn retry_after(&self) -> u64 {
        let spread = || rand::rng().random_range(0..=SPREAD_SECS);
        match self {
            Self::TooMany { wait } => seconds(*wait).max(1),
            Self::BadTokens { wait, .. } => seconds(*wait).max(1) + spread(),
            Self::Refused(Refusal::TooFast(wait) | Refusal::AddressTooFast(wait)) => {
                seconds(*wait).max(1) + spread()
            }
            // At once: another instance takes whoever comes back.
            Self::Refused(Refusal::Stopping) => RETRY_AFTER_SECS,
            Self::Refused(_) => RETRY_AFTER_SECS + spread(),
            _ => RETRY_AFTER_SECS,
        }
    }
}

impl From<RevokeError> for ApiError {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::Order(wrong) => Self::Invalid {
                field: wrong.field.into(),
                problem: wrong.problem.into_owned(),
            },
            full @ RevokeError::Full => Self::Revocation(full),
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Token(error) if error.is_ours() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Database(_) | Self::Chats(_) | Self::Members(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Token(_) | Self::Scrape => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Refused(
                Refusal::UserFull(_) | Refusal::AddressFull(_) | Refusal::AddressTooFast(_),
            )
            | Self::TooMany { .. }
            | Self::BadTokens { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused(_) | Self::Crowded => StatusCode::SERVICE_UNAVAILABLE,
            Self::LongUri(_) => StatusCode::URI_TOO_LONG,
            Self::LongHeaders(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Framing(_) | Self::Preflight { .. } => StatusCode::BAD_REQUEST,
            Self::Channels(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Rejected(Rejection::TooLarge { .. })
            | Self::TooLarge(_)
            | Self::Publish(PublishError::TooLarge(_)) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Publish(PublishError::Subject(_)) | Self::Rejected(_) | Self::Invalid { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::Publish(_) | Self::Busy | Self::Revocation(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Acknowledgement(AckError::Full | AckError::Taken) => StatusCode::CONFLICT,
            Self::Acknowledgement(AckError::Bucket(_)) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound | Self::Acknowledgement(AckError::Unknown) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotInstalled(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        let request_id = Uuid::new_v4().to_string();
        let detail = shortened(self.to_string());
        self.log(&request_id, status);
        let mut response = HttpResponse::build(status);
        response.insert_header((CONTENT_TYPE, "application/problem+json"));
        match self {
            Self::Token(error) if status == StatusCode::UNAUTHORIZED => {
                response.insert_header((WWW_AUTHENTICATE, challenge(error)));
            }
            Self::Scrape => {
                response.insert_header((WWW_AUTHENTICATE, "Bearer realm=\"metrics\""));
            }
            Self::MethodNotAllowed(allow) => {
                response.insert_header((ALLOW, *allow));
            }
            _ if matches!(
                status,
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
            ) =>
            {
                response.insert_header((RETRY_AFTER, self.retry_after()));
            }
            _ => {}
        }
        response.json(Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: &detail,
            field: self.field().map(|field| match field {
                Cow::Owned(field) => shortened(field).into(),
                known => known,
            }),
            request_id: &request_id,
        })
    }
}

impl ApiError {
    /// The causes are for the operator; the answer only has the request id to find them by.
    fn log(&self, request_id: &str, status: StatusCode) {
        let causes = shortened(Causes(self).to_string());
        // Limits have lines of their own, no more than so many.
        if status.is_server_error() && self.limit().is_none() {
            warn!(
                request_id,
                status = status.as_u16(),
                error = causes,
                "request failed"
            );
        } else {
            debug!(
                request_id,
                status = status.as_u16(),
                error = causes,
                "request refused"
            );
        }
    }
}

/// An answer, and a line of the log, quotes what was sent, and that may be long.
fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The challenge of RFC 6750: which kind of error, and in words which one.
fn challenge(error: &TokenError) -> String {
    let kind = match error {
        TokenError::Missing | TokenError::TooLarge(..) => "invalid_request",
        _ => "invalid_token",
    };
    // The grammar of a quoted string has no place for these.
    let words: String = error
        .to_string()
        .chars()
        .filter(|c| c.is_ascii_graphic() || *c == ' ')
        .filter(|c| !matches!(c, '"' | '\\'))
        .collect();
    format!("Bearer error=\"{kind}\", error_description=\"{words}\", realm=\"notify-server\"")
}

/// For addresses that do not exist.
pub(super) async fn not_found() -> Result<HttpResponse, ApiError> {
    Err(ApiError::NotFound)
}

/// For parameters that can't be read.
pub(super) fn query(error: QueryPayloadError, _: &HttpRequest) -> actix_web::Error {
    ApiError::Invalid {
        field: "query".into(),
        problem: error.to_string(),
    }
    .into()
}

/// For bodies that can't be read.
pub(super) fn body(error: &actix_web::Error, limit: usize) -> ApiError {
    match error.as_error::<PayloadError>() {
        Some(error) => payload(error, limit),
        None => unreadable(error),
    }
}

/// For JSON bodies that can't be read.
pub(super) fn json(error: JsonPayloadError, _: &HttpRequest) -> actix_web::Error {
    match error {
        JsonPayloadError::OverflowKnownLength { limit, .. }
        | JsonPayloadError::Overflow { limit } => ApiError::TooLarge(limit),
        JsonPayloadError::Payload(error) => payload(&error, super::MAX_BODY),
        other => unreadable(&other),
    }
    .into()
}

fn payload(error: &PayloadError, limit: usize) -> ApiError {
    match error {
        PayloadError::Overflow => ApiError::TooLarge(limit),
        PayloadError::Io(error) if error.kind() == ErrorKind::TimedOut => ApiError::SlowBody,
        PayloadError::Incomplete(_) => unreadable(&"it ends before its end"),
        PayloadError::EncodingCorrupted => unreadable(&"its chunks are not well-formed"),
        other => unreadable(other),
    }
}

fn unreadable(problem: &dyn fmt::Display) -> ApiError {
    ApiError::Invalid {
        field: "body".into(),
        problem: problem.to_string(),
    }
}
