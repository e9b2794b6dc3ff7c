//! Values that are of the right type and still can't be meant.

use std::time::Duration;

use super::problem::Problem;
use super::{Config, Mode};
use crate::auth;
use crate::bus::subject::{Pattern, check_publish};
use crate::bus::{LogKind, nats};
use crate::causes::Causes;
use crate::database::Kind;
use crate::http::Origins;
use crate::trace::TracingError;

/// The longest that somebody who has gone may count as online.
const LONGEST_GRACE: Duration = Duration::from_secs(300);

/// The most spans of recipients that one event may have.
const MAX_RECIPIENTS: usize = 1_000;

/// Everything that is wrong.
pub(super) fn check(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    bounds(config, &mut problems);
    exposure(config, &mut problems);
    subjects(config, &mut problems);
    log(config, &mut problems);
    service(config, &mut problems);
    authorize(config, &mut problems);
    database(config, &mut problems);
    origins(config, &mut problems);
    sign_in(config, &mut problems);
    limits(config, &mut problems);
    keys(config, &mut problems);
    files(config, &mut problems);
    metrics(config, &mut problems);
    tracing(config, &mut problems);
    if let Err(error) = config.logging.filter() {
        problems.push(
            Problem::at("logging.level", error.to_string()).with_value(&config.logging.level),
        );
    }
    problems
}

fn bounds(config: &Config, problems: &mut Vec<Problem>) {
    let (server, stream) = (&config.server, &config.stream);
    let counts = [
        ("server.max_connections", server.max_connections),
        (
            "server.max_connections_per_user",
            server.max_connections_per_user,
        ),
        ("server.publish_rate", server.publish_rate as usize),
        ("server.publish_burst", server.publish_burst as usize),
        ("stream.outbox_events", stream.outbox_events),
        ("stream.outbox_bytes", stream.outbox_bytes.bytes()),
        ("stream.reconnect_rate", stream.reconnect_rate as usize),
        (
            "database.max_connections",
            config.database.max_connections as usize,
        ),
        ("source.batch", config.source.batch),
        ("nats.pending_limit", config.nats.pending_limit),
        ("events.max_payload", config.events.max_payload.bytes()),
        ("auth.max_token_bytes", config.auth.max_token_bytes),
        ("presence.max_listeners", config.presence.max_listeners),
        ("explain.max_events", config.explain.max_events),
        ("explain.max_bytes", config.explain.max_bytes.bytes()),
        ("explain.max_sessions", config.explain.max_sessions),
        ("tracing.queue", config.tracing.queue),
        ("tracing.max_recipients", config.tracing.max_recipients),
    ];
    for (key, value) in counts {
        if value == 0 {
            problems.push(Problem::at(key, "must be at least 1").with_value(value));
        }
    }
    let tenth = Duration::from_millis(100);
    let periods = [
        ("stream.ping_interval", stream.ping_interval, tenth),
        ("stream.write_timeout", stream.write_timeout, tenth),
        ("stream.retry", stream.retry, Duration::from_millis(1)),
        ("database.timeout", config.database.timeout, tenth),
        ("auth.jwks_refresh", config.auth.jwks_refresh, tenth),
        ("authorize.timeout", config.authorize.timeout, tenth),
        (
            "source.poll_interval",
            config.source.poll_interval,
            Duration::from_millis(10),
        ),
        ("tls.reload", config.tls.reload, tenth),
        ("tracing.timeout", config.tracing.timeout, tenth),
        ("tracing.interval", config.tracing.interval, tenth),
        (
            "auth.revocation_age",
            config.auth.revocation_age,
            Duration::from_secs(60),
        ),
    ];
    for (key, value, least) in periods {
        if value.0 < least {
            let least = humantime::format_duration(least);
            problems.push(Problem::at(key, format!("must be at least {least}")).with_value(value));
        }
    }
    let grace = config.presence.grace;
    if grace.0 > LONGEST_GRACE {
        let longest = humantime::format_duration(LONGEST_GRACE);
        problems.push(
            Problem::at("presence.grace", format!("must be at most {longest}")).with_value(grace),
        );
    }
}

