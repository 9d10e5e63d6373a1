//! What the core promises, driven by plain values and a clock that stands still until it is moved.

mod bounds;
mod clocks;
mod ends;
mod known;
mod overtaking;
mod pages;
mod pair;
mod positions;
mod restored;
mod under_way;

use super::harness::{Device, Disk, device_id, op, own, run, seq, stream, text, to_office, urgent};
use super::outbox::CONTENT_BYTES_MAX;
use super::{Draft, Event, Fill, Makes, Mutation, NotTaken, Progress, Qos};
use prost::Message;
use std::time::Duration;
use waypost_proto::wire::{self, RefusalReason, VoidReason};
use waypost_proto::{Author, EntryBody, Fix, Operation, QuickReply, Stamp, TrackKind};

const SECOND: Duration = Duration::from_secs(1);

fn accepted(device: &Device, through: u64) -> wire::DownFrame {
    wire::DownFrame {
        accepted_through: through,
        ..device.down()
    }
}

fn entries(device: &Device, runs: Vec<wire::EntryRun>) -> wire::DownFrame {
    wire::DownFrame {
        entries: runs,
        ..device.down()
    }
}

#[test]
fn a_hello_carries_what_was_never_sent_and_everything_of_its_session() {
    let mut device = Device::new();
    device.post(text(stream(4), "one"));
    device.post(text(stream(4), "two"));
    device.connect();
    let frames = device.take_frames();
    assert_eq!(frames.len(), 1, "everything due travels in one frame: {frames:?}");
    let hello = frames[0].hello.as_ref().unwrap();
    assert_eq!(
        (hello.epoch, hello.device_ms, hello.positions_digest),
        (11, 1_700_000_000_000, 0)
    );
    assert_eq!((hello.locale.as_str(), hello.app.as_str()), ("de", "test 1"));
    assert_eq!((frames[0].first_op, frames[0].ops.len()), (1, 2));
    assert_eq!(Stamp::parse(frames[0].stamp).unwrap().seconds, 0);
}

#[test]
fn nothing_is_sent_before_it_is_stored() {
    let mut device = Device::new();
    device.in_step();
    device.take_frames();
    device.disk = Disk::Stuck;
    device.post(text(stream(4), "one"));
    assert!(device.take_frames().is_empty(), "it is not on disk");
    assert!(device.durable.len() < 3 && device.core.last_pending().is_some());
    device.sync();
    assert_eq!(device.take_sent(), [1]);
}

#[test]
fn no_hello_leaves_before_its_tag_is_stored() {
    let mut device = Device::new();
    device.disk = Disk::Stuck;
    device.connect();
    assert_eq!(device.core.prepared_tag(), None);
    assert!(device.take_frames().is_empty());
    device.sync();
    assert_eq!(device.take_frames().len(), 1);
}

#[test]
fn an_operation_is_accepted_for_the_app_only_when_that_is_stored() {
    let mut device = Device::new();
    device.in_step();
    let id = device.post(text(stream(4), "one"));
    device.disk = Disk::Stuck;
    device.events.clear();
    device.receive(&accepted(&device, 1));
    assert_eq!(device.events, []);
    device.sync();
    assert_eq!(
        device.events,
        [Event::Accepted {
            id,
            makes: Makes::Entry
        }]
    );
    assert_eq!(device.core.waiting_ops(), 0);
}

#[test]
fn restart_between_send_and_accept_repeats_the_operation() {
    let mut device = Device::new();
    device.in_step();
    device.post(text(stream(4), "one"));
    let first = device.take_frames().pop().unwrap();
    let mut device = device.restart();
    device.connect();
    let hello = device.take_frames().pop().unwrap();
    assert!(hello.ops.is_empty(), "the welcome may say that the server has it");
    device.receive(&device.welcome());
    let repeated = device.take_frames().pop().unwrap();
    assert_eq!(repeated.first_op, 1);
    let digest = |frame| waypost_proto::number_operations(frame).unwrap()[0].digest;
    assert_eq!(
        digest(&repeated),
        digest(&first),
        "the same content under the same number"
    );
}

#[test]
fn restart_after_accept_sends_nothing_again() {
    let mut device = Device::new();
    device.in_step();
    device.post(text(stream(4), "one"));
    let mut device = device.restart();
    device.connect();
    let welcome = wire::DownFrame {
        accepted_through: 1,
        ..device.welcome()
    };
    device.take_frames();
    device.receive(&welcome);
    device.pass(600 * SECOND);
    assert_eq!(device.take_sent(), [0u64; 0]);
    assert_eq!(device.core.waiting_ops(), 0);
}

