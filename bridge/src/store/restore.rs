//! Where a store that was put back from a backup parted from the one before it.

use crate::event::EventCursor;
use std::collections::BTreeMap;
use waypost_proto::{Incarnation, StreamId};

/// Events of a restored store are at least so far above those of its backup: more than any server writes between a backup
/// and its loss.
const EVENT_GAP_MIN: u64 = 1_000_000_000;
/// Beyond that the distance is random, so that two stores from the same backup do not number events alike.
const EVENT_GAP_MASK: u64 = (1 << 38) - 1;

/// One restore in the past of a store: up to here it is the same as the store that was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The store that the backup is of.
    pub of: Incarnation,
    /// The number of the last entry of each stream that there was.
    pub heads: BTreeMap<StreamId, u64>,
    /// The last event that both have.
    pub last_event: EventCursor,
    /// The first event that only this store has.
    pub first_event: EventCursor,
}

impl Restore {
    pub(super) fn of(
        of: Incarnation,
        heads: BTreeMap<StreamId, u64>,
        last_event: EventCursor,
        random: u64,
    ) -> Self {
        Self {
            of,
            heads,
            last_event,
            first_event: last_event + EVENT_GAP_MIN + (random & EVENT_GAP_MASK),
        }
    }

    /// Whether an event of the store that was lost may have had this number, and none of this store has.
    pub fn lost(&self, event: EventCursor) -> bool {
        // The number before the first is where one begins who was there when nothing had happened yet.
        self.last_event < event && event + 1 < self.first_event
    }
}
