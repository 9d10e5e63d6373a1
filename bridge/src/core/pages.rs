//! Entries from before what a device holds, a page at a time, on demand.
//!
//! A page is read from the store when there is room for it: it comes after all that is due, and one frame at a time. It
//! moves no cursor and no receipt. A device has one request at a time; a request has no number, and its repetition gets the
//! same answer again.
//!
//! Bounds: [`PAGES_BURST`] pages at once and one in [`PAGE_EVERY`] after that; a request beyond it waits for its turn.

use super::down::{Item, WireBase, about, deliverable};
use super::session::{Phase, Session};
use super::{Core, Fetch, FetchBack, Lane, Now, Purpose};
use crate::entry::{Author, Entry};
use crate::stream::Member;
use prost::Message;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use waypost_proto::wire::{self, RefusalReason, SkipReason};
use waypost_proto::{Cumulative, DeviceId, StreamId};

/// The most entries of a page.
const PAGE_ENTRIES_MAX: u32 = 64;
/// Pages that a session gets without waiting.
const PAGES_BURST: u32 = 32;
/// After those, one in this time: 12 kB a second.
const PAGE_EVERY: Duration = Duration::from_millis(100);
/// What a page takes of a frame beside its entries: its head, two skips and the head of a run.
const PAGE_HEAD_BYTES: usize = 96;

/// The request of a session that has no answer yet.
#[derive(Debug, Default)]
pub(super) struct Paging {
    wanted: Option<wire::PageRequest>,
    /// By when the pages so far would have gone out, one in [`PAGE_EVERY`].
    paid_until: Option<Instant>,
}

impl Paging {
    /// From when on the next page may go out; `None` for now.
    fn put_off(&self, now: Instant) -> Option<Instant> {
        let from = self.paid_until?.checked_sub(PAGE_EVERY * PAGES_BURST)?;
        (from > now).then_some(from)
    }

    fn pay(&mut self, now: Instant) {
        self.paid_until = Some(self.paid_until.map_or(now, |until| until.max(now)) + PAGE_EVERY);
    }
}

/// A stretch of a stream that a reader may know.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    stream: StreamId,
    first: u64,
    last: u64,
}

impl Core {
    /// A device asks for earlier entries.
    pub(super) fn handle_page_request(&mut self, device: DeviceId, request: &wire::PageRequest) {
        let Some(session) = self.sessions.get_mut(&device) else {
            return;
        };
        let before = session.pages.wanted.replace(*request);
        if before.is_some_and(|before| before != *request) {
            count("replaced");
        }
        self.dirty.insert(device);
    }

    /// Some requests were put off until now.
    pub(super) fn wake_pages(&mut self, now: Now) {
        while let Some(&(at, device)) = self.page_waits.first()
            && at <= now.monotonic
        {
            self.page_waits.pop_first();
            self.dirty.insert(device);
        }
    }

    /// What has to be read for the page that is wanted, once nothing else is due and there is room for a frame. A
    /// request that reads nothing is answered at once.
    pub(super) fn next_page(&mut self, device: DeviceId, now: Now) -> Option<FetchBack> {
        let session = self.sessions.get(&device)?;
        let request = session.pages.wanted?;
        if session.phase != Phase::Open || !self.has_room_for_page(device, session) {
            return None;
        }
        if let Some(at) = session.pages.put_off(now.monotonic) {
            if self.page_waits.insert((at, device)) {
                count("put_off");
            }
            return None;
        }
        match self.stretch_before(device, &request) {
            Ok(Some(Stretch { stream, last, .. })) => Some(FetchBack {
                device,
                tag: session.tag,
                stream,
                before: last + 1,
                limit: request.limit as usize,
                purpose: Purpose::Page(request),
            }),
            Ok(None) => {
                let page = self.nothing_before(device, &request);
                self.publish_page(device, page, Vec::new(), now);
                None
            }
            Err(reason) => {
                let page = wire::EntryPage {
                    refused: reason.into(),
                    ..empty_page(&request)
                };
                self.publish_page(device, page, Vec::new(), now);
                None
            }
        }
    }

    fn has_room_for_page(&self, device: DeviceId, session: &Session) -> bool {
        session.window.frames_beside(session.under_way_bytes) > 0 && !self.has_ordinary(device, session)
    }

