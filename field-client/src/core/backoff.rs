//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// Exponential back-off with full jitter: each pause is drawn evenly from nothing to a bound that doubles, so that a
/// fleet that lost its server at one moment does not come back at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            failures: 0,
        }
    }

    /// The pause after one more failure; `random` evenly from all of `u64`.
    pub(crate) fn after_failure(&mut self, random: u64) -> Duration {
        let bound = self.base.saturating_mul(1 << self.failures.min(20)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(random as f64 / u64::MAX as f64)
    }

    /// The client is in step: the next pause is short again. A connection alone does not count: a server that accepts
    /// and then drops would be hammered.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_start_again_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        let longest: Vec<u128> = (0..9)
            .map(|_| backoff.after_failure(u64::MAX).as_millis())
            .collect();
        assert_eq!(
            longest,
            [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]
        );
        for _ in 0..1_000 {
            backoff.after_failure(0);
        }
        assert_eq!(backoff.after_failure(u64::MAX), Duration::from_secs(60));
        backoff.reset();
        assert_eq!(backoff.after_failure(u64::MAX / 2).as_millis(), 250);
        assert_eq!(backoff.after_failure(0), Duration::ZERO);
    }
}
