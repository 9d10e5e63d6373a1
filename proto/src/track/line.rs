//! A line with a bounded error through fixes as they come.
//!
//! From the last corner the velocities that pass every fix since within its bound are a convex region: the intersection
//! of a disk for each fix, whose radius is the bound divided by the time. A fix that leaves nothing of it ends the segment
//! at the last moment at which a place on the grid could be reached: one pass, no fix is looked at again but those since that
//! moment. The method is cone intersection on synchronised distance with free corners (CISED-W: Lin et al., "One-Pass
//! Trajectory Simplification Using the Synchronous Euclidean Distance", VLDB Journal 28, 2019), here with corners that
//! are rounded inside the region, so that rounding costs nothing of the bound.
//!
//! Memory: the region of at most 32 velocities and at most 64 fixes, 3 kB.

use super::{Grid, Plane, Point, Tick};
use std::collections::VecDeque;

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LineOptions {
    /// No fix is farther from the line at its time than this; metres.
    pub error_m: f64,
    /// Where corners may lie. Not coarser than the error, or fixes themselves become corners.
    pub grid: Grid,
    /// What the times of corners are multiples of.
    pub tick: Tick,
}

/// Cosines of 22.5°, 45° and 67.5°.
const COS: [f64; 3] = [
    0.923_879_532_511_286_7,
    std::f64::consts::FRAC_1_SQRT_2,
    0.382_683_432_365_089_8,
];
/// A disk is approximated by a regular polygon within it, whose sides face these ways: that costs 2 % of the bound.
const SIDES: [(f64, f64); 16] = [
    (1.0, 0.0),
    (COS[0], COS[2]),
    (COS[1], COS[1]),
    (COS[2], COS[0]),
    (0.0, 1.0),
    (-COS[2], COS[0]),
    (-COS[1], COS[1]),
    (-COS[0], COS[2]),
    (-1.0, 0.0),
    (-COS[0], -COS[2]),
    (-COS[1], -COS[1]),
    (-COS[2], -COS[0]),
    (0.0, -1.0),
    (COS[2], -COS[0]),
    (COS[1], -COS[1]),
    (COS[0], -COS[2]),
];
/// From the middle of that polygon to its sides, by the radius of the disk: the cosine of 11.25°.
const APOTHEM: f64 = 0.980_785_280_403_230_4;
/// A region has no more corners than this; beyond it no further side is cut off it exactly.
const REGION_MAX: usize = 32;
/// So many fixes since the last place where a corner could be, and it becomes one.
const PENDING_MAX: usize = 64;
/// In metres a second: nothing moves faster, 3.6 times the speed of sound.
const SPEED_MAX: f64 = 1_200.0;

/// A fix as far as a line is concerned.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    at_ms: i64,
    lat_e7: i32,
    lon_e7: i32,
    /// Metres.
    within: f64,
}

/// A line that is being drawn.
#[derive(Debug, Clone)]
pub struct Line {
    options: LineOptions,
    anchor: Option<Anchor>,
    last: Option<Seen>,
    /// Fixes after the time of the candidate, or after the anchor where there is none.
    pending: VecDeque<Seen>,
    /// Where the segment can end best.
    candidate: Option<Point>,
    /// Another corner that is done.
    done: VecDeque<Point>,
}

/// The last corner and where one can go from it.
#[derive(Debug, Clone)]
struct Anchor {
    point: Point,
    plane: Plane,
    region: Region,
}

impl Line {
    /// A line without a fix.
    pub fn new(options: LineOptions) -> Self {
        Self {
            options,
            anchor: None,
            last: None,
            pending: VecDeque::new(),
            candidate: None,
            done: VecDeque::new(),
        }
    }

    /// The time of the last fix.
    pub fn last_ms(&self) -> Option<i64> {
        self.last.map(|seen| seen.at_ms)
    }

