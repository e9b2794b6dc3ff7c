//! `publish`: through NATS where that is configured, else through a running server.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use notify_server::bus::nats::connect::connect_once;
use notify_server::bus::subject::check_publish;
use notify_server::config::Config;
use serde_json::{Value, json};

use super::caller::{Caller, NOBODY};

/// How long the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What to publish, and where.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The subject, e.g. fechatter.realtime.chat.1
    subject: String,
    /// The payload; - reads it from standard input
    #[arg(value_parser = json)]
    json: String,
    /// Publish through the running server at this address instead of through NATS
    #[arg(long, alias = "server", value_name = "URL")]
    url: Option<String>,
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
    if arguments.url.is_none() && !config.nats.url.is_empty() {
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
    client.publish(subject.clone(), payload.into()).await?;
    client.flush().await?;
    println!("published through NATS");
    if let Ok(patterns) = config.nats.patterns()
        && !patterns.iter().any(|pattern| pattern.matches(&subject))
    {
        eprintln!(
            "warning: a server with this configuration takes no events from {subject}: nats.subjects is {}",
            config.nats.subjects.join(", ")
        );
    }
    Ok(())
}

async fn through_server(
    config: &Config,
    arguments: Arguments,
    payload: String,
) -> anyhow::Result<()> {
    let (url, token) = (arguments.url.as_deref(), arguments.token.as_deref());
    let caller = Caller::new(config, url, token, json!({ "publish": ["*"] }), TIMEOUT)?;
    let path = format!("/api/v1/bus/{}", arguments.subject);
    let address = super::address(config, &caller.server, &path, NOBODY);
    let request = caller.client.post(address);
    let request = request
        .header("content-type", "application/json")
        .body(payload);
    let body = caller.send(request).await?;
    println!("{body}");
    Ok(())
}
