//! What a driver sees: the entries of the inbox.

use crate::ReplyWords;
use waypost_proto::{Author, EntryBody, OpNumber, Seq, StreamId};

/// One entry as it stands in the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The conversation that it belongs to.
    pub stream: StreamId,
    /// Its place there; with the stream, what a consumer tells repetitions by.
    pub seq: Seq,
    /// Who wrote it.
    pub author: Author,
    /// The author's name, where the server has told it.
    pub author_name: Option<String>,
    /// When the server accepted it, UTC milliseconds by the server's clock; `None` for the device's own, of which
    /// the server sends the place alone.
    pub server_ms: Option<i64>,
    /// When it was written, UTC milliseconds by the author's clock; devices only.
    pub device_ms: Option<i64>,
    /// The author's operation number; devices only.
    pub author_op: Option<OpNumber>,
    /// Goes before ordinary ones.
    pub urgent: bool,
    /// The entry that it answers.
    pub reply_to: Option<Seq>,
    /// The broadcast to which that entry belongs; `None` for one of the same stream.
    pub reply_stream: Option<StreamId>,
    /// UTC milliseconds by the server's clock after which it must not be shown as current.
    pub expires_ms: Option<i64>,
    /// The earlier entry of the same stream whose place it takes.
    pub supersedes: Option<Seq>,
    /// Whether it may be shown as current.
    pub standing: Standing,
    /// What it says.
    pub body: EntryBody,
    /// What a quick reply says, put together with the templates that the device has now; `None` for other bodies.
    pub reply: Option<ReplyWords>,
    /// The name of a device that has joined or left, where the server has told it.
    pub member_name: Option<String>,
}

/// Whether an entry may be shown as current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// It may.
    #[default]
    Current,
    /// Its time is over.
    Expired,
    /// A later entry has taken its place.
    Superseded {
        /// That one.
        by: Seq,
    },
}

impl Entry {
    /// What a person reads; `None` for what is no message: somebody has joined or left, or this version cannot tell.
    pub fn text(&self) -> Option<&str> {
        match &self.body {
            EntryBody::Text(text) => Some(text),
            EntryBody::Reply { .. } => self.reply.as_ref().map(|reply| reply.text.as_str()),
            EntryBody::Membership { .. } | EntryBody::Unsupported => None,
        }
    }
}
