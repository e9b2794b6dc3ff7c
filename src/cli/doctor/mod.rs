//! `doctor`: examines a deployed server from here, through whatever stands before it, as a browser
//! would use it.
//!
//! The address is asked for its name, port and health first. If something answers, the checks of
//! streams, fallbacks and headers run at the same time, so that all of it takes about as long as the
//! longest: the quiet stream. Judgements are pure (`pace`, `finding`, `report`); the rest asks.
//! Every request and every read has a deadline, every body a bound.

mod basics;
mod fallback;
mod finding;
mod live;
mod pace;
mod report;
mod steady;
mod stream;
mod target;
mod token;

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use actix_web::http::header::HttpDate;
use anyhow::{Context as _, bail};
use clap::Args;
use url::Url;

use finding::{Check, Finding};
use report::Report;
use target::{Answer, Target};

/// The exit code for wrong arguments.
const USAGE: u8 = 2;

/// The longest token that is read from standard input, in bytes.
const MAX_TOKEN: u64 = 64 * 1024;

/// What to examine, and how thoroughly.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The address as clients have it, e.g. https://notify.example.com
    #[arg(value_parser = address)]
    url: Url,
    /// A token that the server accepts; - reads it from standard input, which keeps it out of the list
    /// of processes
    #[arg(long, env = "NOTIFY_TOKEN", hide_env_values = true)]
    token: String,
    /// Hold a quiet stream for so long; 0s leaves that out
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    idle: Duration,
    /// How long to wait for an answer or a first byte
    #[arg(long, default_value = "10s", value_parser = patience)]
    timeout: Duration,
    /// Whether pages of this origin may use the server, e.g. https://app.example.com
    #[arg(long, value_parser = origin)]
    origin: Option<String>,
    /// Publish a test event to the token's own user and wait for it
    #[arg(long)]
    publish: bool,
    /// Also send the token in the address once, where logs on the way may keep it
    #[arg(long)]
    query_token: bool,
    /// Also trust the certificate authorities in this PEM file
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let target = match target(&arguments) {
        Ok(target) => target,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    if !arguments.json {
        let longest = arguments.idle.max(Duration::from_secs(5)) + target.timeout;
        eprintln!(
            "examining, which takes up to about {}",
            humantime::format_duration(longest)
        );
    }
    let findings = examine(&target, &arguments).await;
    let report = Report::new(target.base().as_str(), findings);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(if report.has_problems() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn target(arguments: &Arguments) -> anyhow::Result<Target> {
    let authority = match &arguments.ca_file {
        Some(file) => Some(std::fs::read(file).with_context(|| format!("{}", file.display()))?),
        None => None,
    };
    Target::new(
        arguments.url.clone(),
        token_text(&arguments.token)?,
        authority.as_deref(),
        arguments.timeout,
        arguments.origin.clone(),
    )
}

fn token_text(argument: &str) -> anyhow::Result<String> {
    let mut text = argument.to_owned();
    if argument == "-" {
        text.clear();
        std::io::stdin()
            .take(MAX_TOKEN)
            .read_to_string(&mut text)
            .context("the token on standard input")?;
    }
    let text = text.trim();
    if text.is_empty() {
        bail!("the token is empty");
    }
    Ok(text.to_owned())
}

async fn examine(target: &Target, arguments: &Arguments) -> Vec<Finding> {
    let basics = basics::examine(target).await;
    let mut findings = basics.findings;
    let Some(first) = basics.answer else {
        return findings;
    };
    let (health, (token, accepted)) = tokio::join!(basics::health(target), token::examine(target));
    findings.extend([health, token]);
    let by_header = clock_by_header(&first);
    if !accepted {
        findings.push(basics::clock(by_header, BY_HEADER));
        findings.push(fallback::cors(target).await);
        return findings;
    }
    let idle = arguments.idle;
    let (live, buffering, compression, quiet, cors, cookies, query, poll, ticket) = tokio::join!(
        live::examine(target, arguments.publish),
        steady::buffering(target),
        steady::compression(target),
        steady::idle(target, idle),
        fallback::cors(target),
        fallback::cookies(target),
        fallback::query(target, arguments.query_token),
        fallback::poll(target, idle),
        fallback::ticket(target),
    );
    findings.push(match live.skew_ms {
        Some(skew) => basics::clock(Some(skew), "by the stream's confirmation"),
        None => basics::clock(by_header, BY_HEADER),
    });
    findings.extend(live.findings);
    findings.extend([
        buffering,
        compression,
        quiet,
        cors,
        cookies,
        query,
        poll,
        ticket,
    ]);
    if !arguments.publish {
        findings.push(Check::Publish.skipped("not asked for (--publish)"));
    }
    findings
}

const BY_HEADER: &str = "by the Date header, which may be a proxy's";

/// How far the clock behind the `Date` header is ahead of this one, in milliseconds. The header has
/// whole seconds, so that it is taken to mean their middle.
fn clock_by_header(answer: &Answer) -> Option<i64> {
    let date: HttpDate = answer.header("date")?.parse().ok()?;
    let date = SystemTime::from(date) + Duration::from_millis(500);
    // The answer was made about half way between the request and its arrival.
    let here = SystemTime::now() - answer.answered.elapsed() - (answer.answered - answer.sent) / 2;
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).ok();
    match date.duration_since(here) {
        Ok(ahead) => millis(ahead),
        Err(behind) => Some(-millis(behind.duration())?),
    }
}

/// Parses the address that is examined.
fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text)
        .map_err(|error| format!("{error}; an address is https://HOST[:PORT][/PATH]"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("an address begins with http:// or https:// and names a host".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(
            "give the address alone, without a query: a token goes into --token".to_owned(),
        );
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("give the address without user and password".to_owned());
    }
    Ok(url)
}

fn origin(text: &str) -> Result<String, String> {
    let wrong = || "an origin is scheme, host and port, e.g. https://app.example.com".to_owned();
    let url = Url::parse(text).map_err(|_| wrong())?;
    let origin = url.origin().ascii_serialization();
    match text.trim_end_matches('/') == origin {
        true => Ok(origin),
        false => Err(wrong()),
    }
}

fn patience(text: &str) -> Result<Duration, String> {
    let timeout = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match timeout.is_zero() {
        true => Err("nothing answers in no time".to_owned()),
        false => Ok(timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_hold_no_secrets() {
        assert!(address("https://notify.example.com/base/").is_ok());
        assert!(address("http://[::1]:6687").is_ok());
        for wrong in [
            "notify.example.com",
            "ftp://notify.example.com",
            "https://notify.example.com/events?access_token=x",
            "https://user:password@notify.example.com",
            "https://",
        ] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_origin_has_no_path() {
        assert_eq!(
            origin("https://app.example.com/").as_deref(),
            Ok("https://app.example.com")
        );
        for wrong in ["app.example.com", "https://app.example.com/page", "null"] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }
}