#[test]
fn an_acknowledgement_of_another_session_is_ignored() {
    let mut device = Device::new();
    device.in_step();
    device.post(text(stream(4), "one"));
    let old = accepted(&device, 1);
    device.disconnect();
    device.connect();
    let old_welcome = wire::DownFrame {
        accepted_through: 1,
        stamp: old.stamp,
        ..device.welcome()
    };
    device.receive(&old);
    device.receive(&old_welcome);
    assert!(!device.core.is_in_step());
    assert_eq!(device.core.waiting_ops(), 1);
    assert_eq!(device.core.counters().frames_of_other_sessions, 2);
    device.receive(&device.welcome());
    device.receive(&old);
    assert_eq!(device.core.waiting_ops(), 1);
    device.receive(&accepted(&device, 1));
    assert_eq!(device.core.waiting_ops(), 0);
}

#[test]
fn a_cursor_is_reported_only_after_its_entries_are_on_disk() {
    let mut device = Device::new();
    device.in_step();
    device.take_frames();
    device.disk = Disk::Stuck;
    device.receive(&entries(&device, vec![run(4, 1, &["a", "b"])]));
    device.pass(5 * SECOND);
    assert!(device.take_frames().is_empty() && device.shown.is_empty());
    assert!(
        device
            .unsynced_mutations()
            .iter()
            .any(|m| matches!(m, Mutation::PutCursor { .. }))
    );
    device.sync();
    assert_eq!(device.shown_texts(), ["a", "b"]);
    device.pass(SECOND);
    let frames = device.take_frames();
    assert_eq!(frames.len(), 1);
    assert_eq!(
        (frames[0].cursors[0].stream, frames[0].cursors[0].delivered),
        (4, 2)
    );
}

#[test]
fn a_power_cut_before_the_sync_leaves_neither_entry_nor_position() {
    let mut device = Device::new();
    device.in_step();
    device.disk = Disk::Stuck;
    device.receive(&entries(&device, vec![run(4, 1, &["a"])]));
    let mut device = device.restart();
    device.in_step();
    assert!(device.shown.is_empty());
    device.receive(&entries(&device, vec![run(4, 1, &["a"])]));
    assert_eq!(
        device.shown_texts(),
        ["a"],
        "the server sends it again, and it is new"
    );
}

#[test]
fn several_reports_and_an_operation_ride_in_one_frame() {
    let mut device = Device::new();
    device.in_step();
    device.take_frames();
    device.receive(&entries(&device, vec![run(4, 1, &["a"])]));
    device.receive(&entries(&device, vec![run(5, 1, &["b"])]));
    assert!(
        device.take_frames().is_empty(),
        "reports wait a little for company"
    );
    device.post(text(stream(4), "on my way"));
    let frames = device.take_frames();
    assert_eq!(frames.len(), 1);
    assert_eq!((frames[0].ops.len(), frames[0].cursors.len()), (1, 2));
    device.pass(SECOND);
    assert!(
        device.take_frames().is_empty(),
        "what has left is not due any more"
    );
}

#[test]
fn a_lost_last_frame_is_repeated_by_the_timer() {
    let mut device = Device::new();
    device.in_step();
    device.post(text(stream(4), "one"));
    device.receive(&entries(&device, vec![run(4, 1, &["a"])]));
    device.pass(SECOND);
    device.take_frames();
    device.pass(8 * SECOND);
    assert!(device.take_frames().is_empty());
    device.pass(3 * SECOND);
    let frames = device.take_frames();
    assert!(
        frames.iter().any(|frame| frame.first_op == 1),
        "after 10 s: {frames:?}"
    );
    assert!(frames.iter().any(|frame| frame.cursors.len() == 1));
    device.pass(60 * SECOND);
    let repetitions = device.take_sent().len();
    assert!(
        (1..=3).contains(&repetitions),
        "the interval doubles: {repetitions}"
    );
    let mut answer = accepted(&device, 1);
    answer.cursors = vec![wire::Cursor {
        stream: 4,
        delivered: 1,
        ..wire::Cursor::default()
    }];
    device.receive(&answer);
    device.pass(3_600 * SECOND);
    assert!(
        device.take_frames().is_empty(),
        "answered: nothing is left to repeat"
    );
}

#[test]
fn a_hello_without_an_answer_is_a_new_hello_with_the_next_tag() {
    let mut device = Device::new();
    device.connect();
    let first = device.tag();
    device.pass(11 * SECOND);
    assert_eq!(device.tag(), first.next());
    let late = wire::DownFrame {
        stamp: first.number(),
        ..device.welcome()
    };
    device.receive(&late);
    assert!(!device.core.is_in_step(), "only the latest hello is waited for");
    device.receive(&device.welcome());
    assert!(device.core.is_in_step());
}

#[test]
fn the_tag_goes_on_after_a_restart() {
    let mut device = Device::new();
    device.in_step();
    let first = device.tag();
    let mut device = device.restart();
    device.connect();
    assert_eq!(device.tag(), first.next());
}

