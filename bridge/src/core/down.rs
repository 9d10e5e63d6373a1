//! What devices are told: acknowledgements, refusals, and entries within a window, repeated until they are held.

use super::session::{Phase, Session, UnderWay};
use super::{Core, Fetch, Now, Output};
use crate::entry::{Author, Entry, EntryBody, Moment, Rung};
use crate::stream::{Member, Stream};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use waypost_proto::wire::{self, SkipReason};
use waypost_proto::{Cumulative, DeviceId, OpNumber, Stamp, StreamId};

/// How many entries are read at once for one device.
const FETCH_ENTRIES: usize = 64;
/// How many ranges of accepted operations a frame names; the others are named once a gap closes.
const ACCEPTED_RANGES_MAX: usize = 16;

impl Core {
    /// Makes the outputs that everything handled since the last call asks for.
    pub fn flush(&mut self, now: Now) {
        while let Some(device) = self.dirty.pop_first() {
            self.speak(device, None, now);
        }
        self.sweep.arm(now);
        self.commit();
    }

    /// Entries that were asked for by [`Output::Fetch`], ascending.
    pub fn handle_fetched(&mut self, fetch: Fetch, entries: Vec<Entry>, now: Now) {
        let Some(session) = self
            .sessions
            .get_mut(&fetch.device)
            .filter(|session| session.tag == fetch.tag)
        else {
            return;
        };
        session.fetching = false;
        let Some(state) = self.streams.get(&fetch.stream) else {
            return;
        };
        let held = self
            .transfers
            .get(&(fetch.device, session.epoch))
            .and_then(|held| held.get(&fetch.stream));
        let flow = session.flows.get(&fetch.stream).copied().unwrap_or_default();
        let reached = held.map_or(0, Cumulative::through).max(flow.sent_through);
        let (mut items, mut scanned) = deliverable(&state.stream, fetch, held, entries);
        if reached < fetch.after {
            // The read began behind what was trimmed.
            let trimmed = Item::Skip {
                stream: fetch.stream,
                first_seq: reached + 1,
                last_seq: fetch.after,
                reason: SkipReason::Trimmed,
            };
            items.insert(0, trimmed);
        }
        let room = self.options.window_bytes.saturating_sub(session.under_way_bytes);
        let mut bytes = 0;
        let fitting = items.iter().take_while(|item| {
            let before = bytes;
            bytes += item.bytes();
            before < room
        });
        let fitting = fitting.count();
        if fitting < items.len() {
            items.truncate(fitting);
            scanned = items.last().map_or(reached, |item| item.place().last_seq);
        }
        session.flows.entry(fetch.stream).or_default().sent_through = scanned;
        self.dirty.insert(fetch.device);
        self.speak(fetch.device, Some(items), now);
        self.commit();
    }

