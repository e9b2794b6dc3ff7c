//! Connections, tokens and answers, over TCP or TLS. Knows nothing of what is visited.

use std::fs;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use jsonwebtoken::{EncodingKey, Header};
use memchr::memmem;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::Options;

/// How long a server under load may take for any answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest answer that is read.
const LONGEST: usize = 1 << 20;

/// Makes connections and tokens.
pub(crate) struct Guest {
    server: SocketAddr,
    key: EncodingKey,
    expires: u64,
    tls: Option<TlsConnector>,
}

trait Both: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite> Both for T {}

/// One connection.
pub(crate) struct Connection(Pin<Box<dyn Both>>);

impl Guest {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let tls = match &options.ca {
            None => None,
            Some(file) => {
                let pem = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    roots.add(certificate?)?;
                }
                let config = ClientConfig::builder()
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                Some(TlsConnector::from(Arc::new(config)))
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        Ok(Self {
            server: options.server,
            key: EncodingKey::from_secret(options.secret.as_bytes()),
            expires: now + 3600,
            tls,
        })
    }

    /// A token of a user with what `rights` say.
    pub(crate) fn token(&self, user: u64, rights: Value) -> Result<String> {
        let claims = json!({"user_id": user, "exp": self.expires, "notify": rights});
        Ok(jsonwebtoken::encode(
            &Header::default(),
            &claims,
            &self.key,
        )?)
    }

    /// Connects. `reset` has the connection end without a goodbye.
    pub(crate) async fn connect(&self, reset: bool) -> Result<Connection> {
        let connecting = TcpStream::connect(self.server);
        let socket = timeout(PATIENCE, connecting)
            .await
            .context("connecting")??;
        if reset {
            SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        }
        let Some(tls) = &self.tls else {
            return Ok(Connection(Box::pin(socket)));
        };
        let name = ServerName::from(self.server.ip());
        let agreed = timeout(PATIENCE, tls.connect(name, socket))
            .await
            .context("agreeing on keys")??;
        Ok(Connection(Box::pin(agreed)))
    }

    /// Asks once, on a connection of its own, and gives status and body.
    pub(crate) async fn ask(&self, head: &str, token: &str, body: &str) -> Result<(u16, String)> {
        let mut connection = self.connect(false).await?;
        let length = match head.starts_with("GET") {
            true => String::new(),
            false => format!("content-length: {}\r\n", body.len()),
        };
        let request = format!(
            "{head} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n{length}\r\n{body}"
        );
        connection.send(&request).await?;
        let answer = connection.read_to_end().await?;
        let status = answer.get(9..12).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("no answer: {answer:?}"))?;
        let (_, body) = answer
            .split_once("\r\n\r\n")
            .context("a head without an end")?;
        Ok((status, body.to_owned()))
    }
}

impl Connection {
    pub(crate) async fn send(&mut self, text: &str) -> Result<()> {
        timeout(PATIENCE, self.0.write_all(text.as_bytes()))
            .await
            .context("sending")??;
        // TLS has a buffer of its own.
        timeout(PATIENCE, self.0.flush())
            .await
            .context("sending")??;
        Ok(())
    }

    /// Reads until `wanted` has come.
    pub(crate) async fn read_until(&mut self, wanted: &str) -> Result<()> {
        let mut read = Vec::with_capacity(1024);
        while memmem::find(&read, wanted.as_bytes()).is_none() {
            let more = timeout(PATIENCE, self.0.read_buf(&mut read)).await;
            ensure!(read.len() < LONGEST, "no {wanted} in a megabyte");
            if more.with_context(|| format!("waiting for {wanted}"))?? == 0 {
                let read = String::from_utf8_lossy(&read);
                bail!("the end came before {wanted}: {read:?}");
            }
        }
        Ok(())
    }

    async fn read_to_end(&mut self) -> Result<String> {
        let mut read = Vec::with_capacity(1024);
        while timeout(PATIENCE, self.0.read_buf(&mut read))
            .await
            .context("reading")??
            > 0
        {
            ensure!(read.len() < LONGEST, "an answer without an end");
        }
        Ok(String::from_utf8(read)?)
    }
}
