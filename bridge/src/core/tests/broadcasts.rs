//! Broadcasts: recipients fixed at the start, answers in the direct streams, and who has not come how far.

use super::*;
use crate::broadcast::{Counts, NewBroadcast};
use crate::group::{GroupPatch, History, NewGroup};

fn to(author: PersonId, devices: &[DeviceId], groups: &[GroupId]) -> NewBroadcast {
    NewBroadcast {
        author,
        devices: devices.to_vec(),
        groups: groups.to_vec(),
        body: NewBody::Text("Snow on the pass".into()),
        urgent: true,
        expires_ms: None,
    }
}

impl World {
    fn broadcast(&mut self, new: NewBroadcast) -> StreamId {
        let Made::Broadcast(stream) = self.make(|core, now| core.add_broadcast(new, now)).unwrap() else {
            panic!("a broadcast was made")
        };
        self.settle();
        stream
    }

    fn counts_of(&self, stream: StreamId) -> Counts {
        self.core.counts(stream)
    }
}

fn answer(device: &Device, broadcast: StreamId, reply_to: u64) -> wire::UpFrame {
    let mut frame = ops(1, 1, device.stream, &["Seen"]);
    frame.ops[0].reply_to = reply_to;
    frame.ops[0].reply_stream = broadcast.number();
    frame
}

#[test]
fn a_broadcast_reaches_its_recipients_and_is_answered_in_their_own_streams() {
    let (mut world, a) = World::in_session();
    let (b, c) = (world.add_device(), world.add_device());
    let person = world.add_person();
    let Made::Group(group) = world
        .make(|core, now| {
            let new = NewGroup {
                name: "North".into(),
                devices: vec![a.id, b.id],
                history: History::SinceJoining,
            };
            core.add_group(new, now)
        })
        .unwrap()
    else {
        panic!("a group was made")
    };
    world.settle();
    world.sent.clear();
    let stream = world.broadcast(to(person, &[c.id, a.id], &[group]));
    let expected = |sent, delivered, read, acted| Counts {
        recipients: 3,
        sent,
        delivered,
        read,
        acted,
    };
    assert_eq!(world.counts_of(stream), expected(1, 0, 0, 0));
    let runs: Vec<wire::EntryRun> = world
        .frames()
        .iter()
        .flat_map(|frame| frame.entries.clone())
        .collect();
    let run = runs.iter().find(|run| run.stream == stream.number()).unwrap();
    assert_eq!(run.kind(), wire::StreamKind::Broadcast);
    world.up(&a, &reported(1, cursor(stream, 1, 0)));
    assert_eq!(world.counts_of(stream), expected(1, 1, 0, 0));
    world.up(&a, &reported(1, cursor(stream, 1, 1)));
    assert_eq!(world.counts_of(stream), expected(1, 1, 1, 0));
    let frames = world.up(&a, &answer(&a, stream, 1));
    assert_eq!(refusals_of(&frames), []);
    assert_eq!(world.counts_of(stream), expected(1, 1, 1, 1));
    let entry = world
        .store
        .entry(a.stream, Seq::new(1).unwrap())
        .unwrap()
        .unwrap();
    assert_eq!(
        (entry.reply_to.map(Seq::number), entry.reply_stream),
        (Some(1), Some(stream))
    );
    let view = world.core.stream(None, stream).unwrap();
    assert_eq!(view.head, 1, "the answer is not in the broadcast");
    let rows = world
        .store
        .receipts(&view.stream, Seq::new(1).unwrap())
        .unwrap()
        .unwrap();
    let acted: Vec<Member> = rows
        .iter()
        .filter(|row| row.acted.is_some())
        .map(|row| row.member)
        .collect();
    assert_eq!(acted, [Member::Device(a.id)]);
    world.restart();
    assert_eq!(world.counts_of(stream), expected(1, 1, 1, 1), "it is all on disk");
}

#[test]
fn recipients_are_those_of_the_moment_it_was_accepted() {
    let mut world = World::new();
    let (a, b) = (world.add_device(), world.add_device());
    let person = world.add_person();
    let new = NewGroup {
        name: "North".into(),
        devices: vec![a.id],
        history: History::All,
    };
    let Made::Group(group) = world.make(|core, now| core.add_group(new, now)).unwrap() else {
        panic!("a group was made")
    };
    world.settle();
    let stream = world.broadcast(to(person, &[], &[group]));
    let patch = GroupPatch {
        devices: Some(vec![b.id]),
        ..Default::default()
    };
    world.core.update_group(group, patch, world.now).unwrap();
    world.settle();
    let heard = |frames: Vec<wire::DownFrame>| {
        frames
            .iter()
            .flat_map(|frame| &frame.entries)
            .any(|run| run.stream == stream.number())
    };
    assert!(
        heard(world.hello(&a, 1, 0)),
        "who left since is still a recipient"
    );
    assert!(!heard(world.hello(&b, 1, 0)));
}

#[test]
fn an_answer_is_one_to_what_was_received() {
    let (mut world, a) = World::in_session();
    let b = world.add_device();
    world.hello(&b, 1, 0);
    let person = world.add_person();
    let stream = world.broadcast(to(person, &[a.id], &[]));
    for (device, frame, reason) in [
        (&b, answer(&b, stream, 1), RefusalReason::UnknownEntry),
        (&a, answer(&a, stream, 2), RefusalReason::UnknownEntry),
        (&a, answer(&a, stream, 0), RefusalReason::UnknownEntry),
        (&a, answer(&a, b.stream, 1), RefusalReason::UnknownEntry),
        (
            &a,
            ops(1, 1, stream, &["into the broadcast itself"]),
            RefusalReason::NotAMember,
        ),
    ] {
        let frames = world.up(device, &frame);
        assert_eq!(refusals_of(&frames), [(1, reason)]);
    }
    let refused = world.post_entry(by_person(person, stream, "and another thing"));
    assert!(matches!(refused, Err(BridgeError::Conflict(_))), "{refused:?}");
}

#[test]
fn a_broadcast_needs_recipients_who_are_there() {
    let mut world = World::new();
    let device = world.add_device();
    let person = world.add_person();
    world.core.revoke_device(device.id, world.now).unwrap();
    world.settle();
    for (new, named) in [
        (to(person, &[], &[]), "/to"),
        (to(person, &[device.id], &[]), "/to/devices"),
        (to(person, &[], &[GroupId::new(9).unwrap()]), "/to/groups"),
    ] {
        match world.make(|core, now| core.add_broadcast(new, now)) {
            Err(BridgeError::Invalid { field, .. }) => assert_eq!(field, named),
            other => panic!("{other:?}"),
        }
    }
}
