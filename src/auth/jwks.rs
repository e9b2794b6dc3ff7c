//! Key sets that are fetched: at the start, every so often, and when a token names a key that is
//! not known. A set that can't be fetched leaves the keys that were there.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jsonwebtoken::jwk::JwkSet;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use super::config::AuthConfig;
use super::keys::{self, KeyError, VerificationKey};
use crate::credential::Mark;
use crate::secret::SecretUrl;

/// Tokens with unknown keys can't have the sets fetched more often than this. Together with
/// [`FETCH_TIMEOUT`] it is how long such a token can be kept waiting.
const MIN_INTERVAL: Duration = Duration::from_millis(1_500);

/// How long one fetch may take. A request waits for it, so it is shorter than the five seconds
/// within which every request is answered.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);

/// While a set is missing, it is asked for that often.
const RETRY: Duration = Duration::from_secs(5);

/// The largest answer that is read, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// Requests for a refresh that wait; beyond, a request goes on with the keys there are.
const WAITING: usize = 1_024;

/// Keys that were removed of which that is remembered. Beyond, the one that was removed first counts as
/// never seen.
const REMOVED: usize = 1_024;

/// Asks the task for fresh keys.
#[derive(Debug)]
pub(super) struct Refresher(mpsc::Sender<oneshot::Sender<()>>);

/// Fetches key sets for as long as somebody verifies tokens with them.
#[derive(Debug)]
pub(super) struct JwksTask {
    config: AuthConfig,
    fetched: Arc<RwLock<Fetched>>,
    requests: mpsc::Receiver<oneshot::Sender<()>>,
    /// Told when the keys are others than before.
    changed: watch::Sender<()>,
}

/// The keys of all key sets.
#[derive(Debug, Clone, Default)]
pub(super) struct Fetched {
    sources: Vec<Source>,
    keys: Arc<Vec<VerificationKey>>,
    /// Why a set is missing, if one is.
    missing: Option<String>,
    /// Keys that counted here, from a set or not, and were taken away. The last one was so last.
    removed: VecDeque<Mark>,
}

#[derive(Debug, Clone)]
struct Source {
    url: SecretUrl,
    keys: Option<Vec<VerificationKey>>,
}

impl Fetched {
    fn new(sources: Vec<Source>, missing: Option<String>) -> Self {
        let keys = sources.iter().filter_map(|source| source.keys.as_ref());
        Self {
            keys: Arc::new(keys.flatten().cloned().collect()),
            sources,
            missing,
            removed: VecDeque::new(),
        }
    }

    pub(super) fn keys(&self) -> &Arc<Vec<VerificationKey>> {
        &self.keys
    }

    /// Why a set is missing, if one is.
    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// Whether a key counted here once and was taken away: then a set that is missing is no reason to take
    /// it for one that may be good.
    pub(super) fn has_removed(&self, mark: Mark) -> bool {
        self.removed.contains(&mark)
    }

    /// Takes over what is remembered of keys that were removed before, and adds these.
    pub(super) fn remember_removed(&mut self, before: &Self, gone: &BTreeSet<Mark>) {
        let known = before.removed.iter().filter(|mark| !gone.contains(mark));
        self.removed = known.chain(gone).copied().collect();
        let surplus = self.removed.len().saturating_sub(REMOVED);
        self.removed.drain(..surplus);
    }

    /// The marks of keys from sets, but for those of sets that are missing in what comes after: these were
    /// fetched while that was prepared, and nobody has taken them away.
    pub(super) fn marks_before(&self, after: &Self) -> impl Iterator<Item = Mark> {
        let missing = |url: &SecretUrl| {
            let mut sources = after.sources.iter();
            sources.any(|source| source.url == *url && source.keys.is_none())
        };
        let sources = self
            .sources
            .iter()
            .filter(move |source| !missing(&source.url));
        sources
            .filter_map(|source| source.keys.as_ref())
            .flatten()
            .map(|key| key.mark)
    }

    fn marks(&self) -> BTreeSet<Mark> {
        self.keys.iter().map(|key| key.mark).collect()
    }

