//! `/devices` and `/devices/{id}`: the drivers' units.

use crate::access::ActingBridge;
use crate::credentials::CredentialsFile;
use crate::idempotency::IdempotencyKey;
use crate::json::{IdJson, JsonBody, Object, ids, present};
use crate::openapi::Document;
use crate::page::PageJson;
use crate::positions::PositionJson;
use crate::problem::{FieldProblem, Problem};
use crate::query::{Id, LIMIT_DEFAULT, NoQuery, Query};
use crate::secret::Secret;
use crate::state::ApiState;
use crate::timestamp::Timestamp;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use waypost_bridge::device::{DeviceId, DevicePatch, DeviceView, Driver, NewDevice, Presence};
use waypost_bridge::group::GroupId;
use waypost_bridge::{Bridge, BridgeError};

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeviceJson {
    id: String,
    name: String,
    driver: Option<DriverJson>,
    /// Ids of its groups.
    groups: Vec<String>,
    labels: Vec<String>,
    presence: PresenceJson,
    position: Option<PositionJson>,
    app: Option<AppJson>,
    last_seen: Option<Timestamp>,
    stream: String,
    revoked: bool,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DriverJson {
    name: String,
    #[serde(default = "english")]
    locale: String,
}

fn english() -> String {
    "en".to_owned()
}

#[derive(Debug, Serialize, ToSchema)]
struct PresenceJson {
    /// `unknown`, `online` or `offline`.
    state: &'static str,
    since: Option<Timestamp>,
}

#[derive(Debug, Serialize, ToSchema)]
struct AppJson {
    version: String,
}

impl From<DeviceView> for DeviceJson {
    fn from(view: DeviceView) -> Self {
        let device = view.device;
        Self {
            id: device.id.to_string(),
            name: device.name,
            driver: device.driver.map(Into::into),
            groups: view.groups.iter().map(GroupId::to_string).collect(),
            labels: device.labels,
            presence: view.presence.into(),
            position: view.position.as_ref().map(Into::into),
            app: device.app.map(|version| AppJson { version }),
            last_seen: view.last_seen_ms.map(Timestamp),
            stream: device.stream.to_string(),
            revoked: device.revoked,
        }
    }
}

impl From<Driver> for DriverJson {
    fn from(Driver { name, locale }: Driver) -> Self {
        Self { name, locale }
    }
}

impl From<DriverJson> for Driver {
    fn from(DriverJson { name, locale }: DriverJson) -> Self {
        Self { name, locale }
    }
}

impl From<Presence> for PresenceJson {
    fn from(presence: Presence) -> Self {
        match presence {
            Presence::Unknown => Self {
                state: "unknown",
                since: None,
            },
            Presence::Online { since_ms } => Self {
                state: "online",
                since: Some(Timestamp(since_ms)),
            },
            Presence::Offline { since_ms } => Self {
                state: "offline",
                since: Some(Timestamp(since_ms)),
            },
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewDeviceJson {
    #[schema(min_length = 1, max_length = 100, example = "truck-17")]
    name: String,
    #[schema(value_type = Option<DriverJson>)]
    driver: Option<Object<DriverJson>>,
    /// Ids of the groups that it joins.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    groups: Vec<IdJson<GroupId>>,
    #[serde(default)]
    labels: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct EnrolledJson {
    device: DeviceJson,
    credentials: CredentialsFile,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DevicePatchJson {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, min_length = 1, max_length = 100)]
    name: Option<String>,
    /// `null` takes the driver off.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<DriverJson>)]
    driver: Option<Option<Object<DriverJson>>>,
    /// Ids of its groups: it leaves those that are missing, and joins those that are new.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Vec<String>>, nullable = false)]
    groups: Option<Vec<IdJson<GroupId>>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    labels: Option<Vec<String>>,
}

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    document
        .get("/api/v1/devices", "List the devices")
        .takes_page()
        .answers_page::<DeviceJson>("Devices, revoked ones too, by id.");
    document
        .post("/api/v1/devices", "Add a device")
        .takes::<NewDeviceJson>()
        .answers::<EnrolledJson>(201, "The device and its credentials, which are shown this once.");
    document
        .get("/api/v1/devices/{id}", "Show a device")
        .answers::<DeviceJson>(200, "The device.");
    document
        .patch("/api/v1/devices/{id}", "Change a device")
        .takes::<DevicePatchJson>()
        .answers::<DeviceJson>(200, "The device as it is now.");
    document
        .delete("/api/v1/devices/{id}", "Revoke a device")
        .describes("Its session ends and it cannot connect again; its history stays.")
        .answers_nothing("It is revoked.");
    document
        .post(
            "/api/v1/devices/{id}/credentials",
            "Give a device new credentials",
        )
        .describes("The old ones stop working at once, and a session that uses them ends.")
        .answers::<CredentialsFile>(200, "The credentials, which are shown this once.");
}

/// `GET /devices`
pub(crate) async fn list(
    State(state): State<ApiState>,
    mut query: Query,
) -> Result<impl IntoResponse, Problem> {
    let limit = query.limit().unwrap_or(LIMIT_DEFAULT);
    let after: Option<DeviceId> = query.parse("cursor");
    query.finish()?;
    let views = state.bridge().devices(after, limit + 1).await?;
    let page = PageJson::cut(views, limit, |view| view.device.id.to_string());
    Ok(Json(page.map(DeviceJson::from)))
}

/// `POST /devices`
pub(crate) async fn create(
    State(state): State<ApiState>,
    ActingBridge(bridge): ActingBridge,
    _: NoQuery,
    key: IdempotencyKey,
    body: JsonBody<NewDeviceJson>,
) -> Result<impl IntoResponse, Problem> {
    let once = key.once(&body.bytes);
    let NewDeviceJson {
        name,
        driver,
        groups,
        labels,
    } = body.value;
    let groups = known_groups(&bridge, groups).await?;
    let secret = Secret::draw();
    let new = NewDevice {
        name,
        driver: driver.map(|Object(driver)| driver.into()),
        labels,
        secret_hash: secret.sha256(),
        groups,
    };
    let view = bridge.add_device(new, once).await?;
    let location = format!("/api/v1/devices/{}", view.device.id);
    let credentials = CredentialsFile::new(&state, &view.device, &secret);
    let enrolled = EnrolledJson {
        device: view.into(),
        credentials,
    };
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(enrolled),
    ))
}

/// `GET /devices/{id}`
pub(crate) async fn show(
    State(state): State<ApiState>,
    Id(id): Id<DeviceId>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    Ok(Json(DeviceJson::from(state.bridge().device(id).await?)))
}

/// `PATCH /devices/{id}`
pub(crate) async fn update(
    ActingBridge(bridge): ActingBridge,
    Id(id): Id<DeviceId>,
    _: NoQuery,
    body: JsonBody<DevicePatchJson>,
) -> Result<impl IntoResponse, Problem> {
    let DevicePatchJson {
        name,
        driver,
        groups,
        labels,
    } = body.value;
    let groups = match groups {
        Some(groups) => Some(known_groups(&bridge, groups).await?),
        None => None,
    };
    let driver = driver.map(|driver| driver.map(|Object(driver)| driver.into()));
    let patch = DevicePatch {
        name,
        driver,
        labels,
        groups,
    };
    Ok(Json(DeviceJson::from(bridge.update_device(id, patch).await?)))
}

/// The groups that are named, or the place of one that there is not.
async fn known_groups(bridge: &Bridge, groups: Vec<IdJson<GroupId>>) -> Result<Vec<GroupId>, Problem> {
    let groups = ids(groups);
    for (place, id) in groups.iter().enumerate() {
        match bridge.group(*id).await {
            Ok(_) => {}
            Err(BridgeError::NotFound(_)) => {
                return Err(Problem::fields(vec![FieldProblem {
                    pointer: format!("/groups/{place}"),
                    detail: format!("there is no group {id}"),
                }]));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(groups)
}

/// `DELETE /devices/{id}`: its session ends, its history stays.
pub(crate) async fn revoke(
    ActingBridge(bridge): ActingBridge,
    Id(id): Id<DeviceId>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    bridge.revoke_device(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
