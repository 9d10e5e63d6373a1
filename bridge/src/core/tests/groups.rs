//! Groups: once on the topic for all who listen, and not a byte for one who has left.

use super::*;
use crate::entry::MembershipChange;
use crate::group::{GroupPatch, History, NewGroup};
use waypost_proto::groups_digest;

impl World {
    fn add_group(&mut self, devices: &[&Device], history: History) -> crate::group::GroupView {
        let new = NewGroup {
            name: "North".into(),
            devices: devices.iter().map(|device| device.id).collect(),
            history,
        };
        let Made::Group(id) = self.make(|core, now| core.add_group(new, now)).unwrap() else {
            panic!("a group was made")
        };
        self.settle();
        self.core.group(id).unwrap()
    }

    fn set_members(&mut self, group: GroupId, devices: &[&Device]) {
        let patch = GroupPatch {
            devices: Some(devices.iter().map(|device| device.id).collect()),
            ..Default::default()
        };
        self.core.update_group(group, patch, self.now).unwrap();
        self.settle();
    }

    /// The device has subscribed the topics of all its groups and says so.
    fn listen(&mut self, device: &Device, tag: u32) {
        let digest = groups_digest(&self.core.groups_of(device.id));
        let known = wire::Known {
            groups_digest: digest,
            catalogue: 0,
        };
        self.up(
            device,
            &wire::UpFrame {
                stamp: stamp(tag, 1),
                known: Some(known),
                ..Default::default()
            },
        );
    }

    fn hold(&mut self, device: &Device, tag: u32, stream: StreamId, through: u64) {
        self.up(device, &reported(tag, cursor(stream, through, 0)));
    }

    /// Every entry and skipped number of a stream that went to a device since the last look, on either topic.
    fn heard(&mut self, device: &Device, stream: StreamId) -> Vec<u64> {
        let own = std::mem::take(&mut self.sent)
            .into_iter()
            .filter(|(to, _)| *to == device.id)
            .flat_map(|(_, frame)| {
                let skipped = frame
                    .skips
                    .into_iter()
                    .filter(move |skip| skip.stream == stream.number());
                let runs = frame
                    .entries
                    .into_iter()
                    .filter(move |run| run.stream == stream.number());
                let numbers = runs.flat_map(|run| run.first_seq..run.first_seq + run.entries.len() as u64);
                let skipped = skipped.flat_map(|skip| skip.first_seq..skip.first_seq + skip.count);
                skipped.chain(numbers).collect::<Vec<_>>()
            });
        own.collect()
    }

    fn hear_after_hello(&mut self, device: &Device, tag: u32, digest: u64, stream: StreamId) -> Vec<u64> {
        let frames = self.hello(device, tag, digest);
        self.sent = frames.into_iter().map(|frame| (device.id, frame)).collect();
        self.heard(device, stream)
    }

    fn heard_by_all(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.to_groups)
            .into_iter()
            .flat_map(|(_, frame)| frame.entries)
            .flat_map(|run| run.first_seq..run.first_seq + run.entries.len() as u64)
            .collect()
    }
}

/// Two members in step, who listen on the group's topic and hold what there is.
fn two_who_listen() -> (World, Device, Device, crate::group::GroupView) {
    let mut world = World::new();
    let (a, b) = (world.add_device(), world.add_device());
    let group = world.add_group(&[&a, &b], History::SinceJoining);
    for device in [&a, &b] {
        world.hello(device, 1, 0);
        world.listen(device, 1);
        world.hold(device, 1, group.group.stream, 2);
    }
    world.sent.clear();
    world.to_groups.clear();
    (world, a, b, group)
}

