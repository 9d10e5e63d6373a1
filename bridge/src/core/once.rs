//! Makes things once, however often the request for them is repeated.

use super::{Core, Now, Ticket};
use crate::once::{Caller, Made, Novelty, Once, Posted, REMEMBERED_MS};
use crate::service::BridgeError;
use crate::store::Change;
use std::collections::{BTreeMap, VecDeque};

/// How many keys that are no longer remembered go with each new one: more than one, so that they cannot pile up.
const EXPIRED_WITH_EACH: u32 = 4;

impl Core {
    /// Stages what `stage` makes, the line of the audit record, and, under a key, the record of it, as one write. `stage` checks everything before
    /// it stages anything, and does not commit.
    ///
    /// A repetition stages nothing and names what was made; the ticket is that of the first write while it is open.
    pub(crate) fn make(
        &mut self,
        once: Option<Once>,
        now: Now,
        stage: impl FnOnce(&mut Self) -> Result<Made, BridgeError>,
    ) -> Result<((Made, Novelty), Option<Ticket>), BridgeError> {
        let Some(once) = once else {
            let made = stage(self)?;
            self.audit_made(made);
            return Ok(((made, Novelty::New), self.commit()));
        };
        if let Some((posted, ticket)) = self.recent_posts.find(&once)
            && let Some(made) = posted.answers(&once, now.wall_ms)?
        {
            let open = self.pending.back().is_some_and(|(last, _)| *last >= ticket)
                && self.pending.front().is_some_and(|(first, _)| *first <= ticket);
            return Ok(((made, Novelty::Again), open.then_some(ticket)));
        }
        let made = stage(self)?;
        self.audit_made(made);
        let posted = Posted {
            digest: once.digest,
            made,
            at_ms: now.wall_ms,
        };
        self.changes.push(Change::PutPosted {
            caller: once.caller,
            key: once.key.clone(),
            posted: posted.clone(),
        });
        self.changes.push(Change::ExpirePosted {
            before_ms: now.wall_ms.saturating_sub(REMEMBERED_MS),
            at_most: EXPIRED_WITH_EACH,
        });
        let ticket = self.commit().expect("the key was staged");
        self.recent_posts.remember(once, posted, ticket);
        Ok(((made, Novelty::New), Some(ticket)))
    }
}

/// The last requests with a key, so that a repetition which overtakes its own answer takes no second effect. Older
/// ones are found in the store.
#[derive(Debug, Default)]
pub(super) struct RecentPosts {
    posts: BTreeMap<(Caller, String), (Posted, Ticket)>,
    order: VecDeque<(Caller, String)>,
}

impl RecentPosts {
    /// More than can be open at once.
    const MAX: usize = 4 * super::WRITES_MAX;

    fn find(&self, once: &Once) -> Option<(Posted, Ticket)> {
        self.posts.get(&(once.caller, once.key.clone())).cloned()
    }

    fn remember(&mut self, once: Once, posted: Posted, ticket: Ticket) {
        let key = (once.caller, once.key);
        if self.posts.insert(key.clone(), (posted, ticket)).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > Self::MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.posts.remove(&oldest);
        }
    }
}
