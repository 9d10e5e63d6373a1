//! `/streams/{id}/cursor`: how far the caller has read.

use crate::access::Named;
use crate::json::JsonBody;
use crate::problem::Problem;
use crate::query::{Id, NoQuery};
use crate::state::ApiState;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::ToSchema;
use waypost_bridge::stream::StreamId;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CursorJson {
    /// The number of the last entry that was read; going back is no mistake and changes nothing.
    read: u64,
}

/// `PUT /streams/{id}/cursor`
pub(crate) async fn update(
    State(state): State<ApiState>,
    Named(reader): Named,
    Id(stream): Id<StreamId>,
    _: NoQuery,
    body: JsonBody<CursorJson>,
) -> Result<impl IntoResponse, Problem> {
    state.bridge().mark_read(reader, stream, body.value.read).await?;
    Ok(StatusCode::NO_CONTENT)
}
