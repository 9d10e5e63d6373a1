//! Quick replies: a template of the catalogue with its slots filled in, and the words that come of it.
//!
//! On the wire a quick reply is the number of its template and the values of its slots; each reader's side puts the words
//! together in the reader's language.

use crate::wire;
use std::fmt::Write;

/// The most slots of one template.
pub const SLOTS_MAX: usize = 8;
/// The longest value of a text slot, in bytes of UTF-8.
pub const SLOT_TEXT_BYTES_MAX: usize = 200;
/// The largest value of a number slot, and with a minus sign the smallest.
pub const SLOT_NUMBER_MAX: i64 = 999_999_999;
/// Minutes of a day: a time slot is below.
const DAY_MIN: i64 = 24 * 60;

pub use wire::SlotKind;

/// A template in one language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its number, for ever; never 0.
    pub number: u32,
    /// What systems call it.
    pub key: String,
    /// What it says, with its slots in braces.
    pub text: String,
    /// Its slots, at most [`SLOTS_MAX`], in the order of their values on the wire.
    pub slots: Vec<Slot>,
}

/// What is filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// As it stands between the braces.
    pub name: String,
    /// What fits.
    pub kind: SlotKind,
}

/// A quick reply as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuickReply {
    /// The number of its template; never 0.
    pub template: u32,
    /// The version of the catalogue in which its author saw the template; never 0.
    pub version: u32,
    /// Values of the number and time slots, in the template's order.
    pub numbers: Vec<i64>,
    /// Values of the text slots, in the template's order.
    pub texts: Vec<String>,
}

/// Why the values do not fit a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSlots {
    /// A slot has no value.
    #[error("the slot {0:?} is not filled in")]
    Missing(String),
    /// The template has no such slot.
    #[error("there is no slot {0:?}")]
    Unknown(String),
    /// A value that does not fit its kind.
    #[error("the slot {name:?} takes {expected}")]
    Unfit {
        /// The slot.
        name: String,
        /// What would fit.
        expected: &'static str,
    },
}

impl Slot {
    fn unfit(&self) -> BadSlots {
        let expected = match self.kind {
            SlotKind::Text => "1 to 200 bytes of text",
            SlotKind::Number => "a whole number of at most nine digits",
            SlotKind::Time => "a time of day such as 14:30",
        };
        BadSlots::Unfit {
            name: self.name.clone(),
            expected,
        }
    }
}

impl Template {
    /// # Errors
    /// `None` for one that cannot be offered: no number, no words, or too many slots.
    pub fn from_wire(template: &wire::Template) -> Option<Self> {
        let sound = template.number > 0 && !template.text.is_empty() && template.slots.len() <= SLOTS_MAX;
        sound.then(|| Self {
            number: template.number,
            key: template.key.clone(),
            text: template.text.clone(),
            slots: template
                .slots
                .iter()
                .map(|slot| Slot {
                    name: slot.name.clone(),
                    kind: slot.kind(),
                })
                .collect(),
        })
    }

    /// As it stands in a catalogue.
    pub fn to_wire(&self) -> wire::Template {
        wire::Template {
            number: self.number,
            key: self.key.clone(),
            text: self.text.clone(),
            slots: self
                .slots
                .iter()
                .map(|slot| wire::Slot {
                    name: slot.name.clone(),
                    kind: slot.kind.into(),
                })
                .collect(),
        }
    }

    /// The reply with these values by name, as a person or a program gives them: numbers in decimal, times as `14:30`.
    /// `version` is that of the catalogue.
    ///
    /// # Errors
    /// [`BadSlots`], which names the slot.
    pub fn fill<'a>(
        &self,
        version: u32,
        values: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<QuickReply, BadSlots> {
        let mut given: Vec<Option<&str>> = vec![None; self.slots.len()];
        for (name, value) in values {
            let place = self.slots.iter().position(|slot| slot.name == name);
            given[place.ok_or_else(|| BadSlots::Unknown(name.to_owned()))?] = Some(value);
        }
        let mut reply = QuickReply {
            template: self.number,
            version,
            numbers: Vec::new(),
            texts: Vec::new(),
        };
        for (slot, value) in self.slots.iter().zip(given) {
            let value = value.ok_or_else(|| BadSlots::Missing(slot.name.clone()))?;
            match slot.kind {
                SlotKind::Text => reply.texts.push(value.to_owned()),
                SlotKind::Number => reply
                    .numbers
                    .push(value.trim().parse().map_err(|_| slot.unfit())?),
                SlotKind::Time => reply
                    .numbers
                    .push(minutes(value.trim()).ok_or_else(|| slot.unfit())?),
            }
        }
        self.check(&reply)?;
        Ok(reply)
    }

