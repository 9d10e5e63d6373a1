//! Positions that OwnTracks apps report.

use super::*;

fn fix(world: &World, seconds_ago: i64) -> Fix {
    Fix::from_degrees(world.now.wall_ms - seconds_ago * 1_000, 48.85, 2.29).unwrap()
}

fn report(world: &mut World, device: &Device, fixes: &[Fix], told: Told) -> Result<(), BridgeError> {
    let staged = world.core.report_positions(device.id, fixes, told, world.now);
    world.settle();
    staged.map(|_| ())
}

fn history(world: &World, device: &Device) -> Vec<Position> {
    world.store.track(device.id, i64::MIN, i64::MAX, 100).unwrap()
}

fn latest_ms(world: &World, device: &Device) -> Option<i64> {
    world
        .core
        .device(device.id)
        .unwrap()
        .position
        .map(|position| position.fix.at_ms)
}

#[test]
fn a_report_moves_the_latest_and_the_history_once_however_often_it_comes() {
    let mut world = World::new();
    let device = world.add_device();
    let (old, new) = (fix(&world, 60), fix(&world, 10));
    for _ in 0..2 {
        report(&mut world, &device, &[old, new], Told::Now).unwrap();
        assert_eq!(latest_ms(&world, &device), Some(new.at_ms));
        let times: Vec<_> = history(&world, &device).iter().map(|p| p.fix).collect();
        assert_eq!(times, [old, new]);
    }
    let shown = world
        .live
        .iter()
        .filter(|live| matches!(live, LiveEvent::Position(..)));
    assert_eq!(shown.count(), 2, "the second time nothing moves");
    assert!(world.core.device(device.id).unwrap().last_seen_ms.is_some());
}

#[test]
fn a_report_is_shown_when_it_is_on_disk_and_not_before() {
    let mut world = World::new();
    let device = world.add_device();
    let new = fix(&world, 0);
    let (_, ticket) = world
        .core
        .report_positions(device.id, &[new], Told::Now, world.now)
        .unwrap();
    world.drain();
    assert!(
        ticket.is_some(),
        "whoever reported it is answered after the write"
    );
    assert_eq!(latest_ms(&world, &device), None);
    world.settle();
    assert_eq!(latest_ms(&world, &device), Some(new.at_ms));
}

#[test]
fn what_a_broker_kept_counts_only_where_it_is_newer_than_what_is_known() {
    let mut world = World::new();
    let device = world.add_device();
    let (kept, newer) = (fix(&world, 60), fix(&world, 10));
    report(&mut world, &device, &[kept], Told::Now).unwrap();
    world.restart();
    world.advance(5);
    let before = history(&world, &device);
    report(&mut world, &device, &[kept], Told::Before).unwrap();
    assert_eq!(
        history(&world, &device),
        before,
        "it was received when it was received"
    );
    assert_eq!(world.core.device(device.id).unwrap().last_seen_ms, None);
    report(&mut world, &device, &[newer], Told::Before).unwrap();
    assert_eq!(latest_ms(&world, &device), Some(newer.at_ms));
    assert_eq!(history(&world, &device).len(), 2);
}

#[test]
fn times_far_off_and_devices_that_are_gone_are_refused_whole() {
    let mut world = World::new();
    let device = world.add_device();
    let good = fix(&world, 0);
    for at_ms in [0, world.now.wall_ms + 73 * 3_600_000] {
        let refused = report(&mut world, &device, &[good, Fix { at_ms, ..good }], Told::Now);
        assert!(matches!(refused, Err(BridgeError::Invalid { .. })), "{at_ms}");
    }
    world.core.revoke_device(device.id, world.now).unwrap();
    world.settle();
    let refused = report(&mut world, &device, &[good], Told::Now);
    assert!(matches!(refused, Err(BridgeError::NotFound(_))));
    assert_eq!(
        (history(&world, &device).len(), latest_ms(&world, &device)),
        (0, None)
    );
}
