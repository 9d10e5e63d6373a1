//! What is over, or superseded, on each hop: in the outbox, at the server, on the screen.

use super::super::harness::{Device, Disk, device_id, op, own, run, seq, stream, text};
use super::super::{Draft, Event, Home, PostId};
use super::{SECOND, accepted, entries};
use crate::{Entry, Standing};
use prost::Message;
use waypost_bridge::core::{Core as Bridge, CoreOptions, Now as BridgeNow, Output};
use waypost_bridge::device::Device as Known;
use waypost_bridge::entry::Page;
use waypost_bridge::event::EventKind;
use waypost_bridge::store::{Change, MemoryStore, Store};
use waypost_bridge::stream::{Member, Membership, Stream, StreamKind};
use waypost_proto::wire::{self, RefusalReason, VoidReason};
use waypost_proto::{DeviceId, Operation, SessionTag, Stamp};

fn for_a_minute(words: &str) -> Draft {
    Draft::settled(
        Operation {
            expires_in_s: Some(60),
            ..Operation::text(stream(4), words)
        }
        .to_wire(),
    )
}

fn instead_of(replaced: u64, words: &str) -> Draft {
    Draft::settled(
        Operation {
            supersedes: Some(seq(replaced)),
            ..Operation::text(stream(4), words)
        }
        .to_wire(),
    )
}

fn voids(frames: &[wire::UpFrame]) -> Vec<(u64, VoidReason)> {
    let voids = frames.iter().flat_map(|frame| &frame.voids);
    voids.map(|void| (void.first_op, void.reason())).collect()
}

fn ops_of(frames: &[wire::UpFrame]) -> Vec<u64> {
    let numbered = frames
        .iter()
        .flat_map(|frame| waypost_proto::number_operations(frame).unwrap());
    numbered.map(|numbered| numbered.op.number()).collect()
}

fn expired(id: PostId) -> Event {
    let reason = RefusalReason::Expired;
    Event::Refused { id, reason }
}

/// (seq, standing) of what the screen was given since the last look.
fn shown(device: &mut Device) -> Vec<(u64, Standing)> {
    let shown = std::mem::take(&mut device.shown);
    shown
        .into_iter()
        .map(|entry| (entry.seq.number(), entry.standing))
        .collect()
}

fn history(device: &Device) -> Vec<Entry> {
    let shelf = device.core.server().unwrap().shelf;
    let entries = device.store.history(shelf, stream(4), None, 100).unwrap();
    let server_ms = device.core.expiry_ms(device.now);
    entries
        .into_iter()
        .map(|entry| entry.seen_at(server_ms))
        .collect()
}

/// A run that ends a minute after the server accepted it, which was a second after the welcome.
fn run_for_a_minute(first_seq: u64, texts: &[&str]) -> wire::EntryRun {
    let mut run = run(4, first_seq, texts);
    for entry in &mut run.entries {
        entry.expires_in_s = 60;
    }
    run
}

fn superseding(first_seq: u64, replaced: u64) -> wire::EntryRun {
    let mut run = run(4, first_seq, &["instead"]);
    run.entries[0].supersedes = replaced;
    run
}

fn by(number: u64) -> Standing {
    Standing::Superseded { by: seq(number) }
}

#[test]
fn an_operation_that_is_over_before_it_leaves_is_never_sent_and_its_driver_is_told() {
    let mut device = Device::new();
    let id = device.post(for_a_minute("at the gate"));
    device.post(text(stream(4), "for ever"));
    device.pass(59 * SECOND);
    assert_eq!(device.events, []);
    device.now.wall_ms -= 48 * 3_600_000;
    device.pass(SECOND);
    assert_eq!(device.events, [expired(id)], "by a clock that nobody sets");
    let parked = device.core.parked();
    assert_eq!((parked.len(), parked[0].op), (1, op(1)));
    assert_eq!(
        parked[0].reason.to_string(),
        "it expired before the server had it"
    );
    let counters = device.core.counters();
    assert_eq!((counters.ops_expired, counters.ops_refused), (1, 0));
    device.in_step();
    let frames = device.take_frames();
    assert_eq!(
        (ops_of(&frames), voids(&frames)),
        (vec![2], vec![(1, VoidReason::Expired)])
    );
    // That survives a restart, and ends with the acknowledgement.
    let mut device = device.restart();
    device.connect();
    device.receive(&device.welcome());
    assert_eq!(voids(&device.take_frames()), [(1, VoidReason::Expired)]);
    device.receive(&accepted(&device, 2));
    device.pass(600 * SECOND);
    assert_eq!(voids(&device.take_frames()), []);
}

