//! Sessions: from a device's hello to the next one, or to the end of its connection.

use super::dispute::{Dispute, Outbox, Trust, listed};
use super::down::Item;
use super::horizon::Horizon;
use super::pages::Paging;
use super::unhurried::{Haste, Owed};
use super::{Core, Effect, Now};
use crate::device::{Device, Presence};
use crate::event::EventKind;
use crate::store::Change;
use crate::stream::{Member, StreamKind};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use waypost_proto::{
    Author, Cumulative, DeviceId, Epoch, Incarnation, OpNumber, SessionTag, Stamp, StreamId, Window,
    positions_digest, wire,
};

/// A language tag is no longer than this.
const LOCALE_CHARS_MAX: usize = 35;
/// In so many streams a device may keep what a restored store has as well; of others it gets everything anew.
const RESTORED_HEADS_MAX: usize = 1_000;
/// A device is asked for a hello at most this often.
const HELLO_PLEASE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Session {
    pub(super) tag: SessionTag,
    pub(super) epoch: Epoch,
    /// The device's wall clock at the hello: the base of its relative times.
    pub(super) hello_ms: i64,
    /// The device's steady clock at the hello.
    pub(super) hello_steady_ms: i64,
    /// The server's wall clock when the hello arrived.
    pub(super) welcome_ms: i64,
    /// The same moment by the clock that is not set.
    began: Instant,
    /// When the device was last told what time it is.
    pub(super) time_told: Instant,
    pub(super) phase: Phase,
    /// The store that the device knows, where it is another one.
    pub(super) of_store: Option<Incarnation>,

    // What the next frame has to say.
    pub(super) welcome: Welcome,
    /// The language of the driver, as the hello said.
    pub(super) locale: String,
    /// The digest of its groups. Where the device knows it, it listens on the topics of all of them.
    pub(super) groups: Compared,
    /// The version of the catalogue.
    pub(super) catalogue: Compared,
    pub(super) ack_due: bool,
    /// How soon what is taken now is acknowledged.
    pub(super) haste: Haste,
    /// Acknowledgements that may wait.
    pub(super) owed: Owed,
    pub(super) echoes: BTreeSet<StreamId>,
    pub(super) refusals: Vec<wire::Refusal>,
    pub(super) forked_op: Option<OpNumber>,
    pub(super) dispute: Dispute,

    // The entries under way.
    pub(super) window: Window,
    pub(super) flows: BTreeMap<StreamId, Flow>,
    pub(super) under_way: BTreeMap<(StreamId, u64), UnderWay>,
    pub(super) under_way_bytes: usize,
    pub(super) fetching: bool,
    /// `None` before the session is open.
    pub(super) horizon: Option<Horizon>,
    pub(super) pages: Paging,
    /// What was fetched for the next frames; empty while nothing is fetched.
    pub(super) gathered: Vec<Item>,
    /// Urgent entries that were told to be sent ahead of others.
    pub(super) told_sent: BTreeSet<(StreamId, u64)>,
    /// When groups or catalogue were last told, where the device has not said that it knows them.
    pub(super) small_said: Option<Instant>,
    pub(super) round_trip: Duration,
    pub(super) named: BTreeSet<Author>,
    pub(super) repeat_at: Option<Instant>,
    pub(super) repeat_after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The hello is not on disk yet, or the device was asked for its positions.
    Opening {
        wants_positions: bool,
    },
    Open,
    /// The outbox is a clone: nothing of it is taken until a hello with another epoch.
    Forked,
}

/// The answer to the hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Welcome {
    /// The hello is not on disk yet; the device is told nothing.
    Awaited,
    /// It goes with the next frame.
    Due,
    Said,
}

/// A small thing that the device has to know, as the device and as the server has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compared {
    pub(super) known: u32,
    pub(super) actual: u32,
    /// The next frame tells of it.
    pub(super) due: bool,
}

impl Compared {
    /// What a hello says counts for the truth until the device may be told otherwise.
    fn new(known: u32) -> Self {
        Self {
            known,
            actual: known,
            due: false,
        }
    }

