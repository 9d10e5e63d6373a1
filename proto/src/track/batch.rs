//! A batch of points as bytes.
//!
//! Stands alone: nothing in it refers to another batch, so that loss and repetition harm nobody. Bits, in this order:
//!
//! | what | bits |
//! |---|---|
//! | grid: 1, 10, 100, 200, 400, 1,000, 4,000 or 10,000 times 1e-7 degrees | 3 |
//! | tick: 1, 10, 100 or 1,000 ms | 2 |
//! | leads on: the way from the last point of the batch before to the first of this one was watched | 1 |
//! | exact: the points are the fixes themselves, and not the corners of a line | 1 |
//! | moves: a velocity follows the points | 1 |
//! | number of points less one | adaptive, mean 3 |
//! | first point: seconds since 1970 | 32 |
//! | … its ticks within the second | as many as it takes: 10, 7, 4 or 0 |
//! | … its latitude and longitude in steps of the grid from -90 and -180 degrees | as many as it takes |
//! | each further point: ticks since the one before, less one; exact: less those between the two before | adaptive |
//! | … where that is more than a minute: whether nothing was watched between | 1 |
//! | … latitude and longitude less where constant velocity leads, zig-zag | adaptive, one for each |
//! | velocity north and east at the last point in 0.25 m/s, zig-zag | adaptive, mean 24 |
//!
//! Adaptive is [`Adaptive`]. 1 to [`TRACK_FIXES_MAX`] points; decoded at most 32 kB.

use super::bits::{Adaptive, BadBits, BitReader, BitWriter};
use super::{Point, TrackBatch, Velocity};
use crate::fix::{BadFix, TRACK_FIXES_MAX};

const LAT_E7_MAX: i64 = 900_000_000;
const LON_E7_MAX: i64 = 1_800_000_000;
const FULL_TURN_E7: i64 = 3_600_000_000;
/// Longer than this between two points, and it has to be said whether the way was watched.
const GAP_MS: i64 = 60_000;

/// The distance between the lines on which points may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grid(u8);

impl Grid {
    const STEPS_E7: [i64; 8] = [1, 10, 100, 200, 400, 1_000, 4_000, 10_000];

    /// 1e-7 degrees: as fine as a fix.
    pub const FINEST: Self = Self(0);
    /// 1e-5 degrees, 1.1 m.
    pub const METRE: Self = Self(2);

    /// 4e-5 degrees, 4.4 m: for a line within 10 m.
    pub const ROAD: Self = Self(4);

    /// The coarsest of at most `step_e7` times 1e-7 degrees; the finest where none is.
    pub fn at_most(step_e7: i64) -> Self {
        let finer = Self::STEPS_E7.iter().filter(|&&step| step <= step_e7).count();
        Self(u8::try_from(finer.saturating_sub(1)).unwrap_or(0))
    }

    /// In 1e-7 degrees.
    pub fn step_e7(self) -> i64 {
        Self::STEPS_E7[usize::from(self.0)]
    }
}

/// What times are multiples of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u8);

impl Tick {
    const MS: [i64; 4] = [1, 10, 100, 1_000];

    /// One second.
    pub const SECOND: Self = Self(3);

    /// The longest of which all `times_ms` are multiples.
    pub fn of(times_ms: impl IntoIterator<Item = i64>) -> Self {
        let mut tick = Self::SECOND;
        for at_ms in times_ms {
            while at_ms % tick.ms() != 0 {
                tick = Self(tick.0 - 1);
            }
        }
        tick
    }

    /// The longest of at most `ms` milliseconds; one millisecond where none is.
    pub fn at_most(ms: i64) -> Self {
        let shorter = Self::MS.iter().filter(|&&tick| tick <= ms).count();
        Self(u8::try_from(shorter.saturating_sub(1)).unwrap_or(0))
    }

    /// In milliseconds.
    pub fn ms(self) -> i64 {
        Self::MS[usize::from(self.0)]
    }

    /// Bits for the ticks within a second.
    fn bits(self) -> u32 {
        [10, 7, 4, 0][usize::from(self.0)]
    }
}

/// How many bits it takes for 0 to `max`.
fn width(max: i64) -> u32 {
    64 - max.leading_zeros()
}

/// The codes of one batch.
struct Codes {
    step: Adaptive,
    lat: Adaptive,
    lon: Adaptive,
}

impl Codes {
    fn new(exact: bool) -> Self {
        let (step, place) = if exact { (0, 3) } else { (16, 24) };
        Self {
            step: Adaptive::new(step, 2),
            lat: Adaptive::new(place, 2),
            lon: Adaptive::new(place, 2),
        }
    }
}

