//! A recorded drive, driven back and forth for ever.

use crate::trace::{self, Trace};
use anyhow::Context;
use waypost_proto::{Fix, Motion};

/// Slices of recorded car drives; see the README beside the file.
const SELECTION: &[u8] = include_bytes!("../../../tests/data/traces/nds_selection.csv.gz");
/// A vehicle starts where it first moves as fast as this.
const START_CMPS: u32 = 300;
/// How far into its drive each further vehicle on the same one starts.
const APART_S: usize = 37;

/// One drive at a fix a second, from where the speed first passes 3 m/s.
#[derive(Debug, Clone)]
pub(super) struct Drive {
    fixes: Vec<Fix>,
    /// How many seconds of the drive lie behind the start.
    begun_s: f64,
}

/// A drive for each of so many vehicles. Where there are more vehicles than drives, several share one and start at
/// different places of it.
pub(super) fn drives(vehicles: usize) -> anyhow::Result<Vec<Drive>> {
    let traces = trace::read(SELECTION).context("the drives of the demo")?;
    let drives: Vec<Drive> = traces.into_iter().filter_map(Drive::new).collect();
    anyhow::ensure!(!drives.is_empty(), "the demo has no drives");
    Ok((0..vehicles)
        .map(|vehicle| drives[vehicle % drives.len()].later(vehicle / drives.len()))
        .collect())
}

impl Drive {
    /// `None` for a drive that never gets going.
    fn new(trace: Trace) -> Option<Self> {
        let mut fixes = trace.fixes;
        let start = fixes.iter().position(is_moving)?;
        fixes.drain(..start);
        (fixes.len() >= 2).then_some(Self { fixes, begun_s: 0.0 })
    }

    /// The same drive for the `share`th further vehicle on it.
    fn later(&self, share: usize) -> Self {
        let from = share * APART_S % self.fixes.len();
        // Where all of the rest stands still it starts at the beginning.
        let start = (from..self.fixes.len())
            .find(|&index| is_moving(&self.fixes[index]))
            .unwrap_or(0);
        Self {
            fixes: self.fixes.clone(),
            begun_s: seconds(start),
        }
    }

    /// Where the vehicle is after so many seconds of driving, at `now_ms`. At either end it turns and drives back the
    /// same way, and its course is the other one. `factor` is how many times as fast as in the recording it goes.
    pub(super) fn at(&self, driven_s: f64, factor: f64, now_ms: i64) -> Fix {
        let length_s = seconds(self.fixes.len() - 1);
        let into_lap_s = (self.begun_s + driven_s).rem_euclid(2.0 * length_s);
        let (place_s, returning) = if into_lap_s <= length_s {
            (into_lap_s, false)
        } else {
            (2.0 * length_s - into_lap_s, true)
        };
        let (index, share) = split(place_s);
        let before = &self.fixes[index.min(self.fixes.len() - 1)];
        let after = &self.fixes[(index + 1).min(self.fixes.len() - 1)];
        let course_ddeg = before.motion.course_ddeg.map(|course| {
            if returning {
                (course + 1_800) % 3_600
            } else {
                course
            }
        });
        Fix {
            at_ms: now_ms,
            lat_e7: between(before.lat_e7, after.lat_e7, share),
            lon_e7: between(before.lon_e7, after.lon_e7, share),
            motion: Motion {
                speed_cmps: before.motion.speed_cmps.map(|speed| faster(speed, factor)),
                course_ddeg,
            },
            accuracy_m: None,
            battery_pct: None,
        }
    }
}

fn is_moving(fix: &Fix) -> bool {
    fix.motion.speed_cmps.is_some_and(|speed| speed >= START_CMPS)
}

#[expect(clippy::cast_precision_loss, reason = "a drive has hours at most")]
fn seconds(fixes: usize) -> f64 {
    fixes as f64
}

/// The whole seconds, and the rest.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "within the drive"
)]
fn split(place_s: f64) -> (usize, f64) {
    (place_s as usize, place_s.fract())
}

#[expect(clippy::cast_possible_truncation, reason = "between two numbers that fit")]
fn between(from: i32, to: i32, share: f64) -> i32 {
    let (from, to) = (f64::from(from), f64::from(to));
    (from + (to - from) * share).round() as i32
}

/// The speed at which it really moves; what is beyond a position's range is shown as its end.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "within the range of a position"
)]
fn faster(speed_cmps: u32, factor: f64) -> u32 {
    (f64::from(speed_cmps) * factor).round().min(40_940.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metres(a: &Fix, b: &Fix) -> f64 {
        let north = (a.lat() - b.lat()) * 111_195.0;
        let east = (a.lon() - b.lon()) * 111_195.0 * a.lat().to_radians().cos();
        north.hypot(east)
    }

    #[test]
    fn there_is_a_drive_for_each_of_twelve_vehicles_and_the_rest_share() {
        let drives = drives(60).unwrap();
        let starts: Vec<Fix> = drives.iter().map(|drive| drive.at(0.0, 1.0, 0)).collect();
        for (index, start) in starts.iter().enumerate() {
            assert!(is_moving(start), "{start:?}");
            for other in starts[..index].iter().take(12) {
                assert_ne!(
                    (start.lat_e7, start.lon_e7),
                    (other.lat_e7, other.lon_e7),
                    "{index}"
                );
            }
        }
    }

    #[test]
    fn every_vehicle_moves_by_50_metres_within_30_seconds_whenever_one_looks() {
        for (vehicle, drive) in drives(20).unwrap().iter().enumerate() {
            for look in (0..2_000).map(f64::from) {
                let here = drive.at(look, 1.0, 0);
                let far =
                    (1..=30).any(|second| metres(&here, &drive.at(look + f64::from(second), 1.0, 0)) >= 50.0);
                assert!(far, "vehicle {vehicle} does not move after {look} seconds");
            }
        }
    }

    #[test]
    fn a_vehicle_turns_at_the_end_and_comes_back_the_same_way() {
        let fix = |second: i32, course| Fix {
            motion: Motion {
                speed_cmps: Some(1_000),
                course_ddeg: Some(course),
            },
            ..Fix::from_degrees(0, f64::from(second) / 1_000.0, 0.0).unwrap()
        };
        let fixes = vec![
            Fix {
                motion: Motion {
                    speed_cmps: Some(100),
                    course_ddeg: None,
                },
                ..fix(0, 0)
            },
            fix(1, 0),
            fix(2, 100),
            fix(3, 2_000),
        ];
        let drive = Drive::new(Trace {
            id: "t".to_owned(),
            fixes,
        })
        .unwrap();
        let table = [
            // Seconds of driving, latitude in 1e-7 degrees, course.
            (0.0, 10_000, 0),
            (0.5, 15_000, 0),
            (2.0, 30_000, 2_000),
            (2.5, 25_000, 1_900),
            (3.0, 20_000, 1_900),
            (4.0, 10_000, 0),
            (5.0, 20_000, 100),
        ];
        for (driven_s, lat_e7, course) in table {
            let at = drive.at(driven_s, 2.0, 7);
            assert_eq!(
                (at.lat_e7, at.motion.course_ddeg),
                (lat_e7, Some(course)),
                "{driven_s}"
            );
            assert_eq!((at.at_ms, at.motion.speed_cmps), (7, Some(2_000)));
        }
        assert!(
            Drive::new(Trace {
                id: "t".to_owned(),
                fixes: vec![fix(0, 0)]
            })
            .is_none()
        );
    }
}
