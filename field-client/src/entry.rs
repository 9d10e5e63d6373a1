//! What a driver sees: the entries of the inbox.

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
    /// The name of an author who is a person, where the server has told it.
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
    /// The entry of the same stream that it answers.
    pub reply_to: Option<Seq>,
    /// UTC milliseconds after which it must not be shown as current.
    pub expires_ms: Option<i64>,
    /// What it says.
    pub body: EntryBody,
}