#[test]
fn refused_operation_is_parked_and_its_number_voided() {
    let mut device = Device::new();
    device.in_step();
    let refused = device.post(text(stream(9), "to nobody"));
    device.post(text(stream(9), "after it"));
    device.take_frames();
    let mut frame = device.down();
    frame.refusals = vec![wire::Refusal {
        op: 1,
        reason: RefusalReason::NotAMember.into(),
    }];
    device.receive(&frame);
    let reason = RefusalReason::NotAMember;
    assert!(device.events.contains(&Event::Refused { id: refused, reason }));
    let frames = device.take_frames();
    let voids: Vec<_> = frames.iter().flat_map(|frame| &frame.voids).collect();
    assert_eq!(
        (voids[0].first_op, voids[0].count, voids[0].reason()),
        (1, 1, VoidReason::Refused)
    );
    assert_eq!(
        waypost_proto::number_operations(&frames[0]).unwrap()[0].op,
        op(2),
        "the next one follows"
    );
    // A restart keeps both, and does not send the operation again.
    let mut device = device.restart();
    assert_eq!(device.core.progress(refused), Some(Progress::Parked(reason)));
    device.in_step();
    let frames = device.take_frames();
    assert!(frames.iter().any(|frame| frame.voids.len() == 1));
    device.receive(&accepted(&device, 2));
    device.pass(600 * SECOND);
    assert!(device.take_frames().is_empty());
    assert_eq!(device.core.parked().len(), 1, "the person still sees it");
}

#[test]
fn an_operation_that_is_put_off_stays_and_is_repeated() {
    let mut device = Device::new();
    device.in_step();
    device.post(text(stream(4), "one"));
    device.take_frames();
    let mut frame = device.down();
    frame.refusals = vec![wire::Refusal {
        op: 1,
        reason: RefusalReason::NoSpace.into(),
    }];
    device.receive(&frame);
    assert!(device.core.parked().is_empty());
    assert_eq!(device.take_sent(), [0u64; 0], "not in a spin");
    device.pass(11 * SECOND);
    assert_eq!(device.take_sent(), [1]);
}

#[test]
fn a_frame_that_the_server_could_not_read_is_counted_and_repeated() {
    let mut device = Device::new();
    device.in_step();
    device.post(text(stream(4), "one"));
    device.take_frames();
    let refusals = vec![wire::Refusal {
        op: 0,
        reason: RefusalReason::Unreadable.into(),
    }];
    let frame = wire::DownFrame {
        refusals,
        ..wire::DownFrame::default()
    };
    device.receive(&frame);
    assert_eq!(device.core.counters().frames_refused, 1);
    device.pass(11 * SECOND);
    assert_eq!(device.take_sent(), [1]);
}

#[test]
fn forked_outbox_draws_a_new_epoch() {
    let mut device = Device::new();
    device.in_step();
    let accepted_id = device.post(text(stream(4), "known"));
    device.receive(&accepted(&device, 1));
    let waiting = device.post(text(stream(4), "mine"));
    device.post(Draft::track(
        vec![Fix::from_degrees(1, 2.0, 3.0).unwrap()],
        TrackKind::Travelled,
    ));
    device.take_frames();
    let mut frame = accepted(&device, 80);
    frame.forked_op = 2;
    let old_tag = device.tag();
    device.receive(&frame);
    let frames = device.take_frames();
    let hello = frames[0].hello.as_ref().unwrap();
    assert_eq!(hello.epoch, 1_011, "the epoch in reserve");
    assert_eq!(device.core.epoch().number(), 1_011);
    let numbers = waypost_proto::number_operations(&frames[0]).unwrap();
    let numbers: Vec<u64> = numbers.iter().map(|numbered| numbered.op.number()).collect();
    assert_eq!(numbers, [1, 2], "what was unaccepted, from 1, in order");
    assert_eq!(Stamp::parse(frames[0].stamp).unwrap().tag, old_tag.next());
    assert_eq!(device.core.progress(waiting), Some(Progress::Waiting));
    assert_eq!(
        device.core.progress(accepted_id),
        None,
        "its entry will come in full"
    );
    assert_eq!(device.core.counters().forks, 1);
    let device = device.restart();
    assert_eq!(device.core.epoch().number(), 1_011);
    assert_eq!(device.core.waiting_ops(), 2);
}

#[test]
fn an_acknowledgement_of_what_was_never_numbered_is_a_fork_and_loses_nothing() {
    let mut device = Device::new();
    device.connect();
    let unsent = device.post(text(stream(4), "written while the server thought ahead"));
    let ahead = wire::DownFrame {
        accepted_through: 40,
        ..device.welcome()
    };
    device.receive(&ahead);
    assert_eq!(device.core.counters().forks, 1);
    assert_eq!(device.core.progress(unsent), Some(Progress::Waiting));
    assert_eq!(device.take_sent(), [1], "in the new epoch, with its hello");
}

