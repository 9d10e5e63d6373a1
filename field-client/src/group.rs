//! The groups that a device is in.

use waypost_proto::wire;
use waypost_proto::{GroupId, StreamId};

/// Groups of one device; a snapshot with more is not taken.
pub(crate) const GROUPS_MAX: usize = 1_000;
/// Bytes of a title; a snapshot with a longer one is not taken.
const TITLE_BYTES_MAX: usize = 1_000;

/// A group that this device is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its number, which also stands in its topic.
    pub group: GroupId,
    /// Its conversation.
    pub stream: StreamId,
    /// What people call it.
    pub title: String,
}

impl Group {
    /// All groups of a snapshot; `None` where it is not one, or beyond its bounds.
    pub(crate) fn all_from_wire(snapshot: &wire::Groups) -> Option<Vec<Self>> {
        let group = |group: &wire::Group| {
            Some(Self {
                group: GroupId::new(group.group)?,
                stream: StreamId::new(group.stream)?,
                title: group.title.clone(),
            })
        };
        let groups: Vec<Self> = snapshot.groups.iter().map(group).collect::<Option<_>>()?;
        let sound = groups.len() <= GROUPS_MAX
            && groups.is_sorted_by(|before, after| before.group < after.group)
            && groups.iter().all(|group| group.title.len() <= TITLE_BYTES_MAX);
        sound.then_some(groups)
    }

    /// The snapshot as the server told it.
    pub(crate) fn all_to_wire(groups: &[Self]) -> wire::Groups {
        let group = |group: &Self| wire::Group {
            group: group.group.number(),
            stream: group.stream.number(),
            title: group.title.clone(),
        };
        wire::Groups {
            groups: groups.iter().map(group).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_contradicts_itself_is_none() {
        let group = |group, stream, title: &str| wire::Group {
            group,
            stream,
            title: title.to_owned(),
        };
        let parse = |groups: Vec<wire::Group>| Group::all_from_wire(&wire::Groups { groups });
        let sound = vec![group(1, 5, "North"), group(2, 6, "")];
        let parsed = parse(sound.clone()).unwrap();
        assert_eq!(Group::all_to_wire(&parsed).groups, sound);
        assert_eq!(parse(vec![]), Some(vec![]));
        for unsound in [
            vec![group(0, 5, "x")],
            vec![group(1, 0, "x")],
            vec![group(2, 5, "x"), group(1, 6, "x")],
            vec![group(1, 5, "x"), group(1, 6, "x")],
            vec![group(1, 5, &"x".repeat(1_001))],
            (1..=1_001).map(|number| group(number, number, "x")).collect(),
        ] {
            assert_eq!(parse(unsound), None);
        }
    }
}
