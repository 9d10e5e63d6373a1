//! Clocks that are wrong.

use super::super::harness::{Device, Link, config, device_id, seq, stream, text};
use super::super::{Boot, Now, Steady};
use super::SECOND;
use super::pair::{office, put_device, since_ever};
use crate::store::memory::MemoryDisk;
use prost::Message;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use waypost_bridge::core::{Core as Bridge, CoreOptions, Now as BridgeNow, Output};
use waypost_bridge::entry::{Author, Moment, Page};
use waypost_bridge::store::{Change, MemoryStore, Store};
use waypost_bridge::stream::{Member, Stream, StreamKind};
use waypost_proto::wire;
use waypost_proto::{OpNumber, Operation};

/// What the welcome of the harness says.
const SERVER_MS: i64 = 1_700_000_500_000;

#[test]
fn the_servers_clock_is_known_from_the_first_welcome_on_whatever_the_wall_clock_does() {
    let mut device = Device::new();
    assert_eq!(device.core.server_ms(device.now), None);
    device.connect();
    device.pass(2 * SECOND);
    let welcome = device.welcome();
    device.receive(&welcome);
    assert_eq!(
        device.core.server_ms(device.now),
        Some(SERVER_MS + 1_000),
        "half of the round trip has passed since"
    );
    device.pass(600 * SECOND);
    device.now.wall_ms -= 3 * 3_600_000;
    assert_eq!(device.core.server_ms(device.now), Some(SERVER_MS + 601_000));
    let mut device = device.restart();
    device.pass(10 * SECOND);
    assert_eq!(
        device.core.server_ms(device.now),
        Some(SERVER_MS + 611_000),
        "also in a later process, without a connection"
    );
}

/// A shift of both cores on a virtual link, with a clock that is the truth and is nobody's. The device's clocks are functions
/// of it.
struct World {
    device: Device,
    clock: DeviceClock,
    bridge: Bridge,
    store: MemoryStore,
    start: Instant,
    true_ms: i64,
    link: Link,
    /// Frames under way, by when they arrive.
    up: BTreeMap<(i64, u64), Vec<u8>>,
    down: BTreeMap<(i64, u64), Vec<u8>>,
    frames: u64,
    office_ops: u64,
    shown: usize,
    /// What was true.
    done: BTreeMap<OpNumber, i64>,
    delivered: BTreeMap<u64, i64>,
    read: BTreeMap<u64, i64>,
}

/// What the clocks of a device show when so many milliseconds have truly passed.
#[derive(Debug, Clone, Copy)]
struct DeviceClock {
    fast_pct: i64,
    ahead_ms: i64,
    boot: u32,
    /// What was counted when the device was started.
    booted_ms: i64,
}

const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// What the server's clock shows at the beginning, rightly.
const BEGIN_MS: i64 = 1_764_000_000_000;

impl DeviceClock {
    fn ahead(ahead_ms: i64) -> Self {
        Self {
            fast_pct: 0,
            ahead_ms,
            boot: 1,
            booted_ms: -5 * HOUR_MS,
        }
    }

    fn fast(self, fast_pct: i64) -> Self {
        Self { fast_pct, ..self }
    }

    fn counted_ms(self, true_ms: i64) -> i64 {
        true_ms * (100 + self.fast_pct) / 100
    }

    fn now(self, start: Instant, true_ms: i64) -> Now {
        let counted_ms = self.counted_ms(true_ms);
        let at = |ms: i64| start + Duration::from_millis(u64::try_from(ms + 100 * HOUR_MS).unwrap());
        Now {
            mono: at(counted_ms),
            wall_ms: BEGIN_MS + counted_ms + self.ahead_ms,
            steady: Steady {
                boot: Boot::new(self.boot),
                origin: at(self.booted_ms),
                origin_ms: 0,
            },
        }
    }
}

impl World {
    fn new(clock: DeviceClock) -> Self {
        let start = crate::engine::now().mono;
        let device = Device::at(MemoryDisk::default(), 11, clock.now(start, 0), config());
        let store = MemoryStore::new();
        store.load(77).unwrap();
        let talk = Stream {
            id: stream(1),
            kind: StreamKind::Direct,
            title: String::new(),
            members: [device_id(), office()].map(since_ever).into(),
        };
        let changes = [
            put_device(device_id(), 1),
            put_device(office(), 1),
            Change::PutStream(talk),
        ];
        store.commit(&changes).unwrap();
        Self {
            device,
            clock,
            bridge: Bridge::new(store.load(77).unwrap(), CoreOptions::default()),
            store,
            start,
            true_ms: 0,
            link: Link::Down,
            up: BTreeMap::new(),
            down: BTreeMap::new(),
            frames: 0,
            office_ops: 0,
            shown: 0,
            done: BTreeMap::new(),
            delivered: BTreeMap::new(),
            read: BTreeMap::new(),
        }
    }

