//! The thread that owns the store: writes that wait become one transaction, reads come between them.

use crate::Entry;
use crate::core::{PostId, Ticket, Write};
use crate::store::{Engine, Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use waypost_proto::wire;
use waypost_proto::{Incarnation, Seq, StreamId};

/// Jobs that may wait; the engine keeps what finds no room and takes no further inputs.
pub(crate) const JOBS_MAX: usize = 1_024;
/// Writes that become one transaction.
const GROUP_MAX: usize = 512;

/// What the store is asked to do.
pub(crate) enum Job {
    Write(Write),
    Load(Vec<PostId>),
    /// For the screen with this number.
    Entry {
        screen: u64,
        why: Why,
        incarnation: Incarnation,
        stream: StreamId,
        seq: Seq,
    },
    History {
        incarnation: Incarnation,
        stream: StreamId,
        before: Option<Seq>,
        limit: usize,
        /// The server's clock, UTC milliseconds: what has expired by then is current no more.
        server_ms: i64,
        reply: oneshot::Sender<Vec<Entry>>,
    },
}

/// Why an entry goes to a screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was not shown yet.
    New,
    /// It was offered as current, and is not any more.
    Changed,
}

/// What it has done.
pub(crate) enum Done {
    /// Everything up to the ticket is on disk.
    Stored(Ticket),
    /// Contents, where there are any.
    Loaded(Vec<(PostId, Option<wire::Operation>)>),
    /// An entry for the screen; `None` where it was shown before, or is not there any more.
    Entry {
        screen: u64,
        why: Why,
        stream: StreamId,
        seq: Seq,
        entry: Option<Box<Entry>>,
    },
    /// The store failed, and takes no further jobs.
    Failed(StoreError),
}

/// Starts the thread. It ends when the sender of `jobs` is gone, frees the store, and says so on `closed`.
pub(crate) fn spawn<E: Engine + 'static>(
    store: Store<E>,
    jobs: mpsc::Receiver<Job>,
    done: mpsc::UnboundedSender<Done>,
    closed: oneshot::Sender<()>,
) -> std::io::Result<()> {
    // `done` has no bound of its own: it holds at most one answer for each job, and jobs are bounded.
    let body = move || {
        if let Err(error) = run(store, jobs, &done) {
            let _ = done.send(Done::Failed(error));
        }
        let _ = closed.send(());
    };
    std::thread::Builder::new()
        .name("waypost-store".to_owned())
        .spawn(body)
        .map(|_| ())
}

fn run<E: Engine>(
    mut store: Store<E>,
    mut jobs: mpsc::Receiver<Job>,
    done: &mpsc::UnboundedSender<Done>,
) -> Result<(), StoreError> {
    let mut next = jobs.blocking_recv();
    while let Some(job) = next.take() {
        match job {
            Job::Write(first) => {
                let mut group = vec![first];
                while group.len() < GROUP_MAX {
                    match jobs.try_recv() {
                        Ok(Job::Write(write)) => group.push(write),
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                store.commit(&group)?;
                if let Some(last) = group.last() {
                    let _ = done.send(Done::Stored(last.ticket));
                }
            }
            Job::Load(ids) => {
                let load = |id| Ok((id, store.content(id)?));
                let loaded = ids.into_iter().map(load).collect::<Result<_, StoreError>>()?;
                let _ = done.send(Done::Loaded(loaded));
            }
            Job::Entry {
                screen,
                why,
                incarnation,
                stream,
                seq,
            } => {
                let entry = match why {
                    Why::New => store.entry_to_show(incarnation, stream, seq)?,
                    Why::Changed => store.entry(incarnation, stream, seq)?,
                };
                let entry = entry.map(Box::new);
                let _ = done.send(Done::Entry {
                    screen,
                    why,
                    stream,
                    seq,
                    entry,
                });
            }
            Job::History {
                incarnation,
                stream,
                before,
                limit,
                server_ms,
                reply,
            } => {
                let entries = store.history(incarnation, stream, before, limit)?;
                let _ = reply.send(
                    entries
                        .into_iter()
                        .map(|entry| entry.seen_at(server_ms))
                        .collect(),
                );
            }
        }
        if next.is_none() {
            next = jobs.blocking_recv();
        }
    }
    Ok(())
}
