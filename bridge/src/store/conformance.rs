//! What every engine must do: one suite, run on each of them.

use super::expiry::Expiry;
use super::kv::{Order, OrderedKeys, Write};
use super::{
    Change, DAY_MS, Engine, Found, FoundPositions, Log, Look, MemberCursor, MemoryStore, PositionMark, Store,
    StoreError, Trim,
};
use crate::audit::{Actor, AuditEntry, Outcome};
use crate::broadcast::Broadcast;
use crate::clock::{ClockEstimate, Knot};
use crate::device::{Device, Driver};
use crate::entry::{Author, Entry, EntryBody, MembershipChange, Moment, Page, QuickReply, Rung};
use crate::event::{Event, EventKind};
use crate::group::{Group, GroupId, History};
use crate::key::ApiKey;
use crate::once::{Caller, Made, Posted};
use crate::person::{Person, Role, SignIn};
use crate::position::{Origin, Position, Way};
use crate::stream::{Member, Membership, Stream, StreamKind};
use crate::template::{Slot, SlotKind, Template};
use proptest::prelude::*;
use std::ops::ControlFlow;
use std::sync::Arc;
use waypost_proto::{
    ContentDigest, Cumulative, DeviceId, Epoch, Fix, OpNumber, PersonId, Seq, StreamId, Velocity,
};

/// Opens the same store again, as after a restart.
type Reopen = Box<dyn Fn() -> Arc<dyn Store>>;

fn engines(case: impl Fn(&str, Reopen)) {
    let memory = Arc::new(MemoryStore::new());
    case("memory", Box::new(move || memory.clone()));
    for engine in Engine::ALL {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        case(engine.name(), Box::new(move || engine.open(&path).unwrap()));
    }
}

fn device_id(number: u32) -> DeviceId {
    DeviceId::new(number).unwrap()
}

fn stream_id(number: u32) -> StreamId {
    StreamId::new(number).unwrap()
}

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

fn entry(stream: u32, number: u64, author: Author) -> Entry {
    Entry {
        stream: stream_id(stream),
        seq: seq(number),
        id: [number as u8; 16],
        author,
        operation: matches!(author, Author::Device(_))
            .then(|| (Epoch::new(u64::MAX).unwrap(), OpNumber::new(number).unwrap())),
        accepted: Moment {
            device_ms: Some(-5),
            server_ms: 1_000,
            offset_ms: Some(7),
        },
        urgent: number.is_multiple_of(2),
        expires_ms: (number == 3).then_some(9_999),
        reply_to: Seq::new(number - 1),
        reply_stream: (number == 4).then(|| stream_id(9)),
        supersedes: (number == 4).then(|| seq(2)),
        superseded_by: None,
        earlier: (number == 4).then(|| OpNumber::new(3).unwrap()),
        body: match number {
            5 => EntryBody::Reply(QuickReply {
                template: 120,
                version: 14,
                numbers: vec![-15],
                texts: vec!["é".to_owned()],
            }),
            6 => EntryBody::Membership(device_id(264), MembershipChange::Left),
            7 => EntryBody::Membership(device_id(264), MembershipChange::Joined),
            _ => EntryBody::Text(format!("entry {number} é")),
        },
    }
}

fn clock() -> ClockEstimate {
    let knot = |steady_ms, server_ms| Knot { steady_ms, server_ms };
    ClockEstimate::stored(7, vec![knot(-5, 1_000), knot(60_000, 61_000)], -90_909).unwrap()
}

fn direct(stream: u32, device: u32) -> Stream {
    let open = |member| Membership {
        member,
        first_seq: 1,
        last_seq: None,
    };
    Stream {
        id: stream_id(stream),
        kind: StreamKind::Direct,
        title: "truck-17".to_owned(),
        members: vec![open(Member::Device(device_id(device))), open(Member::Office)],
    }
}

