//! Positions: one live fix, and tracks of many for the history.

use crate::wire;

/// The most positions that one track may hold; about 16 kB decoded.
pub const TRACK_FIXES_MAX: usize = 1_000;

/// One measured position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fix {
    /// UTC milliseconds by the clock that measured it.
    pub at_ms: i64,
    /// WGS 84 latitude in 1e-7 degrees, -900,000,000 to 900,000,000.
    pub lat_e7: i32,
    /// WGS 84 longitude in 1e-7 degrees, -1,800,000,000 to 1,800,000,000.
    pub lon_e7: i32,
    /// Speed and course, as far as they are known.
    pub motion: Motion,
    /// Radius of 68 % confidence in metres, at most 65,535; `None` where the source does not say.
    pub accuracy_m: Option<u32>,
    /// Charge of the device's battery, 0 to 100 %.
    pub battery_pct: Option<u32>,
}

/// How a device moves at one fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Motion {
    /// Speed over ground in centimetres a second, at most 40,940 (1,473 km/h).
    pub speed_cmps: Option<u32>,
    /// Course over ground in tenths of a degree clockwise from north, 0 to 3,599.
    pub course_ddeg: Option<u32>,
}

/// What a track is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrackKind {
    /// Where the device has been; its newest fix may be where the device is.
    Travelled,
    /// A recording put on file; never taken for where the device is.
    Recording,
}

/// Why a position or a track cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFix {
    /// Latitude beyond 90 or longitude beyond 180 degrees, or not a number.
    #[error("the position is not on the globe")]
    OffTheGlobe,
    /// Speed, course, accuracy or battery outside their range.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// A column has another length than the first, or the track is empty or longer than [`TRACK_FIXES_MAX`].
    #[error("the columns of the track do not describe 1 to 1,000 positions")]
    Columns,
    /// A time that no 64-bit number of milliseconds holds.
    #[error("the time of a position overflows")]
    Time,
}

const LAT_E7_MAX: i32 = 900_000_000;
const LON_E7_MAX: i32 = 1_800_000_000;
const SPEED_CMPS_MAX: u32 = 40_940;
const COURSE_UNKNOWN: u32 = 511;
const SPEED_UNKNOWN: u32 = 4_095;

impl Fix {
    /// A position from degrees; speed, course, accuracy and battery are unknown.
    ///
    /// # Errors
    /// [`BadFix::OffTheGlobe`].
    pub fn from_degrees(at_ms: i64, lat: f64, lon: f64) -> Result<Self, BadFix> {
        if !((-90.0..=90.0).contains(&lat) && (-180.0..=180.0).contains(&lon)) {
            return Err(BadFix::OffTheGlobe);
        }
        Ok(Self {
            at_ms,
            lat_e7: (lat * 1e7).round() as i32,
            lon_e7: (lon * 1e7).round() as i32,
            motion: Motion::default(),
            accuracy_m: None,
            battery_pct: None,
        })
    }

    /// Latitude in degrees.
    pub fn lat(&self) -> f64 {
        f64::from(self.lat_e7) / 1e7
    }

    /// Longitude in degrees.
    pub fn lon(&self) -> f64 {
        f64::from(self.lon_e7) / 1e7
    }

    fn check(self) -> Result<Self, BadFix> {
        let on_globe = (-LAT_E7_MAX..=LAT_E7_MAX).contains(&self.lat_e7)
            && (-LON_E7_MAX..=LON_E7_MAX).contains(&self.lon_e7);
        if !on_globe {
            return Err(BadFix::OffTheGlobe);
        }
        if self.motion.speed_cmps.is_some_and(|speed| speed > SPEED_CMPS_MAX) {
            return Err(BadFix::OutOfRange("speed"));
        }
        if self.motion.course_ddeg.is_some_and(|course| course >= 3_600) {
            return Err(BadFix::OutOfRange("course"));
        }
        if self.accuracy_m.is_some_and(|accuracy| accuracy > 65_535) {
            return Err(BadFix::OutOfRange("accuracy"));
        }
        if self.battery_pct.is_some_and(|battery| battery > 100) {
            return Err(BadFix::OutOfRange("battery"));
        }
        Ok(self)
    }

    /// The fix as it travels live: time in tenths of a second from the hello at `hello_ms`, rounded down so that it
    /// never seems newer than the same fix in the history; speed in 0.1 m/s, course in whole degrees.
    pub fn to_live(&self, hello_ms: i64) -> wire::LiveFix {
        let tenths = self.at_ms.saturating_sub(hello_ms).div_euclid(100);
        wire::LiveFix {
            lat_e7: self.lat_e7,
            lon_e7: self.lon_e7,
            at_ds: i32::try_from(tenths).unwrap_or(if tenths < 0 { i32::MIN } else { i32::MAX }),
            motion: self.motion.to_wire(),
            battery_pct: self.battery_pct,
            accuracy_m: self.accuracy_m,
        }
    }

