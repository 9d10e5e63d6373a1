//! Earlier entries on demand: what the server has from before what it sends by itself, a page at a time.
//!
//! Of each stream everything up to a number, its *horizon*, may be on the server alone; it stands with the stream's
//! cursor. A page is asked for from the horizon down, and moves it down in the write that holds its entries. So what is
//! above the horizon is here without a gap, whatever was lost on the way. One request is under way at a time; it is
//! repeated until its page comes. Those who want pages wait in a line of at most one place a stream, and are told when
//! the connection ends.

use super::write::Batch;
use super::{Core, Effect, Event, Mutation, Now, Server, SessionState};
use std::collections::VecDeque;
use std::time::Instant;
use waypost_proto::wire::{self, RefusalReason, SkipReason};
use waypost_proto::{ReceivedEntry, Seq, StreamId};

/// The most entries that one page is asked for.
const PAGE_ENTRIES_MAX: usize = 64;

/// What became of the wish for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paged {
    /// It is on disk.
    Here,
    /// The server does not give it.
    Refused(RefusalReason),
    /// There is no connection any more.
    Offline,
}

/// Whether a page can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// [`Event::Paged`] will tell.
    Asked,
    /// All that there is of the stream is here.
    NothingEarlier,
    Offline,
}

/// A request on its way.
#[derive(Debug, Clone, Copy)]
struct Asked {
    stream: StreamId,
    before: u64,
    limit: u32,
    /// When it last left; `None` where it is to leave.
    sent: Option<Instant>,
    /// Its page has come and is being written.
    came: bool,
}

/// The request under way, and who waits for the next ones.
#[derive(Debug, Default)]
pub(super) struct Pages {
    asked: Option<Asked>,
    line: VecDeque<(StreamId, u32)>,
}

impl Pages {
    /// When the request left that has no answer.
    pub(super) fn oldest_sent(&self) -> Option<Instant> {
        self.asked.filter(|asked| !asked.came)?.sent
    }

    /// A request that left at `before` or earlier and has no answer is due again.
    pub(super) fn repeat_sent_before(&mut self, before: Instant) {
        if let Some(asked) = &mut self.asked {
            asked.sent = asked.sent.filter(|&at| at > before);
        }
    }

    /// Another session has heard of no request.
    pub(super) fn repeat(&mut self) {
        if let Some(asked) = &mut self.asked {
            asked.sent = None;
        }
    }

    fn wants(&self, stream: StreamId) -> bool {
        let asked = self.asked.is_some_and(|asked| asked.stream == stream);
        asked || self.line.iter().any(|(of, _)| *of == stream)
    }
}

impl Core {
    /// Somebody wants up to `limit` entries of a stream from before its horizon.
    pub(crate) fn ask_earlier(&mut self, stream: StreamId, limit: usize) -> Ask {
        if self.inbox.horizon(stream).is_none() {
            return Ask::NothingEarlier;
        }
        if matches!(self.session.state, SessionState::Offline) {
            return Ask::Offline;
        }
        if !self.pages.wants(stream) {
            let limit = u32::try_from(limit.clamp(1, PAGE_ENTRIES_MAX)).unwrap_or(1);
            self.pages.line.push_back((stream, limit));
        }
        Ask::Asked
    }

    /// The last entry of a stream that may be on the server alone; `None` where everything is here.
    pub(crate) fn horizon(&self, stream: StreamId) -> Option<Seq> {
        self.inbox.horizon(stream)
    }

    /// All streams of which the server has earlier entries, with the last of them.
    pub(crate) fn horizons(&self) -> Vec<(StreamId, Seq)> {
        self.inbox.horizons().collect()
    }

    /// The request that is to leave now; it counts as sent.
    pub(super) fn page_due(&mut self, now: Now) -> Option<wire::PageRequest> {
        while self.pages.asked.is_none() {
            let (stream, limit) = self.pages.line.pop_front()?;
            match self.inbox.horizon(stream) {
                Some(last) => {
                    self.pages.asked = Some(Asked {
                        stream,
                        before: last.number() + 1,
                        limit,
                        sent: None,
                        came: false,
                    });
                }
                None => self.tell_paged(stream, Paged::Here),
            }
        }
        let asked = self.pages.asked.as_mut()?;
        if asked.came || asked.sent.is_some() {
            return None;
        }
        asked.sent = Some(now.mono);
        Some(wire::PageRequest {
            stream: asked.stream.number(),
            before_seq: asked.before,
            limit: asked.limit,
        })
    }

    /// A skip of what is there on demand was admitted as new.
    pub(super) fn note_skipped(&mut self, stream: StreamId, last: u64, reason: SkipReason) {
        if reason == SkipReason::Earlier {
            self.inbox.raise_horizon(stream, last);
        }
    }

    /// The pages of a frame; what was not asked for, or came before, is ignored.
    pub(super) fn take_pages(
        &mut self,
        pages: &[wire::EntryPage],
        welcome_ms: i64,
        batch: &mut Batch,
        now: Now,
    ) {
        for page in pages {
            let answered = self.pages.asked.filter(|asked| {
                !asked.came && asked.stream.number() == page.stream && asked.before == page.before_seq
            });
            let (Some(asked), Some(server)) = (answered, self.server) else {
                self.counters.pages_repeated += 1;
                continue;
            };
            self.repetition.progress();
            if page.refused != 0 {
                self.pages.asked = None;
                self.tell_paged(asked.stream, Paged::Refused(page.refused()));
            } else if (1..asked.before).contains(&page.first_seq) {
                self.take_page(asked, page, server, welcome_ms, batch, now);
            } else {
                self.counters.frames_unreadable += 1;
            }
        }
    }

    /// Entries and horizon are one write.
    fn take_page(
        &mut self,
        asked: Asked,
        page: &wire::EntryPage,
        server: Server,
        welcome_ms: i64,
        batch: &mut Batch,
        now: Now,
    ) {
        let (stream, incarnation) = (asked.stream, server.shelf);
        for run in &page.runs {
            for (of, seq, received) in ReceivedEntry::of_run(run, welcome_ms) {
                let within = of == stream && (page.first_seq..asked.before).contains(&seq.number());
                if let Some(entry) = Self::entry_in_full(stream, seq, received).filter(|_| within) {
                    self.inbox.admitted(stream, seq, run.kind());
                    batch.mutations.push(Mutation::PutEarlier { incarnation, entry });
                    self.counters.entries_paged += 1;
                }
            }
        }
        self.inbox.lower_horizon(stream, page.first_seq - 1);
        batch.mutations.push(Mutation::PutCursor {
            incarnation,
            stream,
            cursor: self.inbox.cursor(stream, now),
        });
        batch.effects.push(Effect::PageStored(stream));
        self.pages.asked = Some(Asked { came: true, ..asked });
    }

    /// A page is on disk.
    pub(super) fn page_stored(&mut self, stream: StreamId) {
        if self.pages.asked.is_some_and(|asked| asked.stream == stream) {
            self.pages.asked = None;
        }
        self.tell_paged(stream, Paged::Here);
    }

    /// No page comes any more, of this connection or of this store.
    pub(super) fn end_pages(&mut self) {
        let asked = self.pages.asked.take().map(|asked| asked.stream);
        let line = std::mem::take(&mut self.pages.line);
        let waiting = asked
            .into_iter()
            .chain(line.into_iter().map(|(stream, _)| stream));
        for stream in waiting {
            self.tell_paged(stream, Paged::Offline);
        }
    }

    fn tell_paged(&mut self, stream: StreamId, paged: Paged) {
        self.events.push_back(Event::Paged { stream, paged });
    }
}
