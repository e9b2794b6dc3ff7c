//! The task that sends spans: batches of protocol buffers over HTTP, as OTLP has it.

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as Wire};
use prost::Message as _;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};
use url::Url;

use super::metrics::{Drop as Dropped, Metrics};
use super::span::{Done, attribute};
use super::{Tracer, TracingConfig, TracingError};

/// The most spans of one request.
const BATCH: usize = 512;

/// How often it is looked whether events have come to the end of their ways.
const GLANCE: Duration = Duration::from_millis(100);

/// The first pause before a batch is sent again; the following ones double, up to the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The most that is read of an answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// How long the last batches may take when the server stops.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Between two log lines about spans that can't be sent.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Sends spans for as long as it runs.
#[derive(Debug)]
pub struct ExportTask {
    tracer: Tracer,
    spans: mpsc::Receiver<Done>,
    client: Client,
    address: Url,
    resource: Resource,
    timeout: Duration,
    interval: Duration,
    metrics: Metrics,
    logged: Option<Instant>,
    failing: bool,
}

/// What became of one try.
enum Outcome {
    /// The collector has them, but for so many.
    Taken { rejected: usize },
    /// It does not want them.
    Refused(String),
    /// Later it may, at the earliest after so long.
    Later(String, Option<Duration>),
}

impl ExportTask {
    pub(super) fn new(
        tracer: Tracer,
        config: &TracingConfig,
        address: Url,
        instance: &str,
        machine: &str,
        spans: mpsc::Receiver<Done>,
    ) -> Result<Self, TracingError> {
        let client = Client::builder()
            // Headers may be secrets, and go nowhere else.
            .redirect(redirect::Policy::none())
            .default_headers(config.header_map()?)
            .user_agent(concat!("notify-server/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let own = [
            ("service.name", config.service_name.as_str()),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", instance),
            ("host.name", machine),
        ];
        let more = config.attributes()?;
        let said = |key: &str| more.iter().any(|(other, _)| other == key);
        let own = own
            .into_iter()
            .filter(|(key, value)| !said(key) && !value.is_empty());
        let own = own.map(|(key, value)| attribute(key, value.into()));
        let more = more
            .iter()
            .map(|(key, value)| attribute(key, value.as_str().into()));
        let metrics = tracer.0.as_ref().map(|inner| inner.metrics.clone());
        Ok(Self {
            spans,
            client,
            address,
            resource: Resource {
                attributes: own.chain(more).collect(),
                ..Resource::default()
            },
            timeout: config.timeout.0,
            interval: config.interval.0,
            metrics: metrics.unwrap_or_default(),
            logged: None,
            failing: false,
            tracer,
        })
    }

    /// Runs until the server stops.
    pub async fn run(mut self) {
        let Some(inner) = self.tracer.0.clone() else {
            return;
        };
        let mut ticks = tokio::time::interval(GLANCE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch: Vec<Wire> = Vec::with_capacity(BATCH);
        let mut since: Option<Instant> = None;
        let mut ending = false;
        while !ending {
            tokio::select! {
                Some(span) = self.spans.recv() => batch.push(span.wire()),
                _ = ticks.tick() => self.over(false),
                () = inner.closing.cancelled() => {
                    ending = true;
                    self.over(true);
                    self.timeout = LAST_WORDS;
                }
            }
            while let Ok(span) = self.spans.try_recv() {
                batch.push(span.wire());
                if batch.len() >= BATCH {
                    self.send(std::mem::take(&mut batch)).await;
                }
            }
            since = since.filter(|_| !batch.is_empty());
            let waited = batch
                .first()
                .map(|_| since.get_or_insert_with(Instant::now).elapsed());
            if waited.is_some_and(|waited| ending || waited >= self.interval) {
                self.send(std::mem::take(&mut batch)).await;
            }
        }
        inner.closed.cancel();
        // Those who watch over tasks are told of the stop by others.
        std::future::pending::<()>().await;
    }

    /// Has the spans made of events that have come to the end of their ways.
    fn over(&self, end: bool) {
        let Some(inner) = &self.tracer.0 else {
            return;
        };
        let over = inner.journeys.lock().take(Instant::now(), end);
        for arrived in over {
            arrived
                .spans()
                .into_iter()
                .for_each(|span| self.tracer.send(span));
        }
    }

    /// Sends a batch, within the time that is given for that, or drops it.
    async fn send(&mut self, spans: Vec<Wire>) {
        let count = spans.len();
        if count == 0 {
            return;
        }
        let body = self.request(spans).encode_to_vec();
        let deadline = tokio::time::Instant::now() + self.timeout;
        let mut pause = PAUSE;
        let problem = loop {
            let tried = tokio::time::timeout_at(deadline, self.attempt(body.clone())).await;
            let (problem, later) = match tried {
                Ok(Outcome::Taken { rejected }) => {
                    let rejected = rejected.min(count);
                    self.metrics.exported(count - rejected);
                    self.metrics.dropped(Dropped::Refused, rejected);
                    if std::mem::take(&mut self.failing) {
                        info!("traces are taken again");
                        self.logged = None;
                    }
                    return;
                }
                Ok(Outcome::Refused(problem)) => {
                    self.metrics.dropped(Dropped::Refused, count);
                    return self.complain(&problem, count);
                }
                Ok(Outcome::Later(problem, later)) => (problem, later),
                Err(_) => break "the collector does not answer in time".to_owned(),
            };
            // A collector may ask for longer than there is, or than a clock can hold.
            let wait = later.unwrap_or(pause).min(self.timeout);
            pause = (pause * 2).min(LONGEST_PAUSE);
            if tokio::time::Instant::now() + wait >= deadline {
                break problem;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.closing(deadline) => break problem,
            }
        };
        self.metrics.dropped(Dropped::Unreachable, count);
        self.complain(&problem, count);
    }

    /// Ready when the server stops while a batch waits to be tried again.
    async fn closing(&self, deadline: tokio::time::Instant) {
        match &self.tracer.0 {
            Some(inner) => inner.closing.cancelled().await,
            None => tokio::time::sleep_until(deadline).await,
        }
    }

    fn request(&self, spans: Vec<Wire>) -> ExportTraceServiceRequest {
        let scope = InstrumentationScope {
            name: "notify-server".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans,
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        }
    }

    async fn attempt(&self, body: Vec<u8>) -> Outcome {
        let request = self
            .client
            .post(self.address.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                let problem = crate::causes::Causes(&error.without_url()).to_string();
                return Outcome::Later(problem, None);
            }
        };
        let status = response.status();
        if status.is_success() {
            let rejected = rejected(response).await;
            return Outcome::Taken { rejected };
        }
        let problem = format!("the collector answers {status}");
        match status {
            // Those that OTLP says are worth another try.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Outcome::Later(problem, retry_after(&response)),
            _ => Outcome::Refused(problem),
        }
    }

    /// Within a rate.
    fn complain(&mut self, problem: &str, spans: usize) {
        self.failing = true;
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            warn!(problem, spans, "traces can't be sent");
        }
    }
}

/// How many of the spans that it was sent a collector does not want.
async fn rejected(mut response: Response) -> usize {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if body.len() + chunk.len() > MAX_ANSWER {
            return 0;
        }
        body.extend_from_slice(&chunk);
    }
    // An answer that is not understood is one without complaints: the status was good.
    let answer = ExportTraceServiceResponse::decode(&body[..]).unwrap_or_default();
    let rejected = answer.partial_success.map_or(0, |part| part.rejected_spans);
    usize::try_from(rejected).unwrap_or_default()
}

fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.parse().ok().map(Duration::from_secs)
}
