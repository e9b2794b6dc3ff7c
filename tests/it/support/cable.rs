//! A cable to a server that can be cut: neither end hears of it, and nothing gets through any more.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Forwards connections to one server, until it is dropped.
pub(crate) struct Cable {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    _accepting: JoinSet<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    connected: bool,
    /// Connections that were made before the last cut carry nothing more.
    cuts: u32,
    /// Of these the server has given up those before so many cuts.
    given_up: u32,
}

impl Cable {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            connected: true,
            cuts: 0,
            given_up: 0,
        };
        let state = Arc::new(watch::Sender::new(state));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, server, Arc::clone(&state)));
        Self {
            address,
            state,
            _accepting: accepting,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing gets through, and new connections get no answer.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| {
            state.connected = false;
            state.cuts += 1;
        });
    }

    /// New connections are made again; those of before stay without a word.
    pub(crate) fn mend(&self) {
        self.state.send_modify(|state| state.connected = true);
    }

    /// The server notices that the clients of before the cut do not answer, as its keepalive makes it.
    pub(crate) fn server_gives_up(&self) {
        self.state.send_modify(|state| state.given_up = state.cuts);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, state: Arc<watch::Sender<State>>) {
    let mut connections = JoinSet::new();
    loop {
        let client = listener.accept().await.unwrap().0;
        while connections.try_join_next().is_some() {}
        connections.spawn(forward(client, server, state.subscribe()));
    }
}

async fn forward(mut client: TcpStream, server: SocketAddr, mut state: watch::Receiver<State>) {
    if state.wait_for(|state| state.connected).await.is_err() {
        return;
    }
    let cuts = state.borrow().cuts;
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        _ = state.wait_for(|state| state.cuts > cuts) => {}
    }
    // Both sockets stay open.
    let _ = state.wait_for(|state| state.given_up > cuts).await;
    drop(server);
    std::future::pending::<()>().await;
}