    pub(super) fn differs(self) -> bool {
        self.known != self.actual
    }

    /// It is so now.
    pub(super) fn set(&mut self, actual: u32) {
        self.actual = actual;
        self.due = self.differs();
    }

    /// The device says that it knows this.
    pub(super) fn hear(&mut self, known: u32) {
        self.known = known;
        self.due &= self.differs();
    }

    /// The device has not said for a while that it knows.
    pub(super) fn repeat(&mut self) {
        self.due = self.differs();
    }
}

/// How far a stream was sent in this session.
#[derive(Debug, Clone, Default)]
pub(super) struct Flow {
    pub(super) sent_through: u64,
    /// Urgent entries that were sent ahead of what comes before them.
    pub(super) ahead: BTreeSet<u64>,
    /// Up to here an answer may be one to what was sent before: it says nothing about the round trip.
    pub(super) repeated_through: u64,
}

/// One entry on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnderWay {
    pub(super) bytes: usize,
    pub(super) sent: Instant,
    /// Whether the device has said that it holds it; the bytes are free once that is on disk.
    pub(super) is_held: bool,
    /// Written by the receiver itself: nobody waits for its receipt.
    pub(super) own: bool,
}

impl Session {
    /// The stamp of a frame to the device that tells it how long ago its hello arrived.
    pub(super) fn stamp(&self, now: Now) -> Stamp {
        let since = now.monotonic.saturating_duration_since(self.began) + Duration::from_millis(500);
        Stamp {
            tag: self.tag,
            seconds: u32::try_from(since.as_secs()).unwrap_or(u32::MAX),
        }
    }

    /// A moment of the device's clock: seconds after the hello, less an age.
    pub(super) fn device_ms(&self, stamp: Stamp, age_s: u32) -> i64 {
        self.hello_ms
            .saturating_add((i64::from(stamp.seconds) - i64::from(age_s)) * 1_000)
    }

    /// The same moment by the device's steady clock.
    pub(super) fn steady_ms(&self, stamp: Stamp, age_s: u32) -> i64 {
        let since_hello_ms = (i64::from(stamp.seconds) - i64::from(age_s)) * 1_000;
        self.hello_steady_ms.saturating_add(since_hello_ms)
    }

    /// The hello is on disk.
    pub(super) fn welcome(&mut self) {
        self.welcome = Welcome::Due;
        self.ack_due = true;
        if self.phase
            == (Phase::Opening {
                wants_positions: false,
            })
        {
            self.phase = Phase::Open;
        }
    }

    /// The positions that were asked for are on disk.
    pub(super) fn open(&mut self) {
        if matches!(self.phase, Phase::Opening { .. }) {
            self.phase = Phase::Open;
        }
    }

    /// The device goes on as if its outbox were not forked: that it is was told and got lost.
    pub(super) fn repeat_fork(&mut self) {
        if self.welcome == Welcome::Said {
            self.forked_op = self.dispute.first_open();
        }
    }

    /// Everything unacknowledged has to go again.
    pub(super) fn rewind(&mut self) {
        let streams: BTreeSet<StreamId> = self.flows.keys().copied().collect();
        for stream in streams {
            self.rewind_stream(stream);
        }
    }

    /// What was sent at `before` or earlier and is unacknowledged has to go again, with what followed it in its stream.
    pub(super) fn rewind_sent_before(&mut self, before: Instant) {
        let overdue = self.under_way.iter().filter(|(_, entry)| entry.sent <= before);
        let streams: BTreeSet<StreamId> = overdue.map(|(&(stream, _), _)| stream).collect();
        for stream in streams {
            self.rewind_stream(stream);
        }
    }

    fn rewind_stream(&mut self, stream: StreamId) {
        let (bytes, mut repeated_through) = (&mut self.under_way_bytes, 0);
        self.under_way.retain(|&(of, seq), entry| {
            if of == stream {
                *bytes -= entry.bytes;
                repeated_through = seq.max(repeated_through);
            }
            of != stream
        });
        let flow = self.flows.entry(stream).or_default();
        *flow = Flow {
            repeated_through: flow.repeated_through.max(repeated_through),
            ..Flow::default()
        };
    }

