//! How many connections one address may open within a minute.
//!
//! Each address has a bucket with room for a minute's worth of connections, which fills evenly. A bucket is one moment, that
//! at which it is full again; one that is full is the same as none, so that only addresses that connect are kept. No clock and
//! no lock of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::limits::Limits;

/// A minute's worth of connections is what a bucket holds.
const BUCKET: Duration = Duration::from_secs(60);
/// How often a full table is searched for buckets that are full again.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// Whether a connection is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rate {
    /// It took its share of the bucket.
    Within,
    /// There was none left.
    Over,
}

/// The buckets of all addresses.
#[derive(Debug)]
pub(crate) struct ConnectionRates {
    /// What one connection takes out of a bucket.
    share: Duration,
    addresses_max: usize,
    full_at: BTreeMap<Origin, Instant>,
    /// The bucket of all those for whom there is no place.
    others_full_at: Option<Instant>,
    swept_at: Option<Instant>,
}

/// What counts as one address: an IPv4 address, or what one customer has of IPv6, a /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Origin(Ipv6Addr);

impl Origin {
    fn of(address: IpAddr) -> Origin {
        Origin(match address.to_canonical() {
            IpAddr::V4(four) => four.to_ipv6_mapped(),
            IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() & !u128::from(u64::MAX)),
        })
    }
}

impl ConnectionRates {
    pub(crate) fn new(limits: &Limits) -> ConnectionRates {
        ConnectionRates {
            share: BUCKET / limits.connections_per_address_per_minute.max(1),
            addresses_max: limits.rate_addresses_max,
            full_at: BTreeMap::new(),
            others_full_at: None,
            swept_at: None,
        }
    }

    /// Takes a connection out of the bucket of its address.
    pub(crate) fn take(&mut self, address: IpAddr, now: Instant) -> Rate {
        let origin = Origin::of(address);
        let known = self.full_at.get(&origin).copied();
        let has_place = known.is_some() || self.make_place(now);
        let full_at = if has_place { known } else { self.others_full_at };
        let full_at = full_at.map_or(now, |at| at.max(now)) + self.share;
        if full_at > now + BUCKET {
            return Rate::Over;
        }
        if has_place {
            self.full_at.insert(origin, full_at);
        } else {
            self.others_full_at = Some(full_at);
        }
        Rate::Within
    }

    /// Is there a place for a further address, now that full buckets are forgotten?
    fn make_place(&mut self, now: Instant) -> bool {
        let due = self.swept_at.is_none_or(|at| now >= at + SWEEP_PAUSE);
        if self.full_at.len() >= self.addresses_max && due {
            self.swept_at = Some(now);
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        self.full_at.len() < self.addresses_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_minute: u32, addresses_max: usize) -> ConnectionRates {
        ConnectionRates::new(&Limits {
            connections_per_address_per_minute: per_minute,
            rate_addresses_max: addresses_max,
            ..Limits::default()
        })
    }

    impl ConnectionRates {
        fn takes(&mut self, address: IpAddr, now: Instant) -> bool {
            self.take(address, now) == Rate::Within
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_a_minutes_worth_at_once_and_then_its_rate() {
        let now = Instant::now();
        let mut rates = rates(6, 100);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let at_once: Vec<bool> = (0..8).map(|_| rates.takes(one, now)).collect();
        assert_eq!(at_once, [true, true, true, true, true, true, false, false]);
        assert!(rates.takes(other, now));
        // One each ten seconds; what was refused took nothing.
        let later = |seconds| now + Duration::from_secs(seconds);
        assert!(!rates.takes(one, later(9)));
        assert!(rates.takes(one, later(10)));
        assert!(!rates.takes(one, later(19)));
        let after_a_day: Vec<bool> = (0..7).map(|_| rates.takes(one, later(86_400))).collect();
        assert_eq!(after_a_day, [true, true, true, true, true, true, false]);
    }

    #[test]
    fn what_one_customer_has_is_one_address() {
        for (one, other, same) in [
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("127.0.0.1", "::1", false),
        ] {
            let mut rates = rates(1, 100);
            let now = Instant::now();
            assert!(rates.takes(address(one), now));
            assert_eq!(!rates.takes(address(other), now), same, "{one} {other}");
        }
    }

    #[test]
    fn a_full_table_forgets_full_buckets_and_lets_all_others_share_one() {
        let now = Instant::now();
        let mut rates = rates(2, 2);
        for text in ["192.0.2.1", "192.0.2.2"] {
            assert!(rates.takes(address(text), now));
        }
        // No place for these two: together they have two.
        let shared = ["192.0.2.3", "192.0.2.4", "192.0.2.3"].map(|text| rates.takes(address(text), now));
        assert_eq!(shared, [true, true, false]);
        // Those who have a place keep their own.
        assert!(rates.takes(address("192.0.2.1"), now));
        assert!(!rates.takes(address("192.0.2.1"), now));
        // After a minute all are full again, and there is a place for two others.
        let later = now + Duration::from_secs(60);
        for text in ["192.0.2.3", "192.0.2.3", "192.0.2.4", "192.0.2.4"] {
            assert!(rates.takes(address(text), later), "{text}");
        }
        assert_eq!(rates.full_at.len(), 2);
    }
}
