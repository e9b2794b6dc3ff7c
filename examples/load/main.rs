//! Load program: opens many streams on a running notify-server, publishes through NATS, and reports what
//! arrived and how fast: connections and deliveries per second, latency, server CPU and memory, and every
//! event that was lost, doubled or out of order.
//!
//! It runs on one thread, so that with the server on one core and this program on another the server is
//! what is measured. `scripts/bench` sets all of it up:
//!
//! ```text
//! cargo run --release --example load -- steady --server http://127.0.0.1:6687 \
//!     --nats nats://127.0.0.1:4222 --secret … --streams 1000 --rate 100 --seconds 10
//! ```
//!
//! Exit code: 0, or 1 if an event was lost, doubled or out of order, a stream refused or ended, or a target
//! missed; 2 for a usage error.

mod caller;
mod desk;
mod fleet;
mod histogram;
mod list;
mod process;
mod publish;
mod publisher;
mod report;
mod resume;
mod scenario;
#[path = "../shared/status.rs"]
mod status;
mod stream;
mod tally;
mod visitors;
mod way;
mod wire;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::{report::Target, way::Transport};

#[derive(Parser, Clone)]
// A later option wins, so that a script's settings can be overridden behind them.
#[command(
    args_override_self = true,
    about = "Opens streams on a notify-server, publishes through NATS, and measures the deliveries"
)]
struct Options {
    #[command(subcommand)]
    scenario: Scenario,
    /// The server, by address: `http://127.0.0.1:6687`
    #[arg(long, global = true, default_value = "http://127.0.0.1:6687", value_parser = server_address)]
    server: SocketAddr,
    /// The NATS server to publish to
    #[arg(
        long,
        global = true,
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222"
    )]
    nats: String,
    /// The HS256 secret of the server, to sign the users' tokens with
    #[arg(
        long,
        global = true,
        env = "JWT_SECRET",
        hide_env_values = true,
        default_value = ""
    )]
    secret: String,
    /// Process id of the server; without it there are no figures for CPU and memory
    #[arg(long, global = true)]
    server_pid: Option<u32>,
    /// Streams to open
    #[arg(long, global = true, default_value_t = 1000)]
    streams: usize,
    /// Users, numbered from 1, that the streams are spread over; one per stream, if not given
    #[arg(long, global = true)]
    users: Option<usize>,
    /// The chat that every user is a member of, and that the events go to
    #[arg(long, global = true, default_value_t = 1)]
    chat: u64,
    /// How streams are carried; those that come back, publish and list are plain
    #[arg(long, global = true, value_enum, default_value = "plain")]
    transport: Transport,
    /// Streams of one HTTP/2 connection
    #[arg(long, global = true, default_value_t = 50)]
    share: usize,
    /// The certificate that the server's is signed by, PEM
    #[arg(long, global = true)]
    authority: Option<PathBuf>,
    /// Streams being opened at the same time
    #[arg(long, global = true, default_value_t = 1024)]
    in_flight: usize,
    /// How long nothing may happen before what is missing counts as lost
    #[arg(long, global = true, default_value = "5s", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// A figure to reach, such as `latency_p99_ms<8`; may be repeated
    #[arg(long = "target", global = true)]
    targets: Vec<Target>,
    /// Print one line of JSON after the table
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Clone, Copy)]
enum Scenario {
    /// Open the streams, as fast as the server takes them
    Open,
    /// Publish evenly spaced events
    Steady {
        /// Events per second
        #[arg(long, default_value_t = 100)]
        rate: u32,
        /// Duration in seconds
        #[arg(long, default_value_t = 10)]
        seconds: u32,
        /// Bytes of text in each message
        #[arg(long, default_value_t = 32)]
        content: usize,
    },
    /// Publish events as fast as NATS takes them
    Burst {
        /// Events to publish
        #[arg(long, default_value_t = 2000)]
        events: usize,
        /// Bytes of text in each message
        #[arg(long, default_value_t = 32)]
        content: usize,
    },
    /// Open the streams, end them, publish what they miss, and have all of them come back at once
    Resume(resume::Resume),
    /// Publish over HTTP, to the streams
    Publish(publish::Publish),
    /// List all connections, while some get events
    List(list::List),
    /// Open the streams and let them be
    Idle {
        /// Duration in seconds
        #[arg(long, default_value_t = 10)]
        seconds: u32,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let files =
        rlimit::increase_nofile_limit(u64::MAX).context("raising the limit of open files")?;
    // Beside the streams: NATS, epoll, the standard streams, /proc.
    let needed = options.streams as u64 + 32;
    anyhow::ensure!(
        files >= needed,
        "{needed} open files are needed, the limit is {files} (ulimit -n)"
    );

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    let mut report = tasks.block_on(&runtime, scenario::run(options))?;
    report.judge(&options.targets)?;
    print!("{report}");
    if options.json {
        println!("{}", report.json());
    }
    Ok(report.passed())
}

/// An address only, no name: resolving would add its own time, and the figures are about one machine.
fn server_address(text: &str) -> Result<SocketAddr, String> {
    let authority = text
        .strip_prefix("http://")
        .unwrap_or(text)
        .trim_end_matches('/');
    let authority = authority.replace("localhost", "127.0.0.1");
    authority
        .parse()
        .map_err(|_| "must be http://ADDRESS:PORT".to_owned())
}
