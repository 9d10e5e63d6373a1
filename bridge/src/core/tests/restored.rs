//! A store that was put back from a backup, and devices that know the one that was lost.

use super::*;
use crate::store::Restore;

const LOST: u64 = 42;
const NEW: u64 = 78;

impl World {
    /// The store as it is, as if it had been put back: under another name, with a note of the first.
    fn put_back(&self) -> World {
        let store = self.store.copied();
        let mut state = store.load(LOST).unwrap();
        let heads = state.streams.iter().map(|(stream, (_, head))| (*stream, *head));
        let restore = Restore {
            of: state.incarnation,
            heads: heads.collect(),
            last_event: state.last_event,
            first_event: state.last_event + 1_000_000,
        };
        state.last_event = restore.first_event - 1;
        state.restores.insert(state.incarnation, restore);
        state.incarnation = Incarnation::new(NEW).unwrap();
        let core = Core::new(state, CoreOptions::default()).with_subscriptions(Subscriptions::CanBeEnded);
        World {
            core,
            store,
            now: self.now,
            ..World::new()
        }
    }

    fn hello_of(
        &mut self,
        device: &Device,
        tag: u32,
        incarnation: u64,
        frame: wire::UpFrame,
    ) -> wire::DownFrame {
        let hello = wire::Hello {
            epoch: 5,
            device_ms: self.now.wall_ms.cast_unsigned(),
            positions_digest: 1,
            incarnation,
            ..Default::default()
        };
        let frames = self.up(
            device,
            &wire::UpFrame {
                stamp: stamp(tag, 0),
                hello: Some(hello),
                ..frame
            },
        );
        frames.into_iter().find(|frame| frame.welcome.is_some()).unwrap()
    }
}

#[test]
fn a_device_that_knows_the_lost_store_is_told_where_the_two_parted() {
    let (mut world, device) = World::in_session();
    let anna = world.add_person();
    let other = world.add_device();
    for text in ["a", "b"] {
        world.post(anna, device.stream, text);
    }
    world.up(&device, &ops(1, 1, device.stream, &["mine"]));
    let mut restored = world.put_back();
    // What follows is lost.
    world.post(anna, device.stream, "c");

    let mut riding = ops(1, 2, device.stream, &["said after the backup"]);
    riding.ops[0].reply_to = 4;
    riding.cursors = vec![cursor(device.stream, 3, 3)];
    let answer = restored.hello_of(&device, 1, LOST, riding);
    let welcome = answer.welcome.clone().unwrap();
    assert_eq!((welcome.incarnation, welcome.want_positions), (NEW, true));
    let told = welcome.restored.unwrap();
    assert_eq!(told.last_stream, other.stream.number());
    let heads: Vec<_> = told.heads.iter().map(|head| (head.stream, head.seq)).collect();
    assert_eq!(heads, [(device.stream.number(), 3)], "of its own streams alone");
    assert_eq!(answer.accepted_through, 1);
    assert!(answer.refusals.is_empty(), "{answer:?}");
    assert_eq!(
        restored.texts(device.stream),
        ["a", "b", "mine"],
        "its numbers are of the other store"
    );
    let of_store = |world: &World| {
        world
            .core
            .cursors
            .get(&(device.stream, Member::Device(device.id)))
            .cloned()
    };
    assert_eq!(of_store(&restored).unwrap_or_default().read, 0);

    // In the store that it knows now it says all of it again.
    let mut frame = ops(1, 2, device.stream, &["said after the backup"]);
    frame.positions = Some(wire::TransferPositions {
        cursors: vec![cursor(device.stream, 3, 0)],
    });
    restored.up(&device, &frame);
    restored.up(&device, &frame);
    assert_eq!(
        restored.texts(device.stream),
        ["a", "b", "mine", "said after the backup"]
    );
    let welcome = restored
        .hello_of(&device, 2, NEW, wire::UpFrame::default())
        .welcome
        .unwrap();
    assert_eq!(welcome.restored, None);
}

#[test]
fn a_device_of_a_store_that_nobody_knows_is_told_nothing_of_it() {
    let (world, device) = World::in_session();
    let mut restored = world.put_back();
    let welcome = restored
        .hello_of(&device, 1, 4_711, wire::UpFrame::default())
        .welcome
        .unwrap();
    assert_eq!((welcome.incarnation, welcome.restored), (NEW, None));
}

#[test]
fn cursors_of_the_lost_future_are_told_where_to_go_on_also_when_the_log_has_grown() {
    let (mut world, _) = World::in_session();
    let mut restored = world.put_back();
    let last = world.core.last_event();
    world.add_device();
    let lost = world.core.last_event();
    assert!(lost > last);
    let first = last + 1_000_000;
    assert_eq!(restored.core.last_event(), first - 1);
    for devices in 0..3 {
        assert_eq!(restored.core.resume_after_lost(lost), Some(last), "{devices}");
        assert_eq!(restored.core.resume_after_lost(first + 1_000), Some(last));
        for there in [1, last, first - 1] {
            assert_eq!(restored.core.resume_after_lost(there), None);
        }
        restored.add_device();
    }
    assert_eq!(restored.core.event_after(last), first);
    assert_eq!(restored.core.event_after(first), first + 1);
}

#[test]
fn retention_goes_over_the_gap_that_a_restore_leaves_in_the_events() {
    let (world, _) = World::in_session();
    let mut restored = world.put_back();
    let first = world.core.last_event() + 1_000_000;
    restored.core.options.retention.events_days = 1;
    restored.add_device();
    let before = restored.core.last_event();
    assert!(before >= first);
    restored.now.wall_ms += 3 * 86_400_000;
    restored.add_device();
    for _ in 0..60 {
        restored.now.monotonic += Duration::from_secs(600);
        restored.core.handle_timeout(restored.now);
        restored.drain();
        loop {
            let largest = restored.unsynced.iter().map(|(_, changes)| changes.len()).max();
            assert!(
                largest.unwrap_or(0) < 5_000,
                "the gap holds nothing that could be trimmed"
            );
            if !restored.sync_one() {
                break;
            }
        }
    }
    let kept = restored.store.events(0, 99).unwrap();
    assert!(kept.iter().all(|event| event.cursor > before), "{kept:?}");
}