#[test]
fn hello_please_answered_once_in_five_seconds() {
    let mut device = Device::new();
    device.in_step();
    device.take_frames();
    device.pass(6 * SECOND);
    let please = wire::DownFrame {
        hello_please: true,
        ..wire::DownFrame::default()
    };
    for _ in 0..5 {
        device.receive(&please);
    }
    let hellos = |frames: Vec<wire::UpFrame>| frames.iter().filter(|frame| frame.hello.is_some()).count();
    assert_eq!(hellos(device.take_frames()), 1);
    device.receive(&device.welcome());
    device.receive(&please);
    device.pass(4 * SECOND);
    assert_eq!(hellos(device.take_frames()), 0);
    device.pass(2 * SECOND);
    assert_eq!(
        hellos(device.take_frames()),
        1,
        "asked too soon, answered when five seconds are over"
    );
}

#[test]
fn a_server_that_took_an_old_hello_for_the_latest_is_greeted_again() {
    let mut device = Device::new();
    device.in_step();
    let old = device.down();
    device.disconnect();
    device.in_step();
    device.take_frames();
    device.receive(&old);
    assert!(
        device.take_frames().is_empty(),
        "late frames of the session before are nothing to speak of"
    );
    device.pass(11 * SECOND);
    device.receive(&old);
    assert!(device.take_frames()[0].hello.is_some());
}

#[test]
fn own_entry_is_filled_in_from_the_outbox() {
    let mut device = Device::new();
    device.in_step();
    let id = device.post(text(stream(4), "At the gate"));
    let mut frame = accepted(&device, 1);
    frame.entries = vec![run(4, 1, &["hello"]), own(4, 2, 1)];
    device.receive(&frame);
    assert_eq!(device.shown_texts(), ["hello", "At the gate"]);
    let entry = &device.shown[1];
    assert_eq!(entry.author, Author::Device(device_id()));
    assert_eq!(
        (entry.author_op, entry.device_ms),
        (Some(op(1)), Some(1_700_000_000_000))
    );
    assert!(device.events.contains(&Event::Accepted {
        id,
        makes: Makes::Entry
    }));
    assert!(device.events.contains(&Event::Placed {
        id,
        stream: stream(4),
        seq: seq(2)
    }));
    assert_eq!(device.core.progress(id), None, "it lives in the inbox now");
}

#[test]
fn own_entry_says_that_the_operation_was_accepted() {
    let mut device = Device::new();
    device.in_step();
    device.post(text(stream(4), "one"));
    let mut device = device.restart();
    device.in_step();
    device.receive(&entries(&device, vec![own(4, 1, 1)]));
    assert_eq!(device.core.waiting_ops(), 0);
    assert_eq!(device.shown_texts(), ["one"]);
}

#[test]
fn ranges_above_a_gap() {
    let mut device = Device::new();
    device.in_step();
    device.take_frames();
    device.receive(&entries(&device, vec![run(4, 1, &["1"]), run(4, 4, &["4", "5"])]));
    let mut hurry = run(4, 8, &["8!"]);
    hurry.entries[0].urgent = true;
    device.receive(&entries(&device, vec![hurry]));
    device.pass(SECOND);
    let cursor = device.take_frames().pop().unwrap().cursors[0].clone();
    assert_eq!((cursor.delivered, cursor.ranges), (1, vec![2, 2, 2, 1]));
    assert_eq!(
        device.shown_texts(),
        ["1", "8!"],
        "what is above a gap waits, unless it is urgent"
    );
    let mut frame = entries(&device, vec![run(4, 2, &["2"])]);
    frame.skips = vec![wire::SkipRange {
        stream: 4,
        first_seq: 3,
        count: 1,
        reason: 0,
    }];
    device.receive(&frame);
    assert_eq!(device.shown_texts(), ["1", "8!", "2", "4", "5"]);
    device.receive(&entries(&device, vec![run(4, 6, &["6", "7", "8!"])]));
    assert_eq!(device.shown_texts()[5..], ["6", "7"], "each once");
    device.pass(SECOND);
    assert_eq!(device.take_frames().pop().unwrap().cursors[0].delivered, 8);
}

#[test]
fn a_ninth_range_is_left_to_a_repetition() {
    let mut device = Device::new();
    device.in_step();
    for range in 1..=9 {
        device.receive(&entries(&device, vec![run(4, range * 2, &["x"])]));
    }
    assert_eq!(device.core.counters().entries_over_bound, 1);
    device.pass(SECOND);
    assert_eq!(device.take_frames().pop().unwrap().cursors[0].ranges.len(), 16);
}

#[test]
fn numbers_at_the_end_of_their_range_do_no_harm() {
    let mut device = Device::new();
    device.in_step();
    let mut frame = entries(&device, vec![run(4, u64::MAX, &["x", "y"]), run(0, 1, &["z"])]);
    frame.skips = vec![
        wire::SkipRange {
            stream: 4,
            first_seq: 2,
            count: u64::MAX,
            reason: 0,
        },
        wire::SkipRange {
            stream: 4,
            first_seq: u64::MAX,
            count: 1,
            reason: 0,
        },
        wire::SkipRange {
            stream: 4,
            first_seq: 0,
            count: 0,
            reason: 9,
        },
    ];
    frame.cursors = vec![wire::Cursor {
        stream: 4,
        delivered: u64::MAX,
        ..Default::default()
    }];
    frame.refusals = vec![wire::Refusal {
        op: u64::MAX,
        reason: 99,
    }];
    frame.accepted_ranges = vec![1, 2, 3];
    device.receive(&frame);
    assert!(device.shown.is_empty());
    device.core.handle_frame(&[0xff; 70_000], device.now);
    device.core.handle_frame(b"\x08\xff", device.now);
    assert!(device.core.counters().frames_unreadable >= 3);
}

