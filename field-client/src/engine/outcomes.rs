//! What became of operations, for those who wait for it.

use crate::client::Outcome;
use crate::core::PostId;
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// Outcomes that are remembered; an older operation is known to be accepted, its seq is not.
const SETTLED_MAX: usize = 10_000;

/// Outcomes of this process, and who waits for more.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    settled: BTreeMap<PostId, Outcome>,
    /// One row for each call that waits; callers that have given up are dropped with the next one that waits.
    waiting: BTreeMap<PostId, Vec<oneshot::Sender<Outcome>>>,
}

impl Outcomes {
    pub(super) fn wait(&mut self, id: PostId, reply: oneshot::Sender<Outcome>) {
        self.waiting.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
        self.waiting.entry(id).or_default().push(reply);
    }

    pub(super) fn settle(&mut self, id: PostId, outcome: Outcome) {
        for reply in self.waiting.remove(&id).into_iter().flatten() {
            let _ = reply.send(outcome);
        }
        self.settled.insert(id, outcome);
        if self.settled.len() > SETTLED_MAX {
            self.settled.pop_first();
        }
    }

    pub(super) fn settled(&self, id: PostId) -> Option<Outcome> {
        self.settled.get(&id).copied()
    }
}
