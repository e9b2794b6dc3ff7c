//! Why a user did or did not get an event: asks all instances what they remember, the log for the event, the
//! database for memberships and the inbox, and puts the answers together (`verdict.rs`).
//!
//! What is not remembered any more is said, and never guessed.

mod answer;
mod hints;
mod past;
mod stays;
mod verdict;

use std::collections::BTreeMap;

pub use answer::{Basis, EventAccount, Explanation, Reason, SessionOutcome, Stay};

use crate::archive::Archive;
use crate::bus::Bus;
use crate::event::decode::Rules;
use crate::event::{Channel, Timestamp, UserId};
use crate::hub::{Account, Hub, Known, Sought};
use crate::inbox::Inbox;
use crate::membership::Membership;
use crate::peers::{Gathered, Peers};
use crate::rejections::Rejections;
use past::Found;
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

impl Explainer {
    /// One that asks these.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(parts)
    }

    /// Why `user` did or did not get the event with this id: the one on streams, the one that it has of its
    /// own, or the one by which the bus recognises it (`Nats-Msg-Id`).
    pub async fn explain(&self, user: UserId, event: &str) -> Explanation {
        // Of several logs, each instance knows the event by another id.
        let one_log = self.0.bus.log().is_some() || !self.0.peers.is_shared();
        let about = self.0.bus.about(event).filter(|_| one_log);
        let name = about.map_or_else(|| event.to_owned(), |(id, _)| id.to_string());
        let repeats = about.map_or(0, |(_, repeats)| repeats);
        let (name, gathered) = self.ask(&user, name, one_log).await;
        let own = (name != event).then_some(event);
        let found = match self.remembered(&gathered) {
            Some(known) if known.at.is_some() => Found::Event(Box::new(known)),
            known => self.look_up((event, &name), &user, &gathered, known).await,
        };
        let known = match found {
            Found::Event(known) => known,
            Found::Answer(without) => {
                return Explanation {
                    hints: self.first_of_all().chain(without.hints).collect(),
                    rejection: without.rejection,
                    ..explanation(user, event, without.reason, repeats, &gathered)
                };
            }
        };
        let gathered = self.ask_with(&user, &known, gathered).await;
        let (stays, silence) = self.stays(&user, &known).await;
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
        let judged_by = facts.basis().filter(|_| reason.delivered().is_some());
        let mut memberships = stays.clone();
        hints::note_listening(&mut memberships, &facts);
        let silence = silence.map(|why| hints::silent_database(&why));
        let first = self.first_of_all().chain(silence);
        let hints = first.chain(hints::of(&facts, reason)).collect();
        let queued = total(&gathered.replies);
        let known = Known { queued, ..*known };
        Explanation {
            event: Some(told(&known, &user)),
            memberships,
            judged_by,
            hints,
            sessions,
            ..explanation(user, event, reason, repeats, &gathered)
        }
    }

    /// What is wrong with this instance as a whole, and more urgent than one event.
    fn first_of_all(&self) -> impl Iterator<Item = String> + use<> {
        let bus = self.0.bus.status();
        (!bus.up).then(|| hints::deaf_bus(&bus.detail)).into_iter()
    }

    /// Asks once more where an instance has streams of the user's and does not know the event, and with it
    /// whom that is for: then it can't say whether they listened.
    async fn ask_with(
        &self,
        user: &UserId,
        known: &Known,
        gathered: Gathered<Account>,
    ) -> Gathered<Account> {
        let mut accounts = gathered.replies.values();
        let unknown = |account: &Account| account.event.is_none() && !account.sessions.is_empty();
        let Some(id) = known.id.clone().filter(|_| accounts.any(unknown)) else {
            return gathered;
        };
        let sought = Sought {
            user: user.clone(),
            event: id,
            known: Some(Box::new(known.clone())),
        };
        self.0.peers.accounts(sought).await
    }

    /// Asks all instances, again by the id on streams where one of them knows it: the others may know their
    /// sessions' places, and not the event.
    async fn ask(&self, user: &UserId, name: String, one_log: bool) -> (String, Gathered<Account>) {
        let sought = |event: String| Sought {
            user: user.clone(),
            event,
            known: None,
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

    async fn inbox(&self, user: &UserId, event: &Known, own: Option<&str>) -> Option<bool> {
        if !event.durable {
            return None;
        }
        let id = event.id.as_deref()?;
        // Without the record there is less to say.
        self.0.inbox.about(user, id, own).await.ok().flatten()
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
    let others = audience.others.iter().map(ToString::to_string);
    EventAccount {
        id: event.id.clone(),
        r#type: event.kind.clone(),
        at: event.at,
        ephemeral: event.ephemeral,
        durable: event.durable,
        expires_at: event.expires_at,
        audience: everybody
            .into_iter()
            .chain(own)
            .chain(channels)
            .chain(others)
            .collect(),
        audience_size: audience.total,
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
        judged_by: None,
        hints: Vec::new(),
        rejection: None,
        sessions: Vec::new(),
        repeats,
        remembered_since: since,
        instances: gathered.replies.keys().cloned().collect(),
        missing: gathered.missing.clone(),
    }
}
