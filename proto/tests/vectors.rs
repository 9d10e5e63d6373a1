//! The golden vectors in `proto/vectors/frames.json`: the bytes of a frame beside what it means. A vector that was
//! ever released is not changed; new ones are added.
//!
//! `WAYPOST_WRITE_VECTORS=1 cargo test -p waypost-proto --test wire vectors` writes the file anew.

use prost::Message;
use serde_json::{Value, json};
use waypost_proto::{
    Author, Body, Cumulative, EntryBody, Fix, Motion, Operation, ReceivedEntry, SessionTag, Stamp, StreamId,
    TrackKind, number_operations, positions_digest, wire,
};

const HELLO_MS: i64 = 1_764_000_000_123;
const WELCOME_MS: i64 = 1_764_000_000_456;

fn file() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/frames.json")
}

fn stream(number: u32) -> StreamId {
    StreamId::new(number).unwrap()
}

fn stamp(tag: u32, seconds: u32) -> u32 {
    Stamp {
        tag: SessionTag::new(tag).unwrap(),
        seconds,
    }
    .to_wire()
}

fn fix(after_ms: i64, lat: f64, lon: f64) -> Fix {
    Fix {
        motion: Motion {
            speed_cmps: Some(1_420),
            course_ddeg: Some(899),
        },
        battery_pct: Some(87),
        ..Fix::from_degrees(HELLO_MS + after_ms, lat, lon).unwrap()
    }
}

fn held() -> Cumulative {
    let mut held = Cumulative::through_to(3_000);
    held.insert_range(3_003, 3_004);
    held.insert_range(3_010, 3_010);
    held
}

fn up_frames() -> Vec<(&'static str, wire::UpFrame)> {
    let text = Operation::text(stream(4_711), "At the gate é").to_wire();
    let urgent = Operation {
        urgent: true,
        ..Operation::text(stream(4_711), "Brakes smoke")
    }
    .to_wire();
    let answer = wire::Operation {
        reply_to: 3_001,
        expires_in_s: 600,
        ..text.clone()
    };
    let second = Fix {
        battery_pct: None,
        ..fix(2_000, 41.258, -95.996)
    };
    let track = vec![
        Fix {
            battery_pct: None,
            ..fix(1_000, 41.2579079, -95.9960403)
        },
        second,
        fix(3_500, 41.2581, -95.9958),
    ];
    let cursor = wire::Cursor {
        stream: 4_711,
        delivered: 3_000,
        read: 2_998,
        ranges: held().to_wire(),
        ..Default::default()
    };
    let digest = positions_digest([
        (stream(4_711), &held()),
        (stream(4_712), &Cumulative::through_to(7)),
    ]);
    let hello = wire::Hello {
        epoch: 0x0123_4567_89ab_cdef,
        device_ms: HELLO_MS.cast_unsigned(),
        positions_digest: digest,
        incarnation: 0xfedc_ba98_7654_3210,
        locale: "pt-BR".to_owned(),
        app: "waypost-driver 0.1.0".to_owned(),
        catalogue: 0,
    };
    let frame = |seconds| wire::UpFrame {
        stamp: stamp(93, seconds),
        ..Default::default()
    };
    vec![
        (
            "hello",
            wire::UpFrame {
                hello: Some(hello.clone()),
                ..frame(0)
            },
        ),
        (
            "hello with a first message",
            wire::UpFrame {
                hello: Some(hello),
                first_op: 1,
                ops: vec![text.clone()],
                ..frame(0)
            },
        ),
        (
            "one text",
            wire::UpFrame {
                first_op: 1_234,
                ops: vec![text.clone()],
                ..frame(86_400)
            },
        ),
        (
            "texts of different age with a gap in their numbers",
            wire::UpFrame {
                first_op: 1_234,
                ops: vec![
                    text,
                    wire::Operation {
                        gap: 3,
                        age_s: 61,
                        ..urgent
                    },
                    answer,
                ],
                ..frame(10)
            },
        ),
        (
            "a track",
            wire::UpFrame {
                first_op: 9,
                ops: vec![Operation::track(track, TrackKind::Travelled).to_wire()],
                ..frame(4)
            },
        ),
        (
            "a live fix",
            wire::UpFrame {
                live: Some(fix(65_432, -33.9, 151.2).to_live(HELLO_MS)),
                ..frame(0)
            },
        ),
        (
            "a cursor with ranges",
            wire::UpFrame {
                cursors: vec![wire::Cursor {
                    read_age_s: 5,
                    ..cursor.clone()
                }],
                ..frame(99)
            },
        ),
        (
            "transfer positions",
            wire::UpFrame {
                positions: Some(wire::TransferPositions {
                    cursors: vec![cursor],
                }),
                ..frame(1)
            },
        ),
        (
            "voids",
            wire::UpFrame {
                voids: vec![wire::VoidRange {
                    first_op: 1_240,
                    count: 3,
                    reason: wire::VoidReason::Refused.into(),
                }],
                ..frame(2)
            },
        ),
        (
            "an operation from the future",
            wire::UpFrame {
                first_op: 5,
                ops: vec![wire::Operation::default()],
                ..frame(2)
            },
        ),
    ]
}

