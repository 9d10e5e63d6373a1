//! `/devices/{id}/track`: where a device has been, as GeoJSON, GPX or CSV.
//!
//! An answer holds at most [`FIXES_MAX`] fixes. Where there are more it has a `Link` header with `rel="next"`, whose
//! `from` is the time of the first one that is missing; GeoJSON says the same in its members `truncated` and `next`.

use crate::openapi::Document;
use crate::positions::{FeatureJson, GEO_JSON, MeasuredJson};
use crate::problem::Problem;
use crate::query::{Id, Query};
use crate::state::ApiState;
use crate::timestamp::Timestamp;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use serde_json::json;
use std::convert::Infallible;
use std::fmt::Write;
use std::str::FromStr;
use waypost_bridge::device::DeviceId;
use waypost_bridge::position::Position;

/// The most fixes in one answer: a day and more at one a second; 7 MB in memory while the answer is sent.
const FIXES_MAX: usize = 100_000;
/// How many fixes are written at a time.
const FIXES_A_PIECE: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    GeoJson,
    Gpx,
    Csv,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "geojson" => Ok(Self::GeoJson),
            "gpx" => Ok(Self::Gpx),
            "csv" => Ok(Self::Csv),
            _ => Err("must be geojson, gpx or csv"),
        }
    }
}

/// A device's track, or as much of it as one answer holds.
struct Track {
    device: DeviceId,
    name: String,
    fixes: Vec<Position>,
    /// When the first fix is that is not in `fixes`.
    next: Option<Timestamp>,
}

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    let points = || {
        json!({
            "type": "object",
            "required": ["type", "features", "truncated", "next"],
            "properties": {
                "type": { "const": "FeatureCollection" },
                "features": { "type": "array", "items": { "type": "object" } },
                "truncated": { "type": "boolean", "description": "Whether there are more fixes than one answer holds." },
                "next": { "type": ["string", "null"], "description": "The `from` with which to go on." },
            },
        })
    };
    let moment = || json!({ "type": "string", "format": "date-time" });
    document
        .get("/api/v1/devices/{id}/track", "Where a device has been")
        .describes(
            "At most 100,000 fixes; where there are more, a `Link` header with rel=\"next\" leads to the next part.",
        )
        .takes_parameter("from", moment(), "The first moment, included.")
        .takes_parameter("to", moment(), "The last moment, included.")
        .takes_parameter("format", json!({ "enum": ["geojson", "gpx", "csv"] }), "geojson unless asked for another.")
        .answers_with(200, "The track, a point for each fix, oldest first.", GEO_JSON, points())
        .answers_with(200, "", "application/gpx+xml", json!({ "type": "string" }))
        .answers_with(200, "", "text/csv", json!({ "type": "string" }));
}

/// `GET /devices/{id}/track?from=&to=&format=`: both ends included; without them from the first fix to the last.
pub(crate) async fn show(
    State(state): State<ApiState>,
    Id(device): Id<DeviceId>,
    mut query: Query,
) -> Result<Response, Problem> {
    let from = query.parse("from").unwrap_or(Timestamp::MIN);
    let to = query.parse("to").unwrap_or(Timestamp::MAX);
    let format = query.parse("format").unwrap_or(Format::GeoJson);
    if from > to {
        query.refuse("from", "must not be after `to`");
    }
    query.finish()?;

    let name = state.bridge().device(device).await?.device.name;
    let mut fixes = state.bridge().track(device, from.0, to.0, FIXES_MAX + 1).await?;
    let next = fixes.get(FIXES_MAX).map(|position| Timestamp(position.fix.at_ms));
    fixes.truncate(FIXES_MAX);
    Ok(answer(
        Track {
            device,
            name,
            fixes,
            next,
        },
        to,
        format,
    ))
}

fn answer(track: Track, to: Timestamp, format: Format) -> Response {
    let (content_type, extension) = match format {
        Format::GeoJson => (GEO_JSON, "geojson"),
        Format::Gpx => ("application/gpx+xml", "gpx"),
        Format::Csv => ("text/csv; charset=utf-8; header=present", "csv"),
    };
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if format != Format::GeoJson {
        let disposition = format!("attachment; filename=\"track-{}.{extension}\"", track.device);
        headers.extend(HeaderValue::try_from(disposition).map(|value| (header::CONTENT_DISPOSITION, value)));
    }
    if let Some(next) = track.next {
        let device = track.device;
        let link =
            format!("</api/v1/devices/{device}/track?from={next}&to={to}&format={extension}>; rel=\"next\"");
        headers.extend(HeaderValue::try_from(link).map(|value| (header::LINK, value)));
    }
    *response.body_mut() = body(track, format);
    response
}

