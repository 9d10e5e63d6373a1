//! What is not needed any more: entries whose time is over, and entries whose place another has taken.
//!
//! An entry with an expiry is *open* until the server's wall clock has passed it; that clock is what an expiry means. Then
//! it is closed, once and for good: the mark goes in the same write as the event, and a clock that is put back opens
//! nothing again. A clock that is put ahead closes what it then says is over. Open ones are in memory and, as marks in
//! the order of time, on disk, so that nobody has to connect, and nothing has to be searched, for an expiry to be noticed.
//!
//! What closed, or was superseded, before a device held it is not sent to it any more: it travels as a skip range. That
//! moves the device's cursor over it, and is no delivery: [`Core::pass_over`] notes it before the cursor comes. Where it had
//! been sent before and nothing was heard of it, it counts as passed over from then on: nobody knows that it arrived.

use super::{Core, Now};
use crate::entry::{Author, Entry, EntryBody};
use crate::event::EventKind;
use crate::service::BridgeError;
use crate::store::{Change, Expiry, MemberCursor, Trim};
use crate::stream::{Member, Stream};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use waypost_proto::wire::{RefusalReason, SkipReason};
use waypost_proto::{Cumulative, DeviceId, Seq, StreamId};

/// How many entries are closed in one write; the next ones follow at once.
const CLOSED_AT_ONCE: usize = 256;
/// The wall clock is looked at this often while something is open: it may be put ahead.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How many stretches of entries that were passed over are remembered for a member of a stream; of more the lowest are
/// forgotten, and an entry in them counts as delivered once the device has passed it. At most 16 kB.
const PASSED_OVER_RANGES_MAX: usize = 1_024;
/// How many superseded entries are remembered while a store that was read before may not show it: those of the last moments.
const SUPERSEDED_RECENTLY_MAX: usize = 1_024;

/// What is open, and what was superseded just now.
///
/// Memory: about 40 bytes an entry that has an expiry ahead.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    open: BTreeSet<Expiry>,
    /// When the wall clock is to be looked at again.
    due: Option<Instant>,
    superseded_by: BTreeMap<(StreamId, u64), Seq>,
    superseded: VecDeque<(StreamId, u64)>,
}

impl Expiries {
    pub(super) fn new(open: BTreeSet<Expiry>) -> Self {
        Self {
            open,
            ..Self::default()
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Sets the next look, as soon as the time is known.
    pub(super) fn arm(&mut self, now: Now) {
        self.due = self.open.first().map(|next| {
            let left_ms = u64::try_from(next.at_ms.saturating_sub(now.wall_ms)).unwrap_or(0);
            now.monotonic + Duration::from_millis(left_ms).min(LOOK_EVERY)
        });
    }

    /// Whether its time is over.
    fn has_closed(&self, entry: &Entry, now: Now) -> bool {
        Expiry::of(entry).is_some_and(|expiry| expiry.at_ms <= now.wall_ms || !self.open.contains(&expiry))
    }

    /// Why an entry is not sent to a device that does not hold it; `None` where it is. Its author gets it in any case: it
    /// waits for the place of its words.
    pub(super) fn gone(&self, entry: &Entry, reader: Option<DeviceId>, now: Now) -> Option<SkipReason> {
        if reader.is_some_and(|reader| entry.author == Author::Device(reader)) {
            return None;
        }
        if entry.superseded_by.is_some() {
            return Some(SkipReason::Superseded);
        }
        self.has_closed(entry, now).then_some(SkipReason::Expired)
    }

    fn remember_superseded(&mut self, stream: StreamId, seq: u64, by: Seq) {
        self.superseded_by.insert((stream, seq), by);
        self.superseded.push_back((stream, seq));
        if self.superseded.len() > SUPERSEDED_RECENTLY_MAX
            && let Some(oldest) = self.superseded.pop_front()
        {
            self.superseded_by.remove(&oldest);
        }
    }
}

/// An entry whose place another is to take, as it was read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replaceable {
    Yes,
    /// There is none under that number, or it is no message.
    Unknown,
    /// It is of the other side.
    NotTheirs,
    /// It was superseded already.
    By(Seq),
}

impl Core {
    /// Whether `author` may supersede an entry: the office its own, a device its own, and each entry once.
    pub(super) fn replaceable(&self, found: Option<&Entry>, author: Author) -> Replaceable {
        let Some(entry) = found else {
            return Replaceable::Unknown;
        };
        let is_theirs = match (author, entry.author) {
            (Author::Device(device), Author::Device(of)) => device == of,
            (Author::Person(_), Author::Person(_)) => true,
            _ => false,
        };
        let staged = self
            .expiries
            .superseded_by
            .get(&(entry.stream, entry.seq.number()));
        match entry.superseded_by.or(staged.copied()) {
            _ if matches!(entry.body, EntryBody::Membership(..)) => Replaceable::Unknown,
            _ if !is_theirs => Replaceable::NotTheirs,
            Some(by) => Replaceable::By(by),
            None => Replaceable::Yes,
        }
    }

