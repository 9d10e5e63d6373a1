//! A device and a server in virtual time, and an air between them that may lose frames.

use super::accounting::{PUBACK_BYTES, Traffic, hours, publish_bytes};
use super::measure::{Errors, Place, along, metres};
use crate::trace::Trace;
use anyhow::{Context, bail};
use std::time::{Duration, Instant};
use waypost_bridge::core::{Core, CoreOptions, Now, Output};
use waypost_bridge::device::Device;
use waypost_bridge::event::LiveEvent;
use waypost_bridge::position::Position;
use waypost_bridge::store::{Change, MemoryStore, Store};
use waypost_bridge::stream::{Member, Membership, Stream, StreamKind};
use waypost_field_client::Policy;
use waypost_field_client::virtual_device::{VirtualDevice, VirtualPublish, publish_from_server};
use waypost_proto::wire;
use waypost_proto::{DeviceId, Point, Reckoning, StreamId};

/// After a drive everything has to be on the server within so many rounds of what the device repeats by itself.
const ROUNDS_MAX: usize = 1_000;
/// The most points of a drive that are read back.
const POINTS_MAX: usize = 10_000_000;

/// What a drive came to.
pub(super) struct Drive {
    pub(super) traffic: Traffic,
    pub(super) errors: Errors,
    /// As the server has it in the end.
    pub(super) history: Vec<Place>,
    /// What it showed at each fix.
    pub(super) live: Vec<Place>,
}

/// Drives a trace: each fix at its own time, with nothing on the way but what is lost.
pub(super) fn drive(trace: &Trace, policy: Policy, loss: f64, seed: u64) -> anyhow::Result<Drive> {
    let first = trace.fixes.first().context("a trace has a fix")?;
    let mut world = World::new(policy, first.at_ms, loss, seed)?;
    world.traffic.hours = hours(trace.fixes.iter().map(|fix| fix.at_ms));
    world.traffic.fixes = trace.fixes.len();
    let mut errors = Errors::default();
    let mut live = Vec::new();
    for fix in &trace.fixes {
        world.pass_to(fix.at_ms)?;
        world.device.fix(*fix)?;
        world.carry()?;
        let Some(shown) = world.latest else { continue };
        let age_s = (fix.at_ms - shown.fix.at_ms) as f64 / 1e3;
        errors.max_age_s = errors.max_age_s.max(age_s);
        if policy.live_m.is_some() {
            let place = believed(&shown, fix.at_ms);
            live.push(place);
            errors
                .live_m
                .push(metres((place.lat, place.lon), (fix.lat(), fix.lon())));
        }
    }
    world.device.flush()?;
    world.carry()?;
    for round in 0.. {
        if world.device.waiting_ops() == 0 {
            break;
        }
        if round == ROUNDS_MAX {
            bail!("positions are left that the server never acknowledged");
        }
        let due = world
            .device
            .due_ms()
            .context("whoever waits for an answer repeats")?;
        world.pass_to(due.max(world.device.now_ms() + 1))?;
    }
    let history = world.history()?;
    for fix in &trace.fixes {
        let there = along(&history, fix.at_ms).context("the server has the history")?;
        errors.history_m.push(metres(there, (fix.lat(), fix.lon())));
    }
    Ok(Drive {
        traffic: world.traffic,
        errors,
        history,
        live,
    })
}

/// Where the server's users see the device at a moment.
fn believed(position: &Position, at_ms: i64) -> Place {
    let from = Point::from(&position.fix);
    let velocity = position.velocity.unwrap_or_default();
    let (lat_e7, lon_e7) = Reckoning { from, velocity }.place_at(at_ms);
    Place {
        at_ms,
        lat: f64::from(lat_e7) / 1e7,
        lon: f64::from(lon_e7) / 1e7,
    }
}

struct World {
    id: DeviceId,
    device: VirtualDevice,
    core: Core,
    store: MemoryStore,
    /// The server's clocks at the beginning; they run as the device's do.
    began: Now,
    latest: Option<Position>,
    down: Vec<Vec<u8>>,
    traffic: Traffic,
    loss: f64,
    dice: u64,
}

impl World {
    fn new(policy: Policy, begins_ms: i64, loss: f64, seed: u64) -> anyhow::Result<Self> {
        let (id, stream) = (
            DeviceId::new(264).context("a device")?,
            StreamId::new(4_711).context("a stream")?,
        );
        let store = MemoryStore::new();
        let member = |member| Membership {
            member,
            first_seq: 1,
            last_seq: None,
        };
        store.load(1)?;
        store.commit(&[
            Change::PutStream(Stream {
                id: stream,
                kind: StreamKind::Direct,
                title: "truck-17".to_owned(),
                members: vec![member(Member::Device(id)), member(Member::Office)],
            }),
            Change::PutDevice(Device {
                id,
                name: "truck-17".to_owned(),
                driver: None,
                labels: Vec::new(),
                secret_hash: [0; 32],
                stream,
                app: None,
                last_seen_ms: None,
                revoked: false,
            }),
        ])?;
        let core = Core::new(store.load(1)?, CoreOptions::default());
        let mut world = Self {
            id,
            device: VirtualDevice::new(id, policy, begins_ms)?,
            core,
            store,
            began: Now {
                monotonic: Instant::now(),
                wall_ms: begins_ms,
            },
            latest: None,
            down: Vec::new(),
            traffic: Traffic::default(),
            // The hello is the connection's business.
            loss: 0.0,
            dice: seed,
        };
        world.device.connect()?;
        world.carry()?;
        if !world.device.is_in_step() {
            bail!("the server did not answer the hello");
        }
        world.loss = loss;
        Ok(world)
    }

