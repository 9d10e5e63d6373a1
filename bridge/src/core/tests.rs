//! The core driven by plain values: a virtual clock, a store in memory, and writes that complete when a test says so.

mod audit;
mod batches;
mod broadcasts;
mod catalogue;
mod clocks;
mod earlier;
mod expiry;
mod forks;
mod groups;
mod lanes;
mod overtaking;
mod owntracks;
mod people;
mod restored;
mod retention;
mod space;

use super::*;
use crate::device::NewDevice;
use crate::entry::{EntryBody, NewBody, NewEntry, Page};
use crate::once::{Caller, Made, Novelty, Once, REMEMBERED_MS};
use crate::person::{NewPerson, Role};
use crate::service::BridgeError;
use crate::store::{MemoryStore, Store};
use proptest::prelude::*;
use prost::Message;
use waypost_proto::wire::{self, RefusalReason};
use waypost_proto::{Fix, Operation, Stamp, TrackKind, positions_digest};

/// A core and everything around it.
struct World {
    core: Core,
    store: MemoryStore,
    now: Now,
    /// Writes that the "disk" has not taken yet, oldest first.
    unsynced: VecDeque<(Ticket, Vec<Change>)>,
    sent: Vec<(DeviceId, wire::DownFrame)>,
    live: Vec<LiveEvent>,
    disconnected: Vec<DeviceId>,
    /// What went out on the topics of groups.
    to_groups: Vec<(GroupId, wire::GroupFrame)>,
    /// What the broker retains of the catalogue, by language.
    retained: BTreeMap<String, wire::Catalogue>,
    /// Subscriptions to groups that were ended, with how many frames had gone out on topics of groups by then.
    ended: Vec<(DeviceId, GroupId, usize)>,
}

const START_MS: i64 = 1_764_000_000_000;

impl World {
    fn new() -> Self {
        let store = MemoryStore::new();
        let core = Self::start(&store);
        let now = Now {
            monotonic: Instant::now(),
            wall_ms: START_MS,
        };
        Self {
            core,
            store,
            now,
            unsynced: VecDeque::new(),
            sent: vec![],
            live: vec![],
            disconnected: vec![],
            to_groups: vec![],
            retained: BTreeMap::new(),
            ended: vec![],
        }
    }

    fn start(store: &MemoryStore) -> Core {
        Core::new(store.load(42).unwrap(), CoreOptions::default())
            .with_subscriptions(Subscriptions::CanBeEnded)
    }

    /// A world with one device, one person and an open session.
    fn in_session() -> (Self, Device) {
        let mut world = Self::new();
        let device = world.add_device();
        world.hello(&device, 1, 0);
        (world, device)
    }

    /// The server dies and starts again on what is on disk.
    fn restart(&mut self) {
        self.unsynced.clear();
        self.core = Self::start(&self.store);
    }

    fn add_device(&mut self) -> Device {
        let new = NewDevice {
            name: "truck-17".into(),
            driver: None,
            labels: vec![],
            secret_hash: [1; 32],
            groups: vec![],
        };
        let Made::Device(id) = self.make(|core, now| core.add_device(new, now)).unwrap() else {
            panic!("a device was made")
        };
        self.settle();
        self.core.device(id).unwrap().device
    }

    fn add_person(&mut self) -> PersonId {
        let new = NewPerson {
            email: format!("anna{}@example.org", self.core.people.len()),
            name: "Anna".into(),
            role: Role::Dispatcher,
            password_hash: String::new(),
        };
        let Made::Person(id) = self.make(|core, _| core.add_person(new)).unwrap() else {
            panic!("a person was made")
        };
        self.settle();
        id
    }

    fn make(
        &mut self,
        stage: impl FnOnce(&mut Core, Now) -> Result<Made, BridgeError>,
    ) -> Result<Made, BridgeError> {
        self.make_once(None, stage).map(|(made, _)| made)
    }

    fn make_once(
        &mut self,
        once: Option<Once>,
        stage: impl FnOnce(&mut Core, Now) -> Result<Made, BridgeError>,
    ) -> Result<(Made, Novelty), BridgeError> {
        let now = self.now;
        self.core
            .make(once, now, |core| stage(core, now))
            .map(|(made, _)| made)
    }

    fn post_entry(&mut self, mut new: NewEntry) -> Result<(Seq, Novelty), BridgeError> {
        let once = new.once.take();
        let replaced = new
            .supersedes
            .and_then(|seq| self.store.entry(new.stream, seq).unwrap());
        match self.make_once(once, |core, now| core.post_entry(new, replaced.as_ref(), now))? {
            (Made::Entry { seq, .. }, novelty) => Ok((seq, novelty)),
            (other, _) => panic!("{other:?}"),
        }
    }

