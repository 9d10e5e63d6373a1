//! What a device is told: the entries of a frame with everything relative made absolute.

use crate::{DeviceId, OpNumber, PersonId, Seq, StreamId, wire};

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
    /// Something that a later version knows; shown as "not supported by this version", never dropped.
    Unsupported,
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
        /// The entry of the same stream that it answers.
        reply_to: Option<Seq>,
        /// UTC milliseconds after which it must not be shown as current.
        expires_ms: Option<i64>,
        /// What it says.
        body: EntryBody,
    },
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
            expires_ms: (expires_in_ms > 0).then(|| server_ms.saturating_add(expires_in_ms)),
            body: match &entry.body {
                Some(wire::entry::Body::Text(text)) => EntryBody::Text(text.clone()),
                None => EntryBody::Unsupported,
            },
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
        };
        assert_eq!(ReceivedEntry::of_run(&run, 0).count(), 0);
        let run = wire::EntryRun {
            stream: 1,
            first_seq: u64::MAX,
            entries,
        };
        assert_eq!(ReceivedEntry::of_run(&run, i64::MAX).count(), 1);
    }
}
