//! All sessions, and what they hold together. Sums are kept as sessions change, so that nobody has to walk over all of them.

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;

use slab::Slab;

use super::session::Session;

/// The sessions of a broker by their slot.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    slots: Slab<Session>,
    held: Held,
    /// How many sessions of each principal outlive their connection; none is missing, none is zero.
    kept: BTreeMap<Arc<str>, usize>,
}

/// What sessions hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Sessions without a connection.
    pub(crate) detached: usize,
    /// Messages that wait, or were sent and are not acknowledged to the end.
    pub(crate) queued_messages: usize,
    /// As [`crate::Limits::queued_bytes_max`] counts them.
    pub(crate) queued_bytes: usize,
    /// The part of it that waits for sessions without a connection.
    pub(crate) detached_bytes: usize,
    /// Messages that were sent and are not acknowledged to the end.
    pub(crate) inflight: usize,
}

impl Held {
    fn of(session: &Session) -> Held {
        let detached = usize::from(session.connection.is_none());
        Held {
            detached,
            queued_messages: session.queued_messages(),
            queued_bytes: session.queued_bytes(),
            detached_bytes: detached * session.queued_bytes(),
            inflight: session.inflight(),
        }
    }

    fn replace(&mut self, before: Held, after: Held) {
        self.detached = self.detached + after.detached - before.detached;
        self.queued_messages = self.queued_messages + after.queued_messages - before.queued_messages;
        self.queued_bytes = self.queued_bytes + after.queued_bytes - before.queued_bytes;
        self.detached_bytes = self.detached_bytes + after.detached_bytes - before.detached_bytes;
        self.inflight = self.inflight + after.inflight - before.inflight;
    }
}

impl Sessions {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn held(&self) -> Held {
        self.held
    }

    /// How many sessions of this principal outlive their connection.
    pub(crate) fn kept_of(&self, principal: &str) -> usize {
        self.kept.get(principal).copied().unwrap_or(0)
    }

    pub(crate) fn get(&self, key: usize) -> Option<&Session> {
        self.slots.get(key)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn iter(&self) -> slab::Iter<'_, Session> {
        self.slots.iter()
    }

    pub(crate) fn insert(&mut self, session: Session) -> usize {
        self.held.replace(Held::default(), Held::of(&session));
        self.count_kept(&session, 1);
        self.slots.insert(session)
    }

    pub(crate) fn remove(&mut self, key: usize) -> Session {
        let session = self.slots.remove(key);
        self.held.replace(Held::of(&session), Held::default());
        self.count_kept(&session, -1);
        session
    }

    /// Changes one session, and what all of them hold with it.
    pub(crate) fn change<R>(&mut self, key: usize, change: impl FnOnce(&mut Session) -> R) -> R {
        let session = &mut self.slots[key];
        let (before, was_kept) = (Held::of(session), session.is_kept());
        let result = change(session);
        self.held.replace(before, Held::of(session));
        if session.is_kept() != was_kept {
            let principal = session.principal.name.clone();
            self.adjust_kept(&principal, if was_kept { -1 } else { 1 });
        }
        result
    }

    fn count_kept(&mut self, session: &Session, by: isize) {
        if session.is_kept() {
            self.adjust_kept(&session.principal.name, by);
        }
    }

    fn adjust_kept(&mut self, principal: &Arc<str>, by: isize) {
        let count = self.kept.entry(principal.clone()).or_default();
        *count = count.saturating_add_signed(by);
        if *count == 0 {
            self.kept.remove(principal);
        }
    }
}

impl Index<usize> for Sessions {
    type Output = Session;

    fn index(&self, key: usize) -> &Session {
        &self.slots[key]
    }
}
