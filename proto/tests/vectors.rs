//! The golden vectors in `proto/vectors/frames.json`: the bytes of a frame beside what it means. A vector that was
//! ever released is not changed; new ones are added.
//!
//! `WAYPOST_WRITE_VECTORS=1 cargo test -p waypost-proto --test wire vectors` writes the file anew.

use prost::Message;
use serde_json::{Value, json};
use waypost_proto::{
    Author, Body, ContentDigest, Cumulative, EntryBody, Fix, MembershipChange, Motion, Operation, QuickReply,
    ReceivedEntry, SessionTag, Slot, SlotKind, Stamp, StreamId, Template, TrackBatch, TrackKind,
    groups_digest, number_operations, positions_digest, wire,
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

fn quick_reply() -> QuickReply {
    QuickReply {
        template: 120,
        version: 14,
        numbers: vec![15, 865],
        texts: vec!["jam é".to_owned()],
    }
}

fn groups() -> wire::Groups {
    let group = |group, stream, title: &str| wire::Group {
        group,
        stream,
        title: title.to_owned(),
    };
    wire::Groups {
        groups: vec![group(4, 4_712, "North"), group(264, 4_800, "Kühlzüge")],
    }
}

fn catalogue() -> wire::Catalogue {
    let slot = |name: &str, kind| Slot {
        name: name.to_owned(),
        kind,
    };
    let template = Template {
        number: 120,
        key: "running_late".to_owned(),
        text: "Late {minutes} min: {why}. There at {eta}".to_owned(),
        slots: vec![
            slot("minutes", SlotKind::Number),
            slot("why", SlotKind::Text),
            slot("eta", SlotKind::Time),
        ],
    };
    wire::Catalogue {
        from_version: 14,
        version: 15,
        templates: vec![template.to_wire()],
        removed: vec![7, 130],
        ..Default::default()
    }
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
        groups_digest: 0,
        boot: 0,
        uptime_ms: 0,
        first_under_way: 0,
        under_way: vec![],
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
                hello: Some(hello.clone()),
                first_op: 1,
                ops: vec![text.clone()],
                ..frame(0)
            },
        ),
        (
            "hello of a member of groups with a catalogue",
            wire::UpFrame {
                hello: Some(wire::Hello {
                    catalogue: 14,
                    groups_digest: groups_digest(&groups().groups),
                    ..hello.clone()
                }),
                ..frame(0)
            },
        ),
        (
            "hello with what the steady clock shows",
            wire::UpFrame {
                hello: Some(wire::Hello {
                    boot: 0x89ab_cdef,
                    uptime_ms: 432_000_123,
                    ..hello.clone()
                }),
                ..frame(0)
            },
        ),
        (
            "hello with operations under way",
            wire::UpFrame {
                hello: Some(wire::Hello {
                    first_under_way: 1_234,
                    // Nothing waits under 1,235.
                    under_way: vec![
                        ContentDigest::of(&text).brief().get(),
                        0,
                        ContentDigest::of(&Operation::reply(stream(4_711), quick_reply()).to_wire())
                            .brief()
                            .get(),
                    ],
                    ..hello
                }),
                ..frame(0)
            },
        ),
        (
            "a quick reply",
            wire::UpFrame {
                first_op: 1_234,
                ops: vec![Operation::reply(stream(4_711), quick_reply()).to_wire()],
                ..frame(86_400)
            },
        ),
        (
            "a quick reply that answers a broadcast",
            wire::UpFrame {
                first_op: 1_235,
                ops: vec![wire::Operation {
                    reply_to: 1,
                    reply_stream: 4_900,
                    ..Operation::reply(stream(4_711), quick_reply()).to_wire()
                }],
                ..frame(86_400)
            },
        ),
        (
            "a quick reply without a template",
            wire::UpFrame {
                first_op: 6,
                ops: vec![wire::Operation {
                    stream: 4_711,
                    body: Some(wire::operation::Body::Template(0)),
                    ..Default::default()
                }],
                ..frame(2)
            },
        ),
        (
            "what is known of groups and catalogue",
            wire::UpFrame {
                known: Some(wire::Known {
                    groups_digest: groups_digest(&groups().groups),
                    catalogue: 15,
                }),
                ..frame(7)
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
            "an urgent text that has overtaken others",
            wire::UpFrame {
                first_op: 1_234,
                ops: vec![wire::Operation {
                    earlier: 2,
                    urgent: true,
                    ..Operation::text(stream(4_711), "Brakes failing").to_wire()
                }],
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
            "a batch of points, with where the device goes",
            wire::UpFrame {
                first_op: 10,
                ops: vec![
                    Operation::track_batch(&batch(), Some(64), TrackKind::Travelled)
                        .unwrap()
                        .to_wire(),
                ],
                ..frame(40)
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
            "what was read at two moments",
            wire::UpFrame {
                cursors: vec![
                    wire::Cursor {
                        stream: 4_711,
                        read: 2_990,
                        read_age_s: 3_600,
                        ..Default::default()
                    },
                    cursor.clone(),
                ],
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
            "an operation that takes the place of an entry and expires, and a void of one that has expired",
            wire::UpFrame {
                first_op: 1_241,
                ops: vec![wire::Operation {
                    supersedes: 3_002,
                    expires_in_s: 900,
                    age_s: 30,
                    ..Operation::text(stream(4_711), "Gate 5 now").to_wire()
                }],
                voids: vec![wire::VoidRange {
                    first_op: 1_240,
                    count: 1,
                    reason: wire::VoidReason::Expired.into(),
                }],
                ..frame(86_400)
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
        (
            "a page of earlier entries is asked for",
            wire::UpFrame {
                page: Some(wire::PageRequest {
                    stream: 4_711,
                    before_seq: 2_901,
                    limit: 64,
                }),
                ..frame(0)
            },
        ),
    ]
}

fn group_run() -> wire::EntryRun {
    let reply = |text: &str| {
        let QuickReply {
            template,
            version,
            numbers,
            texts,
        } = quick_reply();
        wire::entry::Body::Reply(wire::QuickReply {
            template,
            version,
            slot_numbers: numbers,
            slot_texts: texts,
            text: text.to_owned(),
        })
    };
    let membership = |left| wire::entry::Body::Membership(wire::MembershipChange { device: 264, left });
    let entry = |body| wire::Entry {
        server_ms: 20,
        body: Some(body),
        ..Default::default()
    };
    wire::EntryRun {
        stream: 4_712,
        first_seq: 9,
        entries: vec![
            entry(membership(false)),
            wire::Entry {
                author_device: 264,
                author_op: 78,
                ..entry(reply(""))
            },
            wire::Entry {
                author_person: 3,
                reply_to: 1,
                reply_stream: 4_900,
                ..entry(reply("Late 15 min"))
            },
            entry(membership(true)),
        ],
        ..Default::default()
    }
}

fn group_frame() -> wire::GroupFrame {
    wire::GroupFrame {
        generation: 14,
        server_ms: WELCOME_MS.cast_unsigned(),
        store: 0x7654_3210,
        entries: vec![group_run()],
        names: vec![wire::AuthorName {
            device: 264,
            name: "truck-17".to_owned(),
            ..Default::default()
        }],
    }
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
        ..Default::default()
    };
    let names = vec![
        wire::AuthorName {
            person: 3,
            name: "Anna".to_owned(),
            ..Default::default()
        },
        wire::AuthorName {
            device: 264,
            name: "truck-17".to_owned(),
            ..Default::default()
        },
    ];
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
                    restored: None,
                }),
                accepted_through: 1_233,
                ..frame()
            },
        ),
        (
            "the welcome of a store that was put back",
            wire::DownFrame {
                welcome: Some(wire::Welcome {
                    incarnation: 0x0123_4567_89ab_cdef,
                    generation: 1,
                    server_ms: WELCOME_MS.cast_unsigned(),
                    want_positions: true,
                    catalogue: 14,
                    office_stream: 4_711,
                    restored: Some(wire::Restored {
                        last_stream: 4_900,
                        heads: vec![
                            wire::StreamHead {
                                stream: 4_711,
                                seq: 3_000,
                            },
                            wire::StreamHead {
                                stream: 4_712,
                                seq: 1,
                            },
                        ],
                    }),
                }),
                accepted_through: 1_200,
                ..frame()
            },
        ),
        ("acknowledgement with a range", accepted_frame),
        (
            "a quick reply, its answer to a broadcast, and who joined and left",
            wire::DownFrame {
                entries: vec![group_run()],
                names,
                ..frame()
            },
        ),
        (
            "a broadcast",
            wire::DownFrame {
                entries: vec![wire::EntryRun {
                    stream: 4_900,
                    first_seq: 1,
                    kind: wire::StreamKind::Broadcast.into(),
                    entries: vec![wire::Entry {
                        author_person: 3,
                        body: text("Snow on the pass"),
                        ..Default::default()
                    }],
                }],
                ..frame()
            },
        ),
        (
            "groups",
            wire::DownFrame {
                groups: Some(groups()),
                ..frame()
            },
        ),
        (
            "no groups any more",
            wire::DownFrame {
                groups: Some(wire::Groups::default()),
                ..frame()
            },
        ),
        (
            "a change of the catalogue",
            wire::DownFrame {
                catalogue: Some(catalogue()),
                ..frame()
            },
        ),
        (
            "a change of the catalogue that has to be fetched",
            wire::DownFrame {
                catalogue: Some(wire::Catalogue {
                    version: 90,
                    fetch: true,
                    locale: "pt".to_owned(),
                    ..Default::default()
                }),
                ..frame()
            },
        ),
        (
            "entries",
            wire::DownFrame {
                entries: vec![run],
                names: vec![wire::AuthorName {
                    person: 3,
                    name: "Anna".to_owned(),
                    ..Default::default()
                }],
                ..frame()
            },
        ),
        (
            "an entry that takes the place of another, and skip ranges of what is gone",
            wire::DownFrame {
                entries: vec![wire::EntryRun {
                    stream: 4_711,
                    first_seq: 3_006,
                    entries: vec![wire::Entry {
                        author_person: 3,
                        server_ms: 40,
                        expires_in_s: 900,
                        supersedes: 3_004,
                        body: text("Dock 5 instead of 4"),
                        ..Default::default()
                    }],
                    ..Default::default()
                }],
                skips: [
                    (3_004, 1, wire::SkipReason::Superseded),
                    (3_005, 1, wire::SkipReason::Expired),
                ]
                .into_iter()
                .map(|(first_seq, count, reason)| wire::SkipRange {
                    stream: 4_711,
                    first_seq,
                    count,
                    reason: reason.into(),
                })
                .collect(),
                refusals: vec![wire::Refusal {
                    op: 1_242,
                    reason: wire::RefusalReason::Expired.into(),
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
        (
            "skip range of what is there on demand",
            wire::DownFrame {
                skips: vec![wire::SkipRange {
                    stream: 4_711,
                    first_seq: 1,
                    count: 2_900,
                    reason: wire::SkipReason::Earlier.into(),
                }],
                ..frame()
            },
        ),
        (
            "page",
            wire::DownFrame {
                pages: vec![page()],
                ..frame()
            },
        ),
        (
            "page that is refused",
            wire::DownFrame {
                pages: vec![wire::EntryPage {
                    stream: 4_712,
                    before_seq: 7,
                    refused: wire::RefusalReason::NotAMember.into(),
                    ..Default::default()
                }],
                ..frame()
            },
        ),
    ]
}

/// The beginning of a stream, with an entry of the receiver itself, in full.
fn page() -> wire::EntryPage {
    let own = wire::Entry {
        author_device: 264,
        server_ms: -86_400_000,
        device_ms: -350,
        author_op: 17,
        body: Some(wire::entry::Body::Text("At the gate".to_owned())),
        ..Default::default()
    };
    wire::EntryPage {
        stream: 4_711,
        before_seq: 2_901,
        first_seq: 1,
        runs: vec![wire::EntryRun {
            stream: 4_711,
            first_seq: 2_900,
            entries: vec![own],
            ..Default::default()
        }],
        skips: vec![wire::SkipRange {
            stream: 4_711,
            first_seq: 1,
            count: 2_899,
            reason: wire::SkipReason::Trimmed.into(),
        }],
        ..Default::default()
    }
}

fn batch() -> TrackBatch {
    let point = |after_s: i64, lat_e7, lon_e7| waypost_proto::Point {
        at_ms: HELLO_MS / 1_000 * 1_000 + after_s * 1_000,
        lat_e7,
        lon_e7,
        after_gap: false,
    };
    TrackBatch {
        grid: waypost_proto::Grid::ROAD,
        tick: waypost_proto::Tick::SECOND,
        leads_on: true,
        exact: false,
        points: vec![
            point(0, 485_120_000, 95_340_000),
            point(14, 485_122_800, 95_352_000),
        ],
        velocity: Some(waypost_proto::Velocity { north: 5, east: 20 }),
    }
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

/// As the track vectors say it.
pub(crate) fn meaning_of_batch(batch: &TrackBatch) -> Value {
    let points = batch.points.iter().map(|point| {
        json!({
            "at_ms": point.at_ms, "lat_e7": point.lat_e7, "lon_e7": point.lon_e7, "after_gap": point.after_gap,
        })
    });
    json!({
        "grid_e7": batch.grid.step_e7(), "tick_ms": batch.tick.ms(), "leads_on": batch.leads_on,
        "exact": batch.exact, "points": points.collect::<Vec<_>>(),
        "velocity_qmps": batch.velocity.map(|velocity| [velocity.north, velocity.east]),
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
                    reply_stream,
                    supersedes,
                    expires_in_s,
                    body,
                }) => with_two(
                    ("reply_stream", reply_stream.map(StreamId::number)),
                    ("supersedes", supersedes.map(waypost_proto::Seq::number)),
                    json!({
                        "stream": stream.map(StreamId::number), "urgent": urgent,
                        "reply_to": reply_to.map(waypost_proto::Seq::number), "expires_in_s": expires_in_s,
                        "body": match body {
                            Body::Text(text) => json!({ "text": text }),
                            Body::Reply(reply) => json!({ "reply": meaning_of_reply(reply) }),
                            Body::Track { fixes, kind } => json!({
                                "track": fixes.iter().map(meaning_of_fix).collect::<Vec<_>>(),
                                "recording": *kind == TrackKind::Recording,
                            }),
                            Body::Batch { batch, battery_pct, kind } => json!({
                                "batch": meaning_of_batch(batch), "battery_pct": battery_pct,
                                "recording": *kind == TrackKind::Recording,
                            }),
                        },
                    }),
                ),
                Err(reason) => json!({ "refused": reason.as_str_name() }),
            };
            with(
                "earlier",
                numbered.earlier.map(waypost_proto::OpNumber::number),
                json!({ "op": numbered.op.number(), "age_s": numbered.age_s, "content": content }),
            )
        })
        .collect();
    let means = json!({
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
        })).map(|means| with("groups_digest", groups_of(frame), means))
            .map(|means| with("steady_clock", steady_clock_of(frame), means))
            .map(|means| with("under_way", under_way_of(frame), means)),
        "positions": frame.positions.as_ref()
            .map(|positions| positions.cursors.iter().map(meaning_of_cursor).collect::<Vec<_>>()),
        "voids": frame.voids.iter().map(|void| json!({
            "first_op": void.first_op, "count": void.count, "reason": void.reason().as_str_name(),
        })).collect::<Vec<_>>(),
    });
    let known = frame.known.map(|known| {
        json!({ "groups_digest": format!("{:08x}", known.groups_digest), "catalogue": known.catalogue })
    });
    let page = frame
        .page
        .map(|page| json!({ "stream": page.stream, "before_seq": page.before_seq, "limit": page.limit }));
    with("page", page, with("known", known, means))
}

