//! The ports: what listens on them, with which threads and order of service.

use std::net::SocketAddr;
use std::time::Instant;

use actix_web::App;
use actix_web::dev::Service as _;
use actix_web_lab::middleware::CatchPanic;

use super::BuildError;
use crate::bounds::Bounds;
use crate::config::Config;
use crate::http::{self, Exporter, Gate, Origins, Parts};
use crate::hub::{Activity, Hub};
use crate::listener::{self, Listener, SocketLimit};
use crate::tls::Tls;

/// Connections at a port for metrics alone.
const SCRAPERS: u32 = 64;

pub(super) fn listen(
    config: &Config,
    parts: Parts,
    origins: Origins,
    bounds: &Bounds,
    tls: Option<Tls>,
) -> Result<Listener, BuildError> {
    let address = SocketAddr::new(config.host(), config.server.port);
    let settings = listener::Settings {
        address,
        backlog: config.server.backlog,
        threads: bounds.threads,
        // The hub counts streams and answers when there are too many. This is for the rest, such as
        // idle connections.
        sockets: bounds.sockets.clone(),
        limits: bounds.limits.clone(),
        // A little later than the hub, which can tell a stalled reader from a broken connection and
        // says so.
        dead_after: config.stream.write_timeout.0.mul_f64(1.5),
        tls,
        h2c: config.server.h2c,
    };
    let gate = bounds.gate();
    let load = Load {
        hub: parts.hub.clone(),
        gate: gate.clone(),
        activity: parts.hub.activity(),
    };
    let app = move || {
        // Runs once on each thread that serves connections: here its share of the hub begins.
        let (local, shard) = parts.hub.open_shard();
        actix_web::rt::spawn(shard.run());
        let parts = parts.clone();
        let (gate, follower) = (gate.clone(), gate.clone());
        let tracer = parts.tracer.clone();
        App::new()
            .wrap_fn(http::intake)
            .wrap_fn(move |request, service| {
                let span = http::begin_span(&tracer, &request);
                let answer = service.call(request);
                async move {
                    let answer = answer.await;
                    http::end_span(span, &answer);
                    answer
                }
            })
            .wrap_fn(move |request, service| gate.pass(request, service))
            .wrap(origins.clone())
            // Around everything that may answer.
            .wrap_fn(move |request, service| follower.follow(request, service))
            .wrap(CatchPanic::default())
            .configure(move |service| http::configure(service, parts, local))
    };
    listener::listen(settings, load, app).map_err(|error| BuildError::Listen(address, error))
}

/// What newcomers would delay, and who is still there.
#[derive(Clone)]
struct Load {
    hub: Hub,
    gate: Gate,
    activity: Activity,
}

impl listener::Load for Load {
    fn delivering(&mut self) -> bool {
        self.activity.is_lively(Instant::now())
    }

    fn streaming(&self) -> bool {
        self.hub.admission().total() > 0 || self.gate.open() > 0
    }
}

/// A port for the metrics alone, if one is configured: few connections, on a thread of their own.
pub(super) fn listen_for_scrapers(
    config: &Config,
    exporter: &Exporter,
    bounds: &Bounds,
) -> Result<Option<Listener>, BuildError> {
    let Some(port) = config.metrics.port else {
        return Ok(None);
    };
    let address = SocketAddr::new(config.host(), port);
    let settings = listener::Settings {
        address,
        backlog: SCRAPERS,
        threads: 1,
        sockets: SocketLimit::new(SCRAPERS as usize),
        limits: bounds.limits.clone(),
        dead_after: config.stream.write_timeout.0,
        tls: None,
        h2c: false,
    };
    let (exporter, gate) = (exporter.clone(), bounds.gate());
    let app = move || {
        let (exporter, gate) = (exporter.clone(), gate.clone());
        App::new()
            .wrap_fn(move |request, service| gate.pass(request, service))
            .wrap(CatchPanic::default())
            .configure(move |service| http::configure_metrics(service, exporter))
    };
    listener::listen(settings, Scrapes, app)
        .map(Some)
        .map_err(|error| BuildError::Listen(address, error))
}

/// Scrapes delay nobody, and are over at once.
#[derive(Clone)]
struct Scrapes;

impl listener::Load for Scrapes {
    fn delivering(&mut self) -> bool {
        false
    }

    fn streaming(&self) -> bool {
        false
    }
}
