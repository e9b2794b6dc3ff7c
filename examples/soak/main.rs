//! Soak: what is published for hours reaches everybody who comes and goes meanwhile, once and in order, whatever is
//! killed in between.
//!
//! Messages are published over HTTP, one by one and each until it was taken, and as rows of the outbox; witnesses
//! stream both from two instances in turn, break off and resume; passers-by connect and are gone. `scripts/soak`
//! sets all of it up and kills what there is to kill:
//!
//! ```text
//! cargo run --release --example soak -- --server 127.0.0.1:6687 --server 127.0.0.1:6688 --secret … \
//!     --database postgres://… --seconds 3600
//! ```
//!
//! Exit code: 0, or 1 if something was lost, doubled, out of order or a `gap`.

mod count;
mod publish;
#[path = "../shared/single.rs"]
mod single;
#[allow(dead_code, reason = "a part of the load program")]
#[path = "../load/wire.rs"]
mod wire;
mod witness;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::count::Count;

/// How long everything may take to arrive after the last was published.
const LAST: Duration = Duration::from_secs(90);

#[derive(Parser, Clone)]
#[command(about = "Publishes to two notify-servers for hours, and checks that nothing is lost")]
struct Options {
    /// The servers, by address
    #[arg(long = "server", required = true)]
    servers: Vec<SocketAddr>,
    /// Their HS256 secret
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    secret: String,
    /// The PostgreSQL database with the outbox
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database: String,
    /// How long to publish
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Clients that listen, break off and resume
    #[arg(long, default_value_t = 40)]
    witnesses: usize,
    /// Clients that come and go, a second
    #[arg(long, default_value_t = 100)]
    passers_by: u64,
    /// Messages of each kind, a second
    #[arg(long, default_value_t = 50)]
    rate: u64,
}

fn main() -> ExitCode {
    single::run(run(&Options::parse()))
}

async fn run(options: &Options) -> Result<()> {
    let count = Rc::new(Count::default());
    let token = token(options)?;
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let mut listeners = JoinSet::new();
    for number in 0..options.witnesses {
        let (servers, token, count) = (options.servers.clone(), token.clone(), Rc::clone(&count));
        listeners.spawn_local(witness::watch(number, servers, token, count));
    }
    // Who is not there when the first message is published would have to be told where it began.
    let here = async {
        while count.confirmed.get() < options.witnesses as u64 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout_at(Instant::now() + LAST, here)
        .await
        .context("the witnesses do not get their streams")?;
    let passing = witness::pass_by(
        options.servers.clone(),
        token.clone(),
        options.passers_by,
        until,
        Rc::clone(&count),
    );
    let (over_http, rows, ()) = tokio::join!(
        publish::over_http(options, &token, until, &count),
        publish::rows(options, until, &count),
        passing,
    );
    over_http?;
    rows?;
    let all = async {
        while !count.is_complete(options.witnesses) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let arrived = timeout_at(Instant::now() + LAST, all).await.is_ok();
    listeners.abort_all();
    print!("{count}");
    ensure!(arrived, "not everything has arrived: {}", count.missing());
    ensure!(count.wrong() == 0, "see above");
    Ok(())
}

fn token(options: &Options) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let rights = json!({"subscribe": ["*"], "publish": ["*"]});
    let claims = json!({"user_id": 1, "exp": now + options.seconds + 3600, "notify": rights});
    let key = EncodingKey::from_secret(options.secret.as_bytes());
    Ok(jsonwebtoken::encode(&Header::default(), &claims, &key)?)
}
