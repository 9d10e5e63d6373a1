//! A server that was put back from a backup.

use super::{accepted, entries};
use crate::core::harness::{Device, Disk, own, run, seq, stream, text, text_of};
use crate::core::{Draft, Mutation, write::PostId};
use std::time::Duration;
use waypost_proto::wire;
use waypost_proto::{Fix, Incarnation, TrackKind, number_operations};

/// An entry of device 300, which calls it its operation 9.
fn of_another_device(stream: u32, seq: u64, words: &str) -> wire::EntryRun {
    let entry = wire::Entry {
        author_device: 300,
        author_op: 9,
        server_ms: 1_000,
        body: Some(wire::entry::Body::Text(words.to_owned())),
        ..wire::Entry::default()
    };
    wire::EntryRun {
        stream,
        first_seq: seq,
        entries: vec![entry],
        ..Default::default()
    }
}

/// The welcome of a store that was put back to these heads, with the device's operations up to one.
fn restored(
    device: &Device,
    incarnation: u64,
    heads: &[(u32, u64)],
    accepted_through: u64,
) -> wire::DownFrame {
    let mut frame = device.welcome();
    frame.accepted_through = accepted_through;
    let welcome = frame.welcome.as_mut().unwrap();
    (welcome.incarnation, welcome.generation, welcome.want_positions) = (incarnation, 1, true);
    welcome.restored = Some(wire::Restored {
        last_stream: heads.iter().map(|&(stream, _)| stream).max().unwrap_or(0),
        heads: heads
            .iter()
            .map(|&(stream, seq)| wire::StreamHead { stream, seq })
            .collect(),
    });
    frame
}

fn confirm_shown(device: &mut Device) {
    for entry in device.shown.clone() {
        device.core.mark_shown(entry.stream, entry.seq, device.now);
    }
    device.settle();
    device.shown.clear();
}

fn history(device: &Device, of: u32) -> Vec<String> {
    let shelf = Incarnation::new(77).unwrap();
    let entries = device.store.history(shelf, stream(of), None, 99).unwrap();
    entries
        .iter()
        .map(|entry| format!("{} {}", entry.seq.number(), text_of(entry)))
        .collect()
}

fn reconnect(device: &mut Device) {
    device.disconnect();
    device.connect();
    device.take_frames();
}

/// Four operations of the device, of which the first two are entries, and one that answers what will be lost.
fn a_device_with_a_past() -> Device {
    let mut device = Device::new();
    device.in_step();
    device.receive(&entries(&device, vec![run(4, 1, &["a", "b"])]));
    device.post(text(stream(4), "mine 1"));
    device.receive(&accepted(&device, 1));
    device.post(text(stream(4), "mine 2"));
    device.post(Draft::track(
        vec![Fix::from_degrees(1, 2.0, 3.0).unwrap()],
        TrackKind::Travelled,
    ));
    device.receive(&accepted(&device, 3));
    device.receive(&entries(
        &device,
        vec![own(4, 3, 1), own(4, 4, 2), of_another_device(4, 5, "theirs")],
    ));
    assert_eq!(device.shown_texts(), ["a", "b", "mine 1", "mine 2", "theirs"]);
    confirm_shown(&mut device);
    let mut answer = text(stream(4), "an answer").content;
    answer.reply_to = 5;
    device.post(Draft::settled(answer));
    device
}

#[test]
fn a_restored_server_gets_back_what_it_lost_and_nothing_is_shown_twice() {
    for power_cut in [false, true] {
        let mut device = a_device_with_a_past();
        device.pass(Duration::from_secs(100));
        if power_cut {
            device = device.restart();
        }
        reconnect(&mut device);
        device.receive(&restored(&device, 78, &[(4, 3)], 1));
        let frames = device.take_frames();
        let positions = frames.iter().find_map(|frame| frame.positions.clone()).unwrap();
        assert_eq!(
            (positions.cursors[0].stream, positions.cursors[0].delivered),
            (4, 3),
            "up to the fork all is the same"
        );
        let offered: Vec<_> = frames
            .iter()
            .flat_map(|frame| number_operations(frame).unwrap())
            .collect();
        let mut numbers: Vec<u64> = offered.iter().map(|offered| offered.op.number()).collect();
        if numbers.len() < 3 {
            // What follows in the stream waits for what is under way.
            device.receive(&accepted(&device, 3));
            numbers.extend(device.take_sent());
        }
        numbers.sort_unstable();
        assert_eq!(numbers, [2, 3, 4], "{power_cut}");
        let again = offered.iter().find(|offered| offered.op.number() == 2).unwrap();
        assert!(
            again.age_s >= 100,
            "it was said when it was said: {}",
            again.age_s
        );
        for operation in frames.iter().flat_map(|frame| &frame.ops) {
            assert_eq!(operation.reply_to, 0, "what it answered is lost: {operation:?}");
        }
        assert!(frames.iter().all(|frame| frame.voids.is_empty()));

        device.receive(&accepted(&device, 4));
        device.receive(&entries(
            &device,
            vec![
                of_another_device(4, 4, "theirs"),
                own(4, 5, 2),
                own(4, 6, 4),
                run(4, 7, &["new"]),
            ],
        ));
        assert_eq!(device.shown_texts(), ["an answer", "new"], "{power_cut}");
        assert_eq!(device.core.waiting_ops(), 0);
        let expected = [
            "1 a",
            "2 b",
            "3 mine 1",
            "4 theirs",
            "5 mine 2",
            "6 an answer",
            "7 new",
        ];
        assert_eq!(history(&device, 4), expected);
        confirm_shown(&mut device);
        assert_eq!(device.core.unshown(), 0);
        let mut device = device.restart();
        device.core.offer_again();
        device.settle();
        assert_eq!(device.shown_texts(), [""; 0]);

        // And once more, from a backup of the restored one.
        reconnect(&mut device);
        device.receive(&restored(&device, 79, &[(4, 6)], 2));
        assert_eq!(device.take_sent().len(), 2, "the track and the answer");
        assert_eq!(history(&device, 4), expected[..6]);
    }
}

