//! Who takes part: devices, people, the office as a whole, and Waypost itself, as JSON.

use crate::language::Language;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use waypost_bridge::entry::{Author, Entry, QuickReply};
use waypost_bridge::stream::Member;
use waypost_bridge::template::{FALLBACK_LOCALE, Rendered};
use waypost_bridge::{Bridge, BridgeError};

/// Somebody who takes part in a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MemberIdJson {
    /// The id of the device or the person; `office` and `system` for those two.
    id: String,
    kind: MemberKind,
}

/// Somebody by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MemberJson {
    #[serde(flatten)]
    id: MemberIdJson,
    /// `null` for one who is gone.
    name: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum MemberKind {
    Device,
    Person,
    Office,
    System,
}

impl From<Member> for MemberIdJson {
    fn from(member: Member) -> Self {
        match member {
            Member::Device(id) => Self {
                id: id.to_string(),
                kind: MemberKind::Device,
            },
            Member::Person(id) => Self {
                id: id.to_string(),
                kind: MemberKind::Person,
            },
            Member::Office => Self {
                id: "office".to_owned(),
                kind: MemberKind::Office,
            },
        }
    }
}

impl From<Author> for MemberIdJson {
    fn from(author: Author) -> Self {
        match author {
            Author::Device(id) => Member::Device(id).into(),
            Author::Person(id) => Member::Person(id).into(),
            Author::System => Self {
                id: "system".to_owned(),
                kind: MemberKind::System,
            },
        }
    }
}

/// Names and words for one answer, in the language of its reader; each name is asked for once.
pub(crate) struct Names<'a> {
    bridge: &'a Bridge,
    locale: &'a str,
    known: BTreeMap<Author, Option<String>>,
}

impl<'a> Names<'a> {
    /// For an answer in which nothing is put into words.
    pub(crate) fn new(bridge: &'a Bridge) -> Self {
        Self {
            bridge,
            locale: FALLBACK_LOCALE,
            known: BTreeMap::new(),
        }
    }

    /// For a reader of this language.
    pub(crate) fn in_language(bridge: &'a Bridge, Language(locale): &'a Language) -> Self {
        Self {
            locale,
            ..Self::new(bridge)
        }
    }

    pub(crate) async fn author(&mut self, author: Author) -> Result<MemberJson, BridgeError> {
        Ok(MemberJson {
            id: author.into(),
            name: self.name(author).await?,
        })
    }

    pub(crate) async fn member(&mut self, member: Member) -> Result<MemberJson, BridgeError> {
        let name = match member {
            Member::Device(id) => self.name(Author::Device(id)).await?,
            Member::Person(id) => self.name(Author::Person(id)).await?,
            Member::Office => Some("Office".to_owned()),
        };
        Ok(MemberJson {
            id: member.into(),
            name,
        })
    }

    pub(crate) async fn name(&mut self, author: Author) -> Result<Option<String>, BridgeError> {
        if author == Author::System {
            return Ok(Some("Waypost".to_owned()));
        }
        if let Some(name) = self.known.get(&author) {
            return Ok(name.clone());
        }
        let name = self.bridge.author_name(author).await?;
        self.known.insert(author, name.clone());
        Ok(name)
    }

    /// Whether what an urgent entry overtook is still under way.
    pub(crate) async fn earlier_under_way(&self, entry: &Entry) -> Result<bool, BridgeError> {
        self.bridge.earlier_under_way(entry).await
    }

    /// What a quick reply says; `None` for one of an unknown template.
    pub(crate) async fn in_words(&self, reply: QuickReply) -> Result<Option<Rendered>, BridgeError> {
        self.bridge.render(reply, self.locale.to_owned()).await
    }
}
