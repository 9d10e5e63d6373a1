//! How much room the disk has, and what is refused while it has little.
//!
//! Of the reserve the first third stops files, the second the history of positions, the last entries. What is refused
//! is said with a reason that passes by itself, so devices keep it and repeat it; nothing that was accepted is touched.
//! Whatever keeps the server in order goes on: sign-ins, revoking, cursors and receipts, where a device is, and
//! trimming, which is what makes room.

use super::{Core, Output};
use crate::service::BridgeError;
use waypost_proto::wire::RefusalReason;
use waypost_proto::{Body, Operation};

/// What there is room for, from much to little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Space {
    /// Everything.
    #[default]
    Ample,
    /// Everything but files.
    NoFiles,
    /// Entries, and where devices are, but not where they were.
    NoHistory,
    /// Nothing that grows.
    NoEntries,
}

impl Space {
    /// What there is room for where so much is free. A level that was reached is left when there is a twelfth of the
    /// reserve more than it asks for, so that it does not come and go with every compaction of the store.
    fn of(free_bytes: u64, reserve_bytes: u64, before: Self) -> Self {
        let level = |margin: u64| match () {
            () if free_bytes < reserve_bytes / 3 + margin => Self::NoEntries,
            () if free_bytes < reserve_bytes / 3 * 2 + margin => Self::NoHistory,
            () if free_bytes < reserve_bytes + margin => Self::NoFiles,
            () => Self::Ample,
        };
        let (at_least, at_most) = (level(0), level(reserve_bytes / 12));
        before.clamp(at_least, at_most)
    }
}

impl Core {
    /// So many bytes are free on the disk that holds the store.
    pub fn handle_free(&mut self, free_bytes: u64) {
        let reserve_bytes = self.options.disk_reserve_bytes;
        let space = Space::of(free_bytes, reserve_bytes, self.space);
        if reserve_bytes > 0 && space != self.space {
            self.space = space;
            self.outputs.push_back(Output::Space(space, free_bytes));
        }
    }

    /// Whether there is room for an operation.
    pub(super) fn check_room(&self, operation: &Operation) -> Result<(), RefusalReason> {
        let (full_from, kind) = match operation.body {
            Body::Track { .. } | Body::Batch { .. } => (Space::NoHistory, "history"),
            Body::Text(_) | Body::Reply(_) => (Space::NoEntries, "entries"),
        };
        self.check_level(full_from, kind)
            .map_err(|_| RefusalReason::NoSpace)
    }

    /// Whether there is room for an entry.
    pub(super) fn check_room_for_entry(&self) -> Result<(), BridgeError> {
        self.check_level(Space::NoEntries, "entries")
    }

    /// Whether there is room for where devices were.
    pub(super) fn check_room_for_history(&self) -> Result<(), BridgeError> {
        self.check_level(Space::NoHistory, "history")
    }

    fn check_level(&self, full_from: Space, kind: &'static str) -> Result<(), BridgeError> {
        if self.space < full_from {
            return Ok(());
        }
        metrics::counter!("waypost_bridge_no_space_total", "kind" => kind).increment(1);
        Err(BridgeError::NoSpace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_entered_at_its_third_and_left_a_twelfth_above_it() {
        use Space::{Ample, NoEntries, NoFiles, NoHistory};
        let mut space = Ample;
        for (free_mb, expected) in [
            (2_000, Ample),
            (600, Ample),
            (599, NoFiles),
            (649, NoFiles),
            (400, NoFiles),
            (399, NoHistory),
            (449, NoHistory),
            (200, NoHistory),
            (199, NoEntries),
            (0, NoEntries),
            (249, NoEntries),
            (250, NoHistory),
            (449, NoHistory),
            (450, NoFiles),
            (649, NoFiles),
            (650, Ample),
            (600, Ample),
            (0, NoEntries),
            (2_000, Ample),
            (300, NoHistory),
            (500, NoFiles),
        ] {
            space = Space::of(free_mb * 1_000_000, 600_000_000, space);
            assert_eq!(space, expected, "{free_mb} MB");
        }
    }
}