    /// Whether the values of a reply fit the slots.
    ///
    /// # Errors
    /// [`BadSlots`].
    pub fn check(&self, reply: &QuickReply) -> Result<(), BadSlots> {
        let (mut numbers, mut texts) = (reply.numbers.iter(), reply.texts.iter());
        for slot in &self.slots {
            let missing = || BadSlots::Missing(slot.name.clone());
            let fits = match slot.kind {
                SlotKind::Text => {
                    let text = texts.next().ok_or_else(missing)?;
                    (1..=SLOT_TEXT_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control)
                }
                SlotKind::Number => {
                    let number = numbers.next().ok_or_else(missing)?;
                    (-SLOT_NUMBER_MAX..=SLOT_NUMBER_MAX).contains(number)
                }
                SlotKind::Time => (0..DAY_MIN).contains(numbers.next().ok_or_else(missing)?),
            };
            if !fits {
                return Err(slot.unfit());
            }
        }
        match (numbers.next(), texts.next()) {
            (None, None) => Ok(()),
            _ => Err(BadSlots::Unknown(format!("number {}", self.slots.len() + 1))),
        }
    }

    /// The values of a reply by the names of their slots, as [`fill`](Self::fill) takes them; those that are missing are
    /// left out.
    pub fn values(&self, reply: &QuickReply) -> Vec<(&str, String)> {
        let (mut numbers, mut texts) = (reply.numbers.iter(), reply.texts.iter());
        let value = |slot: &Slot| match slot.kind {
            SlotKind::Text => texts.next().cloned(),
            SlotKind::Number => numbers.next().map(i64::to_string),
            SlotKind::Time => numbers.next().map(|minutes| time_of_day(*minutes)),
        };
        let values: Vec<Option<String>> = self.slots.iter().map(value).collect();
        let named = self.slots.iter().zip(values);
        named
            .filter_map(|(slot, value)| Some((slot.name.as_str(), value?)))
            .collect()
    }

    /// What the reply says in the language of this template. A slot without a value stays as it stands, in its braces.
    pub fn render(&self, reply: &QuickReply) -> String {
        let values = self.values(reply);
        let mut said = String::with_capacity(self.text.len() + 16);
        for piece in pieces(&self.text) {
            match piece {
                Piece::Words(words) => said.push_str(words),
                Piece::Slot(name) => match values.iter().find(|(slot, _)| *slot == name) {
                    Some((_, value)) => said.push_str(value),
                    None => write!(said, "{{{name}}}").expect("writing to a string cannot fail"),
                },
            }
        }
        said
    }
}

impl QuickReply {
    /// As it stands in an entry, without what it says.
    pub fn to_wire(&self) -> wire::QuickReply {
        wire::QuickReply {
            template: self.template,
            version: self.version,
            slot_numbers: self.numbers.clone(),
            slot_texts: self.texts.clone(),
            text: String::new(),
        }
    }

    /// # Errors
    /// `None` for one without template or version, or with more values than a template can have.
    pub fn from_parts(template: u32, version: u32, numbers: &[i64], texts: &[String]) -> Option<Self> {
        let sound = template > 0
            && version > 0
            && numbers.len() + texts.len() <= SLOTS_MAX
            && texts.iter().all(|text| text.len() <= SLOT_TEXT_BYTES_MAX);
        sound.then(|| Self {
            template,
            version,
            numbers: numbers.to_vec(),
            texts: texts.to_vec(),
        })
    }
}

/// A part of a template's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Said as they stand.
    Words(&'a str),
    /// Filled in: the name between braces.
    Slot(&'a str),
}

/// A template's text, taken apart. Braces that enclose no name are words.
pub fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(open) = text[at..].find('{').map(|open| at + open) {
        let name = text[open + 1..]
            .find('}')
            .map(|length| &text[open + 1..open + 1 + length]);
        match name.filter(|name| is_slot_name(name)) {
            Some(name) => {
                if from < open {
                    found.push(Piece::Words(&text[from..open]));
                }
                found.push(Piece::Slot(name));
                at = open + name.len() + 2;
                from = at;
            }
            None => at = open + 1,
        }
    }
    if from < text.len() {
        found.push(Piece::Words(&text[from..]));
    }
    found
}

/// 1 to 32 lower-case letters, digits and underscores.
pub fn is_slot_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

fn minutes(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str, below: i64| -> Option<i64> {
        let digits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number| digits && *number < below)
    };
    let minute = number(minutes, 60).filter(|_| minutes.len() == 2)?;
    Some(number(hours, 24)? * 60 + minute)
}

