//! The whole protocol against a small server that is written here from the protocol alone, over a network that loses,
//! duplicates, delays and reorders, with power cuts on the device and restarts of the server. The device is in groups,
//! one of which it talks with, and has a catalogue; both change.
//!
//! What must hold at the end, whatever happened: every stored operation is in the server's log once, in its author's
//! order of stream and class; every entry of the server is in the inbox once, by whichever topic it came; nothing was
//! shown that was not stored, and nothing twice unless its confirmation was lost in a power cut; groups, topics and
//! catalogue are the server's. A failure names its seed.

use super::harness::{Device, Disk, Link, config, stream, text, text_of, urgent};
use super::{Event, PostId, Topics};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use waypost_proto::wire::{self, RefusalReason};
use waypost_proto::{
    Body, ContentDigest, Cumulative, GroupId, Incarnation, Seq, SessionTag, Stamp, StreamId, Topic,
    groups_digest, number_operations, positions_digest,
};

/// The office's, that of group 1, and one that the device is no member of.
const STREAMS: [u32; 3] = [4, 5, 900];
/// The group with the second of these streams; the device stays in it.
const GROUP: u32 = 1;

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

#[derive(Debug, Clone)]
struct LogEntry {
    text: String,
    urgent: bool,
    own: Option<(u64, u64)>,
}

struct ServerSession {
    tag: SessionTag,
    epoch: u64,
    wants_positions: bool,
}

/// The server's side of the protocol, as little as there is to it. Its disk never fails.
#[derive(Default)]
struct Server {
    generation: u64,
    logs: BTreeMap<u32, Vec<LogEntry>>,
    accepted: BTreeMap<u64, Cumulative>,
    digests: BTreeMap<(u64, u64), ContentDigest>,
    positions: BTreeMap<StreamId, Cumulative>,
    session: Option<ServerSession>,
    groups: Vec<wire::Group>,
    /// The version in which each text of template 120 was written; the last is the newest.
    templates: Vec<String>,
    /// What the device last said that it has: digest of the groups, version of the catalogue.
    known: (u32, u32),
    last_told: Option<Instant>,
    /// Topics of the connection.
    topics: Vec<Topic>,
    /// Frames for the group that have not left.
    for_group: Vec<wire::GroupFrame>,
    last_sent: Option<Instant>,
}

impl Server {
    fn handle(&mut self, frame: &wire::UpFrame, now: Instant) -> Vec<wire::DownFrame> {
        let Some(tag) = Stamp::parse(frame.stamp).map(|stamp| stamp.tag) else {
            return Vec::new();
        };
        if frame.hello.is_none() && self.session.as_ref().is_none_or(|session| session.tag != tag) {
            return vec![wire::DownFrame {
                hello_please: true,
                ..Default::default()
            }];
        }
        let mut answer = wire::DownFrame {
            stamp: tag.number(),
            ..Default::default()
        };
        let mut wants_positions = false;
        if let Some(hello) = &frame.hello {
            self.take_cursors(&frame.cursors);
            self.known = (hello.groups_digest, hello.catalogue);
            if hello.groups_digest != groups_digest(&self.groups) {
                answer.groups = Some(self.snapshot());
            }
            let digest = positions_digest(self.positions.iter().map(|(&stream, held)| (stream, held)));
            wants_positions = digest != hello.positions_digest;
            self.session = Some(ServerSession {
                tag,
                epoch: hello.epoch,
                wants_positions,
            });
            answer.welcome = Some(wire::Welcome {
                incarnation: 77,
                generation: self.generation,
                server_ms: 1_700_000_000_000,
                want_positions: wants_positions,
                office_stream: STREAMS[0],
                catalogue: self.version(),
                restored: None,
            });
        }
        if let Some(known) = &frame.known {
            self.known = (known.groups_digest, known.catalogue);
        }
        if let Some(positions) = &frame.positions {
            self.positions.clear();
            self.take_cursors(&positions.cursors);
            answer.cursors.extend(self.echo(&positions.cursors));
            if let Some(session) = &mut self.session {
                session.wants_positions = false;
            }
        }
        let epoch = self.session.as_ref().map_or(0, |session| session.epoch);
        self.apply(epoch, frame, &mut answer);
        self.take_cursors(&frame.cursors);
        answer.cursors.extend(self.echo(&frame.cursors));
        let accepted = self.accepted.entry(epoch).or_default();
        answer.accepted_through = accepted.through();
        answer.accepted_ranges = accepted.to_wire_within(8);
        let mut answers = vec![answer];
        if !wants_positions {
            answers.extend(self.entries_due(now, Duration::from_secs(10)));
        }
        answers
    }

