//! Time as the core knows it: given in, never read.

use super::server_clock::ServerClock;
use std::time::{Duration, Instant};

/// The present, by both clocks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Never jumps, and goes on while the device sleeps: what deadlines and ages count by.
    pub(crate) mono: Instant,
    /// UTC milliseconds by a clock that may be days off: data for messages.
    pub(crate) wall_ms: i64,
    /// What `mono` is a moment of.
    pub(crate) steady: Steady,
}

impl Now {
    /// What the steady clock shows.
    pub(crate) fn reading(&self) -> Reading {
        self.steady.reading(self.mono)
    }

    /// The same clocks at another moment, while nobody sets them.
    pub(crate) fn at(self, mono: Instant) -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let later = millis(mono.saturating_duration_since(self.mono));
        let earlier = millis(self.mono.saturating_duration_since(mono));
        Self {
            mono,
            wall_ms: self
                .wall_ms
                .saturating_add_unsigned(later)
                .saturating_sub_unsigned(earlier),
            ..self
        }
    }
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

/// Makes readings out of instants of this process.
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
}

/// When something was done, by both clocks of the device at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Moment {
    pub(crate) steady: Reading,
    /// UTC milliseconds.
    pub(crate) wall_ms: i64,
}

impl From<Now> for Moment {
    fn from(now: Now) -> Self {
        Self {
            steady: now.reading(),
            wall_ms: now.wall_ms,
        }
    }
}

impl Moment {
    /// Whether it was before the device was last started.
    pub(crate) fn is_of_earlier_boot(self, now: Now) -> bool {
        self.steady.boot != now.steady.boot.number()
    }

    /// Whether it was so little ago that nobody would tell it from now.
    pub(crate) fn is_about(self, now: Now, within: Duration) -> bool {
        let passed = Duration::from_millis(now.reading().ms.saturating_sub(self.steady.ms));
        !self.is_of_earlier_boot(now) && passed < within
    }

    /// Whole seconds of the steady clock from the moment to now, to the nearest. Never negative.
    ///
    /// Of what was done before the device was last started, it is the time that has passed on the server, as far as `server`
    /// can tell, in what would be seconds of the steady clock; and by the wall clock alone where nothing was ever heard of
    /// a server.
    pub(crate) fn age_s(self, now: Now, server: &ServerClock) -> u32 {
        let age_ms = if self.is_of_earlier_boot(now) {
            let by_wall = now.wall_ms.saturating_sub(self.wall_ms);
            let by_server = server.steady_ms_since(self, now).unwrap_or(by_wall);
            u64::try_from(by_server).unwrap_or(0)
        } else {
            now.reading().ms.saturating_sub(self.steady.ms)
        };
        nearest_second(Duration::from_millis(age_ms))
    }
}

/// Whole seconds, to the nearest, at most 2^32 - 1.
pub(crate) fn nearest_second(duration: Duration) -> u32 {
    u32::try_from(duration.saturating_add(Duration::from_millis(500)).as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::server_clock::Contact;
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn now(boot: u32, steady_s: u64, wall_ms: i64) -> Now {
        let mono = crate::engine::now().mono;
        Now {
            mono,
            wall_ms,
            steady: Steady {
                boot: Boot::new(boot),
                origin: mono,
                origin_ms: steady_s * 1_000,
            },
        }
    }

    #[test]
    fn a_jump_of_the_wall_clock_changes_no_age_within_one_boot_also_in_a_later_process() {
        let server = ServerClock::default();
        let done = Moment::from(now(7, 100, 1_000_000));
        assert_eq!(done.age_s(now(7, 107, -5_000_000), &server), 7);
        assert_eq!(done.age_s(now(7, 99, 0), &server), 0, "never negative");
    }

    #[test]
    fn after_a_start_of_the_device_the_wall_clock_counts_and_what_is_known_of_the_server_goes_before_it() {
        let done = Moment::from(now(7, 100, 1_000_000));
        let mut server = ServerClock::default();
        assert_eq!(done.age_s(now(8, 5, 1_004_600), &server), 5);
        assert_eq!(done.age_s(now(8, 5, 999_000), &server), 0);
        // 48 hours ahead in the boot in which it was done; the wall clock was set right since.
        let contact = |boot, steady_s: u64, wall_ms: i64, server_ms| Contact {
            steady: Reading {
                boot,
                ms: steady_s * 1_000,
            },
            wall_ms,
            server_ms,
            doubt_ms: 100,
        };
        server.take(contact(7, 40, 940_000, 940_000 - 48 * HOUR_MS));
        server.take(contact(8, 5, HOUR_MS - 48 * HOUR_MS, HOUR_MS - 48 * HOUR_MS));
        let age_s = done.age_s(now(8, 5, HOUR_MS - 48 * HOUR_MS), &server);
        assert_eq!(age_s, 2_600);
        // Of a boot in which no server was met: the wall clock was as wrong as before.
        let done = Moment::from(now(9, 1, 1_000_000));
        assert_eq!(done.age_s(now(8, 5, HOUR_MS - 48 * HOUR_MS), &server), 2_600);
    }

    #[test]
    fn readings_are_the_same_moments_in_another_process_of_the_boot() {
        let start = crate::engine::now().mono;
        let steady = |after_s, origin_ms| Steady {
            boot: Boot::new(7),
            origin: start + Duration::from_secs(after_s),
            origin_ms,
        };
        for at in [0, 10, 100].map(|s| start + Duration::from_secs(s)) {
            assert_eq!(steady(0, 60_000).reading(at), steady(30, 90_000).reading(at));
        }
    }
}
