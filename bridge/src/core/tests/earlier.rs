//! A device that has lost its database: what it gets again by itself, and what by the page.

use super::*;
use crate::group::{GroupPatch, History, NewGroup};
use waypost_proto::wire::SkipReason;

/// A skip range: stream, first and last number, reason.
type Skipped = (u32, u64, u64, SkipReason);

impl World {
    /// A hello of an installation that holds nothing.
    fn hello_of_new_epoch(&mut self, device: &Device, tag: u32, epoch: u64) -> Vec<wire::DownFrame> {
        self.hello_of_epoch(device, tag, epoch, &Cumulative::default())
    }

    /// A hello of an installation that holds so much of the device's direct stream, and of no other.
    fn hello_of_epoch(
        &mut self,
        device: &Device,
        tag: u32,
        epoch: u64,
        held: &Cumulative,
    ) -> Vec<wire::DownFrame> {
        let hello = wire::Hello {
            epoch,
            device_ms: self.now.wall_ms.cast_unsigned(),
            positions_digest: positions_digest([(device.stream, held)]),
            ..Default::default()
        };
        self.up(
            device,
            &wire::UpFrame {
                stamp: stamp(tag, 0),
                hello: Some(hello),
                ..Default::default()
            },
        )
    }

    /// Confirms whatever comes until nothing does; returns the entries and skips of all frames.
    fn bring_up_to_date(
        &mut self,
        device: &Device,
        tag: u32,
        mut frames: Vec<wire::DownFrame>,
    ) -> (BTreeMap<u32, Vec<u64>>, Vec<Skipped>) {
        let (mut entries, mut skips) = (BTreeMap::<u32, Vec<u64>>::new(), Vec::new());
        let mut held = BTreeMap::<u32, Cumulative>::new();
        loop {
            let mut any = false;
            for frame in &frames {
                for run in &frame.entries {
                    for (seq, _) in (run.first_seq..).zip(&run.entries) {
                        entries.entry(run.stream).or_default().push(seq);
                        held.entry(run.stream).or_default().insert(seq);
                        any = true;
                    }
                }
                for skip in &frame.skips {
                    let last = skip.first_seq + skip.count - 1;
                    skips.push((skip.stream, skip.first_seq, last, skip.reason()));
                    held.entry(skip.stream)
                        .or_default()
                        .insert_range(skip.first_seq, last);
                    any = true;
                }
            }
            if !any {
                return (entries, skips);
            }
            let cursors = held.iter().map(|(&stream, held)| wire::Cursor {
                ranges: held.to_wire(),
                ..cursor(StreamId::new(stream).unwrap(), held.through(), 0)
            });
            let report = wire::UpFrame {
                stamp: stamp(tag, 20),
                cursors: cursors.collect(),
                ..Default::default()
            };
            frames = self.up(device, &report);
        }
    }

    fn page(&mut self, device: &Device, tag: u32, before_seq: u64, limit: u32) -> Vec<wire::EntryPage> {
        let stream = device.stream;
        self.page_of(device, tag, stream, before_seq, limit)
    }

    fn page_of(
        &mut self,
        device: &Device,
        tag: u32,
        stream: StreamId,
        before_seq: u64,
        limit: u32,
    ) -> Vec<wire::EntryPage> {
        let request = wire::UpFrame {
            stamp: stamp(tag, 0),
            page: Some(wire::PageRequest {
                stream: stream.number(),
                before_seq,
                limit,
            }),
            ..Default::default()
        };
        let frames = self.up(device, &request);
        assert!(frames.iter().all(|frame| frame.encoded_len() <= 1_200));
        frames.into_iter().flat_map(|frame| frame.pages).collect()
    }

