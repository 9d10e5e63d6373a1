//! Templates: quick replies in every language that the fleet speaks.

use std::collections::BTreeMap;
pub use waypost_proto::{QuickReply, Slot, SlotKind};

/// The most templates that are offered at a time.
pub const TEMPLATES_MAX: usize = 1_000;
/// The longest text of a template in one language, in bytes.
pub const TEMPLATE_TEXT_BYTES_MAX: usize = 500;
/// The most languages of one template.
pub const TEMPLATE_LOCALES_MAX: usize = 40;
/// The language for readers whose own one a template does not have.
pub const FALLBACK_LOCALE: &str = "en";

/// A template as it is since one version of the catalogue. What it was before is kept: a reply that was written then
/// says what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its number, for ever.
    pub number: u32,
    /// What systems call it: 1 to 64 lower-case letters, digits, `_`, `-` and `.`.
    pub key: String,
    /// The version of the catalogue in which it became what it is.
    pub version: u32,
    /// What it says, by language tag; at least one.
    pub text: BTreeMap<String, String>,
    /// Its slots, in the order of their values.
    pub slots: Vec<Slot>,
    /// It is no longer offered.
    pub removed: bool,
}

/// What a template says and takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTemplate {
    /// What systems call it.
    pub key: String,
    /// What it says, by language tag.
    pub text: BTreeMap<String, String>,
    /// Its slots.
    pub slots: Vec<Slot>,
}

impl Template {
    /// The template in the language nearest to `locale`: that one, its language without the region, English, any.
    pub fn in_locale(&self, locale: &str) -> waypost_proto::Template {
        let text = nearest(locale, |tag| self.text.get(tag))
            .or_else(|| self.text.values().next())
            .cloned()
            .unwrap_or_default();
        waypost_proto::Template {
            number: self.number,
            key: self.key.clone(),
            text,
            slots: self.slots.clone(),
        }
    }
}

/// What `find` finds for a language tag, or else for its language without the region, or else for the fallback.
pub(crate) fn nearest<T>(locale: &str, mut find: impl FnMut(&str) -> Option<T>) -> Option<T> {
    let language = locale.split('-').next().unwrap_or(locale);
    find(locale)
        .or_else(|| find(language))
        .or_else(|| find(FALLBACK_LOCALE))
}

/// A quick reply in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// What systems call the template.
    pub key: String,
    /// The values of its slots by name, as a person writes them.
    pub slots: Vec<(String, String)>,
    /// What it says.
    pub text: String,
}
