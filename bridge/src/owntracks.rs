//! What OwnTracks apps say, by MQTT or by HTTP: JSON objects told apart by `_type`, as OwnTracks' booklet describes
//! them under "JSON". Of these a `location` is a position; the other types are known and not used.
//!
//! Units become ours here: seconds to milliseconds, km/h to centimetres a second, degrees to tenths. A number that is
//! optional and outside its range is one that the app does not know (some send -1 for it); whatever has another type,
//! or cannot be missing, is refused by the name of its field.

use serde_json::{Map, Value};
use waypost_proto::{Fix, Motion};

/// The largest message in bytes; a larger one is refused. A location has about 200, a batch of a thousand fits.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// What one message says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The positions in it, in its order.
    pub fixes: Vec<Fix>,
    /// How many parts of it have another type.
    pub others: usize,
}

/// Why a message is not taken. Nothing of it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReport {
    /// It is larger than [`MESSAGE_BYTES_MAX`].
    #[error("is larger than {MESSAGE_BYTES_MAX} bytes")]
    TooLarge,
    /// It is not JSON.
    #[error("is not JSON: {0}")]
    NotJson(String),
    /// It is encrypted for somebody who is not this server.
    #[error(
        "is encrypted, and this server has no key: leave the encryption key in the app empty, and use TLS instead"
    )]
    Encrypted {
        /// Where: a JSON pointer into the message.
        pointer: String,
    },
    /// A field is missing or cannot have that value.
    #[error("{pointer} {expected}")]
    Field {
        /// Which: a JSON pointer into the message.
        pointer: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl BadReport {
    /// For a counter: one of four words.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NotJson(_) => "not_json",
            Self::Encrypted { .. } => "encrypted",
            Self::Field { .. } => "field",
        }
    }
}

/// Reads one object, or an array of them, which apps send after they were without a network.
///
/// # Errors
/// [`BadReport`], also where only one of several objects is wrong.
pub fn parse(payload: &[u8]) -> Result<Report, BadReport> {
    if payload.len() > MESSAGE_BYTES_MAX {
        return Err(BadReport::TooLarge);
    }
    let value = serde_json::from_slice(payload).map_err(|error| BadReport::NotJson(error.to_string()))?;
    let mut report = Report::default();
    match &value {
        Value::Array(parts) => {
            for (index, part) in parts.iter().enumerate() {
                take(part, &format!("/{index}"), &mut report)?;
            }
        }
        one => take(one, "", &mut report)?,
    }
    Ok(report)
}

/// Counts what has another type than `location`.
pub(crate) fn count_others(count: usize) {
    metrics::counter!("waypost_bridge_owntracks_ignored_total").increment(count as u64);
}

fn take(part: &Value, place: &str, report: &mut Report) -> Result<(), BadReport> {
    let Value::Object(fields) = part else {
        return Err(field(place, "", "must be an object with a `_type`"));
    };
    match fields.get("_type").and_then(Value::as_str) {
        Some("location") => report.fixes.push(location(fields, place)?),
        Some("encrypted") => {
            return Err(BadReport::Encrypted {
                pointer: format!("{place}/_type"),
            });
        }
        Some(_) => report.others += 1,
        None => return Err(field(place, "/_type", "must be a text such as \"location\"")),
    }
    Ok(())
}

fn location(fields: &Map<String, Value>, place: &str) -> Result<Fix, BadReport> {
    let number = |name: &'static str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_f64()
            .map(Some)
            .ok_or_else(|| field(place, &format!("/{name}"), "must be a number")),
    };
    let required =
        |name: &'static str| number(name)?.ok_or_else(|| field(place, &format!("/{name}"), "is missing"));
    let (lat, lon, tst_s) = (required("lat")?, required("lon")?, required("tst")?);
    if !(0.0..=TST_S_MAX).contains(&tst_s) {
        return Err(field(place, "/tst", "must be seconds since 1970, in UTC"));
    }
    let fix = Fix::from_degrees((tst_s * 1_000.0) as i64, lat, lon).map_err(|_| {
        let on_globe = (-90.0..=90.0).contains(&lat);
        match on_globe {
            false => field(place, "/lat", "must be -90 to 90 degrees"),
            true => field(place, "/lon", "must be -180 to 180 degrees"),
        }
    })?;
    Ok(Fix {
        motion: Motion {
            speed_cmps: whole(number("vel")?, VEL_KMH_MAX, 1.0 / 0.036),
            course_ddeg: whole(number("cog")?, 360.0, 10.0).map(|tenths| tenths % 3_600),
        },
        // An accuracy of more than 65 km, from the cell alone, is as good as 65 km.
        accuracy_m: whole(number("acc")?, f64::MAX, 1.0).map(|metres| metres.min(65_535)),
        battery_pct: whole(number("batt")?, 100.0, 1.0),
        ..fix
    })
}

