//! Earlier entries on demand.

use super::{SECOND, entries};
use crate::core::harness::{Device, Disk, run, seq, stream, text_of};
use crate::core::{Ask, Event, Paged};
use std::time::Duration;
use waypost_proto::Incarnation;
use waypost_proto::wire::{self, RefusalReason, SkipReason};

/// In step, with entries 901 and 902 of stream 4, and all before them skipped as there on demand.
fn with_horizon() -> Device {
    let mut device = Device::new();
    device.in_step();
    let frame = wire::DownFrame {
        skips: vec![wire::SkipRange {
            stream: 4,
            first_seq: 1,
            count: 900,
            reason: SkipReason::Earlier.into(),
        }],
        ..entries(&device, vec![run(4, 901, &["901", "902"])])
    };
    device.receive(&frame);
    device.pass(SECOND);
    device.take_frames();
    device.events.clear();
    device
}

fn ask(device: &mut Device) -> Ask {
    let ask = device.core.ask_earlier(stream(4), 64);
    device.settle();
    ask
}

fn requests(device: &mut Device) -> Vec<(u32, u64, u32)> {
    let frames = device.take_frames().into_iter();
    frames
        .filter_map(|frame| frame.page)
        .map(|page| (page.stream, page.before_seq, page.limit))
        .collect()
}

fn page(device: &Device, before_seq: u64, first_seq: u64, texts: &[&str]) -> wire::DownFrame {
    let page = wire::EntryPage {
        stream: 4,
        before_seq,
        first_seq,
        runs: vec![run(4, before_seq - texts.len() as u64, texts)],
        ..Default::default()
    };
    wire::DownFrame {
        pages: vec![page],
        ..device.down()
    }
}

fn history(device: &Device) -> Vec<(u64, String)> {
    let shelf = Incarnation::new(77).unwrap();
    let entries = device.store.history(shelf, stream(4), None, 99).unwrap();
    entries
        .iter()
        .map(|entry| (entry.seq.number(), text_of(entry)))
        .collect()
}

fn paged(device: &mut Device) -> Vec<Paged> {
    let events = std::mem::take(&mut device.events).into_iter();
    events
        .filter_map(|event| match event {
            Event::Paged { paged, .. } => Some(paged),
            _ => None,
        })
        .collect()
}

#[test]
fn what_is_there_on_demand_is_known_and_survives_a_power_cut() {
    let device = with_horizon();
    assert_eq!(device.core.horizons(), [(stream(4), seq(900))]);
    let mut device = device.restart();
    assert_eq!(device.core.horizon(stream(4)), Some(seq(900)));
    assert_eq!(device.core.horizon(stream(5)), None);
    assert_eq!(ask(&mut device), Ask::Offline);
    assert_eq!(device.core.ask_earlier(stream(5), 1), Ask::NothingEarlier);
}

#[test]
fn a_page_is_stored_before_it_is_told_and_is_nothing_new_to_the_screen() {
    let mut device = with_horizon();
    device.shown.clear();
    assert_eq!(ask(&mut device), Ask::Asked);
    assert_eq!(requests(&mut device), [(4, 901, 64)]);
    device.disk = Disk::Stuck;
    let answer = page(&device, 901, 899, &["899", "900"]);
    device.receive(&answer);
    assert_eq!(paged(&mut device), [], "it is not on disk");
    ask(&mut device);
    assert_eq!(requests(&mut device), [], "the next one waits for this one");
    device.sync();
    assert_eq!(paged(&mut device), [Paged::Here]);
    assert_eq!(device.core.horizon(stream(4)), Some(seq(898)));
    assert_eq!(
        history(&device)[..2],
        [(899, "899".to_owned()), (900, "900".to_owned())]
    );
    assert!(device.shown.is_empty());
    assert_eq!(device.core.unshown(), 2, "those that came by themselves");
    // The rest is not the reader's: there is nothing before it.
    ask(&mut device);
    assert_eq!(requests(&mut device), [(4, 899, 64)]);
    let rest = page(&device, 899, 1, &[]);
    device.receive(&rest);
    device.sync();
    assert_eq!(device.core.horizon(stream(4)), None);
    assert_eq!(ask(&mut device), Ask::NothingEarlier);
    let device = device.restart();
    assert_eq!(device.core.horizons(), []);
    assert_eq!(device.core.unshown(), 2, "nor is it after a restart");
}

#[test]
fn an_entry_that_came_ahead_of_its_page_stays_as_it_is_and_waits_to_be_shown() {
    let mut device = Device::new();
    device.in_step();
    let ahead = entries(&device, vec![run(4, 900, &["900"])]);
    device.receive(&ahead);
    let skip = wire::DownFrame {
        skips: vec![wire::SkipRange {
            stream: 4,
            first_seq: 1,
            count: 900,
            reason: SkipReason::Earlier.into(),
        }],
        ..device.down()
    };
    device.receive(&skip);
    ask(&mut device);
    let answer = page(&device, 901, 899, &["899", "another"]);
    device.receive(&answer);
    assert_eq!(
        history(&device),
        [(899, "899".to_owned()), (900, "900".to_owned())]
    );
    assert_eq!(device.restart().core.unshown(), 1);
}

