//! `/audit`: who did what, when, from where, and who was refused.

use crate::members::Names;
use crate::openapi::Document;
use crate::page::PageJson;
use crate::problem::Problem;
use crate::query::{LIMIT_DEFAULT, Query};
use crate::state::ApiState;
use crate::timestamp::Timestamp;
use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use waypost_bridge::BridgeError;
use waypost_bridge::audit::{Actor, AuditEntry, Outcome};
use waypost_bridge::entry::Author;

/// A line of the record.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditEntryJson {
    id: String,
    /// The first time, where it was refused several times.
    at: Timestamp,
    last_at: Timestamp,
    actor: ActorJson,
    /// `null` for the server itself. Of refusals from IPv6, the network of 64 bits.
    address: Option<String>,
    /// What was done, such as `device.added`; of a refusal what was asked for, such as `POST /api/v1/devices`.
    action: String,
    /// To what, such as `device/7c`.
    subject: Option<String>,
    outcome: OutcomeJson,
    /// Why it was refused.
    reason: Option<String>,
    /// How often in this minute, for refusals.
    count: u32,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum OutcomeJson {
    Done,
    Refused,
}

/// Who did it.
#[derive(Debug, Serialize, ToSchema)]
struct ActorJson {
    kind: ActorKind,
    /// `null` for nobody and the server.
    id: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ActorKind {
    Nobody,
    Server,
    Person,
    Key,
    Device,
}

impl AuditEntryJson {
    async fn new(entry: AuditEntry, names: &mut Names<'_>) -> Result<Self, BridgeError> {
        let (outcome, reason) = match entry.outcome {
            Outcome::Done => (OutcomeJson::Done, None),
            Outcome::Refused(reason) => (OutcomeJson::Refused, Some(reason)),
        };
        Ok(Self {
            id: entry.number.to_string(),
            at: Timestamp(entry.at_ms),
            last_at: Timestamp(entry.last_ms),
            actor: ActorJson::new(entry.actor, names).await?,
            address: entry.address.map(|address| address.to_string()),
            action: entry.action,
            subject: entry.subject,
            outcome,
            reason,
            count: entry.count,
        })
    }
}

impl ActorJson {
    async fn new(actor: Actor, names: &mut Names<'_>) -> Result<Self, BridgeError> {
        let (kind, author) = match actor {
            Actor::Nobody => (ActorKind::Nobody, None),
            Actor::Server => (ActorKind::Server, None),
            Actor::Person(id) => (ActorKind::Person, Some((id.to_string(), Author::Person(id)))),
            Actor::Key(id) => (ActorKind::Key, Some((id.to_string(), Author::Person(id)))),
            Actor::Device(id) => (ActorKind::Device, Some((id.to_string(), Author::Device(id)))),
        };
        let (id, name) = match author {
            Some((id, author)) => (Some(id), names.name(author).await?),
            None => (None, None),
        };
        Ok(Self { kind, id, name })
    }
}

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    document
        .get(
            "/api/v1/audit",
            "Who did what, when, from where, and who was refused",
        )
        .takes_page()
        .answers_page::<AuditEntryJson>("Lines of the record, newest first.");
}

/// `GET /audit`: newest first.
pub(crate) async fn list(
    State(state): State<ApiState>,
    mut query: Query,
) -> Result<impl IntoResponse, Problem> {
    let limit = query.limit().unwrap_or(LIMIT_DEFAULT);
    let before = query.number("cursor", 1..=u64::MAX);
    query.finish()?;
    let entries = state.bridge().audit(before, limit + 1).await?;
    let page = PageJson::cut(entries, limit, |entry| entry.number.to_string());
    let mut names = Names::new(state.bridge());
    let mut items = Vec::with_capacity(page.items.len());
    for entry in page.items {
        items.push(AuditEntryJson::new(entry, &mut names).await?);
    }
    let next = page.next;
    Ok(Json(PageJson { items, next }))
}
