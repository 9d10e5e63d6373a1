//! What a device says of where it is, and when: fixes in, batches out.
//!
//! The sender runs the dead reckoning of the receiver and speaks where the receiver would be wrong by more than
//! `live_m` by the next fix, or would have heard nothing for longer than `age_s`; not on a timer. Each batch brings the corners of the
//! history since the one before and how the device moves at the last of them.
//!
//! Without a link nobody is wrong about anything: the line goes on uncut, and a batch is what fits a frame.
//!
//! | what the receiver of the satellites does | what comes of it |
//! |---|---|
//! | says a moment twice, or one up to 10 s before the last | left out, and counted |
//! | goes back further: its clock was set | a line of its own begins, in a batch of its own |
//! | says nothing for more than a minute | the line begins again, and says that the way between was not watched |
//! | says that it may be wrong by more than the bound | the line and the reckoning need not be closer than that |
//! | says no speed and course | they follow from the last three seconds; from fixes that are further apart they are taken |
//! | says the same noise for hours, as it is parked | nothing; where live is asked for, one point each `age_s` |
//!
//! Bound: a batch has at most [`CORNERS_MAX`] corners or [`FIXES_MAX`] fixes, the line holds 3 kB, and for the velocity 16 fixes are kept.

use super::policy::{History, Policy};
use std::collections::VecDeque;
use waypost_proto::{Fix, Line, Point, Reckoning, Tick, TrackBatch, Velocity};

/// Corners that make about a packet.
const CORNERS_MAX: usize = 280;
/// Fixes that make about a packet.
const FIXES_MAX: usize = 480;
/// A fix so much before the last is late; one from further back means that the clock was set.
const LATE_MS: i64 = 10_000;
/// Nothing was watched between two fixes that are further apart.
const GAP_MS: i64 = 60_000;
/// How a device moves follows from so long before a fix, or a little more.
const VELOCITY_MS: i64 = 3_000;
/// Fixes that are further apart say nothing about how a device moves now.
const VELOCITY_MS_MAX: i64 = 30_000;
/// Fixes that may be further off say nothing about it either; metres.
const BLURRED_M: u32 = 30;
/// As long as a device has been in one place, it stands.
const STANDS_MS: i64 = 10_000;
/// Fixes that are kept for that.
const RECENT_MAX: usize = 16;
/// Where nobody looks and nothing moves, this is how often the device is heard nevertheless.
const STANDSTILL_MS: i64 = 3_600_000;

/// Whether what is said now is heard now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hearing {
    Now,
    Later,
}

/// A batch that is to be an operation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said {
    pub(crate) batch: TrackBatch,
    pub(crate) battery_pct: Option<u32>,
}

/// The sender of one device. After each input take what it says with [`poll_said`](Self::poll_said).
#[derive(Debug)]
pub(crate) struct Sender {
    policy: Policy,
    line: Line,
    /// What the times of the line are multiples of: as long as the fixes allow.
    tick: Tick,
    /// Done, and in no batch yet.
    points: Vec<Point>,
    /// Whether the way to the next point was watched.
    watched: bool,
    /// Whether that holds for the first of `points`.
    leads_on: bool,
    recent: VecDeque<Fix>,
    /// What the receiver believes.
    believed: Option<Believed>,
    said: VecDeque<Said>,
    late: u64,
}

/// What the receiver believes.
#[derive(Debug, Clone, Copy)]
struct Believed {
    reckoning: Reckoning,
    /// The fix with which it was told.
    told_ms: i64,
    /// How wrong it was at the last fix, in metres, and the most since it was told.
    error_m: f64,
    worst_m: f64,
}