#[test]
fn a_power_cut_before_the_page_is_on_disk_leaves_it_to_be_asked_for_again() {
    let mut device = with_horizon();
    ask(&mut device);
    device.disk = Disk::Stuck;
    let answer = page(&device, 901, 899, &["899", "900"]);
    device.receive(&answer);
    let mut device = device.restart();
    device.in_step();
    assert_eq!(ask(&mut device), Ask::Asked);
    assert_eq!(requests(&mut device), [(4, 901, 64)]);
    let answer = page(&device, 901, 899, &["899", "900"]);
    device.receive(&answer);
    assert_eq!(history(&device).len(), 4);
}

#[test]
fn a_request_is_repeated_until_its_page_comes_and_a_page_counts_once() {
    let mut device = with_horizon();
    ask(&mut device);
    assert_eq!(requests(&mut device), [(4, 901, 64)]);
    device.pass(9 * SECOND);
    assert_eq!(requests(&mut device), []);
    device.pass(2 * SECOND);
    assert_eq!(requests(&mut device), [(4, 901, 64)], "it, or its page, was lost");
    let answer = page(&device, 901, 899, &["899", "900"]);
    for _ in 0..3 {
        device.receive(&answer);
    }
    assert_eq!(paged(&mut device), [Paged::Here]);
    let counters = device.core.counters();
    assert_eq!((counters.entries_paged, counters.pages_repeated), (2, 2));
    device.pass(Duration::from_secs(60));
    assert_eq!(requests(&mut device), [], "nobody waits for another");
}

#[test]
fn a_new_session_on_the_connection_hears_of_the_request_again() {
    let mut device = with_horizon();
    ask(&mut device);
    device.pass(6 * SECOND);
    device.take_frames();
    device.receive(&wire::DownFrame {
        hello_please: true,
        ..Default::default()
    });
    let welcome = device.welcome();
    device.receive(&welcome);
    assert_eq!(requests(&mut device), [(4, 901, 64)]);
}

#[test]
fn the_end_of_the_connection_and_a_refusal_are_told() {
    let mut device = with_horizon();
    ask(&mut device);
    device.disconnect();
    assert_eq!(paged(&mut device), [Paged::Offline]);
    device.in_step();
    device.take_frames();
    ask(&mut device);
    assert_eq!(requests(&mut device).len(), 1);
    let refused = wire::EntryPage {
        stream: 4,
        before_seq: 901,
        refused: RefusalReason::NotAMember.into(),
        ..Default::default()
    };
    let frame = wire::DownFrame {
        pages: vec![refused],
        ..device.down()
    };
    device.receive(&frame);
    assert_eq!(paged(&mut device), [Paged::Refused(RefusalReason::NotAMember)]);
    assert_eq!(device.core.horizon(stream(4)), Some(seq(900)));
}

#[test]
fn what_a_page_may_not_say_changes_nothing() {
    let mut device = with_horizon();
    ask(&mut device);
    let before = history(&device);
    for (before_seq, first_seq) in [(901, 0), (901, 901), (901, u64::MAX), (900, 899), (0, 0)] {
        let lie = wire::EntryPage {
            stream: 4,
            before_seq,
            first_seq,
            ..Default::default()
        };
        let frame = wire::DownFrame {
            pages: vec![lie],
            ..device.down()
        };
        device.receive(&frame);
    }
    assert_eq!(device.core.horizon(stream(4)), Some(seq(900)));
    // Entries of another stream, and beyond the page.
    let lies = wire::EntryPage {
        stream: 4,
        before_seq: 901,
        first_seq: 901 - 1,
        runs: vec![
            run(5, 900, &["other"]),
            run(4, 901, &["changed"]),
            run(4, 12, &["below"]),
        ],
        ..Default::default()
    };
    let frame = wire::DownFrame {
        pages: vec![lies],
        ..device.down()
    };
    device.receive(&frame);
    assert_eq!(history(&device), before);
    assert_eq!(device.core.horizon(stream(4)), Some(seq(899)));
}

#[test]
fn several_streams_wait_in_line_for_one_request_at_a_time() {
    let mut device = with_horizon();
    let frame = wire::DownFrame {
        skips: vec![wire::SkipRange {
            stream: 5,
            first_seq: 1,
            count: 7,
            reason: SkipReason::Earlier.into(),
        }],
        ..device.down()
    };
    device.receive(&frame);
    for _ in 0..3 {
        device.core.ask_earlier(stream(4), 10);
        device.core.ask_earlier(stream(5), 500);
    }
    device.settle();
    assert_eq!(requests(&mut device), [(4, 901, 10)]);
    let answer = page(&device, 901, 900, &["900"]);
    device.receive(&answer);
    assert_eq!(requests(&mut device), [(5, 8, 64)]);
}
