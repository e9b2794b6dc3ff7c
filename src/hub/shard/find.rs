//! What a shard knows about its sessions, for those who ask.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Instant;

use uuid::Uuid;

use super::{Phase, Shard};
use crate::credential::Mark;
use crate::event::{Channel, ChatId, Resource, Timestamp, UserId};
use crate::hub::account::{self, Heard, SessionAccount, Standing};
use crate::hub::census::Census;
use crate::hub::inspect::{Connection, Filter, Finding, Question, Stats, Target};
use crate::hub::listening::Seats;
use crate::hub::matter::{Matter, Subject};
use crate::hub::notice::End;
use crate::hub::registry::SessionKey;
use crate::hub::session::Session;
use crate::hub::witness::{Who, Witness};

/// The most channels of a connection that are listed.
const LISTED_CHANNELS: usize = 20;

/// The most ended sessions of one user that are told of.
const MOST_GONE: usize = 50;

/// The most resources that are counted for themselves, as clients choose their names; and the most keys.
const RESOURCES: usize = 100;

/// What one shard knows of a user and an event.
#[derive(Debug, Default)]
pub(in crate::hub) struct ShardAccount {
    pub(in crate::hub) sessions: Vec<SessionAccount>,
    /// Sessions that have ended since are remembered.
    pub(in crate::hub) since: Option<Timestamp>,
}

impl Shard {
    /// Answers for the sessions of this shard.
    pub(in crate::hub) fn find(&mut self, question: &Question, now: Instant) -> Finding {
        match question {
            Question::Connections(filter) => Finding::Connections(self.connections(filter, now)),
            Question::Stats => Finding::Stats(Stats {
                keys: self.keys_in_use(),
                ..self.stats(Census::add)
            }),
            Question::BriefStats => Finding::Stats(self.stats(|census, _, listeners| {
                census.add_unmarked(listeners);
            })),
            Question::Channels { after, limit } => {
                Finding::Channels(self.channels(after.as_deref(), *limit))
            }
            Question::End(target) => Finding::Ended(self.end_target(target, now)),
        }
    }

    /// What is known of a user's sessions and an event.
    pub(in crate::hub) fn account(&mut self, matter: &Matter, now: Instant) -> ShardAccount {
        let Some(witness) = self.witness.take() else {
            return ShardAccount::default();
        };
        let head = self.head;
        let mut sessions: Vec<SessionAccount> = witness
            .of(&matter.user)
            .map(|gone| {
                let subject = Subject::of(gone, matter.hearers.as_ref());
                let told = match gone.head.epoch() == head.epoch() {
                    true => (
                        matter.standing(&subject, head, |_| false, &witness, now),
                        matter.heard(&subject, head, &witness),
                    ),
                    // The log that it listened to is no more.
                    false => (Standing::Over, Heard::Absent),
                };
                account::of_gone(gone, told, now)
            })
            .collect();
        // The latest of very many, as those who poll have.
        let superfluous = sessions.len().saturating_sub(MOST_GONE);
        sessions.drain(..superfluous);
        for key in self.sessions_of(&matter.user) {
            sessions.extend(self.account_of(key, matter, &witness, now));
        }
        let since = account::wall(witness.since(), now);
        self.witness = Some(witness);
        ShardAccount {
            sessions,
            since: Some(since),
        }
    }

    fn account_of(
        &self,
        key: SessionKey,
        matter: &Matter,
        witness: &Witness,
        now: Instant,
    ) -> Option<SessionAccount> {
        let head = self.head;
        let session = self.registry.get(key)?;
        if matches!(session.phase, Phase::Pending(_)) {
            return None;
        }
        let subject = Subject {
            who: Who {
                key,
                serial: session.serial,
            },
            start: &session.start,
            seats: Seats {
                on: matter
                    .hearers
                    .as_ref()
                    .map(|hearers| hearers.among(|channel| self.registry.listens_on(key, channel))),
                turns: session.turns,
                named: session.named_channels.is_some(),
            },
            after_unlogged: session.after_unlogged,
            over: session.over_at.map(|head| (now, head, session.unwritten)),
        };
        let outbox = &session.outbox;
        let standing = matter.standing(&subject, head, |is| outbox.holds(is), witness, now);
        let ended = match session.phase {
            Phase::Ending(end) => Some((account::wall(now, now), end.as_str().to_owned())),
            Phase::Pending(_) | Phase::Live => None,
        };
        Some(SessionAccount {
            connection_id: session.connection_id.simple().to_string(),
            transport: session.client.transport,
            opened_at: account::wall(session.opened_at, now),
            ended,
            named: session.asked_for().as_deref().map(account::told),
            heard: matter.heard(&subject, head, witness),
            standing,
        })
    }

    /// The chats that a user's own stream listens on; `None` where there is none.
    pub(in crate::hub) fn chats_of(&mut self, user: &UserId) -> Option<Vec<ChatId>> {
        let own = self.registry.sessions_of(user).into_iter().find(|key| {
            let session = self.registry.get_mut(*key);
            session.is_some_and(|session| session.is_live() && session.named_channels.is_none())
        })?;
        let channels = self.registry.channels_of(own).into_iter();
        let chats = channels.filter(|channel| *channel.resource() == Resource::Chat);
        Some(chats.map(|chat| ChatId::from(chat.id().clone())).collect())
    }

    pub(in crate::hub) fn listeners(&self, channels: &[Channel]) -> Vec<usize> {
        let count = |channel| self.registry.listener_count(channel);
        channels.iter().map(count).collect()
    }

