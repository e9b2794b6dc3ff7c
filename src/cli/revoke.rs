//! `revoke`: a token, or all that a user was given so far, through a running server.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aws_lc_rs::digest::{SHA256, digest};
use clap::Args;
use notify_server::config::Config;
use notify_server::event::{Timestamp, UserId};
use serde_json::{Value, json};

/// How long the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// In whose name the command revokes when it makes its own token.
const NOBODY: &str = "notify-server-cli";

/// What to revoke, and where.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    whose: Whose,
    /// How long the tokens would still be good, e.g. 12h [default: auth.revocation_age of the server]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expires_in: Option<Duration>,
    /// The running server [default: the configured one on this machine]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
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
    let token = match arguments.token {
        Some(token) => token,
        None => own_token(&config)?,
    };
    let client = super::client(&config, arguments.server.as_deref());
    let server = arguments
        .server
        .unwrap_or_else(|| super::local_url(&config));
    let address = super::address(&config, &server, "/api/v1/revocations", NOBODY);
    let response = client
        .timeout(TIMEOUT)
        .build()?
        .post(address)
        .bearer_auth(token)
        .json(&order)
        .send()
        .await
        .with_context(|| format!("no server answers at {server}"))?;
    let status = response.status();
    let body = response.text().await.unwrap_or_default();
    if !status.is_success() {
        bail!("the server answered {status}: {body}");
    }
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
    Ok(json!({ "token_hash": hex }))
}

fn own_token(config: &Config) -> anyhow::Result<String> {
    let mut claims = super::own_claims(config);
    claims.insert("notify".to_owned(), json!({ "admin": true }));
    let user = UserId::parse(NOBODY)?;
    Ok(super::signer(config)?.sign(&user, Duration::from_secs(60), claims)?)
}
