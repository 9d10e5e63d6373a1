//! Keys: a table's letter, then big-endian numbers, so that the order of bytes is the order of things.

use crate::entry::Rung;
use crate::once::Caller;
use crate::stream::Member;
use waypost_proto::{DeviceId, Epoch, GroupId, Incarnation, OpNumber, PersonId, StreamId};

/// The kinds of records. The letter goes before each key; the engine may keep groups of tables apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Table {
    Meta = b'm',
    Devices = b'd',
    People = b'p',
    SignIns = b's',
    Keys = b'k',
    Streams = b'S',
    Groups = b'g',
    Templates = b'q',
    Broadcasts = b'b',
    Ledgers = b'l',
    Transfers = b't',
    Cursors = b'c',
    Latest = b'L',
    Entries = b'e',
    Receipts = b'r',
    Operations = b'o',
    Events = b'E',
    Audit = b'a',
    Posted = b'i',
    PostedByTime = b'I',
    Track = b'T',
    FirstSeqs = b'f',
    Firsts = b'F',
    PositionMarks = b'D',
    Urgent = b'u',
    Restores = b'R',
    Clocks = b'C',
    Expiries = b'x',
    Superseded = b'X',
}

/// A key under construction.
pub(super) struct Key(Vec<u8>);

impl Key {
    pub(super) fn of(table: Table) -> Self {
        Self(vec![table as u8])
    }

    pub(super) fn u8(mut self, number: u8) -> Self {
        self.0.push(number);
        self
    }

    pub(super) fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    /// Signed numbers in their order: the sign bit is turned.
    pub(super) fn i64(self, number: i64) -> Self {
        self.u64(number.cast_unsigned() ^ (1 << 63))
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(super) fn member(self, member: Member) -> Self {
        match member {
            Member::Office => self.u8(0).u32(0),
            Member::Device(device) => self.u8(1).u32(device.number()),
            Member::Person(person) => self.u8(2).u32(person.number()),
        }
    }

    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }
}

pub(super) fn meta() -> Vec<u8> {
    Key::of(Table::Meta).done()
}

pub(super) fn restore(of: Incarnation) -> Vec<u8> {
    Key::of(Table::Restores).u64(of.number()).done()
}

pub(super) fn device(id: DeviceId) -> Vec<u8> {
    Key::of(Table::Devices).u32(id.number()).done()
}

pub(super) fn person(id: PersonId) -> Vec<u8> {
    Key::of(Table::People).u32(id.number()).done()
}

pub(super) fn api_key(id: PersonId) -> Vec<u8> {
    Key::of(Table::Keys).u32(id.number()).done()
}

pub(super) fn sign_in(token_hash: &[u8; 32]) -> Vec<u8> {
    Key::of(Table::SignIns).bytes(token_hash).done()
}

pub(super) fn stream(id: StreamId) -> Vec<u8> {
    Key::of(Table::Streams).u32(id.number()).done()
}

pub(super) fn group(id: GroupId) -> Vec<u8> {
    Key::of(Table::Groups).u32(id.number()).done()
}

/// Each version of a template stays.
pub(super) fn template(number: u32, version: u32) -> Vec<u8> {
    Key::of(Table::Templates).u32(number).u32(version).done()
}

pub(super) fn broadcast(stream: StreamId) -> Vec<u8> {
    Key::of(Table::Broadcasts).u32(stream.number()).done()
}

/// An urgent entry, so that it is found among many others.
pub(super) fn urgent(stream: StreamId, seq: u64) -> Vec<u8> {
    Key::of(Table::Urgent).u32(stream.number()).u64(seq).done()
}

pub(super) fn entry(stream: StreamId, seq: u64) -> Vec<u8> {
    Key::of(Table::Entries).u32(stream.number()).u64(seq).done()
}

pub(super) fn ledger(device: DeviceId, epoch: Epoch) -> Vec<u8> {
    Key::of(Table::Ledgers)
        .u32(device.number())
        .u64(epoch.number())
        .done()
}

pub(super) fn operation(device: DeviceId, epoch: Epoch, op: OpNumber) -> Vec<u8> {
    Key::of(Table::Operations)
        .u32(device.number())
        .u64(epoch.number())
        .u64(op.number())
        .done()
}

pub(super) fn transfer(device: DeviceId, epoch: Epoch, stream: StreamId) -> Vec<u8> {
    Key::of(Table::Transfers)
        .u32(device.number())
        .u64(epoch.number())
        .u32(stream.number())
        .done()
}

pub(super) fn cursor(stream: StreamId, member: Member) -> Vec<u8> {
    Key::of(Table::Cursors).u32(stream.number()).member(member).done()
}

pub(super) fn receipt(stream: StreamId, member: Member, rung: Rung, last_seq: u64) -> Vec<u8> {
    Key::of(Table::Receipts)
        .u32(stream.number())
        .member(member)
        .u8(rung as u8)
        .u64(last_seq)
        .done()
}

pub(super) fn event(cursor: u64) -> Vec<u8> {
    Key::of(Table::Events).u64(cursor).done()
}

pub(super) fn audit(number: u64) -> Vec<u8> {
    Key::of(Table::Audit).u64(number).done()
}

pub(super) fn latest(device: DeviceId) -> Vec<u8> {
    Key::of(Table::Latest).u32(device.number()).done()
}

pub(super) fn clock(device: DeviceId) -> Vec<u8> {
    Key::of(Table::Clocks).u32(device.number()).done()
}

pub(super) fn track(device: DeviceId, at_ms: i64) -> Vec<u8> {
    Key::of(Table::Track).u32(device.number()).i64(at_ms).done()
}

pub(super) fn posted(caller: Caller, key: &str) -> Vec<u8> {
    Key::of(Table::Posted)
        .u32(match caller {
            // No person has this number.
            Caller::Server => 0,
            Caller::Named(person) => person.number(),
        })
        .bytes(key.as_bytes())
        .done()
}

/// Where [`posted`] was written at a time; the key of the record without its table stands at the end.
pub(super) fn posted_by_time(at_ms: i64, posted: &[u8]) -> Vec<u8> {
    Key::of(Table::PostedByTime)
        .i64(at_ms)
        .bytes(posted.get(1..).unwrap_or_default())
        .done()
}

/// Reads the numbers of a key, after the table's letter.
pub(super) struct Numbers<'a>(pub(super) &'a [u8]);

impl Numbers<'_> {
    pub(super) fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*first))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*first))
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        Some((self.u64()? ^ (1 << 63)).cast_signed())
    }

    pub(super) fn member(&mut self) -> Option<Member> {
        let (kind, number) = (self.u8()?, self.u32()?);
        match kind {
            0 => Some(Member::Office),
            1 => DeviceId::new(number).map(Member::Device),
            2 => PersonId::new(number).map(Member::Person),
            _ => None,
        }
    }
}
