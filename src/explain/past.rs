//! An event that no instance remembers: what the log has at its place, what was rejected, and what can be said
//! where neither tells.

use super::Explainer;
use super::answer::Reason;
use super::hints;
use crate::bus::{Extent, LogReader, Logged};
use crate::event::decode::{Rejection, decode};
use crate::event::{Event, EventId, UserId};
use crate::hub::{Account, Known};
use crate::peers::Gathered;
use crate::rejections::Rejected;

/// What was found of an event that nobody remembers.
pub(super) enum Found {
    /// The log has it.
    Event(Box<Known>),
    /// There is an answer already.
    Answer(Box<Without>),
}

/// An answer about what is no event, or not known.
pub(super) struct Without {
    pub(super) reason: Reason,
    pub(super) hints: Vec<String>,
    pub(super) rejection: Option<Rejected>,
    /// Whether it counts more than what is remembered of the event.
    firm: bool,
}

impl From<Reason> for Without {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            hints: Vec::new(),
            rejection: None,
            firm: false,
        }
    }
}

impl Found {
    fn of(without: impl Into<Without>) -> Self {
        Self::Answer(Box::new(without.into()))
    }
}

impl Explainer {
    /// Looks for an event that is asked for by `event`, and known to the bus as `name`, in the log; `known` is
    /// what is remembered of it.
    pub(super) async fn look_up(
        &self,
        (event, name): (&str, &str),
        user: &UserId,
        gathered: &Gathered<Account>,
        known: Option<Known>,
    ) -> Found {
        match self
            .in_the_log((event, name), user, gathered, known.is_some())
            .await
        {
            // What is remembered of it says more than that the log does not have it.
            Found::Answer(without) if !without.firm => match known {
                Some(known) => Found::Event(Box::new(known)),
                None => Found::Answer(without),
            },
            found => found,
        }
    }

    async fn in_the_log(
        &self,
        (event, name): (&str, &str),
        user: &UserId,
        gathered: &Gathered<Account>,
        is_known: bool,
    ) -> Found {
        let mut accounts = gathered.replies.values();
        if !is_known && accounts.any(|account| account.contradicted) {
            return Found::of(Reason::OtherEvent);
        }
        let rejections = &self.0.rejections;
        let rejected = rejections.find(name).or_else(|| rejections.find(event));
        if let (false, Some(rejected)) = (is_known, rejected) {
            return Found::of(rejected);
        }
        let Ok(id) = name.parse::<EventId>() else {
            return Found::of(self.not_found(gathered).await);
        };
        let Some(log) = self.0.bus.log() else {
            return Found::of(self.lost(id, gathered));
        };
        let Ok(extent) = log.extent().await else {
            return Found::of(Reason::NotRemembered.because(hints::LOG_IS_SILENT.to_owned()));
        };
        if extent.epoch != id.epoch() {
            return Found::of(Reason::OtherEvent);
        }
        if id.position() > extent.last {
            return Found::of(Reason::UnknownEvent);
        }
        if id.position() < extent.first {
            let reaches = hints::log_reaches(&self.reach(log, extent).await);
            return Found::of(Reason::NotRemembered.because(reaches));
        }
        let read = log.read(id.epoch(), id.position(), id.position()).await;
        match read.map(|batch| batch.messages.into_iter().next()) {
            Err(_) => Found::of(Reason::NotRemembered.because(hints::LOG_IS_SILENT.to_owned())),
            Ok(None) => Found::of(Reason::UnknownEvent),
            Ok(Some(logged)) if logged.id.contradicts(id) => Found::of(Without {
                firm: true,
                ..Reason::OtherEvent.into()
            }),
            Ok(Some(logged)) => self.read(logged, user),
        }
    }

    fn read(&self, logged: Logged, user: &UserId) -> Found {
        let Logged {
            id,
            subject,
            payload,
            at,
            ..
        } = &logged;
        match decode(&self.0.rules, subject, payload, *at) {
            Ok(decoded) => {
                let event = Event::new(Some(*id), decoded);
                Found::Event(Box::new(Known::of(&event, user, Some(*at))))
            }
            Err(rejection) => Found::of(rejected(&rejection, &logged)),
        }
    }

    /// Nobody knows an event of this name, which its publisher gave it: it may never have been, or it was
    /// before what is remembered.
    async fn not_found(&self, gathered: &Gathered<Account>) -> Without {
        let accounts = gathered.replies.values().filter(|account| account.enabled);
        let since = accounts.map(|account| account.events_since).max();
        let mut hints = vec![hints::publishers_id(since)];
        if let Some(log) = self.0.bus.log()
            && let Ok(extent) = log.extent().await
        {
            hints.push(hints::log_reaches(&self.reach(log, extent).await));
        }
        Without {
            hints,
            ..Reason::NotRemembered.into()
        }
    }

    /// Without a log that all share, what an instance does not remember is lost, or never was.
    fn lost(&self, id: EventId, gathered: &Gathered<Account>) -> Reason {
        let mut accounts = gathered.replies.values();
        let head = self.0.hub.reach().head;
        let is_yet_to_come = id.epoch() == head.epoch() && id.position() > head.position();
        if accounts.any(|account| account.gap.is_some()) {
            Reason::Gap
        } else if is_yet_to_come && gathered.missing.is_empty() {
            Reason::UnknownEvent
        } else {
            Reason::NotRemembered
        }
    }

    /// From where to where the log reaches, and since when.
    async fn reach(&self, log: &LogReader, extent: Extent) -> hints::Reach {
        let Extent { epoch, first, last } = extent;
        let read = match first <= last {
            true => log.read(epoch, first, first).await.ok(),
            false => None,
        };
        let oldest = read.and_then(|batch| batch.messages.into_iter().next());
        hints::Reach {
            first: EventId::unknown(epoch, first),
            last: EventId::unknown(epoch, last),
            since: oldest.map(|logged| logged.at),
        }
    }
}

impl Reason {
    fn because(self, hint: String) -> Without {
        Without {
            hints: vec![hint],
            ..self.into()
        }
    }
}

impl From<Rejected> for Without {
    fn from(rejected: Rejected) -> Self {
        Self {
            rejection: Some(rejected),
            firm: true,
            ..Reason::Rejected.into()
        }
    }
}

fn rejected(rejection: &Rejection, logged: &Logged) -> Rejected {
    Rejected::new(
        rejection,
        Some(logged.id),
        &logged.subject,
        &logged.payload,
        logged.at,
    )
}
