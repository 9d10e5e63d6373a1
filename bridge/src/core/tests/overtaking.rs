//! An urgent entry says whether what its author wrote before it is still under way.

use super::*;

fn overtaking(device: &Device, op: u64, earlier: u32) -> wire::UpFrame {
    let mut frame = ops(1, op, device.stream, &["brakes failing"]);
    (frame.ops[0].urgent, frame.ops[0].earlier) = (true, earlier);
    frame
}

fn first(world: &World, device: &Device) -> Entry {
    let seq = Seq::new(1).unwrap();
    world.store.entry(device.stream, seq).unwrap().unwrap()
}

fn is_marked(world: &World, device: &Device) -> bool {
    world.core.earlier_under_way(&first(world, device))
}

#[test]
fn an_urgent_entry_is_marked_until_what_it_overtook_is_on_disk() {
    let (mut world, device) = World::in_session();
    world.up(&device, &overtaking(&device, 3, 1));
    assert_eq!(first(&world, &device).earlier, OpNumber::new(2));
    assert!(is_marked(&world, &device));
    world.restart();
    assert!(is_marked(&world, &device), "a restart does not forget it");

    world.hello(&device, 1, 0);
    world.up(&device, &ops(1, 1, device.stream, &["at the gate"]));
    assert!(is_marked(&world, &device), "the newest of them has not come");
    let frame = ops(1, 2, device.stream, &["gate 4"]);
    world.core.handle_up(device.id, &frame.encode_to_vec(), world.now);
    world.drain();
    assert!(is_marked(&world, &device), "nobody sees the other yet");
    world.settle();
    assert!(!is_marked(&world, &device));
    world.restart();
    assert!(!is_marked(&world, &device));
}

#[test]
fn what_the_device_gave_up_is_under_way_no_more() {
    let (mut world, device) = World::in_session();
    world.up(&device, &overtaking(&device, 2, 1));
    assert!(is_marked(&world, &device));
    let void = wire::UpFrame {
        stamp: stamp(1, 30),
        voids: vec![wire::VoidRange {
            first_op: 1,
            count: 1,
            reason: wire::VoidReason::Expired.into(),
        }],
        ..Default::default()
    };
    world.up(&device, &void);
    assert!(!is_marked(&world, &device));
}

#[test]
fn what_came_before_an_urgent_entry_or_with_it_was_not_overtaken() {
    for together in [true, false] {
        let (mut world, device) = World::in_session();
        let mut frame = ops(1, 1, device.stream, &["at the gate"]);
        let urgent = overtaking(&device, 2, 1);
        if together {
            frame.ops.extend(urgent.ops);
            world.up(&device, &frame);
        } else {
            world.up(&device, &frame);
            world.up(&device, &urgent);
        }
        let entry = world
            .store
            .entry(device.stream, Seq::new(2).unwrap())
            .unwrap()
            .unwrap();
        assert!(entry.urgent);
        assert_eq!(entry.earlier, None);
    }
}

#[test]
fn a_repetition_that_has_overtaken_less_is_the_same_operation() {
    let (mut world, device) = World::in_session();
    world.up(&device, &overtaking(&device, 3, 1));
    for earlier in [2, 0] {
        let frames = world.up(&device, &overtaking(&device, 3, earlier));
        assert!(frames.iter().all(|frame| frame.refusals.is_empty()));
    }
    assert_eq!(world.texts(device.stream), ["brakes failing"]);
    assert_eq!(world.disconnected, []);
}
