//! `check-config`: what the server would run with.

use std::process::ExitCode;

use notify_server::auth::Verifier;
use notify_server::config::Config;

pub(super) fn run(config: &Config) -> anyhow::Result<ExitCode> {
    // Keys are part of what can be wrong, and finding out needs no network.
    Verifier::new(&config.auth)?;
    print!("{}", config.to_yaml()?);
    Ok(ExitCode::SUCCESS)
}