/// Written piece by piece, as the client takes it.
fn body(track: Track, format: Format) -> Body {
    let pieces = track.fixes.len().div_ceil(FIXES_A_PIECE);
    let texts = (0..pieces + 2).map(move |number| {
        let text = match number {
            0 => track.head(format),
            number if number <= pieces => {
                let first = (number - 1) * FIXES_A_PIECE;
                let last = (first + FIXES_A_PIECE).min(track.fixes.len());
                track.piece(format, first, last)
            }
            _ => track.tail(format),
        };
        Ok::<_, Infallible>(Bytes::from(text))
    });
    Body::from_stream(stream::iter(texts))
}

impl Track {
    fn head(&self, format: Format) -> String {
        match format {
            Format::GeoJson => r#"{"type":"FeatureCollection","features":["#.to_owned(),
            Format::Gpx => format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
                 <gpx version=\"1.1\" creator=\"Waypost\" xmlns=\"http://www.topografix.com/GPX/1/1\">\n\
                 <trk><name>{}</name><trkseg>\n",
                xml_text(&self.name)
            ),
            Format::Csv => {
                "at,lat,lon,speed_mps,course_deg,accuracy_m,battery_pct,received_at\r\n".to_owned()
            }
        }
    }

    fn piece(&self, format: Format, first: usize, last: usize) -> String {
        let mut text = String::new();
        for (index, position) in self.fixes.iter().enumerate().take(last).skip(first) {
            let written = match format {
                Format::GeoJson => {
                    let feature = FeatureJson::new(self.device, &self.name, position);
                    let json = serde_json::to_string(&feature).expect("a feature has text for keys");
                    write!(text, "{}{json}", if index == 0 { "" } else { "," })
                }
                Format::Gpx => writeln!(
                    text,
                    "<trkpt lat=\"{}\" lon=\"{}\"><time>{}</time></trkpt>",
                    position.fix.lat(),
                    position.fix.lon(),
                    Timestamp(position.fix.at_ms)
                ),
                Format::Csv => write_csv(&mut text, position),
            };
            written.expect("writing to a string does not fail");
        }
        text
    }

    fn tail(&self, format: Format) -> String {
        match format {
            Format::GeoJson => {
                let next = self.next.map_or("null".to_owned(), |next| format!("\"{next}\""));
                format!("],\"truncated\":{},\"next\":{next}}}", self.next.is_some())
            }
            Format::Gpx => "</trkseg></trk>\n</gpx>\n".to_owned(),
            Format::Csv => String::new(),
        }
    }
}

/// One line as RFC 4180 wants it; what is not known is empty.
fn write_csv(text: &mut String, position: &Position) -> std::fmt::Result {
    let MeasuredJson {
        speed_mps,
        course_deg,
        accuracy_m,
        battery_pct,
        at,
        received_at,
    } = position.into();
    let (lat, lon) = (position.fix.lat(), position.fix.lon());
    let decimal = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let whole = |value: Option<u32>| value.map(|value| value.to_string()).unwrap_or_default();
    let (speed_mps, course_deg) = (decimal(speed_mps), decimal(course_deg));
    let (accuracy_m, battery_pct) = (whole(accuracy_m), whole(battery_pct));
    write!(
        text,
        "{at},{lat},{lon},{speed_mps},{course_deg},{accuracy_m},{battery_pct},{received_at}\r\n"
    )
}

