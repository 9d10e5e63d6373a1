//! The size table: whole MQTT 5 PUBLISH packets as they leave, topic alias established, session tag included, as the
//! maximum over a thousand random values with op ≥ 1,234, stream ≥ 4,711, template ≥ 120 in version 14, and seq ≥ 3,000.
//!
//! "Riding" is what an item adds to a frame that was due anyway. Print the table with
//! `cargo test -p waypost-proto --test wire sizes -- --nocapture`.

use bytes::BytesMut;
use prost::Message;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Publish, PublishProperties};
use waypost_proto::{
    Cumulative, Fix, Motion, Operation, QuickReply, SessionTag, Stamp, StreamId, UNDER_WAY_MAX, wire,
};

const ROUNDS: usize = 1_000;
/// Sessions of up to a day.
const SESSION_S: u64 = 86_400;

/// A generator of its own: the same values on every machine.
struct Random(u64);

impl Random {
    /// `low..=high`
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        low + (self.0 >> 16) % (high - low + 1)
    }

    fn u32(&mut self, low: u32, high: u32) -> u32 {
        u32::try_from(self.between(u64::from(low), u64::from(high))).unwrap()
    }

    /// Two-byte numbers from the table's lower bound up.
    fn op(&mut self) -> u64 {
        self.between(1_234, 16_383)
    }

    fn stream(&mut self) -> StreamId {
        StreamId::new(self.u32(4_711, 16_383)).unwrap()
    }

    fn seq(&mut self) -> u64 {
        self.between(3_000, 16_383)
    }

    fn tag(&mut self) -> SessionTag {
        SessionTag::new(self.u32(1, 127)).unwrap()
    }

    fn stamp(&mut self) -> u32 {
        Stamp {
            tag: self.tag(),
            seconds: u32::try_from(self.between(0, SESSION_S)).unwrap(),
        }
        .to_wire()
    }
}

fn publish_bytes(frame: &impl Message, qos: QoS) -> usize {
    let properties = PublishProperties {
        topic_alias: Some(1),
        ..Default::default()
    };
    let mut publish = Publish::new("", qos, frame.encode_to_vec(), Some(properties));
    publish.pkid = if qos == QoS::AtMostOnce { 0 } else { 4_711 };
    let mut packet = BytesMut::new();
    publish.write(&mut packet).unwrap();
    packet.len()
}

/// A row: the largest packet of an item alone, and the most that it adds to a frame that was due.
struct Row {
    item: &'static str,
    alone: usize,
    alone_max: usize,
    riding: usize,
    riding_max: usize,
}

impl Row {
    fn check(&self) {
        let Self {
            item,
            alone,
            alone_max,
            riding,
            riding_max,
        } = self;
        println!("| {item} | {alone} (at most {alone_max}) | {riding} (at most {riding_max}) |");
        assert!(
            alone <= alone_max,
            "{item} alone: {alone} bytes, at most {alone_max}"
        );
        assert!(
            riding <= riding_max,
            "{item} riding: {riding} bytes, at most {riding_max}"
        );
    }
}

