//! Both cores on a virtual link and a virtual clock: what waits for what on a link of 2 kB/s, and what that costs.
//!
//! The link carries 2,000 bytes a second each way and 300 ms further, in order. What is counted on it, in both
//! directions: each frame as its PUBLISH with an established alias, and the PUBACK where it has one; 22 bytes for the
//! record of TLS, 40 for each segment of TCP and IP of at most 1,460 bytes; a bare acknowledgement of TCP, 40 bytes, for
//! what arrives and is not answered by other bytes within 40 ms; and 1,900 bytes for the connection itself. The device's
//! PUBACKs ride with what leaves next, as `connection.rs` has them; the broker's leave at once. The server's disk takes
//! 5 ms.

mod earlier;

use super::super::harness::{Device, Link, urgent};
use super::super::{Draft, Grant, PostId, Qos};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};
use waypost_bridge::core::{Core as Bridge, CoreOptions, Now as BridgeNow, Output, Ticket};
use waypost_bridge::device::Device as Known;
use waypost_bridge::entry::{Author, Entry, EntryBody, Moment, Page};
use waypost_bridge::store::{Change, MemoryStore, Store};
use waypost_bridge::stream::{Member, Membership, Stream, StreamKind};
use waypost_proto::wire;
use waypost_proto::{
    DeviceId, Fix, OpNumber, Operation, PersonId, Seq, SessionTag, Stamp, StreamId, TrackKind,
};

const BYTES_PER_S: f64 = 2_000.0;
const ONE_WAY: Duration = Duration::from_millis(300);
/// Out and back, of something small.
const ROUND_TRIP: Duration = Duration::from_millis(600);
const DISK: Duration = Duration::from_millis(5);
const TLS: usize = 22;
const TCP: usize = 40;
const SEGMENT: usize = 1_460;
const TCP_ACK_AFTER: Duration = Duration::from_millis(40);
const PUBACK: usize = 4;
const CONNECTION: usize = 1_900;
/// The last of the streams that begin empty.
const ELSEWHERE: u32 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Up,
    Down,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A packet has arrived; with a frame, or without.
    Arrived(Way, Option<(Vec<u8>, bool)>),
    /// Time for a bare acknowledgement of what came this way.
    AckDue(Way),
    Stored(Ticket),
}

/// One direction.
#[derive(Debug)]
struct Lane {
    free: Instant,
    carried: usize,
    /// Since when something that came the other way waits for an acknowledgement.
    owes_ack: Option<Instant>,
}

/// What becomes of requests of pages, and of pages.
#[derive(Debug, Clone, Copy)]
enum Pages {
    Arrive,
    /// Some do not, and some arrive twice.
    Lossy {
        seen: u64,
    },
}

struct World {
    device: Device,
    bridge: Bridge,
    store: MemoryStore,
    start: Instant,
    now: Instant,
    due: BinaryHeap<std::cmp::Reverse<(Instant, u64, What)>>,
    count: u64,
    lanes: BTreeMap<Way, Lane>,
    pubacks_held: usize,
    /// Bytes of the frames' payloads, both ways.
    frames: usize,
    /// When each entry came to the screen, and each message of the device to the server's disk.
    shown: BTreeMap<(StreamId, u64), Instant>,
    accepted: BTreeMap<OpNumber, Instant>,
    heads: BTreeMap<StreamId, u64>,
    /// Operations that another device has sent.
    others: u64,
    pages: Pages,
}

pub(super) fn office() -> DeviceId {
    DeviceId::new(900).unwrap()
}

fn us() -> DeviceId {
    super::super::harness::device_id()
}

fn stream(number: u32) -> StreamId {
    StreamId::new(number).unwrap()
}

