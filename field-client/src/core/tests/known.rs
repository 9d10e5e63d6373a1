//! Groups, their frames, broadcasts and the template catalogue.

use super::super::harness::{
    Broker, Device, Disk, Link, config, device_id, own, run, seq, stream, text, to_office,
};
use super::super::{Draft, Topics};
use super::{SECOND, accepted, entries};
use crate::catalogue::CATALOGUE_BYTES_MAX;
use waypost_proto::wire::{self, StreamKind};
use waypost_proto::{EntryBody, MembershipChange, Topic, groups_digest};

/// Of the welcome of the harness.
const STORE: u32 = 77;
const GENERATION: u64 = 3;

fn groups(all: &[(u32, u32)]) -> Vec<wire::Group> {
    let group = |&(group, stream): &(u32, u32)| wire::Group {
        group,
        stream,
        title: format!("group {group}"),
    };
    all.iter().map(group).collect()
}

fn snapshot(device: &Device, groups: &[wire::Group]) -> wire::DownFrame {
    wire::DownFrame {
        groups: Some(wire::Groups {
            groups: groups.to_vec(),
        }),
        ..device.down()
    }
}

fn topic(group: u32) -> Topic {
    Topic::Group(waypost_proto::GroupId::new(group).unwrap())
}

fn templates_topic(locale: &str) -> Topic {
    Topic::Templates(locale.to_owned())
}

/// In step, and a member of the groups; nothing of that is left to be looked at.
fn member_of(groups: &[wire::Group]) -> Device {
    let mut device = Device::new();
    device.in_step();
    device.receive(&snapshot(&device, groups));
    device.take_frames();
    device.topics.clear();
    device
}

fn group_frame(runs: Vec<wire::EntryRun>) -> wire::GroupFrame {
    wire::GroupFrame {
        generation: GENERATION,
        server_ms: 1_700_000_600_000,
        store: STORE,
        entries: runs,
        names: vec![],
    }
}

fn known(device: &mut Device) -> Vec<(u32, u32)> {
    let frames = device.take_frames();
    let known = frames.iter().filter_map(|frame| frame.known.as_ref());
    known
        .map(|known| (known.groups_digest, known.catalogue))
        .collect()
}

fn begun(device: &mut Device) -> Vec<Topic> {
    let topics: Vec<Topics> = std::mem::take(&mut device.topics);
    topics.into_iter().flat_map(|topics| topics.subscribe).collect()
}

fn template(number: u32, text: &str) -> wire::Template {
    wire::Template {
        number,
        key: format!("t{number}"),
        text: text.to_owned(),
        slots: vec![wire::Slot {
            name: "minutes".to_owned(),
            kind: wire::SlotKind::Number.into(),
        }],
    }
}

fn whole(version: u32, texts: &[&str]) -> wire::Catalogue {
    let numbered = (120..).zip(texts);
    wire::Catalogue {
        version,
        templates: numbered.map(|(number, text)| template(number, text)).collect(),
        ..wire::Catalogue::default()
    }
}

fn change(device: &Device, change: wire::Catalogue) -> wire::DownFrame {
    wire::DownFrame {
        catalogue: Some(change),
        ..device.down()
    }
}

/// In step with a server whose catalogue has this version.
fn in_step_with_catalogue(device: &mut Device, version: u32) {
    device.connect();
    let mut welcome = device.welcome();
    welcome.welcome.as_mut().unwrap().catalogue = version;
    device.receive(&welcome);
}

/// The catalogue of version 14 is on the device, and the server knows.
fn with_catalogue() -> Device {
    let mut device = Device::new();
    in_step_with_catalogue(&mut device, 14);
    device.receive_catalogue("de", &whole(14, &["{minutes} Min. später", "Bin da"]));
    device.take_frames();
    device.topics.clear();
    device
}