    /// A fix that the line passes within `within_m` metres, and no closer than `error_m` is asked for. One that is not
    /// later than the last is left out, and said to be.
    pub fn push(&mut self, at_ms: i64, lat_e7: i32, lon_e7: i32, within_m: f64) -> Pushed {
        if self.last.is_some_and(|last| at_ms <= last.at_ms) {
            return Pushed::NotLater;
        }
        let seen = Seen {
            at_ms,
            lat_e7,
            lon_e7,
            within: within_m.max(self.options.error_m),
        };
        if self.anchor.is_none() {
            let corner = self.on_grid(self.floor(at_ms), lat_e7, lon_e7);
            self.turn_at(corner);
        }
        if self
            .anchor
            .as_ref()
            .is_some_and(|anchor| anchor.point.at_ms < at_ms)
        {
            self.extend(seen);
        }
        self.last = Some(seen);
        Pushed::Taken
    }

    /// The next corner that is done.
    pub fn poll_corner(&mut self) -> Option<Point> {
        self.done.pop_front()
    }

    /// Ends the line for now, with a corner at the last fix; the next fix goes on from there.
    pub fn cut(&mut self) {
        // Each turn takes at least one fix off.
        while let (Some(anchor), Some(last)) = (&self.anchor, self.last) {
            let end = self.floor(last.at_ms);
            match self.candidate {
                Some(corner) => self.turn_at(corner),
                None if anchor.point.at_ms < end => self.fall_back(last),
                None => return,
            }
            for seen in std::mem::take(&mut self.pending) {
                self.extend(seen);
            }
        }
    }

    /// Forgets everything but the corners that are done: what follows has nothing to do with what was.
    pub fn restart(&mut self) {
        self.cut();
        self.anchor = None;
        self.last = None;
        self.pending.clear();
    }

    fn floor(&self, at_ms: i64) -> i64 {
        at_ms - at_ms.rem_euclid(self.options.tick.ms())
    }

    fn on_grid(&self, at_ms: i64, lat_e7: i32, lon_e7: i32) -> Point {
        let step = self.options.grid.step_e7();
        let nearest = |value: i32, max: i64| {
            let value = (i64::from(value) + step / 2).div_euclid(step) * step;
            i32::try_from(value.clamp(-max, max)).unwrap_or(0)
        };
        Point {
            at_ms,
            lat_e7: nearest(lat_e7, 900_000_000),
            lon_e7: nearest(lon_e7, 1_800_000_000),
            after_gap: false,
        }
    }

    /// The line has a corner here, and goes on.
    fn turn_at(&mut self, corner: Point) {
        self.done.push_back(corner);
        self.candidate = None;
        self.anchor = Some(Anchor {
            point: corner,
            plane: Plane::around(corner.lat_e7, corner.lon_e7),
            region: Region::within(SPEED_MAX),
        });
    }

    /// A corner on the way to a fix, where none was found that serves more than it.
    fn fall_back(&mut self, seen: Seen) {
        let Some(anchor) = &self.anchor else { return };
        let from = anchor.point.at_ms;
        let at_ms = self.floor(seen.at_ms).max(from + self.options.tick.ms());
        let share = (at_ms - from) as f64 / (seen.at_ms - from) as f64;
        let (east, north) = anchor.plane.metres(seen.lat_e7, seen.lon_e7);
        let (lat_e7, lon_e7) = anchor.plane.place(east * share.min(1.0), north * share.min(1.0));
        let corner = self.on_grid(at_ms, lat_e7, lon_e7);
        self.turn_at(corner);
        self.pending.retain(|pending| pending.at_ms > at_ms);
    }

    /// The fix belongs to the segment that begins at the anchor, or ends it.
    fn extend(&mut self, seen: Seen) {
        let mut todo = VecDeque::from([seen]);
        while let Some(seen) = todo.pop_front() {
            let before = self.pending.back().map(|pending| pending.at_ms);
            let Some(anchor) = &mut self.anchor else { return };
            let since_s = (seen.at_ms - anchor.point.at_ms) as f64 / 1e3;
            if since_s <= 0.0 {
                // The corner is later than this fix, which it was put near to.
                continue;
            }
            let (east, north) = anchor.plane.metres(seen.lat_e7, seen.lon_e7);
            let centre = (east / since_s, north / since_s);
            let cut = anchor.region.cut(centre, seen.within / since_s);
            if cut && self.pending.len() < PENDING_MAX {
                let reached = self.candidate.map(|candidate| candidate.at_ms);
                self.pending.push_back(seen);
                let end = seen.at_ms - seen.at_ms.rem_euclid(self.options.tick.ms());
                let covers = before.or(reached).is_none_or(|last| last <= end);
                if covers
                    && end > anchor.point.at_ms
                    && let Some(corner) = best(anchor, end, (east, north), &self.options)
                {
                    self.candidate = Some(corner);
                    self.pending.retain(|pending| pending.at_ms > end);
                }
                continue;
            }
            todo.push_front(seen);
            for pending in std::mem::take(&mut self.pending).into_iter().rev() {
                todo.push_front(pending);
            }
            match (self.candidate, todo.front().copied()) {
                (Some(corner), _) => self.turn_at(corner),
                (None, Some(first)) => self.fall_back(first),
                (None, None) => return,
            }
            let from = self.anchor.as_ref().map_or(i64::MIN, |anchor| anchor.point.at_ms);
            todo.retain(|seen| seen.at_ms > from);
        }
    }
}

