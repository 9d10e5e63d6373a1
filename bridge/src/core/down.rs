//! What devices are told: acknowledgements, refusals, and entries within a window, repeated until they are held.

use super::session::{Phase, Session, UnderWay, Welcome};
use super::{Core, Fetch, FetchBack, GroupFetch, Lane, Now, Output, Purpose, StreamState};
use crate::entry::{Author, Entry, EntryBody, Rung};
use crate::group::GroupId;
use crate::link::Subscriptions;
use crate::stream::{Member, Stream, StreamKind};
use crate::template::FALLBACK_LOCALE;
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use waypost_proto::wire::{self, SkipReason};
use waypost_proto::{Cumulative, DeviceId, Epoch, OpNumber, Stamp, StreamId};

/// How many entries are read at once for one device.
const FETCH_ENTRIES: usize = 64;
/// How many ranges of accepted operations a frame names; the others are named once a gap closes.
pub(super) const ACCEPTED_RANGES_MAX: usize = 16;
/// How many ranges a device holds above a gap; an entry that would open another waits for its turn.
const DEVICE_RANGES_MAX: usize = 8;
/// Where one who listens to a group has no room, so many others at most get what is said on their own topics instead: more copies
/// would cost the server more than they spare one link, which then gets up to [`FETCH_ENTRIES`] beyond its window.
const OWN_TOPICS_MAX: usize = 32;
/// What the head of a run, or a longer length of one, takes of a frame.
const RUN_BYTES: usize = 20;
/// A device in session is told what time it is so often, by two bytes in a frame that is due anyway.
const TELL_TIME_EVERY: Duration = Duration::from_secs(15 * 60);

impl Core {
    /// Makes the outputs that everything handled since the last call asks for.
    pub fn flush(&mut self, now: Now) {
        while let Some(stream) = self.dirty_groups.pop_first() {
            self.speak_to_group(stream);
        }
        while let Some(device) = self.dirty.pop_first() {
            self.speak(device, now);
        }
        self.sweep.arm(now);
        self.expiries.arm(now);
        self.commit();
    }

    /// Entries that were asked for by [`Output::Fetch`], ascending. They are gathered until all that is due, or all that
    /// there is room for, can go together.
    pub fn handle_fetched(&mut self, fetch: Fetch, entries: Vec<Entry>, now: Now) {
        let Fetch { device, stream, .. } = fetch;
        let Some(session) = self
            .sessions
            .get_mut(&device)
            .filter(|session| session.tag == fetch.tag)
        else {
            return;
        };
        session.fetching = false;
        self.dirty.insert(device);
        let first_seq = self.sweep.first_seq_of(stream);
        let Some(state) = self.streams.get(&stream) else {
            return;
        };
        let held = self
            .transfers
            .get(&(device, session.epoch))
            .and_then(|held| held.get(&stream));
        let flow = session.flows.entry(stream).or_default();
        let reached = held.map_or(0, Cumulative::through).max(flow.sent_through);
        let mut known = held.cloned().unwrap_or_default();
        for &seq in &flow.ahead {
            known.insert(seq);
        }
        let gone = |entry: &Entry| self.expiries.gone(entry, Some(device), now);
        let (mut found, scanned) = deliverable(&state.stream, fetch, &known, entries, gone);
        match fetch.lane {
            // The stream has moved meanwhile: what was read no longer continues it.
            Lane::Ordinary if reached != fetch.reached => return,
            Lane::Ordinary => {
                if reached < fetch.after {
                    // The read began behind what was trimmed, or behind what this reader may not know.
                    let there = state
                        .stream
                        .first_readable_from(Member::Device(device), reached + 1)
                        .map_or(fetch.after + 1, |seq| seq.max(first_seq).min(fetch.after + 1));
                    if there <= fetch.after {
                        // What this reader may know has its horizon, and is there on demand.
                        let earlier = Found::Skip {
                            first_seq: there,
                            last_seq: fetch.after,
                            reason: SkipReason::Earlier,
                        };
                        found.insert(0, earlier);
                    }
                    if reached + 1 < there {
                        let skipped = Found::Skip {
                            first_seq: reached + 1,
                            last_seq: there - 1,
                            reason: if there <= first_seq {
                                SkipReason::Trimmed
                            } else {
                                SkipReason::NotAMember
                            },
                        };
                        found.insert(0, skipped);
                    }
                }
                flow.sent_through = scanned;
            }
            Lane::Urgent => {
                flow.ahead.insert(fetch.head);
            }
        }
        let Some(base) = self.sessions.get(&device).map(WireBase::of_session) else {
            return;
        };
        let items = self.items(device, fetch, base, found);
        if let Some(session) = self.sessions.get_mut(&device) {
            for item in items {
                let went_on = session.gathered.last_mut().is_some_and(|last| last.go_on(&item));
                if !went_on {
                    session.gathered.push(item);
                }
            }
        }
        self.speak(device, now);
        self.commit();
    }

