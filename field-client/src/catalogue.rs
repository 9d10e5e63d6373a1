//! The templates of quick replies as this device has them, and the words that they make of a reply.
//!
//! A catalogue is taken over whole or as a difference, and always as one: what would go beyond a bound leaves it as it
//! was.

use prost::Message;
use std::collections::BTreeMap;
use waypost_proto::wire;
use waypost_proto::{BadSlots, QuickReply, Template};

/// Templates of a catalogue; one with more is not taken.
pub(crate) const TEMPLATES_MAX: usize = 1_000;
/// Bytes of a catalogue as it travels; a larger one is not taken, and a difference that makes it larger is not applied.
pub(crate) const CATALOGUE_BYTES_MAX: usize = 65_536;

/// The templates that can be chosen, in one language.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalogue {
    /// Grows with each change of any template; 0 while the device has none.
    pub version: u32,
    /// In ascending order of their numbers, at most 1,000.
    pub templates: Vec<Template>,
}

/// What a quick reply says, put together for whoever reads it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyWords {
    /// What systems call its template; `None` where this device does not have it.
    pub key: Option<String>,
    /// The values by the names of their slots; by their places from 1 where the template is not here.
    pub slots: Vec<(String, String)>,
    /// What it says: in the reader's language where the template is here, otherwise as the sender put it, otherwise
    /// number and values, such as `[quick reply 120: 15]`.
    pub text: String,
}

/// More than a catalogue may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge;

impl Catalogue {
    /// The template that systems call `key`.
    pub fn find(&self, key: &str) -> Option<&Template> {
        self.templates.iter().find(|template| template.key == key)
    }

    /// The catalogue that `change` makes of this one: all of it where it starts from version 0, otherwise a difference.
    /// A template that cannot be offered is left out.
    pub(crate) fn changed_by(&self, change: &wire::Catalogue) -> Result<Self, TooLarge> {
        let mut templates: BTreeMap<u32, Template> = BTreeMap::new();
        if change.from_version > 0 {
            templates.extend(self.templates.iter().map(|kept| (kept.number, kept.clone())));
        }
        for removed in &change.removed {
            templates.remove(removed);
        }
        for template in change.templates.iter().filter_map(Template::from_wire) {
            templates.insert(template.number, template);
        }
        let catalogue = Self {
            version: change.version,
            templates: templates.into_values().collect(),
        };
        let fits = catalogue.templates.len() <= TEMPLATES_MAX
            && catalogue.to_wire().encoded_len() <= CATALOGUE_BYTES_MAX;
        if fits { Ok(catalogue) } else { Err(TooLarge) }
    }

    /// All of it, as it travels.
    pub(crate) fn to_wire(&self) -> wire::Catalogue {
        wire::Catalogue {
            version: self.version,
            templates: self.templates.iter().map(Template::to_wire).collect(),
            ..wire::Catalogue::default()
        }
    }

    /// What a reply says here; `sent` is what its sender made of it, where that is known.
    pub(crate) fn words(&self, reply: &QuickReply, sent: Option<&str>) -> ReplyWords {
        let place = self
            .templates
            .binary_search_by_key(&reply.template, |template| template.number);
        let template = place.ok().and_then(|place| self.templates.get(place));
        // Its slots may have changed since the reply was written: then its values are not these slots' values.
        if let Some(template) = template.filter(|template| template.check(reply).is_ok()) {
            let named = |(name, value): (&str, String)| (name.to_owned(), value);
            return ReplyWords {
                key: Some(template.key.clone()),
                slots: template.values(reply).into_iter().map(named).collect(),
                text: template.render(reply),
            };
        }
        let numbers = reply.numbers.iter().map(i64::to_string);
        let values: Vec<String> = numbers.chain(reply.texts.iter().cloned()).collect();
        let colon = if values.is_empty() { "" } else { ": " };
        let bare = || format!("[quick reply {}{colon}{}]", reply.template, values.join(", "));
        ReplyWords {
            key: template.map(|template| template.key.clone()),
            text: sent.map_or_else(bare, str::to_owned),
            slots: (1..).map(|place: usize| place.to_string()).zip(values).collect(),
        }
    }
}

/// Why a quick reply cannot be written as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReply {
    /// The device has never fetched a catalogue, or the server offers nothing.
    #[error(
        "this device has no quick replies yet: it fetches them when it is connected to a server that offers some"
    )]
    NoCatalogue,
    /// There is no such template.
    #[error("there is no quick reply {key:?}; there are {}", known.join(", "))]
    UnknownTemplate {
        /// What was asked for.
        key: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The values do not fit its slots.
    #[error("the quick reply {key:?}: {why}")]
    Slots {
        /// The template.
        key: String,
        /// Which slot, and what would fit.
        why: BadSlots,
    },
}

