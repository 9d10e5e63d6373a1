//! How the values of the tables are written: protobuf, so that a later version can add to them.
//!
//! Numbers of fields are never reused; a field that is not set means the same as 0.

use super::StoreError;
use crate::catalogue::Catalogue;
use crate::core::{
    Contact, Home, Moment, PostId, Progress, ReadStep, Reading, Server, ServerClock, StoredCatalogue,
    StoredCursor, StoredOperation, StoredVoid,
};
use crate::{Entry, Standing};
use prost::Message;
use waypost_proto::wire::{self, RefusalReason, StreamKind, VoidReason};
use waypost_proto::{
    Author, Cumulative, DeviceId, EntryBody, Generation, Incarnation, MembershipChange, OpNumber, PersonId,
    QuickReply, Seq, StreamId,
};

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServerRecord {
    #[prost(fixed64, tag = "1")]
    incarnation: u64,
    #[prost(uint64, tag = "2")]
    generation: u64,
    #[prost(uint32, tag = "3")]
    office_stream: u32,
    /// 0 where it is the incarnation.
    #[prost(fixed64, tag = "4")]
    shelf: u64,
}

impl ServerRecord {
    pub(super) fn of(server: Server) -> Self {
        Self {
            incarnation: server.incarnation.number(),
            generation: server.generation.number(),
            office_stream: server.office_stream.map_or(0, StreamId::number),
            shelf: server.shelf.number(),
        }
    }

