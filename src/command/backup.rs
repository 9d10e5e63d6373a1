//! `waypost backup`: everything that a server knows, as it is at one moment, into a folder of backups.

use super::block_on;
use crate::archive::{Archive, Draft, Written};
use crate::data_folder::DataFolder;
use crate::output::{self, Format};
use crate::server_client::{ServerArguments, ServerClient};
use crate::telemetry;
use anyhow::Context;
use serde::Serialize;
use std::path::{Path, PathBuf};
use waypost_bridge::store::Decoder;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder of the backups; what is in it already is not written again
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Then remove all backups in it but so many of the newest
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,
    #[command(flatten)]
    server: ServerArguments,
}

/// What was done, for `--json`.
#[derive(Serialize)]
struct Answer<'a> {
    backup: &'a Path,
    taken_at: &'a str,
    incarnation: &'a str,
    records: u64,
    written: Written,
    removed: usize,
}

pub(crate) fn run(arguments: Arguments, format: Format) -> anyhow::Result<()> {
    telemetry::start("warn");
    let Arguments { to, keep, server } = arguments;
    let archive = Archive::at(&to);
    let (manifest, written, with_files) = match server.folder()? {
        Some(data) => {
            let folder = DataFolder::at(&data);
            let mut draft = archive.begin()?;
            let engine = match folder.export_at_rest(|key, value| draft.record(key, value))? {
                Some(engine) => engine.name(),
                None => {
                    block_on(read(&server.connect()?, &mut draft))?;
                    folder.engine_in_use()?.name()
                }
            };
            let (manifest, written) = draft.finish(Some(engine), &folder.side_files()?)?;
            (manifest, written, true)
        }
        None => {
            let server = server.connect()?;
            let mut draft = archive.begin()?;
            block_on(read(&server, &mut draft))?;
            let (manifest, written) = draft.finish(None, &[])?;
            (manifest, written, false)
        }
    };
    let removed = keep.map_or(Ok(0), |keep| archive.prune(keep.into()))?;
    if format == Format::Json {
        return output::json(&Answer {
            backup: &to,
            taken_at: &manifest.taken_at,
            incarnation: &manifest.incarnation,
            records: manifest.records,
            written,
            removed,
        });
    }
    output::line(format_args!(
        "Backed up {} records to {} at {}: {} bytes written, {} there already.",
        manifest.records,
        to.display(),
        manifest.taken_at,
        written.bytes,
        written.bytes_there
    ))?;
    if removed > 0 {
        output::line(format_args!("Removed {removed} older backups."))?;
    }
    if !with_files {
        output::line(
            "This is the store alone. Keep admin.token and tls of the server's data folder as well: without its authority \
             devices will not know a restored server.",
        )?;
    }
    Ok(())
}

/// Everything from a server that runs.
async fn read(server: &ServerClient, draft: &mut Draft<'_>) -> anyhow::Result<()> {
    let mut decoder = Decoder::default();
    let broken = "what the server sent is not its whole store; try again";
    server
        .download("/backup", |piece| {
            decoder.push(piece);
            while let Some((key, value)) = decoder.next_record().context(broken)? {
                draft.record(&key, &value)?;
            }
            Ok(())
        })
        .await?;
    decoder.finish().context(broken)
}
