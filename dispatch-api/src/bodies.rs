//! What an entry says, as JSON: what is written and what is read differ, as a quick reply is put into words for each
//! reader in the reader's language.

use crate::json::escaped;
use crate::members::{MemberJson, Names};
use crate::problem::{FieldProblem, Problem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use waypost_bridge::BridgeError;
use waypost_bridge::entry::{Author, EntryBody, MembershipChange, NewBody, QuickReply};

/// What an entry says.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum BodyJson {
    /// A message.
    Text {
        #[schema(example = "Where are you?")]
        text: String,
    },
    /// A quick reply.
    Reply {
        /// What systems call the template; `null` for one that this server does not know.
        template: Option<String>,
        /// The version of the catalogue in which its author saw the template.
        version: u32,
        /// What was filled in, by the names of the slots; a time is `HH:MM`.
        slots: BTreeMap<String, String>,
        /// In the reader's language.
        #[schema(example = "Running late 20 min")]
        text: String,
    },
    /// Something that happened to the conversation.
    System {
        event: SystemEvent,
        device: MemberJson,
        #[schema(example = "truck-17 joined")]
        text: String,
    },
}

/// What became of a device in a group.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SystemEvent {
    Joined,
    Left,
}

impl BodyJson {
    pub(crate) async fn new(body: EntryBody, names: &mut Names<'_>) -> Result<Self, BridgeError> {
        Ok(match body {
            EntryBody::Text(text) => Self::Text { text },
            EntryBody::Reply(reply) => {
                let version = reply.version;
                match names.in_words(reply.clone()).await? {
                    Some(said) => Self::Reply {
                        template: Some(said.key),
                        version,
                        slots: said.slots.into_iter().collect(),
                        text: said.text,
                    },
                    None => Self::Reply {
                        template: None,
                        version,
                        slots: BTreeMap::new(),
                        text: without_template(&reply),
                    },
                }
            }
            EntryBody::Membership(device, change) => {
                let event = match change {
                    MembershipChange::Joined => SystemEvent::Joined,
                    MembershipChange::Left => SystemEvent::Left,
                };
                let name = names.name(Author::Device(device)).await?;
                let name = name.unwrap_or_else(|| format!("Device {device}"));
                Self::System {
                    event,
                    device: names.author(Author::Device(device)).await?,
                    text: match event {
                        SystemEvent::Joined => format!("{name} joined"),
                        SystemEvent::Left => format!("{name} left"),
                    },
                }
            }
        })
    }
}

/// All that can be said of a reply whose template nobody knows: nothing of it is hidden.
fn without_template(reply: &QuickReply) -> String {
    let numbers = reply.numbers.iter().map(i64::to_string);
    let values: Vec<String> = numbers.chain(reply.texts.iter().cloned()).collect();
    match values[..] {
        [] => format!("Quick reply {}", reply.template),
        _ => format!("Quick reply {}: {}", reply.template, values.join(", ")),
    }
}

/// What somebody writes: a text, or a quick reply.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewBodyJson {
    kind: NewBodyKind,
    /// What a `text` says; at most 4,096 bytes.
    #[schema(
        min_length = 1,
        max_length = 4096,
        example = "Where are you?",
        nullable = false
    )]
    text: Option<String>,
    /// The key of a `reply`'s template.
    #[schema(example = "late", nullable = false)]
    template: Option<String>,
    /// What is filled into the slots of a `reply`, by their names: a text, a whole number, or a time as `HH:MM`.
    #[schema(nullable = false)]
    slots: Option<BTreeMap<String, SlotValueJson>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", try_from = "String")]
enum NewBodyKind {
    Text,
    Reply,
}

impl TryFrom<String> for NewBodyKind {
    type Error = &'static str;

    fn try_from(kind: String) -> Result<Self, Self::Error> {
        match kind.as_str() {
            "text" => Ok(Self::Text),
            "reply" => Ok(Self::Reply),
            _ => Err("must be \"text\" or \"reply\""),
        }
    }
}

/// A value as a person or a program gives it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text or a number")]
enum SlotValueJson {
    Text(String),
    #[schema(value_type = i64)]
    Number(serde_json::Number),
}

impl NewBodyJson {
    /// What is to be written. Whether there is such a template, and whether the values fit, is the bridge's to say.
    pub(crate) fn into_new_body(self) -> Result<NewBody, Problem> {
        let Self {
            kind,
            text,
            template,
            slots,
        } = self;
        match kind {
            NewBodyKind::Text => {
                absent(
                    "template",
                    "a text has none; say kind \"reply\"",
                    template.is_some(),
                )?;
                absent("slots", "a text has none; say kind \"reply\"", slots.is_some())?;
                Ok(NewBody::Text(text.ok_or_else(|| missing("text"))?))
            }
            NewBodyKind::Reply => {
                absent("text", "comes of the template; leave it out", text.is_some())?;
                let key = template.ok_or_else(|| missing("template"))?;
                let slots = slots.unwrap_or_default().into_iter().map(slot);
                let slots = slots.collect::<Result<_, _>>()?;
                Ok(NewBody::Reply { key, slots })
            }
        }
    }
}

fn slot((name, value): (String, SlotValueJson)) -> Result<(String, String), Problem> {
    if !waypost_proto::is_slot_name(&name) {
        let detail = "is not the name of a slot: those are lower-case letters, digits and underscores";
        return Err(wrong(&format!("slots/{}", escaped(&name)), detail));
    }
    let value = match value {
        SlotValueJson::Text(text) => text,
        SlotValueJson::Number(number) => number.to_string(),
    };
    Ok((name, value))
}

fn missing(field: &str) -> Problem {
    wrong(field, "is missing")
}

fn absent(field: &str, detail: &str, is_there: bool) -> Result<(), Problem> {
    if is_there {
        Err(wrong(field, detail))
    } else {
        Ok(())
    }
}

fn wrong(field: &str, detail: &str) -> Problem {
    Problem::fields(vec![FieldProblem {
        pointer: format!("/body/{field}"),
        detail: detail.to_owned(),
    }])
}