impl World {
    /// A server that holds entries in so many streams, with numbers that go around them; `what` says what each of them is.
    fn new(streams: u32, entries: u64, what: impl Fn(u64) -> (String, bool)) -> Self {
        let device = Device::new();
        let store = MemoryStore::new();
        store.load(77).unwrap();
        let mut changes = vec![put_device(us(), 1), put_device(office(), 1)];
        for number in 1..=streams.max(ELSEWHERE) {
            changes.push(Change::PutStream(Stream {
                id: stream(number),
                kind: StreamKind::Direct,
                title: String::new(),
                members: [us(), office()].map(since_ever).into(),
            }));
        }
        let mut heads = BTreeMap::new();
        for number in 0..entries {
            let of = stream(u32::try_from(number % u64::from(streams)).unwrap() + 1);
            let seq = heads.entry(of).or_insert(0);
            *seq += 1;
            let (text, urgent) = what(number);
            changes.push(Change::AppendEntry(entry(of, *seq, number, text, urgent)));
            if urgent {
                changes.push(Change::MarkUrgent(of, *seq));
            }
        }
        store.commit(&changes).unwrap();
        let bridge = Bridge::new(store.load(77).unwrap(), CoreOptions::default());
        let start = device.now.mono;
        let lane = || Lane {
            free: start,
            carried: 0,
            owes_ack: None,
        };
        Self {
            device,
            bridge,
            store,
            start,
            now: start,
            due: BinaryHeap::new(),
            count: 0,
            lanes: [(Way::Up, lane()), (Way::Down, lane())].into(),
            pubacks_held: 0,
            frames: 0,
            shown: BTreeMap::new(),
            accepted: BTreeMap::new(),
            heads,
            others: 0,
            pages: Pages::Arrive,
        }
    }

    fn bridge_now(&self) -> BridgeNow {
        BridgeNow {
            monotonic: self.now,
            wall_ms: 1_700_000_000_000 + i64::try_from((self.now - self.start).as_millis()).unwrap(),
        }
    }

    fn later(&mut self, at: Instant, what: What) {
        self.count += 1;
        self.due.push(std::cmp::Reverse((at, self.count, what)));
    }

    /// Bytes leave at the end of the queue; what they carry arrives when the last of them does.
    fn put_on_link(&mut self, way: Way, bytes: usize, what: Option<(Vec<u8>, bool)>) {
        let lane = self.lanes.get_mut(&way).unwrap();
        lane.owes_ack = None;
        lane.carried += bytes;
        lane.free = lane.free.max(self.now) + Duration::from_secs_f64(bytes as f64 / BYTES_PER_S);
        let at = lane.free + ONE_WAY;
        self.later(at, What::Arrived(way, what));
    }

    fn send_mqtt(&mut self, way: Way, mqtt: usize, frame: Option<(Vec<u8>, bool)>) {
        let riding = if way == Way::Up {
            std::mem::take(&mut self.pubacks_held) * PUBACK
        } else {
            0
        };
        let record = mqtt + riding + TLS;
        self.put_on_link(way, record + record.div_ceil(SEGMENT) * TCP, frame);
    }

    fn publish(&mut self, way: Way, payload: Vec<u8>, confirmed: bool) {
        for _ in 0..self.copies(way, &payload) {
            self.publish_once(way, payload.clone(), confirmed);
        }
    }

    fn copies(&mut self, way: Way, payload: &[u8]) -> u32 {
        let Pages::Lossy { seen } = &mut self.pages else {
            return 1;
        };
        let is_of_page = match way {
            Way::Up => wire::UpFrame::decode(payload).unwrap().page.is_some(),
            Way::Down => !wire::DownFrame::decode(payload).unwrap().pages.is_empty(),
        };
        *seen += u64::from(is_of_page);
        match *seen % 7 {
            _ if !is_of_page => 1,
            0 | 3 => 0,
            2 | 5 => 2,
            _ => 1,
        }
    }

    fn publish_once(&mut self, way: Way, payload: Vec<u8>, confirmed: bool) {
        self.frames += payload.len();
        // An empty topic, a packet id, the alias.
        let body = 2 + if confirmed { 2 } else { 0 } + 4 + payload.len();
        let mqtt = 1 + prost::length_delimiter_len(body) + body;
        self.send_mqtt(way, mqtt, Some((payload, confirmed)));
    }