#[test]
fn a_welcome_of_an_older_generation_is_ignored() {
    let mut device = Device::new();
    device.in_step();
    device.disconnect();
    device.connect();
    let mut old = device.welcome();
    old.welcome.as_mut().unwrap().generation = 2;
    device.receive(&old);
    assert!(!device.core.is_in_step());
    assert_eq!(device.core.counters().frames_of_older_generations, 1);
    device.receive(&device.welcome());
    assert!(device.core.is_in_step());
}

#[test]
fn another_incarnation() {
    let mut device = Device::new();
    device.in_step();
    device.receive(&entries(&device, vec![run(4, 1, &["of the old store"])]));
    device.post(Draft::track(
        vec![Fix::from_degrees(1, 2.0, 3.0).unwrap()],
        TrackKind::Travelled,
    ));
    device.post(text(stream(4), "accepted, entry not seen"));
    device.receive(&accepted(&device, 1));
    // The first is kept no longer.
    device.now.wall_ms += 8 * 86_400_000;
    device.receive(&accepted(&device, 2));
    device.post(text(stream(4), "waiting"));
    device.disconnect();
    device.connect();
    device.take_frames();
    let mut welcome = device.welcome();
    let other = welcome.welcome.as_mut().unwrap();
    (other.incarnation, other.generation, other.want_positions) = (78, 1, true);
    device.receive(&welcome);
    assert!(
        device.core.is_in_step(),
        "a lower generation of another store is no older one"
    );
    let frames = device.take_frames();
    assert_eq!(
        frames[0].positions,
        Some(wire::TransferPositions::default()),
        "nothing of it is held"
    );
    let sent: Vec<u64> = frames
        .iter()
        .flat_map(|frame| waypost_proto::number_operations(frame).unwrap())
        .map(|numbered| numbered.op.number())
        .collect();
    assert_eq!(sent, [2, 3], "what is here is offered again");
    let voids: Vec<_> = frames.iter().flat_map(|frame| &frame.voids).collect();
    assert_eq!(
        (voids[0].first_op, voids[0].count),
        (1, 1),
        "what is gone can never come"
    );
    device.shown.clear();
    let mut frame = wire::DownFrame {
        stamp: welcome.stamp,
        accepted_through: 3,
        ..Default::default()
    };
    frame.entries = vec![run(4, 1, &["of the new store"])];
    device.receive(&frame);
    assert_eq!(
        device.shown_texts(),
        ["of the new store"],
        "identity is incarnation, stream and seq"
    );
    assert_eq!(device.core.waiting_ops(), 0);
}

#[test]
fn wanted_positions_are_sent_in_full_and_again_until_something_follows() {
    let mut device = Device::new();
    device.in_step();
    device.receive(&entries(&device, vec![run(4, 1, &["a"]), run(6, 3, &["c"])]));
    device.disconnect();
    device.connect();
    let digest = device
        .take_frames()
        .pop()
        .unwrap()
        .hello
        .unwrap()
        .positions_digest;
    assert_ne!(digest, 0);
    let mut welcome = device.welcome();
    welcome.welcome.as_mut().unwrap().want_positions = true;
    device.receive(&welcome);
    let frame = device.take_frames().remove(0);
    let positions = frame.positions.unwrap().cursors;
    assert_eq!((positions[0].stream, positions[0].delivered), (4, 1));
    assert_eq!(
        (positions[1].stream, positions[1].ranges.clone()),
        (6, vec![2, 1])
    );
    device.pass(15 * SECOND);
    assert!(
        device.take_frames().iter().any(|frame| frame.positions.is_some()),
        "it was lost"
    );
    device.receive(&entries(&device, vec![run(4, 2, &["b"])]));
    device.pass(SECOND);
    device.take_frames();
    let cursors = vec![wire::Cursor {
        stream: 4,
        delivered: 2,
        ..wire::Cursor::default()
    }];
    device.receive(&wire::DownFrame {
        cursors,
        ..device.down()
    });
    device.pass(3_600 * SECOND);
    assert!(device.take_frames().iter().all(|frame| frame.positions.is_none()));
    device.receive(&welcome);
    assert!(
        device.take_frames()[0].positions.is_some(),
        "the server asks again"
    );
    device.pass(86_400 * SECOND);
    let repeated = device
        .take_frames()
        .iter()
        .filter(|frame| frame.positions.is_some())
        .count();
    assert_eq!(
        repeated, 5,
        "a server that has nothing to send is not asked for ever"
    );
}

