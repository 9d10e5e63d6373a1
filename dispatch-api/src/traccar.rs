//! Positions as Traccar forwards them (`forward.type` `json`): a device and its position, in Traccar's names and units,
//! so that whatever reads from Traccar today can read from here.
//!
//! Traccar's numbers have no "unknown": what a device did not say is 0, as in Traccar itself. Speeds are in knots.

use crate::timestamp::Timestamp;
use serde::Serialize;
use waypost_bridge::device::{DeviceView, Presence};
use waypost_bridge::position::Position;

/// Knots in a metre a second.
const KNOTS: f64 = 3_600.0 / 1_852.0;

/// One position and its device.
#[derive(Debug, Serialize)]
pub(crate) struct ForwardJson<'a> {
    position: PositionJson,
    device: DeviceJson<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PositionJson {
    /// The time of the fix: for one device another one for each position.
    id: i64,
    attributes: AttributesJson,
    device_id: u32,
    protocol: &'static str,
    server_time: Timestamp,
    device_time: Timestamp,
    fix_time: Timestamp,
    outdated: bool,
    valid: bool,
    latitude: f64,
    longitude: f64,
    altitude: f64,
    speed: f64,
    course: f64,
    address: Option<()>,
    accuracy: f64,
    network: Option<()>,
    geofence_ids: Option<()>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AttributesJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    battery_level: Option<u32>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeviceJson<'a> {
    id: u32,
    attributes: Attributes,
    group_id: u32,
    calendar_id: u32,
    name: &'a str,
    /// The device's id as it stands everywhere else.
    unique_id: String,
    status: &'static str,
    last_update: Option<Timestamp>,
    position_id: i64,
    phone: Option<()>,
    model: Option<()>,
    contact: Option<&'a str>,
    category: Option<()>,
    disabled: bool,
    expiration_time: Option<()>,
}

/// `{}`
#[derive(Debug, Serialize)]
struct Attributes {}

impl<'a> ForwardJson<'a> {
    pub(crate) fn new(view: &'a DeviceView, Position { fix, received_ms, .. }: &Position) -> Self {
        let device = &view.device;
        Self {
            position: PositionJson {
                id: fix.at_ms,
                attributes: AttributesJson {
                    battery_level: fix.battery_pct,
                },
                device_id: device.id.number(),
                protocol: "waypost",
                server_time: Timestamp(*received_ms),
                device_time: Timestamp(fix.at_ms),
                fix_time: Timestamp(fix.at_ms),
                outdated: false,
                valid: true,
                latitude: fix.lat(),
                longitude: fix.lon(),
                altitude: 0.0,
                speed: f64::from(fix.motion.speed_cmps.unwrap_or(0)) / 100.0 * KNOTS,
                course: f64::from(fix.motion.course_ddeg.unwrap_or(0)) / 10.0,
                address: None,
                accuracy: f64::from(fix.accuracy_m.unwrap_or(0)),
                network: None,
                geofence_ids: None,
            },
            device: DeviceJson {
                id: device.id.number(),
                attributes: Attributes {},
                group_id: 0,
                calendar_id: 0,
                name: &device.name,
                unique_id: device.id.to_string(),
                status: match view.presence {
                    Presence::Online { .. } => "online",
                    Presence::Offline { .. } => "offline",
                    Presence::Unknown => "unknown",
                },
                last_update: view.last_seen_ms.map(Timestamp),
                position_id: fix.at_ms,
                phone: None,
                model: None,
                contact: device.driver.as_ref().map(|driver| driver.name.as_str()),
                category: None,
                disabled: device.revoked,
                expiration_time: None,
            },
        }
    }
}
