//! The one writer: a thread that gathers what is waiting into one durable commit.

use crate::core::Ticket;
use crate::store::{Change, OWNER_EVERY, Store, StoreError};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use tokio::sync::mpsc as tokio_mpsc;

/// How many changes one commit gathers at most; each is a record of at most a few kilobytes.
const CHANGES_MAX: usize = 8_192;

/// The way to the writer. Dropping it ends the thread after everything given is written.
///
/// The queue has no bound of its own: the core stops taking input while more than
/// [`crate::core::WRITES_MAX`] writes are open.
pub(crate) struct Writer {
    writes: Sender<(Ticket, Vec<Change>)>,
}

/// What the writer reports, in the order of the tickets.
pub(crate) type Written = tokio_mpsc::UnboundedReceiver<Result<Ticket, StoreError>>;

impl Writer {
    pub(crate) fn start(store: Arc<dyn Store>) -> (Self, Written) {
        let (writes, waiting) = channel();
        // At most as many reports as writes are open: see `Writer`.
        let (report, written) = tokio_mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_all(store.as_ref(), &waiting, &report))
            .expect("a thread can be started");
        (Self { writes }, written)
    }

    /// Hands a batch over; reported when it is durable.
    pub(crate) fn write(&self, ticket: Ticket, changes: Vec<Change>) {
        // A writer that is gone has reported the failure that ended it.
        let _ = self.writes.send((ticket, changes));
    }
}

fn write_all(
    store: &dyn Store,
    waiting: &Receiver<(Ticket, Vec<Change>)>,
    report: &tokio_mpsc::UnboundedSender<Result<Ticket, StoreError>>,
) {
    loop {
        let (first, mut changes) = match waiting.recv_timeout(OWNER_EVERY) {
            Ok(write) => write,
            // A commit looks by itself.
            Err(RecvTimeoutError::Timeout) => match store.check_owner() {
                Ok(()) => continue,
                Err(error) => {
                    // Whoever is gone needs no report.
                    let _ = report.send(Err(error));
                    return;
                }
            },
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut last = first;
        while changes.len() < CHANGES_MAX
            && let Ok((ticket, more)) = waiting.try_recv()
        {
            last = ticket;
            changes.extend(more);
        }
        #[cfg(feature = "fault-injection")]
        if crate::fault::is("bridge-sync") {
            let _ = report.send(Ok(last));
        }
        // Durable before visible: the report, on which every acknowledgement hangs, follows the commit.
        let result = store.commit(&changes).map(|()| last);
        let failed = result.is_err();
        if report.send(result).is_err() || failed {
            return;
        }
    }
}