    /// Takes outputs until there are none; leaves writes open.
    fn drain(&mut self) {
        loop {
            self.core.flush(self.now);
            let mut any = false;
            while let Some(output) = self.core.poll_output() {
                any = true;
                match output {
                    Output::Write(ticket, changes) => self.unsynced.push_back((ticket, changes)),
                    Output::Fetch(fetch) => {
                        let page = Page::After(fetch.after);
                        let entries = self
                            .store
                            .entries(fetch.stream, page, fetch.limit, fetch.head)
                            .unwrap();
                        self.core.handle_fetched(fetch, entries, self.now);
                    }
                    Output::FetchBack(fetch) => {
                        let page = Page::Before(fetch.before);
                        let entries = self.store.entries(fetch.stream, page, fetch.limit, u64::MAX);
                        self.core.handle_fetched_back(fetch, entries.unwrap(), self.now);
                    }
                    Output::Look(look) => {
                        let found = self.store.find_old(&look).unwrap();
                        self.core.handle_found(&look, found);
                    }
                    Output::Recall {
                        device,
                        frame,
                        wanted,
                    } => {
                        let read = |(stream, seq)| self.store.entry(stream, seq).unwrap();
                        let recalled: Vec<Entry> = wanted.into_iter().filter_map(read).collect();
                        self.core.handle_recalled(device, &frame, &recalled, self.now);
                    }
                    Output::Compare(repeated) => {
                        let taken = self
                            .store
                            .operation(repeated.device, repeated.epoch, repeated.op)
                            .unwrap();
                        self.core
                            .handle_compared(repeated, repeated.content.is(taken), self.now);
                    }
                    Output::Publish(device, frame) => {
                        self.sent.push((device, wire::DownFrame::decode(frame).unwrap()));
                    }
                    Output::FetchGroup(fetch) => {
                        let page = Page::After(fetch.after);
                        let entries = self
                            .store
                            .entries(fetch.stream, page, fetch.limit, fetch.head)
                            .unwrap();
                        self.core.handle_group_fetched(fetch, entries, self.now);
                    }
                    Output::PublishGroup(group, frame) => {
                        self.to_groups
                            .push((group, wire::GroupFrame::decode(frame).unwrap()));
                    }
                    Output::Retain(locale, catalogue) if catalogue.is_empty() => {
                        self.retained.remove(&locale);
                    }
                    Output::Retain(locale, catalogue) => {
                        self.retained
                            .insert(locale, wire::Catalogue::decode(catalogue).unwrap());
                    }
                    Output::Groups { device, left, .. } => {
                        self.ended
                            .extend(left.map(|group| (device, group, self.to_groups.len())));
                    }
                    Output::Live(event) => self.live.push(event),
                    Output::Access(_) => {}
                    Output::Disconnect(device) => self.disconnected.push(device),
                    Output::Space(..) => {}
                }
            }
            if !any {
                return;
            }
        }
    }

    fn sync_one(&mut self) -> bool {
        let Some((ticket, changes)) = self.unsynced.pop_front() else {
            return false;
        };
        self.store.commit(&changes).unwrap();
        self.core.handle_stored(ticket);
        self.drain();
        true
    }

    /// Everything reaches the disk.
    fn settle(&mut self) {
        self.drain();
        while self.sync_one() {}
    }

    fn advance(&mut self, seconds: u64) {
        self.now.monotonic += Duration::from_secs(seconds);
        self.now.wall_ms += i64::try_from(seconds).unwrap() * 1_000;
        self.core.handle_timeout(self.now);
        self.settle();
    }

    fn up(&mut self, device: &Device, frame: &wire::UpFrame) -> Vec<wire::DownFrame> {
        self.sent.clear();
        self.core.handle_up(device.id, &frame.encode_to_vec(), self.now);
        self.settle();
        self.frames()
    }

    fn frames(&mut self) -> Vec<wire::DownFrame> {
        std::mem::take(&mut self.sent)
            .into_iter()
            .map(|(_, frame)| frame)
            .collect()
    }

    /// The device's clock is an hour slow.
    fn hello(&mut self, device: &Device, tag: u32, digest: u64) -> Vec<wire::DownFrame> {
        let hello = wire::Hello {
            epoch: 5,
            device_ms: (self.now.wall_ms - 3_600_000).cast_unsigned(),
            positions_digest: digest,
            ..Default::default()
        };
        self.up(
            device,
            &wire::UpFrame {
                stamp: stamp(tag, 0),
                hello: Some(hello),
                ..Default::default()
            },
        )
    }

    fn post(&mut self, author: PersonId, stream: StreamId, text: &str) -> Seq {
        let (seq, _) = self.post_entry(by_person(author, stream, text)).unwrap();
        self.settle();
        seq
    }

