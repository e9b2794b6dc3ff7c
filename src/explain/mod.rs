//! Why a user did or did not get an event: asks all instances what they remember, the log for the event, the
//! database for memberships and the inbox, and puts the answers together (`verdict.rs`).
//!
//! What is not remembered any more is said, and never guessed.

mod answer;
mod verdict;

use std::collections::BTreeMap;

pub use answer::{EventAccount, Explanation, Reason, SessionOutcome, Stay};

use crate::archive::Archive;
use crate::bus::Bus;
use crate::database::DatabaseError;
use crate::event::decode::{Rules, decode};
use crate::event::{Channel, ChatId, Event, EventId, Resource, Timestamp, UserId};
use crate::hub::{Account, Hub, Known, Resume, Scope, Sought};
use crate::inbox::Inbox;
use crate::membership::Membership;
use crate::peers::{Gathered, Peers};
use crate::rejections::Rejections;
use verdict::Facts;

/// The longest text that an event is asked for by, in bytes.
pub const MAX_EVENT: usize = 400;

/// Explains. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Explainer(Parts);

/// Whom it asks.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The instances.
    pub peers: Peers,
    /// This one's memory of joins and leaves.
    pub hub: Hub,
    /// The log, and what was published twice.
    pub bus: Bus,
    /// Joins and leaves of before.
    pub archive: Archive,
    /// What waits for users.
    pub inbox: Inbox,
    /// Who is in which chat.
    pub membership: Membership,
    /// What was no event.
    pub rejections: Rejections,
    /// What is one.
    pub rules: Rules,
}

/// What was found of an event where nobody remembers it.
enum Found {
    /// The log has it.
    Event(Box<Known>),
    /// There is an answer already.
    Answer(Reason),
}

