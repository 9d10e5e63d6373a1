//! `waypost restore`: begins the data of a server with a backup, or says whether one is whole.

use crate::archive::{Archive, Manifest};
use crate::data_folder::DataFolder;
use crate::output::{self, Format};
use anyhow::Context;
use serde::Serialize;
use std::path::{Path, PathBuf};
use waypost_bridge::store::Engine;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder that `waypost backup` wrote to
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The newest backup of that time or before, such as 2026-11-24T13:45:12Z [default: the newest]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Read and compare everything, and write nothing
    #[arg(long, conflicts_with_all = ["data", "engine"])]
    check: bool,
    /// The data folder to make; one that holds no store
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    data: Option<PathBuf>,
    /// What is to keep the data: fjall or sled [default: what kept them before]
    #[arg(long, value_name = "ENGINE")]
    engine: Option<Engine>,
}

/// What was found or done, for `--json`.
#[derive(Serialize)]
struct Answer<'a> {
    taken_at: &'a str,
    records: u64,
    whole: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    restored: Option<Restored<'a>>,
}

#[derive(Serialize)]
struct Restored<'a> {
    data: &'a Path,
    engine: &'static str,
    /// Files that were there, and so were left as they are.
    kept: Vec<PathBuf>,
}

pub(crate) fn run(arguments: Arguments, format: Format) -> anyhow::Result<()> {
    let archive = Archive::at(&arguments.from);
    let manifest = archive.find(arguments.at.as_deref())?;
    // All of it before anything is written: a backup that is damaged at its end is no begin of a server.
    archive.check(&manifest).with_context(|| {
        format!(
            "the backup of {} is damaged, and nothing was restored",
            manifest.taken_at
        )
    })?;
    let restored = match &arguments.data {
        Some(data) => Some(restore(&archive, &manifest, data, arguments.engine)?),
        None => None,
    };
    if format == Format::Json {
        return output::json(&Answer {
            taken_at: &manifest.taken_at,
            records: manifest.records,
            whole: true,
            restored,
        });
    }
    let Some(restored) = restored else {
        return output::line(format_args!(
            "The backup of {} is whole: {} records.",
            manifest.taken_at, manifest.records
        ));
    };
    output::line(format_args!(
        "Restored {} records of {} to {}, kept by {}. Start it with `waypost serve --data {2}`.",
        manifest.records,
        manifest.taken_at,
        restored.data.display(),
        restored.engine,
    ))?;
    for path in restored.kept {
        output::line(format_args!("{} was there and is as it was.", path.display()))?;
    }
    Ok(())
}

fn restore<'a>(
    archive: &Archive,
    manifest: &Manifest,
    data: &'a Path,
    engine: Option<Engine>,
) -> anyhow::Result<Restored<'a>> {
    let engine = match (engine, &manifest.engine) {
        (Some(engine), _) => engine,
        (None, Some(name)) => name.parse().context("name another with --engine")?,
        (None, None) => Engine::Fjall,
    };
    let files = archive.side_files(manifest)?;
    let kept = DataFolder::make(data)?.put_back(engine, archive.records(manifest), &files)?;
    Ok(Restored {
        data,
        engine: engine.name(),
        kept,
    })
}