#[test]
fn a_link_that_comes_at_the_moment_of_the_end_takes_nothing_that_is_over() {
    let mut device = Device::new();
    device.post(for_a_minute("at the gate"));
    device.post(text(stream(4), "for ever"));
    // The timer has not run yet.
    device.now.mono += 60 * SECOND;
    device.connect();
    assert_eq!(ops_of(&device.take_frames()), [0u64; 0]);
    device.pass(SECOND);
    device.receive(&device.welcome());
    let frames = device.take_frames();
    assert_eq!(
        (ops_of(&frames), voids(&frames)),
        (vec![2], vec![(1, VoidReason::Expired)])
    );
}

#[test]
fn an_operation_whose_office_stream_is_not_known_yet_ends_in_a_later_process_too() {
    let mut device = Device::new();
    let content = Operation {
        expires_in_s: Some(60),
        ..Operation::text(stream(1), "at the gate")
    };
    device.post(Draft::to_office(content.to_wire()));
    let mut device = device.restart();
    device.pass(61 * SECOND);
    assert!(matches!(device.events[..], [Event::Refused { .. }]));
    assert_eq!(device.core.waiting_ops(), 0);
}

#[test]
fn what_was_sent_is_repeated_until_the_server_decides() {
    let refused = |device: &Device| wire::DownFrame {
        refusals: vec![wire::Refusal {
            op: 1,
            reason: RefusalReason::Expired.into(),
        }],
        ..device.down()
    };
    for taken in [true, false] {
        let mut device = Device::new();
        device.in_step();
        let id = device.post(for_a_minute("at the gate"));
        device.take_frames();
        // Its acknowledgement is lost, or it was.
        device.pass(70 * SECOND);
        let frames = device.take_frames();
        assert!(ops_of(&frames).contains(&1), "the server may have it");
        let ages = frames.iter().flat_map(|frame| &frame.ops).map(|op| op.age_s);
        assert!(ages.max() >= Some(60), "and is told how old it is");
        assert!(!device.events.contains(&expired(id)));
        if taken {
            device.receive(&accepted(&device, 1));
            assert!(matches!(device.events.last(), Some(Event::Accepted { .. })));
            assert_eq!(device.core.parked(), []);
        } else {
            device.receive(&refused(&device));
            assert_eq!(device.events.last(), Some(&expired(id)));
            assert_eq!(voids(&device.take_frames()), [(1, VoidReason::Expired)]);
            // Said again, it changes nothing.
            device.receive(&refused(&device));
            assert_eq!(device.core.parked().len(), 1);
        }
        assert_eq!(device.core.waiting_ops(), 0);
    }
    // A later process does not know whether it was sent.
    let mut device = Device::new();
    device.post(for_a_minute("at the gate"));
    let mut device = device.restart();
    device.pass(70 * SECOND);
    assert_eq!(device.events, []);
    device.in_step();
    assert_eq!(device.take_sent(), [1]);
}

#[test]
fn an_entry_is_current_until_its_end_by_the_servers_clock_and_then_shown_again_as_expired() {
    let mut device = Device::new();
    device.in_step();
    device.receive(&entries(
        &device,
        vec![run_for_a_minute(1, &["gate 4"]), run(4, 2, &["always"])],
    ));
    assert_eq!(
        shown(&mut device),
        [(1, Standing::Current), (2, Standing::Current)]
    );
    device.core.mark_shown(stream(4), seq(1), device.now);
    device.disconnect();
    device.pass(60 * SECOND);
    assert_eq!(shown(&mut device), []);
    device.now.wall_ms += 48 * 3_600_000;
    device.pass(SECOND / 2);
    assert_eq!(shown(&mut device), [], "whatever the wall clock shows");
    device.now.wall_ms -= 96 * 3_600_000;
    device.pass(SECOND);
    assert_eq!(
        shown(&mut device),
        [(1, Standing::Expired)],
        "also without a link"
    );
    let standings: Vec<Standing> = history(&device).iter().map(|entry| entry.standing).collect();
    assert_eq!(standings, [Standing::Expired, Standing::Current]);
    device.pass(600 * SECOND);
    assert_eq!(shown(&mut device), [], "once");
}

