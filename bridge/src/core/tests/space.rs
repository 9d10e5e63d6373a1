//! A disk that fills: what is refused, in which order, and that it comes back by itself.

use super::*;

const RESERVE: u64 = 600_000_000;

impl World {
    fn free(&mut self, megabytes: u64) {
        self.core.options.disk_reserve_bytes = RESERVE;
        self.core.handle_free(megabytes * 1_000_000);
        self.settle();
    }
}

fn track(tag: u32, op: u64, world: &World) -> wire::UpFrame {
    let fix = Fix::from_degrees(world.now.wall_ms, 1.0, 2.0).unwrap();
    wire::UpFrame {
        stamp: stamp(tag, 10),
        first_op: op,
        ops: vec![Operation::track(vec![fix], TrackKind::Travelled).to_wire()],
        ..Default::default()
    }
}

#[test]
fn history_is_refused_before_entries_and_both_are_taken_once_there_is_room() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    let history = |world: &World| world.store.track(device.id, i64::MIN, i64::MAX, 9).unwrap().len();

    world.free(500);
    world.up(&device, &track(1, 1, &world));
    assert_eq!(history(&world), 1, "only files are refused, and there are none");

    world.free(300);
    let late = track(1, 2, &world);
    let frames = world.up(&device, &late);
    assert_eq!(refusals_of(&frames), [(2, RefusalReason::NoSpace)]);
    assert_eq!(history(&world), 1);
    let frames = world.up(&device, &ops(1, 3, device.stream, &["still taken"]));
    assert_eq!(refusals_of(&frames), []);
    world.post(person, device.stream, "still written");

    world.free(100);
    let waiting = ops(1, 4, device.stream, &["waits"]);
    assert_eq!(
        refusals_of(&world.up(&device, &waiting)),
        [(4, RefusalReason::NoSpace)]
    );
    let refused = world
        .core
        .post_entry(by_person(person, device.stream, "waits, too"), None, world.now);
    assert!(matches!(refused, Err(BridgeError::NoSpace)));
    assert_eq!(world.texts(device.stream), ["still taken", "still written"]);
    let frames = world.up(&device, &ops(1, 3, device.stream, &["still taken"]));
    assert_eq!(refusals_of(&frames), [], "what was taken is acknowledged again");
    let accepted = frames.last().unwrap();
    assert_eq!(
        (accepted.accepted_through, accepted.accepted_ranges.is_empty()),
        (1, false),
        "and what was refused is not"
    );

    world.free(700);
    assert_eq!(refusals_of(&world.up(&device, &late)), []);
    let frames = world.up(&device, &waiting);
    assert_eq!(frames.last().unwrap().accepted_through, 4);
    world.post(person, device.stream, "after all");
    assert_eq!(
        world.texts(device.stream),
        ["still taken", "still written", "waits", "after all"]
    );
}

#[test]
fn a_full_disk_shows_where_devices_are_and_lets_the_office_keep_order() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    world.post(person, device.stream, "before");
    world.free(0);
    let live = Fix::from_degrees(world.now.wall_ms, 1.0, 2.0).unwrap();
    let hello_ms = world.now.wall_ms - 3_600_000;
    let frame = wire::UpFrame {
        stamp: stamp(1, 10),
        live: Some(live.to_live(hello_ms)),
        cursors: vec![cursor(device.stream, 1, 1)],
        ..Default::default()
    };
    let frames = world.up(&device, &frame);
    assert_eq!(refusals_of(&frames), []);
    assert_eq!(frames.last().unwrap().cursors[0].read, 1, "cursors are taken");
    assert!(world.core.device(device.id).unwrap().position.is_some());
    assert_eq!(world.store.track(device.id, i64::MIN, i64::MAX, 9).unwrap(), []);

    let newer = Fix {
        at_ms: live.at_ms + 1_000,
        ..live
    };
    let report = world
        .core
        .report_positions(device.id, &[newer], Told::Now, world.now);
    assert!(
        matches!(report, Err(BridgeError::NoSpace)),
        "an app is told to say it again"
    );
    world.settle();
    let position = world.core.device(device.id).unwrap().position.unwrap();
    assert_eq!(position.fix.at_ms, newer.at_ms, "and is on the map already");

    let sign_in = SignIn {
        token_hash: [7; 32],
        person,
        expires_ms: i64::MAX,
    };
    let (verified, now) = (world.core.person(person).unwrap(), world.now);
    world
        .core
        .make(None, now, |core| core.sign_in(&verified, sign_in, now))
        .unwrap();
    world.settle();
    assert!(world.core.sign_ins.contains_key(&[7; 32]));
    world.core.sign_out([7; 32]).unwrap();
    world.core.revoke_device(device.id, world.now).unwrap();
    world.settle();
    assert!(!world.core.sign_ins.contains_key(&[7; 32]));
    assert!(world.core.device(device.id).unwrap().device.revoked);
}

#[test]
fn without_a_reserve_nothing_is_refused() {
    let (mut world, device) = World::in_session();
    world.core.options.disk_reserve_bytes = 0;
    world.core.handle_free(0);
    assert_eq!(
        refusals_of(&world.up(&device, &ops(1, 1, device.stream, &["taken"]))),
        []
    );
}
