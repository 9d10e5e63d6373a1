//! `/positions`: where everybody is, and how a position is written everywhere.

use crate::openapi::Document;
use crate::problem::Problem;
use crate::query::{LIMIT_MAX, Query};
use crate::state::ApiState;
use crate::timestamp::Timestamp;
use crate::traccar::ForwardJson;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use std::str::FromStr;
use utoipa::ToSchema;
use waypost_bridge::BridgeError;
use waypost_bridge::device::{DeviceId, DeviceView};
use waypost_bridge::position::Position;
use waypost_proto::Fix;

/// A position by itself. `null` is what the device did not say.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PositionJson {
    lat: f64,
    lon: f64,
    #[serde(flatten)]
    measured: MeasuredJson,
}

/// All of a position but its place.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MeasuredJson {
    pub(crate) speed_mps: Option<f64>,
    pub(crate) course_deg: Option<f64>,
    pub(crate) accuracy_m: Option<u32>,
    pub(crate) battery_pct: Option<u32>,
    /// By the device's clock.
    pub(crate) at: Timestamp,
    /// By the server's clock.
    pub(crate) received_at: Timestamp,
}

/// A position as a GeoJSON feature (RFC 7946 §3.2).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FeatureJson<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The device.
    id: String,
    geometry: PointJson,
    properties: PropertiesJson<'a>,
}

#[derive(Debug, Serialize, ToSchema)]
struct PointJson {
    #[serde(rename = "type")]
    kind: &'static str,
    /// [RFC 7946 §3.1.1] longitude first.
    coordinates: [f64; 2],
}

#[derive(Debug, Serialize, ToSchema)]
struct PropertiesJson<'a> {
    name: &'a str,
    #[serde(flatten)]
    measured: MeasuredJson,
}

#[derive(Debug, Serialize, ToSchema)]
struct FeatureCollectionJson<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    features: Vec<FeatureJson<'a>>,
}

impl From<&Position> for PositionJson {
    fn from(position: &Position) -> Self {
        Self {
            lat: position.fix.lat(),
            lon: position.fix.lon(),
            measured: position.into(),
        }
    }
}

impl From<&Position> for MeasuredJson {
    fn from(Position { fix, received_ms, .. }: &Position) -> Self {
        Self {
            speed_mps: fix.motion.speed_cmps.map(|cmps| f64::from(cmps) / 100.0),
            course_deg: fix.motion.course_ddeg.map(|ddeg| f64::from(ddeg) / 10.0),
            accuracy_m: fix.accuracy_m,
            battery_pct: fix.battery_pct,
            at: Timestamp(fix.at_ms),
            received_at: Timestamp(*received_ms),
        }
    }
}

impl<'a> FeatureJson<'a> {
    pub(crate) fn new(device: DeviceId, name: &'a str, position: &Position) -> Self {
        Self {
            kind: "Feature",
            id: device.to_string(),
            geometry: PointJson {
                kind: "Point",
                coordinates: [position.fix.lon(), position.fix.lat()],
            },
            properties: PropertiesJson {
                name,
                measured: position.into(),
            },
        }
    }
}

/// What GeoJSON is declared as (RFC 7946 §12).
pub(crate) const GEO_JSON: &str = "application/geo+json";

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    let operation = document.get("/api/v1/positions", "Where everybody is");
    let schema = operation.schema_of::<FeatureCollectionJson<'static>>();
    operation
        .takes_parameter(
            "format",
            json!({ "type": "string", "enum": ["geojson", "traccar"] }),
            "`geojson` where it is not given; `traccar` as Traccar forwards positions, with its names and units.",
        )
        .takes_parameter(
            "bbox",
            json!({ "type": "string" }),
            "Only positions in this box: west,south,east,north in degrees, west more than east across the antimeridian.",
        )
        .answers_with(
            200,
            "The latest position of each device that has one and is not revoked.",
            GEO_JSON,
            schema,
        )
        .answers_with(
            200,
            "The latest position of each device that has one and is not revoked.",
            "application/json",
            json!({
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["position", "device"],
                    "properties": { "position": { "type": "object" }, "device": { "type": "object" } },
                },
            }),
        );
    crate::owntracks::describe(document);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    GeoJson,
    Traccar,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "geojson" => Ok(Self::GeoJson),
            "traccar" => Ok(Self::Traccar),
            _ => Err("must be geojson or traccar"),
        }
    }
}

