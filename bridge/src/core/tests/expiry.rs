//! What is over, or superseded, is not sent any more, and everybody who asks is told why.

use super::*;
use crate::broadcast::{Counts, NewBroadcast};
use crate::entry::Receipt;
use crate::group::{History, NewGroup};
use waypost_proto::wire::SkipReason;

impl World {
    /// An entry of a person that ends so many seconds from now.
    fn post_for(&mut self, author: PersonId, stream: StreamId, text: &str, seconds: i64) -> Seq {
        let new = NewEntry {
            expires_ms: Some(self.now.wall_ms + seconds * 1_000),
            ..by_person(author, stream, text)
        };
        let (seq, _) = self.post_entry(new).unwrap();
        self.settle();
        seq
    }

    fn supersede(&mut self, author: PersonId, stream: StreamId, replaced: u64) -> Result<Seq, BridgeError> {
        let new = NewEntry {
            supersedes: Seq::new(replaced),
            ..by_person(author, stream, "instead")
        };
        let (seq, _) = self.post_entry(new)?;
        self.settle();
        Ok(seq)
    }

    /// Time passes while nothing else happens.
    fn wait(&mut self, seconds: u64) {
        self.settle();
        self.advance(seconds);
    }

    fn ends_told(&self) -> Vec<EventKind> {
        let events = self.store.events(0, 10_000).unwrap();
        let is_end = |kind: &EventKind| {
            matches!(
                kind,
                EventKind::EntryExpired { .. }
                    | EventKind::OperationsExpired { .. }
                    | EventKind::EntrySuperseded { .. }
            )
        };
        events
            .into_iter()
            .map(|event| event.kind)
            .filter(is_end)
            .collect()
    }

    fn row(&self, stream: StreamId, seq: u64, member: Member) -> Receipt {
        let stream = &self.core.streams[&stream].stream;
        let rows = self
            .store
            .receipts(stream, Seq::new(seq).unwrap())
            .unwrap()
            .unwrap();
        rows.into_iter().find(|row| row.member == member).unwrap()
    }
}

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

fn expired(stream: StreamId, number: u64, missed: u32) -> EventKind {
    let seq = seq(number);
    EventKind::EntryExpired { stream, seq, missed }
}

fn skips_of(frames: &[wire::DownFrame], stream: StreamId) -> Vec<(u64, u64, SkipReason)> {
    let skips = frames.iter().flat_map(|frame| &frame.skips);
    skips
        .filter(|skip| skip.stream == stream.number())
        .map(|skip| (skip.first_seq, skip.count, skip.reason()))
        .collect()
}

#[test]
fn an_entry_that_ends_before_its_device_comes_is_passed_over_and_never_counts_as_delivered() {
    let mut world = World::new();
    let device = world.add_device();
    let (person, stream, member) = (world.add_person(), device.stream, Member::Device(device.id));
    world.post_for(person, stream, "gate 4 until three", 60);
    world.post(person, stream, "then the depot");
    world.wait(59);
    assert_eq!(world.ends_told(), [], "not yet");
    world.wait(1);
    assert_eq!(
        world.ends_told(),
        [expired(stream, 1, 1)],
        "though nobody ever connected"
    );

    let frames = world.hello(&device, 1, 0);
    assert_eq!(entries_of(&frames), [(2, 0)]);
    assert_eq!(skips_of(&frames, stream), [(1, 1, SkipReason::Expired)]);
    world.up(&device, &reported(1, cursor(stream, 2, 2)));
    let kept = &world.core.cursors[&(stream, member)];
    assert_eq!(
        (kept.delivered.through(), kept.read),
        (2, 2),
        "the cursor goes on"
    );
    let row = world.row(stream, 1, member);
    let ended = crate::entry::Moment::server(START_MS + 60_000);
    assert_eq!(
        (row.sent, row.delivered, row.read, row.expired),
        (None, None, None, Some(ended))
    );
    let row = world.row(stream, 2, member);
    assert!(row.sent.is_some() && row.delivered.is_some() && row.read.is_some());
    assert_eq!(row.expired, None);
    let reached = |event: &crate::event::Event| match event.kind {
        EventKind::EntriesReached { first_seq, .. } => Some(first_seq),
        _ => None,
    };
    let told: Vec<u64> = world
        .store
        .events(0, 99)
        .unwrap()
        .iter()
        .filter_map(reached)
        .collect();
    assert_eq!(
        told,
        [2, 2, 2],
        "no event says that the first was sent, delivered or read"
    );

    // Nothing of that is forgotten over a restart.
    world.restart();
    world.up(&device, &reported(1, cursor(stream, 2, 2)));
    world.wait(100);
    assert_eq!(world.row(stream, 1, member).delivered, None);
    assert_eq!(world.ends_told().len(), 1);
}