#[test]
fn groups_broadcasts_and_every_version_of_a_template_survive_a_restart() {
    engines(|engine, reopen| {
        let id = GroupId::new(264).unwrap();
        let group = Group {
            id,
            name: "North".to_owned(),
            stream: stream_id(5),
            history: History::All,
            deleted: true,
        };
        let channel = Stream {
            kind: StreamKind::Group(id),
            members: vec![Membership {
                member: Member::Device(device_id(264)),
                first_seq: 3,
                last_seq: Some(7),
            }],
            ..direct(5, 264)
        };
        let to_many = Stream {
            kind: StreamKind::Broadcast,
            ..direct(6, 264)
        };
        let broadcast = Broadcast {
            stream: stream_id(6),
            devices: vec![device_id(264)],
            groups: vec![id],
        };
        let version = |version, removed| Template {
            number: 120,
            key: "late".to_owned(),
            version,
            text: [("de".to_owned(), format!("Zu spät {version}"))].into(),
            slots: vec![Slot {
                name: "minutes".to_owned(),
                kind: SlotKind::Number,
            }],
            removed,
        };
        {
            let store = reopen();
            store.load(42).unwrap();
            store
                .commit(&[
                    Change::PutGroup(group.clone()),
                    Change::PutStream(channel.clone()),
                    Change::PutStream(to_many.clone()),
                    Change::PutBroadcast(broadcast.clone()),
                    Change::PutTemplate(version(300, true)),
                    Change::PutTemplate(version(2, false)),
                ])
                .unwrap();
        }
        let state = reopen().load(42).unwrap();
        assert_eq!(state.groups.values().collect::<Vec<_>>(), [&group], "{engine}");
        let streams: Vec<&Stream> = state.streams.values().map(|(stream, _)| stream).collect();
        assert_eq!(streams, [&channel, &to_many], "{engine}");
        assert_eq!(
            state.broadcasts.values().collect::<Vec<_>>(),
            [&broadcast],
            "{engine}"
        );
        assert_eq!(
            state.templates[&120],
            [version(2, false), version(300, true)],
            "{engine}: oldest first"
        );
    });
}

#[test]
fn a_restart_keeps_everything_and_counts_as_a_generation() {
    engines(|engine, reopen| {
        let device = Device {
            id: device_id(264),
            name: "truck-17".to_owned(),
            driver: Some(Driver {
                name: "Ana".to_owned(),
                locale: "pt-BR".to_owned(),
            }),
            labels: vec!["north".to_owned()],
            secret_hash: [7; 32],
            stream: stream_id(4711),
            app: Some("waypost-driver 0.1.0".to_owned()),
            last_seen_ms: Some(5),
            revoked: false,
        };
        let person = Person {
            id: PersonId::new(3).unwrap(),
            email: "anna@example.org".to_owned(),
            name: "Anna".to_owned(),
            role: Role::Dispatcher,
            password_hash: "$argon2id$…".to_owned(),
            removed: true,
        };
        let key = ApiKey {
            id: PersonId::new(4).unwrap(),
            name: "ERP".to_owned(),
            role: Role::Integration,
            token_hash: [8; 32],
            created_ms: 6,
            last_used_ms: Some(7),
            revoked: true,
        };
        let sign_in = SignIn {
            token_hash: [9; 32],
            person: person.id,
            expires_ms: 77,
        };
        let epoch = Epoch::new(5).unwrap();
        let mut taken = Cumulative::through_to(4);
        taken.insert_range(7, 9);
        let member = Member::Device(device.id);
        let cursor = MemberCursor {
            sent: 9,
            delivered: taken.clone(),
            read: 2,
            answered: 1,
            passed_over: {
                let mut passed_over = Cumulative::default();
                passed_over.insert_range(3, 4);
                passed_over
            },
        };
        let fix = Fix::from_degrees(123, 41.25, -95.9).unwrap();
        let position = Position {
            origin: Origin::Corner,
            way: Way::Watched,
            velocity: Some(Velocity { north: -3, east: 120 }),
            ..Position::measured(fix, 456)
        };
        let event = Event {
            cursor: 1,
            at_ms: 3,
            kind: EventKind::DeviceEnrolled(device.id),
        };
        {
            let store = reopen();
            let state = store.load(42).unwrap();
            assert_eq!(
                (state.incarnation.number(), state.generation.number()),
                (42, 1),
                "{engine}"
            );
            store
                .commit(&[
                    Change::PutDevice(device.clone()),
                    Change::PutPerson(person.clone()),
                    Change::PutKey(key.clone()),
                    Change::PutSignIn(sign_in),
                    Change::PutSignIn(SignIn {
                        token_hash: [1; 32],
                        ..sign_in
                    }),
                    Change::PutStream(direct(4711, 264)),
                    Change::AppendEntry(entry(4711, 1, Author::Device(device.id))),
                    Change::AppendEntry(entry(4711, 2, Author::Person(person.id))),
                    Change::MarkUrgent(stream_id(4711), 1),
                    Change::MarkUrgent(stream_id(4711), 2),
                    Change::PutLedger {
                        device: device.id,
                        epoch,
                        taken: taken.clone(),
                    },
                    Change::PutTransfer {
                        device: device.id,
                        epoch,
                        stream: stream_id(4711),
                        held: taken.clone(),
                    },
                    Change::PutCursor {
                        stream: stream_id(4711),
                        member,
                        cursor: cursor.clone(),
                    },
                    Change::PutLatest(device.id, position),
                    Change::PutClock(device.id, clock()),
                    Change::AppendEvent(event),
                ])
                .unwrap();
            let forget = Change::Trim(Trim::Urgent(stream_id(4711), 1));
            store.commit(&[Change::DeleteSignIn([1; 32]), forget]).unwrap();
        }
        let state = reopen().load(43).unwrap();
        assert_eq!(
            (state.incarnation.number(), state.generation.number()),
            (42, 2),
            "{engine}"
        );
        assert_eq!(state.devices.values().collect::<Vec<_>>(), [&device], "{engine}");
        assert_eq!(state.people.values().collect::<Vec<_>>(), [&person], "{engine}");
        assert_eq!(state.keys.values().collect::<Vec<_>>(), [&key], "{engine}");
        assert_eq!(
            state.sign_ins.values().collect::<Vec<_>>(),
            [&sign_in],
            "{engine}"
        );
        assert_eq!(
            state.streams[&stream_id(4711)],
            (direct(4711, 264), 2),
            "{engine}"
        );
        assert_eq!(state.last_entry_ms, [(stream_id(4711), 1_000)].into(), "{engine}");
        assert_eq!(state.urgent, [(stream_id(4711), [2].into())].into(), "{engine}");
        assert_eq!(state.ledgers[&(device.id, epoch)], taken, "{engine}");
        assert_eq!(
            state.transfers[&(device.id, epoch)][&stream_id(4711)],
            taken,
            "{engine}"
        );
        assert_eq!(state.cursors[&(stream_id(4711), member)], cursor, "{engine}");
        assert_eq!(state.latest[&device.id], position, "{engine}");
        assert_eq!(state.clocks, [(device.id, clock())].into(), "{engine}");
        assert_eq!(state.last_event, 1, "{engine}");
    });
}

