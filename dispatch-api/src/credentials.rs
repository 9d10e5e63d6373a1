//! `/devices/{id}/credentials`: what a device needs to connect.

use crate::access::ActingBridge;
use crate::idempotency::IdempotencyKey;
use crate::problem::Problem;
use crate::query::{Id, NoQuery};
use crate::secret::Secret;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use waypost_bridge::device::{Device, DeviceId};

/// A device's credentials file. It is shown once; the server keeps a hash of the secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct CredentialsFile {
    device: String,
    name: String,
    secret: String,
    mqtt: Vec<String>,
    /// The authority in PEM that has signed the server's certificate; none where it is one that devices know.
    ca: Option<String>,
}

impl CredentialsFile {
    pub(crate) fn new(state: &ApiState, device: &Device, secret: &Secret) -> Self {
        Self {
            device: device.id.to_string(),
            name: device.name.clone(),
            secret: secret.text().to_owned(),
            mqtt: state.shared.mqtt.clone(),
            ca: state
                .shared
                .mqtt_authority
                .as_ref()
                .map(|authority| authority.pem().to_owned()),
        }
    }
}

/// `POST /devices/{id}/credentials`: the old secret stops working and its session ends.
pub(crate) async fn rotate(
    State(state): State<ApiState>,
    ActingBridge(bridge): ActingBridge,
    Id(id): Id<DeviceId>,
    _: NoQuery,
    key: IdempotencyKey,
) -> Result<impl IntoResponse, Problem> {
    let once = key.once(&[]);
    let secret = Secret::draw();
    let view = bridge.rotate_secret(id, secret.sha256(), once).await?;
    Ok(Json(CredentialsFile::new(&state, &view.device, &secret)))
}
