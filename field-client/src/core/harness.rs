//! A device without clocks, disks and sockets: the core on a store that forgets what was not synced.

use super::{Config, Core, Draft, Event, Grant, Home, Mutation, Now, PostId, Qos, Ticket, Topics, Write};
use crate::Entry;
use crate::store::Store;
use crate::store::memory::{MemoryDisk, MemoryEngine};
use prost::Message;
use std::time::{Duration, Instant};
use waypost_proto::wire;
use waypost_proto::{
    DeviceId, Epoch, GroupId, OpNumber, Operation, Seq, SessionTag, Stamp, StreamId, Topic, groups_digest,
};

/// Whether writes reach the disk as soon as the core hands them over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disk {
    Quick,
    /// They wait for [`Device::sync`].
    Stuck,
}

/// What the broker says to a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broker {
    Grants,
    Refuses,
    /// Nothing, before [`Device::answer_topics`].
    Silent,
}

/// A core with everything that a rim gives it.
pub(super) struct Device {
    pub(super) core: Core,
    pub(super) store: Store<MemoryEngine>,
    pub(super) plate: MemoryDisk,
    pub(super) now: Now,
    pub(super) disk: Disk,
    pub(super) link: Link,
    pub(super) broker: Broker,
    /// What was subscribed and unsubscribed since the last look.
    pub(super) topics: Vec<Topics>,
    unanswered: Vec<Topic>,
    pub(super) unsynced: Vec<Write>,
    pub(super) durable: Vec<Ticket>,
    pub(super) events: Vec<Event>,
    pub(super) frames: Vec<(wire::UpFrame, Qos)>,
    pub(super) shown: Vec<Entry>,
    spare_epochs: u64,
    last_hello: Option<SessionTag>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Up,
    Down,
}

pub(super) fn stream(number: u32) -> StreamId {
    StreamId::new(number).unwrap()
}

pub(super) fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

pub(super) fn op(number: u64) -> OpNumber {
    OpNumber::new(number).unwrap()
}

pub(super) fn device_id() -> DeviceId {
    "7c".parse().unwrap()
}

pub(super) fn text(stream: StreamId, text: &str) -> Draft {
    Draft::settled(Operation::text(stream, text).to_wire())
}

pub(super) fn urgent(stream: StreamId, text: &str) -> Draft {
    Draft::settled(
        Operation {
            urgent: true,
            ..Operation::text(stream, text)
        }
        .to_wire(),
    )
}

pub(super) fn to_office(text: &str) -> Draft {
    Draft::to_office(Operation::text(stream(1), text).to_wire())
}

impl Device {
    pub(super) fn new() -> Self {
        Self::on(MemoryDisk::default(), 11)
    }

    /// A process on what `plate` holds. `fresh_epoch` counts only where it holds nothing.
    pub(super) fn on(plate: MemoryDisk, fresh_epoch: u64) -> Self {
        let start = Now {
            mono: crate::engine::now().mono,
            wall_ms: 1_700_000_000_000,
            steady: crate::engine::now().steady,
        };
        Self::at(plate, fresh_epoch, start, config())
    }

    pub(super) fn at(plate: MemoryDisk, fresh_epoch: u64, now: Now, config: Config) -> Self {
        let store = Store::open(plate.open(), device_id(), Epoch::new(fresh_epoch).unwrap());
        let store = store.unwrap().unwrap_or_else(|other| panic!("{other:?}"));
        let spare = Epoch::new(fresh_epoch + 1_000).unwrap();
        let mut core = Core::new(config, store.load().unwrap(), spare);
        store
            .operations(|stored, progress| core.restore(&stored, progress))
            .unwrap();
        store
            .kept(|stored, accepted_ms| core.restore_kept(&stored, accepted_ms))
            .unwrap();
        Self {
            core,
            store,
            plate,
            now,
            disk: Disk::Quick,
            link: Link::Down,
            broker: Broker::Grants,
            topics: Vec::new(),
            unanswered: Vec::new(),
            unsynced: Vec::new(),
            durable: Vec::new(),
            events: Vec::new(),
            frames: Vec::new(),
            shown: Vec::new(),
            spare_epochs: fresh_epoch + 1_000,
            last_hello: None,
        }
    }

    /// A power cut, and the process that comes after it.
    pub(super) fn restart(self) -> Self {
        Self::at(self.plate, 12_345, self.now, self.core.config)
    }

