//! What the outbox does at its bound.

use super::super::bounds::HOLE_MAX;
use super::super::thinning::error_without;
use super::super::write::Batch;
use super::super::{Config, Draft, Fill, NotTaken, PostId, Ticket};
use crate::core::harness::{Device, Disk, config, device_id, op, stream, text};
use crate::store::Store;
use crate::store::memory::MemoryDisk;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use waypost_proto::wire::{self, VoidReason};
use waypost_proto::{Body, ContentDigest, Cumulative, Epoch, Fix, Point, TrackKind, number_operations};

/// Between two fixes of the way.
const STEP_MS: i64 = 10_000;
/// Fixes of a track.
const FIXES: i64 = 60;
/// As the server has them.
const LEDGER_RANGES_MAX: usize = 64;
const START_MS: i64 = 1_700_000_000_000;

fn small(ops: usize) -> Config {
    Config {
        outbox_ops_max: ops,
        ..config()
    }
}

fn device(ops: usize) -> Device {
    let fresh = Device::new();
    Device::at(MemoryDisk::default(), 11, fresh.now, small(ops))
}

/// The `number`th fix of a way with bends.
fn fix(number: i64) -> Fix {
    let turns = (number as f64 / 9.0).sin() / 200.0;
    Fix::from_degrees(
        START_MS + number * STEP_MS,
        52.0 + turns,
        13.0 + number as f64 / 1e4,
    )
    .unwrap()
}

/// The `number`th track of the way.
fn track(number: i64) -> Draft {
    let fixes = (number * FIXES..(number + 1) * FIXES).map(fix).collect();
    Draft::track(fixes, TrackKind::Travelled)
}

fn number(number: i64) -> u64 {
    u64::try_from(number).unwrap()
}

/// Posts as the engine does: what is to wait for thinning waits for it.
fn try_post(device: &mut Device, draft: Draft) -> Result<PostId, NotTaken> {
    loop {
        match device.core.post(draft.clone(), device.now) {
            Ok((id, _, _)) => {
                device.settle();
                return Ok(id);
            }
            Err(NotTaken::Soon) => {
                assert!(device.core.is_thinning(), "there is something to wait for");
                device.settle();
            }
            Err(full) => return Err(full),
        }
    }
}

/// A server, as little as there is to it: what it took, and its ledger.
#[derive(Default)]
struct Ledger {
    taken: Cumulative,
    texts: Vec<String>,
    fixes: BTreeMap<i64, Fix>,
    /// Of batches, by time.
    points: BTreeMap<i64, Point>,
    contents: BTreeMap<u64, ContentDigest>,
    voids: BTreeMap<u64, VoidReason>,
}

impl Ledger {
    fn take(&mut self, frame: &wire::UpFrame) {
        for numbered in number_operations(frame).unwrap() {
            let op = numbered.op.number();
            if let Some(digest) = self.contents.get(&op) {
                assert_eq!(*digest, numbered.digest, "operation {op} comes again as it was");
            }
            if self.taken.contains(op) || !self.taken.insert_within(op, LEDGER_RANGES_MAX) {
                continue;
            }
            self.contents.insert(op, numbered.digest);
            match numbered.content.unwrap().body {
                Body::Text(text) => self.texts.push(text),
                Body::Track { fixes, .. } => self.fixes.extend(fixes.iter().map(|fix| (fix.at_ms, *fix))),
                Body::Reply(_) => panic!("no replies are posted here"),
                Body::Batch { batch, .. } => {
                    self.points
                        .extend(batch.points.iter().map(|point| (point.at_ms, *point)));
                }
            }
        }
        for void in &frame.voids {
            if !self.taken.insert_within(void.first_op, LEDGER_RANGES_MAX) {
                continue;
            }
            self.voids.entry(void.first_op).or_insert(void.reason());
            for number in void.first_op..void.first_op + u64::from(void.count) {
                if self.taken.insert(number) {
                    self.voids.insert(number, void.reason());
                }
            }
        }
    }

    fn answer(&self, device: &mut Device) {
        let answer = wire::DownFrame {
            accepted_through: self.taken.through(),
            accepted_ranges: self.taken.to_wire_within(8),
            ..device.down()
        };
        device.receive(&answer);
    }

