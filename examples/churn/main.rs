//! Churn: comes and goes, hundreds of thousands of times, in every way that a client can, and then looks at what
//! the server still has of it: memory, open sockets, sessions, channels, what waits in outboxes.
//!
//! `scripts/leak` sets all of it up:
//!
//! ```text
//! cargo run --release --example churn -- --server 127.0.0.1:6687 --secret … --server-pid … --visits 200000
//! ```
//!
//! A part of the visits is the warm-up, after which caches, pools and the allocator have what they need; the
//! memory then is what the memory in the end is compared with.
//!
//! Exit code: 0, or 1 if something has stayed, or a visit was answered in another way than it should be.

mod guest;
mod remains;
#[path = "../shared/single.rs"]
mod single;
#[path = "../shared/status.rs"]
mod status;
mod visit;

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::Parser;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::guest::Guest;
use crate::remains::Remains;
use crate::visit::Visit;

#[derive(Parser, Clone)]
#[command(
    about = "Connects to a notify-server and disconnects, again and again, and looks at what has stayed"
)]
struct Options {
    /// The server, by address
    #[arg(long)]
    server: SocketAddr,
    /// The server's HS256 secret, to sign the users' tokens with
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    secret: String,
    /// Process id of the server
    #[arg(long)]
    server_pid: u32,
    /// The authority of the server's certificate, as PEM: then all visits are over TLS
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Connections to make and end, behind the warm-up
    #[arg(long, default_value_t = 200_000)]
    visits: u64,
    /// Connections before the memory is looked at first
    #[arg(long, default_value_t = 40_000)]
    warm_up: u64,
    /// Connections at the same time
    #[arg(long, default_value_t = 200)]
    at_once: usize,
    /// How much larger the memory may be in the end, in KiB
    #[arg(long, default_value_t = 8 * 1024)]
    growth: u64,
}

fn main() -> ExitCode {
    single::run(run(&Options::parse()))
}

async fn run(options: &Options) -> Result<()> {
    let guest = Rc::new(Guest::new(options)?);
    let first = Remains::settled(&guest, options.server_pid).await?;
    come_and_go(&guest, options, 0..options.warm_up).await?;
    let before = Remains::settled(&guest, options.server_pid).await?;
    let began = Instant::now();
    come_and_go(
        &guest,
        options,
        options.warm_up..options.warm_up + options.visits,
    )
    .await?;
    let took = began.elapsed().as_secs_f64();
    let after = Remains::settled(&guest, options.server_pid).await?;
    println!(
        "  visits          {:>10}   {:.0}/s, {} at once",
        options.visits,
        options.visits as f64 / took,
        options.at_once
    );
    println!("  memory at first {:>10} KiB", first.memory_kib);
    println!("  after warm-up   {:>10} KiB", before.memory_kib);
    println!("  in the end      {:>10} KiB", after.memory_kib);
    println!(
        "  sockets         {:>10}   {} at first",
        after.sockets, first.sockets
    );
    println!(
        "  threads         {:>10}   {} at first",
        after.threads, first.threads
    );
    for (name, value) in &after.gauges {
        println!("  {name:<28} {value}");
    }
    after.compare(&first, &before, options.growth)
}

/// Makes all visits of a range, so many at once.
async fn come_and_go(
    guest: &Rc<Guest>,
    options: &Options,
    numbers: std::ops::Range<u64>,
) -> Result<()> {
    let places = Arc::new(Semaphore::new(options.at_once));
    let wrong = Rc::new(Cell::new(0_u64));
    let mut tasks = JoinSet::new();
    for number in numbers {
        let place = Arc::clone(&places).acquire_owned().await?;
        let (guest, wrong) = (Rc::clone(guest), Rc::clone(&wrong));
        tasks.spawn_local(async move {
            let visit = Visit::of(number);
            if let Err(error) = visit.make(&guest, number).await {
                wrong.set(wrong.get() + 1);
                if wrong.get() <= 10 {
                    eprintln!("visit {number}, {visit:?}: {error:#}");
                }
            }
            drop(place);
        });
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
    ensure!(wrong.get() == 0, "{} visits went wrong", wrong.get());
    Ok(())
}