    /// # Errors
    /// [`BadFix`] where a value is outside its range.
    pub fn from_live(live: &wire::LiveFix, hello_ms: i64) -> Result<Self, BadFix> {
        let at_ms = hello_ms
            .checked_add(i64::from(live.at_ds) * 100)
            .ok_or(BadFix::Time)?;
        Self {
            at_ms,
            lat_e7: live.lat_e7,
            lon_e7: live.lon_e7,
            motion: Motion::from_wire(live.motion)?,
            accuracy_m: live.accuracy_m,
            battery_pct: live.battery_pct,
        }
        .check()
    }
}

impl Motion {
    fn to_wire(self) -> Option<u32> {
        if self == Self::default() {
            return None;
        }
        // Rounded to the nearest whole degree; 359.5° and more is north again.
        let course = self
            .course_ddeg
            .map_or(COURSE_UNKNOWN, |tenths| (tenths + 5) / 10 % 360);
        let speed = self
            .speed_cmps
            .map_or(SPEED_UNKNOWN, |speed| ((speed + 5) / 10).min(SPEED_UNKNOWN - 1));
        Some(speed * 512 + course)
    }

    fn from_wire(motion: Option<u32>) -> Result<Self, BadFix> {
        let Some(motion) = motion else {
            return Ok(Self::default());
        };
        let (speed, course) = (motion / 512, motion % 512);
        if speed > SPEED_UNKNOWN {
            return Err(BadFix::OutOfRange("speed"));
        }
        if course >= 360 && course != COURSE_UNKNOWN {
            return Err(BadFix::OutOfRange("course"));
        }
        Ok(Self {
            speed_cmps: (speed != SPEED_UNKNOWN).then_some(speed * 10),
            course_ddeg: (course != COURSE_UNKNOWN).then_some(course * 10),
        })
    }
}

/// Packs positions into columns; `fixes` ascending in time, 1 to [`TRACK_FIXES_MAX`] of them. The battery is that of
/// the last.
pub fn track_to_wire(fixes: &[Fix], kind: TrackKind) -> wire::Track {
    let mut track = wire::Track {
        start_ms: fixes.first().map_or(0, |fix| fix.at_ms),
        battery_pct: fixes.last().and_then(|fix| fix.battery_pct),
        recording: kind == TrackKind::Recording,
        speed_cmps: column(fixes, |fix| fix.motion.speed_cmps),
        course_ddeg: column(fixes, |fix| fix.motion.course_ddeg),
        accuracy_m: column(fixes, |fix| fix.accuracy_m),
        ..wire::Track::default()
    };
    let (mut lat, mut lon) = (0i32, 0i32);
    for fix in fixes {
        track.lat_e7.push(fix.lat_e7.wrapping_sub(lat));
        track.lon_e7.push(fix.lon_e7.wrapping_sub(lon));
        (lat, lon) = (fix.lat_e7, fix.lon_e7);
    }
    track.step_ms = fixes
        .windows(2)
        .map(|pair| pair[1].at_ms.abs_diff(pair[0].at_ms))
        .collect();
    track
}

/// Unpacks a track, oldest position first.
///
/// # Errors
/// [`BadFix`] where columns do not fit each other or a value is outside its range.
pub fn track_from_wire(track: &wire::Track) -> Result<(Vec<Fix>, TrackKind), BadFix> {
    let count = track.lat_e7.len();
    let column_fits = |length: usize| length == 0 || length == count;
    if !(1..=TRACK_FIXES_MAX).contains(&count)
        || track.lon_e7.len() != count
        || track.step_ms.len() + 1 != count
        || ![&track.speed_cmps, &track.course_ddeg, &track.accuracy_m]
            .iter()
            .all(|c| column_fits(c.len()))
    {
        return Err(BadFix::Columns);
    }
    let value = |column: &[u32], index: usize| column.get(index).and_then(|value| value.checked_sub(1));
    let (mut at_ms, mut lat_e7, mut lon_e7) = (track.start_ms, 0i32, 0i32);
    let mut fixes = Vec::with_capacity(count);
    for index in 0..count {
        if index > 0 {
            let step = i64::try_from(track.step_ms[index - 1]).map_err(|_| BadFix::Time)?;
            at_ms = at_ms.checked_add(step).ok_or(BadFix::Time)?;
        }
        lat_e7 = lat_e7.wrapping_add(track.lat_e7[index]);
        lon_e7 = lon_e7.wrapping_add(track.lon_e7[index]);
        let motion = Motion {
            speed_cmps: value(&track.speed_cmps, index),
            course_ddeg: value(&track.course_ddeg, index),
        };
        let battery_pct = if index + 1 == count {
            track.battery_pct
        } else {
            None
        };
        let accuracy_m = value(&track.accuracy_m, index);
        fixes.push(
            Fix {
                at_ms,
                lat_e7,
                lon_e7,
                motion,
                accuracy_m,
                battery_pct,
            }
            .check()?,
        );
    }
    Ok((
        fixes,
        if track.recording {
            TrackKind::Recording
        } else {
            TrackKind::Travelled
        },
    ))
}

