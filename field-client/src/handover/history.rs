//! Earlier entries for a process that may not hold the state folder.

use super::message::{HistoryMessage, Request};
use super::{Driver, EntryReport, HandoverError};
use crate::{Client, ClientError, EarlierError};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use waypost_proto::{Seq, StreamId};

/// Entries in one line of the hand-over: of the longest texts a third of what a line may hold.
const ENTRIES_MAX: usize = 64;

/// Entries of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HistoryReport {
    /// In the order of their numbers.
    pub entries: Vec<EntryReport>,
    /// Why earlier ones, which the server has, are not among them; `None` where nothing is missing.
    pub missing: Option<String>,
}

impl Driver {
    /// Entries of a conversation, the newest `limit` before `before`, or of all; see [`Client::earlier`]. A client that
    /// has no link yet is given `wait` to find one.
    ///
    /// # Errors
    /// [`HandoverError`].
    pub async fn history(
        &self,
        stream: StreamId,
        before: Option<Seq>,
        limit: usize,
        wait: Duration,
    ) -> Result<HistoryReport, HandoverError> {
        let mut all = HistoryReport::default();
        let mut before = before;
        while all.entries.len() < limit {
            let wanted = (limit - all.entries.len()).min(ENTRIES_MAX);
            let request = HistoryMessage::of(stream, before, wanted, wait);
            let mut next = match self.ask(&Request::History(request)).await? {
                Some(response) => response.into_history()?,
                None => history(&self.held().await?, stream, before, wanted, wait).await?,
            };
            all.missing = next.missing;
            let came = next.entries.len();
            before = next.entries.first().and_then(|entry| Seq::new(entry.seq));
            next.entries.append(&mut all.entries);
            all.entries = next.entries;
            if came < wanted || before.is_none() {
                break;
            }
        }
        Ok(all)
    }
}

pub(super) async fn history(
    client: &Client,
    stream: StreamId,
    before: Option<Seq>,
    limit: usize,
    wait: Duration,
) -> Result<HistoryReport, ClientError> {
    let has_horizon = |earlier: &[(StreamId, Seq)]| earlier.iter().any(|(of, _)| *of == stream);
    if has_horizon(&client.status().await?.earlier) {
        client.wait_in_step(wait).await;
    }
    let limit = limit.min(ENTRIES_MAX);
    let (entries, missing) = match client.earlier(stream, before, limit).await {
        Ok(entries) => (entries, None),
        Err(EarlierError::Client(error)) => return Err(error),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let is_short = missing.is_none() && entries.len() < limit;
    let missing = match client.status().await?.earlier {
        earlier if is_short && has_horizon(&earlier) => {
            Some("the connection to the server has ended".to_owned())
        }
        _ => missing,
    };
    Ok(HistoryReport {
        entries: entries.iter().map(EntryReport::of).collect(),
        missing,
    })
}