    fn connections(&mut self, filter: &Filter, now: Instant) -> Vec<Connection> {
        let keys = match (&filter.user, &filter.channel) {
            (Some(user), _) => self.sessions_of(user),
            (None, Some(channel)) => self.registry.listeners_on(channel),
            (None, None) => self.registry.keys(),
        };
        let mut found: Vec<(Uuid, SessionKey)> = Vec::new();
        for key in keys {
            let on = filter.channel.as_ref();
            if on.is_some_and(|channel| !self.registry.listens_on(key, channel)) {
                continue;
            }
            let Some(session) = self.registry.get_mut(key) else {
                continue;
            };
            let mut text = Uuid::encode_buffer();
            let id = session.connection_id.simple().encode_lower(&mut text);
            if session.is_live() && filter.after.as_ref().is_none_or(|after| *id > **after) {
                found.push((session.connection_id, key));
            }
        }
        // Every page looks at all sessions, and sorts no more of them than it has. The order of the ids is
        // that of their texts.
        if found.len() > filter.limit {
            found.select_nth_unstable(filter.limit);
            found.truncate(filter.limit);
        }
        found.sort_unstable();
        found
            .into_iter()
            .filter_map(|(id, key)| self.connection(id, key, now))
            .collect()
    }

    fn connection(&mut self, id: Uuid, key: SessionKey, now: Instant) -> Option<Connection> {
        let mut channels = self.registry.channels_of(key);
        let channel_count = channels.len();
        if channel_count > LISTED_CHANNELS {
            // A user can have thousands of chats, and a page hundreds of users.
            channels.select_nth_unstable_by(LISTED_CHANNELS, by_name);
            channels.truncate(LISTED_CHANNELS);
        }
        channels.sort_unstable_by(by_name);
        let user_id = self.registry.user_of(key)?.clone();
        let session = self.registry.get_mut(key)?;
        let age = now.saturating_duration_since(session.opened_at);
        Some(Connection {
            connection_id: id.simple().to_string(),
            user_id,
            channels,
            channel_count,
            transport: session.client.transport,
            remote: session.client.remote.as_deref().map(str::to_owned),
            user_agent: session.client.user_agent.to_string(),
            device: session.client.device.as_deref().map(str::to_owned),
            // Whoever knows the keys says what this one is called.
            kid: None,
            key: session.credential.as_ref().map(|of| of.key.to_text()),
            connected_at: Timestamp::now().before(age),
            sent: session.events_sent,
        })
    }

    /// Sessions and channels in numbers, without keys; `add` counts a channel with so many listeners.
    fn stats(&self, add: impl Fn(&mut Census, &Channel, usize)) -> Stats {
        let mut stats = Stats {
            connections: self.registry.len(),
            ..Stats::default()
        };
        for (channel, listeners) in self.registry.channels() {
            let name = channel.resource().as_str();
            if let Some(census) = stats.resources.get_mut(name) {
                add(census, channel, listeners);
                continue;
            }
            let name = match stats.resources.len() < RESOURCES {
                true => name,
                false => "other",
            };
            let census = stats.resources.entry(name.to_owned()).or_default();
            add(census, channel, listeners);
        }
        stats
    }

    /// How many sessions there are by each key.
    fn keys_in_use(&self) -> BTreeMap<String, usize> {
        // There are few: whoever takes one away ends its sessions.
        let mut uses: Vec<(Mark, usize)> = Vec::new();
        for key in self.registry.keys() {
            let session = self.registry.get(key);
            let Some(credential) = session.and_then(|session| session.credential.as_ref()) else {
                continue;
            };
            let room = uses.len() < RESOURCES;
            match uses.iter_mut().find(|(mark, _)| *mark == credential.key) {
                Some((_, sessions)) => *sessions += 1,
                None if room => uses.push((credential.key, 1)),
                None => {}
            }
        }
        let uses = uses.into_iter();
        uses.map(|(mark, sessions)| (mark.to_text(), sessions))
            .collect()
    }

    fn channels(&self, after: Option<&str>, limit: usize) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for (channel, listeners) in self.registry.channels() {
            let name = channel.to_string();
            if after.is_none_or(|after| name.as_str() > after) {
                found.insert(name, listeners);
            }
            if found.len() > limit {
                found.pop_last();
            }
        }
        found
    }

    fn end_target(&mut self, target: &Target, now: Instant) -> usize {
        let keys = match target {
            Target::Connection(id) => self.with_id(id).into_iter().collect(),
            Target::User(user) => self.sessions_of(user),
        };
        let mut ended = 0;
        for key in keys {
            let session = self.registry.get(key);
            if session.is_some_and(|session| !session.is_ending()) {
                self.end(key, End::Disconnected, now);
                ended += 1;
            }
        }
        ended
    }

    /// The session of a connection, by its id as it is told.
    fn with_id(&self, id: &str) -> Option<SessionKey> {
        let as_told = |uuid: &Uuid| uuid.simple().to_string() == id;
        let sought = Uuid::try_parse(id).ok().filter(as_told)?;
        let mut keys = self.registry.keys().into_iter();
        let is_sought = |session: &Session| session.connection_id == sought;
        keys.find(|key| self.registry.get(*key).is_some_and(is_sought))
    }
}

/// By resource, then by id: numbers before texts, in their order.
fn by_name(one: &Channel, other: &Channel) -> Ordering {
    let resources = one.resource().as_str().cmp(other.resource().as_str());
    resources.then_with(|| one.id().cmp(other.id()))
}