#[test]
fn entries_are_paged_from_both_ends_and_never_beyond_the_head() {
    engines(|engine, reopen| {
        let store = reopen();
        let changes: Vec<Change> = (1..=300)
            .flat_map(|number| [1, 2].map(|of| Change::AppendEntry(entry(of, number, Author::System))))
            .collect();
        store.commit(&changes).unwrap();
        let numbers = |page, limit, head| -> Vec<u64> {
            let entries = store.entries(stream_id(1), page, limit, head).unwrap();
            assert!(
                entries.iter().all(|entry| entry.stream == stream_id(1)),
                "{engine}"
            );
            entries.iter().map(|entry| entry.seq.number()).collect()
        };
        assert_eq!(numbers(Page::Newest, 3, 300), [298, 299, 300], "{engine}");
        assert_eq!(
            numbers(Page::Newest, 3, 257),
            [255, 256, 257],
            "{engine}: what is not yet visible stays so"
        );
        assert_eq!(numbers(Page::Before(257), 2, 300), [255, 256], "{engine}");
        assert_eq!(numbers(Page::Before(1), 2, 300), [0; 0], "{engine}");
        assert_eq!(numbers(Page::After(0), 2, 300), [1, 2], "{engine}");
        assert_eq!(numbers(Page::After(299), 9, 300), [300], "{engine}");
        assert_eq!(numbers(Page::After(u64::MAX), 9, 300), [0; 0], "{engine}");
        assert_eq!(numbers(Page::Newest, 0, 300), [0; 0], "{engine}");
        assert_eq!(
            store.entry(stream_id(2), seq(256)).unwrap(),
            Some(entry(2, 256, Author::System)),
            "{engine}"
        );
        assert_eq!(store.entry(stream_id(2), seq(301)).unwrap(), None, "{engine}");
    });
}

