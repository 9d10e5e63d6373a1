//! Tracks: where a device was, as a line with a bounded error, and where it is, as both sides reckon it.
//!
//! [`Line`] turns fixes into the corners of a line that no fix is farther from than a bound, at its own time. A
//! [`TrackBatch`] carries corners, or the fixes themselves, in bits; each batch stands alone. A [`Reckoning`] says
//! where a device is by now from its last point and velocity: the sender knows what the receiver believes.

mod batch;
mod bits;
mod line;
mod reckoning;

use crate::Fix;

pub use batch::{Grid, Tick};
pub use line::{Line, LineOptions, Pushed};
pub use reckoning::{Reckoning, Velocity};

/// Metres of one degree of latitude, and of longitude at the equator, at the most (WGS 84: 110,574 m to 111,694 m):
/// no error is larger than what it is taken for.
const METRES_PER_DEGREE: f64 = 111_700.0;

/// A point of a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// UTC milliseconds.
    pub at_ms: i64,
    /// WGS 84 latitude in 1e-7 degrees.
    pub lat_e7: i32,
    /// WGS 84 longitude in 1e-7 degrees.
    pub lon_e7: i32,
    /// Nothing was watched on the way here: that it was straight is not known.
    pub after_gap: bool,
}

impl From<&Fix> for Point {
    /// Where a fix was measured, and when.
    fn from(fix: &Fix) -> Self {
        Self {
            at_ms: fix.at_ms,
            lat_e7: fix.lat_e7,
            lon_e7: fix.lon_e7,
            after_gap: false,
        }
    }
}

/// Points that travel together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackBatch {
    /// Where points lie.
    pub grid: Grid,
    /// What times are multiples of.
    pub tick: Tick,
    /// The way from the last point of the batch before to the first of this one was watched: the line goes on.
    pub leads_on: bool,
    /// The points are the fixes themselves; otherwise they are the corners of a line.
    pub exact: bool,
    /// 1 to 1,000 of them, ascending in time.
    pub points: Vec<Point>,
    /// At the last point, where it is to be known where the device goes from there.
    pub velocity: Option<Velocity>,
}

/// A flat piece of the globe around a point, in metres.
#[derive(Debug, Clone, Copy)]
struct Plane {
    lat_e7: f64,
    lon_e7: f64,
    north: f64,
    east: f64,
}

impl Plane {
    fn around(lat_e7: i32, lon_e7: i32) -> Self {
        let lat = f64::from(lat_e7) / 1e7;
        Self {
            lat_e7: lat_e7.into(),
            lon_e7: lon_e7.into(),
            north: METRES_PER_DEGREE / 1e7,
            // Not nothing at the poles, where everything is divided by it.
            east: METRES_PER_DEGREE / 1e7 * lat.to_radians().cos().max(0.01),
        }
    }

    /// Metres east and north.
    fn metres(self, lat_e7: i32, lon_e7: i32) -> (f64, f64) {
        let mut east = f64::from(lon_e7) - self.lon_e7;
        if east > 1.8e9 {
            east -= 3.6e9;
        } else if east < -1.8e9 {
            east += 3.6e9;
        }
        (east * self.east, (f64::from(lat_e7) - self.lat_e7) * self.north)
    }

    /// The place so far east and north, on the globe.
    fn place(self, east_m: f64, north_m: f64) -> (i32, i32) {
        let lat = (self.lat_e7 + north_m / self.north).clamp(-9e8, 9e8);
        let mut lon = self.lon_e7 + east_m / self.east;
        if lon > 1.8e9 {
            lon -= 3.6e9;
        } else if lon < -1.8e9 {
            lon += 3.6e9;
        }
        (lat.round() as i32, lon.round().clamp(-1.8e9, 1.8e9) as i32)
    }
}
