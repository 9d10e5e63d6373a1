//! Fixes on their way to becoming tracks.

use crate::core::{Thinned, thin};
use std::time::{Duration, Instant};
use waypost_proto::{Fix, TRACK_FIXES_MAX};

/// Gathers fixes until they make a track.
///
/// Bound: where the outbox takes no track, up to [`TRACK_FIXES_MAX`] fixes wait; then half of them go, those that the way
/// misses least, so that a long way at a coarse grain is left rather than the end of it.
#[derive(Debug)]
pub(super) struct Recorder {
    fixes: Vec<Fix>,
    first_at: Option<Instant>,
    fixes_max: usize,
    age_max: Duration,
}

impl Recorder {
    pub(super) fn new(fixes_max: usize, age_max: Duration) -> Self {
        Self {
            fixes: Vec::new(),
            first_at: None,
            fixes_max,
            age_max,
        }
    }

    /// Takes a fix; returns the track that is complete with it, or before it: times in a track never go back.
    pub(super) fn record(&mut self, fix: Fix, now: Instant) -> Option<Vec<Fix>> {
        let goes_back = self.fixes.last().is_some_and(|last| fix.at_ms < last.at_ms);
        let complete = if goes_back { self.take() } else { None };
        self.fixes.push(fix);
        self.first_at.get_or_insert(now);
        complete.or_else(|| {
            if self.fixes.len() >= self.fixes_max {
                self.take()
            } else {
                None
            }
        })
    }

    /// When the fixes that wait are to become a track at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        self.first_at.map(|first| first + self.age_max)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// The fixes that wait, as a track.
    pub(super) fn take(&mut self) -> Option<Vec<Fix>> {
        self.first_at = None;
        (!self.fixes.is_empty()).then(|| std::mem::take(&mut self.fixes))
    }

    /// How many fixes wait.
    pub(super) fn waiting(&self) -> usize {
        self.fixes.len()
    }

    /// The outbox did not take a track. Returns how many fixes had to go, and how wrong the way is without them, in metres.
    pub(super) fn put_back(&mut self, mut track: Vec<Fix>, now: Instant) -> (usize, f64) {
        track.append(&mut self.fixes);
        // They were in order within themselves; a track that went back in time came before the rest.
        track.sort_by_key(|fix| fix.at_ms);
        self.first_at = Some(now);
        let (before, mut error_m) = (track.len(), 0.0);
        if before >= TRACK_FIXES_MAX {
            let thinned = thin(&track, TRACK_FIXES_MAX / 2, Duration::MAX);
            Thinned {
                fixes: track,
                error_m,
            } = thinned;
        }
        self.fixes = track;
        (before - self.fixes.len(), error_m)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fix(at_ms: i64) -> Fix {
        Fix::from_degrees(at_ms, 52.0, 13.0).unwrap()
    }

    #[test]
    fn fixes_become_a_track_by_number_by_age_or_when_time_goes_back() {
        let start = Instant::now();
        let mut recorder = Recorder::new(3, Duration::from_secs(30));
        assert_eq!(recorder.record(fix(1), start), None);
        assert_eq!(recorder.record(fix(2), start), None);
        assert_eq!(recorder.record(fix(3), start), Some(vec![fix(1), fix(2), fix(3)]));
        assert_eq!(recorder.record(fix(10), start), None);
        assert_eq!(recorder.record(fix(9), start), Some(vec![fix(10)]));
        assert!(!recorder.is_due(start + Duration::from_secs(29)));
        assert!(recorder.is_due(start + Duration::from_secs(30)));
        assert_eq!(recorder.take(), Some(vec![fix(9)]));
        assert_eq!(recorder.take(), None);
    }

    #[test]
    fn a_full_outbox_thins_what_waits_and_keeps_both_ends_of_the_way() {
        let start = Instant::now();
        let mut recorder = Recorder::new(10, Duration::from_secs(30));
        let mut gone = 0;
        for at in 0..6_000 {
            if let Some(track) = recorder.record(fix(at), start) {
                gone += recorder.put_back(track, start).0;
            }
        }
        let track = recorder.take().unwrap();
        assert_eq!(track.len() + gone, 6_000, "what went is counted");
        assert!(track.len() < TRACK_FIXES_MAX, "{}", track.len());
        assert_eq!(track[0], fix(0));
        assert!(track.last().unwrap().at_ms > 5_900);
    }
}
