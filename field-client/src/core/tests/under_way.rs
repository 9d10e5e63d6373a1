//! What a hello says of operations that the server may have seen, and which acknowledgements count for them.

use super::{accepted, entries};
use crate::core::harness::{Device, own, stream, text};
use crate::core::{Draft, PostId, Progress};
use waypost_proto::wire;
use waypost_proto::{ContentDigest, Fix, Operation, TrackKind, UNDER_WAY_MAX};

fn brief(words: &str) -> u32 {
    let operation = Operation::text(stream(4), words).to_wire();
    ContentDigest::of(&operation).brief().get()
}

fn track(at: i64) -> Draft {
    let fix = Fix::from_degrees(at, 2.0, 3.0).unwrap();
    Draft::track(vec![fix], TrackKind::Travelled)
}

/// Connects; the first number that the hello lists, and the digests.
fn hello(device: &mut Device) -> (u64, Vec<u32>) {
    device.connect();
    let frames = device.take_frames();
    let hello = frames.into_iter().filter_map(|frame| frame.hello).next_back();
    let hello = hello.expect("a hello has left");
    (hello.first_under_way, hello.under_way)
}

/// So many messages that an earlier process stored.
fn restored(words: impl Iterator<Item = String>) -> (Device, Vec<PostId>) {
    let mut device = Device::new();
    let posted = words.map(|words| device.post(text(stream(4), &words))).collect();
    (device.restart(), posted)
}

#[test]
fn a_hello_lists_nothing_where_nothing_was_sent() {
    let mut device = Device::new();
    assert_eq!(hello(&mut device), (0, vec![]));
    device.disconnect();
    device.post(text(stream(4), "rides along"));
    assert_eq!(hello(&mut device), (0, vec![]), "the server cannot have seen it");
    device.receive(&device.welcome());
    device.receive(&accepted(&device, 1));
    device.disconnect();
    assert_eq!(hello(&mut device), (0, vec![]));
}

#[test]
fn a_hello_lists_what_was_sent_and_what_waits_behind_it() {
    let mut device = Device::new();
    device.in_step();
    device.post(text(stream(4), "accepted"));
    device.receive(&accepted(&device, 1));
    for words in ["sent", "waits for it"] {
        device.post(text(stream(4), words));
    }
    device.disconnect();
    let expected = vec![brief("sent"), brief("waits for it")];
    assert_eq!(hello(&mut device), (2, expected.clone()));
    // Also where it is the content on disk alone that says what it was.
    let mut device = device.restart();
    assert_eq!(hello(&mut device), (2, expected));
}

#[test]
fn nothing_stands_for_a_number_that_was_accepted_or_given_up() {
    let mut device = Device::new();
    device.in_step();
    let ops = ["one", "two", "three"];
    for (stream, words) in (1..).zip(ops) {
        device.post(text(super::stream(stream), words));
    }
    device.receive(&wire::DownFrame {
        accepted_ranges: vec![1, 1],
        ..device.down()
    });
    device.disconnect();
    let (first, digests) = hello(&mut device);
    assert_eq!((first, digests.len(), digests[1]), (1, 3, 0));
}

#[test]
fn what_the_hello_does_not_list_is_not_accepted_by_the_welcome_of_a_restored_store() {
    let (mut device, posted) = restored((0..40).map(|number| format!("number {number}")));
    device.in_step();
    device.disconnect();
    let (first, digests) = hello(&mut device);
    assert_eq!((first, digests.len()), (1, UNDER_WAY_MAX));
    let mut welcome = device.welcome();
    welcome.welcome.as_mut().unwrap().incarnation = 78;
    welcome.accepted_through = 40;
    device.receive(&welcome);
    let waiting: Vec<PostId> = posted
        .iter()
        .copied()
        .filter(|&id| device.core.progress(id) == Some(Progress::Waiting))
        .collect();
    assert_eq!(waiting, posted[UNDER_WAY_MAX..]);
    assert_eq!(device.take_sent()[..1], [33], "it is said again");
    device.receive(&accepted(&device, 40));
    assert_eq!(device.core.waiting_ops(), 0);
}

#[test]
fn an_entry_under_a_number_that_the_hello_does_not_list_waits_for_the_acknowledgement() {
    let (mut device, posted) = restored((0..40).map(|number| format!("number {number}")));
    device.in_step();
    let last = posted[39];
    let entry = entries(&device, vec![own(4, 1, 40)]);
    device.receive(&entry);
    assert_eq!(device.core.progress(last), Some(Progress::Waiting));
    assert_eq!(device.core.counters().entries_put_off, 1);
    // It came again, with what says that it was compared.
    device.receive(&wire::DownFrame {
        accepted_through: 40,
        ..entry
    });
    assert_eq!(device.core.waiting_ops(), 0);
    assert_eq!(device.core.progress(last), None, "it has its place");
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_a_fork_and_what_was_compared_stays_accepted() {
    let mut device = Device::new();
    device.in_step();
    let sent = device.post(text(stream(4), "sent"));
    let behind = device.post(text(stream(4), "behind it"));
    device.receive(&accepted(&device, 2));
    assert_eq!(device.core.counters().forks, 1);
    assert_eq!(device.core.progress(sent), None, "accepted, and of the old epoch");
    assert_eq!(device.core.progress(behind), Some(Progress::Waiting));
    assert_eq!(
        device.take_sent(),
        [1, 1],
        "the second one again, in the new epoch"
    );
}

#[test]
fn what_stands_apart_above_a_fork_is_accepted() {
    let mut device = Device::new();
    device.in_step();
    for number in 1..=3 {
        device.post(text(stream(number), "sent"));
    }
    device.receive(&wire::DownFrame {
        accepted_through: 1,
        accepted_ranges: vec![1, 1],
        forked_op: 2,
        ..device.down()
    });
    assert_eq!(device.core.waiting_ops(), 1);
    assert_eq!(device.core.epoch().number(), 1_011);
}

#[test]
fn a_thousand_tracks_of_before_a_restart_are_sent_once() {
    let mut device = Device::new();
    for at in 0..1_000 {
        device.post(track(at * 1_000));
    }
    let mut device = device.restart();
    let (first, digests) = hello(&mut device);
    assert_eq!((first, digests.len()), (1, UNDER_WAY_MAX));
    device.receive(&device.welcome());
    let mut sent = 0;
    while device.core.waiting_ops() > 0 {
        let now_sent = device.take_sent();
        sent += now_sent.len();
        let through = *now_sent.iter().max().expect("something is sent");
        device.receive(&accepted(&device, through));
    }
    assert_eq!(sent, 1_000);
}