/// What became of a fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The line passes it.
    Taken,
    /// It is not later than the last one.
    NotLater,
}

/// The place on the grid that a segment from the anchor can end at: near the middle of where it may, and near the fix.
fn best(anchor: &Anchor, at_ms: i64, fix: (f64, f64), options: &LineOptions) -> Option<Point> {
    let since_s = (at_ms - anchor.point.at_ms) as f64 / 1e3;
    let step = options.grid.step_e7();
    let middle = anchor.region.middle();
    let middle = (middle.0 * since_s, middle.1 * since_s);
    let aims = [((middle.0 + fix.0) / 2.0, (middle.1 + fix.1) / 2.0), middle];
    for aim in aims {
        let (lat_e7, lon_e7) = anchor.plane.place(aim.0, aim.1);
        let (lat, lon) = (i64::from(lat_e7), i64::from(lon_e7));
        let nearest = |value: i64| (value + step / 2).div_euclid(step) * step;
        let mut found: Option<(f64, Point)> = None;
        for north in -1..=1 {
            for east in -1..=1 {
                let (lat, lon) = (nearest(lat) + north * step, nearest(lon) + east * step);
                let (Ok(lat_e7), Ok(lon_e7)) = (i32::try_from(lat), i32::try_from(lon)) else {
                    continue;
                };
                if lat.abs() > 900_000_000 || lon.abs() > 1_800_000_000 {
                    continue;
                }
                let (x, y) = anchor.plane.metres(lat_e7, lon_e7);
                let far = (x - aim.0).hypot(y - aim.1);
                if found.is_none_or(|(nearest, _)| far < nearest)
                    && anchor.region.contains((x / since_s, y / since_s))
                {
                    let point = Point {
                        at_ms,
                        lat_e7,
                        lon_e7,
                        after_gap: false,
                    };
                    found = Some((far, point));
                }
            }
        }
        if let Some((_, point)) = found {
            return Some(point);
        }
    }
    None
}

/// Velocities, as the convex hull of its corners, counter-clockwise.
#[derive(Debug, Clone, Copy)]
struct Region {
    corners: [(f64, f64); REGION_MAX],
    count: usize,
}

impl Region {
    fn within(speed: f64) -> Self {
        let mut corners = [(0.0, 0.0); REGION_MAX];
        corners[..4].copy_from_slice(&[(-speed, -speed), (speed, -speed), (speed, speed), (-speed, speed)]);
        Self { corners, count: 4 }
    }

    fn corners(&self) -> &[(f64, f64)] {
        &self.corners[..self.count]
    }

    fn middle(&self) -> (f64, f64) {
        let (mut x, mut y) = (0.0, 0.0);
        for corner in self.corners() {
            x += corner.0;
            y += corner.1;
        }
        let count = self.count as f64;
        (x / count, y / count)
    }

    fn contains(&self, velocity: (f64, f64)) -> bool {
        let corners = self.corners();
        let mut from = corners[self.count - 1];
        for &to in corners {
            let side = (to.0 - from.0) * (velocity.1 - from.1) - (to.1 - from.1) * (velocity.0 - from.0);
            if side < 0.0 {
                return false;
            }
            from = to;
        }
        true
    }