/// Fields that came later stand in a meaning only where they are set: vectors from before do not change.
fn with(key: &str, value: Option<impl Into<Value>>, mut means: Value) -> Value {
    if let Some(value) = value {
        means[key] = value.into();
    }
    means
}

fn with_two(
    (one, first): (&str, Option<impl Into<Value>>),
    (other, second): (&str, Option<impl Into<Value>>),
    means: Value,
) -> Value {
    with(other, second, with(one, first, means))
}

fn groups_of(frame: &wire::UpFrame) -> Option<String> {
    let digest = frame.hello.as_ref()?.groups_digest;
    (digest != 0).then(|| format!("{digest:08x}"))
}

fn steady_clock_of(frame: &wire::UpFrame) -> Option<Value> {
    let wire::Hello { boot, uptime_ms, .. } = frame.hello.as_ref()?;
    (*boot != 0).then(|| json!({ "boot": format!("{boot:08x}"), "uptime_ms": uptime_ms }))
}

fn under_way_of(frame: &wire::UpFrame) -> Option<Value> {
    let hello = frame.hello.as_ref()?;
    let digests = hello.under_way.iter().map(|digest| format!("{digest:08x}"));
    (hello.first_under_way != 0)
        .then(|| json!({ "first_op": hello.first_under_way, "digests": digests.collect::<Vec<_>>() }))
}