#[test]
fn groups_are_reported_when_they_are_stored_and_all_their_topics_are_granted() {
    let mut device = Device::new();
    device.in_step();
    device.take_frames();
    (device.disk, device.broker) = (Disk::Stuck, Broker::Silent);
    let both = groups(&[(1, 10), (2, 20)]);
    device.receive(&snapshot(&device, &both));
    assert!(begun(&mut device).is_empty(), "it is not on disk");
    device.sync();
    assert_eq!(begun(&mut device), [topic(1), topic(2)]);
    assert_eq!(known(&mut device), [], "nobody has granted them");
    device.answer_topics();
    device.settle();
    assert_eq!(known(&mut device), [(groups_digest(&both), 0)]);
    device.disk = Disk::Quick;
    device.pass(3_600 * SECOND);
    assert_eq!(known(&mut device), [], "said once, unless it is asked for");
    for _ in 0..3 {
        device.receive(&snapshot(&device, &both));
        assert_eq!(
            known(&mut device),
            [(groups_digest(&both), 0)],
            "told again, answered again"
        );
    }
    assert!(begun(&mut device).is_empty());
}

#[test]
fn a_new_connection_subscribes_the_stored_groups_and_says_so_in_its_hello() {
    let both = groups(&[(1, 10), (2, 20)]);
    let mut device = member_of(&both).restart();
    device.connect();
    assert_eq!(begun(&mut device), [topic(1), topic(2)]);
    let hello = device.take_frames().remove(0).hello.unwrap();
    assert_eq!(hello.groups_digest, groups_digest(&both));
    device.receive(&device.welcome());
    device.pass(60 * SECOND);
    assert_eq!(known(&mut device), [], "the hello has said it");
}

#[test]
fn a_crash_between_storing_and_reporting_loses_nothing() {
    let one = groups(&[(1, 10)]);
    let mut device = Device::new();
    device.in_step();
    device.broker = Broker::Silent;
    device.receive(&snapshot(&device, &one));
    assert_eq!(known(&mut device), []);
    let mut device = device.restart();
    device.connect();
    let hello = device.take_frames().remove(0).hello.unwrap();
    assert_eq!(hello.groups_digest, groups_digest(&one));

    let mut device = Device::new();
    device.in_step();
    device.disk = Disk::Stuck;
    device.receive(&snapshot(&device, &one));
    let mut device = device.restart();
    device.connect();
    let hello = device.take_frames().remove(0).hello.unwrap();
    assert_eq!(hello.groups_digest, 0, "it never reached the disk");
}

#[test]
fn a_group_that_is_not_heard_is_not_claimed_and_asked_for_again_when_it_is_told_again() {
    let one = groups(&[(1, 10)]);
    let mut device = Device::new();
    device.in_step();
    device.take_frames();
    device.broker = Broker::Refuses;
    device.receive(&snapshot(&device, &one));
    assert_eq!(known(&mut device), [(0, 0)]);
    assert_eq!(device.core.counters().topics_refused, 1);
    // On the next connection too, where the hello had promised it.
    device.disconnect();
    device.connect();
    device.take_frames();
    device.receive(&device.welcome());
    assert_eq!(known(&mut device), [(0, 0)]);
    begun(&mut device);
    device.broker = Broker::Grants;
    device.receive(&snapshot(&device, &one));
    assert_eq!(begun(&mut device), [topic(1)]);
    assert_eq!(known(&mut device), [(groups_digest(&one), 0)]);
}

#[test]
fn a_group_that_was_left_is_unsubscribed_and_nothing_of_it_is_shown_any_more() {
    let mut device = member_of(&groups(&[(1, 10), (2, 20)]));
    device.receive_group(1, &group_frame(vec![run(10, 1, &["for members"])]));
    let stays = groups(&[(2, 20)]);
    device.disk = Disk::Stuck;
    device.receive(&snapshot(&device, &stays));
    device.receive_group(1, &group_frame(vec![run(10, 2, &["too late"])]));
    device.disk = Disk::Quick;
    device.sync();
    let ended: Vec<Topic> = device
        .topics
        .drain(..)
        .flat_map(|topics| topics.unsubscribe)
        .collect();
    assert_eq!(ended, [topic(1)]);
    device.receive_group(1, &group_frame(vec![run(10, 2, &["too late"])]));
    assert_eq!(device.shown_texts(), ["for members"]);
    assert_eq!(device.core.counters().group_frames_ignored, 2);
    assert_eq!(known(&mut device), [(groups_digest(&stays), 0)]);
    let mut device = device.restart();
    device.connect();
    assert_eq!(begun(&mut device), [topic(2)]);
}

