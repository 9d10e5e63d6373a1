//! The link to the server: which address is tried next, when, in which version.

use crate::ServerAddress;
use crate::captive::Unreached;
use crate::connection::{self, Care, EVENTS_MAX, Ended, FRAMES_MAX, LinkEvent, Settings, ToServer};
use crate::core::backoff::Backoff;
use crate::dial::dial;
use crate::packet::Version;
use crate::race::{Pace, Trust, race};
use crate::tls::Tls;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What an address gets before the next one is begun beside it.
const PACE: Pace = Pace {
    answer: Duration::from_millis(2_500),
    rest: Duration::from_secs(5),
};
/// How long another address than the first is kept to: the first is there for a reason.
const AWAY_MAX: Duration = Duration::from_secs(600);
/// Between two attempts in a network that answers in the server's place.
const CAPTIVE_PAUSE_MIN: Duration = Duration::from_secs(15);
const CAPTIVE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// One attempt to connect, and the connection that it becomes. Dropped, it is cut without a good-bye.
pub(crate) struct Attempt {
    pub(crate) outgoing: mpsc::Sender<ToServer>,
    pub(crate) events: mpsc::Receiver<LinkEvent>,
    pub(crate) task: JoinHandle<Ended>,
    pub(crate) care: watch::Sender<Care>,
    /// The server has answered the hello.
    pub(crate) has_succeeded: bool,
    address: Arc<OnceLock<usize>>,
}

impl Attempt {
    /// The number of the address that it has come to.
    pub(crate) fn address(&self) -> Option<usize> {
        self.address.get().copied()
    }

    /// There is a reason to doubt that the connection still stands: it has little time to show that it does.
    pub(crate) fn doubt(&self) {
        self.care.send_modify(|care| care.doubts += 1);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One address that an attempt may come to.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    number: usize,
    server: ServerAddress,
    version: Version,
}

/// The addresses, each with the version that its server speaks.
pub(crate) struct Addresses {
    servers: Vec<(ServerAddress, Version)>,
    /// Where the next attempt begins.
    next: usize,
    /// The one that worked last.
    good: usize,
    /// Since when that is not the first.
    away_since: Option<Instant>,
    /// Addresses in a row that were reached and of no use.
    useless: usize,
    backoff: Backoff,
}

impl Addresses {
    pub(crate) fn new(servers: Vec<ServerAddress>, backoff: Backoff) -> Self {
        let servers = servers.into_iter().map(|server| (server, Version::V5)).collect();
        Self {
            servers,
            next: 0,
            good: 0,
            away_since: None,
            useless: 0,
            backoff,
        }
    }

    /// The addresses in the order in which they are to be tried.
    pub(crate) fn candidates(&mut self, now: Instant) -> Vec<Candidate> {
        if self.away_since.is_some_and(|since| since + AWAY_MAX <= now) {
            (self.next, self.good, self.away_since) = (0, 0, None);
        }
        let numbers = (self.next..self.servers.len()).chain(0..self.next);
        let candidate = |number: usize| Candidate {
            number,
            server: self.servers[number].0.clone(),
            version: self.servers[number].1,
        };
        numbers.map(candidate).collect()
    }

    /// Its server does not speak the version. Returns whether there is another to try at once.
    pub(crate) fn version_refused(&mut self, number: usize) -> bool {
        let Some((_, version)) = self.servers.get_mut(number) else {
            return false;
        };
        let older = *version == Version::V5;
        *version = if older { Version::V4 } else { Version::V5 };
        self.next = number;
        older
    }

    /// An attempt failed: where it had come to an address the next one is tried at once; after the last of them, or where
    /// none was reached, there is a pause.
    pub(crate) fn failed(&mut self, address: Option<usize>, random: u64) -> Duration {
        self.useless += 1;
        if let Some(number) = address
            && self.useless < self.servers.len()
        {
            self.next = (number + 1) % self.servers.len();
            return Duration::ZERO;
        }
        self.lost(random)
    }

    /// A connection that worked was lost: the pause before the address is tried again.
    pub(crate) fn lost(&mut self, random: u64) -> Duration {
        (self.useless, self.next) = (0, self.good);
        self.backoff.after_failure(random)
    }

    /// The pause in a network that answers in the server's place: a person needs a while.
    pub(crate) fn captive(&mut self, random: u64) -> Duration {
        self.lost(random).clamp(CAPTIVE_PAUSE_MIN, CAPTIVE_PAUSE_MAX)
    }