    /// Everything before a number, page by page; what was skipped, and the texts by their numbers.
    fn page_back(
        &mut self,
        device: &Device,
        stream: StreamId,
        mut before: u64,
    ) -> (BTreeMap<u64, String>, Vec<Skipped>) {
        let (mut texts, mut skips) = (BTreeMap::new(), Vec::new());
        while before > 1 {
            let pages = self.page_of(device, 2, stream, before, 64);
            let [page] = pages.as_slice() else {
                panic!("one page: {pages:?}")
            };
            assert_eq!((page.before_seq, page.refused), (before, 0));
            assert!(page.first_seq < before, "it goes on");
            let mut covered = Cumulative::through_to(page.first_seq - 1);
            for skip in &page.skips {
                let last = skip.first_seq + skip.count - 1;
                covered.insert_range(skip.first_seq, last);
                skips.push((skip.stream, skip.first_seq, last, skip.reason()));
            }
            for (seq, entry) in page
                .runs
                .iter()
                .flat_map(|run| (run.first_seq..).zip(&run.entries))
            {
                let Some(wire::entry::Body::Text(text)) = entry.body.clone() else {
                    panic!("a text")
                };
                assert_eq!(entry.own_op, 0, "in full");
                assert_eq!(texts.insert(seq, text), None, "once");
                assert!(!covered.contains(seq));
                covered.insert(seq);
            }
            assert_eq!(covered.through(), before - 1, "all of the stretch is told");
            before = page.first_seq;
            self.advance(1);
        }
        (texts, skips)
    }
}

/// A device with so many entries, of which it has held and read the first ones; each of the office is as long as it says.
fn with_history(entries: u64, held: u64, read: u64, words: usize) -> (World, Device, PersonId) {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    for number in 1..=entries {
        if number % 10 == 0 {
            world.up(
                &device,
                &ops(1, number / 10, device.stream, &[&format!("own {number}")]),
            );
        } else {
            world.post(person, device.stream, &of_office(number, words));
        }
    }
    let frames = world.up(&device, &reported(1, cursor(device.stream, held, read)));
    assert_eq!(refusals_of(&frames), []);
    (world, device, person)
}

fn of_office(number: u64, words: usize) -> String {
    format!("office {number}{}", "x".repeat(words))
}

fn receipts(world: &World, device: &Device) -> Vec<Option<Vec<crate::entry::Receipt>>> {
    let stream = &world.core.streams[&device.stream];
    (1..=stream.head)
        .map(|seq| {
            world
                .store
                .receipts(&stream.stream, Seq::new(seq).unwrap())
                .unwrap()
        })
        .collect()
}

#[test]
fn a_new_epoch_gets_what_is_unread_and_the_newest_of_the_rest_and_moves_no_receipt() {
    let (mut world, device, _) = with_history(400, 350, 250, 0);
    let before = receipts(&world, &device);
    let frames = world.hello_of_new_epoch(&device, 2, 6);
    let (entries, skips) = world.bring_up_to_date(&device, 2, frames);
    let number = device.stream.number();
    assert_eq!(entries[&number], (151..=400).collect::<Vec<_>>());
    assert_eq!(skips, [(number, 1, 150, SkipReason::Earlier)]);
    let after = receipts(&world, &device);
    assert_eq!(after[..350], before[..350], "of what was held before");
    let delivered = |rows: &[Option<Vec<crate::entry::Receipt>>]| {
        let of = |row: &Option<Vec<crate::entry::Receipt>>| {
            row.iter().flatten().any(|receipt| receipt.delivered.is_some())
        };
        rows.iter().filter(|row| of(row)).count()
    };
    assert!(delivered(&after[350..]) > delivered(&before[350..]));
    // The same installation again: it holds all of it.
    let frames = world.hello_of_epoch(&device, 3, 6, &Cumulative::through_to(400));
    assert_eq!(entries_of(&frames), []);
    assert!(frames.iter().all(|frame| frame.skips.is_empty()));
}

