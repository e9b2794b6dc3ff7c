//! The `tracing` section of the configuration.

use std::path::PathBuf;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::secret::{Secret, SecretUrl};
use crate::units::{Period, one_or_more};

/// Where a collector takes spans, below its address.
const PATH: &str = "/v1/traces";

/// The `tracing` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracingConfig {
    /// The address of a collector that takes OTLP over HTTP; nothing is traced where it is not set.
    pub endpoint: Option<SecretUrl>,
    /// How spans are sent.
    pub protocol: Protocol,
    /// Headers for the collector, each `name=value`.
    #[serde(deserialize_with = "one_or_more")]
    pub headers: Vec<Secret>,
    /// A file with such headers, one a line.
    pub headers_file: Option<PathBuf>,
    /// The part, from 0 to 1, of the events without a `traceparent` that is traced.
    pub sample_ratio: f64,
    /// What this service is called in traces.
    pub service_name: String,
    /// What else is said of this instance, each `key=value`.
    #[serde(deserialize_with = "one_or_more")]
    pub resource_attributes: Vec<String>,
    /// How long sending one batch may take, all tries together.
    pub timeout: Period,
    /// The longest that a span waits for others to be sent with it.
    pub interval: Period,
    /// Spans that wait to be sent; more are dropped and counted.
    pub queue: usize,
    /// Whether each writing of an event to a session has a span of its own.
    pub per_recipient: bool,
    /// The most such spans of one event.
    pub max_recipients: usize,
}

/// How spans are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// OTLP in protocol buffers over HTTP.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

/// Why traces can't be sent as configured. None of the texts has a secret in it.
#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    /// The address is none.
    #[error("the address of a collector is http://host:4318 or https://…")]
    Endpoint,
    /// The file with headers can't be read.
    #[error("the file can't be read: {0}")]
    HeadersFile(std::io::Error),
    /// One of the headers is none.
    #[error("header {0} is not name=value, or has characters that no header has")]
    Header(usize),
    /// One of the attributes is none.
    #[error("attribute {0} is not key=value")]
    Attribute(usize),
    /// The client can't be made.
    #[error("the client for the collector can't be made")]
    Client(#[from] reqwest::Error),
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: Protocol::HttpProtobuf,
            headers: Vec::new(),
            headers_file: None,
            sample_ratio: 0.1,
            service_name: "notify-server".to_owned(),
            resource_attributes: Vec::new(),
            timeout: Period::secs(10),
            interval: Period::secs(1),
            queue: 4_096,
            per_recipient: false,
            max_recipients: 100,
        }
    }
}

impl TracingConfig {
    /// Where spans are sent; `None` where nothing is traced.
    ///
    /// # Errors
    /// The address is none.
    pub fn address(&self) -> Result<Option<Url>, TracingError> {
        let Some(endpoint) = &self.endpoint else {
            return Ok(None);
        };
        let mut url = Url::parse(endpoint.expose()).map_err(|_| TracingError::Endpoint)?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(TracingError::Endpoint);
        }
        if !url.path().trim_end_matches('/').ends_with(PATH) {
            let path = format!("{}{PATH}", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        Ok(Some(url))
    }

    /// What is sent along with spans.
    ///
    /// # Errors
    /// The file can't be read, or something is no header.
    pub fn header_map(&self) -> Result<HeaderMap, TracingError> {
        let file = match &self.headers_file {
            None => String::new(),
            Some(file) => std::fs::read_to_string(file).map_err(TracingError::HeadersFile)?,
        };
        let lines = file.lines().map(str::trim).filter(|line| !line.is_empty());
        let texts = self.headers.iter().map(Secret::expose).chain(lines);
        let mut headers = HeaderMap::new();
        for (index, text) in texts.enumerate() {
            let wrong = || TracingError::Header(index + 1);
            let (name, value) = text.split_once('=').ok_or_else(wrong)?;
            let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
            let mut value = HeaderValue::try_from(value.trim()).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// What is said of this instance besides.
    ///
    /// # Errors
    /// Something is no attribute.
    pub fn attributes(&self) -> Result<Vec<(String, String)>, TracingError> {
        let pairs = self.resource_attributes.iter().enumerate();
        let pairs = pairs.map(|(index, text)| match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok((key.trim().to_owned(), value.trim().to_owned()))
            }
            _ => Err(TracingError::Attribute(index + 1)),
        });
        pairs.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_completed() {
        let cases = [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otlp/", "https://c/otlp/v1/traces"),
            ("https://c/v1/traces", "https://c/v1/traces"),
        ];
        for (endpoint, expected) in cases {
            let config = TracingConfig {
                endpoint: Some(SecretUrl::new(endpoint)),
                ..TracingConfig::default()
            };
            assert_eq!(config.address().unwrap().unwrap().as_str(), expected);
        }
        let none = TracingConfig::default();
        assert!(none.address().unwrap().is_none());
        for wrong in ["c:4318", "grpc://c:4317", "http://", ""] {
            let config = TracingConfig {
                endpoint: Some(SecretUrl::new(wrong)),
                ..TracingConfig::default()
            };
            assert!(config.address().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn errors_about_headers_do_not_show_them() {
        let config = TracingConfig {
            headers: vec![Secret::new("a=b"), Secret::new("s3cret")],
            ..TracingConfig::default()
        };
        let error = config.header_map().unwrap_err().to_string();
        assert!(
            error.contains("header 2") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
