//! What packets cost on their way: TLS 1.3, TCP and IPv4 around MQTT.
//!
//! A packet of n bytes costs 22 for its TLS record (header 5, content type 1, tag 16), 40 for each segment of TCP and IP without
//! options, and 40 for the bare acknowledgement of each. A PUBACK is 4 bytes and its acknowledgement rides along: 66.

/// Of one TLS record.
const TLS_BYTES: usize = 22;
/// TCP and IPv4 headers without options.
const HEADER_BYTES: usize = 40;
/// What a segment carries, at an MTU of 1,500.
const SEGMENT_BYTES: usize = 1_460;
/// A PUBACK in its record and segment.
pub(super) const PUBACK_BYTES: usize = 4 + TLS_BYTES + HEADER_BYTES;

/// What a PUBLISH of so many bytes costs with the acknowledgements of its segments.
pub(super) fn publish_bytes(packet_bytes: usize) -> usize {
    let record = packet_bytes + TLS_BYTES;
    record + record.div_ceil(SEGMENT_BYTES) * 2 * HEADER_BYTES
}

/// What passed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Traffic {
    /// Hours of driving: the gaps of at most ten minutes.
    pub(super) hours: f64,
    pub(super) fixes: usize,
    /// PUBLISH packets with positions.
    pub(super) messages: usize,
    /// All of them but what numbers the operations in them.
    pub(super) position_bytes: usize,
    pub(super) number_bytes: usize,
    /// PUBACKs of the broker, and what the server says of what it has.
    pub(super) acknowledgement_bytes: usize,
    /// Both ways, until the device is in step.
    pub(super) hello_bytes: usize,
    /// Frames that were lost, in both directions; their bytes count.
    pub(super) lost: usize,
}

impl Traffic {
    pub(super) fn add(&mut self, other: &Self) {
        self.hours += other.hours;
        self.fixes += other.fixes;
        self.messages += other.messages;
        self.position_bytes += other.position_bytes;
        self.number_bytes += other.number_bytes;
        self.acknowledgement_bytes += other.acknowledgement_bytes;
        self.hello_bytes += other.hello_bytes;
        self.lost += other.lost;
    }

    /// Everything but the hello.
    pub(super) fn bytes(&self) -> usize {
        self.position_bytes + self.number_bytes + self.acknowledgement_bytes
    }
}

/// Hours of driving in times of fixes, UTC milliseconds ascending.
pub(super) fn hours(times_ms: impl Iterator<Item = i64> + Clone) -> f64 {
    const GAP_MS_MAX: i64 = 600_000;
    let gaps = times_ms.clone().zip(times_ms.skip(1)).map(|(from, to)| to - from);
    let driven_ms: i64 = gaps.filter(|gap| (0..=GAP_MS_MAX).contains(gap)).sum();
    driven_ms as f64 / 3_600_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_costs_what_stands_around_it() {
        assert_eq!(PUBACK_BYTES, 66);
        assert_eq!(publish_bytes(50), 50 + 62 + 40);
        assert_eq!(publish_bytes(1_438), 1_438 + 62 + 40);
        assert_eq!(publish_bytes(1_439), 1_439 + 62 + 40 + 80, "two segments");
    }

    #[test]
    fn a_break_is_no_driving() {
        let times = [0, 1_000, 601_000, 601_000 + 600_001, 601_000 + 602_001];
        assert!((hours(times.into_iter()) - 603.0 / 3_600.0).abs() < 1e-9);
    }
}