    fn handle(&mut self, what: What) {
        match what {
            What::AckDue(came) => {
                let back = if came == Way::Up { Way::Down } else { Way::Up };
                let lane = self.lanes.get_mut(&back).unwrap();
                if lane
                    .owes_ack
                    .is_some_and(|since| since + TCP_ACK_AFTER <= self.now)
                {
                    lane.owes_ack = None;
                    lane.carried += TCP;
                    lane.free = lane.free.max(self.now) + Duration::from_secs_f64(TCP as f64 / BYTES_PER_S);
                }
            }
            What::Stored(ticket) => self.bridge.handle_stored(ticket),
            What::Arrived(came, frame) => {
                let back = if came == Way::Up { Way::Down } else { Way::Up };
                let lane = self.lanes.get_mut(&back).unwrap();
                lane.owes_ack.get_or_insert(self.now);
                self.later(self.now + TCP_ACK_AFTER, What::AckDue(came));
                let Some((payload, confirmed)) = frame else { return };
                match came {
                    Way::Up => {
                        if confirmed {
                            self.send_mqtt(Way::Down, PUBACK, None);
                        }
                        self.bridge.handle_up(us(), &payload, self.bridge_now());
                    }
                    Way::Down => {
                        self.pubacks_held += usize::from(confirmed);
                        self.device.core.handle_frame(&payload, self.device.now);
                    }
                }
            }
        }
    }

    fn drain_bridge(&mut self) {
        loop {
            let now = self.bridge_now();
            self.bridge.flush(now);
            let Some(output) = self.bridge.poll_output() else {
                return;
            };
            match output {
                Output::Write(ticket, changes) => {
                    self.store.commit(&changes).unwrap();
                    for change in changes {
                        if let Change::AppendEntry(entry) = change {
                            self.heads.insert(entry.stream, entry.seq.number());
                            if entry.author == Author::Device(us())
                                && let Some((_, op)) = entry.operation
                            {
                                self.accepted.insert(op, self.now + DISK);
                            }
                        }
                    }
                    self.later(self.now + DISK, What::Stored(ticket));
                }
                Output::Fetch(fetch) => {
                    let entries = self
                        .store
                        .entries(fetch.stream, Page::After(fetch.after), fetch.limit, fetch.head)
                        .unwrap();
                    self.bridge.handle_fetched(fetch, entries, now);
                }
                Output::FetchBack(fetch) => {
                    let entries = self
                        .store
                        .entries(fetch.stream, Page::Before(fetch.before), fetch.limit, u64::MAX)
                        .unwrap();
                    self.bridge.handle_fetched_back(fetch, entries, now);
                }
                Output::Look(look) => {
                    let found = self.store.find_old(&look).unwrap();
                    self.bridge.handle_found(&look, found);
                }
                Output::Compare(repeated) => {
                    let taken = self.store.operation(repeated.device, repeated.epoch, repeated.op);
                    let same = repeated.content.is(taken.unwrap());
                    self.bridge.handle_compared(repeated, same, now);
                }
                Output::Publish(to, frame) if to == us() => self.publish(Way::Down, frame.into(), true),
                // What the other device gets goes another way.
                _ => {}
            }
        }
    }

    fn drain_device(&mut self) {
        loop {
            let now = self.device.now;
            let Device {
                core, store, link, ..
            } = &mut self.device;
            let writes: Vec<_> = std::iter::from_fn(|| core.poll_write()).collect();
            if let Some(last) = writes.last() {
                store.commit(&writes).unwrap();
                core.handle_stored(last.ticket, now);
                continue;
            }
            while core.poll_event().is_some() {}
            while let Some((stream, seq)) = core.poll_show() {
                self.shown.entry((stream, seq.number())).or_insert(self.now);
            }
            if *link == Link::Down {
                match core.poll_load() {
                    Some(ids) => self.load(ids),
                    None => return,
                }
                continue;
            }
            if let Some(topics) = core.poll_topics() {
                for topic in &topics.subscribe {
                    core.handle_topic(topic, Grant::Granted);
                }
                continue;
            }
            let Some(frame) = core.poll_frame(now) else {
                // What is due may have to be read first.
                match core.poll_load() {
                    Some(ids) => self.load(ids),
                    None => return,
                }
                continue;
            };
            self.publish(Way::Up, frame.payload, frame.qos == Qos::AtLeastOnce);
        }
    }