/// A point on the grid.
#[derive(Debug, Clone, Copy)]
struct Place {
    ticks: i64,
    lat: i64,
    lon: i64,
}

/// The points before, as far as they tell where the next one is.
#[derive(Debug, Clone, Copy)]
struct Before {
    last: Place,
    /// From the point before that to the last.
    step: Option<Place>,
}

impl Before {
    /// Where the next point is after `ticks` of the same velocity; no further than half around the globe.
    fn predict(self, ticks: i64, grid: i64) -> (i64, i64) {
        let Some(step) = self.step else {
            return (self.last.lat, self.last.lon);
        };
        let half = LON_E7_MAX / grid;
        let ahead = |places: i64| {
            let far = i128::from(places) * i128::from(ticks) / i128::from(step.ticks);
            i64::try_from(far.clamp(-i128::from(half), half.into())).unwrap_or(0)
        };
        let lat = (self.last.lat + ahead(step.lat)).clamp(0, 2 * LAT_E7_MAX / grid);
        (lat, self.last.lon + ahead(step.lon))
    }

    fn then(self, next: Place) -> Self {
        Self {
            last: next,
            step: Some(Place {
                ticks: next.ticks - self.last.ticks,
                lat: next.lat - self.last.lat,
                lon: next.lon - self.last.lon,
            }),
        }
    }

    fn expected_ticks(self, exact: bool) -> i64 {
        match self.step {
            Some(step) if exact => step.ticks,
            _ => 1,
        }
    }
}

impl TrackBatch {
    /// The batch as bytes. Points that do not lie on the grid, or between ticks, are moved to the nearest; what would
    /// not come back (no point, too many, times that do not ascend, a place off the globe) is an error.
    ///
    /// # Errors
    /// [`BadFix`] by what is wrong with the points.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BadFix> {
        let (grid, tick) = (self.grid.step_e7(), self.tick.ms());
        let place = |point: &Point| Place {
            ticks: point.at_ms.div_euclid(tick),
            lat: nearest(i64::from(point.lat_e7) + LAT_E7_MAX, grid),
            lon: nearest(i64::from(point.lon_e7) + LON_E7_MAX, grid),
        };
        let (first, rest) = self.points.split_first().ok_or(BadFix::Columns)?;
        if self.points.len() > TRACK_FIXES_MAX {
            return Err(BadFix::Columns);
        }
        let on_globe = |point: &Point| {
            i64::from(point.lat_e7).abs() <= LAT_E7_MAX && i64::from(point.lon_e7).abs() <= LON_E7_MAX
        };
        if !self.points.iter().all(on_globe) {
            return Err(BadFix::OffTheGlobe);
        }
        let mut out = BitWriter::default();
        out.put(self.grid.0.into(), 3);
        out.put(self.tick.0.into(), 2);
        out.put(self.leads_on.into(), 1);
        out.put(self.exact.into(), 1);
        out.put(self.velocity.is_some().into(), 1);
        Adaptive::new(3, 1).put(rest.len() as u64, &mut out);
        let first = place(first);
        let second = first.ticks.div_euclid(1_000 / tick);
        out.put(u32::try_from(second).map_err(|_| BadFix::Time)?.into(), 32);
        out.put(
            first.ticks.rem_euclid(1_000 / tick).cast_unsigned(),
            self.tick.bits(),
        );
        out.put(first.lat.cast_unsigned(), width(2 * LAT_E7_MAX / grid));
        out.put(first.lon.cast_unsigned(), width(2 * LON_E7_MAX / grid));
        let mut codes = Codes::new(self.exact);
        let mut before = Before {
            last: first,
            step: None,
        };
        for point in rest {
            let next = place(point);
            let ticks = next.ticks - before.last.ticks;
            if ticks < 1 {
                return Err(BadFix::Time);
            }
            if self.exact {
                codes
                    .step
                    .put_signed(ticks - before.expected_ticks(true), &mut out);
            } else {
                codes.step.put((ticks - 1).cast_unsigned(), &mut out);
            }
            if ticks * tick > GAP_MS {
                out.put(point.after_gap.into(), 1);
            }
            let (lat, lon) = before.predict(ticks, grid);
            codes.lat.put_signed(next.lat - lat, &mut out);
            // The shorter way round, across the antimeridian too.
            let turn = FULL_TURN_E7 / grid;
            let east = (next.lon - lon + turn / 2).rem_euclid(turn) - turn / 2;
            codes.lon.put_signed(east, &mut out);
            // Not turned back into the range: a step is then always the short one.
            before = before.then(Place {
                lon: lon + east,
                ..next
            });
        }
        if let Some(velocity) = self.velocity {
            let mut code = Adaptive::new(24, 2);
            code.put_signed(velocity.north.into(), &mut out);
            code.put_signed(velocity.east.into(), &mut out);
        }
        Ok(out.finish())
    }

    /// Reads a batch.
    ///
    /// # Errors
    /// [`BadFix::Columns`] for bytes that are none, and what [`BadFix`] else names.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadFix> {
        let mut bits = BitReader::new(bytes);
        let batch = read(&mut bits)?;
        if !bits.is_at_end() {
            return Err(BadFix::Columns);
        }
        Ok(batch)
    }
}