/// Measures a thousand frames: `due` makes one that was due anyway, `add` puts the item in.
fn measure<F: Message + Clone>(
    (item, alone_max, riding_max): (&'static str, usize, usize),
    qos: QoS,
    mut alone: impl FnMut(&mut Random) -> F,
    mut due: impl FnMut(&mut Random) -> F,
    mut add: impl FnMut(&mut Random, &mut F),
) -> Row {
    let mut random = Random(0x5eed);
    let mut row = Row {
        item,
        alone: 0,
        alone_max,
        riding: 0,
        riding_max,
    };
    for _ in 0..ROUNDS {
        let mut frame = alone(&mut random);
        add(&mut random, &mut frame);
        row.alone = row.alone.max(publish_bytes(&frame, qos));
        let mut frame = due(&mut random);
        let before = publish_bytes(&frame, QoS::AtLeastOnce);
        add(&mut random, &mut frame);
        row.riding = row.riding.max(publish_bytes(&frame, QoS::AtLeastOnce) - before);
    }
    row
}

/// A frame with a text of its own.
fn due_up(random: &mut Random) -> wire::UpFrame {
    let ops = vec![Operation::text(random.stream(), "On my way").to_wire()];
    wire::UpFrame {
        stamp: random.stamp(),
        first_op: random.op(),
        ops,
        ..Default::default()
    }
}

fn stamped_up(random: &mut Random) -> wire::UpFrame {
    wire::UpFrame {
        stamp: random.stamp(),
        ..Default::default()
    }
}

#[test]
fn sizes_of_frames_stay_within_the_table() {
    println!("| item | alone | riding in a frame that was due |\n|---|---|---|");
    measure(
        ("free text of 21 bytes", 46, 32),
        QoS::AtLeastOnce,
        |random| wire::UpFrame {
            first_op: random.op(),
            ..stamped_up(random)
        },
        due_up,
        |random, frame| {
            // In a frame that is due for something else, it may have waited up to four hours.
            let age_s = if frame.ops.is_empty() {
                0
            } else {
                random.u32(0, 16_383)
            };
            let text = Operation::text(random.stream(), "Gate closed until six");
            frame.ops.push(wire::Operation {
                age_s,
                ..text.to_wire()
            });
        },
    )
    .check();
    measure(
        ("quick reply with one slot", 32, 17),
        QoS::AtLeastOnce,
        |random| wire::UpFrame {
            first_op: random.op(),
            ..stamped_up(random)
        },
        due_up,
        |random, frame| {
            let age_s = if frame.ops.is_empty() {
                0
            } else {
                random.u32(0, 16_383)
            };
            let reply = QuickReply {
                template: random.u32(120, 16_383),
                version: 14,
                // Minutes, at most an hour.
                numbers: vec![i64::from(random.u32(0, 60))],
                texts: Vec::new(),
            };
            let reply = Operation::reply(random.stream(), reply);
            frame.ops.push(wire::Operation {
                age_s,
                ..reply.to_wire()
            });
        },
    )
    .check();
    measure(
        ("delivered and read cursor of one stream, with its time", 26, 14),
        QoS::AtLeastOnce,
        stamped_up,
        due_up,
        |random, frame| {
            let read_age_s = if frame.ops.is_empty() {
                0
            } else {
                random.u32(0, 16_383)
            };
            let (delivered, read) = (random.seq(), random.seq());
            let stream = random.stream().number();
            frame.cursors.push(wire::Cursor {
                stream,
                delivered,
                read,
                read_age_s,
                ..Default::default()
            });
        },
    )
    .check();
    for (ranges, item) in [
        (0u64, "acknowledgement of a run of operations"),
        (1, "… with one range above"),
        (8, "… with eight ranges above"),
    ] {
        let more = 4 * usize::try_from(ranges).unwrap();
        measure(
            (item, 18 + more, 6 + more),
            QoS::AtLeastOnce,
            |random| wire::DownFrame {
                stamp: Stamp::of(random.tag()).to_wire(),
                ..Default::default()
            },
            |random| {
                let entries = vec![wire::Entry {
                    own_op: random.op(),
                    ..Default::default()
                }];
                let run = wire::EntryRun {
                    stream: random.stream().number(),
                    first_seq: random.seq(),
                    entries,
                    ..Default::default()
                };
                let stamp = Stamp::of(random.tag()).to_wire();
                wire::DownFrame {
                    stamp,
                    entries: vec![run],
                    ..Default::default()
                }
            },
            |random, frame| {
                let mut accepted = Cumulative::through_to(random.op());
                for _ in 0..ranges {
                    let first = accepted.highest() + 1 + random.between(1, 16_383);
                    accepted.insert_range(first, first + random.between(0, 16_382));
                }
                frame.accepted_through = accepted.through();
                frame.accepted_ranges = accepted.to_wire();
            },
        )
        .check();
    }
    let any_fix = |random: &mut Random, hello_ms: i64| Fix {
        at_ms: hello_ms + i64::try_from(random.between(0, SESSION_S * 1_000)).unwrap(),
        lat_e7: i32::try_from(random.between(0, 1_800_000_000)).unwrap() - 900_000_000,
        lon_e7: i32::try_from(i64::try_from(random.between(0, 3_600_000_000)).unwrap() - 1_800_000_000)
            .unwrap(),
        motion: Motion {
            speed_cmps: Some(random.u32(0, 40_940)),
            course_ddeg: Some(random.u32(0, 3_599)),
        },
        accuracy_m: None,
        battery_pct: Some(random.u32(0, 100)),
    };
    for (item, qos) in [
        (
            "one live fix: position, speed, course, time, battery (QoS 0)",
            QoS::AtMostOnce,
        ),
        ("… at QoS 1", QoS::AtLeastOnce),
    ] {
        measure(
            (item, 34, 22),
            qos,
            // The fix has its own time, so that the stamp needs none.
            |random| wire::UpFrame {
                stamp: Stamp::of(random.tag()).to_wire(),
                ..Default::default()
            },
            due_up,
            |random, frame| {
                let hello_ms = 1_764_000_000_000;
                frame.live = Some(any_fix(random, hello_ms).to_live(hello_ms));
            },
        )
        .check();
    }
}

#[test]
fn what_is_under_way_costs_a_hello_four_bytes_each_and_nothing_where_nothing_is() {
    let hello = |first_under_way: u64, operations: usize| wire::Hello {
        first_under_way,
        under_way: vec![u32::MAX; operations],
        ..Default::default()
    };
    assert_eq!(hello(0, 0).encoded_len(), 0);
    // Numbers up to two million.
    for (operations, most) in [(1, 10), (3, 18), (UNDER_WAY_MAX, 135)] {
        assert_eq!(hello(2_097_151, operations).encoded_len(), most, "{operations}");
    }
}

#[test]
fn what_the_steady_clock_shows_costs_a_hello_at_most_fourteen_bytes() {
    let mut random = Random(0x5eed);
    let growth = |random: &mut Random| {
        let hello = wire::Hello {
            boot: random.u32(1, u32::MAX),
            // Up to ten years without a new start.
            uptime_ms: random.between(0, 10 * 366 * 86_400_000),
            ..Default::default()
        };
        hello.encoded_len()
    };
    let most = (0..ROUNDS).map(|_| growth(&mut random)).max();
    assert_eq!(most, Some(12));
}
