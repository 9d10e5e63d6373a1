//! Time as the core knows it: given in, never read.

use std::time::{Duration, Instant};

/// The present, by both clocks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Never jumps, and goes on while the device sleeps: what deadlines and ages count by.
    pub(crate) mono: Instant,
    /// UTC milliseconds by a clock that may be days off: data for messages.
    pub(crate) wall_ms: i64,
}

/// Names a run of the steady clock, from one start of the device to the next. Readings of two boots have nothing to do with
/// each other. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boot(u32);

impl Boot {
    /// The boot with this random or digested number.
    pub(crate) fn new(number: u32) -> Self {
        Self(number.max(1))
    }

    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

/// What the steady clock shows: comparable with every reading of the same boot, whichever process took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reading {
    /// The number of the [`Boot`]; 0 where none was taken.
    pub(crate) boot: u32,
    /// Milliseconds since some moment of that boot.
    pub(crate) ms: u64,
}

/// Makes readings out of instants of this process, and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steady {
    pub(crate) boot: Boot,
    /// Some moment of this process, …
    pub(crate) origin: Instant,
    /// … and what the steady clock showed then.
    pub(crate) origin_ms: u64,
}

impl Steady {
    pub(crate) fn reading(&self, at: Instant) -> Reading {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let ms = match at.checked_duration_since(self.origin) {
            Some(after) => self.origin_ms.saturating_add(millis(after)),
            None => self.origin_ms.saturating_sub(millis(self.origin - at)),
        };
        Reading {
            boot: self.boot.number(),
            ms,
        }
    }

    /// `None` for a reading of another boot.
    pub(crate) fn instant(&self, reading: Reading) -> Option<Instant> {
        if reading.boot != self.boot.number() {
            return None;
        }
        match reading.ms.checked_sub(self.origin_ms) {
            Some(after) => self.origin.checked_add(Duration::from_millis(after)),
            None => self
                .origin
                .checked_sub(Duration::from_millis(self.origin_ms - reading.ms)),
        }
    }
}

/// When something was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// `None` for what was done before the device was last started.
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
    /// no byte. The wall clock counts only where the steady one cannot; it never makes an age negative.
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

    #[test]
    fn readings_are_the_same_moments_in_another_process_of_the_boot() {
        let start = crate::engine::now().mono;
        let steady = |boot, after_s, origin_ms| Steady {
            boot: Boot::new(boot),
            origin: start + Duration::from_secs(after_s),
            origin_ms,
        };
        let (first, second) = (steady(7, 0, 60_000), steady(7, 30, 90_000));
        for at in [0, 10, 100].map(|s| start + Duration::from_secs(s)) {
            let reading = first.reading(at);
            assert_eq!(reading, second.reading(at));
            assert_eq!(second.instant(reading), Some(at));
            assert_eq!(steady(8, 0, 0).instant(reading), None, "of another boot");
        }
    }
}