    fn snapshot(&self) -> wire::Groups {
        wire::Groups {
            groups: self.groups.clone(),
        }
    }

    /// The version of the catalogue: each change counts one.
    fn version(&self) -> u32 {
        u32::try_from(self.templates.len()).unwrap()
    }

    fn catalogue(&self, from_version: u32) -> wire::Catalogue {
        let template = wire::Template {
            number: 120,
            key: "late".to_owned(),
            text: self.templates.last().unwrap().clone(),
            ..Default::default()
        };
        wire::Catalogue {
            from_version,
            version: self.version(),
            templates: vec![template],
            locale: "de".to_owned(),
            ..Default::default()
        }
    }

    /// Groups and catalogue, as long as the device has not said that it has them.
    fn known_due(&mut self, now: Instant) -> Option<wire::DownFrame> {
        let session = self.session.as_ref()?;
        if self
            .last_told
            .is_some_and(|last| now < last + Duration::from_secs(10))
        {
            return None;
        }
        let (digest, version) = self.known;
        let mut frame = wire::DownFrame {
            stamp: session.tag.number(),
            ..Default::default()
        };
        frame.groups = (digest != groups_digest(&self.groups)).then(|| self.snapshot());
        frame.catalogue = (version != self.version()).then(|| wire::Catalogue {
            fetch: version == 0,
            ..self.catalogue(version)
        });
        let due = frame.groups.is_some() || frame.catalogue.is_some();
        if due {
            self.last_told = Some(now);
        }
        due.then_some(frame)
    }

    fn apply(&mut self, epoch: u64, frame: &wire::UpFrame, answer: &mut wire::DownFrame) {
        let accepted = self.accepted.entry(epoch).or_default();
        for numbered in number_operations(frame).unwrap() {
            let op = numbered.op.number();
            if accepted.contains(op) {
                match self.digests.get(&(epoch, op)) {
                    Some(digest) if *digest != numbered.digest => answer.forked_op = op,
                    _ => {}
                }
                continue;
            }
            let operation = numbered.content.unwrap();
            let Body::Text(text) = &operation.body else {
                panic!("only texts are posted here")
            };
            if operation.stream == Some(stream(900)) {
                let reason = RefusalReason::NotAMember.into();
                answer.refusals.push(wire::Refusal { op, reason });
                continue;
            }
            accepted.insert(op);
            self.digests.insert((epoch, op), numbered.digest);
            let entry = LogEntry {
                text: text.clone(),
                urgent: operation.urgent,
                own: Some((epoch, op)),
            };
            write(
                &mut self.logs,
                &mut self.for_group,
                self.generation,
                operation.stream.unwrap().number(),
                entry,
            );
        }
        for void in &frame.voids {
            accepted.insert_range(void.first_op, void.first_op + u64::from(void.count) - 1);
        }
    }

    fn take_cursors(&mut self, cursors: &[wire::Cursor]) {
        for cursor in cursors {
            let held = Cumulative::from_wire(cursor.delivered, &cursor.ranges).unwrap();
            let log = self.logs.get(&cursor.stream).map_or(0, Vec::len) as u64;
            assert!(held.highest() <= log, "nobody holds what was never written");
            self.positions
                .entry(stream(cursor.stream))
                .or_default()
                .merge(&held);
        }
    }