impl Sender {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            line: Line::new(policy.line(Tick::SECOND)),
            tick: Tick::SECOND,
            points: Vec::new(),
            watched: false,
            leads_on: false,
            recent: VecDeque::new(),
            believed: None,
            said: VecDeque::new(),
            late: 0,
        }
    }

    /// What is asked for from now on. Where the history is to be another, what is in hand is said as it was asked for.
    pub(crate) fn set_policy(&mut self, policy: Policy) {
        if policy.history != self.policy.history {
            let watched = self.watched;
            self.break_off();
            self.watched = watched;
            self.line = Line::new(policy.line(self.tick));
        }
        self.policy = policy;
    }

    /// A fix, as it comes.
    pub(crate) fn handle_fix(&mut self, fix: Fix, hearing: Hearing) {
        if let Some(last) = self.recent.back() {
            let step_ms = fix.at_ms.saturating_sub(last.at_ms);
            if (-LATE_MS..=0).contains(&step_ms) {
                self.late += 1;
                return;
            }
            if step_ms < 0 {
                self.break_off();
            } else if step_ms > GAP_MS {
                self.line.restart();
                self.collect();
                self.watched = false;
                self.recent.clear();
            }
        }
        self.be_as_fine_as(fix);
        self.recent.push_back(fix);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        self.draw(fix);
        if self.is_due(fix, hearing) {
            self.speak(fix);
        }
        if let Some(believed) = &mut self.believed {
            believed.look(&fix);
        }
    }

    /// Says what is in hand.
    pub(crate) fn flush(&mut self) {
        if let Some(&last) = self.recent.back() {
            self.speak(last);
        }
    }

    /// The next batch that is to be an operation.
    pub(crate) fn poll_said(&mut self) -> Option<Said> {
        self.said.pop_front()
    }

    /// What would be lost if the device stopped now.
    pub(crate) fn in_hand(&self) -> Option<Said> {
        let mut line = self.line.clone();
        line.cut();
        let mut points = self.points.clone();
        points.extend(std::iter::from_fn(|| line.poll_corner()));
        (!points.is_empty()).then(|| self.batch(points))
    }

    /// Fixes that were left out, as they were not later than the one before.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }

    /// Corners lie on ticks, and so do fixes: or else the last one before a gap would lie beyond the end of its line.
    fn be_as_fine_as(&mut self, fix: Fix) {
        let tick = Tick::of([fix.at_ms]);
        if tick < self.tick {
            self.line.cut();
            self.collect();
            self.tick = tick;
            self.line = Line::new(self.policy.line(tick));
        }
    }

    fn draw(&mut self, fix: Fix) {
        match self.policy.history {
            History::Within(_) => {
                let within_m = fix.accuracy_m.map_or(0.0, f64::from);
                self.line.push(fix.at_ms, fix.lat_e7, fix.lon_e7, within_m);
                self.collect();
            }
            History::EveryFix => self.keep(Point::from(&fix)),
        }
    }

    /// Takes the corners that are done.
    fn collect(&mut self) {
        while let Some(corner) = self.line.poll_corner() {
            self.keep(corner);
        }
    }

    fn keep(&mut self, point: Point) {
        if self.points.is_empty() {
            self.leads_on = self.watched;
        }
        let after_gap = !self.watched && !self.points.is_empty();
        self.points.push(Point { after_gap, ..point });
        self.watched = true;
    }

    fn is_due(&self, fix: Fix, hearing: Hearing) -> bool {
        let points_max = match self.policy.history {
            History::Within(_) => CORNERS_MAX,
            History::EveryFix => FIXES_MAX,
        };
        if self.points.len() >= points_max {
            return true;
        }
        if hearing == Hearing::Later {
            return false;
        }
        let Some(believed) = &self.believed else {
            return true;
        };
        let error_m = believed.reckoning.error_m(fix.at_ms, fix.lat_e7, fix.lon_e7);
        if let Some(live_m) = self.policy.live_m {
            let (live_m, within_m) = (f64::from(live_m), f64::from(fix.accuracy_m.unwrap_or(0)));
            // What the last second added the next one adds again. A fix that may be far off proves nobody wrong who is within
            // that, and tells nothing about the next second.
            let growth_m = (error_m - believed.error_m).max(0.0);
            let is_wrong = if within_m > live_m {
                error_m > within_m
            } else {
                error_m + growth_m > live_m
            };
            if is_wrong {
                return true;
            }
        }
        let age_ms = match self.policy.live_m {
            None if believed.worst_m.max(error_m) <= self.policy.error_m() => STANDSTILL_MS,
            _ => i64::from(self.policy.age_s) * 1_000,
        };
        fix.at_ms + self.step_ms() > believed.told_ms.saturating_add(age_ms)
    }

    /// From one fix to the next, as it was last.
    fn step_ms(&self) -> i64 {
        let mut newest = self.recent.iter().rev();
        match (newest.next(), newest.next()) {
            (Some(last), Some(before)) => last.at_ms - before.at_ms,
            _ => 0,
        }
    }

    fn speak(&mut self, fix: Fix) {
        self.line.cut();
        self.collect();
        if self.points.is_empty() {
            return;
        }
        let points = std::mem::take(&mut self.points);
        let said = self.batch(points);
        let from = *said.batch.points.last().expect("a batch has points");
        self.believed = Some(Believed {
            reckoning: Reckoning {
                from,
                velocity: said.batch.velocity.unwrap_or_default(),
            },
            told_ms: fix.at_ms,
            error_m: 0.0,
            worst_m: 0.0,
        });
        self.said.push_back(said);
    }

    fn batch(&self, points: Vec<Point>) -> Said {
        let exact = self.policy.history == History::EveryFix;
        Said {
            batch: TrackBatch {
                grid: self.policy.grid(),
                tick: Tick::of(points.iter().map(|point| point.at_ms)),
                leads_on: self.leads_on,
                exact,
                points,
                velocity: self.policy.live_m.map(|_| self.velocity()),
            },
            battery_pct: self.recent.back().and_then(|fix| fix.battery_pct),
        }
    }

    /// What follows has nothing to do with what was.
    fn break_off(&mut self) {
        self.line.restart();
        self.collect();
        if !self.points.is_empty() {
            let points = std::mem::take(&mut self.points);
            let said = self.batch(points);
            self.said.push_back(said);
        }
        self.watched = false;
        self.recent.clear();
        self.believed = None;
    }

    /// How the device moves at the last fix.
    fn velocity(&self) -> Velocity {
        let mut sharp = (self.recent.iter().rev()).filter(|fix| fix.accuracy_m.unwrap_or(0) <= BLURRED_M);
        let Some(last) = sharp.next() else {
            return Velocity::default();
        };
        if self.stands(last) {
            return Velocity::default();
        }
        let mut oldest = last;
        let before = sharp.find(|fix| {
            oldest = fix;
            last.at_ms - fix.at_ms >= VELOCITY_MS
        });
        let before = before.unwrap_or(oldest);
        let apart_ms = last.at_ms - before.at_ms;
        let measured = last.motion.speed_cmps.zip(last.motion.course_ddeg);
        match measured {
            // Of fixes that are far apart the last says more by itself.
            Some((speed, course)) if apart_ms == 0 || apart_ms > 2 * VELOCITY_MS => {
                let (mps, course) = (f64::from(speed) / 100.0, (f64::from(course) / 10.0).to_radians());
                Velocity::from_mps(mps * course.cos(), mps * course.sin())
            }
            _ if apart_ms == 0 || apart_ms > VELOCITY_MS_MAX => Velocity::default(),
            _ => Velocity::between(&before.into(), &last.into()),
        }
    }

    /// Whether the fixes of the last ten seconds and more are one place with the noise of a receiver around it.
    fn stands(&self, last: &Fix) -> bool {
        let here = Reckoning {
            from: last.into(),
            velocity: Velocity::default(),
        };
        let error_m = |fix: &Fix| here.error_m(fix.at_ms, fix.lat_e7, fix.lon_e7);
        let long = (self.recent.front()).is_some_and(|first| last.at_ms - first.at_ms >= STANDS_MS);
        long && self
            .recent
            .iter()
            .all(|fix| error_m(fix) <= self.policy.error_m())
    }
}

