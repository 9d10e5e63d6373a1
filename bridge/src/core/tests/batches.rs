//! Batches of points: into the history as what they are, and as where the device is.

use super::*;
use crate::position::{Origin, Position, Way};
use waypost_proto::{Grid, Point, Tick, TrackBatch, Velocity};

fn point(after_s: i64, lat_e7: i32) -> Point {
    Point {
        at_ms: START_MS + after_s * 1_000,
        lat_e7,
        lon_e7: 50_000_000,
        after_gap: false,
    }
}

fn batch(points: Vec<Point>) -> TrackBatch {
    TrackBatch {
        grid: Grid::ROAD,
        tick: Tick::SECOND,
        leads_on: true,
        exact: false,
        points,
        velocity: Some(Velocity { north: 40, east: 0 }),
    }
}

fn send(world: &mut World, device: &Device, op: u64, batch: &TrackBatch, kind: TrackKind) {
    let operation = Operation::track_batch(batch, Some(71), kind).unwrap();
    let frame = wire::UpFrame {
        stamp: stamp(1, 0),
        first_op: op,
        ops: vec![operation.to_wire()],
        ..Default::default()
    };
    world.up(device, &frame);
}

fn history(world: &World, device: &Device) -> Vec<Position> {
    world.store.track(device.id, i64::MIN, i64::MAX, 99).unwrap()
}

#[test]
fn corners_of_a_batch_are_the_history_and_say_whether_the_way_to_them_was_watched() {
    let (mut world, device) = World::in_session();
    let after_gap = Point {
        after_gap: true,
        ..point(500, 400_020_000)
    };
    let points = vec![point(0, 400_000_000), point(30, 400_010_000), after_gap];
    send(&mut world, &device, 1, &batch(points), TrackKind::Travelled);
    let rows: Vec<_> = history(&world, &device)
        .iter()
        .map(|position| (position.fix.lat_e7, position.origin, position.way))
        .collect();
    assert_eq!(
        rows,
        [
            (400_000_000, Origin::Corner, Way::Watched),
            (400_010_000, Origin::Corner, Way::Watched),
            (400_020_000, Origin::Corner, Way::Unknown),
        ]
    );
    // A line that begins, and fixes that were kept as they are.
    let first = TrackBatch {
        leads_on: false,
        exact: true,
        ..batch(vec![point(600, 400_030_000)])
    };
    send(&mut world, &device, 2, &first, TrackKind::Travelled);
    let last = history(&world, &device)[3];
    assert_eq!((last.origin, last.way), (Origin::Measured, Way::Unknown));
}

#[test]
fn positions_do_not_expire_whichever_form_they_have() {
    let (mut world, device) = World::in_session();
    let track = Operation::track(
        vec![Fix::from_degrees(START_MS, 40.0, 5.0).unwrap()],
        TrackKind::Travelled,
    );
    let batch = batch(vec![point(30, 400_010_000)]);
    let batch = Operation::track_batch(&batch, None, TrackKind::Travelled).unwrap();
    for (op, operation) in (1..).zip([track, batch]) {
        let late = wire::Operation {
            expires_in_s: 60,
            age_s: 3_600,
            ..operation.to_wire()
        };
        let frame = wire::UpFrame {
            stamp: stamp(1, 0),
            first_op: op,
            ops: vec![late],
            ..Default::default()
        };
        world.up(&device, &frame);
    }
    assert_eq!(history(&world, &device).len(), 2);
}

#[test]
fn the_last_point_of_a_batch_is_where_the_device_is_and_its_velocity_where_it_goes() {
    let (mut world, device) = World::in_session();
    let points = vec![point(0, 400_000_000), point(30, 400_010_000)];
    send(&mut world, &device, 1, &batch(points), TrackKind::Travelled);
    let latest = |world: &World| world.core.device(device.id).unwrap().position;
    let position = latest(&world).unwrap();
    assert_eq!(position.fix.lat_e7, 400_010_000);
    assert_eq!(position.velocity, Some(Velocity { north: 40, east: 0 }));
    let motion = position.fix.motion;
    assert_eq!((motion.speed_cmps, motion.course_ddeg), (Some(1_000), Some(0)));
    assert_eq!(position.fix.battery_pct, Some(71));
    // What comes late, and what is only put on file, moves nothing.
    let late = batch(vec![point(-60, 400_000_000), point(29, 400_000_400)]);
    send(&mut world, &device, 2, &late, TrackKind::Travelled);
    let recording = batch(vec![point(90, 400_000_800)]);
    send(&mut world, &device, 3, &recording, TrackKind::Recording);
    assert_eq!(latest(&world), Some(position));
    assert_eq!(history(&world, &device).len(), 5);
}