fn meaning_of_reply(reply: &QuickReply) -> Value {
    json!({
        "template": reply.template, "version": reply.version, "numbers": reply.numbers, "texts": reply.texts,
    })
}

fn meaning_of_groups(groups: &wire::Groups) -> Value {
    let each = groups
        .groups
        .iter()
        .map(|group| json!({ "group": group.group, "stream": group.stream, "title": group.title }));
    json!({
        "groups": each.collect::<Vec<_>>(),
        "digest": format!("{:08x}", groups_digest(&groups.groups)),
    })
}

fn meaning_of_catalogue(catalogue: &wire::Catalogue) -> Value {
    let template = |template: &wire::Template| {
        let template = Template::from_wire(template).unwrap();
        let slots = template
            .slots
            .iter()
            .map(|slot| json!({ "name": slot.name, "kind": slot.kind.as_str_name() }));
        json!({
            "number": template.number, "key": template.key, "text": template.text,
            "slots": slots.collect::<Vec<_>>(),
        })
    };
    json!({
        "from_version": catalogue.from_version, "version": catalogue.version,
        "templates": catalogue.templates.iter().map(template).collect::<Vec<_>>(),
        "removed": catalogue.removed, "fetch": catalogue.fetch, "locale": catalogue.locale,
    })
}