#[test]
fn receipts_find_the_interval_that_holds_an_entry() {
    engines(|engine, reopen| {
        let store = reopen();
        let (stream, member) = (stream_id(1), Member::Device(device_id(264)));
        let moment = |server_ms| Moment {
            device_ms: Some(1),
            server_ms,
            offset_ms: Some(2),
        };
        let reached = |rung, first_seq, last_seq, at| Change::AddReceipt {
            stream,
            member,
            rung,
            first_seq,
            last_seq,
            moment: moment(at),
        };
        let mut changes: Vec<Change> = (1..=9)
            .map(|number| Change::AppendEntry(entry(1, number, Author::Person(PersonId::new(1).unwrap()))))
            .collect();
        changes.extend([
            reached(Rung::Sent, 1, 9, 10),
            reached(Rung::Delivered, 1, 2, 20),
            reached(Rung::Delivered, 6, 7, 21),
            reached(Rung::Delivered, 3, 5, 22),
            reached(Rung::Read, 1, 4, 30),
            reached(Rung::Acted, 2, 2, 40),
        ]);
        store.commit(&changes).unwrap();
        for (number, sent, delivered, read, acted) in [
            (1, Some(10), Some(20), Some(30), None),
            (2, Some(10), Some(20), Some(30), Some(40)),
            (4, Some(10), Some(22), Some(30), None),
            (6, Some(10), Some(21), None, None),
            (8, Some(10), None, None, None),
        ] {
            let rows = store.receipts(&direct(1, 264), seq(number)).unwrap().unwrap();
            let [row] = rows.as_slice() else {
                panic!("{engine}: one member besides the author's side: {rows:?}")
            };
            let at = |moment: Option<Moment>| moment.map(|moment| moment.server_ms);
            let got = (at(row.sent), at(row.delivered), at(row.read), at(row.acted));
            assert_eq!(got, (sent, delivered, read, acted), "{engine}: entry {number}");
        }
        assert_eq!(
            store.receipts(&direct(1, 264), seq(10)).unwrap(),
            None,
            "{engine}"
        );
    });
}

#[test]
fn ends_are_found_in_their_order_and_what_was_superseded_says_by_what() {
    engines(|engine, reopen| {
        let person = Author::Person(PersonId::new(1).unwrap());
        let ends = |number, at_ms, author| {
            let mut entry = entry(1, number, author);
            entry.expires_ms = Some(at_ms);
            entry
        };
        let early = ends(2, -5, Author::Device(device_id(1)));
        let late = ends(1, 700, person);
        let [first, second] = [&early, &late].map(|entry| Expiry::of(entry).unwrap());
        {
            let store = reopen();
            store.load(42).unwrap();
            store
                .commit(&[
                    Change::PutStream(direct(1, 1)),
                    Change::AppendEntry(late),
                    Change::AppendEntry(early),
                    Change::AppendEntry(entry(1, 3, person)),
                    Change::MarkExpiry(second),
                    Change::MarkExpiry(first),
                    Change::MarkSuperseded {
                        stream: stream_id(1),
                        seq: seq(2),
                        by: seq(3),
                    },
                ])
                .unwrap();
        }
        let store = reopen();
        let expiries: Vec<Expiry> = store.load(43).unwrap().expiries.into_iter().collect();
        assert_eq!(expiries, [first, second], "{engine}");
        let superseded_by = |page| {
            let entries = store.entries(stream_id(1), page, 2, 3).unwrap();
            entries
                .into_iter()
                .map(|entry| entry.superseded_by)
                .collect::<Vec<_>>()
        };
        assert_eq!(superseded_by(Page::After(0)), [None, Some(seq(3))], "{engine}");
        assert_eq!(superseded_by(Page::Newest), [Some(seq(3)), None], "{engine}");
        let one = store.entry(stream_id(1), seq(2)).unwrap().unwrap();
        assert_eq!(one.superseded_by, Some(seq(3)), "{engine}");
        let expired = || {
            let rows = store.receipts(&direct(1, 1), seq(1)).unwrap().unwrap();
            rows.into_iter().map(|row| row.expired).collect::<Vec<_>>()
        };
        assert_eq!(expired(), [None], "{engine}: it is marked as ahead");
        store.commit(&[Trim::Expiry(second).into()]).unwrap();
        assert_eq!(expired(), [Some(Moment::server(700))], "{engine}");
        let trims = [
            Trim::Superseded(stream_id(1), 2).into(),
            Trim::Expiry(first).into(),
        ];
        store.commit(&trims).unwrap();
        assert_eq!(superseded_by(Page::After(0)), [None, None], "{engine}");
    });
}

