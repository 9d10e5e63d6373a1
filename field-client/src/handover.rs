//! One state folder, several processes: whoever holds the store serves the others.
//!
//! The store can be open once. The process that has it listens on the Unix socket `control.sock` in the state folder
//! (mode 0600, in a folder of mode 0700); the others send it their requests, one JSON object a line, and get one
//! JSON object a line back: `{"ok": …}` or `{"error": "…"}`. [`Driver`] hides which of the two a process is.
//!
//! A socket that a killed process left behind does no harm: the store's lock decides who holds the folder, and the
//! holder puts a socket of its own in the place.
//!
//! Bounds: 16 connections at once, a further one waits; a line of at most 1 MB, a longer one ends its connection.

mod history;
mod message;
mod server;

#[cfg(test)]
mod tests;

pub use history::HistoryReport;
pub use message::{
    CatalogueReport, EarlierReport, EntryReport, GroupReport, MemberReport, ReplyReport, SendReport,
    SlotReport, StatusReport, TemplateReport,
};

use crate::catalogue::BadReply;
use crate::client::{Outcome, PostError};
use crate::{Client, ClientError, Credentials, Entries, Message, OpenError, Options, Posted, ReplyMessage};
use message::{FixMessage, PostMessage, PostReplyMessage, Request, Response};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;
use waypost_proto::{Fix, Seq, StreamId};

/// How long one waits for a holder that is just starting or just leaving.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at it.
const ATTACH_PAUSE: Duration = Duration::from_millis(50);
/// The longest line of the hand-over: the largest catalogue takes less than half of it as JSON.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Fixes that are handed over in one line: whole operations of a recording.
const FIXES_MAX: usize = 480;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The state folder cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Another process holds the state folder and does not answer on its socket.
    #[error("another process holds the state folder and does not answer on {path}: {why}")]
    NoAnswer {
        /// The socket.
        path: String,
        /// What happened on it.
        why: String,
    },
    /// The holder ended while it had the request: it may or may not have been done.
    #[error("the process that holds the state folder ended; the request may or may not have been done")]
    HolderGone,
    /// The operation was not stored.
    #[error(transparent)]
    Post(#[from] PostError),
    /// The holder says why it did not do it.
    #[error("{0}")]
    Refused(String),
}

impl From<ClientError> for HandoverError {
    fn from(error: ClientError) -> Self {
        Self::Post(PostError::Client(error))
    }
}

/// A device's client, in this process or in the one that holds the state folder.
pub struct Driver {
    credentials: Credentials,
    state_dir: PathBuf,
    options: Options,
    seat: Mutex<Seat>,
}

/// Where the client is.
enum Seat {
    /// Here, and it serves the others.
    Holder(Client, server::Server),
    /// In another process.
    Attached(Connection),
}

/// How an entry is confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// It was on the screen.
    Shown,
    /// The driver has read it, and everything before it.
    Read,
}

impl Driver {
    /// Opens the state folder, or attaches to the process that holds it.
    ///
    /// # Errors
    /// [`HandoverError::Open`], or [`HandoverError::NoAnswer`] after ten seconds.
    pub async fn attach_or_open(
        credentials: Credentials,
        state_dir: impl AsRef<Path>,
        options: Options,
    ) -> Result<Self, HandoverError> {
        let state_dir = state_dir.as_ref().to_owned();
        let seat = Mutex::new(take_seat(&credentials, &state_dir, &options).await?);
        Ok(Self {
            credentials,
            state_dir,
            options,
            seat,
        })
    }

    /// The client, where this process holds it; `None` where another does.
    pub async fn client(&self) -> Option<Client> {
        match &*self.seat.lock().await {
            Seat::Holder(client, _) => Some(client.clone()),
            Seat::Attached(_) => None,
        }
    }

    /// Stores a message and waits up to `wait` for the server to accept it.
    ///
    /// # Errors
    /// [`HandoverError`]; after `HolderGone` it may be stored.
    pub async fn send(&self, message: Message, wait: Duration) -> Result<SendReport, HandoverError> {
        let request = Request::Post(PostMessage::of(&message, wait));
        match self.ask(&request).await? {
            Some(response) => response.into_send(),
            None => send(&self.held().await?, message, wait, std::future::pending()).await,
        }
    }