#[test]
fn what_everybody_has_in_time_does_not_expire_for_them() {
    let (mut world, device) = World::in_session();
    let (person, stream) = (world.add_person(), device.stream);
    world.post_for(person, stream, "gate 4 until three", 60);
    world.up(&device, &reported(1, cursor(stream, 1, 0)));
    world.wait(100);
    assert_eq!(world.ends_told(), []);
    let row = world.row(stream, 1, Member::Device(device.id));
    assert!(row.delivered.is_some() && row.expired.is_none());
    // Another installation of the same device has nothing to do with it any more.
    let hello = wire::Hello {
        epoch: 6,
        device_ms: START_MS.cast_unsigned(),
        ..Default::default()
    };
    let frame = wire::UpFrame {
        stamp: stamp(1, 0),
        hello: Some(hello),
        ..Default::default()
    };
    let frames = world.up(&device, &frame);
    assert_eq!(skips_of(&frames, stream), [(1, 1, SkipReason::Expired)]);
    world.up(&device, &reported(1, cursor(stream, 1, 0)));
    assert!(
        world
            .row(stream, 1, Member::Device(device.id))
            .delivered
            .is_some()
    );
}

#[test]
fn an_entry_that_was_lost_on_the_way_and_ended_is_not_sent_again() {
    let (mut world, device) = World::in_session();
    let (person, stream) = (world.add_person(), device.stream);
    world.post_for(person, stream, "gate 4", 8);
    assert_eq!(entries_of(&world.frames()), [(1, 0)], "lost");
    world.wait(11);
    let frames = world.frames();
    assert_eq!(entries_of(&frames), []);
    assert_eq!(skips_of(&frames, stream), [(1, 1, SkipReason::Expired)]);
    world.up(&device, &reported(1, cursor(stream, 1, 0)));
    let row = world.row(stream, 1, Member::Device(device.id));
    assert!(row.sent.is_some() && row.delivered.is_none() && row.expired.is_some());
}

#[test]
fn what_ended_while_the_server_was_down_is_told_once_after_its_start() {
    let mut world = World::new();
    let device = world.add_device();
    let (person, stream) = (world.add_person(), device.stream);
    world.post_for(person, stream, "one", 60);
    world.post_for(person, stream, "two", 3_600);
    world.restart();
    world.now.wall_ms += 120_000;
    world.now.monotonic += Duration::from_secs(120);
    world.settle();
    let due = world.core.poll_timeout().unwrap();
    assert!(due <= world.now.monotonic, "it is due at once");
    world.wait(0);
    assert_eq!(world.ends_told(), [expired(stream, 1, 1)]);
    for _ in 0..2 {
        world.restart();
        world.wait(120);
    }
    assert_eq!(world.ends_told(), [expired(stream, 1, 1)]);
    // A crash before the write leaves it to the next start.
    world.now.wall_ms += 3_600_000;
    world.core.handle_timeout(world.now);
    world.drain();
    world.restart();
    assert_eq!(world.ends_told().len(), 1);
    world.wait(0);
    assert_eq!(world.ends_told(), [expired(stream, 1, 1), expired(stream, 2, 1)]);
}