#[test]
fn a_device_is_told_its_groups_until_it_knows_them() {
    let mut world = World::new();
    let device = world.add_device();
    let group = world.add_group(&[&device], History::SinceJoining);
    let told = |frames: &[wire::DownFrame]| -> Vec<wire::Groups> {
        frames.iter().filter_map(|frame| frame.groups.clone()).collect()
    };
    let frames = world.hello(&device, 1, 0);
    let [groups] = &told(&frames)[..] else {
        panic!("told once with the welcome: {frames:?}")
    };
    assert!(
        frames[0].welcome.is_some() && frames[0].groups.is_some(),
        "in the same frame"
    );
    assert_eq!(groups.groups[0].group, group.group.id.number());
    assert_eq!(groups.groups[0].title, "North");
    world.sent.clear();
    world.advance(11);
    assert_eq!(told(&world.frames()).len(), 1, "again, as nothing was heard");
    world.listen(&device, 1);
    world.hold(&device, 1, group.group.stream, 1);
    world.sent.clear();
    world.advance(60);
    assert_eq!(told(&world.frames()).len(), 0);

    world.set_members(group.group.id, &[]);
    let frames = world.frames();
    assert_eq!(told(&frames), [wire::Groups::default()], "it has none any more");
}

#[test]
fn what_is_said_in_a_group_goes_out_once_for_all_who_listen() {
    let (mut world, a, b, group) = two_who_listen();
    let stream = group.group.stream;
    let person = world.add_person();
    world.post(person, stream, "hello");
    assert_eq!(world.heard_by_all(), [3]);
    for device in [&a, &b] {
        assert!(
            !world.sent.iter().any(|(to, _)| *to == device.id),
            "nothing on its own topic"
        );
        let receipts = world.store.receipts(
            &world.core.stream(None, stream).unwrap().stream,
            Seq::new(3).unwrap(),
        );
        let rows = receipts.unwrap().unwrap();
        assert!(
            rows.iter()
                .any(|row| row.member == Member::Device(device.id) && row.sent.is_some())
        );
    }
    // One of them has lost it: it comes again, to that one alone.
    world.hold(&a, 1, stream, 3);
    world.sent.clear();
    world.advance(11);
    assert_eq!(world.heard_by_all(), Vec::<u64>::new());
    assert_eq!(world.heard(&b, stream), [3]);
}

#[test]
fn a_member_whose_window_is_full_is_not_sent_a_groups_words_beyond_it() {
    let (mut world, a, b, group) = two_who_listen();
    let stream = group.group.stream;
    let person = world.add_person();
    for _ in 0..40 {
        world.post(person, a.stream, &"x".repeat(1_000));
    }
    world.sent.clear();
    world.post(person, stream, &"y".repeat(1_000));
    assert_eq!(
        world.heard_by_all(),
        Vec::<u64>::new(),
        "the broker would bring it to both"
    );
    let to_b = world.sent.clone();
    assert_eq!(world.heard(&a, stream), Vec::<u64>::new());
    world.sent = to_b;
    assert_eq!(world.heard(&b, stream), [3]);
    // Once there is room it comes, again until it is held, and the next one goes out once for both.
    for through in 1..=40 {
        world.hold(&a, 1, a.stream, through);
    }
    world.advance(11);
    assert_eq!(world.heard(&a, stream), [3]);
    for device in [&a, &b] {
        world.hold(device, 1, stream, 3);
    }
    world.post(person, stream, "all");
    assert_eq!(world.heard_by_all(), [4]);
}

#[test]
fn an_author_is_told_the_place_of_its_words_on_its_own_topic() {
    let (mut world, a, b, group) = two_who_listen();
    let stream = group.group.stream;
    let frames = world.up(&a, &ops(1, 1, stream, &["from a"]));
    assert_eq!(entries_of(&frames), [(3, 1)], "a stub for the author");
    assert_eq!(world.heard_by_all(), [3]);
    assert_eq!(world.heard(&b, stream), Vec::<u64>::new());
    let names: Vec<u32> = world
        .up(&a, &ops(1, 2, stream, &["again"]))
        .iter()
        .flat_map(|f| &f.names)
        .map(|n| n.device)
        .collect();
    assert_eq!(names, Vec::<u32>::new(), "a device knows its own name");
    assert_eq!(world.to_groups[0].1.names[0].device, a.id.number());
}

#[test]
fn a_member_who_does_not_listen_is_served_on_its_own_topic() {
    let (mut world, a, _, group) = two_who_listen();
    let c = world.add_device();
    world.hello(&c, 1, 0);
    world.set_members(group.group.id, &[&a, &c]);
    world.sent.clear();
    world.to_groups.clear();
    let person = world.add_person();
    world.post(person, group.group.stream, "hello");
    let heard = world.heard(&c, group.group.stream);
    assert!(heard.ends_with(&[5]), "{heard:?}");
}

