//! `serve`: runs the server until it is told to stop.

use std::io::{IsTerminal as _, stdin};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use notify_server::app::{Application, instance_name};
use notify_server::reload::{Origin, glance};
use notify_server::telemetry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::Options;

pub(super) async fn run(options: &Options) -> anyhow::Result<ExitCode> {
    // Before anything else, so that a signal during the start is not the default one.
    let (stop, hangups) = (StopSignals::new()?, signal(SignalKind::hangup())?);
    let mut source = options.source();
    let reading = source.read()?;
    let (config, file) = (&reading.config, options.config.as_deref());
    let (_logging, levels) = telemetry::init(&config.logging)?;
    let development = config.is_development();
    let authenticated = config.auth.enabled;
    let instance = instance_name();
    info!(
        instance,
        version = env!("CARGO_PKG_VERSION"),
        development,
        nats = ?config.nats.url,
        subjects = ?config.nats.subjects,
        "starting"
    );
    if !config.auth.enabled {
        warn!("authentication is off: whoever reaches this server can be anyone");
    }
    // One that was there is not left out because it is not there for a moment.
    source.required |= source.file.exists();
    let origin = Origin {
        seen: glance(config, &source.file),
        file: source.file.clone(),
        read: Arc::new(move || source.read()),
        hangups: Some(hangups),
        levels,
    };
    let application = Application::build(reading, origin, instance).await?;
    let address = application.address();
    info!(address = address.to_string(), "listening");
    if let Some(address) = application.metrics_address() {
        info!(address = address.to_string(), "metrics listening");
    }
    if development {
        println!("{}", invitation(address, authenticated, file));
    }
    application.run(stop.wait()).await?;
    Ok(ExitCode::SUCCESS)
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Whether somebody has started it in a terminal.
    terminal: bool,
}

impl StopSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            terminal: stdin().is_terminal(),
        })
    }

    async fn wait(mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return info!(signal = "SIGTERM", "told to stop"),
                _ = self.interrupt.recv() => return info!(signal = "SIGINT", "told to stop"),
                _ = self.hangup.recv() => {
                    // Usually it only means that the configuration is to be read again.
                    if self.terminal && !stdin().is_terminal() {
                        return info!(signal = "SIGHUP", "the terminal has gone");
                    }
                }
            }
        }
    }
}

/// Three lines to paste: open a stream, publish to it, and the page's address. The token is made
/// when the line runs, so that none is printed.
fn invitation(address: SocketAddr, authenticated: bool, file: Option<&Path>) -> String {
    let program = program();
    // The commands find configuration and key from the folder that the server was started in.
    let here = std::env::current_dir().map_or(String::new(), |here| {
        format!("cd {} && ", quoted(&here.display().to_string()))
    });
    let config = file.map_or(String::new(), |file| {
        format!(" --config {}", quoted(&file.display().to_string()))
    });
    let message = r#"{"MessageReceived":{"message":{"id":1,"chat_id":1,"sender_id":1,"content":"hello","files":[]},"chat_id":1}}"#;
    let who = if authenticated {
        format!("access_token=$({here}{program}{config} token --user 2)")
    } else {
        "user_id=2".to_owned()
    };
    format!(
        "curl -N \"http://{address}/events?{who}\"\n\
         ({here}{program}{config} publish --url http://{address} fechatter.realtime.chat.1 '{message}')\n\
         http://{address}/"
    )
}

/// This program's path as it can be typed, relative where it lies below the current folder.
fn program() -> String {
    let Ok(path) = std::env::current_exe() else {
        return "notify-server".to_owned();
    };
    let shown = std::env::current_dir()
        .ok()
        .and_then(|here| {
            path.strip_prefix(here)
                .ok()
                .map(|below| Path::new(".").join(below))
        })
        .unwrap_or(path);
    quoted(&shown.display().to_string())
}

/// Text as one word of a shell, also within a double-quoted `$(…)`.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
