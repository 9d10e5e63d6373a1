//! What the server knows of a device's clock.
//!
//! A device tells its steady clock with each hello, and each frame that has a time says how much it has counted since. Such
//! a frame cannot have arrived before it was sent: at that reading of the steady clock, the server's clock showed at most
//! what it shows now. Each of these bounds is a [`Knot`]. A bound that is late, as its frame was, is brought down by those
//! around it, as far as the rate of the clock is known. Between two knots the clocks run evenly, so that what
//! was done offline, hours ago, is as well known as the two contacts before and after it, however fast the clock runs; what
//! was done before the first contact of a boot rests on the rate alone.
//!
//! What cannot be known: how fast a clock runs at its first contact ever, so that what was done before is wrong by what it
//! gains or loses in that time; and, while a clock that runs more than slightly wrong is followed for the first minutes,
//! whether a frame is late. A clock that runs slow looks like frames that are late, and is wrong by up to
//! [`LATE_MS`] until it is told from them.

/// Knots that are kept of one boot; beyond it goes the one that is nearest to its neighbours.
const KNOTS_MAX: usize = 16;
/// Within this time of the steady clock two knots are enough: a new one takes the place of the last.
const KNOTS_APART_MS: i64 = 5 * 60_000;
/// Of a clock of which nothing is known: parts in a million.
const RATE_PPM_MAX: i64 = 125_000;
/// No rate is known better than this: temperature and corrections of the device's own system change it.
const RATE_DOUBT_PPM_MIN: i64 = 500;
/// A stamp names whole seconds.
const STAMP_MS: i64 = 1_000;
/// By so much two knots may be wrong when they tell the rate.
const RATE_DOUBT_MS: i64 = 10_000;
/// So late a frame may be: a hello that is later says that a clock was set, and what makes more is a clock that runs slow.
const LATE_MS: i64 = 30_000;
/// A later frame within a session says that a clock was set; one that is less late was held up on its way.
const STALLED_MS: i64 = 5 * 60_000;

/// The server's clock showed at most `server_ms` when the device's steady clock showed `steady_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knot {
    /// The device's steady clock; negative for before it began.
    pub steady_ms: i64,
    /// UTC milliseconds.
    pub server_ms: i64,
}

/// Between which bounds the rate of a steady clock lies: by how many parts in a million more time passes on the server than
/// it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rates {
    low_ppm: i64,
    high_ppm: i64,
}

impl Rates {
    fn allow(self, ppm: i64) -> bool {
        (self.low_ppm..=self.high_ppm).contains(&ppm)
    }
}

/// The estimate of one device's clock. Memory and record: at most 300 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockEstimate {
    /// The boot of the knots; 0 for a device that does not say: then each hello begins anew.
    boot: u32,
    /// Ascending by both clocks; at least one.
    knots: Vec<Knot>,
    /// By how much more time passes on the server than the device counts, as earlier boots have told; parts in a million.
    earlier_ppm: i64,
}

impl ClockEstimate {
    /// A device that was never heard before says hello.
    pub fn new(boot: u32, hello: Knot) -> Self {
        Self {
            boot,
            knots: vec![hello],
            earlier_ppm: 0,
        }
    }

    /// What the store holds; `None` where it cannot be.
    pub fn stored(boot: u32, knots: Vec<Knot>, earlier_ppm: i64) -> Option<Self> {
        let ascending = knots.windows(2).all(|pair| pair[0].steady_ms < pair[1].steady_ms);
        let bounded = (1..=KNOTS_MAX).contains(&knots.len()) && earlier_ppm.saturating_abs() <= RATE_PPM_MAX;
        (ascending && bounded).then_some(Self {
            boot,
            knots,
            earlier_ppm,
        })
    }

    /// The boot that the knots are of.
    pub fn boot(&self) -> u32 {
        self.boot
    }

    /// The knots, oldest first.
    pub fn knots(&self) -> &[Knot] {
        &self.knots
    }

    /// What earlier boots have told of the rate, in parts in a million.
    pub fn earlier_ppm(&self) -> i64 {
        self.earlier_ppm
    }