    fn echo(&self, cursors: &[wire::Cursor]) -> Vec<wire::Cursor> {
        let echo = |cursor: &wire::Cursor| {
            let held = &self.positions[&stream(cursor.stream)];
            wire::Cursor {
                stream: cursor.stream,
                delivered: held.through(),
                ranges: held.to_wire(),
                read: cursor.read,
                ..Default::default()
            }
        };
        cursors.iter().map(echo).collect()
    }

    /// Entries above the transfer positions, at most ten of a stream, repeated after `pause`.
    fn entries_due(&mut self, now: Instant, pause: Duration) -> Vec<wire::DownFrame> {
        let Some(session) = self.session.as_ref().filter(|session| !session.wants_positions) else {
            return Vec::new();
        };
        if self.last_sent.is_some_and(|last| now < last + pause) {
            return Vec::new();
        }
        let mut frames = Vec::new();
        for (&number, log) in &self.logs {
            let held = self.positions.get(&stream(number)).cloned().unwrap_or_default();
            let missing = (1..=log.len() as u64).filter(|&seq| !held.contains(seq)).take(10);
            for seq in missing {
                let entry = &log[usize::try_from(seq - 1).unwrap()];
                let wire_entry = match entry.own {
                    Some((epoch, op)) if epoch == session.epoch => wire::Entry {
                        own_op: op,
                        ..Default::default()
                    },
                    _ => entry.in_full(),
                };
                let run = wire::EntryRun {
                    stream: number,
                    first_seq: seq,
                    entries: vec![wire_entry],
                    ..Default::default()
                };
                frames.push(wire::DownFrame {
                    stamp: session.tag.number(),
                    entries: vec![run],
                    ..Default::default()
                });
            }
        }
        if !frames.is_empty() {
            self.last_sent = Some(now);
        }
        frames
    }
}

impl LogEntry {
    fn in_full(&self) -> wire::Entry {
        wire::Entry {
            author_device: self.own.map_or(0, |_| super::harness::device_id().number()),
            author_op: self.own.map_or(0, |(_, op)| op),
            author_person: self.own.map_or(9, |_| 0),
            urgent: self.urgent,
            body: Some(wire::entry::Body::Text(self.text.clone())),
            ..Default::default()
        }
    }
}

/// An entry is written; that of a group leaves once for all who listen.
fn write(
    logs: &mut BTreeMap<u32, Vec<LogEntry>>,
    for_group: &mut Vec<wire::GroupFrame>,
    generation: u64,
    stream: u32,
    entry: LogEntry,
) {
    let log = logs.entry(stream).or_default();
    if stream == STREAMS[1] {
        let run = wire::EntryRun {
            stream,
            first_seq: log.len() as u64 + 1,
            entries: vec![entry.in_full()],
            ..Default::default()
        };
        for_group.push(wire::GroupFrame {
            generation,
            store: 77,
            entries: vec![run],
            ..Default::default()
        });
    }
    log.push(entry);
}

/// What is on its way to the device.
#[derive(Debug, Clone)]
enum Down {
    Frame(Box<wire::DownFrame>),
    Group(wire::GroupFrame),
    Catalogue(wire::Catalogue),
}

/// Frames on their way, each with the moment of its arrival.
#[derive(Default)]
struct Network {
    up: Vec<(Instant, wire::UpFrame)>,
    down: Vec<(Instant, Down)>,
}

