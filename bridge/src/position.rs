//! Positions: the latest of each device and its history.

use waypost_proto::Fix;

/// A position and when the server heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Where, how fast, in which direction, by the device's clock.
    pub fix: Fix,
    /// Server clock, UTC milliseconds.
    pub received_ms: i64,
}
