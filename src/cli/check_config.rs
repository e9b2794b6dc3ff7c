//! `check-config`: what the server would run with. Loading it has checked it, the keys included.

use std::process::ExitCode;

use notify_server::config::Config;

pub(super) fn run(config: &Config) -> anyhow::Result<ExitCode> {
    print!("{}", config.to_yaml()?);
    Ok(ExitCode::SUCCESS)
}
