//! TLS for those who connect: the certificate and its key, read anew when they are renewed, and
//! certificates of clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tracing::{info, warn};

use crate::units::Period;

/// How long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The protocols that are offered, the preferred first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The `tls` section of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// The certificate and those above it, as PEM; without it the server speaks plain HTTP.
    pub cert_file: Option<PathBuf>,
    /// Its private key, as PEM.
    pub key_file: Option<PathBuf>,
    /// The authorities, as PEM, whose certificates clients may have.
    pub client_ca_file: Option<PathBuf>,
    /// Whether administration and publishing over HTTP take such a certificate, besides the token.
    pub client_required: bool,
    /// How often the files are looked at.
    pub reload: Period,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            cert_file: None,
            key_file: None,
            client_ca_file: None,
            client_required: false,
            reload: Period::secs(10),
        }
    }
}

/// What the server proves itself with at this moment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tls {
    current: watch::Receiver<Arc<ServerConfig>>,
    metrics: Metrics,
}

/// Looks whether the files have changed.
#[derive(Debug)]
pub struct TlsTask {
    config: TlsConfig,
    seen: Files,
    current: watch::Sender<Arc<ServerConfig>>,
    metrics: Metrics,
}

/// What TLS counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    failed: Counter,
    expires: Gauge,
}

/// Why the server can't prove itself.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of the two files is not configured.
    #[error("tls.cert_file and tls.key_file go together, and only one is set")]
    Half,
    /// A file can't be read.
    #[error("{0} can't be read")]
    Read(PathBuf, #[source] std::io::Error),
    /// A file is larger than any certificate.
    #[error("{0} is larger than {MAX_FILE} bytes")]
    Large(PathBuf),
    /// There is no certificate in a file, or one that is none.
    #[error("{0} has no usable certificate: {1}")]
    Certificate(PathBuf, String),
    /// There is no private key in a file.
    #[error("{0} has no usable private key")]
    Key(PathBuf),
    /// The certificate and the key don't belong together, or can't be used.
    #[error("the certificate and its key can't be used: {0}")]
    Pair(#[from] rustls::Error),
    /// The authorities can't be used.
    #[error("the authorities of tls.client_ca_file can't be used: {0}")]
    Authorities(String),
}

/// Why there are no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disagreement {
    /// The client speaks no TLS that the server does, or went away.
    Failed,
    /// It took too long.
    Slow,
}

/// The bytes of the files.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Option<Vec<u8>>,
}

impl Metrics {
    /// Registers the metrics under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "tls_handshakes_failed",
            "Connections that ended before both sides agreed on keys",
            self.failed.clone(),
        );
        registry.register(
            "tls_certificate_expires_timestamp_seconds",
            "When the server's certificate expires, in seconds since 1970; 0 without one",
            self.expires.clone(),
        );
    }
}

impl Tls {
    /// Reads the files; `None` where none are configured. The task must run for renewed ones to be noticed.
    ///
    /// # Errors
    /// Says which file can't be used, and why.
    pub fn load(config: &TlsConfig, metrics: Metrics) -> Result<Option<(Self, TlsTask)>, TlsError> {
        if config.cert_file.is_none() && config.key_file.is_none() {
            return Ok(None);
        }
        let seen = Files::read(config)?;
        let (sender, current) = watch::channel(seen.server_config(config)?);
        metrics.expires.set(seen.expires(config)?);
        let tls = Self {
            current,
            metrics: metrics.clone(),
        };
        let task = TlsTask {
            config: config.clone(),
            seen,
            current: sender,
            metrics,
        };
        Ok(Some((tls, task)))
    }

    /// Agrees on keys with who has connected.
    ///
    /// # Errors
    /// That fails, or takes too long; which is counted.
    pub async fn accept(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Disagreement> {
        let config = Arc::clone(&self.current.borrow());
        let accepting = TlsAcceptor::from(config).accept(stream);
        let agreed = match timeout(HANDSHAKE, accepting).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(_)) => Disagreement::Failed,
            Err(_) => Disagreement::Slow,
        };
        self.metrics.failed.inc();
        Err(agreed)
    }
}

impl TlsTask {
    /// Runs until the server stops.
    pub async fn run(mut self) {
        let mut looks = tokio::time::interval(self.config.reload.0);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut problem = None;
        loop {
            looks.tick().await;
            let config = self.config.clone();
            let read = tokio::task::spawn_blocking(move || Files::read(&config)).await;
            let Ok(read) = read else {
                continue;
            };
            match read.and_then(|files| self.take(files)) {
                Ok(()) => problem = None,
                Err(error) => {
                    // Half-written files are whole at the next look; what stays wrong is said once.
                    let text = error.to_string();
                    if problem
                        .replace(text.clone())
                        .is_some_and(|before| before == text)
                    {
                        continue;
                    }
                    warn!(
                        error = text,
                        "a renewed certificate can't be used, and the one before stays"
                    );
                }
            }
        }
    }

    fn take(&mut self, files: Files) -> Result<(), TlsError> {
        if files == self.seen {
            return Ok(());
        }
        let config = files.server_config(&self.config)?;
        let expires = files.expires(&self.config)?;
        self.metrics.expires.set(expires);
        self.current.send_replace(config);
        self.seen = files;
        info!(expires, "the certificate was read anew");
        Ok(())
    }
}

impl Files {
    fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        let (Some(certificate), Some(key)) = (&config.cert_file, &config.key_file) else {
            return Err(TlsError::Half);
        };
        let authorities = config.client_ca_file.as_deref().map(read);
        Ok(Self {
            certificate: read(certificate)?,
            key: read(key)?,
            authorities: authorities.transpose()?,
        })
    }

    fn server_config(&self, config: &TlsConfig) -> Result<Arc<ServerConfig>, TlsError> {
        let chain = certificates(&self.certificate, config.cert_file.as_deref())?;
        let key_file = config.key_file.clone().unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| TlsError::Key(key_file))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &self.authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(authorities, config.client_ca_file.as_deref())? {
                    let added = roots.add(root);
                    added.map_err(|error| TlsError::Authorities(error.to_string()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        // Browsers have none: what takes one is looked at with each request.
                        .allow_unauthenticated()
                        .build();
                let verifier =
                    verifier.map_err(|error| TlsError::Authorities(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut server = builder.with_single_cert(chain, key)?;
        server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(server))
    }

    /// When the first certificate expires, in seconds since 1970.
    fn expires(&self, config: &TlsConfig) -> Result<i64, TlsError> {
        let file = config.cert_file.as_deref();
        let chain = certificates(&self.certificate, file)?;
        let wrong = |problem: String| {
            TlsError::Certificate(file.map(Path::to_owned).unwrap_or_default(), problem)
        };
        // `certificates` gives at least one.
        let first = chain
            .first()
            .ok_or_else(|| wrong("there is none".to_owned()))?;
        let (_, certificate) =
            x509_parser::parse_x509_certificate(first).map_err(|error| wrong(error.to_string()))?;
        Ok(certificate.validity().not_after.timestamp())
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |error| TlsError::Read(file.to_owned(), error);
    if std::fs::metadata(file).map_err(failed)?.len() > MAX_FILE {
        return Err(TlsError::Large(file.to_owned()));
    }
    std::fs::read(file).map_err(failed)
}

fn certificates(pem: &[u8], file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |problem: String| {
        TlsError::Certificate(file.map(Path::to_owned).unwrap_or_default(), problem)
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() {
        return Err(wrong("there is none in it".to_owned()));
    }
    Ok(found)
}
