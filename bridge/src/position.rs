//! Positions: the latest of each device and its history.

use waypost_proto::{Fix, Motion, Point, Velocity};

/// A position and when the server heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Where, how fast, in which direction, by the device's clock.
    pub fix: Fix,
    /// Server clock, UTC milliseconds.
    pub received_ms: i64,
    /// Whether the device was measured to be there.
    pub origin: Origin,
    /// How it came there from the position before in its history.
    pub way: Way,
    /// How it goes on from there, as the device knows it to be believed; `None` where it did not say: it stays.
    pub velocity: Option<Velocity>,
}

/// What a position is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A fix.
    Measured,
    /// The corner of a line that passes the fixes within the bound that the device was asked for.
    Corner,
}

/// What is known of the way between two positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Nothing: the receiver was off, or the positions came one by one.
    Unknown,
    /// It was watched: between corners it is the straight line at constant speed, within the bound; between fixes there
    /// was none.
    Watched,
}

impl Position {
    /// A fix on its own.
    pub fn measured(fix: Fix, received_ms: i64) -> Self {
        Self {
            fix,
            received_ms,
            origin: Origin::Measured,
            way: Way::Unknown,
            velocity: None,
        }
    }
}

/// A point of a batch as a fix: speed and course are those of the velocity there, where it is known.
pub(crate) fn fix_at(point: &Point, velocity: Option<Velocity>, battery_pct: Option<u32>) -> Fix {
    Fix {
        at_ms: point.at_ms,
        lat_e7: point.lat_e7,
        lon_e7: point.lon_e7,
        motion: velocity.map_or(Motion::default(), motion_of),
        accuracy_m: None,
        battery_pct,
    }
}

/// A velocity below 0.5 m/s has no course.
fn motion_of(velocity: Velocity) -> Motion {
    let (north, east) = velocity.mps();
    let speed_mps = north.hypot(east);
    let whole = |value: f64| u32::try_from(value.round() as i64).ok();
    let course_ddeg = (east.atan2(north).to_degrees() * 10.0).round();
    Motion {
        // What no fix may say is as good as unknown.
        speed_cmps: whole(speed_mps * 100.0).filter(|&speed| speed <= 40_940),
        course_ddeg: whole(course_ddeg.rem_euclid(3_600.0)).filter(|_| speed_mps >= 0.5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_velocity_is_a_speed_and_a_course_clockwise_from_north() {
        let rows = [
            ((10.0, 0.0), Some(1_000), Some(0)),
            ((0.0, 10.0), Some(1_000), Some(900)),
            ((0.0, -10.0), Some(1_000), Some(2_700)),
            ((-0.25, 0.0), Some(25), None),
            ((8_000.0, 0.0), None, Some(0)),
        ];
        for ((north, east), speed_cmps, course_ddeg) in rows {
            let motion = motion_of(Velocity::from_mps(north, east));
            assert_eq!((motion.speed_cmps, motion.course_ddeg), (speed_cmps, course_ddeg));
        }
    }
}
