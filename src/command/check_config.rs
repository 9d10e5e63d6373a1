//! `waypost check-config`: whether the settings fit together, and what they come to.

use crate::broker_choice::BrokerChoice;
use crate::config::{Config, File, Flags};
use crate::listen_address::ListenAddress;
use crate::output::{self, Format};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The settings; without it `waypost.toml` in this folder, where there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, format: Format) -> anyhow::Result<()> {
    let file = arguments.config.as_deref().map_or(File::Usual, File::Named);
    let config = Config::load(file, &Flags::default())?;
    match format {
        Format::Json => output::json(&config),
        Format::Human => {
            let mqtt = match &config.mqtt.broker {
                BrokerChoice::Embedded => on(config.mqtt.listen, config.mqtt.tls_listen),
                BrokerChoice::External(broker) => format!("by the broker at {broker}"),
            };
            output::line(format_args!(
                "The settings fit together. Data in {}, HTTP {}, MQTT {mqtt}; --json shows all of them.",
                config.server.data.display(),
                on(config.http.listen, config.http.tls_listen),
            ))?;
            for (_, warning) in config.warnings() {
                output::line(format_args!("Warning: {warning}."))?;
            }
            Ok(())
        }
    }
}

fn on(clear: SocketAddr, tls: ListenAddress) -> String {
    match tls.address() {
        Some(tls) => format!("on {clear} and over TLS on {tls}"),
        None => format!("on {clear}"),
    }
}
