//! How the rim tells a sleeping task that the core has something for it: one waker and one flag, 32 bytes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// A level-triggered wake-up for one waiting task.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: AtomicBool,
    waiter: AtomicWaker,
}

impl Signal {
    /// Wakes the waiter, or lets its next wait return at once.
    pub(crate) fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        self.waiter.wake();
    }

    /// Ready once for any number of `raise` since the last time.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waiter.register(context.waker());
        if self.raised.swap(false, Ordering::AcqRel) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}