#[test]
fn one_who_is_removed_hears_not_a_byte_more_on_any_topic() {
    let (mut world, a, b, group) = two_who_listen();
    let stream = group.group.stream;
    let away = world.add_device();
    world.set_members(group.group.id, &[&a, &b, &away]);
    world.hold(&a, 1, stream, 3);
    world.hold(&b, 1, stream, 3);
    let person = world.add_person();
    world.post(person, stream, "all of you");
    world.hold(&b, 1, stream, 4);
    world.sent.clear();
    world.to_groups.clear();

    // Taken out while one is connected and the other away, and spoken of at once, before anything is on disk.
    let patch = GroupPatch {
        devices: Some(vec![a.id]),
        ..Default::default()
    };
    world.core.update_group(group.group.id, patch, world.now).unwrap();
    world
        .post_entry(by_person(person, stream, "not for them"))
        .unwrap();
    world.settle();
    let ends: Vec<(DeviceId, usize)> = world
        .ended
        .iter()
        .map(|(device, _, frames)| (*device, *frames))
        .collect();
    assert_eq!(ends, [(b.id, 0), (away.id, 0)], "before anything later went out");
    assert_eq!(world.heard(&b, stream), Vec::<u64>::new());
    let refused = world.up(&b, &ops(1, 1, stream, &["still there?"]));
    assert_eq!(refusals_of(&refused), [(1, RefusalReason::NotAMember)]);

    // The one who was away gets what was said until then, and no number above it.
    let heard = world.hear_after_hello(&away, 1, 0, stream);
    assert_eq!(heard.iter().max(), Some(&4), "{heard:?}");
    for seconds in [11, 40, 400] {
        world.advance(seconds);
    }
    let digest = positions_digest([(stream, &Cumulative::through_to(4))]);
    assert_eq!(world.hear_after_hello(&b, 2, digest, stream), Vec::<u64>::new());
    // Nor by claiming to hold less.
    let nothing = wire::UpFrame {
        stamp: stamp(2, 5),
        positions: Some(wire::TransferPositions::default()),
        ..Default::default()
    };
    world.sent.clear();
    world.core.handle_up(b.id, &nothing.encode_to_vec(), world.now);
    world.settle();
    let heard = world.heard(&b, stream);
    assert!(heard.iter().all(|seq| *seq <= 4), "{heard:?}");
}

#[test]
fn one_who_joins_sees_nothing_from_before_unless_the_group_says_so() {
    for (history, expected) in [(History::SinceJoining, None), (History::All, Some("before"))] {
        let mut world = World::new();
        let (a, late) = (world.add_device(), world.add_device());
        let group = world.add_group(&[&a], history);
        let person = world.add_person();
        world.post(person, group.group.stream, "before");
        world.hello(&late, 1, 0);
        world.sent.clear();
        world.set_members(group.group.id, &[&a, &late]);
        world.post(person, group.group.stream, "after");
        let frames = world.frames();
        let texts: Vec<String> = frames
            .iter()
            .flat_map(|frame| &frame.entries)
            .flat_map(|run| &run.entries)
            .filter_map(|entry| match &entry.body {
                Some(wire::entry::Body::Text(text)) => Some(text.clone()),
                _ => None,
            })
            .collect();
        let expected: Vec<String> = expected.into_iter().chain(["after"]).map(str::to_owned).collect();
        assert_eq!(texts, expected);
    }
}