    /// Takes all that the device has to say, over a link that loses nothing. Returns for how long somebody waited for a
    /// repetition.
    fn drain(&mut self, device: &mut Device) -> Duration {
        device.in_step();
        let mut waited = Duration::ZERO;
        while device.core.waiting_ops() > 0 || !device.core.voids.is_empty() {
            let frames = device.take_frames();
            frames.iter().for_each(|frame| self.take(frame));
            if frames.is_empty() {
                device.pass(Duration::from_secs(1));
                waited += Duration::from_secs(1);
                assert!(
                    waited < Duration::from_secs(3_600),
                    "{} wait",
                    device.core.waiting_ops()
                );
            } else {
                self.answer(device);
            }
        }
        waited
    }

    /// Everything up to `last` is settled, and of the way of `tracks` every fix is true, both ends are there and it is
    /// nowhere more wrong than `error_m`.
    fn check(&self, last: u64, tracks: i64, error_m: u32) {
        assert_eq!(
            (self.taken.through(), self.taken.ranges()),
            (last, 0),
            "no gap in the ledger"
        );
        let place = |at_ms: i64| (at_ms - START_MS) / STEP_MS;
        let told: Vec<Fix> = self.fixes.values().copied().collect();
        assert!(
            told.iter().all(|told| *told == fix(place(told.at_ms))),
            "every fix is true"
        );
        assert_eq!((told[0], told[told.len() - 1]), (fix(0), fix(tracks * FIXES - 1)));
        for pair in told.windows(2) {
            assert!(
                pair[1].at_ms - pair[0].at_ms <= i64::try_from(HOLE_MAX.as_millis()).unwrap(),
                "{pair:?}"
            );
            let between: Vec<Fix> = (place(pair[0].at_ms) + 1..place(pair[1].at_ms))
                .map(fix)
                .collect();
            let error = error_without(&pair[0], &between, &pair[1]);
            assert!(
                error <= f64::from(error_m),
                "{error} m off, {error_m} m were told"
            );
        }
    }
}

/// Each number that was given is on the disk as what waits or as void, and none as both.
fn check_disk(plate: &MemoryDisk) -> u64 {
    let store = Store::open(plate.open(), device_id(), Epoch::new(1).unwrap());
    let store = store.unwrap().unwrap_or_else(|other| panic!("{other:?}"));
    let loaded = store.load().unwrap();
    let mut numbers = Vec::new();
    store
        .operations(|stored, _| numbers.push(stored.op.number()))
        .unwrap();
    for void in loaded.voids {
        numbers.extend(void.first.number()..void.first.number() + u64::from(void.count));
    }
    numbers.sort_unstable();
    let given = loaded.next_op.number() - 1;
    assert_eq!(numbers, (1..=given).collect::<Vec<_>>());
    given
}

#[test]
fn history_thins_first_then_positions_are_refused_and_messages_last() {
    let mut device = device(64);
    let mut tracks = 0;
    let full = loop {
        match try_post(&mut device, track(tracks)) {
            Ok(_) => tracks += 1,
            Err(full) => break full,
        }
    };
    assert!(
        matches!(full, NotTaken::HistoryFull(Fill { ops: 60, .. })),
        "{full:?}"
    );
    let counters = device.core.counters();
    assert!(
        counters.ops_thinned > 500 && counters.fixes_thinned > 10_000,
        "{counters:?}"
    );
    assert_eq!(counters.ops_over_bound, 1);
    assert!(tracks > 600, "{tracks} tracks were taken before one was refused");
    let mut messages = 0;
    let full = loop {
        match try_post(&mut device, text(stream(4), &format!("message {messages}"))) {
            Ok(_) => messages += 1,
            Err(full) => break full,
        }
    };
    assert!(
        matches!(full, NotTaken::OutboxFull(Fill { ops: 64, .. })),
        "{full:?}"
    );
    // A message more, as now and then a track can still go.
    assert!((4..8).contains(&messages), "{messages}: the sixteenth is theirs");
    let counters = device.core.counters();
    let ranges = device.core.voids.len();
    assert!(
        ranges <= 65,
        "{ranges} ranges for {} numbers",
        counters.ops_thinned
    );
    assert_eq!(check_disk(&device.plate), number(tracks + messages));

    let mut server = Ledger::default();
    let waited = server.drain(&mut device);
    assert_eq!(waited, Duration::ZERO, "the ledger had room for each");
    server.check(number(tracks + messages), tracks, counters.thinning_error_m);
    assert_eq!(server.texts.len(), usize::try_from(messages).unwrap());
    assert!(server.voids.values().all(|reason| *reason == VoidReason::Thinned));
    assert_eq!(server.voids.len() as u64, counters.ops_thinned);
}