    /// As what is found goes to this device.
    pub(super) fn items(
        &self,
        device: DeviceId,
        fetch: Fetch,
        base: WireBase,
        found: Vec<Found>,
    ) -> Vec<Item> {
        let Some(session) = self.sessions.get(&device) else {
            return Vec::new();
        };
        // Where there are two of an outbox, only what this one has said is its own.
        let base_of = |entry: &Entry| WireBase {
            epoch: base
                .epoch
                .filter(|_| entry.operation.is_none_or(|(_, op)| session.dispute.knows(op))),
            ..base
        };
        let what = |found| match found {
            Found::Entry(entry) => {
                let terms = self.terms(&entry, session.catalogue.known, &session.locale);
                let wire = Box::new(entry_to_wire(&entry, base_of(&entry), &terms));
                What::Entry(entry, wire, terms.kind)
            }
            Found::Skip {
                first_seq,
                last_seq,
                reason,
            } => What::Skip(wire::SkipRange {
                stream: fetch.stream.number(),
                first_seq,
                count: last_seq - first_seq + 1,
                reason: reason.into(),
            }),
        };
        let item = |found| Item {
            stream: fetch.stream,
            lane: fetch.lane,
            what: what(found),
        };
        found.into_iter().map(item).collect()
    }

    /// Entries that were asked for by [`Output::FetchBack`], ascending.
    pub fn handle_fetched_back(&mut self, fetch: FetchBack, entries: Vec<Entry>, now: Now) {
        let Some(session) = self
            .sessions
            .get_mut(&fetch.device)
            .filter(|session| session.tag == fetch.tag)
        else {
            return;
        };
        session.fetching = false;
        self.dirty.insert(fetch.device);
        match fetch.purpose {
            Purpose::Horizon => self.set_horizon(fetch, &entries),
            Purpose::Page(request) => self.answer_page(fetch, request, entries, now),
        }
    }

    /// Some timers have run out: what they guard goes again.
    pub fn handle_timeout(&mut self, now: Now) {
        self.wake_pages(now);
        self.acknowledge_what_is_owed(now);
        while let Some(&(at, device)) = self.timers.first() {
            if at > now.monotonic {
                break;
            }
            self.timers.remove(&(at, device));
            let repeat_max = self.options.repeat_max;
            let Some(session) = self.sessions.get_mut(&device) else {
                continue;
            };
            session.repeat_at = None;
            // What is nearly due goes in the same frame rather than after a doubled interval.
            let interval = session.repeat_interval(repeat_max);
            if let Some(before) = now.monotonic.checked_sub(interval / 2) {
                session.rewind_sent_before(before);
            }
            session.repeat_after = (session.repeat_after * 2).min(repeat_max);
            session.groups.repeat();
            session.catalogue.repeat();
            metrics::counter!("waypost_bridge_repetitions_total").increment(1);
            self.dirty.insert(device);
        }
        self.close_expired(now);
        self.sweep(now);
    }

    /// Publishes what a session has to say; asks for entries first where there are some and room for them. Its
    /// acknowledgements wait for them and ride along: the answer comes at once.
    fn speak(&mut self, device: DeviceId, now: Now) {
        let Some(session) = self.sessions.get(&device) else {
            return;
        };
        if session.fetching || (session.dispute.is_open() && session.phase != Phase::Forked) {
            return;
        }
        if let Some(fetch) = self.next_horizon(device) {
            return self.fetch(device, Output::FetchBack(fetch));
        }
        let Some(session) = self.sessions.get(&device) else {
            return;
        };
        if let Some(fetch) = self.next_fetch(device, session) {
            return self.fetch(device, Output::Fetch(fetch));
        }
        self.say(device, now);
        if let Some(fetch) = self.next_page(device, now) {
            self.fetch(device, Output::FetchBack(fetch));
        }
    }

