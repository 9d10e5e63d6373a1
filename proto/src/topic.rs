//! Topic names. Whoever needs one asks here; nobody puts one together by hand.

use crate::{DeviceId, GroupId};
use std::fmt;

/// A topic of Waypost, without the prefix of a shared broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// `u/<device>`: frames from the device.
    Up(DeviceId),
    /// `d/<device>`: frames to the device.
    Down(DeviceId),
    /// `g/<group>`: frames to all members of a group.
    Group(GroupId),
    /// `t/<locale>`: the retained template catalogue.
    Templates(String),
    /// `p/<device>`: presence, retained.
    Presence(DeviceId),
    /// `owntracks/<device>/<name>`, and what OwnTracks apps publish below it. The user of OwnTracks is the device; the
    /// text is the rest of the topic: a name that the app chose, alone or with one of eight words behind it, such as `event`.
    OwnTracks(DeviceId, String),
}

/// What OwnTracks apps publish below their own topic. `cmd` is not in it: it is how an app is told what to do.
const OWNTRACKS_BELOW: [&str; 8] = [
    "event",
    "waypoint",
    "waypoints",
    "step",
    "beacon",
    "dump",
    "status",
    "info",
];

/// A topic that Waypost does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a topic of Waypost")]
pub struct InvalidTopic(String);

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(device) => write!(f, "u/{device}"),
            Self::Down(device) => write!(f, "d/{device}"),
            Self::Group(group) => write!(f, "g/{group}"),
            Self::Templates(locale) => write!(f, "t/{locale}"),
            Self::Presence(device) => write!(f, "p/{device}"),
            Self::OwnTracks(device, rest) => write!(f, "owntracks/{device}/{rest}"),
        }
    }
}

impl Topic {
    /// # Errors
    /// [`InvalidTopic`] for everything that [`Topic`] has no variant for.
    pub fn parse(text: &str) -> Result<Self, InvalidTopic> {
        let invalid = || InvalidTopic(text.chars().take(64).collect());
        let (kind, rest) = text.split_once('/').ok_or_else(invalid)?;
        match kind {
            "u" => rest.parse().map(Self::Up).map_err(|_| invalid()),
            "d" => rest.parse().map(Self::Down).map_err(|_| invalid()),
            "g" => rest.parse().map(Self::Group).map_err(|_| invalid()),
            "p" => rest.parse().map(Self::Presence).map_err(|_| invalid()),
            "owntracks" => parse_owntracks(rest).ok_or_else(invalid),
            "t" if is_locale(rest) => Ok(Self::Templates(rest.to_owned())),
            _ => Err(invalid()),
        }
    }
}

/// What goes before every topic on a broker that is shared with others, such as `acme/waypost`; empty by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicPrefix(String);

impl TopicPrefix {
    /// A prefix without wildcards, without a slash at either end; empty for none.
    ///
    /// # Errors
    /// [`InvalidTopic`] for any other text.
    pub fn new(text: &str) -> Result<Self, InvalidTopic> {
        let bad = text.starts_with('/')
            || text.ends_with('/')
            || text.starts_with('$')
            || text.contains(['+', '#', '\0'])
            || text.len() > 128;
        if bad {
            Err(InvalidTopic(text.chars().take(64).collect()))
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// The name of `topic` on the broker.
    pub fn name(&self, topic: &Topic) -> String {
        self.prepend(&topic.to_string())
    }

    /// The filter that matches the topics of all devices: `kind` is `u` or `p`.
    pub fn every(&self, kind: char) -> String {
        self.prepend(&format!("{kind}/+"))
    }

    /// The filter that matches what OwnTracks apps of all devices publish.
    pub fn every_owntracks(&self) -> String {
        // [MQTT-4.7.1.2] `#` stands for the level above it, too.
        self.prepend("owntracks/+/+/#")
    }

    /// The topic that a name on the broker stands for.
    ///
    /// # Errors
    /// [`InvalidTopic`] where the prefix is another or the rest is no topic.
    pub fn parse(&self, name: &str) -> Result<Topic, InvalidTopic> {
        let rest = if self.0.is_empty() {
            Some(name)
        } else {
            name.strip_prefix(self.0.as_str())
                .and_then(|rest| rest.strip_prefix('/'))
        };
        Topic::parse(rest.ok_or_else(|| InvalidTopic(name.chars().take(64).collect()))?)
    }

    /// A topic or filter of ours as it is called on the broker.
    pub fn prepend(&self, topic: &str) -> String {
        if self.0.is_empty() {
            topic.to_owned()
        } else {
            format!("{}/{topic}", self.0)
        }
    }
}

fn parse_owntracks(rest: &str) -> Option<Topic> {
    let (device, name) = rest.split_once('/')?;
    let is_known = match name.split_once('/') {
        None => !name.is_empty(),
        Some((name, below)) => !name.is_empty() && OWNTRACKS_BELOW.contains(&below),
    };
    let is_plain = !name.contains(['+', '#', '\0']);
    (is_known && is_plain).then_some(Topic::OwnTracks(device.parse().ok()?, name.to_owned()))
}

/// The shape of a BCP 47 tag: letters, digits and hyphens, 2 to 35 bytes.
fn is_locale(text: &str) -> bool {
    (2..=35).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_survive_their_text_with_and_without_a_prefix() {
        let device = "7c".parse().unwrap();
        for prefix in ["", "acme", "acme/waypost"] {
            let prefix = TopicPrefix::new(prefix).unwrap();
            for topic in [
                Topic::Up(device),
                Topic::Down(device),
                Topic::Presence(device),
                Topic::Group("4".parse().unwrap()),
                Topic::Templates("pt-BR".to_owned()),
                Topic::OwnTracks(device, "phone".to_owned()),
                Topic::OwnTracks(device, "Jane's phone/event".to_owned()),
            ] {
                assert_eq!(prefix.parse(&prefix.name(&topic)), Ok(topic));
            }
        }
    }

    #[test]
    fn other_topics_are_refused() {
        for text in [
            "",
            "u",
            "u/",
            "u/0",
            "u/7C",
            "u/7c/x",
            "x/7c",
            "/u/7c",
            "u//7c",
            "t/",
            "t/é",
            "t/a/b",
            "d/+",
            "#",
            "owntracks",
            "owntracks/7c",
            "owntracks/7c/",
            "owntracks/7C/phone",
            "owntracks//phone",
            "owntracks/7c/phone/cmd",
            "owntracks/7c/phone/",
            "owntracks/7c//event",
            "owntracks/7c/phone/event/x",
            "owntracks/7c/+",
            "owntracks/+/phone",
        ] {
            assert!(Topic::parse(text).is_err(), "{text:?} must not parse");
        }
        assert!(TopicPrefix::new("acme").unwrap().parse("u/7c").is_err());
        assert!(TopicPrefix::new("acme").unwrap().parse("acmeu/7c").is_err());
        for prefix in ["/a", "a/", "a/+", "#", "$SYS"] {
            assert!(
                TopicPrefix::new(prefix).is_err(),
                "{prefix:?} must not be a prefix"
            );
        }
    }
}