impl Explainer {
    /// One that asks these.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(parts)
    }

    /// Why `user` did or did not get the event with this id: the one on streams, the one that it has of its
    /// own, or the one by which the bus recognises it (`Nats-Msg-Id`).
    ///
    /// # Errors
    /// The database can't say in which chats the user is.
    pub async fn explain(&self, user: UserId, event: &str) -> Result<Explanation, DatabaseError> {
        // Of several logs, each instance knows the event by another id.
        let one_log = self.0.bus.log().is_some() || !self.0.peers.is_shared();
        let about = self.0.bus.about(event).filter(|_| one_log);
        let name = about.map_or_else(|| event.to_owned(), |(id, _)| id.to_string());
        let (name, gathered) = self.ask(&user, name, one_log).await;
        let own = (name != event).then_some(event);
        let known = match self.remembered(&gathered) {
            Some(known) if known.at.is_some() => Found::Event(Box::new(known)),
            known => self.look_up(&name, &user, &gathered, known).await,
        };
        let repeats = match about {
            Some((_, repeats)) => repeats,
            None => 0,
        };
        let known = match known {
            Found::Event(known) => known,
            Found::Answer(reason) => {
                return Ok(explanation(user, event, reason, repeats, &gathered));
            }
        };
        let stays = self.stays(&user, &known).await?;
        let inbox = self.inbox(&user, &known, own).await;
        let accounts = gathered.replies.iter();
        let facts = Facts {
            user: &user,
            event: &known,
            stays: &stays,
            accounts: accounts
                .map(|(instance, account)| (instance.as_str(), account))
                .collect(),
            missing: !gathered.missing.is_empty(),
            inbox,
        };
        let sessions = facts.sessions();
        let reason = facts.reason(&sessions);
        let queued = total(&gathered.replies);
        let known = Known { queued, ..*known };
        Ok(Explanation {
            event: Some(told(&known, &user)),
            memberships: stays,
            sessions,
            ..explanation(user, event, reason, repeats, &gathered)
        })
    }

    /// Asks all instances, again by the id on streams where one of them knows it: the others may know their
    /// sessions' places, and not the event.
    async fn ask(&self, user: &UserId, name: String, one_log: bool) -> (String, Gathered<Account>) {
        let sought = |event: String| Sought {
            user: user.clone(),
            event,
        };
        let gathered = self.0.peers.accounts(sought(name.clone())).await;
        let id = self.remembered(&gathered).and_then(|known| known.id);
        match id.filter(|id| one_log && *id != name) {
            Some(id) => {
                let again = self.0.peers.accounts(sought(id.clone())).await;
                (id, again)
            }
            None => (name, gathered),
        }
    }

    /// What is remembered best of the event; by this instance, where it is one of several that know as much.
    fn remembered(&self, gathered: &Gathered<Account>) -> Option<Known> {
        let known = gathered.replies.iter().filter_map(|(instance, account)| {
            let event = account.event.as_ref()?;
            let own = instance == self.0.peers.instance();
            Some(((account.at_known, event.at.is_some(), own), event))
        });
        let best = known.max_by_key(|(rank, _)| *rank);
        best.map(|(_, event)| event.clone())
    }

    /// Looks for an event in the log; `known` is what is remembered of it.
    async fn look_up(
        &self,
        name: &str,
        user: &UserId,
        gathered: &Gathered<Account>,
        known: Option<Known>,
    ) -> Found {
        let accounts = || gathered.replies.values();
        let without = |reason| match known.clone() {
            Some(known) => Found::Event(Box::new(known)),
            None => Found::Answer(reason),
        };
        if known.is_none() && accounts().any(|account| account.contradicted) {
            return Found::Answer(Reason::OtherEvent);
        }
        if known.is_none() && self.0.rejections.has(name) {
            return Found::Answer(Reason::Rejected);
        }
        let Ok(id) = name.parse::<EventId>() else {
            return without(self.not_found(gathered));
        };
        let Some(log) = self.0.bus.log() else {
            return without(self.lost(gathered));
        };
        let Ok(extent) = log.extent().await else {
            return without(Reason::NotRemembered);
        };
        if extent.epoch != id.epoch() {
            return without(Reason::OtherEvent);
        }
        if id.position() > extent.last {
            return without(Reason::UnknownEvent);
        }
        if id.position() < extent.first {
            return without(Reason::NotRemembered);
        }
        let read = log.read(id.epoch(), id.position(), id.position()).await;
        let logged = match read.map(|batch| batch.messages.into_iter().next()) {
            Err(_) => return without(Reason::NotRemembered),
            Ok(None) => return without(Reason::UnknownEvent),
            Ok(Some(logged)) => logged,
        };
        if logged.id.contradicts(id) {
            return Found::Answer(Reason::OtherEvent);
        }
        match decode(&self.0.rules, &logged.subject, &logged.payload, logged.at) {
            Err(_) => Found::Answer(Reason::Rejected),
            Ok(decoded) => {
                let event = Event::new(Some(logged.id), decoded);
                Found::Event(Box::new(Known::of(&event, user, Some(logged.at))))
            }
        }
    }

    /// Nobody knows an event of this name: it may have been forgotten, or never have been.
    fn not_found(&self, gathered: &Gathered<Account>) -> Reason {
        let off = gathered.replies.values().any(|account| !account.enabled);
        match off || !gathered.missing.is_empty() {
            true => Reason::NotRemembered,
            false => Reason::UnknownEvent,
        }
    }

    /// Without a log that all share, what an instance does not remember is lost, or never was.
    fn lost(&self, gathered: &Gathered<Account>) -> Reason {
        let gap = gathered
            .replies
            .values()
            .any(|account| account.gap.is_some());
        match gap {
            true => Reason::Gap,
            false => self.not_found(gathered),
        }
    }

    /// Whether the user was in the chats of the audience.
    async fn stays(&self, user: &UserId, event: &Known) -> Result<Vec<Stay>, DatabaseError> {
        let channels = event.audience.channels.iter();
        let chats = channels.filter(|channel| *channel.resource() == Resource::Chat);
        let chats: Vec<ChatId> = chats.map(|chat| ChatId::from(chat.id().clone())).collect();
        if chats.is_empty() {
            return Ok(Vec::new());
        }
        let member_of = self.0.membership.chats_of(user).await?;
        let id = event
            .id
            .as_deref()
            .and_then(|id| id.parse::<EventId>().ok());
        let (changes, complete) = match id {
            Some(id) => self.changes(user, id, &member_of).await,
            None => (Vec::new(), true),
        };
        let stays = chats.into_iter().map(|chat| {
            let now = member_of.contains(&chat);
            Stay {
                then: then(&chat, id, &changes, complete, now),
                chat_id: chat,
                now,
            }
        });
        Ok(stays.collect())
    }

    /// The user's joins and leaves since an event: from memory, or else from the log. And whether that is all.
    async fn changes(
        &self,
        user: &UserId,
        id: EventId,
        member_of: &[ChatId],
    ) -> (Vec<(u64, ChatId, bool)>, bool) {
        let (changes, complete) = self.0.hub.changes_since(user, id);
        if complete {
            return (changes, true);
        }
        let interest = Scope::Own.interest(user, member_of.to_vec());
        let comeback = self.0.archive.look_up(&interest, Resume::After(id)).await;
        match comeback.backlog {
            Some(backlog) if backlog.gap.is_none() => (backlog.search.into_changes(), true),
            _ => (changes, false),
        }
    }

    async fn inbox(&self, user: &UserId, event: &Known, own: Option<&str>) -> Option<bool> {
        if !event.durable {
            return None;
        }
        let id = event.id.as_deref()?;
        // Without the record there is less to say.
        self.0.inbox.about(user, id, own).await.ok().flatten()
    }
}

