//! A load balancer in small: forwards each connection's bytes to the next backend that accepts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A proxy on a port of its own, until it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    backends: Arc<Mutex<Backends>>,
    _accepting: JoinSet<()>,
}

#[derive(Default)]
struct Backends {
    addresses: Vec<SocketAddr>,
    next: usize,
}

impl Proxy {
    /// Starts a proxy before these backends.
    pub(crate) async fn start(backends: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let backends = Arc::new(Mutex::new(Backends {
            addresses: backends.to_vec(),
            next: 0,
        }));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&backends)));
        Self {
            address,
            backends,
            _accepting: accepting,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends new connections to this backend, too.
    pub(crate) fn add(&self, backend: SocketAddr) {
        self.backends.lock().unwrap().addresses.push(backend);
    }

    /// Sends no new connection to this backend; those that it has stay.
    pub(crate) fn remove(&self, backend: SocketAddr) {
        let mut backends = self.backends.lock().unwrap();
        backends.addresses.retain(|&address| address != backend);
    }
}

impl Backends {
    /// All of them, beginning with whose turn it is.
    fn in_turn(&mut self) -> Vec<SocketAddr> {
        let mut addresses = self.addresses.clone();
        if !addresses.is_empty() {
            let turn = self.next % addresses.len();
            self.next += 1;
            addresses.rotate_left(turn);
        }
        addresses
    }
}

async fn accept(listener: TcpListener, backends: Arc<Mutex<Backends>>) {
    // Dropped with this task, which ends all connections.
    let mut connections = JoinSet::new();
    loop {
        let client = listener.accept().await.unwrap().0;
        while connections.try_join_next().is_some() {}
        let in_turn = backends.lock().unwrap().in_turn();
        connections.spawn(forward(client, in_turn));
    }
}

/// Forwards until either side is done. Where no backend accepts, the client sees the connection
/// close.
async fn forward(mut client: TcpStream, in_turn: Vec<SocketAddr>) {
    for backend in in_turn {
        if let Ok(mut server) = TcpStream::connect(backend).await {
            // However it ends, both sides see the end.
            let _ = copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