fn down_frames() -> Vec<(&'static str, wire::DownFrame)> {
    let frame = || wire::DownFrame {
        stamp: stamp(93, 0),
        ..Default::default()
    };
    let mut accepted = Cumulative::through_to(1_234);
    accepted.insert_range(1_237, 1_240);
    let accepted_frame = wire::DownFrame {
        accepted_through: accepted.through(),
        accepted_ranges: accepted.to_wire(),
        ..frame()
    };
    let text = |text: &str| Some(wire::entry::Body::Text(text.to_owned()));
    let by_person = wire::Entry {
        author_person: 3,
        server_ms: -1_500,
        urgent: true,
        reply_to: 2_999,
        expires_in_s: 900,
        body: text("Dock 4 instead of 2"),
        ..Default::default()
    };
    let by_device = wire::Entry {
        author_device: 264,
        author_op: 77,
        server_ms: 20,
        device_ms: -172_800_000,
        body: text("On my way"),
        ..Default::default()
    };
    let own = wire::Entry {
        own_op: 1_234,
        ..Default::default()
    };
    let run = wire::EntryRun {
        stream: 4_711,
        first_seq: 3_001,
        entries: vec![by_person, by_device, own],
    };
    vec![
        (
            "welcome",
            wire::DownFrame {
                welcome: Some(wire::Welcome {
                    incarnation: 0xfedc_ba98_7654_3210,
                    generation: 14,
                    server_ms: WELCOME_MS.cast_unsigned(),
                    want_positions: true,
                    catalogue: 0,
                    office_stream: 4_711,
                }),
                accepted_through: 1_233,
                ..frame()
            },
        ),
        ("acknowledgement with a range", accepted_frame),
        (
            "entries",
            wire::DownFrame {
                entries: vec![run],
                names: vec![wire::PersonName {
                    person: 3,
                    name: "Anna".to_owned(),
                }],
                ..frame()
            },
        ),
        (
            "skip range",
            wire::DownFrame {
                skips: vec![wire::SkipRange {
                    stream: 4_711,
                    first_seq: 1,
                    count: 2_999,
                    reason: wire::SkipReason::NotAMember.into(),
                }],
                ..frame()
            },
        ),
        (
            "refusals",
            wire::DownFrame {
                refusals: vec![
                    wire::Refusal {
                        op: 1_235,
                        reason: wire::RefusalReason::NotAMember.into(),
                    },
                    wire::Refusal {
                        op: 0,
                        reason: wire::RefusalReason::Unreadable.into(),
                    },
                ],
                ..frame()
            },
        ),
        (
            "hello?",
            wire::DownFrame {
                hello_please: true,
                ..Default::default()
            },
        ),
        (
            "forked",
            wire::DownFrame {
                forked_op: 1_236,
                ..frame()
            },
        ),
    ]
}

