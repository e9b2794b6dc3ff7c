//! The `notify-server` program: parses the command line and chooses the exit code.

mod cli;

use std::process::ExitCode;

use notify_server::config::ConfigError;

/// The exit code for wrong arguments, which clap uses too, and wrong configuration.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parsed()) {
        Ok(code) => code,
        Err(error) => match error.downcast_ref::<ConfigError>() {
            Some(problems) => {
                eprintln!("{problems}");
                ExitCode::from(USAGE)
            }
            None => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}