    fn texts(&self, stream: StreamId) -> Vec<String> {
        let entries = self
            .store
            .entries(stream, Page::After(0), 1_000, u64::MAX)
            .unwrap();
        entries
            .into_iter()
            .filter_map(|entry| match entry.body {
                EntryBody::Text(text) => Some(text),
                EntryBody::Reply(_) | EntryBody::Membership(..) => None,
            })
            .collect()
    }
}

fn stamp(tag: u32, seconds: u32) -> u32 {
    Stamp {
        tag: SessionTag::new(tag).unwrap(),
        seconds,
    }
    .to_wire()
}

fn by_person(author: PersonId, stream: StreamId, text: &str) -> NewEntry {
    let body = NewBody::Text(text.into());
    NewEntry {
        author,
        stream,
        body,
        urgent: false,
        expires_ms: None,
        reply_to: None,
        supersedes: None,
        once: None,
    }
}

fn ops(tag: u32, first_op: u64, stream: StreamId, texts: &[&str]) -> wire::UpFrame {
    let ops = texts
        .iter()
        .map(|text| Operation::text(stream, *text).to_wire())
        .collect();
    wire::UpFrame {
        stamp: stamp(tag, 10),
        first_op,
        ops,
        ..Default::default()
    }
}

fn cursor(stream: StreamId, delivered: u64, read: u64) -> wire::Cursor {
    wire::Cursor {
        stream: stream.number(),
        delivered,
        read,
        ..Default::default()
    }
}

fn reported(tag: u32, cursor: wire::Cursor) -> wire::UpFrame {
    wire::UpFrame {
        stamp: stamp(tag, 20),
        cursors: vec![cursor],
        ..Default::default()
    }
}

/// (stream seqs, own operation numbers) of all entries in some frames.
fn entries_of(frames: &[wire::DownFrame]) -> Vec<(u64, u64)> {
    let runs = frames.iter().flat_map(|frame| &frame.entries);
    runs.flat_map(|run| {
        (run.first_seq..)
            .zip(&run.entries)
            .map(|(seq, entry)| (seq, entry.own_op))
    })
    .collect()
}

fn refusals_of(frames: &[wire::DownFrame]) -> Vec<(u64, RefusalReason)> {
    frames
        .iter()
        .flat_map(|frame| &frame.refusals)
        .map(|refusal| (refusal.op, refusal.reason()))
        .collect()
}

#[test]
fn an_operation_is_applied_once_however_often_it_comes() {
    let (mut world, device) = World::in_session();
    for _ in 0..3 {
        let frames = world.up(&device, &ops(1, 1, device.stream, &["one", "two"]));
        assert_eq!(
            frames.last().unwrap().accepted_through,
            2,
            "each repetition is acknowledged again"
        );
    }
    world.restart();
    world.hello(&device, 2, 0);
    world.up(&device, &ops(2, 2, device.stream, &["two", "three"]));
    assert_eq!(world.texts(device.stream), ["one", "two", "three"]);
}

#[test]
fn nothing_is_acknowledged_shown_or_sent_before_its_write_is_stored() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    world.live.clear();
    world.sent.clear();
    world.core.handle_up(
        device.id,
        &ops(1, 1, device.stream, &["from the road"]).encode_to_vec(),
        world.now,
    );
    world
        .post_entry(by_person(person, device.stream, "from the office"))
        .unwrap();
    world.drain();
    assert!(
        world.sent.is_empty(),
        "sent before it was stored: {:?}",
        world.sent
    );
    assert!(
        world.live.is_empty(),
        "shown before it was stored: {:?}",
        world.live
    );
    assert_eq!(world.core.stream(None, device.stream).unwrap().head, 0);
    assert!(world.sync_one());
    assert_eq!(
        world.core.stream(None, device.stream).unwrap().head,
        1,
        "the second write is still open"
    );
    assert!(
        world
            .sent
            .iter()
            .all(|(_, frame)| entries_of(std::slice::from_ref(frame)) == [(1, 1)])
    );
    world.settle();
    assert_eq!(world.core.stream(None, device.stream).unwrap().head, 2);
}

#[test]
fn a_crash_before_the_write_leaves_the_operation_to_its_repetition() {
    let (mut world, device) = World::in_session();
    world.core.handle_up(
        device.id,
        &ops(1, 1, device.stream, &["one"]).encode_to_vec(),
        world.now,
    );
    world.drain();
    world.restart();
    assert_eq!(world.texts(device.stream), [""; 0]);
    let frames = world.hello(&device, 2, 0);
    assert_eq!(frames[0].accepted_through, 0);
    world.up(&device, &ops(2, 1, device.stream, &["one"]));
    assert_eq!(world.texts(device.stream), ["one"]);
}

