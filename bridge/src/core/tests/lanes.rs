//! Lanes and the window towards a device.

use super::*;
use crate::group::{History, NewGroup};

impl World {
    fn post_many(&mut self, device: &Device, author: PersonId, urgent: impl Fn(u64) -> bool, count: u64) {
        for number in 1..=count {
            let text = format!("{number} {}", "x".repeat(300));
            let new = NewEntry {
                urgent: urgent(number),
                ..by_person(author, device.stream, &text)
            };
            self.post_entry(new).unwrap();
            self.settle();
        }
    }

    /// Confirms whatever came, half a second after it was sent, until nothing comes any more. Returns how often each
    /// entry came.
    fn take_all(&mut self, device: &Device, mut frames: Vec<wire::DownFrame>) -> BTreeMap<u64, usize> {
        let (mut came, mut held) = (BTreeMap::new(), Cumulative::default());
        while !entries_of(&frames).is_empty() {
            for (seq, _) in entries_of(&frames) {
                *came.entry(seq).or_default() += 1;
                held.insert(seq);
                assert!(held.ranges() <= 8, "a ninth range: {held:?}");
            }
            self.now.monotonic += Duration::from_millis(500);
            let report = wire::Cursor {
                ranges: held.to_wire(),
                ..cursor(device.stream, held.through(), 0)
            };
            frames = self.up(device, &reported(1, report));
        }
        came
    }

    fn sent_at(&self, device: &Device, seq: u64) -> Option<i64> {
        let stream = &self.core.streams[&device.stream].stream;
        let receipts = self.store.receipts(stream, Seq::new(seq).unwrap()).unwrap();
        receipts
            .unwrap()
            .iter()
            .find_map(|row| row.sent.map(|sent| sent.server_ms))
    }
}

#[test]
fn urgent_entries_go_first_and_the_rest_follows_newest_streams_first() {
    let mut world = World::new();
    let (person, device) = (world.add_person(), world.add_device());
    let new = NewGroup {
        name: "North".into(),
        devices: vec![device.id],
        history: History::SinceJoining,
    };
    let Made::Group(group) = world.make(|core, now| core.add_group(new, now)).unwrap() else {
        panic!("a group was made")
    };
    world.settle();
    let channel = world.core.group(group).unwrap().group.stream;
    world.post_many(&device, person, |number| number % 20 == 0, 40);
    world.advance(1);
    world.post(person, channel, "to the group");
    // The marks are on disk.
    world.restart();
    let frames = world.hello(&device, 1, 0);
    let streams =
        |frame: &wire::DownFrame| -> Vec<u32> { frame.entries.iter().map(|run| run.stream).collect() };
    assert_eq!(entries_of(&frames[..1]), [(20, 0), (40, 0)]);
    assert!(frames[0].encoded_len() <= 1_200 && frames[0].welcome.is_some());
    assert_eq!(streams(&frames[0]), [device.stream.number(); 2]);
    let then = frames.iter().skip(1).flat_map(streams);
    assert_eq!(
        then.take(2).collect::<Vec<_>>(),
        [channel.number(), device.stream.number()]
    );
}

#[test]
fn each_entry_goes_once_whether_ahead_of_others_or_in_its_order() {
    let mut world = World::new();
    let (person, device) = (world.add_person(), world.add_device());
    world.post_many(&device, person, |number| number % 3 == 0, 100);
    let frames = world.hello(&device, 1, 0);
    // Nine would stand apart: one of them waits for its turn.
    let came = world.take_all(&device, frames);
    assert_eq!(came.len(), 100);
    assert!(came.values().all(|times| *times == 1), "{came:?}");
}

#[test]
fn only_what_was_sent_counts_as_sent() {
    let mut world = World::new();
    let (person, device) = (world.add_person(), world.add_device());
    world.post_many(&device, person, |number| number == 40, 50);
    let frames = world.hello(&device, 1, 0);
    let first_ms = world.now.wall_ms;
    assert_eq!(world.sent_at(&device, 40), Some(first_ms));
    assert_eq!(world.sent_at(&device, 39), None, "it has not left");
    world.now.wall_ms += 5_000;
    world.take_all(&device, frames);
    assert_eq!(world.sent_at(&device, 39), Some(first_ms + 5_000));
    assert_eq!(world.sent_at(&device, 40), Some(first_ms));
    assert_eq!(world.sent_at(&device, 41), Some(first_ms + 5_000));
}

#[test]
fn a_long_flow_is_not_repeated_while_it_is_answered() {
    let mut world = World::new();
    let (person, device) = (world.add_person(), world.add_device());
    world.post_many(&device, person, |_| false, 200);
    let frames = world.hello(&device, 1, 0);
    let mut last = entries_of(&frames).last().unwrap().0;
    let mut came = last;
    while came < 200 {
        // Every answer takes three seconds; the flow as a whole many times the repetition interval.
        world.advance(3);
        assert_eq!(entries_of(&world.frames()), [], "nothing is overdue");
        let frames = world.up(&device, &reported(1, cursor(device.stream, last, 0)));
        for (seq, _) in entries_of(&frames) {
            assert_eq!(seq, came + 1);
            came = seq;
        }
        last = came;
    }
    world.advance(11);
    assert!(
        !entries_of(&world.frames()).is_empty(),
        "the last ones have no answer"
    );
}

#[test]
fn the_index_of_urgent_entries_is_bounded_and_trimmed() {
    let mut world = World::new();
    let (person, device) = (world.add_person(), world.add_device());
    world.post_many(&device, person, |_| true, 300);
    let marked = |world: &World| {
        world
            .store
            .load(1)
            .unwrap()
            .urgent
            .get(&device.stream)
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!(marked(&world), (45..=300).collect());
    world.core.trim_urgent(device.stream, 200);
    world.core.commit();
    world.settle();
    assert_eq!(marked(&world), (201..=300).collect());
    let kept: Vec<u64> = world.core.urgent.between(device.stream, 1, 1_000).collect();
    assert_eq!(kept, (201..=300).collect::<Vec<_>>());
}
