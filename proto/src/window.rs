//! How many bytes may be under way without an answer: as many as the link carries in a round trip, and a little more.
//!
//! Both ends use it for what they send. What has no answer yet stands in queues that nobody can reorder any more (the
//! kernel's, the broker's, the carrier's), so a window that is larger than the link makes everything urgent wait behind
//! it. The signal is the delay of the answers, as in LEDBAT and TCP Vegas: what a round trip takes above the shortest one
//! of the connection is time spent in a queue.

use std::time::{Duration, Instant};

/// Above the shortest round trip a queue may cost this much; answers that wait for company, and disks, vary by as much.
const TARGET_DELAY: Duration = Duration::from_millis(400);

/// The window of one direction of one connection, in bytes of content.
///
/// It begins at the floor, doubles with each round trip until a queue shows, and then follows the link between floor and
/// ceiling. Memory: this struct.
#[derive(Debug, Clone)]
pub struct Window {
    frame_bytes: usize,
    floor: usize,
    ceiling: usize,
    bytes: usize,
    /// The shortest round trip; `None` before the first. It does not age: on a path that has become longer the window
    /// stays too small, never too large, and the next connection measures anew.
    shortest: Option<Duration>,
    growth: Growth,
    /// What is sent before this moment still met the queue of before it shrank.
    shrunk_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// By what is answered.
    Doubling,
    /// By one frame for a whole window that is answered.
    Careful,
}

impl Window {
    /// A window that never falls below two frames and never exceeds `ceiling`, which is the floor where it is lower.
    pub fn new(frame_bytes: usize, ceiling: usize) -> Self {
        let floor = frame_bytes.saturating_mul(2).min(ceiling);
        Self {
            frame_bytes,
            floor,
            ceiling,
            bytes: floor,
            shortest: None,
            growth: Growth::Doubling,
            shrunk_until: None,
        }
    }

    /// How many bytes may be under way.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many whole frames may follow what is under way: at least one where nothing is.
    pub fn frames_beside(&self, under_way: usize) -> usize {
        let frames = self.bytes.saturating_sub(under_way) / self.frame_bytes.max(1);
        frames.max(usize::from(under_way == 0))
    }

    /// Something that was sent once, at `sent`, is answered: `acknowledged` bytes of the `under_way` that were under way
    /// before the answer.
    pub fn handle_acknowledged(
        &mut self,
        acknowledged: usize,
        under_way: usize,
        sent: Instant,
        now: Instant,
    ) {
        let round_trip = now.saturating_duration_since(sent);
        let shortest = self
            .shortest
            .map_or(round_trip, |shortest| shortest.min(round_trip));
        self.shortest = Some(shortest);
        let delay = round_trip - shortest;
        let queued = share(self.bytes, delay, round_trip);
        if delay > TARGET_DELAY && queued > self.frame_bytes {
            self.growth = Growth::Careful;
            if self.shrunk_until.is_none_or(|until| until <= sent) {
                self.shrunk_until = Some(now);
                let by_delay = share(self.bytes, shortest + TARGET_DELAY, round_trip);
                let by_queue = self.bytes.saturating_sub(queued - self.frame_bytes);
                self.bytes = by_delay.max(by_queue).max(self.floor);
            }
        } else if under_way.saturating_add(self.frame_bytes) > self.bytes {
            // What does not fill the window says nothing about a larger one.
            let more = match self.growth {
                Growth::Doubling => acknowledged,
                Growth::Careful => self.frame_bytes.saturating_mul(acknowledged) / self.bytes.max(1),
            };
            self.bytes = self.bytes.saturating_add(more).min(self.ceiling);
        }
    }
}

