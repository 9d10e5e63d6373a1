//! The server's clock, as the device estimates it.
//!
//! Each welcome is a contact: what the server's clock, the steady clock and the wall clock of the device showed at one
//! moment. From there the steady clock tells how much time has passed, also in a later process of the same boot and whatever
//! the wall clock did; two contacts of one boot tell how fast it runs. After the device was started anew only the wall clock
//! is left until the next welcome: it counts as right as it was at the last contact.
//!
//! Bound: [`CONTACTS_MAX`] contacts, two for each of the last boots.

use super::clock::{Moment, Now, Reading};

/// Contacts that are kept: the first and the last of the last four boots.
const CONTACTS_MAX: usize = 8;
/// Two contacts tell the rate of the steady clock when they are at least so far apart, …
const RATE_SPAN_MIN_MS: u64 = 60_000;
/// … and further than so many times their doubts.
const RATE_SPAN_DOUBTS: u64 = 50;
/// No clock runs faster or slower than by a fifth: what says so is a clock of the server that was set.
const RATE_PPM_MAX: i64 = 200_000;
/// A doubtful contact is worth taking once the estimate may be as wrong: by an eighth of the time that has passed.
const DRIFT_DIVISOR: u64 = 8;

/// What three clocks showed at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Contact {
    pub(crate) steady: Reading,
    pub(crate) wall_ms: i64,
    pub(crate) server_ms: i64,
    /// How wrong `server_ms` may be: half of the round trip.
    pub(crate) doubt_ms: u64,
}

/// The estimate, as it is also kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ServerClock {
    /// In the order in which they were made; those of one boot together.
    contacts: Vec<Contact>,
    /// How many parts in a million more time passes on the server than the steady clock counts; kept over boots, as it
    /// belongs to the device. `None` while there were no two contacts to tell it.
    rate_ppm: Option<i32>,
}

impl ServerClock {
    /// What the store holds; contacts beyond the bound are the oldest.
    pub(crate) fn stored(mut contacts: Vec<Contact>, rate_ppm: Option<i32>) -> Self {
        contacts.drain(..contacts.len().saturating_sub(CONTACTS_MAX));
        Self { contacts, rate_ppm }
    }

    pub(crate) fn contacts(&self) -> &[Contact] {
        &self.contacts
    }

    pub(crate) fn rate_ppm(&self) -> Option<i32> {
        self.rate_ppm
    }

    /// A welcome told what the server's clock showed. False where it is too doubtful to change anything.
    pub(crate) fn take(&mut self, contact: Contact) -> bool {
        let of_boot: Vec<usize> = (0..self.contacts.len())
            .filter(|&index| self.contacts[index].steady.boot == contact.steady.boot)
            .collect();
        let Some((&first, &last)) = of_boot.first().zip(of_boot.last()) else {
            self.contacts.push(contact);
            while self.contacts.len() > CONTACTS_MAX {
                self.contacts.remove(0);
            }
            return true;
        };
        let before = self.contacts[last];
        let passed_ms = contact.steady.ms.saturating_sub(before.steady.ms);
        if contact.doubt_ms > before.doubt_ms.saturating_add(passed_ms / DRIFT_DIVISOR) {
            return false;
        }
        match rate_between(self.contacts[first], contact) {
            Rate::Known(ppm) => self.rate_ppm = Some(ppm),
            Rate::Unknown => {}
            // The server's clock was set: what it showed before says nothing about now.
            Rate::Impossible => {
                self.contacts.retain(|old| old.steady.boot != contact.steady.boot);
                self.contacts.push(contact);
                return true;
            }
        }
        if first == last {
            self.contacts.insert(last + 1, contact);
            if self.contacts.len() > CONTACTS_MAX {
                self.contacts.remove(0);
            }
        } else {
            self.contacts[last] = contact;
        }
        true
    }

    /// The server's clock, UTC milliseconds, at a moment by the steady clock and the wall clock. The wall clock counts only
    /// where there was no contact in that boot. `None` before the first contact ever.
    pub(crate) fn at(&self, steady: Reading, wall_ms: i64) -> Option<i64> {
        let of_boot = self
            .contacts
            .iter()
            .filter(|contact| contact.steady.boot == steady.boot && steady.boot != 0);
        if let Some(nearest) = of_boot.min_by_key(|contact| contact.steady.ms.abs_diff(steady.ms)) {
            let passed = millis_between(nearest.steady.ms, steady.ms);
            return Some(nearest.server_ms.saturating_add(self.to_server(passed)));
        }
        let last = self.contacts.last()?;
        Some(wall_ms.saturating_add(last.server_ms.saturating_sub(last.wall_ms)))
    }

    /// How much the steady clock would have counted since a moment of an earlier boot. `None` before the first contact ever.
    pub(crate) fn steady_ms_since(&self, moment: Moment, now: Now) -> Option<i64> {
        let then = self.moment_on_server(moment, now)?;
        let passed = self.at(now.reading(), now.wall_ms)?.saturating_sub(then);
        let parts = i128::from(passed) * 1_000_000 / i128::from(1_000_000 + self.rate_ppm.unwrap_or(0));
        i64::try_from(parts).ok()
    }

    /// What was done in a boot without a contact counts by the wall clock as it was before this boot, if that is known.
    fn moment_on_server(&self, moment: Moment, now: Now) -> Option<i64> {
        let is_present = |contact: &&Contact| contact.steady.boot == now.steady.boot.number();
        let was_met = |contact: &Contact| contact.steady.boot == moment.steady.boot;
        let before = self.contacts.iter().rev().find(|contact| !is_present(contact));
        match before {
            Some(before) if !self.contacts.iter().any(was_met) => {
                let offset_ms = before.server_ms.saturating_sub(before.wall_ms);
                Some(moment.wall_ms.saturating_add(offset_ms))
            }
            _ => self.at(moment.steady, moment.wall_ms),
        }
    }