#[test]
fn who_leaves_and_comes_back_has_two_intervals_and_no_gap_that_stalls() {
    let mut world = World::new();
    let (a, b) = (world.add_device(), world.add_device());
    let group = world.add_group(&[&a, &b], History::SinceJoining);
    let stream = group.group.stream;
    let person = world.add_person();
    world.set_members(group.group.id, &[&a]);
    world.post(person, stream, "while b is out");
    world.set_members(group.group.id, &[&a, &b]);
    world.post(person, stream, "b is back");
    let frames = world.hello(&b, 1, 0);
    let skips: Vec<(u64, u64, wire::SkipReason)> = frames
        .iter()
        .flat_map(|frame| &frame.skips)
        .map(|skip| (skip.first_seq, skip.count, skip.reason()))
        .collect();
    // 1: a joined (b may not know), 2: b joined, 3: b left, 4: said meanwhile, 5: b joined again, 6: b is back.
    assert_eq!(
        skips,
        [
            (1, 1, wire::SkipReason::NotAMember),
            (3, 2, wire::SkipReason::NotAMember)
        ]
    );
    assert_eq!(
        entries_of(&frames)
            .iter()
            .map(|(seq, _)| *seq)
            .collect::<Vec<_>>(),
        [2, 5, 6]
    );
}

#[test]
fn membership_survives_a_restart_and_a_deleted_group_takes_no_more() {
    let mut world = World::new();
    let (a, b) = (world.add_device(), world.add_device());
    let group = world.add_group(&[&a, &b], History::SinceJoining);
    world.set_members(group.group.id, &[&b]);
    world.restart();
    assert_eq!(world.core.group(group.group.id).unwrap().devices, [b.id]);
    world.core.delete_group(group.group.id, world.now).unwrap();
    world.settle();
    let person = world.add_person();
    let refused = world.post_entry(by_person(person, group.group.stream, "anybody?"));
    assert!(matches!(refused, Err(BridgeError::Conflict(_))), "{refused:?}");
    world.restart();
    assert!(world.core.group(group.group.id).is_none());
    let next = world.add_group(&[], History::All);
    assert_ne!(next.group.id, group.group.id, "a number is not given twice");
    let entries = world
        .store
        .entries(group.group.stream, Page::After(0), 99, 99)
        .unwrap();
    assert_eq!(
        entries.last().unwrap().body,
        EntryBody::Membership(b.id, MembershipChange::Left)
    );
}

#[test]
fn who_joins_and_leaves_is_nothing_to_read_for_the_office() {
    let mut world = World::new();
    let (a, b) = (world.add_device(), world.add_device());
    let person = world.add_person();
    let group = world.add_group(&[&a], History::SinceJoining);
    let unread = |world: &World| {
        world
            .core
            .stream(Some(person), group.group.stream)
            .unwrap()
            .unread
    };
    assert_eq!(unread(&world), 0);
    world.hello(&a, 1, 0);
    world.up(&a, &ops(1, 1, group.group.stream, &["from a"]));
    world.set_members(group.group.id, &[&a, &b]);
    assert_eq!(unread(&world), 2, "what was said before stays unread");
}

#[test]
fn two_changes_at_the_same_time_do_not_undo_each_other() {
    let mut world = World::new();
    let (a, b) = (world.add_device(), world.add_device());
    let group = world.add_group(&[&a, &b], History::SinceJoining);
    for device in [a.id, b.id] {
        let patch = crate::device::DevicePatch {
            groups: Some(vec![]),
            ..Default::default()
        };
        world.core.update_device(device, patch, world.now).unwrap();
    }
    world.settle();
    assert_eq!(world.core.group(group.group.id).unwrap().devices, []);
    let seqs: Vec<u64> = world
        .store
        .entries(group.group.stream, Page::After(0), 99, 99)
        .unwrap()
        .iter()
        .map(|entry| entry.seq.number())
        .collect();
    assert_eq!(seqs, [1, 2, 3, 4]);
}

#[test]
fn a_broker_that_cannot_end_subscriptions_is_not_given_a_groups_words() {
    let (mut world, a, b, group) = two_who_listen();
    world.core = Core::new(world.store.load(42).unwrap(), CoreOptions::default());
    for device in [&a, &b] {
        world.hello(
            device,
            2,
            positions_digest([(group.group.stream, &Cumulative::through_to(2))]),
        );
        world.listen(device, 2);
    }
    world.sent.clear();
    let person = world.add_person();
    world.post(person, group.group.stream, "hello");
    assert_eq!(world.heard_by_all(), Vec::<u64>::new());
    let sent = std::mem::take(&mut world.sent);
    for device in [&a, &b] {
        world.sent.clone_from(&sent);
        assert_eq!(world.heard(device, group.group.stream), [3]);
    }
}
