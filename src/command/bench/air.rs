//! `waypost bench air`: recorded drives in virtual time through the device's core and the server's, with every packet counted
//! and every raw fix compared with what the server then has.
//!
//! What is counted stands in [`accounting`], how far from the truth it is in [`measure`]. The hello of each drive, and what
//! keeps a silent connection alive, are not: they are the connection's, and the same without positions.

mod accounting;
mod measure;
mod owntracks;
mod plot;
mod world;

use crate::output::{self, Format};
use crate::trace::{self, Trace};
use accounting::Traffic;
use anyhow::{Context, bail};
use measure::{Errors, Figures};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;
use waypost_field_client::virtual_device::batches_of;
use waypost_field_client::{History, Policy};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Recorded drives, gzipped or not
    #[arg(required = true, value_name = "TRACES.csv")]
    traces: Vec<PathBuf>,
    /// What the devices are asked for
    #[arg(long, value_enum, default_value = "standard")]
    profile: Profile,
    /// The history keeps a line within so many metres, in place of what the profile says
    #[arg(long, value_name = "METRES")]
    history: Option<u32>,
    /// The office is wrong by no more than so many metres, in place of what the profile says
    #[arg(long, value_name = "METRES")]
    live: Option<u32>,
    /// What the office has is no older than so many seconds, in place of what the profile says
    #[arg(long, value_name = "SECONDS")]
    age: Option<u32>,
    /// Share of the frames that is lost, in each direction
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    loss: f64,
    /// What decides which ones
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also another way of doing it, by the same accounting
    #[arg(long, value_enum)]
    compare: Option<Compare>,
    /// Draw the first drive: raw fixes, history, what was shown live
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Profile {
    Live,
    Standard,
    Economy,
    Audit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Compare {
    Owntracks,
}

/// The answer, as JSON has it.
#[derive(Debug, Serialize)]
struct Report {
    policy: PolicyJson,
    loss: f64,
    seed: u64,
    /// On this machine, of one core.
    device_us_per_fix: f64,
    total: Figures,
    traces: Vec<Named>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    owntracks: Vec<Named>,
}

#[derive(Debug, Serialize)]
struct Named {
    id: String,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Debug, Serialize)]
struct PolicyJson {
    history_m: Option<u32>,
    live_m: Option<u32>,
    age_s: u32,
}

pub(crate) fn run(arguments: &Arguments, format: Format) -> anyhow::Result<()> {
    if !(0.0..=0.5).contains(&arguments.loss) {
        bail!("--loss is a share from 0 to 0.5; {} is none", arguments.loss);
    }
    let policy = arguments.policy();
    let mut traces = Vec::new();
    for path in &arguments.traces {
        traces.extend(trace::read_file(path)?);
    }
    let mut rows = Vec::new();
    let mut total = (Traffic::default(), Errors::default());
    for (index, trace) in traces.iter().enumerate() {
        let seed = arguments.seed.wrapping_add(index as u64);
        let drive = world::drive(trace, policy, arguments.loss, seed)
            .with_context(|| format!("the trace {}", trace.id))?;
        if let (0, Some(path)) = (index, &arguments.plot) {
            let picture = plot::picture(trace, &drive.history, &drive.live);
            std::fs::write(path, picture).with_context(|| format!("writing {}", path.display()))?;
        }
        rows.push(Named {
            id: trace.id.clone(),
            figures: Figures::of(&drive.traffic, &drive.errors),
        });
        total.0.add(&drive.traffic);
        total.1.add(drive.errors);
    }
    let owntracks = match arguments.compare {
        None => Vec::new(),
        Some(Compare::Owntracks) => compared(&traces),
    };
    let report = Report {
        policy: PolicyJson {
            history_m: match policy.history {
                History::Within(metres) => Some(metres),
                History::EveryFix => None,
            },
            live_m: policy.live_m,
            age_s: policy.age_s,
        },
        loss: arguments.loss,
        seed: arguments.seed,
        device_us_per_fix: cost_of_a_fix(policy, &traces),
        total: Figures::of(&total.0, &total.1),
        traces: rows,
        owntracks,
    };
    match format {
        Format::Json => output::json(&report),
        Format::Human => print(&report),
    }
}

impl Arguments {
    fn policy(&self) -> Policy {
        let of_profile = match self.profile {
            Profile::Live => Policy::LIVE,
            Profile::Standard => Policy::STANDARD,
            Profile::Economy => Policy::ECONOMY,
            Profile::Audit => Policy::AUDIT,
        };
        Policy {
            history: self.history.map_or(of_profile.history, History::Within),
            live_m: self.live.or(of_profile.live_m),
            age_s: self.age.unwrap_or(of_profile.age_s),
        }
    }
}

