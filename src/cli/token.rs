//! `token`: signs a token.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use notify_server::config::Config;
use notify_server::event::UserId;
use serde_json::Value;

/// What the token is to say.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Whom the token speaks for
    #[arg(long, value_parser = user)]
    user: UserId,
    /// How long it is valid, e.g. 1h or 15m
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: std::time::Duration,
    /// A further claim, e.g. 'notify={"admin":true}' for administration; JSON values are taken as such,
    /// anything else as text
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    claim: Vec<(String, Value)>,
}

pub(super) fn run(config: &Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let signer = super::signer(config)?;
    let mut claims = super::own_claims(config);
    claims.extend(arguments.claim);
    let token = signer.sign(&arguments.user, arguments.ttl, claims)?;
    println!("{token}");
    Ok(ExitCode::SUCCESS)
}

/// Parses a user id argument.
pub(super) fn user(text: &str) -> Result<UserId, String> {
    UserId::parse(text).map_err(|error| error.to_string())
}

fn claim(text: &str) -> anyhow::Result<(String, Value)> {
    let (name, value) = text
        .split_once('=')
        .context("a claim is NAME=VALUE, e.g. notify={\"admin\":true}")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((name.to_owned(), value))
}
