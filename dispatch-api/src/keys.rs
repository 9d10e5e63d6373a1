//! `/keys` and `/keys/{id}`: how other systems and bots come in.

use crate::access::{ActingBridge, KeyRoleJson, RoleJson, role_name};
use crate::idempotency::IdempotencyKey;
use crate::json::{JsonBody, present};
use crate::openapi::Document;
use crate::page::PageJson;
use crate::problem::Problem;
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
use waypost_bridge::key::{ApiKey, KeyPatch, NewKey};
use waypost_bridge::person::PersonId;

/// A key without its token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyJson {
    id: String,
    name: String,
    #[schema(value_type = KeyRoleJson)]
    role: &'static str,
    created_at: Timestamp,
    /// To the minute; `null` for never.
    last_used_at: Option<Timestamp>,
    revoked: bool,
}

/// A key and its token, which is shown this once; the server keeps a hash of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct IssuedKeyJson {
    token: String,
    #[serde(flatten)]
    key: KeyJson,
}

impl From<ApiKey> for KeyJson {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id.to_string(),
            name: key.name,
            role: role_name(key.role),
            created_at: Timestamp(key.created_ms),
            last_used_at: key.last_used_ms.map(Timestamp),
            revoked: key.revoked,
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKeyJson {
    name: String,
    #[schema(value_type = KeyRoleJson)]
    role: RoleJson,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyPatchJson {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<KeyRoleJson>, nullable = false)]
    role: Option<RoleJson>,
}

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    document
        .get("/api/v1/keys", "List the keys")
        .takes_page()
        .answers_page::<KeyJson>("Keys, revoked ones too, by id.");
    document
        .post("/api/v1/keys", "Add a key")
        .takes::<NewKeyJson>()
        .answers::<IssuedKeyJson>(201, "The key and its token, which is shown this once.");
    document
        .get("/api/v1/keys/{id}", "Show a key")
        .answers::<KeyJson>(200, "The key without its token.");
    document
        .patch("/api/v1/keys/{id}", "Change a key")
        .takes::<KeyPatchJson>()
        .answers::<KeyJson>(200, "The key as it is now.");
    document
        .delete("/api/v1/keys/{id}", "Revoke a key")
        .describes("It opens nothing any more, at once; what it wrote stays.")
        .answers_nothing("It is revoked.");
}

/// `GET /keys`
pub(crate) async fn list(
    State(state): State<ApiState>,
    mut query: Query,
) -> Result<impl IntoResponse, Problem> {
    let limit = query.limit().unwrap_or(LIMIT_DEFAULT);
    let after: Option<PersonId> = query.parse("cursor");
    query.finish()?;
    let keys = state.bridge().keys(after, limit + 1).await?;
    let page = PageJson::cut(keys, limit, |key| key.id.to_string());
    Ok(Json(page.map(KeyJson::from)))
}

/// `POST /keys`
pub(crate) async fn create(
    ActingBridge(bridge): ActingBridge,
    _: NoQuery,
    key: IdempotencyKey,
    body: JsonBody<NewKeyJson>,
) -> Result<impl IntoResponse, Problem> {
    let once = key.once(&body.bytes);
    let NewKeyJson {
        name,
        role: RoleJson(role),
    } = body.value;
    let token = Secret::draw();
    let new = NewKey {
        name,
        role,
        token_hash: token.sha256(),
    };
    let issued = IssuedKeyJson {
        key: bridge.add_key(new, once).await?.into(),
        token: token.text().to_owned(),
    };
    let location = format!("/api/v1/keys/{}", issued.key.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(issued)))
}

/// `GET /keys/{id}`
pub(crate) async fn show(
    State(state): State<ApiState>,
    Id(id): Id<PersonId>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    Ok(Json(KeyJson::from(state.bridge().key(id).await?)))
}

/// `PATCH /keys/{id}`
pub(crate) async fn update(
    ActingBridge(bridge): ActingBridge,
    Id(id): Id<PersonId>,
    _: NoQuery,
    body: JsonBody<KeyPatchJson>,
) -> Result<impl IntoResponse, Problem> {
    let KeyPatchJson { name, role } = body.value;
    let patch = KeyPatch {
        name,
        role: role.map(|RoleJson(role)| role),
    };
    Ok(Json(KeyJson::from(bridge.update_key(id, patch).await?)))
}

/// `DELETE /keys/{id}`: it opens nothing any more, at once; what it wrote stays.
pub(crate) async fn revoke(
    ActingBridge(bridge): ActingBridge,
    Id(id): Id<PersonId>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    bridge.revoke_key(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
