//! What the token says of itself, and what the server says to it. The token is not verified here:
//! only the server has the key.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use notify_server::event::Timestamp;
use reqwest::Method;
use serde_json::Value;

use super::finding::{Check, Finding};
use super::target::{Answer, Target};

/// A token that lasts no longer than this, in seconds, ends while it is being looked at.
const SHORT: i64 = 120;

/// The readable part of a token.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    algorithm: String,
    issuer: Option<String>,
    expires: Option<i64>,
    not_before: Option<i64>,
    issued: Option<i64>,
}

/// Judges the token, and whether the server accepts it.
pub(super) async fn examine(target: &Target) -> (Finding, bool) {
    let claims = Claims::read(&target.token_text);
    let request = target.request(Method::HEAD, "/events");
    let answer = match target.ask(request).await {
        Ok(answer) => answer,
        Err(why) => {
            let advice = "the address answers, /events does not: check what the proxy does with it";
            return (Check::Token.problem(why, advice), false);
        }
    };
    let now = i64::try_from(Timestamp::now().as_millis() / 1000).unwrap_or(i64::MAX);
    match answer.status {
        200 => (accepted(claims.as_ref(), now), true),
        401 => (refused(claims.as_ref(), &answer, now), false),
        429 | 503 => {
            let advice = "the server takes no tokens, or no streams, at the moment: /health and its log have the reason";
            (
                Check::Token.problem(why(target, &answer).await, advice),
                false,
            )
        }
        _ => {
            let advice = "the token was not even looked at: check what answers /events";
            (Check::Token.problem(answer.complaint(), advice), false)
        }
    }
}

/// Why there is no stream, which an answer without a body can't say.
async fn why(target: &Target, head: &Answer) -> String {
    match target.head(target.stream("/events"), Duration::ZERO).await {
        Ok(answer) if !answer.status().is_success() => target.complaint(answer).await,
        Ok(_) | Err(_) => head.status_text(),
    }
}

fn accepted(claims: Option<&Claims>, now: i64) -> Finding {
    let check = Check::Token;
    let Some(claims) = claims else {
        return check.ok("accepted, although it can't be read here");
    };
    let said = claims.said();
    match claims.expires {
        Some(expires) if expires - now < SHORT => check.warning(
            format!("accepted, but it expires in {} s ({said})", expires - now),
            "streams end when their token expires: give clients tokens that last at least some minutes, and \
             have them renewed in time",
        ),
        Some(expires) => check.ok(format!("accepted, {said}, expires in {}", span(expires - now))),
        None => check.ok(format!("accepted, {said}")),
    }
}

fn refused(claims: Option<&Claims>, answer: &Answer, now: i64) -> Finding {
    let check = Check::Token;
    let challenge = answer.header("www-authenticate").unwrap_or("");
    let Some(reason) = description(challenge) else {
        return check.problem(
            "refused (401), and not by notify-server",
            "something on the way asks for credentials of its own: let /events and /api through",
        );
    };
    let detail = format!("refused: {reason}");
    let Some(claims) = claims else {
        return check.problem(
            detail,
            "this is no JSON Web Token: three parts with dots between",
        );
    };
    if challenge.contains("invalid_request") && reason.contains("no token") {
        return check.problem(
            detail,
            "it was sent in the Authorization header, which something on the way takes away",
        );
    }
    let said = claims.said();
    if let Some(expires) = claims.expires.filter(|expires| *expires <= now) {
        return check.problem(
            format!("{detail}; it expired {} ago ({said})", span(now - expires)),
            "sign in again for a new one",
        );
    }
    if let Some(from) = claims.not_before.or(claims.issued).filter(|at| *at > now) {
        return check.problem(
            format!("{detail}; it is good from {} on ({said})", span(from - now)),
            "the clock of whoever issued it is ahead",
        );
    }
    check.problem(
        format!("{detail} ({said})"),
        "compare with auth.keys, auth.issuer and auth.audience of the server",
    )
}

impl Claims {
    /// Reads a token; `None` where it is none.
    fn read(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (header, payload) = (parts.next()?, parts.next()?);
        parts.next()?;
        let header = part(header)?;
        let payload = part(payload)?;
        let at = |name: &str| payload[name].as_f64().map(|secs| secs as i64);
        Some(Self {
            algorithm: header["alg"].as_str().map_or_else(|| "?".to_owned(), shown),
            issuer: payload["iss"].as_str().map(shown),
            expires: at("exp"),
            not_before: at("nbf"),
            issued: at("iat"),
        })
    }

    fn said(&self) -> String {
        let issuer = self.issuer.as_deref().unwrap_or("no issuer named");
        format!("{}, {issuer}", self.algorithm)
    }
}

fn part(text: &str) -> Option<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let json: Value = serde_json::from_slice(&bytes).ok()?;
    json.is_object().then_some(json)
}

/// Text of a stranger, short and harmless to a terminal.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

fn description(challenge: &str) -> Option<&str> {
    let (_, rest) = challenge.split_once("error_description=\"")?;
    Some(rest.split_once('"')?.0)
}

/// A number of seconds in words.
fn span(seconds: i64) -> String {
    let seconds = std::time::Duration::from_secs(seconds.unsigned_abs());
    humantime::format_duration(seconds).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn token(claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(&json!({"alg": "EdDSA"})), part(claims))
    }

    #[test]
    fn what_a_token_says_is_read() {
        let text = token(&json!({"iss": "https://id.example.com", "exp": 1000.5, "nbf": 7}));
        let claims = Claims::read(&text).unwrap();
        assert_eq!(claims.said(), "EdDSA, https://id.example.com");
        assert_eq!(claims.expires, Some(1000));
        assert_eq!(claims.not_before, Some(7));
        let finding = accepted(Some(&claims), 0);
        assert_eq!(finding.status, Status::Ok);
        assert!(finding.detail.contains("16m 40s"), "{}", finding.detail);
        assert_eq!(accepted(Some(&claims), 990).status, Status::Warning);
    }

    #[test]
    fn the_servers_reason_is_found() {
        let challenge =
            "Bearer error=\"invalid_token\", error_description=\"the token has expired\"";
        assert_eq!(description(challenge), Some("the token has expired"));
        assert_eq!(description("Basic realm=\"office\""), None);
    }

    proptest! {
        #[test]
        fn anything_can_be_given_as_a_token(text in "\\PC{0,60}", claims in "[ -~]{0,40}") {
            let _ = Claims::read(&text);
            let part = URL_SAFE_NO_PAD.encode(claims);
            let _ = Claims::read(&format!("{part}.{part}."));
        }
    }
}
