//! How often somebody may try to sign in: a bound by address and one by account.
//!
//! Only failures count, so an office behind one address is not hindered. An account whose bound somebody else has used
//! up is still open from an address at which its owner has signed in before: that pair has a bound of its own.

use crate::secret::sha256;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use waypost_bridge::audit::network;

/// Failures from one address at once, and how long each counts. An IPv6 network of 64 bits is one address.
const OF_ADDRESS: Rate = Rate {
    burst: 20,
    each: Duration::from_secs(10),
};
/// Failures for one account at once, and how long each counts: 1,440 guesses a day.
const OF_ACCOUNT: Rate = Rate {
    burst: 10,
    each: Duration::from_secs(60),
};
/// How many addresses, accounts and pairs are remembered, each. At the bound the one that owes least is forgotten.
const REMEMBERED_MAX: usize = 4_096;

/// Bounds on failed sign-ins.
///
/// Memory: at most 100 bytes for each of [`REMEMBERED_MAX`] addresses, accounts and pairs.
#[derive(Debug, Default)]
pub(crate) struct SignInLimit(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    addresses: Debts<Option<IpAddr>>,
    accounts: Debts<Account>,
    /// Where each account has signed in before.
    pairs: Debts<(Account, Option<IpAddr>)>,
    known: BTreeMap<(Account, Option<IpAddr>), Instant>,
}

/// An account by the hash of what was typed, so that its length does not matter.
type Account = [u8; 32];

/// An attempt that was let through.
#[derive(Debug)]
pub(crate) struct Attempt {
    account: Account,
    address: Option<IpAddr>,
    known: bool,
}

impl SignInLimit {
    /// Lets an attempt through, and counts it as a failure until [`Self::succeeded`], or says when to come back.
    pub(crate) fn attempt(
        &self,
        email: &str,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Result<Attempt, Duration> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let account = sha256(email.trim().to_lowercase().as_bytes());
        let address = address.map(network);
        let known = tables.known.contains_key(&(account, address));
        let attempt = Attempt {
            account,
            address,
            known,
        };
        tables.addresses.take(address, OF_ADDRESS, now)?;
        let of_account = if known {
            tables.pairs.take((account, address), OF_ACCOUNT, now)
        } else {
            tables.accounts.take(account, OF_ACCOUNT, now)
        };
        if let Err(wait) = of_account {
            // It is not tried, so it is no failure of the address.
            tables.addresses.give_back(address, OF_ADDRESS);
            return Err(wait);
        }
        Ok(attempt)
    }

    /// The password was right.
    pub(crate) fn succeeded(&self, attempt: &Attempt, now: Instant) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (attempt.account, attempt.address);
        tables.addresses.give_back(attempt.address, OF_ADDRESS);
        if attempt.known {
            tables.pairs.give_back(pair, OF_ACCOUNT);
        } else {
            tables.accounts.give_back(attempt.account, OF_ACCOUNT);
        }
        if tables.known.len() >= REMEMBERED_MAX
            && !tables.known.contains_key(&pair)
            && let Some((oldest, _)) = tables.known.iter().min_by_key(|(_, at)| **at)
        {
            let oldest = *oldest;
            tables.known.remove(&oldest);
        }
        tables.known.insert(pair, now);
    }
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    each: Duration,
}

/// When everybody's failures will have been forgotten.
#[derive(Debug)]
struct Debts<K>(BTreeMap<K, Instant>);

impl<K> Default for Debts<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy> Debts<K> {
    fn take(&mut self, key: K, rate: Rate, now: Instant) -> Result<(), Duration> {
        let settled = self.0.get(&key).copied().unwrap_or(now).max(now) + rate.each;
        let over = (settled - now).saturating_sub(rate.each * rate.burst);
        if !over.is_zero() {
            return Err(over);
        }
        if self.0.len() >= REMEMBERED_MAX && !self.0.contains_key(&key) {
            self.0.retain(|_, settled| *settled > now);
            if self.0.len() >= REMEMBERED_MAX
                && let Some((least, _)) = self.0.iter().min_by_key(|(_, settled)| **settled)
            {
                let least = *least;
                self.0.remove(&least);
            }
        }
        self.0.insert(key, settled);
        Ok(())
    }

    fn give_back(&mut self, key: K, rate: Rate) {
        if let Some(settled) = self.0.get_mut(&key) {
            *settled = settled.checked_sub(rate.each).unwrap_or(*settled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn failures_use_up_an_account_and_time_gives_it_back() {
        let (limit, now) = (SignInLimit::default(), Instant::now());
        for number in 0..10 {
            // From everywhere, however the address is written.
            let email = [" Anna@x ", "anna@x"][number % 2];
            let from = address(&format!("192.0.2.{number}"));
            limit.attempt(email, from, now).unwrap();
        }
        let wait = limit.attempt("anna@x", address("192.0.2.99"), now).unwrap_err();
        assert_eq!(wait, Duration::from_secs(60));
        limit.attempt("bert@x", address("192.0.2.99"), now).unwrap();
        let later = now + Duration::from_secs(60);
        limit.attempt("anna@x", address("192.0.2.99"), later).unwrap();
        limit.attempt("anna@x", address("192.0.2.99"), later).unwrap_err();
    }

    #[test]
    fn failures_use_up_an_address_whatever_the_account() {
        let (limit, now) = (SignInLimit::default(), Instant::now());
        for number in 0..20u32 {
            let from = address(&format!("2001:db8::{number}"));
            limit.attempt(&format!("{number}@x"), from, now).unwrap();
        }
        let wait = limit
            .attempt("anna@x", address("2001:db8::abcd"), now)
            .unwrap_err();
        assert_eq!(wait, Duration::from_secs(10));
        limit.attempt("anna@x", address("2001:db8:0:1::1"), now).unwrap();
    }

    #[test]
    fn those_who_know_their_password_are_not_hindered() {
        let (limit, now) = (SignInLimit::default(), Instant::now());
        for number in 0..1_000 {
            let attempt = limit
                .attempt(&format!("{number}@x"), address("192.0.2.1"), now)
                .unwrap();
            limit.succeeded(&attempt, now);
        }
    }

    #[test]
    fn whoever_guesses_at_an_account_does_not_lock_out_its_owner() {
        let (limit, now) = (SignInLimit::default(), Instant::now());
        let office = address("192.0.2.1");
        let attempt = limit.attempt("anna@x", office, now).unwrap();
        limit.succeeded(&attempt, now);
        while limit.attempt("anna@x", address("203.0.113.5"), now).is_ok() {}
        for _ in 0..10 {
            limit.attempt("anna@x", office, now).unwrap();
        }
        assert!(
            limit.attempt("anna@x", office, now).is_err(),
            "a bound there as well"
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (limit, now) = (SignInLimit::default(), Instant::now());
        for number in 0..3 * u32::try_from(REMEMBERED_MAX).unwrap() {
            let from = Some(IpAddr::V4(number.into()));
            let attempt = limit.attempt(&format!("{number}@x"), from, now).unwrap();
            if number % 2 == 0 {
                limit.succeeded(&attempt, now);
            }
        }
        let tables = limit.0.into_inner().unwrap();
        for length in [
            tables.addresses.0.len(),
            tables.accounts.0.len(),
            tables.known.len(),
        ] {
            assert!(length <= REMEMBERED_MAX, "{length}");
        }
    }
}