fn meaning_of_stamp(wire: u32) -> Value {
    Stamp::parse(wire).map_or(
        Value::Null,
        |stamp| json!({ "tag": stamp.tag.number(), "seconds": stamp.seconds }),
    )
}

fn meaning_of_fix(fix: &Fix) -> Value {
    json!({
        "at_ms": fix.at_ms, "lat_e7": fix.lat_e7, "lon_e7": fix.lon_e7,
        "speed_cmps": fix.motion.speed_cmps, "course_ddeg": fix.motion.course_ddeg,
        "accuracy_m": fix.accuracy_m, "battery_pct": fix.battery_pct,
    })
}

fn meaning_of_cursor(cursor: &wire::Cursor) -> Value {
    let held = Cumulative::from_wire(cursor.delivered, &cursor.ranges).unwrap();
    json!({
        "stream": cursor.stream, "delivered": held.through(), "ranges": held.to_wire(), "read": cursor.read,
        "delivered_age_s": cursor.delivered_age_s, "read_age_s": cursor.read_age_s,
    })
}

fn meaning_of_up(frame: &wire::UpFrame) -> Value {
    let operations: Vec<Value> = number_operations(frame)
        .unwrap()
        .iter()
        .map(|numbered| {
            let content = match &numbered.content {
                Ok(Operation {
                    stream,
                    urgent,
                    reply_to,
                    expires_in_s,
                    body,
                }) => json!({
                    "stream": stream.map(StreamId::number), "urgent": urgent,
                    "reply_to": reply_to.map(waypost_proto::Seq::number), "expires_in_s": expires_in_s,
                    "body": match body {
                        Body::Text(text) => json!({ "text": text }),
                        Body::Track { fixes, kind } => json!({
                            "track": fixes.iter().map(meaning_of_fix).collect::<Vec<_>>(),
                            "recording": *kind == TrackKind::Recording,
                        }),
                    },
                }),
                Err(reason) => json!({ "refused": reason.as_str_name() }),
            };
            json!({ "op": numbered.op.number(), "age_s": numbered.age_s, "content": content })
        })
        .collect();
    json!({
        "stamp": meaning_of_stamp(frame.stamp),
        "operations": operations,
        "cursors": frame.cursors.iter().map(meaning_of_cursor).collect::<Vec<_>>(),
        "live": frame.live.as_ref().map(|live| meaning_of_fix(&Fix::from_live(live, HELLO_MS).unwrap())),
        "hello": frame.hello.as_ref().map(|hello| json!({
            // 64-bit numbers as hexadecimal text: JavaScript's numbers end at 53 bits.
            "epoch": format!("{:016x}", hello.epoch), "device_ms": hello.device_ms,
            "positions_digest": format!("{:016x}", hello.positions_digest),
            "incarnation": format!("{:016x}", hello.incarnation),
            "locale": hello.locale, "app": hello.app, "catalogue": hello.catalogue,
        })),
        "positions": frame.positions.as_ref()
            .map(|positions| positions.cursors.iter().map(meaning_of_cursor).collect::<Vec<_>>()),
        "voids": frame.voids.iter().map(|void| json!({
            "first_op": void.first_op, "count": void.count, "reason": void.reason().as_str_name(),
        })).collect::<Vec<_>>(),
    })
}

fn meaning_of_entry((stream, seq, entry): (StreamId, waypost_proto::Seq, ReceivedEntry)) -> Value {
    let what = match entry {
        ReceivedEntry::Own { op } => json!({ "own_op": op.number() }),
        ReceivedEntry::Full {
            author,
            server_ms,
            device_ms,
            author_op,
            urgent,
            reply_to,
            expires_ms,
            body,
        } => json!({
            "author": match author {
                Author::Device(device) => format!("device {device}"),
                Author::Person(person) => format!("person {person}"),
                Author::System => "system".to_owned(),
            },
            "server_ms": server_ms, "device_ms": device_ms,
            "author_op": author_op.map(waypost_proto::OpNumber::number), "urgent": urgent,
            "reply_to": reply_to.map(waypost_proto::Seq::number), "expires_ms": expires_ms,
            "body": match body {
                EntryBody::Text(text) => json!({ "text": text }),
                EntryBody::Unsupported => Value::Null,
            },
        }),
    };
    json!({ "stream": stream.number(), "seq": seq.number(), "entry": what })
}