    /// Some timers have run out: what they guard goes again.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(&(at, device)) = self.timers.first() {
            if at > now.monotonic {
                break;
            }
            self.timers.remove(&(at, device));
            let Some(session) = self.sessions.get_mut(&device) else {
                continue;
            };
            session.repeat_at = None;
            session.repeat_after = (session.repeat_after * 2).min(self.options.repeat_max);
            session.rewind();
            metrics::counter!("waypost_bridge_repetitions_total").increment(1);
            self.dirty.insert(device);
        }
        self.sweep(now);
    }

    /// Publishes what a session has to say, with the entries that were `fetched`; asks for entries first where none
    /// were and there are some and room for them.
    fn speak(&mut self, device: DeviceId, fetched: Option<Vec<Item>>, now: Now) {
        let Some(session) = self.sessions.get(&device) else {
            return;
        };
        if session.fetching {
            return;
        }
        if fetched.is_none()
            && let Some(fetch) = self.next_fetch(device, session)
        {
            // The acknowledgements wait for the entries and ride with them: the answer comes at once.
            self.sessions
                .get_mut(&device)
                .expect("it was just looked at")
                .fetching = true;
            self.outputs.push_back(Output::Fetch(fetch));
            return;
        }
        let mut frame = self.control_frame(device);
        let mut packed = Vec::new();
        for item in fetched.unwrap_or_default() {
            let room = self.options.frame_bytes;
            if frame.encoded_len() > 0 && frame.encoded_len() + item.bytes() > room && has_items(&frame) {
                let full = std::mem::replace(&mut frame, self.stamped(device));
                self.publish(device, full);
            }
            self.name_author(device, &item, &mut frame);
            packed.push(item.place());
            item.put(&mut frame, self.sessions.get(&device));
        }
        if frame != self.stamped(device) {
            self.publish(device, frame);
        }
        self.note_sent(device, packed, now);
    }

    /// The next stretch of entries that a session may be sent.
    fn next_fetch(&self, device: DeviceId, session: &Session) -> Option<Fetch> {
        if session.phase != Phase::Open || session.under_way_bytes >= self.options.window_bytes {
            return None;
        }
        let held = self.transfers.get(&(device, session.epoch));
        self.streams_of.get(&device)?.iter().find_map(|&stream| {
            let state = self.streams.get(&stream)?;
            let held = held
                .and_then(|held| held.get(&stream))
                .map_or(0, Cumulative::through);
            let sent = session.flows.get(&stream).map_or(0, |flow| flow.sent_through);
            let after = held.max(sent);
            let fetch = Fetch {
                device,
                tag: session.tag,
                stream,
                // Whatever comes before the first entry is said without reading.
                after: after.max(self.first_seq(stream) - 1),
                head: state.head,
                limit: FETCH_ENTRIES,
            };
            (after < state.head).then_some(fetch)
        })
    }

    fn stamped(&self, device: DeviceId) -> wire::DownFrame {
        let stamp = self
            .sessions
            .get(&device)
            .map_or(0, |session| Stamp::of(session.tag).to_wire());
        wire::DownFrame {
            stamp,
            ..Default::default()
        }
    }

    /// Everything but entries; what it says is no longer due.
    fn control_frame(&mut self, device: DeviceId) -> wire::DownFrame {
        let mut frame = self.stamped(device);
        let (incarnation, generation) = (self.incarnation.number(), self.generation.number());
        let office_stream = self
            .devices
            .get(&device)
            .map_or(0, |device| device.stream.number());
        let Some(session) = self.sessions.get_mut(&device) else {
            return frame;
        };
        if std::mem::take(&mut session.welcome_due) {
            frame.welcome = Some(wire::Welcome {
                incarnation,
                generation,
                server_ms: session.welcome_ms.cast_unsigned(),
                want_positions: session.phase
                    == (Phase::Opening {
                        wants_positions: true,
                    }),
                catalogue: 0,
                office_stream,
            });
        }
        if std::mem::take(&mut session.ack_due)
            && let Some(ledger) = self.ledgers.get(&(device, session.epoch))
        {
            frame.accepted_through = ledger.durable.through();
            frame.accepted_ranges = ledger.durable.to_wire_within(ACCEPTED_RANGES_MAX);
        }
        frame.refusals = std::mem::take(&mut session.refusals);
        frame.forked_op = session.forked_op.take().map_or(0, OpNumber::number);
        let read = |stream| {
            self.cursors
                .get(&(stream, Member::Device(device)))
                .map_or(0, |cursor| cursor.read)
        };
        let held = self.transfers.get(&(device, session.epoch));
        for stream in std::mem::take(&mut session.echoes) {
            let held = held
                .and_then(|held| held.get(&stream))
                .cloned()
                .unwrap_or_default();
            frame.cursors.push(wire::Cursor {
                stream: stream.number(),
                delivered: held.through(),
                read: read(stream),
                ranges: held.to_wire(),
                ..Default::default()
            });
        }
        frame
    }

    /// A person's name goes along the first time it is an author in a session.
    fn name_author(&mut self, device: DeviceId, item: &Item, frame: &mut wire::DownFrame) {
        let Item::Entry(entry) = item else { return };
        let Author::Person(person) = entry.author else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&device) else {
            return;
        };
        if session.named.insert(person)
            && let Some(known) = self.people.get(&person)
        {
            frame.names.push(wire::AuthorName {
                person: person.number(),
                name: known.name.clone(),
                device: 0,
            });
        }
    }

    fn publish(&mut self, device: DeviceId, frame: wire::DownFrame) {
        metrics::counter!("waypost_bridge_frames_sent_total").increment(1);
        self.outputs
            .push_back(Output::Publish(device, Bytes::from(frame.encode_to_vec())));
    }

    /// Remembers what is under way, when it has to go again, and that it was sent.
    fn note_sent(&mut self, device: DeviceId, places: Vec<Place>, now: Now) {
        let Some(session) = self.sessions.get_mut(&device) else {
            return;
        };
        let mut sent: BTreeMap<StreamId, (u64, bool)> = BTreeMap::new();
        for Place {
            stream,
            last_seq,
            bytes,
            author,
        } in places
        {
            let own = author == Some(Author::Device(device));
            if session
                .under_way
                .insert((stream, last_seq), UnderWay { bytes, own })
                .is_none()
            {
                session.under_way_bytes += bytes;
            }
            let (through, only_own) = sent.entry(stream).or_insert((0, true));
            *through = last_seq;
            *only_own &= own;
        }
        if !session.under_way.is_empty() && session.repeat_at.is_none() {
            let at = now.monotonic + session.repeat_after;
            session.repeat_at = Some(at);
            self.timers.insert((at, device));
        } else if session.under_way.is_empty()
            && let Some(at) = session.repeat_at.take()
        {
            self.timers.remove(&(at, device));
        }
        let offset_ms = session.offset_ms();
        let device_ms = Some(now.wall_ms.saturating_sub(offset_ms));
        let moment = Moment {
            device_ms,
            server_ms: now.wall_ms,
            offset_ms: Some(offset_ms),
        };
        for (stream, (through, only_own)) in sent {
            let member = Member::Device(device);
            let mut cursor = self.cursors.get(&(stream, member)).cloned().unwrap_or_default();
            if through > cursor.sent {
                self.reach(
                    stream,
                    member,
                    Rung::Sent,
                    (cursor.sent + 1, through),
                    moment,
                    only_own,
                    now,
                );
                cursor.sent = through;
                self.put_cursor(stream, member, cursor);
            }
        }
    }
}

