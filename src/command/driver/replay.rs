//! `waypost driver replay`: drives a recorded trace, or puts it on file.

use super::explain_link;
use crate::command::{Interrupts, duration, speed};
use crate::output::{self, Format};
use crate::timestamp::{now_ms, rfc3339};
use crate::trace::{self, Trace, schedule};
use anyhow::{Context, bail};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;
use waypost_field_client::handover::Driver;

/// The least time between two live positions: a screen shows no more.
const LIVE_PAUSE: Duration = Duration::from_millis(900);

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Recorded drives: CSV, gzipped or not
    traces: PathBuf,
    /// Which of them; without it the first
    #[arg(long, value_name = "ID")]
    trace: Option<String>,
    /// How many times as fast as it was recorded; the times of the fixes keep their spacing
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = speed, conflicts_with = "as_recorded")]
    speed: f64,
    /// Put it on file with its recorded times; it is never taken for where the device is
    #[arg(long)]
    as_recorded: bool,
    /// How long to wait at the end until the server has everything
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    wait: Duration,
}

/// What was done.
#[derive(Serialize)]
struct Summary {
    trace: String,
    /// Fixes that were stored.
    fixes: usize,
    /// Fixes that were not, as somebody stopped it.
    left_out: usize,
    as_recorded: bool,
    first_at: Option<String>,
    last_at: Option<String>,
    /// Operations that the server does not have yet.
    waiting: u64,
}

impl Arguments {
    /// The trace that is meant.
    pub(super) fn read(&self) -> anyhow::Result<Trace> {
        let mut traces = trace::read_file(&self.traces)?;
        let ids: Vec<&str> = traces.iter().map(|trace| trace.id.as_str()).collect();
        let index = match &self.trace {
            Some(wanted) => ids.iter().position(|id| id == wanted).with_context(|| {
                format!(
                    "there is no trace {wanted} in {}; there are {}",
                    self.traces.display(),
                    ids.join(", ")
                )
            })?,
            None => 0,
        };
        if self.trace.is_none() && ids.len() > 1 {
            eprintln!(
                "replaying {}, the first of {} traces; choose another with --trace",
                ids[0],
                ids.len()
            );
        }
        Ok(traces.swap_remove(index))
    }
}

pub(super) async fn run(
    arguments: &Arguments,
    trace: Trace,
    driver: &Driver,
    mut interrupts: Interrupts,
    format: Format,
) -> anyhow::Result<()> {
    let total = trace.fixes.len();
    let (stored, times) = if arguments.as_recorded {
        let times = trace
            .fixes
            .first()
            .zip(trace.fixes.last())
            .map(|(first, last)| (first.at_ms, last.at_ms));
        driver.put_recording(trace.fixes).await?;
        (total, times)
    } else {
        drive(&trace, arguments.speed, driver, &mut interrupts).await?
    };
    let waiting = tokio::select! {
        waiting = driver.wait_drained(arguments.wait) => waiting?,
        () = interrupts.next() => driver.status().await?.waiting,
    };
    let summary = Summary {
        trace: trace.id,
        fixes: stored,
        left_out: total - stored,
        as_recorded: arguments.as_recorded,
        first_at: times.and_then(|(first_ms, _)| rfc3339(first_ms)),
        last_at: times.and_then(|(_, last_ms)| rfc3339(last_ms)),
        waiting,
    };
    summary.print(format)?;
    if waiting > 0 {
        eprintln!("{waiting} operations wait for the server; they are kept and sent later");
        explain_link(driver).await?;
    }
    if stored < total {
        bail!("stopped before the end of the trace");
    }
    Ok(())
}

/// Sends each fix when it is due: into the history, and live. Returns how many, and the times of the first and the
/// last of them.
async fn drive(
    trace: &Trace,
    speed: f64,
    driver: &Driver,
    interrupts: &mut Interrupts,
) -> anyhow::Result<(usize, Option<(i64, i64)>)> {
    let start = Instant::now();
    let scheduled = schedule(&trace.fixes, now_ms(), speed);
    let mut live_due = start;
    let mut stored = 0;
    for (index, next) in scheduled.iter().enumerate() {
        let due = start + next.after;
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = interrupts.next() => break,
        }
        driver.record(next.fix).await?;
        stored += 1;
        if due >= live_due || index + 1 == scheduled.len() {
            driver.live(next.fix).await?;
            live_due = due + LIVE_PAUSE;
        }
    }
    driver.flush().await?;
    let sent = &scheduled[..stored];
    Ok((
        stored,
        sent.first()
            .zip(sent.last())
            .map(|(first, last)| (first.fix.at_ms, last.fix.at_ms)),
    ))
}

impl Summary {
    fn print(&self, format: Format) -> anyhow::Result<()> {
        if format == Format::Json {
            return output::json(self);
        }
        let span = match (&self.first_at, &self.last_at) {
            (Some(first), Some(last)) => format!(" from {first} to {last}"),
            _ => String::new(),
        };
        let kind = if self.as_recorded { "put on file" } else { "driven" };
        output::line(format_args!("{}: {} fixes {kind}{span}.", self.trace, self.fixes))
    }
}