    /// The device says hello. In another boot only the rate is still known, and not even that where the clocks show something
    /// else than they can: then the device's, or the server's, was set.
    pub fn hello(&mut self, boot: u32, hello: Knot) {
        if boot == 0 || boot != self.boot {
            *self = Self {
                earlier_ppm: self.likely_ppm(),
                ..Self::new(boot, hello)
            };
        } else if self.is_possible(hello, LATE_MS) {
            self.hear(hello);
        } else {
            *self = Self::new(boot, hello);
        }
    }

    /// Whether the clocks can show this after the last knot, the frame being late by no more than that.
    fn is_possible(&self, heard: Knot, late_ms: i64) -> bool {
        let Some(last) = self.knots.last() else {
            return false;
        };
        let gap = heard.steady_ms.saturating_sub(last.steady_ms);
        let rates = self.shown();
        let after = |ppm| last.server_ms.saturating_add(stretch(gap, ppm));
        let earliest = after(rates.low_ppm).saturating_sub(LATE_MS);
        let latest = after(rates.high_ppm).saturating_add(late_ms);
        // A stamp is rounded to the nearest second: the last one may be a little ahead.
        gap >= -STAMP_MS && (earliest..=latest).contains(&heard.server_ms)
    }

    /// A frame has arrived that was sent at this reading of the steady clock.
    pub fn hear(&mut self, heard: Knot) {
        let is_next = self
            .knots
            .last()
            .is_some_and(|last| last.steady_ms < heard.steady_ms);
        if is_next && !self.is_possible(heard, STALLED_MS) {
            *self = Self::new(self.boot, heard);
            return;
        }
        match self
            .knots
            .binary_search_by_key(&heard.steady_ms, |knot| knot.steady_ms)
        {
            Ok(same) => self.knots[same].server_ms = self.knots[same].server_ms.min(heard.server_ms),
            Err(place) => self.knots.insert(place, heard),
        }
        self.tighten();
        self.thin();
    }

    /// The server's clock was set: it shows so much more than it would have.
    pub fn server_was_set(&mut self, by_ms: i64) {
        for knot in &mut self.knots {
            knot.server_ms = knot.server_ms.saturating_add(by_ms);
        }
    }

    /// What the server's clock showed when the device's steady clock showed this.
    pub fn server_ms(&self, steady_ms: i64) -> i64 {
        let place = self.knots.partition_point(|knot| knot.steady_ms <= steady_ms);
        let (before, after) = (
            place.checked_sub(1).map(|at| self.knots[at]),
            self.knots.get(place),
        );
        match (before, after) {
            (Some(before), Some(after)) => {
                let parts = (i128::from(steady_ms) - i128::from(before.steady_ms))
                    * (i128::from(after.server_ms) - i128::from(before.server_ms))
                    / (i128::from(after.steady_ms) - i128::from(before.steady_ms));
                before.server_ms.saturating_add(narrow(parts))
            }
            (Some(knot), None) => self.beyond(knot, steady_ms),
            (None, Some(knot)) => self.beyond(*knot, steady_ms),
            (None, None) => steady_ms,
        }
    }

    /// What the device's steady clock shows when the server's clock shows this, after the last knot.
    pub fn steady_ms(&self, server_ms: i64) -> i64 {
        let Some(last) = self.knots.last() else {
            return server_ms;
        };
        let passed = i128::from(server_ms.saturating_sub(last.server_ms)) * 1_000_000
            / i128::from(1_000_000 + self.likely_ppm());
        last.steady_ms.saturating_add(narrow(passed))
    }

    fn beyond(&self, knot: Knot, steady_ms: i64) -> i64 {
        let passed = steady_ms.saturating_sub(knot.steady_ms);
        knot.server_ms.saturating_add(stretch(passed, self.likely_ppm()))
    }

