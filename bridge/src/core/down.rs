//! What devices are told: acknowledgements, refusals, and entries within a window, repeated until they are held.

use super::session::{Phase, Session, UnderWay, Welcome};
use super::{Core, Fetch, GroupFetch, Now, Output};
use crate::entry::{Author, Entry, EntryBody, Moment, Rung};
use crate::group::GroupId;
use crate::link::Subscriptions;
use crate::stream::{Member, Stream, StreamKind};
use crate::template::FALLBACK_LOCALE;
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use waypost_proto::wire::{self, SkipReason};
use waypost_proto::{Cumulative, DeviceId, Epoch, OpNumber, Stamp, StreamId};

/// How many entries are read at once for one device.
const FETCH_ENTRIES: usize = 64;
/// How many ranges of accepted operations a frame names; the others are named once a gap closes.
const ACCEPTED_RANGES_MAX: usize = 16;

impl Core {
    /// Makes the outputs that everything handled since the last call asks for.
    pub fn flush(&mut self, now: Now) {
        while let Some(stream) = self.dirty_groups.pop_first() {
            self.speak_to_group(stream);
        }
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
        let first_seq = self.sweep.first_seq_of(fetch.stream);
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
            // The read began behind what was trimmed, or behind what this reader may not know.
            let skipped = Item::Skip {
                stream: fetch.stream,
                first_seq: reached + 1,
                last_seq: fetch.after,
                reason: if fetch.after < first_seq {
                    SkipReason::Trimmed
                } else {
                    SkipReason::NotAMember
                },
            };
            items.insert(0, skipped);
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
        let (catalogue, locale) = (session.catalogue.known, session.locale.clone());
        for item in &mut items {
            if let Item::Entry(entry, terms) = item {
                *terms = self.terms(entry, catalogue, &locale);
            }
        }
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
            session.groups.repeat();
            session.catalogue.repeat();
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
        let member = Member::Device(device);
        self.streams_of.get(&device)?.iter().find_map(|&stream| {
            let state = self.streams.get(&stream)?;
            let mut head = state.stream.readable_head(member, state.head);
            if self.listens(session) && matches!(state.stream.kind, StreamKind::Group(_)) {
                // What is about to go out on the group's topic does not go to the device's own first.
                head = head.min(self.group_sent.get(&stream).copied().unwrap_or(0));
            }
            let held = held
                .and_then(|held| held.get(&stream))
                .map_or(0, Cumulative::through);
            let sent = session.flows.get(&stream).map_or(0, |flow| flow.sent_through);
            let after = held.max(sent);
            if after >= head {
                return None;
            }
            // Whatever comes before the first entry that is there for this reader is said without reading.
            let first = state.stream.first_readable_from(member, after + 1)?;
            let first = first.max(self.first_seq(stream)).min(head + 1);
            let fetch = Fetch {
                device,
                tag: session.tag,
                stream,
                after: first - 1,
                head,
                limit: FETCH_ENTRIES,
            };
            Some(fetch)
        })
    }

    /// Whether a session hears what goes out on the topics of its groups.
    fn listens(&self, session: &Session) -> bool {
        self.group_topics == Subscriptions::CanBeEnded
            && session.phase == Phase::Open
            && session.groups.actual != 0
            && !session.groups.differs()
    }

    /// Brings what is new in a group's stream to its topic where anybody listens there, and to each member's own topic
    /// where not.
    fn speak_to_group(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get(&stream) else {
            return;
        };
        let StreamKind::Group(group) = state.stream.kind else {
            return;
        };
        let head = state.head;
        let sent = self.group_sent.entry(stream).or_insert(0);
        let after = *sent;
        if after >= head {
            return;
        }
        let members: Vec<DeviceId> = state.stream.devices().collect();
        let somebody_listens = members.iter().any(|device| {
            self.sessions
                .get(device)
                .is_some_and(|session| self.listens(session))
        });
        if somebody_listens {
            self.outputs.push_back(Output::FetchGroup(GroupFetch {
                group,
                stream,
                after,
                head,
                limit: FETCH_ENTRIES,
            }));
        } else {
            self.group_sent.insert(stream, head);
            self.dirty.extend(members);
        }
    }