    /// Cuts everything off that is not in the disk; true where something is left. What is left of nothing is left as it
    /// was.
    fn cut(&mut self, centre: (f64, f64), radius: f64) -> bool {
        let radius = radius * APOTHEM;
        let inside = |corner: &(f64, f64)| {
            let (x, y) = (corner.0 - centre.0, corner.1 - centre.1);
            x * x + y * y <= radius * radius
        };
        if self.corners().iter().all(inside) {
            return true;
        }
        let mut cut = *self;
        for side in SIDES {
            let bound = side.0 * centre.0 + side.1 * centre.1 + radius;
            if !cut.cut_side(side, bound) {
                return false;
            }
        }
        *self = cut;
        true
    }

    /// Cuts off what lies beyond a line; true where something is left.
    fn cut_side(&mut self, normal: (f64, f64), bound: f64) -> bool {
        let beyond = |corner: &(f64, f64)| normal.0 * corner.0 + normal.1 * corner.1 - bound;
        if self.corners().iter().all(|corner| beyond(corner) <= 0.0) {
            return true;
        }
        if self.count == REGION_MAX {
            // Smaller than it might be, and so within the bound.
            self.count -= 1;
        }
        let mut left = Self { count: 0, ..*self };
        let mut from = self.corners()[self.count - 1];
        let mut from_beyond = beyond(&from);
        for index in 0..self.count {
            let to = self.corners[index];
            let to_beyond = beyond(&to);
            if (from_beyond < 0.0 && to_beyond > 0.0) || (from_beyond > 0.0 && to_beyond < 0.0) {
                let share = from_beyond / (from_beyond - to_beyond);
                left.add((from.0 + share * (to.0 - from.0), from.1 + share * (to.1 - from.1)));
            }
            if to_beyond <= 0.0 {
                left.add(to);
            }
            (from, from_beyond) = (to, to_beyond);
        }
        *self = left;
        self.count >= 3
    }

    fn add(&mut self, corner: (f64, f64)) {
        if self.count < REGION_MAX {
            self.corners[self.count] = corner;
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPTIONS: LineOptions = LineOptions {
        error_m: 10.0,
        grid: Grid::ROAD,
        tick: Tick::SECOND,
    };

    /// How far a fix is from the line at its time.
    fn error_m(corners: &[Point], at_ms: i64, lat_e7: i32, lon_e7: i32) -> f64 {
        let next = corners.partition_point(|corner| corner.at_ms < at_ms).max(1);
        let (from, to) = (corners[next - 1], corners[next.min(corners.len() - 1)]);
        let share = if to.at_ms == from.at_ms {
            0.0
        } else {
            (at_ms - from.at_ms) as f64 / (to.at_ms - from.at_ms) as f64
        };
        let plane = Plane::around(from.lat_e7, from.lon_e7);
        let (east, north) = plane.metres(to.lat_e7, to.lon_e7);
        let (x, y) = plane.metres(lat_e7, lon_e7);
        (x - share * east).hypot(y - share * north)
    }

    fn corners(line: &mut Line) -> Vec<Point> {
        std::iter::from_fn(|| line.poll_corner()).collect()
    }

    /// A drive in steps of (milliseconds, metres east, metres north).
    fn drive(lat_e7: i32, steps: &[(i64, f64, f64)]) -> Vec<(i64, i32, i32)> {
        let mut at_ms = 1_600_000_000_000;
        let (mut lat, mut lon) = (lat_e7, 1_799_990_000);
        let mut fixes = vec![(at_ms, lat, lon)];
        for &(step_ms, east, north) in steps {
            at_ms += step_ms;
            (lat, lon) = Plane::around(lat, lon).place(east, north);
            fixes.push((at_ms, lat, lon));
        }
        fixes
    }

    proptest! {
        #[test]
        fn no_fix_is_farther_from_the_line_than_its_bound(
            lat_e7 in -800_000_000i32..800_000_000,
            steps in prop::collection::vec((1i64..4, -60.0f64..60.0, -60.0f64..60.0, 0u8..4), 1..120),
            cut_every in 1usize..50,
        ) {
            // Smooth stretches with turns between, across the antimeridian.
            let mut speed = (0.0, 0.0);
            let steps: Vec<(i64, f64, f64)> = steps.into_iter().map(|(seconds, east, north, turns)| {
                if turns == 0 {
                    speed = (east, north);
                }
                (seconds * 1_000, speed.0 + east / 30.0, speed.1 + north / 30.0)
            }).collect();
            let fixes = drive(lat_e7, &steps);
            let mut line = Line::new(OPTIONS);
            let mut all = Vec::new();
            for (index, &(at_ms, lat, lon)) in fixes.iter().enumerate() {
                prop_assert_eq!(line.push(at_ms, lat, lon, 0.0), Pushed::Taken);
                if index % cut_every == 0 {
                    line.cut();
                    all.extend(corners(&mut line));
                    prop_assert_eq!(all.last().map(|corner: &Point| corner.at_ms), Some(at_ms));
                }
            }
            line.cut();
            all.extend(corners(&mut line));
            prop_assert!(all.windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms));
            for &(at_ms, lat, lon) in &fixes {
                let error = error_m(&all, at_ms, lat, lon);
                prop_assert!(error <= 10.001, "{error} m at {at_ms}");
            }
        }

        #[test]
        fn fixes_between_ticks_are_within_the_bound_too(
            steps in prop::collection::vec((700i64..6_000, -20.0f64..20.0, -20.0f64..20.0), 2..80),
        ) {
            let fixes = drive(481_000_000, &steps);
            let mut line = Line::new(LineOptions { tick: Tick::at_most(100), ..OPTIONS });
            for &(at_ms, lat, lon) in &fixes {
                line.push(at_ms, lat, lon, 0.0);
            }
            line.cut();
            let all = corners(&mut line);
            let end = all.last().unwrap().at_ms;
            for &(at_ms, lat, lon) in fixes.iter().filter(|fix| fix.0 <= end) {
                prop_assert!(error_m(&all, at_ms, lat, lon) <= 10.001);
            }
        }

        #[test]
        fn whatever_the_fixes_are_nothing_panics_and_time_goes_on(
            fixes in prop::collection::vec((any::<i64>(), any::<i32>(), any::<i32>(), any::<f64>()), 0..40),
        ) {
            let mut line = Line::new(OPTIONS);
            for (at_ms, lat, lon, within) in fixes {
                line.push(at_ms / 4, lat % 900_000_001, lon % 1_800_000_001, within);
            }
            line.cut();
            let all = corners(&mut line);
            prop_assert!(all.windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms));
        }
    }

