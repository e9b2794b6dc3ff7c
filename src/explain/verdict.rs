//! From what all instances know to one answer. Pure.

use super::answer::{Basis, Reason, SessionOutcome, Stay};
use crate::event::{Channel, Resource, Timestamp, UserId};
use crate::hub::{Account, For, Heard, Known, SessionAccount, Standing};

/// What is known.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) user: &'a UserId,
    pub(super) event: &'a Known,
    pub(super) stays: &'a [Stay],
    /// By instance.
    pub(super) accounts: Vec<(&'a str, &'a Account)>,
    /// Whether an instance has not replied.
    pub(super) missing: bool,
    /// Whether it waits for the user, `true`, or has and was delivered.
    pub(super) inbox: Option<bool>,
}

/// Whether an event is for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Yes,
    /// It is for a chat that the user was not in.
    Outside,
    /// It depends on what is not known any more.
    Unsure,
    /// The session listens on other channels.
    Elsewhere,
    /// It is for a chat that the user was in by the database, or that can't be told, and the session did not listen
    /// on it.
    Deaf,
}

/// From what decides to what does not: of several sessions the first of these is the answer.
const ORDER: [Reason; 17] = [
    Reason::Written,
    Reason::ReplayedFromMemory,
    Reason::ReplayedFromLog,
    Reason::HadAlready,
    Reason::Queued,
    Reason::OnItsWay,
    Reason::SlowConsumer,
    Reason::EndedBefore,
    Reason::Shed,
    Reason::Expired,
    Reason::Gap,
    Reason::NotRemembered,
    Reason::NotAMember,
    Reason::NotListening,
    Reason::OpenedLater,
    Reason::NotInAudience,
    Reason::NotConnected,
];