#[test]
fn messages_take_the_place_of_history_until_they_alone_are_at_the_bound() {
    let mut device = device(256);
    for number in 0..230 {
        try_post(&mut device, track(number)).unwrap();
    }
    let mut messages = 0;
    while try_post(&mut device, text(stream(4), &format!("message {messages}"))).is_ok() {
        messages += 1;
    }
    let tracks = 256 - messages;
    // 38 hours, in tracks of up to 80 fixes that are at most five minutes apart, are no fewer than six.
    assert!(
        tracks <= 20,
        "{tracks} tracks are left beside {messages} messages"
    );
    let mut server = Ledger::default();
    server.drain(&mut device);
    let told: Vec<String> = (0..messages).map(|number| format!("message {number}")).collect();
    assert_eq!(server.texts, told, "each message, in its order");
    server.check(
        number(230 + i64::from(messages)),
        230,
        device.core.counters().thinning_error_m,
    );
}

#[test]
fn where_bytes_are_short_history_halves() {
    let fresh = Device::new();
    let config = Config {
        outbox_bytes_max: 65_536,
        ..config()
    };
    let mut device = Device::at(MemoryDisk::default(), 11, fresh.now, config);
    let mut tracks = 0;
    while tracks < 400 {
        try_post(&mut device, track(tracks)).unwrap();
        tracks += 1;
        assert!(device.core.waiting_bytes() <= 61_440, "15/16");
    }
    let counters = device.core.counters();
    assert!(counters.fixes_thinned > 10_000, "{counters:?}");
    let mut server = Ledger::default();
    server.drain(&mut device);
    server.check(number(tracks), tracks, counters.thinning_error_m);
}

#[test]
fn what_the_server_may_have_never_comes_again_as_something_else() {
    a_lost_acknowledgement(|device| device);
    // What the process before has sent nobody knows any more.
    a_lost_acknowledgement(Device::restart);
}

fn a_lost_acknowledgement(then: impl FnOnce(Device) -> Device) {
    let mut device = device(64);
    let mut server = Ledger::default();
    let mut posted = 0;
    let mut more = |device: &mut Device, count: i64| {
        for _ in 0..count {
            try_post(device, track(posted)).unwrap();
            posted += 1;
        }
        posted
    };
    device.in_step();
    more(&mut device, 20);
    // All of it arrives, and no acknowledgement comes back.
    device.take_frames().iter().for_each(|frame| server.take(frame));
    let had = server.taken.through();
    assert!(had > 3, "{had} operations arrived");
    device.disconnect();
    let mut device = then(device);
    more(&mut device, 300);
    // Some leave again with a hello that is not answered, some never arrive.
    device.connect();
    device.take_frames();
    device.disconnect();
    let posted = more(&mut device, 300);
    server.drain(&mut device);
    server.check(number(posted), posted, device.core.counters().thinning_error_m);
    assert_eq!(device.core.counters().forks, 0);
}

#[test]
fn after_a_restart_every_second_track_that_may_be_known_is_given_up_whole() {
    let mut device = device(256);
    for number in 0..220 {
        try_post(&mut device, track_of_20s(number)).unwrap();
    }
    let mut device = device.restart();
    let before = device.core.counters();
    assert_eq!(before.ops_thinned, 0);
    for number in 220..236 {
        try_post(&mut device, track_of_20s(number)).unwrap();
    }
    let counters = device.core.counters();
    assert!((14..=120).contains(&counters.ops_thinned), "{counters:?}");
    assert!(counters.thinning_error_m > 0);
    let mut server = Ledger::default();
    server.drain(&mut device);
    let told: Vec<i64> = server
        .fixes
        .keys()
        .map(|at_ms| (at_ms - START_MS) / STEP_MS)
        .collect();
    let holes: Vec<i64> = told.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        holes.iter().all(|hole| *hole <= 4),
        "no two side by side: {holes:?}"
    );
}

/// Three fixes each.
fn track_of_20s(number: i64) -> Draft {
    Draft::track(
        (number * 3..number * 3 + 3).map(fix).collect(),
        TrackKind::Travelled,
    )
}

