//! Entries on their way to the screen.

use crate::client::ClientError;
use crate::{Client, Entry};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{OwnedMutexGuard, mpsc};

/// The entries that are to be shown, in the order in which they are to be shown.
///
/// An entry that was offered as current and is not any more, as its time is over or another has taken its place, comes again
/// with its new [`standing`](Entry::standing), to be struck out; confirming that changes nothing.
///
/// One consumer at a time. At most 64 are offered ahead of it; what waits beyond that waits on disk. What a consumer
/// did not confirm is offered again to the next one.
pub struct Entries {
    client: Client,
    offered: Option<Offered>,
    _only_consumer: OwnedMutexGuard<()>,
}

impl Entries {
    pub(crate) fn new(client: Client, only_consumer: OwnedMutexGuard<()>) -> Self {
        Self {
            client,
            offered: None,
            _only_consumer: only_consumer,
        }
    }

    /// The next entry; `None` once the client is closed. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Option<Incoming> {
        loop {
            let offered = match &mut self.offered {
                Some(offered) if !offered.withdrawn.is() => offered,
                slot => slot.insert(self.client.subscribe().await.ok()?),
            };
            let next = offered.entries.recv().await;
            if offered.withdrawn.is() {
                continue;
            }
            return next.map(|entry| Incoming {
                entry,
                client: self.client.clone(),
                withdrawn: offered.withdrawn.clone(),
            });
        }
    }
}

/// Entries that a consumer was offered.
pub(crate) struct Offered {
    pub(crate) entries: mpsc::Receiver<Entry>,
    pub(crate) withdrawn: Withdrawn,
}

/// Whether what a consumer was offered counts no more: the server's store is another one since, and the numbers of these
/// entries may be those of others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Withdrawn(Arc<AtomicBool>);

impl Withdrawn {
    pub(crate) fn withdraw(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// An entry that waits for the consumer to confirm that it was shown.
///
/// Dropped without a confirmation, it is offered again to the next consumer, also after a restart.
#[must_use = "an entry that is not confirmed is offered again after a restart"]
pub struct Incoming {
    /// What to show.
    pub entry: Entry,
    client: Client,
    withdrawn: Withdrawn,
}

impl Incoming {
    /// Records that the entry has been shown; returns once that is on disk.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn mark_shown(&self) -> Result<(), ClientError> {
        if self.withdrawn.is() {
            return Ok(());
        }
        self.client.mark_shown(self.entry.stream, self.entry.seq).await
    }

    /// Records that the driver has read everything up to this entry; returns once that is on disk, the server
    /// learns it as soon as there is a link.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn mark_read(&self) -> Result<(), ClientError> {
        if self.withdrawn.is() {
            return Ok(());
        }
        self.client.mark_read(self.entry.stream, self.entry.seq).await
    }
}
