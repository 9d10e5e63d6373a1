//! Outboxes that give numbers which another one of the same epoch has given: nothing of either is taken for the other's.

use super::*;

impl World {
    /// Says hello in epoch 5, with operations in the same frame.
    fn hello_saying(
        &mut self,
        device: &Device,
        tag: u32,
        first_op: u64,
        texts: &[&str],
    ) -> Vec<wire::DownFrame> {
        let hello = wire::Hello {
            epoch: 5,
            device_ms: self.now.wall_ms.cast_unsigned(),
            ..Default::default()
        };
        let frame = wire::UpFrame {
            hello: Some(hello),
            ..ops(tag, first_op, device.stream, texts)
        };
        self.up(device, &frame)
    }
}

fn highest_acknowledged(frames: &[wire::DownFrame]) -> u64 {
    let through = frames.iter().map(|frame| frame.accepted_through);
    let ranges = frames
        .iter()
        .flat_map(|frame| frame.accepted_ranges.iter().copied());
    assert_eq!(ranges.count(), 0);
    through.max().unwrap_or(0)
}

#[test]
fn a_welcome_does_not_acknowledge_what_another_outbox_has_said_under_the_number() {
    let (mut world, device) = World::in_session();
    world.up(&device, &ops(1, 1, device.stream, &["one", "two", "three"]));
    // Its disk was put back to before the second one.
    let frames = world.hello_saying(&device, 2, 2, &["another"]);
    assert!(frames.iter().any(|frame| frame.welcome.is_some()));
    assert_eq!(frames.iter().map(|frame| frame.forked_op).max(), Some(2));
    assert_eq!(highest_acknowledged(&frames), 1, "{frames:?}");
    let own_numbers = frames.iter().flat_map(|frame| &frame.entries).count();
    assert_eq!(own_numbers, 0, "nor tells the places of others as its own");
}

#[test]
fn nothing_above_a_fork_is_taken_as_it_will_be_said_again() {
    let (mut world, device) = World::in_session();
    world.up(&device, &ops(1, 1, device.stream, &["one", "two"]));
    let frames = world.up(&device, &ops(1, 2, device.stream, &["another", "behind it"]));
    assert_eq!(frames.iter().map(|frame| frame.forked_op).max(), Some(2));
    assert_eq!(
        highest_acknowledged(&frames),
        0,
        "nothing is repeated and nothing is new"
    );
    assert_eq!(world.texts(device.stream), ["one", "two"]);
}

#[test]
fn what_is_new_behind_a_repetition_is_taken_at_once() {
    let (mut world, device) = World::in_session();
    world.up(&device, &ops(1, 1, device.stream, &["one", "two"]));
    let frames = world.up(
        &device,
        &ops(1, 1, device.stream, &["one", "two", "three", "four"]),
    );
    assert_eq!(world.texts(device.stream), ["one", "two", "three", "four"]);
    assert_eq!(highest_acknowledged(&frames), 4);
}

#[test]
fn what_another_session_is_just_writing_is_not_acknowledged_to_this_one_before_it_is_compared() {
    let (mut world, device) = World::in_session();
    world.core.handle_up(
        device.id,
        &ops(1, 1, device.stream, &["of one"]).encode_to_vec(),
        world.now,
    );
    world.drain();
    // The clone takes the session over while that is on its way to the disk.
    let frames = world.hello_saying(&device, 2, 1, &["of the other"]);
    assert_eq!(highest_acknowledged(&frames), 0, "{frames:?}");
    assert_eq!(frames.iter().map(|frame| frame.forked_op).max(), Some(1));
    let entries = frames.iter().flat_map(|frame| &frame.entries).count();
    assert_eq!(entries, 0, "by its number it would be the other's own");
    assert_eq!(world.texts(device.stream), ["of one"]);
}

#[test]
fn a_device_that_is_back_before_its_words_are_on_disk_has_them_acknowledged() {
    let (mut world, device) = World::in_session();
    let said = ops(1, 1, device.stream, &["one"]).encode_to_vec();
    world.core.handle_up(device.id, &said, world.now);
    world.drain();
    let frames = world.hello_saying(&device, 2, 1, &["one", "two"]);
    assert_eq!(highest_acknowledged(&frames), 2, "{frames:?}");
    assert_eq!(frames.iter().map(|frame| frame.forked_op).max(), Some(0));
    assert_eq!(world.texts(device.stream), ["one", "two"]);
}

#[test]
fn a_clone_is_told_from_its_number_alone_neither_what_is_accepted_nor_what_is_its_own() {
    let (mut world, device) = World::in_session();
    world.up(&device, &ops(1, 1, device.stream, &["of one"]));
    // A clone of before, whose own first operation has left in a session that broke.
    world.now.wall_ms += 1_000;
    let frames = world.hello_saying(&device, 1, 1, &[]);
    assert_eq!(highest_acknowledged(&frames), 0, "{frames:?}");
    let forked = |event: &LiveEvent| matches!(event, LiveEvent::Logged(e) if e.kind == EventKind::DeviceForked(device.id));
    assert_eq!(world.live.iter().filter(|event| forked(event)).count(), 1);
    // Both go on, each under its next tag.
    world.now.wall_ms += 1_000;
    let frames = world.hello_saying(&device, 2, 1, &[]);
    assert_eq!(highest_acknowledged(&frames), 0, "{frames:?}");
    let frames = world.up(&device, &ops(2, 1, device.stream, &["of one", "goes on"]));
    assert_eq!(highest_acknowledged(&frames), 2, "{frames:?}");
    world.now.wall_ms += 1_000;
    let mut frames = world.hello_saying(&device, 3, 1, &[]);
    frames.extend(world.up(&device, &ops(3, 1, device.stream, &["of the other", "too"])));
    assert_eq!(highest_acknowledged(&frames), 0, "{frames:?}");
    assert_eq!(frames.iter().map(|frame| frame.forked_op).max(), Some(1));
    let own = frames
        .iter()
        .flat_map(|frame| &frame.entries)
        .flat_map(|run| &run.entries);
    assert_eq!(own.map(|entry| entry.own_op).max().unwrap_or(0), 0);
    assert_eq!(world.texts(device.stream), ["of one", "goes on"]);
}