#[test]
fn the_servers_wall_clock_ends_an_entry_and_a_clock_that_is_put_back_revives_none() {
    let mut world = World::new();
    let device = world.add_device();
    let (person, stream) = (world.add_person(), device.stream);
    world.post_for(person, stream, "one", 3_600);
    world.settle();
    // The clock is put ahead while nothing happens: that is noticed within a minute.
    let asked = world.core.poll_timeout().unwrap();
    assert!(asked <= world.now.monotonic + Duration::from_secs(60));
    world.now.wall_ms += 3_600_000;
    world.now.monotonic = asked;
    world.wait(0);
    assert_eq!(world.ends_told().len(), 1);
    world.now.wall_ms -= 3_600_000;
    for _ in 0..2 {
        let frames = world.hello(&device, 1, 0);
        assert_eq!(entries_of(&frames), []);
        assert_eq!(skips_of(&frames, stream), [(1, 1, SkipReason::Expired)]);
        world.restart();
    }
    // An hour ahead is not yet over for what is of now.
    world.post_for(person, stream, "two", 60);
    let frames = world.hello(&device, 2, 0);
    assert_eq!(entries_of(&frames), [(2, 0)]);
}

#[test]
fn members_of_a_group_who_have_it_are_not_counted_and_its_topic_carries_nothing_that_ended() {
    let (mut world, a) = World::in_session();
    let (b, c) = (world.add_device(), world.add_device());
    let person = world.add_person();
    let new = NewGroup {
        name: "North".into(),
        devices: vec![a.id, b.id, c.id],
        history: History::SinceJoining,
    };
    let Made::Group(group) = world.make(|core, now| core.add_group(new, now)).unwrap() else {
        panic!("a group was made")
    };
    world.settle();
    let stream = world.core.group(group).unwrap().group.stream;
    let number = world.post_for(person, stream, "meet at the depot", 60).number();
    world.up(&a, &reported(1, cursor(stream, number, 0)));
    world.wait(61);
    assert_eq!(world.ends_told(), [expired(stream, number, 2)]);
    assert!(world.row(stream, number, Member::Device(a.id)).expired.is_none());
    assert!(world.row(stream, number, Member::Device(b.id)).expired.is_some());
    let frames = world.hello(&b, 1, 0);
    assert_eq!(
        skips_of(&frames, stream).last(),
        Some(&(number, 1, SkipReason::Expired))
    );
    assert!(world.to_groups.iter().all(|(_, frame)| frame.entries.is_empty()));
}

#[test]
fn a_broadcast_that_ended_is_counted_for_those_who_had_it() {
    let (mut world, a) = World::in_session();
    let (b, person) = (world.add_device(), world.add_person());
    let new = NewBroadcast {
        author: person,
        devices: vec![a.id, b.id],
        groups: vec![],
        body: NewBody::Text("Snow on the pass".into()),
        urgent: true,
        expires_ms: Some(START_MS + 60_000),
    };
    let Made::Broadcast(stream) = world.make(|core, now| core.add_broadcast(new, now)).unwrap() else {
        panic!("a broadcast was made")
    };
    world.settle();
    world.up(&a, &reported(1, cursor(stream, 1, 0)));
    world.wait(61);
    assert_eq!(world.ends_told(), [expired(stream, 1, 1)]);
    let frames = world.hello(&b, 1, 0);
    assert_eq!(skips_of(&frames, stream), [(1, 1, SkipReason::Expired)]);
    world.up(&b, &reported(1, cursor(stream, 1, 1)));
    let expected = Counts {
        recipients: 2,
        sent: 1,
        delivered: 1,
        read: 0,
        acted: 0,
    };
    assert_eq!(world.core.counts(stream), expected);
}

#[test]
fn a_device_gets_the_place_of_its_own_words_also_when_they_have_ended() {
    let (mut world, device) = World::in_session();
    let mut frame = ops(1, 1, device.stream, &["at the gate until three"]);
    frame.ops[0].expires_in_s = 60;
    world.up(&device, &frame);
    world.wait(61);
    let ended = [expired(device.stream, 1, 1)];
    assert_eq!(world.ends_told(), ended, "the office has not read it");
    assert_eq!(entries_of(&world.hello(&device, 2, 0)), [(1, 1)]);
}

