//! What the core has counted, as metrics. The core itself only counts; this tells the difference since the last time.
//!
//! Told now and then while something happens, not for each packet, and at once to whoever asks for [`crate::Stats`].

use std::time::{Duration, Instant};

use metrics::{Counter, Gauge};

use crate::core::waits::{BOUNDS_US, Waits};
use crate::core::{Core, Counters};
use crate::reason::Reason;
use crate::traffic::Traffic;

/// How far metrics may be behind while something happens.
const TOLD_EVERY: Duration = Duration::from_millis(250);

/// The metrics of one broker, and how much of the core's counters they have seen.
pub(crate) struct Telemetry {
    told_at: Option<Instant>,
    seen: Counters,
    /// Bytes received and sent.
    seen_bytes: (u64, u64),
    connections: Gauge,
    sessions_live: Gauge,
    sessions_detached: Gauge,
    subscriptions: Gauge,
    retained_messages: Gauge,
    retained_bytes: Gauge,
    queued_messages: Gauge,
    queued_bytes: Gauge,
    detached_bytes: Gauge,
    link_queued_bytes: Gauge,
    inflight: Gauge,
    connects: Counter,
    received: Counter,
    delivered: Counter,
    bytes_received: Counter,
    bytes_sent: Counter,
    to_clients: Histogram,
    to_links: Histogram,
    reasons: [Counter; Reason::ALL.len()],
}

impl Telemetry {
    pub(crate) fn new(counters: &Counters) -> Telemetry {
        let sessions = |state| metrics::gauge!("waypost_broker_sessions", "state" => state);
        Telemetry {
            told_at: None,
            seen: counters.clone(),
            seen_bytes: (0, 0),
            connections: metrics::gauge!("waypost_broker_connections"),
            sessions_live: sessions("live"),
            sessions_detached: sessions("detached"),
            subscriptions: metrics::gauge!("waypost_broker_subscriptions"),
            retained_messages: metrics::gauge!("waypost_broker_retained_messages"),
            retained_bytes: metrics::gauge!("waypost_broker_retained_bytes"),
            queued_messages: metrics::gauge!("waypost_broker_queued_messages"),
            queued_bytes: metrics::gauge!("waypost_broker_queued_bytes"),
            detached_bytes: metrics::gauge!("waypost_broker_detached_bytes"),
            link_queued_bytes: metrics::gauge!("waypost_broker_link_queued_bytes"),
            inflight: metrics::gauge!("waypost_broker_inflight_messages"),
            connects: metrics::counter!("waypost_broker_connects_total"),
            received: metrics::counter!("waypost_broker_messages_received_total"),
            delivered: metrics::counter!("waypost_broker_messages_delivered_total"),
            bytes_received: metrics::counter!("waypost_broker_received_bytes_total"),
            bytes_sent: metrics::counter!("waypost_broker_sent_bytes_total"),
            to_clients: Histogram::new("client"),
            to_links: Histogram::new("link"),
            reasons: Reason::ALL
                .map(|reason| metrics::counter!("waypost_broker_reasons_total", "reason" => reason.label())),
        }
    }

    /// Tells what happened since the last time, where that is long enough ago.
    pub(crate) fn tell_when_due(&mut self, core: &Core, traffic: &Traffic, now: Instant) {
        let due = self
            .told_at
            .is_none_or(|at| now.saturating_duration_since(at) >= TOLD_EVERY);
        if due {
            self.tell(core, traffic, now);
        }
    }

    /// Tells what happened since the last time.
    pub(crate) fn tell(&mut self, core: &Core, traffic: &Traffic, now: Instant) {
        self.told_at = Some(now);
        let counters = core.counters();
        self.received.increment(counters.received - self.seen.received);
        self.delivered.increment(counters.delivered - self.seen.delivered);
        self.connects.increment(counters.connects - self.seen.connects);
        self.to_clients.tell(&counters.to_clients, &self.seen.to_clients);
        self.to_links.tell(&counters.to_links, &self.seen.to_links);
        if counters.reasons_total != self.seen.reasons_total {
            for reason in Reason::ALL.map(|reason| reason as usize) {
                self.reasons[reason].increment(counters.reasons[reason] - self.seen.reasons[reason]);
            }
        }
        self.seen = counters.clone();
        let (received, sent) = traffic.bytes();
        self.bytes_received.increment(received - self.seen_bytes.0);
        self.bytes_sent.increment(sent - self.seen_bytes.1);
        self.seen_bytes = (received, sent);

        let stats = core.stats();
        let detached = stats.detached;
        for (gauge, value) in [
            (&self.connections, core.live()),
            (&self.sessions_live, stats.sessions - detached),
            (&self.sessions_detached, detached),
            (&self.subscriptions, stats.subscriptions),
            (&self.retained_messages, stats.retained),
            (&self.retained_bytes, stats.retained_bytes),
            (&self.queued_messages, stats.queued_messages),
            (&self.queued_bytes, stats.queued_bytes),
            (&self.detached_bytes, stats.detached_bytes),
            (&self.link_queued_bytes, stats.link_queued_bytes),
            (&self.inflight, stats.inflight),
        ] {
            gauge.set(gauge_value(value));
        }
    }
}

/// A histogram in the form in which Prometheus keeps one. The facade's own would want each sample, which costs more than to
/// route a message.
struct Histogram {
    buckets: [Counter; BOUNDS_US.len() + 1],
    count: Counter,
    sum: Gauge,
}

impl Histogram {
    fn new(to: &'static str) -> Histogram {
        let bucket = |number: usize| {
            let le = match BOUNDS_US.get(number) {
                Some(us) => format!("{}", Duration::from_micros(*us).as_secs_f64()),
                None => "+Inf".to_owned(),
            };
            metrics::counter!("waypost_broker_delivery_seconds_bucket", "to" => to, "le" => le)
        };
        Histogram {
            buckets: std::array::from_fn(bucket),
            count: metrics::counter!("waypost_broker_delivery_seconds_count", "to" => to),
            sum: metrics::gauge!("waypost_broker_delivery_seconds_sum", "to" => to),
        }
    }

    fn tell(&self, now: &Waits, before: &Waits) {
        if now == before {
            return;
        }
        // Each bucket of Prometheus holds those below it as well.
        let mut below = 0;
        for (bucket, (now, before)) in self.buckets.iter().zip(now.counts.iter().zip(before.counts)) {
            below += now - before;
            bucket.increment(below);
        }
        self.count.increment(below);
        self.sum.set(now.sum.as_secs_f64());
    }
}

/// Larger ones are shown as this many.
fn gauge_value(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