fn meaning_of_names(names: &[wire::AuthorName]) -> Value {
    let name = |name: &wire::AuthorName| match name.device {
        0 => json!({ "person": name.person, "name": name.name }),
        device => json!({ "device": device, "name": name.name }),
    };
    names.iter().map(name).collect()
}

fn meaning_of_group_frame(frame: &wire::GroupFrame) -> Value {
    let base_ms = frame.server_ms.cast_signed();
    let entries = frame
        .entries
        .iter()
        .flat_map(|run| ReceivedEntry::of_run(run, base_ms));
    json!({
        "generation": frame.generation, "store": format!("{:08x}", frame.store), "server_ms": frame.server_ms,
        "entries": entries.map(meaning_of_entry).collect::<Vec<_>>(),
        "names": meaning_of_names(&frame.names),
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
            reply_stream,
            supersedes,
            expires_ms,
            body,
        } => with_two(
            ("reply_stream", reply_stream.map(StreamId::number)),
            ("supersedes", supersedes.map(waypost_proto::Seq::number)),
            json!({
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
                    EntryBody::Reply { reply, text } => json!({ "reply": meaning_of_reply(&reply), "text": text }),
                    EntryBody::Membership { device, change } => json!({
                        "membership": device.number(), "left": change == MembershipChange::Left,
                    }),
                    EntryBody::Unsupported => Value::Null,
                },
            }),
        ),
    };
    json!({ "stream": stream.number(), "seq": seq.number(), "entry": what })
}