    /// Carries outputs out until there are none.
    pub(super) fn settle(&mut self) {
        loop {
            while let Some(write) = self.core.poll_write() {
                self.unsynced.push(write);
            }
            if self.disk == Disk::Quick && !self.unsynced.is_empty() {
                self.commit();
                continue;
            }
            while let Some(event) = self.core.poll_event() {
                match event {
                    Event::Durable(ticket) => self.durable.push(ticket),
                    Event::EpochUsed => {
                        self.spare_epochs += 1;
                        self.core.provide_epoch(Epoch::new(self.spare_epochs).unwrap());
                        self.events.push(Event::EpochUsed);
                    }
                    other => self.events.push(other),
                }
            }
            if self.link == Link::Up
                && let Some(topics) = self.core.poll_topics()
            {
                self.unanswered.extend(topics.subscribe.iter().cloned());
                self.topics.push(topics);
                continue;
            }
            if self.link == Link::Up
                && let Some(frame) = self.core.poll_frame(self.now)
            {
                self.check_that_it_is_on_disk(&frame.payload);
                let sent = wire::UpFrame::decode(frame.payload.as_slice()).unwrap();
                if sent.hello.is_some() {
                    self.last_hello = Stamp::parse(sent.stamp).map(|stamp| stamp.tag);
                }
                self.frames.push((sent, frame.qos));
                continue;
            }
            if self.broker != Broker::Silent && !self.unanswered.is_empty() {
                self.answer_topics();
                continue;
            }
            if let Some(ids) = self.core.poll_load() {
                for id in ids {
                    let content = self.store.content(id).unwrap();
                    self.core.handle_loaded(id, content, self.now);
                }
                continue;
            }
            while let Some((stream, seq)) = self.core.poll_changed() {
                let shelf = self.core.server().unwrap().shelf;
                // Of what was skipped there is none.
                if let Some(entry) = self.store.entry(shelf, stream, seq).unwrap() {
                    self.shown.push(self.core.offer(entry, self.now));
                }
            }
            while let Some((stream, seq)) = self.core.poll_show() {
                let shelf = self.core.server().unwrap().shelf;
                let entry = self.store.entry(shelf, stream, seq).unwrap();
                entry.expect("an entry is shown only once it is stored");
                match self.store.entry_to_show(shelf, stream, seq).unwrap() {
                    Some(entry) => self.shown.push(self.core.offer(entry, self.now)),
                    None => drop(self.core.mark_shown(stream, seq, self.now)),
                }
            }
            if !self.core.has_to_show() && !self.core.has_changed() {
                return;
            }
        }
    }

    /// The broker answers every SUBSCRIBE that has no answer.
    pub(super) fn answer_topics(&mut self) {
        let grant = match self.broker {
            Broker::Refuses => Grant::Refused,
            Broker::Grants | Broker::Silent => Grant::Granted,
        };
        for topic in std::mem::take(&mut self.unanswered) {
            self.core.handle_topic(&topic, grant);
        }
    }

    /// The disk takes what waits, as one transaction.
    pub(super) fn sync(&mut self) {
        self.commit();
        self.settle();
    }

    fn commit(&mut self) {
        let writes = std::mem::take(&mut self.unsynced);
        self.store.commit(&writes).unwrap();
        if let Some(last) = writes.last() {
            self.core.handle_stored(last.ticket, self.now);
        }
    }

    /// Durable before visible, asked of the disk itself: every operation of a frame is on it, the tag is, and every
    /// position that is reported is.
    fn check_that_it_is_on_disk(&self, payload: &[u8]) {
        let frame = wire::UpFrame::decode(payload).unwrap();
        let on_disk = Store::open(self.plate.open(), device_id(), Epoch::new(1).unwrap());
        let on_disk = on_disk.unwrap().unwrap_or_else(|other| panic!("{other:?}"));
        let loaded = on_disk.load().unwrap();
        let mut operations = std::collections::BTreeMap::new();
        on_disk
            .operations(|stored, _| {
                operations.insert(stored.op, stored);
            })
            .unwrap();
        for numbered in waypost_proto::number_operations(&frame).unwrap() {
            let stored = operations
                .get(&numbered.op)
                .expect("an operation is sent only once it is stored");
            assert_eq!(stored.home, Home::Settled);
            assert_eq!(Operation::from_wire(&stored.content), numbered.content);
        }
        let tag = Stamp::parse(frame.stamp).unwrap().tag;
        assert_eq!(loaded.last_tag, Some(tag), "a tag is used only once it is stored");
        let hello = frame
            .hello
            .as_ref()
            .map(|hello| (hello.groups_digest, hello.catalogue));
        let known = frame
            .known
            .as_ref()
            .map(|known| (known.groups_digest, known.catalogue));
        for (digest, catalogue) in hello.into_iter().chain(known) {
            let stored = groups_digest(&crate::Group::all_to_wire(&loaded.groups).groups);
            assert!(
                digest == 0 || digest == stored,
                "groups are claimed once they are stored"
            );
            let stored = loaded.catalogue.catalogue.version;
            assert!(
                catalogue == 0 || catalogue == stored,
                "a catalogue is claimed once it is stored"
            );
        }
        for cursor in frame
            .cursors
            .iter()
            .chain(frame.positions.iter().flat_map(|all| &all.cursors))
        {
            let of = stream(cursor.stream);
            let (_, stored) = loaded
                .cursors
                .iter()
                .find(|(stream, _)| *stream == of)
                .expect("stored first");
            assert!(
                stored.held.through() >= cursor.delivered,
                "reported only once it is stored"
            );
            assert!(stored.read >= cursor.read, "reported only once it is stored");
        }
    }

    pub(super) fn post(&mut self, draft: Draft) -> PostId {
        let (id, _, _) = self.core.post(draft, self.now).unwrap();
        self.settle();
        id
    }