fn meaning_of_down(frame: &wire::DownFrame) -> Value {
    let accepted = Cumulative::from_wire(frame.accepted_through, &frame.accepted_ranges).unwrap();
    let entries = frame
        .entries
        .iter()
        .flat_map(|run| ReceivedEntry::of_run(run, WELCOME_MS));
    json!({
        "stamp": meaning_of_stamp(frame.stamp),
        "accepted_through": accepted.through(), "accepted_ranges": accepted.to_wire(),
        "entries": entries.map(meaning_of_entry).collect::<Vec<_>>(),
        "skips": frame.skips.iter().map(|skip| json!({
            "stream": skip.stream, "first_seq": skip.first_seq, "count": skip.count,
            "reason": skip.reason().as_str_name(),
        })).collect::<Vec<_>>(),
        "welcome": frame.welcome.as_ref().map(|welcome| json!({
            "incarnation": format!("{:016x}", welcome.incarnation), "generation": welcome.generation,
            "server_ms": welcome.server_ms, "want_positions": welcome.want_positions,
            "catalogue": welcome.catalogue, "office_stream": welcome.office_stream,
        })),
        "hello_please": frame.hello_please,
        "refusals": frame.refusals.iter().map(|refusal| json!({
            "op": refusal.op, "reason": refusal.reason().as_str_name(),
        })).collect::<Vec<_>>(),
        "names": frame.names.iter().map(|name| json!({ "person": name.person, "name": name.name })).collect::<Vec<_>>(),
        "forked_op": frame.forked_op,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The file as this version would write it.
fn vectors() -> Value {
    let up = up_frames().into_iter().map(|(name, frame)| {
        json!({ "name": name, "direction": "up", "hex": hex(&frame.encode_to_vec()), "means": meaning_of_up(&frame) })
    });
    let down = down_frames().into_iter().map(|(name, frame)| {
        json!({ "name": name, "direction": "down", "hex": hex(&frame.encode_to_vec()), "means": meaning_of_down(&frame) })
    });
    json!({
        "about": "Frames of waypost.v1 and what they mean. Relative times of frames up count from hello_ms, those of \
                  entries from welcome_ms.",
        "hello_ms": HELLO_MS,
        "welcome_ms": WELCOME_MS,
        "frames": up.chain(down).collect::<Vec<_>>(),
    })
}

#[test]
fn vectors_mean_today_what_they_meant_when_they_were_written() {
    if std::env::var_os("WAYPOST_WRITE_VECTORS").is_some() {
        std::fs::write(file(), serde_json::to_string_pretty(&vectors()).unwrap() + "\n").unwrap();
    }
    let golden: Value = serde_json::from_slice(&std::fs::read(file()).unwrap()).unwrap();
    let frames = golden["frames"].as_array().unwrap();
    for vector in frames {
        let bytes = unhex(vector["hex"].as_str().unwrap());
        let means = match vector["direction"].as_str().unwrap() {
            "up" => meaning_of_up(&wire::UpFrame::decode(bytes.as_slice()).unwrap()),
            "down" => meaning_of_down(&wire::DownFrame::decode(bytes.as_slice()).unwrap()),
            other => panic!("no such direction: {other}"),
        };
        assert_eq!(means, vector["means"], "{}", vector["name"]);
    }
    // And what is written today has the bytes of then.
    for vector in vectors()["frames"].as_array().unwrap() {
        let name = &vector["name"];
        let then = frames
            .iter()
            .find(|golden| golden["name"] == *name)
            .unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(vector["hex"], then["hex"], "{name}");
    }
}