#[test]
fn an_entry_whose_end_has_passed_before_it_is_shown_is_never_shown_as_current() {
    let mut device = Device::new();
    device.in_step();
    device.disk = Disk::Stuck;
    device.receive(&entries(&device, vec![run_for_a_minute(1, &["gate 4"])]));
    device.pass(70 * SECOND);
    device.sync();
    assert_eq!(shown(&mut device), [(1, Standing::Expired)]);
    // Neither is it in a later process that has no link.
    device.disk = Disk::Quick;
    device.receive(&entries(&device, vec![run(4, 2, &["x"])]));
    let mut device = device.restart();
    device.settle();
    assert_eq!(
        shown(&mut device),
        [(1, Standing::Expired), (2, Standing::Current)]
    );
}

#[test]
fn an_entry_that_was_shown_is_shown_again_when_another_takes_its_place() {
    let mut device = Device::new();
    device.in_step();
    device.receive(&entries(&device, vec![run(4, 1, &["dock 2"])]));
    assert_eq!(shown(&mut device), [(1, Standing::Current)]);
    device.core.mark_shown(stream(4), seq(1), device.now);
    device.disk = Disk::Stuck;
    device.receive(&entries(&device, vec![superseding(2, 1)]));
    assert_eq!(shown(&mut device), [], "nothing before it is on disk");
    device.sync();
    assert_eq!(shown(&mut device), [(1, by(2)), (2, Standing::Current)]);
    let device = device.restart();
    let told: Vec<_> = history(&device)
        .iter()
        .map(|e| (e.standing, e.supersedes))
        .collect();
    assert_eq!(told, [(by(2), None), (Standing::Current, Some(seq(1)))]);
}

#[test]
fn an_entry_that_waits_behind_a_gap_or_comes_later_than_what_took_its_place_is_never_current() {
    let mut device = Device::new();
    device.in_step();
    device.receive(&entries(&device, vec![run(4, 2, &["dock 2"])]));
    device.receive(&entries(&device, vec![superseding(3, 2)]));
    assert_eq!(shown(&mut device), []);
    device.receive(&entries(&device, vec![run(4, 1, &["first"])]));
    let expected = [(1, Standing::Current), (2, by(3)), (3, Standing::Current)];
    assert_eq!(shown(&mut device), expected, "each once");

    let mut ahead = superseding(5, 4);
    ahead.entries[0].urgent = true;
    device.receive(&entries(&device, vec![ahead]));
    assert_eq!(shown(&mut device), [(5, Standing::Current)]);
    device.receive(&entries(&device, vec![run(4, 4, &["late"])]));
    assert_eq!(shown(&mut device), [(4, by(5))]);
}

#[test]
fn a_device_supersedes_and_ends_its_own_words_alike() {
    let mut device = Device::new();
    device.in_step();
    device.post(for_a_minute("at gate 2"));
    device.receive(&accepted(&device, 1));
    // The wall clock is set between the doing and the entry.
    device.now.wall_ms -= 9 * 3_600_000;
    device.pass(10 * SECOND);
    device.receive(&entries(&device, vec![own(4, 1, 1)]));
    device.post(text(stream(4), "two"));
    device.receive(&accepted(&device, 2));
    device.post(instead_of(2, "three"));
    device.receive(&accepted(&device, 3));
    device.receive(&entries(&device, vec![own(4, 2, 2)]));
    assert_eq!(
        shown(&mut device),
        [(1, Standing::Current), (2, Standing::Current)]
    );
    device.receive(&entries(&device, vec![own(4, 3, 3)]));
    assert_eq!(shown(&mut device), [(2, by(3)), (3, Standing::Current)]);
    device.pass(48 * SECOND);
    assert_eq!(shown(&mut device), []);
    device.pass(3 * SECOND);
    assert_eq!(shown(&mut device), [(1, Standing::Expired)]);
}