    /// Stores a quick reply and waits up to `wait` for the server to accept it. Where the device does not have the
    /// template, or its slots are others, it first waits for the catalogue that the server offers now, within the same
    /// time.
    ///
    /// # Errors
    /// [`HandoverError`]; after `HolderGone` it may be stored.
    pub async fn reply(&self, message: ReplyMessage, wait: Duration) -> Result<SendReport, HandoverError> {
        let request = Request::Reply(PostReplyMessage::of(&message, wait));
        match self.ask(&request).await? {
            Some(response) => response.into_send(),
            None => reply(&self.held().await?, message, wait, std::future::pending()).await,
        }
    }

    /// The quick replies that can be written.
    ///
    /// # Errors
    /// [`HandoverError`].
    pub async fn templates(&self) -> Result<CatalogueReport, HandoverError> {
        match self.ask(&Request::Templates).await? {
            Some(response) => response.into_templates(),
            None => Ok(CatalogueReport::of(&self.held().await?.templates().await?)),
        }
    }

    /// How the client is doing.
    ///
    /// # Errors
    /// [`HandoverError`].
    pub async fn status(&self) -> Result<StatusReport, HandoverError> {
        match self.ask(&Request::Status).await? {
            Some(response) => response.into_status(),
            None => Ok(StatusReport::of(&self.held().await?.status().await?)),
        }
    }

    /// Takes a fix for the history; see [`Client::record`].
    ///
    /// # Errors
    /// [`HandoverError`].
    pub async fn record(&self, fix: Fix) -> Result<(), HandoverError> {
        match self.ask(&Request::Record(FixMessage::of(&fix))).await? {
            Some(response) => response.into_done(),
            None => Ok(self.held().await?.record(fix).await?),
        }
    }

    /// Says where the device is; see [`Client::live`].
    ///
    /// # Errors
    /// [`HandoverError`].
    pub async fn live(&self, fix: Fix) -> Result<(), HandoverError> {
        match self.ask(&Request::Live(FixMessage::of(&fix))).await? {
            Some(response) => response.into_done(),
            None => Ok(self.held().await?.live(fix).await?),
        }
    }

    /// Stores the fixes that wait for their track to fill.
    ///
    /// # Errors
    /// [`HandoverError`].
    pub async fn flush(&self) -> Result<(), HandoverError> {
        match self.ask(&Request::Flush).await? {
            Some(response) => response.into_done(),
            None => Ok(self.held().await?.flush().await?),
        }
    }

    /// Puts a recording on file; see [`Client::put_recording`].
    ///
    /// # Errors
    /// [`HandoverError`]; what came before the error is stored.
    pub async fn put_recording(&self, mut fixes: Vec<Fix>) -> Result<(), HandoverError> {
        fixes.sort_by_key(|fix| fix.at_ms);
        for chunk in fixes.chunks(FIXES_MAX) {
            let messages = chunk.iter().map(FixMessage::of).collect();
            match self.ask(&Request::Recording { fixes: messages }).await? {
                Some(response) => response.into_done()?,
                None => {
                    self.held().await?.put_recording(chunk.to_vec()).await?;
                }
            }
        }
        Ok(())
    }

    /// Waits until nothing waits for the server any more, or until `timeout`; returns how many operations wait.
    ///
    /// # Errors
    /// [`HandoverError`].
    pub async fn wait_drained(&self, timeout: Duration) -> Result<u64, HandoverError> {
        let wait_ms = millis(timeout);
        match self.ask(&Request::Drained { wait_ms }).await? {
            Some(response) => response.into_waiting(),
            None => Ok(self.held().await?.wait_drained(timeout).await?),
        }
    }

    /// The entries to show.
    ///
    /// # Errors
    /// [`HandoverError::Refused`] where somebody else has them.
    pub async fn listen(&self) -> Result<Listener, HandoverError> {
        let mut seat = self.seat.lock().await;
        self.check_seat(&mut seat).await?;
        match &*seat {
            Seat::Holder(client, _) => {
                let entries = client
                    .entries()
                    .ok_or_else(|| HandoverError::Refused(ALREADY_HEARD.to_owned()))?;
                Ok(Listener(Source::Here(client.clone(), entries)))
            }
            Seat::Attached(_) => {
                let mut connection = Connection::open(&socket_path(&self.state_dir)).await?;
                connection.send(&Request::Listen).await?;
                connection.receive().await?.into_done()?;
                Ok(Listener(Source::There(connection)))
            }
        }
    }

    /// Closes the client where this process holds it; where another does, that one goes on.
    ///
    /// # Errors
    /// [`HandoverError`].
    pub async fn close(self) -> Result<(), HandoverError> {
        match self.seat.into_inner() {
            Seat::Holder(client, server) => {
                server.stop().await;
                Ok(client.close().await?)
            }
            Seat::Attached(_) => Ok(()),
        }
    }