/// One column: empty where the value is unknown everywhere, otherwise each value plus one, 0 for unknown.
fn column(fixes: &[Fix], value: impl Fn(&Fix) -> Option<u32>) -> Vec<u32> {
    if fixes.iter().all(|fix| value(fix).is_none()) {
        return Vec::new();
    }
    fixes
        .iter()
        .map(|fix| value(fix).map_or(0, |value| value.saturating_add(1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_fix() -> impl Strategy<Value = Fix> {
        (
            -LAT_E7_MAX..=LAT_E7_MAX,
            -LON_E7_MAX..=LON_E7_MAX,
            prop::option::of(0..=SPEED_CMPS_MAX),
            prop::option::of(0u32..3_600),
            prop::option::of(0u32..=65_535),
        )
            .prop_map(|(lat_e7, lon_e7, speed_cmps, course_ddeg, accuracy_m)| Fix {
                at_ms: 0,
                lat_e7,
                lon_e7,
                motion: Motion {
                    speed_cmps,
                    course_ddeg,
                },
                accuracy_m,
                battery_pct: None,
            })
    }

    proptest! {
        #[test]
        fn a_track_comes_back_as_it_was(
            fixes in prop::collection::vec((any_fix(), 0i64..10_000_000), 1..50),
            start in -1_000_000_000_000i64..4_000_000_000_000,
            battery in prop::option::of(0u32..=100),
            recording: bool,
        ) {
            let mut at_ms = start;
            let mut fixes: Vec<Fix> = fixes.into_iter().map(|(mut fix, step)| {
                fix.at_ms = at_ms;
                at_ms += step;
                fix
            }).collect();
            fixes.last_mut().unwrap().battery_pct = battery;
            let kind = if recording { TrackKind::Recording } else { TrackKind::Travelled };
            prop_assert_eq!(track_from_wire(&track_to_wire(&fixes, kind)), Ok((fixes, kind)));
        }

        #[test]
        fn a_live_fix_comes_back_within_its_grid(mut fix in any_fix(), after_ms in -1_000_000i64..80_000_000) {
            let hello_ms = 1_764_000_000_123;
            fix.at_ms = hello_ms + after_ms;
            let back = Fix::from_live(&fix.to_live(hello_ms), hello_ms).unwrap();
            prop_assert_eq!((back.lat_e7, back.lon_e7), (fix.lat_e7, fix.lon_e7));
            prop_assert!((0..100).contains(&(fix.at_ms - back.at_ms)));
            match (fix.motion.speed_cmps, back.motion.speed_cmps) {
                (Some(was), Some(is)) => prop_assert!(was.abs_diff(is) <= 5),
                (was, is) => prop_assert_eq!(was, is),
            }
            match (fix.motion.course_ddeg, back.motion.course_ddeg) {
                (Some(was), Some(is)) => {
                    let apart = was.abs_diff(is);
                    prop_assert!(apart.min(3_600 - apart) <= 5);
                }
                (was, is) => prop_assert_eq!(was, is),
            }
        }

        #[test]
        fn whatever_the_columns_hold_nothing_panics(
            start_ms: i64,
            step_ms in prop::collection::vec(any::<u64>(), 0..4),
            lat_e7 in prop::collection::vec(any::<i32>(), 0..4),
            lon_e7 in prop::collection::vec(any::<i32>(), 0..4),
            speed_cmps in prop::collection::vec(any::<u32>(), 0..4),
            motion: u32,
            at_ds: i32,
        ) {
            let track = wire::Track { start_ms, step_ms, lat_e7: lat_e7.clone(), lon_e7, speed_cmps, ..Default::default() };
            let _ = track_from_wire(&track);
            let live = wire::LiveFix { lat_e7: lat_e7.first().copied().unwrap_or(0), at_ds, motion: Some(motion), ..Default::default() };
            let _ = Fix::from_live(&live, start_ms);
        }
    }

    #[test]
    fn positions_outside_the_globe_are_refused() {
        for (lat, lon) in [(90.1, 0.0), (0.0, -180.1), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            assert_eq!(
                Fix::from_degrees(0, lat, lon),
                Err(BadFix::OffTheGlobe),
                "{lat} {lon}"
            );
        }
        let live = wire::LiveFix {
            lat_e7: LAT_E7_MAX + 1,
            ..Default::default()
        };
        assert_eq!(Fix::from_live(&live, 0), Err(BadFix::OffTheGlobe));
    }

    #[test]
    fn columns_of_different_length_are_refused() {
        let good = track_to_wire(
            &[Fix::from_degrees(0, 1.0, 1.0).unwrap(); 3],
            TrackKind::Travelled,
        );
        for spoil in [
            |track: &mut wire::Track| track.lat_e7.clear(),
            |track: &mut wire::Track| track.lon_e7.truncate(2),
            |track: &mut wire::Track| track.step_ms.push(1),
            |track: &mut wire::Track| track.speed_cmps = vec![1],
            |track: &mut wire::Track| track.course_ddeg = vec![1; 4],
        ] {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert_eq!(track_from_wire(&bad), Err(BadFix::Columns));
        }
    }
}