#[test]
fn words_of_another_entry_under_a_number_that_was_shown_are_shown() {
    let mut device = a_device_with_a_past();
    reconnect(&mut device);
    device.receive(&restored(&device, 78, &[(4, 3)], 3));
    device.receive(&entries(
        &device,
        vec![
            of_another_device(4, 4, "other words"),
            of_another_device(4, 5, "theirs"),
        ],
    ));
    assert_eq!(device.shown_texts(), ["other words"], "and what was shown is not");
}

#[test]
fn what_was_not_confirmed_before_the_restore_is_shown_when_it_comes_again() {
    let mut device = Device::new();
    device.in_step();
    device.receive(&entries(&device, vec![of_another_device(4, 1, "theirs")]));
    reconnect(&mut device);
    device.receive(&restored(&device, 78, &[(4, 0)], 0));
    device.shown.clear();
    device.receive(&entries(&device, vec![of_another_device(4, 1, "theirs")]));
    assert_eq!(device.shown_texts(), ["theirs"]);
}

#[test]
fn of_streams_stays_what_the_restored_store_has_as_well() {
    let mut device = Device::new();
    device.in_step();
    let broadcast = |stream, words: &str| wire::EntryRun {
        kind: wire::StreamKind::Broadcast.into(),
        ..run(stream, 1, &[words])
    };
    device.receive(&entries(
        &device,
        vec![
            run(4, 1, &["office"]),
            run(5, 1, &["a group that is not listed"]),
            broadcast(6, "a broadcast before"),
            run(7, 1, &["a group", "later"]),
            broadcast(8, "a broadcast after"),
        ],
    ));
    reconnect(&mut device);
    device.receive(&restored(&device, 78, &[(4, 1), (7, 1)], 0));
    let frames = device.take_frames();
    let positions = frames.iter().find_map(|frame| frame.positions.clone()).unwrap();
    let held: Vec<_> = positions
        .cursors
        .iter()
        .map(|cursor| (cursor.stream, cursor.delivered))
        .collect();
    assert_eq!(held, [(4, 1), (6, 1), (7, 1)]);
    let left: Vec<_> = (4..9).map(|stream| history(&device, stream).len()).collect();
    assert_eq!(left, [1, 0, 1, 1, 0]);
    let device = device.restart();
    assert_eq!(device.core.inbox.positions(), positions, "so it is on disk");
}

#[test]
fn a_reading_on_its_way_to_the_disk_counts_up_to_the_fork() {
    let mut device = Device::new();
    device.in_step();
    device.receive(&entries(&device, vec![run(4, 1, &["a", "b", "c"])]));
    device.disconnect();
    device.connect();
    device.disk = Disk::Stuck;
    device.core.mark_read(stream(4), seq(3), device.now);
    device.receive(&restored(&device, 78, &[(4, 2)], 0));
    device.sync();
    device.pass(Duration::from_secs(1));
    let frames = device.take_frames();
    let reported = frames
        .iter()
        .flat_map(|frame| &frame.cursors)
        .next_back()
        .unwrap();
    assert_eq!((reported.delivered, reported.read), (2, 2), "{frames:?}");
}

#[test]
fn what_was_accepted_is_kept_as_often_as_it_has_to_be_and_no_longer() {
    let mut device = Device::new();
    device.in_step();
    device.post(text(stream(4), "first"));
    device.receive(&accepted(&device, 1));
    device.receive(&entries(&device, vec![own(4, 1, 1)]));
    device.now.wall_ms += 8 * 86_400_000;
    device.post(text(stream(4), "second"));
    device.receive(&accepted(&device, 2));
    let mut kept = Vec::new();
    device.store.kept(|stored, _| kept.push(stored.id)).unwrap();
    assert_eq!(kept, [PostId(2)]);
    device.disk = Disk::Stuck;
    device.receive(&wire::DownFrame {
        forked_op: 3,
        ..device.down()
    });
    assert!(
        device
            .unsynced_mutations()
            .iter()
            .any(|write| matches!(write, Mutation::Epoch { .. }))
    );
    device.sync();
    device
        .store
        .kept(|stored, _| panic!("{stored:?} is of another epoch"))
        .unwrap();
}
