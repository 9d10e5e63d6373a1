//! `/groups` and `/groups/{id}`: devices that share a channel.

use crate::access::ActingBridge;
use crate::idempotency::IdempotencyKey;
use crate::json::{IDS_BYTES_MAX, IdJson, JsonBody, ids, present};
use crate::openapi::Document;
use crate::page::PageJson;
use crate::problem::Problem;
use crate::query::{Id, LIMIT_DEFAULT, NoQuery, Query};
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use waypost_bridge::device::DeviceId;
use waypost_bridge::group::{GroupId, GroupPatch, GroupView, History, NewGroup};

/// Devices that share a channel.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupJson {
    id: String,
    name: String,
    /// Its channel.
    stream: String,
    /// Its members of this moment, by id.
    devices: Vec<String>,
    history: HistoryJson,
}

/// What those who join may read of the time before: nothing, or all of it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", try_from = "String")]
enum HistoryJson {
    None,
    All,
}

impl TryFrom<String> for HistoryJson {
    type Error = &'static str;

    fn try_from(history: String) -> Result<Self, Self::Error> {
        match history.as_str() {
            "none" => Ok(Self::None),
            "all" => Ok(Self::All),
            _ => Err("must be \"none\" or \"all\""),
        }
    }
}

impl From<History> for HistoryJson {
    fn from(history: History) -> Self {
        match history {
            History::SinceJoining => Self::None,
            History::All => Self::All,
        }
    }
}

impl From<HistoryJson> for History {
    fn from(history: HistoryJson) -> Self {
        match history {
            HistoryJson::None => Self::SinceJoining,
            HistoryJson::All => Self::All,
        }
    }
}

impl From<GroupView> for GroupJson {
    fn from(GroupView { group, devices }: GroupView) -> Self {
        Self {
            id: group.id.to_string(),
            name: group.name,
            stream: group.stream.to_string(),
            devices: devices.iter().map(DeviceId::to_string).collect(),
            history: group.history.into(),
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewGroupJson {
    #[schema(min_length = 1, max_length = 100, example = "North")]
    name: String,
    /// Ids of devices, at most 10,000.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    devices: Vec<IdJson<DeviceId>>,
    /// `none` where it is left out.
    #[schema(nullable = false)]
    history: Option<HistoryJson>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupPatchJson {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, min_length = 1, max_length = 100)]
    name: Option<String>,
    /// Replaces the members: those who are missing leave, those who are new join.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Vec<String>>, nullable = false)]
    devices: Option<Vec<IdJson<DeviceId>>>,
    /// For those who join from now on.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    history: Option<HistoryJson>,
}

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    document
        .get("/api/v1/groups", "List the groups")
        .takes_page()
        .answers_page::<GroupJson>("Groups, by id.");
    document
        .post("/api/v1/groups", "Make a group")
        .describes(
            "It gets a channel of its own, which is a stream: its members and the office read and write it.",
        )
        .takes_up_to::<NewGroupJson>(IDS_BYTES_MAX)
        .answers::<GroupJson>(201, "The group.")
        .problems(&[507]);
    document
        .get("/api/v1/groups/{id}", "Show a group")
        .answers::<GroupJson>(200, "The group.");
    document
        .patch("/api/v1/groups/{id}", "Change a group")
        .describes(
            "A member who leaves keeps what it was sent until then, and gets nothing that comes after.",
        )
        .takes_up_to::<GroupPatchJson>(IDS_BYTES_MAX)
        .answers::<GroupJson>(200, "The group as it is now.")
        .problems(&[507]);
    document
        .delete("/api/v1/groups/{id}", "Delete a group")
        .describes("All leave; what was said in it stays.")
        .answers_nothing("It has no members any more, and takes none.");
}

/// `GET /groups`
pub(crate) async fn list(
    State(state): State<ApiState>,
    mut query: Query,
) -> Result<impl IntoResponse, Problem> {
    let limit = query.limit().unwrap_or(LIMIT_DEFAULT);
    let after: Option<GroupId> = query.parse("cursor");
    query.finish()?;
    let views = state.bridge().groups(after, limit + 1).await?;
    let page = PageJson::cut(views, limit, |view| view.group.id.to_string());
    Ok(Json(page.map(GroupJson::from)))
}

/// `POST /groups`
pub(crate) async fn create(
    ActingBridge(bridge): ActingBridge,
    _: NoQuery,
    key: IdempotencyKey,
    body: JsonBody<NewGroupJson, IDS_BYTES_MAX>,
) -> Result<impl IntoResponse, Problem> {
    let once = key.once(&body.bytes);
    let NewGroupJson {
        name,
        devices,
        history,
    } = body.value;
    let new = NewGroup {
        name,
        devices: ids(devices),
        history: history.map_or_else(History::default, History::from),
    };
    let group = GroupJson::from(bridge.add_group(new, once).await?);
    let location = format!("/api/v1/groups/{}", group.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(group)))
}

/// `GET /groups/{id}`
pub(crate) async fn show(
    State(state): State<ApiState>,
    Id(id): Id<GroupId>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    Ok(Json(GroupJson::from(state.bridge().group(id).await?)))
}

/// `PATCH /groups/{id}`
pub(crate) async fn update(
    ActingBridge(bridge): ActingBridge,
    Id(id): Id<GroupId>,
    _: NoQuery,
    body: JsonBody<GroupPatchJson, IDS_BYTES_MAX>,
) -> Result<impl IntoResponse, Problem> {
    let GroupPatchJson {
        name,
        devices,
        history,
    } = body.value;
    let patch = GroupPatch {
        name,
        devices: devices.map(ids),
        history: history.map(History::from),
    };
    Ok(Json(GroupJson::from(bridge.update_group(id, patch).await?)))
}

/// `DELETE /groups/{id}`: all leave, what was said in it stays.
pub(crate) async fn delete(
    ActingBridge(bridge): ActingBridge,
    Id(id): Id<GroupId>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    bridge.delete_group(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