fn time_of_day(minutes: i64) -> String {
    format!("{:02}:{:02}", minutes.div_euclid(60), minutes.rem_euclid(60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn template(text: &str, slots: &[(&str, SlotKind)]) -> Template {
        Template {
            number: 120,
            key: "late".to_owned(),
            text: text.to_owned(),
            slots: slots
                .iter()
                .map(|(name, kind)| Slot {
                    name: (*name).to_owned(),
                    kind: *kind,
                })
                .collect(),
        }
    }

    #[test]
    fn a_reply_says_what_its_slots_say_in_any_order_of_the_text() {
        let slots = [
            ("minutes", SlotKind::Number),
            ("why", SlotKind::Text),
            ("eta", SlotKind::Time),
        ];
        let english = template("Late {minutes} min: {why}. There at {eta}", &slots);
        let german = template("Ankunft {eta}, {minutes} Min. später ({why})", &slots);
        let reply = english
            .fill(14, [("why", "jam {eta}"), ("eta", "7:05"), ("minutes", " 15 ")])
            .unwrap();
        assert_eq!(
            (reply.numbers.as_slice(), reply.texts.as_slice()),
            (&[15, 425][..], &["jam {eta}".to_owned()][..])
        );
        assert_eq!(english.render(&reply), "Late 15 min: jam {eta}. There at 07:05");
        assert_eq!(german.render(&reply), "Ankunft 07:05, 15 Min. später (jam {eta})");
        assert_eq!(
            english.values(&reply),
            [
                ("minutes", "15".to_owned()),
                ("why", "jam {eta}".to_owned()),
                ("eta", "07:05".to_owned())
            ]
        );
    }

    #[test]
    fn values_that_do_not_fit_are_named() {
        let late = template(
            "{minutes} {why} {eta}",
            &[
                ("minutes", SlotKind::Number),
                ("why", SlotKind::Text),
                ("eta", SlotKind::Time),
            ],
        );
        let long = "x".repeat(201);
        for (minutes, why, eta, named) in [
            ("1", "x", "23:59", None),
            ("-999999999", "x", "00:00", None),
            ("1000000000", "x", "0:00", Some("minutes")),
            ("1.5", "x", "0:00", Some("minutes")),
            ("", "x", "0:00", Some("minutes")),
            ("1", "", "0:00", Some("why")),
            ("1", "a\nb", "0:00", Some("why")),
            ("1", &long, "0:00", Some("why")),
            ("1", "x", "24:00", Some("eta")),
            ("1", "x", "1:5", Some("eta")),
            ("1", "x", "+1:05", Some("eta")),
            ("1", "x", "noon", Some("eta")),
        ] {
            let filled = late.fill(1, [("minutes", minutes), ("why", why), ("eta", eta)]);
            let named_now = match &filled {
                Err(BadSlots::Unfit { name, .. }) => Some(name.as_str()),
                Err(other) => panic!("{other}"),
                Ok(_) => None,
            };
            assert_eq!(named_now, named, "{minutes:?} {why:?} {eta:?}");
        }
        assert_eq!(
            late.fill(1, [("minutes", "1")]),
            Err(BadSlots::Missing("why".to_owned()))
        );
        assert_eq!(
            late.fill(1, [("hours", "1")]),
            Err(BadSlots::Unknown("hours".to_owned()))
        );
    }

    #[test]
    fn braces_without_a_name_are_words() {
        for (text, slots) in [
            ("{a}{b}", 2),
            ("{A} { a} {} {a-b}", 0),
            ("{{a}}", 1),
            ("{a", 0),
            ("é{a}é", 1),
            ("", 0),
        ] {
            let found = pieces(text);
            let named = found
                .iter()
                .filter(|piece| matches!(piece, Piece::Slot(_)))
                .count();
            assert_eq!(named, slots, "{text:?}: {found:?}");
        }
    }

    proptest! {
        #[test]
        fn taking_a_text_apart_loses_nothing(text in "[a-c{}é ]{0,20}") {
            let whole: String = pieces(&text).iter().map(|piece| match piece {
                Piece::Words(words) => (*words).to_owned(),
                Piece::Slot(name) => format!("{{{name}}}"),
            }).collect();
            prop_assert_eq!(whole, text);
        }

        #[test]
        fn what_was_filled_in_can_be_filled_in_again(minutes in -999_999_999i64..=999_999_999, eta in 0..1_440i64, why in "[^\\p{C}]{1,40}") {
            let late = template("{why}", &[("m", SlotKind::Number), ("why", SlotKind::Text), ("eta", SlotKind::Time)]);
            let eta = time_of_day(eta);
            let minutes = minutes.to_string();
            let reply = late.fill(3, [("m", minutes.as_str()), ("why", why.as_str()), ("eta", eta.as_str())]).unwrap();
            let values = late.values(&reply);
            let again = late.fill(3, values.iter().map(|(name, value)| (*name, value.as_str())));
            prop_assert_eq!(again, Ok(reply));
        }
    }
}
