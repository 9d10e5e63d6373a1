//! How things are written down: protobuf, so that a later version reads what an earlier one wrote. Numbers of fields
//! are never reused.

use super::{MemberCursor, Restore, StoreError};
use crate::audit::{Actor, AuditEntry, Outcome};
use crate::broadcast::Broadcast;
use crate::clock::{ClockEstimate, Knot};
use crate::device::{Device, Driver};
use crate::entry::{Author, Entry, EntryBody, MembershipChange, Moment, Rung};
use crate::event::{Event, EventKind};
use crate::group::{Group, GroupId, History};
use crate::key::ApiKey;
use crate::once::{Made, Posted};
use crate::person::{Person, Role, SignIn};
use crate::position::{Origin, Position, Way};
use crate::stream::{Member, Membership, Stream, StreamKind};
use crate::template::{QuickReply, Slot, Template};
use prost::Message;
use std::net::IpAddr;
use waypost_proto::{
    Cumulative, DeviceId, Epoch, Fix, Incarnation, Motion, OpNumber, PersonId, Seq, StreamId, Velocity,
};

/// Something that is written as a record.
pub(super) trait Record: Sized {
    /// What a damaged one is called in an error.
    const NAME: &'static str;
    type Wire: Message + Default;

    fn to_wire(&self) -> Self::Wire;
    fn from_wire(wire: Self::Wire) -> Option<Self>;

    fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let wire = Self::Wire::decode(bytes).map_err(|_| StoreError::Damaged(Self::NAME))?;
        Self::from_wire(wire).ok_or(StoreError::Damaged(Self::NAME))
    }
}

/// The store's own name and the count of its starts.
#[derive(Clone, PartialEq, Message)]
pub(super) struct MetaRecord {
    #[prost(fixed64, tag = "1")]
    pub(super) incarnation: u64,
    #[prost(uint64, tag = "2")]
    pub(super) generation: u64,
}

/// Where a store parted from the one that its backup was of.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RestoreRecord {
    #[prost(fixed64, tag = "1")]
    of: u64,
    #[prost(uint32, repeated, tag = "2")]
    streams: Vec<u32>,
    /// Of the streams, in their order.
    #[prost(uint64, repeated, tag = "3")]
    heads: Vec<u64>,
    #[prost(uint64, tag = "4")]
    last_event: u64,
    #[prost(uint64, tag = "5")]
    first_event: u64,
}

impl Record for Restore {
    const NAME: &'static str = "restore";
    type Wire = RestoreRecord;

    fn to_wire(&self) -> RestoreRecord {
        RestoreRecord {
            of: self.of.number(),
            streams: self.heads.keys().map(|stream| stream.number()).collect(),
            heads: self.heads.values().copied().collect(),
            last_event: self.last_event,
            first_event: self.first_event,
        }
    }

