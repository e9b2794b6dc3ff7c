//! Revocations over all instances. An order comes from an administrator over HTTP or from a backend on a
//! NATS subject; every instance hears it at once, and a bucket keeps it for those that were away.
//!
//! What is revoked is known in `auth`, which every token is shown to. This brings it there.

mod task;

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tracing::{info, warn};

pub use task::RevocationTask;

use crate::auth::Verifier;
use crate::auth::revocation::{CAPACITY, Order, OrderError, Put, Revocation, Revocations, Terms};
use crate::bus::{Bucket, BucketError, Calls};
use crate::credential::Mark;
use crate::event::{Timestamp, UserId};
use crate::peers::{Gathered, Peers};

/// How long the bucket keeps what nobody has removed: longer than anything can be revoked.
pub const KEPT: Duration = Duration::from_secs(401 * 24 * 3600);

/// Revokes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Revoker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    verifier: Verifier,
    peers: Peers,
    /// Where instances find what they have not heard; `None` where each has only its memory.
    bucket: Option<Bucket>,
    /// Something is to be stored.
    unstored: Notify,
}

/// What an order has come to.
#[derive(Debug)]
pub struct Revoked {
    /// What is revoked, or no longer.
    pub revocation: Revocation,
    /// Whether instances that start, or were cut off, will find it. If not, it is tried until they do.
    pub stored: bool,
    /// How many streams each instance has ended.
    pub ended: Gathered<usize>,
}

/// What is where all instances find it.
#[derive(Debug)]
struct Stored {
    revocation: Revocation,
    /// How many streams were ended here because that was more than this instance knew.
    ended: usize,
}

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// The order can't be meant.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// There is no room.
    #[error("{CAPACITY} users and tokens are revoked, and no more can be remembered")]
    Full,
}

impl Revoker {
    /// Revokes on all instances, and the task, which must run.
    #[must_use]
    pub fn new(
        verifier: Verifier,
        peers: Peers,
        calls: Calls,
        bucket: Option<Bucket>,
    ) -> (Self, RevocationTask) {
        if bucket.is_none() {
            verifier.revocations().completed();
        }
        let revoker = Self(Arc::new(Inner {
            verifier,
            peers,
            bucket,
            unstored: Notify::new(),
        }));
        let task = RevocationTask::new(revoker.clone(), calls);
        (revoker, task)
    }

    /// What is revoked, as far as this instance knows.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        self.0.verifier.revocations()
    }

    /// Revokes what an administrator wants revoked, on all instances that are there.
    ///
    /// # Errors
    /// The order can't be meant, or there is no room.
    pub async fn revoke(&self, order: Order, by: &UserId) -> Result<Revoked, RevokeError> {
        let read = order.read(Some(by.clone()), self.terms());
        let read = read.inspect_err(|_| self.revocations().refused())?;
        self.carry_out(read).await
    }

    /// Takes a revocation back; `None` where there is none of that mark.
    ///
    /// # Errors
    /// There is no room, which there is for what is known.
    pub async fn lift(&self, mark: Mark, by: &UserId) -> Result<Option<Revoked>, RevokeError> {
        let known = self.revocations().get(mark);
        let Some(known) = known.filter(|known| !known.lifted) else {
            return Ok(None);
        };
        let lifted = known.lifted(Some(by.clone()), Timestamp::now());
        self.carry_out(lifted).await.map(Some)
    }

    async fn carry_out(&self, revocation: Revocation) -> Result<Revoked, RevokeError> {
        let revocation = self.revocations().order(revocation);
        let revocation = revocation.ok_or(RevokeError::Full)?;
        note(&revocation, "http");
        let told = self.0.peers.revoke(vec![revocation.clone()]);
        let (mut ended, stored) = tokio::join!(told, self.store(&revocation));
        let there = stored.unwrap_or_else(|error| {
            warn!(
                error = error.to_string(),
                "a revocation could not be stored yet, and is tried again"
            );
            None
        });
        let stored = there.is_some();
        let revocation = match there {
            Some(there) => {
                let here = self.0.peers.instance().to_owned();
                *ended.replies.entry(here).or_default() += there.ended;
                there.revocation
            }
            None => revocation,
        };
        Ok(Revoked {
            revocation,
            stored,
            ended,
        })
    }

    fn terms(&self) -> Terms {
        Terms {
            now: Timestamp::now(),
            age: self.0.verifier.revocation_age(),
            leeway_secs: self.0.verifier.leeway_secs(),
        }
    }

    /// Puts it where all instances find it, together with what stands there; `None` where there is no such
    /// place. What others have put there counts here from now on, too.
    async fn store(&self, revocation: &Revocation) -> Result<Option<Stored>, BucketError> {
        let Some(bucket) = &self.0.bucket else {
            return Ok(None);
        };
        let key = revocation.whose.mark().to_text();
        let now = Timestamp::now().as_millis() / 1000;
        let change = |before: Option<&[u8]>| {
            let before = before.and_then(read).filter(|before| !before.is_over(now));
            let both = match &before {
                Some(before) => before.clone().with(revocation.clone()),
                None => revocation.clone(),
            };
            if before.as_ref() == Some(&both) {
                return Ok((None, both));
            }
            // Plain structs of text and numbers always serialize.
            let json = serde_json::to_vec(&both).unwrap_or_default();
            Ok::<_, BucketError>((Some(Bytes::from(json)), both))
        };
        let (revocation, _) = bucket.modify(&key, change).await?;
        let put = self.revocations().learn(revocation.clone(), true);
        let ended = match put {
            Put::New => self.0.peers.end_revoked(slice::from_ref(&revocation)).await,
            Put::Known | Put::Full => 0,
        };
        Ok(Some(Stored { revocation, ended }))
    }
}

fn read(json: &[u8]) -> Option<Revocation> {
    serde_json::from_slice(json).ok()
}

/// The line that says who has revoked what. Names of tokens are no tokens.
fn note(revocation: &Revocation, over: &'static str) {
    let by = revocation.by.as_ref().map(ToString::to_string);
    let Revocation {
        whose,
        issued_before,
        expires_at,
        ..
    } = revocation;
    let (kind, name) = (whose.kind(), whose.name());
    if revocation.lifted {
        info!(kind, name, by, over, "a revocation was taken back");
    } else {
        info!(kind, name, issued_before, expires_at, by, over, "revoked");
    }
}