    /// Entries that were asked for by [`Output::FetchGroup`], ascending. They go out once for all who listen and are in
    /// step; everybody else is served on their own topic.
    pub fn handle_group_fetched(&mut self, fetch: GroupFetch, entries: Vec<Entry>, now: Now) {
        let Some(state) = self.streams.get(&fetch.stream) else {
            return;
        };
        let last = if entries.len() < fetch.limit {
            fetch.head
        } else {
            entries.last().map_or(fetch.head, |entry| entry.seq.number())
        };
        let whole = entries.len() as u64 == last - fetch.after;
        let members: Vec<DeviceId> = state.stream.devices().collect();
        self.group_sent.insert(fetch.stream, last);
        if last < fetch.head {
            self.dirty_groups.insert(fetch.stream);
        }
        let terms = EntryTerms::default();
        let places: Vec<Place> = entries
            .iter()
            .map(|entry| place_of(entry, entry_bytes(entry, &terms)))
            .collect();
        let bytes: usize = places.iter().map(|place| place.bytes).sum();
        let (mut in_step, mut oldest_catalogue) = (Vec::new(), u32::MAX);
        for device in &members {
            let Some(session) = self.sessions.get(device).filter(|session| self.listens(session)) else {
                continue;
            };
            oldest_catalogue = oldest_catalogue.min(session.catalogue.known);
            let held = self
                .transfers
                .get(&(*device, session.epoch))
                .and_then(|held| held.get(&fetch.stream))
                .map_or(0, Cumulative::through);
            let sent = session
                .flows
                .get(&fetch.stream)
                .map_or(0, |flow| flow.sent_through);
            // An author knows its own words and waits for their place, which only its own topic can tell.
            let wrote_some = places
                .iter()
                .any(|place| place.author == Some(Author::Device(*device)));
            let has_room = session.under_way_bytes + bytes <= self.options.window_bytes;
            if whole && held.max(sent) == fetch.after && has_room && !wrote_some {
                in_step.push(*device);
            }
        }
        if !in_step.is_empty() {
            self.publish_to_group(fetch, &entries, oldest_catalogue, now);
            for device in &in_step {
                if let Some(session) = self.sessions.get_mut(device) {
                    session.flows.entry(fetch.stream).or_default().sent_through = last;
                }
                self.note_sent(*device, places.clone(), now);
            }
        }
        self.dirty.extend(members);
        self.commit();
    }

    fn publish_to_group(&mut self, fetch: GroupFetch, entries: &[Entry], oldest_catalogue: u32, now: Now) {
        let empty = wire::GroupFrame {
            generation: self.generation.number(),
            server_ms: now.wall_ms.cast_unsigned(),
            // Its low half.
            store: (self.incarnation.number() & u64::from(u32::MAX)) as u32,
            entries: Vec::new(),
            names: Vec::new(),
        };
        let mut frame = empty.clone();
        let mut named = BTreeSet::new();
        for entry in entries {
            let base = WireBase {
                epoch: None,
                base_ms: now.wall_ms,
            };
            let terms = self.terms(entry, oldest_catalogue, FALLBACK_LOCALE);
            let wire = entry_to_wire(entry, base, &terms);
            if !frame.entries.is_empty()
                && frame.encoded_len() + wire.encoded_len() > self.options.frame_bytes
            {
                let full = std::mem::replace(&mut frame, empty.clone());
                self.publish_group_frame(fetch.group, &full);
                named.clear();
            }
            if named.insert(entry.author) {
                frame.names.extend(self.name_on_wire(entry.author));
            }
            put_entry(&mut frame.entries, entry, wire, wire::StreamKind::Conversation);
        }
        self.publish_group_frame(fetch.group, &frame);
    }