/// Something that moves a transfer position.
#[derive(Debug)]
enum Item {
    Entry(Box<Entry>),
    Skip {
        stream: StreamId,
        first_seq: u64,
        last_seq: u64,
        reason: SkipReason,
    },
}

/// Where an item stands, for the books.
struct Place {
    stream: StreamId,
    last_seq: u64,
    bytes: usize,
    author: Option<Author>,
}

impl Item {
    /// About how many bytes it adds to a frame.
    fn bytes(&self) -> usize {
        match self {
            Self::Entry(entry) => {
                let EntryBody::Text(text) = &entry.body;
                32 + text.len()
            }
            Self::Skip { .. } => 14,
        }
    }

    fn place(&self) -> Place {
        let bytes = self.bytes();
        match self {
            Self::Entry(entry) => Place {
                stream: entry.stream,
                last_seq: entry.seq.number(),
                bytes,
                author: Some(entry.author),
            },
            Self::Skip { stream, last_seq, .. } => Place {
                stream: *stream,
                last_seq: *last_seq,
                bytes,
                author: None,
            },
        }
    }

    fn put(self, frame: &mut wire::DownFrame, session: Option<&Session>) {
        let Some(session) = session else { return };
        match self {
            Self::Entry(entry) => {
                let next = |run: &wire::EntryRun| run.first_seq + run.entries.len() as u64;
                let wire = entry_to_wire(&entry, session);
                let (stream, seq) = (entry.stream.number(), entry.seq.number());
                match frame
                    .entries
                    .last_mut()
                    .filter(|run| run.stream == stream && next(run) == seq)
                {
                    Some(run) => run.entries.push(wire),
                    None => frame.entries.push(wire::EntryRun {
                        stream,
                        first_seq: seq,
                        entries: vec![wire],
                        kind: wire::StreamKind::Conversation.into(),
                    }),
                }
            }
            Self::Skip {
                stream,
                first_seq,
                last_seq,
                reason,
            } => frame.skips.push(wire::SkipRange {
                stream: stream.number(),
                first_seq,
                count: last_seq - first_seq + 1,
                reason: reason.into(),
            }),
        }
    }
}