    /// Puts what was fetched in place; says whether other keys count than before.
    fn replace(&mut self, mut fetched: Self) -> bool {
        let (before, after) = (self.marks(), fetched.marks());
        let gone = before.difference(&after).copied().collect();
        fetched.remember_removed(self, &gone);
        // With the last set that was missing the benefit of the doubt ends, too.
        let settled = self.missing.is_some() != fetched.missing.is_some();
        *self = fetched;
        settled || before != after
    }
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the request failed")]
    Request(#[from] reqwest::Error),
    #[error("the answer has more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the answer is not a JSON Web Key Set")]
    Json(#[from] serde_json::Error),
    #[error("the answer has no signing key of type Ed25519, EC P-256 or RSA")]
    NoKey,
}

/// What fetches key sets, and where they are to be found.
pub(super) type Fetching = (Arc<RwLock<Fetched>>, Option<Refresher>, Option<JwksTask>);

/// Key sets of which none was fetched yet.
pub(super) fn new(
    config: &AuthConfig,
    urls: Vec<SecretUrl>,
    changed: watch::Sender<()>,
) -> Fetching {
    let missing = (!urls.is_empty()).then(|| "no key set has been fetched yet".to_owned());
    let source = |url| Source { url, keys: None };
    let sources = urls.into_iter().map(source).collect();
    begin(config, Fetched::new(sources, missing), changed)
}

/// Key sets of another configuration: those that are known are kept until they are fetched again, the
/// others are fetched now.
pub(super) async fn after(
    config: &AuthConfig,
    urls: Vec<SecretUrl>,
    known: &Fetched,
    changed: watch::Sender<()>,
) -> Result<Fetching, KeyError> {
    let (mut sources, mut missing) = (Vec::new(), None);
    for url in urls {
        let before = known.sources.iter().find(|source| source.url == url);
        let keys = match before {
            Some(Source {
                keys: Some(keys), ..
            }) => Some(keys.iter().map(|key| key.under(config)).collect()),
            // It was missing before, and goes on being asked for.
            Some(Source { keys: None, .. }) => {
                missing = known.missing.clone();
                None
            }
            None => Some(fetch_now(config, &url).await?),
        };
        sources.push(Source { url, keys });
    }
    Ok(begin(config, Fetched::new(sources, missing), changed))
}

async fn fetch_now(config: &AuthConfig, url: &SecretUrl) -> Result<Vec<VerificationKey>, KeyError> {
    let fetched = async { fetch(&client()?, config, url).await };
    fetched.await.map_err(|error: FetchError| KeyError::Fetch {
        url: url.clone(),
        why: chain(&error),
    })
}

fn begin(config: &AuthConfig, fetched: Fetched, changed: watch::Sender<()>) -> Fetching {
    let none = fetched.sources.is_empty();
    let fetched = Arc::new(RwLock::new(fetched));
    if none {
        return (fetched, None, None);
    }
    let (sender, requests) = mpsc::channel(WAITING);
    let task = JwksTask {
        config: config.clone(),
        fetched: Arc::clone(&fetched),
        requests,
        changed,
    };
    (fetched, Some(Refresher(sender)), Some(task))
}

fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .timeout(FETCH_TIMEOUT)
        .user_agent(concat!("notify-server/", env!("CARGO_PKG_VERSION")))
        .build()
}

impl Refresher {
    /// Comes back when the keys have been fetched, or when that can't help any more.
    pub(super) async fn refresh(&self) {
        let (done, wait) = oneshot::channel();
        if self.0.try_send(done).is_ok() {
            // The task answers after the fetch, or drops the question when it stops.
            let _ = wait.await;
        }
    }
}

impl JwksTask {
    /// Runs until nobody verifies tokens with these keys any more.
    pub(super) async fn run(mut self) -> Result<(), reqwest::Error> {
        let client = client()?;
        let mut next = Instant::now();
        let mut earliest = next;
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                request = self.requests.recv() => {
                    let Some(request) = request else { return Ok(()) };
                    waiting.push(request);
                    // Tokens can't have the sets fetched at their own pace; they wait instead.
                    tokio::time::sleep_until(earliest).await;
                }
                () = tokio::time::sleep_until(next) => {}
            }
            while let Ok(request) = self.requests.try_recv() {
                waiting.push(request);
            }
            self.fetch_all(&client).await;
            for request in waiting {
                // Whoever asked may have gone.
                let _ = request.send(());
            }
            earliest = Instant::now() + MIN_INTERVAL;
            next = Instant::now() + self.pause();
        }
    }

    fn pause(&self) -> Duration {
        let fetched = self.fetched.read();
        if fetched.sources.iter().all(|source| source.keys.is_some()) {
            self.config.jwks_refresh.0.max(MIN_INTERVAL)
        } else {
            RETRY
        }
    }

    async fn fetch_all(&mut self, client: &reqwest::Client) {
        let mut missing = None;
        let config = &self.config;
        let mut sources = self.fetched.read().sources.clone();
        let fetches = sources
            .iter()
            .map(|source| fetch(client, config, &source.url));
        let answers = join_all(fetches).await;
        for (source, answer) in sources.iter_mut().zip(answers) {
            match answer {
                Ok(keys) => {
                    if source.keys.is_none() {
                        info!(keys = keys.len(), "key set fetched");
                    }
                    source.keys = Some(keys);
                }
                Err(error) => {
                    let error = chain(&error);
                    warn!(error, "key set could not be fetched");
                    if source.keys.is_none() {
                        missing = Some(error);
                    }
                }
            }
        }
        let fetched = Fetched::new(sources, missing);
        let changed = self.fetched.write().replace(fetched);
        if changed {
            self.changed.send_replace(());
        }
    }
}

async fn fetch(
    client: &reqwest::Client,
    config: &AuthConfig,
    url: &SecretUrl,
) -> Result<Vec<VerificationKey>, FetchError> {
    let mut response = client.get(url.expose()).send().await?.error_for_status()?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BYTES {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    let set: JwkSet = serde_json::from_slice(&body)?;
    let keys = keys::from_set(config, &set);
    if keys.is_empty() {
        return Err(FetchError::NoKey);
    }
    Ok(keys)
}

/// An error with its causes, in one line and without the URL, which may hold a secret.
fn chain(error: &FetchError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let shown = match cause.downcast_ref::<reqwest::Error>() {
            Some(request) if request.is_timeout() => "no answer in time".to_owned(),
            Some(request) => match request.status() {
                Some(status) => format!("the answer was {status}"),
                None => "no connection".to_owned(),
            },
            None => cause.to_string(),
        };
        text = format!("{text}: {shown}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
