//! Revocations over all instances. An order comes from an administrator over HTTP or from a backend on a
//! NATS subject; every instance hears it at once, and a bucket keeps it for those that were away.
//!
//! What is revoked is known in `auth`, which every token is shown to. This brings it there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::auth::Verifier;
use crate::auth::revocation::{CAPACITY, Order, OrderError, Put, Revocation, Revocations, Terms};
use crate::bus::{Bucket, BucketError, Call, Calls, Changes, Place};
use crate::credential::Mark;
use crate::event::{Timestamp, UserId};
use crate::peers::{Gathered, Peers};

/// Below `nats.peers`, where backends say what to revoke.
const TOPIC: &str = "revoke";

/// How often the bucket is looked at for what this instance has not heard.
const LOOK: Duration = Duration::from_secs(2);

/// How soon it is asked again when it did not answer.
const RETRY: Duration = Duration::from_millis(500);

/// The longest order, in bytes, and the most that are followed together.
const LONGEST: usize = 4_096;
const TOGETHER: usize = 256;

/// The most that are stored in one go.
const STORED_TOGETHER: usize = 256;

/// How long the bucket keeps what nobody has removed: longer than anything can be revoked.
pub const KEPT: Duration = Duration::from_secs(401 * 24 * 3600);

/// Between two log lines about orders that can't be followed.
const QUIET: Duration = Duration::from_secs(10);

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
    complained: Mutex<Option<Instant>>,
}

