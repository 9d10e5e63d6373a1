//! What is too old goes, in bounded steps, and everybody is told by a skip range.

use super::*;
use crate::store::{DAY_MS, LOOK_RECORDS_MAX};

impl World {
    /// Days pass, the connection does not: nothing that a device would say is simulated.
    fn pass_days(&mut self, days: i64) {
        self.now.wall_ms += days * DAY_MS;
        self.now.monotonic += Duration::from_secs(3_600);
    }

    /// Goes on until a sweep finds nothing more to do; gives the largest write of it.
    fn sweep(&mut self) -> usize {
        let mut largest = 0;
        // The flush after a start sets the first step.
        self.settle();
        let until = self.now.monotonic + Duration::from_secs(300);
        while let Some(at) = self.core.poll_timeout().filter(|at| *at <= until) {
            self.now.monotonic = self.now.monotonic.max(at);
            self.core.handle_timeout(self.now);
            self.drain();
            largest = self
                .unsynced
                .iter()
                .map(|(_, changes)| changes.len())
                .fold(largest, usize::max);
            self.settle();
        }
        largest
    }

    fn seqs(&self, stream: StreamId) -> Vec<u64> {
        let entries = self.store.entries(stream, Page::After(0), 10_000, u64::MAX);
        entries.unwrap().iter().map(|entry| entry.seq.number()).collect()
    }
}

/// (first number, count, reason) of all skip ranges in some frames.
fn skips_of(frames: &[wire::DownFrame]) -> Vec<(u64, u64, wire::SkipReason)> {
    let skips = frames.iter().flat_map(|frame| &frame.skips);
    skips
        .map(|skip| (skip.first_seq, skip.count, skip.reason()))
        .collect()
}

#[test]
fn old_entries_and_their_receipts_go_and_the_numbers_go_on() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    for text in ["one", "two", "three"] {
        world.post(person, device.stream, text);
    }
    world.up(&device, &reported(1, cursor(device.stream, 3, 2)));
    world.pass_days(300);
    world.post(person, device.stream, "four");
    // Sent to the device up to 3 and delivered, read up to 2; and 4 is sent.
    assert_eq!(world.store.receipts_kept(), 6);
    world.sweep();
    assert_eq!(world.seqs(device.stream), [1, 2, 3, 4], "nothing is old yet");

    world.pass_days(66);
    world.sweep();
    assert_eq!(world.seqs(device.stream), [4]);
    assert_eq!(
        world.store.receipts_kept(),
        1,
        "of 4 it is still known that it was sent"
    );
    let first = Seq::new(1).unwrap();
    assert_eq!(world.store.entry(device.stream, first).unwrap(), None);
    let view = world.core.stream(Some(person), device.stream).unwrap();
    assert_eq!(
        (view.head, view.unread),
        (4, 0),
        "whoever wrote the last one has read what there is"
    );

    world.pass_days(400);
    world.sweep();
    assert_eq!(world.seqs(device.stream), [0; 0]);
    world.restart();
    assert_eq!(
        world.core.stream(None, device.stream).unwrap().head,
        4,
        "an empty log remembers its end"
    );
    assert_eq!(
        world.post(person, device.stream, "five").number(),
        5,
        "a number is never given twice"
    );
    world.restart();
    assert_eq!(world.core.stream(None, device.stream).unwrap().head, 5);
}

#[test]
fn what_an_entry_says_of_its_end_and_of_what_it_replaced_goes_with_it() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    let marks = |world: &World| {
        let mut marks = 0;
        let mut visit = |key: &[u8], _: &[u8]| {
            marks += usize::from(b"xX".contains(&key[0]));
            Ok(std::ops::ControlFlow::Continue(()))
        };
        world.store.snapshot(&mut visit).unwrap();
        marks
    };
    let ends_ms = world.now.wall_ms + 400 * DAY_MS;
    for supersedes in [None, Seq::new(1)] {
        let new = NewEntry {
            supersedes,
            expires_ms: Some(ends_ms),
            ..by_person(person, device.stream, "dock")
        };
        world.post_entry(new).unwrap();
        world.settle();
    }
    assert_eq!(marks(&world), 3, "two ends, and that one was superseded");
    world.pass_days(366);
    world.sweep();
    assert_eq!(world.seqs(device.stream), [0; 0]);
    assert_eq!(marks(&world), 2, "an end is forgotten when it comes");
    let told = world.core.last_event();
    world.pass_days(35);
    world.sweep();
    assert_eq!(marks(&world), 0);
    assert_eq!(world.core.last_event(), told, "of what is gone nothing is told");
}

#[test]
fn an_unread_entry_goes_like_any_other_and_is_not_counted_as_unread() {
    let (mut world, device) = World::in_session();
    let reader = world.add_person();
    world.up(&device, &ops(1, 1, device.stream, &["one", "two"]));
    assert_eq!(world.core.stream(Some(reader), device.stream).unwrap().unread, 2);
    world.pass_days(366);
    world.sweep();
    assert_eq!(world.core.stream(Some(reader), device.stream).unwrap().unread, 0);
}