impl Facts<'_> {
    /// What became of the event on each of the sessions.
    pub(super) fn sessions(&self) -> Vec<SessionOutcome> {
        self.all()
            .map(|(instance, session)| self.told(instance, session))
            .collect()
    }

    /// The answer.
    pub(super) fn reason(&self, sessions: &[SessionOutcome]) -> Reason {
        let audience = &self.event.audience;
        if audience.excluded {
            return Reason::Excluded;
        }
        let rank = |reason: Reason| ORDER.iter().position(|other| *other == reason);
        let outcomes = sessions.iter().map(|session| session.outcome);
        let best = outcomes.min_by_key(|reason| rank(*reason).unwrap_or(ORDER.len()));
        if let Some(best) = best.filter(|best| best.delivered() == Some(true)) {
            return best;
        }
        match (self.inbox, best) {
            (Some(false), _) => return Reason::DeliveredFromInbox,
            (Some(true), Some(Reason::Queued)) => return Reason::Queued,
            (Some(true), _) => return Reason::WaitsInInbox,
            (None, _) => {}
        }
        if let Some(never) = self.never() {
            return never;
        }
        if let Some(waits @ (Reason::Queued | Reason::OnItsWay)) = best {
            return waits;
        }
        if !self.is_complete() {
            return Reason::NotRemembered;
        }
        match best {
            Some(Reason::NotInAudience) | None => Reason::NotConnected,
            Some(best) => best,
        }
    }

    /// What tells whether the event is for the user, where that depends on chats.
    pub(super) fn basis(&self) -> Option<Basis> {
        let audience = &self.event.audience;
        let depends = !audience.excluded && !audience.everybody && !audience.user;
        let is_known = self.stays.iter().any(|stay| stay.then.is_some());
        match self.there().next() {
            _ if !depends || self.stays.is_empty() => None,
            Some(_) => Some(Basis::Streams),
            None => is_known.then_some(Basis::Database),
        }
    }

    /// The sessions that were there when it came, or came back and might have been given it, with what they
    /// listened on; by instance.
    pub(super) fn there(&self) -> impl Iterator<Item = (&str, &SessionAccount, bool, &[Channel])> {
        self.all().filter_map(|(instance, session)| {
            let over = session.standing == Standing::Over;
            match &session.heard {
                Heard::There { reached, channels } if !over => {
                    Some((instance, session, *reached, &channels[..]))
                }
                _ => None,
            }
        })
    }

    fn all(&self) -> impl Iterator<Item = (&str, &SessionAccount)> {
        self.accounts.iter().flat_map(|(instance, account)| {
            let sessions = account.sessions.iter();
            sessions.map(move |session| (*instance, session))
        })
    }

    /// Why the event is not for the user, whatever streams there were.
    fn never(&self) -> Option<Reason> {
        let For {
            everybody,
            user,
            channels,
            ..
        } = &self.event.audience;
        let reached = self.there().any(|(_, _, reached, _)| reached);
        let unsure = |(_, session): (&str, &SessionAccount)| {
            session.heard == Heard::Forgotten && session.standing != Standing::Over
        };
        if *everybody || *user || reached || self.all().any(unsure) {
            return None;
        }
        if channels.is_empty() {
            return Some(Reason::NotInAudience);
        }
        // A stream that is not remembered may have listened all the same.
        let others = channels.iter().any(|channel| !is_chat(channel));
        let may_have_been_in = self.stays.iter().any(|stay| stay.then != Some(false));
        (!others && !may_have_been_in && self.is_complete()).then_some(Reason::NotAMember)
    }

    /// Whether everything is remembered that may have mattered.
    pub(super) fn is_complete(&self) -> bool {
        let Some(at) = self.event.at else {
            return false;
        };
        let reaches = |account: &Account| account.enabled && account.sessions_since <= at;
        !self.missing && self.accounts.iter().all(|(_, account)| reaches(account))
    }

    fn told(&self, instance: &str, session: &SessionAccount) -> SessionOutcome {
        let (ended_at, ended_because) = match &session.ended {
            Some((at, reason)) => (Some(*at), Some(reason.clone())),
            None => (None, None),
        };
        let outcome = self.outcome(session);
        let listened_on = match &session.heard {
            Heard::There { channels, .. } if session.standing != Standing::Over => {
                Some(channels.clone())
            }
            _ => None,
        };
        SessionOutcome {
            connection_id: session.connection_id.clone(),
            instance: instance.to_owned(),
            transport: session.transport,
            opened_at: session.opened_at,
            ended_at,
            ended_because,
            channels: session.named.clone(),
            listened_on,
            outcome,
            written_by: match session.standing {
                Standing::Written(by) if outcome == Reason::Written => by,
                _ => None,
            },
        }
    }

    fn outcome(&self, session: &SessionAccount) -> Reason {
        if self.event.audience.excluded {
            return Reason::Excluded;
        }
        let matched = self.matches(session);
        let expired = |at: Timestamp| self.event.expires_at.is_some_and(|until| until <= at);
        match (matched, &session.standing) {
            (Match::Yes, Standing::Over) if self.was_left_behind(session) => Reason::SlowConsumer,
            (_, Standing::Over) => Reason::NotConnected,
            (Match::Elsewhere, _) if self.is_for_user() => Reason::NotListening,
            (Match::Elsewhere, _) => Reason::NotInAudience,
            (Match::Outside, _) => Reason::NotAMember,
            (Match::Deaf, _) => Reason::NotListening,
            (Match::Unsure, _) => Reason::NotRemembered,
            (Match::Yes, Standing::Fresh) => Reason::OpenedLater,
            // Nobody says so of what is for the moment.
            (Match::Yes, Standing::Had) if self.event.ephemeral => Reason::NotRemembered,
            (Match::Yes, Standing::Had) => Reason::HadAlready,
            (Match::Yes, Standing::Gap(_)) => Reason::Gap,
            (Match::Yes, Standing::Replayed { .. }) if self.event.ephemeral => Reason::NotConnected,
            (Match::Yes, Standing::Replayed { .. }) if expired(session.opened_at) => {
                Reason::Expired
            }
            (Match::Yes, Standing::Replayed { from_log: true }) => Reason::ReplayedFromLog,
            (Match::Yes, Standing::Replayed { from_log: false }) => Reason::ReplayedFromMemory,
            (Match::Yes, Standing::Coming) => Reason::OnItsWay,
            (Match::Yes, Standing::Queued) => Reason::Queued,
            (Match::Yes, Standing::Shed) => Reason::Shed,
            (Match::Yes, Standing::Unwritten) => match &session.ended {
                Some((_, reason)) if reason == "slow_consumer" => Reason::SlowConsumer,
                _ => Reason::EndedBefore,
            },
            (Match::Yes, Standing::Expired) => Reason::Expired,
            (Match::Yes, Standing::Written(_)) => Reason::Written,
            (Match::Yes, Standing::Unknown) => Reason::NotRemembered,
        }
    }

    /// Whether the event came after the stream's outbox was full, and before its connection was given up: to its
    /// client the stream was there.
    fn was_left_behind(&self, session: &SessionAccount) -> bool {
        match (&session.ended, self.event.at) {
            (Some((ended, reason)), Some(came)) => reason == "slow_consumer" && came <= *ended,
            _ => false,
        }
    }

    /// Whether the event is for the user by name, or for a chat that the user was in.
    fn is_for_user(&self) -> bool {
        let audience = &self.event.audience;
        let inside = self.stays.iter().any(|stay| stay.then == Some(true));
        let others = audience.channels.iter().any(|channel| !is_chat(channel));
        audience.everybody || audience.user || inside || others
    }

    /// Whether the event is for a session: by what that listened on, and where it was not there, by what the
    /// database says.
    fn matches(&self, session: &SessionAccount) -> Match {
        match &session.heard {
            Heard::There { reached: true, .. } => Match::Yes,
            Heard::There { reached: false, .. } => match self.by_database(session) {
                Match::Elsewhere => Match::Elsewhere,
                Match::Yes | Match::Unsure | Match::Deaf => Match::Deaf,
                Match::Outside => Match::Outside,
            },
            Heard::Forgotten => Match::Unsure,
            Heard::Absent => self.by_database(session),
        }
    }

    fn by_database(&self, session: &SessionAccount) -> Match {
        let audience = &self.event.audience;
        let listens_on = |channel: &Channel| self.listens_on(session, channel);
        let own = audience.user && listens_on(&Channel::user(self.user));
        let direct = |channel: &&Channel| !is_chat(channel) && listens_on(channel);
        if audience.everybody || own || audience.channels.iter().any(|channel| direct(&channel)) {
            return Match::Yes;
        }
        let stays = self.stays.iter();
        let followed = stays.filter(|stay| listens_on(&Channel::chat(&stay.chat_id)));
        let followed: Vec<Option<bool>> = followed.map(|stay| stay.then).collect();
        if followed.contains(&Some(true)) {
            Match::Yes
        } else if followed.contains(&None) {
            Match::Unsure
        } else if followed.is_empty() {
            Match::Elsewhere
        } else {
            Match::Outside
        }
    }

    /// Whether a session listens on a channel, as far as its client has asked for it.
    pub(super) fn listens_on(&self, session: &SessionAccount, channel: &Channel) -> bool {
        match &session.named {
            // The user's own stream has the user's channel and chats.
            None => is_chat(channel) || *channel == Channel::user(self.user),
            Some(named) => named.contains(channel),
        }
    }
}

fn is_chat(channel: &Channel) -> bool {
    *channel.resource() == Resource::Chat
}

#[cfg(test)]
mod tests;
