//! The subcommands, a file each.

mod backup;
mod bench;
mod check_config;
mod demo;
mod device;
mod driver;
mod key;
mod person;
mod restore;
mod serve;
mod store;

use crate::output::Format;
use anyhow::Context;
use std::future::Future;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Run the server: MQTT for devices, the dashboard and HTTP for the office
    Serve(serve::Arguments),
    /// Run a throw-away server with vehicles on recorded drives
    Demo(demo::Arguments),
    /// Add, list and revoke devices of a running server
    Device(device::Arguments),
    /// Add, list and remove people of the office on a running server
    Person(person::Arguments),
    /// Add, list and revoke keys of other systems and bots on a running server
    Key(key::Arguments),
    /// Be a driver's device: send, reply, listen, drive a recorded trace
    Driver(driver::Arguments),
    /// Put everything that a server knows into a folder, while it runs or not
    Backup(backup::Arguments),
    /// Begin a server's data with a backup, or look whether one is whole
    Restore(restore::Arguments),
    /// Move the data of a server that does not run to another engine
    Store(store::Arguments),
    /// Measure what Waypost costs
    Bench(bench::Arguments),
    /// Say whether the settings fit together, and what they come to
    CheckConfig(check_config::Arguments),
}

impl Command {
    /// Does it.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<()> {
        match self {
            Self::Serve(arguments) => serve::run(arguments, format),
            Self::Demo(arguments) => demo::run(arguments, format),
            Self::Device(arguments) => device::run(arguments, format),
            Self::Person(arguments) => person::run(arguments, format),
            Self::Key(arguments) => key::run(arguments, format),
            Self::Driver(arguments) => driver::run(arguments, format),
            Self::Backup(arguments) => backup::run(arguments, format),
            Self::Restore(arguments) => restore::run(arguments, format),
            Self::Store(arguments) => store::run(arguments, format),
            Self::Bench(arguments) => bench::run(arguments, format),
            Self::CheckConfig(arguments) => check_config::run(&arguments, format),
        }
    }
}

/// Runs a command's future to its end.
fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the threads of this program cannot be started")?;
    runtime.block_on(command)
}

/// What asks this process to end: SIGTERM and SIGINT (Ctrl-C), from the moment this is made.
struct Interrupts {
    terminate: Signal,
    interrupt: Signal,
}

impl Interrupts {
    fn catch() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("signals cannot be caught");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }

    /// Ready with the next one. Safe to drop.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Does what is left to do; whoever asks a second time does not want to wait for it.
    async fn or_at_once<T>(mut self, rest: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            done = rest => done,
            () = self.next() => anyhow::bail!("ended before everything was put away, as you asked twice"),
        }
    }
}

/// A duration such as `10s`, `500ms`, `2m` or `1h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let wrong = || format!("{text:?} is not a duration such as 10s, 500ms, 2m or 1h");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    // A year is as good as for ever, and no clock overflows.
    let ms = number.saturating_mul(unit_ms).min(365 * 24 * 3_600_000);
    Ok(Duration::from_millis(ms))
}

/// A factor of time, above 0 and at most 1,000.
fn speed(text: &str) -> Result<f64, String> {
    let factor: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number such as 1 or 2.5"))?;
    if factor > 0.0 && factor <= 1_000.0 {
        Ok(factor)
    } else {
        Err("must be above 0 and at most 1000".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, ms) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("7", 7_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "1.5s", "10 s", "1d", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(duration("18446744073709551615h").is_ok());
    }

    #[test]
    fn a_speed_is_a_factor_above_zero() {
        assert_eq!(speed("2.5"), Ok(2.5));
        for text in ["0", "-1", "nan", "inf", "1001", "fast"] {
            assert!(speed(text).is_err(), "{text}");
        }
    }
}