    /// Asks the process that holds the folder; `None` where that is this one.
    async fn ask(&self, request: &Request) -> Result<Option<Response>, HandoverError> {
        let mut seat = self.seat.lock().await;
        self.check_seat(&mut seat).await?;
        match &mut *seat {
            Seat::Holder(..) => Ok(None),
            Seat::Attached(connection) => {
                connection.send(request).await?;
                connection.receive().await.map(Some)
            }
        }
    }

    /// Where the holder has ended, this process becomes the holder or finds the next one. Asked before each request,
    /// so that one is lost only if the holder ends just while it has it.
    async fn check_seat(&self, seat: &mut Seat) -> Result<(), HandoverError> {
        let alive = match seat {
            Seat::Holder(..) => true,
            Seat::Attached(connection) => connection.is_alive().await,
        };
        if !alive {
            *seat = take_seat(&self.credentials, &self.state_dir, &self.options).await?;
        }
        Ok(())
    }

    async fn held(&self) -> Result<Client, HandoverError> {
        self.client().await.ok_or(HandoverError::HolderGone)
    }
}

/// Entries to show, from this process or from the holder.
pub struct Listener(Source);

enum Source {
    Here(Client, Entries),
    There(Connection),
}

impl Listener {
    /// The next entry; `None` once the client is closed or its process has ended. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Option<EntryReport> {
        match &mut self.0 {
            Source::Here(_, entries) => Some(EntryReport::of(&entries.next().await?.entry)),
            Source::There(connection) => loop {
                match connection.receive().await.ok()? {
                    Response::Entry(entry) => return Some(*entry),
                    // The answer to a confirmation.
                    Response::Done => {}
                    _ => return None,
                }
            },
        }
    }

    /// Confirms an entry; here it is on disk when this returns, elsewhere it is on its way there.
    ///
    /// # Errors
    /// [`HandoverError`].
    pub async fn confirm(&mut self, entry: &EntryReport, how: Confirm) -> Result<(), HandoverError> {
        let (stream, seq) = entry.place().ok_or(HandoverError::HolderGone)?;
        match &mut self.0 {
            Source::Here(client, _) => Ok(confirm(client, stream, seq, how).await?),
            Source::There(connection) => {
                let (stream, seq) = (stream.number(), seq.number());
                let request = match how {
                    Confirm::Shown => Request::Shown { stream, seq },
                    Confirm::Read => Request::Read { stream, seq },
                };
                connection.send(&request).await
            }
        }
    }
}

const ALREADY_HEARD: &str = "another process already listens on this state folder";

async fn confirm(client: &Client, stream: StreamId, seq: Seq, how: Confirm) -> Result<(), ClientError> {
    match how {
        Confirm::Shown => client.mark_shown(stream, seq).await,
        Confirm::Read => client.mark_read(stream, seq).await,
    }
}

/// Stores a message, and waits for it to be accepted until `wait` or `early` is over.
async fn send(
    client: &Client,
    message: Message,
    wait: Duration,
    early: impl Future<Output = ()>,
) -> Result<SendReport, HandoverError> {
    let posted = client.post_text(message).await?;
    settle(client, &posted, wait, early).await
}

/// The same for a quick reply.
async fn reply(
    client: &Client,
    message: ReplyMessage,
    wait: Duration,
    early: impl Future<Output = ()>,
) -> Result<SendReport, HandoverError> {
    let deadline = tokio::time::Instant::now() + wait;
    let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
    tokio::pin!(early);
    let posted = match client.post_reply(message.clone()).await {
        Err(PostError::BadReply(bad)) if !wait.is_zero() => {
            let fetched = tokio::select! {
                catalogue = client.wait_catalogue(left()) => catalogue?,
                () = &mut early => return Err(PostError::BadReply(bad).into()),
            };
            if fetched.templates.is_empty() {
                return Err(PostError::BadReply(BadReply::NoCatalogue).into());
            }
            client.post_reply(message).await?
        }
        other => other?,
    };
    settle(client, &posted, left(), early).await
}

async fn settle(
    client: &Client,
    posted: &Posted,
    wait: Duration,
    early: impl Future<Output = ()>,
) -> Result<SendReport, HandoverError> {
    let outcome = tokio::select! {
        outcome = client.wait_accepted(posted, wait) => outcome?,
        () = early => Outcome::StillStored,
    };
    Ok(SendReport::of(posted, outcome))
}

