//! Making the NATS client from its configuration.

use std::io;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use percent_encoding::percent_decode_str;
use rand::Rng as _;
use url::Url;

use super::config::NatsConfig;
use crate::bus::subject::SubjectError;
use crate::secret::SecretUrl;

/// The longest pause between two attempts to connect.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// The pause before the second attempt; doubled from then on.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two pings to the NATS server. Two unanswered ones are a lost connection.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Why the NATS bus could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A URL is none.
    #[error("{url} is not the address of a NATS server, e.g. nats://127.0.0.1:4222")]
    Url {
        /// The URL, masked.
        url: SecretUrl,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// A subject is none.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The credentials can't be read.
    #[error("nats.credentials_file can't be read")]
    Credentials(#[source] io::Error),
    /// Only half of a client certificate is configured.
    #[error("nats.tls needs cert_file and key_file together, and only one is set")]
    HalfCertificate,
    /// NATS is not reachable, and `nats.required_at_start` is set.
    #[error("NATS is not reachable at {servers}, and nats.required_at_start is set")]
    Required {
        /// The configured servers, masked.
        servers: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
    /// NATS is not reachable, and who asks does not wait for it.
    #[error("NATS is not reachable at {servers}")]
    Unreachable {
        /// The configured servers, masked.
        servers: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The client refused a subscription.
    #[error("NATS subscription failed")]
    Subscribe(#[from] async_nats::SubscribeError),
}

/// Connects as configured; for the server itself, which keeps trying for ever.
pub(super) async fn connect(
    config: &NatsConfig,
    on_event: impl Fn(Event) + Send + Sync + 'static,
) -> Result<Client, ConnectError> {
    let on_event = std::sync::Arc::new(on_event);
    let mut options = options(config)
        .await?
        .max_reconnects(None)
        .subscription_capacity(config.pending_limit)
        .reconnect_delay_callback(backoff)
        .event_callback(move |event| {
            let on_event = std::sync::Arc::clone(&on_event);
            async move { on_event(event) }
        });
    if !config.required_at_start {
        options = options.retry_on_initial_connect();
    }
    let connected = options.connect(addresses(config)?).await;
    connected.map_err(|source| ConnectError::Required {
        servers: servers(config),
        source,
    })
}

/// The configured servers for people, without what is secret in them.
pub(super) fn servers(config: &NatsConfig) -> String {
    let shown: Vec<String> = config.url.iter().map(ToString::to_string).collect();
    shown.join(", ")
}

/// Checks the addresses.
///
/// # Errors
/// The first that is none.
pub fn check(config: &NatsConfig) -> Result<(), ConnectError> {
    addresses(config).map(drop)
}

/// Connects once, for a command that publishes and ends.
///
/// # Errors
/// As [`super::open`], and when no server is reachable.
pub async fn connect_once(config: &NatsConfig) -> Result<Client, ConnectError> {
    let options = options(config).await?;
    let connected = options.connect(addresses(config)?).await;
    connected.map_err(|source| ConnectError::Unreachable {
        servers: servers(config),
        source,
    })
}

async fn options(config: &NatsConfig) -> Result<ConnectOptions, ConnectError> {
    let mut options = ConnectOptions::new()
        .name("notify-server")
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .require_tls(config.tls.required);
    if let Some(file) = &config.credentials_file {
        options = options
            .credentials_file(file)
            .await
            .map_err(ConnectError::Credentials)?;
    }
    if let Some(credentials) = credentials(config) {
        options = match credentials {
            Credentials::Password(user, password) => options.user_and_password(user, password),
            Credentials::Token(token) => options.token(token),
        };
    }
    if config.tls.first {
        options = options.tls_first();
    }
    if let Some(file) = &config.tls.ca_file {
        options = options.add_root_certificates(file.clone());
    }
    match (&config.tls.cert_file, &config.tls.key_file) {
        (Some(cert), Some(key)) => Ok(options.add_client_certificate(cert.clone(), key.clone())),
        (None, None) => Ok(options),
        _ => Err(ConnectError::HalfCertificate),
    }
}

/// What an address says about who connects.
enum Credentials {
    Password(String, String),
    Token(String),
}

/// The credentials of the first address that has any; a user without a password is a token. The
/// client library leaves those in addresses alone, and the servers of a cluster share their users.
fn credentials(config: &NatsConfig) -> Option<Credentials> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    config.url.iter().find_map(|url| {
        let url = parse(url).ok()?;
        let user = Some(url.username()).filter(|user| !user.is_empty())?;
        Some(match url.password() {
            Some(password) => Credentials::Password(decode(user), decode(password)),
            None => Credentials::Token(decode(user)),
        })
    })
}

/// The addresses without what is secret in them: the client library logs them.
fn addresses(config: &NatsConfig) -> Result<Vec<ServerAddr>, ConnectError> {
    let address = |url: &SecretUrl| {
        let wrong = |source| ConnectError::Url {
            url: url.clone(),
            source,
        };
        let mut address = parse(url).map_err(|e| wrong(io::Error::other(e)))?;
        // Refused only by addresses that have no place for either.
        let _ = address.set_username("");
        let _ = address.set_password(None);
        ServerAddr::from_url(address).map_err(wrong)
    };
    config.url.iter().map(address).collect()
}

/// Without a scheme, `nats://` is meant.
fn parse(url: &SecretUrl) -> Result<Url, url::ParseError> {
    let text = url.expose();
    if text.contains("://") {
        text.parse()
    } else {
        format!("nats://{text}").parse()
    }
}

/// Doubling pauses with full jitter above half, so that instances that lost the same server do
/// not come back to the next one together.
fn backoff(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    let pause = FIRST_BACKOFF
        .saturating_mul(2_u32.saturating_pow(doublings.min(16)))
        .min(MAX_BACKOFF);
    pause.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        for attempt in [0, 1, 2, 5, 10, 1_000, usize::MAX] {
            let pause = backoff(attempt);
            assert!(pause >= FIRST_BACKOFF / 2 && pause <= MAX_BACKOFF);
        }
        assert!(backoff(20) >= MAX_BACKOFF / 2);
    }
}