impl From<BadBits> for BadFix {
    fn from(_: BadBits) -> Self {
        Self::Columns
    }
}

fn read(bits: &mut BitReader<'_>) -> Result<TrackBatch, BadFix> {
    let small = |bits: &mut BitReader<'_>, width| bits.take(width).map(|value| value as u8);
    let grid = Grid(small(bits, 3)?);
    let tick = Tick(small(bits, 2)?);
    let leads_on = bits.take(1)? == 1;
    let exact = bits.take(1)? == 1;
    let moves = bits.take(1)? == 1;
    let rest = Adaptive::new(3, 1).take(bits)?;
    if rest >= TRACK_FIXES_MAX as u64 {
        return Err(BadFix::Columns);
    }
    let (step_e7, tick_ms) = (grid.step_e7(), tick.ms());
    let second = bits.take(32)?.cast_signed();
    let within = bits.take(tick.bits())?.cast_signed();
    if within >= 1_000 / tick_ms {
        return Err(BadFix::Time);
    }
    let first = Place {
        ticks: second * (1_000 / tick_ms) + within,
        lat: bits.take(width(2 * LAT_E7_MAX / step_e7))?.cast_signed(),
        lon: bits.take(width(2 * LON_E7_MAX / step_e7))?.cast_signed(),
    };
    let point = |place: Place, after_gap| {
        let lat_e7 = place.lat * step_e7 - LAT_E7_MAX;
        let mut lon_e7 = (place.lon * step_e7).rem_euclid(FULL_TURN_E7) - LON_E7_MAX;
        // 180 degrees east, where the first point says so, is the same as west.
        if place.lon * step_e7 == FULL_TURN_E7 {
            lon_e7 = LON_E7_MAX;
        }
        if lat_e7.abs() > LAT_E7_MAX {
            return Err(BadFix::OffTheGlobe);
        }
        Ok(Point {
            at_ms: place.ticks * tick_ms,
            lat_e7: i32::try_from(lat_e7).map_err(|_| BadFix::OffTheGlobe)?,
            lon_e7: i32::try_from(lon_e7).map_err(|_| BadFix::OffTheGlobe)?,
            after_gap,
        })
    };
    let mut points = vec![point(first, false)?];
    let mut codes = Codes::new(exact);
    let mut before = Before {
        last: first,
        step: None,
    };
    for _ in 0..rest {
        let ticks = if exact {
            before
                .expected_ticks(true)
                .checked_add(codes.step.take_signed(bits)?)
                .ok_or(BadFix::Time)?
        } else {
            codes.step.take(bits)?.cast_signed() + 1
        };
        // Far beyond what a batch can be about, and far from any overflow.
        if !(1..1 << 42).contains(&ticks) || before.last.ticks > 1 << 45 {
            return Err(BadFix::Time);
        }
        let after_gap = ticks * tick_ms > GAP_MS && bits.take(1)? == 1;
        let (lat, lon) = before.predict(ticks, step_e7);
        let next = Place {
            ticks: before.last.ticks + ticks,
            lat: lat + codes.lat.take_signed(bits)?,
            lon: lon + codes.lon.take_signed(bits)?,
        };
        if next.lon.abs() > 1 << 36 {
            return Err(BadFix::OffTheGlobe);
        }
        points.push(point(next, after_gap)?);
        before = before.then(next);
    }
    let velocity = if moves {
        let mut code = Adaptive::new(24, 2);
        let mut part = || i16::try_from(code.take_signed(bits)?).map_err(|_| BadFix::OutOfRange("speed"));
        Some(Velocity {
            north: part()?,
            east: part()?,
        })
    } else {
        None
    };
    Ok(TrackBatch {
        grid,
        tick,
        leads_on,
        exact,
        points,
        velocity,
    })
}