#[test]
fn an_entry_is_taken_once_whether_it_comes_on_the_groups_topic_on_the_own_or_on_both() {
    let mut device = member_of(&groups(&[(1, 10)]));
    device.receive_group(1, &group_frame(vec![run(10, 1, &["a", "b"])]));
    device.receive(&entries(&device, vec![run(10, 2, &["b", "c"])]));
    device.receive_group(1, &group_frame(vec![run(10, 3, &["c", "d"])]));
    assert_eq!(device.shown_texts(), ["a", "b", "c", "d"]);
    assert_eq!(
        device.shown[0].server_ms,
        Some(1_700_000_601_000),
        "times count from the frame's own"
    );
    assert_eq!(device.core.counters().entries_repeated, 2);
    device.pass(SECOND);
    let frame = device.take_frames().pop().unwrap();
    assert_eq!((frame.cursors[0].stream, frame.cursors[0].delivered), (10, 4));
}

#[test]
fn a_group_frame_of_another_generation_or_store_or_stream_is_ignored() {
    let mut device = member_of(&groups(&[(1, 10)]));
    let good = group_frame(vec![run(10, 1, &["a"])]);
    let other_generation = wire::GroupFrame {
        generation: GENERATION + 1,
        ..good.clone()
    };
    let other_store = wire::GroupFrame {
        store: STORE + 1,
        ..good.clone()
    };
    device.receive_group(1, &other_generation);
    device.receive_group(1, &other_store);
    device.receive_group(2, &good);
    assert_eq!(device.core.counters().group_frames_ignored, 3);
    device.receive_group(1, &group_frame(vec![run(4, 1, &["of the office"])]));
    device
        .core
        .handle_group_frame(waypost_proto::GroupId::new(1).unwrap(), &[0xff; 9], device.now);
    device.settle();
    assert!(device.shown.is_empty());
    assert_eq!(device.core.counters().frames_unreadable, 1);
    device.disconnect();
    device.connect();
    device.receive_group(1, &good);
    assert!(device.shown.is_empty(), "not in step");
    device.receive(&device.welcome());
    device.receive_group(1, &good);
    assert_eq!(device.shown_texts(), ["a"]);
}

#[test]
fn an_own_entry_on_the_groups_topic_is_left_to_the_own_topic() {
    let mut device = member_of(&groups(&[(1, 10)]));
    device.post(text(stream(10), "mine"));
    let mut mine = run(10, 1, &["mine", "theirs"]);
    mine.entries[0].author_person = 0;
    mine.entries[0].author_device = device_id().number();
    mine.entries[0].author_op = 1;
    device.receive_group(1, &group_frame(vec![mine]));
    assert!(device.shown.is_empty(), "the gap is in the way");
    // The number of an operation means nothing where everybody hears it.
    device.receive_group(1, &group_frame(vec![own(10, 1, 1)]));
    assert!(device.shown.is_empty());
    let mut frame = accepted(&device, 1);
    frame.entries = vec![own(10, 1, 1)];
    device.receive(&frame);
    assert_eq!(device.shown_texts(), ["mine", "theirs"]);
    assert_eq!(device.core.counters().entries_repeated, 0);
    assert_eq!(device.core.counters().forks, 0);
}

#[test]
fn a_snapshot_that_cannot_be_used_changes_nothing() {
    let one = groups(&[(1, 10)]);
    let mut device = member_of(&one);
    device.receive(&snapshot(&device, &groups(&[(2, 20), (1, 10)])));
    assert_eq!(device.core.counters().snapshots_unusable, 1);
    assert_eq!((device.core.groups().len(), known(&mut device)), (1, vec![]));
}

