//! Clocks that are wrong, as the server sees them.

use super::*;
use crate::entry::Moment;

const HOUR_S: u64 = 3_600;

/// Says hello with a steady clock that has counted a tenth more than has passed, and a wall clock an hour behind.
fn hello(world: &mut World, device: &Device, tag: u32) {
    let passed_ms = world.now.wall_ms - START_MS;
    let hello = wire::Hello {
        epoch: 5,
        device_ms: (world.now.wall_ms - 3_600_000).cast_unsigned(),
        boot: 7,
        uptime_ms: (90_000_000 + passed_ms * 11 / 10).cast_unsigned(),
        ..Default::default()
    };
    let frame = wire::UpFrame {
        stamp: stamp(tag, 0),
        hello: Some(hello),
        ..Default::default()
    };
    world.up(device, &frame);
}

/// Something that was done so many counted seconds before the stamp.
fn said(world: &mut World, device: &Device, (tag, seconds, age_s): (u32, u32, u32), op: u64) -> Moment {
    let ops = vec![wire::Operation {
        age_s,
        ..Operation::text(device.stream, "On my way").to_wire()
    }];
    let frame = wire::UpFrame {
        stamp: stamp(tag, seconds),
        first_op: op,
        ops,
        ..Default::default()
    };
    world.up(device, &frame);
    let last = world
        .store
        .entries(device.stream, Page::Newest, 1, u64::MAX)
        .unwrap();
    last[0].accepted
}

fn true_ms(moment: Moment) -> i64 {
    moment.device_ms.unwrap() + moment.offset_ms.unwrap()
}

#[test]
fn what_is_known_of_a_clock_outlives_the_server() {
    let (mut world, device) = World::in_session();
    hello(&mut world, &device, 2);
    world.advance(10 * HOUR_S);
    world.core = World::start(&world.store);
    hello(&mut world, &device, 3);
    // Five hours ago, of which the device has counted five and a half.
    let moment = said(&mut world, &device, (3, 0, 19_800), 1);
    assert_eq!(moment.server_ms, START_MS + 36_000_000);
    assert!(
        (true_ms(moment) - (START_MS + 18_000_000)).abs() < 100,
        "{moment:?}"
    );
}

#[test]
fn a_servers_clock_that_is_set_in_a_session_changes_no_age() {
    let (mut world, device) = World::in_session();
    hello(&mut world, &device, 2);
    world.advance(10 * HOUR_S);
    said(&mut world, &device, (2, 39_600, 0), 1);
    // Found to be two hours behind.
    world.now.wall_ms += 7_200_000;
    let moment = said(&mut world, &device, (2, 39_600, 19_800), 2);
    assert_eq!(moment.server_ms, START_MS + 43_200_000);
    let found = true_ms(moment) - (START_MS + 18_000_000 + 7_200_000);
    assert!(found.abs() < 100, "{found} by the clock as it is now");
}

#[test]
fn a_device_is_told_the_time_four_times_an_hour_in_frames_that_are_due_anyway() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    let mut told = Vec::new();
    for minute in 1..=60 {
        world.advance(60);
        world.sent.clear();
        let seq = world.post(person, device.stream, "Gate 4");
        for frame in world.frames() {
            let seconds = Stamp::parse(frame.stamp).unwrap().seconds;
            if seconds > 0 {
                assert_eq!(seconds, minute * 60);
                told.push(minute);
            }
        }
        world.up(&device, &reported(1, cursor(device.stream, seq.number(), 0)));
    }
    assert_eq!(told, [15, 30, 45, 60]);
}
