//! How long a connection may be idle before the path forgets it.
//!
//! Between a device and its server stand address translators that drop a connection without a word once nothing has
//! crossed it for a while: 30 s on some Wi-Fi, half an hour on some carriers. A ping in time keeps it, and costs 168
//! bytes and a minute of radio. So the longest interval that a network bears is looked for, network by network:
//!
//! - It begins with the first interval, and grows by half after three idle intervals in a row that the connection
//!   survived, up to the longest that is allowed.
//! - A connection that is found dead right after an idle interval, where the next one works soon, speaks against the
//!   interval; twice at about the same length, and it is given up: what was survived before stays, less a
//!   twentieth for pings that leave late.
//! - Seldom (after a day, and after up to a week where that failed) something between what is known to be good and
//!   what is known to fail is tried. One failure is enough then.
//!
//! Idle is a connection on which nothing goes in either direction, so that a vehicle that drives learns nothing, loses
//! nothing and sends no ping.
//!
//! **The rule:** nothing that an app does or a network says makes the interval longer than the ceiling, which is what
//! the server is told in the CONNECT.

use super::write::{Batch, Mutation};
use super::{Core, Now};
use crate::network::NetworkName;
use std::time::{Duration, Instant};

/// Networks that are remembered; beyond it the one that was not used for longest is forgotten, and learnt again.
pub(crate) const NETWORKS_MAX: usize = 16;
/// Idle intervals in a row that have to be survived.
const SURVIVED_MIN: u8 = 3;
/// Below this a ping costs more than the connection that it keeps: one is made again when there is something to say.
const SHORTEST_S: u16 = 15;
/// A connection that works this soon after one was found dead says that the path was there all the time.
const SOON: Duration = Duration::from_secs(60);
const DAY_MS: i64 = 86_400_000;
/// Days between two looks for something longer.
const PAUSE_DAYS_MAX: u8 = 7;

/// What is known of one network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StoredPath {
    pub(crate) network: NetworkName,
    /// The longest interval that was survived often enough; 0 while there is none.
    pub(crate) good_s: u16,
    /// The shortest that is known to fail; 0 while there is none.
    pub(crate) failed_s: u16,
    /// One that failed once; 0 while there is none.
    pub(crate) doubted_s: u16,
    /// Before this moment nothing longer than what is good is tried; by the device's wall clock.
    pub(crate) probe_ms: i64,
    /// Days to the look after that.
    pub(crate) pause_days: u8,
}

/// The interval of the network that the device is in.
#[derive(Debug)]
pub(crate) struct KeepAlive {
    first_s: u16,
    max_s: u16,
    /// The one in use is the last.
    paths: Vec<StoredPath>,
    survived: u8,
    suspect: Option<Suspect>,
    is_changed: bool,
}

/// A connection that was found dead after an idle interval.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    length_s: u16,
    died: Instant,
}

impl KeepAlive {
    /// `paths` as [`poll_changed`](Self::poll_changed) gave them. `first_s` is at most `max_s`.
    pub(crate) fn new(first_s: u16, max_s: u16, paths: Vec<StoredPath>) -> Self {
        let mut keep_alive = Self {
            first_s,
            max_s,
            paths,
            survived: 0,
            suspect: None,
            is_changed: false,
        };
        keep_alive.handle_network(NetworkName::default());
        keep_alive
    }

    /// The idle time after which a ping is due.
    pub(crate) fn interval(&self, wall_ms: i64) -> Duration {
        Duration::from_secs(self.interval_s(wall_ms).into())
    }

    /// The longest that the interval of a connection may come to: what its CONNECT says.
    ///
    /// It cannot be changed while the connection stands, and the server takes a device for gone after one and a half times as
    /// long. While nothing has failed that is the longest that is allowed; then it is what failed, which is little more
    /// than what is used.
    pub(crate) fn ceiling_s(&self) -> u16 {
        match self.path().failed_s {
            0 => self.max_s,
            failed_s => failed_s.min(self.max_s),
        }
    }