#[test]
fn a_connected_device_that_lags_gets_one_skip_range_and_what_is_left() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    for number in 0..700 {
        world.post(person, device.stream, &format!("old {number}"));
    }
    world.up(&device, &reported(1, cursor(device.stream, 10, 0)));
    world.pass_days(366);
    world.post(person, device.stream, "new");
    world.sent.clear();
    world.sweep();
    assert_eq!(world.seqs(device.stream), [701]);
    // The repetition says what it is now.
    let frames = world.frames();
    assert_eq!(
        skips_of(&frames).last(),
        Some(&(11, 690, wire::SkipReason::Trimmed))
    );
    assert_eq!(entries_of(&frames).last(), Some(&(701, 0)));
    let frames = world.up(&device, &reported(1, cursor(device.stream, 701, 0)));
    assert_eq!(
        skips_of(&frames),
        [],
        "a device that holds the range is told no more of it"
    );
}

#[test]
fn a_device_that_was_away_gets_one_skip_range_also_where_nothing_is_left() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    world.core.handle_disconnected(device.id, world.now);
    world.settle();
    for number in 0..100 {
        world.post(person, device.stream, &format!("old {number}"));
    }
    world.pass_days(366);
    world.sweep();
    world.restart();
    let frames = world.hello(&device, 2, 0);
    assert_eq!(skips_of(&frames), [(1, 100, wire::SkipReason::Trimmed)]);
    assert_eq!(entries_of(&frames), []);
    let frames = world.up(&device, &reported(2, cursor(device.stream, 100, 0)));
    assert_eq!(
        frames.last().unwrap().cursors[0].delivered,
        100,
        "its cursor is taken and echoed"
    );
    assert_eq!(
        world.store.receipts_kept(),
        0,
        "of what is gone there is no receipt, however late it comes"
    );
    world.post(person, device.stream, "new");
    assert_eq!(entries_of(&world.frames()), [(101, 0)]);
}

#[test]
fn a_step_is_bounded_and_a_restart_in_the_middle_goes_on_where_it_was() {
    let (mut world, device) = World::in_session();
    let many = 3 * LOOK_RECORDS_MAX;
    let person = world.add_person();
    world.core.handle_disconnected(device.id, world.now);
    for number in 0..many {
        world.post(person, device.stream, &format!("old {number}"));
    }
    world.pass_days(366);
    // The first two steps; the second dies before it is on disk.
    world.now.monotonic += Duration::from_secs(60);
    world.settle();
    world.now.monotonic += Duration::from_secs(60);
    world.core.handle_timeout(world.now);
    world.settle();
    let left = world.seqs(device.stream);
    assert!(!left.is_empty() && left.len() < many, "{}", left.len());
    world.now.monotonic += Duration::from_secs(60);
    world.core.handle_timeout(world.now);
    world.drain();
    assert_eq!(world.unsynced.len(), 1);
    world.restart();
    assert_eq!(world.seqs(device.stream), left);
    let largest = world.sweep();
    assert_eq!(world.seqs(device.stream), [0; 0]);
    assert!(largest <= 3 * LOOK_RECORDS_MAX, "{largest} changes at once");
}

#[test]
fn a_repetition_of_a_trimmed_operation_is_still_no_second_entry() {
    let (mut world, device) = World::in_session();
    world.up(&device, &ops(1, 1, device.stream, &["once"]));
    world.pass_days(366);
    world.sweep();
    world.restart();
    world.hello(&device, 2, 0);
    let frames = world.up(&device, &ops(2, 1, device.stream, &["once"]));
    assert_eq!(frames.last().unwrap().accepted_through, 1);
    assert_eq!(world.seqs(device.stream), [0; 0]);
    let frames = world.up(&device, &ops(2, 1, device.stream, &["another"]));
    assert_eq!(
        frames.last().unwrap().forked_op,
        1,
        "its digest is remembered, too"
    );
}

#[test]
fn an_answer_to_a_trimmed_entry_is_taken_and_leaves_no_receipt_behind() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    world.post(person, device.stream, "a question");
    world.pass_days(366);
    world.sweep();
    let answer = Operation {
        reply_to: Seq::new(1),
        ..Operation::text(device.stream, "an answer")
    };
    let frame = wire::UpFrame {
        stamp: stamp(1, 10),
        first_op: 1,
        ops: vec![answer.to_wire()],
        ..Default::default()
    };
    let frames = world.up(&device, &frame);
    assert_eq!(refusals_of(&frames), []);
    assert_eq!(world.texts(device.stream), ["an answer"]);
    assert_eq!(
        world.store.receipts_kept(),
        1,
        "that the answer went out as the device's own, and nothing of the question"
    );
}

#[test]
fn old_events_go_and_the_log_says_where_it_begins() {
    let (mut world, device) = World::in_session();
    let last = world.core.last_event();
    assert!(last > 0);
    world.pass_days(91);
    world.sweep();
    assert_eq!(world.store.events(0, 100).unwrap(), []);
    assert_eq!(
        (world.core.first_event(), world.core.last_event()),
        (last + 1, last)
    );
    world.restart();
    assert_eq!(
        (world.core.first_event(), world.core.last_event()),
        (last + 1, last)
    );
    world.hello(&device, 2, 0);
    let cursors: Vec<u64> = world
        .store
        .events(0, 100)
        .unwrap()
        .iter()
        .map(|event| event.cursor)
        .collect();
    assert_eq!(cursors, [last + 1], "a cursor is never given twice");
}

