//! `/broadcasts` and `/broadcasts/{id}`: one message to many, and who has not answered it.

use crate::access::{ActingBridge, Named};
use crate::bodies::{BodyJson, NewBodyJson};
use crate::idempotency::IdempotencyKey;
use crate::json::{IDS_BYTES_MAX, IdJson, JsonBody, Object, ids};
use crate::language::Language;
use crate::members::{MemberJson, Names};
use crate::openapi::Document;
use crate::page::PageJson;
use crate::problem::Problem;
use crate::query::{Id, NoQuery, Query};
use crate::state::ApiState;
use crate::timestamp::Timestamp;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use waypost_bridge::BridgeError;
use waypost_bridge::broadcast::{BroadcastView, Counts, NewBroadcast, Outstanding};
use waypost_bridge::device::DeviceId;
use waypost_bridge::entry::Rung;
use waypost_bridge::group::GroupId;
use waypost_bridge::stream::{Member, StreamId};

/// A message to many.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BroadcastJson {
    /// That of its stream.
    id: String,
    /// Its stream, of which it is the only entry.
    stream: String,
    author: MemberJson,
    server_at: Timestamp,
    urgent: bool,
    expires_at: Option<Timestamp>,
    body: BodyJson,
    to: RecipientsJson,
    counts: CountsJson,
    /// Everyone who has not answered, the longest silence first. Only where one broadcast is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    outstanding: Option<Vec<OutstandingJson>>,
}

/// Who was named.
#[derive(Debug, Serialize, ToSchema)]
struct RecipientsJson {
    devices: Vec<String>,
    groups: Vec<String>,
}

/// How many recipients have come at least so far.
#[derive(Debug, Serialize, ToSchema)]
struct CountsJson {
    /// All of them.
    recipients: usize,
    sent: usize,
    delivered: usize,
    read: usize,
    acted: usize,
}

/// A recipient who has not answered.
#[derive(Debug, Serialize, ToSchema)]
struct OutstandingJson {
    member: MemberJson,
    stage: Stage,
    /// When it came so far.
    since: Timestamp,
}

/// How far a broadcast has come to somebody who has not answered.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Stage {
    Accepted,
    Sent,
    Delivered,
    Read,
}

impl From<Option<Rung>> for Stage {
    fn from(rung: Option<Rung>) -> Self {
        match rung {
            None => Self::Accepted,
            Some(Rung::Sent) => Self::Sent,
            Some(Rung::Delivered) => Self::Delivered,
            // Whoever has answered is not outstanding, and has read it.
            Some(Rung::Read | Rung::Acted) => Self::Read,
        }
    }
}

impl From<Counts> for CountsJson {
    fn from(counts: Counts) -> Self {
        let Counts {
            recipients,
            sent,
            delivered,
            read,
            acted,
        } = counts;
        Self {
            recipients,
            sent,
            delivered,
            read,
            acted,
        }
    }
}

impl BroadcastJson {
    async fn new(view: BroadcastView, names: &mut Names<'_>) -> Result<Self, BridgeError> {
        let BroadcastView {
            broadcast,
            entry,
            counts,
        } = view;
        Ok(Self {
            id: broadcast.stream.to_string(),
            stream: broadcast.stream.to_string(),
            author: names.author(entry.author).await?,
            server_at: Timestamp(entry.accepted.server_ms),
            urgent: entry.urgent,
            expires_at: entry.expires_ms.map(Timestamp),
            body: BodyJson::new(entry.body, names).await?,
            to: RecipientsJson {
                devices: broadcast.devices.iter().map(DeviceId::to_string).collect(),
                groups: broadcast.groups.iter().map(GroupId::to_string).collect(),
            },
            counts: counts.into(),
            outstanding: None,
        })
    }
}

