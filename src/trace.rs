//! Recorded drives: CSV with the columns `trace_id,unix_ms,lat,lon,speed_mps,heading_deg,accuracy_m`, also gzipped.
//!
//! Other columns are ignored; an empty cell of the last three says that the source did not have the value.

use anyhow::{Context, bail};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::time::Duration;
use waypost_proto::{Fix, Motion};

/// The most fixes that a file may hold; 300 MB in memory.
const FIXES_MAX: usize = 5_000_000;

/// One drive, oldest fix first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trace {
    pub(crate) id: String,
    pub(crate) fixes: Vec<Fix>,
}

#[derive(Deserialize)]
struct Row {
    trace_id: String,
    unix_ms: i64,
    lat: f64,
    lon: f64,
    #[serde(default)]
    speed_mps: Option<f64>,
    #[serde(default)]
    heading_deg: Option<f64>,
    #[serde(default)]
    accuracy_m: Option<f64>,
}

/// All traces of a file, in the order in which they begin there.
pub(crate) fn read_file(path: &Path) -> anyhow::Result<Vec<Trace>> {
    let file = File::open(path).with_context(|| format!("the traces {} cannot be opened", path.display()))?;
    read(BufReader::new(file)).with_context(|| format!("the traces {} cannot be read", path.display()))
}

/// All traces of a text, gzipped or not.
pub(crate) fn read(mut source: impl Read) -> anyhow::Result<Vec<Trace>> {
    // [RFC 1952 §2.3.1] what every gzip member begins with.
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    let mut head = Vec::new();
    source.by_ref().take(2).read_to_end(&mut head)?;
    let gzipped = head == GZIP;
    let whole = std::io::Cursor::new(head).chain(source);
    let traces = if gzipped {
        read_csv(MultiGzDecoder::new(whole))?
    } else {
        read_csv(whole)?
    };
    if traces.is_empty() {
        bail!("there is no trace in it");
    }
    Ok(traces)
}

fn read_csv(source: impl Read) -> anyhow::Result<Vec<Trace>> {
    let mut traces: Vec<Trace> = Vec::new();
    let mut reader = csv::Reader::from_reader(source);
    for (index, row) in reader.deserialize::<Row>().enumerate() {
        if index == FIXES_MAX {
            bail!("there are more than {FIXES_MAX} fixes; split the file");
        }
        let row = row?;
        // The header is line 1.
        let fix = fix(&row).with_context(|| format!("line {}", index + 2))?;
        let known = match traces.last() {
            // Nearly always: rows of a trace stand together.
            Some(last) if last.id == row.trace_id => Some(traces.len() - 1),
            _ => traces.iter().position(|trace| trace.id == row.trace_id),
        };
        match known {
            Some(known) => traces[known].fixes.push(fix),
            None => traces.push(Trace {
                id: row.trace_id,
                fixes: vec![fix],
            }),
        }
    }
    for trace in &mut traces {
        trace.fixes.sort_by_key(|fix| fix.at_ms);
    }
    Ok(traces)
}

fn fix(row: &Row) -> anyhow::Result<Fix> {
    Ok(Fix {
        motion: Motion {
            speed_cmps: row.speed_mps.and_then(|speed| whole(speed * 100.0, 40_940)),
            course_ddeg: row
                .heading_deg
                .and_then(|course| whole(course.rem_euclid(360.0) * 10.0, 3_600))
                .map(|course| course % 3_600),
        },
        accuracy_m: row.accuracy_m.and_then(|accuracy| whole(accuracy, 65_535)),
        ..Fix::from_degrees(row.unix_ms, row.lat, row.lon)?
    })
}

/// The nearest whole number; `None` for what is no number from 0 to `max`, as a broken sensor shows it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked"
)]
fn whole(value: f64, max: u32) -> Option<u32> {
    let rounded = value.round();
    (0.0..=f64::from(max))
        .contains(&rounded)
        .then_some(rounded as u32)
}

/// A fix, and how long after the start it is to be sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scheduled {
    pub(crate) after: Duration,
    pub(crate) fix: Fix,
}

