//! The template catalogue: what is offered in which version, in every language, and what changed since.
//!
//! Every version of every template is kept: a reply that comes late says what it said when it was written.

use super::directory::invalid;
use super::{Core, Effect, Output, Ticket};
use crate::entry::{EntryBody, NewBody};
use crate::service::BridgeError;
use crate::store::Change;
use crate::template::{
    FALLBACK_LOCALE, NewTemplate, QuickReply, Rendered, TEMPLATE_LOCALES_MAX, TEMPLATE_TEXT_BYTES_MAX,
    TEMPLATES_MAX, Template, nearest,
};
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use waypost_proto::{BadSlots, Piece, SLOTS_MAX, TEXT_BYTES_MAX, is_slot_name, pieces, wire};

type Staged<T> = Result<(T, Option<Ticket>), BridgeError>;

/// The whole catalogue in one language has to fit one packet of every device.
const CATALOGUE_BYTES_MAX: usize = 60_000;
/// A difference that is larger is fetched whole, from what is retained.
const DIFFERENCE_BYTES_MAX: usize = 800;

/// All templates, as they are on disk.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    /// By number; all versions, oldest first, at least one.
    templates: BTreeMap<u32, Vec<Template>>,
    version: u32,
    /// The languages in which it was published.
    published: BTreeSet<String>,
}

impl Catalogue {
    pub(super) fn new(templates: BTreeMap<u32, Vec<Template>>) -> Self {
        let version = templates
            .values()
            .flatten()
            .map(|template| template.version)
            .max();
        Self {
            templates,
            version: version.unwrap_or(0),
            published: BTreeSet::new(),
        }
    }

    pub(super) fn version(&self) -> u32 {
        self.version
    }

    pub(super) fn next_number(&self) -> u32 {
        self.templates.keys().next_back().map_or(1, |last| last + 1)
    }

    fn take(&mut self, template: Template) {
        self.version = self.version.max(template.version);
        self.templates.entry(template.number).or_default().push(template);
    }

    /// Those on offer, by number.
    fn offered(&self) -> impl Iterator<Item = &Template> {
        self.templates
            .values()
            .filter_map(|versions| versions.last())
            .filter(|template| !template.removed)
    }

    /// A template as it was in a version of the catalogue.
    fn as_of(&self, number: u32, version: u32) -> Option<&Template> {
        let versions = self.templates.get(&number)?;
        versions
            .iter()
            .rev()
            .find(|template| template.version <= version)
            .filter(|template| !template.removed)
    }

    /// The languages in which it is published.
    fn locales(&self) -> BTreeSet<String> {
        let tags = self.offered().flat_map(|template| template.text.keys().cloned());
        tags.chain([FALLBACK_LOCALE.to_owned()]).collect()
    }

    /// The language of those published that is nearest to this one.
    fn locale_for(&self, locale: &str) -> String {
        let locales = self.locales();
        nearest(locale, |tag| locales.get(tag)).map_or_else(|| FALLBACK_LOCALE.to_owned(), Clone::clone)
    }

    fn whole(&self, locale: &str) -> wire::Catalogue {
        wire::Catalogue {
            version: self.version,
            templates: self
                .offered()
                .map(|template| template.in_locale(locale).to_wire())
                .collect(),
            locale: locale.to_owned(),
            ..Default::default()
        }
    }

    /// What a device with an older version is told: what changed, or that it has to fetch.
    pub(super) fn news(&self, from_version: u32, locale: &str) -> wire::Catalogue {
        let locale = self.locale_for(locale);
        let changed = self.templates.values().filter_map(|versions| versions.last());
        let changed: Vec<&Template> = changed
            .filter(|template| template.version > from_version)
            .collect();
        let difference = wire::Catalogue {
            from_version,
            version: self.version,
            templates: changed
                .iter()
                .filter(|template| !template.removed)
                .map(|template| template.in_locale(&locale).to_wire())
                .collect(),
            removed: changed
                .iter()
                .filter(|template| template.removed)
                .map(|template| template.number)
                .collect(),
            ..Default::default()
        };
        // A device that has nothing, or something from a future that was lost, takes the whole.
        let applies = (1..=self.version).contains(&from_version);
        if applies && difference.encoded_len() <= DIFFERENCE_BYTES_MAX {
            return difference;
        }
        wire::Catalogue {
            version: self.version,
            fetch: true,
            locale,
            ..Default::default()
        }
    }
}