/// Whether the user was in a chat when the event came: what came next says so, and else what is now.
fn then(
    chat: &ChatId,
    id: Option<EventId>,
    changes: &[(u64, ChatId, bool)],
    complete: bool,
    now: bool,
) -> Option<bool> {
    let position = id.map_or(u64::MAX, |id| id.position());
    let mut changes = changes.iter().filter(|(_, of, _)| of == chat);
    match changes.next() {
        // The event itself is the join or the leave, which the user gets in either case.
        Some((at, ..)) if *at == position => Some(true),
        Some((_, _, joined)) if complete => Some(!joined),
        None if complete => Some(now),
        _ => None,
    }
}

fn total(accounts: &BTreeMap<String, Account>) -> Option<u64> {
    let events = accounts
        .values()
        .filter_map(|account| account.event.as_ref());
    let queued: Vec<u64> = events.filter_map(|event| event.queued).collect();
    (!queued.is_empty()).then(|| queued.iter().sum())
}

fn told(event: &Known, user: &UserId) -> EventAccount {
    let audience = &event.audience;
    let everybody = audience.everybody.then(|| "*".to_owned());
    let own = audience.user.then(|| Channel::user(user).to_string());
    let channels = audience.channels.iter().map(ToString::to_string);
    EventAccount {
        id: event.id.clone(),
        r#type: event.kind.clone(),
        at: event.at,
        ephemeral: event.ephemeral,
        durable: event.durable,
        expires_at: event.expires_at,
        audience: everybody.into_iter().chain(own).chain(channels).collect(),
        excluded: audience.excluded,
        queued: event.queued,
    }
}

fn explanation(
    user: UserId,
    event: &str,
    reason: Reason,
    repeats: u32,
    gathered: &Gathered<Account>,
) -> Explanation {
    let has = match reason.delivered() {
        Some(true) => "has got",
        Some(false) => "has not got",
        None => "may or may not have got",
    };
    let since: Option<Timestamp> = {
        let accounts = gathered.replies.values().filter(|account| account.enabled);
        accounts.map(|account| account.events_since).max()
    };
    Explanation {
        delivered: reason.delivered(),
        reason,
        explanation: format!("User {user} {has} event {event}: {}.", reason.in_words()),
        user_id: user,
        event: None,
        memberships: Vec::new(),
        sessions: Vec::new(),
        repeats,
        remembered_since: since,
        instances: gathered.replies.keys().cloned().collect(),
        missing: gathered.missing.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Epoch;

    #[test]
    fn what_came_next_says_who_was_in_a_chat() {
        let (chat, other) = (ChatId::from(5), ChatId::from(6));
        let id = Some(EventId::unknown(Epoch(1), 10));
        let at = |changes: &[(u64, ChatId, bool)], complete, now| {
            then(&chat, id, changes, complete, now)
        };
        assert_eq!(at(&[], true, true), Some(true));
        assert_eq!(at(&[], true, false), Some(false));
        assert_eq!(at(&[(12, chat.clone(), true)], true, true), Some(false));
        assert_eq!(at(&[(12, chat.clone(), false)], true, false), Some(true));
        assert_eq!(at(&[(12, other, true)], true, true), Some(true));
        assert_eq!(at(&[(10, chat.clone(), false)], true, false), Some(true));
        assert_eq!(at(&[], false, true), None);
    }
}
