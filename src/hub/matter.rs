//! How a session stands to an event, and what it listened on of the event's audience: from positions, outboxes and
//! what a shard remembers. Pure.

use std::sync::Arc;
use std::time::Instant;

use super::Delivery;
use super::account::{Heard, MOST_HEARD, Standing, wall};
use super::listening::{Hearers, Moment, Seats};
use super::recent::Trail;
use super::witness::{CameBack, Gone, Start, Who, Witness};
use crate::event::{Event, EventId, Frame, Timestamp, UserId};

/// An event that a shard is asked about.
#[derive(Debug)]
pub(super) struct Matter {
    pub(super) user: UserId,
    pub(super) id: Option<EventId>,
    pub(super) event: Option<Arc<Event>>,
    pub(super) trail: Option<Arc<Trail>>,
    /// The place in the log is one that was lost on the way here.
    pub(super) gap: Option<&'static str>,
    /// Whom it is for, where that is known.
    pub(super) hearers: Option<Hearers>,
    /// Whether it is for the moment only, as far as is known, …
    pub(super) ephemeral: bool,
    /// … and when its time to live ends.
    pub(super) expires_at: Option<Timestamp>,
}

/// A session, open or not, as far as it matters here.
pub(super) struct Subject<'a> {
    pub(super) who: Who,
    pub(super) start: &'a Start,
    pub(super) seats: Seats,
    pub(super) after_unlogged: u64,
    /// Since when it is over, at which position, and from which one on it was not written what waited.
    pub(super) over: Option<(Instant, u64, Option<u64>)>,
}

/// Where an event lies in the life of a session.
enum Stretch<'a> {
    /// It was not there.
    Without(Standing),
    /// It came before it was live, at this position, and was replayed, if it is for it.
    Replay {
        from_log: bool,
        comeback: &'a CameBack,
        position: u64,
    },
    /// It came while it was live.
    Live(Moment),
    /// It is yet to come, at this position.
    Ahead(u64),
}

impl<'a> Subject<'a> {
    pub(super) fn of(gone: &'a Gone, hearers: Option<&Hearers>) -> Self {
        let hearers = hearers.zip(gone.on.as_deref());
        Self {
            who: gone.who,
            start: &gone.start,
            seats: Seats {
                on: hearers.map(|(hearers, on)| hearers.among_hashes(on)),
                turns: gone.turns,
                named: gone.named.is_some(),
            },
            after_unlogged: gone.after_unlogged,
            over: Some((gone.ended, gone.head.position(), gone.unwritten)),
        }
    }
}

impl Matter {
    /// How a session stands to the event, supposing that it is for the session. `head` is the shard's;
    /// `waits` says whether a frame is still in its outbox.
    pub(super) fn standing(
        &self,
        session: &Subject<'_>,
        head: EventId,
        waits: impl Fn(&dyn Fn(&Frame) -> bool) -> bool,
        witness: &Witness,
        now: Instant,
    ) -> Standing {
        let came = self.trail.as_ref().map(|trail| trail.came);
        match self.stretch(session, head) {
            Stretch::Without(standing) => return standing,
            Stretch::Ahead(_) => return Standing::Coming,
            Stretch::Replay {
                from_log, position, ..
            } => {
                return match session.over {
                    Some((.., Some(from))) if position >= from => Standing::Unwritten,
                    None if waits(&|frame| self.is(frame)) => Standing::Queued,
                    _ => Standing::Replayed { from_log },
                };
            }
            Stretch::Live(_) => {}
        }
        if let (None, Some(reason)) = (&self.trail, self.gap) {
            return Standing::Gap(reason.to_owned());
        }
        if let (Some((ended, ..)), Some(came)) = (session.over, came)
            && came > ended
        {
            return Standing::Over;
        }
        if session.over.is_none() && waits(&|frame| self.is(frame)) {
            return Standing::Queued;
        }
        let frame = self.event.as_ref().map(|event| &event.frame);
        let shed = |frame| came.is_some_and(|came| witness.was_shed(session.who, frame, came));
        if frame.is_some_and(shed) {
            return Standing::Shed;
        }
        if let Some((.., Some(from))) = session.over
            && self.id.is_none_or(|id| id.position() >= from)
        {
            return Standing::Unwritten;
        }
        self.written(session, witness, now)
    }