    /// What the knots say of the rate: the better the longer the time between the first and the last is, since either may be
    /// late.
    fn shown(&self) -> Rates {
        let (ppm, doubt) = self.slope().map_or((0, RATE_PPM_MAX), |(ppm, span)| {
            let doubt = RATE_DOUBT_MS.saturating_mul(1_000_000) / span;
            (ppm, doubt.max(RATE_DOUBT_PPM_MIN))
        });
        let possible = |ppm: i64| ppm.clamp(-RATE_PPM_MAX, RATE_PPM_MAX);
        Rates {
            low_ppm: possible(ppm.saturating_sub(doubt)),
            high_ppm: possible(ppm.saturating_add(doubt)),
        }
    }

    /// The bounds of the rate that count. Frames that are late look like a clock that runs slower than it did before, and are
    /// far more frequent: that it does is believed once they cannot explain it.
    fn rates(&self) -> Rates {
        let shown = self.shown();
        if self.is_slow() {
            return shown;
        }
        let high_ppm = shown.high_ppm.min(self.earlier_ppm + RATE_DOUBT_PPM_MIN);
        Rates {
            low_ppm: shown.low_ppm.min(high_ppm),
            high_ppm,
        }
    }

    /// Whether no frame would be so late as to look like the present rate.
    fn is_slow(&self) -> bool {
        self.slope().is_some_and(|(ppm, span)| {
            let late_ppm = LATE_MS.saturating_mul(1_000_000) / span;
            ppm.saturating_sub(late_ppm) > self.earlier_ppm + RATE_DOUBT_PPM_MIN
        })
    }

    /// The rate for what was done before the first knot or after the last. A clock runs as it did before until it is shown not
    /// to: what little two near knots say would be made much of by what was done long before.
    fn likely_ppm(&self) -> i64 {
        let shown = self.shown();
        let slope = self.slope().map_or(0, |(ppm, _)| ppm);
        if shown.allow(self.earlier_ppm) {
            self.earlier_ppm
        } else {
            slope.clamp(shown.low_ppm, shown.high_ppm)
        }
    }

    /// Between the first and the last knot: parts in a million, and the time between them.
    fn slope(&self) -> Option<(i64, i64)> {
        let (first, last) = (self.knots.first()?, self.knots.last()?);
        let span = last.steady_ms.saturating_sub(first.steady_ms);
        let more = i128::from(last.server_ms) - i128::from(first.server_ms) - i128::from(span);
        (span > 0).then(|| (narrow(more * 1_000_000 / i128::from(span)), span))
    }

    /// Brings every knot down to what those around it allow.
    fn tighten(&mut self) {
        if self.is_slow() && self.knots.len() > 2 {
            // What lies between was brought down too far while that was not believed.
            self.knots.drain(1..self.knots.len() - 1);
        }
        let rates = self.rates();
        for at in 1..self.knots.len() {
            let (before, knot) = (self.knots[at - 1], &mut self.knots[at]);
            let gap = knot.steady_ms.saturating_sub(before.steady_ms);
            let latest = before.server_ms.saturating_add(stretch(gap, rates.high_ppm));
            knot.server_ms = knot.server_ms.min(latest);
        }
        for at in (1..self.knots.len()).rev() {
            let (after, knot) = (self.knots[at], &mut self.knots[at - 1]);
            let gap = after.steady_ms.saturating_sub(knot.steady_ms);
            let latest = after.server_ms.saturating_sub(stretch(gap, rates.low_ppm));
            knot.server_ms = knot.server_ms.min(latest);
        }
    }

    /// Keeps the first, the last, and some between them.
    fn thin(&mut self) {
        if let [.., before, _, last] = self.knots[..]
            && last.steady_ms.saturating_sub(before.steady_ms) < KNOTS_APART_MS
        {
            self.knots.remove(self.knots.len() - 2);
        }
        while self.knots.len() > KNOTS_MAX {
            let spans = self.knots.windows(3).enumerate();
            let nearest =
                spans.min_by_key(|(_, three)| three[2].steady_ms.saturating_sub(three[0].steady_ms));
            let Some((before, _)) = nearest else { return };
            self.knots.remove(before + 1);
        }
    }
}

