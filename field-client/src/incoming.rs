//! Entries on their way to the screen.

use crate::client::ClientError;
use crate::{Client, Entry};
use tokio::sync::{OwnedMutexGuard, mpsc};

/// The entries that are to be shown, in the order in which they are to be shown.
///
/// One consumer at a time. At most 64 are offered ahead of it; what waits beyond that waits on disk. What a consumer
/// did not confirm is offered again to the next one.
pub struct Entries {
    client: Client,
    receiver: Option<mpsc::Receiver<Entry>>,
    _only_consumer: OwnedMutexGuard<()>,
}

impl Entries {
    pub(crate) fn new(client: Client, only_consumer: OwnedMutexGuard<()>) -> Self {
        Self {
            client,
            receiver: None,
            _only_consumer: only_consumer,
        }
    }

    /// The next entry; `None` once the client is closed. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Option<Incoming> {
        let receiver = match &mut self.receiver {
            Some(receiver) => receiver,
            slot => slot.insert(self.client.subscribe().await.ok()?),
        };
        let entry = receiver.recv().await?;
        Some(Incoming {
            entry,
            client: self.client.clone(),
        })
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
}

impl Incoming {
    /// Records that the entry has been shown; returns once that is on disk.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn mark_shown(&self) -> Result<(), ClientError> {
        self.client.mark_shown(self.entry.stream, self.entry.seq).await
    }

    /// Records that the driver has read everything up to this entry; returns once that is on disk, the server
    /// learns it as soon as there is a link.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn mark_read(&self) -> Result<(), ClientError> {
        self.client.mark_read(self.entry.stream, self.entry.seq).await
    }
}
