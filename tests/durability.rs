//! Nothing is acknowledged, shown or sent before its sync: the bridge on a store that keeps a commit back until the
//! test lets it through, and loses it when the power goes first.

use bytes::Bytes;
use prost::Message;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::sync::mpsc as channel;
use waypost_bridge::audit::AuditEntry;
use waypost_bridge::device::NewDevice;
use waypost_bridge::entry::{Entry, NewBody, NewEntry, Page, Receipt};
use waypost_bridge::event::Event;
use waypost_bridge::link::{BrokerLink, LinkEvent, Retain, Subscriptions};
use waypost_bridge::once::{Caller, Posted};
use waypost_bridge::person::{NewPerson, Role};
use waypost_bridge::position::Position;
use waypost_bridge::store::{Change, Found, Look, MemoryStore, State, Store, StoreError, Visit};
use waypost_bridge::stream::Stream;
use waypost_bridge::{Bridge, BridgeOptions};
use waypost_proto::{
    ContentDigest, DeviceId, Epoch, OpNumber, Operation, Seq, SessionTag, Stamp, StreamId, wire,
};

/// Commits wait for a word of the test: `true` for "it is synced", `false` for "the power goes".
struct HeldStore {
    disk: MemoryStore,
    word: Mutex<mpsc::Receiver<bool>>,
    begun: Mutex<mpsc::Sender<usize>>,
}

impl Store for HeldStore {
    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.begun.lock().unwrap().send(changes.len()).unwrap();
        // A test that is over has no more to say.
        if self.word.lock().unwrap().recv().unwrap_or(false) {
            return self.disk.commit(changes);
        }
        Err(StoreError::Engine("the power went".into()))
    }

    fn load(&self, fresh: u64) -> Result<State, StoreError> {
        self.disk.load(fresh)
    }
    fn entries(
        &self,
        stream: StreamId,
        page: Page,
        limit: usize,
        head: u64,
    ) -> Result<Vec<Entry>, StoreError> {
        self.disk.entries(stream, page, limit, head)
    }
    fn entry(&self, stream: StreamId, seq: Seq) -> Result<Option<Entry>, StoreError> {
        self.disk.entry(stream, seq)
    }
    fn receipts(&self, stream: &Stream, seq: Seq) -> Result<Option<Vec<Receipt>>, StoreError> {
        self.disk.receipts(stream, seq)
    }
    fn track(&self, device: DeviceId, from: i64, to: i64, limit: usize) -> Result<Vec<Position>, StoreError> {
        self.disk.track(device, from, to, limit)
    }
    fn find_old(&self, look: &Look) -> Result<Found, StoreError> {
        self.disk.find_old(look)
    }
    fn events(&self, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.disk.events(after, limit)
    }
    fn audit(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        self.disk.audit(before, limit)
    }
    fn posted(&self, caller: Caller, key: &str) -> Result<Option<Posted>, StoreError> {
        self.disk.posted(caller, key)
    }
    fn operation(
        &self,
        device: DeviceId,
        epoch: Epoch,
        op: OpNumber,
    ) -> Result<Option<ContentDigest>, StoreError> {
        self.disk.operation(device, epoch, op)
    }
    fn snapshot(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.disk.snapshot(visit)
    }
    fn check_owner(&self) -> Result<(), StoreError> {
        self.disk.check_owner()
    }
}

/// A broker of which the test holds both ends.
struct Wire {
    up: channel::UnboundedReceiver<LinkEvent>,
    down: channel::UnboundedSender<wire::DownFrame>,
}

impl BrokerLink for Wire {
    fn publish(&mut self, _topic: String, payload: Bytes, _: Retain) {
        let _ = self.down.send(wire::DownFrame::decode(payload).unwrap());
    }

    fn subscriptions(&self) -> Subscriptions {
        Subscriptions::CanBeEnded
    }

    fn end_subscription(&mut self, _: DeviceId, _: &str) {}

    fn disconnect(&mut self, _device: DeviceId) {}