    fn load(&mut self, ids: Vec<PostId>) {
        for id in ids {
            let content = self.device.store.content(id).unwrap();
            self.device.core.handle_loaded(id, content, self.device.now);
        }
    }

    fn drain(&mut self) {
        self.drain_device();
        self.drain_bridge();
    }

    /// Everything that happens until `end`.
    fn run_until(&mut self, end: Instant) {
        self.drain();
        loop {
            let next = self.due.peek().map(|entry| entry.0.0);
            let timers = [
                self.bridge.poll_timeout(),
                self.device.core.poll_timeout(self.device.now),
            ];
            let wake = timers
                .into_iter()
                .flatten()
                .map(|at| at.max(self.now + Duration::from_millis(1)));
            let at = next
                .into_iter()
                .chain(wake)
                .min()
                .filter(|at| *at <= end)
                .unwrap_or(end);
            self.device.now.wall_ms += i64::try_from((at - self.now).as_millis()).unwrap();
            self.now = at;
            self.device.now.mono = at;
            if at >= end && next.is_none_or(|next| next > end) {
                return self.drain();
            }
            while self.due.peek().is_some_and(|entry| entry.0.0 <= at) {
                let std::cmp::Reverse((_, _, what)) = self.due.pop().unwrap();
                self.handle(what);
                self.drain();
            }
            self.bridge.handle_timeout(self.bridge_now());
            self.device.core.handle_timeout(self.device.now);
            self.drain();
        }
    }

    fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    fn connect(&mut self) {
        self.device.core.prepare(self.device.now);
        self.drain();
        self.device.link = Link::Up;
        self.device.core.handle_connected(self.device.now);
        self.drain();
    }

    fn post(&mut self, draft: Draft) -> OpNumber {
        let (_, op, _) = self.device.core.post(draft, self.device.now).unwrap();
        self.drain();
        op
    }

    /// Somebody else writes something urgent into a stream, by a way of his own. Returns its place.
    fn urgent_from_elsewhere(&mut self, into: StreamId) -> (StreamId, u64) {
        let tag = SessionTag::new(1).unwrap();
        let hello = wire::Hello {
            epoch: 5,
            device_ms: 1_700_000_000_000,
            ..Default::default()
        };
        let operation = Operation {
            urgent: true,
            ..Operation::text(into, "Turn around, bridge closed")
        };
        let frame = wire::UpFrame {
            stamp: Stamp { tag, seconds: 0 }.to_wire(),
            hello: (self.others == 0).then_some(hello),
            first_op: self.others + 1,
            ops: vec![operation.to_wire()],
            ..Default::default()
        };
        self.others += 1;
        self.bridge
            .handle_up(office(), &frame.encode_to_vec(), self.bridge_now());
        self.drain();
        (into, self.heads[&into])
    }

    fn carried(&self) -> usize {
        self.lanes.values().map(|lane| lane.carried).sum()
    }
}

pub(super) fn put_device(id: DeviceId, of: u32) -> Change {
    Change::PutDevice(Known {
        id,
        name: "truck".to_owned(),
        driver: None,
        labels: Vec::new(),
        secret_hash: [0; 32],
        stream: stream(of),
        app: None,
        last_seen_ms: None,
        revoked: false,
    })
}

pub(super) fn since_ever(device: DeviceId) -> Membership {
    Membership {
        member: Member::Device(device),
        first_seq: 1,
        last_seq: None,
    }
}

