//! What binds a frame to a session: its stamp, and the digest by which two sides compare what they hold.

use crate::{Cumulative, SessionTag, StreamId, wire};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Session tag and time in the one number that every frame carries.
///
/// A separate field for the time would cost one byte more in each frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The session that the frame belongs to.
    pub tag: SessionTag,
    /// Seconds since the hello of the session, at most [`Stamp::SECONDS_MAX`].
    pub seconds: u32,
}

impl Stamp {
    /// The last second that a stamp can name: 388 days. A device says hello again long before.
    pub const SECONDS_MAX: u32 = u32::MAX >> 7;

    /// A stamp without a time.
    pub fn of(tag: SessionTag) -> Self {
        Self { tag, seconds: 0 }
    }

    /// The stamp in a frame; `None` where the tag is 0.
    pub fn parse(wire: u32) -> Option<Self> {
        SessionTag::new(wire & 127).map(|tag| Self {
            tag,
            seconds: wire >> 7,
        })
    }

    /// The number for the frame; seconds beyond the maximum stay at the maximum.
    pub fn to_wire(self) -> u32 {
        self.seconds.min(Self::SECONDS_MAX) << 7 | self.tag.number()
    }
}

/// The digest of transfer positions that a hello carries: what is equal on both sides needs no list.
///
/// `positions` in ascending order of stream; streams of which nothing is held are left out by both sides.
/// The text that is digested is defined at `TransferPositions` in the `.proto` file.
pub fn positions_digest<'a>(positions: impl IntoIterator<Item = (StreamId, &'a Cumulative)>) -> u64 {
    let mut text = String::new();
    for (stream, held) in positions {
        if held.is_empty() {
            continue;
        }
        write!(text, "{stream}:{}", held.through()).expect("writing to a string cannot fail");
        for pair in held.to_wire().chunks_exact(2) {
            write!(text, " {}+{}", pair[0], pair[1]).expect("writing to a string cannot fail");
        }
        text.push('\n');
    }
    if text.is_empty() {
        return 0;
    }
    let digest = Sha256::digest(text.as_bytes());
    u64::from_le_bytes(digest[..8].try_into().expect("SHA-256 has 32 bytes"))
}

/// The digest of a device's groups, by which two sides know that they mean the same; 0 for none. In ascending order of
/// group. The text that is digested is defined at `Groups` in the `.proto` file.
pub fn groups_digest(groups: &[wire::Group]) -> u32 {
    if groups.is_empty() {
        return 0;
    }
    let mut text = String::new();
    for wire::Group { group, stream, title } in groups {
        writeln!(text, "{group}:{stream}:{title}").expect("writing to a string cannot fail");
    }
    let digest = Sha256::digest(text.as_bytes());
    u32::from_le_bytes(digest[..4].try_into().expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_survive_the_wire() {
        for (tag, seconds) in [(1, 0), (127, 0), (1, 1), (64, 86_400), (127, Stamp::SECONDS_MAX)] {
            let stamp = Stamp {
                tag: SessionTag::new(tag).unwrap(),
                seconds,
            };
            assert_eq!(Stamp::parse(stamp.to_wire()), Some(stamp));
        }
        assert_eq!(Stamp::parse(0), None);
        assert_eq!(
            Stamp::parse(128),
            None,
            "a time without a tag belongs to no session"
        );
    }

    #[test]
    fn the_digest_of_groups_tells_each_part() {
        let group = |group, stream, title: &str| wire::Group {
            group,
            stream,
            title: title.to_owned(),
        };
        let all = [
            vec![],
            vec![group(1, 2, "a")],
            vec![group(2, 1, "a")],
            vec![group(1, 2, "b")],
            vec![group(1, 2, "a"), group(2, 1, "a")],
        ];
        let digests: std::collections::BTreeSet<u32> =
            all.iter().map(|groups| groups_digest(groups)).collect();
        assert_eq!(digests.len(), all.len());
        assert_eq!(groups_digest(&[]), 0);
    }

    #[test]
    fn the_digest_ignores_streams_of_which_nothing_is_held() {
        let stream = |number| StreamId::new(number).unwrap();
        let held = Cumulative::through_to(5);
        let none = Cumulative::default();
        assert_eq!(positions_digest([]), 0);
        assert_eq!(positions_digest([(stream(4), &none)]), 0);
        assert_eq!(
            positions_digest([(stream(3), &none), (stream(4), &held)]),
            positions_digest([(stream(4), &held)])
        );
        assert_ne!(
            positions_digest([(stream(4), &held)]),
            positions_digest([(stream(5), &held)])
        );
    }
}