impl OutstandingJson {
    async fn new(outstanding: Outstanding, names: &mut Names<'_>) -> Result<Self, BridgeError> {
        Ok(Self {
            member: names.member(Member::Device(outstanding.device)).await?,
            stage: outstanding.rung.into(),
            since: Timestamp(outstanding.since_ms),
        })
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewBroadcastJson {
    #[schema(value_type = ToJson)]
    to: Object<ToJson>,
    #[schema(value_type = NewBodyJson)]
    body: Object<NewBodyJson>,
    #[serde(default)]
    urgent: bool,
    expires_at: Option<Timestamp>,
}

/// Whom it is for: devices, the members of groups, or both; at most 10,000 devices together.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToJson {
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    devices: Vec<IdJson<DeviceId>>,
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    groups: Vec<IdJson<GroupId>>,
}

/// How many broadcasts are given when no number is asked for.
const LIMIT_DEFAULT: usize = 50;

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    document
        .get("/api/v1/broadcasts", "List the broadcasts")
        .takes_page()
        .takes_language()
        .answers_page::<BroadcastJson>("Broadcasts, newest first.");
    document
        .post("/api/v1/broadcasts", "Send a broadcast")
        .describes("Its recipients are fixed now. Each answers in its own conversation with the office.")
        .takes_language()
        .takes_up_to::<NewBroadcastJson>(IDS_BYTES_MAX)
        .answers::<BroadcastJson>(201, "The broadcast as it is on disk.")
        .problems(&[507]);
    document
        .get(
            "/api/v1/broadcasts/{id}",
            "Show a broadcast and who has not answered",
        )
        .takes_language()
        .answers::<BroadcastJson>(200, "The broadcast.");
}

/// `GET /broadcasts`
pub(crate) async fn list(
    State(state): State<ApiState>,
    language: Language,
    mut query: Query,
) -> Result<impl IntoResponse, Problem> {
    let limit = query.limit().unwrap_or(LIMIT_DEFAULT);
    let before: Option<StreamId> = query.parse("cursor");
    query.finish()?;
    let views = state.bridge().broadcasts(before, limit + 1).await?;
    let PageJson { items: views, next } =
        PageJson::cut(views, limit, |view| view.broadcast.stream.to_string());
    let mut names = Names::in_language(state.bridge(), &language);
    let mut items = Vec::with_capacity(views.len());
    for view in views {
        items.push(BroadcastJson::new(view, &mut names).await?);
    }
    Ok(Json(PageJson { items, next }))
}

/// `POST /broadcasts`: answers once it is on disk.
pub(crate) async fn create(
    ActingBridge(bridge): ActingBridge,
    Named(author): Named,
    language: Language,
    _: NoQuery,
    key: IdempotencyKey,
    body: JsonBody<NewBroadcastJson, IDS_BYTES_MAX>,
) -> Result<impl IntoResponse, Problem> {
    let once = key.once(&body.bytes);
    let NewBroadcastJson {
        to: Object(to),
        body: Object(body),
        urgent,
        expires_at,
    } = body.value;
    let new = NewBroadcast {
        author,
        devices: ids(to.devices),
        groups: ids(to.groups),
        body: body.into_new_body()?,
        urgent,
        expires_ms: expires_at.map(|at| at.0),
    };
    let view = bridge.add_broadcast(new, once).await?;
    let mut names = Names::in_language(&bridge, &language);
    let broadcast = BroadcastJson::new(view, &mut names).await?;
    let location = format!("/api/v1/broadcasts/{}", broadcast.id);
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(broadcast),
    ))
}

/// `GET /broadcasts/{id}`
pub(crate) async fn show(
    State(state): State<ApiState>,
    Id(id): Id<StreamId>,
    language: Language,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let (view, silent) = state.bridge().broadcast(id).await?;
    let mut names = Names::in_language(state.bridge(), &language);
    let broadcast = BroadcastJson::new(view, &mut names).await?;
    let mut outstanding = Vec::with_capacity(silent.len());
    for one in silent {
        outstanding.push(OutstandingJson::new(one, &mut names).await?);
    }
    Ok(Json(BroadcastJson {
        outstanding: Some(outstanding),
        ..broadcast
    }))
}