#[test]
fn joining_and_leaving_is_told_by_name() {
    let mut device = member_of(&groups(&[(1, 10)]));
    let change = |left| wire::Entry {
        body: Some(wire::entry::Body::Membership(wire::MembershipChange {
            device: 9,
            left,
        })),
        ..wire::Entry::default()
    };
    let run = wire::EntryRun {
        entries: vec![change(false), change(true)],
        ..run(10, 1, &[])
    };
    let mut frame = group_frame(vec![run]);
    frame.names = vec![wire::AuthorName {
        device: 9,
        name: "truck-9".to_owned(),
        ..wire::AuthorName::default()
    }];
    device.receive_group(1, &frame);
    let device_9 = waypost_proto::DeviceId::new(9).unwrap();
    let changes = [MembershipChange::Joined, MembershipChange::Left];
    for (entry, change) in device.shown.iter().zip(changes) {
        let body = EntryBody::Membership {
            device: device_9,
            change,
        };
        assert_eq!(
            (&entry.body, entry.member_name.as_deref()),
            (&body, Some("truck-9"))
        );
    }
    assert_eq!(device.shown.len(), 2);
}

#[test]
fn what_is_written_to_a_broadcast_answers_its_newest_entry_in_the_office_stream() {
    let mut device = Device::new();
    device.in_step();
    let broadcast = |seq, text: &str| wire::EntryRun {
        kind: StreamKind::Broadcast.into(),
        ..run(30, seq, &[text])
    };
    let mut frame = entries(
        &device,
        vec![broadcast(1, "Bridge closed"), broadcast(2, "Open again")],
    );
    frame.skips = vec![wire::SkipRange {
        stream: 30,
        first_seq: 3,
        count: 4,
        reason: 3,
    }];
    device.receive(&frame);
    let mut device = device.restart();
    device.in_step();
    device.take_frames();
    let id = device.post(text(stream(30), "Thanks"));
    assert_eq!(device.core.destination(id), Some(stream(4)));
    let sent = device.take_frames().pop().unwrap().ops.remove(0);
    assert_eq!((sent.stream, sent.reply_stream, sent.reply_to), (4, 30, 2));
    device.receive(&accepted(&device, 1));
    let named = Draft::settled(wire::Operation {
        stream: 30,
        reply_to: 1,
        ..to_wire("Which one?")
    });
    device.post(named);
    let sent = device.take_frames().pop().unwrap().ops.remove(0);
    assert_eq!((sent.stream, sent.reply_stream, sent.reply_to), (4, 30, 1));
    device.receive(&accepted(&device, 2));
    device.post(to_office("plain"));
    let sent = device.take_frames().pop().unwrap().ops.remove(0);
    assert_eq!((sent.stream, sent.reply_stream, sent.reply_to), (4, 0, 0));
}

fn to_wire(words: &str) -> wire::Operation {
    waypost_proto::Operation::text(stream(1), words).to_wire()
}

#[test]
fn a_newer_catalogue_is_fetched_once_stored_and_reported() {
    let mut device = Device::new();
    in_step_with_catalogue(&mut device, 14);
    assert_eq!(begun(&mut device), [templates_topic("de")]);
    assert!(!device.core.catalogue_is_current());
    device.take_frames();
    device.disk = Disk::Stuck;
    device.receive_catalogue("de", &whole(14, &["{minutes} Min. später"]));
    assert_eq!((known(&mut device), device.core.catalogue().version), (vec![], 0));
    assert!(device.topics.is_empty());
    device.disk = Disk::Quick;
    device.sync();
    assert_eq!(device.topics.remove(0).unsubscribe, [templates_topic("de")]);
    assert_eq!(known(&mut device), [(0, 14)]);
    assert!(device.core.catalogue_is_current());
    assert_eq!(device.core.catalogue().find("t120").unwrap().slots.len(), 1);
    let mut device = device.restart();
    in_step_with_catalogue(&mut device, 14);
    assert!(begun(&mut device).is_empty(), "it is here");
    assert_eq!(device.take_frames()[0].hello.as_ref().unwrap().catalogue, 14);
}

