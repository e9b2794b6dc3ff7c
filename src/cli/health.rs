//! `health`: whether a running server is ready, for container health checks.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use notify_server::config::Config;

/// How long the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Which server.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The server's address [default: the configured one on this machine]
    #[arg(long, alias = "server", value_name = "URL")]
    url: Option<String>,
}

pub(super) async fn run(config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let client = super::client(&config, arguments.url.as_deref());
    let server = arguments.url.unwrap_or_else(|| super::local_url(&config));
    let response = client
        .timeout(TIMEOUT)
        .build()?
        .get(format!("{}/ready", server.trim_end_matches('/')))
        .send()
        .await?;
    let ready = response.status().is_success();
    println!("{}", response.text().await?);
    Ok(if ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
