//! Traces: which requests and events are recorded, and their spans on the way to a collector.
//!
//! Whoever publishes decides by the `traceparent` of a message or request whether it is recorded; where
//! nobody has decided, the configured part is. A span that is over goes into a bounded queue, from which
//! one task sends batches. When the queue is full, or the collector can't be reached, spans are dropped and
//! counted: nobody ever waits for them. Without a collector nothing of this exists but a branch.
//!
//! An event is not followed by a span in the making but by a [`Journey`], numbers that the threads which route
//! and write it add to. When it is over, its spans are made from them, off the way of events.

mod config;
mod export;
mod journeys;
mod metrics;
mod span;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use rand::Rng as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use config::{Protocol, TracingConfig, TracingError};
pub use export::ExportTask;
pub use journeys::Arrived;
pub use metrics::Metrics;
pub use span::{Kind, Parent, Span, Value};

use crate::event::{Journey, SpanId, TraceContext, TraceId};
use journeys::Journeys;
use metrics::Drop as Dropped;
use span::Done;

/// Records what is to be recorded. Cheap to clone; one that is off costs a branch.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    /// A trace whose id, as far as it is taken for a number, is below this is recorded.
    threshold: u64,
    /// The most recipients of an event that have spans.
    recipients: usize,
    spans: mpsc::Sender<Done>,
    journeys: Mutex<Journeys>,
    metrics: Metrics,
    closing: CancellationToken,
    closed: CancellationToken,
}

/// Where something stands in a trace, and whether that is recorded.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its own span.
    pub context: TraceContext,
    /// The span that it follows from.
    pub parent: Parent,
}

impl Tracer {
    /// One that is on where a collector is configured, and then the task that sends spans, which must run.
    /// `instance` is what this instance is called, `machine` where it runs.
    ///
    /// # Errors
    /// The configuration is not usable.
    pub fn new(
        config: &TracingConfig,
        instance: &str,
        machine: &str,
        metrics: Metrics,
    ) -> Result<(Self, Option<ExportTask>), TracingError> {
        let Some(address) = config.address()? else {
            return Ok((Self(None), None));
        };
        let (sender, spans) = mpsc::channel(config.queue);
        let tracer = Self(Some(Arc::new(Inner {
            threshold: threshold(config.sample_ratio),
            recipients: if config.per_recipient {
                config.max_recipients
            } else {
                0
            },
            spans: sender,
            journeys: Mutex::default(),
            metrics: metrics.clone(),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
        })));
        let task = ExportTask::new(tracer.clone(), config, address, instance, machine, spans)?;
        Ok((tracer, Some(task)))
    }

    /// Whether anything is recorded at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Finds the place of something that follows from `parent`, which is of another process, or from
    /// nothing. `None` where nothing is recorded at all.
    #[must_use]
    pub fn place(&self, parent: Option<&TraceContext>) -> Option<Place> {
        let inner = self.0.as_ref()?;
        let span = SpanId(id());
        Some(match parent {
            Some(parent) => Place {
                context: parent.at(span),
                parent: Parent::Remote(parent.span()),
            },
            None => {
                let trace = TraceId(id());
                let sampled = inner.samples(trace);
                Place {
                    context: TraceContext::root(trace, span, sampled),
                    parent: Parent::None,
                }
            }
        })
    }

    /// The same for what follows from something in this process.
    #[must_use]
    pub fn place_within(&self, parent: Option<&TraceContext>) -> Option<Place> {
        let place = self.place(parent)?;
        Some(Place {
            parent: match place.parent {
                Parent::Remote(span) => Parent::Local(span),
                other => other,
            },
            ..place
        })
    }

    /// Begins a span at its place; `None` where that is not recorded.
    #[must_use]
    pub fn span(&self, place: &Place, kind: Kind, name: impl FnOnce() -> String) -> Option<Span> {
        let recorded = self.is_on() && place.context.is_sampled();
        recorded.then(|| {
            let context = place.context.clone();
            Span::begin(self.clone(), context, place.parent, kind, name())
        })
    }

