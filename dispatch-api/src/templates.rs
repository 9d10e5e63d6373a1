//! `/templates` and `/templates/{key}`: the quick replies that are on offer, in every language that the fleet speaks.

use crate::access::ActingBridge;
use crate::json::{JsonBody, Object, escaped};
use crate::language::{is_tag, spelled};
use crate::openapi::Document;
use crate::problem::{FieldProblem, Problem};
use crate::query::{Id, NoQuery, Query};
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use waypost_bridge::once::Novelty;
use waypost_bridge::template::{NewTemplate, Slot, SlotKind, Template};

/// A quick reply.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TemplateJson {
    key: String,
    /// The version of the catalogue in which it became what it is.
    version: u32,
    /// What it says, by language tag, with `{name}` where a slot goes.
    text: BTreeMap<String, String>,
    slots: Vec<SlotJson>,
}

/// What is filled in.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SlotJson {
    /// As it stands between the braces: 1 to 32 lower-case letters, digits and underscores.
    #[schema(
        min_length = 1,
        max_length = 32,
        pattern = "^[a-z0-9_]+$",
        example = "minutes"
    )]
    name: String,
    kind: SlotKindJson,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", try_from = "String")]
enum SlotKindJson {
    Text,
    Number,
    Time,
}

impl TryFrom<String> for SlotKindJson {
    type Error = &'static str;

    fn try_from(kind: String) -> Result<Self, Self::Error> {
        match kind.as_str() {
            "text" => Ok(Self::Text),
            "number" => Ok(Self::Number),
            "time" => Ok(Self::Time),
            _ => Err("must be \"text\", \"number\" or \"time\""),
        }
    }
}

impl From<Slot> for SlotJson {
    fn from(Slot { name, kind }: Slot) -> Self {
        let kind = match kind {
            SlotKind::Text => SlotKindJson::Text,
            SlotKind::Number => SlotKindJson::Number,
            SlotKind::Time => SlotKindJson::Time,
        };
        Self { name, kind }
    }
}

impl From<SlotJson> for Slot {
    fn from(SlotJson { name, kind }: SlotJson) -> Self {
        let kind = match kind {
            SlotKindJson::Text => SlotKind::Text,
            SlotKindJson::Number => SlotKind::Number,
            SlotKindJson::Time => SlotKind::Time,
        };
        Self { name, kind }
    }
}

impl From<Template> for TemplateJson {
    fn from(template: Template) -> Self {
        Self {
            key: template.key,
            version: template.version,
            text: template.text,
            slots: template.slots.into_iter().map(Into::into).collect(),
        }
    }
}

/// All that is on offer.
#[derive(Debug, Serialize, ToSchema)]
struct CatalogueJson {
    items: Vec<TemplateJson>,
    /// Always `null`: the list is whole.
    #[schema(value_type = Option<String>)]
    next: (),
    /// The version of the catalogue.
    version: u32,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTemplateJson {
    /// What it says, by language tag, with `{name}` where a slot goes; at least one.
    #[schema(example = json!({ "en": "Running late {minutes} min", "de": "{minutes} min Verspätung" }))]
    text: BTreeMap<String, String>,
    #[serde(default)]
    #[schema(value_type = Vec<SlotJson>, max_items = 8)]
    slots: Vec<Object<SlotJson>>,
}

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    document
        .get("/api/v1/templates", "List the quick replies")
        .describes("The list comes whole, whatever the limit.")
        .takes_limit()
        .answers::<CatalogueJson>(200, "All that are on offer, by key.");
    document
        .get("/api/v1/templates/{key}", "Show a quick reply")
        .answers::<TemplateJson>(200, "The template.");
    document
        .put("/api/v1/templates/{key}", "Offer a quick reply, or change it")
        .describes(
            "The key has 1 to 64 lower-case letters, digits, `_`, `-` and `.`. What was written before says what it said.",
        )
        .takes::<NewTemplateJson>()
        .answers::<TemplateJson>(200, "The template as it is now.")
        .answers::<TemplateJson>(201, "The template, which is new.")
        .problems(&[409]);
    document
        .delete("/api/v1/templates/{key}", "Withdraw a quick reply")
        .describes("What was written with it stays, and says what it said.")
        .answers_nothing("It is on offer no longer.");
}

/// `GET /templates`
pub(crate) async fn list(
    State(state): State<ApiState>,
    mut query: Query,
) -> Result<impl IntoResponse, Problem> {
    // Taken as by any other list; there are few enough to give them all.
    query.limit();
    query.finish()?;
    let (version, templates) = state.bridge().templates().await?;
    Ok(Json(CatalogueJson {
        items: templates.into_iter().map(Into::into).collect(),
        next: (),
        version,
    }))
}

/// `GET /templates/{key}`
pub(crate) async fn show(
    State(state): State<ApiState>,
    Id(key): Id<String>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    Ok(Json(TemplateJson::from(state.bridge().template(&key).await?)))
}

/// `PUT /templates/{key}`
pub(crate) async fn put(
    ActingBridge(bridge): ActingBridge,
    Id(key): Id<String>,
    _: NoQuery,
    body: JsonBody<NewTemplateJson>,
) -> Result<impl IntoResponse, Problem> {
    let NewTemplateJson { text, slots } = body.value;
    let new = NewTemplate {
        key,
        text: by_language(text)?,
        slots: slots.into_iter().map(|Object(slot)| slot.into()).collect(),
    };
    let (template, novelty) = bridge.put_template(new).await?;
    let status = match novelty {
        Novelty::New => StatusCode::CREATED,
        Novelty::Again => StatusCode::OK,
    };
    Ok((status, Json(TemplateJson::from(template))))
}

/// The texts under their languages as readers ask for them. What is no tag is left for the bridge to refuse.
fn by_language(text: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Problem> {
    let mut by_language = BTreeMap::new();
    for (tag, said) in text {
        let spelled = if is_tag(&tag) { spelled(&tag) } else { tag.clone() };
        if by_language.insert(spelled, said).is_some() {
            return Err(Problem::fields(vec![FieldProblem {
                pointer: format!("/text/{}", escaped(&tag)),
                detail: "is there twice: upper and lower case make no difference".to_owned(),
            }]));
        }
    }
    Ok(by_language)
}

/// `DELETE /templates/{key}`: what was written with it stays.
pub(crate) async fn delete(
    ActingBridge(bridge): ActingBridge,
    Id(key): Id<String>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    bridge.delete_template(&key).await?;
    Ok(StatusCode::NO_CONTENT)
}