#[test]
fn an_operation_that_comes_too_late_is_refused_until_it_is_void_and_told_once() {
    let (mut world, device) = World::in_session();
    let late = |age_s| {
        let mut frame = ops(1, 1, device.stream, &["at the gate"]);
        (frame.ops[0].expires_in_s, frame.ops[0].age_s) = (60, age_s);
        frame
    };
    for age_s in [60, 75] {
        let frames = world.up(&device, &late(age_s));
        assert_eq!(refusals_of(&frames), [(1, RefusalReason::Expired)]);
        let accepted = frames.iter().map(|frame| frame.accepted_through).max();
        assert_eq!(accepted, Some(0), "an acknowledgement would mean accepted");
    }
    assert_eq!((world.texts(device.stream), world.ends_told()), (vec![], vec![]));
    let void = wire::UpFrame {
        stamp: stamp(1, 30),
        voids: vec![wire::VoidRange {
            first_op: 1,
            count: 1,
            reason: wire::VoidReason::Expired.into(),
        }],
        ..Default::default()
    };
    for _ in 0..2 {
        let frames = world.up(&device, &void);
        assert_eq!(frames.last().unwrap().accepted_through, 1);
    }
    let told = EventKind::OperationsExpired {
        device: device.id,
        first_op: 1,
        count: 1,
    };
    assert_eq!(world.ends_told(), [told]);
}

#[test]
fn an_operation_that_was_taken_in_time_is_acknowledged_however_late_it_comes_again() {
    let (mut world, device) = World::in_session();
    let mut frame = ops(1, 1, device.stream, &["at the gate"]);
    frame.ops[0].expires_in_s = 60;
    world.up(&device, &frame);
    frame.ops[0].age_s = 3_600;
    let frames = world.up(&device, &frame);
    assert_eq!(refusals_of(&frames), []);
    assert_eq!(frames.last().unwrap().accepted_through, 1);
}

#[test]
fn what_is_superseded_before_it_is_held_travels_as_a_skip_range() {
    let mut world = World::new();
    let device = world.add_device();
    let (person, stream, member) = (world.add_person(), device.stream, Member::Device(device.id));
    world.post(person, stream, "dock 2");
    world.post(person, stream, "bring the pallets");
    assert_eq!(world.supersede(person, stream, 1).unwrap().number(), 3);
    let (old, by) = (seq(1), seq(3));
    let told = EventKind::EntrySuperseded { stream, seq: old, by };
    assert_eq!(world.ends_told(), [told]);
    let entry = |world: &World, number| world.store.entry(stream, seq(number)).unwrap().unwrap();
    assert_eq!(entry(&world, 1).superseded_by, Some(by));
    assert_eq!(entry(&world, 3).supersedes, Some(old));
    world.restart();
    let frames = world.hello(&device, 1, 0);
    assert_eq!(entries_of(&frames), [(2, 0), (3, 0)]);
    assert_eq!(skips_of(&frames, stream), [(1, 1, SkipReason::Superseded)]);
    let named: Vec<u64> = frames
        .iter()
        .flat_map(|frame| &frame.entries)
        .flat_map(|run| &run.entries)
        .map(|entry| entry.supersedes)
        .collect();
    assert_eq!(named, [0, 1]);
    world.up(&device, &reported(1, cursor(stream, 3, 3)));
    assert!(world.row(stream, 1, member).delivered.is_none());
    assert!(world.row(stream, 3, member).read.is_some());
}

#[test]
fn an_urgent_entry_that_is_superseded_does_not_go_ahead_any_more() {
    for urgent in [[true, false], [false, true], [true, true]] {
        let mut world = World::new();
        let device = world.add_device();
        let (person, stream) = (world.add_person(), device.stream);
        let post = |world: &mut World, urgent, supersedes| {
            let new = NewEntry {
                urgent,
                supersedes,
                ..by_person(person, stream, "dock")
            };
            world.post_entry(new).unwrap();
            world.settle();
        };
        world.post(person, stream, "before");
        post(&mut world, urgent[0], None);
        post(&mut world, urgent[1], Seq::new(2));
        let frames = world.hello(&device, 1, 0);
        let mut seqs: Vec<u64> = entries_of(&frames).iter().map(|(seq, _)| *seq).collect();
        seqs.sort_unstable();
        assert_eq!(seqs, [1, 3], "{urgent:?}");
        assert_eq!(
            skips_of(&frames, stream),
            [(2, 1, SkipReason::Superseded)],
            "{urgent:?}"
        );
    }
}

