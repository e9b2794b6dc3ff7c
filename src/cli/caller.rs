//! Asking a running server in the name of a command.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use notify_server::auth::development::SignerError;
use notify_server::config::Config;
use notify_server::event::UserId;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;

/// In whose name a command asks when it makes its own token.
pub(super) const NOBODY: &str = "notify-server-cli";

/// How long a token that a command makes is good.
const LIFETIME: Duration = Duration::from_secs(60);

/// A server, and what is shown to it.
pub(super) struct Caller {
    pub(super) client: Client,
    /// The server's address.
    pub(super) server: String,
    token: String,
}

impl Caller {
    /// For the server at `url`, or else for the configured one on this machine. Without a token one with these
    /// rights (the claim `notify`) is made. The server may take so long to answer.
    pub(super) fn new(
        config: &Config,
        url: Option<&str>,
        token: Option<&str>,
        rights: Value,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        let token = match token {
            Some(token) => token.to_owned(),
            None => own_token(config, rights)?,
        };
        Ok(Self {
            client: super::client(config, url).timeout(timeout).build()?,
            server: url.map_or_else(|| super::local_url(config), str::to_owned),
            token,
        })
    }

    /// Sends a request; gives the body of a good answer.
    pub(super) async fn send(&self, request: RequestBuilder) -> anyhow::Result<String> {
        let response = request
            .bearer_auth(&self.token)
            .send()
            .await
            .map_err(reqwest::Error::without_url)
            .with_context(|| format!("no server answers at {}", self.server))?;
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        if !status.is_success() {
            bail!("the server answered {status}: {}", in_words(&body));
        }
        Ok(body)
    }
}

/// What an answer says of a problem in words, where it is `application/problem+json`; else all of it.
pub(super) fn in_words(body: &str) -> String {
    let problem: Option<Value> = serde_json::from_str(body).ok();
    let told = problem.and_then(|problem| problem["detail"].as_str().map(str::to_owned));
    told.unwrap_or_else(|| body.to_owned())
}

fn own_token(config: &Config, rights: Value) -> anyhow::Result<String> {
    let signer = super::signer(config).map_err(|error| match error {
        SignerError::VerifyOnly => anyhow!(
            "the configured keys can only verify, so that no token can be made here: pass one whose claim notify is \
             {rights}, as --token or in NOTIFY_TOKEN"
        ),
        other => other.into(),
    })?;
    let mut claims = super::own_claims(config);
    claims.insert("notify".to_owned(), rights);
    let user = UserId::parse(NOBODY)?;
    Ok(signer.sign(&user, LIFETIME, claims)?)
}