impl Core {
    /// Stages a template under its key, new or changed. Nothing where it already is what was asked for.
    pub(crate) fn put_template(&mut self, new: NewTemplate) -> Staged<(String, bool)> {
        check_template(&new)?;
        let before = self.newest_template(&new.key).cloned();
        let existed = before.as_ref().is_some_and(|before| !before.removed);
        if let Some(before) = &before
            && existed
            && before.text == new.text
            && before.slots == new.slots
        {
            return Ok(((new.key, true), None));
        }
        if !existed && self.catalogue.offered().count() >= TEMPLATES_MAX {
            return Err(BridgeError::Conflict(
                "there are 1,000 templates, and no room for another",
            ));
        }
        let number = before.map_or(self.next_template, |before| before.number);
        self.next_template = self.next_template.max(number + 1);
        let template = Template {
            number,
            version: self.next_version(),
            key: new.key.clone(),
            text: new.text,
            slots: new.slots,
            removed: false,
        };
        for locale in self
            .catalogue
            .locales()
            .into_iter()
            .chain(template.text.keys().cloned())
        {
            let others = self.catalogue.whole(&locale).encoded_len();
            if others + template.in_locale(&locale).to_wire().encoded_len() > CATALOGUE_BYTES_MAX {
                return Err(BridgeError::Conflict(
                    "all templates in one language take at most 60,000 bytes; remove some first",
                ));
            }
        }
        self.put(template);
        self.audit("template.changed", format!("template/{}", new.key));
        Ok(((new.key, existed), self.commit()))
    }

    /// Stages that a template is no longer offered.
    pub(crate) fn delete_template(&mut self, key: &str) -> Staged<()> {
        let template = self
            .newest_template(key)
            .filter(|template| !template.removed)
            .cloned()
            .ok_or(BridgeError::NotFound("template"))?;
        let version = self.next_version();
        self.put(Template {
            version,
            removed: true,
            ..template
        });
        self.audit("template.deleted", format!("template/{key}"));
        Ok(((), self.commit()))
    }

    /// Those on offer, by key, and the version of the catalogue.
    pub(crate) fn templates(&self) -> (u32, Vec<Template>) {
        let mut offered: Vec<Template> = self.catalogue.offered().cloned().collect();
        offered.sort_by(|a, b| a.key.cmp(&b.key));
        (self.catalogue.version, offered)
    }

    pub(crate) fn template(&self, key: &str) -> Option<Template> {
        self.catalogue
            .offered()
            .find(|template| template.key == key)
            .cloned()
    }

    /// A quick reply in the language nearest to `locale`.
    pub(crate) fn render(&self, reply: &QuickReply, locale: &str) -> Option<Rendered> {
        let template = self.catalogue.as_of(reply.template, reply.version)?;
        let words = template.in_locale(locale);
        Some(Rendered {
            key: template.key.clone(),
            slots: words
                .values(reply)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            text: words.render(reply),
        })
    }

    /// Whether a quick reply of a device is one.
    pub(super) fn is_sound(&self, reply: &QuickReply) -> bool {
        reply.version <= self.catalogue.version
            && self
                .catalogue
                .as_of(reply.template, reply.version)
                .is_some_and(|template| template.in_locale(FALLBACK_LOCALE).check(reply).is_ok())
    }

    pub(super) fn is_offered(&self, number: u32) -> bool {
        self.catalogue.as_of(number, self.catalogue.version).is_some()
    }

    /// What a person wrote, as it is kept.
    pub(super) fn checked_body(&self, body: NewBody) -> Result<EntryBody, BridgeError> {
        match body {
            NewBody::Text(text) if (1..=TEXT_BYTES_MAX).contains(&text.len()) => Ok(EntryBody::Text(text)),
            NewBody::Text(_) => Err(invalid("/body/text", "1 to 4,096 bytes of text")),
            NewBody::Reply { key, slots } => {
                let template = self
                    .template(&key)
                    .ok_or_else(|| invalid("/body/template", "the key of a template that is offered"))?;
                let values = slots.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                let reply = template
                    .in_locale(FALLBACK_LOCALE)
                    .fill(self.catalogue.version, values);
                reply.map(EntryBody::Reply).map_err(|bad| {
                    let (BadSlots::Missing(name) | BadSlots::Unknown(name) | BadSlots::Unfit { name, .. }) =
                        &bad;
                    BridgeError::Invalid {
                        field: format!("/body/slots/{name}").into(),
                        reason: bad.to_string(),
                    }
                })
            }
        }
    }

