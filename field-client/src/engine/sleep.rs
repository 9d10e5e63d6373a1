//! Whether the device has slept.

use std::time::{Duration, Instant};
use tokio::time;

/// How often an engine with a connection looks, at least: a device that slept meanwhile notices so late at most.
pub(super) const LINK_LOOK_EVERY: Duration = Duration::from_secs(15);
/// A shorter sleep is shorter than what any address translator bears: it has ended no connection.
const SLEEP_MIN: Duration = Duration::from_secs(30);

/// Compares the clock that goes on while the device sleeps with the runtime's, which may not.
#[derive(Debug)]
pub(super) struct Sleep {
    steady: Instant,
    runtime: time::Instant,
}

impl Sleep {
    pub(super) fn new(steady: Instant, runtime: time::Instant) -> Self {
        Self { steady, runtime }
    }

    /// Whether the device has slept since this was asked last. Where both clocks are one nobody can know, and it has not.
    pub(super) fn has_ended(&mut self, steady: Instant, runtime: time::Instant) -> bool {
        let passed = steady.saturating_duration_since(self.steady);
        let awake = runtime.saturating_duration_since(self.runtime);
        *self = Self { steady, runtime };
        passed.saturating_sub(awake) >= SLEEP_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_what_one_clock_has_and_the_other_has_not() {
        let (steady, runtime) = (Instant::now(), time::Instant::now());
        let mut sleep = Sleep::new(steady, runtime);
        let mut look = |steady_s, runtime_s| {
            sleep.has_ended(
                steady + Duration::from_secs(steady_s),
                runtime + Duration::from_secs(runtime_s),
            )
        };
        assert!(!look(3_600, 3_600), "busy elsewhere");
        assert!(look(7_200, 3_610));
        assert!(!look(7_210, 3_620), "once");
        assert!(!look(7_249, 3_630), "too short for anybody to notice");
    }
}
