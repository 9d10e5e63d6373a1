//! The handle that an app holds: every call is a message to the one task that owns the core.

use crate::catalogue::{BadReply, Catalogue};
use crate::core::{Draft, PostId};
use crate::credentials::Credentials;
use crate::engine::{self, Command};
use crate::incoming::Offered;
use crate::options::InvalidOption;
use crate::status::LinkState;
use crate::store::StoreError;
use crate::{Entries, Entry, Group, NetworkName, Options, OutboxBounds, Policy, Status};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use waypost_proto::wire::RefusalReason;
use waypost_proto::{
    BadFix, Fix, OpNumber, Operation, QuickReply, Seq, StreamId, TEXT_BYTES_MAX, TrackKind, track_from_wire,
    track_to_wire,
};

/// Fixes of a recording that make one operation: with speed and course about 1,100 bytes, one packet.
const RECORDING_FIXES: usize = 80;
/// The most entries that one call of [`Client::history`] answers with.
pub(crate) const HISTORY_MAX: usize = 1_000;

/// An open client; clones share it.
///
/// When the last clone is gone the client closes as [`Client::close`] does, except that nobody waits for it.
#[derive(Clone)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    link: watch::Receiver<LinkState>,
    only_consumer: Arc<Mutex<()>>,
    stopped: Arc<std::sync::OnceLock<String>>,
}

/// A message to be posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where to; `None` is the device's direct stream with the office, also before the device knows its number. What is
    /// for a broadcast goes there too, as an answer to it.
    pub stream: Option<StreamId>,
    /// 1 to 4,096 bytes of UTF-8.
    pub text: String,
    /// Whether it goes before ordinary ones.
    pub urgency: Urgency,
    /// The entry of `stream` that it answers; to a broadcast without it, the newest.
    pub reply_to: Option<Seq>,
    /// The entry of this device in the stream whose place it takes.
    pub supersedes: Option<Seq>,
    /// Seconds from now after which nobody needs it any more; `None` for never.
    pub expires_in_s: Option<u32>,
}

/// Whether an operation goes before ordinary ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Urgency {
    /// In its turn.
    #[default]
    Ordinary,
    /// Before everything ordinary, on every hop and screen.
    Urgent,
}

impl Message {
    /// An ordinary message to the office.
    pub fn to_office(text: impl Into<String>) -> Self {
        Self {
            stream: None,
            text: text.into(),
            urgency: Urgency::Ordinary,
            reply_to: None,
            supersedes: None,
            expires_in_s: None,
        }
    }

    /// An ordinary message to `stream`.
    pub fn to(stream: StreamId, text: impl Into<String>) -> Self {
        Self {
            stream: Some(stream),
            ..Self::to_office(text)
        }
    }

    fn into_draft(self) -> Draft {
        let operation = Operation {
            urgent: self.urgency == Urgency::Urgent,
            reply_to: self.reply_to,
            supersedes: self.supersedes,
            expires_in_s: self.expires_in_s.filter(|&seconds| seconds > 0),
            ..Operation::text(self.stream.unwrap_or_else(placeholder), self.text)
        };
        draft(self.stream, &operation)
    }

    /// The same message, before ordinary ones.
    #[must_use]
    pub fn urgent(self) -> Self {
        Self {
            urgency: Urgency::Urgent,
            ..self
        }
    }
}

/// A quick reply to be posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyMessage {
    /// Where to, as in [`Message::stream`].
    pub stream: Option<StreamId>,
    /// What systems call its template.
    pub template: String,
    /// The values by the names of their slots: numbers in decimal, times as `14:30`.
    pub values: Vec<(String, String)>,
    /// Whether it goes before ordinary ones.
    pub urgency: Urgency,
    /// The entry of `stream` that it answers; to a broadcast without it, the newest.
    pub reply_to: Option<Seq>,
    /// The entry of this device in the stream whose place it takes.
    pub supersedes: Option<Seq>,
    /// Seconds from now after which nobody needs it any more; `None` for never.
    pub expires_in_s: Option<u32>,
}

