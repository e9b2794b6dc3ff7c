//! What clients use where streams or headers don't do: the long poll, tickets, cookies, and a token in
//! the address; and what pages of another origin need.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN, COOKIE, HeaderMap,
    HeaderValue, ORIGIN,
};

use super::finding::{Check, Finding};
use super::pace::seconds;
use super::stream::Stream;
use super::target::Target;

/// How long clients let a poll wait, where the server is left to decide.
const POLL_WAIT: Duration = Duration::from_secs(25);

/// Polls once, waiting as long as clients do, but no longer than `longest`.
pub(super) async fn poll(target: &Target, longest: Duration) -> Finding {
    let check = Check::Poll;
    let first = match target
        .ask(target.request(Method::GET, "/events/poll"))
        .await
    {
        Ok(answer) => answer,
        Err(why) => return check.problem(why, "check that /events/poll gets through"),
    };
    if first.status != 200 {
        let advice = "check that /events/poll gets through to the server";
        return check.problem(first.complaint(), advice);
    }
    let json = first.json().unwrap_or_default();
    let Some(after) = json["last_id"].as_str() else {
        let advice = "check that nothing on the way changes or caches answers";
        return check.problem("an answer without last_id", advice);
    };
    let wait = POLL_WAIT.min(longest);
    let after = utf8_percent_encode(after, NON_ALPHANUMERIC);
    let path = format!("/events/poll?after={after}&wait={}", wait.as_secs_f64());
    let request = target.request(Method::GET, &path);
    match target.ask_patiently(request, wait).await {
        Ok(answer) if answer.status == 200 && answer.json().is_some() => {
            let took = answer.answered - answer.sent;
            check.ok(format!("an answer after {}", seconds(took)))
        }
        Ok(answer) => check.problem(
            format!("a poll that waits {}: {}", seconds(wait), answer.complaint()),
            format!(
                "something on the way gives up before the {} that clients wait: raise its timeout for a \
                 response's head (nginx: proxy_read_timeout)",
                seconds(POLL_WAIT)
            ),
        ),
        Err(why) => check.problem(
            format!("a poll that waits {}: {why}", seconds(wait)),
            "something on the way cuts a request off that waits: raise its timeouts",
        ),
    }
}

/// Gets a ticket and opens a stream with it, without the token.
pub(super) async fn ticket(target: &Target) -> Finding {
    let check = Check::Ticket;
    let answer = match target
        .ask(target.request(Method::POST, "/events/ticket"))
        .await
    {
        Ok(answer) => answer,
        Err(why) => return check.problem(why, "check that POST /events/ticket gets through"),
    };
    let json = answer.json().unwrap_or_default();
    let (200, Some(ticket)) = (answer.status, json["ticket"].as_str()) else {
        let advice = "check that POST /events/ticket gets through to the server";
        return check.problem(answer.complaint(), advice);
    };
    let path = format!(
        "/events?ticket={}",
        utf8_percent_encode(ticket, NON_ALPHANUMERIC)
    );
    let request = target
        .anonymous(Method::GET, &path)
        .header(ACCEPT, "text/event-stream");
    match Stream::open(target, request).await {
        Ok(stream) if stream.response.status() == 200 => check.ok("given, and it opens a stream"),
        Ok(stream) => check.problem(
            format!("given, but the stream answers {}", stream.response.status()),
            "check that queries get through unchanged, and that all instances reach each other over NATS",
        ),
        Err(why) => check.problem(
            format!("given, but the stream does not open: {why}"),
            "the other lines about streams say why",
        ),
    }
}

/// Asks with the token in a cookie alone.
pub(super) async fn cookies(target: &Target) -> Finding {
    let check = Check::Cookies;
    let Ok(mut cookie) = HeaderValue::from_str(&format!("access_token={}", target.token_text))
    else {
        return check.skipped("the token can't stand in a cookie");
    };
    cookie.set_sensitive(true);
    let request = target
        .anonymous(Method::HEAD, "/events")
        .header(COOKIE, cookie);
    let answer = match target.ask(request).await {
        Ok(answer) => answer,
        Err(why) => return check.warning(why, "check what is done with cookies on the way"),
    };
    // Names only: what a load balancer sets for itself is none of our business.
    let set = answer.headers.get_all("set-cookie").iter();
    let set: Vec<&str> = set
        .filter_map(|cookie| cookie.to_str().ok()?.split('=').next())
        .collect();
    let set = match set.is_empty() {
        true => String::new(),
        false => format!("; set on the way: {}", set.join(", ")),
    };
    if answer.status == 200 {
        return check.ok(format!(
            "a token in the cookie access_token gets through{set}"
        ));
    }
    check.warning(
        format!(
            "a token in a cookie does not get through ({}){set}",
            answer.status
        ),
        "only matters to clients that sign in by cookie: have Cookie passed on",
    )
}