#[test]
fn an_entry_is_shown_once_and_again_after_a_restart_only_if_it_was_not_confirmed() {
    let mut device = Device::new();
    device.in_step();
    let frame = entries(&device, vec![run(4, 1, &["a", "b"])]);
    device.receive(&frame);
    device.receive(&frame);
    assert_eq!(device.shown_texts(), ["a", "b"]);
    assert_eq!(device.core.counters().entries_repeated, 2);
    device.core.mark_shown(stream(4), seq(1), device.now);
    device.settle();
    let mut device = device.restart();
    device.settle();
    assert_eq!(device.shown_texts(), ["b"]);
    device.core.mark_read(stream(4), seq(2), device.now);
    device.settle();
    let mut device = device.restart();
    device.settle();
    assert!(device.shown.is_empty(), "what is read was shown");
}

#[test]
fn a_new_screen_gets_what_the_one_before_did_not_confirm() {
    let mut device = Device::new();
    device.in_step();
    device.receive(&entries(
        &device,
        vec![run(4, 1, &["a", "b"]), run(4, 9, &["behind a gap"])],
    ));
    device.core.mark_shown(stream(4), seq(1), device.now);
    device.shown.clear();
    device.core.offer_again();
    device.settle();
    assert_eq!(device.shown_texts(), ["b"]);
}

#[test]
fn reading_is_reported_once_it_is_stored_and_never_beyond_a_gap() {
    let mut device = Device::new();
    device.in_step();
    device.receive(&entries(
        &device,
        vec![run(4, 1, &["a", "b"]), run(4, 9, &["far"])],
    ));
    device.pass(SECOND);
    device.take_frames();
    device.disk = Disk::Stuck;
    device.core.mark_read(stream(4), seq(9), device.now);
    device.settle();
    device.pass(SECOND);
    assert!(device.take_frames().is_empty());
    device.sync();
    device.pass(SECOND);
    assert_eq!(device.take_frames().pop().unwrap().cursors[0].read, 2);
}

#[test]
fn a_message_to_the_office_waits_for_its_number_and_then_keeps_it() {
    let mut device = Device::new();
    let id = device.post(to_office("Loaded"));
    let mut device = device.restart();
    device.connect();
    assert_eq!(device.take_sent(), [0u64; 0], "nobody knows yet where to");
    device.disk = Disk::Stuck;
    device.receive(&device.welcome());
    assert!(device.take_frames().is_empty(), "the number is not on disk");
    device.sync();
    let frame = device.take_frames().pop().unwrap();
    assert_eq!((frame.first_op, frame.ops[0].stream), (1, 4));
    assert_eq!(device.core.progress(id), Some(Progress::Waiting));
    // Another office stream later changes nothing in what was sent.
    device.disk = Disk::Quick;
    device.disconnect();
    device.connect();
    let mut moved = device.welcome();
    moved.welcome.as_mut().unwrap().office_stream = 9;
    device.receive(&moved);
    assert_eq!(device.take_frames().pop().unwrap().ops[0].stream, 4);
    device.post(to_office("later"));
    device.receive(&wire::DownFrame {
        stamp: moved.stamp,
        accepted_through: 1,
        ..Default::default()
    });
    assert_eq!(device.take_frames().pop().unwrap().ops[0].stream, 9);
}

#[test]
fn of_one_stream_and_class_nothing_overtakes_what_is_under_way() {
    let mut device = Device::new();
    device.in_step();
    device.post(text(stream(4), "first"));
    assert_eq!(device.take_sent(), [1]);
    device.post(text(stream(4), "second"));
    device.post(text(stream(5), "elsewhere"));
    device.post(urgent(stream(4), "another class"));
    assert_eq!(device.take_sent(), [3, 4]);
    device.receive(&accepted(&device, 1));
    assert_eq!(device.take_sent(), [2]);
}

#[test]
fn urgent_leaves_first_and_a_frame_is_in_the_order_of_numbers() {
    let mut device = Device::new();
    device.post(Draft::track(
        vec![Fix::from_degrees(1, 2.0, 3.0).unwrap()],
        TrackKind::Travelled,
    ));
    device.post(text(stream(4), &"long ".repeat(200)));
    device.post(text(stream(5), &"long ".repeat(200)));
    device.post(urgent(stream(4), "Accident"));
    device.connect();
    let frames = device.take_frames();
    let numbers = |frame| -> Vec<u64> {
        waypost_proto::number_operations(frame)
            .unwrap()
            .iter()
            .map(|numbered| numbered.op.number())
            .collect()
    };
    assert_eq!(
        numbers(&frames[0]),
        [2, 4],
        "urgent and the first that fits; no position makes it longer"
    );
    device.receive(&device.welcome());
    assert_eq!(
        device.take_sent(),
        [3],
        "the rest, once the server is known to be there"
    );
    let all_but_the_first = wire::DownFrame {
        accepted_ranges: vec![1, 3],
        ..device.down()
    };
    device.receive(&all_but_the_first);
    assert_eq!(device.take_sent(), [1], "once there is room for a whole frame");
}

