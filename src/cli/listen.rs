//! `listen`: opens a user's stream and prints what arrives, coming back after every break.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use notify_server::auth::development::SignerError;
use notify_server::config::Config;
use notify_server::event::{Timestamp, UserId};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;

use super::event_stream::{Event, Reader};

/// How long a token of this command's own making lasts.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The pause before coming back where the server named none.
const RETRY: Duration = Duration::from_secs(3);

/// Whose stream, where, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The server's address [default: the configured one on this machine]
    #[arg(long, alias = "server", value_name = "URL")]
    url: Option<String>,
    /// Whose stream to open, with a token made for it
    #[arg(long, value_parser = super::token::user, required_unless_present = "token")]
    user: Option<UserId>,
    /// The token to open the stream with
    #[arg(
        long,
        env = "NOTIFY_TOKEN",
        hide_env_values = true,
        conflicts_with = "user"
    )]
    token: Option<String>,
    /// End after so many events, not counting pings
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Continue behind the event with this id
    #[arg(long, value_name = "ID")]
    last_event_id: Option<String>,
}

struct Listener {
    client: Client,
    address: String,
    token: String,
    last_event_id: String,
    retry: Duration,
    left: Option<usize>,
}

pub(super) async fn run(config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let token = match (arguments.token, &arguments.user) {
        (Some(token), _) => token,
        (None, Some(user)) => {
            let signer = super::signer(&config).map_err(|error| match error {
                SignerError::VerifyOnly => anyhow!(
                    "the configured keys can only verify, so that no token can be made here: pass one of the user's \
                     with --token, or in NOTIFY_TOKEN, instead of --user"
                ),
                other => other.into(),
            })?;
            signer.sign(user, TOKEN_TTL, super::own_claims(&config))?
        }
        (None, None) => bail!("--user or --token is needed"),
    };
    let user = arguments
        .user
        .map_or(String::new(), |user| user.to_string());
    let client = super::client(&config, arguments.url.as_deref()).build()?;
    let server = arguments.url.unwrap_or_else(|| super::local_url(&config));
    let mut listener = Listener {
        client,
        address: super::address(&config, &server, "/events", &user),
        token,
        last_event_id: arguments.last_event_id.unwrap_or_default(),
        retry: RETRY,
        left: arguments.count,
    };
    // A server that can't be reached at first is a mistake; one that goes away comes back.
    let mut response = listener.open().await?;
    loop {
        if listener.read(response).await {
            return Ok(ExitCode::SUCCESS);
        }
        response = listener.reopen().await?;
    }
}

impl Listener {
    async fn open(&self) -> anyhow::Result<Response> {
        let mut request = self
            .client
            .get(&self.address)
            .bearer_auth(&self.token)
            .header("accept", "text/event-stream");
        if !self.last_event_id.is_empty() {
            request = request.header("last-event-id", &self.last_event_id);
        }
        let response = request
            .send()
            .await
            .with_context(|| format!("no server answers at {}", self.address))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.text().await.unwrap_or_default();
        let body = super::caller::in_words(&body);
        Err(Refused { status, body }.into())
    }

    async fn reopen(&self) -> anyhow::Result<Response> {
        loop {
            eprintln!(
                "stream ended, reconnecting in {}",
                humantime::format_duration(self.retry)
            );
            tokio::time::sleep(self.retry).await;
            match self.open().await {
                Ok(response) => return Ok(response),
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => eprintln!("{error:#}"),
            }
        }
    }

    /// Prints what arrives; says whether there was enough of it.
    async fn read(&mut self, mut response: Response) -> bool {
        let mut reader = Reader::new(std::mem::take(&mut self.last_event_id));
        let mut enough = false;
        while let Ok(Some(chunk)) = response.chunk().await {
            for event in reader.push(&chunk) {
                enough = enough || self.print(&event);
            }
            if enough {
                break;
            }
        }
        self.last_event_id = reader.last_event_id().to_owned();
        if let Some(retry) = reader.retry() {
            self.retry = retry;
        }
        enough
    }

    fn print(&mut self, event: &Event) -> bool {
        let value: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
        let kind = value["type"].as_str().unwrap_or(&event.name);
        println!("{}  {kind:<20}  {}", Timestamp::now(), event.data);
        if kind == "ping" {
            return false;
        }
        match &mut self.left {
            Some(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            None => false,
        }
    }
}

/// The server answered, but with no stream.
#[derive(Debug, thiserror::Error)]
#[error("the server answered {status}: {body}")]
struct Refused {
    status: StatusCode,
    body: String,
}

/// Whether coming back with the same request can't help.
fn is_final(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Refused>()
        .is_some_and(|refused| refused.status.is_client_error() && refused.status != 429)
}