    /// The way of an event that has just come begins; `None` where it is not recorded, which costs a
    /// branch where the publisher has said so, or nothing is recorded at all.
    #[must_use]
    pub fn journey(&self, parent: Option<&TraceContext>) -> Option<(Arc<Journey>, Parent)> {
        let inner = self.0.as_ref()?;
        if parent.is_some_and(|parent| !parent.is_sampled())
            || (parent.is_none() && inner.threshold == 0)
        {
            return None;
        }
        let place = self.place(parent)?;
        let recorded = place.context.is_sampled();
        recorded.then(|| {
            let now = (SystemTime::now(), Instant::now());
            let journey = Journey::begin(place.context, inner.recipients, now);
            (Arc::new(journey), place.parent)
        })
    }

    /// An event is on its way. Its spans are made when that is over.
    pub fn follow(&self, arrived: Arrived) {
        if let Some(inner) = &self.0
            && inner.journeys.lock().add(arrived).is_err()
        {
            // It would have had one span at least.
            inner.metrics.dropped(Dropped::Queue, 1);
        }
    }

    /// Sends what waits, for at most so long.
    pub async fn close(&self, within: Duration) {
        if let Some(inner) = &self.0 {
            inner.closing.cancel();
            // What is not sent by then is lost, as it would be if the collector were away.
            let _ = tokio::time::timeout(within, inner.closed.cancelled()).await;
        }
    }

    fn send(&self, span: Done) {
        if let Some(inner) = &self.0
            && inner.spans.try_send(span).is_err()
        {
            inner.metrics.dropped(Dropped::Queue, 1);
        }
    }
}

impl Inner {
    /// By the trace's id, so that services that draw at the same ratio draw the same traces.
    fn samples(&self, TraceId(id): TraceId) -> bool {
        let mut low = [0; 8];
        low.copy_from_slice(&id[8..]);
        (u64::from_be_bytes(low) >> 1) < self.threshold
    }
}

/// Half of the numbers, as the other samplers by ratio have it.
fn threshold(ratio: f64) -> u64 {
    // A float beyond the range saturates.
    (ratio.clamp(0.0, 1.0) * (1u64 << 63) as f64) as u64
}

/// Something random that is not all zeros.
fn id<const N: usize>() -> [u8; N] {
    let mut id = [0; N];
    while id == [0; N] {
        rand::rng().fill(&mut id[..]);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretUrl;

    fn tracer(sample_ratio: f64) -> Tracer {
        let config = TracingConfig {
            endpoint: Some(SecretUrl::new("http://127.0.0.1:4318")),
            sample_ratio,
            ..TracingConfig::default()
        };
        Tracer::new(&config, "a", "m", Metrics::default())
            .unwrap()
            .0
    }

    #[test]
    fn who_publishes_decides() {
        let sampled = TraceContext::root(TraceId([1; 16]), SpanId([2; 8]), true);
        let unsampled = TraceContext::root(TraceId([1; 16]), SpanId([2; 8]), false);
        for ratio in [0.0, 1.0] {
            let tracer = tracer(ratio);
            assert!(tracer.journey(Some(&unsampled)).is_none());
            let (journey, parent) = tracer.journey(Some(&sampled)).unwrap();
            assert_eq!(journey.context.trace(), sampled.trace());
            assert_ne!(journey.context.span(), sampled.span());
            assert_eq!(parent, Parent::Remote(sampled.span()));
        }
    }

    #[test]
    fn of_the_rest_a_part_is_recorded() {
        assert!(Tracer::default().journey(None).is_none());
        assert!(tracer(0.0).journey(None).is_none());
        assert!(tracer(1.0).journey(None).is_some());
        let half = tracer(0.5);
        let drawn = (0..2_000).filter(|_| half.journey(None).is_some()).count();
        // Twenty standard deviations.
        assert!((550..1_450).contains(&drawn), "{drawn}");
        let place = tracer(0.0).place(None).unwrap();
        assert!(
            !place.context.is_sampled(),
            "the decision is told to others"
        );
    }
}
