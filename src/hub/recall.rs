//! What this instance remembers, for those who ask why somebody did or did not get an event.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::account::{self, Account, Known, SessionAccount, Sought};
use super::listening::Hearers;
use super::matter::Matter;
use super::recent::Trail;
use super::task::Command;
use super::{Delivery, Hub, SHARDS, Scope, Search};
use crate::event::{ChatId, Event, EventId, Timestamp, UserId};

impl Hub {
    /// Begins to note what becomes of an event, unless nothing is remembered.
    pub(super) fn remember_trail(
        &self,
        event: &Arc<Event>,
        delivery: Delivery,
    ) -> Option<Arc<Trail>> {
        self.0.explain.enabled.then(|| {
            let trail = Trail::new(event, delivery, Instant::now());
            self.0.recent.lock().push(Arc::clone(&trail));
            trail
        })
    }

    /// What is known here of an event and a user.
    pub async fn account(&self, sought: &Sought) -> Account {
        let now = Instant::now();
        let trail = self.trail(&sought.event).await;
        let id: Option<EventId> = match &trail {
            Some(trail) => trail.event.id,
            None => sought.event.parse().ok(),
        };
        let (kept, contradicted) = {
            let history = self.0.history.read();
            let same_log = id.filter(|id| id.epoch() == history.head().epoch());
            let contradicted = same_log.is_some_and(|id| history.contradicts(id));
            let kept = same_log.and_then(|id| history.event(id.position()));
            (kept.filter(|_| !contradicted).cloned(), contradicted)
        };
        let event = trail
            .as_ref()
            .map(|trail| Arc::clone(&trail.event))
            .or(kept);
        let (gap, since) = {
            let recent = self.0.recent.lock();
            let gap = id.and_then(|id| recent.gap_at(id));
            (gap.map(|gap| gap.reason.as_str()), recent.since())
        };
        let came = trail.as_ref().map(|trail| account::wall(trail.came, now));
        let published = |event: &Event| Some(account::wall(event.frame.published()?, now));
        let known = event.as_ref().map(|event| Known {
            queued: trail.as_ref().map(|trail| trail.so_far().queued),
            ..Known::of(event, &sought.user, came.or(published(event)))
        });
        let hashing = &self.0.hashing;
        let told = known.as_ref().or(sought.known.as_deref());
        let hearers = match (&event, told) {
            (Some(event), _) => Some(Hearers::of(&event.audience, hashing)),
            (None, Some(told)) => Some(Hearers::told(&told.audience, &sought.user, hashing)),
            (None, None) => None,
        };
        let ephemeral = told.is_none_or(|told| told.ephemeral);
        let expires_at = told.and_then(|told| told.expires_at);
        let (sessions, sessions_since) = self
            .sessions_and(Matter {
                user: sought.user.clone(),
                id,
                event,
                trail,
                gap,
                hearers,
                ephemeral,
                expires_at,
            })
            .await;
        Account {
            enabled: self.0.explain.enabled,
            at_known: came.is_some(),
            event: known,
            contradicted,
            gap: gap.map(str::to_owned),
            sessions,
            events_since: account::wall(since, now),
            sessions_since: sessions_since.unwrap_or_else(Timestamp::now),
        }
    }

    /// The trail of an event, by its id on streams or one of its own.
    async fn trail(&self, event: &str) -> Option<Arc<Trail>> {
        if let Ok(id) = event.parse::<EventId>() {
            return self.0.recent.lock().at(id);
        }
        let (all, event) = (self.0.recent.lock().all(), event.to_owned());
        let found = spawn_blocking(move || all.into_iter().find(|trail| trail.is(&event)));
        found.await.ok().flatten()
    }

    async fn sessions_and(&self, matter: Matter) -> (Vec<SessionAccount>, Option<Timestamp>) {
        let (sender, mut answers) = mpsc::channel(SHARDS);
        let command = Command::Account(Arc::new(matter), sender);
        self.send(&command, None).await;
        drop(command);
        let (mut sessions, mut since) = (Vec::new(), None);
        while let Some(account) = answers.recv().await {
            sessions.extend(account.sessions);
            since = since.max(account.since);
        }
        sessions.sort_by_key(|session: &SessionAccount| {
            let ended = session.ended.as_ref().map(|(at, _)| *at);
            (ended.is_none(), ended, session.opened_at)
        });
        (sessions, since)
    }

    /// The joins (`true`) and leaves of a user from a position on, as far as the memory has them, and whether
    /// it has all of them.
    #[must_use]
    pub fn changes_since(&self, user: &UserId, id: EventId) -> (Vec<(u64, ChatId, bool)>, bool) {
        if let Some(changes) = self.0.recent.lock().changes_since(user, id) {
            return (changes, true);
        }
        let history = self.0.history.read();
        if history.head().epoch() != id.epoch() {
            return (Vec::new(), false);
        }
        let complete = history.floor().position() <= id.position();
        let head = history.head().position();
        let mut search = Search::new(Scope::Own.interest(user, Vec::new()));
        search.note_changes(&history, id.position(), head);
        (search.into_changes(), complete)
    }
}