/// A part of the globe, in degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bounds {
    west: f64,
    south: f64,
    east: f64,
    north: f64,
}

impl FromStr for Bounds {
    type Err = &'static str;

    /// [RFC 7946 §5] west, south, east, north; west is more than east where the box crosses the antimeridian.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers: Result<Vec<f64>, _> = text.split(',').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[west, south, east, north])
                if [west, east].iter().all(|lon| (-180.0..=180.0).contains(lon))
                    && -90.0 <= south
                    && south <= north
                    && north <= 90.0 =>
            {
                Ok(Self {
                    west,
                    south,
                    east,
                    north,
                })
            }
            _ => Err("must be west,south,east,north in degrees"),
        }
    }
}

impl Bounds {
    fn contain(&self, fix: &Fix) -> bool {
        let (lat, lon) = (fix.lat(), fix.lon());
        let across = self.west > self.east;
        let (after_west, before_east) = (self.west <= lon, lon <= self.east);
        let within = if across {
            after_west || before_east
        } else {
            after_west && before_east
        };
        within && (self.south..=self.north).contains(&lat)
    }
}

/// `GET /positions?format=&bbox=`: the latest of each device that is not revoked and has one.
pub(crate) async fn list(State(state): State<ApiState>, mut query: Query) -> Result<Response, Problem> {
    let format = query.parse("format").unwrap_or(Format::GeoJson);
    let bounds: Option<Bounds> = query.parse("bbox");
    query.finish()?;
    let views = all_devices(&state).await?;
    let shown = views
        .iter()
        .filter(|view| !view.device.revoked)
        .filter_map(|view| Some((view, view.position.as_ref()?)))
        .filter(|(_, position)| bounds.is_none_or(|bounds| bounds.contain(&position.fix)));
    if format == Format::Traccar {
        let positions: Vec<_> = shown
            .map(|(view, position)| ForwardJson::new(view, position))
            .collect();
        return Ok(axum::Json(positions).into_response());
    }
    let features = shown
        .map(|(view, position)| FeatureJson::new(view.device.id, &view.device.name, position))
        .collect();
    let collection = axum::Json(FeatureCollectionJson {
        kind: "FeatureCollection",
        features,
    })
    .into_response();
    Ok(([(header::CONTENT_TYPE, GEO_JSON)], collection).into_response())
}

/// Every device, in pages, so that nobody else waits long for the bridge.
pub(crate) async fn all_devices(state: &ApiState) -> Result<Vec<DeviceView>, BridgeError> {
    let mut all: Vec<DeviceView> = Vec::new();
    loop {
        let after = all.last().map(|view| view.device.id);
        let page = state.bridge().devices(after, LIMIT_MAX).await?;
        let more = page.len() == LIMIT_MAX;
        all.extend(page);
        if !more {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_contains_what_is_in_it_also_across_the_antimeridian() {
        let inside = |bounds: &str, lat: f64, lon: f64| {
            let bounds: Bounds = bounds.parse().unwrap();
            bounds.contain(&Fix::from_degrees(0, lat, lon).unwrap())
        };
        for (bounds, lat, lon, expected) in [
            ("13,52,14,53", 52.5, 13.4, true),
            ("13,52,14,53", 52.0, 13.0, true),
            ("13,52,14,53", 51.9, 13.4, false),
            ("13,52,14,53", 52.5, 14.1, false),
            ("170,-20,-170,-10", -15.0, 179.0, true),
            ("170,-20,-170,-10", -15.0, -179.0, true),
            ("170,-20,-170,-10", -15.0, 0.0, false),
            ("-180,-90,180,90", 90.0, 180.0, true),
        ] {
            assert_eq!(inside(bounds, lat, lon), expected, "{bounds}: {lat} {lon}");
        }
        for wrong in [
            "",
            "1,2,3",
            "1,2,3,4,5",
            "1,2,3,x",
            "13,53,14,52",
            "-181,0,0,0",
            "0,0,181,0",
            "0,-91,0,0",
            "0,0,0,91",
            "0,NaN,0,1",
            "NaN,0,0,1",
        ] {
            assert!(wrong.parse::<Bounds>().is_err(), "{wrong}");
        }
    }
}