#[test]
fn frames_stay_within_one_packet_and_the_window_within_its_bytes() {
    let mut device = Device::new();
    for at in 0..400 {
        let fixes: Vec<Fix> = (0..60)
            .map(|second| Fix::from_degrees(at * 60_000 + second * 1_000, 52.0, 13.0).unwrap())
            .collect();
        device.post(Draft::track(fixes, TrackKind::Travelled));
    }
    device.connect();
    let hello = device.take_frames();
    assert!(hello.len() == 1 && hello[0].encoded_len() <= 1_200);
    device.receive(&device.welcome());
    let (mut through, mut most) = (0, 0);
    // Answers come at once: the window grows to its ceiling.
    while through < 400 {
        let frames = device.take_frames();
        let sizes: Vec<usize> = frames.iter().map(Message::encoded_len).collect();
        assert!(sizes.iter().all(|&size| size <= 1_200), "{sizes:?}");
        let whole = sizes.iter().filter(|&&size| size > 900).count();
        assert!(
            whole + 1 >= sizes.len(),
            "but for the last, frames are full: {sizes:?}"
        );
        let total: usize = sizes.iter().sum();
        assert!(through > 0 || total <= 2_400, "two frames to begin with: {total}");
        assert!((1..=17_000).contains(&total), "{total}");
        most = most.max(total);
        for frame in &frames {
            through = waypost_proto::number_operations(frame)
                .unwrap()
                .last()
                .unwrap()
                .op
                .number();
        }
        device.receive(&accepted(&device, through));
    }
    assert!(most > 12_000, "{most}");
}

#[test]
fn one_item_that_is_larger_than_a_packet_still_leaves() {
    let mut device = Device::new();
    device.in_step();
    device.take_frames();
    device.post(text(stream(4), &"x".repeat(4_096)));
    assert_eq!(device.take_sent(), [1]);
}

#[test]
fn contents_beyond_the_cache_come_from_the_store() {
    let mut device = Device::new();
    let long = "x".repeat(4_000);
    let count = CONTENT_BYTES_MAX / 4_000 + 50;
    for _ in 0..count {
        device.post(text(stream(4), &long));
    }
    let mut device = device.restart();
    device.in_step();
    let mut sent = device.take_sent();
    while sent.len() < count {
        let through = *sent.last().unwrap();
        device.receive(&accepted(&device, through));
        sent.extend(device.take_sent());
    }
    assert_eq!(sent, (1..=count as u64).collect::<Vec<_>>());
}

#[test]
fn a_full_outbox_says_so_and_takes_nothing() {
    let mut config = super::harness::config();
    config.outbox_ops_max = 2;
    let fresh = Device::new();
    let mut device = Device::at(fresh.plate.clone(), 11, fresh.now, config);
    device.post(text(stream(4), "one"));
    device.post(text(stream(4), "two"));
    let full = device.core.post(text(stream(4), "three"), device.now);
    assert!(matches!(full, Err(NotTaken::OutboxFull(Fill { ops: 2, .. }))));
    assert_eq!(device.core.counters().ops_over_bound, 1);
    device.in_step();
    device.receive(&accepted(&device, 1));
    assert!(device.core.post(text(stream(4), "three"), device.now).is_ok());
}

#[test]
fn a_live_position_that_is_replaced_before_it_leaves_never_leaves() {
    let mut device = Device::new();
    let fix = |at_ms: i64| Fix::from_degrees(1_700_000_000_000 + at_ms, 52.0, 13.0).unwrap();
    device.core.live(fix(100));
    device.core.live(fix(2_000));
    device.connect();
    let hello = device.take_frames().pop().unwrap();
    assert_eq!(hello.live.unwrap().at_ds, 20);
    device.receive(&device.welcome());
    device.core.live(fix(5_000));
    device.settle();
    let (frame, qos) = device.frames.pop().unwrap();
    assert_eq!((frame.live.unwrap().at_ds, qos), (50, Qos::AtMostOnce));
    assert_eq!(
        Stamp::parse(frame.stamp).unwrap().seconds,
        0,
        "its time stands in the fix"
    );
}

#[test]
fn ages_tell_the_moment_of_the_doing_to_the_second() {
    let mut device = Device::new();
    device.post(text(stream(4), "written before the connection"));
    device.pass(100 * SECOND);
    device.connect();
    assert_eq!(device.take_frames()[0].ops[0].age_s, 100);
    device.receive(&device.welcome());
    device.pass(40 * SECOND);
    device.take_frames();
    device.receive(&wire::DownFrame {
        stamp: device.tag().number(),
        accepted_through: 1,
        ..Default::default()
    });
    device.post(text(stream(4), "now"));
    let frame = device.take_frames().pop().unwrap();
    assert_eq!(
        (Stamp::parse(frame.stamp).unwrap().seconds, frame.ops[0].age_s),
        (40, 0)
    );
}

