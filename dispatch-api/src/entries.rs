//! `/streams/{id}/entries`: what people and devices say.
//!
//! Entries are always given ascending by number. `before` and `after` name a place; `next` is the `cursor` with which
//! the list goes on in the direction in which it was read: towards older ones, or with `after` towards newer ones.

use crate::access::{ActingBridge, Named};
use crate::bodies::{BodyJson, NewBodyJson};
use crate::cursor::CursorJson;
use crate::idempotency::IdempotencyKey;
use crate::json::{JsonBody, Object};
use crate::language::Language;
use crate::members::{MemberJson, Names};
use crate::openapi::Document;
use crate::page::PageJson;
use crate::problem::Problem;
use crate::query::{Id, NoQuery, Query};
use crate::receipts::ReceiptJson;
use crate::session::now_ms;
use crate::state::ApiState;
use crate::timestamp::Timestamp;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::str::FromStr;
use utoipa::ToSchema;
use waypost_bridge::BridgeError;
use waypost_bridge::entry::{Entry, NewEntry, Page};
use waypost_bridge::stream::{Seq, StreamId};
use waypost_proto::OpNumber;

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EntryJson {
    stream: String,
    seq: u64,
    /// 32 hexadecimal digits.
    id: String,
    author: MemberJson,
    /// By the clock of the author's device; `null` for what people write.
    device_at: Option<Timestamp>,
    server_at: Timestamp,
    urgent: bool,
    /// The number under which the author's device sent it, in the order of writing; `null` for what people write.
    author_op: Option<u64>,
    /// The number of the newest of the author's messages before an urgent one that had not come when that came.
    earlier_op: Option<u64>,
    /// Whether it is still under way now: it has neither come nor been given up by the device. No event says that this is
    /// over; it is with the next entry of that author that is not urgent and has come as far as `earlier_op`.
    earlier_under_way: bool,
    expires_at: Option<Timestamp>,
    /// Whether that has passed now: it must not be shown as current.
    expired: bool,
    /// The earlier entry of the same stream whose place it takes.
    supersedes: Option<u64>,
    /// The later one that has taken its place: this one must not be shown as current.
    superseded_by: Option<u64>,
    /// The number of the entry that it answers.
    reply_to: Option<u64>,
    /// The stream of that entry where it is another: the answer to a broadcast stands in the driver's own conversation.
    reply_to_stream: Option<String>,
    body: BodyJson,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewEntryJson {
    #[schema(value_type = NewBodyJson)]
    body: Object<NewBodyJson>,
    #[serde(default)]
    urgent: bool,
    expires_at: Option<Timestamp>,
    #[schema(value_type = Option<u64>, minimum = 1)]
    reply_to: Option<SeqJson>,
    /// An earlier entry of the office in this stream, which nothing has superseded yet: it is current no more, and who does
    /// not have it yet will not get it.
    #[schema(value_type = Option<u64>, minimum = 1)]
    supersedes: Option<SeqJson>,
}

/// The number of an entry in a body.
#[derive(Deserialize)]
#[serde(try_from = "u64")]
struct SeqJson(Seq);

impl TryFrom<u64> for SeqJson {
    type Error = &'static str;

    fn try_from(number: u64) -> Result<Self, Self::Error> {
        Seq::new(number)
            .map(Self)
            .ok_or("must be the number of an entry: 1 or more")
    }
}

impl EntryJson {
    pub(crate) async fn new(entry: Entry, names: &mut Names<'_>) -> Result<Self, BridgeError> {
        let earlier_under_way = names.earlier_under_way(&entry).await?;
        Ok(Self {
            stream: entry.stream.to_string(),
            seq: entry.seq.number(),
            id: format!("{:032x}", u128::from_be_bytes(entry.id)),
            author: names.author(entry.author).await?,
            device_at: entry.accepted.device_ms.map(Timestamp),
            server_at: Timestamp(entry.accepted.server_ms),
            urgent: entry.urgent,
            author_op: entry.operation.map(|(_, op)| op.number()),
            earlier_op: entry.earlier.map(OpNumber::number),
            earlier_under_way,
            expires_at: entry.expires_ms.map(Timestamp),
            expired: entry.expires_ms.is_some_and(|at| at <= now_ms()),
            supersedes: entry.supersedes.map(Seq::number),
            superseded_by: entry.superseded_by.map(Seq::number),
            reply_to: entry.reply_to.map(Seq::number),
            reply_to_stream: entry.reply_stream.map(|stream| stream.to_string()),
            body: BodyJson::new(entry.body, names).await?,
        })
    }
}

/// Where a list of entries goes on: `before-12` or `after-12`.
struct EntryCursor(Page);

impl FromStr for EntryCursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (direction, number) = text.split_once('-').unwrap_or_default();
        match (direction, number.parse()) {
            ("before", Ok(number)) => Ok(Self(Page::Before(number))),
            ("after", Ok(number)) => Ok(Self(Page::After(number))),
            _ => Err("must be the `next` of a list of entries"),
        }
    }
}