    fn publish_group_frame(&mut self, group: GroupId, frame: &wire::GroupFrame) {
        metrics::counter!("waypost_bridge_group_frames_sent_total").increment(1);
        self.outputs
            .push_back(Output::PublishGroup(group, Bytes::from(frame.encode_to_vec())));
    }

    /// How an entry is told to somebody with this version of the catalogue, in this language.
    fn terms(&self, entry: &Entry, catalogue: u32, locale: &str) -> EntryTerms {
        let kind = match self.streams.get(&entry.stream).map(|state| state.stream.kind) {
            Some(StreamKind::Broadcast) => wire::StreamKind::Broadcast,
            _ => wire::StreamKind::Conversation,
        };
        let said = match &entry.body {
            // Whoever may not have the template in that version, or has it no more, is told the words.
            EntryBody::Reply(reply) if catalogue < reply.version || !self.is_offered(reply.template) => self
                .render(reply, locale)
                .map(|rendered| rendered.text)
                .unwrap_or_default(),
            _ => String::new(),
        };
        EntryTerms { kind, said }
    }

    fn name_on_wire(&self, author: Author) -> Option<wire::AuthorName> {
        let name = self.author_name(author)?;
        match author {
            Author::Person(person) => Some(wire::AuthorName {
                person: person.number(),
                name,
                device: 0,
            }),
            Author::Device(device) => Some(wire::AuthorName {
                person: 0,
                name,
                device: device.number(),
            }),
            Author::System => None,
        }
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
        let groups = match self.sessions.get(&device) {
            Some(session) if session.groups.due => self.groups_of(device),
            _ => Vec::new(),
        };
        let (incarnation, generation) = (self.incarnation.number(), self.generation.number());
        let office_stream = self
            .devices
            .get(&device)
            .map_or(0, |device| device.stream.number());
        let Some(session) = self.sessions.get_mut(&device) else {
            return frame;
        };
        if session.welcome == Welcome::Due {
            session.welcome = Welcome::Said;
            frame.welcome = Some(wire::Welcome {
                incarnation,
                generation,
                server_ms: session.welcome_ms.cast_unsigned(),
                want_positions: session.phase
                    == (Phase::Opening {
                        wants_positions: true,
                    }),
                catalogue: self.catalogue.version(),
                office_stream,
            });
        }
        if std::mem::take(&mut session.ack_due)
            && let Some(ledger) = self.ledgers.get(&(device, session.epoch))
        {
            frame.accepted_through = ledger.durable.through();
            frame.accepted_ranges = ledger.durable.to_wire_within(ACCEPTED_RANGES_MAX);
        }
        if std::mem::take(&mut session.groups.due) {
            frame.groups = Some(wire::Groups { groups });
        }
        if std::mem::take(&mut session.catalogue.due) {
            frame.catalogue = Some(self.catalogue.news(session.catalogue.known, &session.locale));
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

    /// An author's name goes along the first time it is one in a session; a device knows its own.
    fn name_author(&mut self, device: DeviceId, item: &Item, frame: &mut wire::DownFrame) {
        let Item::Entry(entry, _) = item else { return };
        let about = match entry.body {
            EntryBody::Membership(member, _) => Author::Device(member),
            EntryBody::Text(_) | EntryBody::Reply(_) => entry.author,
        };
        if about == Author::Device(device) {
            return;
        }
        if let Some(session) = self.sessions.get_mut(&device)
            && session.named.insert(about)
        {
            frame.names.extend(self.name_on_wire(about));
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
        let awaits = session.awaits();
        if awaits && session.repeat_at.is_none() {
            let at = now.monotonic + session.repeat_after;
            session.repeat_at = Some(at);
            self.timers.insert((at, device));
        } else if !awaits && let Some(at) = session.repeat_at.take() {
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
    Entry(Box<Entry>, EntryTerms),
    Skip {
        stream: StreamId,
        first_seq: u64,
        last_seq: u64,
        reason: SkipReason,
    },
}

/// What depends on the reader of an entry.
#[derive(Debug, Clone, Default)]
struct EntryTerms {
    kind: wire::StreamKind,
    /// What a quick reply says, where the reader cannot put it together; else empty.
    said: String,
}

/// Where an item stands, for the books.
#[derive(Debug, Clone)]
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
            Self::Entry(entry, terms) => entry_bytes(entry, terms),
            Self::Skip { .. } => 14,
        }
    }

    fn place(&self) -> Place {
        let bytes = self.bytes();
        match self {
            Self::Entry(entry, _) => place_of(entry, bytes),
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
            Self::Entry(entry, terms) => {
                let base = WireBase {
                    epoch: Some(session.epoch),
                    base_ms: session.welcome_ms,
                };
                let wire = entry_to_wire(&entry, base, &terms);
                put_entry(&mut frame.entries, &entry, wire, terms.kind);
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

/// About how many bytes an entry adds to a frame.
fn entry_bytes(entry: &Entry, terms: &EntryTerms) -> usize {
    32 + match &entry.body {
        EntryBody::Text(text) => text.len(),
        EntryBody::Reply(reply) => {
            let texts: usize = reply.texts.iter().map(|text| text.len() + 2).sum();
            12 + 5 * reply.numbers.len() + texts + terms.said.len()
        }
        EntryBody::Membership(..) => 10,
    }
}

fn place_of(entry: &Entry, bytes: usize) -> Place {
    Place {
        stream: entry.stream,
        last_seq: entry.seq.number(),
        bytes,
        author: Some(entry.author),
    }
}

/// Puts an entry into the run that it continues, or begins one with it.
fn put_entry(runs: &mut Vec<wire::EntryRun>, entry: &Entry, wire: wire::Entry, kind: wire::StreamKind) {
    let (stream, seq) = (entry.stream.number(), entry.seq.number());
    let next = |run: &wire::EntryRun| run.first_seq + run.entries.len() as u64;
    match runs
        .last_mut()
        .filter(|run| run.stream == stream && next(run) == seq)
    {
        Some(run) => run.entries.push(wire),
        None => runs.push(wire::EntryRun {
            stream,
            first_seq: seq,
            entries: vec![wire],
            kind: kind.into(),
        }),
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
            Some(entry) => items.push(Item::Entry(Box::new(entry), EntryTerms::default())),
            None => skip(&mut items, seq, SkipReason::Trimmed),
        }
    }
    (items, last)
}

/// What the times and numbers of an entry count from.
#[derive(Debug, Clone, Copy)]
struct WireBase {
    /// The receiver's present outbox, whose operations travel as stubs; `None` for many receivers.
    epoch: Option<Epoch>,
    /// Server clock, UTC milliseconds.
    base_ms: i64,
}

fn entry_to_wire(entry: &Entry, base: WireBase, terms: &EntryTerms) -> wire::Entry {
    if let Some((epoch, op)) = entry.operation
        && base.epoch == Some(epoch)
    {
        return wire::Entry {
            own_op: op.number(),
            ..Default::default()
        };
    }
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
        server_ms: accepted.server_ms.saturating_sub(base.base_ms),
        device_ms: accepted
            .device_ms
            .map_or(0, |device_ms| device_ms.saturating_sub(accepted.server_ms)),
        author_op: entry.operation.map_or(0, |(_, op)| op.number()),
        urgent: entry.urgent,
        reply_to: entry.reply_to.map_or(0, waypost_proto::Seq::number),
        reply_stream: entry.reply_stream.map_or(0, StreamId::number),
        expires_in_s: entry.expires_ms.map_or(0, |expires_ms| {
            let left_s = (expires_ms - accepted.server_ms).max(1_000) / 1_000;
            u32::try_from(left_s).unwrap_or(u32::MAX)
        }),
        body: Some(match &entry.body {
            EntryBody::Text(text) => wire::entry::Body::Text(text.clone()),
            EntryBody::Reply(reply) => wire::entry::Body::Reply(wire::QuickReply {
                text: terms.said.clone(),
                ..reply.to_wire()
            }),
            EntryBody::Membership(device, change) => wire::entry::Body::Membership(change.to_wire(*device)),
        }),
    }
}