    /// What a session listened on of the audience.
    pub(super) fn heard(&self, session: &Subject<'_>, head: EventId, witness: &Witness) -> Heard {
        let Some(hearers) = &self.hearers else {
            return Heard::Absent;
        };
        let (who, seats) = (session.who, &session.seats);
        let at = |moment| witness.turns.at(who, seats, hearers, moment);
        let on = match self.stretch(session, head) {
            Stretch::Without(_) => return Heard::Absent,
            Stretch::Live(moment) => at(moment),
            Stretch::Ahead(position) => at(Moment::Position(position)),
            Stretch::Replay {
                comeback, position, ..
            } => {
                let up_to = session.start.live_from;
                let turns = &witness.turns;
                turns.in_replay(who, seats, hearers, (comeback, up_to), position)
            }
        };
        let (on, reached) = match (on, hearers.everybody) {
            (_, true) => (Vec::new(), true),
            (None, false) => return Heard::Forgotten,
            (Some(on), false) => {
                let reached = !on.is_empty();
                (on, reached)
            }
        };
        let channels = on.into_iter().take(MOST_HEARD);
        let channels = channels.filter_map(|place| hearers.channel(place).cloned());
        Heard::There {
            reached,
            channels: channels.collect(),
        }
    }

    fn stretch<'a>(&self, session: &Subject<'a>, head: EventId) -> Stretch<'a> {
        match (self.place(head), self.number()) {
            // It had it before its place in the log was known.
            (_, Some(number)) if session.after_unlogged < number => {
                Stretch::Live(Moment::Number(number))
            }
            (Some(position), _) => match before(session.start, position) {
                Some(stretch) => stretch,
                None if session.over.is_some_and(|(_, head, _)| position > head) => {
                    Stretch::Without(Standing::Over)
                }
                None if position > head.position() => Stretch::Ahead(position),
                None => Stretch::Live(Moment::Position(position)),
            },
            (None, Some(_)) => Stretch::Without(Standing::Fresh),
            (None, None) => Stretch::Without(Standing::Unknown),
        }
    }

    fn written(&self, session: &Subject<'_>, witness: &Witness, now: Instant) -> Standing {
        let came = self.trail.as_ref().map(|trail| trail.came);
        let drained = came.and_then(|came| witness.drained_after(session.who, came));
        let by = drained.map(|at| wall(at, now));
        match (self.expires_at, by) {
            (Some(expires), Some(by)) if by >= expires => Standing::Expired,
            // Nobody saw when, and it may have been too late.
            (Some(_), None) => Standing::Unknown,
            // What was shed of it is not remembered for ever.
            (None, None) if self.trail.is_none() && self.ephemeral => Standing::Unknown,
            _ => Standing::Written(by),
        }
    }

    /// The event's position in the log that the shard follows.
    fn place(&self, head: EventId) -> Option<u64> {
        let id = self.id.filter(|id| id.epoch() == head.epoch())?;
        Some(id.position())
    }

    /// The number under which it came without a position.
    fn number(&self) -> Option<u64> {
        match self.trail.as_ref()?.delivery {
            Delivery::Live => None,
            Delivery::Unlogged(number) | Delivery::Late(number) => Some(number),
        }
    }

    fn is(&self, frame: &Frame) -> bool {
        let same = |event: &Arc<Event>| event.frame.is(frame);
        let id = || self.id.map(|id| id.to_string());
        self.event.as_ref().is_some_and(same)
            || (frame.is_event() && frame.id().is_some() && frame.id() == id().as_deref())
    }
}

/// Where an event lies that came before a session was live; `None` for one that came later.
fn before(start: &Start, position: u64) -> Option<Stretch<'_>> {
    let Some(comeback) = start.comeback.as_deref() else {
        let fresh = position <= start.live_from;
        return fresh.then_some(Stretch::Without(Standing::Fresh));
    };
    // A client can be ahead of its new shard.
    if position > comeback.from {
        return (position <= start.live_from).then_some(Stretch::Replay {
            from_log: position <= comeback.log_up_to,
            comeback,
            position,
        });
    }
    let missed = comeback.gap.filter(|gap| {
        let from = gap.from.map_or(0, |id| id.position());
        // Of a gap between two logs, the first position means nothing in the second.
        let comparable = gap.from.map(|id| id.epoch()) == gap.to.map(|id| id.epoch());
        !comparable || position > from
    });
    Some(Stretch::Without(match missed {
        Some(gap) => Standing::Gap(gap.reason.as_str().to_owned()),
        None => Standing::Had,
    }))
}

#[cfg(test)]
mod tests;