/// How many entries are given when no number is asked for.
const LIMIT_DEFAULT: usize = 50;

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    let number = || json!({ "type": "integer", "minimum": 0 });
    document
        .get("/api/v1/streams/{id}/entries", "Read a stream")
        .describes("Only one of before, after and cursor. Without any of them: the newest.")
        .takes_limit()
        .takes_parameter(
            "before",
            number(),
            "Entries below this number, the newest of them.",
        )
        .takes_parameter(
            "after",
            number(),
            "Entries above this number, the oldest of them.",
        )
        .takes_parameter(
            "cursor",
            json!({ "type": "string", "pattern": "^(before|after)-[0-9]{1,19}$" }),
            "The `next` of the part before.",
        )
        .takes_language()
        .answers_page::<EntryJson>("Entries, ascending by number.");
    document
        .post("/api/v1/streams/{id}/entries", "Write an entry")
        .describes(
            "With `supersedes` it takes the place of an earlier one. That one may be superseded once: 409 names the entry that \
             has taken its place already.",
        )
        .takes_language()
        .takes::<NewEntryJson>()
        .answers::<EntryJson>(201, "The entry as it is on disk.")
        .problems(&[507]);
    document
        .put("/api/v1/streams/{id}/cursor", "Say how far you have read")
        .describes("It never goes back. What a key has read the office has not.")
        .takes::<CursorJson>()
        .answers_nothing("It is kept.");
    document
        .get("/api/v1/streams/{id}/receipts", "How far an entry has come")
        .needs_parameter(
            "seq",
            json!({ "type": "integer", "minimum": 1 }),
            "The number of the entry.",
        )
        .answers_page::<ReceiptJson>("A row for each member but the author.");
}

/// `GET /streams/{id}/entries`
pub(crate) async fn list(
    State(state): State<ApiState>,
    Id(stream): Id<StreamId>,
    language: Language,
    mut query: Query,
) -> Result<impl IntoResponse, Problem> {
    let limit = query.limit().unwrap_or(LIMIT_DEFAULT);
    let page = asked_page(&mut query);
    query.finish()?;

    let mut entries = state.bridge().entries(stream, page, limit + 1).await?;
    let more = entries.len() > limit;
    let next = match page {
        Page::After(_) => {
            entries.truncate(limit);
            entries.last().map(|last| format!("after-{}", last.seq))
        }
        Page::Newest | Page::Before(_) => {
            entries.drain(..entries.len().saturating_sub(limit));
            entries.first().map(|first| format!("before-{}", first.seq))
        }
    };
    let mut names = Names::in_language(state.bridge(), &language);
    let mut items = Vec::with_capacity(entries.len());
    for entry in entries {
        items.push(EntryJson::new(entry, &mut names).await?);
    }
    Ok(Json(PageJson {
        items,
        next: next.filter(|_| more),
    }))
}

fn asked_page(query: &mut Query) -> Page {
    let before = query.number("before", 0..=u64::MAX).map(Page::Before);
    let after = query.number("after", 0..=u64::MAX).map(Page::After);
    let cursor = query.parse("cursor").map(|EntryCursor(page)| page);
    let mut asked = [("before", before), ("after", after), ("cursor", cursor)]
        .into_iter()
        .filter_map(|(name, page)| Some((name, page?)));
    let page = asked.next().map(|(_, page)| page);
    for (name, _) in asked {
        query.refuse(name, "only one of before, after and cursor can be given");
    }
    page.unwrap_or(Page::Newest)
}

/// `POST /streams/{id}/entries`: answers once the entry is on disk.
pub(crate) async fn create(
    ActingBridge(bridge): ActingBridge,
    Named(author): Named,
    Id(stream): Id<StreamId>,
    language: Language,
    _: NoQuery,
    key: IdempotencyKey,
    body: JsonBody<NewEntryJson>,
) -> Result<impl IntoResponse, Problem> {
    let once = key.once(&body.bytes);
    let NewEntryJson {
        body,
        urgent,
        expires_at,
        reply_to,
        supersedes,
    } = body.value;
    let new = NewEntry {
        author,
        stream,
        body: body.0.into_new_body()?,
        urgent,
        expires_ms: expires_at.map(|at| at.0),
        reply_to: reply_to.map(|reply_to| reply_to.0),
        supersedes: supersedes.map(|supersedes| supersedes.0),
        once,
    };
    let entry = bridge.post_entry(new).await?;
    let entry = EntryJson::new(entry, &mut Names::in_language(&bridge, &language)).await?;
    Ok((StatusCode::CREATED, Json(entry)))
}
