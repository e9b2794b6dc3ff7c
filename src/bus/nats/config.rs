//! The `nats` section of the configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::bus::subject::{Pattern, SubjectError};
use crate::secret::SecretUrl;
use crate::units::one_or_more;

/// The `nats` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsConfig {
    /// Servers of one cluster; empty for the in-process bus.
    #[serde(deserialize_with = "one_or_more")]
    pub url: Vec<SecretUrl>,
    /// A `.creds` file with JWT and NKey.
    pub credentials_file: Option<PathBuf>,
    /// What to subscribe to.
    #[serde(deserialize_with = "one_or_more")]
    pub subjects: Vec<String>,
    /// Subjects below this prefix name the channel of a payload that names none.
    pub channel_prefix: String,
    /// Below this subject the instances talk among themselves.
    pub peers: String,
    /// The name under which the instances are registered as a NATS service; empty for not at all.
    pub service: String,
    /// Whether an unreachable NATS stops the start, instead of being waited for.
    pub required_at_start: bool,
    /// Messages that wait in the client library before it drops them, for each subscription.
    pub pending_limit: usize,
    /// Encryption.
    pub tls: TlsConfig,
}

/// The `nats.tls` section.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Whether a connection without TLS is refused.
    pub required: bool,
    /// Whether the TLS handshake comes before the server's greeting.
    pub first: bool,
    /// Certificates of authorities to trust, PEM.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// The key of this client's certificate, PEM.
    pub key_file: Option<PathBuf>,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            url: Vec::new(),
            credentials_file: None,
            subjects: vec![
                "fechatter.realtime.>".to_owned(),
                "fechatter.chat.>".to_owned(),
            ],
            channel_prefix: "fechatter.realtime".to_owned(),
            peers: "notify.peers".to_owned(),
            service: "notify-server".to_owned(),
            required_at_start: false,
            pending_limit: 65_536,
            tls: TlsConfig::default(),
        }
    }
}

impl NatsConfig {
    /// The subjects without those that another one covers: their messages would arrive twice.
    ///
    /// # Errors
    /// The first that is no pattern.
    pub fn distinct_patterns(&self) -> Result<Vec<Pattern>, SubjectError> {
        let mut distinct: Vec<Pattern> = Vec::new();
        for pattern in self.patterns()? {
            if !distinct.iter().any(|other| other.covers(&pattern)) {
                distinct.retain(|other| !pattern.covers(other));
                distinct.push(pattern);
            }
        }
        Ok(distinct)
    }

    /// The subjects, parsed.
    ///
    /// # Errors
    /// The first that is no pattern.
    pub fn patterns(&self) -> Result<Vec<Pattern>, SubjectError> {
        self.subjects
            .iter()
            .map(|text| Pattern::parse(text))
            .collect()
    }
}
