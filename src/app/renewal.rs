//! What changes while the server runs: keys, what is revoked, the configuration.

use std::time::Duration;

use super::Tasks;
use super::engine::Engine;
use crate::auth::{KeyConfig, Verifier};
use crate::bounds::Bounds;
use crate::config::Reading;
use crate::http::{self, Asked, Exporter, Origins};
use crate::hub::{End, Hub, Sentence};
use crate::reload::{self, Metrics, Origin, ReloadTask, SetLimits};
use crate::revocation::{self, Revoker};

/// Where revocations are kept.
const BUCKET: &str = "REVOCATIONS";

/// The parts of a server whose configuration can change.
pub(super) struct Renewal<'a> {
    pub(super) parts: &'a http::Parts,
    pub(super) bounds: Bounds,
    pub(super) origins: Origins,
    pub(super) exporter: Exporter,
    pub(super) development_key: Option<KeyConfig>,
    pub(super) metrics: Metrics,
}

impl Renewal<'_> {
    /// Spawns what reads the configuration again.
    pub(super) fn spawn(self, reading: Reading, origin: Origin, asked: Asked, tasks: &mut Tasks) {
        let parts = reload::Parts {
            verifier: self.parts.verifier.clone(),
            limits: SetLimits(Box::new(move |server| self.bounds.set(server))),
            origins: self.origins,
            authorizer: self.parts.authorizer.clone(),
            exporter: self.exporter,
            development: self.development_key,
        };
        let health = self.parts.health.clone();
        let task = ReloadTask::new(origin, reading, parts, asked, health, self.metrics);
        tasks.spawn("the reload task", task.run());
    }
}

/// Spawns what revokes tokens and ends the streams of those that are no longer good.
pub(super) fn revoke(verifier: &Verifier, engine: &Engine, tasks: &mut Tasks) -> Revoker {
    let (bus, peers) = (&engine.bus, engine.peers.clone());
    let bucket = bus.bucket_of_age(BUCKET, revocation::KEPT);
    let (revoker, task) = Revoker::new(verifier.clone(), peers, bus.calls(), bucket);
    tasks.spawn("the revocation task", task.run());
    let ending = end_unvouched(verifier.clone(), engine.hub.clone());
    tasks.spawn("the task for removed keys", ending);
    revoker
}

/// Ends the streams of keys that are gone, over a time, so that their clients do not all ask for new tokens
/// at once.
async fn end_unvouched(verifier: Verifier, hub: Hub) {
    let mut changes = verifier.changes();
    // The verifier is as old as this.
    while changes.changed().await.is_ok() {
        let spread = hub.spread().max(Duration::from_secs(1));
        let keys = verifier.clone();
        let gone = move |_: &_, credential: &_| !keys.knows(credential);
        let ended = hub
            .sentence(Sentence::new(End::KeyRemoved, spread, gone))
            .await;
        if ended > 0 {
            let within_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(ended, within_ms, "streams of keys that are gone end");
        }
    }
}