#[test]
fn a_crash_before_the_catalogue_is_stored_fetches_it_again() {
    let mut device = Device::new();
    in_step_with_catalogue(&mut device, 14);
    device.disk = Disk::Stuck;
    device.receive_catalogue("de", &whole(14, &["a"]));
    let mut device = device.restart();
    in_step_with_catalogue(&mut device, 14);
    assert_eq!(begun(&mut device), [templates_topic("de")]);
}

#[test]
fn a_difference_is_applied_and_reported_each_time_it_is_told() {
    let mut device = with_catalogue();
    let mut difference = whole(15, &["{minutes} Minuten später"]);
    (difference.from_version, difference.removed) = (14, vec![121]);
    device.receive(&change(&device, difference.clone()));
    let texts: Vec<String> = device
        .core
        .catalogue()
        .templates
        .iter()
        .map(|t| t.text.clone())
        .collect();
    assert_eq!(texts, ["{minutes} Minuten später"]);
    assert_eq!(known(&mut device), [(0, 15)]);
    device.receive(&change(&device, difference));
    assert_eq!(known(&mut device), [(0, 15)], "the report was lost");
    assert!(begun(&mut device).is_empty());
    let mut device = device.restart();
    device.connect();
    assert_eq!(device.take_frames()[0].hello.as_ref().unwrap().catalogue, 15);
}

#[test]
fn a_difference_with_the_welcome_spares_the_fetch() {
    let mut device = with_catalogue();
    device.disconnect();
    device.connect();
    let mut welcome = device.welcome();
    welcome.welcome.as_mut().unwrap().catalogue = 15;
    let mut difference = whole(15, &["neu"]);
    difference.from_version = 14;
    welcome.catalogue = Some(difference);
    device.take_frames();
    device.receive(&welcome);
    assert!(begun(&mut device).is_empty());
    assert_eq!(known(&mut device), [(0, 15)]);
}

#[test]
fn a_difference_that_does_not_apply_is_fetched_whole() {
    let mut device = with_catalogue();
    let mut difference = whole(16, &["x"]);
    difference.from_version = 15;
    device.receive(&change(&device, difference));
    assert_eq!(begun(&mut device), [templates_topic("de")]);
    assert_eq!(known(&mut device), []);
    device.receive_catalogue("de", &whole(15, &["still the one before"]));
    assert_eq!(known(&mut device), [(0, 15)]);
    assert!(device.topics.is_empty(), "the newer one is on its way");
    device.receive_catalogue("de", &whole(16, &["x"]));
    assert_eq!(known(&mut device), [(0, 16)]);
    assert_eq!(device.topics.remove(0).unsubscribe, [templates_topic("de")]);
}

#[test]
fn a_fetch_without_an_answer_is_repeated_less_and_less_often_and_follows_the_servers_language() {
    let mut device = Device::new();
    in_step_with_catalogue(&mut device, 14);
    assert_eq!(begun(&mut device), [templates_topic("de")]);
    device.pass(9 * SECOND);
    assert!(begun(&mut device).is_empty());
    device.pass(2 * SECOND);
    assert_eq!(begun(&mut device), [templates_topic("de")]);
    device.pass(3_600 * SECOND);
    let often = begun(&mut device).len();
    assert!((8..=20).contains(&often), "{often}");
    let fetch = wire::Catalogue {
        fetch: true,
        version: 14,
        locale: "en".to_owned(),
        ..wire::Catalogue::default()
    };
    device.receive(&change(&device, fetch));
    let topics = device.topics.remove(0);
    assert_eq!(topics.unsubscribe, [templates_topic("de")]);
    assert_eq!(topics.subscribe, [templates_topic("en")]);
    device.take_frames();
    device.receive_catalogue("de", &whole(14, &["late"]));
    assert_eq!(known(&mut device), [], "nobody asked for that one any more");
    device.receive_catalogue("en", &whole(14, &["{minutes} min late"]));
    assert_eq!(known(&mut device), [(0, 14)]);
    device.pass(3_600 * SECOND);
    assert!(begun(&mut device).is_empty());
}

