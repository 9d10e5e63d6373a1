//! `waypost driver`: a driver's device at the command line.
//!
//! Its state stands in a folder beside the credentials file. While one process holds that folder the others hand over
//! to it, so `send` works beside `listen`.

mod history;
mod listen;
mod replay;
mod reply;
mod send;
mod status;

use super::{Interrupts, block_on};
use crate::output::Format;
use crate::telemetry;
use anyhow::Context;
use std::path::{Path, PathBuf};
use waypost_field_client::handover::Driver;
use waypost_field_client::{Credentials, Options};
use waypost_proto::TopicPrefix;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The device's credentials, from `waypost device add`
    #[arg(long = "as", value_name = "FILE")]
    credentials: PathBuf,
    /// Where the device keeps what it has to send and what it has received [default: FILE.state]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// What the server's broker puts before every topic (its setting mqtt.topic_prefix)
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    topic_prefix: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Write a message; it is kept until the server has it
    Send(send::Arguments),
    /// Write a quick reply; `status` lists those that there are
    Reply(reply::Arguments),
    /// Print what the office writes, and tell the office that it was read
    Listen(listen::Arguments),
    /// Print a conversation from before, also what the server alone has of it
    History(history::Arguments),
    /// Drive a recorded trace
    Replay(replay::Arguments),
    /// Say what waits, how the link is, and which groups and quick replies there are
    Status,
}

pub(crate) fn run(arguments: Arguments, format: Format) -> anyhow::Result<()> {
    // What goes wrong is told in words; RUST_LOG shows the rest.
    telemetry::start("off");
    let Arguments {
        credentials,
        state,
        topic_prefix,
        action,
    } = arguments;
    let state = state.unwrap_or_else(|| beside(&credentials));
    block_on(async {
        let interrupts = Interrupts::catch()?;
        let options = Options {
            app: concat!("waypost-driver ", env!("CARGO_PKG_VERSION")).to_owned(),
            topic_prefix: TopicPrefix::new(&topic_prefix).context("--topic-prefix")?,
            ..Options::default()
        };
        // Read before the folder is touched: a wrong name should not leave one behind.
        let replay = match &action {
            Action::Replay(arguments) => Some(arguments.read()?),
            _ => None,
        };
        let credentials = Credentials::read(&credentials)?;
        let name = credentials.name.clone();
        let driver = Driver::attach_or_open(credentials, &state, options)
            .await
            .with_context(|| format!("the device's state in {}", state.display()))?;
        let done = match (action, replay) {
            (Action::Send(arguments), _) => send::run(arguments, &driver, format).await,
            (Action::Reply(arguments), _) => reply::run(arguments, &driver, format).await,
            (Action::Listen(arguments), _) => {
                listen::run(&arguments, &driver, &name, interrupts, format).await
            }
            (Action::History(arguments), _) => history::run(&arguments, &driver, &name, format).await,
            (Action::Replay(arguments), Some(trace)) => {
                replay::run(&arguments, trace, &driver, interrupts, format).await
            }
            (Action::Status | Action::Replay(_), _) => status::run(&driver, format).await,
        };
        let closed = driver
            .close()
            .await
            .context("the device's state could not be put away");
        done.and(closed)
    })
}

/// `FILE.state`.
fn beside(credentials: &Path) -> PathBuf {
    let mut name = credentials.as_os_str().to_owned();
    name.push(".state");
    name.into()
}

/// Tells a person why nothing gets through, where the client knows.
async fn explain_link(driver: &Driver) -> anyhow::Result<()> {
    let status = driver.status().await?;
    let detail = status.detail.as_deref().unwrap_or("no connection yet");
    match status.link.as_str() {
        "refused" => eprintln!("the server will not have this device: {detail}"),
        "captive_portal" => eprintln!("something answers in the server's place: {detail}"),
        "in_step" | "connected" => eprintln!("the server is connected and has not answered yet"),
        _ => eprintln!("the server cannot be reached: {detail}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_stands_beside_the_credentials() {
        assert_eq!(
            beside(Path::new("a/truck-17.json")),
            Path::new("a/truck-17.json.state")
        );
    }
}
