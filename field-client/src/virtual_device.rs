//! A device without disks, sockets and clocks: the real core, its real store in memory, and the packets that would leave.
//!
//! For whoever measures what a device says and needs virtual time for it. Nothing of an app belongs here.

use crate::core::{Boot, Config, Core, Event, Grant, Now, Qos, Sender, Steady};
use crate::packet::{PublishFields, Retain, UP_ALIAS, Version};
use crate::store::memory::MemoryDisk;
use crate::store::{MemoryEngine, Store, StoreError};
use crate::{Options, Policy};
use bytes::BytesMut;
use std::time::{Duration, Instant};
use waypost_proto::{DeviceId, Epoch, Fix};

/// A device in virtual time.
pub struct VirtualDevice {
    core: Core,
    store: Store<MemoryEngine>,
    now: Now,
    spare_epochs: u64,
}

/// A PUBLISH that leaves, or that would come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualPublish {
    /// The frame.
    pub payload: Vec<u8>,
    /// The whole MQTT 5 packet, its topic under an alias.
    pub packet_bytes: usize,
    /// Whether a PUBACK follows.
    pub acknowledged: bool,
}

impl VirtualDevice {
    /// A new device, without a link. `begins_ms` is UTC milliseconds.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn new(device: DeviceId, policy: Policy, begins_ms: i64) -> Result<Self, StoreError> {
        let options = Options::default();
        let origin = Instant::now();
        let config = Config {
            device,
            outbox_ops_max: options.outbox_ops_max,
            outbox_bytes_max: options.outbox_bytes_max,
            inflight_bytes_max: options.inflight_bytes_max,
            locale: options.locale,
            app: options.app,
            policy,
        };
        let (epoch, spare) = (Epoch::new(1).expect("not 0"), Epoch::new(2).expect("not 0"));
        let store = match Store::open(MemoryDisk::default().open(), device, epoch)? {
            Ok(store) => store,
            Err(_) => return Err(StoreError::InUse),
        };
        let core = Core::new(config, store.load()?, spare);
        let now = Now {
            mono: origin,
            wall_ms: begins_ms,
            steady: Steady {
                boot: Boot::new(1),
                origin,
                origin_ms: 0,
            },
        };
        Ok(Self {
            core,
            store,
            now,
            spare_epochs: 2,
        })
    }

    /// Connects: the hello leaves.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn connect(&mut self) -> Result<(), StoreError> {
        self.core.prepare(self.now);
        self.settle()?;
        self.core.handle_connected(self.now);
        self.settle()
    }

    /// The connection is gone.
    pub fn disconnect(&mut self) {
        self.core.handle_disconnected();
    }

    /// Its clock, UTC milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.now.wall_ms
    }

    /// The next moment at which it has something to do by itself, at the latest; UTC milliseconds.
    pub fn due_ms(&self) -> Option<i64> {
        let due = self.core.poll_timeout(self.now)?;
        let wait = due.saturating_duration_since(self.now.mono);
        // Rounded up: before that nothing is due.
        let wait_ms = i64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(i64::MAX);
        Some(self.now.wall_ms.saturating_add(wait_ms))
    }

    /// Time passes up to then; nobody sets the clocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn pass_to(&mut self, wall_ms: i64) -> Result<(), StoreError> {
        let ms = u64::try_from(wall_ms.saturating_sub(self.now.wall_ms)).unwrap_or(0);
        self.now = self.now.at(self.now.mono + Duration::from_millis(ms));
        self.core.handle_timeout(self.now);
        self.settle()
    }

    /// A fix.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn fix(&mut self, fix: Fix) -> Result<(), StoreError> {
        // One for which there is no room waits in the core.
        let _ = self.core.fix(fix, self.now);
        self.settle()
    }

    /// Everything in hand is said, and everything said is to be acknowledged.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn flush(&mut self) -> Result<(), StoreError> {
        let _ = self.core.flush_fixes(self.now);
        self.core.hurry();
        self.settle()
    }

    /// A frame of the server.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn receive(&mut self, payload: &[u8]) -> Result<(), StoreError> {
        self.core.handle_frame(payload, self.now);
        self.settle()
    }

    /// The next PUBLISH that leaves.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn poll_publish(&mut self) -> Result<Option<VirtualPublish>, StoreError> {
        let outgoing = self.core.poll_frame(self.now);
        self.settle()?;
        let outgoing = match outgoing {
            // It may have asked for contents.
            None => self.core.poll_frame(self.now),
            some => some,
        };
        Ok(outgoing.map(|outgoing| publish(outgoing.payload, outgoing.qos)))
    }

    /// Whether the server has answered the hello.
    pub fn is_in_step(&self) -> bool {
        self.core.is_in_step()
    }

    /// Operations that the server has not acknowledged.
    pub fn waiting_ops(&self) -> usize {
        self.core.waiting_ops()
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        loop {
            let writes: Vec<_> = std::iter::from_fn(|| self.core.poll_write()).collect();
            if let Some(last) = writes.last() {
                self.store.commit(&writes)?;
                self.core.handle_stored(last.ticket, self.now);
                continue;
            }
            while let Some(event) = self.core.poll_event() {
                if event == Event::EpochUsed {
                    self.spare_epochs += 1;
                    self.core
                        .provide_epoch(Epoch::new(self.spare_epochs).expect("counted from 1"));
                }
            }
            if let Some(topics) = self.core.poll_topics() {
                for topic in &topics.subscribe {
                    self.core.handle_topic(topic, Grant::Granted);
                }
                continue;
            }
            let Some(ids) = self.core.poll_load() else {
                return Ok(());
            };
            for id in ids {
                let content = self.store.content(id)?;
                self.core.handle_loaded(id, content, self.now);
            }
        }
    }
}

/// A frame of the server as the packet in which it comes, at least once and with its topic under an alias.
pub fn publish_from_server(payload: Vec<u8>) -> VirtualPublish {
    publish(payload, Qos::AtLeastOnce)
}

/// Runs fixes through the sender alone and returns how many batches it makes of them: for whoever measures what a fix
/// costs.
pub fn batches_of(policy: Policy, fixes: &[Fix]) -> usize {
    let mut sender = Sender::new(policy);
    let mut batches = 0;
    for &fix in fixes {
        sender.handle_fix(fix, crate::core::Hearing::Now);
        batches += std::iter::from_fn(|| sender.poll_said()).count();
    }
    batches
}

fn publish(payload: Vec<u8>, qos: Qos) -> VirtualPublish {
    let mut packet = BytesMut::new();
    let acknowledged = qos == Qos::AtLeastOnce;
    let fields = PublishFields {
        topic: "",
        alias: Some(UP_ALIAS),
        qos,
        retain: Retain::No,
        packet_id: u16::from(acknowledged),
        payload: &payload,
    };
    Version::V5.publish(fields, &mut packet);
    VirtualPublish {
        packet_bytes: packet.len(),
        payload,
        acknowledged,
    }
}