#[test]
fn the_same_number_with_other_content_is_a_fork() {
    let (mut world, device) = World::in_session();
    world.up(&device, &ops(1, 1, device.stream, &["one"]));
    let frames = world.up(&device, &ops(1, 1, device.stream, &["another"]));
    assert_eq!(frames.iter().map(|frame| frame.forked_op).max(), Some(1));
    let forked = |event: &LiveEvent| matches!(event, LiveEvent::Logged(e) if e.kind == EventKind::DeviceForked(device.id));
    assert!(world.live.iter().any(forked));
    world.up(&device, &ops(1, 2, device.stream, &["of the clone"]));
    assert_eq!(
        world.texts(device.stream),
        ["one"],
        "nothing more is taken from that outbox in this session"
    );
}

#[test]
fn frames_of_another_session_are_ignored_and_unknown_ones_asked_for_a_hello() {
    let (mut world, device) = World::in_session();
    assert_eq!(world.up(&device, &ops(2, 1, device.stream, &["late"])), []);
    world.restart();
    let frames = world.up(&device, &ops(1, 1, device.stream, &["unknown"]));
    assert!(frames[0].hello_please, "{frames:?}");
    assert_eq!(
        world.up(&device, &ops(1, 1, device.stream, &["unknown"])),
        [],
        "once a second is enough"
    );
    assert_eq!(world.texts(device.stream), [""; 0]);
}

#[test]
fn a_second_delivery_of_a_hello_is_welcomed_without_a_new_session() {
    let (mut world, device) = World::in_session();
    let events = world.core.last_event();
    let frames = world.hello(&device, 1, 0);
    assert!(frames[0].welcome.is_some());
    assert_eq!(world.core.last_event(), events);
}

#[test]
fn entries_are_repeated_until_a_cursor_confirms_them() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    world.sent.clear();
    world.post(person, device.stream, "one");
    world.post(person, device.stream, "two");
    let frames = world.frames();
    assert_eq!(entries_of(&frames), [(1, 0), (2, 0)]);
    assert_eq!(
        frames[0].names,
        [wire::AuthorName {
            person: person.number(),
            name: "Anna".into(),
            device: 0,
        }]
    );
    world.advance(9);
    assert_eq!(world.frames(), []);
    world.advance(2);
    assert_eq!(entries_of(&world.frames()), [(1, 0), (2, 0)]);
    let frames = world.up(&device, &reported(1, cursor(device.stream, 2, 1)));
    assert_eq!(
        frames[0].cursors,
        [cursor(device.stream, 2, 1)],
        "what is on disk is echoed"
    );
    world.advance(3_600);
    assert_eq!(world.frames(), [], "what is held is not sent again");
    // The device did not hear the echo: it reports again and hears it again.
    assert_eq!(
        world.up(&device, &reported(1, cursor(device.stream, 2, 1)))[0]
            .cursors
            .len(),
        1
    );
}

#[test]
fn a_gap_is_filled_without_sending_what_is_held_above_it() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    for text in ["1", "2", "3", "4"] {
        world.post(person, device.stream, text);
    }
    world.sent.clear();
    let held = wire::Cursor {
        ranges: vec![1, 2],
        ..cursor(device.stream, 1, 0)
    };
    world.up(&device, &reported(1, held));
    world.advance(11);
    assert_eq!(entries_of(&world.frames()), [(2, 0)]);
}

#[test]
fn no_more_than_the_window_is_under_way_and_it_grows_with_quick_answers() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    for _ in 0..60 {
        world.post(person, device.stream, &"x".repeat(1_000));
    }
    let frames = world.frames();
    let bytes: usize = frames.iter().map(Message::encoded_len).sum();
    assert_eq!(
        (frames.len(), bytes <= 2_400),
        (2, true),
        "two frames to begin with: {bytes}"
    );
    let (mut most, mut held) = (0, 2);
    // Confirming everything sent lets the rest flow.
    while held < 60 {
        let frames = world.up(&device, &reported(1, cursor(device.stream, held, 0)));
        most = most.max(frames.len());
        let bytes: usize = frames.iter().map(Message::encoded_len).sum();
        assert!(bytes <= world.core.options.window_bytes, "{bytes}");
        held = world.core.cursors[&(device.stream, Member::Device(device.id))].sent;
        assert!(!entries_of(&frames).is_empty(), "something is always under way");
    }
    assert!(most > 8, "{most} frames under way");
}