fn has_items(frame: &wire::DownFrame) -> bool {
    !frame.entries.is_empty() || !frame.skips.is_empty()
}

/// What of the fetched stretch a device gets: entries inside its membership that it does not hold, and skip ranges
/// for everything else, so that its transfer position never stalls. With it, how far the stretch reaches.
fn deliverable(
    stream: &Stream,
    fetch: Fetch,
    held: Option<&Cumulative>,
    entries: Vec<Entry>,
) -> (Vec<Item>, u64) {
    let member = Member::Device(fetch.device);
    // Where fewer entries came than were asked for, the stretch reaches the head.
    let last = if entries.len() < fetch.limit {
        fetch.head
    } else {
        entries.last().map_or(fetch.head, |entry| entry.seq.number())
    };
    let mut found: BTreeMap<u64, Entry> = entries
        .into_iter()
        .map(|entry| (entry.seq.number(), entry))
        .collect();
    let mut items: Vec<Item> = Vec::new();
    let skip = |items: &mut Vec<Item>, seq: u64, why: SkipReason| match items.last_mut() {
        Some(Item::Skip { last_seq, reason, .. }) if *last_seq + 1 == seq && *reason == why => {
            *last_seq = seq;
        }
        _ => items.push(Item::Skip {
            stream: fetch.stream,
            first_seq: seq,
            last_seq: seq,
            reason: why,
        }),
    };
    for seq in fetch.after + 1..=last {
        if held.is_some_and(|held| held.contains(seq)) {
            continue;
        }
        match found.remove(&seq) {
            _ if !stream.may_read(member, seq) => skip(&mut items, seq, SkipReason::NotAMember),
            Some(entry) => items.push(Item::Entry(Box::new(entry))),
            None => skip(&mut items, seq, SkipReason::Trimmed),
        }
    }
    (items, last)
}

fn entry_to_wire(entry: &Entry, session: &Session) -> wire::Entry {
    if let Some((epoch, op)) = entry.operation
        && epoch == session.epoch
    {
        return wire::Entry {
            own_op: op.number(),
            ..Default::default()
        };
    }
    let EntryBody::Text(text) = &entry.body;
    let accepted = entry.accepted;
    wire::Entry {
        own_op: 0,
        author_device: if let Author::Device(device) = entry.author {
            device.number()
        } else {
            0
        },
        author_person: if let Author::Person(person) = entry.author {
            person.number()
        } else {
            0
        },
        server_ms: accepted.server_ms.saturating_sub(session.welcome_ms),
        device_ms: accepted
            .device_ms
            .map_or(0, |device_ms| device_ms.saturating_sub(accepted.server_ms)),
        author_op: entry.operation.map_or(0, |(_, op)| op.number()),
        urgent: entry.urgent,
        reply_to: entry.reply_to.map_or(0, waypost_proto::Seq::number),
        reply_stream: 0,
        expires_in_s: entry.expires_ms.map_or(0, |expires_ms| {
            let left_s = (expires_ms - accepted.server_ms).max(1_000) / 1_000;
            u32::try_from(left_s).unwrap_or(u32::MAX)
        }),
        body: Some(wire::entry::Body::Text(text.clone())),
    }
}