    fn fetch(&mut self, device: DeviceId, output: Output) {
        if let Some(session) = self.sessions.get_mut(&device) {
            session.fetching = true;
            self.outputs.push_back(output);
        }
    }

    /// Packs what was gathered into frames, the urgent apart from the rest, which would make them longer.
    fn say(&mut self, device: DeviceId, now: Now) {
        let mut gathered = match self.sessions.get_mut(&device) {
            Some(session) => std::mem::take(&mut session.gathered),
            None => return,
        };
        gathered.sort_by_key(|item| item.lane);
        let mut frames_left = self.sessions.get(&device).map_or(0, |session| {
            session
                .window
                .frames_beside(session.under_way_bytes + urgent_bytes(&gathered))
        });
        let empty = self.stamped(device);
        let mut frame = self.control_frame(device, now);
        let (mut packed, mut in_frame) = (Vec::new(), None);
        let mut items = gathered.into_iter();
        while let Some(item) = items.next() {
            let name = self.unnamed(device, &item);
            let name_bytes = name.as_ref().map_or(0, |(_, name)| name.encoded_len() + 4);
            let over = frame.encoded_len() + item.bytes() + RUN_BYTES + name_bytes > self.options.frame_bytes;
            let other_lane = in_frame.is_some_and(|lane| lane != item.lane);
            if frame != empty && (over || other_lane) {
                let full = std::mem::replace(&mut frame, empty.clone());
                self.publish(device, full, now);
                in_frame = None;
            }
            if in_frame.is_none() && item.lane == Lane::Ordinary {
                if frames_left == 0 {
                    self.put_back(device, std::iter::once(item).chain(items));
                    break;
                }
                frames_left -= 1;
            }
            in_frame = Some(item.lane);
            if let Some((author, name)) = name {
                frame.names.push(name);
                if let Some(session) = self.sessions.get_mut(&device) {
                    session.named.insert(author);
                }
            }
            packed.push(item.place());
            item.put(&mut frame);
        }
        if frame != empty {
            self.publish(device, frame, now);
        }
        self.note_sent(device, packed, now);
    }

    /// What found no room is read again when there is some: until then it may be trimmed, or no longer be the reader's.
    fn put_back(&mut self, device: DeviceId, items: impl Iterator<Item = Item>) {
        let Some(session) = self.sessions.get_mut(&device) else {
            return;
        };
        for item in items {
            let flow = session.flows.entry(item.stream).or_default();
            flow.sent_through = flow.sent_through.min(item.place().first_seq - 1);
        }
    }

    /// What a session may be sent next: urgent entries, then streams with the newest entries first.
    fn next_fetch(&self, device: DeviceId, session: &Session) -> Option<Fetch> {
        if session.phase != Phase::Open {
            return None;
        }
        let streams = self.streams_of.get(&device)?;
        let gathered = Gathered::of(session);
        let window = session.window.bytes();
        // What was gathered in order may be put back: what fits above a gap is not known any more.
        if gathered.ordinary == 0
            && session.under_way_bytes + gathered.urgent < window + self.options.frame_bytes
            && let Some(urgent) = streams
                .iter()
                .find_map(|&stream| self.next_urgent(device, session, stream))
        {
            return Some(urgent);
        }
        let frames = session
            .window
            .frames_beside(session.under_way_bytes + gathered.urgent);
        if gathered.ordinary >= frames * self.options.frame_bytes {
            return None;
        }
        streams
            .iter()
            .filter_map(|&stream| self.next_ordinary(device, session, stream))
            .max_by_key(|fetch| {
                (
                    self.streams.get(&fetch.stream).map(|state| state.last_ms),
                    fetch.stream,
                )
            })
    }