impl Believed {
    fn look(&mut self, fix: &Fix) {
        self.error_m = self.reckoning.error_m(fix.at_ms, fix.lat_e7, fix.lon_e7);
        self.worst_m = self.worst_m.max(self.error_m);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START_MS: i64 = 1_764_000_000_000;

    /// A fix so many milliseconds after the start, so many metres north and east.
    fn fix(after_ms: i64, north_m: f64, east_m: f64) -> Fix {
        let lat = 48.0 + north_m / 111_200.0;
        let lon = 9.0 + east_m / (111_300.0 * 48f64.to_radians().cos());
        Fix::from_degrees(START_MS + after_ms, lat, lon).unwrap()
    }

    /// What a sender says of fixes, all of it as a receiver reads it.
    fn said(sender: &mut Sender) -> Vec<TrackBatch> {
        let all = std::iter::from_fn(|| sender.poll_said());
        all.map(|said| TrackBatch::from_bytes(&said.batch.to_bytes().unwrap()).unwrap())
            .collect()
    }

    fn drive(policy: Policy, hearing: Hearing, fixes: impl IntoIterator<Item = Fix>) -> Vec<TrackBatch> {
        let mut sender = Sender::new(policy);
        let mut all = Vec::new();
        for fix in fixes {
            sender.handle_fix(fix, hearing);
            all.extend(said(&mut sender));
        }
        sender.flush();
        all.extend(said(&mut sender));
        all
    }

    fn straight(seconds: i64) -> impl Iterator<Item = Fix> {
        (0..seconds).map(|s| fix(s * 1_000, s as f64 * 14.0, 0.0))
    }

    #[test]
    fn who_goes_on_as_he_went_is_heard_when_the_last_word_becomes_old() {
        let said = drive(Policy::STANDARD, Hearing::Now, straight(1_800));
        // The first word, its correction once the speed is known, six for the age, and the end.
        assert!((7..=10).contains(&said.len()), "{}", said.len());
        assert!(said.iter().skip(1).all(|batch| batch.leads_on));
        assert!(!said[0].leads_on);
    }

    #[test]
    fn a_parked_receiver_costs_a_word_each_age_where_somebody_looks_and_one_an_hour_where_nobody_does() {
        let noise = |seconds: i64| {
            (0..seconds).map(|s| {
                fix(
                    s * 1_000,
                    [4.0, -3.0, 1.0][s.rem_euclid(3).unsigned_abs() as usize],
                    [-2.0, 3.0][s.rem_euclid(2).unsigned_abs() as usize],
                )
            })
        };
        let live = drive(Policy::STANDARD, Hearing::Now, noise(7_200));
        let points: usize = live.iter().map(|batch| batch.points.len()).sum();
        assert!(live.len() <= 30 && points <= 60, "{} with {points}", live.len());
        assert!(drive(Policy::ECONOMY, Hearing::Now, noise(7_200)).len() <= 4);
    }

    #[test]
    fn without_a_link_the_line_is_not_cut() {
        let zigzag = || (0..3_600i64).map(|s| fix(s * 1_000, s as f64 * 10.0, ((s / 60) % 2 * 60) as f64));
        let offline = drive(Policy::STANDARD, Hearing::Later, zigzag());
        assert_eq!(offline.len(), 1);
        assert!(drive(Policy::STANDARD, Hearing::Now, zigzag()).len() > 10);
    }

    #[test]
    fn what_is_gathered_without_a_link_is_said_in_packets() {
        let wild = (0..20_000i64).map(|s| fix(s * 1_000, (s % 7 * 40) as f64, (s % 11 * 40) as f64));
        let batches = drive(Policy::STANDARD, Hearing::Later, wild);
        assert!(batches.len() > 10);
        assert!(batches.iter().all(|batch| batch.points.len() <= CORNERS_MAX + 1));
    }

    #[test]
    fn a_gap_is_said_to_be_one_in_a_batch_and_between_two() {
        let fixes = || straight(20).chain((0..20).map(|s| fix(200_000 + s * 1_000, 0.0, 500.0)));
        let one = drive(Policy::STANDARD, Hearing::Later, fixes());
        assert_eq!(one.len(), 1);
        let gaps = one[0].points.iter().filter(|point| point.after_gap).count();
        assert_eq!(gaps, 1);
        let several = drive(Policy::STANDARD, Hearing::Now, fixes());
        let begins = several.iter().filter(|batch| !batch.leads_on).count();
        let gaps = several
            .iter()
            .flat_map(|batch| &batch.points)
            .filter(|point| point.after_gap);
        assert_eq!(begins + gaps.count(), 2);
    }

    #[test]
    fn a_moment_that_comes_again_is_left_out_and_a_clock_that_is_set_back_begins_anew() {
        let mut sender = Sender::new(Policy::STANDARD);
        for at_s in [0, 1, 2, 2, 1, 3] {
            sender.handle_fix(fix(at_s * 1_000, at_s as f64, 0.0), Hearing::Later);
        }
        assert_eq!(sender.late(), 2);
        for at_s in 0..5 {
            sender.handle_fix(fix(-3_600_000 + at_s * 1_000, at_s as f64, 0.0), Hearing::Later);
        }
        sender.flush();
        let batches = said(&mut sender);
        assert_eq!(batches.len(), 2);
        assert!(
            batches.iter().all(|batch| !batch.leads_on),
            "neither leads on from the other"
        );
        assert!(batches[1].points[0].at_ms < batches[0].points[0].at_ms);
    }

    #[test]
    fn a_fix_that_may_be_far_off_makes_nobody_speak() {
        let with_a_jump = |accuracy_m| {
            straight(200).map(move |mut fix| {
                if fix.at_ms == START_MS + 100_000 {
                    fix.lat_e7 += 30_000;
                    fix.accuracy_m = accuracy_m;
                }
                fix
            })
        };
        let sure = drive(Policy::STANDARD, Hearing::Now, with_a_jump(None)).len();
        let unsure = drive(Policy::STANDARD, Hearing::Now, with_a_jump(Some(600))).len();
        assert_eq!(unsure, drive(Policy::STANDARD, Hearing::Now, straight(200)).len());
        assert!(sure > unsure);
    }

    #[test]
    fn an_audit_has_every_fix() {
        let batches = drive(Policy::AUDIT, Hearing::Now, straight(300));
        let points: Vec<Point> = batches.iter().flat_map(|batch| batch.points.clone()).collect();
        let times: Vec<i64> = points.iter().map(|point| point.at_ms).collect();
        assert_eq!(times, straight(300).map(|fix| fix.at_ms).collect::<Vec<_>>());
        assert!(
            batches
                .iter()
                .all(|batch| batch.exact && batch.velocity.is_none())
        );
        assert!((5..=7).contains(&batches.len()), "{}", batches.len());
    }

    #[test]
    fn another_history_leads_on_from_the_one_before() {
        let mut sender = Sender::new(Policy::STANDARD);
        for fix in straight(10) {
            sender.handle_fix(fix, Hearing::Later);
        }
        sender.set_policy(Policy::AUDIT);
        for fix in straight(20).skip(10) {
            sender.handle_fix(fix, Hearing::Later);
        }
        sender.flush();
        let batches = said(&mut sender);
        let exact: Vec<(bool, bool)> = batches
            .iter()
            .map(|batch| (batch.exact, batch.leads_on))
            .collect();
        assert_eq!(exact, [(false, false), (true, true)]);
    }

    #[test]
    fn speed_and_course_of_the_receiver_count_where_fixes_are_far_apart() {
        let mut sender = Sender::new(Policy::STANDARD);
        let mut last = fix(10_000, 0.0, 50.0);
        last.motion.speed_cmps = Some(1_000);
        last.motion.course_ddeg = Some(900);
        sender.handle_fix(fix(0, 0.0, 0.0), Hearing::Later);
        sender.handle_fix(last, Hearing::Later);
        sender.flush();
        let velocity = said(&mut sender)[0].velocity;
        assert_eq!(velocity, Some(Velocity { north: 0, east: 40 }));
    }

    /// How far a line of points is from a fix, in metres.
    fn error_m(points: &[Point], fix: &Fix) -> f64 {
        let next = points.partition_point(|point| point.at_ms < fix.at_ms);
        let to = points[next.min(points.len() - 1)];
        let from = points[next.saturating_sub(1)];
        let velocity = |to: i32, from: i32, share: f64| f64::from(from) + share * f64::from(to - from);
        let apart = to.at_ms - from.at_ms;
        let share = if apart == 0 {
            0.0
        } else {
            (fix.at_ms - from.at_ms) as f64 / apart as f64
        };
        let there = Point {
            at_ms: fix.at_ms,
            lat_e7: velocity(to.lat_e7, from.lat_e7, share).round() as i32,
            lon_e7: velocity(to.lon_e7, from.lon_e7, share).round() as i32,
            after_gap: false,
        };
        let still = Reckoning {
            from: there,
            velocity: Velocity::default(),
        };
        still.error_m(fix.at_ms, fix.lat_e7, fix.lon_e7)
    }

    proptest! {
        #[test]
        fn the_history_is_within_its_bound_and_nobody_is_wrong_by_more_than_was_asked(
            steps in prop::collection::vec((1i64..=3, -3.0f64..3.0, -3.0f64..3.0), 2..400),
            phase in prop::sample::select(vec![0i64, 1, 250, 700]),
        ) {
            let (mut at_ms, mut place, mut speed) = (phase, (0.0, 0.0), (0.0f64, 0.0f64));
            let fixes: Vec<Fix> = steps.iter().map(|&(seconds, north, east)| {
                at_ms += seconds * 1_000;
                speed = ((speed.0 + north).clamp(-30.0, 30.0), (speed.1 + east).clamp(-30.0, 30.0));
                place = (place.0 + speed.0 * seconds as f64, place.1 + speed.1 * seconds as f64);
                fix(at_ms, place.0, place.1)
            }).collect();
            let mut sender = Sender::new(Policy::STANDARD);
            let (mut points, mut shown): (Vec<Point>, Option<Reckoning>) = (Vec::new(), None);
            for fix in &fixes {
                sender.handle_fix(*fix, Hearing::Now);
                for batch in said(&mut sender) {
                    points.extend(&batch.points);
                    shown = Some(Reckoning { from: *points.last().unwrap(), velocity: batch.velocity.unwrap() });
                }
                let shown = shown.expect("the first fix is said");
                prop_assert!(shown.error_m(fix.at_ms, fix.lat_e7, fix.lon_e7) <= 100.0);
                prop_assert!(fix.at_ms - shown.from.at_ms <= 301_000);
            }
            sender.flush();
            points.extend(said(&mut sender).iter().flat_map(|batch| batch.points.clone()));
            prop_assert!(points.windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms));
            for fix in &fixes {
                let error = error_m(&points, fix);
                prop_assert!(error <= 10.1, "{error} m at {}", fix.at_ms);
            }
        }

        #[test]
        fn whatever_comes_can_be_written_or_is_left_out(
            fixes in prop::collection::vec((-200_000i64..4_000_000_000_000, -900_000_000i32..=900_000_000, any::<bool>()), 0..60),
        ) {
            let mut sender = Sender::new(Policy::STANDARD);
            for (at_ms, lat_e7, now) in fixes {
                let fix = Fix { at_ms, lat_e7, ..fix(0, 0.0, 0.0) };
                sender.handle_fix(fix, if now { Hearing::Now } else { Hearing::Later });
                let _ = sender.in_hand();
            }
            sender.flush();
            for said in std::iter::from_fn(|| sender.poll_said()) {
                let times: Vec<i64> = said.batch.points.iter().map(|point| point.at_ms).collect();
                prop_assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
            }
        }
    }
}