fn entry(of: StreamId, seq: u64, number: u64, text: String, urgent: bool) -> Entry {
    Entry {
        stream: of,
        seq: Seq::new(seq).unwrap(),
        id: [0; 16],
        author: Author::Person(PersonId::new(9).unwrap()),
        operation: None,
        accepted: Moment::server(1_699_740_000_000 + i64::try_from(number).unwrap() * 50_000),
        urgent,
        expires_ms: None,
        reply_to: None,
        reply_stream: None,
        supersedes: None,
        superseded_by: None,
        earlier: None,
        body: EntryBody::Text(text),
    }
}

/// So many bytes, and a length between half and one and a half of `around`.
fn words(number: u64, around: usize) -> String {
    let length = around / 2 + usize::try_from(number * 7_919 % 1_009).unwrap() * around / 1_009;
    "Deliver to gate 4, then call. "
        .chars()
        .cycle()
        .take(length)
        .collect()
}

/// The longest but for one in twenty.
fn p95(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 95 / 100]
}

#[test]
fn after_three_days_urgent_entries_come_within_two_round_trips_and_the_rest_costs_little_more_than_itself() {
    let is_urgent = |number: u64| number % 801 == 417;
    let mut world = World::new(25, 5_000, |number| (words(number, 60), is_urgent(number)));
    let urgent: BTreeSet<(StreamId, u64)> = (0..5_000)
        .filter(|number| is_urgent(*number))
        .map(|number| (stream(u32::try_from(number % 25).unwrap() + 1), number / 25 + 1))
        .collect();
    assert_eq!(urgent.len(), 6);
    world.connect();
    world.run_for(2 * ROUND_TRIP);
    let shown: BTreeSet<_> = world.shown.keys().copied().collect();
    assert!(shown.is_superset(&urgent), "{} of {urgent:?}", shown.len());

    while world.shown.len() < 5_000 {
        assert!(
            world.now - world.start < Duration::from_secs(600),
            "{}",
            world.shown.len()
        );
        world.run_for(Duration::from_secs(1));
    }
    world.run_for(Duration::from_secs(5));
    let (carried, frames) = (world.carried() + CONNECTION, world.frames);
    println!(
        "5,000 entries after {:?}: {carried} bytes on the link for {frames} of frames, {:.3}",
        world.now - world.start,
        carried as f64 / frames as f64
    );
    assert!(carried * 100 <= frames * 115, "{carried} for {frames}");
    assert_eq!(
        world.device.core.counters().entries_repeated,
        0,
        "only what is missing travels"
    );
}

