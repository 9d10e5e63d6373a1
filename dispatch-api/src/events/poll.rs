//! `/events`: what happened after a cursor, for systems that ask; they may wait for what happens next.

use super::{Follower, Told, asked_types, shutting_down};
use crate::cloud_event::CloudEventJson;
use crate::language::Language;
use crate::problem::Problem;
use crate::query::{LIMIT_DEFAULT, Query};
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;
use waypost_bridge::BridgeError;

/// The longest that somebody may wait, in seconds.
pub(super) const WAIT_S_MAX: u64 = 30;
/// How many events are looked at for one answer, where most are of types that were not asked for. Then it is given
/// with what there is; whoever asks goes on from `next`.
const LOOKED_AT_MAX: usize = 10_000;

/// Some events, and the cursor to go on with, whether there were any or not.
#[derive(Serialize, ToSchema)]
pub(super) struct EventsJson<'a> {
    items: Vec<CloudEventJson<'a>>,
    next: String,
}

/// `GET /events?after=&limit=&types=&wait=`
pub(crate) async fn list(
    State(state): State<ApiState>,
    language: Language,
    mut query: Query,
) -> Result<Response, Problem> {
    let limit = query.limit().unwrap_or(LIMIT_DEFAULT);
    let wait = Duration::from_secs(query.number("wait", 0..=WAIT_S_MAX).unwrap_or(0));
    let types = asked_types(&mut query);
    let after = super::asked_after(&mut query);
    query.finish()?;

    let mut follower = Follower::new(&state, types, language, Some(after.unwrap_or(0))).await?;
    let deadline = tokio::time::sleep(wait);
    tokio::pin!(deadline);
    let mut shutdown = state.shared.shutdown.clone();
    let mut items = Vec::new();
    let mut looked_at = 0;
    while items.len() < limit && looked_at < LOOKED_AT_MAX {
        if follower.has_nothing_left()? && (!items.is_empty() || wait.is_zero()) {
            break;
        }
        looked_at += 1;
        let told = tokio::select! {
            biased;
            () = shutting_down(&mut shutdown) => break,
            () = &mut deadline, if !wait.is_zero() => break,
            advanced = follower.advance(&state) => match advanced {
                Ok(told) => told,
                Err(BridgeError::Stopped) => break,
                Err(error) => return Err(error.into()),
            },
        };
        items.extend(told.map(|Told { event, .. }| event));
    }
    let next = follower.cursor.to_string();
    Ok(Json(EventsJson { items, next }).into_response())
}
