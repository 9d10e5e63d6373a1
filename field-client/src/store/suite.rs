//! What every engine must do, and what the store makes of it; each test runs on each engine.

use super::memory::{MemoryDisk, MemoryEngine};
use super::{Engine, EntryRecord, Order, OtherDevice, RedbEngine, Store, StoreError, Table};
use crate::catalogue::Catalogue;
use crate::core::keep_alive::StoredPath;
use crate::core::{
    Home, Moment, Mutation, Named, PostId, Progress, ReadStep, Reading, Server, StoredCatalogue,
    StoredCursor, StoredOperation, StoredVoid, Ticket, ToShow, Write,
};
use crate::{Entry, Group, NetworkName, Standing};
use std::ops::ControlFlow;
use std::path::PathBuf;
use waypost_proto::wire::{self, RefusalReason, StreamKind, VoidReason};
use waypost_proto::{
    Author, Cumulative, DeviceId, EntryBody, Epoch, Generation, GroupId, Incarnation, MembershipChange,
    OpNumber, Operation, QuickReply, Seq, SessionTag, StreamId,
};

/// A disk that engines are opened on, one after the other.
trait Disk {
    type Engine: Engine;
    fn open(&self) -> Self::Engine;
}

impl Disk for MemoryDisk {
    type Engine = MemoryEngine;
    fn open(&self) -> MemoryEngine {
        Self::open(self)
    }
}

struct RedbFile(PathBuf);

impl Disk for RedbFile {
    type Engine = RedbEngine;
    fn open(&self) -> RedbEngine {
        RedbEngine::open(&self.0).unwrap()
    }
}

/// Runs each function on each engine.
macro_rules! on_each_engine {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $name() { super::$name(&super::MemoryDisk::default()); })*
        }
        mod redb {
            $(#[test] fn $name() {
                let folder = tempfile::tempdir().unwrap();
                super::$name(&super::RedbFile(folder.path().join("state.redb")));
            })*
        }
    };
}

on_each_engine!(
    a_transaction_is_there_after_it_is_opened_again,
    a_transaction_that_fails_leaves_nothing,
    a_transaction_sees_its_own_changes,
    a_scan_visits_keys_in_order_within_its_bounds,
    the_epoch_is_drawn_once,
    the_state_of_another_device_is_refused,
    operations_keep_their_progress,
    a_settled_stream_is_settled_once,
    a_new_epoch_renumbers_what_waits,
    entries_and_positions_are_there_together,
    an_own_entry_takes_its_content_along,
    another_incarnation_shows_nothing_of_the_old_one,
    history_ends_before_what_is_named,
    names_stand_beside_their_entries,
    every_body_survives_the_disk_and_is_read_in_the_words_of_today,
    an_own_quick_reply_takes_its_slots_along,
    groups_and_catalogue_are_replaced_whole,
    what_was_learnt_of_networks_is_replaced_whole,
);

fn a_transaction_is_there_after_it_is_opened_again(disk: &impl Disk) {
    {
        let mut engine = disk.open();
        engine.transact(&mut |t| t.put(Table::Meta, b"k", b"v")).unwrap();
        engine
            .transact(&mut |t| t.put(Table::Inbox, b"k", b"other table"))
            .unwrap();
        engine.transact(&mut |t| t.delete(Table::Inbox, b"k")).unwrap();
    }
    let engine = disk.open();
    assert_eq!(engine.get(Table::Meta, b"k").unwrap(), Some(b"v".to_vec()));
    assert_eq!(engine.get(Table::Inbox, b"k").unwrap(), None);
}

fn a_transaction_that_fails_leaves_nothing(disk: &impl Disk) {
    let mut engine = disk.open();
    let failed = engine.transact(&mut |t| {
        t.put(Table::Meta, b"k", b"v")?;
        Err(StoreError::Unreadable("meta"))
    });
    assert!(failed.is_err());
    assert_eq!(engine.get(Table::Meta, b"k").unwrap(), None);
    engine.transact(&mut |t| t.put(Table::Meta, b"l", b"w")).unwrap();
    assert_eq!(engine.get(Table::Meta, b"k").unwrap(), None);
}