#[test]
fn a_device_that_lost_what_it_held_gets_it_again() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    world.post(person, device.stream, "one");
    world.up(&device, &reported(1, cursor(device.stream, 1, 1)));
    // In step: no list is asked for and nothing is sent.
    let digest = positions_digest([(device.stream, &Cumulative::through_to(1))]);
    let frames = world.hello(&device, 2, digest);
    assert!(!frames[0].welcome.as_ref().unwrap().want_positions);
    assert_eq!(entries_of(&frames), []);
    // Put back to a state of before: the list says so.
    let frames = world.hello(&device, 3, 0);
    assert!(frames[0].welcome.as_ref().unwrap().want_positions);
    assert_eq!(entries_of(&frames), []);
    let list = wire::UpFrame {
        stamp: stamp(3, 1),
        positions: Some(Default::default()),
        ..Default::default()
    };
    assert_eq!(entries_of(&world.up(&device, &list)), [(1, 0)]);
    let receipts = world
        .store
        .receipts(&world.core.streams[&device.stream].stream, Seq::new(1).unwrap());
    assert!(
        receipts.unwrap().unwrap()[0].read.is_some(),
        "what was read stays read"
    );
}

#[test]
fn what_cannot_be_applied_is_refused_with_its_reason_and_voided() {
    let (mut world, device) = World::in_session();
    let other = world.add_device();
    let text = |stream: u32, text: &str| wire::Operation {
        stream,
        body: Some(wire::operation::Body::Text(text.into())),
        ..Default::default()
    };
    let fix = |at_ms| Fix::from_degrees(at_ms, 1.0, 1.0).unwrap();
    let track = |at_ms| Operation::track(vec![fix(at_ms)], TrackKind::Travelled).to_wire();
    let own = device.stream.number();
    let cases = [
        (text(99, "x"), RefusalReason::UnknownStream),
        (text(other.stream.number(), "x"), RefusalReason::NotAMember),
        (text(own, ""), RefusalReason::BadText),
        (text(own, &"x".repeat(4_097)), RefusalReason::BadText),
        (
            wire::Operation {
                age_s: 500 * 86_400,
                ..text(own, "x")
            },
            RefusalReason::BadTime,
        ),
        (
            wire::Operation {
                reply_to: 7,
                ..text(own, "x")
            },
            RefusalReason::UnknownEntry,
        ),
        (track(0), RefusalReason::BadTime),
        (track(START_MS + 80 * 3_600_000), RefusalReason::BadTime),
        (wire::Operation::default(), RefusalReason::Unsupported),
    ];
    for (op, (operation, reason)) in (1..).zip(cases) {
        let frame = wire::UpFrame {
            stamp: stamp(1, 1),
            first_op: op,
            ops: vec![operation],
            ..Default::default()
        };
        let frames = world.up(&device, &frame);
        assert_eq!(refusals_of(&frames), [(op, reason)]);
        let frames = world.up(&device, &frame);
        assert_eq!(refusals_of(&frames), [(op, reason)], "it says so again");
        assert!(frames.iter().all(|frame| frame.accepted_through < op));
        let reason = wire::VoidReason::Refused.into();
        let voids = vec![wire::VoidRange {
            first_op: op,
            count: 1,
            reason,
        }];
        let frames = world.up(
            &device,
            &wire::UpFrame {
                stamp: stamp(1, 1),
                voids,
                ..Default::default()
            },
        );
        assert_eq!(frames.last().unwrap().accepted_through, op);
    }
    let live = fix(START_MS + 90 * 3_600_000).to_live(START_MS - 3_600_000);
    let frame = wire::UpFrame {
        stamp: stamp(1, 0),
        live: Some(live),
        ..Default::default()
    };
    assert_eq!(
        refusals_of(&world.up(&device, &frame)),
        [(0, RefusalReason::BadTime)]
    );
    let far = ops(1, 2_000_000, device.stream, &["x"]);
    assert_eq!(
        refusals_of(&world.up(&device, &far)),
        [(2_000_000, RefusalReason::BadNumber)]
    );
    for beyond in [
        cursor(device.stream, 9, 0),
        cursor(device.stream, 0, 9),
        cursor(other.stream, 0, 0),
    ] {
        assert_eq!(
            refusals_of(&world.up(&device, &reported(1, beyond))),
            [(0, RefusalReason::BadNumber)]
        );
    }
    assert_eq!(world.texts(device.stream), [""; 0]);
}

#[test]
fn a_frame_that_cannot_be_read_is_refused_and_the_session_lives_on() {
    let (mut world, device) = World::in_session();
    for (bytes, reason) in [
        (vec![0xff; 9], RefusalReason::Unreadable),
        (vec![0; 70_000], RefusalReason::TooLarge),
    ] {
        world.sent.clear();
        world.core.handle_up(device.id, &bytes, world.now);
        world.settle();
        assert_eq!(refusals_of(&world.frames()), [(0, reason)]);
    }
    world.up(&device, &ops(1, 1, device.stream, &["still here"]));
    assert_eq!(world.texts(device.stream), ["still here"]);
}

