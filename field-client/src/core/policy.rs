//! What a device is asked to report of where it is.
//!
//! | profile | history | live | age | an hour of driving costs about |
//! |---|---|---|---|---|
//! | [`LIVE`](Policy::LIVE) | within 10 m | within 30 m | 60 s | 30 kB |
//! | [`STANDARD`](Policy::STANDARD) | within 10 m | within 100 m | 300 s | 13 kB |
//! | [`ECONOMY`](Policy::ECONOMY) | within 10 m | none | 600 s | 2 kB |
//! | [`AUDIT`](Policy::AUDIT) | every fix, within 1e-5 degrees | none | 60 s | 12 kB |

use waypost_proto::{Grid, LineOptions, Tick};

/// How exactly and how often a device says where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What the history keeps.
    pub history: History,
    /// The office is never wrong by more than so many metres about where the device is now; `None` where nobody looks.
    pub live_m: Option<u32>,
    /// What the office has is never older than this many seconds, where there is a link.
    pub age_s: u32,
}

/// What is kept of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// A line that no fix is farther from than this many metres, at its moment.
    Within(u32),
    /// Each fix, on a grid of 1e-5 degrees.
    EveryFix,
}

impl Policy {
    /// For a vehicle that somebody follows on a map.
    pub const LIVE: Self = Self {
        live_m: Some(30),
        age_s: 60,
        ..Self::STANDARD
    };
    /// For a fleet at work.
    pub const STANDARD: Self = Self {
        history: History::Within(10),
        live_m: Some(100),
        age_s: 300,
    };
    /// For links that are dear.
    pub const ECONOMY: Self = Self {
        live_m: None,
        age_s: 600,
        ..Self::STANDARD
    };
    /// For whoever has to show every fix.
    pub const AUDIT: Self = Self {
        history: History::EveryFix,
        live_m: None,
        age_s: 60,
    };

    /// The line that such a history is, with corners on these ticks.
    pub(super) fn line(self, tick: Tick) -> LineOptions {
        LineOptions {
            error_m: self.error_m(),
            grid: self.grid(),
            tick,
        }
    }

    /// No fix is farther from the history than this, in metres.
    pub(super) fn error_m(self) -> f64 {
        match self.history {
            History::Within(metres) => metres.max(1).into(),
            History::EveryFix => 1.0,
        }
    }

    /// So fine that rounding takes less than a third of the bound: half its diagonal is 0.8 of its step, and 1e-7 degrees
    /// are 1.1 cm.
    pub(super) fn grid(self) -> Grid {
        match self.history {
            History::Within(metres) => Grid::at_most(i64::from(metres.max(1)) * 40),
            History::EveryFix => Grid::METRE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_metres_are_drawn_on_the_grid_for_roads() {
        assert_eq!(Policy::STANDARD.grid(), Grid::ROAD);
    }
}
