//! Which PostgreSQL channels are to be listened on, and who needs them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::name::Names;
use crate::event::Channel;

/// The most names that are listened on at a time; streams of more hear nothing of their notifications.
const FOLLOWED: usize = 20_000;

/// How long a name is listened on after the last stream: clients come back.
const LINGER: Duration = Duration::from_secs(60);

/// How long a stream waits for its names to be listened on. Without, it gets a `gap` once they are.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is listened on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notifications(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    names: Names,
    wanted: Mutex<HashMap<String, Wanted>>,
    /// Something is to be listened on, or no more.
    changed: Notify,
}

#[derive(Debug)]
struct Wanted {
    holders: usize,
    /// Since when there are none.
    idle: Instant,
    listening: watch::Sender<bool>,
}

/// Keeps a name listened on.
#[derive(Debug)]
pub struct Following {
    shared: Arc<Shared>,
    name: String,
}

/// What has to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) listen: Vec<String>,
    pub(super) unlisten: Vec<String>,
}

impl Notifications {
    /// Nothing but what is always listened on.
    pub(super) fn new(names: Names) -> Self {
        let mut wanted = HashMap::new();
        for name in names.fixed() {
            // Held for ever.
            wanted.insert(name.clone(), Wanted::new(1));
        }
        Self(Arc::new(Shared {
            names,
            wanted: Mutex::new(wanted),
            changed: Notify::new(),
        }))
    }

    /// Listens on what belongs to a channel, for as long as the result is kept. Comes back when that is so, or
    /// when it takes too long.
    pub async fn follow(&self, channels: &[Channel]) -> Vec<Following> {
        let names = channels.iter().flat_map(|channel| self.0.names.of(channel));
        let followed: Vec<Following> = names.filter_map(|name| self.hold(&name)).collect();
        let listening = async {
            for following in &followed {
                following.listening().await;
            }
        };
        // Otherwise, whoever connects owes a gap.
        let _ = tokio::time::timeout(PATIENCE, listening).await;
        followed
    }

    /// Listens on a name; `None` when there are too many.
    pub(crate) fn hold(&self, name: &str) -> Option<Following> {
        let mut wanted = self.0.wanted.lock();
        if let Some(known) = wanted.get_mut(name) {
            known.holders += 1;
        } else if wanted.len() < FOLLOWED {
            wanted.insert(name.to_owned(), Wanted::new(1));
            self.0.changed.notify_one();
        } else {
            return None;
        }
        Some(Following {
            shared: Arc::clone(&self.0),
            name: name.to_owned(),
        })
    }

    pub(super) fn names(&self) -> &Names {
        &self.0.names
    }

    /// Waits for something to do.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Whether there is anything to listen on.
    pub(super) fn is_needed(&self) -> bool {
        !self.0.wanted.lock().is_empty()
    }

    /// What is to be listened on now and is not, at most `most`, and what is not any more.
    pub(super) fn changes(&self, most: usize, now: Instant) -> Changes {
        let mut changes = Changes::default();
        let mut wanted = self.0.wanted.lock();
        wanted.retain(|name, wanted| {
            let over = wanted.holders == 0 && now.saturating_duration_since(wanted.idle) >= LINGER;
            if over && *wanted.listening.borrow() {
                changes.unlisten.push(name.clone());
            }
            !over
        });
        let missing = wanted
            .iter()
            .filter(|(_, wanted)| !*wanted.listening.borrow());
        changes.listen = missing.map(|(name, _)| name.clone()).take(most).collect();
        changes
    }

    /// These are listened on.
    pub(super) fn listening(&self, names: &[String]) {
        let wanted = self.0.wanted.lock();
        for name in names {
            if let Some(wanted) = wanted.get(name) {
                wanted.listening.send_replace(true);
            }
        }
    }

    /// Nothing is listened on any more.
    pub(super) fn lost(&self) {
        for wanted in self.0.wanted.lock().values() {
            wanted.listening.send_replace(false);
        }
    }
}

impl Wanted {
    fn new(holders: usize) -> Self {
        Self {
            holders,
            idle: Instant::now(),
            listening: watch::Sender::new(false),
        }
    }
}

impl Following {
    async fn listening(&self) {
        let listening = {
            let wanted = self.shared.wanted.lock();
            wanted
                .get(&self.name)
                .map(|wanted| wanted.listening.subscribe())
        };
        if let Some(mut listening) = listening {
            // The sender lives as long as the name is held.
            let _ = listening.wait_for(|listening| *listening).await;
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(wanted) = self.shared.wanted.lock().get_mut(&self.name) {
            wanted.holders -= 1;
            wanted.idle = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_listened_on_while_somebody_needs_them() {
        let names = ["always".to_owned(), "session_messages:*".to_owned()];
        let notifications = Notifications::new(Names::parse(&names).unwrap());
        let now = Instant::now();
        let all = |changes: &Changes| {
            let mut names = changes.listen.clone();
            names.sort_unstable();
            names
        };
        assert_eq!(all(&notifications.changes(9, now)), ["always"]);
        let one = notifications.hold("session_messages:a").unwrap();
        let two = notifications.hold("session_messages:a").unwrap();
        let listen = all(&notifications.changes(9, now));
        assert_eq!(listen, ["always", "session_messages:a"]);
        notifications.listening(&listen);
        one.listening().await;
        drop(one);
        let later = Instant::now() + LINGER;
        assert_eq!(notifications.changes(9, later), Changes::default());
        drop(two);
        assert_eq!(notifications.changes(9, Instant::now()), Changes::default());
        let later = Instant::now() + LINGER;
        let changes = notifications.changes(9, later);
        assert_eq!((changes.listen.len(), changes.unlisten.len()), (0, 1));
        notifications.lost();
        assert_eq!(all(&notifications.changes(9, later)), ["always"]);
    }
}