/// Development mode and servers without authentication are for one's own machine.
fn exposure(config: &Config, problems: &mut Vec<Problem>) {
    let host = config.host();
    let public = !host.is_loopback();
    if config.mode == Mode::Production && config.auth.enabled && config.auth.keys.is_empty() {
        problems.push(Problem::at(
            "auth.keys",
            "production needs a key to verify tokens with: set JWT_SECRET or auth.keys",
        ));
    }
    if config.mode == Mode::Auto && config.is_development() && config.database.url.is_some() {
        problems.push(Problem::at(
            "auth.keys",
            "there is a database but no key to verify tokens with: set JWT_SECRET or auth.keys, or \
             say mode: development if tokens for anyone are meant to be had for the asking",
        ));
    }
    if public && config.is_development() {
        let why = match config.mode {
            Mode::Auto => {
                "without a key to verify tokens with the server runs in development mode, \
                 which is for loopback addresses only: set JWT_SECRET or auth.keys, or listen on \
                 127.0.0.1"
            }
            _ => {
                "development mode is for loopback addresses only: listen on 127.0.0.1 or ::1, \
                 or set mode: production"
            }
        };
        problems.push(Problem::at("server.host", why).with_value(host));
    } else if public && !config.auth.enabled {
        let why = "without authentication anyone can be anyone, so the server listens on \
                   loopback addresses only: enable auth, or listen on 127.0.0.1";
        problems.push(Problem::at("server.host", why).with_value(host));
    }
}

fn subjects(config: &Config, problems: &mut Vec<Problem>) {
    let key = "nats.subjects";
    if config.nats.subjects.is_empty() {
        problems.push(Problem::at(key, "must name at least one subject"));
    }
    if let Err(error) = nats::connect::check(&config.nats) {
        problems.push(Problem::at("nats.url", Causes(&error).to_string()));
    }
    let patterns: Vec<Pattern> = match config.nats.distinct_patterns() {
        Ok(patterns) => patterns,
        Err(error) => return problems.push(Problem::at(key, error.to_string())),
    };
    for (index, one) in patterns.iter().enumerate() {
        for other in &patterns[index + 1..] {
            if one.overlaps(other) {
                let why = format!(
                    "{one} and {other} match the same subjects, whose messages would arrive twice"
                );
                problems.push(Problem::at(key, why));
            }
        }
    }
}

/// The log, where it is a JetStream stream.
fn log(config: &Config, problems: &mut Vec<Problem>) {
    let jetstream = &config.jetstream;
    if config.nats.url.is_empty() && config.log == LogKind::Jetstream {
        let why = "a log in JetStream needs NATS: set nats.url or NATS_URL";
        problems.push(Problem::at("log", why));
    }
    // What the NATS server takes for a stream's name.
    let named = |c: char| !c.is_whitespace() && !c.is_control() && !".*>/\\".contains(c);
    let name = &jetstream.stream;
    if name.is_empty() || name.len() > 255 || !name.chars().all(named) {
        let why = "a stream's name has 1 to 255 characters, no white space, none of . * > / \\";
        problems.push(Problem::at("jetstream.stream", why).with_value(name));
    }
    if !(1..=5).contains(&jetstream.replicas) {
        problems.push(
            Problem::at("jetstream.replicas", "must be from 1 to 5").with_value(jetstream.replicas),
        );
    }
    let periods = [
        ("jetstream.max_age", jetstream.max_age, 1_000, u64::MAX),
        // Longer than this, and the copies of a message are not recognised as twins any more.
        ("jetstream.park", jetstream.park, 50, 15_000),
    ];
    for (key, value, least, most) in periods {
        if value.as_millis() < least || value.as_millis() > most {
            let least = humantime::format_duration(Duration::from_millis(least));
            let why = if most == u64::MAX {
                format!("must be at least {least}")
            } else {
                let most = humantime::format_duration(Duration::from_millis(most));
                format!("must be from {least} to {most}")
            };
            problems.push(Problem::at(key, why).with_value(value));
        }
    }
    if jetstream.max_bytes.0 == 0 {
        problems.push(Problem::at("jetstream.max_bytes", "must be at least 1").with_value(0));
    }
    let prefixes = [
        ("jetstream.republish", &jetstream.republish),
        ("nats.peers", &config.nats.peers),
    ];
    for (key, prefix) in prefixes {
        if let Err(error) = check_publish(prefix) {
            problems.push(Problem::at(key, error.to_string()).with_value(prefix));
        }
    }
    own_subjects(config, problems);
}

/// The name that instances are found by.
fn service(config: &Config, problems: &mut Vec<Problem>) {
    let service = &config.nats.service;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if service.len() > 64 || !service.chars().all(plain) {
        let why = "a service's name has up to 64 letters, digits, - and _, and none where it is not to \
                   be registered";
        problems.push(Problem::at("nats.service", why).with_value(service));
    }
}

