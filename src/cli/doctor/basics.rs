//! What has to work before anything else can: name, port, certificate, health, protocol.

use std::time::Duration;

use reqwest::{Method, Version};

use super::finding::{Check, Finding};
use super::pace::seconds;
use super::target::{Answer, Target};

/// What the first request found.
pub(super) struct Basics {
    pub(super) findings: Vec<Finding>,
    /// The first answer, where there was one that others can build on.
    pub(super) answer: Option<Answer>,
}

pub(super) async fn examine(target: &Target) -> Basics {
    let addresses = match resolve(target).await {
        Ok(addresses) => addresses,
        Err(finding) => return Basics::without_answer(finding),
    };
    let answer = match target.ask(target.anonymous(Method::GET, "/live")).await {
        Ok(answer) => answer,
        Err(why) => return Basics::without_answer(unreachable(target, &addresses, &why)),
    };
    let reachable = reachable(target, &addresses, &answer);
    let found = matches!(reachable.status, super::finding::Status::Ok);
    let protocol = protocol(target.base().scheme() == "https", local(target), &answer);
    Basics {
        findings: vec![reachable, protocol],
        answer: found.then_some(answer),
    }
}

impl Basics {
    fn without_answer(finding: Finding) -> Self {
        Self {
            findings: vec![finding],
            answer: None,
        }
    }
}

async fn resolve(target: &Target) -> Result<String, Finding> {
    let host = target.base().host_str().unwrap_or("").to_owned();
    let port = target.base().port_or_known_default().unwrap_or(443);
    let bare = host.trim_matches(['[', ']']).to_owned();
    let found = tokio::time::timeout(target.timeout, tokio::net::lookup_host((bare, port))).await;
    let problem = |why: String| {
        Check::Reachable.problem(
            format!("the name {host} does not resolve: {why}"),
            "check the name, and its DNS records",
        )
    };
    let found = match found {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(problem(error.to_string())),
        Err(_) => return Err(problem("the name server does not answer".to_owned())),
    };
    let found: Vec<String> = found.map(|address| address.to_string()).collect();
    Ok(found.join(", "))
}

fn unreachable(target: &Target, addresses: &str, why: &str) -> Finding {
    let lower = why.to_ascii_lowercase();
    let advice = if lower.contains("causedasendentity") {
        "what is shown is the certificate of an authority, which no client takes for a server: have the \
         authority issue one for this name (basicConstraints CA:FALSE, the name in subjectAltName), and give \
         the authority's own to clients, and here by --ca-file. `openssl req -x509` makes an authority unless \
         it is told -addext basicConstraints=critical,CA:FALSE"
    } else if lower.contains("certificate") {
        "the certificate is not one that browsers accept for this name: renew it, complete its chain, \
         or, where the authority is your own, name it with --ca-file"
    } else if lower.contains("refused") {
        "nothing listens there: start the proxy or the server, or correct the port"
    } else if target.base().scheme() == "https" && lower.contains("corrupt message") {
        "what listens there does not speak TLS: use http://, or turn TLS on"
    } else {
        "check firewalls and security groups, the port, and what listens there"
    };
    Check::Reachable.problem(format!("{addresses}: {why}"), advice)
}

fn reachable(target: &Target, addresses: &str, answer: &Answer) -> Finding {
    let check = Check::Reachable;
    if let Some(to) = answer.header("location") {
        // Only where it leads, not what with.
        let to = to.split(['?', '#']).next().unwrap_or("");
        return check.problem(
            format!("{addresses}: redirects to {to}"),
            "give clients the address that it leads to: a redirect loses tokens and posted messages",
        );
    }
    if answer.status != 200 {
        return check.problem(
            format!("{addresses}: /live answers {}", answer.complaint()),
            "the proxy answers, but not notify-server behind it: check that it forwards this address, \
             with its path, to instances that run",
        );
    }
    let tls = match target.base().scheme() {
        "https" => ", TLS",
        _ => "",
    };
    let took = answer.answered - answer.sent;
    check.ok(format!(
        "{addresses}{tls}, first answer in {} ms{}",
        took.as_millis(),
        passed(answer)
    ))
}

/// What the answer says that it has come through.
fn passed(answer: &Answer) -> String {
    let named = ["server", "via"]
        .into_iter()
        .filter_map(|name| answer.header(name));
    let named: Vec<&str> = named.collect();
    if named.is_empty() {
        String::new()
    } else {
        format!(", through {}", named.join(", "))
    }
}