#[test]
fn entries_that_will_end_are_remembered_within_a_bound() {
    let mut device = Device::new();
    device.in_step();
    for first in 0..50u64 {
        let mut run = run(4, first * 100 + 1, &["x"; 100]);
        for (entry, number) in run.entries.iter_mut().zip(first * 100..) {
            // Those that come first end last.
            entry.expires_in_s = 20_000 - u32::try_from(number).unwrap();
        }
        device.receive(&entries(&device, vec![run]));
    }
    assert_eq!(shown(&mut device).len(), 5_000);
    assert_eq!(device.core.counters().standings_over_bound, 5_000 - 4_096);
    device.pass(20_000 * SECOND);
    let ended: Vec<u64> = shown(&mut device).iter().map(|(seq, _)| *seq).collect();
    assert_eq!(
        ended,
        (905..=5_000).rev().collect::<Vec<_>>(),
        "those that end first"
    );
}

#[test]
fn what_was_superseded_in_a_store_that_was_lost_counts_again() {
    let mut device = Device::new();
    device.in_step();
    device.receive(&entries(&device, vec![run(4, 1, &["dock 2"]), superseding(2, 1)]));
    device.post(instead_of(2, "mine"));
    device.disconnect();
    device.connect();
    let mut welcome = device.welcome();
    let known = welcome.welcome.as_mut().unwrap();
    known.incarnation = 78;
    known.restored = Some(wire::Restored {
        last_stream: 4,
        heads: vec![wire::StreamHead { stream: 4, seq: 1 }],
    });
    device.receive(&welcome);
    let standings: Vec<Standing> = history(&device).iter().map(|entry| entry.standing).collect();
    assert_eq!(standings, [Standing::Current]);
    let mut waiting = Vec::new();
    let visit = |stored: super::super::StoredOperation, _| {
        assert_eq!(stored.home, Home::Settled);
        waiting.push(stored.content.supersedes);
    };
    device.store.operations(visit).unwrap();
    assert_eq!(waiting, [0], "what it was to supersede is gone");
}

/// Both cores, and the frames between them, which a test may lose. The device's wall clock is 48 hours ahead.
struct Pair {
    device: Device,
    bridge: Bridge,
    store: MemoryStore,
    office_tag: u32,
    office_ops: u64,
}

const SERVER_MS: i64 = 1_700_000_000_000;

fn office() -> DeviceId {
    DeviceId::new(900).unwrap()
}

impl Pair {
    fn new() -> Self {
        let mut device = Device::new();
        device.now.wall_ms = SERVER_MS + 48 * 3_600_000;
        let store = MemoryStore::new();
        store.load(77).unwrap();
        let known = |id| {
            Change::PutDevice(Known {
                id,
                name: "truck".to_owned(),
                driver: None,
                labels: Vec::new(),
                secret_hash: [0; 32],
                stream: stream(4),
                app: None,
                last_seen_ms: None,
                revoked: false,
            })
        };
        let both = Change::PutStream(Stream {
            id: stream(4),
            kind: StreamKind::Direct,
            title: String::new(),
            members: [device_id(), office()]
                .map(|device| Membership {
                    member: Member::Device(device),
                    first_seq: 1,
                    last_seq: None,
                })
                .into(),
        });
        store
            .commit(&[known(device_id()), known(office()), both])
            .unwrap();
        let bridge = Bridge::new(store.load(77).unwrap(), CoreOptions::default());
        let mut pair = Self {
            device,
            bridge,
            store,
            office_tag: 1,
            office_ops: 0,
        };
        pair.drain();
        pair
    }

    fn now(&self) -> BridgeNow {
        BridgeNow {
            monotonic: self.device.now.mono,
            wall_ms: self.device.now.wall_ms - 48 * 3_600_000,
        }
    }