    fn bridge_now(&self) -> BridgeNow {
        BridgeNow {
            monotonic: self.start + Duration::from_millis(u64::try_from(self.true_ms).unwrap()),
            wall_ms: BEGIN_MS + self.true_ms,
        }
    }

    /// 300 to 500 ms, and after the first twenty minutes one frame in nine takes 4 s; in order. (Until the server has seen how
    /// fast a clock runs, what rides in a frame that is late is late with it.)
    fn arrival(frames: &mut u64, way: &BTreeMap<(i64, u64), Vec<u8>>, true_ms: i64) -> (i64, u64) {
        *frames += 1;
        let held_up = if *frames % 9 == 5 && true_ms > 20 * MINUTE_MS {
            4_000
        } else {
            0
        };
        let at = true_ms + 300 + i64::try_from(*frames * 7_919 % 201).unwrap() + held_up;
        let last = way.keys().next_back().map_or(at, |&(last, _)| last.max(at));
        (last, *frames)
    }

    fn drain(&mut self) {
        self.device.now = self.clock.now(self.start, self.true_ms);
        self.device.settle();
        for (frame, _) in std::mem::take(&mut self.device.frames) {
            let key = Self::arrival(&mut self.frames, &self.up, self.true_ms);
            self.up.insert(key, frame.encode_to_vec());
        }
        for entry in &self.device.shown[self.shown..] {
            self.delivered.entry(entry.seq.number()).or_insert(self.true_ms);
        }
        self.shown = self.device.shown.len();
        loop {
            let now = self.bridge_now();
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
                Output::Look(look) => {
                    let found = self.store.find_old(&look).unwrap();
                    self.bridge.handle_found(&look, found);
                }
                Output::Publish(to, frame) if to == device_id() && self.link == Link::Up => {
                    let key = Self::arrival(&mut self.frames, &self.down, self.true_ms);
                    self.down.insert(key, frame.into());
                }
                _ => {}
            }
        }
    }

    /// Everything that happens until `end`, and it happens at its time.
    fn run_until(&mut self, end: i64) {
        self.drain();
        while self.true_ms < end {
            let frames = [&self.up, &self.down].map(|way| way.keys().next().map(|&(at, _)| at));
            let device = self.device.core.poll_timeout(self.device.now).map(|at| {
                let left = at.saturating_duration_since(self.device.now.mono).as_millis();
                self.true_ms + i64::try_from(left).unwrap() * 100 / (100 + self.clock.fast_pct)
            });
            let bridge = self.bridge.poll_timeout().map(|at| {
                let since = at.saturating_duration_since(self.start).as_millis();
                i64::try_from(since).unwrap()
            });
            let timers = [device, bridge]
                .into_iter()
                .flatten()
                .map(|at| at.max(self.true_ms + 1));
            let next = frames.into_iter().flatten().chain(timers).min().unwrap_or(end);
            self.true_ms = next.min(end);
            self.device.now = self.clock.now(self.start, self.true_ms);
            while let Some(entry) = self
                .up
                .first_entry()
                .filter(|entry| entry.key().0 <= self.true_ms)
            {
                let frame = entry.remove();
                self.bridge.handle_up(device_id(), &frame, self.bridge_now());
                self.drain();
            }
            while let Some(entry) = self
                .down
                .first_entry()
                .filter(|entry| entry.key().0 <= self.true_ms)
            {
                let frame = entry.remove();
                self.device.core.handle_frame(&frame, self.device.now);
                self.drain();
            }
            self.bridge.handle_timeout(self.bridge_now());
            self.device.core.handle_timeout(self.device.now);
            self.drain();
        }
    }

    fn connect(&mut self) {
        self.drain();
        self.link = Link::Up;
        self.device.connect();
        self.drain();
    }

    /// Whatever is under way is lost.
    fn cut(&mut self) {
        self.link = Link::Down;
        self.up.clear();
        self.down.clear();
        self.device.disconnect();
        self.bridge.handle_disconnected(device_id(), self.bridge_now());
        self.drain();
    }

    /// The app is closed and opened again.
    fn restart(mut self) -> Self {
        self.drain();
        let shown = self.device.shown.clone();
        self.device = self.device.restart();
        self.device.shown = shown;
        self
    }

    /// The device is started anew: its steady clock begins again.
    fn reboot(mut self) -> Self {
        self.clock.boot += 1;
        self.clock.booted_ms = self.clock.counted_ms(self.true_ms);
        self.device.now = self.clock.now(self.start, self.true_ms);
        self.restart()
    }

    /// How wrong the device believes the server's clock to be.
    fn server_clock_error_ms(&mut self) -> i64 {
        self.drain();
        self.device.core.server_ms(self.device.now).unwrap() - BEGIN_MS - self.true_ms
    }

    /// The wall clock is set.
    fn jump(&mut self, by_ms: i64) {
        self.clock.ahead_ms += by_ms;
        self.drain();
    }

    fn post(&mut self) {
        self.drain();
        let draft = text(stream(1), "On my way");
        let (_, op, _) = self.device.core.post(draft, self.device.now).unwrap();
        self.done.insert(op, self.true_ms);
        self.drain();
    }

    /// The driver reads the next entry that was not read.
    fn read_next(&mut self) {
        self.drain();
        let next = self.read.keys().next_back().map_or(1, |last| last + 1);
        if self.delivered.contains_key(&next) {
            self.read.insert(next, self.true_ms);
            self.device.core.mark_read(stream(1), seq(next), self.device.now);
        }
        self.drain();
    }

    /// Somebody writes to the device.
    fn post_from_office(&mut self) {
        let hello = wire::Hello {
            epoch: 5,
            device_ms: BEGIN_MS.cast_unsigned(),
            ..Default::default()
        };
        let frame = wire::UpFrame {
            stamp: 1,
            hello: (self.office_ops == 0).then_some(hello),
            first_op: self.office_ops + 1,
            ops: vec![Operation::text(stream(1), "Gate 4").to_wire()],
            ..Default::default()
        };
        self.office_ops += 1;
        self.bridge
            .handle_up(office(), &frame.encode_to_vec(), self.bridge_now());
        self.drain();
    }

    /// How far the times of every receipt are from the truth, the farthest first.
    fn check(&self, case: &str) {
        let entries = self
            .store
            .entries(stream(1), Page::After(0), 10_000, u64::MAX)
            .unwrap();
        let talk = self.store.load(77).unwrap().streams[&stream(1)].0.clone();
        let found = |moment: Moment| moment.device_ms.unwrap() + moment.offset_ms.unwrap() - BEGIN_MS;
        let mut errors: Vec<(i64, &str, u64)> = Vec::new();
        let mut count = BTreeMap::new();
        let mut compare = |rung, number, moment: Moment, truth: i64| {
            *count.entry(rung).or_insert(0) += 1;
            errors.push((found(moment) - truth, rung, number));
        };
        for entry in entries {
            if entry.author == Author::Device(device_id()) {
                let (_, op) = entry.operation.unwrap();
                compare("accepted", op.number(), entry.accepted, self.done[&op]);
                continue;
            }
            let receipts = self.store.receipts(&talk, entry.seq).unwrap().unwrap();
            let row = receipts
                .iter()
                .find(|row| row.member == Member::Device(device_id()))
                .unwrap();
            let number = entry.seq.number();
            compare(
                "delivered",
                number,
                row.delivered.unwrap(),
                self.delivered[&number],
            );
            if let Some(&truth) = self.read.get(&number) {
                compare("read", number, row.read.unwrap(), truth);
            }
        }
        assert_eq!(count["accepted"], self.done.len(), "{case}: all have arrived");
        errors.sort_by_key(|(error, _, _)| -error.abs());
        println!("{case}: {count:?}, the worst: {:?}", &errors[..3]);
        assert!(errors[0].0.abs() <= 2_000, "{case}: {:?}", &errors[..10]);
    }
}