#[test]
fn tracks_events_operations_and_keys_are_found_again() {
    engines(|engine, reopen| {
        let store = reopen();
        let position = |at_ms: i64| {
            let fix = Fix {
                at_ms,
                ..Fix::from_degrees(0, 1.5, 2.5).unwrap()
            };
            Position::measured(fix, at_ms + 1)
        };
        let (a, b) = (device_id(1), device_id(2));
        let mut changes: Vec<Change> = [-10, -1, 0, 5, 1_000]
            .iter()
            .map(|at| Change::AddPosition(a, position(*at)))
            .collect();
        changes.push(Change::AddPosition(b, position(3)));
        changes.push(Change::AddPosition(a, position(5)));
        let event = |cursor| {
            let moment = Moment::server(4);
            let (rung, member, stream) = (Rung::Read, Member::Office, stream_id(1));
            let kind = EventKind::EntriesReached {
                rung,
                stream,
                first_seq: 1,
                last_seq: 2,
                member,
                moment,
            };
            Event {
                cursor,
                at_ms: 3,
                kind,
            }
        };
        changes.extend((1..=5).map(|cursor| Change::AppendEvent(event(cursor))));
        let (epoch, op) = (Epoch::new(8).unwrap(), OpNumber::new(300).unwrap());
        changes.push(Change::TakeOperation {
            device: a,
            epoch,
            op,
            digest: ContentDigest([3; 16]),
        });
        store.commit(&changes).unwrap();

        let times = |from, to, limit| -> Vec<i64> {
            store
                .track(a, from, to, limit)
                .unwrap()
                .iter()
                .map(|position| position.fix.at_ms)
                .collect()
        };
        assert_eq!(
            times(i64::MIN, i64::MAX, 99),
            [-10, -1, 0, 5, 1_000],
            "{engine}: a repeated fix is one"
        );
        assert_eq!(times(-1, 5, 99), [-1, 0, 5], "{engine}");
        assert_eq!(times(-1, 5, 2), [-1, 0], "{engine}");
        assert_eq!(times(6, 5, 2), [0; 0], "{engine}");
        assert_eq!(store.events(2, 2).unwrap(), [event(3), event(4)], "{engine}");
        assert_eq!(store.events(5, 2).unwrap(), [], "{engine}");
        assert_eq!(
            store.operation(a, epoch, op).unwrap(),
            Some(ContentDigest([3; 16])),
            "{engine}"
        );
        assert_eq!(store.operation(b, epoch, op).unwrap(), None, "{engine}");
    });
}

#[test]
fn idempotency_keys_are_found_until_they_expire() {
    engines(|engine, reopen| {
        let person = PersonId::new(1).unwrap();
        let (stream, seq) = (stream_id(1), seq(2));
        let mades = [
            Made::Entry { stream, seq },
            Made::Device(device_id(1)),
            Made::Credentials(device_id(2)),
            Made::Person(person),
            Made::Key(person),
            Made::Session(person),
        ];
        let posted = |number: usize| Posted {
            digest: [4; 32],
            made: mades[number],
            at_ms: i64::try_from(number).unwrap(),
        };
        let caller = Caller::Named(person);
        let put = |number: usize| Change::PutPosted {
            caller,
            key: format!("k{number}"),
            posted: posted(number),
        };
        {
            let store = reopen();
            store.commit(&(0..6).map(put).collect::<Vec<_>>()).unwrap();
        }
        let store = reopen();
        for number in 0..6 {
            let found = store.posted(caller, &format!("k{number}")).unwrap();
            assert_eq!(found, Some(posted(number)), "{engine}");
        }
        assert_eq!(store.posted(caller, "k").unwrap(), None, "{engine}");
        assert_eq!(store.posted(Caller::Server, "k1").unwrap(), None, "{engine}");

        // The first is used again, so that its first place in time is empty.
        let again = Posted {
            at_ms: 9,
            ..posted(0)
        };
        let reused = Change::PutPosted {
            caller,
            key: "k0".to_owned(),
            posted: again.clone(),
        };
        let expire = |before_ms, at_most| Change::ExpirePosted { before_ms, at_most };
        store.commit(&[reused]).unwrap();
        store.commit(&[expire(4, 3)]).unwrap();
        store.commit(&[expire(4, 3)]).unwrap();
        let held = |number: usize| store.posted(caller, &format!("k{number}")).unwrap().is_some();
        let left: Vec<usize> = (0..6).filter(|number| held(*number)).collect();
        assert_eq!(left, [0, 4, 5], "{engine}: only what is before the moment");
        assert_eq!(store.posted(caller, "k0").unwrap(), Some(again), "{engine}");
    });
}

