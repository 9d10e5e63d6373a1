//! `waypost driver history`: entries of a conversation, also those that the server alone has.

use super::listen::Entry;
use super::status::settled;
use crate::output::Format;
use anyhow::Context;
use std::time::Duration;
use waypost_field_client::handover::Driver;
use waypost_proto::{Seq, StreamId};

/// How long the link may take before what is here has to do.
const LINK_WAIT: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The conversation; without it the one with the office
    #[arg(long, value_name = "STREAM")]
    stream: Option<StreamId>,
    /// Only entries before this number
    #[arg(long, value_name = "SEQ", value_parser = seq)]
    before: Option<Seq>,
    /// How many at most, the newest of them
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    limit: u64,
}

fn seq(text: &str) -> Result<Seq, String> {
    let number = text.parse().ok().and_then(Seq::new);
    number.ok_or_else(|| "numbers of entries count from 1".to_owned())
}

pub(super) async fn run(
    arguments: &Arguments,
    driver: &Driver,
    own_name: &str,
    format: Format,
) -> anyhow::Result<()> {
    let stream = match arguments.stream {
        Some(stream) => stream,
        None => settled(driver)
            .await?
            .office_stream
            .and_then(|stream| stream.parse().ok())
            .context(
                "the device has not been connected yet and does not know its conversation with the office",
            )?,
    };
    let limit = usize::try_from(arguments.limit)?;
    let report = driver.history(stream, arguments.before, limit, LINK_WAIT).await?;
    for entry in &report.entries {
        Entry::of(entry, own_name).put(entry, format)?;
    }
    match report.missing {
        Some(why) if report.entries.is_empty() => anyhow::bail!("{why}"),
        Some(why) => {
            eprintln!("earlier entries are on the server: {why}");
            Ok(())
        }
        None => Ok(()),
    }
}