struct World {
    seed: u64,
    random: Random,
    device: Device,
    server: Server,
    network: Network,
    weather: Weather,
    /// What the device stored, in its order, by stream and class.
    stored: BTreeMap<(u32, bool), Vec<String>>,
    /// Handed to the core, not yet on disk.
    unstored: VecDeque<(super::Ticket, u32, bool, String, PostId)>,
    settled: BTreeSet<PostId>,
    /// Shown to a screen of this process, in order.
    shown: Vec<(StreamId, Seq)>,
    /// Shown to a screen of any process.
    ever_shown: BTreeSet<(StreamId, Seq)>,
    /// Confirmed for good: must never be shown again.
    confirmed: BTreeSet<(StreamId, Seq)>,
    confirming: VecDeque<(Option<super::Ticket>, StreamId, Seq)>,
    posts: u64,
    restarts: u64,
    /// Entries that were new when they came on the group's topic.
    from_group: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Foul,
    Fair,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut server = Server {
            generation: 1,
            ..Server::default()
        };
        server.logs.insert(STREAMS[0], Vec::new());
        server.groups = vec![group(GROUP, 0)];
        server.templates = vec!["first".to_owned()];
        Self {
            seed,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            device: Device::new(),
            server,
            network: Network::default(),
            weather: Weather::Foul,
            stored: BTreeMap::new(),
            unstored: VecDeque::new(),
            settled: BTreeSet::new(),
            shown: Vec::new(),
            ever_shown: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            confirming: VecDeque::new(),
            posts: 0,
            restarts: 0,
            from_group: 0,
        }
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0..=7 => self.post(),
            8..=12 => self.write_on_the_server(),
            13 if self.weather == Weather::Foul => self.disconnect(),
            14..=17 if self.device.link == Link::Down => self.device.connect(),
            18 if self.random.one_in(6) => self.restart_device(),
            19 if self.random.one_in(10) => {
                self.server.session = None;
                self.server.generation += 1;
            }
            20..=23 => {
                self.device.disk = if self.random.one_in(3) {
                    Disk::Stuck
                } else {
                    Disk::Quick
                };
                self.device.sync();
            }
            24..=27 => self.confirm_one(),
            28 if self.random.one_in(4) => self.change_groups(),
            29 if self.random.one_in(4) => {
                let text = format!("text {}", self.server.templates.len());
                self.server.templates.push(text);
            }
            _ => {}
        }
        let pause = if self.random.one_in(20) { 20_000 } else { 400 };
        let pause = Duration::from_millis(self.random.below(pause));
        self.pass(pause);
    }

    fn pass(&mut self, duration: Duration) {
        self.device.pass(duration);
        self.collect();
        for frame in self
            .server
            .entries_due(self.device.now.mono, Duration::from_secs(10))
        {
            self.send_down(Down::Frame(Box::new(frame)));
        }
        if let Some(frame) = self.server.known_due(self.device.now.mono) {
            self.send_down(Down::Frame(Box::new(frame)));
        }
        self.send_to_group();
        self.deliver();
        self.collect();
    }

    fn post(&mut self) {
        self.posts += 1;
        let number = STREAMS[usize::try_from(self.random.below(3)).unwrap()];
        let number = if number == 900 && !self.random.one_in(4) {
            STREAMS[0]
        } else {
            number
        };
        let is_urgent = self.random.one_in(5);
        let words = format!(
            "{number} {} {}",
            self.posts,
            "x".repeat(self.random.below(300) as usize)
        );
        let draft = if is_urgent {
            urgent(stream(number), &words)
        } else {
            text(stream(number), &words)
        };
        let (id, _, ticket) = self.device.core.post(draft, self.device.now).unwrap();
        self.unstored.push_back((ticket, number, is_urgent, words, id));
        self.device.settle();
        self.collect();
    }

    fn write_on_the_server(&mut self) {
        let number = STREAMS[usize::try_from(self.random.below(2)).unwrap()];
        let length = self.server.logs.get(&number).map_or(0, Vec::len);
        let entry = LogEntry {
            text: format!("office {number} {length}"),
            urgent: self.random.one_in(6),
            own: None,
        };
        let Server {
            logs,
            for_group,
            generation,
            ..
        } = &mut self.server;
        write(logs, for_group, *generation, number, entry);
    }

    /// The group gets another title, or the device joins or leaves a second one.
    fn change_groups(&mut self) {
        let title = self.random.below(1_000);
        self.server.groups = vec![group(GROUP, title)];
        if self.random.one_in(2) {
            self.server.groups.push(group(2, title));
        }
    }

    /// What is for the group leaves, where this connection has subscribed its topic.
    fn send_to_group(&mut self) {
        let listens = self.server.topics.contains(&group_topic(GROUP));
        for frame in std::mem::take(&mut self.server.for_group) {
            if listens && self.device.link == Link::Up {
                self.send_down(Down::Group(frame));
            }
        }
    }

    /// The broker does at once what the device asks of it.
    fn take_topics(&mut self) {
        for Topics {
            subscribe,
            unsubscribe,
        } in std::mem::take(&mut self.device.topics)
        {
            self.server.topics.retain(|topic| !unsubscribe.contains(topic));
            for topic in subscribe {
                if matches!(topic, Topic::Templates(_)) {
                    self.send_down(Down::Catalogue(self.server.catalogue(0)));
                }
                if !self.server.topics.contains(&topic) {
                    self.server.topics.push(topic);
                }
            }
        }
    }

    fn disconnect(&mut self) {
        self.device.disconnect();
        // A broker may still hold what was sent, but a new connection is not given frames of the old one.
        self.network.down.clear();
        self.device.topics.clear();
        self.server.topics.clear();
    }

    fn restart_device(&mut self) {
        self.restarts += 1;
        let plate = self.device.plate.clone();
        let now = self.device.now;
        self.collect();
        self.unstored.clear();
        self.confirming.clear();
        self.shown.clear();
        self.network.down.clear();
        self.server.topics.clear();
        self.device = Device::at(plate, 999, now, config());
        self.device.settle();
        self.collect();
    }

    fn confirm_one(&mut self) {
        let unconfirmed = self
            .shown
            .iter()
            .filter(|entry| !self.confirmed.contains(entry))
            .copied()
            .collect::<Vec<_>>();
        let waiting: BTreeSet<_> = self
            .confirming
            .iter()
            .map(|&(_, stream, seq)| (stream, seq))
            .collect();
        for (stream, seq) in unconfirmed
            .into_iter()
            .filter(|entry| !waiting.contains(entry))
            .take(8)
        {
            let ticket = if self.random.one_in(3) {
                self.device.core.mark_read(stream, seq, self.device.now);
                // Reading is bounded by gaps, so the confirmation of this one is asked for by itself.
                self.device.core.mark_shown(stream, seq, self.device.now)
            } else {
                self.device.core.mark_shown(stream, seq, self.device.now)
            };
            self.confirming.push_back((ticket, stream, seq));
        }
        self.device.settle();
        self.collect();
    }

    /// Takes what the device has put out.
    fn collect(&mut self) {
        self.take_topics();
        for (frame, _) in std::mem::take(&mut self.device.frames) {
            self.send_up(frame);
        }
        let durable: BTreeSet<_> = std::mem::take(&mut self.device.durable).into_iter().collect();
        let last = durable.last().copied();
        while self
            .unstored
            .front()
            .is_some_and(|(ticket, ..)| Some(*ticket) <= last)
        {
            let (_, number, is_urgent, words, _) = self.unstored.pop_front().unwrap();
            self.stored.entry((number, is_urgent)).or_default().push(words);
        }
        let is_durable = |ticket: Option<super::Ticket>| ticket.is_none() || ticket <= last;
        while self
            .confirming
            .front()
            .is_some_and(|&(ticket, ..)| is_durable(ticket))
        {
            let (_, stream, seq) = self.confirming.pop_front().unwrap();
            self.confirmed.insert((stream, seq));
        }
        for event in std::mem::take(&mut self.device.events) {
            if let Event::Accepted { id, .. } | Event::Refused { id, .. } = event {
                assert!(
                    self.settled.insert(id),
                    "seed {}: an operation is settled once",
                    self.seed
                );
            }
        }
        for entry in std::mem::take(&mut self.device.shown) {
            let place = (entry.stream, entry.seq);
            assert!(
                !self.confirmed.contains(&place),
                "seed {}: {place:?} is shown after it was confirmed",
                self.seed
            );
            assert!(
                !self.shown.contains(&place),
                "seed {}: {place:?} is shown twice",
                self.seed
            );
            let logged =
                &self.server.logs[&entry.stream.number()][usize::try_from(entry.seq.number() - 1).unwrap()];
            assert_eq!(text_of(&entry), logged.text, "seed {}", self.seed);
            let overtaken = self
                .shown
                .iter()
                .any(|&(of, seq)| of == entry.stream && seq > entry.seq);
            let urgent_before = |&(of, seq): &(StreamId, Seq)| {
                of == entry.stream
                    && seq > entry.seq
                    && !self.server.logs[&of.number()][usize::try_from(seq.number() - 1).unwrap()].urgent
            };
            assert!(
                !overtaken || !self.shown.iter().any(urgent_before),
                "seed {}: {place:?} is shown after a later ordinary one",
                self.seed
            );
            self.shown.push(place);
            self.ever_shown.insert(place);
        }
    }

    fn send_up(&mut self, frame: wire::UpFrame) {
        for at in self.arrivals() {
            self.network.up.push((at, frame.clone()));
        }
    }

    fn send_down(&mut self, frame: Down) {
        for at in self.arrivals() {
            self.network.down.push((at, frame.clone()));
        }
    }

    /// When copies of a frame arrive: none, one or two of them.
    fn arrivals(&mut self) -> Vec<Instant> {
        let copies = match (self.weather, self.random.below(10)) {
            (Weather::Fair, _) => 1,
            (Weather::Foul, 0 | 1) => 0,
            (Weather::Foul, 2) => 2,
            (Weather::Foul, _) => 1,
        };
        let delay = if self.weather == Weather::Foul { 3_000 } else { 50 };
        (0..copies)
            .map(|_| self.device.now.mono + Duration::from_millis(self.random.below(delay)))
            .collect()
    }

    fn deliver(&mut self) {
        let now = self.device.now.mono;
        loop {
            let up = self.network.up.iter().position(|(at, _)| *at <= now);
            let down = self.network.down.iter().position(|(at, _)| *at <= now);
            match (up, down) {
                (Some(index), _) => {
                    let (_, frame) = self.network.up.swap_remove(index);
                    for answer in self.server.handle(&frame, now) {
                        self.send_down(Down::Frame(Box::new(answer)));
                    }
                    self.send_to_group();
                }
                (None, Some(index)) => {
                    let (_, frame) = self.network.down.swap_remove(index);
                    if self.device.link == Link::Up {
                        match &frame {
                            Down::Frame(frame) => self.device.receive(frame),
                            Down::Group(frame) => {
                                let before = self.device.core.counters().entries_stored;
                                self.device.receive_group(GROUP, frame);
                                self.from_group += self.device.core.counters().entries_stored - before;
                            }
                            Down::Catalogue(catalogue) => self.device.receive_catalogue("de", catalogue),
                        }
                        self.collect();
                    }
                }
                (None, None) => return,
            }
        }
    }

    /// Fair weather until nothing moves any more, then everything is compared.
    fn finish(mut self) -> Summary {
        self.weather = Weather::Fair;
        self.device.disk = Disk::Quick;
        self.device.sync();
        for _ in 0..4_000 {
            if self.device.link == Link::Down {
                self.device.connect();
            }
            self.pass(Duration::from_millis(500));
            self.confirm_one();
            let heads_are_held = self.server.logs.iter().all(|(&number, log)| {
                let held = self
                    .server
                    .positions
                    .get(&stream(number))
                    .map_or(0, Cumulative::through);
                held == log.len() as u64
            });
            let is_known = self.server.known == (groups_digest(&self.server.groups), self.server.version());
            if heads_are_held
                && is_known
                && self.device.core.waiting_ops() == 0
                && self.device.core.unshown() == 0
            {
                return self.compare();
            }
        }
        panic!(
            "seed {}: not in step after fair weather: {} wait, {} unshown, positions {:?}, heads {:?}",
            self.seed,
            self.device.core.waiting_ops(),
            self.device.core.unshown(),
            self.server.positions,
            self.server
                .logs
                .iter()
                .map(|(number, log)| (*number, log.len()))
                .collect::<Vec<_>>(),
        );
    }

    fn compare(self) -> Summary {
        let seed = self.seed;
        for (&(number, is_urgent), stored) in self.stored.iter().filter(|((number, _), _)| *number != 900) {
            let own = |entry: &&LogEntry| entry.own.is_some() && entry.urgent == is_urgent;
            let logged: Vec<&String> = self.server.logs[&number]
                .iter()
                .filter(own)
                .map(|entry| &entry.text)
                .collect();
            assert_eq!(
                logged,
                stored.iter().collect::<Vec<_>>(),
                "seed {seed}: stream {number}, urgent {is_urgent}"
            );
        }
        let refused = self.stored.iter().filter(|((number, _), _)| *number == 900);
        let refused: usize = refused.map(|(_, stored)| stored.len()).sum();
        assert_eq!(
            self.device.core.parked().len(),
            refused,
            "seed {seed}: each refusal is there to be seen"
        );
        let groups = crate::Group::all_to_wire(self.device.core.groups()).groups;
        assert_eq!(groups, self.server.groups, "seed {seed}");
        let subscribed: BTreeSet<String> = self.server.topics.iter().map(Topic::to_string).collect();
        let wanted = groups.iter().map(|group| group_topic(group.group).to_string());
        assert_eq!(
            subscribed,
            wanted.collect(),
            "seed {seed}: its groups' topics and no other"
        );
        let template = self.device.core.catalogue().templates.remove(0);
        assert_eq!(Some(&template.text), self.server.templates.last(), "seed {seed}");
        let incarnation = Incarnation::new(77).unwrap();
        let mut entries = 0;
        for (&number, log) in &self.server.logs {
            let inbox = self
                .device
                .store
                .history(incarnation, stream(number), None, usize::MAX)
                .unwrap();
            let texts: Vec<String> = inbox.iter().map(text_of).collect();
            assert_eq!(
                texts,
                log.iter().map(|entry| entry.text.clone()).collect::<Vec<_>>(),
                "seed {seed}"
            );
            entries += log.len();
        }
        assert_eq!(
            self.ever_shown.len(),
            entries,
            "seed {seed}: every entry was shown"
        );
        Summary {
            operations: self.stored.values().map(Vec::len).sum(),
            entries,
            repeated: self.device.core.counters().ops_repeated,
            from_group: self.from_group,
            restarts: self.restarts,
        }
    }
}

