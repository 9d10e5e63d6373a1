//! What the core has counted, as metrics. The core itself only counts; this tells the difference since the last time.

use metrics::{Counter, Gauge};

use crate::core::{Core, Counters};
use crate::reason::Reason;

/// The metrics of one broker, and how much of the core's counters they have seen.
pub(crate) struct Telemetry {
    seen: Counters,
    connections: Gauge,
    retained: Gauge,
    connects: Counter,
    received: Counter,
    delivered: Counter,
}

impl Telemetry {
    pub(crate) fn new(counters: &Counters) -> Telemetry {
        Telemetry {
            seen: counters.clone(),
            connections: metrics::gauge!("waypost_broker_connections"),
            retained: metrics::gauge!("waypost_broker_retained_messages"),
            connects: metrics::counter!("waypost_broker_connects_total"),
            received: metrics::counter!("waypost_broker_messages_received_total"),
            delivered: metrics::counter!("waypost_broker_messages_delivered_total"),
        }
    }

    /// Tells what happened since the last time.
    pub(crate) fn update(&mut self, core: &Core) {
        let now = core.counters();
        self.received.increment(now.received - self.seen.received);
        self.delivered.increment(now.delivered - self.seen.delivered);
        self.connects.increment(now.connects - self.seen.connects);
        if now.reasons_total != self.seen.reasons_total {
            for reason in Reason::ALL {
                let times = now.reasons[reason as usize] - self.seen.reasons[reason as usize];
                if times > 0 {
                    metrics::counter!("waypost_broker_reasons_total", "reason" => reason.label())
                        .increment(times);
                }
            }
            self.seen.reasons = now.reasons;
            self.seen.reasons_total = now.reasons_total;
        }
        self.seen.received = now.received;
        self.seen.delivered = now.delivered;
        self.seen.connects = now.connects;
        self.connections.set(gauge_value(core.live()));
        self.retained.set(gauge_value(core.retained_len()));
    }
}

fn gauge_value(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