#[test]
fn old_lines_of_the_audit_record_go_and_its_numbers_go_on() {
    let mut world = World::new();
    let numbers = |world: &World| -> Vec<u64> {
        let lines = world.store.audit(None, 100).unwrap();
        lines.iter().map(|line| line.number).collect()
    };
    let write = |world: &mut World, subject: &str| {
        world.core.act(Acting::SERVER, world.now);
        world.core.audit("device.added", subject.to_owned());
        world.core.commit();
        world.settle();
    };
    write(&mut world, "device/1");
    write(&mut world, "device/2");
    assert_eq!(numbers(&world), [2, 1]);
    world.pass_days(366);
    world.sweep();
    assert_eq!(numbers(&world), [0; 0]);
    world.restart();
    write(&mut world, "device/3");
    world.sweep();
    assert_eq!(numbers(&world), [3]);
}

#[test]
fn positions_age_from_the_day_on_which_they_arrived() {
    let (mut world, device) = World::in_session();
    let from = |start_ms: i64, count: i64| -> Vec<Fix> {
        (0..count)
            .map(|n| Fix::from_degrees(start_ms + n * 1_000, 1.0, 2.0).unwrap())
            .collect()
    };
    let at = |world: &World| -> Vec<i64> {
        let track = world.store.track(device.id, i64::MIN, i64::MAX, 100_000).unwrap();
        track.iter().map(|position| position.fix.at_ms).collect()
    };
    // Driven today, over midnight; and a recording of years ago.
    let (today, recorded) = (world.now.wall_ms, 1_380_000_000_000);
    let many = i64::try_from(LOOK_RECORDS_MAX).unwrap() + 100;
    let mut op = 1;
    let mut track = |world: &mut World, fixes: Vec<Fix>| {
        for part in fixes.chunks(1_000) {
            let operation = Operation::track(part.to_vec(), TrackKind::Recording);
            let frame = wire::UpFrame {
                stamp: stamp(1, 10),
                first_op: op,
                ops: vec![operation.to_wire()],
                ..Default::default()
            };
            assert_eq!(refusals_of(&world.up(&device, &frame)), []);
            op += 1;
        }
    };
    track(&mut world, from(today - 1_000, 2));
    track(&mut world, from(recorded, many));
    world.core.handle_disconnected(device.id, world.now);
    world.pass_days(50);
    world.hello(&device, 1, 0);
    // Of the old day a part came again, and something came later.
    track(&mut world, from(recorded + 1_000, 1));
    world.pass_days(40);
    world.sweep();
    assert_eq!(
        at(&world).len(),
        usize::try_from(many).unwrap() + 2,
        "90 days are whole days"
    );
    world.pass_days(1);
    let largest = world.sweep();
    assert_eq!(
        at(&world),
        [recorded + 1_000],
        "what came later stays as long as it was promised"
    );
    assert!(largest <= LOOK_RECORDS_MAX + 2, "{largest} changes at once");
    world.restart();
    world.pass_days(50);
    world.sweep();
    assert_eq!(at(&world), [0; 0]);
}

#[test]
fn a_position_that_comes_while_the_clock_is_behind_is_found_as_well() {
    let mut world = World::new();
    let device = world.add_device();
    let report = |world: &mut World| {
        let fix = Fix::from_degrees(world.now.wall_ms, 1.0, 2.0).unwrap();
        world
            .core
            .report_positions(device.id, &[fix], Told::Now, world.now)
            .unwrap();
        world.settle();
    };
    report(&mut world);
    world.pass_days(91);
    world.sweep();
    world.pass_days(-200);
    report(&mut world);
    world.pass_days(200);
    world.sweep();
    assert_eq!(world.store.track(device.id, i64::MIN, i64::MAX, 9).unwrap(), []);
}

#[test]
fn zero_days_keep_for_ever() {
    let (mut world, device) = World::in_session();
    let retention = Retention {
        entries_days: 0,
        positions_days: 0,
        events_days: 0,
        audit_days: 0,
    };
    world.core.options.retention = retention;
    world.up(&device, &ops(1, 1, device.stream, &["one"]));
    let fix = Fix::from_degrees(world.now.wall_ms, 1.0, 2.0).unwrap();
    world
        .core
        .report_positions(device.id, &[fix], Told::Now, world.now)
        .unwrap();
    world.settle();
    let events = world.store.events(0, 100).unwrap();
    world.pass_days(36_500);
    world.sweep();
    assert_eq!(world.seqs(device.stream), [1]);
    assert_eq!(world.store.events(0, 100).unwrap(), events);
    assert_eq!(
        world.store.track(device.id, i64::MIN, i64::MAX, 9).unwrap().len(),
        1
    );
}
