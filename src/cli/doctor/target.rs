//! The address that is examined, and requests to it. The token is sent in a header, and neither it
//! nor an address with a query is in any text that this gives out.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use notify_server::causes::Causes;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, ORIGIN};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, Url, redirect};
use serde_json::Value;

/// The most that is read of a body that is no stream, in bytes.
const MAX_BODY: usize = 256 * 1024;

/// What a browser offers.
pub(super) const BROWSER_ENCODINGS: &str = "gzip, deflate, br, zstd";

/// Where to, in whose name, and how patiently.
pub(super) struct Target {
    base: Url,
    token: HeaderValue,
    pub(super) token_text: String,
    pub(super) timeout: Duration,
    pub(super) origin: Option<String>,
    client: Client,
    /// Has connections of its own, so that nothing else keeps a quiet stream's connection busy.
    quiet: Client,
}

/// Why there is no answer, in words.
pub(super) type Failure = String;

/// An answer that was read to its end.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) version: reqwest::Version,
    /// When the request went out and the head came back.
    pub(super) sent: Instant,
    pub(super) answered: Instant,
}

impl Target {
    pub(super) fn new(
        base: Url,
        token: String,
        authority: Option<&[u8]>,
        timeout: Duration,
        origin: Option<String>,
    ) -> anyhow::Result<Self> {
        let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| anyhow::anyhow!("the token has characters that no token has"))?;
        header.set_sensitive(true);
        Ok(Self {
            base,
            token: header,
            token_text: token,
            timeout,
            origin,
            client: client(authority, timeout)?,
            quiet: client(authority, timeout)?,
        })
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// A request without the token.
    pub(super) fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        request(&self.client, &self.base, method, path)
    }

    /// A request with the token in its header, as a page of the origin would send it.
    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.with_token(self.anonymous(method, path))
    }

    /// The request for a stream, of which nothing may be compressed.
    pub(super) fn stream(&self, path: &str) -> RequestBuilder {
        let request = self.request(Method::GET, path);
        request
            .header(ACCEPT, "text/event-stream")
            .header(ACCEPT_ENCODING, "identity")
    }

    /// The same on a connection of its own.
    pub(super) fn quiet_stream(&self, path: &str) -> RequestBuilder {
        let request = request(&self.quiet, &self.base, Method::GET, path);
        self.with_token(request)
            .header(ACCEPT, "text/event-stream")
            .header(ACCEPT_ENCODING, "identity")
    }

    /// Sends a request and waits for the head of the answer, for so much longer than usual.
    pub(super) async fn head(
        &self,
        request: RequestBuilder,
        longer: Duration,
    ) -> Result<Response, Failure> {
        let patience = self.timeout + longer;
        match tokio::time::timeout(patience, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(failure(error)),
            Err(_) => Err(late(patience)),
        }
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn ask(&self, request: RequestBuilder) -> Result<Answer, Failure> {
        self.ask_patiently(request, Duration::ZERO).await
    }

    /// The same for an answer that takes its time.
    pub(super) async fn ask_patiently(
        &self,
        request: RequestBuilder,
        longer: Duration,
    ) -> Result<Answer, Failure> {
        let patience = self.timeout + longer;
        let whole = async {
            let sent = Instant::now();
            let response = request.send().await.map_err(failure)?;
            let answered = Instant::now();
            read(response, sent, answered).await
        };
        match tokio::time::timeout(patience, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(late(patience)),
        }
    }

    /// What an answer of which only the head was read complains about.
    pub(super) async fn complaint(&self, response: Response) -> String {
        let (status, now) = (response.status(), Instant::now());
        let rest = read(response, now, now);
        match tokio::time::timeout(self.timeout, rest).await {
            Ok(Ok(answer)) => answer.complaint(),
            Ok(Err(_)) | Err(_) => status.to_string(),
        }
    }

    fn with_token(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.header(AUTHORIZATION, self.token.clone());
        match &self.origin {
            Some(origin) => request.header(ORIGIN, origin),
            None => request,
        }
    }
}

impl Answer {
    /// A header, where it can be shown.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body, where it is JSON.
    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// What the server says is wrong, or what the status is called.
    pub(super) fn complaint(&self) -> String {
        let problem = self.json();
        let detail = problem.as_ref().and_then(|json| json["detail"].as_str());
        match detail {
            Some(detail) => format!("{}: {detail}", self.status),
            None => format!("{}, and not from notify-server", self.status_text()),
        }
    }

    /// The status and what it is called.
    pub(super) fn status_text(&self) -> String {
        let known = reqwest::StatusCode::from_u16(self.status).ok();
        let reason = known.and_then(|status| status.canonical_reason());
        format!("{} {}", self.status, reason.unwrap_or("which has no name"))
    }
}

fn client(authority: Option<&[u8]>, timeout: Duration) -> anyhow::Result<Client> {
    let mut builder = Client::builder()
        .connect_timeout(timeout)
        // An address that moves is a finding; the token goes nowhere else.
        .redirect(redirect::Policy::none())
        .user_agent(concat!("notify-server-doctor/", env!("CARGO_PKG_VERSION")));
    if let Some(pem) = authority {
        let certificates = Certificate::from_pem_bundle(pem).context("--ca-file")?;
        builder = builder.tls_certs_merge(certificates);
    }
    Ok(builder.build()?)
}

fn request(client: &Client, base: &Url, method: Method, path: &str) -> RequestBuilder {
    let root = base.as_str().trim_end_matches('/');
    client.request(method, format!("{root}{path}"))
}

async fn read(mut response: Response, sent: Instant, answered: Instant) -> Result<Answer, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failure)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(format!("an answer of more than {MAX_BODY} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer {
        status: response.status().as_u16(),
        headers: std::mem::take(response.headers_mut()),
        version: response.version(),
        body,
        sent,
        answered,
    })
}

fn late(patience: Duration) -> Failure {
    format!("no answer within {}", humantime::format_duration(patience))
}

/// What went wrong, without the address: that may hold a ticket.
pub(super) fn failure(error: reqwest::Error) -> Failure {
    Causes(&error.without_url()).to_string()
}