    /// In step: this address is a good one, and the next pause is short.
    pub(crate) fn succeeded(&mut self, address: Option<usize>, now: Instant) {
        self.backoff.reset();
        self.useless = 0;
        if let Some(number) = address {
            (self.next, self.good) = (number, number);
            self.away_since = (number != 0).then(|| self.away_since.unwrap_or(now));
        }
    }

    /// The network is another: what failed before says nothing of it.
    pub(crate) fn forget_failures(&mut self) {
        self.backoff.reset();
        (self.useless, self.next) = (0, self.good);
    }
}

/// Starts to connect: to the first of `candidates` on which MQTT can be spoken. The others are cut before a CONNECT is said
/// on them, as a second one would take the place of the first.
pub(crate) fn start(candidates: Vec<Candidate>, tls: &Arc<Tls>, settings: Settings, care: Care) -> Attempt {
    let (outgoing, outgoing_receiver) = mpsc::channel(FRAMES_MAX);
    let (events_sender, events) = mpsc::channel(EVENTS_MAX);
    let (care, care_receiver) = watch::channel(care);
    let address = Arc::new(OnceLock::new());
    let (tls, reached) = (tls.clone(), address.clone());
    let task = tokio::spawn(async move {
        let ways: Vec<Trust> = candidates.iter().map(trust).collect();
        let racing = race(&ways, PACE, |way, answered| {
            let server = candidates[way].server.clone();
            let (tls, settings) = (tls.clone(), &settings);
            dial(
                server,
                tls,
                settings.connect_timeout,
                settings.answer_timeout,
                answered,
            )
        });
        match racing.await {
            Ok((way, stream)) => {
                let candidate = &candidates[way];
                let _ = reached.set(candidate.number);
                let settings = Settings {
                    version: candidate.version,
                    ..settings
                };
                connection::run(stream, settings, care_receiver, outgoing_receiver, events_sender).await
            }
            Err(Unreached::Broken(why)) => Ended::Broken(why),
            Err(Unreached::Captive(advice)) => Ended::Captive(advice),
        }
    });
    Attempt {
        outgoing,
        events,
        task,
        care,
        has_succeeded: false,
        address,
    }
}

fn trust(candidate: &Candidate) -> Trust {
    if candidate.server.scheme.is_tls() {
        Trust::Verified
    } else {
        Trust::Clear
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(hosts: &[&str]) -> Addresses {
        let server = |host: &&str| ServerAddress {
            scheme: crate::Scheme::Mqtt,
            host: (*host).to_owned(),
            port: 1883,
            path: String::new(),
        };
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        Addresses::new(hosts.iter().map(server).collect(), backoff)
    }

    fn order(addresses: &mut Addresses, now: Instant) -> String {
        let candidates = addresses.candidates(now);
        candidates
            .iter()
            .map(|candidate| candidate.server.host.as_str())
            .collect()
    }

    #[test]
    fn addresses_that_are_reached_and_useless_are_left_in_turn_with_a_pause_after_the_last() {
        let (mut addresses, now) = (addresses(&["a", "b"]), Instant::now());
        for (expected, pause) in [("ab", 0), ("ba", 500), ("ab", 0), ("ba", 1_000)] {
            assert_eq!(order(&mut addresses, now), expected);
            let reached = addresses.candidates(now)[0].number;
            assert_eq!(addresses.failed(Some(reached), u64::MAX).as_millis(), pause);
        }
        assert_eq!(
            addresses.failed(None, u64::MAX).as_millis(),
            2_000,
            "none was reached"
        );
        assert_eq!(addresses.captive(0).as_millis(), 15_000);
        assert!(addresses.version_refused(1), "3.1.1 is tried at once");
        assert_eq!(addresses.candidates(now)[0].version, Version::V4);
        assert_eq!(order(&mut addresses, now), "ba");
        assert!(
            !addresses.version_refused(1),
            "then there is nothing left to try at once"
        );
    }

    #[test]
    fn the_address_that_worked_last_is_the_next_until_the_first_one_gets_another_chance() {
        let (mut addresses, start) = (addresses(&["a", "b", "c"]), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        addresses.succeeded(Some(1), start);
        addresses.lost(0);
        assert_eq!(order(&mut addresses, after(1)), "bca");
        addresses.succeeded(Some(1), after(590));
        assert_eq!(order(&mut addresses, after(599)), "bca");
        assert_eq!(order(&mut addresses, after(600)), "abc");
        addresses.succeeded(Some(1), after(601));
        assert_eq!(order(&mut addresses, after(1_200)), "bca");
        addresses.succeeded(Some(0), after(1_201));
        assert_eq!(order(&mut addresses, after(1_900)), "abc");
    }
}
