//! Durations by how long they were, for Prometheus. Counting takes no lock; where even an atomic is too
//! much, a thread counts for itself first ([`Observations`]) and hands over now and then.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The upper ends of the buckets, in microseconds. A server that is well stays in the first; the clocks
/// of two machines don't agree better than that.
const BOUNDS: [u64; 14] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];

/// One more, for what is longer than all bounds.
const BUCKETS: usize = BOUNDS.len() + 1;

/// How often each range of durations was seen, over all threads. A cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Histogram(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

/// What one thread has seen since it last handed over.
#[derive(Debug, Default)]
pub struct Observations {
    buckets: [u64; BUCKETS],
    micros: u64,
}

/// How many durations lay in a range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Bucket {
    /// Its upper end, in milliseconds; none for what is longer than all others.
    pub le_ms: Option<f64>,
    /// How many were behind the bucket before and not longer than this.
    pub count: u64,
}

impl Observations {
    /// Counts one duration.
    pub fn observe(&mut self, duration: Duration) {
        let (bucket, micros) = place(duration);
        self.buckets[bucket] += 1;
        self.micros = self.micros.saturating_add(micros);
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let (bucket, micros) = place(duration);
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was seen so far, the shortest first.
    #[must_use]
    pub fn buckets(&self) -> Vec<Bucket> {
        let ends = BOUNDS.iter().map(|micros| Some(seconds(*micros) * 1000.0));
        let counts = self.0.buckets.iter();
        ends.chain([None])
            .zip(counts)
            .map(|(le_ms, count)| Bucket {
                le_ms,
                count: count.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// Takes over what a thread has counted, and leaves it nothing.
    pub fn absorb(&self, observations: &mut Observations) {
        let Observations { buckets, micros } = std::mem::take(observations);
        for (shared, more) in self.0.buckets.iter().zip(buckets) {
            if more > 0 {
                shared.fetch_add(more, Ordering::Relaxed);
            }
        }
        self.0.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.0.buckets.each_ref().map(|n| n.load(Ordering::Relaxed));
        let ends = BOUNDS.iter().map(|micros| seconds(*micros));
        let ends = ends.chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = ends.zip(counts).collect();
        let sum = seconds(self.0.micros.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// In which bucket a duration counts, and how many microseconds it has.
fn place(duration: Duration) -> (usize, u64) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    (BOUNDS.partition_point(|bound| *bound < micros), micros)
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;

    fn sample(text: &str, name: &str) -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    }

    proptest! {
        #[test]
        fn each_bucket_has_what_is_not_longer(
            micros in proptest::collection::vec(0_u64..60_000_000, 0..200)
        ) {
            let histogram = Histogram::default();
            let mut own = Observations::default();
            for (index, micros) in micros.iter().enumerate() {
                let duration = Duration::from_micros(*micros);
                // By either way.
                if index % 2 == 0 {
                    histogram.observe(duration);
                } else {
                    own.observe(duration);
                }
            }
            histogram.absorb(&mut own);
            // Nothing is handed over twice.
            histogram.absorb(&mut own);
            let mut registry = Registry::default();
            registry.register("took_seconds", "Help", histogram);
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            for bound in BOUNDS {
                let expected = micros.iter().filter(|micros| **micros <= bound).count();
                let name = format!("took_seconds_bucket{{le=\"{:?}\"}}", seconds(bound));
                prop_assert_eq!(sample(&text, &name), expected as f64);
            }
            let all = micros.len() as f64;
            prop_assert_eq!(sample(&text, "took_seconds_bucket{le=\"+Inf\"}"), all);
            prop_assert_eq!(sample(&text, "took_seconds_count"), all);
            let sum = micros.iter().sum::<u64>() as f64 / 1e6;
            prop_assert!((sample(&text, "took_seconds_sum") - sum).abs() < 1e-6);
        }
    }
}