    fn from_wire(wire: RestoreRecord) -> Option<Self> {
        if wire.streams.len() != wire.heads.len() || wire.first_event <= wire.last_event {
            return None;
        }
        let heads = wire.streams.into_iter().zip(wire.heads);
        Some(Self {
            of: Incarnation::new(wire.of)?,
            heads: heads
                .map(|(stream, head)| Some((StreamId::new(stream)?, head)))
                .collect::<Option<_>>()?,
            last_event: wire.last_event,
            first_event: wire.first_event,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DeviceRecord {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, optional, tag = "3")]
    driver_name: Option<String>,
    #[prost(string, tag = "4")]
    driver_locale: String,
    #[prost(string, repeated, tag = "5")]
    labels: Vec<String>,
    #[prost(bytes = "vec", tag = "6")]
    secret_hash: Vec<u8>,
    #[prost(uint32, tag = "7")]
    stream: u32,
    #[prost(string, optional, tag = "8")]
    app: Option<String>,
    #[prost(int64, optional, tag = "9")]
    last_seen_ms: Option<i64>,
    #[prost(bool, tag = "10")]
    revoked: bool,
}

impl Record for Device {
    const NAME: &'static str = "device";
    type Wire = DeviceRecord;

    fn to_wire(&self) -> DeviceRecord {
        DeviceRecord {
            id: self.id.number(),
            name: self.name.clone(),
            driver_name: self.driver.as_ref().map(|driver| driver.name.clone()),
            driver_locale: self
                .driver
                .as_ref()
                .map(|driver| driver.locale.clone())
                .unwrap_or_default(),
            labels: self.labels.clone(),
            secret_hash: self.secret_hash.to_vec(),
            stream: self.stream.number(),
            app: self.app.clone(),
            last_seen_ms: self.last_seen_ms,
            revoked: self.revoked,
        }
    }

    fn from_wire(wire: DeviceRecord) -> Option<Self> {
        Some(Self {
            id: DeviceId::new(wire.id)?,
            name: wire.name,
            driver: wire.driver_name.map(|name| Driver {
                name,
                locale: wire.driver_locale,
            }),
            labels: wire.labels,
            secret_hash: wire.secret_hash.try_into().ok()?,
            stream: StreamId::new(wire.stream)?,
            app: wire.app,
            last_seen_ms: wire.last_seen_ms,
            revoked: wire.revoked,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PersonRecord {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(string, tag = "2")]
    email: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(uint32, tag = "4")]
    role: u32,
    #[prost(string, tag = "5")]
    password_hash: String,
    #[prost(bool, tag = "6")]
    removed: bool,
}

fn role_to_wire(role: Role) -> u32 {
    match role {
        Role::Admin => 1,
        Role::Dispatcher => 2,
        Role::Viewer => 3,
        Role::Integration => 4,
        Role::Bot => 5,
    }
}

fn role_from_wire(wire: u32) -> Option<Role> {
    match wire {
        1 => Some(Role::Admin),
        2 => Some(Role::Dispatcher),
        3 => Some(Role::Viewer),
        4 => Some(Role::Integration),
        5 => Some(Role::Bot),
        _ => None,
    }
}

impl Record for Person {
    const NAME: &'static str = "person";
    type Wire = PersonRecord;

    fn to_wire(&self) -> PersonRecord {
        PersonRecord {
            id: self.id.number(),
            email: self.email.clone(),
            name: self.name.clone(),
            role: role_to_wire(self.role),
            password_hash: self.password_hash.clone(),
            removed: self.removed,
        }
    }

    fn from_wire(wire: PersonRecord) -> Option<Self> {
        let id = PersonId::new(wire.id)?;
        Some(Self {
            id,
            email: wire.email,
            name: wire.name,
            role: role_from_wire(wire.role)?,
            password_hash: wire.password_hash,
            removed: wire.removed,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ApiKeyRecord {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint32, tag = "3")]
    role: u32,
    #[prost(bytes = "vec", tag = "4")]
    token_hash: Vec<u8>,
    #[prost(int64, tag = "5")]
    created_ms: i64,
    #[prost(int64, optional, tag = "6")]
    last_used_ms: Option<i64>,
    #[prost(bool, tag = "7")]
    revoked: bool,
}

impl Record for ApiKey {
    const NAME: &'static str = "key";
    type Wire = ApiKeyRecord;

    fn to_wire(&self) -> ApiKeyRecord {
        ApiKeyRecord {
            id: self.id.number(),
            name: self.name.clone(),
            role: role_to_wire(self.role),
            token_hash: self.token_hash.to_vec(),
            created_ms: self.created_ms,
            last_used_ms: self.last_used_ms,
            revoked: self.revoked,
        }
    }

    fn from_wire(wire: ApiKeyRecord) -> Option<Self> {
        Some(Self {
            id: PersonId::new(wire.id)?,
            name: wire.name,
            role: role_from_wire(wire.role)?,
            token_hash: wire.token_hash.try_into().ok()?,
            created_ms: wire.created_ms,
            last_used_ms: wire.last_used_ms,
            revoked: wire.revoked,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SignInRecord {
    #[prost(bytes = "vec", tag = "1")]
    token_hash: Vec<u8>,
    #[prost(uint32, tag = "2")]
    person: u32,
    #[prost(int64, tag = "3")]
    expires_ms: i64,
}

impl Record for SignIn {
    const NAME: &'static str = "sign-in";
    type Wire = SignInRecord;

    fn to_wire(&self) -> SignInRecord {
        SignInRecord {
            token_hash: self.token_hash.to_vec(),
            person: self.person.number(),
            expires_ms: self.expires_ms,
        }
    }

    fn from_wire(wire: SignInRecord) -> Option<Self> {
        Some(Self {
            token_hash: wire.token_hash.try_into().ok()?,
            person: PersonId::new(wire.person)?,
            expires_ms: wire.expires_ms,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct MemberRecord {
    #[prost(uint32, tag = "1")]
    device: u32,
    #[prost(uint32, tag = "2")]
    person: u32,
}

fn member_to_wire(member: Member) -> MemberRecord {
    match member {
        Member::Device(device) => MemberRecord {
            device: device.number(),
            person: 0,
        },
        Member::Person(person) => MemberRecord {
            device: 0,
            person: person.number(),
        },
        Member::Office => MemberRecord::default(),
    }
}

fn member_from_wire(wire: &MemberRecord) -> Member {
    match (DeviceId::new(wire.device), PersonId::new(wire.person)) {
        (Some(device), _) => Member::Device(device),
        (None, Some(person)) => Member::Person(person),
        (None, None) => Member::Office,
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct MembershipRecord {
    #[prost(message, optional, tag = "1")]
    member: Option<MemberRecord>,
    #[prost(uint64, tag = "2")]
    first_seq: u64,
    #[prost(uint64, optional, tag = "3")]
    last_seq: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamRecord {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(string, tag = "3")]
    title: String,
    #[prost(message, repeated, tag = "4")]
    members: Vec<MembershipRecord>,
    #[prost(uint32, tag = "5")]
    group: u32,
}

impl Record for Stream {
    const NAME: &'static str = "stream";
    type Wire = StreamRecord;

    fn to_wire(&self) -> StreamRecord {
        StreamRecord {
            id: self.id.number(),
            kind: match self.kind {
                StreamKind::Direct => 1,
                StreamKind::Group(_) => 2,
                StreamKind::Broadcast => 3,
            },
            group: match self.kind {
                StreamKind::Group(group) => group.number(),
                StreamKind::Direct | StreamKind::Broadcast => 0,
            },
            title: self.title.clone(),
            members: self
                .members
                .iter()
                .map(|membership| MembershipRecord {
                    member: Some(member_to_wire(membership.member)),
                    first_seq: membership.first_seq,
                    last_seq: membership.last_seq,
                })
                .collect(),
        }
    }

    fn from_wire(wire: StreamRecord) -> Option<Self> {
        let kind = match wire.kind {
            1 => StreamKind::Direct,
            2 => StreamKind::Group(GroupId::new(wire.group)?),
            3 => StreamKind::Broadcast,
            _ => return None,
        };
        let members = wire.members.iter().map(|m| {
            let member = member_from_wire(m.member.as_ref()?);
            Some(Membership {
                member,
                first_seq: m.first_seq,
                last_seq: m.last_seq,
            })
        });
        Some(Self {
            id: StreamId::new(wire.id)?,
            kind,
            title: wire.title,
            members: members.collect::<Option<_>>()?,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct MomentRecord {
    #[prost(int64, optional, tag = "1")]
    device_ms: Option<i64>,
    #[prost(int64, tag = "2")]
    server_ms: i64,
    #[prost(int64, optional, tag = "3")]
    offset_ms: Option<i64>,
}

impl From<Moment> for MomentRecord {
    fn from(moment: Moment) -> Self {
        Self {
            device_ms: moment.device_ms,
            server_ms: moment.server_ms,
            offset_ms: moment.offset_ms,
        }
    }
}

impl From<MomentRecord> for Moment {
    fn from(record: MomentRecord) -> Self {
        Self {
            device_ms: record.device_ms,
            server_ms: record.server_ms,
            offset_ms: record.offset_ms,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EntryRecord {
    #[prost(uint32, tag = "1")]
    stream: u32,
    #[prost(uint64, tag = "2")]
    seq: u64,
    #[prost(bytes = "vec", tag = "3")]
    id: Vec<u8>,
    #[prost(uint32, tag = "4")]
    author_device: u32,
    #[prost(uint32, tag = "5")]
    author_person: u32,
    #[prost(fixed64, tag = "6")]
    epoch: u64,
    #[prost(uint64, tag = "7")]
    op: u64,
    #[prost(message, optional, tag = "8")]
    accepted: Option<MomentRecord>,
    #[prost(bool, tag = "9")]
    urgent: bool,
    #[prost(int64, optional, tag = "10")]
    expires_ms: Option<i64>,
    #[prost(uint64, tag = "11")]
    reply_to: u64,
    #[prost(string, optional, tag = "12")]
    text: Option<String>,
    #[prost(uint32, tag = "13")]
    reply_stream: u32,
    #[prost(message, optional, tag = "14")]
    reply: Option<waypost_proto::wire::QuickReply>,
    #[prost(message, optional, tag = "15")]
    membership: Option<waypost_proto::wire::MembershipChange>,
    #[prost(uint64, tag = "16")]
    supersedes: u64,
    #[prost(uint64, tag = "17")]
    earlier: u64,
}

fn body_from_record(wire: &EntryRecord) -> Option<EntryBody> {
    if let Some(text) = &wire.text {
        return Some(EntryBody::Text(text.clone()));
    }
    if let Some(reply) = &wire.reply {
        let reply = QuickReply::from_parts(
            reply.template,
            reply.version,
            &reply.slot_numbers,
            &reply.slot_texts,
        );
        return reply.map(EntryBody::Reply);
    }
    let change = wire.membership.as_ref()?;
    let what = if change.left {
        MembershipChange::Left
    } else {
        MembershipChange::Joined
    };
    Some(EntryBody::Membership(DeviceId::new(change.device)?, what))
}

impl Record for Entry {
    const NAME: &'static str = "entry";
    type Wire = EntryRecord;

    fn to_wire(&self) -> EntryRecord {
        let (mut text, mut reply, mut membership) = (None, None, None);
        match &self.body {
            EntryBody::Text(said) => text = Some(said.clone()),
            EntryBody::Reply(filled) => reply = Some(filled.to_wire()),
            EntryBody::Membership(device, change) => membership = Some(change.to_wire(*device)),
        }
        EntryRecord {
            stream: self.stream.number(),
            seq: self.seq.number(),
            id: self.id.to_vec(),
            author_device: if let Author::Device(device) = self.author {
                device.number()
            } else {
                0
            },
            author_person: if let Author::Person(person) = self.author {
                person.number()
            } else {
                0
            },
            epoch: self.operation.map_or(0, |(epoch, _)| epoch.number()),
            op: self.operation.map_or(0, |(_, op)| op.number()),
            accepted: Some(self.accepted.into()),
            urgent: self.urgent,
            expires_ms: self.expires_ms,
            reply_to: self.reply_to.map_or(0, Seq::number),
            reply_stream: self.reply_stream.map_or(0, StreamId::number),
            supersedes: self.supersedes.map_or(0, Seq::number),
            earlier: self.earlier.map_or(0, OpNumber::number),
            text,
            reply,
            membership,
        }
    }

    fn from_wire(wire: EntryRecord) -> Option<Self> {
        let body = body_from_record(&wire)?;
        Some(Self {
            stream: StreamId::new(wire.stream)?,
            seq: Seq::new(wire.seq)?,
            id: wire.id.try_into().ok()?,
            author: match (
                DeviceId::new(wire.author_device),
                PersonId::new(wire.author_person),
            ) {
                (Some(device), _) => Author::Device(device),
                (None, Some(person)) => Author::Person(person),
                (None, None) => Author::System,
            },
            operation: Epoch::new(wire.epoch).zip(OpNumber::new(wire.op)),
            accepted: wire.accepted?.into(),
            urgent: wire.urgent,
            expires_ms: wire.expires_ms,
            reply_to: Seq::new(wire.reply_to),
            reply_stream: StreamId::new(wire.reply_stream),
            supersedes: Seq::new(wire.supersedes),
            superseded_by: None,
            earlier: OpNumber::new(wire.earlier),
            body,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NumbersRecord {
    #[prost(uint64, tag = "1")]
    through: u64,
    #[prost(uint64, repeated, tag = "2")]
    above: Vec<u64>,
}

impl Record for Cumulative {
    const NAME: &'static str = "acknowledgement";
    type Wire = NumbersRecord;

    fn to_wire(&self) -> NumbersRecord {
        NumbersRecord {
            through: self.through(),
            above: Cumulative::to_wire(self),
        }
    }

    fn from_wire(wire: NumbersRecord) -> Option<Self> {
        Cumulative::from_wire(wire.through, &wire.above).ok()
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CursorRecord {
    #[prost(uint64, tag = "1")]
    sent: u64,
    #[prost(message, optional, tag = "2")]
    delivered: Option<NumbersRecord>,
    #[prost(uint64, tag = "3")]
    read: u64,
    #[prost(uint64, tag = "4")]
    answered: u64,
    /// None for a cursor from before anything was passed over.
    #[prost(message, optional, tag = "5")]
    passed_over: Option<NumbersRecord>,
}

impl Record for MemberCursor {
    const NAME: &'static str = "cursor";
    type Wire = CursorRecord;

    fn to_wire(&self) -> CursorRecord {
        CursorRecord {
            sent: self.sent,
            delivered: Some(Record::to_wire(&self.delivered)),
            read: self.read,
            answered: self.answered,
            passed_over: (!self.passed_over.is_empty()).then(|| Record::to_wire(&self.passed_over)),
        }
    }

    fn from_wire(wire: CursorRecord) -> Option<Self> {
        let delivered = <Cumulative as Record>::from_wire(wire.delivered?)?;
        Some(Self {
            sent: wire.sent,
            delivered,
            read: wire.read,
            answered: wire.answered,
            passed_over: match wire.passed_over {
                Some(passed_over) => <Cumulative as Record>::from_wire(passed_over)?,
                None => Cumulative::default(),
            },
        })
    }
}

/// From which entry on a receipt holds; its last entry stands in the key.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ReceiptRecord {
    #[prost(uint64, tag = "1")]
    pub(super) first_seq: u64,
    #[prost(message, optional, tag = "2")]
    moment: Option<MomentRecord>,
}

impl ReceiptRecord {
    pub(super) fn new(first_seq: u64, moment: Moment) -> Self {
        Self {
            first_seq,
            moment: Some(moment.into()),
        }
    }

    pub(super) fn moment(&self) -> Option<Moment> {
        self.moment.map(Into::into)
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EventRecord {
    #[prost(uint64, tag = "1")]
    cursor: u64,
    #[prost(int64, tag = "2")]
    at_ms: i64,
    /// 1 accepted, 2 sent, 3 delivered, 4 read, 5 acted, 6 online, 7 offline, 8 enrolled, 9 revoked, 10 forked; 20 an
    /// entry expired, 21 operations expired, 22 superseded.
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(uint32, tag = "4")]
    stream: u32,
    #[prost(uint64, tag = "5")]
    first_seq: u64,
    #[prost(uint64, tag = "6")]
    last_seq: u64,
    #[prost(message, optional, tag = "7")]
    member: Option<MemberRecord>,
    #[prost(message, optional, tag = "8")]
    moment: Option<MomentRecord>,
    #[prost(uint32, tag = "9")]
    device: u32,
    #[prost(uint32, tag = "10")]
    answer_stream: u32,
}

impl Record for Event {
    const NAME: &'static str = "event";
    type Wire = EventRecord;

    fn to_wire(&self) -> EventRecord {
        let bare = EventRecord {
            cursor: self.cursor,
            at_ms: self.at_ms,
            ..EventRecord::default()
        };
        let of_device = |kind, device: &DeviceId| EventRecord {
            kind,
            device: device.number(),
            ..bare.clone()
        };
        match &self.kind {
            EventKind::EntryAccepted { stream, seq } => EventRecord {
                kind: 1,
                stream: stream.number(),
                first_seq: seq.number(),
                ..bare
            },
            EventKind::EntriesReached {
                rung,
                stream,
                first_seq,
                last_seq,
                member,
                moment,
            } => EventRecord {
                kind: match rung {
                    Rung::Sent => 2,
                    Rung::Delivered => 3,
                    Rung::Read | Rung::Acted => 4,
                },
                stream: stream.number(),
                first_seq: *first_seq,
                last_seq: *last_seq,
                member: Some(member_to_wire(*member)),
                moment: Some((*moment).into()),
                ..bare
            },
            EventKind::EntryActed {
                stream,
                seq,
                member,
                answer_stream,
                answer,
            } => EventRecord {
                kind: 5,
                answer_stream: answer_stream.number(),
                stream: stream.number(),
                first_seq: seq.number(),
                last_seq: answer.number(),
                member: Some(member_to_wire(*member)),
                ..bare
            },
            EventKind::EntryExpired { stream, seq, missed } => EventRecord {
                kind: 20,
                stream: stream.number(),
                first_seq: seq.number(),
                last_seq: (*missed).into(),
                ..bare
            },
            EventKind::OperationsExpired {
                device,
                first_op,
                count,
            } => EventRecord {
                first_seq: *first_op,
                last_seq: (*count).into(),
                ..of_device(21, device)
            },
            EventKind::EntrySuperseded { stream, seq, by } => EventRecord {
                kind: 22,
                stream: stream.number(),
                first_seq: seq.number(),
                last_seq: by.number(),
                ..bare
            },
            EventKind::DeviceOnline(device) => of_device(6, device),
            EventKind::DeviceOffline(device) => of_device(7, device),
            EventKind::DeviceEnrolled(device) => of_device(8, device),
            EventKind::DeviceRevoked(device) => of_device(9, device),
            EventKind::DeviceForked(device) => of_device(10, device),
        }
    }

    fn from_wire(wire: EventRecord) -> Option<Self> {
        let stream = StreamId::new(wire.stream);
        let device = DeviceId::new(wire.device);
        let member = wire.member.as_ref().map(member_from_wire);
        let reached = |rung| {
            Some(EventKind::EntriesReached {
                rung,
                stream: stream?,
                first_seq: wire.first_seq,
                last_seq: wire.last_seq,
                member: member?,
                moment: wire.moment?.into(),
            })
        };
        let kind = match wire.kind {
            1 => EventKind::EntryAccepted {
                stream: stream?,
                seq: Seq::new(wire.first_seq)?,
            },
            2 => reached(Rung::Sent)?,
            3 => reached(Rung::Delivered)?,
            4 => reached(Rung::Read)?,
            5 => EventKind::EntryActed {
                stream: stream?,
                seq: Seq::new(wire.first_seq)?,
                member: member?,
                // Records from before there were broadcasts have none: it was the same.
                answer_stream: StreamId::new(wire.answer_stream).or(stream)?,
                answer: Seq::new(wire.last_seq)?,
            },
            6 => EventKind::DeviceOnline(device?),
            7 => EventKind::DeviceOffline(device?),
            8 => EventKind::DeviceEnrolled(device?),
            9 => EventKind::DeviceRevoked(device?),
            10 => EventKind::DeviceForked(device?),
            20 => EventKind::EntryExpired {
                stream: stream?,
                seq: Seq::new(wire.first_seq)?,
                missed: u32::try_from(wire.last_seq).ok()?,
            },
            21 => EventKind::OperationsExpired {
                device: device?,
                first_op: wire.first_seq,
                count: u32::try_from(wire.last_seq).ok()?,
            },
            22 => EventKind::EntrySuperseded {
                stream: stream?,
                seq: Seq::new(wire.first_seq)?,
                by: Seq::new(wire.last_seq)?,
            },
            _ => return None,
        };
        Some(Self {
            cursor: wire.cursor,
            at_ms: wire.at_ms,
            kind,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AuditRecord {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(int64, tag = "2")]
    at_ms: i64,
    /// After `at_ms`, in milliseconds.
    #[prost(int64, tag = "3")]
    lasted_ms: i64,
    /// 0 nobody, 1 the server, 2 a person, 3 a key, 4 a device.
    #[prost(uint32, tag = "4")]
    actor: u32,
    #[prost(uint32, tag = "5")]
    actor_id: u32,
    /// 4 or 16 bytes; none where there is no address.
    #[prost(bytes = "vec", tag = "6")]
    address: Vec<u8>,
    #[prost(string, tag = "7")]
    action: String,
    #[prost(string, optional, tag = "8")]
    subject: Option<String>,
    /// Of a refusal.
    #[prost(string, optional, tag = "9")]
    reason: Option<String>,
    #[prost(uint32, tag = "10")]
    count: u32,
}

impl Record for AuditEntry {
    const NAME: &'static str = "audit";
    type Wire = AuditRecord;

    fn to_wire(&self) -> AuditRecord {
        let (actor, actor_id) = match self.actor {
            Actor::Nobody => (0, 0),
            Actor::Server => (1, 0),
            Actor::Person(id) => (2, id.number()),
            Actor::Key(id) => (3, id.number()),
            Actor::Device(id) => (4, id.number()),
        };
        AuditRecord {
            number: self.number,
            at_ms: self.at_ms,
            lasted_ms: self.last_ms.saturating_sub(self.at_ms),
            actor,
            actor_id,
            address: match self.address {
                Some(IpAddr::V4(address)) => address.octets().to_vec(),
                Some(IpAddr::V6(address)) => address.octets().to_vec(),
                None => Vec::new(),
            },
            action: self.action.clone(),
            subject: self.subject.clone(),
            reason: match &self.outcome {
                Outcome::Done => None,
                Outcome::Refused(reason) => Some(reason.clone()),
            },
            count: self.count,
        }
    }

    fn from_wire(wire: AuditRecord) -> Option<Self> {
        let actor = match wire.actor {
            0 => Actor::Nobody,
            1 => Actor::Server,
            2 => Actor::Person(PersonId::new(wire.actor_id)?),
            3 => Actor::Key(PersonId::new(wire.actor_id)?),
            4 => Actor::Device(DeviceId::new(wire.actor_id)?),
            _ => return None,
        };
        let address = match wire.address.len() {
            0 => None,
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(wire.address).ok()?)),
            _ => Some(IpAddr::from(<[u8; 16]>::try_from(wire.address).ok()?)),
        };
        Some(Self {
            number: wire.number,
            at_ms: wire.at_ms,
            last_ms: wire.at_ms.saturating_add(wire.lasted_ms),
            actor,
            address,
            action: wire.action,
            subject: wire.subject,
            outcome: wire.reason.map_or(Outcome::Done, Outcome::Refused),
            count: wire.count,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PositionRecord {
    #[prost(sint64, tag = "1")]
    at_ms: i64,
    #[prost(sfixed32, tag = "2")]
    lat_e7: i32,
    #[prost(sfixed32, tag = "3")]
    lon_e7: i32,
    #[prost(uint32, optional, tag = "4")]
    speed_cmps: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    course_ddeg: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    accuracy_m: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    battery_pct: Option<u32>,
    #[prost(int64, tag = "8")]
    received_ms: i64,
    #[prost(bool, tag = "9")]
    is_corner: bool,
    #[prost(bool, tag = "10")]
    was_watched: bool,
    /// Velocity north and east in 0.25 m/s; both or none.
    #[prost(sint32, repeated, tag = "11")]
    velocity: Vec<i32>,
}

impl Record for Position {
    const NAME: &'static str = "position";
    type Wire = PositionRecord;

    fn to_wire(&self) -> PositionRecord {
        PositionRecord {
            at_ms: self.fix.at_ms,
            lat_e7: self.fix.lat_e7,
            lon_e7: self.fix.lon_e7,
            speed_cmps: self.fix.motion.speed_cmps,
            course_ddeg: self.fix.motion.course_ddeg,
            accuracy_m: self.fix.accuracy_m,
            battery_pct: self.fix.battery_pct,
            received_ms: self.received_ms,
            is_corner: self.origin == Origin::Corner,
            was_watched: self.way == Way::Watched,
            velocity: (self.velocity)
                .map(|velocity| vec![velocity.north.into(), velocity.east.into()])
                .unwrap_or_default(),
        }
    }

    fn from_wire(wire: PositionRecord) -> Option<Self> {
        let fix = Fix {
            at_ms: wire.at_ms,
            lat_e7: wire.lat_e7,
            lon_e7: wire.lon_e7,
            motion: Motion {
                speed_cmps: wire.speed_cmps,
                course_ddeg: wire.course_ddeg,
            },
            accuracy_m: wire.accuracy_m,
            battery_pct: wire.battery_pct,
        };
        let velocity = match wire.velocity[..] {
            [] => None,
            [north, east] => Some(Velocity {
                north: north.try_into().ok()?,
                east: east.try_into().ok()?,
            }),
            _ => return None,
        };
        Some(Self {
            fix,
            received_ms: wire.received_ms,
            origin: if wire.is_corner {
                Origin::Corner
            } else {
                Origin::Measured
            },
            way: if wire.was_watched {
                Way::Watched
            } else {
                Way::Unknown
            },
            velocity,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PostedRecord {
    #[prost(bytes = "vec", tag = "1")]
    digest: Vec<u8>,
    #[prost(uint32, tag = "2")]
    stream: u32,
    #[prost(uint64, tag = "3")]
    seq: u64,
    /// 0 an entry, 1 a device, 2 credentials of a device, 3 a person, 4 an API key, 5 a sign-in.
    #[prost(uint32, tag = "4")]
    made: u32,
    /// Of the device or the person.
    #[prost(uint32, tag = "5")]
    id: u32,
    #[prost(int64, tag = "6")]
    at_ms: i64,
}

impl Record for Posted {
    const NAME: &'static str = "idempotency";
    type Wire = PostedRecord;

    fn to_wire(&self) -> PostedRecord {
        let bare = PostedRecord {
            digest: self.digest.to_vec(),
            at_ms: self.at_ms,
            ..PostedRecord::default()
        };
        let of = |made, id| PostedRecord {
            made,
            id,
            ..bare.clone()
        };
        match self.made {
            Made::Entry { stream, seq } => PostedRecord {
                stream: stream.number(),
                seq: seq.number(),
                ..bare
            },
            Made::Device(device) => of(1, device.number()),
            Made::Credentials(device) => of(2, device.number()),
            Made::Person(person) => of(3, person.number()),
            Made::Key(key) => of(4, key.number()),
            Made::Session(person) => of(5, person.number()),
            Made::Group(group) => of(6, group.number()),
            Made::Broadcast(stream) => of(7, stream.number()),
        }
    }

    fn from_wire(wire: PostedRecord) -> Option<Self> {
        let made = match wire.made {
            0 => Made::Entry {
                stream: StreamId::new(wire.stream)?,
                seq: Seq::new(wire.seq)?,
            },
            1 => Made::Device(DeviceId::new(wire.id)?),
            2 => Made::Credentials(DeviceId::new(wire.id)?),
            3 => Made::Person(PersonId::new(wire.id)?),
            4 => Made::Key(PersonId::new(wire.id)?),
            5 => Made::Session(PersonId::new(wire.id)?),
            6 => Made::Group(GroupId::new(wire.id)?),
            7 => Made::Broadcast(StreamId::new(wire.id)?),
            _ => return None,
        };
        Some(Self {
            digest: wire.digest.try_into().ok()?,
            made,
            at_ms: wire.at_ms,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GroupRecord {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint32, tag = "3")]
    stream: u32,
    /// Whether those who join may read what was said before.
    #[prost(bool, tag = "4")]
    all_history: bool,
    #[prost(bool, tag = "5")]
    deleted: bool,
}

impl Record for Group {
    const NAME: &'static str = "group";
    type Wire = GroupRecord;

    fn to_wire(&self) -> GroupRecord {
        GroupRecord {
            id: self.id.number(),
            name: self.name.clone(),
            stream: self.stream.number(),
            all_history: self.history == History::All,
            deleted: self.deleted,
        }
    }

    fn from_wire(wire: GroupRecord) -> Option<Self> {
        Some(Self {
            id: GroupId::new(wire.id)?,
            name: wire.name,
            stream: StreamId::new(wire.stream)?,
            history: if wire.all_history {
                History::All
            } else {
                History::SinceJoining
            },
            deleted: wire.deleted,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TemplateRecord {
    #[prost(uint32, tag = "1")]
    number: u32,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(uint32, tag = "3")]
    version: u32,
    #[prost(btree_map = "string, string", tag = "4")]
    text: std::collections::BTreeMap<String, String>,
    #[prost(message, repeated, tag = "5")]
    slots: Vec<waypost_proto::wire::Slot>,
    #[prost(bool, tag = "6")]
    removed: bool,
}

impl Record for Template {
    const NAME: &'static str = "template";
    type Wire = TemplateRecord;

    fn to_wire(&self) -> TemplateRecord {
        let slot = |slot: &Slot| waypost_proto::wire::Slot {
            name: slot.name.clone(),
            kind: slot.kind.into(),
        };
        TemplateRecord {
            number: self.number,
            key: self.key.clone(),
            version: self.version,
            text: self.text.clone(),
            slots: self.slots.iter().map(slot).collect(),
            removed: self.removed,
        }
    }

    fn from_wire(wire: TemplateRecord) -> Option<Self> {
        let slot = |slot: &waypost_proto::wire::Slot| Slot {
            name: slot.name.clone(),
            kind: slot.kind(),
        };
        (wire.number > 0 && wire.version > 0).then(|| Self {
            number: wire.number,
            key: wire.key,
            version: wire.version,
            slots: wire.slots.iter().map(slot).collect(),
            text: wire.text,
            removed: wire.removed,
        })
    }
}

/// The numbers of those who were named.
#[derive(Clone, PartialEq, Message)]
pub(super) struct BroadcastRecord {
    #[prost(uint32, tag = "1")]
    stream: u32,
    #[prost(uint32, repeated, tag = "2")]
    devices: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    groups: Vec<u32>,
}

impl Record for Broadcast {
    const NAME: &'static str = "broadcast";
    type Wire = BroadcastRecord;

    fn to_wire(&self) -> BroadcastRecord {
        BroadcastRecord {
            stream: self.stream.number(),
            devices: self.devices.iter().map(|device| device.number()).collect(),
            groups: self.groups.iter().map(|group| group.number()).collect(),
        }
    }

    fn from_wire(wire: BroadcastRecord) -> Option<Self> {
        Some(Self {
            stream: StreamId::new(wire.stream)?,
            devices: wire
                .devices
                .into_iter()
                .map(DeviceId::new)
                .collect::<Option<_>>()?,
            groups: wire.groups.into_iter().map(GroupId::new).collect::<Option<_>>()?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ClockRecord {
    #[prost(fixed32, tag = "1")]
    boot: u32,
    #[prost(sint64, repeated, tag = "2")]
    steady_ms: Vec<i64>,
    /// Of the same knots.
    #[prost(sint64, repeated, tag = "3")]
    server_ms: Vec<i64>,
    #[prost(sint64, tag = "4")]
    earlier_ppm: i64,
}

impl Record for ClockEstimate {
    const NAME: &'static str = "clock";
    type Wire = ClockRecord;

    fn to_wire(&self) -> ClockRecord {
        ClockRecord {
            boot: self.boot(),
            steady_ms: self.knots().iter().map(|knot| knot.steady_ms).collect(),
            server_ms: self.knots().iter().map(|knot| knot.server_ms).collect(),
            earlier_ppm: self.earlier_ppm(),
        }
    }

    fn from_wire(wire: ClockRecord) -> Option<Self> {
        if wire.steady_ms.len() != wire.server_ms.len() {
            return None;
        }
        let knots = wire.steady_ms.into_iter().zip(wire.server_ms);
        let knots = knots.map(|(steady_ms, server_ms)| Knot { steady_ms, server_ms });
        Self::stored(wire.boot, knots.collect(), wire.earlier_ppm)
    }
}