#[test]
fn the_bytes_of_all_streams_are_bounded_and_the_newest_streams_come_first() {
    let mut world = World::new();
    let (person, device) = (world.add_person(), world.add_device());
    world.core.options.history_bytes = 3_000;
    let mut streams = vec![device.stream];
    for name in ["North", "South"] {
        let new = NewGroup {
            name: name.into(),
            devices: vec![device.id],
            history: History::SinceJoining,
        };
        let Made::Group(group) = world.make(|core, now| core.add_group(new, now)).unwrap() else {
            panic!("a group was made")
        };
        world.settle();
        streams.push(world.core.group(group).unwrap().group.stream);
    }
    world.hello(&device, 1, 0);
    for &stream in &streams {
        world.advance(1);
        for number in 1..=20 {
            world.post(person, stream, &format!("{number} {}", "x".repeat(90)));
        }
        let head = world.core.streams[&stream].head;
        world.up(&device, &reported(1, cursor(stream, head, head)));
    }
    let frames = world.hello_of_new_epoch(&device, 2, 6);
    let (entries, skips) = world.bring_up_to_date(&device, 2, frames);
    let count = |stream: &StreamId| entries.get(&stream.number()).map_or(0, Vec::len);
    assert_eq!(
        count(&streams[2]),
        21,
        "the newest stream is whole, its beginning included"
    );
    let middle = count(&streams[1]);
    assert!(0 < middle && middle < 20, "{middle}");
    assert_eq!(count(&streams[0]), 0, "the oldest one comes on demand");
    let left_out: Vec<_> = skips
        .iter()
        .map(|&(stream, first, last, reason)| (stream, last - first + 1, reason))
        .collect();
    let expected = [(streams[0], 20), (streams[1], 21 - middle as u64)];
    for (stream, count) in expected {
        assert!(
            left_out.contains(&(stream.number(), count, SkipReason::Earlier)),
            "{left_out:?}"
        );
    }
}

#[test]
fn thousands_that_nobody_has_read_come_whatever_the_bounds() {
    let (mut world, device, _) = with_history(1_000, 900, 0, 0);
    world.core.options.history_entries = 0;
    let frames = world.hello_of_new_epoch(&device, 2, 6);
    let (entries, skips) = world.bring_up_to_date(&device, 2, frames);
    assert_eq!(entries[&device.stream.number()].len(), 1_000);
    assert_eq!(skips, []);
}

#[test]
fn an_urgent_entry_from_before_the_horizon_comes_by_the_page_and_one_after_it_first() {
    let mut world = World::new();
    let (person, device) = (world.add_person(), world.add_device());
    for number in 1..=300 {
        let new = NewEntry {
            urgent: [50, 280].contains(&number),
            ..by_person(person, device.stream, &format!("{number} {}", "x".repeat(300)))
        };
        world.post_entry(new).unwrap();
        world.settle();
    }
    let frames = world.hello(&device, 1, 0);
    world.bring_up_to_date(&device, 1, frames);
    world.up(&device, &reported(1, cursor(device.stream, 300, 300)));
    let frames = world.hello_of_new_epoch(&device, 2, 6);
    assert_eq!(entries_of(&frames[..1]), [(280, 0)]);
    let (entries, skips) = world.bring_up_to_date(&device, 2, frames);
    assert_eq!(skips, [(device.stream.number(), 1, 200, SkipReason::Earlier)]);
    let mut came = entries[&device.stream.number()].clone();
    came.sort_unstable();
    assert_eq!(came, (201..=300).collect::<Vec<_>>(), "each once");
    let (texts, _) = world.page_back(&device, device.stream, 201);
    assert!(texts[&50].starts_with("50 "));
}

