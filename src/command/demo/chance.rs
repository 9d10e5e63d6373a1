//! Chance for a demo: a small generator with a seed. Nothing secret may come from it.

use std::ops::Range;
use std::time::Duration;

/// SplitMix64: good enough to look at.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A time in `range`, which is in seconds and not empty.
    pub(super) fn seconds(&mut self, range: Range<u64>) -> Duration {
        let (from, length) = (range.start * 1_000, (range.end - range.start) * 1_000);
        Duration::from_millis(from + self.next() % length)
    }

    /// One of several; there has to be one.
    pub(super) fn one_of<T: Copy>(&mut self, several: &[T]) -> T {
        let index = usize::try_from(self.next() % several.len() as u64).unwrap_or(0);
        several[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stay_in_their_range_and_fill_it() {
        let mut chance = Chance::new(1);
        let times: Vec<Duration> = (0..1_000).map(|_| chance.seconds(5..40)).collect();
        assert!(times.iter().all(|time| (5..40).contains(&time.as_secs())));
        assert!(times.iter().any(|time| time.as_secs() < 7) && times.iter().any(|time| time.as_secs() > 37));
    }
}