    /// The same for what a person writes.
    pub(super) fn check_replaced(&self, found: Option<&Entry>, author: Author) -> Result<(), BridgeError> {
        let expected = match self.replaceable(found, author) {
            Replaceable::Yes => return Ok(()),
            Replaceable::By(by) => return Err(BridgeError::Superseded { by }),
            Replaceable::Unknown => "the number of a message of this stream",
            Replaceable::NotTheirs => {
                "a message that the office wrote; a driver's can only be superseded by its driver"
            }
        };
        Err(super::directory::invalid("/supersedes", expected))
    }

    /// The same for what a device does.
    pub(super) fn check_replaced_by_device(
        &self,
        found: Option<&Entry>,
        device: DeviceId,
    ) -> Result<(), RefusalReason> {
        match self.replaceable(found, Author::Device(device)) {
            Replaceable::Yes => Ok(()),
            Replaceable::Unknown | Replaceable::NotTheirs | Replaceable::By(_) => {
                Err(RefusalReason::UnknownEntry)
            }
        }
    }

    /// Stages what a new entry says of its own end, and of that of another.
    pub(super) fn mark_end(&mut self, entry: &Entry, now: Now) {
        if let Some(expiry) = Expiry::of(entry) {
            self.expiries.open.insert(expiry);
            self.changes.push(Change::MarkExpiry(expiry));
        }
        if let Some(replaced) = entry.supersedes {
            let (stream, by) = (entry.stream, entry.seq);
            self.expiries.remember_superseded(stream, replaced.number(), by);
            self.changes.push(Change::MarkSuperseded {
                stream,
                seq: replaced,
                by,
            });
            let seq = replaced;
            self.log_event(EventKind::EntrySuperseded { stream, seq, by }, now);
        }
    }

    /// Closes what is over.
    pub(super) fn close_expired(&mut self, now: Now) {
        if self.stopping {
            return;
        }
        for _ in 0..CLOSED_AT_ONCE {
            let Some(expiry) = self
                .expiries
                .open
                .first()
                .copied()
                .filter(|expiry| expiry.at_ms <= now.wall_ms)
            else {
                break;
            };
            self.expiries.open.remove(&expiry);
            self.changes.push(Trim::Expiry(expiry).into());
            self.tell_expired(expiry, now);
        }
        self.expiries.arm(now);
        self.commit();
    }

    /// The event of an entry that closed before everybody had it.
    fn tell_expired(&mut self, expiry: Expiry, now: Now) {
        let Expiry { stream, seq, .. } = expiry;
        let Some(state) = self.streams.get(&stream) else {
            return;
        };
        // Of an entry that was trimmed nothing is told any more.
        let kept = seq.number() >= self.first_seq(stream);
        let missed = self.not_received(&state.stream, expiry);
        if kept && missed > 0 {
            metrics::counter!("waypost_bridge_entries_expired_total").increment(1);
            self.log_event(EventKind::EntryExpired { stream, seq, missed }, now);
        }
    }

    /// How many of those for whom an entry was have not received it, as far as they have said.
    fn not_received(&self, stream: &Stream, expiry: Expiry) -> u32 {
        let seq = expiry.seq.number();
        let members: BTreeSet<Member> = stream
            .members
            .iter()
            .map(|membership| membership.member)
            .collect();
        let waits = |member: &Member| {
            let is_author = match member {
                Member::Device(device) => expiry.author == Some(*device),
                Member::Office => expiry.author.is_none(),
                Member::Person(_) => true,
            };
            let cursor = self.cursors.get(&(stream.id, *member));
            let has = cursor.is_some_and(|cursor| match member {
                // The office's screens stand beside the server: it has received what it has read.
                Member::Office => cursor.read >= seq,
                _ => cursor.has_received(seq),
            });
            !is_author && stream.may_read(*member, seq) && !has
        };
        let missed = members.iter().filter(|member| waits(member)).count();
        u32::try_from(missed).unwrap_or(u32::MAX)
    }

    /// Entries are told to a device as gone: it will count them as held, and has not received them.
    pub(super) fn pass_over(&mut self, stream: StreamId, device: DeviceId, gone: &[(u64, u64)]) {
        let member = Member::Device(device);
        let before = self.cursors.get(&(stream, member)).cloned().unwrap_or_default();
        let mut after = before.clone();
        for &(first, last) in gone {
            for (first, last) in before.delivered.missing_within(first, last) {
                after.passed_over.insert_range(first, last);
            }
        }
        if after == before {
            return;
        }
        after.passed_over.forget_below(self.first_seq(stream));
        while after.passed_over.ranges() > PASSED_OVER_RANGES_MAX {
            metrics::counter!("waypost_bridge_passed_over_forgotten_total").increment(1);
            after.passed_over.forget_lowest_range();
        }
        self.put_cursor(stream, member, after);
    }

    /// Which entries of a stream a member was told to be gone instead of receiving them.
    pub(super) fn passed_over(&self, stream: StreamId, member: Member) -> Cumulative {
        self.cursors
            .get(&(stream, member))
            .map(|cursor| cursor.passed_over.clone())
            .unwrap_or_default()
    }
}

impl MemberCursor {
    /// Whether the member has an entry, and not merely word that it is gone.
    pub(super) fn has_received(&self, seq: u64) -> bool {
        self.delivered.contains(seq) && !self.passed_over.contains(seq)
    }
}