/// How much time passes on the server while the steady clock counts so many milliseconds.
fn stretch(steady_ms: i64, ppm: i64) -> i64 {
    narrow(i128::from(steady_ms) * i128::from(1_000_000 + ppm) / 1_000_000)
}

fn narrow(ms: i128) -> i64 {
    i64::try_from(ms).unwrap_or(if ms < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    const SERVER: i64 = 1_764_000_000_000;

    /// A steady clock that counts `fast_pct` per cent more than passes, and showed 100 hours when the server's showed
    /// [`SERVER`].
    #[derive(Clone, Copy)]
    struct Device {
        fast_pct: i64,
    }

    impl Device {
        fn steady_ms(self, true_ms: i64) -> i64 {
            100 * HOUR + true_ms * (100 + self.fast_pct) / 100
        }

        /// Sent at a moment, so many milliseconds under way.
        fn knot(self, true_ms: i64, delay_ms: i64) -> Knot {
            Knot {
                steady_ms: self.steady_ms(true_ms),
                server_ms: SERVER + true_ms + delay_ms,
            }
        }

        /// The same, with the stamp of a frame, which is a whole number of seconds since the hello.
        fn stamped(self, hello_ms: i64, true_ms: i64, delay_ms: i64) -> Knot {
            let hello = self.steady_ms(hello_ms);
            let since = self.steady_ms(true_ms) - hello;
            Knot {
                steady_ms: hello + (since + 500) / 1_000 * 1_000,
                server_ms: SERVER + true_ms + delay_ms,
            }
        }

        /// How wrong the estimate is for a moment.
        fn error_ms(self, clock: &ClockEstimate, true_ms: i64) -> i64 {
            clock.server_ms(self.steady_ms(true_ms)) - (SERVER + true_ms)
        }
    }

    /// A session in boot 7 from `from` to `to`, with a frame a minute.
    fn session(clock: &mut ClockEstimate, device: Device, from: i64, to: i64, delay_ms: i64) {
        clock.hello(7, device.knot(from, delay_ms));
        frames(clock, device, from, to, delay_ms);
    }

    fn frames(clock: &mut ClockEstimate, device: Device, from: i64, to: i64, delay_ms: i64) {
        for at in (from + MINUTE..=to).step_by(usize::try_from(MINUTE).unwrap()) {
            // Not always at the same place in its second.
            let jitter = at / MINUTE * 373 % 1_000;
            let heard = device.stamped(from, at + jitter, delay_ms + jitter / 5);
            clock.hear(heard);
        }
    }

    #[test]
    fn a_shift_is_right_from_its_beginning_to_its_end_however_fast_the_clock_runs() {
        for fast_pct in [0, 1, 10] {
            let device = Device { fast_pct };
            let mut clock = ClockEstimate::new(7, device.knot(0, 300));
            for minutes in (10..=600).step_by(10) {
                session(&mut clock, device, (minutes - 10) * MINUTE, minutes * MINUTE, 300);
                for at in 0..=minutes {
                    let error = device.error_ms(&clock, at * MINUTE);
                    assert!(
                        (-700..=1_000).contains(&error),
                        "{fast_pct} %, {minutes} {at}: {error}"
                    );
                }
            }
            assert!(clock.knots().len() <= KNOTS_MAX);
        }
    }

    #[test]
    fn that_a_clock_runs_slow_is_believed_when_no_late_frame_explains_it() {
        for (fast_pct, believed) in [(-1, 57), (-10, 7)] {
            let device = Device { fast_pct };
            let mut clock = ClockEstimate::new(7, device.knot(0, 300));
            for minute in 1..=600 {
                clock.hear(device.stamped(0, minute * MINUTE, 300));
                let error = device.error_ms(&clock, minute * MINUTE);
                let within = if minute < believed { -31_000 } else { -1_000 }..=1_000;
                assert!(within.contains(&error), "{fast_pct} %, {minute}: {error}");
            }
            assert!(
                device.error_ms(&clock, 300 * MINUTE).abs() < 1_000,
                "and of what was before"
            );
        }
    }

    #[test]
    fn what_was_done_offline_between_two_contacts_is_known_whatever_the_rate() {
        for fast_pct in [-10, 0, 10] {
            let device = Device { fast_pct };
            let mut clock = ClockEstimate::new(7, device.knot(0, 300));
            clock.hello(7, device.knot(8 * HOUR, 300));
            for at in 0..=8 {
                let error = device.error_ms(&clock, at * HOUR);
                assert!((0..=301).contains(&error), "{fast_pct} %, {at}: {error}");
            }
            // And with that rate what was done before the first, and in the next boot.
            assert!(device.error_ms(&clock, -HOUR).abs() < 1_000);
            let shifted = 5 * HOUR;
            clock.hello(
                8,
                Knot {
                    steady_ms: device.steady_ms(20 * HOUR) - shifted,
                    server_ms: SERVER + 20 * HOUR + 300,
                },
            );
            let an_hour_before = clock.server_ms(device.steady_ms(19 * HOUR) - shifted);
            let error = an_hour_before - (SERVER + 19 * HOUR);
            assert!(error.abs() < 5_000, "{fast_pct} %: {error}");
        }
    }

    #[test]
    fn before_the_first_contact_ever_the_clock_is_believed_to_run_right() {
        let right = Device { fast_pct: 0 };
        let mut clock = ClockEstimate::new(7, right.knot(0, 300));
        assert_eq!(right.error_ms(&clock, -8 * HOUR), 300);
        clock.hear(right.stamped(0, 3_400, 900));
        clock.hear(right.stamped(0, 10 * MINUTE, 400));
        let error = right.error_ms(&clock, -8 * HOUR);
        assert!(
            (0..=900).contains(&error),
            "{error}: what two near frames say is not made much of"
        );
        // The limit: of a clock that does not, nobody can know it yet.
        let fast = Device { fast_pct: 10 };
        let clock = ClockEstimate::new(7, fast.knot(0, 300));
        assert_eq!(fast.error_ms(&clock, -HOUR), -6 * MINUTE + 300);
    }

    #[test]
    fn a_hello_that_was_late_is_put_right_by_the_next_frame() {
        for fast_pct in [-10, 0, 10] {
            let device = Device { fast_pct };
            let mut clock = ClockEstimate::new(7, device.knot(0, 8_000));
            clock.hear(device.stamped(0, 4_000, 300));
            let error = device.error_ms(&clock, 0);
            assert!((-900..=1_400).contains(&error), "{fast_pct} %: {error}");
        }
    }

    #[test]
    fn a_frame_that_is_late_in_a_first_session_changes_nothing_where_the_clock_runs_right() {
        let device = Device { fast_pct: 0 };
        let mut clock = ClockEstimate::new(7, device.knot(0, 300));
        for (at, delay_ms) in [(MINUTE, 4_000), (2 * MINUTE, 9_000), (9 * MINUTE, 8_000)] {
            clock.hear(device.stamped(0, at, delay_ms));
            let error = device.error_ms(&clock, at);
            assert!((-700..=1_300).contains(&error), "{at}: {error}");
        }
    }

    #[test]
    fn a_frame_that_was_late_is_put_right_by_those_before_it() {
        for fast_pct in [0, 10] {
            let device = Device { fast_pct };
            let mut clock = ClockEstimate::new(7, device.knot(0, 300));
            session(&mut clock, device, 0, 2 * HOUR, 300);
            let at = 2 * HOUR + 2 * MINUTE;
            clock.hear(device.stamped(0, at, 20_000));
            let error = device.error_ms(&clock, at);
            assert!((-900..=2_000).contains(&error), "{fast_pct} %: {error}");
        }
    }

    #[test]
    fn a_rate_that_was_learned_and_is_not_true_any_more_is_given_up() {
        let (fast, right) = (Device { fast_pct: 10 }, Device { fast_pct: 0 });
        let mut clock = ClockEstimate::new(7, fast.knot(0, 300));
        session(&mut clock, fast, 0, 4 * HOUR, 300);
        // The device was repaired.
        clock.hello(8, right.knot(5 * HOUR, 300));
        frames(&mut clock, right, 5 * HOUR, 6 * HOUR, 300);
        for at in [307, 330, 360] {
            let error = right.error_ms(&clock, at * MINUTE);
            assert!(error.abs() < 1_500, "{at}: {error}");
        }
    }

    #[test]
    fn a_clock_that_stood_still_or_was_set_is_believed_from_the_next_hello_on() {
        let device = Device { fast_pct: 0 };
        for gap in [-9 * HOUR, 9 * HOUR] {
            let mut clock = ClockEstimate::new(7, device.knot(0, 300));
            session(&mut clock, device, 0, HOUR, 300);
            let hello = Knot {
                steady_ms: device.steady_ms(2 * HOUR),
                server_ms: SERVER + 2 * HOUR + gap,
            };
            clock.hello(7, hello);
            assert_eq!(clock.server_ms(device.steady_ms(2 * HOUR)), hello.server_ms);
            let ten_minutes_before = clock.server_ms(device.steady_ms(110 * MINUTE));
            assert_eq!(ten_minutes_before, hello.server_ms - 10 * MINUTE);
        }
    }

    #[test]
    fn a_reading_that_goes_back_and_a_device_that_tells_no_boot_begin_anew() {
        let device = Device { fast_pct: 0 };
        let mut clock = ClockEstimate::new(7, device.knot(0, 300));
        clock.hello(7, device.knot(HOUR, 300));
        assert_eq!(clock.knots().len(), 2);
        clock.hello(7, device.knot(HOUR / 2, 300));
        assert_eq!(clock.knots(), [device.knot(HOUR / 2, 300)]);
        clock.hello(0, device.knot(HOUR, 300));
        clock.hello(0, device.knot(2 * HOUR, 300));
        assert_eq!(clock.knots(), [device.knot(2 * HOUR, 300)]);
    }

    #[test]
    fn the_clocks_are_found_from_either_side() {
        let device = Device { fast_pct: 10 };
        let mut clock = ClockEstimate::new(7, device.knot(0, 0));
        clock.hello(7, device.knot(8 * HOUR, 0));
        for at in [8, 9, 12] {
            let steady_ms = clock.steady_ms(SERVER + at * HOUR);
            assert!((steady_ms - device.steady_ms(at * HOUR)).abs() < 100);
        }
        clock.server_was_set(-HOUR);
        assert!((device.error_ms(&clock, 4 * HOUR) + HOUR).abs() <= 1);
    }

    #[test]
    fn what_is_stored_is_the_same_and_what_cannot_be_is_refused() {
        let device = Device { fast_pct: 10 };
        let mut clock = ClockEstimate::new(7, device.knot(0, 0));
        session(&mut clock, device, 0, 10 * HOUR, 300);
        let stored = ClockEstimate::stored(clock.boot(), clock.knots().to_vec(), clock.earlier_ppm());
        assert_eq!(stored, Some(clock));
        assert_eq!(ClockEstimate::stored(7, vec![], 0), None);
        let twice = vec![device.knot(0, 0); 2];
        assert_eq!(ClockEstimate::stored(7, twice, 0), None);
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_device_says_nothing_overflows(
            frames in proptest::collection::vec((proptest::num::i64::ANY, proptest::num::i64::ANY, 0u32..3), 1..40),
            at in proptest::num::i64::ANY,
        ) {
            let mut clock = ClockEstimate::new(1, Knot { steady_ms: 0, server_ms: SERVER });
            for (steady_ms, server_ms, boot) in frames {
                let knot = Knot { steady_ms, server_ms };
                if boot == 0 {
                    clock.hear(knot);
                } else {
                    clock.hello(boot, knot);
                }
                proptest::prop_assert!((1..=KNOTS_MAX).contains(&clock.knots().len()));
                clock.server_ms(at);
                clock.steady_ms(at);
            }
        }
    }
}
