//! Three nats-servers that keep a stream together, each of which can be killed and come back.

use std::net::SocketAddr;

use async_nats::ConnectOptions;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::Request;
use super::nats::{Backend, nats_server};
use super::ports::free_port;
use super::process::Process;
use super::{STREAM, eventually};

const NODES: usize = 3;

pub(crate) struct Cluster {
    nodes: Vec<Node>,
}

struct Node {
    port: u16,
    route: u16,
    monitor: u16,
    store: TempDir,
    process: Option<Process>,
}

impl Cluster {
    /// Starts all three. They need a few seconds more to agree on who leads.
    pub(crate) async fn start() -> Self {
        let node = |_| Node {
            port: free_port(),
            route: free_port(),
            monitor: free_port(),
            store: TempDir::new().unwrap(),
            process: None,
        };
        let mut cluster = Self {
            nodes: (0..NODES).map(node).collect(),
        };
        cluster.start_again(0..NODES).await;
        cluster
    }

    /// Starts nodes that are not there, each with the store that it had.
    pub(crate) async fn start_again(&mut self, nodes: impl IntoIterator<Item = usize> + Clone) {
        for index in nodes.clone() {
            self.nodes[index].process = Some(self.spawn(index));
        }
        for index in nodes {
            self.process(index)
                .stderr_line(|line| line.ends_with("Server is ready"))
                .await;
        }
    }

    fn spawn(&self, index: usize) -> Process {
        let route = |node: &Node| format!("nats://127.0.0.1:{}", node.route);
        let routes: Vec<String> = self.nodes.iter().map(route).collect();
        let node = &self.nodes[index];
        let mut command = nats_server(node.port, node.store.path());
        command
            .args(["-js", "--cluster_name", "tests"])
            .args(["--server_name", &name_of(index)])
            .args(["--cluster", &routes[index], "--routes", &routes.join(",")])
            .args(["-m", &node.monitor.to_string()]);
        Process::spawn(&name_of(index), &mut command)
    }

    fn process(&self, index: usize) -> &Process {
        let process = self.nodes[index].process.as_ref();
        process.expect("a node that runs")
    }

    /// Kills a node; connections break without a word.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].process = None;
    }

    /// Asks a node to stop, and waits until it has.
    pub(crate) async fn stop(&mut self, node: usize) {
        let process = self.nodes[node].process.take();
        let process = process.expect("a node that runs");
        process.signal("TERM");
        process.exited().await;
    }

    /// Sends a signal to a node.
    pub(crate) fn signal(&self, node: usize, signal: &str) {
        self.process(node).signal(signal);
    }

    /// The addresses of all nodes.
    pub(crate) fn urls(&self) -> Value {
        let urls = (0..NODES).map(|node| self.url(node));
        json!(urls.collect::<Vec<_>>())
    }

    fn url(&self, node: usize) -> String {
        format!("nats://127.0.0.1:{}", self.nodes[node].port)
    }

    /// A backend that is connected to one node.
    pub(crate) async fn backend(&self, node: usize) -> Backend {
        Backend::at(&self.url(node), ConnectOptions::new()).await
    }

    /// The node that the server is connected to.
    pub(crate) async fn node_of_server(&self) -> usize {
        eventually("a node that the server is connected to", || async {
            for (index, node) in self.nodes.iter().enumerate() {
                let address = SocketAddr::from(([127, 0, 0, 1], node.monitor));
                let mut connections = Request::get("/connz").send(address).await.json().await;
                let connections = connections["connections"].take();
                let connections = connections.as_array().into_iter().flatten();
                if { connections }.any(|connection| connection["name"] == "notify-server") {
                    return Some(index);
                }
            }
            None
        })
        .await
    }

    /// The node that leads the stream.
    pub(crate) async fn leader(&self, backend: &Backend) -> usize {
        eventually("a leader of the stream", || async {
            let info = backend.jetstream().get_stream(STREAM).await.ok()?;
            let leader = info.cached_info().cluster.as_ref()?.leader.clone()?;
            (0..NODES).find(|index| name_of(*index) == leader)
        })
        .await
    }

    /// Has the leader of the stream step down until it is none of these. Gives the leader.
    pub(crate) async fn lead_elsewhere(&self, backend: &Backend, than: &[usize]) -> usize {
        loop {
            let leader = self.leader(backend).await;
            if !than.contains(&leader) {
                return leader;
            }
            let step_down = format!("STREAM.LEADER.STEPDOWN.{STREAM}");
            let answer: Result<Value, _> = backend.jetstream().request(step_down, &()).await;
            answer.unwrap();
            eventually("another leader of the stream", || async {
                (self.leader(backend).await != leader).then_some(())
            })
            .await;
        }
    }
}

fn name_of(node: usize) -> String {
    format!("node-{node}")
}