#[test]
fn only_ones_own_message_is_superseded_and_only_once() {
    let (mut world, device) = World::in_session();
    let (person, stream) = (world.add_person(), device.stream);
    world.post(person, stream, "from the office");
    world.up(&device, &ops(1, 1, stream, &["from the driver"]));
    for (replaced, what) in [(2, "of the driver"), (9, "that there is not"), (3, "itself")] {
        let refused = world.supersede(person, stream, replaced);
        let invalid = matches!(&refused, Err(BridgeError::Invalid { field, .. }) if field == "/supersedes");
        assert!(invalid, "{what}: {refused:?}");
    }
    assert_eq!(world.supersede(person, stream, 1).unwrap().number(), 3);
    let refused = world.supersede(person, stream, 1);
    let named = matches!(refused, Err(BridgeError::Superseded { by }) if by.number() == 3);
    assert!(named, "{refused:?}");
    assert_eq!(
        world.supersede(person, stream, 3).unwrap().number(),
        4,
        "the one that counts now"
    );

    // The same for what a device does; and what it waits for keeps its order.
    let by_device = |first_op, replaced| {
        let mut frame = ops(1, first_op, stream, &["instead", "and more"]);
        frame.ops[0].supersedes = replaced;
        frame
    };
    for (op, replaced) in [(2, 1), (2, 99)] {
        let frames = world.up(&device, &by_device(op, replaced));
        assert_eq!(refusals_of(&frames), [(op, RefusalReason::UnknownEntry)]);
    }
    world.up(&device, &by_device(4, 2));
    let frames = world.up(&device, &by_device(4, 2));
    assert_eq!(refusals_of(&frames), [], "a repetition is no second superseding");
    let frames = world.up(&device, &by_device(6, 2));
    assert_eq!(refusals_of(&frames), [(6, RefusalReason::UnknownEntry)]);
    let texts = world.texts(stream);
    assert_eq!(texts[texts.len() - 3..], ["instead", "and more", "and more"]);
    let old = world.store.entry(stream, seq(2)).unwrap().unwrap();
    assert!(old.superseded_by.is_some());
}

#[test]
fn two_who_supersede_at_the_same_moment_do_not_both() {
    let (mut world, device) = World::in_session();
    let (person, stream) = (world.add_person(), device.stream);
    world.post(person, stream, "dock 2");
    let new = NewEntry {
        supersedes: Seq::new(1),
        ..by_person(person, stream, "dock 4")
    };
    // The first is not on disk yet when the second is looked at.
    world.post_entry(new.clone()).unwrap();
    let refused = world.post_entry(new);
    assert!(matches!(refused, Err(BridgeError::Superseded { by }) if by.number() == 2));
    world.settle();
}

#[test]
fn many_that_end_at_one_moment_are_closed_in_bounded_steps() {
    let mut world = World::new();
    let device = world.add_device();
    let (person, stream) = (world.add_person(), device.stream);
    for number in 0..600 {
        world.post_for(person, stream, &format!("{number}"), 60);
    }
    world.now.wall_ms += 61_000;
    world.core.handle_timeout(world.now);
    world.drain();
    let largest = world.unsynced.iter().map(|(_, changes)| changes.len()).max();
    assert_eq!(largest, Some(512), "a mark and an event for each of 256");
    world.settle();
    for _ in 0..3 {
        world.wait(0);
    }
    assert_eq!(world.ends_told().len(), 600);
    let frames = world.hello(&device, 1, 0);
    assert_eq!(
        skips_of(&frames, stream),
        [(1, 600, SkipReason::Expired)],
        "one skip range"
    );
}