    fn now(&self) -> Now {
        let wall_ms = self.device.now_ms();
        let since_ms = u64::try_from(wall_ms - self.began.wall_ms).unwrap_or(0);
        Now {
            monotonic: self.began.monotonic + Duration::from_millis(since_ms),
            wall_ms,
        }
    }

    /// Time passes, with every deadline met on the way.
    fn pass_to(&mut self, at_ms: i64) -> anyhow::Result<()> {
        loop {
            let now = self.now();
            let server = self.core.poll_timeout().map(|due| {
                let wait = due
                    .saturating_duration_since(now.monotonic)
                    .as_micros()
                    .div_ceil(1_000);
                now.wall_ms
                    .saturating_add(i64::try_from(wait).unwrap_or(i64::MAX))
            });
            let due = [server, self.device.due_ms()].into_iter().flatten().min();
            let next = due.filter(|&due| due < at_ms);
            // What is overdue and changes nothing does not hold time up.
            let step = next.map_or(at_ms, |due| due.max(now.wall_ms + 1).min(at_ms));
            self.device.pass_to(step)?;
            self.core.handle_timeout(self.now());
            self.carry()?;
            if step >= at_ms {
                return Ok(());
            }
        }
    }

    /// Everything that is to be said is, in both directions, until nobody has anything to say.
    fn carry(&mut self) -> anyhow::Result<()> {
        loop {
            self.serve()?;
            let mut any = false;
            for payload in std::mem::take(&mut self.down) {
                any = true;
                let publish = publish_from_server(payload);
                let bytes = publish_bytes(publish.packet_bytes) + PUBACK_BYTES;
                if self.device.is_in_step() {
                    self.traffic.acknowledgement_bytes += bytes;
                } else {
                    self.traffic.hello_bytes += bytes;
                }
                if self.arrives() {
                    self.device.receive(&publish.payload)?;
                }
            }
            while let Some(publish) = self.device.poll_publish()? {
                any = true;
                self.count(&publish)?;
                if self.arrives() {
                    let now = self.now();
                    self.core.handle_up(self.id, &publish.payload, now);
                    self.serve()?;
                }
            }
            if !any {
                return Ok(());
            }
        }
    }

    fn count(&mut self, publish: &VirtualPublish) -> anyhow::Result<()> {
        let bytes = publish_bytes(publish.packet_bytes);
        let acknowledgement = if publish.acknowledged { PUBACK_BYTES } else { 0 };
        let frame = wire::UpFrame::parse(&publish.payload)?;
        if frame.hello.is_some() || frame.ops.is_empty() {
            self.traffic.hello_bytes += bytes + acknowledgement;
            return Ok(());
        }
        let numbers = number_bytes(&frame);
        self.traffic.messages += 1;
        self.traffic.position_bytes += bytes - numbers;
        self.traffic.number_bytes += numbers;
        self.traffic.acknowledgement_bytes += acknowledgement;
        Ok(())
    }

    /// Whether a frame arrives: a number from 0 to 1 of splitmix64.
    fn arrives(&mut self) -> bool {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let drawn = (mixed >> 11) as f64 / (1u64 << 53) as f64;
        let arrives = drawn >= self.loss;
        self.traffic.lost += usize::from(!arrives);
        arrives
    }

    /// The server does what it has to; its disk is quick.
    fn serve(&mut self) -> anyhow::Result<()> {
        loop {
            let now = self.now();
            self.core.flush(now);
            let Some(output) = self.core.poll_output() else {
                return Ok(());
            };
            match output {
                Output::Write(ticket, changes) => {
                    self.store.commit(&changes)?;
                    self.core.handle_stored(ticket);
                }
                Output::Publish(_, frame) => self.down.push(frame.to_vec()),
                Output::Live(LiveEvent::Position(_, position)) => self.latest = Some(position),
                Output::Compare(repeated) => {
                    let taken = self
                        .store
                        .operation(repeated.device, repeated.epoch, repeated.op)?;
                    let same = repeated.content.is(taken);
                    self.core.handle_compared(repeated, same, now);
                }
                Output::Look(look) => {
                    let found = self.store.find_old(&look)?;
                    self.core.handle_found(&look, found);
                }
                // There are no entries, groups or other connections here.
                _ => {}
            }
        }
    }

    fn history(&self) -> anyhow::Result<Vec<Place>> {
        let positions = self.store.track(self.id, i64::MIN, i64::MAX, POINTS_MAX)?;
        let place = |position: &Position| Place {
            at_ms: position.fix.at_ms,
            lat: position.fix.lat(),
            lon: position.fix.lon(),
        };
        Ok(positions.iter().map(place).collect())
    }
}

/// What of a frame numbers its operations and says how old they are.
fn number_bytes(frame: &wire::UpFrame) -> usize {
    use prost::Message;
    let bare = wire::UpFrame {
        first_op: 0,
        ops: (frame.ops.iter())
            .map(|operation| wire::Operation {
                gap: 0,
                age_s: 0,
                ..operation.clone()
            })
            .collect(),
        ..frame.clone()
    };
    frame.encoded_len() - bare.encoded_len()
}