/// What goes wrong with the clocks in a shift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    None,
    /// The wall clock jumps back three hours, once offline and once in session.
    Jumps,
    /// The same, and the app is closed and opened again while the device is offline, which also sleeps then.
    JumpsAndRestarts,
}

/// An hour and a half in session, three offline, two in session; ten to the hour happens something.
fn shift(clock: DeviceClock, mishap: Mishap) -> World {
    let mut world = World::new(clock);
    world.connect();
    for minute in 1..=390 {
        world.run_until(minute * MINUTE_MS + minute * 377 % 1_000);
        match minute {
            90 => world.cut(),
            270 => world.connect(),
            150 | 300 if mishap != Mishap::None => world.jump(-3 * HOUR_MS),
            180 | 320 if mishap == Mishap::JumpsAndRestarts => {
                let connected = world.link == Link::Up;
                if connected {
                    world.cut();
                }
                world = world.restart();
                if connected {
                    world.connect();
                }
            }
            _ => {}
        }
        // It sleeps from minute 200 to 250: nothing is done.
        if (200..250).contains(&minute) {
            continue;
        }
        match minute % 6 {
            0 => world.post_from_office(),
            2 | 5 => world.post(),
            4 => world.read_next(),
            _ => {}
        }
    }
    world.run_until(400 * MINUTE_MS);
    world
}