fn meaning_of_down(frame: &wire::DownFrame) -> Value {
    let accepted = Cumulative::from_wire(frame.accepted_through, &frame.accepted_ranges).unwrap();
    let entries = frame
        .entries
        .iter()
        .flat_map(|run| ReceivedEntry::of_run(run, WELCOME_MS));
    let kinds: Vec<_> = frame
        .entries
        .iter()
        .filter(|run| run.kind() == wire::StreamKind::Broadcast)
        .map(|run| run.stream)
        .collect();
    let means = json!({
        "stamp": meaning_of_stamp(frame.stamp),
        "accepted_through": accepted.through(), "accepted_ranges": accepted.to_wire(),
        "entries": entries.map(meaning_of_entry).collect::<Vec<_>>(),
        "skips": meaning_of_skips(&frame.skips),
        "welcome": frame.welcome.as_ref().map(meaning_of_welcome),
        "hello_please": frame.hello_please,
        "refusals": frame.refusals.iter().map(|refusal| json!({
            "op": refusal.op, "reason": refusal.reason().as_str_name(),
        })).collect::<Vec<_>>(),
        "names": meaning_of_names(&frame.names),
        "forked_op": frame.forked_op,
    });
    let means = with("broadcasts", (!kinds.is_empty()).then_some(kinds), means);
    let means = with("groups", frame.groups.as_ref().map(meaning_of_groups), means);
    let pages: Vec<Value> = frame.pages.iter().map(meaning_of_page).collect();
    let means = with("pages", (!pages.is_empty()).then_some(pages), means);
    with(
        "catalogue",
        frame.catalogue.as_ref().map(meaning_of_catalogue),
        means,
    )
}