    async fn next(&mut self) -> LinkEvent {
        self.up.recv().await.unwrap_or(LinkEvent::Closed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_shown_or_sent_before_its_sync() {
    let (word, held) = mpsc::channel();
    let (begun_sender, begun) = mpsc::channel();
    let begun = Mutex::new(begun);
    let store = Arc::new(HeldStore {
        disk: MemoryStore::new(),
        word: Mutex::new(held),
        begun: Mutex::new(begun_sender),
    });
    let (to_bridge, up) = channel::unbounded_channel();
    let (down, mut from_bridge) = channel::unbounded_channel();
    let (bridge, mut running) =
        Bridge::start(store.clone(), Wire { up, down }, BridgeOptions::default()).unwrap();
    let commit_begins = || {
        begun
            .lock()
            .unwrap()
            .recv_timeout(Duration::from_secs(20))
            .expect("a commit begins")
    };
    let synced = || word.send(true).unwrap();

    // A device, a person, a session.
    let adding = tokio::spawn({
        let bridge = bridge.clone();
        let new = NewDevice {
            name: "truck-17".into(),
            driver: None,
            labels: vec![],
            secret_hash: [1; 32],
            groups: vec![],
        };
        async move { bridge.add_device(new, None).await.unwrap().device }
    });
    commit_begins();
    assert_eq!(
        bridge.devices(None, 9).await.unwrap().len(),
        0,
        "listed before its sync"
    );
    assert!(!bridge.access().verify("1".parse().unwrap(), b"any"));
    synced();
    let device = adding.await.unwrap();
    let person = tokio::spawn({
        let bridge = bridge.clone();
        let (email, name, password_hash) = ("anna@example.org".into(), "Anna".into(), String::new());
        async move {
            bridge
                .add_person(
                    NewPerson {
                        email,
                        name,
                        role: Role::Dispatcher,
                        password_hash,
                    },
                    None,
                )
                .await
                .unwrap()
        }
    });
    commit_begins();
    synced();
    let person = person.await.unwrap();
    let mut live = bridge.watch();
    let send = |frame: wire::UpFrame| {
        let (topic, payload) = (format!("u/{}", device.id), frame.encode_to_vec().into());
        to_bridge
            .send(LinkEvent::Message {
                topic,
                payload,
                retained: false,
            })
            .unwrap();
    };
    let stamp = Stamp::of(SessionTag::FIRST).to_wire();
    let hello = wire::Hello {
        epoch: 5,
        device_ms: 1_764_000_000_000,
        ..Default::default()
    };
    send(wire::UpFrame {
        stamp,
        hello: Some(hello),
        ..Default::default()
    });
    commit_begins();
    assert!(from_bridge.try_recv().is_err(), "welcomed before its sync");
    synced();
    assert!(from_bridge.recv().await.unwrap().welcome.is_some());
    assert!(live.recv().await.is_ok(), "the device is online");

    // An operation, and an entry of a person, while the disk takes its time.
    let ops = vec![Operation::text(device.stream, "from the road").to_wire()];
    send(wire::UpFrame {
        stamp,
        first_op: 1,
        ops,
        ..Default::default()
    });
    commit_begins();
    let posting = tokio::spawn({
        let (bridge, stream) = (bridge.clone(), device.stream);
        let body = NewBody::Text("from the office".into());
        let (urgent, expires_ms, reply_to, once) = (false, None, None, None);
        let new = NewEntry {
            supersedes: None,
            author: person.id,
            stream,
            body,
            urgent,
            expires_ms,
            reply_to,
            once,
        };
        async move { bridge.post_entry(new).await }
    });
    // Whatever the bridge would say too early it says before it answers this.
    let head = bridge.stream(None, device.stream).await.unwrap().head;
    assert_eq!(head, 0, "shown before its sync");
    assert!(from_bridge.try_recv().is_err(), "acknowledged before its sync");
    assert!(live.try_recv().is_err(), "told before its sync");
    synced();
    assert_eq!(from_bridge.recv().await.unwrap().accepted_through, 1);

    // The power goes while the person's entry is being written: nobody has been told that it is there.
    commit_begins();
    assert!(!posting.is_finished(), "answered before its sync");
    word.send(false).unwrap();
    assert!(posting.await.unwrap().is_err());
    assert!(
        running.finished().await.is_err(),
        "a bridge whose store fails ends"
    );
    while let Ok(frame) = from_bridge.try_recv() {
        assert!(
            !frame
                .entries
                .iter()
                .flat_map(|run| &run.entries)
                .any(|e| e.body.is_some()),
            "{frame:?}"
        );
    }
    let kept = store
        .disk
        .entries(device.stream, Page::After(0), 9, u64::MAX)
        .unwrap();
    assert_eq!(
        kept.len(),
        1,
        "what was acknowledged is on disk, and nothing else"
    );
}

#[cfg(feature = "fault-injection")]
#[test]
fn fault_acknowledging_before_the_sync_is_noticed() {
    crate::fault::must_fail(
        "bridge-sync",
        "durability::nothing_is_acknowledged_shown_or_sent_before_its_sync",
    );
}