#[test]
fn the_ladder_keeps_both_clocks_at_each_rung() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    let seq = world.post(person, device.stream, "Dock 4");
    world.advance(20);
    let report = wire::Cursor {
        delivered_age_s: 12,
        read_age_s: 2,
        ..cursor(device.stream, 1, 1)
    };
    world.up(&device, &reported(1, report));
    world.advance(10);
    let answer = wire::Operation {
        reply_to: 1,
        age_s: 1,
        ..Operation::text(device.stream, "OK").to_wire()
    };
    let frame = wire::UpFrame {
        stamp: stamp(1, 30),
        first_op: 1,
        ops: vec![answer],
        ..Default::default()
    };
    world.up(&device, &frame);
    let stream = world.core.streams[&device.stream].stream.clone();
    let receipts = world.store.receipts(&stream, seq).unwrap().unwrap();
    let [row] = receipts.as_slice() else {
        panic!("one device: {receipts:?}")
    };
    let hello_ms = START_MS - 3_600_000;
    let moment = |device_ms, server_ms| {
        Some(Moment {
            device_ms: Some(device_ms),
            server_ms,
            offset_ms: Some(3_600_000),
        })
    };
    use crate::entry::Moment;
    assert_eq!(row.accepted, Moment::server(START_MS));
    assert_eq!(row.sent, moment(hello_ms, START_MS));
    assert_eq!(row.delivered, moment(hello_ms + 8_000, START_MS + 20_000));
    assert_eq!(row.read, moment(hello_ms + 18_000, START_MS + 20_000));
    assert_eq!(row.acted, moment(hello_ms + 29_000, START_MS + 30_000));
    // And the other way: the office reads the answer.
    world.core.mark_read(person, device.stream, 2, world.now).unwrap();
    world.settle();
    let receipts = world
        .store
        .receipts(&stream, Seq::new(2).unwrap())
        .unwrap()
        .unwrap();
    assert_eq!(receipts[0].member, Member::Office);
    assert_eq!(receipts[0].read, Some(Moment::server(START_MS + 30_000)));
    assert_eq!(
        receipts[0].accepted,
        moment(hello_ms + 29_000, START_MS + 30_000).unwrap()
    );
}

#[test]
fn delivered_and_read_never_go_back_though_a_new_installation_starts_again() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    world.post(person, device.stream, "one");
    world.post(person, device.stream, "two");
    world.up(&device, &reported(1, cursor(device.stream, 2, 2)));
    let hello = wire::Hello {
        epoch: 6,
        device_ms: START_MS.cast_unsigned(),
        ..Default::default()
    };
    let frame = wire::UpFrame {
        stamp: stamp(1, 0),
        hello: Some(hello),
        ..Default::default()
    };
    assert_eq!(entries_of(&world.up(&device, &frame)), [(1, 0), (2, 0)]);
    let events = world.core.last_event();
    world.up(&device, &reported(1, cursor(device.stream, 1, 0)));
    let kept = &world.core.cursors[&(device.stream, Member::Device(device.id))];
    assert_eq!((kept.delivered.through(), kept.read), (2, 2));
    assert_eq!(
        world.core.last_event(),
        events,
        "nothing was reached for the first time"
    );
}

#[test]
fn history_never_moves_the_latest_position_back_and_a_recording_never_moves_it() {
    let (mut world, device) = World::in_session();
    let fix = |at_ms, lat| Fix::from_degrees(at_ms, lat, 5.0).unwrap();
    let send = |world: &mut World, op, fixes, kind| {
        let ops = vec![Operation::track(fixes, kind).to_wire()];
        world.up(
            &device,
            &wire::UpFrame {
                stamp: stamp(1, 0),
                first_op: op,
                ops,
                ..Default::default()
            },
        );
        world
            .core
            .device(device.id)
            .unwrap()
            .position
            .map(|position| position.fix.lat())
    };
    assert_eq!(
        send(&mut world, 1, vec![fix(START_MS, 9.0)], TrackKind::Recording),
        None
    );
    assert_eq!(
        send(
            &mut world,
            2,
            vec![fix(START_MS - 9, 1.0), fix(START_MS, 2.0)],
            TrackKind::Travelled
        ),
        Some(2.0)
    );
    assert_eq!(
        send(&mut world, 3, vec![fix(START_MS - 5, 3.0)], TrackKind::Travelled),
        Some(2.0)
    );
    let track = world.store.track(device.id, i64::MIN, i64::MAX, 99).unwrap();
    let times: Vec<i64> = track
        .iter()
        .map(|position| position.fix.at_ms - START_MS)
        .collect();
    assert_eq!(times, [-9, -5, 0], "all of it is in the history");
}

