//! The clock of a broker: one task that has done by itself what is due by itself, delayed wills and the end of sessions.

use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::broker::Shared;
use crate::signal::Signal;

/// Runs until the broker is gone. The signal is raised when something is due earlier than the clock knows, and when the broker
/// goes.
pub(crate) async fn run(shared: Weak<Shared>, signal: Arc<Signal>) {
    loop {
        let Some(next) = shared.upgrade().map(|shared| shared.do_what_is_due()) else {
            return;
        };
        let raised = poll_fn(|context| signal.poll(context));
        match next {
            Some(at) => {
                let due = tokio::time::sleep_until(at.into());
                tokio::select! {
                    () = raised => {}
                    () = due => {}
                }
            }
            None => raised.await,
        }
    }
}

/// When the clock will look next, so that only what is due earlier wakes it.
#[derive(Debug, Default)]
pub(crate) struct Armed {
    at: Option<Instant>,
}

impl Armed {
    /// The clock has looked, and looks again then.
    pub(crate) fn set(&mut self, next: Option<Instant>) {
        self.at = next;
    }

    /// Does the clock have to be told of what is due next?
    pub(crate) fn is_late_for(&mut self, next: Option<Instant>) -> bool {
        let Some(next) = next.filter(|next| self.at.is_none_or(|at| *next < at)) else {
            return false;
        };
        self.at = Some(next);
        true
    }
}
