//! The configuration: nests the sections that the modules own, and checks what no single section
//! can check. No section is copied into another form.

mod changes;
mod load;
mod problem;
mod validate;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use changes::Reading;
pub use load::{Overrides, load, read};
pub use problem::{ConfigError, Problem};

use crate::auth::AuthConfig;
use crate::authorize::AuthorizeConfig;
use crate::bus::{JetStreamConfig, LogKind, NatsConfig};
use crate::database::DatabaseConfig;
use crate::http::{MetricsConfig, ServerConfig};
use crate::hub::{ExplainConfig, HistoryConfig, StreamConfig};
use crate::ingest::EventsConfig;
use crate::presence::PresenceConfig;
use crate::source::SourceConfig;
use crate::telemetry::LoggingConfig;
use crate::tls::TlsConfig;
use crate::trace::TracingConfig;
use crate::watch::ReloadConfig;

/// The whole configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether this is a developer's machine.
    pub mode: Mode,
    /// Where the development key and database are kept.
    pub data_dir: PathBuf,
    /// Where to listen and how many to serve.
    pub server: ServerConfig,
    /// How the server proves itself.
    pub tls: TlsConfig,
    /// How streams behave.
    pub stream: StreamConfig,
    /// What is kept for clients that come back.
    pub history: HistoryConfig,
    /// Who may connect.
    pub auth: AuthConfig,
    /// Which permissions the backend is asked for.
    pub authorize: AuthorizeConfig,
    /// Where events come from.
    pub nats: NatsConfig,
    /// What keeps recent events.
    pub log: LogKind,
    /// The log, where it is JetStream.
    pub jetstream: JetStreamConfig,
    /// Who is in which chat.
    pub database: DatabaseConfig,
    /// What of the database is published.
    pub source: SourceConfig,
    /// What events may be like.
    pub events: EventsConfig,
    /// Telling who is online.
    pub presence: PresenceConfig,
    /// Who may read the metrics, and where.
    pub metrics: MetricsConfig,
    /// What is remembered for `explain`.
    pub explain: ExplainConfig,
    /// Where traces are sent.
    pub tracing: TracingConfig,
    /// What is logged.
    pub logging: LoggingConfig,
    /// Noticing that the configuration has changed.
    pub reload: ReloadConfig,
}

/// Whether this is a developer's machine: then keys and a demo database are made, and pages log
/// in by themselves. Only on a loopback address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Development where no key is configured, else production.
    Auto,
    /// Always development.
    Development,
    /// Never development.
    Production,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            data_dir: PathBuf::from("data"),
            server: ServerConfig::default(),
            tls: TlsConfig::default(),
            stream: StreamConfig::default(),
            history: HistoryConfig::default(),
            auth: AuthConfig::default(),
            authorize: AuthorizeConfig::default(),
            nats: NatsConfig::default(),
            log: LogKind::Auto,
            jetstream: JetStreamConfig::default(),
            database: DatabaseConfig::default(),
            source: SourceConfig::default(),
            events: EventsConfig::default(),
            presence: PresenceConfig::default(),
            metrics: MetricsConfig::default(),
            explain: ExplainConfig::default(),
            tracing: TracingConfig::default(),
            logging: LoggingConfig::default(),
            reload: ReloadConfig::default(),
        }
    }
}

impl Config {
    /// Whether the server runs in development mode.
    #[must_use]
    pub fn is_development(&self) -> bool {
        match self.mode {
            Mode::Auto => self.auth.keys.is_empty(),
            Mode::Development => true,
            Mode::Production => false,
        }
    }

    /// Whether the database is the development one, which the server makes and fills by itself.
    #[must_use]
    pub fn owns_database(&self) -> bool {
        self.is_development() && self.database.url.is_none()
    }

    /// The address to listen on: loopback in development, any other in production, unless one is
    /// configured.
    #[must_use]
    pub fn host(&self) -> IpAddr {
        self.server.host.unwrap_or(if self.is_development() {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        })
    }

    /// The file of the development database.
    #[must_use]
    pub fn development_database(&self) -> PathBuf {
        self.data_dir.join("notify.db")
    }

    /// The files that what can change without a restart is read from, besides the configuration itself.
    #[must_use]
    pub fn watched_files(&self) -> Vec<PathBuf> {
        let keys = self.auth.keys.iter();
        let of_keys = keys.flat_map(|key| [&key.secret_file, &key.pem_file, &key.jwks_file]);
        let files = of_keys.chain([&self.metrics.token_file]);
        files.flatten().cloned().collect()
    }

    /// The effective configuration as YAML, secrets masked.
    ///
    /// # Errors
    /// The YAML library fails, which it does for no configuration.
    pub fn to_yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        serde_saphyr::to_string(self)
    }
}
