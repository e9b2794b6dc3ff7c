//! The recorded events that are on their way, and the spans that their ways become. Pure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::span::{Done, Kind, Parent, Value};
use crate::event::{Journey, Progress, Recipient, SpanId};

/// Recorded events that are on their way at a time; more are not recorded.
const MOST: usize = 2_048;

/// How long an event may be on its way before its spans are made all the same: somebody reads slowly.
const PATIENCE: Duration = Duration::from_secs(10);

/// A recorded event that has come.
#[derive(Debug)]
pub struct Arrived {
    /// Its way.
    pub journey: Arc<Journey>,
    /// The span that it follows from.
    pub parent: Parent,
    /// Where it was published, as the pattern that is listened on: the subject itself may name people.
    pub destination: String,
    /// What carries messages.
    pub system: &'static str,
    /// The length of its payload, in bytes.
    pub bytes: usize,
    /// Its id on streams, if it has one.
    pub event: Option<String>,
    /// Its outgoing type; or why it is no event, from a closed list.
    pub kind: Result<String, &'static str>,
}

/// Those that are on their way, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Journeys(VecDeque<Arrived>);

impl Journeys {
    /// Adds one, unless there are too many.
    pub(super) fn add(&mut self, arrived: Arrived) -> Result<(), ()> {
        if self.0.len() >= MOST {
            return Err(());
        }
        self.0.push_back(arrived);
        Ok(())
    }

    /// Takes out those that are over, or have taken too long; all of them where this is the `end`.
    pub(super) fn take(&mut self, now: Instant, end: bool) -> Vec<Arrived> {
        let mut over = Vec::new();
        let mut left = VecDeque::with_capacity(self.0.len());
        for arrived in self.0.drain(..) {
            let late = now.saturating_duration_since(arrived.journey.began().1) >= PATIENCE;
            // What was rejected goes nowhere.
            if end || late || arrived.kind.is_err() || arrived.journey.is_over() {
                over.push(arrived);
            } else {
                left.push_back(arrived);
            }
        }
        self.0 = left;
        over
    }
}

impl Arrived {
    /// The spans of its way.
    pub(super) fn spans(self) -> Vec<Done> {
        let progress = self.journey.progress();
        let mut spans = vec![self.whole(&progress)];
        let decoded = progress.decoded.unwrap_or_default();
        spans.push(self.step("decode", Duration::ZERO, decoded, Vec::new()));
        if let Some(routed) = progress.routed {
            let numbers = vec![
                ("notify.sessions.queued", Value::from(progress.queued)),
                ("notify.sessions.shed", progress.shed.into()),
                ("notify.sessions.overflowed", progress.overflowed.into()),
            ];
            spans.push(self.step("route", decoded, routed, numbers));
        }
        if let Some((first, last)) = progress.written {
            let missing = progress.queued.saturating_sub(progress.sessions);
            let numbers = vec![
                ("notify.sessions.written", Value::from(progress.sessions)),
                ("notify.sessions.unwritten", missing.into()),
            ];
            // Connections write while other threads still route.
            let since = progress.routed.map_or(first, |routed| routed.min(first));
            let write = self.step("write", since, last, numbers);
            let recipients = self.journey.recipients();
            let each = recipients
                .iter()
                .map(|one| self.recipient(&write, since, one));
            let each: Vec<Done> = each.collect();
            spans.push(write);
            spans.extend(each);
        }
        spans
    }

    fn whole(&self, progress: &Progress) -> Done {
        let last = progress.written.map(|(_, last)| last);
        let ends = [progress.decoded, progress.routed, last];
        let ended = ends.into_iter().flatten().max().unwrap_or_default();
        let mut attributes = vec![
            ("messaging.system", Value::from(self.system)),
            ("messaging.operation.name", "process".into()),
            ("messaging.operation.type", "process".into()),
            (
                "messaging.destination.template",
                self.destination.as_str().into(),
            ),
            ("messaging.message.body.size", self.bytes.into()),
        ];
        if let Some(event) = &self.event {
            attributes.push(("notify.event.id", event.as_str().into()));
        }
        if let Ok(kind) = &self.kind {
            attributes.push(("notify.event.type", kind.as_str().into()));
        }
        let (at, _) = self.journey.began();
        Done {
            context: self.journey.context.clone(),
            parent: self.parent,
            kind: Kind::Consumer,
            name: format!("process {}", self.destination),
            began: at,
            ended: at + ended,
            attributes,
            error: self.kind.as_ref().err().map(|reason| (*reason).to_owned()),
        }
    }

    fn step(
        &self,
        name: &str,
        from: Duration,
        to: Duration,
        attributes: Vec<(&'static str, Value)>,
    ) -> Done {
        let (at, _) = self.journey.began();
        let own = &self.journey.context;
        Done {
            context: own.at(SpanId(rand::rng().random())),
            parent: Parent::Local(own.span()),
            kind: Kind::Internal,
            name: name.to_owned(),
            began: at + from,
            ended: at + to.max(from),
            attributes,
            error: None,
        }
    }

    /// A session's connection, and not its user: the log has that under the connection's name.
    fn recipient(&self, write: &Done, from: Duration, recipient: &Recipient) -> Done {
        let connection = recipient.connection.simple().to_string();
        let numbers = vec![("notify.connection.id", Value::from(connection))];
        Done {
            parent: Parent::Local(write.context.span()),
            ..self.step("write to session", from, recipient.after, numbers)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{TraceContext, TraceId};
    use std::time::SystemTime;
    use uuid::Uuid;

    fn arrived(recipients: usize) -> Arrived {
        let context = TraceContext::root(TraceId([1; 16]), SpanId([2; 8]), true);
        Arrived {
            journey: Arc::new(Journey::begin(
                context,
                recipients,
                (SystemTime::now(), Instant::now()),
            )),
            parent: Parent::Remote(SpanId([3; 8])),
            destination: "fechatter.realtime.>".to_owned(),
            system: "nats",
            bytes: 10,
            event: None,
            kind: Ok("new_message".to_owned()),
        }
    }

    #[test]
    fn a_way_that_is_over_becomes_spans() {
        let one = arrived(1);
        let journey = Arc::clone(&one.journey);
        let mut journeys = Journeys::default();
        journeys.add(one).unwrap();
        let now = journey.began().1;
        assert!(journeys.take(now, false).is_empty());
        journey.decoded(now);
        journey.goes_to(1);
        journey.routed(2, 0, 0, now);
        journey.written(Uuid::nil(), now);
        journey.written(Uuid::nil(), now);
        let spans = journeys.take(now, false).pop().unwrap().spans();
        let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        let whole = "process fechatter.realtime.>";
        assert_eq!(
            names,
            [whole, "decode", "route", "write", "write to session"]
        );
        let own = Parent::Local(journey.context.span());
        assert!(spans[1..4].iter().all(|span| span.parent == own));
        assert_eq!(spans[4].parent, Parent::Local(spans[3].context.span()));
        assert!(
            spans
                .iter()
                .all(|span| span.ended >= span.began && span.ended <= spans[0].ended)
        );
    }

    #[test]
    fn nobody_is_waited_for_for_ever_and_too_many_are_not_followed() {
        let mut journeys = Journeys::default();
        let mut added = 0;
        while journeys.add(arrived(0)).is_ok() {
            added += 1;
        }
        assert_eq!(added, MOST);
        let now = Instant::now();
        assert!(journeys.take(now, false).is_empty());
        assert_eq!(journeys.take(now + PATIENCE, false).len(), MOST);
        journeys.add(arrived(0)).unwrap();
        assert_eq!(journeys.take(now, true).len(), 1);
    }
}
