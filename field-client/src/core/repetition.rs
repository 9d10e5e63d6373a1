//! When what was sent and not answered is sent again.

use std::time::Duration;

/// No repetition comes sooner, however short the round trip.
const INTERVAL_MIN: Duration = Duration::from_secs(10);
/// No repetition waits longer, however often it failed.
const INTERVAL_MAX: Duration = Duration::from_secs(300);

/// The adaptive repetition timer: three round trips, at least 10 s, doubling to 5 min without an answer.
#[derive(Debug, Clone)]
pub(crate) struct Repetition {
    smoothed_rtt: Option<Duration>,
    doublings: u32,
}

impl Repetition {
    pub(crate) fn new() -> Self {
        Self {
            smoothed_rtt: None,
            doublings: 0,
        }
    }

    /// After how long without an answer the next repetition is due.
    pub(crate) fn interval(&self) -> Duration {
        let base = self
            .smoothed_rtt
            .unwrap_or_default()
            .saturating_mul(3)
            .max(INTERVAL_MIN);
        base.saturating_mul(1 << self.doublings.min(6)).min(INTERVAL_MAX)
    }

    /// A round trip of something that had been sent once only (an answer to a repetition may belong to either).
    pub(crate) fn measured(&mut self, rtt: Duration) {
        self.smoothed_rtt = Some(match self.smoothed_rtt {
            None => rtt,
            Some(smoothed) => (smoothed * 7 + rtt) / 8,
        });
    }

    /// Something was answered.
    pub(crate) fn progress(&mut self) {
        self.doublings = 0;
    }

    /// A repetition went out.
    pub(crate) fn expired(&mut self) {
        self.doublings = self.doublings.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_follows_the_round_trip_doubles_and_is_reset_by_progress() {
        let mut timer = Repetition::new();
        assert_eq!(timer.interval().as_secs(), 10);
        timer.measured(Duration::from_secs(8));
        assert_eq!(timer.interval().as_secs(), 24);
        let doubled: Vec<u64> = (0..6)
            .map(|_| {
                timer.expired();
                timer.interval().as_secs()
            })
            .collect();
        assert_eq!(doubled, [48, 96, 192, 300, 300, 300]);
        timer.progress();
        assert_eq!(timer.interval().as_secs(), 24);
    }
}
