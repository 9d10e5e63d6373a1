//! `waypost store`: the store of a server that does not run.

use crate::data_folder::DataFolder;
use crate::output::{self, Format};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use waypost_bridge::store::Engine;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Copy the store to another engine, compare, and put the old one away under another name
    Copy {
        /// The data folder of the server
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// What keeps the data now; found out where it is not said
        #[arg(long, value_name = "ENGINE")]
        from_engine: Option<Engine>,
        /// The data folder that the store goes to [default: the same one]
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
        /// What is to keep the data: fjall or sled
        #[arg(long, value_name = "ENGINE")]
        to_engine: Engine,
    },
}

/// What was done, for `--json`.
#[derive(Serialize)]
struct Answer<'a> {
    from: Place<'a>,
    to: Place<'a>,
    records: u64,
    bytes: u64,
    /// Over all keys and values in their order, each behind its length.
    sha256: String,
    /// The store that was copied.
    kept_as: &'a Path,
}

#[derive(Serialize)]
struct Place<'a> {
    data: &'a Path,
    engine: &'static str,
}

pub(crate) fn run(Arguments { action }: Arguments, format: Format) -> anyhow::Result<()> {
    match action {
        Action::Copy {
            from,
            from_engine,
            to,
            to_engine,
        } => copy(
            &from,
            from_engine,
            to.as_deref().unwrap_or(&from),
            to_engine,
            format,
        ),
    }
}

fn copy(
    from: &Path,
    from_engine: Option<Engine>,
    to: &Path,
    to_engine: Engine,
    format: Format,
) -> anyhow::Result<()> {
    let old = DataFolder::at(from);
    let moved = old.move_store(from_engine, to, to_engine)?;
    if format == Format::Json {
        return output::json(&Answer {
            from: Place {
                data: from,
                engine: moved.from_engine.name(),
            },
            to: Place {
                data: to,
                engine: to_engine.name(),
            },
            records: moved.copied.records,
            bytes: moved.copied.bytes,
            sha256: moved.copied.digest.iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            }),
            kept_as: &moved.put_away,
        });
    }
    output::line(format_args!(
        "Copied {} records, {} bytes, from {} to {to_engine} in {}, and compared them. Now set store.engine to {to_engine}.",
        moved.copied.records,
        moved.copied.bytes,
        moved.from_engine,
        to.display(),
    ))?;
    output::line(format_args!(
        "The old store is kept as {}; remove it when the server runs on the new one.",
        moved.put_away.display()
    ))?;
    if !old.is(&DataFolder::at(to))? {
        output::line(format_args!(
            "What else is in {} stays there: copy admin.token and tls as well, or devices will not know the server.",
            from.display()
        ))?;
    }
    Ok(())
}
