//! `waypost driver reply`: one quick reply to the office, to a group, or in answer to a broadcast.

use super::{explain_link, send};
use crate::command::duration;
use crate::output::Format;
use std::time::Duration;
use waypost_field_client::handover::Driver;
use waypost_field_client::{ReplyMessage, Urgency};
use waypost_proto::{Seq, StreamId};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The key of the quick reply, such as running_late
    template: String,
    /// What its slots say, such as minutes=15
    #[arg(value_name = "SLOT=VALUE", value_parser = slot)]
    values: Vec<(String, String)>,
    /// The conversation; without it the one with the office. A broadcast is answered there too
    #[arg(long, value_name = "STREAM")]
    to: Option<StreamId>,
    /// The entry of that conversation that it answers; of a broadcast without it the newest
    #[arg(long, value_name = "SEQ")]
    reply_to: Option<Seq>,
    /// Goes before ordinary ones
    #[arg(long)]
    urgent: bool,
    /// How long to wait until the server has it, and before that for the quick replies that this device does not have
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    wait: Duration,
}

fn slot(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write the slot and its value, such as minutes=15".to_owned()),
    }
}

pub(super) async fn run(arguments: Arguments, driver: &Driver, format: Format) -> anyhow::Result<()> {
    let Arguments {
        template,
        values,
        to,
        reply_to,
        urgent,
        wait,
    } = arguments;
    let message = ReplyMessage {
        stream: to,
        reply_to,
        urgency: if urgent {
            Urgency::Urgent
        } else {
            Urgency::Ordinary
        },
        ..ReplyMessage::to_office(template, values)
    };
    match driver.reply(message, wait).await {
        Ok(sent) => send::report(sent, wait, driver, format).await,
        Err(refused) => {
            // Without a link the catalogue is the last one, or none.
            if driver.status().await?.link != "in_step" {
                explain_link(driver).await?;
            }
            Err(refused.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_a_name_and_whatever_stands_behind_the_first_equals_sign() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(slot("minutes=15"), pair("minutes", "15"));
        assert_eq!(slot("why=a=b c"), pair("why", "a=b c"));
        assert_eq!(slot("why="), pair("why", ""));
        assert!(slot("15").is_err() && slot("=15").is_err());
    }
}