    /// The device holds these entries: how long that took says how much the link bears.
    pub(super) fn measure(&mut self, stream: StreamId, held: &Cumulative, now: Instant) {
        let repeated_through = self.flows.get(&stream).map_or(0, |flow| flow.repeated_through);
        let (mut bytes, mut latest) = (0, None);
        let of_stream = self.under_way.range_mut((stream, 0)..=(stream, u64::MAX));
        for (&(_, seq), entry) in of_stream {
            if entry.is_held || !held.contains(seq) {
                continue;
            }
            entry.is_held = true;
            bytes += entry.bytes;
            if seq > repeated_through {
                latest = latest.max(Some(entry.sent));
            }
        }
        if let Some(sent) = latest {
            self.round_trip = now.saturating_duration_since(sent);
            self.window
                .handle_acknowledged(bytes, self.under_way_bytes, sent, now);
        }
    }

    /// When what has no answer goes again; `None` where everything has one.
    pub(super) fn repetition_due(&self, repeat_max: Duration) -> Option<Instant> {
        let interval = self.repeat_interval(repeat_max);
        let entries = self.under_way.values().filter(|entry| !entry.is_held);
        let small = self
            .small_said
            .filter(|_| self.groups.differs() || self.catalogue.differs());
        let oldest = entries.map(|entry| entry.sent).chain(small).min();
        oldest.map(|oldest| oldest + interval)
    }

    /// At least three round trips.
    pub(super) fn repeat_interval(&self, repeat_max: Duration) -> Duration {
        self.repeat_after.max((self.round_trip * 3).min(repeat_max))
    }

    /// Entries that the device now holds are no longer under way.
    pub(super) fn confirm(&mut self, stream: StreamId, held: &Cumulative) {
        if let Some(flow) = self.flows.get_mut(&stream) {
            flow.ahead.retain(|&seq| !held.contains(seq));
        }
        let bytes = &mut self.under_way_bytes;
        self.under_way.retain(|&(of, seq), entry| {
            let held = of == stream && held.contains(seq);
            if held {
                *bytes -= entry.bytes;
            }
            !held
        });
    }
}

impl Core {
    /// A message on `p/<device>`.
    pub fn handle_presence(&mut self, device: DeviceId, payload: &[u8], now: Now) {
        let Ok(presence) = wire::Presence::decode(payload) else {
            metrics::counter!("waypost_bridge_ignored_total", "reason" => "unreadable_presence").increment(1);
            return;
        };
        if presence.online {
            self.announced.insert(device, presence.tag);
            let known = self.devices.get(&device).is_some_and(|known| !known.revoked);
            let missed = self.sessions.get(&device).is_none_or(|session| {
                SessionTag::new(presence.tag).is_some_and(|tag| tag.is_after(session.tag))
            });
            if known && missed {
                // Its hello came while no bridge heard: a broker elsewhere kept the connection. A device that has nothing to
                // say would not be told what waits for it.
                self.ask_for_hello(device, now);
            }
            return;
        }
        // A will is fixed when the connection is made; the session may have moved on by a hello since.
        let announced = self.announced.get(&device).copied();
        let ends = self
            .sessions
            .get(&device)
            .is_some_and(|session| announced.unwrap_or(session.tag.number()) == presence.tag);
        if ends {
            self.handle_disconnected(device, now);
        }
    }

    /// The device's connection ended, or so it is said: if it did not, its next frame is answered by asking for a hello.
    pub fn handle_disconnected(&mut self, device: DeviceId, now: Now) {
        if self.end_session(device) {
            self.put_presence(
                device,
                Presence::Offline {
                    since_ms: now.wall_ms,
                },
            );
            self.log_event(EventKind::DeviceOffline(device), now);
            self.put_clock(device);
            self.commit();
        }
    }

