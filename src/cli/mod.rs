//! The command line: what each command does, and with which exit code it ends.

mod caller;
mod check_config;
mod doctor;
mod event_stream;
mod explain;
mod health;
mod listen;
mod migrate;
mod publish;
mod revoke;
mod serve;
mod token;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use notify_server::auth::development::{Signer, SignerError};
use notify_server::config::{Config, ConfigError, Overrides, Reading, read};
use notify_server::telemetry::LogFormat;
use serde_json::{Map, Value};

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "config.yml";

/// Pushes NATS events to browsers over Server-Sent Events.
#[derive(Debug, Parser)]
#[command(name = "notify-server", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options of every command. They win over the environment and the file.
#[derive(Debug, Args)]
struct Options {
    /// Configuration file [default: config.yml, which may be missing]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, global = true, value_name = "ADDRESS")]
    host: Option<IpAddr>,
    /// Port to listen on; 0 for a free one
    #[arg(long, global = true)]
    port: Option<u16>,
    /// NATS servers, with commas between them; without, the in-process bus is used
    #[arg(long, global = true, value_name = "URL")]
    nats: Option<String>,
    /// Database with the chat memberships: postgres://… or sqlite://…
    #[arg(long, global = true, value_name = "URL")]
    database: Option<String>,
    /// error, warn, info, debug, trace, or directives
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How log lines look
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (what happens without a command, too)
    Serve,
    /// Print a token signed with the configured secret or the development key
    Token(token::Arguments),
    /// Publish a JSON payload on a subject, through NATS or a running server
    Publish(publish::Arguments),
    /// Revoke a token, or all that a user was given so far, on all instances
    Revoke(revoke::Arguments),
    /// Open a user's stream and print what arrives
    Listen(listen::Arguments),
    /// Print the effective configuration, secrets masked, or what is wrong with it
    CheckConfig,
    /// Create the tables for users, chats, memberships, messages and the outbox in the configured database
    Migrate(migrate::Arguments),
    /// Ask a running server whether it is ready; exit code 1 if it is not
    Health(health::Arguments),
    /// Say why a user did or did not get an event; exit code 0 if the user has it, 1 if not, 2 if that can't be told
    Explain(explain::Arguments),
    /// Examine a deployed server as a browser would use it, through whatever stands before it; exit
    /// code 1 if there is a problem
    Doctor(doctor::Arguments),
}

/// Commands that read no configuration, so that none of its options belongs into their help.
const WITHOUT_CONFIGURATION: [&str; 1] = ["doctor"];

impl Cli {
    /// What the program was called with. Ends it where that is wrong, or asks for help.
    pub(crate) fn parsed() -> Self {
        let mut command = Self::command();
        let options: Vec<_> = command
            .get_arguments()
            .map(|a| a.get_id().clone())
            .collect();
        // Options of every command reach the commands only now.
        command.build();
        for name in WITHOUT_CONFIGURATION {
            command = command.mut_subcommand(name, |command| {
                command.mut_args(|argument| {
                    let hidden = options.contains(argument.get_id());
                    if hidden {
                        argument.hide(true)
                    } else {
                        argument
                    }
                })
            });
        }
        let matches = command.get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Runs the command that was given.
///
/// # Errors
/// What went wrong, for the user to read.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let options = &cli.options;
    // Not for every command: the doctor examines another machine's server.
    let config = || options.load();
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => block_on(serve::run(options)),
        Command::Token(arguments) => token::run(&config()?, arguments),
        Command::Publish(arguments) => block_on(publish::run(config()?, arguments)),
        Command::Revoke(arguments) => block_on(revoke::run(config()?, arguments)),
        Command::Listen(arguments) => block_on(listen::run(config()?, arguments)),
        Command::CheckConfig => check_config::run(&config()?),
        Command::Migrate(arguments) => block_on(migrate::run(config()?, arguments)),
        Command::Health(arguments) => block_on(health::run(config()?, arguments)),
        Command::Explain(arguments) => block_on(explain::run(config()?, arguments)),
        Command::Doctor(arguments) => block_on(doctor::run(arguments)),
    }
}

fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(command)
}

impl Options {
    fn load(&self) -> Result<Config, ConfigError> {
        self.source().read().map(|reading| reading.config)
    }

    fn source(&self) -> Source {
        Source {
            file: self.config.clone().unwrap_or_else(|| DEFAULT_FILE.into()),
            required: self.config.is_some(),
            overrides: self.overrides(),
        }
    }

    fn overrides(&self) -> Overrides {
        let format = self.log_format.map(|format| match format {
            LogFormat::Human => "human".to_owned(),
            LogFormat::Json => "json".to_owned(),
        });
        [
            (
                "server.host",
                self.host.map(|host| host.to_string()),
                "--host",
            ),
            (
                "server.port",
                self.port.map(|port| port.to_string()),
                "--port",
            ),
            ("nats.url", self.nats.clone(), "--nats"),
            ("database.url", self.database.clone(), "--database"),
            ("logging.level", self.log_level.clone(), "--log-level"),
            ("logging.format", format, "--log-format"),
        ]
        .into_iter()
        .filter_map(|(key, text, flag)| Some((key, text?, flag)))
        .collect()
    }
}

/// Where the configuration comes from, besides the environment.
struct Source {
    file: PathBuf,
    /// Whether the file has to be there.
    required: bool,
    overrides: Overrides,
}

impl Source {
    fn read(&self) -> Result<Reading, ConfigError> {
        read(&self.file, self.required, environment(), &self.overrides)
    }
}

/// The environment; variables that are not UTF-8 can't be ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// A signer as the configuration has it: the development key or the shared secret.
fn signer(config: &Config) -> Result<Signer, SignerError> {
    if config.is_development() {
        Signer::existing(&config.data_dir)
    } else {
        Signer::configured(&config.auth)
    }
}

/// Where a request to a path goes; without authentication it says in whose name.
fn address(config: &Config, server: &str, path: &str, user: &str) -> String {
    let server = server.trim_end_matches('/');
    if config.auth.enabled {
        format!("{server}{path}")
    } else {
        format!("{server}{path}?user_id={user}")
    }
}

/// What a token must say for a server with this configuration to take it.
fn own_claims(config: &Config) -> Map<String, Value> {
    let mut claims = Map::new();
    let demanded = [("iss", &config.auth.issuer), ("aud", &config.auth.audience)];
    for (claim, accepted) in demanded {
        if let Some(first) = accepted.first() {
            claims.insert(claim.to_owned(), Value::from(first.clone()));
        }
    }
    claims
}

/// A client for the server at `url`, or else for the one of this configuration on this machine. That one's
/// certificate is for the name that others know it by, so that it is not compared with a loopback address.
fn client(config: &Config, url: Option<&str>) -> reqwest::ClientBuilder {
    let own = url.is_none() && config.tls.cert_file.is_some();
    let local = config.host().is_unspecified() || config.host().is_loopback();
    reqwest::Client::builder().tls_danger_accept_invalid_certs(own && local)
}

/// Where a server with this configuration is reached from this machine.
fn local_url(config: &Config) -> String {
    let host = config.host();
    let host = if host.is_unspecified() {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        host
    };
    let scheme = match config.tls.cert_file {
        Some(_) => "https",
        None => "http",
    };
    format!("{scheme}://{}", SocketAddr::new(host, config.server.port))
}