fn a_transaction_sees_its_own_changes(disk: &impl Disk) {
    let mut engine = disk.open();
    let work = &mut |t: &mut dyn super::Transaction| {
        t.put(Table::Outbox, b"a", b"1")?;
        t.put(Table::Outbox, b"b", b"2")?;
        t.delete(Table::Outbox, b"a")?;
        assert_eq!(t.get(Table::Outbox, b"a")?, None);
        assert_eq!(t.get(Table::Outbox, b"b")?, Some(b"2".to_vec()));
        assert_eq!(t.keys(Table::Outbox, &[], b"z")?, [b"b".to_vec()]);
        Ok(())
    };
    engine.transact(work).unwrap();
}

fn a_scan_visits_keys_in_order_within_its_bounds(disk: &impl Disk) {
    let mut engine = disk.open();
    let fill = &mut |t: &mut dyn super::Transaction| {
        [3u8, 1, 4, 2, 5]
            .iter()
            .try_for_each(|key| t.put(Table::Cursors, &[*key], &[*key]))
    };
    engine.transact(fill).unwrap();
    let visited = |from: u8, to: u8, order, max: usize| {
        let mut keys = Vec::new();
        let visit = &mut |key: &[u8], value: &[u8]| {
            assert_eq!(key, value);
            keys.push(key[0]);
            Ok(if keys.len() < max {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        };
        engine.scan(Table::Cursors, &[from], &[to], order, visit).unwrap();
        keys
    };
    assert_eq!(visited(2, 5, Order::Ascending, 9), [2, 3, 4]);
    assert_eq!(visited(2, 5, Order::Descending, 2), [4, 3]);
    assert_eq!(visited(6, 9, Order::Ascending, 9), [0u8; 0]);
}

fn device() -> DeviceId {
    "7c".parse().unwrap()
}

fn epoch(number: u64) -> Epoch {
    Epoch::new(number).unwrap()
}

fn op(number: u64) -> OpNumber {
    OpNumber::new(number).unwrap()
}

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

fn stream(number: u32) -> StreamId {
    StreamId::new(number).unwrap()
}

fn incarnation(number: u64) -> Incarnation {
    Incarnation::new(number).unwrap()
}

fn open<D: Disk>(disk: &D) -> Store<D::Engine> {
    let opened = Store::open(disk.open(), device(), epoch(11)).unwrap();
    opened.unwrap_or_else(|other| panic!("{other:?}"))
}

fn commit<E: Engine>(store: &mut Store<E>, mutations: Vec<Mutation>) {
    store
        .commit(&[Write {
            ticket: Ticket(1),
            mutations,
        }])
        .unwrap();
}

fn server(number: u64) -> Mutation {
    Mutation::Server(Server {
        incarnation: incarnation(number),
        shelf: incarnation(number),
        generation: Generation::new(3).unwrap(),
        office_stream: Some(stream(4)),
    })
}

fn moment(wall_ms: i64) -> Moment {
    let steady = Reading { boot: 3, ms: 77_000 };
    Moment { steady, wall_ms }
}

fn operation(id: u64, text: &str, home: Home) -> StoredOperation {
    let content = Operation::text(stream(4), text).to_wire();
    StoredOperation {
        id: PostId::from_number(id),
        op: op(id),
        home,
        done: moment(1_000),
        content,
    }
}

fn entry(stream_number: u32, number: u64, text: &str) -> Entry {
    Entry {
        stream: stream(stream_number),
        seq: seq(number),
        author: Author::Person(waypost_proto::PersonId::new(9).unwrap()),
        author_name: None,
        server_ms: Some(-5),
        device_ms: None,
        author_op: None,
        urgent: number == 2,
        reply_to: Some(seq(7)),
        reply_stream: Some(stream(8)),
        expires_ms: Some(99),
        supersedes: None,
        standing: Standing::Current,
        body: EntryBody::Text(text.to_owned()),
        reply: None,
        member_name: None,
    }
}

fn the_epoch_is_drawn_once(disk: &impl Disk) {
    drop(open(disk));
    let again = Store::open(disk.open(), device(), epoch(22))
        .unwrap()
        .unwrap_or_else(|other| panic!("{other:?}"));
    let loaded = again.load().unwrap();
    assert_eq!(
        (loaded.epoch, loaded.next_op, loaded.next_post),
        (epoch(11), op(1), PostId::from_number(1))
    );
    assert_eq!((loaded.last_tag, loaded.server), (None, None));
}

fn the_state_of_another_device_is_refused(disk: &impl Disk) {
    drop(open(disk));
    let other = Store::open(disk.open(), "8".parse().unwrap(), epoch(22)).unwrap();
    assert!(matches!(other, Err(OtherDevice(found)) if found == device()));
}

fn operations_keep_their_progress(disk: &impl Disk) {
    {
        let mut store = open(disk);
        let put = |id| Mutation::PutOperation(operation(id, "x", Home::Settled));
        commit(&mut store, (1..=4).map(put).collect());
        let progress = |id, progress| Mutation::Progress {
            id: PostId::from_number(id),
            progress,
        };
        let accepted = Cumulative::from_wire(2, &[1, 1]).unwrap();
        commit(
            &mut store,
            vec![
                Mutation::Tag(SessionTag::new(9).unwrap()),
                progress(1, Progress::Accepted),
                progress(2, Progress::Parked(RefusalReason::NotAMember)),
                Mutation::Forget(PostId::from_number(4)),
                Mutation::Accepted(accepted),
                Mutation::PutVoid(StoredVoid {
                    first: op(2),
                    count: 1,
                    reason: VoidReason::Refused,
                }),
                Mutation::PutVoid(StoredVoid {
                    first: op(9),
                    count: 5,
                    reason: VoidReason::Expired,
                }),
                Mutation::ClearVoid(op(9)),
            ],
        );
    }
    let store = open(disk);
    let loaded = store.load().unwrap();
    assert_eq!(
        (loaded.next_op, loaded.next_post),
        (op(5), PostId::from_number(5)),
        "also after the last is gone"
    );
    assert_eq!(loaded.last_tag, SessionTag::new(9));
    assert_eq!(loaded.accepted.to_wire(), [1, 1]);
    assert_eq!(
        loaded.voids,
        [StoredVoid {
            first: op(2),
            count: 1,
            reason: VoidReason::Refused
        }]
    );
    let mut found = Vec::new();
    store
        .operations(|stored, progress| found.push((stored, progress)))
        .unwrap();
    assert_eq!(
        found,
        [
            (operation(1, "x", Home::Settled), Progress::Accepted),
            (
                operation(2, "x", Home::Settled),
                Progress::Parked(RefusalReason::NotAMember)
            ),
            (operation(3, "x", Home::Settled), Progress::Waiting),
        ]
    );
    assert_eq!(
        store.content(PostId::from_number(3)).unwrap(),
        Some(operation(3, "x", Home::Settled).content)
    );
    assert_eq!(store.content(PostId::from_number(4)).unwrap(), None);
}

fn a_settled_stream_is_settled_once(disk: &impl Disk) {
    let mut store = open(disk);
    let id = PostId::from_number(1);
    commit(
        &mut store,
        vec![Mutation::PutOperation(operation(1, "x", Home::Office))],
    );
    commit(
        &mut store,
        vec![
            Mutation::Settle {
                id,
                stream: stream(6),
            },
            Mutation::Settle {
                id,
                stream: stream(7),
            },
        ],
    );
    assert_eq!(store.content(id).unwrap().unwrap().stream, 6);
    store
        .operations(|stored, _| assert_eq!(stored.home, Home::Settled))
        .unwrap();
}

fn a_new_epoch_renumbers_what_waits(disk: &impl Disk) {
    let mut store = open(disk);
    let put = |id| Mutation::PutOperation(operation(id, "x", Home::Settled));
    commit(&mut store, (1..=3).map(put).collect());
    commit(
        &mut store,
        vec![
            Mutation::Accepted(Cumulative::through_to(1)),
            Mutation::PutVoid(StoredVoid {
                first: op(1),
                count: 1,
                reason: VoidReason::Refused,
            }),
            Mutation::Forget(PostId::from_number(1)),
            Mutation::Epoch {
                epoch: epoch(33),
                numbers: vec![(PostId::from_number(2), op(1)), (PostId::from_number(3), op(2))],
                next_op: op(3),
            },
        ],
    );
    let loaded = store.load().unwrap();
    assert_eq!(
        (loaded.epoch, loaded.next_op, loaded.next_post),
        (epoch(33), op(3), PostId::from_number(4))
    );
    assert!(loaded.accepted.is_empty() && loaded.voids.is_empty());
    let mut numbers = Vec::new();
    store
        .operations(|stored, _| numbers.push((stored.id.number(), stored.op.number())))
        .unwrap();
    assert_eq!(numbers, [(2, 1), (3, 2)]);
}

fn entries_and_positions_are_there_together(disk: &impl Disk) {
    let cursor = StoredCursor {
        held: Cumulative::from_wire(2, &[3, 1]).unwrap(),
        delivered: moment(5),
        read: 1,
        read_at: moment(-6),
        read_steps: vec![ReadStep {
            read: 1,
            at: moment(4),
        }],
        confirmed: Cumulative::through_to(1),
        confirmed_read: 1,
        kind: StreamKind::Broadcast,
        newest: 6,
        horizon: 1,
    };
    {
        let mut store = open(disk);
        let of = incarnation(77);
        commit(
            &mut store,
            vec![
                server(77),
                Mutation::PutEntry {
                    incarnation: of,
                    entry: entry(4, 1, "a"),
                },
                Mutation::PutEntry {
                    incarnation: of,
                    entry: entry(4, 2, "b"),
                },
                Mutation::PutCursor {
                    incarnation: of,
                    stream: stream(4),
                    cursor: cursor.clone(),
                },
            ],
        );
        commit(
            &mut store,
            vec![Mutation::Shown {
                incarnation: of,
                stream: stream(4),
                seq: seq(1),
            }],
        );
    }
    let store = open(disk);
    let loaded = store.load().unwrap();
    assert_eq!(loaded.cursors, [(stream(4), cursor)]);
    assert_eq!(
        loaded.unshown[&stream(4)],
        [ToShow {
            seq: seq(2),
            urgent: true
        }]
    );
    assert_eq!(loaded.server.unwrap().office_stream, Some(stream(4)));
    assert_eq!(
        store.entry(incarnation(77), stream(4), seq(1)).unwrap(),
        Some(entry(4, 1, "a"))
    );
    assert_eq!(store.entry(incarnation(77), stream(4), seq(3)).unwrap(), None);
}

fn an_own_entry_takes_its_content_along(disk: &impl Disk) {
    let mut store = open(disk);
    let own = |of: u64, seq_number: u64, number: u64, id| Mutation::PutOwn {
        incarnation: incarnation(of),
        stream: stream(4),
        seq: seq(seq_number),
        epoch: epoch(11),
        op: op(number),
        id,
        done_server_ms: Some(500),
    };
    let id = PostId::from_number(1);
    commit(
        &mut store,
        vec![
            server(77),
            Mutation::PutOperation(operation(1, "mine", Home::Settled)),
        ],
    );
    commit(&mut store, vec![own(77, 5, 1, Some(id))]);
    assert_eq!(store.content(id).unwrap(), None, "it lives in the inbox now");
    let first = store.entry(incarnation(77), stream(4), seq(5)).unwrap().unwrap();
    assert_eq!(
        (first.author, first.author_op),
        (Author::Device(device()), Some(op(1)))
    );
    assert_eq!((first.device_ms, first.server_ms), (Some(1_000), None));
    assert_eq!(first.body, EntryBody::Text("mine".to_owned()));
    // Another store sends it again, under another seq.
    commit(
        &mut store,
        vec![server(78), own(78, 2, 1, None), own(78, 3, 9, None)],
    );
    let again = store.entry(incarnation(78), stream(4), seq(2)).unwrap().unwrap();
    assert_eq!(again.body, first.body);
    let unknown = store.entry(incarnation(78), stream(4), seq(3)).unwrap().unwrap();
    assert_eq!(
        (unknown.body, unknown.author_op),
        (EntryBody::Unsupported, Some(op(9)))
    );
}

fn another_incarnation_shows_nothing_of_the_old_one(disk: &impl Disk) {
    let mut store = open(disk);
    let put = |of| Mutation::PutEntry {
        incarnation: incarnation(of),
        entry: entry(4, 1, "a"),
    };
    commit(&mut store, vec![server(77), put(77)]);
    assert_eq!(store.load().unwrap().unshown.len(), 1);
    commit(&mut store, vec![server(78)]);
    assert!(store.load().unwrap().unshown.is_empty() && store.load().unwrap().cursors.is_empty());
    commit(&mut store, vec![put(78), server(78)]);
    assert_eq!(
        store.load().unwrap().unshown.len(),
        1,
        "the same store again takes nothing away"
    );
    commit(&mut store, vec![server(77)]);
    assert!(store.load().unwrap().unshown.is_empty());
}

fn history_ends_before_what_is_named(disk: &impl Disk) {
    let mut store = open(disk);
    let put = |stream, seq| Mutation::PutEntry {
        incarnation: incarnation(77),
        entry: entry(stream, seq, "x"),
    };
    let mut mutations = vec![server(77)];
    mutations.extend((1..=300).map(|number| put(4, number)));
    mutations.extend([put(3, 1), put(5, 1)]);
    commit(&mut store, mutations);
    let seqs = |before: Option<u64>, limit| -> Vec<u64> {
        let entries = store
            .history(incarnation(77), stream(4), before.map(seq), limit)
            .unwrap();
        entries.iter().map(|entry| entry.seq.number()).collect()
    };
    assert_eq!(seqs(None, 3), [298, 299, 300]);
    assert_eq!(seqs(Some(257), 2), [255, 256]);
    assert_eq!(seqs(Some(2), 9), [1]);
    assert_eq!(seqs(Some(1), 9), [0u64; 0]);
    assert_eq!(seqs(None, 0), [0u64; 0]);
    assert_eq!(seqs(None, 1_000).len(), 300);
}

fn names_stand_beside_their_entries(disk: &impl Disk) {
    let mut store = open(disk);
    let person = waypost_proto::PersonId::new(9).unwrap();
    let put = Mutation::PutEntry {
        incarnation: incarnation(77),
        entry: entry(4, 1, "x"),
    };
    commit(
        &mut store,
        vec![
            server(77),
            put,
            Mutation::PutName {
                of: Named::Person(person),
                name: "Ada".to_owned(),
            },
            Mutation::PutName {
                of: Named::Device(DeviceId::new(9).unwrap()),
                name: "truck-9".to_owned(),
            },
        ],
    );
    let named = store.entry(incarnation(77), stream(4), seq(1)).unwrap().unwrap();
    assert_eq!(named.author_name.as_deref(), Some("Ada"));
    let named = store.load().unwrap().named;
    let both = [Named::Person(person), Named::Device(DeviceId::new(9).unwrap())];
    assert_eq!(named.into_iter().collect::<Vec<_>>(), both);
}

fn catalogue(version: u32, text: &str) -> StoredCatalogue {
    let template = wire::Template {
        number: 120,
        key: "late".to_owned(),
        text: text.to_owned(),
        slots: vec![wire::Slot {
            name: "minutes".to_owned(),
            kind: wire::SlotKind::Number.into(),
        }],
    };
    let whole = wire::Catalogue {
        version,
        templates: vec![template],
        ..wire::Catalogue::default()
    };
    StoredCatalogue {
        incarnation: Some(incarnation(77)),
        locale: "de".to_owned(),
        catalogue: Catalogue::default().changed_by(&whole).unwrap(),
    }
}

fn quick_reply(template: u32) -> QuickReply {
    QuickReply::from_parts(template, 14, &[-15], &[]).unwrap()
}

fn every_body_survives_the_disk_and_is_read_in_the_words_of_today(disk: &impl Disk) {
    let mut store = open(disk);
    let reply = |template, text: Option<&str>| EntryBody::Reply {
        reply: quick_reply(template),
        text: text.map(str::to_owned),
    };
    let membership = |change| EntryBody::Membership {
        device: DeviceId::new(9).unwrap(),
        change,
    };
    let bodies = [
        EntryBody::Text("x".to_owned()),
        reply(120, None),
        reply(7, Some("as sent")),
        reply(7, None),
        membership(MembershipChange::Joined),
        membership(MembershipChange::Left),
        EntryBody::Unsupported,
    ];
    let put = |(body, number): (&EntryBody, u64)| Mutation::PutEntry {
        incarnation: incarnation(77),
        entry: Entry {
            body: body.clone(),
            ..entry(4, number, "")
        },
    };
    let mut mutations = vec![server(77)];
    mutations.extend(bodies.iter().zip(1..).map(put));
    mutations.push(Mutation::PutName {
        of: Named::Device(DeviceId::new(9).unwrap()),
        name: "truck-9".to_owned(),
    });
    commit(&mut store, mutations);
    let read = |store: &Store<_>| store.history(incarnation(77), stream(4), None, 99).unwrap();
    let entries = read(&store);
    let found: Vec<EntryBody> = entries.iter().map(|entry| entry.body.clone()).collect();
    assert_eq!(found, bodies);
    assert_eq!(entries[4].member_name.as_deref(), Some("truck-9"));
    let texts = |entries: &[Entry]| -> Vec<Option<String>> {
        entries
            .iter()
            .map(|entry| entry.text().map(str::to_owned))
            .collect()
    };
    let said = |text: &str| Some(text.to_owned());
    let unsaid = [None, None, None];
    let first = [
        said("x"),
        said("[quick reply 120: -15]"),
        said("as sent"),
        said("[quick reply 7: -15]"),
    ];
    assert_eq!(texts(&entries), [first.as_slice(), &unsaid].concat());
    commit(
        &mut store,
        vec![Mutation::PutCatalogue(catalogue(14, "{minutes} Min. später"))],
    );
    assert_eq!(read(&store)[1].text(), Some("-15 Min. später"));
    drop(store);
    let again = open(disk);
    assert_eq!(
        read(&again)[1].text(),
        Some("-15 Min. später"),
        "after a restart too"
    );
}

fn an_own_quick_reply_takes_its_slots_along(disk: &impl Disk) {
    let mut store = open(disk);
    let content = Operation {
        reply_to: Some(seq(3)),
        reply_stream: Some(stream(9)),
        ..Operation::reply(stream(4), quick_reply(120))
    };
    let stored = StoredOperation {
        content: content.to_wire(),
        ..operation(1, "", Home::Settled)
    };
    let own = Mutation::PutOwn {
        incarnation: incarnation(77),
        stream: stream(4),
        seq: seq(5),
        epoch: epoch(11),
        op: op(1),
        id: Some(stored.id),
        done_server_ms: None,
    };
    commit(&mut store, vec![server(77), Mutation::PutOperation(stored), own]);
    let entry = store.entry(incarnation(77), stream(4), seq(5)).unwrap().unwrap();
    let body = EntryBody::Reply {
        reply: quick_reply(120),
        text: None,
    };
    assert_eq!(entry.body, body);
    assert_eq!(
        (entry.reply_to, entry.reply_stream),
        (Some(seq(3)), Some(stream(9)))
    );
}

fn groups_and_catalogue_are_replaced_whole(disk: &impl Disk) {
    let group = |number: u32, title: &str| Group {
        group: GroupId::new(number).unwrap(),
        stream: stream(number + 10),
        title: title.to_owned(),
    };
    {
        let mut store = open(disk);
        let loaded = store.load().unwrap();
        assert_eq!(
            (loaded.groups, loaded.catalogue),
            (vec![], StoredCatalogue::default())
        );
        commit(
            &mut store,
            vec![
                Mutation::PutGroups(vec![group(1, "North"), group(2, "Süd")]),
                Mutation::PutCatalogue(catalogue(1, "a")),
                Mutation::PutGroups(vec![group(2, "Süd")]),
                Mutation::PutCatalogue(catalogue(2, "b")),
            ],
        );
    }
    let loaded = open(disk).load().unwrap();
    assert_eq!(loaded.groups, [group(2, "Süd")]);
    assert_eq!(loaded.catalogue, catalogue(2, "b"));
}

/// Bytes that the version before groups and quick replies wrote.
fn what_was_learnt_of_networks_is_replaced_whole(disk: &impl Disk) {
    let path = |name: &str, good_s| StoredPath {
        network: NetworkName::new(name).unwrap(),
        good_s,
        failed_s: 300,
        doubted_s: 65_535,
        probe_ms: -1,
        pause_days: 7,
    };
    let mut store = open(disk);
    assert_eq!(store.paths().unwrap(), []);
    commit(
        &mut store,
        vec![Mutation::PutPaths(vec![path("", 60), path("b", 61)])],
    );
    commit(
        &mut store,
        vec![Mutation::PutPaths(vec![path("c", 90), path("", 60)])],
    );
    drop(store);
    assert_eq!(open(disk).paths().unwrap(), [path("c", 90), path("", 60)]);
}

#[test]
fn an_entry_of_an_older_version_is_still_read() {
    let old = b"\x10\x09\x18\x09\x38\x07\x4a\x02Hi";
    let read = EntryRecord::read(stream(4), seq(1), old).unwrap();
    let expected = Entry {
        reply_stream: None,
        expires_ms: None,
        supersedes: None,
        standing: Standing::Current,
        ..entry(4, 1, "Hi")
    };
    assert_eq!(read, expected);
}

#[test]
fn a_file_that_is_open_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let holder = RedbEngine::open(&path).unwrap();
    assert!(matches!(RedbEngine::open(&path), Err(StoreError::InUse)));
    drop(holder);
    assert!(RedbEngine::open(&path).is_ok());
}

#[test]
fn a_file_that_is_no_store_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    std::fs::write(&path, b"this is not a database, whatever its name says").unwrap();
    assert!(matches!(RedbEngine::open(&path), Err(StoreError::Failed { .. })));
}