#[test]
fn a_batch_that_comes_again_changes_nothing() {
    let (mut world, device) = World::in_session();
    let batch = batch(vec![point(0, 400_000_000), point(30, 400_010_000)]);
    send(&mut world, &device, 1, &batch, TrackKind::Travelled);
    let before = history(&world, &device);
    world.advance(50);
    send(&mut world, &device, 1, &batch, TrackKind::Travelled);
    assert_eq!(history(&world, &device), before);
}

#[test]
fn a_batch_from_the_future_is_refused_whole() {
    let (mut world, device) = World::in_session();
    let points = vec![point(0, 400_000_000), point(80 * 3_600, 400_000_400)];
    send(&mut world, &device, 1, &batch(points), TrackKind::Travelled);
    assert_eq!(history(&world, &device), []);
}

fn one(op: u64) -> wire::UpFrame {
    let batch = batch(vec![point(op.cast_signed(), 400_000_000)]);
    let operation = Operation::track_batch(&batch, None, TrackKind::Travelled).unwrap();
    wire::UpFrame {
        stamp: stamp(1, 0),
        first_op: op,
        ops: vec![operation.to_wire()],
        ..Default::default()
    }
}

fn accepted(frames: &[wire::DownFrame]) -> Vec<u64> {
    frames.iter().map(|frame| frame.accepted_through).collect()
}

#[test]
fn ten_batches_have_one_acknowledgement() {
    let (mut world, device) = World::in_session();
    for op in 1..10 {
        assert_eq!(world.up(&device, &one(op)), [], "{op}");
    }
    assert_eq!(accepted(&world.up(&device, &one(10))), [10]);
    assert_eq!(
        world.up(&device, &one(11)),
        [],
        "it counts from the beginning again"
    );
}

#[test]
fn what_is_owed_for_batches_is_said_after_a_quarter_of_an_hour_and_once() {
    let (mut world, device) = World::in_session();
    world.up(&device, &one(1));
    world.advance(14 * 60);
    assert_eq!(world.frames(), []);
    world.advance(61);
    assert_eq!(accepted(&world.frames()), [1]);
    world.advance(3_600);
    assert_eq!(world.frames(), []);
}

#[test]
fn what_is_owed_for_batches_rides_along_with_whatever_goes() {
    let (mut world, device) = World::in_session();
    world.up(&device, &one(1));
    let anna = world.add_person();
    world.post(anna, device.stream, "Where are you?");
    assert_eq!(accepted(&world.frames()), [1]);
    world.advance(3_600);
    let later = world.frames();
    assert!(later.iter().all(|frame| frame.accepted_through == 0), "{later:?}");
}

#[test]
fn a_batch_that_comes_again_or_with_something_else_is_acknowledged_at_once() {
    let (mut world, device) = World::in_session();
    world.up(&device, &one(1));
    assert_eq!(accepted(&world.up(&device, &one(1))), [1]);
    let with_text = wire::UpFrame {
        ops: [one(2).ops, ops(1, 3, device.stream, &["Here"]).ops].concat(),
        ..one(2)
    };
    let answers = accepted(&world.up(&device, &with_text));
    assert!(answers.contains(&3), "{answers:?}");
    // And a large one is part of what was gathered offline.
    let corners = (10..400)
        .map(|at| point(at, 400_000_000 + (at as i32 % 7) * 40_000))
        .collect();
    let operation = Operation::track_batch(&batch(corners), None, TrackKind::Travelled).unwrap();
    let large = wire::UpFrame {
        ops: vec![operation.to_wire()],
        ..one(4)
    };
    assert_eq!(accepted(&world.up(&device, &large)), [4]);
}
