//! A server's working directory, configuration, command line and environment.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::nats::Nats;
use super::process::{Outcome, Process};
use super::sqlite;
use super::tokens;

/// How a server is started. Clones share the directory, so that a server can be stopped and
/// started again in it.
#[derive(Clone)]
pub(crate) struct Settings {
    directory: Arc<TempDir>,
    config: Config,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    members: Vec<(i64, Vec<i64>)>,
}

#[derive(Clone)]
enum Config {
    /// JSON is YAML too.
    Structure(Value),
    Text(String),
}

impl Settings {
    /// A production server with one HS256 key and an SQLite database of the chat backend, on a
    /// port of the system's choice, that logs JSON at `debug` and tells nobody who is online. The
    /// embedded bus, unless `nats` follows.
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let database = format!("sqlite://{}", directory.path().join("chat.db").display());
        Self::with_config(
            directory,
            Config::Structure(json!({
                "mode": "production",
                "server": {"host": "127.0.0.1", "port": 0},
                "auth": {"keys": [{"algorithm": "HS256", "secret": tokens::SECRET}]},
                "database": {"url": database},
                // Tests count on every event that they get.
                "presence": {"enabled": false},
                "logging": {"level": "debug", "format": "json"},
            })),
        )
    }

    /// The shipped configuration as it is, but for the port and the format of the log.
    pub(crate) fn shipped() -> Self {
        Self::text(&shipped_config())
            .environment("NOTIFY_SERVER__PORT", "0")
            .environment("NOTIFY_SERVER__LOGGING__FORMAT", "json")
    }

    /// A configuration file of exactly this text.
    pub(crate) fn text(text: &str) -> Self {
        Self::with_config(TempDir::new().unwrap(), Config::Text(text.to_owned()))
    }

    fn with_config(directory: TempDir, config: Config) -> Self {
        Self {
            directory: Arc::new(directory),
            config,
            arguments: Vec::new(),
            environment: Vec::new(),
            members: Vec::new(),
        }
    }

    /// Sets one value of the configuration file, e.g. `server.max_connections`.
    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let Config::Structure(config) = &mut self.config else {
            panic!("the configuration is a text");
        };
        // Sections that aren't there yet come into being on the way.
        let place = key.split('.').fold(config, |at, name| &mut at[name]);
        *place = value.into();
        self
    }

    pub(crate) fn nats(self, nats: &Nats) -> Self {
        self.set("nats.url", json!([nats.url()]))
    }

    /// Makes users members of a chat, in the database that `new` has configured.
    pub(crate) fn chat(mut self, chat: i64, users: &[i64]) -> Self {
        self.members.push((chat, users.to_vec()));
        self
    }

    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn database_file(&self) -> PathBuf {
        self.directory().join("chat.db")
    }

    /// What the configuration file says.
    pub(crate) fn config_text(&self) -> String {
        match &self.config {
            Config::Structure(config) => config.to_string(),
            Config::Text(text) => text.clone(),
        }
    }

    /// The command that would start the server with these settings.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        std::fs::write(self.directory().join("config.yml"), self.config_text()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_notify-server"));
        // Nothing of the environment that the tests run in may configure the server. What stays
        // is for finding programs, and for measuring coverage.
        command.env_clear();
        for name in ["PATH", "HOME", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .current_dir(self.directory())
            .envs(self.environment.iter().cloned())
            .args(&self.arguments)
            .args(arguments);
        command
    }

    /// Runs a subcommand to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Outcome {
        self.prepare_database().await;
        Process::run("notify-server", &mut self.command(arguments)).await
    }

    /// Makes the chat backend's database, the first time.
    pub(super) async fn prepare_database(&self) {
        let Config::Structure(config) = &self.config else {
            return;
        };
        let file = self.database_file();
        let url = config["database"]["url"].as_str().unwrap_or("");
        if !url.ends_with(file.to_str().unwrap()) || file.exists() {
            return;
        }
        sqlite::execute(&file, sqlite::CHAT_MEMBERS).await;
        if !self.members.is_empty() {
            let members: Vec<_> = self.members.iter().map(|(c, u)| (*c, &u[..])).collect();
            sqlite::execute(&file, &sqlite::insert_members(&members)).await;
        }
    }
}

/// The text of the configuration file that the project ships.
pub(crate) fn shipped_config() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yml");
    std::fs::read_to_string(file).unwrap()
}