fn nearest(value: i64, step: i64) -> i64 {
    (value + step / 2).div_euclid(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_batch() -> impl Strategy<Value = TrackBatch> {
        let point = (1i64..400_000, any::<i32>(), any::<i32>(), any::<bool>());
        let velocity = (any::<i16>(), any::<i16>()).prop_map(|(north, east)| Velocity { north, east });
        (
            (0u8..8, 0u8..4, any::<bool>(), any::<bool>()),
            0i64..4_000_000_000,
            prop::collection::vec(point, 1..40),
            prop::option::of(velocity),
        )
            .prop_map(|((grid, tick, leads_on, exact), start, points, velocity)| {
                let (grid, tick) = (Grid(grid), Tick(tick));
                let (step, mut ticks) = (grid.step_e7(), start * 1_000 / tick.ms());
                let on_grid = |value: i32, max: i64| {
                    i32::try_from((i64::from(value) % max) / step * step).expect("it got smaller")
                };
                let points =
                    points
                        .into_iter()
                        .enumerate()
                        .map(|(index, (step_ticks, lat, lon, after_gap))| {
                            ticks += step_ticks;
                            let counts = index > 0 && step_ticks * tick.ms() > GAP_MS;
                            Point {
                                at_ms: ticks * tick.ms(),
                                lat_e7: on_grid(lat, LAT_E7_MAX + 1),
                                lon_e7: on_grid(lon, LON_E7_MAX),
                                after_gap: after_gap && counts,
                            }
                        });
                TrackBatch {
                    grid,
                    tick,
                    leads_on,
                    exact,
                    points: points.collect(),
                    velocity,
                }
            })
    }

    proptest! {
        #[test]
        fn a_batch_comes_back_as_it_was(batch in any_batch()) {
            let bytes = batch.to_bytes().unwrap();
            prop_assert_eq!(TrackBatch::from_bytes(&bytes), Ok(batch));
        }

        #[test]
        fn any_bytes_are_a_batch_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(batch) = TrackBatch::from_bytes(&bytes) {
                prop_assert!(batch.points.len() <= TRACK_FIXES_MAX);
            }
        }

        #[test]
        fn a_batch_with_bits_turned_is_another_batch_or_an_error(batch in any_batch(), flips in prop::collection::vec(any::<u16>(), 1..6)) {
            let mut bytes = batch.to_bytes().unwrap();
            for flip in flips {
                let bit = usize::from(flip) % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let _ = TrackBatch::from_bytes(&bytes);
        }
    }

    #[test]
    fn what_would_not_come_back_is_refused() {
        let point = |at_ms, lat_e7| Point {
            at_ms,
            lat_e7,
            lon_e7: 0,
            after_gap: false,
        };
        let batch = |points: Vec<Point>| TrackBatch {
            grid: Grid::ROAD,
            tick: Tick::SECOND,
            leads_on: false,
            exact: false,
            points,
            velocity: None,
        };
        let rows = [
            (vec![], BadFix::Columns),
            (vec![point(0, 0); TRACK_FIXES_MAX + 1], BadFix::Columns),
            (vec![point(1_000, 0), point(1_400, 0)], BadFix::Time),
            (vec![point(1_000, 0), point(0, 0)], BadFix::Time),
            (vec![point(-1_000, 0)], BadFix::Time),
            (vec![point(0, 900_000_400)], BadFix::OffTheGlobe),
        ];
        for (points, error) in rows {
            assert_eq!(batch(points).to_bytes(), Err(error));
        }
    }

    #[test]
    fn five_corners_of_a_drive_and_where_it_goes_take_thirty_bytes() {
        let batch = TrackBatch {
            grid: Grid::ROAD,
            tick: Tick::SECOND,
            leads_on: true,
            exact: false,
            points: [
                (0, 0, 0),
                (14, 300, 1_200),
                (31, 340, 3_900),
                (38, 900, 4_200),
                (52, 2_600, 4_400),
            ]
            .map(|(s, north, east)| Point {
                at_ms: 1_764_000_000_000 + s * 1_000,
                lat_e7: 485_000_000 + north * 400 / 40,
                lon_e7: 95_000_000 + east * 400 / 40,
                after_gap: false,
            })
            .to_vec(),
            velocity: Some(Velocity { north: 50, east: 8 }),
        };
        assert!(
            batch.to_bytes().unwrap().len() <= 30,
            "{}",
            batch.to_bytes().unwrap().len()
        );
    }
}