/// Asks with the token in the address, which leaves it in the logs of whoever logs addresses.
pub(super) async fn query(target: &Target, wanted: bool) -> Finding {
    let check = Check::Query;
    if !wanted {
        return check.skipped("not asked for (--query-token): addresses are logged on the way");
    }
    let token = utf8_percent_encode(&target.token_text, NON_ALPHANUMERIC);
    let path = format!("/events?access_token={token}");
    match target.ask(target.anonymous(Method::HEAD, &path)).await {
        Ok(answer) if answer.status == 200 => {
            check.ok("a token in the address gets through; prefer tickets")
        }
        Ok(answer) if matches!(answer.status, 400 | 414 | 431) => check.problem(
            format!(
                "refused with {}: the address is too long for something on the way",
                answer.status
            ),
            "use tickets, or allow longer addresses (nginx: large_client_header_buffers)",
        ),
        Ok(answer) => check.problem(
            format!("refused with {}", answer.status),
            "check that queries get through unchanged, or use tickets",
        ),
        Err(why) => check.problem(why, "use tickets"),
    }
}

/// Whether pages of the origin may open and read streams.
pub(super) async fn cors(target: &Target) -> Finding {
    let check = Check::Cors;
    let Some(origin) = &target.origin else {
        return check.skipped("not asked for (--origin https://app.example.com)");
    };
    let preflight = target
        .anonymous(Method::OPTIONS, "/events")
        .header(ORIGIN, origin)
        .header("access-control-request-method", "GET")
        .header(
            "access-control-request-headers",
            "authorization,last-event-id",
        );
    let preflight = target.ask(preflight).await;
    let plain = target.ask(target.request(Method::HEAD, "/events")).await;
    let (preflight, plain) = match (preflight, plain) {
        (Ok(preflight), Ok(plain)) => (preflight, plain),
        (Err(why), _) | (_, Err(why)) => {
            return check.problem(why, "check that OPTIONS and HEAD get through");
        }
    };
    let mut wrong = Vec::new();
    wrong.extend(allows_origin(&preflight.headers, origin).map(|w| format!("preflight: {w}")));
    wrong.extend(allows_origin(&plain.headers, origin).map(|w| format!("answer: {w}")));
    let allowed = preflight
        .headers
        .get_all(ACCESS_CONTROL_ALLOW_HEADERS)
        .iter();
    let allowed: Vec<&str> = allowed.filter_map(|value| value.to_str().ok()).collect();
    let allowed = allowed.join(",").to_ascii_lowercase();
    for header in ["authorization", "last-event-id"] {
        if wrong.is_empty() && !allowed.contains(header) {
            wrong.push(format!(
                "preflight: {header} is not among the allowed headers"
            ));
        }
    }
    if wrong.is_empty() {
        return check.ok(format!("pages of {origin} may read"));
    }
    check.problem(
        wrong.join("; "),
        format!(
            "add {origin} to server.allowed_origins, let OPTIONS through, and have nothing on the way set \
             Access-Control headers as well"
        ),
    )
}

/// What is wrong with the header that lets pages of the origin read.
fn allows_origin(headers: &HeaderMap, origin: &str) -> Option<String> {
    let values: Vec<&str> = headers
        .get_all(ACCESS_CONTROL_ALLOW_ORIGIN)
        .iter()
        .map(|value| value.to_str().unwrap_or("?"))
        .collect();
    match values.as_slice() {
        [] => Some("no Access-Control-Allow-Origin".to_owned()),
        ["*"] => None,
        [one] if *one == origin => None,
        [one] => Some(format!("Access-Control-Allow-Origin is {one:?}")),
        _ => Some("Access-Control-Allow-Origin stands there twice".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_header_allows_one_origin() {
        let origin = "https://app.example.com";
        let judged = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static(value));
            }
            allows_origin(&headers, origin)
        };
        assert_eq!(judged(&["https://app.example.com"]), None);
        assert_eq!(judged(&["*"]), None);
        for wrong in [
            &[][..],
            &["https://app.example.com", "*"],
            &["https://other.example.com"],
        ] {
            assert!(judged(wrong).is_some(), "{wrong:?}");
        }
    }
}
