//! The golden vectors in `proto/vectors/tracks.json`: the bytes of a batch of points beside what it means, and where a
//! receiver believes the device to be a minute later. A vector that was ever released is not changed; new ones are added.
//!
//! `WAYPOST_WRITE_VECTORS=1 cargo test -p waypost-proto --test wire tracks` writes the file anew.

use crate::vectors::{hex, meaning_of_batch, unhex};
use serde_json::{Value, json};
use waypost_proto::{Grid, Point, Reckoning, Tick, TrackBatch, Velocity};

const START_MS: i64 = 1_764_000_000_000;
const GRIDS_E7: [i64; 8] = [1, 10, 100, 200, 400, 1_000, 4_000, 10_000];
const TICKS_MS: [i64; 4] = [1, 10, 100, 1_000];

fn file() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/tracks.json")
}

/// Points from (milliseconds after the start, latitude, longitude).
fn points(of: &[(i64, i32, i32)]) -> Vec<Point> {
    let point = |&(after_ms, lat_e7, lon_e7): &(i64, i32, i32)| Point {
        at_ms: START_MS + after_ms,
        lat_e7,
        lon_e7,
        after_gap: false,
    };
    of.iter().map(point).collect()
}

fn drive() -> TrackBatch {
    TrackBatch {
        grid: Grid::ROAD,
        tick: Tick::SECOND,
        leads_on: true,
        exact: false,
        points: points(&[
            (0, 485_120_000, 95_340_000),
            (14_000, 485_122_800, 95_352_000),
            (31_000, 485_123_200, 95_379_200),
            (38_000, 485_129_200, 95_382_000),
            (52_000, 485_146_000, 95_384_000),
        ]),
        velocity: Some(Velocity { north: 52, east: 6 }),
    }
}

fn batches() -> Vec<(String, TrackBatch)> {
    let gap = {
        let mut points = points(&[
            (0, 485_120_000, 95_340_000),
            (59_000, 485_122_800, 95_352_000),
            (3_659_000, 485_200_000, 95_500_000),
            (7_259_000, 485_200_000, 95_500_000),
        ]);
        points[2].after_gap = true;
        points
    };
    let mut batches: Vec<(String, TrackBatch)> = [
        ("a drive that leads on", drive()),
        (
            "one point, nothing before it, at rest",
            TrackBatch {
                leads_on: false,
                points: points(&[(7_000, -339_000_000, 1_512_000_000)]),
                velocity: Some(Velocity::default()),
                ..drive()
            },
        ),
        (
            "history alone: no velocity",
            TrackBatch {
                velocity: None,
                ..drive()
            },
        ),
        (
            "a gap that nobody watched, and an hour that was watched",
            TrackBatch {
                points: gap,
                ..drive()
            },
        ),
        (
            "across the antimeridian and back",
            TrackBatch {
                points: points(&[
                    (0, -180_000_000, 1_799_996_000),
                    (10_000, -180_000_000, -1_799_996_000),
                    (20_000, -179_996_000, -1_799_988_000),
                    (40_000, -179_996_000, 1_799_992_000),
                ]),
                velocity: Some(Velocity { north: 0, east: -40 }),
                ..drive()
            },
        ),
        (
            "both poles",
            TrackBatch {
                points: points(&[(0, 900_000_000, 0), (5_000, -900_000_000, 1_799_999_600)]),
                ..drive()
            },
        ),
        (
            "the fastest that can be said",
            TrackBatch {
                velocity: Some(Velocity {
                    north: i16::MAX,
                    east: i16::MIN,
                }),
                ..drive()
            },
        ),
        (
            "fixes themselves, one a second",
            TrackBatch {
                grid: Grid::METRE,
                exact: true,
                points: points(&[
                    (0, 485_120_000, 95_340_000),
                    (1_000, 485_121_100, 95_341_000),
                    (2_000, 485_122_200, 95_342_100),
                    (3_000, 485_123_200, 95_343_100),
                    (5_000, 485_125_300, 95_345_000),
                ]),
                velocity: None,
                ..drive()
            },
        ),
    ]
    .map(|(name, batch)| (name.to_owned(), batch))
    .into();
    let grids = GRIDS_E7.map(|step_e7| {
        let mut points = points(&[(0, 120_000_000, -770_000_000), (9_000, 120_040_000, -770_080_000)]);
        points[1].lat_e7 += step_e7 as i32;
        let batch = TrackBatch {
            grid: Grid::at_most(step_e7),
            points: on_grid(points, step_e7 as i32),
            ..drive()
        };
        (format!("a grid of {step_e7}e-7 degrees"), batch)
    });
    let ticks = TICKS_MS.map(|tick_ms| {
        let batch = TrackBatch {
            tick: Tick::at_most(tick_ms),
            points: points(&[
                (2_000 - tick_ms, 120_000_000, -770_000_000),
                (5_000 + tick_ms, 120_040_000, -770_080_000),
                (5_000 + 2 * tick_ms, 120_040_400, -770_080_400),
            ]),
            ..drive()
        };
        (format!("ticks of {tick_ms} ms"), batch)
    });
    batches.extend(grids);
    batches.extend(ticks);
    batches
}

fn on_grid(mut points: Vec<Point>, step_e7: i32) -> Vec<Point> {
    for point in &mut points {
        point.lat_e7 -= point.lat_e7.rem_euclid(step_e7);
        point.lon_e7 -= point.lon_e7.rem_euclid(step_e7);
    }
    points
}

fn meaning(batch: &TrackBatch) -> Value {
    let mut means = meaning_of_batch(batch);
    let from = *batch.points.last().unwrap();
    let reckoning = Reckoning {
        from,
        velocity: batch.velocity.unwrap_or_default(),
    };
    let (lat_e7, lon_e7) = reckoning.place_at(from.at_ms + 60_000);
    means["a_minute_later"] = json!({ "lat_e7": lat_e7, "lon_e7": lon_e7 });
    means
}

fn vectors() -> Value {
    let each = batches().into_iter().map(|(name, batch)| {
        json!({ "name": name, "hex": hex(&batch.to_bytes().unwrap()), "means": meaning(&batch) })
    });
    json!({
        "about": "Batches of points (Track.batch of waypost.v1) and what they mean. velocity_qmps is north and east in 0.25 m/s \
                  at the last point; a_minute_later is where a receiver believes the device to be then, within 2e-7 degrees.",
        "batches": each.collect::<Vec<_>>(),
    })
}

#[test]
fn track_vectors_mean_today_what_they_meant_when_they_were_written() {
    if std::env::var_os("WAYPOST_WRITE_VECTORS").is_some() {
        std::fs::write(file(), serde_json::to_string_pretty(&vectors()).unwrap() + "\n").unwrap();
    }
    let golden: Value = serde_json::from_slice(&std::fs::read(file()).unwrap()).unwrap();
    let batches = golden["batches"].as_array().unwrap();
    for vector in batches {
        let batch = TrackBatch::from_bytes(&unhex(vector["hex"].as_str().unwrap())).unwrap();
        assert_eq!(meaning(&batch), vector["means"], "{}", vector["name"]);
    }
    // And what is written today has the bytes of then.
    for vector in vectors()["batches"].as_array().unwrap() {
        let name = &vector["name"];
        let then = batches.iter().find(|golden| golden["name"] == *name);
        let then = then.unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(vector["hex"], then["hex"], "{name}");
    }
}
