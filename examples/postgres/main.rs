//! Measures PostgreSQL as a source: from a commit to the event at a client, and how fast an outbox is
//! emptied; beside the classic way, in which each client has a connection that listens.
//!
//! `scripts/bench-postgres` sets all of it up. Every measurement is one line of JSON on standard output;
//! `plot` makes a picture of such lines.

mod classic;
mod drain;
mod figures;
mod plot;
mod sessions;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Streams of sessions on a server, and rows that are written to them
    Sessions(sessions::Arguments),
    /// Clients with a connection each that listen, and rows whose trigger notifies
    Classic(classic::Arguments),
    /// A transaction of many rows, until the outbox is empty
    Drain(drain::Arguments),
    /// A picture of what was measured
    Plot(plot::Arguments),
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let met = runtime.block_on(async {
        match options.what {
            What::Sessions(arguments) => sessions::run(arguments).await,
            What::Classic(arguments) => classic::run(arguments).await,
            What::Drain(arguments) => drain::run(arguments).await,
            What::Plot(arguments) => plot::run(&arguments).map(|()| true),
        }
    })?;
    Ok(if met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
