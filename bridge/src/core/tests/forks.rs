//! Outboxes that give numbers which another one of the same epoch has given: nothing of either is taken for the other's.

use super::*;
use waypost_proto::ContentDigest;

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

/// A hello in epoch 5 that lists what is under way from a number on; `None` for a number of which nothing waits.
fn listing(device: &Device, first: u64, texts: &[Option<&str>]) -> wire::Hello {
    let digest = |text: &&str| {
        let operation = Operation::text(device.stream, *text).to_wire();
        ContentDigest::of(&operation).brief().get()
    };
    wire::Hello {
        epoch: 5,
        first_under_way: first,
        under_way: texts.iter().map(|text| text.as_ref().map_or(0, digest)).collect(),
        ..Default::default()
    }
}

impl World {
    /// Says a hello and nothing else.
    fn greet(&mut self, device: &Device, tag: u32, hello: wire::Hello) -> Vec<wire::DownFrame> {
        self.now.wall_ms += 1_000;
        let hello = wire::Hello {
            device_ms: self.now.wall_ms.cast_unsigned(),
            ..hello
        };
        let frame = wire::UpFrame {
            stamp: stamp(tag, 0),
            hello: Some(hello),
            ..Default::default()
        };
        self.up(device, &frame)
    }

    fn forks_told(&self, device: &Device) -> usize {
        let forked = |event: &&LiveEvent| matches!(event, LiveEvent::Logged(e) if e.kind == EventKind::DeviceForked(device.id));
        self.live.iter().filter(forked).count()
    }
}

fn told(frames: &[wire::DownFrame]) -> Cumulative {
    let mut told = Cumulative::default();
    for frame in frames {
        told.merge(&Cumulative::from_wire(frame.accepted_through, &frame.accepted_ranges).unwrap());
    }
    told
}

