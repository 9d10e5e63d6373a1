//! What a power cut is tried on: a writer that says which of its records are durable, and a check of what is left of them.
//!
//! `power_cut write ENGINE FOLDER` writes until it is ended, and prints the number of the last record once the store says that
//! it is on disk. `power_cut check ENGINE FOLDER LAST` opens what a cut left, looks whether all records up to LAST are there and
//! no commit is there in part, and says how many there are; status 1 and a sentence where it is not so. Engines are `fjall` and `sled`, the
//! server's, and `redb`, the device's outbox.

use anyhow::{Context, bail, ensure};
use std::io::Write;
use std::path::Path;
use waypost_bridge::entry::{Author, Entry, EntryBody, Moment, Page};
use waypost_bridge::event::{Event, EventKind};
use waypost_bridge::position::Position;
use waypost_bridge::store::{Change, Engine, MemberCursor, Store};
use waypost_bridge::stream::{Member, Membership, Seq, Stream, StreamId, StreamKind};
use waypost_field_client::{Client, Credentials, Message, Options, PostError};
use waypost_proto::{Cumulative, DeviceId, Fix};

/// Records in one commit of a server's store, as its writer gathers what waits.
const GATHERED: u64 = 8;
/// Entries are read so many at a time.
const PAGE: usize = 1_000;
/// What is written again with each record: enough keys that old pages are given up and used again.
const REWRITTEN_STREAMS: u32 = 200;
const STREAM: u32 = 1;
const DEVICE: u32 = 1;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["write", "redb", folder] => on_a_device(write_outbox(Path::new(folder))),
        ["check", "redb", folder, last] => on_a_device(check_outbox(Path::new(folder), last.parse()?)),
        ["write", engine, folder] => write(open(engine, folder)?.as_ref()),
        ["check", engine, folder, last] => check(open(engine, folder)?.as_ref(), last.parse()?),
        _ => bail!("usage: power_cut write ENGINE FOLDER | check ENGINE FOLDER LAST"),
    }
}

fn open(engine: &str, folder: &str) -> anyhow::Result<std::sync::Arc<dyn Store>> {
    let store = engine.parse::<Engine>()?.open(Path::new(folder));
    store.context("the store cannot be opened")
}

/// Tells whoever cuts the power; it has left this process when this returns.
fn acknowledge(number: u64) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{number}")?;
    Ok(out.flush()?)
}

fn write(store: &dyn Store) -> anyhow::Result<()> {
    let state = store.load(1)?;
    let first = state.streams.get(&stream()).map_or(0, |(_, head)| *head) + 1;
    if first == 1 {
        store.commit(&[Change::PutStream(the_stream())])?;
    }
    for first in (first..).step_by(GATHERED as usize) {
        store.commit(&commit_from(first))?;
        acknowledge(first + GATHERED - 1)?;
    }
    Ok(())
}

fn commit_from(first: u64) -> Vec<Change> {
    (first..first + GATHERED).flat_map(record).collect()
}

/// One record: five tables, in all keyspaces of fjall; its entry is large now and then.
fn record(number: u64) -> [Change; 5] {
    let member = Member::Device(DeviceId::new(DEVICE).expect("not 0"));
    let rewritten = StreamId::new(2 + (number % u64::from(REWRITTEN_STREAMS)) as u32).expect("not 0");
    [
        Change::AppendEntry(entry(number)),
        Change::AppendEvent(event(number)),
        Change::AddPosition(DeviceId::new(DEVICE).expect("not 0"), position(number)),
        Change::PutLatest(DeviceId::new(DEVICE).expect("not 0"), position(number)),
        Change::PutCursor {
            stream: rewritten,
            member,
            cursor: MemberCursor {
                passed_over: waypost_proto::Cumulative::default(),
                sent: number,
                delivered: Cumulative::through_to(number),
                read: number,
                answered: 0,
            },
        },
    ]
}