#[test]
fn the_audit_record_is_read_from_its_end() {
    engines(|engine, reopen| {
        let person = PersonId::new(1).unwrap();
        let entry = |number: u64, actor, address: Option<&str>, outcome: Outcome| AuditEntry {
            number,
            at_ms: 3,
            last_ms: 4,
            actor,
            address: address.map(|address| address.parse().unwrap()),
            action: "device.added".to_owned(),
            subject: (number > 1).then(|| "device/1".to_owned()),
            outcome,
            count: 2,
        };
        let refused = || Outcome::Refused("not-allowed".to_owned());
        let entries = [
            entry(1, Actor::Nobody, None, refused()),
            entry(2, Actor::Server, Some("127.0.0.1"), Outcome::Done),
            entry(3, Actor::Person(person), Some("2001:db8::1"), Outcome::Done),
            entry(4, Actor::Key(person), None, Outcome::Done),
            entry(5, Actor::Device(device_id(1)), None, refused()),
        ];
        reopen().commit(&entries.clone().map(Change::PutAudit)).unwrap();
        let store = reopen();
        assert_eq!(store.load(1).unwrap().last_audit, 5, "{engine}");
        let counted = AuditEntry {
            count: 9,
            ..entries[0].clone()
        };
        store.commit(&[Change::PutAudit(counted.clone())]).unwrap();
        let newest: Vec<_> = entries[3..].iter().rev().cloned().collect();
        assert_eq!(store.audit(None, 2).unwrap(), newest, "{engine}");
        let rest = [entries[2].clone(), entries[1].clone(), counted];
        assert_eq!(store.audit(Some(4), 9).unwrap(), rest, "{engine}");
        assert_eq!(store.audit(Some(1), 9).unwrap(), [], "{engine}");
        assert_eq!(store.audit(Some(0), 9).unwrap(), [], "{engine}");
    });
}