fn forked_op(frames: &[wire::DownFrame]) -> u64 {
    frames.iter().map(|frame| frame.forked_op).max().unwrap_or(0)
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

#[test]
fn a_clone_with_a_later_tag_is_not_told_that_its_words_are_accepted_where_the_others_are() {
    let (mut world, device) = World::in_session();
    world.up(&device, &ops(1, 1, device.stream, &["both", "of one"]));
    let hello = listing(&device, 1, &[Some("both"), Some("of the other")]);
    let frames = world.greet(&device, 9, hello);
    assert!(frames.iter().any(|frame| frame.welcome.is_some()));
    assert_eq!(
        (told(&frames).highest(), forked_op(&frames)),
        (1, 2),
        "{frames:?}"
    );
    assert_eq!(world.forks_told(&device), 1);
    // It did not hear that.
    let frames = world.up(&device, &ops(9, 2, device.stream, &["of the other"]));
    assert_eq!(
        (told(&frames).highest(), forked_op(&frames)),
        (0, 2),
        "{frames:?}"
    );
    let hello = listing(&device, 2, &[Some("of the other")]);
    let frames = world.greet(&device, 10, hello);
    assert_eq!(forked_op(&frames), 2, "{frames:?}");
    assert_eq!(world.forks_told(&device), 1, "the same fork is told once");
}

#[test]
fn after_a_restart_the_first_hello_of_a_clone_tells_it_apart_and_of_the_other_nothing_is_doubted() {
    let (mut world, device) = World::in_session();
    world.up(&device, &ops(1, 1, device.stream, &["of one", "goes on"]));
    world.restart();
    let frames = world.greet(&device, 1, listing(&device, 1, &[Some("of the other")]));
    assert_eq!(
        (told(&frames).highest(), forked_op(&frames)),
        (0, 1),
        "{frames:?}"
    );
    world.restart();
    let frames = world.greet(&device, 1, listing(&device, 2, &[Some("goes on"), Some("new")]));
    assert_eq!(
        (told(&frames).highest(), forked_op(&frames)),
        (2, 0),
        "{frames:?}"
    );
    let frames = world.up(&device, &ops(1, 3, device.stream, &["new"]));
    assert_eq!(
        (told(&frames).highest(), forked_op(&frames)),
        (3, 0),
        "{frames:?}"
    );
}

#[test]
fn what_a_hello_does_not_list_is_acknowledged_when_it_was_said_and_compared() {
    let (mut world, device) = World::in_session();
    let texts: Vec<String> = (1..=40).map(|number| format!("number {number}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    world.up(&device, &ops(1, 1, device.stream, &texts));
    let listed: Vec<Option<&str>> = texts[2..34].iter().copied().map(Some).collect();
    let frames = world.greet(&device, 2, listing(&device, 3, &listed));
    assert_eq!(told(&frames), Cumulative::through_to(34), "{frames:?}");
    let frames = world.up(&device, &ops(2, 36, device.stream, &texts[35..36]));
    let mut expected = Cumulative::through_to(34);
    expected.insert(36);
    assert_eq!(told(&frames), expected, "{frames:?}");
    let frames = world.up(&device, &ops(2, 35, device.stream, &["number 35 of another"]));
    assert_eq!(
        (told(&frames).contains(35), forked_op(&frames)),
        (false, 35),
        "{frames:?}"
    );
}

#[test]
fn a_list_over_its_bound_counts_up_to_it() {
    let (mut world, device) = World::in_session();
    let texts = [Some("the same"); 40];
    let said = texts.map(Option::unwrap);
    world.up(&device, &ops(1, 1, device.stream, &said));
    let frames = world.greet(&device, 2, listing(&device, 1, &texts));
    assert_eq!(told(&frames), Cumulative::through_to(32), "{frames:?}");
    // Nor do numbers at the end of all numbers overflow.
    let frames = world.greet(&device, 3, listing(&device, u64::MAX - 1, &texts));
    assert_eq!(
        (told(&frames), forked_op(&frames)),
        (Cumulative::through_to(40), 0)
    );
}

#[test]
fn voids_beyond_the_list_are_acknowledged_when_they_were_said_however_many() {
    let (mut world, device) = World::in_session();
    world.up(&device, &ops(1, 1, device.stream, &["one"]));
    let voids = |tag| wire::UpFrame {
        stamp: stamp(tag, 0),
        voids: vec![wire::VoidRange {
            first_op: 2,
            count: 5_000,
            reason: wire::VoidReason::Thinned.into(),
        }],
        ..Default::default()
    };
    world.up(&device, &voids(1));
    let frames = world.greet(&device, 2, listing(&device, 1, &[Some("one")]));
    assert_eq!(told(&frames), Cumulative::through_to(1), "{frames:?}");
    let frames = world.up(&device, &voids(2));
    assert_eq!(told(&frames), Cumulative::through_to(5_001), "{frames:?}");
}

#[test]
fn words_under_a_number_that_another_outbox_has_given_up_are_not_taken_for_accepted() {
    let (mut world, device) = World::in_session();
    let void = wire::UpFrame {
        stamp: stamp(1, 0),
        voids: vec![wire::VoidRange {
            first_op: 1,
            count: 1,
            reason: wire::VoidReason::Refused.into(),
        }],
        ..Default::default()
    };
    world.up(&device, &void);
    let frames = world.greet(&device, 2, listing(&device, 1, &[Some("of the other")]));
    assert_eq!(
        (told(&frames).highest(), forked_op(&frames)),
        (0, 1),
        "{frames:?}"
    );
}

#[test]
fn what_is_its_own_above_a_fork_is_acknowledged_and_not_said_twice() {
    let (mut world, device) = World::in_session();
    // An urgent one went ahead of what another outbox has said since under the number below.
    world.up(&device, &ops(1, 2, device.stream, &["urgent"]));
    world.up(&device, &ops(1, 1, device.stream, &["of one"]));
    let hello = listing(&device, 1, &[Some("of the other"), Some("urgent")]);
    let frames = world.greet(&device, 9, hello);
    let told = told(&frames);
    assert_eq!(
        (told.contains(1), told.contains(2), forked_op(&frames)),
        (false, true, 1),
        "{frames:?}"
    );
}

#[test]
fn what_another_session_is_just_writing_is_not_acknowledged_for_what_is_listed() {
    let (mut world, device) = World::in_session();
    let said = ops(1, 1, device.stream, &["of one"]).encode_to_vec();
    world.core.handle_up(device.id, &said, world.now);
    world.drain();
    let frames = world.greet(&device, 2, listing(&device, 1, &[Some("of the other")]));
    assert_eq!(
        (told(&frames).highest(), forked_op(&frames)),
        (0, 1),
        "{frames:?}"
    );
}

#[test]
fn a_fork_is_told_once_whether_its_tag_or_its_words_come_first() {
    let (mut world, device) = World::in_session();
    world.up(&device, &ops(1, 1, device.stream, &["of one"]));
    // A tag that was used, then other words.
    world.greet(&device, 1, listing(&device, 0, &[]));
    world.up(&device, &ops(1, 1, device.stream, &["of the other"]));
    assert_eq!(world.forks_told(&device), 1);
    // A third one is another fork.
    world.greet(&device, 9, listing(&device, 1, &[Some("of a third")]));
    assert_eq!(world.forks_told(&device), 2);

    let (mut world, device) = World::in_session();
    world.up(&device, &ops(1, 1, device.stream, &["of one"]));
    world.greet(&device, 9, listing(&device, 1, &[Some("of the other")]));
    world.greet(&device, 2, listing(&device, 0, &[]));
    assert_eq!(world.forks_told(&device), 1);
}
