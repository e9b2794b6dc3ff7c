//! Logging: to standard error, for people or as JSON.

use std::fmt;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// Log lines that wait to be written. When whoever reads them falls that far behind, lines are
/// dropped: a blocked terminal must not block the server.
const WAITING_LINES: usize = 128_000;

/// Libraries whose messages are about their own workings; named in `level` they speak as told. The HTTP library makes
/// an error of every request that is none, with which anybody could fill the log.
const QUIET: &str = "hyper=warn,reqwest=warn,sqlx=warn,rustls=warn,async_nats=warn,\
    actix_server=warn,actix_http=off,actix_web=warn,mio=warn,h2=warn";

/// The `logging` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoggingConfig {
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives such as
    /// `info,notify_server::hub=debug`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Why logging can't begin.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level can't be understood.
    #[error("logging.level: {0}")]
    Level(#[from] LevelError),
    /// Logging was set up before.
    #[error("logging is set up already")]
    Twice(#[from] TryInitError),
}

/// Why a text is no level.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// One word, but none of the levels.
    #[error(
        "expected error, warn, info, debug, trace or off, or directives such as info,sqlx=debug"
    )]
    Word,
    /// Not a list of directives.
    #[error("expected directives such as info,sqlx=debug: {0}")]
    Directives(#[from] ParseError),
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Human,
        }
    }
}

impl LoggingConfig {
    /// The filter that `level` means.
    ///
    /// # Errors
    /// It is no level and no list of directives.
    pub fn filter(&self) -> Result<EnvFilter, LevelError> {
        if self.level.contains(['=', ',']) {
            return Ok(EnvFilter::try_new(&self.level)?);
        }
        // A bare level is one for this server; libraries are named to be heard.
        let level: LevelFilter = self.level.parse().map_err(|_| LevelError::Word)?;
        Ok(EnvFilter::try_new(format!("{level},{QUIET}"))?)
    }
}

/// What is logged, for those who change it. Cheap to clone.
#[derive(Clone)]
pub struct Levels(Arc<dyn Fn(EnvFilter) -> bool + Send + Sync>);

impl Levels {
    /// Logs what this filter lets through from now on; `false` where nothing is logged any more.
    pub fn set(&self, filter: EnvFilter) -> bool {
        (self.0)(filter)
    }
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Levels")
    }
}

/// Begins logging. Lines are written until the guard is dropped.
///
/// # Errors
/// The level can't be understood, or logging was set up before.
pub fn init(config: &LoggingConfig) -> Result<(WorkerGuard, Levels), LoggingError> {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .lossy(true)
        .finish(io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(config.filter()?)
        .with_span_events(FmtSpan::NONE)
        .with_writer(writer);
    let levels = match config.format {
        LogFormat::Human => {
            let builder = builder.with_ansi(false).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.finish().try_init()?;
            Levels(Arc::new(move |filter| handle.reload(filter).is_ok()))
        }
        LogFormat::Json => {
            let builder = builder
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false)
                .with_filter_reloading();
            let handle = builder.reload_handle();
            builder.finish().try_init()?;
            Levels(Arc::new(move |filter| handle.reload(filter).is_ok()))
        }
    };
    Ok((guard, levels))
}