/// So many bytes, times one duration by another.
fn share(bytes: usize, part: Duration, whole: Duration) -> usize {
    let share = bytes as u128 * part.as_micros() / whole.as_micros().max(1);
    usize::try_from(share).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const FRAME: usize = 1_200;
    const CEILING: usize = 16_384;

    /// A sender that always has whole frames to send over a link with this rate and delay, for five minutes; what the
    /// window was at the end, and the longest wait in the queue of the last minute.
    fn saturate(bytes_per_s: f64, one_way: Duration, jitter: &[u8]) -> (Window, Duration, f64) {
        let start = Instant::now();
        let (mut window, mut now, mut link_free) = (Window::new(FRAME, CEILING), start, start);
        let mut under_way: VecDeque<(Instant, Instant)> = VecDeque::new();
        let (mut longest, mut carried) = (Duration::ZERO, 0.0);
        let mut jitter = jitter.iter().cycle();
        while now < start + Duration::from_secs(300) {
            for _ in 0..window.frames_beside(under_way.len() * FRAME) {
                if now > start + Duration::from_secs(240) {
                    longest = longest.max(link_free.saturating_duration_since(now));
                }
                link_free = link_free.max(now) + Duration::from_secs_f64(FRAME as f64 / bytes_per_s);
                let late = Duration::from_millis(u64::from(*jitter.next().unwrap()));
                under_way.push_back((now, link_free + 2 * one_way + late));
            }
            let (sent, answered) = under_way.pop_front().expect("something is under way");
            now = now.max(answered);
            carried += FRAME as f64;
            window.handle_acknowledged(FRAME, (under_way.len() + 1) * FRAME, sent, now);
        }
        (window, longest, carried / 300.0 / bytes_per_s)
    }

    #[test]
    fn a_slow_link_is_kept_busy_and_its_queue_stays_short() {
        let (window, longest, used) = saturate(2_000.0, Duration::from_millis(300), &[0]);
        assert!(window.bytes() <= 4 * FRAME, "{}", window.bytes());
        assert!(longest <= Duration::from_millis(1_300), "{longest:?}");
        assert!(used > 0.9, "{used}");
    }

    #[test]
    fn a_fast_link_gets_the_whole_window() {
        let (window, ..) = saturate(1e6, Duration::from_millis(100), &[0]);
        assert_eq!(window.bytes(), CEILING);
    }

    #[test]
    fn what_does_not_fill_the_window_does_not_make_it_grow() {
        let start = Instant::now();
        let mut window = Window::new(FRAME, CEILING);
        for second in 0..100 {
            let sent = start + Duration::from_secs(second);
            window.handle_acknowledged(100, 100, sent, sent + Duration::from_millis(100));
        }
        assert_eq!(window.bytes(), 2 * FRAME);
    }

    #[test]
    fn a_frame_may_always_leave_where_nothing_is_under_way() {
        let window = Window::new(FRAME, 500);
        assert_eq!(
            (window.bytes(), window.frames_beside(0), window.frames_beside(1)),
            (500, 1, 0)
        );
    }

    proptest! {
        /// Whatever the link: the window stays within its bounds, the link is used, and the queue is short.
        #[test]
        fn the_window_follows_the_link(
            bytes_per_s in 1_000.0..200_000.0f64,
            one_way_ms in 10..700u64,
            jitter in proptest::collection::vec(0..200u8, 1..20),
        ) {
            let (window, longest, used) = saturate(bytes_per_s, Duration::from_millis(one_way_ms), &jitter);
            prop_assert!((2 * FRAME..=CEILING).contains(&window.bytes()));
            let frame_s = FRAME as f64 / bytes_per_s;
            // The target, the jitter that looks like distance, and two frames.
            let bound = 0.4 + 0.2 + 2.0 * frame_s + 0.1;
            prop_assert!(longest.as_secs_f64() <= bound, "{longest:?} > {bound} at {bytes_per_s}");
            let could = (CEILING as f64 / (2.0 * one_way_ms as f64 / 1e3 + 0.2 + frame_s) / bytes_per_s).min(1.0);
            prop_assert!(used > 0.5 * could, "{used} of {could}");
        }

        /// Any answers in any order: no panic, within the bounds.
        #[test]
        fn any_answers_keep_it_within_its_bounds(
            answers in proptest::collection::vec((0..100_000usize, 0..100_000usize, 0..10_000u64, 0..10_000u64), 0..200),
        ) {
            let start = Instant::now();
            let mut window = Window::new(FRAME, CEILING);
            for (acknowledged, under_way, sent, now) in answers {
                let at = |ms| start + Duration::from_millis(ms);
                window.handle_acknowledged(acknowledged, under_way, at(sent), at(now));
                prop_assert!((2 * FRAME..=CEILING).contains(&window.bytes()));
            }
        }
    }
}
