//! From a request to the identity that it is made in.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::http::header::{AUTHORIZATION, HOST};
use actix_web::web::{Data, Query};
use actix_web::{FromRequest, HttpRequest};
use serde::Deserialize;

use super::bad_tokens::BadTokens;
use super::development::is_loopback;
use super::error::ApiError;
use super::gate::origin;
use super::metrics::Metrics;
use crate::address::Proxies;
use crate::auth::{Identity, TokenError, Verifier};
use crate::event::UserId;
use crate::listener::ClientCertificate;
use crate::peers::Peers;

/// The cookie that can carry a token.
const COOKIE: &str = "access_token";

/// A request whose token was verified.
#[derive(Debug)]
pub(super) struct Authenticated(pub(super) Identity);

/// The same, of somebody who may publish as far as the connection goes: with a certificate, where that is
/// required.
#[derive(Debug)]
pub(super) struct Publisher(pub(super) Identity);

/// Whether administration and publishing take a certificate of the client.
#[derive(Debug, Clone, Copy)]
pub struct ClientCertificates {
    /// Whether they do.
    pub required: bool,
}

/// A request for a stream: what a ticket opens, too, and it does nothing else.
#[derive(Debug)]
pub(super) struct ForStream(pub(super) Identity);

/// A request of somebody who may see and end what others do.
#[derive(Debug)]
pub(super) struct Admin(pub(super) Identity);

/// The parameters that say who asks.
#[derive(Debug, Deserialize)]
struct Parameters {
    access_token: Option<String>,
    ticket: Option<String>,
    user_id: Option<String>,
}

impl FromRequest for Authenticated {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { authenticate(&request, false).await.map(Self) })
    }
}

impl FromRequest for Publisher {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let identity = authenticate(&request, false).await?;
            certified(&request)?;
            Ok(Self(identity))
        })
    }
}

impl FromRequest for ForStream {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        // Whoever only asks for the head gets no stream for the ticket.
        let by_ticket = *request.method() == Method::GET;
        Box::pin(async move { authenticate(&request, by_ticket).await.map(Self) })
    }
}

impl FromRequest for Admin {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let identity = authenticate(&request, false).await?;
            if !identity.grant.admin {
                let why = "this takes the claim notify.admin";
                return Err(ApiError::Forbidden(why.into()));
            }
            certified(&request)?;
            Ok(Self(identity))
        })
    }
}

/// Whether the client has shown a certificate, if it has to.
pub(super) fn certified(request: &HttpRequest) -> Result<(), ApiError> {
    let policy = request.app_data::<Data<ClientCertificates>>();
    let required = policy.is_none_or(|policy| policy.required);
    if required && request.conn_data::<ClientCertificate>().is_none() {
        let why = "this takes a certificate of the client, besides the token";
        return Err(ApiError::Forbidden(why.into()));
    }
    Ok(())
}

async fn authenticate(request: &HttpRequest, by_ticket: bool) -> Result<Identity, ApiError> {
    let (Some(verifier), Some(metrics)) = (
        request.app_data::<Data<Verifier>>(),
        request.app_data::<Data<Metrics>>(),
    ) else {
        return Err(ApiError::Internal("the route has no verifier".into()));
    };
    let parameters = Query::<Parameters>::from_query(request.query_string())
        .map_err(|error| ApiError::Invalid {
            field: "query".into(),
            problem: error.to_string(),
        })?
        .into_inner();
    if !verifier.is_enabled() {
        let named = request.headers().get(HOST);
        let host = match named {
            Some(host) => host.to_str().ok(),
            // HTTP/2 has it in the address.
            None => request
                .uri()
                .authority()
                .map(|authority| authority.as_str()),
        };
        // A page whose name was made to resolve to this machine is not one of its user.
        if !host.is_some_and(is_loopback) {
            return Err(ApiError::Forbidden(
                "without authentication this server answers on localhost and 127.0.0.1 only".into(),
            ));
        }
        return unverified(parameters.user_id);
    }
    let ticket = parameters.ticket.filter(|_| by_ticket);
    let verified = match (ticket, token(request, parameters.access_token)) {
        // Rare, and several times as large as the rest of what a stream is opened with.
        (Some(ticket), _) => Box::pin(redeem(request, verifier, &ticket)).await,
        (None, Some(token)) => verifier.verify(&token).await,
        (None, None) => Err(TokenError::Missing),
    };
    verified.map_err(|error| {
        metrics.refused(&error);
        refused(request, error)
    })
}

/// The answer to a token that is refused. What anybody could have made is counted by the address that it comes
/// from; whose token has only expired, or was revoked, is told so at any rate, and gets another one.
fn refused(request: &HttpRequest, error: TokenError) -> ApiError {
    let counted = request
        .app_data::<Data<Proxies>>()
        .zip(request.app_data::<Data<BadTokens>>())
        .filter(|_| error.is_junk());
    let taken = counted.and_then(|(proxies, bad_tokens)| {
        let address = origin(request, proxies)?.network?;
        Some(bad_tokens.take(address, Instant::now()))
    });
    match taken {
        Some(Err(wait)) => ApiError::BadTokens { error, wait },
        Some(Ok(())) | None => ApiError::Token(error),
    }
}

/// Whom a ticket is for, which any instance may have given. The token that it was given for has to be good still.
async fn redeem(
    request: &HttpRequest,
    verifier: &Verifier,
    ticket: &str,
) -> Result<Identity, TokenError> {
    let peers = request
        .app_data::<Data<Peers>>()
        .ok_or(TokenError::Ticket)?;
    let identity = peers.redeem(ticket).await.ok_or(TokenError::Ticket)?;
    verifier.still_vouches(&identity)?;
    Ok(identity)
}

/// The header first, since it can't be sent by accident; then the parameter, which `EventSource`
/// has to use; then the cookie.
fn token(request: &HttpRequest, parameter: Option<String>) -> Option<String> {
    let header = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then(|| token.trim().to_owned())
        });
    header
        .or(parameter)
        .or_else(|| cookie(request))
        .filter(|token| !token.is_empty())
}

/// Only where nothing is changed: browsers send cookies along with requests that other sites make.
fn cookie(request: &HttpRequest) -> Option<String> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let cookie = reads.then(|| request.cookie(COOKIE))?;
    cookie.map(|cookie| cookie.value().to_owned())
}

fn unverified(user: Option<String>) -> Result<Identity, ApiError> {
    let wrong = |problem: String| ApiError::Invalid {
        field: "user_id".into(),
        problem,
    };
    let text = user.ok_or_else(|| {
        wrong("authentication is off, so the parameter user_id has to say who you are".to_owned())
    })?;
    let user = UserId::parse(&text).map_err(|error| wrong(error.to_string()))?;
    Ok(Identity::unverified(user))
}