impl Catalogue {
    /// The reply of the template `key` with these values by the names of their slots.
    ///
    /// # Errors
    /// [`BadReply`], which names what there is.
    pub fn reply(&self, key: &str, values: &[(String, String)]) -> Result<QuickReply, BadReply> {
        if self.templates.is_empty() {
            return Err(BadReply::NoCatalogue);
        }
        let template = self.find(key).ok_or_else(|| BadReply::UnknownTemplate {
            key: key.to_owned(),
            known: self
                .templates
                .iter()
                .map(|template| template.key.clone())
                .collect(),
        })?;
        let values = values.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        template
            .fill(self.version, values)
            .map_err(|why| BadReply::Slots {
                key: key.to_owned(),
                why,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_proto::SlotKind;

    fn template(number: u32, key: &str, text: &str) -> wire::Template {
        wire::Template {
            number,
            key: key.to_owned(),
            text: text.to_owned(),
            slots: vec![wire::Slot {
                name: "minutes".to_owned(),
                kind: SlotKind::Number.into(),
            }],
        }
    }

    fn whole(version: u32, templates: Vec<wire::Template>) -> wire::Catalogue {
        wire::Catalogue {
            version,
            templates,
            ..wire::Catalogue::default()
        }
    }

    fn reply(template: u32, numbers: &[i64]) -> QuickReply {
        QuickReply::from_parts(template, 1, numbers, &[]).unwrap()
    }

    #[test]
    fn a_difference_adds_changes_and_removes_and_a_whole_replaces() {
        let first = whole(1, vec![template(1, "a", "A {minutes}"), template(2, "b", "B")]);
        let first = Catalogue::default().changed_by(&first).unwrap();
        let difference = wire::Catalogue {
            from_version: 1,
            removed: vec![2, 9],
            ..whole(3, vec![template(1, "a", "Aa {minutes}"), template(7, "c", "C")])
        };
        let second = first.changed_by(&difference).unwrap();
        let texts = |catalogue: &Catalogue| -> Vec<String> {
            catalogue
                .templates
                .iter()
                .map(|template| template.text.clone())
                .collect()
        };
        assert_eq!(
            (second.version, texts(&second)),
            (3, vec!["Aa {minutes}".to_owned(), "C".to_owned()])
        );
        assert_eq!(second.changed_by(&second.to_wire()), Ok(second.clone()));
        let third = second.changed_by(&whole(4, vec![template(8, "d", "D")])).unwrap();
        assert_eq!(texts(&third), ["D"]);
    }

    #[test]
    fn a_catalogue_beyond_its_bounds_is_not_taken() {
        let many = |count: u32| whole(1, (1..=count).map(|number| template(number, "k", "T")).collect());
        assert!(Catalogue::default().changed_by(&many(1_000)).is_ok());
        assert_eq!(Catalogue::default().changed_by(&many(1_001)), Err(TooLarge));
        let long = whole(1, vec![template(1, "k", &"x".repeat(CATALOGUE_BYTES_MAX))]);
        assert_eq!(Catalogue::default().changed_by(&long), Err(TooLarge));
    }

    #[test]
    fn what_cannot_be_rendered_is_still_readable() {
        let catalogue = whole(1, vec![template(120, "late", "{minutes} Min. später")]);
        let catalogue = Catalogue::default().changed_by(&catalogue).unwrap();
        for (reply, sent, text, key) in [
            (
                reply(120, &[15]),
                Some("15 min late"),
                "15 Min. später",
                Some("late"),
            ),
            (reply(7, &[15]), Some("15 min late"), "15 min late", None),
            (reply(7, &[15, 3]), None, "[quick reply 7: 15, 3]", None),
            (reply(7, &[]), None, "[quick reply 7]", None),
            (reply(120, &[1, 2]), None, "[quick reply 120: 1, 2]", Some("late")),
        ] {
            let words = catalogue.words(&reply, sent);
            assert_eq!((words.text.as_str(), words.key.as_deref()), (text, key));
        }
    }

    #[test]
    fn a_reply_that_cannot_be_written_names_what_there_is() {
        let catalogue = whole(2, vec![template(1, "late", "L"), template(2, "here", "H")]);
        let catalogue = Catalogue::default().changed_by(&catalogue).unwrap();
        let values = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        let refused =
            |key, values: &[(String, String)]| catalogue.reply(key, values).unwrap_err().to_string();
        assert!(refused("gone", &[]).contains("there are late, here"));
        assert!(refused("late", &values("hours", "1")).contains("\"hours\""));
        assert!(refused("late", &[]).contains("\"minutes\" is not filled in"));
        assert_eq!(
            Catalogue::default().reply("late", &[]),
            Err(BadReply::NoCatalogue)
        );
        let filled = catalogue.reply("late", &values("minutes", "15")).unwrap();
        assert_eq!((filled.version, filled.numbers), (2, vec![15]));
    }
}
