//! What a server that was put back from a backup means for the tables: what is kept in case of it, and what then goes.

use super::records::{EntryRecord, KeptRecord, OperationRecord};
use super::{StoreError, Table, Transaction, put_operation, seq_of};
use crate::Entry;
use crate::core::{PostId, Progress};
use prost::Message;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use waypost_proto::{Author, EntryBody, Incarnation, OpNumber, Seq, StreamId};

/// Entries that were shown and may come again; a further one would be shown again.
const SEEN_MAX: usize = 10_000;

/// Keeps an operation of the outbox.
pub(super) fn keep(
    transaction: &mut dyn Transaction,
    id: PostId,
    accepted_ms: i64,
) -> Result<(), StoreError> {
    let key = id.number().to_be_bytes();
    let Some(record) = transaction.get(Table::Outbox, &key)? else {
        return Ok(());
    };
    let (stored, _) = OperationRecord::read(&key, &record)?;
    let record = KeptRecord::of(&stored, accepted_ms).encode_to_vec();
    transaction.put(Table::Kept, &stored.op.number().to_be_bytes(), &record)
}

/// Puts a kept operation into the outbox again.
pub(super) fn offer_again(transaction: &mut dyn Transaction, op: OpNumber) -> Result<(), StoreError> {
    let key = op.number().to_be_bytes();
    if let Some(record) = transaction.get(Table::Kept, &key)? {
        let (stored, _) = KeptRecord::read(&record)?;
        put_operation(transaction, &stored, Progress::Waiting)?;
        transaction.delete(Table::Kept, &key)?;
    }
    Ok(())
}

/// Takes away what stands above these numbers of the streams that are held.
pub(super) fn cut(
    transaction: &mut dyn Transaction,
    shelf: Incarnation,
    through: &BTreeMap<StreamId, u64>,
) -> Result<(), StoreError> {
    let mut seen = transaction.keys(Table::Seen, &[], super::END)?.len();
    for (&stream, &last) in through {
        reinstate(transaction, shelf, stream, last)?;
        let (from, to) = above(shelf, stream, last);
        for key in transaction.keys(Table::Inbox, &from, &to)? {
            let was_shown = transaction.get(Table::Unshown, &key)?.is_none();
            let record = transaction.get(Table::Inbox, &key)?;
            if let (true, Some(record), Some(seq)) = (was_shown && seen < SEEN_MAX, record, seq_of(&key))
                && let Some((key, digest)) = seen_as(&EntryRecord::read(stream, seq, &record)?)
            {
                transaction.put(Table::Seen, &key, &digest)?;
                seen += 1;
            }
            transaction.delete(Table::Unshown, &key)?;
            transaction.delete(Table::Inbox, &key)?;
        }
        if last == 0 {
            transaction.delete(Table::Cursors, &super::stream_key(shelf, stream))?;
        }
    }
    answer_nothing_that_went(transaction, through)
}

/// What was superseded by an entry that goes counts again.
fn reinstate(
    transaction: &mut dyn Transaction,
    shelf: Incarnation,
    stream: StreamId,
    last: u64,
) -> Result<(), StoreError> {
    let (from, to) = above(shelf, stream, 0);
    for key in transaction.keys(Table::Superseded, &from, &to)? {
        let by = super::number(transaction.get(Table::Superseded, &key)?, "superseded")?;
        if by.is_none_or(|by| by > last) {
            transaction.delete(Table::Superseded, &key)?;
        }
    }
    Ok(())
}

/// An answer to an entry that is not there would be refused, or would answer another one.
fn answer_nothing_that_went(
    transaction: &mut dyn Transaction,
    through: &BTreeMap<StreamId, u64>,
) -> Result<(), StoreError> {
    for key in transaction.keys(Table::Outbox, &[], super::END)? {
        let Some(record) = transaction.get(Table::Outbox, &key)? else {
            continue;
        };
        let (mut stored, progress) = OperationRecord::read(&key, &record)?;
        let content = &mut stored.content;
        let answered_stream = match content.reply_stream {
            0 => content.stream,
            broadcast => broadcast,
        };
        let last = StreamId::new(answered_stream).and_then(|stream| through.get(&stream));
        if progress == Progress::Waiting && content.reply_to > last.copied().unwrap_or(0) {
            (content.reply_to, content.reply_stream) = (0, 0);
            put_operation(transaction, &stored, progress)?;
        }
        let content = &mut stored.content;
        let last = StreamId::new(content.stream).and_then(|stream| through.get(&stream));
        if progress == Progress::Waiting && content.supersedes > last.copied().unwrap_or(0) {
            content.supersedes = 0;
            put_operation(transaction, &stored, progress)?;
        }
    }
    Ok(())
}

/// Whether an entry was shown before the server's store was put back; it is asked once.
pub(super) fn was_seen(transaction: &mut dyn Transaction, entry: &Entry) -> Result<bool, StoreError> {
    let Some((key, digest)) = seen_as(entry) else {
        return Ok(false);
    };
    let was_seen = transaction
        .get(Table::Seen, &key)?
        .is_some_and(|seen| seen == digest);
    if was_seen {
        transaction.delete(Table::Seen, &key)?;
    }
    Ok(was_seen)
}

/// How an entry is known again that a device offers once more: by its author's number for it, and, as an author may begin to
/// count anew, by its words.
fn seen_as(entry: &Entry) -> Option<(Vec<u8>, [u8; 8])> {
    let (Author::Device(author), Some(op)) = (entry.author, entry.author_op) else {
        return None;
    };
    let mut key = entry.stream.number().to_be_bytes().to_vec();
    key.extend(author.number().to_be_bytes());
    key.extend(op.number().to_be_bytes());
    let mut hash = Sha256::new();
    match &entry.body {
        EntryBody::Text(words) => hash.update([b"t", words.as_bytes()].concat()),
        // Without its words, which come along or do not.
        EntryBody::Reply { reply, .. } => {
            hash.update([b"r", reply.to_wire().encode_to_vec().as_slice()].concat());
        }
        EntryBody::Membership { .. } | EntryBody::Unsupported => return None,
    }
    let digest = hash.finalize();
    Some((key, digest[..8].try_into().expect("SHA-256 has 32 bytes")))
}

/// The keys of a stream above a number.
fn above(shelf: Incarnation, stream: StreamId, last: u64) -> (Vec<u8>, Vec<u8>) {
    let first = Seq::new(last.saturating_add(1)).unwrap_or(Seq::new(u64::MAX).expect("above 0"));
    let to = super::stream_key(shelf, stream)
        .into_iter()
        .chain([0xff; 9])
        .collect();
    (super::entry_key(shelf, stream, first), to)
}