#[test]
fn with_megabytes_waiting_both_ways_what_is_urgent_and_quick_replies_wait_for_one_packet_of_it() {
    // Down, the last lane that there is are entries in their order.
    let mut world = World::new(4, 5_000, |number| (words(number, 1_000), false));
    let mut bytes = 0;
    for number in 0.. {
        let fixes = (0..120)
            .map(|second| {
                let at = number * 120 + second;
                let wobble = |of: i64| (at * of % 1_013) as f64 / 1e4;
                Fix::from_degrees(
                    1_699_000_000_000 + at * 1_000,
                    52.0 + wobble(7_919),
                    13.0 + wobble(104_729),
                )
                .unwrap()
            })
            .collect();
        let draft = Draft::track(fixes, TrackKind::Travelled);
        world.device.core.post(draft, world.device.now).unwrap();
        bytes = world.device.core.waiting_bytes();
        if bytes >= 5_000_000 {
            break;
        }
    }
    assert!(bytes >= 5_000_000);
    world.connect();
    world.run_for(Duration::from_secs(60));
    let (mut down, mut up, mut replies) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..40 {
        // At all moments between one packet and the next.
        world.run_for(Duration::from_millis(3_000 + number * 37));
        let from = world.now;
        let place = world.urgent_from_elsewhere(stream(5));
        down.push((place, from));
        world.run_for(Duration::from_millis(1_900));
        let from = world.now;
        up.push((world.post(urgent(stream(ELSEWHERE), "Accident at km 17")), from));
        world.run_for(Duration::from_millis(2_300));
        let from = world.now;
        let reply = Operation::text(stream(ELSEWHERE), "Arrived").to_wire();
        replies.push((world.post(Draft::settled(reply)), from));
    }
    world.run_for(Duration::from_secs(20));
    let waited = |at: Option<&Instant>, from: Instant| *at.expect("it came") - from;
    let of = |posts: &[(OpNumber, Instant)]| -> Vec<Duration> {
        posts
            .iter()
            .map(|(op, from)| waited(world.accepted.get(op), *from))
            .collect()
    };
    let down = p95(down
        .iter()
        .map(|(place, from)| waited(world.shown.get(place), *from))
        .collect());
    let (up, replies) = (p95(of(&up)), p95(of(&replies)));
    let seconds = (world.now - world.start).as_secs_f64();
    let used = |way| world.lanes[&way].carried as f64 / seconds / BYTES_PER_S;
    println!(
        "p95: urgent down {down:?}, urgent up {up:?}, quick reply {replies:?}; the link is used to {:.2} up, {:.2} down",
        used(Way::Up),
        used(Way::Down)
    );
    assert!(world.device.core.waiting_bytes() > 3_000_000, "much still waits");
    assert!(down < Duration::from_secs(2), "urgent, down: {down:?}");
    assert!(up < Duration::from_secs(2), "urgent, up: {up:?}");
    assert!(replies < Duration::from_secs(3), "{replies:?}");
    assert!(used(Way::Up) > 0.7 && used(Way::Down) > 0.7, "the link is used");
}

#[test]
fn a_thinned_history_arrives_true_beside_every_message_and_leaves_no_gap() {
    let mut world = World::new(1, 0, |_| unreachable!("the streams begin empty"));
    world.device.core.config.outbox_ops_max = 96;
    let fix = |second: i64| {
        let turns = (second as f64 / 90.0).sin() / 100.0;
        let at_ms = 1_699_000_000_000 + second * 1_000;
        Fix::from_degrees(at_ms, 52.0 + turns, 13.0 + second as f64 / 1e4).unwrap()
    };
    let mut messages = Vec::new();
    for minute in 0..400 {
        let fixes = (minute * 60..minute * 60 + 60).map(fix).collect();
        world.post(Draft::track(fixes, TrackKind::Travelled));
        if minute % 40 == 7 {
            let text = format!("message {minute}");
            messages.push(world.post(Draft::settled(Operation::text(stream(1), text).to_wire())));
        }
    }
    let counters = world.device.core.counters();
    assert!(
        counters.ops_thinned > 300 && world.device.core.waiting_ops() <= 96,
        "{counters:?}"
    );
    world.connect();
    let waits = |world: &World| world.device.core.waiting_ops() + world.device.core.voids.len();
    while waits(&world) > 0 {
        assert!(
            world.now - world.start < Duration::from_secs(300),
            "{} wait",
            waits(&world)
        );
        world.run_for(Duration::from_secs(1));
    }
    let accepted: Vec<OpNumber> = world.accepted.keys().copied().collect();
    assert_eq!(accepted, messages, "every message is an entry");
    let told = world.store.track(us(), 0, i64::MAX, usize::MAX).unwrap();
    let told: Vec<Fix> = told.into_iter().map(|position| position.fix).collect();
    let second = |fix: &Fix| (fix.at_ms - 1_699_000_000_000) / 1_000;
    assert!(
        told.iter().all(|told| *told == fix(second(told))),
        "every fix is true"
    );
    assert_eq!(
        (second(&told[0]), second(&told[told.len() - 1])),
        (0, 400 * 60 - 1)
    );
    let gone = 400 * 60 - told.len() as u64;
    assert_eq!(gone, counters.fixes_thinned);
    println!(
        "{} of 24,000 fixes left, at most {} m off; {:?} and {} bytes on the link",
        told.len(),
        counters.thinning_error_m,
        world.now - world.start,
        world.carried() + CONNECTION
    );
}
