//! A device that has lost its database: what crosses the link by itself, and what by the page.

use super::super::super::harness::{Device, config};
use super::*;
use crate::core::Ask;
use crate::store::memory::MemoryDisk;
use waypost_bridge::entry::Receipt;

const STREAMS: u32 = 3;

impl World {
    /// The driver has seen and read all that is here, up to `unread` entries before the end of each stream.
    fn read_up_to(&mut self, unread: u64) {
        for number in 1..=STREAMS {
            let last = self.heads[&stream(number)] - unread;
            let seq = Seq::new(last).unwrap();
            self.device.core.mark_read(stream(number), seq, self.device.now);
        }
        self.drain();
        self.run_for(Duration::from_secs(30));
    }

    /// The same device, on a disk that holds nothing.
    fn lose_database(&mut self) {
        self.due.clear();
        let now = self.device.now;
        self.device = Device::at(MemoryDisk::default(), 12, now, config());
        self.shown.clear();
    }

    fn receipts(&self) -> Vec<(StreamId, u64, Vec<Receipt>)> {
        let state = self.store.load(77).unwrap();
        let mut all = Vec::new();
        for number in 1..=STREAMS {
            let (of, head) = &state.streams[&stream(number)];
            for seq in 1..=*head {
                let rows = self.store.receipts(of, Seq::new(seq).unwrap()).unwrap();
                all.push((stream(number), seq, rows.unwrap()));
            }
        }
        all
    }

    /// What the server has of a stream: numbers and texts.
    fn log(&self, of: StreamId) -> Vec<(u64, String)> {
        let entries = self.store.entries(of, Page::After(0), 10_000, u64::MAX).unwrap();
        entries
            .into_iter()
            .map(|entry| match entry.body {
                EntryBody::Text(text) => (entry.seq.number(), text),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn inbox(&self, of: StreamId) -> Vec<(u64, String)> {
        let shelf = self.device.core.server().unwrap().shelf;
        let entries = self.device.store.history(shelf, of, None, usize::MAX).unwrap();
        entries
            .iter()
            .map(|entry| {
                let text = crate::core::harness::text_of(entry);
                (entry.seq.number(), text)
            })
            .collect()
    }

    /// Pages of a stream until there is nothing earlier; returns how many.
    fn page_back(&mut self, of: StreamId) -> usize {
        let mut pages = 0;
        while self.device.core.ask_earlier(of, 64) == Ask::Asked {
            let before = self.device.core.horizon(of);
            self.drain();
            let deadline = self.now + Duration::from_secs(400);
            while self.device.core.horizon(of) == before {
                assert!(self.now < deadline, "the page comes, whatever is lost");
                self.run_for(Duration::from_millis(100));
            }
            pages += 1;
        }
        pages
    }
}

/// A world whose device has lost all it held: 330 and more entries in each of three streams, the last 20 of each unread,
/// and four that it has never seen.
fn after_the_loss() -> (World, Vec<(StreamId, u64, Vec<Receipt>)>) {
    let mut world = World::new(STREAMS, 990, |number| {
        (format!("{number} {}", words(number, 100)), number % 97 == 0)
    });
    world.connect();
    for number in 0..10 {
        world.post(Draft::settled(
            Operation::text(stream(number % STREAMS + 1), format!("mine {number}")).to_wire(),
        ));
    }
    while world.shown.len() < 1_000 {
        assert!(world.now - world.start < Duration::from_secs(300));
        world.run_for(Duration::from_secs(1));
    }
    world.read_up_to(20);
    world.device.link = Link::Down;
    for number in [1, 2, 3, 1] {
        world.urgent_from_elsewhere(stream(number));
    }
    world.run_for(Duration::from_secs(1));
    let receipts = world.receipts();
    world.lose_database();
    (world, receipts)
}

#[test]
fn a_device_that_lost_its_database_is_brought_up_to_date_within_bounds_and_pages_back() {
    let (mut world, receipts) = after_the_loss();
    let (before, start) = (world.carried(), world.now);
    world.connect();
    world.run_for(Duration::from_secs(60));
    let bytes = world.carried() - before;
    let came: usize = (1..=STREAMS)
        .map(|number| world.inbox(stream(number)).len())
        .sum();
    println!("{came} of 1,004 entries came by themselves, {bytes} bytes in both directions");
    assert!(bytes < 70_000, "{bytes}");
    let (mut left_out, mut by_page) = (0, 0);
    for number in 1..=STREAMS {
        let of = stream(number);
        let (log, inbox) = (world.log(of), world.inbox(of));
        let horizon = world.device.core.horizon(of).unwrap().number();
        left_out += horizon;
        assert_eq!(inbox, log[usize::try_from(horizon).unwrap()..], "all of the rest");
        assert!(
            log.len() as u64 - horizon >= 120,
            "a hundred that were read, and the unread"
        );
        let unread = log.len() - 21;
        assert!(inbox.first().unwrap().0 <= log[unread].0);
    }
    // What was there before has the receipts that it had.
    let after = world.receipts();
    let had = |rows: &[Receipt]| rows.iter().any(|row| row.read.is_some());
    for ((of, seq, before), (_, _, after)) in receipts.iter().zip(&after) {
        if had(before) {
            assert_eq!(before, after, "{of} {seq}");
        }
    }

    let (before, start_of_pages) = (world.carried(), world.now);
    for number in 1..=STREAMS {
        by_page += world.page_back(stream(number));
        assert_eq!(world.inbox(stream(number)), world.log(stream(number)));
    }
    let counters = world.device.core.counters();
    println!(
        "{left_out} more by {by_page} pages, {} bytes, {:?} after {:?}",
        world.carried() - before,
        world.now - start_of_pages,
        start_of_pages - start
    );
    assert_eq!(counters.entries_paged, left_out, "each once");
    assert_eq!(counters.pages_repeated, 0);
    assert_eq!(world.receipts(), after, "a page moves no receipt");
}

#[test]
fn pages_come_whatever_is_lost_and_whoever_starts_again_between() {
    let (mut world, _) = after_the_loss();
    world.connect();
    world.run_for(Duration::from_secs(60));
    let left_out: u64 = (1..=STREAMS)
        .map(|number| world.device.core.horizon(stream(number)).unwrap().number())
        .sum();
    world.pages = Pages::Lossy { seen: 0 };
    world.page_back(stream(1));
    // The server starts again, and then the device does, on its disk.
    world.bridge = Bridge::new(world.store.load(77).unwrap(), CoreOptions::default());
    let ask = world.device.core.ask_earlier(stream(2), 64);
    assert_eq!(ask, Ask::Asked);
    world.drain();
    world.run_for(Duration::from_secs(60));
    world.page_back(stream(2));
    let paged = world.device.core.counters();
    world.device.core.handle_disconnected();
    world.due.clear();
    let (plate, now) = (world.device.plate.clone(), world.device.now);
    world.device = Device::at(plate, 999, now, config());
    world.connect();
    world.run_for(Duration::from_secs(5));
    world.page_back(stream(3));
    for number in 1..=STREAMS {
        assert_eq!(world.inbox(stream(number)), world.log(stream(number)));
    }
    let paged_then = world.device.core.counters();
    assert_eq!(
        paged.entries_paged + paged_then.entries_paged,
        left_out,
        "each once"
    );
    assert!(paged.pages_repeated > 0, "some came twice");
    let Pages::Lossy { seen } = world.pages else {
        panic!("it is lossy")
    };
    assert!(seen > 20);
}