impl ReplyMessage {
    /// An ordinary quick reply to the office.
    pub fn to_office(template: impl Into<String>, values: Vec<(String, String)>) -> Self {
        Self {
            stream: None,
            template: template.into(),
            values,
            urgency: Urgency::Ordinary,
            reply_to: None,
            supersedes: None,
            expires_in_s: None,
        }
    }

    /// The operation, filled in with the templates of `catalogue`.
    pub(crate) fn into_draft(self, catalogue: &Catalogue) -> Result<Draft, BadReply> {
        let reply: QuickReply = catalogue.reply(&self.template, &self.values)?;
        let operation = Operation {
            urgent: self.urgency == Urgency::Urgent,
            reply_to: self.reply_to,
            supersedes: self.supersedes,
            expires_in_s: self.expires_in_s.filter(|&seconds| seconds > 0),
            ..Operation::reply(self.stream.unwrap_or_else(placeholder), reply)
        };
        Ok(draft(self.stream, &operation))
    }
}

/// The number of the office stream is filled in before the operation is sent for the first time.
fn placeholder() -> StreamId {
    StreamId::new(1).expect("1 is a stream id")
}

fn draft(stream: Option<StreamId>, operation: &Operation) -> Draft {
    match stream {
        Some(_) => Draft::settled(operation.to_wire()),
        None => Draft::to_office(operation.to_wire()),
    }
}

/// An operation that is on the device's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posted {
    /// Names it for [`Client::wait_accepted`]; stays when the outbox is numbered anew, and across restarts.
    pub id: PostId,
    /// Its number in the epoch of the outbox when it was stored.
    pub op: OpNumber,
    /// The stream that it goes to: for a broadcast that is the one with the office. `None` where the device does not know
    /// its number yet, and for positions.
    pub stream: Option<StreamId>,
}

/// How far an operation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// On the server's disk. Stream and seq are those of its entry; `None` for positions, and as long as the server
    /// has not said.
    Accepted {
        /// The stream of its entry.
        stream: Option<StreamId>,
        /// The place of its entry there.
        seq: Option<Seq>,
    },
    /// On the device's disk; it is sent as soon and as often as it takes.
    StillStored,
    /// The server will never apply it.
    Refused(Refused),
}

/// Why an operation will not be applied, in words for the person who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub RefusalReason);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            RefusalReason::Unspecified => "the server refused it",
            RefusalReason::Unreadable => "the server could not read it",
            RefusalReason::TooLarge => "it is larger than the server takes",
            RefusalReason::UnknownStream => "the conversation does not exist",
            RefusalReason::NotAMember => "this device is not a member of the conversation",
            RefusalReason::Unsupported => "the server does not know this kind of message",
            RefusalReason::BadText => "the text is empty or too long",
            RefusalReason::BadPosition => "a position is not on the globe",
            RefusalReason::BadTime => "its time is too far in the past or the future",
            RefusalReason::BadNumber => "its number is too far ahead",
            RefusalReason::UnknownEntry => {
                "it answers an entry that does not exist, or replaces one that does not, is not this device's or was replaced"
            }
            RefusalReason::Expired => "it expired before the server had it",
            RefusalReason::NoSpace => "the server has no space left",
            RefusalReason::BadTemplate => "there is no such quick reply, or its blanks are filled in wrongly",
        })
    }
}

/// Why a client cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another client of this one, holds the state folder.
    #[error(
        "the state folder is in use by another process, and one alone can have it: end that one, or hand over to it as \
         `waypost driver` does"
    )]
    InUse,
    /// The folder holds the state of another device.
    #[error("the state folder belongs to device {0}; each device needs a folder of its own")]
    OtherDevice(String),
    /// A setting is wrong.
    #[error(transparent)]
    Option(#[from] InvalidOption),
    /// The folder cannot be made, or the store in it cannot be opened.
    #[error("the state folder cannot be opened: {0}")]
    Store(StoreError),
}

