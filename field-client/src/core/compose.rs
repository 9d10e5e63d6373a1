//! What leaves: everything that is due, in one frame.

use super::clock::nearest_second;
use super::inbox::Early;
use super::outbox::{Lane, Outbox, UnderWay, is_unhurried};
use super::server_clock::ServerClock;
use super::session::{Hello, InStep, Positions, SessionState};
use super::voids::VOIDS_APART_MAX;
use super::{Core, Now, PostId};
use prost::Message;
use std::time::Duration;
use waypost_proto::{OpNumber, Stamp, wire};

/// Payload of a frame, unless one item alone is larger: with MQTT, TLS and TCP around it, one packet.
pub(super) const FRAME_BYTES_TARGET: usize = 1_200;
/// Stamp and number of the first operation, at most.
const FRAME_HEAD_BYTES: usize = 17;

/// A frame to be published on `u/<device>`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outgoing {
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: Qos,
}

/// How a frame is to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    /// Cursors and requests of pages, which are repeated until their answer, and a live position, which a newer one will
    /// replace: the broker's word that it has them would help nobody.
    AtMostOnce,
    /// Everything else.
    AtLeastOnce,
}

/// Which operations may stand in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those that the server cannot have seen: the answer to the hello says nothing new about them.
    Fresh,
    All,
}

impl Core {
    /// The next frame, put together now; `None` where nothing is due.
    pub(crate) fn poll_frame(&mut self, now: Now) -> Option<Outgoing> {
        let frame = match self.session.state {
            SessionState::Offline | SessionState::Waiting { .. } => return None,
            SessionState::Greeting => {
                let (hello, under_way) = self.say_hello(now)?;
                self.compose_hello(hello, under_way, now)
            }
            SessionState::InStep(session) => self.compose(session, now)?,
        };
        let payload = frame.encode_to_vec();
        let repeated_by_itself = frame.ops.iter().all(is_unhurried)
            && frame.voids.is_empty()
            && frame.hello.is_none()
            && frame.positions.is_none()
            && frame.known.is_none();
        self.counters.frames_sent += 1;
        self.counters.frame_bytes_sent += payload.len() as u64;
        let qos = if repeated_by_itself {
            Qos::AtMostOnce
        } else {
            Qos::AtLeastOnce
        };
        Some(Outgoing { payload, qos })
    }

    fn compose_hello(&mut self, hello: Hello, under_way: UnderWay, now: Now) -> wire::UpFrame {
        let known = self.claim_in_hello();
        let mut frame = wire::UpFrame {
            stamp: Stamp::of(hello.tag).to_wire(),
            hello: Some(wire::Hello {
                epoch: self.epoch.number(),
                device_ms: u64::try_from(hello.at.wall_ms).unwrap_or(0),
                positions_digest: self.inbox.digest(),
                incarnation: self.server.map_or(0, |server| server.incarnation.number()),
                locale: self.config.locale.clone(),
                app: self.config.app.clone(),
                catalogue: known.catalogue,
                groups_digest: known.groups_digest,
                boot: hello.at.steady.boot.number(),
                uptime_ms: hello.at.reading().ms,
                first_under_way: under_way.first,
                under_way: under_way.digests,
            }),
            ..wire::UpFrame::default()
        };
        // Reported or not in the session before: this one has heard nothing.
        self.inbox.repeat_all();
        self.fill(&mut frame, hello, Which::Fresh, now, now);
        frame
    }

    fn compose(&mut self, session: InStep, now: Now) -> Option<wire::UpFrame> {
        let mut frame = wire::UpFrame {
            known: self.claim_due(),
            page: self.page_due(now),
            ..wire::UpFrame::default()
        };
        if let Positions::Owed { times } = session.positions {
            frame.positions = Some(self.inbox.positions());
            if let SessionState::InStep(session) = &mut self.session.state {
                let (at, times) = (now.mono, times + 1);
                session.positions = Positions::Sent { at, times };
            }
        }
        let elapsed = nearest_second(now.mono.saturating_duration_since(session.hello.at.mono));
        // Ages count from the stamp, which is a whole second: rounded twice they would be wrong by up to two halves.
        let stamped = now.at(session.hello.at.mono + Duration::from_secs(elapsed.into()));
        self.fill(&mut frame, session.hello, Which::All, now, stamped);
        if frame == wire::UpFrame::default() {
            return None;
        }
        let timed = !frame.ops.is_empty() || !frame.cursors.is_empty();
        let seconds = if timed { elapsed } else { 0 };
        frame.stamp = Stamp {
            tag: session.hello.tag,
            seconds,
        }
        .to_wire();
        Some(frame)
    }

