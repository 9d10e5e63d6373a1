//! `/streams` and `/streams/{id}`: the conversations.

use crate::access::Caller;
use crate::members::MemberIdJson;
use crate::openapi::Document;
use crate::page::PageJson;
use crate::problem::Problem;
use crate::query::{Id, LIMIT_DEFAULT, NoQuery, Query};
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use waypost_bridge::stream::{StreamId, StreamKind, StreamView};

#[derive(Debug, Serialize, ToSchema)]
struct StreamJson {
    id: String,
    /// `direct`, `group` or `broadcast`.
    kind: &'static str,
    title: String,
    /// Those who take part now.
    members: Vec<MemberIdJson>,
    head: u64,
    unread: u64,
}

impl From<StreamView> for StreamJson {
    fn from(StreamView { stream, head, unread }: StreamView) -> Self {
        let members = stream
            .members
            .iter()
            .filter(|membership| membership.last_seq.is_none());
        Self {
            id: stream.id.to_string(),
            kind: match stream.kind {
                StreamKind::Direct => "direct",
                StreamKind::Group(_) => "group",
                StreamKind::Broadcast => "broadcast",
            },
            members: members.map(|membership| membership.member.into()).collect(),
            title: stream.title,
            head,
            unread,
        }
    }
}

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    document
        .get("/api/v1/streams", "List the streams")
        .takes_page()
        .answers_page::<StreamJson>("Streams, by id. `unread` counts for the caller.");
    document
        .get("/api/v1/streams/{id}", "Show a stream")
        .answers::<StreamJson>(200, "The stream.");
}

/// `GET /streams`
pub(crate) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    mut query: Query,
) -> Result<impl IntoResponse, Problem> {
    let limit = query.limit().unwrap_or(LIMIT_DEFAULT);
    let after: Option<StreamId> = query.parse("cursor");
    query.finish()?;
    let views = state
        .bridge()
        .streams(caller.person_id(), after, limit + 1)
        .await?;
    let page = PageJson::cut(views, limit, |view| view.stream.id.to_string());
    Ok(Json(page.map(StreamJson::from)))
}

/// `GET /streams/{id}`
pub(crate) async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id<StreamId>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    Ok(Json(StreamJson::from(
        state.bridge().stream(caller.person_id(), id).await?,
    )))
}