#[test]
fn every_receipt_tells_the_true_moment_within_two_seconds_whatever_the_devices_clocks_do() {
    let days = 24 * HOUR_MS;
    let right = DeviceClock::ahead(0);
    for (case, clock, mishap) in [
        ("right", right, Mishap::None),
        ("48 h ahead", DeviceClock::ahead(2 * days), Mishap::None),
        ("48 h behind", DeviceClock::ahead(-2 * days), Mishap::None),
        ("jumps back", right, Mishap::Jumps),
        ("10 % fast", right.fast(10), Mishap::None),
        (
            "10 % fast, 48 h ahead, jumps, restarts and sleeps",
            DeviceClock::ahead(2 * days).fast(10),
            Mishap::JumpsAndRestarts,
        ),
        (
            "10 % fast, 48 h behind, jumps, restarts and sleeps",
            DeviceClock::ahead(-2 * days).fast(10),
            Mishap::JumpsAndRestarts,
        ),
    ] {
        shift(clock, mishap).check(case);
    }
}

#[test]
fn what_was_done_before_a_start_of_the_device_is_known_though_its_wall_clock_was_set_right_by_it() {
    for fast_pct in [0, 10] {
        let mut world = World::new(DeviceClock::ahead(48 * HOUR_MS).fast(fast_pct));
        world.connect();
        for minute in 1..=60 {
            world.run_until(minute * MINUTE_MS);
            if minute % 3 == 0 {
                world.post_from_office();
            }
        }
        world.cut();
        for minute in (70..=120).step_by(10) {
            world.run_until(minute * MINUTE_MS);
            world.post();
            world.read_next();
        }
        let mut world = world.reboot();
        let shown_ms = world.device.now.wall_ms;
        world.jump(BEGIN_MS + world.true_ms - shown_ms);
        world.run_until(130 * MINUTE_MS);
        world.post();
        world.connect();
        world.run_until(140 * MINUTE_MS);
        world.check(&format!("a start of the device, {fast_pct} % fast"));
    }
}

#[test]
fn in_a_long_session_the_device_learns_how_fast_its_clock_runs() {
    let mut world = World::new(DeviceClock::ahead(-48 * HOUR_MS).fast(10));
    world.connect();
    for minute in 1..=240 {
        world.run_until(minute * MINUTE_MS);
        if minute % 5 == 0 {
            world.post_from_office();
        }
    }
    let in_session = world.server_clock_error_ms();
    assert!(in_session.abs() < 5_000, "{in_session}");
    world.cut();
    world.jump(-3 * HOUR_MS);
    let mut world = world.restart();
    world.run_until(360 * MINUTE_MS);
    let offline = world.server_clock_error_ms();
    assert!(offline.abs() < 20_000, "{offline}, two hours later");
}

#[test]
fn more_times_of_reading_than_are_kept_are_told_with_the_next_and_counted() {
    let mut world = World::new(DeviceClock::ahead(0));
    world.connect();
    for minute in 1..=40 {
        world.run_until(minute * MINUTE_MS);
        world.post_from_office();
    }
    world.run_until(50 * MINUTE_MS);
    world.cut();
    for minute in 51..=90 {
        world.run_until(minute * MINUTE_MS);
        world.read_next();
    }
    assert_eq!(world.device.core.counters().reading_times_over_bound, 7);
    world.connect();
    world.run_until(100 * MINUTE_MS);
    let talk = world.store.load(77).unwrap().streams[&stream(1)].0.clone();
    let told: std::collections::BTreeSet<_> = (1..=40)
        .map(|number| {
            let receipts = world.store.receipts(&talk, seq(number)).unwrap().unwrap();
            receipts[0].read.unwrap().device_ms
        })
        .collect();
    assert_eq!(told.len(), 33, "32 before the last");
}