struct Summary {
    operations: usize,
    entries: usize,
    repeated: u64,
    from_group: u64,
    restarts: u64,
}

fn group(number: u32, title: u64) -> wire::Group {
    wire::Group {
        group: number,
        stream: STREAMS[1] + number - GROUP,
        title: format!("title {title}"),
    }
}

fn group_topic(number: u32) -> Topic {
    Topic::Group(GroupId::new(number).unwrap())
}

fn run(seed: u64, steps: u32) -> Summary {
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.step();
    }
    world.finish()
}

#[test]
fn every_operation_is_accepted_once_in_order_and_every_entry_shown_once() {
    let (mut operations, mut entries, mut repeated, mut restarts, mut from_group) = (0, 0, 0, 0, 0);
    for seed in 1..=60 {
        let summary = run(seed, 400);
        operations += summary.operations;
        entries += summary.entries;
        repeated += summary.repeated;
        restarts += summary.restarts;
        from_group += summary.from_group;
    }
    println!(
        "{operations} operations, {entries} entries compared, {from_group} of them from the group's topic; {repeated} repetitions, {restarts} power cuts"
    );
    assert!(operations > 2_000 && entries > 4_000, "{operations} {entries}");
    assert!(from_group > 100, "the group's topic was used: {from_group}");
    assert!(
        repeated > 100 && restarts > 50,
        "the weather was foul: {repeated} {restarts}"
    );
}

/// The server took a delayed copy of an old hello for the latest one, and neither side had anything to send that would
/// have told the other.
#[test]
fn an_old_hello_that_comes_late_leaves_nobody_behind() {
    run(215, 400);
}