/// Opens the folder, or attaches to who has it, whichever comes first.
async fn take_seat(
    credentials: &Credentials,
    state_dir: &Path,
    options: &Options,
) -> Result<Seat, HandoverError> {
    let path = socket_path(state_dir);
    let deadline = tokio::time::Instant::now() + ATTACH_TIMEOUT;
    loop {
        match Client::open(credentials.clone(), state_dir, options.clone()).await {
            Ok(client) => {
                let server = server::Server::start(&path, client.clone()).map_err(|error| {
                    HandoverError::NoAnswer {
                        path: path.display().to_string(),
                        why: error.to_string(),
                    }
                })?;
                return Ok(Seat::Holder(client, server));
            }
            Err(OpenError::InUse) => {}
            Err(other) => return Err(other.into()),
        }
        match Connection::open(&path).await {
            Ok(connection) => return Ok(Seat::Attached(connection)),
            // The holder is starting, or leaving, or it is a plain client that serves nobody.
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(ATTACH_PAUSE).await,
        }
    }
}

fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// The address of a Unix socket has room for about a hundred bytes; a longer path is named through its folder, as far
/// as the system can (Linux).
struct ShortPath {
    path: PathBuf,
    /// Open for as long as the path is used.
    _folder: Option<std::fs::File>,
}

/// 104 bytes with the closing zero on the strictest of systems.
const SOCKET_PATH_BYTES_MAX: usize = 100;

impl ShortPath {
    fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::fd::AsRawFd;
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(Self {
                path: path.to_owned(),
                _folder: None,
            });
        }
        let folder = std::fs::File::open(folder)?;
        let path = Path::new("/proc/self/fd")
            .join(folder.as_raw_fd().to_string())
            .join(name);
        Ok(Self {
            path,
            _folder: Some(folder),
        })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A connection to the holder.
struct Connection {
    path: PathBuf,
    lines: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// What of a line has come; a cancelled read leaves it.
    line: Vec<u8>,
}

impl Connection {
    /// Connects, and makes sure that somebody answers.
    async fn open(path: &Path) -> Result<Self, HandoverError> {
        let connecting = async { UnixStream::connect(ShortPath::of(path)?.path()).await };
        let stream = connecting.await.map_err(|error| HandoverError::NoAnswer {
            path: path.display().to_string(),
            why: error.to_string(),
        })?;
        let (reader, writer) = stream.into_split();
        let mut connection = Self {
            path: path.to_owned(),
            lines: BufReader::new(reader),
            writer,
            line: Vec::new(),
        };
        if connection.is_alive().await {
            Ok(connection)
        } else {
            Err(connection.no_answer("it was closed"))
        }
    }

    async fn is_alive(&mut self) -> bool {
        let asking = async {
            self.send(&Request::Ping).await?;
            self.receive().await
        };
        matches!(
            tokio::time::timeout(ATTACH_TIMEOUT, asking).await,
            Ok(Ok(Response::Done))
        )
    }

    async fn send(&mut self, request: &Request) -> Result<(), HandoverError> {
        let line = message::line(request).map_err(|error| self.no_answer(&error.to_string()))?;
        self.writer
            .write_all(&line)
            .await
            .map_err(|_| HandoverError::HolderGone)
    }

    async fn receive(&mut self) -> Result<Response, HandoverError> {
        let read = read_line(&mut self.lines, &mut self.line).await;
        match read.map_err(|_| HandoverError::HolderGone)? {
            None => Err(HandoverError::HolderGone),
            Some(line) => serde_json::from_slice(&line).map_err(|error| self.no_answer(&error.to_string())),
        }
    }

    fn no_answer(&self, why: &str) -> HandoverError {
        HandoverError::NoAnswer {
            path: self.path.display().to_string(),
            why: why.to_owned(),
        }
    }
}

/// The next line; `None` at the end. Cancelling loses nothing: what has come stays in `line`.
async fn read_line<R: tokio::io::AsyncBufRead + Unpin>(
    reader: &mut R,
    line: &mut Vec<u8>,
) -> std::io::Result<Option<Vec<u8>>> {
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok(None);
        }
        let (taken, complete) = match available.iter().position(|&byte| byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (available.len(), false),
        };
        line.extend_from_slice(&available[..taken]);
        reader.consume(taken);
        if line.len() > LINE_BYTES_MAX {
            return Err(std::io::Error::other("the line is too long"));
        }
        if complete {
            return Ok(Some(std::mem::take(line)));
        }
    }
}