    fn drain(&mut self) {
        let now = self.now();
        loop {
            self.bridge.flush(now);
            let Some(output) = self.bridge.poll_output() else {
                return;
            };
            match output {
                Output::Write(ticket, changes) => {
                    self.store.commit(&changes).unwrap();
                    self.bridge.handle_stored(ticket);
                }
                Output::Fetch(fetch) => {
                    let page = Page::After(fetch.after);
                    let entries = self.store.entries(fetch.stream, page, fetch.limit, fetch.head);
                    self.bridge.handle_fetched(fetch, entries.unwrap(), now);
                }
                Output::Recall {
                    device,
                    frame,
                    wanted,
                } => {
                    let read = |(stream, seq)| self.store.entry(stream, seq).unwrap();
                    let recalled: Vec<_> = wanted.into_iter().filter_map(read).collect();
                    self.bridge.handle_recalled(device, &frame, &recalled, now);
                }
                Output::Publish(to, frame) if to == device_id() => {
                    // One that is down hears nothing.
                    self.device.core.handle_frame(&frame, self.device.now);
                    self.device.settle();
                }
                _ => {}
            }
        }
    }

    /// Frames go back and forth until there are none.
    fn talk(&mut self) {
        loop {
            self.drain();
            self.device.settle();
            let frames = self.device.take_frames();
            if frames.is_empty() {
                return;
            }
            for frame in frames {
                self.bridge
                    .handle_up(device_id(), &frame.encode_to_vec(), self.now());
                self.drain();
            }
        }
    }

    fn connect(&mut self) {
        self.device.connect();
        self.talk();
    }

    fn disconnect(&mut self) {
        self.device.disconnect();
        self.bridge.handle_disconnected(device_id(), self.now());
        self.drain();
    }

    /// Time passes, with every deadline of both met on the way, and everything that is sent arriving.
    fn pass(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.device.pass(SECOND);
            self.bridge.handle_timeout(self.now());
            self.talk();
        }
    }

    /// The office, another device here, writes into the stream.
    fn office_says(&mut self, operation: &Operation) -> u64 {
        self.office_ops += 1;
        let hello = wire::Hello {
            epoch: 5,
            device_ms: self.now().wall_ms.cast_unsigned(),
            ..Default::default()
        };
        let tag = SessionTag::new(self.office_tag).unwrap();
        let frame = wire::UpFrame {
            stamp: Stamp::of(tag).to_wire(),
            hello: Some(hello),
            first_op: self.office_ops,
            ops: vec![operation.to_wire()],
            ..Default::default()
        };
        self.office_tag += 1;
        self.bridge
            .handle_up(office(), &frame.encode_to_vec(), self.now());
        self.drain();
        self.talk();
        self.office_ops
    }

    fn told(&self) -> Vec<EventKind> {
        let events = self.store.events(0, 1_000).unwrap();
        let is_end = |kind: &EventKind| {
            matches!(
                kind,
                EventKind::EntryExpired { .. } | EventKind::OperationsExpired { .. }
            )
        };
        events
            .into_iter()
            .map(|event| event.kind)
            .filter(is_end)
            .collect()
    }
}

fn instruction(expires_in_s: Option<u32>, supersedes: Option<u64>) -> Operation {
    Operation {
        expires_in_s,
        supersedes: supersedes.map(seq),
        ..Operation::text(stream(4), "gate 4")
    }
}