/// Why an operation was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The outbox is at its bound, and no history is left in it that could be thinned out: wait for a link, or tell the
    /// person.
    #[error(
        "nothing more can be stored: {ops} of {} operations with {bytes} of {} bytes wait for the server; \
         get a connection first",
        bounds.ops_max, bounds.bytes_max
    )]
    OutboxFull {
        /// Operations that wait.
        ops: usize,
        /// Bytes of their content.
        bytes: u64,
        /// How many may.
        bounds: OutboxBounds,
    },
    /// The outbox takes no more positions, however thin its history is by now; messages it takes. What was recorded waits
    /// in memory until there is room, and thins out there.
    #[error(
        "no more positions can be stored: {ops} operations with {bytes} bytes wait for the server, and what is left of \
         {} operations and {} bytes is for messages; get a connection first",
        bounds.ops_max, bounds.bytes_max
    )]
    HistoryFull {
        /// Operations that wait.
        ops: usize,
        /// Bytes of their content.
        bytes: u64,
        /// How many may.
        bounds: OutboxBounds,
    },
    /// The text is empty or longer than 4,096 bytes.
    #[error("a text has 1 to {TEXT_BYTES_MAX} bytes, this one has {0}")]
    BadText(usize),
    /// There is no such quick reply, or its slots are filled in wrongly.
    #[error(transparent)]
    BadReply(#[from] BadReply),
    /// A position that cannot be one.
    #[error("a position cannot be used: {0}")]
    BadFix(#[from] BadFix),
    /// The client has stopped.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// The client's task has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// By [`Client::close`].
    #[error("the client is closed")]
    Closed,
    /// Because its store failed; what had been reported as stored is there when the folder is opened again.
    #[error("the client has stopped because its store failed: {0}")]
    StoreFailed(String),
}

impl Client {
    /// Opens the state folder, makes it where there is none, and starts the client's task on the current tokio
    /// runtime. Opening needs no network: a client that never gets a link still stores.
    ///
    /// # Errors
    /// [`OpenError`]; `InUse` where another process holds the folder: see [`crate::handover`].
    pub async fn open(
        credentials: Credentials,
        state_dir: impl AsRef<Path>,
        options: Options,
    ) -> Result<Self, OpenError> {
        options.check()?;
        let started = engine::start(credentials, state_dir.as_ref().to_owned(), options).await?;
        Ok(Self {
            commands: started.commands,
            link: started.link,
            only_consumer: Arc::new(Mutex::new(())),
            stopped: started.stopped,
        })
    }

    /// Stores a message; returns once it is on the device's disk. It is then sent as soon and as often as it takes.
    ///
    /// # Errors
    /// [`PostError`]; nothing was stored then.
    pub async fn post_text(&self, message: Message) -> Result<Posted, PostError> {
        if !(1..=TEXT_BYTES_MAX).contains(&message.text.len()) {
            return Err(PostError::BadText(message.text.len()));
        }
        self.post(message.into_draft()).await
    }

    /// Stores a quick reply, filled in with the templates that the device has; returns once it is on the device's disk.
    ///
    /// # Errors
    /// [`PostError`]; nothing was stored then. Where it is [`BadReply`], [`wait_catalogue`](Self::wait_catalogue) may
    /// bring the template.
    pub async fn post_reply(&self, message: ReplyMessage) -> Result<Posted, PostError> {
        let message = Box::new(message);
        self.ask(|reply| Command::PostReply { message, reply }).await?
    }

    /// The quick replies that can be written.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn templates(&self) -> Result<Catalogue, ClientError> {
        self.ask(Command::Catalogue).await
    }

    /// Waits until the device has the catalogue that the server offers now, or until `timeout`; returns what it has.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn wait_catalogue(&self, timeout: Duration) -> Result<Catalogue, ClientError> {
        match tokio::time::timeout(timeout, self.ask(Command::WaitCatalogue)).await {
            Ok(current) => current,
            Err(_) => self.templates().await,
        }
    }

    /// The groups that the device is in.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn groups(&self) -> Result<Vec<Group>, ClientError> {
        Ok(self.status().await?.groups)
    }

    /// Waits until the server has an operation on its disk and has told the place of its entry, until it is refused,
    /// or until `timeout`; says how far it has come.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn wait_accepted(&self, posted: &Posted, timeout: Duration) -> Result<Outcome, ClientError> {
        let id = posted.id;
        let settled = self.ask(|reply| Command::WaitSettled { id, reply });
        match tokio::time::timeout(timeout, settled).await {
            Ok(outcome) => outcome,
            Err(_) => self.ask(|reply| Command::Outcome { id, reply }).await,
        }
    }

    /// Waits until nothing waits for the server any more, or until `timeout`; returns how many operations wait.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn wait_drained(&self, timeout: Duration) -> Result<u64, ClientError> {
        match tokio::time::timeout(timeout, self.ask(Command::WaitDrained)).await {
            Ok(drained) => drained.map(|()| 0),
            Err(_) => Ok(self.status().await?.waiting_ops),
        }
    }

    /// Takes a fix, for the history and as where the device is: what is said of it, and when, follows from
    /// [`Options::policy`] and from what the office believes. A power cut may cost the last 30 s.
    ///
    /// # Errors
    /// [`PostError::BadFix`]; [`PostError::HistoryFull`] where the outbox takes no more positions: what is to be said waits.
    pub async fn fix(&self, fix: Fix) -> Result<(), PostError> {
        check(&fix)?;
        self.ask(|reply| Command::Fix { fix, reply }).await?
    }

    /// Asks for more or less of where the device is, until the client is closed.
    ///
    /// # Errors
    /// As [`fix`](Self::fix).
    pub async fn set_policy(&self, policy: Policy) -> Result<(), PostError> {
        self.ask(|reply| Command::Policy { policy, reply }).await?
    }

    /// Takes a fix for the history alone. Fixes are stored as tracks of [`Options::track_fixes`], and none waits longer
    /// than [`Options::track_age`]: that much a power cut may cost.
    ///
    /// # Errors
    /// [`PostError::BadFix`]; [`PostError::HistoryFull`] where the track that it completes is not taken: its fixes wait on.
    pub async fn record(&self, fix: Fix) -> Result<(), PostError> {
        check(&fix)?;
        self.ask(|reply| Command::Record { fix, reply }).await?
    }

    /// Stores the fixes that wait for their track to fill.
    ///
    /// # Errors
    /// [`PostError::HistoryFull`]; the fixes wait on.
    pub async fn flush(&self) -> Result<(), PostError> {
        self.ask(Command::Flush).await?
    }

    /// Says where the device is. Not stored: a newer one replaces it, and it is sent when there is a link.
    ///
    /// # Errors
    /// [`PostError::BadFix`], [`PostError::Client`].
    pub async fn live(&self, fix: Fix) -> Result<(), PostError> {
        check(&fix)?;
        Ok(self.tell(Command::Live(fix)).await?)
    }

    /// Puts a recording on file: for the history, never taken for where the device is. Returns once all of it is
    /// stored. `fixes` in any order; they are put in the order of their times.
    ///
    /// # Errors
    /// [`PostError`]; after `HistoryFull` the part before the bound is stored.
    pub async fn put_recording(&self, mut fixes: Vec<Fix>) -> Result<Vec<Posted>, PostError> {
        fixes.iter().try_for_each(check)?;
        fixes.sort_by_key(|fix| fix.at_ms);
        let mut posted = Vec::new();
        for chunk in fixes.chunks(RECORDING_FIXES) {
            posted.push(
                self.post(Draft::track(chunk.to_vec(), TrackKind::Recording))
                    .await?,
            );
        }
        Ok(posted)
    }

    /// Records that an entry has been shown; returns once that is on disk.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn mark_shown(&self, stream: StreamId, seq: Seq) -> Result<(), ClientError> {
        self.ask(|reply| Command::MarkShown { stream, seq, reply }).await
    }

    /// Records that the driver has read everything of a stream up to `seq`; returns once that is on disk. Reading
    /// never goes beyond the entries that are held without a gap.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn mark_read(&self, stream: StreamId, seq: Seq) -> Result<(), ClientError> {
        self.ask(|reply| Command::MarkRead { stream, seq, reply }).await
    }

    /// The entries to show; `None` while another consumer has them. Dropping the consumer frees them; what it did not
    /// confirm is offered to the next one again.
    pub fn entries(&self) -> Option<Entries> {
        let only_consumer = self.only_consumer.clone().try_lock_owned().ok()?;
        Some(Entries::new(self.clone(), only_consumer))
    }

    /// Entries of a stream from the inbox, in the order of their seqs: the newest `limit` (at most 1,000) of those
    /// before `before`, or of all. What is on the server alone is not among them: see [`earlier`](Self::earlier).
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn history(
        &self,
        stream: StreamId,
        before: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<Entry>, ClientError> {
        let limit = limit.min(HISTORY_MAX);
        self.ask(|reply| Command::History {
            stream,
            before,
            limit,
            reply,
        })
        .await
    }

    /// How the client is doing.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask(Command::Status).await
    }

    /// The state of the link, to be watched.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.link.clone()
    }

    /// Waits until the server has answered the hello, until the link is refused, or until `timeout`; returns the
    /// state of the link.
    pub async fn wait_in_step(&self, timeout: Duration) -> LinkState {
        let mut link = self.link.clone();
        let settled = link.wait_for(|state| matches!(state, LinkState::InStep | LinkState::Refused(_)));
        let settled = tokio::time::timeout(timeout, settled)
            .await
            .ok()
            .and_then(Result::ok)
            .map(|state| state.clone());
        settled.unwrap_or_else(|| self.link.borrow().clone())
    }

    /// Cuts the connection without a good-bye, as a dead spot does, and makes no other before
    /// [`Client::resume_link`].
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn pause_link(&self) -> Result<(), ClientError> {
        self.tell(Command::PauseLink).await
    }

    /// Tries to connect at once: after a pause, after a refusal, or when the network is known to be back.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn resume_link(&self) -> Result<(), ClientError> {
        self.tell(Command::ResumeLink).await
    }

    /// The device is in another network, or in one again: what a phone's system tells its apps. Without a connection one is tried
    /// at once, whatever pause was due. One that stands may be dead, as its address may be another now: a ping has three round
    /// trips, at least 3 s, to show that it is not; else a new connection is made at once.
    ///
    /// `network` is what is learnt of a network is kept under; the default where nobody knows.
    ///
    /// # Errors
    /// [`ClientError`] where the client has stopped.
    pub async fn network_changed(&self, network: NetworkName) -> Result<(), ClientError> {
        self.tell(Command::NetworkChanged(network)).await
    }

    /// Stores what waits in memory, says good-bye to the server and frees the state folder. All clones are closed.
    ///
    /// # Errors
    /// [`ClientError::StoreFailed`]; being closed already is none.
    pub async fn close(&self) -> Result<(), ClientError> {
        match self.ask(Command::Close).await {
            Err(ClientError::Closed) => Ok(()),
            other => other,
        }
    }

    pub(crate) async fn subscribe(&self) -> Result<Offered, ClientError> {
        self.ask(Command::Subscribe).await
    }

    async fn post(&self, draft: Draft) -> Result<Posted, PostError> {
        let draft = Box::new(draft);
        self.ask(|reply| Command::Post { draft, reply }).await?
    }

    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ClientError> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await?;
        answer.await.map_err(|_| self.why_stopped())
    }

    async fn tell(&self, command: Command) -> Result<(), ClientError> {
        self.commands.send(command).await.map_err(|_| self.why_stopped())
    }

    fn why_stopped(&self) -> ClientError {
        match self.stopped.get() {
            Some(why) => ClientError::StoreFailed(why.clone()),
            None => ClientError::Closed,
        }
    }
}

fn check(fix: &Fix) -> Result<(), BadFix> {
    track_from_wire(&track_to_wire(&[*fix], TrackKind::Travelled)).map(|_| ())
}