fn compared(traces: &[Trace]) -> Vec<Named> {
    let modes = owntracks::Mode::ALL.into_iter();
    let row = |mode: owntracks::Mode| {
        let mut total = (Traffic::default(), Errors::default());
        for trace in traces {
            let (traffic, errors) = owntracks::drive(trace, mode);
            total.0.add(&traffic);
            total.1.add(errors);
        }
        Named {
            id: mode.name().to_owned(),
            figures: Figures::of(&total.0, &total.1),
        }
    };
    modes.map(row).collect()
}

/// Microseconds of the sender alone, the best of a few rounds: whatever else runs here only makes it slower.
fn cost_of_a_fix(policy: Policy, traces: &[Trace]) -> f64 {
    let fixes: usize = traces.iter().map(|trace| trace.fixes.len()).sum();
    let round = || {
        let begun = Instant::now();
        let batches: usize = traces.iter().map(|trace| batches_of(policy, &trace.fixes)).sum();
        std::hint::black_box(batches);
        begun.elapsed().as_secs_f64() * 1e6 / fixes.max(1) as f64
    };
    (0..5).map(|_| round()).fold(f64::INFINITY, f64::min)
}

fn print(report: &Report) -> anyhow::Result<()> {
    let cell = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
    let row = |named: &Named| {
        let figures = &named.figures;
        [
            named.id.clone(),
            format!("{:.2}", figures.hours),
            figures.fixes.to_string(),
            format!("{:.0}", figures.messages_per_hour),
            format!("{:.0}", figures.position_bytes_per_hour),
            format!("{:.0}", figures.bytes_per_hour),
            cell(figures.history_max_m),
            cell(figures.history_p95_m),
            cell(figures.live_max_m),
            cell(figures.live_p95_m),
            format!("{:.0}", figures.max_age_s),
        ]
    };
    let total = Named {
        id: "all".to_owned(),
        figures: report.total.clone(),
    };
    let rows = report.traces.iter().chain([&total]).chain(&report.owntracks);
    output::table(
        [
            "drive",
            "hours",
            "fixes",
            "messages/h",
            "positions B/h",
            "all B/h",
            "history max m",
            "p95",
            "live max m",
            "p95",
            "age max s",
        ],
        rows.map(row),
    )?;
    output::line(format_args!(
        "{:.2} µs a fix on the device. Not counted: the hello of each drive ({:.0} B each) and pings.",
        report.device_us_per_fix,
        report.total.hello_bytes as f64 / report.traces.len().max(1) as f64,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn figures(policy: Policy, loss: f64) -> Figures {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/traces/nds_selection.csv.gz");
        let mut total = (Traffic::default(), Errors::default());
        for (index, trace) in trace::read_file(&path).unwrap().iter().enumerate() {
            let drive = world::drive(trace, policy, loss, index as u64).unwrap();
            total.0.add(&drive.traffic);
            total.1.add(drive.errors);
        }
        Figures::of(&total.0, &total.1)
    }

    #[test]
    fn the_office_is_never_wrong_by_more_than_it_asked_for_and_the_history_neither() {
        let standard = figures(Policy::STANDARD, 0.0);
        assert!(standard.history_max_m.unwrap() <= 10.0, "{standard:?}");
        assert!(standard.live_max_m.unwrap() <= 100.0, "{standard:?}");
        assert!(standard.max_age_s <= 300.0, "{standard:?}");
        // Drives of three minutes: beginnings and ends are half of it.
        assert!(standard.bytes_per_hour <= 32_000.0, "{standard:?}");
        let economy = figures(Policy::ECONOMY, 0.0);
        assert!(economy.history_max_m.unwrap() <= 10.0, "{economy:?}");
        assert!(
            economy.bytes_per_hour <= standard.bytes_per_hour / 2.0,
            "{economy:?}"
        );
        let audit = figures(Policy::AUDIT, 0.0);
        assert!(
            audit.history_max_m.unwrap() <= 0.8,
            "half the diagonal of its grid: {audit:?}"
        );
        assert!(audit.bytes_per_hour <= standard.bytes_per_hour, "{audit:?}");
    }

    #[test]
    fn with_one_frame_in_twenty_lost_the_history_is_whole_and_costs_a_tenth_more_at_most() {
        let (whole, lossy) = (figures(Policy::STANDARD, 0.0), figures(Policy::STANDARD, 0.05));
        assert!(lossy.lost_frames > 0);
        assert!(lossy.history_max_m.unwrap() <= 10.0, "{lossy:?}");
        assert!(
            lossy.bytes_per_hour <= 1.1 * whole.bytes_per_hour,
            "{whole:?} {lossy:?}"
        );
    }
}