#[test]
fn a_power_cut_at_any_write_loses_nothing_that_was_answered() {
    for seed in 1..=10u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = move |bound: u64| {
            random ^= random >> 12;
            random ^= random << 25;
            random ^= random >> 27;
            random.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
        };
        let mut device = device(48);
        let (mut tracks, mut words) = (0, 0);
        let mut unanswered: VecDeque<(Ticket, Option<String>)> = VecDeque::new();
        let mut answered = Vec::new();
        for _ in 0..150 {
            device.disk = Disk::Stuck;
            for _ in 0..below(4) {
                let is_message = below(30) == 0;
                let draft = if is_message {
                    words += 1;
                    text(stream(4), &format!("message {words}"))
                } else {
                    track(tracks)
                };
                if let Ok((_, _, ticket)) = device.core.post(draft, device.now) {
                    tracks += i64::from(!is_message);
                    unanswered.push_back((ticket, is_message.then(|| format!("message {words}"))));
                }
                device.settle();
            }
            // The disk takes some of the writes, each for itself.
            for _ in 0..below(6) {
                if device.unsynced.is_empty() {
                    break;
                }
                let write = device.unsynced.remove(0);
                device.store.commit(std::slice::from_ref(&write)).unwrap();
                check_disk(&device.plate);
                device.core.handle_stored(write.ticket, device.now);
                device.settle();
                while let Some((_, said)) = unanswered.pop_front_if(|(ticket, _)| *ticket <= write.ticket) {
                    answered.extend(said);
                }
            }
            if below(25) == 0 {
                device = device.restart();
                tracks = i64::try_from(check_disk(&device.plate)).unwrap() * 2; // Somewhere on its way.
                unanswered.clear();
            }
        }
        device.disk = Disk::Quick;
        device.sync();
        let given = check_disk(&device.plate);
        let mut server = Ledger::default();
        server.drain(&mut device);
        assert_eq!(
            (server.taken.through(), server.taken.ranges()),
            (given, 0),
            "seed {seed}"
        );
        let at = |said: &String| server.texts.iter().position(|told| told == said);
        assert!(answered.iter().all(|said| at(said).is_some()), "seed {seed}");
        assert!(
            server
                .fixes
                .values()
                .all(|told| *told == fix((told.at_ms - START_MS) / STEP_MS))
        );
    }
}

#[test]
fn a_recording_on_file_is_not_thinned() {
    let mut device = device(64);
    let recording = |number: i64| {
        let fixes = (number * FIXES..(number + 1) * FIXES).map(fix).collect();
        Draft::track(fixes, TrackKind::Recording)
    };
    let mut taken = Vec::new();
    for number in 0.. {
        match try_post(&mut device, recording(number)) {
            Ok(id) => taken.push(id),
            Err(full) => {
                assert!(matches!(full, NotTaken::HistoryFull(_)), "{full:?}");
                break;
            }
        }
    }
    assert_eq!(taken.len(), 60);
    assert!(taken.iter().all(|&id| device.core.progress(id).is_some()));
    assert_eq!(device.core.counters().ops_thinned, 0);
}

#[test]
fn voids_side_by_side_are_one_range_in_memory_and_on_disk() {
    let mut device = Device::new();
    let put = |device: &mut Device, numbers: &[(u64, VoidReason)]| {
        for &(number, reason) in numbers {
            let mut batch = Batch::default();
            device.core.put_void(op(number), 1, reason, &mut batch);
            device.core.write(batch, device.now);
        }
        device.settle();
    };
    let thinned = VoidReason::Thinned;
    put(
        &mut device,
        &[(5, thinned), (3, thinned), (9, thinned), (4, thinned)],
    );
    put(
        &mut device,
        &[(6, VoidReason::Refused), (8, thinned), (7, VoidReason::Refused)],
    );
    let ranges = |voids: Vec<crate::core::StoredVoid>| -> Vec<(u64, u32, VoidReason)> {
        let row = |void: crate::core::StoredVoid| (void.first.number(), void.count, void.reason);
        voids.into_iter().map(row).collect()
    };
    let expected = vec![(3, 3, thinned), (6, 2, VoidReason::Refused), (8, 2, thinned)];
    assert_eq!(ranges(device.store.load().unwrap().voids), expected);
    assert_eq!(device.core.voids.len(), 3);
    // A range that grows while its write is under way is not sent before the last of it is on disk.
    device.in_step();
    let sent = |device: &mut Device| -> Vec<(u64, u32)> {
        let frames = device.take_frames();
        let voids = frames.iter().flat_map(|frame| &frame.voids);
        voids.map(|void| (void.first_op, void.count)).collect()
    };
    assert_eq!(sent(&mut device), [(3, 3), (6, 2), (8, 2)]);
    device.disk = Disk::Stuck;
    put(&mut device, &[(10, thinned), (11, thinned)]);
    assert!(sent(&mut device).is_empty());
    let write = device.unsynced.remove(0);
    device.store.commit(std::slice::from_ref(&write)).unwrap();
    device.core.handle_stored(write.ticket, device.now);
    device.settle();
    assert!(sent(&mut device).is_empty(), "its last write is still under way");
    device.sync();
    assert_eq!(sent(&mut device), [(8, 4)]);
}