    /// The first urgent entry of a stream that lies ahead of what was sent and fits into what the device can hold above
    /// a gap.
    fn next_urgent(&self, device: DeviceId, session: &Session, stream: StreamId) -> Option<Fetch> {
        let (state, held, reached) = self.reached(device, session, stream)?;
        let head = self.sendable_head(device, session, state);
        let from = reached.max(session.earlier_through(stream)) + 1;
        let mut seqs = self.urgent.between(stream, from, head).peekable();
        seqs.peek()?;
        let mut known = held.cloned().unwrap_or_default();
        known.insert_range(1, reached);
        for &seq in session.flows.get(&stream).iter().flat_map(|flow| &flow.ahead) {
            known.insert(seq);
        }
        let seq = seqs.find(|&seq| {
            !known.contains(seq)
                && state.stream.may_read(Member::Device(device), seq)
                && known.clone().insert_within(seq, DEVICE_RANGES_MAX)
        })?;
        Some(Fetch {
            device,
            tag: session.tag,
            stream,
            lane: Lane::Urgent,
            reached,
            after: seq - 1,
            head: seq,
            limit: 1,
        })
    }

    /// The next stretch of a stream in its order.
    fn next_ordinary(&self, device: DeviceId, session: &Session, stream: StreamId) -> Option<Fetch> {
        let (state, _, reached) = self.reached(device, session, stream)?;
        let head = self.sendable_head(device, session, state);
        if reached >= head {
            return None;
        }
        // Whatever comes before the first entry that is there for this reader is said without reading.
        let first = state
            .stream
            .first_readable_from(Member::Device(device), reached + 1)?;
        let first = first
            .max(self.first_seq(stream))
            .max(session.earlier_through(stream) + 1)
            .min(head + 1);
        Some(Fetch {
            device,
            tag: session.tag,
            stream,
            lane: Lane::Ordinary,
            reached,
            after: first - 1,
            head,
            limit: FETCH_ENTRIES,
        })
    }

    /// Whether anything is due in the order of its stream.
    pub(super) fn has_ordinary(&self, device: DeviceId, session: &Session) -> bool {
        let streams = self.streams_of.get(&device).into_iter().flatten();
        let mut due = streams.filter_map(|&stream| self.next_ordinary(device, session, stream));
        due.next().is_some()
    }

    /// A stream with what the device holds of it, and how far it was sent in its order.
    fn reached(
        &self,
        device: DeviceId,
        session: &Session,
        stream: StreamId,
    ) -> Option<(&StreamState, Option<&Cumulative>, u64)> {
        let state = self.streams.get(&stream)?;
        let held = self
            .transfers
            .get(&(device, session.epoch))
            .and_then(|held| held.get(&stream));
        let sent = session.flows.get(&stream).map_or(0, |flow| flow.sent_through);
        Some((state, held, held.map_or(0, Cumulative::through).max(sent)))
    }

