//! `revoke`: a token, or all that a user was given so far, through a running server.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use notify_server::auth::revocation::LONGEST_AGE;
use notify_server::config::Config;
use notify_server::event::{Timestamp, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::{Caller, NOBODY};

/// How long the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A day, in seconds.
const DAY: u64 = 86_400;

/// What to revoke, and where.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    whose: Whose,
    /// How long the tokens would still be good, e.g. 12h [default: what a token of --token-file says itself, or else
    /// auth.revocation_age of the server]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expires_in: Option<Duration>,
    /// The running server [default: the configured one on this machine]
    #[arg(long, alias = "server", value_name = "URL")]
    url: Option<String>,
    /// An administrator's token to show to that server; without, one is made
    #[arg(long, env = "NOTIFY_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Whose {
    /// All tokens that this user was given so far
    #[arg(long, value_name = "USER", value_parser = super::token::user)]
    user: Option<UserId>,
    /// The token with this claim jti
    #[arg(long, value_name = "JTI")]
    token_id: Option<String>,
    /// The token in this file; - reads it from standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

pub(super) async fn run(config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut order = order(arguments.whose)?;
    if let Some(expires_in) = arguments.expires_in {
        let at = Timestamp::now().after(expires_in).as_millis() / 1000;
        order["expires_at"] = Value::from(at);
    }
    let (url, token) = (arguments.url.as_deref(), arguments.token.as_deref());
    let caller = Caller::new(&config, url, token, json!({ "admin": true }), TIMEOUT)?;
    let address = super::address(&config, &caller.server, "/api/v1/revocations", NOBODY);
    let request = caller.client.post(address).json(&order);
    let body = caller.send(request).await?;
    println!("{body}");
    Ok(ExitCode::SUCCESS)
}

fn order(whose: Whose) -> anyhow::Result<Value> {
    if let Some(user) = whose.user {
        return Ok(json!({ "user_id": user }));
    }
    if let Some(id) = whose.token_id {
        return Ok(json!({ "token_id": id }));
    }
    let file = whose.token_file.unwrap_or_else(|| "-".into());
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(&file)
            .with_context(|| format!("{} can't be read", file.display()))?;
    }
    // The token itself stays here.
    let Some((signed, _)) = text.trim().rsplit_once('.') else {
        bail!("this is no token: it does not have three parts with dots between them");
    };
    let sum = digest(&SHA256, signed.as_bytes());
    let hex: String = sum
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut order = json!({ "token_hash": hex });
    if let Some(expires_at) = expiry(signed) {
        // A day less, since the server's clock may be another.
        let most = LONGEST_AGE.as_secs() - DAY;
        let latest = Timestamp::now().as_millis() / 1000 + most;
        if expires_at > latest {
            eprintln!(
                "the token lives for longer than a revocation can last: revoke it again within {} days",
                most / DAY
            );
        }
        order["expires_at"] = Value::from(expires_at.min(latest));
    }
    Ok(order)
}

/// When a token expires, as it says itself, in seconds since 1970. It need not be verified: the order is about this
/// very token, whatever it says.
fn expiry(signed: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: serde_json::Number,
    }
    let (_, claims) = signed.split_once('.')?;
    let json = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let Claims { exp } = serde_json::from_slice(&json).ok()?;
    // A fraction of a second counts, too.
    exp.as_u64().or_else(|| {
        let seconds = exp.as_f64()?.ceil();
        (0.0..1e15).contains(&seconds).then_some(seconds as u64)
    })
}
