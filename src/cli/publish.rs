//! `publish`: through NATS where that is configured, else through a running server.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use notify_server::bus::nats::connect::connect_once;
use notify_server::bus::subject::check_publish;
use notify_server::config::Config;
use notify_server::event::UserId;
use serde_json::{Value, json};

/// How long the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// In whose name the command publishes when it makes its own token.
const NOBODY: &str = "notify-server-cli";

/// What to publish, and where.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The subject, e.g. fechatter.realtime.chat.1
    subject: String,
    /// The payload; - reads it from standard input
    #[arg(value_parser = json)]
    json: String,
    /// Publish through the running server at this address instead of through NATS
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The token to show to that server; without, one is made
    #[arg(long, env = "NOTIFY_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

pub(super) async fn run(config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    check_publish(&arguments.subject)?;
    let payload = match arguments.json.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            json(&text).map_err(anyhow::Error::msg)?
        }
        text => text.to_owned(),
    };
    if arguments.server.is_none() && !config.nats.url.is_empty() {
        through_nats(&config, arguments.subject, payload).await?;
    } else {
        through_server(&config, arguments, payload).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks that a text is JSON, or asks for it to be read from standard input.
fn json(text: &str) -> Result<String, String> {
    match serde_json::from_str::<Value>(text) {
        Err(error) if text != "-" => Err(format!("not JSON: {error}")),
        _ => Ok(text.to_owned()),
    }
}

async fn through_nats(config: &Config, subject: String, payload: String) -> anyhow::Result<()> {
    let client = connect_once(&config.nats).await?;
    client.publish(subject, payload.into()).await?;
    client.flush().await?;
    println!("published through NATS");
    Ok(())
}

async fn through_server(
    config: &Config,
    arguments: Arguments,
    payload: String,
) -> anyhow::Result<()> {
    let token = match arguments.token {
        Some(token) => token,
        None => own_token(config)?,
    };
    let client = super::client(config, arguments.server.as_deref());
    let server = arguments.server.unwrap_or_else(|| super::local_url(config));
    let path = format!("/api/v1/bus/{}", arguments.subject);
    let address = super::address(config, &server, &path, NOBODY);
    let response = client
        .timeout(TIMEOUT)
        .build()?
        .post(address)
        .bearer_auth(token)
        .header("content-type", "application/json")
        .body(payload)
        .send()
        .await
        .with_context(|| format!("no server answers at {server}"))?;
    let status = response.status();
    let body = response.text().await.unwrap_or_default();
    if !status.is_success() {
        bail!("the server answered {status}: {body}");
    }
    println!("{body}");
    Ok(())
}

fn own_token(config: &Config) -> anyhow::Result<String> {
    let mut claims = super::own_claims(config);
    claims.insert("notify".to_owned(), json!({ "publish": ["*"] }));
    let user = UserId::parse(NOBODY)?;
    Ok(super::signer(config)?.sign(&user, Duration::from_secs(60), claims)?)
}
