//! How long messages wait here: from when they were taken to when they are on their way to a receiver.
//!
//! Counted by bucket, so that a message costs an addition and nobody has to keep samples.

use std::time::Duration;

/// Upper bounds of the buckets in microseconds; what waits longer is in one more.
pub(crate) const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000,
    10_000_000,
];

/// The waits of all messages so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    /// By bucket; the last one has no upper bound.
    pub(crate) counts: [u64; BOUNDS_US.len() + 1],
    pub(crate) sum: Duration,
}

impl Waits {
    pub(crate) fn count(&mut self, wait: Duration) {
        let us = wait.as_micros();
        let bucket = BOUNDS_US.partition_point(|bound| u128::from(*bound) < us);
        self.counts[bucket] += 1;
        self.sum += wait;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_in_the_first_bucket_that_it_does_not_exceed() {
        let mut waits = Waits::default();
        for (us, bucket) in [
            (0, 0),
            (100, 0),
            (101, 1),
            (1_000, 3),
            (9_999_999, 13),
            (10_000_000, 13),
            (10_000_001, 14),
        ] {
            let before = waits.counts[bucket];
            waits.count(Duration::from_micros(us));
            assert_eq!(waits.counts[bucket], before + 1, "{us}");
        }
        assert_eq!(waits.counts.iter().sum::<u64>(), 7);
        assert_eq!(waits.sum, Duration::from_micros(30_001_201));
    }
}
