//! Ids as they appear in topics, frames and addresses. Parsed once; a value of these types is valid.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

/// A text or number that is no id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {expected}")]
pub struct InvalidId {
    given: String,
    expected: &'static str,
}

impl InvalidId {
    fn new(given: impl fmt::Display, expected: &'static str) -> Self {
        Self {
            given: given.to_string().chars().take(64).collect(),
            expected,
        }
    }
}

/// Ids that are written as short base-36 numbers, lower case, without leading zeros.
macro_rules! base36_id {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU32);

        impl $name {
            /// The id with this number; `None` for 0, which is nobody's.
            pub fn new(number: u32) -> Option<Self> {
                NonZeroU32::new(number).map(Self)
            }

            /// The number as it stands in frames and in the store.
            pub fn number(self) -> u32 {
                self.0.get()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_base36(self.0.get(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse_base36(text).and_then(Self::new).ok_or_else(|| InvalidId::new(text, $expected))
            }
        }
    };
}

base36_id!(
    /// A driver's unit; also its MQTT user name and the last level of its topics.
    DeviceId,
    "a device id: a base-36 number such as 7c"
);
base36_id!(
    /// A group of devices; also the last level of its topic.
    GroupId,
    "a group id: a base-36 number such as 4"
);

/// Ids that are written as decimal numbers.
macro_rules! decimal_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $nonzero:ty, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($nonzero);

        impl $name {
            /// The id with this number; `None` for 0, which is nobody's.
            pub fn new(number: $inner) -> Option<Self> {
                <$nonzero>::new(number).map(Self)
            }

            /// The number as it stands in frames and in the store.
            pub fn number(self) -> $inner {
                self.0.get()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                // `u64::from_str` takes a sign and leading zeros; an id has one spelling.
                let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
                let number = if canonical { text.parse().ok() } else { None };
                number.and_then(Self::new).ok_or_else(|| InvalidId::new(text, $expected))
            }
        }
    };
}

decimal_id!(
    /// A durable, ordered log of entries.
    StreamId,
    u32,
    NonZeroU32,
    "a stream id: a number such as 4711"
);
decimal_id!(
    /// A dispatcher or administrator.
    PersonId,
    u32,
    NonZeroU32,
    "a person id: a number such as 3"
);
decimal_id!(
    /// The place of an entry in its stream: 1, 2, 3, …
    Seq,
    u64,
    NonZeroU64,
    "an entry number: 1 or more"
);
decimal_id!(
    /// The number of an operation within its epoch: 1, 2, 3, …
    OpNumber,
    u64,
    NonZeroU64,
    "an operation number: 1 or more"
);
decimal_id!(
    /// Random number of an outbox, drawn once when it is created.
    Epoch,
    u64,
    NonZeroU64,
    "an epoch: a number other than 0"
);
decimal_id!(
    /// Random number of a store, drawn when it is created and again when it is restored from a backup.
    Incarnation,
    u64,
    NonZeroU64,
    "an incarnation: a number other than 0"
);
decimal_id!(
    /// Counts the starts of the server on one store.
    Generation,
    u64,
    NonZeroU64,
    "a generation: 1 or more"
);

/// Tells the frames of one session from those of the sessions before it: 1 to 127.
///
/// A device counts its hellos and wraps from 127 to 1, so a frame would have to be late by 127 sessions to be
/// taken for one of the present session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionTag(u8);

impl SessionTag {
    /// The tag of the first session of an installation.
    pub const FIRST: Self = Self(1);

    /// The tag with this number; `None` outside 1 to 127.
    pub fn new(number: u32) -> Option<Self> {
        u8::try_from(number)
            .ok()
            .filter(|number| (1..=127).contains(number))
            .map(Self)
    }

    /// 1 to 127.
    pub fn number(self) -> u32 {
        u32::from(self.0)
    }

    /// Whether this tag was counted later than `other`, as long as fewer than 64 sessions lie between them.
    pub fn is_after(self, other: Self) -> bool {
        (1..64).contains(&((127 + self.0 - other.0) % 127))
    }

    /// The tag of the session after this one.
    #[must_use]
    pub fn next(self) -> Self {
        if self.0 == 127 {
            Self::FIRST
        } else {
            Self(self.0 + 1)
        }
    }
}

fn write_base36(mut number: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // 36^7 > 2^32: seven digits hold every number.
    let mut digits = [0u8; 7];
    let mut start = digits.len();
    while number > 0 {
        start -= 1;
        digits[start] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
        number /= 36;
    }
    f.pad(std::str::from_utf8(&digits[start..]).expect("base-36 digits are ASCII"))
}

fn parse_base36(text: &str) -> Option<u32> {
    if text.starts_with('0') || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z')) {
        return None;
    }
    u32::from_str_radix(text, 36).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_ids_have_one_spelling() {
        for (text, number) in [("1", 1), ("7c", 264), ("zz", 1295), ("1z141z3", u32::MAX)] {
            assert_eq!(text.parse::<DeviceId>().unwrap().number(), number, "{text}");
            assert_eq!(DeviceId::new(number).unwrap().to_string(), text);
        }
        for text in [
            "", "0", "07c", "7C", "+7", "7-c", "1z141z4", "zzzzzzzz", "é", " 7",
        ] {
            assert!(text.parse::<DeviceId>().is_err(), "{text:?} must not parse");
        }
    }

    #[test]
    fn numbers_have_one_spelling() {
        assert_eq!("4711".parse::<StreamId>().unwrap().number(), 4711);
        for text in ["", "0", "+1", "01", "-1", "4294967296", "1.0", "x"] {
            assert!(text.parse::<StreamId>().is_err(), "{text:?} must not parse");
        }
    }

    #[test]
    fn tags_wrap_after_127_sessions() {
        let mut tag = SessionTag::FIRST;
        for _ in 0..126 {
            tag = tag.next();
            assert_ne!(tag, SessionTag::FIRST);
        }
        assert_eq!(tag.next(), SessionTag::FIRST);
        assert!(SessionTag::FIRST.is_after(tag) && !tag.is_after(SessionTag::FIRST) && !tag.is_after(tag));
        assert_eq!(SessionTag::new(0), None);
        assert_eq!(SessionTag::new(128), None);
    }
}