    /// Whether there was one.
    pub(super) fn end_session(&mut self, device: DeviceId) -> bool {
        self.owe_nothing(device);
        let Some(session) = self.sessions.remove(&device) else {
            return false;
        };
        if let Some(at) = session.repeat_at {
            self.timers.remove(&(at, device));
        }
        true
    }

    /// Opens the session that a hello asks for; `None` where the hello cannot be one.
    pub(super) fn handle_hello(
        &mut self,
        device: DeviceId,
        tag: SessionTag,
        hello: &wire::Hello,
        cursors: &[wire::Cursor],
        now: Now,
    ) -> Option<()> {
        let epoch = Epoch::new(hello.epoch)?;
        let hello_ms = i64::try_from(hello.device_ms).ok()?;
        let repeated = self.sessions.get(&device).is_some_and(|session| {
            session.tag == tag && session.epoch == epoch && session.hello_ms == hello_ms
        });
        if repeated {
            // The broker delivered it twice; the welcome of the first may have been lost with it.
            self.in_session(device, tag, |session| {
                if session.welcome == Welcome::Said && session.phase != Phase::Forked {
                    session.welcome = Welcome::Due;
                }
            });
            return Some(());
        }
        let late = self.sessions.get(&device).is_some_and(|session| {
            session.epoch == epoch && session.tag.is_after(tag) && hello_ms < session.hello_ms
        });
        if late {
            // A copy of a hello of before that the broker delivered late: its session is over.
            metrics::counter!("waypost_bridge_ignored_total", "reason" => "late_hello").increment(1);
            return Some(());
        }
        self.end_session(device);
        let before = self.outboxes.get(&(device, epoch)).copied();
        let (outbox, is_news) = Outbox::greeted(before, tag);
        self.outboxes.insert((device, epoch), outbox);
        let (listed, trust) = listed(hello);
        let trust = if outbox.is_doubled() {
            Trust::Session
        } else {
            trust
        };
        if is_news {
            self.log_event(EventKind::DeviceForked(device), now);
        }
        let of_store = self.other_store(hello);
        let other_store = of_store.is_some();
        // The device's digest covers what it reports beside it, which is about the entries of the store that it knows.
        let mut transfers = self.transfers.get(&(device, epoch)).cloned().unwrap_or_default();
        for cursor in cursors.iter().filter(|_| !other_store) {
            if let Some((stream, held)) = self.reported(device, cursor) {
                transfers.entry(stream).or_default().merge(&held);
            }
        }
        let digest = positions_digest(transfers.iter().map(|(stream, held)| (*stream, held)));
        let wants_positions = digest != hello.positions_digest || (other_store && digest != 0);
        let session = Session {
            tag,
            epoch,
            hello_ms,
            hello_steady_ms: i64::try_from(hello.uptime_ms).ok()?,
            welcome_ms: now.wall_ms,
            began: now.monotonic,
            time_told: now.monotonic,
            phase: Phase::Opening { wants_positions },
            of_store,
            welcome: Welcome::Awaited,
            locale: hello.locale.chars().take(LOCALE_CHARS_MAX).collect(),
            groups: Compared::new(hello.groups_digest),
            catalogue: Compared::new(hello.catalogue),
            ack_due: false,
            haste: Haste::Now,
            owed: Owed::default(),
            echoes: BTreeSet::new(),
            refusals: Vec::new(),
            forked_op: None,
            dispute: Dispute::new(trust),
            window: Window::new(self.options.frame_bytes, self.options.window_bytes),
            flows: BTreeMap::new(),
            under_way: BTreeMap::new(),
            under_way_bytes: 0,
            fetching: false,
            horizon: None,
            pages: Paging::default(),
            gathered: Vec::new(),
            told_sent: BTreeSet::new(),
            small_said: None,
            round_trip: Duration::ZERO,
            named: BTreeSet::new(),
            repeat_at: None,
            repeat_after: self.options.repeat_min,
        };
        self.sessions.insert(device, session);
        self.compare_listed(device, tag, epoch, listed);
        let known = self.newest_device(device)?.clone();
        let app = (!hello.app.is_empty()).then(|| hello.app.chars().take(64).collect());
        let changed = Device {
            app: app.or(known.app.clone()),
            last_seen_ms: Some(now.wall_ms),
            ..known
        };
        self.changes.push(Change::PutDevice(changed.clone()));
        self.effects.push(Effect::Device(changed));
        self.hear_hello(device, hello, now);
        let was_online = matches!(self.presence.get(&device), Some(Presence::Online { .. }));
        if !was_online {
            self.put_presence(
                device,
                Presence::Online {
                    since_ms: now.wall_ms,
                },
            );
            self.log_event(EventKind::DeviceOnline(device), now);
        }
        self.effects.push(Effect::Welcome { device, tag });
        Some(())
    }

