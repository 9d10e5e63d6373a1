//! How far what is said is from what was measured.

use super::accounting::Traffic;
use serde::Serialize;

/// Where somebody was, in degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub(super) at_ms: i64,
    pub(super) lat: f64,
    pub(super) lon: f64,
}

/// Distances at every fix.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Errors {
    pub(super) history_m: Vec<f64>,
    /// Empty where nobody looks.
    pub(super) live_m: Vec<f64>,
    pub(super) max_age_s: f64,
}

impl Errors {
    pub(super) fn add(&mut self, other: Self) {
        self.history_m.extend(other.history_m);
        self.live_m.extend(other.live_m);
        self.max_age_s = self.max_age_s.max(other.max_age_s);
    }
}

/// What is printed of one drive, or of all.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub(super) hours: f64,
    pub(super) fixes: usize,
    pub(super) messages_per_hour: f64,
    pub(super) position_bytes_per_hour: f64,
    pub(super) number_bytes_per_hour: f64,
    pub(super) acknowledgement_bytes_per_hour: f64,
    pub(super) bytes_per_hour: f64,
    pub(super) history_max_m: Option<f64>,
    pub(super) history_p95_m: Option<f64>,
    pub(super) live_max_m: Option<f64>,
    pub(super) live_p95_m: Option<f64>,
    pub(super) max_age_s: f64,
    pub(super) hello_bytes: usize,
    pub(super) lost_frames: usize,
}

impl Figures {
    pub(super) fn of(traffic: &Traffic, errors: &Errors) -> Self {
        let per_hour = |count: usize| {
            if traffic.hours > 0.0 {
                count as f64 / traffic.hours
            } else {
                0.0
            }
        };
        Self {
            hours: traffic.hours,
            fixes: traffic.fixes,
            messages_per_hour: per_hour(traffic.messages),
            position_bytes_per_hour: per_hour(traffic.position_bytes),
            number_bytes_per_hour: per_hour(traffic.number_bytes),
            acknowledgement_bytes_per_hour: per_hour(traffic.acknowledgement_bytes),
            bytes_per_hour: per_hour(traffic.bytes()),
            history_max_m: percentile(&errors.history_m, 100),
            history_p95_m: percentile(&errors.history_m, 95),
            live_max_m: percentile(&errors.live_m, 100),
            live_p95_m: percentile(&errors.live_m, 95),
            max_age_s: errors.max_age_s,
            hello_bytes: traffic.hello_bytes,
            lost_frames: traffic.lost,
        }
    }
}

/// The smallest value that so many in a hundred of them do not exceed; `None` of none.
fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent * sorted.len()).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

/// Metres between two places that are near each other, by the curvature of WGS 84 there.
pub(super) fn metres(one: (f64, f64), other: (f64, f64)) -> f64 {
    const EQUATOR_M: f64 = 6_378_137.0;
    const ECCENTRICITY_SQUARED: f64 = 0.006_694_379_990_14;
    let mean = f64::midpoint(one.0, other.0).to_radians();
    let curve = 1.0 - ECCENTRICITY_SQUARED * mean.sin().powi(2);
    let meridian = EQUATOR_M * (1.0 - ECCENTRICITY_SQUARED) / curve.powf(1.5);
    let parallel = EQUATOR_M / curve.sqrt() * mean.cos();
    let turned = (other.1 - one.1 + 180.0).rem_euclid(360.0) - 180.0;
    let north = (other.0 - one.0).to_radians() * meridian;
    north.hypot(turned.to_radians() * parallel)
}

/// Where a line of places, ascending in time, is at a moment; before and after it, at its ends.
pub(super) fn along(line: &[Place], at_ms: i64) -> Option<(f64, f64)> {
    let next = line.partition_point(|place| place.at_ms < at_ms);
    let Some(to) = line.get(next) else {
        return line.last().map(|last| (last.lat, last.lon));
    };
    let from = line[next.saturating_sub(1)];
    if to.at_ms == from.at_ms {
        return Some((to.lat, to.lon));
    }
    let share = (at_ms - from.at_ms) as f64 / (to.at_ms - from.at_ms) as f64;
    let turned = (to.lon - from.lon + 180.0).rem_euclid(360.0) - 180.0;
    Some((from.lat + share * (to.lat - from.lat), from.lon + share * turned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_degree_is_as_long_as_the_ellipsoid_says() {
        let rows = [
            ((0.0, 0.0), (0.01, 0.0), 1_105.74),
            ((0.0, 0.0), (0.0, 0.01), 1_113.19),
            ((60.0, 10.0), (60.0, 10.01), 558.0),
            ((10.0, 179.995), (10.0, -179.995), 1_096.49),
        ];
        for (one, other, expected) in rows {
            let distance = metres(one, other);
            assert!((distance - expected).abs() < 0.1, "{one:?} {other:?}: {distance}");
        }
    }

    #[test]
    fn a_share_of_values_is_counted_from_below() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 95), Some(95.0));
        assert_eq!(percentile(&values, 100), Some(100.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn between_two_places_a_line_goes_at_constant_speed() {
        let place = |at_ms, lat| Place { at_ms, lat, lon: 0.0 };
        let line = [place(0, 1.0), place(10, 2.0)];
        for (at_ms, lat) in [(-5, 1.0), (0, 1.0), (3, 1.3), (10, 2.0), (20, 2.0)] {
            assert_eq!(along(&line, at_ms), Some((lat, 0.0)), "{at_ms}");
        }
    }
}