fn check(store: &dyn Store, last: u64) -> anyhow::Result<()> {
    let state = store.load(1)?;
    let head = match state.streams.get(&stream()) {
        Some((_, head)) => *head,
        None => 0,
    };
    ensure!(
        head >= last,
        "{last} records were acknowledged and {head} are there"
    );
    let mut number = 0;
    loop {
        let page = store.entries(stream(), Page::After(number), PAGE, u64::MAX)?;
        if page.is_empty() {
            break;
        }
        for found in page {
            number += 1;
            ensure!(found == entry(number), "entry {number} is not what was written");
        }
    }
    ensure!(number == head, "of {head} entries {number} are there");
    // A commit is there whole or not at all.
    ensure!(
        head.is_multiple_of(GATHERED),
        "of the last commit {} records are there",
        head % GATHERED
    );
    let mut events = 0;
    loop {
        let page = store.events(events, PAGE)?;
        if page.is_empty() {
            break;
        }
        for found in page {
            events += 1;
            ensure!(found == event(events), "event {events} is not what was written");
        }
    }
    ensure!(events == head, "there are {head} entries and {events} events");
    let device = DeviceId::new(DEVICE).context("not 0")?;
    let track = store.track(device, i64::MIN, i64::MAX, usize::MAX)?;
    ensure!(
        track.len() as u64 == head,
        "there are {head} entries and {} positions",
        track.len()
    );
    for (found, number) in track.iter().zip(1..) {
        ensure!(
            *found == position(number),
            "position {number} is not what was written"
        );
    }
    let latest = state.latest.get(&device).copied();
    ensure!(
        latest == (head > 0).then(|| position(head)),
        "the latest position is not that of record {head}"
    );
    let rewritten = state.cursors.values().map(|cursor| cursor.read);
    let mut rewritten: Vec<u64> = rewritten.collect();
    rewritten.sort_unstable();
    let expected = head.saturating_sub(u64::from(REWRITTEN_STREAMS)) + 1..=head;
    ensure!(
        rewritten.iter().copied().eq(expected),
        "what was written again is not as record {head} left it"
    );
    // It goes on.
    store.commit(&commit_from(head + 1))?;
    println!("{head}");
    Ok(())
}

fn stream() -> StreamId {
    StreamId::new(STREAM).expect("not 0")
}

fn the_stream() -> Stream {
    Stream {
        id: stream(),
        kind: StreamKind::Direct,
        title: "truck-1".to_owned(),
        members: vec![Membership {
            member: Member::Office,
            first_seq: 1,
            last_seq: None,
        }],
    }
}

fn entry(number: u64) -> Entry {
    let length = if number.is_multiple_of(5) { 4_096 } else { 40 };
    Entry {
        stream: stream(),
        seq: Seq::new(number).expect("counted from 1"),
        id: u128::from(number).to_be_bytes(),
        author: Author::Device(DeviceId::new(DEVICE).expect("not 0")),
        operation: None,
        accepted: Moment::server(number.cast_signed()),
        urgent: false,
        expires_ms: None,
        reply_to: None,
        reply_stream: None,
        supersedes: None,
        superseded_by: None,
        earlier: None,
        body: EntryBody::Text(format!("{number:length$}")),
    }
}

fn event(number: u64) -> Event {
    Event {
        cursor: number,
        at_ms: number.cast_signed(),
        kind: EventKind::EntryAccepted {
            stream: stream(),
            seq: Seq::new(number).expect("counted from 1"),
        },
    }
}

fn position(number: u64) -> Position {
    let lat = (number % 90) as f64;
    let fix = Fix::from_degrees(number.cast_signed(), lat, 10.0).expect("a place");
    Position::measured(fix, number.cast_signed())
}

fn on_a_device(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

/// A device without a link: what it stores waits.
async fn open_client(folder: &Path) -> anyhow::Result<Client> {
    let credentials = Credentials::parse(
        r#"{"device": "1", "name": "truck-1", "secret": "none", "mqtt": ["mqtt://127.0.0.1:9"], "ca": null}"#,
    )?;
    let options = Options {
        outbox_ops_max: usize::MAX,
        ..Options::default()
    };
    let client = Client::open(credentials, folder, options).await?;
    client.pause_link().await?;
    Ok(client)
}

async fn write_outbox(folder: &Path) -> anyhow::Result<()> {
    let client = open_client(folder).await?;
    loop {
        match client.post_text(Message::to_office("At the gate")).await {
            Ok(posted) => acknowledge(posted.op.number())?,
            Err(PostError::OutboxFull { .. }) => std::future::pending().await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Nothing of it was ever accepted, so that as many wait as were ever stored, and the next has the next number.
async fn check_outbox(folder: &Path, last: u64) -> anyhow::Result<()> {
    let client = open_client(folder).await?;
    let waiting = client.status().await?.waiting_ops;
    ensure!(
        waiting >= last,
        "{last} operations were acknowledged and {waiting} are there"
    );
    let next = client.post_text(Message::to_office("After the cut")).await?;
    ensure!(
        next.op.number() == waiting + 1,
        "{waiting} operations are there, and the next is number {}",
        next.op.number()
    );
    client.close().await?;
    println!("{waiting}");
    Ok(())
}
