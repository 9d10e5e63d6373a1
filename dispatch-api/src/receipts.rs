//! `/streams/{id}/receipts`: how far an entry has come towards each member.

use crate::members::{MemberJson, Names};
use crate::page::PageJson;
use crate::problem::Problem;
use crate::query::{Id, Query};
use crate::state::ApiState;
use crate::timestamp::Timestamp;
use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use waypost_bridge::entry::Moment;
use waypost_bridge::stream::{Seq, StreamId};

/// What expired waited at the server for whoever was to receive it.
pub(crate) const SERVER_HOP: &str = "server";

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReceiptJson {
    member: MemberJson,
    accepted: Option<MomentJson>,
    sent: Option<MomentJson>,
    delivered: Option<MomentJson>,
    read: Option<MomentJson>,
    acted: Option<MomentJson>,
    /// Where and when it expired before this member had it; `null` where the member has it, or it has not expired.
    expired: Option<ExpiredJson>,
}

/// The end of an entry on its way to a member.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExpiredJson {
    #[serde(flatten)]
    at: MomentJson,
    /// `server`: it waited there for the member.
    hop: &'static str,
}

/// A moment by both clocks.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MomentJson {
    /// By the device's; `null` where none took part.
    device_at: Option<Timestamp>,
    server_at: Timestamp,
    /// What to add to the device's clock to get the server's, as it was estimated then.
    offset_ms: Option<i64>,
}

impl From<Moment> for MomentJson {
    fn from(moment: Moment) -> Self {
        Self {
            device_at: moment.device_ms.map(Timestamp),
            server_at: Timestamp(moment.server_ms),
            offset_ms: moment.offset_ms,
        }
    }
}

/// `GET /streams/{id}/receipts?seq=`
pub(crate) async fn list(
    State(state): State<ApiState>,
    Id(stream): Id<StreamId>,
    mut query: Query,
) -> Result<impl IntoResponse, Problem> {
    let seq: Option<Seq> = query.parse("seq");
    let seq = query.finish_with("seq", seq)?;
    let mut names = Names::new(state.bridge());
    let mut items = Vec::new();
    for receipt in state.bridge().receipts(stream, seq).await? {
        items.push(ReceiptJson {
            member: names.member(receipt.member).await?,
            accepted: Some(receipt.accepted.into()),
            sent: receipt.sent.map(Into::into),
            delivered: receipt.delivered.map(Into::into),
            read: receipt.read.map(Into::into),
            acted: receipt.acted.map(Into::into),
            expired: receipt.expired.map(|at| ExpiredJson {
                at: at.into(),
                hop: SERVER_HOP,
            }),
        });
    }
    Ok(Json(PageJson { items, next: None }))
}
