//! How a stream comes from the server: over a connection of its own, plain or encrypted, or over one that
//! many streams share.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use h2::{RecvStream, client::SendRequest};
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};

use crate::{
    fleet::Request,
    stream::{Reason, connect},
    wire::Reader,
};

/// What an HTTP/2 connection and each of its streams may have on the way: as much as browsers allow.
const WINDOW: u32 = 6 << 20;

/// How streams are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// HTTP/1.1
    Plain,
    /// HTTP/1.1 over TLS
    Tls,
    /// HTTP/2 over TLS
    H2,
}

/// Opens streams.
pub(crate) enum Way {
    Plain,
    Tls(TlsConnector),
    /// Each connection for as many streams; the tasks drive them.
    H2 {
        connections: Vec<SendRequest<bytes::Bytes>>,
        share: usize,
        _drivers: JoinSet<()>,
    },
}

/// A stream's bytes.
pub(crate) enum Source {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    H2(RecvStream),
}

impl Way {
    /// The way of some streams. Connections that are shared are made now.
    pub(crate) async fn prepare(
        transport: Transport,
        server: SocketAddr,
        authority: Option<&PathBuf>,
        (streams, share): (usize, usize),
    ) -> Result<Self> {
        let protocol: &[u8] = match transport {
            Transport::Plain => return Ok(Self::Plain),
            Transport::Tls => b"http/1.1",
            Transport::H2 => b"h2",
        };
        let authority =
            authority.context("--authority is missing: who has signed the server's certificate")?;
        let connector = connector(authority, protocol)?;
        if transport == Transport::Tls {
            return Ok(Self::Tls(connector));
        }
        let share = share.max(1);
        let (mut connections, mut drivers) = (Vec::new(), JoinSet::new());
        for index in 0..streams.div_ceil(share) {
            let socket = encrypted(&connector, server, index).await;
            let socket = socket.map_err(anyhow::Error::msg)?;
            let mut builder = h2::client::Builder::new();
            builder
                .initial_window_size(WINDOW)
                .initial_connection_window_size(WINDOW);
            let (requests, connection) = builder.handshake(socket).await?;
            // Each of its streams says by itself when it has ended.
            drivers.spawn_local(async move {
                let _ = connection.await;
            });
            connections.push(requests);
        }
        Ok(Self::H2 {
            connections,
            share,
            _drivers: drivers,
        })
    }

    /// Asks for a stream; gives its bytes, and what reads them.
    pub(crate) async fn open(
        &self,
        server: SocketAddr,
        index: usize,
        request: &Request,
    ) -> Result<(Source, Reader), Reason> {
        let failed = |error: std::io::Error| format!("request: {error}");
        match self {
            Self::Plain => {
                let socket = connect(server, index).await;
                let mut socket = socket.map_err(|error| format!("connect: {error}"))?;
                socket.write_all(&request.bytes).await.map_err(failed)?;
                Ok((Source::Plain(socket), Reader::new()))
            }
            Self::Tls(connector) => {
                let mut socket = encrypted(connector, server, index).await?;
                socket.write_all(&request.bytes).await.map_err(failed)?;
                Ok((Source::Tls(Box::new(socket)), Reader::new()))
            }
            Self::H2 {
                connections, share, ..
            } => {
                let connection = connections[index / share].clone();
                let body = ask(connection, server, request).await;
                let body = body.map_err(|error| format!("request: {error}"))?;
                Ok((Source::H2(body), Reader::of_body()))
            }
        }
    }
}

async fn ask(
    connection: SendRequest<bytes::Bytes>,
    server: SocketAddr,
    request: &Request,
) -> Result<RecvStream> {
    let mut connection = connection.ready().await?;
    let request = http::Request::get(format!("https://{server}/events"))
        .header("accept", "text/event-stream")
        .header("authorization", format!("Bearer {}", request.token))
        .body(())?;
    let (response, _) = connection.send_request(request, true)?;
    let response = response.await?;
    let status = response.status();
    anyhow::ensure!(status == 200, "status {status}");
    Ok(response.into_body())
}

async fn encrypted(
    connector: &TlsConnector,
    server: SocketAddr,
    index: usize,
) -> Result<TlsStream<TcpStream>, Reason> {
    let socket = connect(server, index).await;
    let socket = socket.map_err(|error| format!("connect: {error}"))?;
    let name = ServerName::IpAddress(server.ip().into());
    let encrypted = connector.connect(name, socket).await;
    encrypted.map_err(|error| format!("TLS: {error}"))
}

fn connector(authority: &Path, protocol: &[u8]) -> Result<TlsConnector> {
    let file = std::fs::read(authority).with_context(|| format!("reading {authority:?}"))?;
    let mut roots = RootCertStore::empty();
    for block in pem::parse_many(file)? {
        roots.add(block.into_contents().into())?;
    }
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    // A session that is resumed would cost the server less than one of a new browser.
    config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Source {
    /// Gives the next bytes to `take`; none at the end.
    pub(crate) fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<Result<T, Reason>> {
        let mut read = ReadBuf::new(buffer);
        let result = match self {
            Self::Plain(socket) => ready!(Pin::new(socket).poll_read(cx, &mut read)),
            Self::Tls(socket) => ready!(Pin::new(socket).poll_read(cx, &mut read)),
            Self::H2(body) => {
                let data = match ready!(body.poll_data(cx)) {
                    None => bytes::Bytes::new(),
                    Some(Ok(data)) => data,
                    Some(Err(error)) => return Poll::Ready(Err(error.to_string())),
                };
                // Whatever there is may be sent.
                let _ = body.flow_control().release_capacity(data.len());
                return Poll::Ready(Ok(take(&data)));
            }
        };
        Poll::Ready(match result {
            Ok(()) => Ok(take(read.filled())),
            Err(error) => Err(error.kind().to_string()),
        })
    }
}

/// The way of all streams of a fleet.
pub(crate) type Shared = Rc<Way>;