    /// The device is in another network. What happened to a connection on the way there says nothing of either.
    pub(crate) fn handle_network(&mut self, network: NetworkName) {
        (self.survived, self.suspect) = (0, None);
        let known = self.paths.iter().position(|path| path.network == network);
        let path = match known {
            Some(known) => self.paths.remove(known),
            None => StoredPath {
                network,
                ..StoredPath::default()
            },
        };
        if self.paths.len() >= NETWORKS_MAX {
            self.paths.remove(0);
        }
        self.paths.push(path);
    }

    /// A connection was idle for `length` and then answered.
    pub(crate) fn handle_survived(&mut self, length: Duration, wall_ms: i64) {
        let interval_s = self.interval_s(wall_ms);
        // Where the server asked for a shorter one, nothing is learnt of ours.
        if seconds(length) < interval_s - interval_s / 10 {
            return;
        }
        self.survived = self.survived.saturating_add(1);
        if self.survived < SURVIVED_MIN {
            return;
        }
        self.survived = 0;
        let before = self.path().clone();
        let path = self.path_mut();
        path.good_s = path.good_s.max(interval_s);
        path.doubted_s = 0;
        if path.failed_s != 0 && path.good_s >= path.failed_s {
            // The path has changed for the better.
            path.failed_s = 0;
        }
        if path.failed_s != 0 && before.good_s < path.good_s {
            (path.pause_days, path.probe_ms) = (1, wall_ms + DAY_MS);
        }
        self.is_changed |= *self.path() != before;
    }

    /// A connection was idle for `length`, and nothing came after that.
    pub(crate) fn handle_death(&mut self, length: Duration, now: Instant) {
        self.survived = 0;
        let length_s = seconds(length);
        self.suspect = Some(Suspect { length_s, died: now });
    }

    /// A connection stands.
    pub(crate) fn handle_connected(&mut self, now: Instant, wall_ms: i64) {
        if let Some(suspect) = self.suspect.take()
            && now.saturating_duration_since(suspect.died) <= SOON
        {
            self.failed(suspect.length_s, wall_ms);
        }
    }

    /// What is to be stored, where it has changed.
    pub(crate) fn poll_changed(&mut self) -> Option<Vec<StoredPath>> {
        std::mem::take(&mut self.is_changed).then(|| self.paths.clone())
    }

    fn failed(&mut self, length_s: u16, wall_ms: i64) {
        let is_probe = self.is_probing(wall_ms) && length_s > self.path().good_s;
        let path = self.path_mut();
        let is_second = length_s.abs_diff(path.doubted_s) <= length_s / 5;
        if !is_probe && !is_second {
            path.doubted_s = length_s;
            self.is_changed = true;
            return;
        }
        path.doubted_s = 0;
        path.failed_s = length_s;
        if length_s <= path.good_s {
            // It was good once. The path has changed for the worse.
            path.good_s = 0;
        }
        path.pause_days = if is_probe {
            (path.pause_days * 2).clamp(1, PAUSE_DAYS_MAX)
        } else {
            1
        };
        path.probe_ms = wall_ms + i64::from(path.pause_days) * DAY_MS;
        self.is_changed = true;
    }

    fn interval_s(&self, wall_ms: i64) -> u16 {
        let path = self.path();
        let interval_s = match (path.good_s, path.failed_s) {
            (0, 0) => self.first_s,
            (good_s, 0) => good_s.saturating_add(good_s / 2),
            (0, failed_s) => failed_s - failed_s / 3,
            (good_s, failed_s) if self.is_probing(wall_ms) => {
                let between_s = good_s + (failed_s - good_s) / 2;
                // Where there is nothing left between them, whether the path has become another.
                if between_s > good_s + good_s / 12 {
                    between_s
                } else {
                    failed_s
                }
            }
            (good_s, _) => good_s - good_s / 20,
        };
        interval_s.max(SHORTEST_S.min(self.first_s)).min(self.max_s)
    }

    /// Whether something longer is to be tried on a path whose limit is known. A moment that is further away than any pause
    /// is from a wall clock that was wrong.
    fn is_probing(&self, wall_ms: i64) -> bool {
        let path = self.path();
        let left_ms = path.probe_ms - wall_ms;
        path.good_s != 0
            && path.failed_s > path.good_s
            && (left_ms <= 0 || left_ms > i64::from(PAUSE_DAYS_MAX) * DAY_MS)
    }