    /// Fills a frame up to [`FRAME_BYTES_TARGET`], the most urgent first. What finds no room leaves with the next.
    ///
    /// Nothing from the last lane rides with something urgent, which would arrive later with it; it leaves in whole frames
    /// where the window has room for one. Ages count back from `stamped`, the moment that the frame's stamp names.
    fn fill(&mut self, frame: &mut wire::UpFrame, hello: Hello, which: Which, now: Now, stamped: Now) {
        let mut room = Room::beside(frame);
        let mut picked = Vec::new();
        self.pick(Lane::Urgent, which, now, &mut room, &mut picked);
        self.pick(Lane::Ordinary, which, now, &mut room, &mut picked);
        self.fill_voids(frame, now, &mut room);
        let early = if room.is_used() { Early::Yes } else { Early::No };
        self.fill_cursors(frame, early, now, stamped, &mut room);
        if let Some(fix) = self.live {
            let live = fix.to_live(hello.at.wall_ms);
            if room.take(2 + live.encoded_len()) {
                frame.live = Some(live);
                self.live = None;
            }
        }
        let is_urgent = |id: &PostId| {
            self.outbox
                .item(*id)
                .is_some_and(|item| item.lane == Lane::Urgent)
        };
        let under_way = self.outbox.inflight_bytes(Lane::Track);
        if !picked.iter().any(is_urgent) && self.window.frames_beside(under_way) > 0 {
            self.pick(Lane::Track, which, now, &mut room, &mut picked);
        }
        if room.is_used() && frame.hello.is_none() {
            self.pick_riders(now, &mut room, &mut picked);
        }
        if early == Early::No && (frame.live.is_some() || !picked.is_empty()) {
            self.fill_cursors(frame, Early::Yes, now, stamped, &mut room);
        }
        self.put_operations(frame, picked, stamped);
    }

    /// Chooses operations of a lane that fit, each stream in its order.
    fn pick(&mut self, lane: Lane, which: Which, now: Now, room: &mut Room, picked: &mut Vec<PostId>) {
        let mut keys = self.outbox.open_queues(lane);
        while let Some((key, id)) = self.outbox.first_ready(&keys) {
            let Some(bytes) = self
                .bytes_in_frame(id, which, lane, now)
                .filter(|&bytes| room.take(bytes))
            else {
                // The next of its stream must not overtake it.
                keys.retain(|other| *other != key);
                continue;
            };
            debug_assert!(bytes > 0, "an operation has a body");
            let repeated = self.outbox.item(id).is_some_and(|item| item.may_be_known);
            self.counters.ops_repeated += u64::from(repeated);
            self.counters.ops_sent += 1;
            self.outbox.sent(id, now.mono);
            picked.push(id);
        }
    }

    /// Chooses what was lost and leaves with a frame that is due anyway.
    fn pick_riders(&mut self, now: Now, room: &mut Room, picked: &mut Vec<PostId>) {
        let riders: Vec<PostId> = self.outbox.riders().collect();
        for id in riders {
            let Some(bytes) = self.bytes_in_frame(id, Which::All, Lane::Track, now) else {
                continue;
            };
            if room.take(bytes) {
                self.counters.ops_repeated += 1;
                self.counters.ops_sent += 1;
                self.outbox.sent(id, now.mono);
                picked.push(id);
            }
        }
    }

    /// What an operation takes of a frame at most; `None` where it may not leave now.
    fn bytes_in_frame(&mut self, id: PostId, which: Which, lane: Lane, now: Now) -> Option<usize> {
        let item = self.outbox.item(id)?;
        let age_bytes = match item.done.age_s(now, &self.server_clock) {
            0 => 0,
            age => 1 + prost::length_delimiter_len(age as usize),
        };
        if !item.may_be_known && item.is_over(now, &self.server_clock) {
            // It never leaves: the timer, which is due, gives it up.
            return None;
        }
        let earlier_bytes = match self.outbox.overtaken(id) {
            0 => 0,
            earlier => 1 + prost::length_delimiter_len(earlier as usize),
        };
        let (bytes, inflight) = (item.bytes, self.outbox.inflight_bytes(lane));
        let window_is_full = inflight > 0 && inflight + bytes > self.window.bytes();
        if (which == Which::Fresh && item.may_be_known) || (lane == Lane::Ordinary && window_is_full) {
            return None;
        }
        self.outbox.content(id)?;
        // Key and length, the age, what it has overtaken, and a gap to the operation before of up to two million.
        Some(bytes + 4 + age_bytes + earlier_bytes + 4)
    }