/// Text for XML 1.0: what it cannot hold (§2.2) is left out.
fn xml_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            '\u{0}'..'\u{20}' | '\u{fffe}' | '\u{ffff}' => {}
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_bridge::position::Position;
    use waypost_proto::{Fix, Motion};

    fn track(fixes: impl IntoIterator<Item = Fix>, next: Option<Timestamp>) -> Track {
        Track {
            device: "7c".parse().unwrap(),
            name: "A & <B>\u{1}".to_owned(),
            fixes: fixes
                .into_iter()
                .map(|fix| Position::measured(fix, 1_000))
                .collect(),
            next,
        }
    }

    fn full() -> Fix {
        Fix {
            at_ms: 500,
            lat_e7: 525_200_066,
            lon_e7: -5,
            motion: Motion {
                speed_cmps: Some(1_234),
                course_ddeg: Some(3_599),
            },
            accuracy_m: Some(4),
            battery_pct: Some(100),
        }
    }

    fn empty() -> Fix {
        Fix {
            at_ms: 1_500,
            lat_e7: -900_000_000,
            lon_e7: 1_800_000_000,
            motion: Motion::default(),
            accuracy_m: None,
            battery_pct: None,
        }
    }

    async fn text(track: Track, format: Format) -> (String, Response) {
        let mut response = answer(track, Timestamp::MAX, format);
        let body = std::mem::take(response.body_mut());
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (String::from_utf8(bytes.to_vec()).unwrap(), response)
    }

    #[tokio::test]
    async fn csv_has_a_header_and_a_line_a_fix() {
        let (text, response) = text(track([full(), empty()], None), Format::Csv).await;
        assert_eq!(
            text,
            "at,lat,lon,speed_mps,course_deg,accuracy_m,battery_pct,received_at\r\n\
             1970-01-01T00:00:00.500Z,52.5200066,-0.0000005,12.34,359.9,4,100,1970-01-01T00:00:01.000Z\r\n\
             1970-01-01T00:00:01.500Z,-90,180,,,,,1970-01-01T00:00:01.000Z\r\n"
        );
        assert_eq!(
            response.headers()["content-disposition"],
            "attachment; filename=\"track-7c.csv\""
        );
        assert!(!response.headers().contains_key("link"));
    }

    #[tokio::test]
    async fn gpx_is_escaped_and_has_the_time_of_each_fix() {
        let (text, _) = text(track([full(), empty()], None), Format::Gpx).await;
        assert_eq!(
            text,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <gpx version=\"1.1\" creator=\"Waypost\" xmlns=\"http://www.topografix.com/GPX/1/1\">\n\
             <trk><name>A &amp; &lt;B&gt;</name><trkseg>\n\
             <trkpt lat=\"52.5200066\" lon=\"-0.0000005\"><time>1970-01-01T00:00:00.500Z</time></trkpt>\n\
             <trkpt lat=\"-90\" lon=\"180\"><time>1970-01-01T00:00:01.500Z</time></trkpt>\n\
             </trkseg></trk>\n</gpx>\n"
        );
    }

    #[tokio::test]
    async fn geojson_has_each_fix_exactly() {
        for count in [0, 1, FIXES_A_PIECE, FIXES_A_PIECE + 1] {
            let (text, _) = text(track(std::iter::repeat_n(full(), count), None), Format::GeoJson).await;
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["features"].as_array().unwrap().len(), count);
            assert_eq!(
                (&json["truncated"], &json["next"]),
                (&false.into(), &serde_json::Value::Null)
            );
            for feature in json["features"].as_array().unwrap() {
                assert_eq!(feature["id"], "7c");
                assert_eq!(
                    feature["geometry"]["coordinates"],
                    serde_json::json!([-5e-7, 52.5200066])
                );
                assert_eq!(feature["properties"]["speed_mps"], 12.34);
            }
        }
    }

    #[tokio::test]
    async fn a_track_that_goes_on_says_where() {
        for format in [Format::GeoJson, Format::Gpx, Format::Csv] {
            let (text, response) = text(track([full()], Some(Timestamp(1_500))), format).await;
            let link = response.headers()["link"].to_str().unwrap();
            assert!(
                link.starts_with("</api/v1/devices/7c/track?from=1970-01-01T00:00:01.500Z&to=9999"),
                "{link}"
            );
            if format == Format::GeoJson {
                let json: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(json["truncated"], true);
                assert_eq!(json["next"], "1970-01-01T00:00:01.500Z");
            }
        }
    }

    #[test]
    fn each_coordinate_is_written_as_the_decimal_that_it_is() {
        for lat_e7 in [0, 1, -1, 10, 123_456_789, 899_999_999, -900_000_000, 525_200_066] {
            let degrees = Fix { lat_e7, ..empty() }.lat();
            let decimal = format!("{degrees}");
            let (whole, part) = decimal.split_once('.').unwrap_or((&decimal, ""));
            assert_eq!(
                format!("{whole}{part:0<7}").parse::<i32>().unwrap(),
                lat_e7,
                "{decimal}"
            );
        }
    }
}
