//! `waypost driver send`: one message to the office, to a group, or in answer to a broadcast.

use super::explain_link;
use crate::command::duration;
use crate::output::{self, Format};
use anyhow::bail;
use serde::Serialize;
use std::time::Duration;
use waypost_field_client::Message;
use waypost_field_client::handover::{Driver, SendReport};
use waypost_proto::StreamId;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The message, 1 to 4,096 bytes
    text: String,
    /// The conversation; without it the one with the office. A broadcast is answered there too
    #[arg(long, value_name = "STREAM")]
    to: Option<StreamId>,
    /// Goes before ordinary ones
    #[arg(long)]
    urgent: bool,
    /// How long to wait until the server has it; it is kept and sent later all the same
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    wait: Duration,
}

#[derive(Serialize)]
struct Sent<'a> {
    op: u64,
    state: &'a str,
    stream: Option<&'a str>,
    seq: Option<u64>,
}

pub(super) async fn run(arguments: Arguments, driver: &Driver, format: Format) -> anyhow::Result<()> {
    let Arguments {
        text,
        to,
        urgent,
        wait,
    } = arguments;
    let message = match to {
        Some(stream) => Message::to(stream, text),
        None => Message::to_office(text),
    };
    let message = if urgent { message.urgent() } else { message };
    let sent = driver.send(message, wait).await?;
    report(sent, wait, driver, format).await
}

/// Says what became of what was written.
pub(super) async fn report(
    sent: SendReport,
    wait: Duration,
    driver: &Driver,
    format: Format,
) -> anyhow::Result<()> {
    let SendReport {
        op,
        state,
        stream,
        seq,
        reason,
    } = sent;
    if state == "refused" {
        bail!(
            "the server refuses the message: {}",
            reason.as_deref().unwrap_or("it does not say why")
        );
    }
    if format == Format::Json {
        output::json(&Sent {
            op,
            state: &state,
            stream: stream.as_deref(),
            seq,
        })?;
    } else {
        match (state.as_str(), &stream, seq) {
            ("accepted", Some(stream), Some(seq)) => {
                output::line(format_args!(
                    "Accepted by the server as entry {seq} of conversation {stream}."
                ))?;
            }
            ("accepted", ..) => output::line("Accepted by the server.")?,
            _ => output::line("Stored on this device; it will be sent when the server can be reached.")?,
        }
    }
    if state == "stored" && !wait.is_zero() {
        explain_link(driver).await?;
    }
    Ok(())
}