    /// The broker has nothing that was retained, or may have nothing: everything is published again.
    pub fn handle_opened(&mut self) {
        if self.catalogue.version > 0 {
            self.publish_catalogue();
        }
    }

    /// A change of the catalogue is on disk.
    pub(super) fn take_template(&mut self, template: Template) {
        self.catalogue.take(template);
        self.publish_catalogue();
        let sessions: Vec<_> = self.sessions.keys().copied().collect();
        for device in sessions {
            self.compare_small_state(device);
        }
    }

    fn publish_catalogue(&mut self) {
        let locales = self.catalogue.locales();
        for gone in &self.catalogue.published - &locales {
            // [MQTT-3.3.1-6] an empty payload takes what is retained away.
            self.outputs.push_back(Output::Retain(gone, Bytes::new()));
        }
        for locale in &locales {
            let whole = self.catalogue.whole(locale).encode_to_vec();
            self.outputs
                .push_back(Output::Retain(locale.clone(), whole.into()));
        }
        self.catalogue.published = locales;
    }

    fn next_version(&self) -> u32 {
        let staged = self.staged_effects().find_map(|effect| match effect {
            Effect::Template(template) => Some(template.version),
            _ => None,
        });
        staged.unwrap_or(self.catalogue.version) + 1
    }

    /// As it is on disk or on its way there; also one that was removed.
    fn newest_template(&self, key: &str) -> Option<&Template> {
        let staged = self.staged_effects().find_map(|effect| match effect {
            Effect::Template(template) if template.key == key => Some(template),
            _ => None,
        });
        staged.or_else(|| {
            let newest = self
                .catalogue
                .templates
                .values()
                .filter_map(|versions| versions.last());
            newest.into_iter().find(|template| template.key == key)
        })
    }

    fn put(&mut self, template: Template) {
        self.changes.push(Change::PutTemplate(template.clone()));
        self.effects.push(Effect::Template(template));
    }
}

fn check_template(new: &NewTemplate) -> Result<(), BridgeError> {
    let key_byte = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
    if !(1..=64).contains(&new.key.len()) || !new.key.bytes().all(key_byte) {
        return Err(invalid("/key", "1 to 64 lower-case letters, digits, _, - and ."));
    }
    let names: BTreeSet<&str> = new.slots.iter().map(|slot| slot.name.as_str()).collect();
    let all_names = new.slots.iter().all(|slot| is_slot_name(&slot.name));
    if new.slots.len() > SLOTS_MAX || names.len() < new.slots.len() || !all_names {
        return Err(invalid(
            "/slots",
            "at most 8 slots with names of their own, of 1 to 32 lower-case letters, digits and _",
        ));
    }
    if new.text.is_empty() || new.text.len() > TEMPLATE_LOCALES_MAX {
        return Err(invalid("/text", "a text in at least one language and at most 40"));
    }
    for (tag, text) in &new.text {
        let tag_char = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if !(2..=35).contains(&tag.len()) || !tag.chars().all(tag_char) {
            return Err(invalid("/text", "language tags such as en, de or pt-BR"));
        }
        let wrong = |reason: String| BridgeError::Invalid {
            field: format!("/text/{tag}").into(),
            reason,
        };
        if !(1..=TEMPLATE_TEXT_BYTES_MAX).contains(&text.len()) || text.trim().is_empty() {
            return Err(wrong("expected 1 to 500 bytes of text".to_owned()));
        }
        for piece in pieces(text) {
            if let Piece::Slot(name) = piece
                && !names.contains(name)
            {
                return Err(wrong(format!(
                    "there is no slot {name:?}; add it, or take {{{name}}} out"
                )));
            }
        }
    }
    Ok(())
}