    /// The last entry of a stream that may go to the device on its own topic.
    fn sendable_head(&self, device: DeviceId, session: &Session, state: &StreamState) -> u64 {
        let head = state.stream.readable_head(Member::Device(device), state.head);
        if self.listens(session) && matches!(state.stream.kind, StreamKind::Group(_)) {
            // What is about to go out on the group's topic does not go to the device's own first.
            head.min(self.group_sent.get(&state.stream.id).copied().unwrap_or(0))
        } else {
            head
        }
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
        // A skip range is for one member alone: it goes on its own topic, with the entries around it.
        let whole = entries.len() as u64 == last - fetch.after
            && entries
                .iter()
                .all(|entry| self.expiries.gone(entry, None, now).is_none());
        let members: Vec<DeviceId> = state.stream.devices().collect();
        self.group_sent.insert(fetch.stream, last);
        if last < fetch.head {
            self.dirty_groups.insert(fetch.stream);
        }
        let (base, terms) = (WireBase::of_group(now), EntryTerms::default());
        let places: Vec<Place> = entries
            .iter()
            .map(|entry| place_of(entry, in_frame(entry_to_wire(entry, base, &terms).encoded_len())))
            .collect();
        let bytes: usize = places.iter().map(|place| place.bytes).sum();
        let (mut in_step, mut oldest_catalogue, mut somebody_is_full) = (Vec::new(), u32::MAX, false);
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
            let has_room = session.under_way_bytes + bytes <= session.window.bytes();
            somebody_is_full |= !has_room;
            if whole && held.max(sent) == fetch.after && has_room && !wrote_some {
                in_step.push(*device);
            }
        }
        // The broker brings it to whoever has no room as well. Where few are in step they are spared that.
        let each_for_itself = somebody_is_full && in_step.len() <= OWN_TOPICS_MAX;
        if !in_step.is_empty() && !each_for_itself {
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
            let base = WireBase::of_group(now);
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
    pub(super) fn terms(&self, entry: &Entry, catalogue: u32, locale: &str) -> EntryTerms {
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

    pub(super) fn name_on_wire(&self, author: Author) -> Option<wire::AuthorName> {
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

    pub(super) fn stamped(&self, device: DeviceId) -> wire::DownFrame {
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
    fn control_frame(&mut self, device: DeviceId, now: Now) -> wire::DownFrame {
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
        let restored = self
            .sessions
            .get(&device)
            .filter(|session| session.welcome == Welcome::Due)
            .and_then(|session| self.restored(device, session.of_store?));
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
                restored,
            });
        }
        if std::mem::take(&mut session.ack_due)
            && let Some(ledger) = self.ledgers.get(&(device, session.epoch))
        {
            let durable = ledger.durable.clone();
            let accepted = if frame.welcome.is_some() && session.of_store.is_some() {
                session.dispute.known_to_store(durable)
            } else {
                session.dispute.acknowledgeable(durable)
            };
            frame.accepted_through = accepted.through();
            frame.accepted_ranges = accepted.to_wire_within(ACCEPTED_RANGES_MAX);
        }
        if session.groups.due || session.catalogue.due {
            session.small_said = Some(now.monotonic);
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

    /// The name of an item's author, which goes along the first time that it is one in a session; a device knows its own.
    fn unnamed(&self, device: DeviceId, item: &Item) -> Option<(Author, wire::AuthorName)> {
        let What::Entry(entry, ..) = &item.what else {
            return None;
        };
        let about = about(entry);
        let known = about == Author::Device(device)
            || self
                .sessions
                .get(&device)
                .is_none_or(|session| session.named.contains(&about));
        let name = if known { None } else { self.name_on_wire(about) };
        name.map(|name| (about, name))
    }

    pub(super) fn publish(&mut self, device: DeviceId, mut frame: wire::DownFrame, now: Now) {
        if let Some(session) = self.sessions.get_mut(&device)
            && now.monotonic.saturating_duration_since(session.time_told) >= TELL_TIME_EVERY
        {
            session.time_told = now.monotonic;
            frame.stamp = session.stamp(now).to_wire();
        }
        self.ride_along(device, &mut frame);
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
        let mut ahead = Vec::new();
        let mut gone: BTreeMap<StreamId, Vec<(u64, u64)>> = BTreeMap::new();
        for place in places {
            let Place { stream, last_seq, .. } = place;
            if place.passed_over {
                gone.entry(stream).or_default().push((place.first_seq, last_seq));
            }
            let own = place.author == Some(Author::Device(device));
            let under_way = UnderWay {
                bytes: place.bytes,
                sent: now.monotonic,
                is_held: false,
                own,
            };
            session.under_way_bytes += place.bytes;
            if let Some(before) = session.under_way.insert((stream, last_seq), under_way) {
                session.under_way_bytes -= before.bytes;
            }
            if place.lane == Lane::Urgent {
                if !place.passed_over && session.told_sent.insert((stream, last_seq)) {
                    ahead.push((stream, last_seq, own));
                }
                continue;
            }
            let (through, only_own) = sent.entry(stream).or_insert((0, true));
            *through = last_seq;
            *only_own &= own;
        }
        let due = session.repetition_due(self.options.repeat_max);
        if session.repeat_at != due {
            if let Some(at) = std::mem::replace(&mut session.repeat_at, due) {
                self.timers.remove(&(at, device));
            }
            self.timers.extend(due.map(|at| (at, device)));
        }
        let moment = self.moment_of_sending(device, now);
        let member = Member::Device(device);
        for (stream, gone) in gone {
            self.pass_over(stream, device, &gone);
        }
        for (stream, seq, own) in ahead {
            let mut cursor = self.cursors.get(&(stream, member)).cloned().unwrap_or_default();
            if seq <= cursor.sent || cursor.delivered.contains(seq) {
                continue;
            }
            self.reach(stream, member, Rung::Sent, (seq, seq), moment, own, now);
            if seq == cursor.sent + 1 {
                cursor.sent = seq;
                self.put_cursor(stream, member, cursor);
            }
        }
        for (stream, (through, only_own)) in sent {
            let mut cursor = self.cursors.get(&(stream, member)).cloned().unwrap_or_default();
            if through > cursor.sent {
                for (first, last) in self.sent_first(device, stream, cursor.sent + 1, through) {
                    for range in cursor.passed_over.missing_within(first, last) {
                        self.reach(stream, member, Rung::Sent, range, moment, only_own, now);
                    }
                }
                cursor.sent = through;
                self.put_cursor(stream, member, cursor);
            }
        }
    }

    /// Of entries that are sent in their order, those for the first time: in ranges between the urgent ones, which are
    /// told one by one, as they may have been sent before.
    fn sent_first(&self, device: DeviceId, stream: StreamId, first: u64, last: u64) -> Vec<(u64, u64)> {
        let delivered = self
            .cursors
            .get(&(stream, Member::Device(device)))
            .map(|cursor| &cursor.delivered);
        let told = |seq| {
            delivered.is_some_and(|delivered| delivered.contains(seq))
                || self
                    .sessions
                    .get(&device)
                    .is_some_and(|session| session.told_sent.contains(&(stream, seq)))
        };
        let (mut ranges, mut from) = (Vec::new(), first);
        for seq in self.urgent.between(stream, first, last) {
            if from < seq {
                ranges.push((from, seq - 1));
            }
            if !told(seq) {
                ranges.push((seq, seq));
            }
            from = seq + 1;
        }
        if from <= last {
            ranges.push((from, last));
        }
        ranges
    }
}

/// Whose name belongs to an entry.
pub(super) fn about(entry: &Entry) -> Author {
    match entry.body {
        EntryBody::Membership(member, _) => Author::Device(member),
        EntryBody::Text(_) | EntryBody::Reply(_) => entry.author,
    }
}

/// What was fetched for the next frames, in bytes.
struct Gathered {
    urgent: usize,
    ordinary: usize,
}

impl Gathered {
    fn of(session: &Session) -> Self {
        let urgent = urgent_bytes(&session.gathered);
        let all: usize = session.gathered.iter().map(Item::bytes).sum();
        Self {
            urgent,
            ordinary: all - urgent,
        }
    }
}

fn urgent_bytes(items: &[Item]) -> usize {
    let urgent = items.iter().filter(|item| item.lane == Lane::Urgent);
    urgent.map(Item::bytes).sum()
}

/// Something that moves a transfer position.
#[derive(Debug)]
pub(super) struct Item {
    stream: StreamId,
    lane: Lane,
    what: What,
}

#[derive(Debug)]
enum What {
    Entry(Box<Entry>, Box<wire::Entry>, wire::StreamKind),
    Skip(wire::SkipRange),
}

/// What a stretch of a stream holds for a reader.
#[derive(Debug)]
pub(super) enum Found {
    Entry(Box<Entry>),
    Skip {
        first_seq: u64,
        last_seq: u64,
        reason: SkipReason,
    },
}

/// What depends on the reader of an entry.
#[derive(Debug, Clone, Default)]
pub(super) struct EntryTerms {
    kind: wire::StreamKind,
    /// What a quick reply says, where the reader cannot put it together; else empty.
    said: String,
}

/// Where an item stands, for the books.
#[derive(Debug, Clone)]
struct Place {
    stream: StreamId,
    lane: Lane,
    first_seq: u64,
    last_seq: u64,
    bytes: usize,
    author: Option<Author>,
    /// Entries that are gone, and so were not sent.
    passed_over: bool,
}

impl Item {
    pub(super) fn entry(&self) -> Option<&Entry> {
        match &self.what {
            What::Entry(entry, ..) => Some(entry),
            What::Skip(_) => None,
        }
    }

    pub(super) fn first_seq(&self) -> u64 {
        match &self.what {
            What::Entry(entry, ..) => entry.seq.number(),
            What::Skip(skip) => skip.first_seq,
        }
    }

    /// Makes one skip range of two where the other follows: the end of a read is none that the reader should pay for.
    fn go_on(&mut self, next: &Self) -> bool {
        match (&mut self.what, &next.what) {
            (What::Skip(skip), What::Skip(more))
                if self.stream == next.stream
                    && self.lane == next.lane
                    && skip.reason == more.reason
                    && skip.first_seq + skip.count == more.first_seq =>
            {
                skip.count += more.count;
                true
            }
            _ => false,
        }
    }

    /// How many bytes it adds to a frame that has begun its run.
    pub(super) fn bytes(&self) -> usize {
        match &self.what {
            What::Entry(_, wire, _) => in_frame(wire.encoded_len()),
            What::Skip(skip) => in_frame(skip.encoded_len()),
        }
    }

    fn place(&self) -> Place {
        let bytes = self.bytes();
        match &self.what {
            What::Entry(entry, ..) => Place {
                lane: self.lane,
                ..place_of(entry, bytes)
            },
            What::Skip(skip) => Place {
                stream: self.stream,
                lane: self.lane,
                first_seq: skip.first_seq,
                last_seq: skip.first_seq + skip.count - 1,
                bytes,
                author: None,
                passed_over: matches!(skip.reason(), SkipReason::Expired | SkipReason::Superseded),
            },
        }
    }

    pub(super) fn put(self, frame: &mut wire::DownFrame) {
        match self.what {
            What::Entry(entry, wire, kind) => put_entry(&mut frame.entries, &entry, *wire, kind),
            What::Skip(skip) => frame.skips.push(skip),
        }
    }
}

/// With its key and its length.
pub(super) fn in_frame(bytes: usize) -> usize {
    1 + prost::length_delimiter_len(bytes) + bytes
}

fn place_of(entry: &Entry, bytes: usize) -> Place {
    Place {
        stream: entry.stream,
        lane: Lane::Ordinary,
        first_seq: entry.seq.number(),
        last_seq: entry.seq.number(),
        bytes,
        author: Some(entry.author),
        passed_over: false,
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

/// What of the fetched stretch a device gets: entries inside its membership that it does not hold, and skip ranges
/// for everything else, so that its transfer position never stalls. With it, how far the stretch reaches.
pub(super) fn deliverable(
    stream: &Stream,
    fetch: Fetch,
    held: &Cumulative,
    entries: Vec<Entry>,
    gone: impl Fn(&Entry) -> Option<SkipReason>,
) -> (Vec<Found>, u64) {
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
    let mut items: Vec<Found> = Vec::new();
    let skip = |items: &mut Vec<Found>, seq: u64, why: SkipReason| match items.last_mut() {
        Some(Found::Skip { last_seq, reason, .. }) if *last_seq + 1 == seq && *reason == why => {
            *last_seq = seq;
        }
        _ => items.push(Found::Skip {
            first_seq: seq,
            last_seq: seq,
            reason: why,
        }),
    };
    for seq in fetch.after + 1..=last {
        if held.contains(seq) {
            continue;
        }
        match found.remove(&seq) {
            _ if !stream.may_read(member, seq) => skip(&mut items, seq, SkipReason::NotAMember),
            Some(entry) => match gone(&entry) {
                Some(reason) => skip(&mut items, seq, reason),
                None => items.push(Found::Entry(Box::new(entry))),
            },
            None => skip(&mut items, seq, SkipReason::Trimmed),
        }
    }
    (items, last)
}

/// What the times and numbers of an entry count from.
#[derive(Debug, Clone, Copy)]
pub(super) struct WireBase {
    /// The receiver's present outbox, whose operations travel as stubs; `None` where they go in full.
    epoch: Option<Epoch>,
    /// Server clock, UTC milliseconds.
    base_ms: i64,
}

impl WireBase {
    pub(super) fn of_session(session: &Session) -> Self {
        Self {
            epoch: Some(session.epoch),
            base_ms: session.welcome_ms,
        }
    }

    /// The same, for a receiver who may have lost what it wrote.
    pub(super) fn in_full(self) -> Self {
        Self { epoch: None, ..self }
    }

    fn of_group(now: Now) -> Self {
        Self {
            epoch: None,
            base_ms: now.wall_ms,
        }
    }
}

pub(super) fn entry_to_wire(entry: &Entry, base: WireBase, terms: &EntryTerms) -> wire::Entry {
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
        supersedes: entry.supersedes.map_or(0, waypost_proto::Seq::number),
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