#[test]
fn what_is_trimmed_is_gone_and_where_each_kind_begins_is_remembered() {
    engines(|engine, reopen| {
        let (device, member) = (device_id(1), Member::Device(device_id(1)));
        let stream = direct(1, 1);
        let aged = |number: u64, at_ms: i64| {
            let mut entry = entry(1, number, Author::Person(PersonId::new(1).unwrap()));
            entry.accepted.server_ms = at_ms;
            Change::AppendEntry(entry)
        };
        let receipt = |rung, first_seq, last_seq| Change::AddReceipt {
            stream: stream.id,
            member,
            rung,
            first_seq,
            last_seq,
            moment: Moment::server(5),
        };
        let event = |cursor, at_ms| {
            Change::AppendEvent(Event {
                cursor,
                at_ms,
                kind: EventKind::DeviceOnline(device),
            })
        };
        let line = |number, at_ms| {
            Change::PutAudit(AuditEntry {
                number,
                at_ms,
                last_ms: at_ms,
                actor: Actor::Server,
                address: None,
                action: "device.added".to_owned(),
                subject: None,
                outcome: Outcome::Done,
                count: 1,
            })
        };
        let mark = |received_day, measured_day| PositionMark {
            received_day,
            device,
            measured_day,
        };
        let position = |at_ms, received_day: i64| {
            let fix = Fix {
                at_ms,
                ..Fix::from_degrees(0, 1.5, 2.5).unwrap()
            };
            Change::AddPosition(device, Position::measured(fix, received_day * DAY_MS + 7))
        };
        {
            let store = reopen();
            store.load(42).unwrap();
            store
                .commit(&[
                    Change::PutStream(stream.clone()),
                    aged(1, 100),
                    aged(2, 200),
                    aged(3, 300),
                    receipt(Rung::Sent, 1, 1),
                    receipt(Rung::Sent, 2, 3),
                    receipt(Rung::Read, 1, 2),
                    event(1, 100),
                    event(2, 200),
                    line(1, 100),
                    line(2, 200),
                    Change::MarkPositions(mark(20, -1)),
                    Change::MarkPositions(mark(21, 3)),
                    position(-DAY_MS, 20),
                    position(-1, 20),
                    position(0, 19),
                    position(3 * DAY_MS, 21),
                ])
                .unwrap();
            let entries = |first_seq, before_ms| {
                let look = Look::Entries {
                    stream: stream.clone(),
                    first_seq,
                    head: 3,
                    before_ms,
                };
                store.find_old(&look).unwrap()
            };
            let found = |last_seq, receipts: &[(Rung, u64)], next_ms| Found::Entries {
                superseded: Vec::new(),
                last_seq,
                receipts: receipts
                    .iter()
                    .map(|(rung, last_seq)| (member, *rung, *last_seq))
                    .collect(),
                next_ms,
            };
            assert_eq!(entries(1, 100), found(None, &[], Some(100)), "{engine}");
            assert_eq!(
                entries(1, 250),
                found(Some(2), &[(Rung::Sent, 1), (Rung::Read, 2)], Some(300)),
                "{engine}: a receipt that reaches further stays"
            );
            let all = [(Rung::Sent, 1), (Rung::Sent, 3), (Rung::Read, 2)];
            assert_eq!(entries(1, 301), found(Some(3), &all, None), "{engine}");
            let late = "a receipt that came late to the disk is found by the next look";
            assert_eq!(entries(3, 301), found(Some(3), &all, None), "{engine}: {late}");
            let records = |log, before_ms| Look::Log {
                log,
                first: 1,
                last: 2,
                before_ms,
            };
            let first_record = Found::Log {
                last: Some(1),
                next_ms: Some(200),
            };
            for log in [Log::Events, Log::Audit] {
                assert_eq!(
                    store.find_old(&records(log, 150)).unwrap(),
                    first_record,
                    "{engine}"
                );
            }
            let positions = |first_day, before_day, resume| {
                let look = Look::Positions {
                    first_day,
                    before_day,
                    resume,
                };
                store.find_old(&look).unwrap()
            };
            let of = |mark, old: &[i64]| {
                Found::Positions(Some(FoundPositions {
                    mark,
                    old: old.to_vec(),
                    resume_after: None,
                }))
            };
            assert_eq!(positions(0, 20, None), Found::Positions(None), "{engine}");
            assert_eq!(
                positions(0, 21, None),
                of(mark(20, -1), &[-DAY_MS, -1]),
                "{engine}"
            );
            let resumed = positions(0, 21, Some((mark(20, -1), -DAY_MS)));
            assert_eq!(resumed, of(mark(20, -1), &[-1]), "{engine}");
            assert_eq!(
                positions(21, 22, None),
                of(mark(21, 3), &[3 * DAY_MS]),
                "{engine}"
            );
            store
                .commit(
                    &[
                        Trim::Entry(stream.id, 1),
                        Trim::Entry(stream.id, 2),
                        Trim::Entry(stream.id, 3),
                        Trim::Receipt {
                            stream: stream.id,
                            member,
                            rung: Rung::Sent,
                            last_seq: 1,
                        },
                        Trim::FirstSeq(stream.id, 4),
                        Trim::Record(Log::Events, 1),
                        Trim::Record(Log::Events, 2),
                        Trim::FirstRecord(Log::Events, 3),
                        Trim::Record(Log::Audit, 1),
                        Trim::FirstRecord(Log::Audit, 2),
                        Trim::Position(device, -1),
                        Trim::Mark(mark(20, -1)),
                        Trim::FirstDay(20),
                    ]
                    .map(Change::from),
                )
                .unwrap();
        }
        let store = reopen();
        let state = store.load(42).unwrap();
        assert_eq!(
            state.streams[&stream.id].1, 3,
            "{engine}: the end of an empty log"
        );
        assert_eq!(state.first_seqs[&stream.id], 4, "{engine}");
        let first_and_last = (state.first_event, state.last_event, state.first_position_day);
        assert_eq!(first_and_last, (3, 2, 20), "{engine}");
        for page in [Page::Newest, Page::Before(9), Page::After(0)] {
            assert_eq!(store.entries(stream.id, page, 9, 9).unwrap(), [], "{engine}");
        }
        assert_eq!(store.receipts(&stream, seq(1)).unwrap(), None, "{engine}");
        assert_eq!((state.first_audit, state.last_audit), (2, 2), "{engine}");
        let lines = store.audit(None, 9).unwrap();
        let lines: Vec<u64> = lines.iter().map(|line| line.number).collect();
        assert_eq!(lines, [2], "{engine}");
        assert_eq!(store.events(0, 9).unwrap(), [], "{engine}");
        let left = store.track(device, i64::MIN, i64::MAX, 9).unwrap();
        let left: Vec<i64> = left.iter().map(|position| position.fix.at_ms).collect();
        assert_eq!(left, [-DAY_MS, 0, 3 * DAY_MS], "{engine}");
    });
}