    /// The store that a hello speaks of, where it is not this one.
    pub(super) fn other_store(&self, hello: &wire::Hello) -> Option<Incarnation> {
        Incarnation::new(hello.incarnation).filter(|&named| named != self.incarnation)
    }

    /// What a device that knows the store `of` may keep of it; `None` where this store was not put back from one of it.
    pub(super) fn restored(&self, device: DeviceId, of: Incarnation) -> Option<wire::Restored> {
        let restore = self.restores.get(&of)?;
        let member = Member::Device(device);
        let heads = restore.heads.iter().filter_map(|(&id, &seq)| {
            let stream = &self.streams.get(&id)?.stream;
            let counts = seq > 0 && stream.kind != StreamKind::Broadcast && stream.ever_had(member);
            counts.then_some(wire::StreamHead {
                stream: id.number(),
                seq: stream.readable_head(member, seq),
            })
        });
        Some(wire::Restored {
            last_stream: restore
                .heads
                .keys()
                .next_back()
                .map_or(0, |stream| stream.number()),
            heads: heads.take(RESTORED_HEADS_MAX).collect(),
        })
    }

    /// The device's own list of what it holds: it may have lost some.
    pub(super) fn handle_positions(
        &mut self,
        device: DeviceId,
        positions: &wire::TransferPositions,
    ) -> Option<()> {
        let session = self.sessions.get(&device)?;
        let (tag, epoch) = (session.tag, session.epoch);
        let mut listed = BTreeMap::new();
        for cursor in &positions.cursors {
            let stream = StreamId::new(cursor.stream)?;
            let mut held = Cumulative::from_wire(cursor.delivered, &cursor.ranges).ok()?;
            // What lies beyond the last entry is from a future that this store does not have.
            held.truncate(self.streams.get(&stream).map_or(0, |state| state.head));
            listed.insert(stream, held);
        }
        let known = self.transfers.entry((device, epoch)).or_default();
        let streams: BTreeSet<StreamId> = known.keys().chain(listed.keys()).copied().collect();
        for stream in streams {
            let held = listed.get(&stream).cloned().unwrap_or_default();
            self.changes.push(Change::PutTransfer {
                device,
                epoch,
                stream,
                held,
            });
        }
        *known = listed;
        self.in_session(device, tag, Session::rewind);
        if self.changes.is_empty() {
            // Nothing to write down: a device that holds nothing said so.
            self.in_session(device, tag, Session::open);
        } else {
            self.effects.push(Effect::PositionsKnown { device, tag });
        }
        Some(())
    }

    /// Asks a device whose session is unknown for a hello.
    pub(super) fn ask_for_hello(&mut self, device: DeviceId, now: Now) {
        let asked = self.asked_for_hello.get(&device);
        if asked.is_some_and(|at| now.monotonic.saturating_duration_since(*at) < HELLO_PLEASE_EVERY) {
            return;
        }
        self.asked_for_hello.insert(device, now.monotonic);
        let frame = wire::DownFrame {
            hello_please: true,
            ..Default::default()
        };
        self.outputs
            .push_back(super::Output::Publish(device, frame.encode_to_vec().into()));
    }

    pub(super) fn put_presence(&mut self, device: DeviceId, presence: Presence) {
        self.effects.push(Effect::Presence(device, presence));
    }
}