    /// How much time passes on the server while the steady clock counts so many milliseconds.
    fn to_server(&self, steady_ms: i64) -> i64 {
        let parts = i128::from(steady_ms) * i128::from(1_000_000 + self.rate_ppm.unwrap_or(0));
        i64::try_from(parts / 1_000_000).unwrap_or(steady_ms)
    }
}

/// What two contacts of one boot tell about the rate of the steady clock.
enum Rate {
    Known(i32),
    /// They are too near, or too doubtful.
    Unknown,
    Impossible,
}

fn rate_between(first: Contact, last: Contact) -> Rate {
    let span = last.steady.ms.saturating_sub(first.steady.ms);
    let doubt = first.doubt_ms.saturating_add(last.doubt_ms);
    if span < RATE_SPAN_MIN_MS || span < doubt.saturating_mul(RATE_SPAN_DOUBTS) {
        return Rate::Unknown;
    }
    let more = i128::from(last.server_ms) - i128::from(first.server_ms) - i128::from(span);
    let ppm = i64::try_from(more * 1_000_000 / i128::from(span)).unwrap_or(i64::MAX);
    match i32::try_from(ppm) {
        Ok(known) if (-RATE_PPM_MAX..=RATE_PPM_MAX).contains(&ppm) => Rate::Known(known),
        _ => Rate::Impossible,
    }
}

fn millis_between(from: u64, to: u64) -> i64 {
    i64::try_from(i128::from(to) - i128::from(from)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn reading(boot: u32, ms: u64) -> Reading {
        Reading { boot, ms }
    }

    /// The wall clock is 48 hours ahead.
    fn contact(boot: u32, steady_ms: u64, server_ms: i64, doubt_ms: u64) -> Contact {
        Contact {
            steady: reading(boot, steady_ms),
            wall_ms: server_ms + 172_800_000,
            server_ms,
            doubt_ms,
        }
    }

    #[test]
    fn the_steady_clock_counts_on_from_a_contact_and_two_of_them_tell_its_rate() {
        let mut clock = ServerClock::default();
        assert_eq!(clock.at(reading(1, 5), 77), None, "before the first contact");
        assert!(clock.take(contact(1, HOUR, 1_000_000, 300)));
        assert_eq!(clock.at(reading(1, HOUR + 60_000), -1), Some(1_060_000));
        assert_eq!(clock.rate_ppm(), None);
        // Ten per cent fast: 1.1 hours are counted in one.
        assert!(clock.take(contact(1, HOUR + 11 * HOUR, 1_000_000 + 36_000_000, 300)));
        let ppm = clock.rate_ppm().unwrap();
        assert!((ppm + 90_909).abs() <= 1, "{ppm}");
        let after_eleven_more = clock.at(reading(1, 23 * HOUR), -1).unwrap();
        assert!(
            (after_eleven_more - 73_000_000).abs() < 100,
            "{after_eleven_more}"
        );
        let before = clock.at(reading(1, HOUR + 11 * HOUR / 2), -1).unwrap();
        assert!((before - 19_000_000).abs() < 100, "{before}");
    }

    #[test]
    fn after_a_start_of_the_device_the_wall_clock_counts_as_right_as_it_was() {
        let mut clock = ServerClock::default();
        clock.take(contact(1, HOUR, 1_000_000, 300));
        assert_eq!(clock.at(reading(2, 5), 172_800_000 + 1_500_000), Some(1_500_000));
        clock.take(contact(2, HOUR, 9_000_000, 300));
        assert_eq!(clock.at(reading(2, HOUR + 1_000), 0), Some(9_001_000));
        assert_eq!(
            clock.at(reading(1, HOUR + 1_000), 0),
            Some(1_001_000),
            "what was done in the boot before"
        );
    }

    #[test]
    fn a_doubtful_contact_waits_until_the_estimate_is_as_doubtful() {
        let mut clock = ServerClock::default();
        clock.take(contact(1, HOUR, 1_000_000, 300));
        assert!(!clock.take(contact(1, HOUR + 10_000, 1_010_000, 5_000)));
        assert!(clock.take(contact(1, HOUR + 60_000, 1_060_000, 5_000)));
        assert_eq!(clock.rate_ppm(), None, "too doubtful for a rate");
    }

    #[test]
    fn a_servers_clock_that_was_set_is_followed() {
        let mut clock = ServerClock::default();
        clock.take(contact(1, HOUR, 1_000_000, 300));
        clock.take(contact(1, 2 * HOUR, 900_000_000, 300));
        assert_eq!(clock.at(reading(1, 2 * HOUR + 1_000), 0), Some(900_001_000));
        assert_eq!(clock.rate_ppm(), None);
    }

    #[test]
    fn contacts_are_bounded_and_the_oldest_go() {
        let mut clock = ServerClock::default();
        for boot in 1..50 {
            for hour in 1..5 {
                clock.take(contact(
                    boot,
                    hour * HOUR,
                    i64::try_from(hour * HOUR).unwrap(),
                    10,
                ));
            }
        }
        assert_eq!(clock.contacts().len(), CONTACTS_MAX);
        assert_eq!(clock.contacts()[0].steady, reading(46, HOUR));
        assert_eq!(
            ServerClock::stored(clock.contacts().to_vec(), clock.rate_ppm()),
            clock
        );
    }
}