#[test]
fn a_folder_has_one_owner() {
    for engine in Engine::ALL {
        let folder = tempfile::tempdir().unwrap();
        let _first = engine.open(folder.path()).unwrap();
        let second = engine.open(folder.path()).err();
        assert!(
            matches!(second, Some(StoreError::Locked(_))),
            "{engine}: {second:?}"
        );
    }
}

/// What happens to an engine below the domain.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Write>),
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    // Few keys, so that they are met again; beginnings of one another, in one table and beside it.
    let key = (
        prop::sample::select(b"dLeT".to_vec()),
        prop::collection::vec(prop::sample::select(vec![0, 1, 0x7f, 0xff]), 0..4),
    );
    let key = key.prop_map(|(table, rest)| [&[table][..], &rest].concat());
    // None, small ones, and some that an engine may have to keep apart.
    let bytes = prop_oneof![20 => 0..64_usize, 1 => 4_000..4_200_usize, 1 => 0..150_000_usize];
    let value = (any::<u8>(), bytes).prop_map(|(byte, bytes)| vec![byte; bytes]);
    let write = (key, prop::option::weighted(0.8, value));
    prop_oneof![
        6 => prop::collection::vec(write, 0..30).prop_map(Step::Commit),
        1 => Just(Step::Restart),
    ]
}

/// Everything in all tables of [`any_step`], both ways, and each key by itself.
fn found(keys: &dyn OrderedKeys) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for table in *b"LTde" {
        let scan = |order| {
            let mut found = Vec::new();
            keys.scan(
                &[table],
                &[table, 0xff, 0xff, 0xff, 0xff],
                order,
                &mut |key, value| {
                    found.push((key.to_vec(), value.to_vec()));
                    Ok(ControlFlow::Continue(()))
                },
            )
            .unwrap();
            found
        };
        let (ascending, mut descending) = (scan(Order::Ascending), scan(Order::Descending));
        descending.reverse();
        assert_eq!(ascending, descending);
        all.extend(ascending);
    }
    for (key, value) in &all {
        assert_eq!(keys.read(key).unwrap().as_ref(), Some(value));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_engine_holds_what_was_written_last(steps in prop::collection::vec(any_step(), 1..16)) {
        let memory = MemoryStore::new();
        let folder = tempfile::tempdir().unwrap();
        let open = |engine: Engine| engine.open_keys(&folder.path().join(engine.name())).unwrap();
        let mut engines = Engine::ALL.map(|engine| Some(open(engine)));
        for step in steps {
            match step {
                Step::Commit(writes) => {
                    memory.0.commit(writes.clone()).unwrap();
                    for keys in engines.iter().flatten() {
                        keys.commit(writes.clone()).unwrap();
                    }
                }
                Step::Restart => {
                    for (keys, engine) in engines.iter_mut().zip(Engine::ALL) {
                        drop(keys.take());
                        *keys = Some(open(engine));
                    }
                }
            }
            let expected = found(&memory.0);
            for (keys, engine) in engines.iter().flatten().zip(Engine::ALL) {
                prop_assert!(found(keys.as_ref()) == expected, "{}", engine);
            }
        }
        // What sled puts there it never syncs.
        let apart = std::fs::read_dir(folder.path().join("sled/blobs")).unwrap().count();
        prop_assert_eq!(apart, 0);
    }
}
