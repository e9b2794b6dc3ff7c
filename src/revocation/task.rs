//! Hears what backends want revoked, and keeps this instance and the bucket alike.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{RevokeError, Revoker, note, read};
use crate::auth::revocation::{Order, Put, Revocation};
use crate::bus::{Bucket, BucketError, Call, Calls, Changes, Place};
use crate::credential::Mark;
use crate::event::Timestamp;

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

/// Between two log lines about orders that can't be followed.
const QUIET: Duration = Duration::from_secs(10);

/// Hears what backends want revoked, and keeps the bucket and this instance alike.
#[derive(Debug)]
pub struct RevocationTask {
    revoker: Revoker,
    calls: Calls,
    /// When an order could not be followed last and the log has said so.
    complained: Mutex<Option<Instant>>,
}

/// The answer to a backend that waits for one.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Revoked { id: String, expires_at: u64 },
    Refused { error: String },
}

impl RevocationTask {
    pub(super) fn new(revoker: Revoker, calls: Calls) -> Self {
        Self {
            revoker,
            calls,
            complained: Mutex::default(),
        }
    }

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
        let (mut chosen, mut taken) = (false, Vec::new());
        for call in calls {
            let answer = match self.order(&call.payload) {
                Ok(revocation) => {
                    let id = revocation.whose.mark().to_text();
                    // The others store it if this one does not.
                    chosen |= self.revoker.0.peers.is_chosen_for(&id);
                    let expires_at = revocation.expires_at;
                    taken.push(revocation);
                    Answer::Revoked { id, expires_at }
                }
                Err(error) => {
                    self.complain(&error);
                    Answer::Refused { error }
                }
            };
            answers.push((call, answer));
        }
        self.end(&taken).await;
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
        let mut complained = self.complained.lock();
        if complained.is_none_or(|at| at.elapsed() >= QUIET) {
            *complained = Some(Instant::now());
            let error: String = error.chars().take(200).collect();
            warn!(error, "an order to revoke something can't be followed");
        }
    }

    async fn end(&self, revoked: &[Revocation]) {
        let ended = self.revoker.0.peers.end_revoked(revoked).await;
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
                    self.behind(&error.to_string());
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.revoker.0.unstored.notified() => {}
            }
        }
    }

    /// The bucket does not answer. Who knew once goes on with that; until then nobody is let in, and operators
    /// have to know why.
    fn behind(&self, error: &str) {
        if self.revoker.revocations().delayed(error) {
            warn!(
                error,
                "which tokens are revoked can't be found out yet, and no token is accepted"
            );
        } else {
            debug!(
                error,
                "what is revoked can't be read or stored at the moment"
            );
        }
    }

    /// Takes in what others have stored, and stores what is not.
    async fn look(&self, bucket: &Bucket, place: &mut Place) -> Result<(), BucketError> {
        let revocations = self.revoker.revocations();
        let mut over = Vec::new();
        loop {
            match bucket.changes(*place).await? {
                Changes::NoBucket => {
                    *place = Place::default();
                    let (all, stored) = revocations.unstore();
                    // Nothing is stored that is not known, whether or not there can be a bucket.
                    revocations.completed();
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
                    over.extend(self.learn(records).await);
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
        // Last, one by one: nobody who comes with a token waits for it.
        over.extend(revocations.forget());
        self.remove(bucket, over).await;
        Ok(())
    }

    /// Gives those that are over.
    async fn learn(&self, records: Vec<(String, Bytes)>) -> Vec<Mark> {
        let (mut news, mut over) = (Vec::new(), Vec::new());
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
            match self.revoker.revocations().learn(revocation.clone(), true) {
                Put::New => news.push(revocation),
                Put::Known => {}
                Put::Full => warn!("a revocation is not remembered because there are too many"),
            }
        }
        self.end(&news).await;
        over
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