#[test]
fn a_revoked_device_is_disconnected_and_heard_no_more() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    world.core.revoke_device(device.id, world.now).unwrap();
    world.settle();
    assert_eq!(world.disconnected, [device.id]);
    assert_eq!(world.up(&device, &ops(1, 1, device.stream, &["x"])), []);
    assert_eq!(world.hello(&device, 2, 0), []);
    let refused = world.post_entry(by_person(person, device.stream, "x"));
    assert!(matches!(refused, Err(BridgeError::Conflict(_))));
    assert_eq!(world.texts(device.stream), [""; 0]);
}

#[test]
fn presence_follows_the_session_and_ignores_the_will_of_another() {
    let (mut world, device) = World::in_session();
    let state = |world: &World| world.core.device(device.id).unwrap().presence;
    let online = Presence::Online { since_ms: START_MS };
    assert_eq!(state(&world), online);
    let will = |tag| wire::Presence { tag, online: false }.encode_to_vec();
    world.core.handle_presence(device.id, &will(9), world.now);
    world.settle();
    assert_eq!(state(&world), online);
    world.core.handle_presence(device.id, &will(1), world.now);
    world.settle();
    assert_eq!(state(&world), Presence::Offline { since_ms: START_MS });
    world.restart();
    assert_eq!(state(&world), Presence::Unknown);
}

#[test]
fn a_device_that_is_online_and_whose_hello_was_missed_is_asked_for_one() {
    let (mut world, device) = World::in_session();
    let asked = |world: &mut World, tag: u32| {
        world.now.monotonic += Duration::from_secs(2);
        let online = wire::Presence { tag, online: true };
        world
            .core
            .handle_presence(device.id, &online.encode_to_vec(), world.now);
        world.settle();
        world.frames().iter().any(|frame| frame.hello_please)
    };
    assert!(!asked(&mut world, 1), "the session that is open");
    assert!(!asked(&mut world, 127), "an earlier one, as a broker keeps it");
    assert!(asked(&mut world, 2), "a later one");
    world.restart();
    assert!(asked(&mut world, 1), "a session that began before this bridge");
    world.core.revoke_device(device.id, world.now).unwrap();
    world.settle();
    assert!(!asked(&mut world, 1), "one that is revoked");
}

fn under_key(caller: Caller, digest: u8) -> Option<Once> {
    Some(Once {
        caller,
        key: "k".into(),
        digest: [digest; 32],
    })
}

#[test]
fn the_same_request_under_the_same_key_makes_one_entry() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    let post = |world: &mut World, caller, digest| {
        let new = NewEntry {
            once: under_key(caller, digest),
            ..by_person(person, device.stream, "once")
        };
        world
            .post_entry(new)
            .map(|(seq, novelty)| (seq.number(), novelty))
    };
    let (me, other) = (Caller::Named(person), Caller::Server);
    assert_eq!(post(&mut world, me, 1).unwrap(), (1, Novelty::New));
    assert_eq!(
        post(&mut world, me, 1).unwrap(),
        (1, Novelty::Again),
        "while it is being written"
    );
    world.settle();
    assert_eq!(post(&mut world, me, 1).unwrap(), (1, Novelty::Again), "and after");
    assert!(matches!(post(&mut world, me, 2), Err(BridgeError::KeyReused)));
    assert_eq!(world.texts(device.stream), ["once"]);
    let posted = world.store.posted(me, "k").unwrap().unwrap();
    let seq = Seq::new(1).unwrap();
    let stream = device.stream;
    assert_eq!(
        posted.made,
        Made::Entry { stream, seq },
        "a restart finds it on disk"
    );

    assert_eq!(
        post(&mut world, other, 2).unwrap(),
        (2, Novelty::New),
        "others have keys of their own"
    );
    world.settle();
    world.now.wall_ms += REMEMBERED_MS;
    assert_eq!(
        post(&mut world, me, 2).unwrap(),
        (3, Novelty::New),
        "after its time a key is free"
    );
    world.settle();
}

#[test]
fn keys_that_are_no_longer_remembered_leave_the_disk() {
    let (mut world, _) = World::in_session();
    let keys: Vec<String> = (0..9).map(|number| format!("k{number}")).collect();
    let add = |world: &mut World, key: &String| {
        let once = Once {
            caller: Caller::Server,
            key: key.clone(),
            digest: [1; 32],
        };
        let new = NewDevice {
            name: key.clone(),
            driver: None,
            labels: vec![],
            secret_hash: [1; 32],
            groups: vec![],
        };
        let (_, novelty) = world
            .make_once(Some(once), |core, now| core.add_device(new, now))
            .unwrap();
        assert_eq!(novelty, Novelty::New);
        world.settle();
    };
    for key in &keys {
        add(&mut world, key);
    }
    world.now.wall_ms += REMEMBERED_MS + 1;
    // Used again, and so the newest; the rest goes with the next ones.
    for key in [&keys[0], &"new".to_owned(), &"newer".to_owned()] {
        add(&mut world, key);
    }
    let held = |key: &String| world.store.posted(Caller::Server, key).unwrap().is_some();
    assert!(held(&keys[0]) && !keys[1..].iter().any(held));
}