    pub(super) fn connect(&mut self) {
        self.core.prepare(self.now);
        self.settle();
        self.link = Link::Up;
        self.core.handle_connected(self.now);
        self.settle();
    }

    pub(super) fn disconnect(&mut self) {
        self.link = Link::Down;
        self.unanswered.clear();
        self.core.handle_disconnected();
        self.settle();
    }

    pub(super) fn receive(&mut self, frame: &wire::DownFrame) {
        self.core.handle_frame(&frame.encode_to_vec(), self.now);
        self.settle();
    }

    /// A frame on the topic of a group.
    pub(super) fn receive_group(&mut self, group: u32, frame: &wire::GroupFrame) {
        let group = GroupId::new(group).unwrap();
        self.core
            .handle_group_frame(group, &frame.encode_to_vec(), self.now);
        self.settle();
    }

    /// What is retained for a language.
    pub(super) fn receive_catalogue(&mut self, locale: &str, catalogue: &wire::Catalogue) {
        self.core
            .handle_catalogue(locale, &catalogue.encode_to_vec(), self.now);
        self.settle();
    }

    /// Connects and is welcomed by the server of the tests.
    pub(super) fn in_step(&mut self) {
        self.connect();
        let welcome = self.welcome();
        self.receive(&welcome);
        assert!(self.core.is_in_step());
    }

    /// The tag of the last hello that left.
    pub(super) fn tag(&self) -> SessionTag {
        self.last_hello.expect("a hello has left")
    }

    pub(super) fn welcome(&self) -> wire::DownFrame {
        wire::DownFrame {
            stamp: self.tag().number(),
            welcome: Some(wire::Welcome {
                incarnation: 77,
                generation: 3,
                server_ms: 1_700_000_500_000,
                office_stream: 4,
                ..wire::Welcome::default()
            }),
            ..wire::DownFrame::default()
        }
    }

    /// A frame of the present session.
    pub(super) fn down(&self) -> wire::DownFrame {
        wire::DownFrame {
            stamp: self.tag().number(),
            ..wire::DownFrame::default()
        }
    }

    /// Time passes, with every deadline met on the way.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now.mono + duration;
        while let Some(deadline) = self
            .core
            .poll_timeout(self.now)
            .filter(|&deadline| deadline <= end)
        {
            self.jump_to(deadline.max(self.now.mono + Duration::from_millis(1)).min(end));
            if self.now.mono == end {
                break;
            }
        }
        self.jump_to(end);
    }

    fn jump_to(&mut self, mono: Instant) {
        let elapsed = mono.saturating_duration_since(self.now.mono);
        self.now.wall_ms += i64::try_from(elapsed.as_millis()).unwrap();
        self.now.mono = mono;
        self.core.handle_timeout(self.now);
        self.settle();
    }

    /// What has left since the last call.
    pub(super) fn take_frames(&mut self) -> Vec<wire::UpFrame> {
        std::mem::take(&mut self.frames)
            .into_iter()
            .map(|(frame, _)| frame)
            .collect()
    }

    /// Numbers of the operations that have left since the last call.
    pub(super) fn take_sent(&mut self) -> Vec<u64> {
        let frames = self.take_frames();
        let numbers = frames
            .iter()
            .flat_map(|frame| waypost_proto::number_operations(frame).unwrap());
        numbers.map(|numbered| numbered.op.number()).collect()
    }

    pub(super) fn shown_texts(&self) -> Vec<String> {
        self.shown.iter().map(text_of).collect()
    }

    /// The writes that are not on disk, by what they hold.
    pub(super) fn unsynced_mutations(&self) -> Vec<&Mutation> {
        self.unsynced.iter().flat_map(|write| &write.mutations).collect()
    }
}

pub(super) fn text_of(entry: &Entry) -> String {
    entry.text().unwrap_or("(no text)").to_owned()
}

pub(super) fn config() -> Config {
    Config {
        device: device_id(),
        outbox_ops_max: 100_000,
        outbox_bytes_max: 256_000_000,
        inflight_bytes_max: 16_000,
        locale: "de".to_owned(),
        app: "test 1".to_owned(),
        policy: super::Policy::STANDARD,
    }
}

/// A run of entries of person 9.
pub(super) fn run(stream: u32, first_seq: u64, texts: &[&str]) -> wire::EntryRun {
    let entry = |text: &&str| wire::Entry {
        author_person: 9,
        server_ms: 1_000,
        body: Some(wire::entry::Body::Text((*text).to_owned())),
        ..wire::Entry::default()
    };
    wire::EntryRun {
        stream,
        first_seq,
        entries: texts.iter().map(entry).collect(),
        ..Default::default()
    }
}

/// A run of one entry that is the device's own.
pub(super) fn own(stream: u32, seq: u64, op: u64) -> wire::EntryRun {
    let entry = wire::Entry {
        own_op: op,
        ..wire::Entry::default()
    };
    wire::EntryRun {
        stream,
        first_seq: seq,
        entries: vec![entry],
        ..Default::default()
    }
}
