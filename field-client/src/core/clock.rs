//! Time as the core knows it: given in, never read.

use std::time::{Duration, Instant};

/// The present, by both clocks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Never jumps: what deadlines and ages count by.
    pub(crate) mono: Instant,
    /// UTC milliseconds by a clock that may be days off: data for messages.
    pub(crate) wall_ms: i64,
}

/// When something was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// `None` for what was done before this process began.
    mono: Option<Instant>,
    /// UTC milliseconds by the device's clock at that moment.
    pub(crate) wall_ms: i64,
}

impl From<Now> for Moment {
    fn from(now: Now) -> Self {
        Self {
            mono: Some(now.mono),
            wall_ms: now.wall_ms,
        }
    }
}

impl Moment {
    /// A moment of an earlier process.
    pub(crate) fn stored(wall_ms: i64) -> Self {
        Self { mono: None, wall_ms }
    }

    /// Whole seconds from the moment to now, to the nearest, so that what is sent at once has the age 0 that costs
    /// no byte. The wall clock counts only where the monotonic one cannot; it never makes an age negative.
    pub(crate) fn age_s(self, now: Now) -> u32 {
        let age = match self.mono {
            Some(mono) => now.mono.saturating_duration_since(mono),
            None => {
                Duration::from_millis(u64::try_from(now.wall_ms.saturating_sub(self.wall_ms)).unwrap_or(0))
            }
        };
        nearest_second(age)
    }
}

/// Whole seconds, to the nearest, at most 2^32 - 1.
pub(crate) fn nearest_second(duration: Duration) -> u32 {
    u32::try_from(duration.saturating_add(Duration::from_millis(500)).as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_wall_clock_changes_no_age_within_one_process() {
        let start = crate::engine::now().mono;
        let then = Now {
            mono: start,
            wall_ms: 1_000_000,
        };
        let jumped = Now {
            mono: start + Duration::from_secs(7),
            wall_ms: -5_000_000,
        };
        assert_eq!(Moment::from(then).age_s(jumped), 7);
        assert_eq!(Moment::stored(1_000_000).age_s(jumped), 0);
        assert_eq!(Moment::stored(-5_004_600).age_s(jumped), 5);
    }
}