#[test]
fn an_instruction_ends_on_each_hop_and_is_recorded_with_it() {
    // In the outbox: the number goes as void, and the server tells it once.
    let mut pair = Pair::new();
    let id = pair.device.post(for_a_minute("at the gate"));
    pair.pass(61);
    assert_eq!(pair.device.events, [expired(id)]);
    pair.connect();
    let (first_op, count) = (1, 1);
    let device = device_id();
    let in_outbox = EventKind::OperationsExpired {
        device,
        first_op,
        count,
    };
    assert_eq!(pair.told(), std::slice::from_ref(&in_outbox));
    assert_eq!(pair.device.core.waiting_ops(), 0);
    pair.disconnect();

    // At the server: it is not sent, and the cursor goes on.
    pair.office_says(&instruction(Some(60), None));
    pair.office_says(&instruction(None, None));
    pair.pass(61);
    let at_server = EventKind::EntryExpired {
        stream: stream(4),
        seq: seq(1),
        missed: 1,
    };
    assert_eq!(pair.told(), [in_outbox.clone(), at_server.clone()]);
    pair.connect();
    pair.pass(2);
    assert_eq!(shown(&mut pair.device), [(2, Standing::Current)]);
    assert_eq!(history(&pair.device).len(), 1);
    let receipts = |pair: &Pair, number| {
        let state = pair.store.load(77).unwrap();
        let rows = pair
            .store
            .receipts(&state.streams[&stream(4)].0, seq(number))
            .unwrap()
            .unwrap();
        let row = rows
            .into_iter()
            .find(|row| row.member == Member::Device(device))
            .unwrap();
        (row.delivered.is_some(), row.expired.is_some())
    };
    assert_eq!(
        (receipts(&pair, 1), receipts(&pair, 2)),
        ((false, true), (true, false))
    );

    // On the screen: it was current, and is not any more.
    pair.office_says(&instruction(Some(60), None));
    assert_eq!(shown(&mut pair.device), [(3, Standing::Current)]);
    pair.pass(59);
    assert_eq!(shown(&mut pair.device), []);
    pair.pass(2);
    assert_eq!(shown(&mut pair.device), [(3, Standing::Expired)]);
    assert_eq!(pair.told(), [in_outbox, at_server], "the server delivered it");
}

#[test]
fn an_operation_that_was_lost_and_is_over_is_refused_and_one_that_was_not_lost_is_kept() {
    for lost in [true, false] {
        let mut pair = Pair::new();
        pair.connect();
        let id = pair.device.post(for_a_minute("at the gate"));
        let frames = pair.device.take_frames();
        if !lost {
            // It arrives, and the answer does not.
            pair.disconnect();
            pair.bridge.handle_up(device_id(), &[], pair.now());
            pair.drain();
            pair.connect();
            for mut frame in frames.clone() {
                frame.stamp = Stamp::of(pair.device.tag()).to_wire();
                pair.bridge
                    .handle_up(device_id(), &frame.encode_to_vec(), pair.now());
            }
            pair.device.core.handle_disconnected();
            pair.drain();
        }
        pair.disconnect();
        pair.device.events.clear();
        pair.device.pass(70 * SECOND);
        assert_eq!(pair.device.events, [], "nobody knows yet");
        pair.connect();
        pair.pass(2);
        let parked = pair.device.core.parked().len();
        let written = pair.store.entries(stream(4), Page::After(0), 9, 9).unwrap().len();
        assert_eq!(
            (parked, written),
            if lost { (1, 0) } else { (0, 1) },
            "lost: {lost}"
        );
        assert_eq!(pair.device.events.contains(&expired(id)), lost);
        assert_eq!(pair.device.core.waiting_ops(), 0);
        let in_outbox = pair
            .told()
            .iter()
            .filter(|kind| matches!(kind, EventKind::OperationsExpired { .. }))
            .count();
        assert_eq!(in_outbox, usize::from(lost));
    }
}

#[test]
fn an_instruction_is_superseded_on_each_hop() {
    let mut pair = Pair::new();
    // At the server, before the device has it.
    pair.office_says(&instruction(None, None));
    pair.office_says(&instruction(None, Some(1)));
    pair.connect();
    pair.pass(1);
    assert_eq!(shown(&mut pair.device), [(2, Standing::Current)]);
    // On the screen.
    pair.office_says(&instruction(None, Some(2)));
    assert_eq!(shown(&mut pair.device), [(2, by(3)), (3, Standing::Current)]);
    // Of its own words, while the outbox holds what takes their place.
    pair.device.post(text(stream(4), "at gate 2"));
    pair.talk();
    assert_eq!(shown(&mut pair.device), [(4, Standing::Current)]);
    pair.disconnect();
    pair.device.post(instead_of(4, "at gate 3"));
    pair.connect();
    pair.pass(1);
    assert_eq!(shown(&mut pair.device), [(4, by(5)), (5, Standing::Current)]);
    // Somebody else's it cannot, and is told so.
    pair.device.post(instead_of(3, "no"));
    pair.talk();
    assert_eq!(pair.device.core.parked().len(), 1);
    assert_eq!(pair.device.core.waiting_ops(), 0);
}