/// Permissions that the backend is asked for.
fn authorize(config: &Config, problems: &mut Vec<Problem>) {
    let authorize = &config.authorize;
    if authorize.resources.is_empty() {
        return;
    }
    if config.nats.url.is_empty() {
        let why = "the backend is asked over NATS: set nats.url or NATS_URL";
        problems.push(Problem::at("authorize.resources", why));
    }
    if let Err(error) = check_publish(&authorize.subject) {
        let problem = Problem::at("authorize.subject", error.to_string());
        problems.push(problem.with_value(&authorize.subject));
    }
    if authorize.resources.iter().any(|name| name == "chat") {
        let why = "who may listen on a chat is for the membership query to say";
        problems.push(Problem::at("authorize.resources", why).with_value("chat"));
    }
}

/// What the server itself publishes must be no event, so that it does not come back as one.
fn own_subjects(config: &Config, problems: &mut Vec<Problem>) {
    if config.nats.url.is_empty() {
        return;
    }
    let mut taken: Vec<(Pattern, &str)> = Vec::new();
    for pattern in config.nats.patterns().unwrap_or_default() {
        taken.push((pattern, "nats.subjects"));
    }
    let mut own = vec![("nats.peers", &config.nats.peers)];
    if !config.nats.service.is_empty() {
        own.push(("nats.service", &config.nats.service));
    }
    if config.log != LogKind::Memory {
        own.push(("jetstream.republish", &config.jetstream.republish));
    }
    for (key, prefix) in own {
        let Ok(below) = Pattern::parse(&format!("{prefix}.>")) else {
            continue;
        };
        for (pattern, of) in taken.iter().filter(|(other, _)| other.overlaps(&below)) {
            let why = format!("{below} overlaps with {pattern} of {of}");
            problems.push(Problem::at(key, why).with_value(prefix));
        }
        taken.push((below, key));
    }
}

fn database(config: &Config, problems: &mut Vec<Problem>) {
    let queries = [
        (
            "database.membership_query",
            &config.database.membership_query,
            "must use $1, which is the user id, or be empty where there are no chats",
        ),
        (
            "database.members_query",
            &config.database.members_query,
            "must use $1, which is the chat id",
        ),
    ];
    for (key, query, why) in queries {
        let none = query.is_empty() && key == "database.membership_query";
        if !query.contains("$1") && !none {
            problems.push(Problem::at(key, why).with_value(query));
        }
    }
    if let Err(error) = config.source.names() {
        problems.push(Problem::at("source.notify", error.to_string()));
    }
    let postgres = config.database.url.as_ref().and_then(Kind::of) == Some(Kind::Postgres);
    if !config.source.notify.is_empty() && !postgres {
        let why =
            "notifications are PostgreSQL's: set database.url or DATABASE_URL to postgres://…";
        problems.push(Problem::at("source.notify", why));
    }
    if !config.source.notify.is_empty() && config.database.max_connections < 2 {
        let why = "must be at least 2 with source.notify: one connection listens";
        let problem = Problem::at("database.max_connections", why);
        problems.push(problem.with_value(config.database.max_connections));
    }
    match &config.database.url {
        Some(url) if Kind::of(url).is_none() => {
            problems.push(
                Problem::at("database.url", "must be postgres://… or sqlite://…").with_value(url),
            );
        }
        None if !config.is_development() => problems.push(Problem::at(
            "database.url",
            "production needs the database that knows who is in which chat: set DATABASE_URL",
        )),
        _ => {}
    }
}

fn origins(config: &Config, problems: &mut Vec<Problem>) {
    for origin in &config.server.allowed_origins {
        if !Origins::is_one(origin) {
            problems.push(
                Problem::at(
                    "server.allowed_origins",
                    "an origin is https://host[:port], without a path, or * for any",
                )
                .with_value(origin),
            );
        }
    }
}

fn sign_in(config: &Config, problems: &mut Vec<Problem>) {
    if let Err(why) = config.server.check_sign_in() {
        problems.push(Problem::at("server.sign_in", why).with_value(&config.server.sign_in));
    }
}

/// Limits that would keep everybody out, or let nobody be told from another.
fn limits(config: &Config, problems: &mut Vec<Problem>) {
    /// So that every address and token that the server has use for gets through.
    const LEAST_HEAD: u64 = 1024;
    /// The library takes no more before it has read a request.
    const MOST_HEAD: u64 = 64 * 1024;
    let server = &config.server;
    if let Err(why) = server.proxies() {
        problems.push(Problem::at("server.trusted_proxies", why));
    }
    if !(1..=128).contains(&server.ipv6_prefix) {
        let problem = Problem::at("server.ipv6_prefix", "must be from 1 to 128");
        problems.push(problem.with_value(server.ipv6_prefix));
    }
    for (key, size) in [
        ("server.max_uri", server.max_uri),
        ("server.max_headers", server.max_headers),
    ] {
        if !(LEAST_HEAD..=MOST_HEAD).contains(&size.0) {
            let why = "must be from 1 KiB to 64 KiB";
            problems.push(Problem::at(key, why).with_value(size));
        }
    }
}

