//! What ends: operations whose time is over before they leave, and entries that are current no more.
//!
//! An entry expires by the server's clock, which the device estimates; before it has ever met a server, its own wall clock
//! is the best guess. Whoever shows an entry is told its standing with it. Where that changes after it was offered as
//! current, the entry is offered again, with its new standing: [`Core::poll_changed`].

use super::write::Batch;
use super::{Core, Now, RefusalReason};
use crate::{Entry, Standing};
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use waypost_proto::{Seq, StreamId};

/// Entries that were offered as current and will expire; of more those that end last are not offered again then. 32 bytes
/// each.
const ENDS_MAX: usize = 4_096;
/// Entries whose change waits for the screen; of more the oldest are left out: their standing is still told with the history.
const CHANGED_MAX: usize = 4_096;

/// The standing of entries that were offered.
#[derive(Debug, Default)]
pub(super) struct Standings {
    /// Offered as current, by the end: UTC milliseconds, server clock.
    ends: BTreeSet<(i64, StreamId, Seq)>,
    /// To be offered again.
    changed: VecDeque<(StreamId, Seq)>,
}

impl Standings {
    /// Only these count from now on.
    pub(super) fn retain(&mut self, stays: impl Fn(StreamId, Seq) -> bool) {
        self.ends.retain(|&(_, stream, seq)| stays(stream, seq));
        self.changed.retain(|&(stream, seq)| stays(stream, seq));
    }
}

impl Entry {
    /// The entry as it stands when the server's clock shows `server_ms`. Whoever read it from a store knows whether it was
    /// superseded, and no more.
    #[must_use]
    pub(crate) fn seen_at(self, server_ms: i64) -> Self {
        let is_over = self.expires_ms.is_some_and(|expires_ms| expires_ms <= server_ms);
        let standing = match self.standing {
            Standing::Current if is_over => Standing::Expired,
            standing => standing,
        };
        Self { standing, ..self }
    }
}

impl Core {
    /// The time by which entries expire.
    pub(crate) fn expiry_ms(&self, now: Now) -> i64 {
        self.server_ms(now).unwrap_or(now.wall_ms)
    }

    /// An entry that [`poll_show`](Self::poll_show) or [`poll_changed`](Self::poll_changed) named, as it is to be shown now.
    pub(crate) fn offer(&mut self, entry: Entry, now: Now) -> Entry {
        let entry = entry.seen_at(self.expiry_ms(now));
        let (stream, seq) = (entry.stream, entry.seq);
        if entry.standing != Standing::Current {
            self.standings.changed.retain(|&changed| changed != (stream, seq));
        } else if let Some(expires_ms) = entry.expires_ms {
            self.standings.ends.insert((expires_ms, stream, seq));
            if self.standings.ends.len() > ENDS_MAX {
                self.standings.ends.pop_last();
                self.counters.standings_over_bound += 1;
            }
        }
        entry
    }

    /// The next entry that was offered as current and is not any more.
    pub(crate) fn poll_changed(&mut self) -> Option<(StreamId, Seq)> {
        self.standings.changed.pop_front()
    }

    /// Whether [`poll_changed`](Self::poll_changed) has an entry.
    pub(crate) fn has_changed(&self) -> bool {
        !self.standings.changed.is_empty()
    }

    /// The entry that has taken the place of this one is on disk.
    pub(super) fn superseded(&mut self, stream: StreamId, seq: Seq) {
        // What is not offered yet will be with its standing.
        if self.inbox.has_been_offered(stream, seq) {
            self.change(stream, seq);
        }
    }

    fn change(&mut self, stream: StreamId, seq: Seq) {
        if self.standings.changed.len() >= CHANGED_MAX {
            self.standings.changed.pop_front();
            self.counters.standings_over_bound += 1;
        }
        self.standings.changed.push_back((stream, seq));
    }

    /// When [`end_what_is_over`](Self::end_what_is_over) has something to do.
    pub(super) fn next_end(&self, now: Now) -> Option<Instant> {
        let entry = self.standings.ends.first().map(|&(expires_ms, ..)| {
            let left_ms = expires_ms.saturating_sub(self.expiry_ms(now));
            now.mono + Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
        });
        entry.into_iter().chain(self.outbox.next_expiry(now)).min()
    }

    /// Parks operations whose time is over before the server can have seen them, and finds what was offered as current and
    /// has expired.
    pub(super) fn end_what_is_over(&mut self, now: Now) {
        let server_ms = self.expiry_ms(now);
        while let Some(&(expires_ms, stream, seq)) = self.standings.ends.first()
            && expires_ms <= server_ms
        {
            self.standings.ends.pop_first();
            self.change(stream, seq);
        }
        let mut batch = Batch::default();
        for id in self.outbox.take_expired(now, &self.server_clock) {
            self.park(id, RefusalReason::Expired, &mut batch);
        }
        self.write(batch, now);
    }
}