#[test]
fn an_operation_that_would_leave_too_many_gaps_waits_for_its_repetition() {
    let (mut world, device) = World::in_session();
    let ranges_max = world.core.options.ledger_ranges_max as u64;
    for at in 1..=ranges_max + 3 {
        world.up(&device, &ops(1, at * 2, device.stream, &["x"]));
    }
    assert_eq!(world.texts(device.stream).len() as u64, ranges_max);
    let frames = world.up(&device, &ops(1, 1, device.stream, &["x"; 200]));
    assert_eq!(frames.iter().map(|frame| frame.accepted_through).max(), Some(200));
    assert_eq!(world.texts(device.stream).len(), 200);
}

fn any_up() -> impl Strategy<Value = wire::UpFrame> {
    let operation =
        (0u32..4, 0u32..3, prop::option::of(".{0,6}"), 0u64..4).prop_map(|(stream, gap, text, reply_to)| {
            let body = text.map(wire::operation::Body::Text);
            wire::Operation {
                stream,
                gap,
                body,
                reply_to,
                ..Default::default()
            }
        });
    let cursor = (0u32..4, 0u64..6, 0u64..6, prop::collection::vec(0u64..3, 0..4)).prop_map(
        |(stream, delivered, read, ranges)| wire::Cursor {
            stream,
            delivered,
            read,
            ranges,
            ..Default::default()
        },
    );
    let under_way = (0u64..9, prop::collection::vec(0u32..3, 0..4));
    let hello = (0u64..3, any::<u64>(), 0u64..2, under_way).prop_map(
        |(epoch, device_ms, positions_digest, (first_under_way, under_way))| wire::Hello {
            epoch,
            device_ms,
            positions_digest,
            first_under_way,
            under_way,
            ..Default::default()
        },
    );
    let void = (0u64..9, 0u32..4).prop_map(|(first_op, count)| wire::VoidRange {
        first_op,
        count,
        reason: 3,
    });
    (
        0u32..4,
        any::<u64>().prop_map(|op| if op % 8 == 0 { op } else { op % 12 }),
        prop::collection::vec(operation, 0..4),
        prop::collection::vec(cursor.clone(), 0..3),
        prop::option::weighted(0.2, hello),
        prop::collection::vec(void, 0..2),
        prop::option::weighted(0.2, prop::collection::vec(cursor, 0..3)),
        any::<(i32, i32, i32)>(),
        prop::option::weighted(0.3, (0u32..5, 0u64..9, 0u32..70)),
    )
        .prop_map(
            |(stamp, first_op, ops, cursors, hello, voids, positions, (lat_e7, lon_e7, at_ds), page)| {
                wire::UpFrame {
                    stamp,
                    first_op,
                    ops,
                    cursors,
                    hello,
                    voids,
                    positions: positions.map(|cursors| wire::TransferPositions { cursors }),
                    live: Some(wire::LiveFix {
                        lat_e7,
                        lon_e7,
                        at_ds,
                        ..Default::default()
                    }),
                    known: None,
                    page: page.map(|(stream, before_seq, limit)| wire::PageRequest {
                        stream,
                        before_seq,
                        limit,
                    }),
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever devices send, nothing panics, an entry stands under each number, and each operation made one entry.
    #[test]
    fn arbitrary_frames_keep_the_log_whole(frames in prop::collection::vec((0usize..2, any_up(), any::<bool>()), 1..60)) {
        let mut world = World::new();
        let devices = [world.add_device(), world.add_device()];
        let person = world.add_person();
        for (which, frame, write) in frames {
            world.up(&devices[which], &frame);
            if write {
                world.post(person, devices[which].stream, "hi");
            }
            world.advance(1);
        }
        for device in &devices {
            let entries = world.store.entries(device.stream, Page::After(0), 10_000, u64::MAX).unwrap();
            let numbers: Vec<u64> = entries.iter().map(|entry| entry.seq.number()).collect();
            prop_assert_eq!(numbers, (1..=entries.len() as u64).collect::<Vec<_>>());
            let mut operations: Vec<_> = entries.iter().filter_map(|entry| entry.operation).collect();
            let all = operations.len();
            operations.sort();
            operations.dedup();
            prop_assert_eq!(operations.len(), all);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..20)) {
        let (mut world, device) = World::in_session();
        for payload in payloads {
            world.core.handle_up(device.id, &payload, world.now);
            world.core.handle_presence(device.id, &payload, world.now);
            world.settle();
        }
    }
}
