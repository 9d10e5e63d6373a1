//! Earlier entries: what is here first, then what the server has.

use crate::client::{HISTORY_MAX, Refused};
use crate::core::Paged;
use crate::engine::Command;
use crate::{Client, ClientError, Entry};
use waypost_proto::{Seq, StreamId};

/// Why there are no earlier entries to be had now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EarlierError {
    /// They are on the server, and there is no connection to it, or none any more. Ask again once there is one.
    #[error("entries up to number {} are on the server, and there is no connection to it", until.number())]
    NotHere {
        /// The last of them.
        until: Seq,
    },
    /// The server does not give them.
    #[error("the server does not give earlier entries: {0}")]
    Refused(Refused),
    /// The client has stopped.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Client {
    /// Entries of a stream, in the order of their seqs: the newest `limit` (at most 1,000) of those before `before`, or of
    /// all. Unlike [`history`](Self::history) it fetches what is on the server alone, page by page, and stores it like
    /// everything else: it is fetched once. Fewer than `limit` come where there are no more, or where the connection
    /// ended on the way; asking again with the first of them as `before` tells which. Waits as long as a connection
    /// stands that a page may come on.
    ///
    /// Pages are fetched from the newest down: `before` far below what is here costs all that lies between.
    ///
    /// # Errors
    /// [`EarlierError`], where not one entry can be given.
    pub async fn earlier(
        &self,
        stream: StreamId,
        before: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<Entry>, EarlierError> {
        let limit = limit.min(HISTORY_MAX);
        loop {
            // First the horizon: what a page brings in between is seen below.
            let horizon = self.ask(|reply| Command::Horizon { stream, reply }).await?;
            let mut here = self.history(stream, before, limit).await?;
            let Some(until) = horizon else { return Ok(here) };
            // What stands below it may have gaps.
            here.retain(|entry| entry.seq > until);
            if here.len() >= limit {
                return Ok(here);
            }
            let missing = limit - here.len();
            let paged = self.ask(|reply| Command::FetchEarlier {
                stream,
                limit: missing,
                reply,
            });
            let error = match paged.await? {
                Paged::Here => continue,
                Paged::Offline => EarlierError::NotHere { until },
                Paged::Refused(reason) => EarlierError::Refused(Refused(reason)),
            };
            return if here.is_empty() { Err(error) } else { Ok(here) };
        }
    }
}
