//! `/devices/{id}/credentials`: what a device needs to connect.

use crate::problem::{Problem, ProblemType};
use crate::query::{Id, NoQuery};
use crate::secret::Secret;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::Serialize;
use waypost_bridge::device::{Device, DeviceId, DevicePatch};

/// A device's credentials file. It is shown once; the server keeps a hash of the secret.
#[derive(Serialize)]
pub(crate) struct CredentialsFile {
    device: String,
    name: String,
    secret: String,
    mqtt: Vec<String>,
    /// The certificate of an authority of one's own; none while the broker listens in the clear.
    ca: Option<String>,
}

impl CredentialsFile {
    pub(crate) fn new(state: &ApiState, device: &Device, secret: &Secret) -> Self {
        Self {
            device: device.id.to_string(),
            name: device.name.clone(),
            secret: secret.text().to_owned(),
            mqtt: state.shared.mqtt.clone(),
            ca: None,
        }
    }
}

/// `POST /devices/{id}/credentials`: the old secret stops working and its session ends.
pub(crate) async fn rotate(
    State(state): State<ApiState>,
    Id(id): Id<DeviceId>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    if state.bridge().device(id).await?.device.revoked {
        return Err(Problem::new(
            ProblemType::Conflict,
            "This device is revoked and cannot connect again. Add the unit as a new device.",
        ));
    }
    let secret = Secret::draw();
    let patch = DevicePatch {
        secret_hash: Some(secret.sha256()),
        ..DevicePatch::default()
    };
    let view = state.bridge().update_device(id, patch).await?;
    Ok(Json(CredentialsFile::new(&state, &view.device, &secret)))
}
