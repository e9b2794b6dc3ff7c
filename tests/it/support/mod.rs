//! What every test uses: real servers as child processes, a strict reader of the event stream,
//! tokens and payloads. Nothing here sleeps to let things settle; every wait is for a signal and
//! has a deadline.

use std::future::Future;
use std::time::Duration;

mod cable;
mod cluster;
mod collector;
mod event_stream;
mod http;
mod http_stub;
mod jetstream;
pub(crate) mod keys;
mod logs;
mod nats;
mod nats_credentials;
pub(crate) mod payload;
mod ports;
mod postgres;
mod process;
pub(crate) mod promtool;
mod proxy;
mod raw;
pub(crate) mod scrape;
mod server;
mod settings;
pub(crate) mod sqlite;
pub(crate) mod tokens;
pub(crate) mod web_proxy;

pub(crate) use cable::Cable;
pub(crate) use cluster::Cluster;
pub(crate) use collector::{Collector, Manner, Span};
pub(crate) use event_stream::{Event, EventStream, Parser};
pub(crate) use http::{Request, Response};
pub(crate) use http_stub::HttpStub;
pub(crate) use jetstream::STREAM;
pub(crate) use keys::{KeyPair, Kind, write_certificates};
pub(crate) use logs::LogLine;
pub(crate) use nats::{Backend, Nats};
pub(crate) use nats_credentials::Operator;
pub(crate) use ports::free_port;
pub(crate) use postgres::Postgres;
pub(crate) use process::{Outcome, Process};
pub(crate) use proxy::Proxy;
pub(crate) use raw::{Answer, LAST, Raw};
pub(crate) use server::Server;
pub(crate) use settings::{Settings, shipped_config};
pub(crate) use web_proxy::WebProxy;

/// How long a wait may take before the test fails. Generous, because a loaded machine is slow and
/// no test that passes ever waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for `future`, or fails the test in the words of `what`.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {DEADLINE:?} in vain for {what}"),
    }
}

/// Asks again until `probe` answers. For states that can be asked for, but don't announce
/// themselves, e.g. `/ready`.
pub(crate) async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let asking = async {
        loop {
            if let Some(answer) = probe().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, asking).await
}