#[test]
fn pages_bring_every_earlier_entry_once_with_what_the_device_wrote_itself() {
    let (mut world, device, _) = with_history(400, 400, 400, 0);
    let own = &world.page(&device, 1, 101, 1)[0].runs[0].entries[0];
    assert_eq!(
        (own.own_op, own.author_op),
        (0, 10),
        "in full in its own epoch too"
    );
    let frames = world.hello_of_new_epoch(&device, 2, 6);
    world.bring_up_to_date(&device, 2, frames);
    let before = receipts(&world, &device);
    let (texts, skips) = world.page_back(&device, device.stream, 301);
    assert_eq!(skips, []);
    let expected = |number: u64| match number % 10 {
        0 => format!("own {number}"),
        _ => of_office(number, 0),
    };
    assert_eq!(
        texts,
        (1..=300).map(|number| (number, expected(number))).collect()
    );
    assert_eq!(receipts(&world, &device), before, "a page moves nothing");
    // The server starts again between one page and the next; the request comes again.
    world.restart();
    world.hello_of_epoch(&device, 3, 6, &Cumulative::through_to(400));
    let (first, again) = (world.page(&device, 3, 200, 5), world.page(&device, 3, 200, 5));
    assert_eq!(first, again, "a repeated request has the same answer");
    assert_eq!(first[0].first_seq, 195);
}

#[test]
fn a_page_waits_for_all_that_is_due_and_for_its_turn() {
    let (mut world, device, person) = with_history(400, 400, 400, 640);
    let frames = world.hello_of_new_epoch(&device, 2, 6);
    let (mut pages, mut frames) = (0, frames);
    let mut held = Cumulative::default();
    // It is asked for at once, while much is still to come.
    let first = world.page(&device, 2, 301, 64);
    assert_eq!(first, [], "the window is full of newer ones");
    while held.through() < 400 {
        for frame in &frames {
            assert!(pages == 0 || frame.entries.is_empty());
            pages += frame.pages.len();
            for skip in &frame.skips {
                held.insert_range(skip.first_seq, skip.first_seq + skip.count - 1);
            }
        }
        for (seq, _) in entries_of(&frames) {
            held.insert(seq);
        }
        frames = world.up(&device, &reported(2, cursor(device.stream, held.through(), 0)));
    }
    pages += frames.iter().map(|frame| frame.pages.len()).sum::<usize>();
    assert_eq!(pages, 1);
    // More of them than a session may have at once: the next one waits a moment, and comes by itself.
    let mut came = 0;
    while !world.page(&device, 2, 100, 1).is_empty() {
        came += 1;
        assert!(came < 100, "there is a bound");
    }
    assert!(came > 10, "{came}");
    world.advance(1);
    assert_eq!(
        world
            .frames()
            .iter()
            .map(|frame| frame.pages.len())
            .sum::<usize>(),
        1
    );
    world.post(person, device.stream, "still served");
    assert_eq!(entries_of(&world.frames()), [(401, 0)]);
}

#[test]
fn what_cannot_be_paged_is_refused_with_its_reason() {
    let (mut world, device, _) = with_history(20, 20, 20, 0);
    let other = world.add_device();
    world.hello_of_new_epoch(&device, 2, 6);
    let unknown = StreamId::new(4_711).unwrap();
    for (stream, before, limit, reason) in [
        (unknown, 5, 10, RefusalReason::UnknownStream),
        (other.stream, 5, 10, RefusalReason::NotAMember),
        (device.stream, 0, 10, RefusalReason::Unreadable),
        (device.stream, 5, 0, RefusalReason::Unreadable),
        (device.stream, 5, 65, RefusalReason::Unreadable),
    ] {
        let pages = world.page_of(&device, 2, stream, before, limit);
        assert_eq!(pages.len(), 1);
        assert_eq!((pages[0].before_seq, pages[0].first_seq), (before, 0));
        assert_eq!(pages[0].refused(), reason);
        assert!(pages[0].runs.is_empty());
    }
}

