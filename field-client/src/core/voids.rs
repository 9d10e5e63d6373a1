//! Numbers that will never come, as ranges.
//!
//! Bound: numbers side by side are one range as long as their reason is the same, and whatever their reasons are above
//! [`VOID_RANGES_MAX`]. Between two ranges stands an operation that waits, or one that was accepted and whose
//! acknowledgement covers the ranges too; so there are at most [`VOID_RANGES_MAX`] more than operations wait. 48 bytes each.

use super::write::Batch;
use super::{Core, Effect, Mutation, StoredVoid};
use std::time::Instant;
use waypost_proto::OpNumber;
use waypost_proto::wire::VoidReason;

/// Above it neighbours become one range, and what they had different reasons for has none.
const VOID_RANGES_MAX: usize = 10_000;
/// The most numbers of a range that grows: the server takes no number too far ahead.
const RANGE_COUNT_MAX: u32 = 65_536;
/// Ranges under way that do not touch what the server has accepted. Each is one more gap in the server's ledger, which
/// holds few of them, and has them filled by what comes first anyway.
pub(super) const VOIDS_APART_MAX: usize = 8;

/// A range of such numbers, by its first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Void {
    pub(super) count: u32,
    pub(super) reason: VoidReason,
    /// Its write is on disk.
    pub(super) stored: bool,
    pub(super) sent: Option<Instant>,
}

impl Void {
    pub(super) fn restored(void: &StoredVoid) -> Self {
        Self {
            count: void.count,
            reason: void.reason,
            stored: true,
            sent: None,
        }
    }
}

impl Core {
    /// Numbers will never come: said to the server as soon as that is on disk, and until it has them in its ledger.
    pub(super) fn put_void(&mut self, first: OpNumber, count: u32, reason: VoidReason, batch: &mut Batch) {
        let mut range = StoredVoid { first, count, reason };
        let before = self.voids.range(..first).next_back();
        if let Some(joined) = before.and_then(|before| self.joined(of(before), range)) {
            self.voids.remove(&joined.first);
            range = joined;
        }
        let after = self.voids.range(range.first..).next();
        if let Some((&beside, void)) = after
            && let Some(joined) = self.joined(range, of((&beside, void)))
        {
            self.voids.remove(&beside);
            batch.mutations.push(Mutation::ClearVoid(beside));
            range = joined;
        }
        let void = Void {
            stored: false,
            ..Void::restored(&range)
        };
        self.voids.insert(range.first, void);
        batch.mutations.push(Mutation::PutVoid(range));
        batch.effects.push(Effect::VoidStored(range));
    }

    /// The range is on disk, unless it has become a longer one since, whose write follows.
    pub(super) fn void_stored(&mut self, stored: StoredVoid) {
        if let Some(void) = self.voids.get_mut(&stored.first)
            && void.count == stored.count
        {
            void.stored = true;
        }
    }

    /// Two ranges as one, where they may be.
    fn joined(&self, range: StoredVoid, next: StoredVoid) -> Option<StoredVoid> {
        let touch = range.first.number() + u64::from(range.count) == next.first.number();
        let count = range.count.checked_add(next.count)?;
        let reason = if range.reason == next.reason {
            range.reason
        } else if self.voids.len() >= VOID_RANGES_MAX {
            VoidReason::Unspecified
        } else {
            return None;
        };
        (touch && count <= RANGE_COUNT_MAX).then_some(StoredVoid {
            count,
            reason,
            ..range
        })
    }
}

fn of((&first, void): (&OpNumber, &Void)) -> StoredVoid {
    StoredVoid {
        first,
        count: void.count,
        reason: void.reason,
    }
}
