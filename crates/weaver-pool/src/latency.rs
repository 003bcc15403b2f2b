//! How long calls took, in buckets.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the buckets in microseconds, a factor of about two apart; the last bucket has
/// none.
const BOUNDS: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 25_000, 50_000, 100_000, 250_000,
    500_000, 1_000_000, 2_500_000, 5_000_000,
];

/// How long calls took, those that failed too, without the wait for a place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LatencyHistogram {
    /// Each bucket's upper bound, and the calls that took as long at most and longer than the
    /// bucket before; the last has [`Duration::MAX`].
    pub buckets: Vec<(Duration, u64)>,
    /// What all took together.
    pub sum: Duration,
}

impl LatencyHistogram {
    /// The number of calls.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

#[derive(Default)]
pub(crate) struct Latency {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// In nanoseconds: 584 years.
    sum: AtomicU64,
}

impl Latency {
    pub(crate) fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let at = BOUNDS.partition_point(|bound| bound.saturating_mul(1000) < nanos);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> LatencyHistogram {
        let bounds = BOUNDS.iter().map(|micros| Duration::from_micros(*micros));
        let counts = self
            .buckets
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        LatencyHistogram {
            buckets: bounds
                .chain(std::iter::once(Duration::MAX))
                .zip(counts)
                .collect(),
            sum: Duration::from_nanos(self.sum.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let latency = Latency::default();
        let took = [0, 50_000, 50_001, 5_000_000_000, 5_000_000_001];
        for nanos in took {
            latency.record(Duration::from_nanos(nanos));
        }
        let snapshot = latency.snapshot();
        let counts: Vec<u64> = snapshot.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!((counts[0], counts[1]), (2, 1));
        assert_eq!(counts[BOUNDS.len() - 1..], [1, 1]);
        assert_eq!(snapshot.count(), 5);
        assert_eq!(snapshot.sum, Duration::from_nanos(took.iter().sum()));
    }
}