/// Hears what backends want revoked, and keeps the bucket and this instance alike.
#[derive(Debug)]
pub struct RevocationTask {
    revoker: Revoker,
    calls: Calls,
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

/// The answer to a backend that waits for one.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Revoked { id: String, expires_at: u64 },
    Refused { error: String },
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
            complained: Mutex::default(),
        }));
        let task = RevocationTask {
            revoker: revoker.clone(),
            calls,
        };
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
        let (ended, stored) = tokio::join!(told, self.store(&revocation));
        if let Err(error) = &stored {
            warn!(
                error = error.to_string(),
                "a revocation could not be stored yet, and is tried again"
            );
        }
        Ok(Revoked {
            revocation,
            stored: stored.is_ok_and(|stored| stored),
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

    /// Puts it where all instances find it; `false` where there is no such place.
    async fn store(&self, revocation: &Revocation) -> Result<bool, BucketError> {
        let Some(bucket) = &self.0.bucket else {
            return Ok(false);
        };
        let key = revocation.whose.mark().to_text();
        let change = |before: Option<&[u8]>| {
            let before: Option<Revocation> = before.and_then(read);
            match before {
                Some(before) if !revocation.outranks(&before) => Ok((None, before)),
                _ => {
                    // Plain structs of text and numbers always serialize.
                    let json = serde_json::to_vec(revocation).unwrap_or_default();
                    Ok::<_, BucketError>((Some(Bytes::from(json)), revocation.clone()))
                }
            }
        };
        let (there, _) = bucket.modify(&key, change).await?;
        self.revocations().learn(there, true);
        Ok(true)
    }
}

impl RevocationTask {
    /// Runs until the server stops.
    pub async fn run(self) {
        // What is to be stored can take its time, and must not hold up what is to be heard.
        tokio::join!(self.hear(), self.keep());
    }

    async fn hear(&self) {
        let mut orders = self.calls.asked(TOPIC).await;
        while let Some(first) = orders.next().await {
            let mut calls = vec![first];
            while calls.len() < TOGETHER
                && let Some(Some(more)) = orders.next().now_or_never()
            {
                calls.push(more);
            }
            self.follow(calls).await;
        }
    }

    /// Every instance hears an order, so that nobody has to be told.
    async fn follow(&self, calls: Vec<Call>) {
        let mut answers = Vec::with_capacity(calls.len());
        let mut chosen = false;
        for call in calls {
            let answer = match self.order(&call.payload) {
                Ok(revocation) => {
                    let id = revocation.whose.mark().to_text();
                    // The others store it if this one does not.
                    chosen |= self.revoker.0.peers.is_chosen_for(&id);
                    let expires_at = revocation.expires_at;
                    Answer::Revoked { id, expires_at }
                }
                Err(error) => {
                    self.complain(&error);
                    Answer::Refused { error }
                }
            };
            answers.push((call, answer));
        }
        self.end().await;
        if chosen {
            self.revoker.0.unstored.notify_one();
        }
        for (call, answer) in answers {
            if !call.is_from_inbox() {
                continue;
            }
            let json = serde_json::to_vec(&answer).unwrap_or_default();
            call.answer(json.into()).await;
        }
    }

    fn order(&self, payload: &[u8]) -> Result<Revocation, String> {
        let revocations = self.revoker.revocations();
        if payload.len() > LONGEST {
            revocations.refused();
            return Err(format!("an order has at most {LONGEST} bytes"));
        }
        let order = serde_json::from_slice::<Order>(payload).map_err(|error| error.to_string());
        let read = order.and_then(|order| {
            let read = order.read(None, self.revoker.terms());
            read.map_err(|error| error.to_string())
        });
        let revocation = read.inspect_err(|_| revocations.refused())?;
        let taken = revocations.order(revocation);
        let taken = taken.ok_or_else(|| RevokeError::Full.to_string())?;
        note(&taken, "nats");
        Ok(taken)
    }

    fn complain(&self, error: &str) {
        let mut complained = self.revoker.0.complained.lock();
        if complained.is_none_or(|at| at.elapsed() >= QUIET) {
            *complained = Some(Instant::now());
            let error: String = error.chars().take(200).collect();
            warn!(error, "an order to revoke something can't be followed");
        }
    }

    async fn end(&self) {
        let ended = self.revoker.0.peers.end_revoked().await;
        if ended > 0 {
            info!(ended, "streams of revoked tokens were ended");
        }
    }

    async fn keep(&self) {
        let Some(bucket) = &self.revoker.0.bucket else {
            return self.forget_over().await;
        };
        let mut place = Place::default();
        loop {
            let pause = match self.look(bucket, &mut place).await {
                Ok(()) => LOOK,
                Err(error) => {
                    debug!(
                        error = error.to_string(),
                        "what is revoked can't be read or stored at the moment"
                    );
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.revoker.0.unstored.notified() => {}
            }
        }
    }

    /// Takes in what others have stored, and stores what is not.
    async fn look(&self, bucket: &Bucket, place: &mut Place) -> Result<(), BucketError> {
        let revocations = self.revoker.revocations();
        loop {
            match bucket.changes(*place).await? {
                Changes::NoBucket => {
                    *place = Place::default();
                    let (all, stored) = revocations.unstore();
                    if stored > 0 {
                        warn!(
                            stored,
                            "what was revoked is no longer stored, and is stored again"
                        );
                    }
                    if all > 0 {
                        bucket.renew().await?;
                    }
                    break;
                }
                Changes::Since {
                    records,
                    place: reached,
                    more,
                } => {
                    self.learn(bucket, records).await;
                    *place = reached;
                    if !more {
                        break;
                    }
                }
            }
        }
        revocations.completed();
        for revocation in revocations.unstored(STORED_TOGETHER) {
            self.revoker.store(&revocation).await?;
        }
        self.remove(bucket, revocations.forget()).await;
        Ok(())
    }

    async fn learn(&self, bucket: &Bucket, records: Vec<(String, Bytes)>) {
        let (mut news, mut over) = (false, Vec::new());
        let now = Timestamp::now().as_millis() / 1000;
        for (key, value) in records {
            let Some(revocation) = read(&value) else {
                debug!("a stored revocation is not understood");
                continue;
            };
            let mark = revocation.whose.mark();
            if revocation.is_over(now) {
                over.extend((mark.to_text() == key).then_some(mark));
                continue;
            }
            match self.revoker.revocations().learn(revocation, true) {
                Put::New => news = true,
                Put::Known => {}
                Put::Full => warn!("a revocation is not remembered because there are too many"),
            }
        }
        if news {
            self.end().await;
        }
        self.remove(bucket, over).await;
    }

    /// One instance removes what is over from the bucket.
    async fn remove(&self, bucket: &Bucket, over: Vec<Mark>) {
        for mark in over {
            let key = mark.to_text();
            if self.revoker.0.peers.is_chosen_for(&key)
                && let Err(error) = bucket.remove(&key).await
            {
                // It goes by its age, or when an instance starts and finds it.
                debug!(
                    error = error.to_string(),
                    "a revocation that is over was not removed"
                );
            }
        }
    }

    /// Where there is nothing but memory.
    async fn forget_over(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let _ = self.revoker.revocations().forget();
        }
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
