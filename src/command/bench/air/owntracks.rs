//! What an OwnTracks app would say of the same drive: JSON at QoS 1 on `owntracks/<user>/<device>`, by the rules that its booklet
//! gives for its modes. Nobody reckons ahead there: what is shown is the last word.

use super::accounting::{PUBACK_BYTES, Traffic, hours, publish_bytes};
use super::measure::{Errors, Place, along, metres};
use crate::trace::Trace;
use serde_json::json;
use waypost_proto::Fix;

/// When an app speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// After more than 500 m, at most once in five minutes.
    Significant,
    /// After 100 m or 300 s.
    Move,
    EveryFix,
}

impl Mode {
    pub(super) const ALL: [Self; 3] = [Self::Significant, Self::Move, Self::EveryFix];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Significant => "OwnTracks significant",
            Self::Move => "OwnTracks move",
            Self::EveryFix => "OwnTracks every fix",
        }
    }

    fn speaks(self, last: &Fix, fix: &Fix) -> bool {
        let after_s = (fix.at_ms - last.at_ms) as f64 / 1e3;
        let distance_m = metres((last.lat(), last.lon()), (fix.lat(), fix.lon()));
        match self {
            Self::Significant => distance_m > 500.0 && after_s >= 300.0,
            Self::Move => distance_m >= 100.0 || after_s >= 300.0,
            Self::EveryFix => true,
        }
    }
}

/// A drive, as far as it is told.
pub(super) fn drive(trace: &Trace, mode: Mode) -> (Traffic, Errors) {
    let times = trace.fixes.iter().map(|fix| fix.at_ms);
    let mut traffic = Traffic {
        hours: hours(times),
        fixes: trace.fixes.len(),
        ..Traffic::default()
    };
    let mut errors = Errors::default();
    let mut told: Vec<Place> = Vec::new();
    let mut last: Option<Fix> = None;
    for fix in &trace.fixes {
        if last.is_none_or(|last| mode.speaks(&last, fix)) {
            last = Some(*fix);
            told.push(Place {
                at_ms: fix.at_ms,
                lat: fix.lat(),
                lon: fix.lon(),
            });
            traffic.messages += 1;
            traffic.position_bytes += publish_bytes(packet_bytes(fix));
            traffic.acknowledgement_bytes += PUBACK_BYTES;
        }
        if let Some(shown) = told.last() {
            errors
                .live_m
                .push(metres((shown.lat, shown.lon), (fix.lat(), fix.lon())));
            let age_s = (fix.at_ms - shown.at_ms) as f64 / 1e3;
            errors.max_age_s = errors.max_age_s.max(age_s);
        }
    }
    for fix in &trace.fixes {
        let there = along(&told, fix.at_ms);
        errors
            .history_m
            .extend(there.map(|there| metres(there, (fix.lat(), fix.lon()))));
    }
    (traffic, errors)
}

/// MQTT 3.1.1: header, topic, packet id, and the elements that the booklet lists and apps send.
fn packet_bytes(fix: &Fix) -> usize {
    let round = |degrees: f64| (degrees * 1e6).round() / 1e6;
    let seconds = fix.at_ms.div_euclid(1_000);
    let payload = json!({
        "_type": "location", "BSSID": "00:00:5e:00:53:01", "acc": fix.accuracy_m.unwrap_or(5), "alt": 120, "batt": 80, "bs": 1,
        "cog": fix.motion.course_ddeg.unwrap_or(0) / 10, "conn": "m", "created_at": seconds, "lat": round(fix.lat()),
        "lon": round(fix.lon()), "m": 2, "tid": "17", "tst": seconds, "vac": 3,
        "vel": fix.motion.speed_cmps.unwrap_or(0) * 36 / 1_000,
    });
    let topic = "owntracks/7c/phone";
    let rest = 2 + topic.len() + 2 + payload.to_string().len();
    1 + if rest > 127 { 2 } else { 1 } + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_speak_as_the_booklet_says() {
        let fix = |at_s: i64, metres_north: f64| {
            Fix::from_degrees(at_s * 1_000, 50.0 + metres_north / 111_229.0, 8.0).unwrap()
        };
        // 10 m/s for ten minutes.
        let trace = Trace {
            id: "straight".to_owned(),
            fixes: (0..=600).map(|at_s| fix(at_s, at_s as f64 * 10.0)).collect(),
        };
        let messages = Mode::ALL.map(|mode| drive(&trace, mode).0.messages);
        assert_eq!(messages[0], 3);
        assert!((55..=61).contains(&messages[1]), "{messages:?}");
        assert_eq!(messages[2], 601);
    }
}