/// Whether the address is one of this machine's own, where nobody needs TLS.
fn local(target: &Target) -> bool {
    match target.base().host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn protocol(tls: bool, local: bool, answer: &Answer) -> Finding {
    let check = Check::Protocol;
    let six = "over HTTP/1.1 a browser has six connections to a host, for all tabs together: the \
               seventh stream waits";
    match (answer.version, tls) {
        (Version::HTTP_2 | Version::HTTP_3, _) => check.ok(format!(
            "{:?}: all tabs share one connection",
            answer.version
        )),
        (_, true) => check.warning(
            format!("{:?}: {six}", answer.version),
            "turn HTTP/2 on where TLS ends (nginx: listen 443 ssl http2)",
        ),
        (_, false) if local => check.ok(format!("{:?}, on this machine", answer.version)),
        (_, false) => check.warning(
            format!(
                "{:?} without TLS: anybody on the way can read tokens and messages",
                answer.version
            ),
            format!("put a proxy with TLS and HTTP/2 before the server; {six}"),
        ),
    }
}

pub(super) async fn health(target: &Target) -> Finding {
    let check = Check::Health;
    let answer = match target.ask(target.anonymous(Method::GET, "/health")).await {
        Ok(answer) => answer,
        Err(why) => return check.problem(why, "the proxy answers, the server behind it does not"),
    };
    let json = answer.json().unwrap_or_default();
    let version = json["version"].as_str().unwrap_or("?");
    let problems = || {
        let problems = json["problems"].as_array().into_iter().flatten();
        let problems: Vec<&str> = problems.filter_map(|p| p.as_str()).collect();
        problems.join("; ")
    };
    match (answer.status, json["status"].as_str()) {
        (200, Some("ok")) => {
            let up = Duration::from_secs(json["uptime_secs"].as_u64().unwrap_or(0));
            let connections = json["connections"].as_u64().unwrap_or(0);
            check.ok(format!(
                "notify-server {version}, up {}, {connections} connections",
                humantime::format_duration(up)
            ))
        }
        (200, Some("degraded")) => check.problem(
            format!("notify-server {version} is degraded: {}", problems()),
            "the server's log has the database's own words",
        ),
        (_, Some("unhealthy")) => check.problem(
            format!("notify-server {version} is not ready: {}", problems()),
            "the server's log says more",
        ),
        (401 | 403 | 404, _) => check.warning(
            format!("/health is not served here ({})", answer.status),
            "nothing to do if that is meant: instances can be asked behind the proxy",
        ),
        _ => check.problem(
            answer.complaint(),
            "the proxy answers for the server: check its upstreams",
        ),
    }
}

/// How far the clocks are apart, by the server's own time or the `Date` header.
pub(super) fn clock(skew_ms: Option<i64>, by: &str) -> Finding {
    let check = Check::Clock;
    let Some(skew) = skew_ms else {
        return check.warning(
            "no answer says what time the server has",
            "let the Date header through",
        );
    };
    let apart = Duration::from_millis(skew.unsigned_abs());
    let side = if skew > 0 { "ahead" } else { "behind" };
    let detail = format!("the server's clock is {} {side} ({by})", seconds(apart));
    let advice = "have both machines keep time by NTP: tokens seem expired or not yet valid";
    match apart.as_secs() {
        // Half a second is what the header's resolution can't tell apart.
        0 | 1 => check.ok(format!(
            "at most {} apart ({by})",
            seconds(apart.max(Duration::from_millis(100)))
        )),
        2..30 => check.warning(detail, advice),
        _ => check.problem(detail, advice),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn clocks_are_judged_by_how_far_they_are_apart() {
        for (skew, status) in [
            (Some(0), Status::Ok),
            (Some(-1_500), Status::Ok),
            (Some(5_000), Status::Warning),
            (Some(-45_000), Status::Problem),
            (Some(i64::MIN), Status::Problem),
            (None, Status::Warning),
        ] {
            assert_eq!(clock(skew, "by Date").status, status, "{skew:?}");
        }
        assert!(clock(Some(-45_000), "x").detail.contains("45 s behind"));
        assert!(clock(Some(45_000), "x").detail.contains("45 s ahead"));
    }
}