#[test]
fn an_entry_of_a_later_version_is_shown_as_not_supported() {
    let mut device = Device::new();
    device.in_step();
    let unknown = wire::Entry {
        author_person: 9,
        ..wire::Entry::default()
    };
    device.receive(&entries(
        &device,
        vec![wire::EntryRun {
            stream: 4,
            first_seq: 1,
            entries: vec![unknown],
            ..Default::default()
        }],
    ));
    assert_eq!(device.shown[0].body, EntryBody::Unsupported);
}

#[test]
fn names_are_kept_for_the_entries_of_their_persons() {
    let mut device = Device::new();
    device.in_step();
    let mut frame = entries(&device, vec![run(4, 1, &["a"])]);
    frame.names = vec![wire::AuthorName {
        person: 9,
        name: "Ada".to_owned(),
        ..Default::default()
    }];
    device.receive(&frame);
    assert_eq!(device.shown[0].author_name.as_deref(), Some("Ada"));
}

mod sizes {
    //! The table of bytes: a whole PUBLISH with its alias established.

    use super::*;
    use crate::packet::{PublishFields, Retain, UP_ALIAS, Version};
    use bytes::BytesMut;
    use proptest::prelude::*;

    fn publish_bytes(frame: &wire::UpFrame, qos: Qos) -> usize {
        let mut out = BytesMut::new();
        let packet_id = if qos == Qos::AtLeastOnce { 1_234 } else { 0 };
        let payload = frame.encode_to_vec();
        let fields = PublishFields {
            topic: "",
            alias: Some(UP_ALIAS),
            qos,
            retain: Retain::No,
            packet_id,
            payload: &payload,
        };
        Version::V5.publish(fields, &mut out);
        out.len()
    }

    /// A device in the middle of its life: op 1,234 and more is next, the session some hours old.
    fn seasoned(next_op: u64, hello_age_s: u64) -> Device {
        let mut device = Device::new();
        device.core.next_op = next_op;
        device.in_step();
        device.pass(Duration::from_secs(hello_age_s));
        device.take_frames();
        device
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

        #[test]
        fn a_text_of_21_bytes_alone(next_op in 1_234u64..16_384, number in 4_711u32..16_384, age in 0u64..16_000) {
            let mut device = seasoned(next_op, age);
            device.post(text(stream(number), &"x".repeat(21)));
            let (frame, qos) = device.frames.pop().unwrap();
            let size = publish_bytes(&frame, qos);
            prop_assert!(size <= 46, "{size}: {frame:?}");
        }

        #[test]
        fn a_quick_reply_with_one_slot_alone(
            next_op in 1_234u64..16_384,
            number in 4_711u32..16_384,
            template in 120u32..16_384,
            minutes in -8_192i64..8_192,
            age in 0u64..16_000,
        ) {
            let mut device = seasoned(next_op, age);
            let reply = QuickReply::from_parts(template, 14, &[minutes], &[]).unwrap();
            device.post(Draft::settled(Operation::reply(stream(number), reply).to_wire()));
            let (frame, qos) = device.frames.pop().unwrap();
            let size = publish_bytes(&frame, qos);
            prop_assert!(size <= 32, "{size}: {frame:?}");
        }

        #[test]
        fn a_delivered_and_read_cursor_alone(number in 4_711u32..16_384, at in 3_000u64..16_384, age in 0u64..16_000) {
            let mut device = seasoned(1_234, age);
            let mut frame = wire::DownFrame { stamp: device.tag().number(), ..Default::default() };
            frame.skips = vec![wire::SkipRange { stream: number, first_seq: 1, count: at - 1, reason: 3 }];
            frame.entries = vec![run(number, at, &["a"])];
            device.receive(&frame);
            device.core.mark_read(stream(number), seq(at), device.now);
            device.settle();
            device.pass(Duration::from_millis(300));
            let (frame, qos) = device.frames.pop().unwrap();
            prop_assert_eq!((frame.cursors[0].delivered, frame.cursors[0].read), (at, at));
            let size = publish_bytes(&frame, qos);
            prop_assert!(size <= 26, "{size}: {frame:?}");
        }

        #[test]
        fn a_live_fix_alone(
            lat in -900_000_000i32..=900_000_000,
            lon in -1_800_000_000i32..=1_800_000_000,
            speed in 0u32..4_000,
            course in 0u32..3_600,
            battery in 0u32..=100,
            age in 0u64..16_000,
        ) {
            let mut device = seasoned(1_234, age);
            let motion = waypost_proto::Motion { speed_cmps: Some(speed), course_ddeg: Some(course) };
            let fix = Fix {
                at_ms: device.now.wall_ms,
                lat_e7: lat,
                lon_e7: lon,
                motion,
                accuracy_m: None,
                battery_pct: Some(battery),
            };
            device.core.live(fix);
            device.settle();
            let (frame, qos) = device.frames.pop().unwrap();
            let size = publish_bytes(&frame, qos);
            prop_assert!(size <= 34, "{size}: {frame:?}");
        }
    }
}
