//! The holder's side: serves the socket for as long as it has the store.

use super::history::history;
use super::message::{CatalogueReport, EntryReport, FixMessage, Request, Response, StatusReport, line};
use super::{ALREADY_HEARD, Confirm, ShortPath, confirm, read_line, reply, send};
use crate::client::PostError;
use crate::{Client, ClientError, Entries};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use waypost_proto::{Fix, Seq, StreamId};

/// Connections that are served at once.
const CONNECTIONS_MAX: usize = 16;
/// How long requests that are being done may take to end when the holder leaves.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

const NUMBERS_FROM_1: &str = "a stream and an entry have numbers from 1";

/// A socket that is being served.
pub(super) struct Server {
    path: PathBuf,
    stop: watch::Sender<Phase>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Leaving,
}

impl Server {
    /// Puts the socket in its place. Only the holder of the store's lock may: whatever lies there is of a process that
    /// is no more.
    pub(super) fn start(path: &Path, client: Client) -> std::io::Result<Self> {
        // Made under another name, so that nobody meets it before its mode is set.
        let fresh = path.with_extension("new");
        remove(&fresh)?;
        let listener = UnixListener::bind(ShortPath::of(&fresh)?.path())?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&fresh, path)?;
        let (stop, leaving) = watch::channel(Phase::Serving);
        let task = tokio::spawn(accept(listener, client, leaving));
        Ok(Self {
            path: path.to_owned(),
            stop,
            task,
        })
    }

    /// Takes no further requests, ends those that are being done, and takes the socket away.
    pub(super) async fn stop(mut self) {
        // Taken away first, and before the lock is given up: a later socket is another holder's.
        let _ = remove(&self.path);
        self.stop.send_replace(Phase::Leaving);
        let _ = tokio::time::timeout(STOP_TIMEOUT, &mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn accept(listener: UnixListener, client: Client, mut leaving: watch::Receiver<Phase>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            permit = room.clone().acquire_owned() => permit,
            _ = leaving.changed() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = leaving.changed() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (client, leaving) = (client.clone(), leaving.clone());
                connections.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = serve(stream, client, leaving).await {
                        tracing::debug!(%error, "a hand-over ended early");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a hand-over could not be accepted");
                tokio::time::sleep(super::ATTACH_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    while connections.join_next().await.is_some() {}
}

/// One connection: a request, its answer, the next; after `listen` entries in between.
async fn serve(
    stream: UnixStream,
    client: Client,
    mut leaving: watch::Receiver<Phase>,
) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader);
    let mut buffer = Vec::new();
    let mut entries: Option<Entries> = None;
    loop {
        let response = tokio::select! {
            request = read_line(&mut lines, &mut buffer) => match request? {
                None => return Ok(()),
                Some(request) => match serde_json::from_slice(&request) {
                    Ok(Request::Listen) => {
                        entries = client.entries();
                        if entries.is_some() { Response::Done } else { Response::Error(ALREADY_HEARD.to_owned()) }
                    }
                    Ok(request) => answer(&client, request, leaving.clone()).await,
                    Err(error) => Response::Error(format!("not a request: {error}")),
                },
            },
            incoming = next(&mut entries) => match incoming {
                Some(entry) => Response::Entry(Box::new(entry)),
                None => return Ok(()),
            },
            _ = leaving.changed() => return Ok(()),
        };
        let line = line(&response).map_err(std::io::Error::other)?;
        writer.write_all(&line).await?;
    }
}

async fn next(entries: &mut Option<Entries>) -> Option<EntryReport> {
    match entries {
        Some(entries) => entries
            .next()
            .await
            .map(|incoming| EntryReport::of(&incoming.entry)),
        None => std::future::pending().await,
    }
}

async fn answer(client: &Client, request: Request, mut leaving: watch::Receiver<Phase>) -> Response {
    // A holder that leaves says what it knows.
    let early = async {
        let _ = leaving.wait_for(|phase| *phase == Phase::Leaving).await;
    };
    match request {
        Request::Ping => Response::Done,
        Request::Post(post) => match post.into_message() {
            Some((message, wait)) => send(client, message, wait, early)
                .await
                .map_or_else(Response::from, Response::Sent),
            None => Response::Error(NUMBERS_FROM_1.to_owned()),
        },
        Request::Reply(post) => match post.into_message() {
            Some((message, wait)) => reply(client, message, wait, early)
                .await
                .map_or_else(Response::from, Response::Sent),
            None => Response::Error(NUMBERS_FROM_1.to_owned()),
        },
        Request::Templates => match client.templates().await {
            Ok(catalogue) => Response::Templates(CatalogueReport::of(&catalogue)),
            Err(error) => failed(error),
        },
        Request::Status => match client.status().await {
            Ok(status) => Response::Status(Box::new(StatusReport::of(&status))),
            Err(error) => failed(error),
        },
        Request::Record(fix) => done(client.record(fix.into_fix()).await),
        Request::Live(fix) => done(client.live(fix.into_fix()).await),
        Request::Recording { fixes } => {
            let fixes: Vec<Fix> = fixes.into_iter().map(FixMessage::into_fix).collect();
            done(client.put_recording(fixes).await.map(|_| ()))
        }
        Request::Flush => done(client.flush().await),
        Request::Drained { wait_ms } => match client.wait_drained(Duration::from_millis(wait_ms)).await {
            Ok(ops) => Response::Waiting(ops),
            Err(error) => failed(error),
        },
        Request::History(wanted) => match wanted.into_parts() {
            Some((stream, before, limit, wait)) => history(client, stream, before, limit, wait)
                .await
                .map_or_else(failed, Response::History),
            None => Response::Error(NUMBERS_FROM_1.to_owned()),
        },
        Request::Shown { stream, seq } => confirmed(client, stream, seq, Confirm::Shown).await,
        Request::Read { stream, seq } => confirmed(client, stream, seq, Confirm::Read).await,
        // Taken before it gets here.
        Request::Listen => Response::Error(ALREADY_HEARD.to_owned()),
    }
}

async fn confirmed(client: &Client, stream: u32, seq: u64, how: Confirm) -> Response {
    match (StreamId::new(stream), Seq::new(seq)) {
        (Some(stream), Some(seq)) => match confirm(client, stream, seq, how).await {
            Ok(()) => Response::Done,
            Err(error) => failed(error),
        },
        _ => Response::Error(NUMBERS_FROM_1.to_owned()),
    }
}

fn done(result: Result<(), PostError>) -> Response {
    result.map_or_else(Response::from, |()| Response::Done)
}

fn failed(error: ClientError) -> Response {
    PostError::Client(error).into()
}