    fn path(&self) -> &StoredPath {
        self.paths.last().expect("the network in use is among them")
    }

    fn path_mut(&mut self) -> &mut StoredPath {
        self.paths.last_mut().expect("the network in use is among them")
    }
}

impl Core {
    /// Stores what was learnt of networks. Nothing waits for it.
    pub(crate) fn put_paths(&mut self, paths: Vec<StoredPath>, now: Now) {
        let mut batch = Batch::default();
        batch.mutations.push(Mutation::PutPaths(paths));
        self.write(batch, now);
    }
}

fn seconds(length: Duration) -> u16 {
    u16::try_from(length.as_secs()).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST_S: u16 = 60;
    /// A ping and its answer, with their acknowledgements.
    const PING_BYTES: u64 = 168;
    /// A connection until it is in step, with its TLS session resumed.
    const CONNECT_BYTES: u64 = 2_100;
    /// Until a ping without an answer counts, and a connection is there again.
    const FOUND_DEAD: Duration = Duration::from_secs(21);

    /// A parked vehicle behind an address translator.
    struct Parked {
        keep_alive: KeepAlive,
        began: Instant,
        now: Duration,
        pings: u64,
        lost: u64,
    }

    impl Parked {
        fn new(keep_alive: KeepAlive) -> Self {
            Self {
                keep_alive,
                began: Instant::now(),
                now: Duration::ZERO,
                pings: 0,
                lost: 0,
            }
        }

        fn wall_ms(&self) -> i64 {
            i64::try_from(self.now.as_millis()).unwrap()
        }

        /// One idle interval behind a translator that forgets after `nat`.
        fn idle(&mut self, nat: Duration) {
            let interval = self.keep_alive.interval(self.wall_ms());
            assert!(interval.as_secs() <= self.keep_alive.ceiling_s().into());
            self.now += interval;
            self.pings += 1;
            if interval < nat {
                self.keep_alive.handle_survived(interval, self.wall_ms());
                return;
            }
            self.now += FOUND_DEAD;
            self.lost += 1;
            let at = self.began + self.now;
            self.keep_alive.handle_death(interval, at);
            self.keep_alive.handle_connected(at, self.wall_ms());
        }

        fn park(&mut self, nat: Duration, until: Duration) -> (u64, u64) {
            let before = (self.pings, self.lost);
            while self.now < until {
                self.idle(nat);
            }
            (self.pings - before.0, self.lost - before.1)
        }
    }

    fn days(days: u64) -> Duration {
        Duration::from_secs(days * 86_400)
    }

    #[test]
    fn what_a_translator_bears_is_found_with_few_lost_connections_and_costs_little_from_then_on() {
        let fixed = |nat_s: u64| {
            let interval_s = u64::from(FIRST_S);
            if interval_s < nat_s {
                86_400 / interval_s * PING_BYTES
            } else {
                86_400 / (interval_s + FOUND_DEAD.as_secs()) * (PING_BYTES + CONNECT_BYTES)
            }
        };
        println!(
            "longest, translator: lost on the first day, a day later; pings an hour; bytes a day, fixed at 60 s"
        );
        for max_s in [450, 840] {
            for (nat_s, lost_max, pings_max) in [
                (30, 4, 151.0),
                (65, 2, 64.0),
                (120, 2, 35.0),
                (300, 2, 14.0),
                (1_800, 0, 8.1),
            ] {
                let nat = Duration::from_secs(nat_s);
                let mut parked = Parked::new(KeepAlive::new(FIRST_S, max_s, Vec::new()));
                let (_, lost_first) = parked.park(nat, days(1));
                let (pings, lost) = parked.park(nat, days(29));
                let pings_an_hour = pings as f64 / (28.0 * 24.0);
                let bytes = (pings * PING_BYTES + lost * CONNECT_BYTES) / 28;
                println!(
                    "{max_s} s, {nat_s} s: {lost_first}, {:.2}; {pings_an_hour:.1}; {bytes}, {}",
                    lost as f64 / 28.0,
                    fixed(nat_s)
                );
                assert!(lost_first <= lost_max, "{nat_s} s: {lost_first}");
                assert!(lost <= 9, "in four weeks {nat_s} s: {lost}");
                assert!(pings_an_hour <= pings_max, "{nat_s} s: {pings_an_hour}");
                // What is a little below the limit by chance cannot be bettered: the margin is what it costs.
                let bound = if nat_s == 65 {
                    fixed(nat_s) * 11 / 10
                } else {
                    fixed(nat_s) * 6 / 10
                };
                assert!(bytes < bound, "{nat_s} s: {bytes}");
            }
        }
    }

    #[test]
    fn what_was_learnt_of_a_network_is_there_after_a_restart_and_in_no_other_network() {
        let network = |name: &str| NetworkName::new(name).unwrap();
        let mut parked = Parked::new(KeepAlive::new(FIRST_S, 450, Vec::new()));
        parked.keep_alive.handle_network(network("carrier"));
        parked.park(Duration::from_secs(120), days(1) / 2);
        let learnt = parked.keep_alive.interval(parked.wall_ms());
        assert_eq!(learnt.as_secs(), 86);
        parked.keep_alive.handle_network(network("depot"));
        assert_eq!(parked.keep_alive.interval(parked.wall_ms()).as_secs(), 60);
        let stored = parked.keep_alive.poll_changed().unwrap();
        assert_eq!(parked.keep_alive.poll_changed(), None, "it is told once");
        let mut keep_alive = KeepAlive::new(FIRST_S, 450, stored);
        keep_alive.handle_network(network("carrier"));
        assert_eq!(keep_alive.interval(parked.wall_ms()), learnt);
        for other in 0..NETWORKS_MAX {
            keep_alive.handle_network(network(&other.to_string()));
        }
        keep_alive.handle_network(network("carrier"));
        assert_eq!(
            keep_alive.interval(parked.wall_ms()).as_secs(),
            60,
            "the one that was not used for longest is forgotten"
        );
        assert_eq!(keep_alive.paths.len(), NETWORKS_MAX);
    }

    #[test]
    fn a_connection_that_was_lost_for_another_reason_teaches_nothing() {
        let minute = Duration::from_secs(60);
        let began = Instant::now();
        let mut keep_alive = KeepAlive::new(FIRST_S, 450, Vec::new());
        for _ in 0..9 {
            // No network for long after it.
            keep_alive.handle_death(minute, began);
            keep_alive.handle_connected(began + SOON + minute, 0);
            // Another network.
            keep_alive.handle_death(minute, began);
            keep_alive.handle_network(NetworkName::default());
            keep_alive.handle_connected(began, 0);
        }
        assert_eq!(keep_alive.poll_changed(), None);
        keep_alive.handle_death(minute, began);
        keep_alive.handle_connected(began, 0);
        assert_eq!(keep_alive.interval(0).as_secs(), 60, "once may be chance");
        keep_alive.handle_death(minute, began);
        keep_alive.handle_connected(began, 0);
        assert_eq!(keep_alive.interval(0).as_secs(), 40);
    }

    #[test]
    fn a_path_that_changes_is_learnt_anew_in_both_directions() {
        let mut parked = Parked::new(KeepAlive::new(FIRST_S, 450, Vec::new()));
        parked.park(Duration::from_secs(300), days(2));
        let (_, lost) = parked.park(Duration::from_secs(45), days(3));
        assert!(lost <= 14, "{lost}");
        assert!(parked.keep_alive.interval(parked.wall_ms()).as_secs() < 45);
        parked.park(Duration::from_secs(3_600), days(90));
        assert_eq!(parked.keep_alive.interval(parked.wall_ms()).as_secs(), 450);
    }

    #[test]
    fn a_wall_clock_that_was_set_back_does_not_put_off_the_next_look() {
        let mut parked = Parked::new(KeepAlive::new(FIRST_S, 450, Vec::new()));
        parked.park(Duration::from_secs(120), days(1) / 2);
        let settled = parked.keep_alive.interval(parked.wall_ms());
        assert!(parked.keep_alive.interval(-30 * DAY_MS) > settled);
        assert_eq!(parked.keep_alive.interval(parked.wall_ms()), settled);
    }
}