    /// The last stretch before the number of a request of which there is something for its author; `None` where there
    /// is nothing.
    fn stretch_before(
        &self,
        device: DeviceId,
        request: &wire::PageRequest,
    ) -> Result<Option<Stretch>, RefusalReason> {
        let member = Member::Device(device);
        if request.before_seq == 0 || !(1..=PAGE_ENTRIES_MAX).contains(&request.limit) {
            return Err(RefusalReason::Unreadable);
        }
        let stream = StreamId::new(request.stream).ok_or(RefusalReason::Unreadable)?;
        let state = self.streams.get(&stream).ok_or(RefusalReason::UnknownStream)?;
        if !state.stream.ever_had(member) {
            return Err(RefusalReason::NotAMember);
        }
        let head = state.stream.readable_head(member, state.head);
        let readable = state
            .stream
            .last_readable_to(member, head.min(request.before_seq - 1));
        let kept = readable.map(|(first, last)| Stretch {
            stream,
            first: first.max(self.first_seq(stream)),
            last,
        });
        Ok(kept.filter(|stretch| stretch.first <= stretch.last))
    }

    /// The page where there is nothing before the number of a request any more.
    fn nothing_before(&self, device: DeviceId, request: &wire::PageRequest) -> wire::EntryPage {
        let mut page = wire::EntryPage {
            first_seq: 1,
            ..empty_page(request)
        };
        let state = StreamId::new(request.stream).and_then(|stream| self.streams.get(&stream));
        if let Some(state) = state {
            let head = state.stream.readable_head(Member::Device(device), state.head);
            let last = head.min(request.before_seq - 1);
            page.skips.extend(skip(
                state.stream.id,
                1,
                last,
                self.why_gone(state.stream.id, last),
            ));
        }
        page
    }

    /// Why there is nothing for a reader up to a number.
    fn why_gone(&self, stream: StreamId, last: u64) -> SkipReason {
        if last < self.first_seq(stream) {
            SkipReason::Trimmed
        } else {
            SkipReason::NotAMember
        }
    }

    /// Entries that were read for a page, ascending: as many as fit into a frame, the newest of them.
    pub(super) fn answer_page(
        &mut self,
        fetch: FetchBack,
        request: wire::PageRequest,
        mut entries: Vec<Entry>,
        now: Now,
    ) {
        let device = fetch.device;
        let asked_for = |session: &&Session| session.pages.wanted == Some(request);
        let Some(session) = self.sessions.get(&device).filter(asked_for) else {
            return;
        };
        let base = WireBase::of_session(session).in_full();
        let Ok(Some(stretch)) = self.stretch_before(device, &request) else {
            return;
        };
        // The reader has left, or joined again, since this was asked for: it is asked for anew.
        let Some(state) = self
            .streams
            .get(&stretch.stream)
            .filter(|_| stretch.last + 1 == fetch.before)
        else {
            return;
        };
        let read = entries.len();
        entries.retain(|entry| entry.seq.number() >= stretch.first);
        let oldest = entries
            .first()
            .map_or(stretch.last + 1, |entry| entry.seq.number());
        let is_whole = read < fetch.limit || entries.len() < read || oldest == stretch.first;
        let of_stretch = Fetch {
            device,
            tag: fetch.tag,
            stream: stretch.stream,
            lane: Lane::Ordinary,
            reached: oldest - 1,
            after: oldest - 1,
            head: stretch.last,
            limit: usize::MAX,
        };
        // What has expired says so by itself; that it was superseded, the reader may lack the entry to know from.
        let gone = |entry: &Entry| entry.superseded_by.map(|_| SkipReason::Superseded);
        let (found, _) = deliverable(&state.stream, of_stretch, &Cumulative::default(), entries, gone);
        let head = state.stream.readable_head(Member::Device(device), state.head);
        let above = skip(
            stretch.stream,
            stretch.last + 1,
            head.min(request.before_seq - 1),
            SkipReason::NotAMember,
        );
        let items = self.items(device, of_stretch, base, found);
        let (mut page, names) = self.pack_page(device, &request, items);
        page.skips.extend(above);
        if page.first_seq == 0 {
            page.first_seq = oldest;
        }
        if page.first_seq == oldest && is_whole {
            self.extend_to_begin(device, stretch, oldest, &mut page);
        }
        self.publish_page(device, page, names, now);
    }