/// A number from 0 to `max` in a finer unit, to the nearest whole one; `None` for what is outside.
#[expect(
    clippy::cast_sign_loss,
    reason = "it was found not to be negative; a large one saturates"
)]
fn whole(number: Option<f64>, max: f64, finer: f64) -> Option<u32> {
    let number = number.filter(|number| (0.0..=max).contains(number))?;
    Some((number * finer).round() as u32)
}

/// The year 5138: what is later is milliseconds.
const TST_S_MAX: f64 = 1e11;
/// What a position can hold, a little below: 40,940 cm/s.
const VEL_KMH_MAX: f64 = 1_473.8;

fn field(place: &str, name: &str, expected: &'static str) -> BadReport {
    BadReport::Field {
        pointer: format!("{place}{name}"),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// With every field that OwnTracks' booklet lists for a location, as its iOS and Android apps send them.
    const IOS: &str = r#"{"_type":"location","acc":65,"alt":154,"batt":81,"bs":1,"cog":271,"lat":48.856826,
        "lon":2.292713,"rad":50,"t":"u","tid":"JJ","tst":1497349316,"vac":10,"vel":54,"p":99.982,"conn":"w",
        "topic":"owntracks/jane/phone","inregions":["Home","Garage"],"inrids":["5a1c"],"SSID":"waves",
        "BSSID":"b4:f2:e8:00:00:01","created_at":1497349317,"m":1,"_id":"3f2a"}"#;

    #[test]
    fn a_location_becomes_a_position_in_our_units() {
        let fix = Fix {
            at_ms: 1_497_349_316_000,
            lat_e7: 488_568_260,
            lon_e7: 22_927_130,
            motion: Motion {
                speed_cmps: Some(1_500),
                course_ddeg: Some(2_710),
            },
            accuracy_m: Some(65),
            battery_pct: Some(81),
        };
        assert_eq!(
            parse(IOS.as_bytes()).unwrap(),
            Report {
                fixes: vec![fix],
                others: 0
            }
        );
    }

    #[test]
    fn what_a_location_does_not_say_is_unknown_and_so_is_what_cannot_be() {
        let bare = r#"{"_type":"location","lat":1,"lon":2,"tst":1497349316"#;
        let with = |more: &str| {
            let report = parse(format!("{bare}{more}}}").as_bytes()).unwrap();
            let fix = report.fixes[0];
            (
                fix.motion.speed_cmps,
                fix.motion.course_ddeg,
                fix.accuracy_m,
                fix.battery_pct,
            )
        };
        assert_eq!(with(""), (None, None, None, None));
        assert_eq!(
            with(r#","vel":null,"cog":null,"acc":null,"batt":null"#),
            (None, None, None, None)
        );
        assert_eq!(
            with(r#","vel":-1,"cog":-1,"acc":-1,"batt":-100"#),
            (None, None, None, None)
        );
        assert_eq!(
            with(r#","vel":1e9,"cog":361,"batt":101"#),
            (None, None, None, None)
        );
        assert_eq!(
            with(r#","vel":0,"cog":360,"acc":0.4,"batt":0"#),
            (Some(0), Some(0), Some(0), Some(0))
        );
        assert_eq!(
            with(r#","vel":1473.8,"cog":359.99,"acc":1e30,"batt":99.6"#),
            (Some(40_939), Some(0), Some(65_535), Some(100))
        );
    }

    /// One of each other type that the booklet lists.
    #[test]
    fn other_types_are_known_and_not_used() {
        for other in [
            r#"{"_type":"transition","wtst":1497000000,"lat":48.85,"lon":2.29,"tst":1497349316,"acc":10,"tid":"JJ",
                "event":"enter","desc":"Home","t":"c","rid":"5a1c"}"#,
            r#"{"_type":"waypoint","desc":"Home","lat":48.85,"lon":2.29,"rad":50,"tst":1497000000}"#,
            r#"{"_type":"waypoints","waypoints":[{"_type":"waypoint","desc":"Home","tst":1497000000}]}"#,
            r#"{"_type":"lwt","tst":1497349316}"#,
            r#"{"_type":"card","name":"Jane","face":"iVBORw0KGgo=","tid":"JJ"}"#,
            r#"{"_type":"status","iOS":{"version":"18.0"},"_id":"x"}"#,
            r#"{"_type":"steps","tst":1497349316,"steps":512,"from":1400455130,"to":1400458859}"#,
            r#"{"_type":"beacon","uuid":"CA271EAE","major":1,"minor":2,"tst":1497349316,"acc":5,"rssi":-60}"#,
            r#"{"_type":"cmd","action":"reportLocation"}"#,
            r#"{"_type":"configuration","mode":0}"#,
            r#"{"_type":"request","request":"tour"}"#,
            r#"{"_type":"something of tomorrow","lat":"far"}"#,
        ] {
            assert_eq!(
                parse(other.as_bytes()),
                Ok(Report {
                    fixes: vec![],
                    others: 1
                }),
                "{other}"
            );
        }
    }

    #[test]
    fn a_batch_holds_several() {
        let batch = format!(r#"[{IOS},{{"_type":"lwt","tst":1}},{IOS}]"#);
        let report = parse(batch.as_bytes()).unwrap();
        assert_eq!((report.fixes.len(), report.others), (2, 1));
        assert_eq!(parse(b"[]"), Ok(Report::default()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (payload, label, said) in [
            ("", "not_json", "is not JSON"),
            ("{", "not_json", "is not JSON"),
            ("\u{1}", "not_json", "is not JSON"),
            (&"[".repeat(10_000), "not_json", "is not JSON"),
            (&" ".repeat(MESSAGE_BYTES_MAX + 1), "too_large", "is larger"),
            (
                r#"{"_type":"encrypted","data":"x"}"#,
                "encrypted",
                "encryption key",
            ),
            (r#"[{"_type":"encrypted"}]"#, "encrypted", "encryption key"),
            ("3", "field", " must be an object"),
            ("[[]]", "field", "/0 must be an object"),
            ("{}", "field", "/_type must"),
            (r#"{"_type":3}"#, "field", "/_type must"),
            (
                r#"{"_type":"location","lon":2,"tst":3}"#,
                "field",
                "/lat is missing",
            ),
            (
                r#"{"_type":"location","lat":1,"tst":3}"#,
                "field",
                "/lon is missing",
            ),
            (
                r#"{"_type":"location","lat":1,"lon":2}"#,
                "field",
                "/tst is missing",
            ),
            (
                r#"{"_type":"location","lat":"1","lon":2,"tst":3}"#,
                "field",
                "/lat must be a number",
            ),
            (
                r#"{"_type":"location","lat":90.1,"lon":2,"tst":3}"#,
                "field",
                "/lat must be -90",
            ),
            (
                r#"{"_type":"location","lat":1,"lon":-181,"tst":3}"#,
                "field",
                "/lon must be -180",
            ),
            (
                r#"{"_type":"location","lat":1,"lon":2,"tst":-3}"#,
                "field",
                "/tst must be seconds",
            ),
            (
                r#"{"_type":"location","lat":1,"lon":2,"tst":1497349316000}"#,
                "field",
                "/tst must be seconds",
            ),
            (
                r#"{"_type":"location","lat":1,"lon":2,"tst":3,"vel":"fast"}"#,
                "field",
                "/vel must be a number",
            ),
            (
                r#"[{"_type":"lwt"},{"_type":"location"}]"#,
                "field",
                "/1/lat is missing",
            ),
        ] {
            let refused = parse(payload.as_bytes()).unwrap_err();
            assert_eq!(refused.label(), label, "{payload:.60}");
            assert!(
                refused.to_string().contains(said),
                "{payload:.60}: {refused} does not say {said}"
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_taken_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&payload);
        }

        #[test]
        fn arbitrary_numbers_are_positions_or_refused(
            lat in any::<f64>(), lon in any::<f64>(), tst in any::<f64>(), other in any::<f64>(),
        ) {
            let payload = serde_json::json!({
                "_type": "location", "lat": lat, "lon": lon, "tst": tst, "vel": other, "cog": other, "acc": other,
                "batt": other,
            });
            if let Ok(report) = parse(payload.to_string().as_bytes()) {
                // What the wire takes is a position that everybody else takes, too.
                let fix = report.fixes[0];
                prop_assert!(Fix::from_live(&fix.to_live(fix.at_ms), fix.at_ms).is_ok(), "{fix:?}");
            }
        }
    }
}
