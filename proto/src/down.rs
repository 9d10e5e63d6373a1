//! What a device is told: the entries of a frame with everything relative made absolute.

use crate::{DeviceId, OpNumber, PersonId, QuickReply, Seq, StreamId, wire};

/// Who wrote an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Author {
    /// A driver's unit.
    Device(DeviceId),
    /// A dispatcher or administrator.
    Person(PersonId),
    /// Waypost itself.
    System,
}

/// What an entry says, as far as this version understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryBody {
    /// A message.
    Text(String),
    /// A template with its slots filled in.
    Reply {
        /// Which and with what.
        reply: QuickReply,
        /// What it says, where the sender could not count on this device's catalogue.
        text: Option<String>,
    },
    /// Somebody has joined or left the group.
    Membership {
        /// Who.
        device: DeviceId,
        /// Which of the two.
        change: MembershipChange,
    },
    /// Something that a later version knows; shown as "not supported by this version", never dropped.
    Unsupported,
}

/// What became of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipChange {
    /// Its interval begins here.
    Joined,
    /// Its interval has ended just before.
    Left,
}

impl MembershipChange {
    /// As it stands in an entry.
    pub fn to_wire(self, device: DeviceId) -> wire::MembershipChange {
        wire::MembershipChange {
            device: device.number(),
            left: self == Self::Left,
        }
    }
}

/// An entry as a device receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceivedEntry {
    /// The receiver's own operation of its present epoch; it holds the content itself.
    Own {
        /// Under this number.
        op: OpNumber,
    },
    /// Somebody's entry in full.
    Full {
        /// Who wrote it.
        author: Author,
        /// When the server accepted it, UTC milliseconds.
        server_ms: i64,
        /// What the author's clock said, UTC milliseconds; devices only.
        device_ms: Option<i64>,
        /// The author's operation number; devices only.
        author_op: Option<OpNumber>,
        /// Goes before ordinary ones.
        urgent: bool,
        /// The entry that it answers.
        reply_to: Option<Seq>,
        /// The broadcast to which that entry belongs; `None` for one of the same stream.
        reply_stream: Option<StreamId>,
        /// The entry of the same stream whose place it takes.
        supersedes: Option<Seq>,
        /// UTC milliseconds after which it must not be shown as current.
        expires_ms: Option<i64>,
        /// What it says.
        body: EntryBody,
    },
}

impl EntryBody {
    /// `None` for what contradicts itself.
    fn from_wire(body: &wire::entry::Body) -> Option<Self> {
        Some(match body {
            wire::entry::Body::Text(text) => Self::Text(text.clone()),
            wire::entry::Body::Reply(reply) => Self::Reply {
                reply: QuickReply::from_parts(
                    reply.template,
                    reply.version,
                    &reply.slot_numbers,
                    &reply.slot_texts,
                )?,
                text: (!reply.text.is_empty()).then(|| reply.text.clone()),
            },
            wire::entry::Body::Membership(change) => Self::Membership {
                device: DeviceId::new(change.device)?,
                change: if change.left {
                    MembershipChange::Left
                } else {
                    MembershipChange::Joined
                },
            },
        })
    }
}

impl ReceivedEntry {
    /// The entries of a run with their numbers; `welcome_ms` is the server's time in the welcome of the session.
    /// A run without a valid stream or first number yields nothing.
    pub fn of_run(run: &wire::EntryRun, welcome_ms: i64) -> impl Iterator<Item = (StreamId, Seq, Self)> {
        let stream = StreamId::new(run.stream);
        (run.first_seq..=u64::MAX)
            .zip(&run.entries)
            .filter_map(move |(seq, entry)| {
                Some((stream?, Seq::new(seq)?, Self::from_wire(entry, welcome_ms)))
            })
    }

    fn from_wire(entry: &wire::Entry, welcome_ms: i64) -> Self {
        if let Some(op) = OpNumber::new(entry.own_op) {
            return Self::Own { op };
        }
        let device = DeviceId::new(entry.author_device);
        let author = match (device, PersonId::new(entry.author_person)) {
            (Some(device), _) => Author::Device(device),
            (None, Some(person)) => Author::Person(person),
            (None, None) => Author::System,
        };
        let server_ms = welcome_ms.saturating_add(entry.server_ms);
        let expires_in_ms = i64::from(entry.expires_in_s) * 1_000;
        Self::Full {
            author,
            server_ms,
            device_ms: device.map(|_| server_ms.saturating_add(entry.device_ms)),
            author_op: OpNumber::new(entry.author_op),
            urgent: entry.urgent,
            reply_to: Seq::new(entry.reply_to),
            reply_stream: StreamId::new(entry.reply_stream),
            supersedes: Seq::new(entry.supersedes),
            expires_ms: (expires_in_ms > 0).then(|| server_ms.saturating_add(expires_in_ms)),
            body: entry
                .body
                .as_ref()
                .and_then(EntryBody::from_wire)
                .unwrap_or(EntryBody::Unsupported),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_numbers_its_entries_and_makes_times_absolute() {
        let text = |text: &str| Some(wire::entry::Body::Text(text.to_owned()));
        let run = wire::EntryRun {
            stream: 4711,
            first_seq: 9,
            entries: vec![
                wire::Entry {
                    own_op: 3,
                    ..Default::default()
                },
                wire::Entry {
                    author_person: 2,
                    server_ms: -500,
                    expires_in_s: 60,
                    body: text("Hi"),
                    ..Default::default()
                },
                wire::Entry {
                    author_device: 264,
                    server_ms: 20,
                    device_ms: -7,
                    author_op: 5,
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        let got: Vec<_> = ReceivedEntry::of_run(&run, 1_000_000).collect();
        assert_eq!(
            got.iter().map(|(_, seq, _)| seq.number()).collect::<Vec<_>>(),
            [9, 10, 11]
        );
        assert_eq!(
            got[0].2,
            ReceivedEntry::Own {
                op: OpNumber::new(3).unwrap()
            }
        );
        let ReceivedEntry::Full {
            author,
            server_ms,
            expires_ms,
            device_ms,
            ..
        } = &got[1].2
        else {
            panic!("full")
        };
        assert_eq!(
            (*author, *server_ms),
            (Author::Person(PersonId::new(2).unwrap()), 999_500)
        );
        assert_eq!((*expires_ms, *device_ms), (Some(1_059_500), None));
        let ReceivedEntry::Full { device_ms, body, .. } = &got[2].2 else {
            panic!("full")
        };
        assert_eq!((*device_ms, body), (Some(1_000_013), &EntryBody::Unsupported));
    }

    #[test]
    fn runs_without_a_stream_or_beyond_the_last_number_yield_nothing_more() {
        let entries = vec![wire::Entry::default(); 3];
        let run = wire::EntryRun {
            stream: 0,
            first_seq: 1,
            entries: entries.clone(),
            ..Default::default()
        };
        assert_eq!(ReceivedEntry::of_run(&run, 0).count(), 0);
        let run = wire::EntryRun {
            stream: 1,
            first_seq: u64::MAX,
            entries,
            ..Default::default()
        };
        assert_eq!(ReceivedEntry::of_run(&run, i64::MAX).count(), 1);
    }
}