#[test]
fn one_who_has_left_pages_what_was_his_and_nothing_else() {
    let mut world = World::new();
    let person = world.add_person();
    let (device, other) = (world.add_device(), world.add_device());
    let new = NewGroup {
        name: "North".into(),
        devices: vec![other.id],
        history: History::SinceJoining,
    };
    let Made::Group(group) = world.make(|core, now| core.add_group(new, now)).unwrap() else {
        panic!("a group was made")
    };
    world.settle();
    let stream = world.core.group(group).unwrap().group.stream;
    let say = |world: &mut World, what: &str| {
        for number in 1..=30 {
            world.post(person, stream, &format!("{what} {number}"));
        }
    };
    let with = |world: &mut World, devices: Vec<DeviceId>| {
        let patch = GroupPatch {
            devices: Some(devices),
            ..Default::default()
        };
        world.core.update_group(group, patch, world.now).unwrap();
        world.settle();
    };
    world.hello(&device, 1, 0);
    say(&mut world, "before");
    with(&mut world, vec![other.id, device.id]);
    say(&mut world, "first stay");
    with(&mut world, vec![other.id]);
    say(&mut world, "away");
    with(&mut world, vec![other.id, device.id]);
    say(&mut world, "second stay");
    with(&mut world, vec![other.id]);
    say(&mut world, "after");
    world.hello_of_new_epoch(&device, 2, 6);
    let pages = world.page_of(&device, 2, stream, 10_000, 64);
    let bytes = pages[0].encode_to_vec();
    assert!(!bytes.windows(5).any(|words| words == b"after"));
    assert!(
        pages[0]
            .skips
            .iter()
            .all(|skip| skip.first_seq + skip.count <= 128),
        "not its numbers either: {:?}",
        pages[0].skips
    );
    let top = pages[0]
        .runs
        .iter()
        .map(|run| run.first_seq + run.entries.len() as u64)
        .max()
        .unwrap();
    // Only the words of two stays, and the notes of coming and going within them.
    let (mut seen, mut before) = (Vec::new(), top);
    while before > 1 {
        let pages = world.page_of(&device, 2, stream, before, 64);
        for entry in pages[0].runs.iter().flat_map(|run| &run.entries) {
            if let Some(wire::entry::Body::Text(text)) = &entry.body {
                seen.push(text.clone());
            }
        }
        assert!(pages[0].first_seq < before);
        before = pages[0].first_seq;
    }
    assert_eq!(seen.len(), 60, "{seen:?}");
    assert!(
        seen.iter()
            .all(|text| text.starts_with("first stay") || text.starts_with("second stay"))
    );
}

#[test]
fn what_was_trimmed_is_told_as_such_at_the_end_of_the_pages() {
    let (mut world, device, _) = with_history(400, 400, 400, 0);
    world.core.options.retention.entries_days = 30;
    world.now.wall_ms += 31 * 86_400_000;
    let (mut world, device) = {
        let person = world.add_person();
        // What is new keeps its place, what is old goes.
        for number in 0..150 {
            world.post(person, device.stream, &format!("new {number}"));
        }
        world.up(&device, &reported(1, cursor(device.stream, 550, 550)));
        for _ in 0..60 {
            world.now.monotonic += Duration::from_secs(600);
            world.core.handle_timeout(world.now);
            world.settle();
        }
        (world, device)
    };
    assert_eq!(world.core.first_seq(device.stream), 401);
    let frames = world.hello_of_new_epoch(&device, 2, 6);
    let (entries, skips) = world.bring_up_to_date(&device, 2, frames);
    let number = device.stream.number();
    assert_eq!(entries[&number], (451..=550).collect::<Vec<_>>());
    assert_eq!(
        skips,
        [
            (number, 1, 400, SkipReason::Trimmed),
            (number, 401, 450, SkipReason::Earlier)
        ]
    );
    let (texts, skips) = world.page_back(&device, device.stream, 451);
    assert_eq!(
        texts.keys().copied().collect::<Vec<_>>(),
        (401..=450).collect::<Vec<_>>()
    );
    assert_eq!(skips, [(number, 1, 400, SkipReason::Trimmed)]);
    let (texts, skips) = world.page_back(&device, device.stream, 300);
    assert_eq!(texts.len(), 0);
    assert_eq!(skips, [(number, 1, 299, SkipReason::Trimmed)]);
}
