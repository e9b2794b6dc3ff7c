//! Looks up again which chats the connected users are in, after joins and leaves may have been
//! lost on the way here: who was removed from a chat meanwhile must not go on reading it.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::event::UserId;
use crate::hub::Hub;
use crate::membership::Membership;

/// Look-ups under way at the same time: few, since new clients wait for the same database.
const CONCURRENT: usize = 4;

/// The pause before a look-up that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often a look-up is tried.
const ATTEMPTS: usize = 60;

/// Asks for a refresh. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Refresh(mpsc::Sender<()>);

/// Performs refreshes, one after the other.
#[derive(Debug)]
pub struct RefreshTask {
    requests: mpsc::Receiver<()>,
    hub: Hub,
    membership: Membership,
}

impl Refresh {
    /// The handle and the task, which must run.
    #[must_use]
    pub fn new(hub: Hub, membership: Membership) -> (Self, RefreshTask) {
        let (sender, requests) = mpsc::channel(1);
        let task = RefreshTask {
            requests,
            hub,
            membership,
        };
        (Self(sender), task)
    }

    /// Asks for a refresh of all sessions. One that waits to begin covers this request, too.
    pub fn request(&self) {
        let _ = self.0.try_send(());
    }
}

impl RefreshTask {
    /// Runs until the last [`Refresh`] is dropped.
    pub async fn run(mut self) {
        while self.requests.recv().await.is_some() {
            let users = self.hub.begin_refresh().await;
            if users.is_empty() {
                continue;
            }
            let count = users.len();
            stream::iter(users)
                .for_each_concurrent(CONCURRENT, |user| self.refresh(user))
                .await;
            info!(users = count, "memberships looked up again");
        }
    }

    async fn refresh(&self, user: UserId) {
        for _ in 0..ATTEMPTS {
            match self.membership.chats_of(&user).await {
                Ok(chats) => return self.hub.finish_refresh(user, chats).await,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
        warn!(
            user = user.to_string(),
            "memberships could not be looked up again"
        );
    }
}
