//! Dead reckoning that sender and receiver share.

use super::{Plane, Point};

/// A velocity in steps of 0.25 m/s, up to 8 km/s either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Velocity {
    /// Towards north.
    pub north: i16,
    /// Towards east.
    pub east: i16,
}

/// Steps of a [`Velocity`] in a metre a second.
const STEPS_PER_MPS: f64 = 4.0;

impl Velocity {
    /// The nearest to this many metres a second.
    pub fn from_mps(north: f64, east: f64) -> Self {
        let step = |mps: f64| (mps * STEPS_PER_MPS).round() as i16;
        Self {
            north: step(north),
            east: step(east),
        }
    }

    /// Of whoever was at one point and then, later, at another.
    pub fn between(from: &Point, to: &Point) -> Self {
        let (east, north) = Plane::around(from.lat_e7, from.lon_e7).metres(to.lat_e7, to.lon_e7);
        let seconds = to.at_ms.saturating_sub(from.at_ms).max(1) as f64 / 1e3;
        Self::from_mps(north / seconds, east / seconds)
    }

    /// Metres a second towards north and east.
    pub fn mps(self) -> (f64, f64) {
        (
            f64::from(self.north) / STEPS_PER_MPS,
            f64::from(self.east) / STEPS_PER_MPS,
        )
    }
}

/// Where a device is believed to be from its last word on: it goes on as it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reckoning {
    /// Where it was.
    pub from: Point,
    /// How it moved there.
    pub velocity: Velocity,
}

impl Reckoning {
    /// For longer nobody believes that it goes on like this.
    pub const AHEAD_MS_MAX: i64 = 300_000;

    /// Latitude and longitude at a time, in 1e-7 degrees.
    pub fn place_at(&self, at_ms: i64) -> (i32, i32) {
        let (north, east) = self.velocity.mps();
        let ahead_s = (at_ms.saturating_sub(self.from.at_ms)).clamp(0, Self::AHEAD_MS_MAX) as f64 / 1e3;
        Plane::around(self.from.lat_e7, self.from.lon_e7).place(east * ahead_s, north * ahead_s)
    }

    /// How far from there a device is that is here, in metres.
    pub fn error_m(&self, at_ms: i64, lat_e7: i32, lon_e7: i32) -> f64 {
        let (lat, lon) = self.place_at(at_ms);
        let (east, north) = Plane::around(lat, lon).metres(lat_e7, lon_e7);
        east.hypot(north)
    }
}