fn keys(config: &Config, problems: &mut Vec<Problem>) {
    if let Err(error) = auth::check(&config.auth) {
        problems.push(Problem::at("auth.keys", Causes(&error).to_string()));
    }
    if config.auth.user_id_claims.is_empty() {
        problems.push(Problem::at(
            "auth.user_id_claims",
            "must name at least one claim, e.g. sub, or no token can name a user",
        ));
    }
}

/// Files that the NATS client would only miss when it connects.
fn files(config: &Config, problems: &mut Vec<Problem>) {
    let (tls, own) = (&config.nats.tls, &config.tls);
    let named = [
        ("tls.cert_file", &own.cert_file),
        ("tls.key_file", &own.key_file),
        ("tls.client_ca_file", &own.client_ca_file),
        ("nats.credentials_file", &config.nats.credentials_file),
        ("nats.tls.ca_file", &tls.ca_file),
        ("nats.tls.cert_file", &tls.cert_file),
        ("nats.tls.key_file", &tls.key_file),
        ("metrics.token_file", &config.metrics.token_file),
    ];
    for (key, file) in named {
        if let Some(file) = file
            && let Err(error) = std::fs::File::open(file)
        {
            let why = format!("the file can't be read: {error}");
            problems.push(Problem::at(key, why).with_value(file.display()));
        }
    }
    if own.cert_file.is_some() != own.key_file.is_some() {
        problems.push(Problem::at(
            "tls",
            "cert_file and key_file go together, and only one is set",
        ));
    }
    if own.client_ca_file.is_some() && own.cert_file.is_none() {
        let why = "certificates of clients take one of the server: set tls.cert_file";
        problems.push(Problem::at("tls.client_ca_file", why));
    }
    if own.client_required && own.client_ca_file.is_none() {
        let why = "set tls.client_ca_file, or nobody could have such a certificate";
        problems.push(Problem::at("tls.client_required", why).with_value(true));
    }
    if tls.cert_file.is_some() != tls.key_file.is_some() {
        problems.push(Problem::at(
            "nats.tls",
            "cert_file and key_file go together, and only one is set",
        ));
    }
}

fn metrics(config: &Config, problems: &mut Vec<Problem>) {
    let metrics = &config.metrics;
    if let Some(port) = metrics.port
        && port != 0
        && port == config.server.port
    {
        let why =
            "is the server's own port: choose another, or leave it out to have the metrics there";
        problems.push(Problem::at("metrics.port", why).with_value(port));
    }
    if metrics.token.is_some() && metrics.token_file.is_some() {
        let why = "token and token_file are both set, and one of them is meant";
        problems.push(Problem::at("metrics", why));
    }
    // A file that can't be read is a problem of its own.
    if let Ok(Some(token)) = metrics.token()
        && token.expose().is_empty()
    {
        let why = "the token is empty: leave it out to let everybody read the metrics";
        problems.push(Problem::at("metrics.token", why));
    }
}

/// Where traces are sent. Addresses and headers may have secrets in them.
fn tracing(config: &Config, problems: &mut Vec<Problem>) {
    let tracing = &config.tracing;
    if !(0.0..=1.0).contains(&tracing.sample_ratio) {
        let problem = Problem::at("tracing.sample_ratio", "must be from 0 to 1");
        problems.push(problem.with_value(tracing.sample_ratio));
    }
    if tracing.service_name.trim().is_empty() {
        problems.push(Problem::at("tracing.service_name", "must not be empty"));
    }
    if tracing.max_recipients > MAX_RECIPIENTS {
        let why = format!("must be at most {MAX_RECIPIENTS}");
        let problem = Problem::at("tracing.max_recipients", why);
        problems.push(problem.with_value(tracing.max_recipients));
    }
    if let Err(error) = tracing.address() {
        problems.push(Problem::at("tracing.endpoint", error.to_string()));
    }
    if let Err(error) = tracing.header_map() {
        let key = match error {
            TracingError::HeadersFile(_) => "tracing.headers_file",
            _ => "tracing.headers",
        };
        problems.push(Problem::at(key, error.to_string()));
    }
    if let Err(error) = tracing.attributes() {
        problems.push(Problem::at(
            "tracing.resource_attributes",
            error.to_string(),
        ));
    }
}
