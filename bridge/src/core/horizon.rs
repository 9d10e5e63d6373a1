//! How far back a device that has lost its database is brought up to date.
//!
//! An installation that holds nothing of a stream gets all of it that the device never held, or that its driver has not
//! read. Of the rest it gets the newest entries, within two bounds ([`CoreOptions::history_entries`](super::CoreOptions) a
//! stream and `history_bytes` in all, the streams with the newest entries first); what lies before is skipped as
//! EARLIER, and there on demand: see [`pages`](super::pages). Nothing is skipped that was not delivered before: receipts
//! neither move back nor claim anything new.

use super::down::{WireBase, entry_to_wire, in_frame};
use super::session::{Phase, Session};
use super::{Core, FetchBack, Purpose};
use crate::entry::Entry;
use crate::stream::Member;
use prost::Message;
use std::collections::BTreeMap;
use waypost_proto::{Cumulative, DeviceId, StreamId};

/// Where the history of each stream begins for a session.
#[derive(Debug)]
pub(super) struct Horizon {
    /// Streams to be looked at, with the last entry that may be left out; the next one last.
    open: Vec<(StreamId, u64)>,
    bytes_left: usize,
    /// The last entry of each stream that does not come by itself.
    through: BTreeMap<StreamId, u64>,
}

impl Session {
    /// The last entry of a stream that is left out, as it is there on demand; 0 for none.
    pub(super) fn earlier_through(&self, stream: StreamId) -> u64 {
        let horizon = self.horizon.as_ref();
        horizon
            .and_then(|horizon| horizon.through.get(&stream).copied())
            .unwrap_or(0)
    }
}

impl Core {
    /// What has to be read before an open session is sent anything; `None` once its horizon is known.
    pub(super) fn next_horizon(&mut self, device: DeviceId) -> Option<FetchBack> {
        let session = self.sessions.get(&device)?;
        if session.phase != Phase::Open {
            return None;
        }
        let (tag, limit) = (session.tag, self.options.history_entries);
        if session.horizon.is_none() {
            let horizon = Horizon {
                open: self.held_before(device, session),
                bytes_left: self.options.history_bytes,
                through: BTreeMap::new(),
            };
            self.sessions.get_mut(&device)?.horizon = Some(horizon);
        }
        let horizon = self.sessions.get_mut(&device)?.horizon.as_mut()?;
        while let Some(&(stream, last)) = horizon.open.last() {
            if horizon.bytes_left > 0 && limit > 0 {
                return Some(FetchBack {
                    device,
                    tag,
                    stream,
                    before: last + 1,
                    limit,
                    purpose: Purpose::Horizon,
                });
            }
            horizon.open.pop();
            horizon.through.insert(stream, last);
            count_bound(if limit == 0 { "entries" } else { "bytes" });
        }
        None
    }

    /// The streams of which this installation holds nothing and an earlier one did, those with the newest entries last;
    /// with the last entry that was delivered and read.
    fn held_before(&self, device: DeviceId, session: &Session) -> Vec<(StreamId, u64)> {
        let (member, held) = (
            Member::Device(device),
            self.transfers.get(&(device, session.epoch)),
        );
        let holds_nothing = |stream: &StreamId| {
            let held = held.and_then(|held| held.get(stream));
            held.map_or(0, Cumulative::through) == 0
        };
        let of_device = self.streams_of.get(&device).into_iter().flatten().copied();
        let mut streams: Vec<(i64, StreamId, u64)> = of_device
            .filter(holds_nothing)
            .filter_map(|stream| {
                let state = self.streams.get(&stream)?;
                let cursor = self.cursors.get(&(stream, member))?;
                let last = cursor.delivered.through().min(cursor.read);
                let last = last.min(state.stream.readable_head(member, state.head));
                (last > 0).then_some((state.last_ms, stream, last))
            })
            .collect();
        streams.sort_unstable();
        let without_time = |(_, stream, last)| (stream, last);
        streams.into_iter().map(without_time).collect()
    }

    /// The newest entries of a stream that was held before, ascending: those that fit into the bounds come again.
    pub(super) fn set_horizon(&mut self, fetch: FetchBack, entries: &[Entry]) {
        let member = Member::Device(fetch.device);
        let Some(session) = self.sessions.get(&fetch.device) else {
            return;
        };
        let base = WireBase::of_session(session);
        let Some(state) = self.streams.get(&fetch.stream) else {
            return;
        };
        let mut bytes_left = session.horizon.as_ref().map_or(0, |horizon| horizon.bytes_left);
        let mut through = match entries.first() {
            Some(oldest) if entries.len() >= fetch.limit => oldest.seq.number() - 1,
            _ => 0,
        };
        let mut bound = "entries";
        let mut readable = entries
            .iter()
            .rev()
            .filter(|entry| state.stream.may_read(member, entry.seq.number()));
        let over = readable.find(|entry| {
            let terms = self.terms(entry, session.catalogue.known, &session.locale);
            let bytes = in_frame(entry_to_wire(entry, base, &terms).encoded_len());
            let fits = bytes_left.checked_sub(bytes);
            bytes_left = fits.unwrap_or(0);
            fits.is_none()
        });
        if let Some(over) = over {
            (through, bound) = (over.seq.number(), "bytes");
        }
        if through > 0 {
            count_bound(bound);
        }
        let session = self.sessions.get_mut(&fetch.device);
        if let Some(horizon) = session.and_then(|session| session.horizon.as_mut()) {
            horizon.open.retain(|(stream, _)| *stream != fetch.stream);
            horizon.bytes_left = bytes_left;
            horizon.through.insert(fetch.stream, through);
        }
    }
}

fn count_bound(bound: &'static str) {
    metrics::counter!("waypost_bridge_history_bounded_total", "bound" => bound).increment(1);
}
