//! `/positions`: where everybody is, and how a position is written everywhere.

use crate::openapi::Document;
use crate::problem::Problem;
use crate::query::{LIMIT_MAX, NoQuery};
use crate::state::ApiState;
use crate::timestamp::Timestamp;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use waypost_bridge::BridgeError;
use waypost_bridge::device::{DeviceId, DeviceView};
use waypost_bridge::position::Position;

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
    fn from(Position { fix, received_ms }: &Position) -> Self {
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
    operation.answers_with(
        200,
        "The latest position of each device that has one and is not revoked, as GeoJSON.",
        GEO_JSON,
        schema,
    );
    crate::owntracks::describe(document);
}

/// `GET /positions`: the latest of each device that is not revoked and has one.
pub(crate) async fn list(State(state): State<ApiState>, _: NoQuery) -> Result<impl IntoResponse, Problem> {
    let views = all_devices(&state).await?;
    let features = views
        .iter()
        .filter(|view| !view.device.revoked)
        .filter_map(|view| {
            let position = view.position.as_ref()?;
            Some(FeatureJson::new(view.device.id, &view.device.name, position))
        })
        .collect();
    let collection = axum::Json(FeatureCollectionJson {
        kind: "FeatureCollection",
        features,
    })
    .into_response();
    Ok(([(header::CONTENT_TYPE, GEO_JSON)], collection))
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
