//! What the broker says of itself on `$SYS/broker/…`, by the names that mosquitto has for it.
//!
//! [`Sys`] turns [`Stats`] into topics and values, and says which of them have changed; it knows neither clock nor broker.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::reason::Reason;
use crate::stats::Stats;

/// What all topics begin with.
const PREFIX: &str = "$SYS/broker/";
/// Averages are over these, in minutes.
const LOAD_MINUTES: [u32; 3] = [1, 5, 15];

/// What was said last.
#[derive(Debug, Default)]
pub(crate) struct Sys {
    told: BTreeMap<String, String>,
    loads: BTreeMap<&'static str, Load>,
    /// When the loads were counted last.
    counted_at: Duration,
}

/// How often something happens in a minute.
#[derive(Debug, Default)]
struct Load {
    total: u64,
    /// By [`LOAD_MINUTES`].
    averages: [f64; LOAD_MINUTES.len()],
}

impl Load {
    /// Weighs what came since the last time by how long that was.
    fn count(&mut self, total: u64, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let per_minute = (total - self.total) as f64 * 60.0 / seconds;
        self.total = total;
        for (average, minutes) in self.averages.iter_mut().zip(LOAD_MINUTES) {
            let kept = (-seconds / (60.0 * f64::from(minutes))).exp();
            *average = *average * kept + per_minute * (1.0 - kept);
        }
    }
}

impl Sys {
    /// The topics whose values are not those that were told, `uptime` after the start. What became of them is for
    /// [`Sys::told`].
    pub(crate) fn changes(&mut self, stats: &Stats, uptime: Duration) -> Vec<(String, String)> {
        let mut values = values(stats, uptime);
        let elapsed = uptime.saturating_sub(self.counted_at);
        if !elapsed.is_zero() {
            self.counted_at = uptime;
            for (name, total) in totals(stats) {
                self.loads.entry(name).or_default().count(total, elapsed);
            }
        }
        for (name, load) in &self.loads {
            for (average, minutes) in load.averages.iter().zip(LOAD_MINUTES) {
                values.push((format!("load/{name}/{minutes}min"), format!("{average:.2}")));
            }
        }
        let values = values
            .into_iter()
            .map(|(name, value)| (format!("{PREFIX}{name}"), value));
        values
            .filter(|(topic, value)| self.told.get(topic) != Some(value))
            .collect()
    }

    /// It has been told, and is not told again until it changes.
    pub(crate) fn told(&mut self, topic: String, value: String) {
        self.told.insert(topic, value);
    }
}

/// What loads are averages of.
fn totals(stats: &Stats) -> [(&'static str, u64); 7] {
    [
        ("messages/received", stats.packets_received),
        ("messages/sent", stats.packets_sent),
        ("publish/received", stats.received),
        ("publish/sent", stats.delivered),
        ("bytes/received", stats.bytes_received),
        ("bytes/sent", stats.bytes_sent),
        ("connections", stats.connects),
    ]
}

fn values(stats: &Stats, uptime: Duration) -> Vec<(String, String)> {
    let dropped: u64 = [
        Reason::TooLargeForReceiver,
        Reason::Expired,
        Reason::SlowReceiver,
        Reason::SessionQueueFull,
    ]
    .map(|reason| stats.count(reason))
    .iter()
    .sum();
    let stored = stats.retained + stats.queued_messages;
    [
        (
            "version",
            concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned(),
        ),
        ("uptime", format!("{} seconds", uptime.as_secs())),
        ("clients/connected", stats.clients.to_string()),
        ("clients/disconnected", stats.detached.to_string()),
        ("clients/total", (stats.clients + stats.detached).to_string()),
        ("clients/maximum", stats.clients_max.to_string()),
        ("clients/expired", stats.count(Reason::SessionExpired).to_string()),
        ("messages/received", stats.packets_received.to_string()),
        ("messages/sent", stats.packets_sent.to_string()),
        ("messages/stored", stored.to_string()),
        ("publish/messages/received", stats.received.to_string()),
        ("publish/messages/sent", stats.delivered.to_string()),
        ("publish/messages/dropped", dropped.to_string()),
        ("store/messages/count", stored.to_string()),
        (
            "store/messages/bytes",
            (stats.retained_bytes + stats.queued_bytes).to_string(),
        ),
        ("retained messages/count", stats.retained.to_string()),
        ("subscriptions/count", stats.subscriptions.to_string()),
        ("bytes/received", stats.bytes_received.to_string()),
        ("bytes/sent", stats.bytes_sent.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said at this time, all of which is heard.
    fn said(sys: &mut Sys, stats: &Stats, seconds: u64) -> BTreeMap<String, String> {
        let changes = sys.changes(stats, Duration::from_secs(seconds));
        for (topic, value) in &changes {
            sys.told(topic.clone(), value.clone());
        }
        changes.into_iter().collect()
    }

    #[test]
    fn everything_is_said_once_and_then_what_has_changed() {
        let mut sys = Sys::default();
        let mut stats = Stats::default();
        let first = said(&mut sys, &stats, 0);
        assert_eq!(first["$SYS/broker/clients/connected"], "0");
        assert!(first["$SYS/broker/version"].starts_with("waypost-broker "));
        assert_eq!(said(&mut sys, &stats, 0), BTreeMap::new());
        (stats.clients, stats.detached) = (2, 3);
        let changed = said(&mut sys, &stats, 0);
        let expected = [
            ("$SYS/broker/clients/connected", "2"),
            ("$SYS/broker/clients/disconnected", "3"),
            ("$SYS/broker/clients/total", "5"),
        ];
        assert_eq!(
            changed,
            expected
                .map(|(topic, value)| (topic.to_owned(), value.to_owned()))
                .into()
        );
    }

    #[test]
    fn what_was_not_heard_is_said_again() {
        let mut sys = Sys::default();
        let stats = Stats::default();
        let first = sys.changes(&stats, Duration::ZERO);
        assert_eq!(sys.changes(&stats, Duration::ZERO), first);
    }

    #[test]
    fn a_steady_load_is_what_its_averages_come_to() {
        let mut sys = Sys::default();
        let mut stats = Stats::default();
        let mut last = BTreeMap::new();
        // 60 a minute, for an hour.
        for second in (10..3_600).step_by(10) {
            stats.received = second;
            last.extend(said(&mut sys, &stats, second));
        }
        for (minutes, expected) in [(1, "60.00"), (5, "60.00")] {
            let topic = format!("$SYS/broker/load/publish/received/{minutes}min");
            assert_eq!(last[&topic], expected, "{topic}");
        }
        let slow: f64 = last["$SYS/broker/load/publish/received/15min"].parse().unwrap();
        assert!((58.0..60.0).contains(&slow), "{slow}");
        // And nothing, for a minute: the shortest has lost most of it.
        let changed = said(&mut sys, &stats, 3_650);
        let quick: f64 = changed["$SYS/broker/load/publish/received/1min"].parse().unwrap();
        assert!((20.0..24.0).contains(&quick), "{quick}");
    }
}