    pub(super) fn read(value: &[u8]) -> Result<Server, StoreError> {
        let bad = || StoreError::Unreadable("meta");
        let record = Self::decode(value).map_err(|_| bad())?;
        let incarnation = Incarnation::new(record.incarnation).ok_or_else(bad)?;
        Ok(Server {
            incarnation,
            shelf: Incarnation::new(record.shelf).unwrap_or(incarnation),
            generation: Generation::new(record.generation).ok_or_else(bad)?,
            office_stream: StreamId::new(record.office_stream),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OperationRecord {
    #[prost(uint64, tag = "1")]
    op: u64,
    #[prost(sint64, tag = "2")]
    done_ms: i64,
    /// A `wire::Operation` without age, gap and what it has overtaken.
    #[prost(bytes = "vec", tag = "3")]
    content: Vec<u8>,
    /// The stream is the office's, whose number is not known yet.
    #[prost(bool, tag = "4")]
    to_office: bool,
    /// 0 waiting, 1 accepted, 2 parked.
    #[prost(uint32, tag = "5")]
    progress: u32,
    /// Why it is parked.
    #[prost(int32, tag = "6")]
    reason: i32,
    /// By the steady clock, when it was done.
    #[prost(message, optional, tag = "7")]
    done_steady: Option<ReadingRecord>,
}

impl OperationRecord {
    pub(super) fn of(stored: &StoredOperation, progress: Progress) -> Self {
        let (progress, reason) = match progress {
            Progress::Waiting => (0, RefusalReason::Unspecified),
            Progress::Accepted => (1, RefusalReason::Unspecified),
            Progress::Parked(reason) => (2, reason),
        };
        Self {
            op: stored.op.number(),
            done_ms: stored.done.wall_ms,
            done_steady: ReadingRecord::of(stored.done),
            content: stored.content.encode_to_vec(),
            to_office: stored.home == Home::Office,
            progress,
            reason: reason.into(),
        }
    }

    pub(super) fn read(key: &[u8], value: &[u8]) -> Result<(StoredOperation, Progress), StoreError> {
        let bad = || StoreError::Unreadable("outbox");
        let record = Self::decode(value).map_err(|_| bad())?;
        let stored = StoredOperation {
            id: PostId::from_number(u64::from_be_bytes(key.try_into().map_err(|_| bad())?)),
            op: OpNumber::new(record.op).ok_or_else(bad)?,
            home: if record.to_office {
                Home::Office
            } else {
                Home::Settled
            },
            done: ReadingRecord::moment(record.done_steady, record.done_ms),
            content: wire::Operation::decode(record.content.as_slice()).map_err(|_| bad())?,
        };
        let progress = match record.progress {
            0 => Progress::Waiting,
            1 => Progress::Accepted,
            2 => {
                Progress::Parked(RefusalReason::try_from(record.reason).unwrap_or(RefusalReason::Unspecified))
            }
            _ => return Err(bad()),
        };
        Ok((stored, progress))
    }
}

/// An operation that the server has accepted.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KeptRecord {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(sint64, tag = "2")]
    accepted_ms: i64,
    /// The record of the outbox as it was.
    #[prost(message, optional, tag = "3")]
    operation: Option<OperationRecord>,
}

impl KeptRecord {
    pub(super) fn of(stored: &StoredOperation, accepted_ms: i64) -> Self {
        Self {
            id: stored.id.number(),
            accepted_ms,
            operation: Some(OperationRecord::of(stored, Progress::Accepted)),
        }
    }

    pub(super) fn read(value: &[u8]) -> Result<(StoredOperation, i64), StoreError> {
        let bad = || StoreError::Unreadable("kept");
        let record = Self::decode(value).map_err(|_| bad())?;
        let operation = record.operation.ok_or_else(bad)?.encode_to_vec();
        let (stored, _) = OperationRecord::read(&record.id.to_be_bytes(), &operation)?;
        Ok((stored, record.accepted_ms))
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct VoidRecord {
    #[prost(uint32, tag = "1")]
    count: u32,
    #[prost(int32, tag = "2")]
    reason: i32,
}

impl VoidRecord {
    pub(super) fn of(void: &StoredVoid) -> Self {
        Self {
            count: void.count,
            reason: void.reason.into(),
        }
    }

    pub(super) fn read(key: &[u8], value: &[u8]) -> Result<StoredVoid, StoreError> {
        let bad = || StoreError::Unreadable("voids");
        let record = Self::decode(value).map_err(|_| bad())?;
        Ok(StoredVoid {
            first: key
                .try_into()
                .ok()
                .map(u64::from_be_bytes)
                .and_then(OpNumber::new)
                .ok_or_else(bad)?,
            count: record.count,
            reason: VoidReason::try_from(record.reason).map_err(|_| bad())?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CursorRecord {
    #[prost(uint64, tag = "1")]
    through: u64,
    #[prost(uint64, repeated, tag = "2")]
    ranges: Vec<u64>,
    #[prost(sint64, tag = "3")]
    delivered_ms: i64,
    #[prost(uint64, tag = "4")]
    read: u64,
    #[prost(sint64, tag = "5")]
    read_ms: i64,
    #[prost(uint64, tag = "6")]
    confirmed_through: u64,
    #[prost(uint64, repeated, tag = "7")]
    confirmed_ranges: Vec<u64>,
    #[prost(uint64, tag = "8")]
    confirmed_read: u64,
    /// As on the wire: 0 a conversation, 1 a broadcast.
    #[prost(int32, tag = "9")]
    kind: i32,
    #[prost(uint64, tag = "10")]
    newest: u64,
    /// The two moments by the steady clock.
    #[prost(message, optional, tag = "11")]
    delivered_steady: Option<ReadingRecord>,
    #[prost(message, optional, tag = "12")]
    read_steady: Option<ReadingRecord>,
    #[prost(message, repeated, tag = "13")]
    read_steps: Vec<ReadStepRecord>,
    #[prost(uint64, tag = "14")]
    horizon: u64,
}

/// How far a stream was read at an earlier moment.
#[derive(Clone, PartialEq, Message)]
struct ReadStepRecord {
    #[prost(uint64, tag = "1")]
    read: u64,
    #[prost(sint64, tag = "2")]
    at_ms: i64,
    #[prost(message, optional, tag = "3")]
    at_steady: Option<ReadingRecord>,
}

impl CursorRecord {
    pub(super) fn of(cursor: &StoredCursor) -> Self {
        Self {
            delivered_ms: cursor.delivered.wall_ms,
            delivered_steady: ReadingRecord::of(cursor.delivered),
            read: cursor.read,
            read_ms: cursor.read_at.wall_ms,
            read_steady: ReadingRecord::of(cursor.read_at),
            read_steps: cursor
                .read_steps
                .iter()
                .map(|step| ReadStepRecord {
                    read: step.read,
                    at_ms: step.at.wall_ms,
                    at_steady: ReadingRecord::of(step.at),
                })
                .collect(),
            confirmed_through: cursor.confirmed.through(),
            confirmed_ranges: cursor.confirmed.to_wire(),
            confirmed_read: cursor.confirmed_read,
            kind: cursor.kind.into(),
            newest: cursor.newest,
            horizon: cursor.horizon,
            ..Self::of_set(&cursor.held)
        }
    }

    /// A set alone, without times.
    pub(super) fn of_set(set: &Cumulative) -> Self {
        Self {
            through: set.through(),
            ranges: set.to_wire(),
            ..Self::default()
        }
    }

    pub(super) fn read(value: &[u8]) -> Result<StoredCursor, StoreError> {
        let bad = || StoreError::Unreadable("cursors");
        let record = Self::decode(value).map_err(|_| bad())?;
        Ok(StoredCursor {
            held: Cumulative::from_wire(record.through, &record.ranges).map_err(|_| bad())?,
            delivered: ReadingRecord::moment(record.delivered_steady, record.delivered_ms),
            read: record.read,
            read_at: ReadingRecord::moment(record.read_steady, record.read_ms),
            read_steps: record
                .read_steps
                .iter()
                .map(|step| ReadStep {
                    read: step.read,
                    at: ReadingRecord::moment(step.at_steady, step.at_ms),
                })
                .collect(),
            confirmed: Cumulative::from_wire(record.confirmed_through, &record.confirmed_ranges)
                .map_err(|_| bad())?,
            confirmed_read: record.confirmed_read,
            kind: StreamKind::try_from(record.kind).map_err(|_| bad())?,
            newest: record.newest,
            horizon: record.horizon,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EntryRecord {
    #[prost(uint32, tag = "1")]
    author_device: u32,
    #[prost(uint32, tag = "2")]
    author_person: u32,
    #[prost(sint64, optional, tag = "3")]
    server_ms: Option<i64>,
    #[prost(sint64, optional, tag = "4")]
    device_ms: Option<i64>,
    #[prost(uint64, tag = "5")]
    author_op: u64,
    #[prost(bool, tag = "6")]
    urgent: bool,
    #[prost(uint64, tag = "7")]
    reply_to: u64,
    #[prost(sint64, optional, tag = "8")]
    expires_ms: Option<i64>,
    /// Of the text, the reply and the membership at most one is set; none: something that this version cannot show.
    #[prost(string, optional, tag = "9")]
    text: Option<String>,
    #[prost(uint32, tag = "10")]
    reply_stream: u32,
    #[prost(message, optional, tag = "11")]
    reply: Option<wire::QuickReply>,
    #[prost(message, optional, tag = "12")]
    membership: Option<wire::MembershipChange>,
    #[prost(uint64, tag = "13")]
    supersedes: u64,
}

impl EntryRecord {
    pub(super) fn of(entry: &Entry) -> Self {
        let (author_device, author_person) = match entry.author {
            Author::Device(device) => (device.number(), 0),
            Author::Person(person) => (0, person.number()),
            Author::System => (0, 0),
        };
        let (mut text, mut reply, mut membership) = (None, None, None);
        match &entry.body {
            EntryBody::Text(words) => text = Some(words.clone()),
            EntryBody::Reply { reply: of, text } => {
                reply = Some(wire::QuickReply {
                    text: text.clone().unwrap_or_default(),
                    ..of.to_wire()
                });
            }
            EntryBody::Membership { device, change } => {
                membership = Some(change.to_wire(*device));
            }
            EntryBody::Unsupported => {}
        }
        Self {
            author_device,
            author_person,
            server_ms: entry.server_ms,
            device_ms: entry.device_ms,
            author_op: entry.author_op.map_or(0, OpNumber::number),
            urgent: entry.urgent,
            reply_to: entry.reply_to.map_or(0, Seq::number),
            expires_ms: entry.expires_ms,
            text,
            reply_stream: entry.reply_stream.map_or(0, StreamId::number),
            reply,
            membership,
            supersedes: entry.supersedes.map_or(0, Seq::number),
        }
    }

    pub(super) fn read(stream: StreamId, seq: Seq, value: &[u8]) -> Result<Entry, StoreError> {
        let record = Self::decode(value).map_err(|_| StoreError::Unreadable("inbox"))?;
        let author = match (
            DeviceId::new(record.author_device),
            PersonId::new(record.author_person),
        ) {
            (Some(device), _) => Author::Device(device),
            (None, Some(person)) => Author::Person(person),
            (None, None) => Author::System,
        };
        Ok(Entry {
            stream,
            seq,
            author,
            author_name: None,
            server_ms: record.server_ms,
            device_ms: record.device_ms,
            author_op: OpNumber::new(record.author_op),
            urgent: record.urgent,
            reply_to: Seq::new(record.reply_to),
            reply_stream: StreamId::new(record.reply_stream),
            expires_ms: record.expires_ms,
            supersedes: Seq::new(record.supersedes),
            standing: Standing::Current,
            body: record.body().unwrap_or(EntryBody::Unsupported),
            reply: None,
            member_name: None,
        })
    }

    fn body(self) -> Option<EntryBody> {
        if let Some(text) = self.text {
            return Some(EntryBody::Text(text));
        }
        if let Some(reply) = self.reply {
            return Some(EntryBody::Reply {
                reply: QuickReply::from_parts(
                    reply.template,
                    reply.version,
                    &reply.slot_numbers,
                    &reply.slot_texts,
                )?,
                text: Some(reply.text).filter(|text| !text.is_empty()),
            });
        }
        let membership = self.membership?;
        Some(EntryBody::Membership {
            device: DeviceId::new(membership.device)?,
            change: if membership.left {
                MembershipChange::Left
            } else {
                MembershipChange::Joined
            },
        })
    }

    /// The entry that an operation of the device became.
    /// It expires by the server's clock, of which the device has an estimate for the moment in which it was done.
    pub(super) fn own(
        device: DeviceId,
        stream: StreamId,
        seq: Seq,
        stored: &StoredOperation,
        done_server_ms: Option<i64>,
    ) -> Entry {
        let content = &stored.content;
        let done_server_ms = done_server_ms.unwrap_or(stored.done.wall_ms);
        let expires_in_ms = i64::from(content.expires_in_s) * 1_000;
        Entry {
            device_ms: Some(stored.done.wall_ms),
            urgent: content.urgent,
            reply_to: Seq::new(content.reply_to),
            reply_stream: StreamId::new(content.reply_stream),
            expires_ms: (expires_in_ms > 0).then(|| done_server_ms.saturating_add(expires_in_ms)),
            supersedes: Seq::new(content.supersedes),
            body: own_body(content).unwrap_or(EntryBody::Unsupported),
            ..Self::own_unknown(device, stream, seq, stored.op)
        }
    }

    /// The same where the content is gone.
    pub(super) fn own_unknown(device: DeviceId, stream: StreamId, seq: Seq, op: OpNumber) -> Entry {
        Entry {
            stream,
            seq,
            author: Author::Device(device),
            author_name: None,
            server_ms: None,
            device_ms: None,
            author_op: Some(op),
            urgent: false,
            reply_to: None,
            reply_stream: None,
            expires_ms: None,
            supersedes: None,
            standing: Standing::Current,
            body: EntryBody::Unsupported,
            reply: None,
            member_name: None,
        }
    }
}

/// What an operation says as an entry.
fn own_body(content: &wire::Operation) -> Option<EntryBody> {
    match content.body.as_ref()? {
        wire::operation::Body::Text(text) => Some(EntryBody::Text(text.clone())),
        wire::operation::Body::Template(template) => Some(EntryBody::Reply {
            reply: QuickReply::from_parts(
                *template,
                content.template_version,
                &content.slot_numbers,
                &content.slot_texts,
            )?,
            text: None,
        }),
        wire::operation::Body::Track(_) => None,
    }
}

/// The template catalogue, and what it is one of.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CatalogueRecord {
    #[prost(fixed64, tag = "1")]
    incarnation: u64,
    #[prost(string, tag = "2")]
    locale: String,
    #[prost(message, optional, tag = "3")]
    catalogue: Option<wire::Catalogue>,
}

impl CatalogueRecord {
    pub(super) fn of(stored: &StoredCatalogue) -> Self {
        Self {
            incarnation: stored.incarnation.map_or(0, Incarnation::number),
            locale: stored.locale.clone(),
            catalogue: Some(stored.catalogue.to_wire()),
        }
    }

    pub(super) fn read(value: &[u8]) -> Result<StoredCatalogue, StoreError> {
        let bad = || StoreError::Unreadable("meta");
        let record = Self::decode(value).map_err(|_| bad())?;
        let catalogue = record.catalogue.unwrap_or_default();
        Ok(StoredCatalogue {
            incarnation: Incarnation::new(record.incarnation),
            locale: record.locale,
            catalogue: Catalogue::default().changed_by(&catalogue).map_err(|_| bad())?,
        })
    }
}

/// What the steady clock showed.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct ReadingRecord {
    #[prost(fixed32, tag = "1")]
    boot: u32,
    #[prost(uint64, tag = "2")]
    ms: u64,
}

impl ReadingRecord {
    fn of(moment: Moment) -> Option<Self> {
        let Reading { boot, ms } = moment.steady;
        (boot != 0).then_some(Self { boot, ms })
    }

    /// The moment with what the wall clock showed; without a reading it is of no known boot.
    fn moment(record: Option<Self>, wall_ms: i64) -> Moment {
        let steady = record.map_or_else(Reading::default, |Self { boot, ms }| Reading { boot, ms });
        Moment { steady, wall_ms }
    }
}

/// What is known of the server's clock.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ServerClockRecord {
    #[prost(message, repeated, tag = "1")]
    contacts: Vec<ContactRecord>,
    #[prost(sint32, optional, tag = "2")]
    rate_ppm: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct ContactRecord {
    #[prost(fixed32, tag = "1")]
    boot: u32,
    #[prost(uint64, tag = "2")]
    steady_ms: u64,
    #[prost(sint64, tag = "3")]
    wall_ms: i64,
    #[prost(sint64, tag = "4")]
    server_ms: i64,
    #[prost(uint64, tag = "5")]
    doubt_ms: u64,
}

impl ServerClockRecord {
    pub(super) fn of(clock: &ServerClock) -> Self {
        let contact = |contact: &Contact| ContactRecord {
            boot: contact.steady.boot,
            steady_ms: contact.steady.ms,
            wall_ms: contact.wall_ms,
            server_ms: contact.server_ms,
            doubt_ms: contact.doubt_ms,
        };
        Self {
            contacts: clock.contacts().iter().map(contact).collect(),
            rate_ppm: clock.rate_ppm(),
        }
    }

    pub(super) fn read(value: &[u8]) -> Result<ServerClock, StoreError> {
        let record = Self::decode(value).map_err(|_| StoreError::Unreadable("meta"))?;
        let contact = |record: &ContactRecord| Contact {
            steady: Reading {
                boot: record.boot,
                ms: record.steady_ms,
            },
            wall_ms: record.wall_ms,
            server_ms: record.server_ms,
            doubt_ms: record.doubt_ms,
        };
        Ok(ServerClock::stored(
            record.contacts.iter().map(contact).collect(),
            record.rate_ppm,
        ))
    }
}