    fn put_operations(&mut self, frame: &mut wire::UpFrame, mut picked: Vec<PostId>, stamped: Now) {
        picked.sort_unstable();
        let mut previous: Option<OpNumber> = None;
        for id in picked {
            let Some((op, operation)) =
                operation(&mut self.outbox, &self.server_clock, id, previous, stamped)
            else {
                continue;
            };
            if previous.is_none() {
                frame.first_op = op.number();
            }
            previous = Some(op);
            frame.ops.push(operation);
        }
    }

    fn fill_voids(&mut self, frame: &mut wire::UpFrame, now: Now, room: &mut Room) {
        if frame.hello.is_some() {
            return; // They wait for the welcome, which may cover them.
        }
        let touches = |first: u64| self.accepted.contains(first - 1);
        let under_way = self.voids.iter().filter(|(_, void)| void.sent.is_some());
        let mut apart = under_way.filter(|(first, _)| !touches(first.number())).count();
        for (first, void) in &mut self.voids {
            let touches = touches(first.number());
            if !void.stored || void.sent.is_some() || (!touches && apart >= VOIDS_APART_MAX) {
                continue;
            }
            let range = wire::VoidRange {
                first_op: first.number(),
                count: void.count,
                reason: void.reason.into(),
            };
            if room.take(2 + range.encoded_len()) {
                void.sent = Some(now.mono);
                apart += usize::from(!touches);
                frame.voids.push(range);
            }
        }
    }

    fn fill_cursors(
        &mut self,
        frame: &mut wire::UpFrame,
        early: Early,
        now: Now,
        stamped: Now,
        room: &mut Room,
    ) {
        for stream in self.inbox.reportable(now, early) {
            if frame.hello.is_some() && self.inbox.is_of_earlier_boot(stream, now) {
                // How long ago that was is known once the server has said what time it is.
                continue;
            }
            let cursors = self.inbox.report(stream, stamped, &self.server_clock);
            let bytes: usize = cursors.iter().map(|cursor| 2 + cursor.encoded_len()).sum();
            if !room.take(bytes) {
                return;
            }
            self.inbox.reported(stream, now.mono);
            frame.cursors.extend(cursors);
        }
    }
}

/// The operation as it leaves now.
fn operation(
    outbox: &mut Outbox,
    server: &ServerClock,
    id: PostId,
    previous: Option<OpNumber>,
    stamped: Now,
) -> Option<(OpNumber, wire::Operation)> {
    let item = outbox.item(id)?;
    let (op, age_s) = (item.op, item.done.age_s(stamped, server));
    let gap = previous.map_or(0, |previous| op.number() - previous.number() - 1);
    let earlier = outbox.overtaken(id);
    let content = outbox.content(id)?;
    let gap = u32::try_from(gap).ok()?;
    Some((
        op,
        wire::Operation {
            age_s,
            gap,
            earlier,
            ..content.clone()
        },
    ))
}

/// How much of a frame is left.
struct Room {
    left: usize,
    used: bool,
}

impl Room {
    fn beside(frame: &wire::UpFrame) -> Self {
        let taken = frame.encoded_len() + FRAME_HEAD_BYTES;
        Self {
            left: FRAME_BYTES_TARGET.saturating_sub(taken),
            used: frame.hello.is_some()
                || frame.positions.is_some()
                || frame.known.is_some()
                || frame.page.is_some(),
        }
    }

    /// Takes room for an item; the first item of a frame always finds it.
    fn take(&mut self, bytes: usize) -> bool {
        if bytes > self.left && self.used {
            return false;
        }
        self.left = self.left.saturating_sub(bytes);
        self.used = true;
        true
    }

    fn is_used(&self) -> bool {
        self.used
    }
}