#[test]
fn another_language_makes_the_catalogue_one_that_the_device_does_not_have() {
    let device = with_catalogue();
    let english = super::super::Config {
        locale: "en".to_owned(),
        ..config()
    };
    let mut device = Device::at(device.plate.clone(), 1, device.now, english);
    in_step_with_catalogue(&mut device, 14);
    assert_eq!(device.take_frames()[0].hello.as_ref().unwrap().catalogue, 0);
    assert_eq!(begun(&mut device), [templates_topic("en")]);
    assert_eq!(
        device.core.catalogue().version,
        14,
        "until then the old words are better than none"
    );
}

#[test]
fn a_catalogue_that_cannot_be_used_is_counted_and_one_beyond_the_bounds_not_fetched_again() {
    let mut device = Device::new();
    in_step_with_catalogue(&mut device, 14);
    begun(&mut device);
    device.take_frames();
    device.core.handle_catalogue("de", &[0xff; 9], device.now);
    let mut difference = whole(15, &["x"]);
    difference.from_version = 3;
    device.receive_catalogue("de", &difference);
    assert_eq!(device.core.counters().snapshots_unusable, 2);
    device.pass(11 * SECOND);
    assert_eq!(
        begun(&mut device),
        [templates_topic("de")],
        "the next may be better"
    );
    let large = "x".repeat(CATALOGUE_BYTES_MAX);
    device.receive_catalogue("de", &whole(14, &[&large]));
    assert_eq!(device.core.counters().snapshots_unusable, 3);
    device.topics.clear();
    let fetch = wire::Catalogue {
        fetch: true,
        version: 14,
        ..wire::Catalogue::default()
    };
    device.receive(&change(&device, fetch));
    device.pass(3_600 * SECOND);
    assert!(begun(&mut device).is_empty(), "the driver pays for every byte");
    assert_eq!((known(&mut device), device.core.catalogue().version), (vec![], 0));
}

#[test]
fn the_catalogue_of_another_store_is_another_one() {
    let mut device = with_catalogue();
    device.disconnect();
    device.connect();
    let mut welcome = device.welcome();
    let other = welcome.welcome.as_mut().unwrap();
    (other.incarnation, other.catalogue) = (78, 3);
    device.receive(&welcome);
    assert_eq!(begun(&mut device), [templates_topic("de")]);
    assert_eq!(device.core.catalogue().version, 0);
    device.take_frames();
    device.receive_catalogue("de", &whole(3, &["restored"]));
    assert_eq!(known(&mut device), [(0, 3)]);
}

#[test]
fn without_a_link_nothing_is_subscribed() {
    let mut device = Device::new();
    device.in_step();
    device.disk = Disk::Stuck;
    device.receive(&snapshot(&device, &groups(&[(1, 10)])));
    device.disconnect();
    assert_eq!(device.link, Link::Down);
    device.sync();
    assert_eq!(device.core.poll_topics(), None);
    assert_eq!(device.core.groups().len(), 1);
}

#[test]
fn a_quick_reply_is_shown_in_the_words_of_the_stored_catalogue() {
    let mut device = with_catalogue();
    let reply = wire::QuickReply {
        template: 120,
        version: 14,
        slot_numbers: vec![15],
        text: "15 min late".to_owned(),
        ..wire::QuickReply::default()
    };
    let unknown = wire::QuickReply {
        template: 7,
        ..reply.clone()
    };
    let entry = |reply: wire::QuickReply| wire::Entry {
        author_person: 9,
        body: Some(wire::entry::Body::Reply(reply)),
        ..wire::Entry::default()
    };
    let run = wire::EntryRun {
        entries: vec![entry(reply), entry(unknown)],
        ..run(4, 1, &[])
    };
    device.receive(&entries(&device, vec![run]));
    assert_eq!(device.shown_texts(), ["15 Min. später", "15 min late"]);
    assert_eq!(device.shown[0].seq, seq(1));
}