    #[test]
    fn a_straight_drive_is_two_corners_and_a_parked_receiver_costs_nothing() {
        let straight: Vec<(i64, f64, f64)> = (0..600).map(|_| (1_000, 14.0, 3.0)).collect();
        let parked: Vec<(i64, f64, f64)> = (0..600)
            .map(|n| (1_000, [4.0, -4.0, 3.0, -3.0][n % 4], [-2.0, 2.0][n % 2]))
            .collect();
        for steps in [straight, parked] {
            let mut line = Line::new(OPTIONS);
            for (at_ms, lat, lon) in drive(0, &steps) {
                line.push(at_ms, lat, lon, 0.0);
            }
            line.cut();
            assert_eq!(corners(&mut line).len(), 2);
        }
    }

    #[test]
    fn a_fix_that_may_be_far_off_bends_nothing() {
        let mut line = Line::new(OPTIONS);
        for (index, (at_ms, lat, lon)) in drive(0, &[(1_000, 10.0, 0.0); 60]).into_iter().enumerate() {
            let astray = if index == 30 { 4_000 } else { 0 };
            line.push(at_ms, lat + astray, lon, if index == 30 { 60.0 } else { 0.0 });
        }
        line.cut();
        assert_eq!(corners(&mut line).len(), 2);
    }

    #[test]
    fn a_fix_that_is_not_later_is_said_to_be() {
        let mut line = Line::new(OPTIONS);
        assert_eq!(line.push(5_000, 0, 0, 0.0), Pushed::Taken);
        assert_eq!(line.push(5_000, 9, 9, 0.0), Pushed::NotLater);
        assert_eq!(line.push(4_000, 9, 9, 0.0), Pushed::NotLater);
        line.restart();
        assert_eq!(line.push(4_000, 9, 9, 0.0), Pushed::Taken);
    }
}