/// When to send each fix of a drive that begins at `start_ms` and goes `speed` times as fast as it was recorded.
///
/// Times keep their recorded spacing and are never in the future when they are sent. At `speed` 1 each fix is now when
/// it is sent; a faster drive ends now, a slower one begins now.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "milliseconds of a drive are few"
)]
pub(crate) fn schedule(fixes: &[Fix], start_ms: i64, speed: f64) -> Vec<Scheduled> {
    let (Some(first), Some(last)) = (fixes.first(), fixes.last()) else {
        return Vec::new();
    };
    let recorded_ms = last.at_ms - first.at_ms;
    let driven_ms = (recorded_ms as f64 / speed) as i64;
    let shift_ms = start_ms - first.at_ms + (driven_ms - recorded_ms).min(0);
    let scheduled = |fix: &Fix| {
        let after_ms = (fix.at_ms - first.at_ms) as f64 / speed;
        Scheduled {
            after: Duration::from_secs_f64(after_ms / 1_000.0),
            fix: Fix {
                at_ms: fix.at_ms + shift_ms,
                ..*fix
            },
        }
    };
    fixes.iter().map(scheduled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    const CSV: &str = "trace_id,unix_ms,lat,lon,speed_mps,heading_deg,accuracy_m\n\
        a,1000,41.5,-95.25,14.19,89.96,\n\
        b,5000,0,0,,,\n\
        a,3000,41.6,-95.35,-1,360,7.6\n\
        a,2000,41.55,-95.3,0,-90,1e9\n";

    #[test]
    fn traces_are_read_by_id_in_the_order_of_time() {
        let traces = read(CSV.as_bytes()).unwrap();
        assert_eq!(
            traces.iter().map(|trace| trace.id.as_str()).collect::<Vec<_>>(),
            ["a", "b"]
        );
        let fixes = &traces[0].fixes;
        assert_eq!(
            fixes.iter().map(|fix| fix.at_ms).collect::<Vec<_>>(),
            [1_000, 2_000, 3_000]
        );
        assert_eq!((fixes[0].lat_e7, fixes[0].lon_e7), (415_000_000, -952_500_000));
        let known = |index: usize| {
            let Fix {
                motion, accuracy_m, ..
            } = fixes[index];
            (motion.speed_cmps, motion.course_ddeg, accuracy_m)
        };
        assert_eq!(known(0), (Some(1_419), Some(900), None));
        assert_eq!(known(1), (Some(0), Some(2_700), None));
        assert_eq!(known(2), (None, Some(0), Some(8)));
        assert_eq!(traces[1].fixes[0].motion, Motion::default());
    }

    #[test]
    fn gzip_is_known_by_its_content() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(CSV.as_bytes()).unwrap();
        assert_eq!(
            read(packed.finish().unwrap().as_slice()).unwrap(),
            read(CSV.as_bytes()).unwrap()
        );
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_place() {
        let head = "trace_id,unix_ms,lat,lon\n";
        for (text, part) in [
            (String::new(), "no trace"),
            (head.to_owned(), "no trace"),
            (format!("{head}a,1,91,0\n"), "line 2"),
            (format!("{head}a,1,0,0\na,2,NaN,0\n"), "line 3"),
            (format!("{head}a,x,0,0\n"), "line: 2"),
            ("trace_id,lat,lon\na,1,1\n".to_owned(), "unix_ms"),
        ] {
            let error = format!("{:#}", read(text.as_bytes()).unwrap_err());
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_shifted_drive_keeps_its_spacing_and_is_never_in_the_future() {
        let fixes: Vec<Fix> = [1_000, 2_000, 5_500, 61_000]
            .map(|at_ms| Fix::from_degrees(at_ms, 1.0, 2.0).unwrap())
            .to_vec();
        let now_ms = 1_000_000;
        for speed in [0.5, 1.0, 1.7, 10.0, 1_000.0] {
            let scheduled = schedule(&fixes, now_ms, speed);
            for (pair, recorded) in scheduled.windows(2).zip(fixes.windows(2)) {
                assert_eq!(
                    pair[1].fix.at_ms - pair[0].fix.at_ms,
                    recorded[1].at_ms - recorded[0].at_ms
                );
                let slower = (pair[1].after - pair[0].after).as_secs_f64() * 1_000.0 * speed;
                assert!((slower - (recorded[1].at_ms - recorded[0].at_ms) as f64).abs() < 1.0);
            }
            for Scheduled { after, fix } in &scheduled {
                let sent_ms = now_ms + i64::try_from(after.as_millis()).unwrap();
                assert!(
                    fix.at_ms <= sent_ms + 1,
                    "{speed}: {} sent at {sent_ms}",
                    fix.at_ms
                );
                assert!(
                    speed != 1.0 || fix.at_ms == sent_ms,
                    "{} sent at {sent_ms}",
                    fix.at_ms
                );
            }
        }
        assert_eq!(schedule(&[], 0, 1.0), []);
    }
}