    /// The page holds the stretch down to its first entry: what lies before that is said along with it.
    fn extend_to_begin(&self, device: DeviceId, stretch: Stretch, oldest: u64, page: &mut wire::EntryPage) {
        let Stretch { stream, first, .. } = stretch;
        page.skips
            .extend(skip(stream, first, oldest - 1, SkipReason::Trimmed));
        page.first_seq = first;
        let below = self
            .streams
            .get(&stream)
            .and_then(|state| state.stream.last_readable_to(Member::Device(device), first - 1))
            .is_some_and(|(_, last)| last >= self.first_seq(stream));
        if !below {
            let why = self.why_gone(stream, first - 1);
            page.skips.extend(skip(stream, 1, first - 1, why));
            page.first_seq = 1;
        }
    }

    /// The newest items that fit, and the names of their authors, which go with each page: it may be the one that is
    /// not lost.
    fn pack_page(
        &self,
        device: DeviceId,
        request: &wire::PageRequest,
        items: Vec<Item>,
    ) -> (wire::EntryPage, Vec<wire::AuthorName>) {
        let mut page = empty_page(request);
        let mut room = self.options.frame_bytes.saturating_sub(PAGE_HEAD_BYTES);
        let (mut names, mut named) = (Vec::new(), BTreeSet::from([Author::Device(device)]));
        let mut packed: Vec<Item> = Vec::new();
        for item in items.into_iter().rev() {
            let author = item.entry().map(about);
            let name = author
                .filter(|author| !named.contains(author))
                .and_then(|author| self.name_on_wire(author));
            let bytes = item.bytes() + name.as_ref().map_or(0, |name| name.encoded_len() + 4);
            match room.checked_sub(bytes) {
                Some(left) => room = left,
                None if packed.is_empty() => room = 0,
                None => break,
            }
            named.extend(author);
            names.extend(name);
            packed.push(item);
        }
        let mut frame = wire::DownFrame::default();
        for item in packed.into_iter().rev() {
            if page.first_seq == 0 {
                page.first_seq = item.first_seq();
            }
            item.put(&mut frame);
        }
        (page.runs, page.skips) = (frame.entries, frame.skips);
        (page, names)
    }

    /// The answer to the request of a session.
    fn publish_page(
        &mut self,
        device: DeviceId,
        page: wire::EntryPage,
        names: Vec<wire::AuthorName>,
        now: Now,
    ) {
        count(if page.refused == 0 { "answered" } else { "refused" });
        if let Some(session) = self.sessions.get_mut(&device) {
            session.pages.wanted = None;
            session.pages.pay(now.monotonic);
        }
        let mut frame = self.stamped(device);
        frame.names = names;
        frame.pages = vec![page];
        self.publish(device, frame, now);
    }
}

fn empty_page(request: &wire::PageRequest) -> wire::EntryPage {
    wire::EntryPage {
        stream: request.stream,
        before_seq: request.before_seq,
        ..Default::default()
    }
}

/// `None` for an empty range.
fn skip(stream: StreamId, first_seq: u64, last_seq: u64, reason: SkipReason) -> Option<wire::SkipRange> {
    (first_seq <= last_seq).then(|| wire::SkipRange {
        stream: stream.number(),
        first_seq,
        count: last_seq - first_seq + 1,
        reason: reason.into(),
    })
}

fn count(outcome: &'static str) {
    metrics::counter!("waypost_bridge_pages_total", "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_put_off_after_a_burst_and_then_come_one_by_one() {
        let mut paging = Paging::default();
        let start = Instant::now() + PAGE_EVERY * PAGES_BURST;
        for _ in 0..=PAGES_BURST {
            assert_eq!(paging.put_off(start), None);
            paging.pay(start);
        }
        assert_eq!(paging.put_off(start), Some(start + PAGE_EVERY));
        assert_eq!(paging.put_off(start + PAGE_EVERY), None);
        paging.pay(start + PAGE_EVERY);
        assert_eq!(paging.put_off(start + PAGE_EVERY), Some(start + PAGE_EVERY * 2));
    }
}