fn meaning_of_skips(skips: &[wire::SkipRange]) -> Vec<Value> {
    let meaning = |skip: &wire::SkipRange| {
        json!({
            "stream": skip.stream, "first_seq": skip.first_seq, "count": skip.count,
            "reason": skip.reason().as_str_name(),
        })
    };
    skips.iter().map(meaning).collect()
}

fn meaning_of_page(page: &wire::EntryPage) -> Value {
    let entries = page
        .runs
        .iter()
        .flat_map(|run| ReceivedEntry::of_run(run, WELCOME_MS));
    let refused = (page.refused != 0).then(|| page.refused().as_str_name());
    json!({
        "stream": page.stream, "before_seq": page.before_seq, "first_seq": page.first_seq,
        "entries": entries.map(meaning_of_entry).collect::<Vec<_>>(),
        "skips": meaning_of_skips(&page.skips), "refused": refused,
    })
}

fn meaning_of_welcome(welcome: &wire::Welcome) -> Value {
    let means = json!({
        "incarnation": format!("{:016x}", welcome.incarnation), "generation": welcome.generation,
        "server_ms": welcome.server_ms, "want_positions": welcome.want_positions,
        "catalogue": welcome.catalogue, "office_stream": welcome.office_stream,
    });
    let restored = welcome.restored.as_ref().map(|restored| {
        let heads = restored.heads.iter();
        let heads = heads.map(|head| json!({ "stream": head.stream, "seq": head.seq }));
        json!({ "last_stream": restored.last_stream, "heads": heads.collect::<Vec<_>>() })
    });
    with("restored", restored, means)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
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
    let group = json!({
        "name": "entries of a group", "direction": "group", "hex": hex(&group_frame().encode_to_vec()),
        "means": meaning_of_group_frame(&group_frame()),
    });
    let whole = wire::Catalogue {
        from_version: 0,
        removed: vec![],
        ..catalogue()
    };
    let catalogue = json!({
        "name": "a whole catalogue, as it is retained", "direction": "catalogue",
        "hex": hex(&whole.encode_to_vec()), "means": meaning_of_catalogue(&whole),
    });
    json!({
        "about": "Frames of waypost.v1 and what they mean. Relative times of frames up count from hello_ms, those of \
                  entries from welcome_ms; those of a group frame from its own server_ms.",
        "hello_ms": HELLO_MS,
        "welcome_ms": WELCOME_MS,
        "frames": up.chain(down).chain([group, catalogue]).collect::<Vec<_>>(),
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
            "group" => meaning_of_group_frame(&wire::GroupFrame::decode(bytes.as_slice()).unwrap()),
            "catalogue" => meaning_of_catalogue(&wire::Catalogue::decode(bytes.as_slice()).unwrap()),
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
